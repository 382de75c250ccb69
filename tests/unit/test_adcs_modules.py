# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions of the PowerShell modules by themselves, on a simulated Windows host."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from adcs.machine import CONFIGURATION, Failure
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.adcs import AdcsHost, Parent, run
from support.pythons import ROOT

MODULES = ROOT / "plugins" / "module_utils"
NAME = "keyward-" + "0" * 31


@pytest.fixture
def host(tmp_path: Path) -> AdcsHost:
    return AdcsHost(tmp_path / "ca01")


def test_what_others_make_in_the_place_for_temporary_files_stays(host: AdcsHost, tmp_path: Path) -> None:
    temporary = host.system_root / "Temp"
    lists = [
        ("O:BA", "PAI", ""),
        ("O:S-1-5-21-1-2-3-1104", "PAI", ""),  # whose owner can open it again
        ("O:BA", "PAI", "(A;OICI;FA;;;BU)"),
        ("O:BA", "AI", ""),
    ]
    script = []
    for number, (owner, flags, more) in enumerate(lists):
        directory = temporary / f"{NAME}{number}"
        directory.mkdir(parents=True)
        time.sleep(0.05)  # the simulated host knows them apart by when they were made
        sddl = f"{owner}G:SYD:{flags}(A;OICI;FA;;;SY)(A;OICI;FA;;;BA){more}"
        script.append(f"$acl = Get-Acl '{directory}'; $acl.SetSecurityDescriptorSddlForm('{sddl}'); Set-Acl '{directory}' $acl")
    (tmp_path / "elsewhere").mkdir()
    (temporary / f"{NAME}a").symlink_to(tmp_path / "elsewhere")
    (temporary / "keyward-restore-x").mkdir()
    count = f"[IO.Directory]::GetDirectories('{temporary}').Count"
    clear = "Clear-AdcsLeftover -Hours"
    script += [f"{clear} 24", count, f"{clear} 0", f"{clear} 0 -Prefix 'keyward-restore-'"]
    assert run(host, tmp_path, "_adcs_files", "; ".join(script)) == [6], "until then they are too young"
    assert {path.name for path in temporary.iterdir()} == {f"{NAME}{mark}" for mark in "123a"} | {"keyward-restore-x"}


def test_only_sets_that_may_go_are_removed(host: AdcsHost, tmp_path: Path) -> None:
    """A damaged manifest stops nothing, and counts for nothing. The sets of others are not told."""
    store, name = tmp_path / "store", "{:06d}-20260101T000000.000000Z"
    files = [{"name": "database.json", "sha256": "x", "size": 2}]
    own, other = store / "ca" / "database", store / "other" / "database"
    for path in (*(own / name.format(number) for number in (1, 2, 3, 4, 9)), other / name.format(1), own.parent / "events"):
        path.mkdir(parents=True)
        (path / "database.json").write_text("{}")
        whose = {"host": "ca02"} if path.parent == other else {"host": "ca01"}
        manifest = {"authority": whose, "made_at": whose, "generations": [{"public_key_sha256": "ab"}], "files": files}
        (path / "manifest.json").write_text(json.dumps(manifest))
    for number, damaged in ((5, {"files": ["x"]}), (6, {"files": [{"name": "a", "size": "much"}]}), (7, [])):
        (own / name.format(number)).mkdir()
        (own / name.format(number) / "manifest.json").write_text(json.dumps(damaged))
    digests = {path.parent.name[:6]: hashlib.sha256(path.read_bytes()).hexdigest() for path in own.rglob("manifest.json")}
    counting = ", ".join(f"'{digests[number]}'" for number in ("000001", "000002", "000003", "000004", "000009"))
    may_go = ", ".join(f"'{name.format(number)}'" for number in (1, 2, 4, 5, 9))
    arguments = f"-Store '{store}' -Directory '{own}' -Keep 1 -MayGo {may_go} -Counting {counting} -Prefix {'0' * 16}"
    marker = {"format": "keyward-store", "version": 1, "kind": "databases", "id": "1"}
    (store / "keyward-store.json").write_text(json.dumps(marker))
    order = f"@{{{{ host_store = '{store}'; host = 'ca01'; public_keys = @({{}}) }}}}"
    told = [f"(Get-AdcsStoreFact -Order {order.format(keys)} -What 'x').sets" for keys in ("", "'cd', 'ab'")]
    shown = "ForEach-Object { $_.database + ' ' + [string]$_.damage }"
    script = f"Remove-AdcsOldSet {arguments}; {told[0]} | {shown}; @({told[1]} | Where-Object {{ $_.directory -eq 'other' }}).Count"
    *removed, nine, seven, six, five, _three, others = run(host, tmp_path, "_adcs_sets", script)
    assert others == 1
    assert [Path(path).name[:6] for path in removed] == ["000004", "000002", "000001"]
    assert {int(path.name[:6]) for path in own.iterdir()} == {3, 5, 6, 7, 9}
    assert "digest" in nine and {seven, six, five} == {"database its manifest.json is missing or damaged"}


def test_a_moment_is_the_same_in_every_time_zone(host: AdcsHost, tmp_path: Path) -> None:
    host.cold = True
    script = """
        $env:TZ = 'Asia/Tokyo'; [TimeZoneInfo]::ClearCachedData(); [Globalization.CultureInfo]::CurrentCulture = 'en-US'
        '1/31/2026 3:49 PM', '1/31/2026 3:49 PM GMT' | ForEach-Object { ConvertFrom-CertutilTime $_ }"""
    assert run(host, tmp_path, "_adcs_database", script) == ["2026-01-31T15:49Z"] * 2


def test_an_answer_is_put_in_place_only_where_the_ca_is_as_it_was_when_that_was_decided(host: AdcsHost, tmp_path: Path) -> None:
    parent = Parent()
    host.install_by_hand(ca_type="StandaloneSubordinateCA")
    answer = parent.sign(Path(host.value("RequestFileName")).read_bytes()).decode()
    script = f"""
        $session = [PSCustomObject]@{{ Parameters = @{{ name = $null }}; Request = @{{}} }}
        try {{ Install-AdcsAnswer -Session $session -Text '{answer}' -Of '{"0" * 64}' -What 'the CA was not renewed' }}
        catch {{ $_.Exception.Message, $_.Exception.Data['RenewedMeanwhile'] }}"""
    assert run(host, tmp_path, "_adcs_renewal", script) == [
        "the CA was not renewed: it was renewed meanwhile: this was decided on an older generation. "
        "Run the task again, it sees what is there now.",
        True,
    ]
    assert not host.ran("-installCert") and not host.generations


def called(text: str) -> set[str]:
    """The functions that a script calls, cmdlets among them."""
    code = re.sub(r"<#.*?#>|^\s*#.*?$|^function \S+|^Export-ModuleMember.*", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"(?<![A-Za-z-])[A-Z][A-Za-z]+-[A-Z][A-Za-z]+", code))


def test_each_file_names_what_it_calls_and_nothing_is_there_twice_or_for_nobody() -> None:
    scripts = {path.stem: path.read_text() for path in [*MODULES.glob("*.psm1"), *(ROOT / "plugins" / "modules").glob("*.ps1")]}
    calls = {name: called(text) for name, text in scripts.items()}
    defined = {name: re.findall(r"^function (\S+)", text, re.MULTILINE) for name, text in scripts.items()}
    home = {function: name for name, functions in defined.items() for function in functions}
    assert len(home) == sum(map(len, defined.values())) > 100, "two functions have one name"
    for name, text in scripts.items():
        named = re.findall(r"^#AnsibleRequires -PowerShell \.\.module_utils\.(\w+)$", text, re.MULTILINE)
        foreign = {function for function in calls[name] if home.get(function, name) != name}
        assert sorted(named) == sorted({home[function] for function in foreign}), name
        assert all("-Adcs" in function for function in foreign), name
        exported = text.split("Export-ModuleMember")[-1]
        shared = set(re.findall(r"'([A-Za-z]+-[A-Za-z]+)'", exported)) if name in home.values() else set()
        assert shared == {function for function in defined[name] if any(function in calls[other] for other in calls if other != name)}, name
        assert set(defined[name]) - shared <= calls[name], name


def test_a_task_waits_for_another_and_not_for_ever(host: AdcsHost, tmp_path: Path) -> None:
    (host.system_root / "System32").mkdir(parents=True, exist_ok=True)
    script = """
        $held = Enter-AdcsLock -What 'nothing was done'
        $waited = [Diagnostics.Stopwatch]::StartNew()
        try { $null = Enter-AdcsLock -What 'nothing was done' -Seconds 1; 'taken' } catch { $_.Exception.Message }
        [string]($waited.Elapsed.TotalSeconds -gt 1)
        $held.Dispose()
        $again = Enter-AdcsLock -What 'nothing was done' -Seconds 1
        [string]$again.CanWrite
        $again.Dispose()"""
    said, waited, again = run(host, tmp_path, "_adcs_service", script)
    assert "another task has been at work on this CA for more than 1 seconds (it holds " in said
    assert (waited, again) == ("True", "True")


def test_what_fips_mode_forbids_is_not_used() -> None:
    """.NET Framework's managed classes, and what Create() makes where it may choose."""
    forbidden = re.compile(r"(SHA\d+|MD5|Aes|HMAC\w*)\]::Create|\w+Managed\b|RijndaelManaged", re.IGNORECASE)
    found = [(path.name, match.group(0)) for path in MODULES.glob("*.psm1") for match in forbidden.finditer(path.read_text())]
    assert found == [] and forbidden.search("[System.Security.Cryptography.SHA256]::Create()")


def test_a_set_stays_where_only_the_crl_of_the_ca_above_is_missing(host: AdcsHost, tmp_path: Path) -> None:
    """The same service fails to start on the database that was there before: to bring that back would help nobody."""
    host.install_by_hand(ca_type="StandaloneSubordinateCA")
    host.certify(Parent(), distribution_point=True)
    host.issue("in.the.set.example.com")
    host.call("Backup-CARoleService", {"Path": str(tmp_path / "set"), "DatabaseOnly": True, "KeepLog": True})
    host.issue("after.it.example.com")
    host.switch(parent_crl="offline", start_error="hidden")
    script = f"""
        function New-Result {{
            $result = @{{ changed = $false; reboot_required = $false; state = $null; registry = $null }}
            'restored', 'set_aside', 'advisories' | ForEach-Object {{ $result[$_] = New-Object -TypeName System.Collections.ArrayList }}
            $result
        }}
        $session = [PSCustomObject]@{{ Parameters = @{{ name = $null }} }}
        foreach ($without in $false, $true) {{
            $wanted = @{{ restore_database = $true; registry = $null; last_request_id = 1; start_without_parent_crl = $without }}
            $result = New-Result
            $given = @{{ Session = $session; Wanted = $wanted; Directory = '{tmp_path / "set"}'; Time = "$without" }}
            try {{ Switch-Database @given -Result $result -What 'the database was not restored' }} catch {{ $_.Exception.Message }}
            Remove-Item '{tmp_path / "set" / "before.reg"}'
            [string](Get-AdcsServiceState)
            $result.advisories | ForEach-Object {{ $_.code + ': ' + $_.message }}
        }}"""
    refused, stopped, running, told = run(host, tmp_path, "_adcs_database_restore", script)
    assert "the set is in its place, and the CA does not start on it: the service CertSvc does not start: no valid CRL of" in refused
    assert ".set-aside-False" in refused and "certutil -f -addstore CA" in refused and stopped == "stopped"
    assert running == "running" and told.startswith("revocation_not_checked: ") and "-CRLF_REVCHECK_IGNORE_OFFLINE" in told
    assert len(host.database()["requests"]) == 1 and host.value("CRLFlags") == 2 | 8


def test_a_service_that_does_not_start_says_why(host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand(ca_type="StandaloneSubordinateCA")
    host.certify(Parent(), distribution_point=True)
    host.stop()
    host.switch(parent_crl="offline")
    script = """
        try { Start-AdcsService -What 'x' } catch { $_.Exception.Data['Code'] }"""
    told = []
    for shown in ("shown", "hidden"):
        host.switch(start_error=shown)
        told += run(host, tmp_path, "_adcs_service", script)
    assert told == ["0x80092013"] * 2


def test_an_answer_comes_into_its_place_without_the_crl_of_the_ca_above(host: AdcsHost, tmp_path: Path) -> None:
    parent = Parent()
    host.install_by_hand(ca_type="StandaloneSubordinateCA")
    host.trust(parent.certificate)
    answer = parent.sign(Path(host.value("RequestFileName")).read_bytes(), distribution_point=True).decode()
    crl = "".join(parent.crl().decode().splitlines()[1:-1])
    host.switch(parent_crl="offline")
    script = f"""
        function Try-Answer {{
            param([hashtable]$Request)
            $session = [PSCustomObject]@{{ Parameters = @{{ name = $null }}; Request = $Request }}
            try {{
                $answer = Install-AdcsAnswer -Session $session -Text '{answer}' -Of '' -What 'the CA was not renewed'
                (@($answer['advisories'] | ForEach-Object {{ $_.code }}) -join ' ') + ' changed ' + $answer['changed']
            }}
            catch {{ $_.Exception.Message }}
        }}
        Try-Answer @{{ crls = @(); proved = $false }}
        Try-Answer @{{ crls = @(); proved = $true }}
        Try-Answer @{{ crls = @('{crl}'); proved = $true }}"""
    refused, in_place, done = run(host, tmp_path, "_adcs_renewal", script)
    assert refused.startswith("the CA was not renewed: no valid CRL of the CA above") and "certutil -f -addstore CA" in refused
    assert in_place.startswith("the certificate is in its place, and the CA is not at work with it: no valid CRL of the CA above")
    assert done == " changed True" and host.machine()["service"] == "Running"
    assert [line["arguments"][:2] for line in host.ran("-installCert")] == [["-silent", "-installCert"]] * 2 + [["-f", "-silent"]]


def test_a_ca_that_answers_may_deny_every_request(host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand(ca_type="StandaloneSubordinateCA")
    host.certify(Parent())
    script = "$facts = Get-AdcsAuthority -Parameters @{ name = $null }; @(Get-AdcsDistrust -Facts $facts | ForEach-Object { $_.message })"
    assert run(host, tmp_path, "_adcs_renewal", script) in ([], [None])
    host.switch(without_distribution_point="denied")
    with pytest.raises(Failure, match="80092012"):
        host.issue("www.example.com")
    (told,) = run(host, tmp_path, "_adcs_renewal", script)
    assert "may deny every request" in told and "CRL distribution points" in told


def test_what_is_not_known_of_a_ca_is_not_guessed(host: AdcsHost, tmp_path: Path) -> None:
    script = """
        foreach ($pair in @('EnterpriseRootCA', $true), @($null, $true), @($null, $false)) {
            $wanted = @{ ca_type = $pair[0]; root = $pair[1]; certificate_id = 'AB' }
            try { Get-AdcsTypeToInstall -Wanted $wanted -What 'nothing was installed' } catch { $_.Exception.Message }
        }"""
    assert run(host, tmp_path, "_adcs_setup", script) == ["EnterpriseRootCA", "StandaloneRootCA", "StandaloneSubordinateCA"]
    host.switch(domain=True)
    known, root, subordinate = run(host, tmp_path, "_adcs_setup", script)
    assert known == "EnterpriseRootCA" and root == subordinate and "not recorded whether this was an enterprise" in root


def test_a_set_of_another_type_or_place_is_refused_before_anything_stops(host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand()
    script = f"""
        $facts = @{{ own = @{{ ca_type = 'StandaloneRootCA' }} }}
        $same = @{{ restore_database = $true; ca_type = 'StandaloneRootCA'; log_directory = '' }}
        $same['database_directory'] = '{host.database_directory}/'
        $others = @('ca_type', 'EnterpriseRootCA'), @('database_directory', 'E:/CertLog'), @('log_directory', 'E:/CertLog')
        foreach ($other in @(, @('ca_type', 'StandaloneRootCA')) + $others) {{
            $wanted = $same.Clone()
            $wanted[$other[0]] = $other[1]
            try {{ Assert-SamePlace -Wanted $wanted -Facts $facts -What 'x'; 'fits' }} catch {{ $_.Exception.Message }}
        }}"""
    fits, kind, database, log = run(host, tmp_path, "_adcs_database_restore", script)
    assert fits == "fits" and "the type StandaloneRootCA, the set's of the type EnterpriseRootCA" in kind
    assert "DBDirectory on this host is" in database and "DBLogDirectory on this host is" in log and "0x8007010B" in log


def test_an_enterprise_ca_issues_nothing_before_it_is_whole(host: AdcsHost, tmp_path: Path) -> None:
    """By no template, and not for long; what it issued in spite of that is told."""
    host.install_by_hand(ca_type="EnterpriseRootCA")
    (sha1,) = host.generations
    host.stop()
    host.database_file.unlink()
    host.registry.delete(CONFIGURATION)
    policy = host.system_root / "CAPolicy.inf"
    text = b'[Version]\r\nSignature="$Windows NT$"\r\n[certsrv_server]\r\nLoadDefaultTemplates=1\r\nCRLPeriod=Weeks\r\n'
    policy.write_bytes(text)
    script = f"""
        $result = @{{ changed = $false; reboot_required = $false }}
        foreach ($name in 'set_aside', 'advisories') {{ $result[$name] = New-Object -TypeName System.Collections.ArrayList }}
        $wanted = @{{ ca_type = 'EnterpriseRootCA'; certificate_id = '{sha1}'; database_directory = ''; log_directory = '' }}
        try {{ Install-Role -Wanted $wanted -Result $result -Time '1' -What 'nothing was restored' }} catch {{ $_.Exception.Data['Code'] }}
        $wanted['account'] = @{{ user = 'EXAMPLE\\pki-admin'; password = 'Xq7-0123456789abcdef' }}
        Install-Role -Wanted $wanted -Result $result -Time '1' -What 'nothing was restored'
        [string](Get-AdcsServiceState)
        $result.advisories | ForEach-Object {{ $_.code + ': ' + $_.message }}"""
    # SYSTEM is the account of the computer there.
    host.switch(enrolls_at_once="by_template", directory="denied")
    assert run(host, tmp_path, "_adcs_database_restore", script) == ["0x80072098", "stopped"]
    assert host.machine()["templates"] == [] and policy.read_bytes() == text
    host.registry.delete(CONFIGURATION)
    policy.unlink()
    host.switch(enrolls_at_once="always")
    _code, stopped, told = run(host, tmp_path, "_adcs_database_restore", script)
    assert "0123456789abcdef" not in (host.state / "log.jsonl").read_text()
    assert stopped == "stopped" and told.startswith("issued_meanwhile: ") and " had 1 requests" in told and not policy.exists()


def test_what_active_directory_lacks_is_told(host: AdcsHost, tmp_path: Path) -> None:
    parent = Parent()
    host.install_by_hand(ca_type="EnterpriseSubordinateCA")
    host.trust(parent.certificate)
    answer = parent.sign(Path(host.value("RequestFileName")).read_bytes()).decode()
    host.switch(directory="denied")
    script = f"""
        $session = [PSCustomObject]@{{ Parameters = @{{ name = $null }}; Request = @{{}} }}
        $answer = Install-AdcsAnswer -Session $session -Text '{answer}' -Of '' -What 'the CA was not renewed'
        $answer['advisories'] | ForEach-Object {{ $_.code + ': ' + $_.message }}"""
    (told,) = run(host, tmp_path, "_adcs_renewal", script)
    assert told.startswith("not_published: ") and "0x80072098" in told and "certutil -f -dspublish <file> NTAuthCA" in told


def test_what_came_after_the_set_is_entered_again(host: AdcsHost, tmp_path: Path) -> None:
    """First the certificates, since only what has a row can be revoked; then the revocations, with the moment and reason of the CRL."""
    host.install_by_hand()
    known = host.issue("in.the.set.example.com")
    content = base64.b64encode(issued_elsewhere(host)).decode()
    late = f"{x509.load_der_x509_certificate(base64.b64decode(content)).serial_number:X}"
    script = f"""
        $result = @{{ changed = $false; state = 1 }}
        foreach ($name in 'entered', 'not_entered', 'reentered', 'failed_revocations') {{
            $result[$name] = New-Object -TypeName System.Collections.ArrayList
        }}
        $pairs = @('{late}', '{content}'), @('{known}', ''), @('AB', 'AAAA')
        $issued = $pairs | ForEach-Object {{ @{{ serial = $_[0]; content = $_[1] }} }}
        $at = '2026-01-31T15:49:20Z'
        $revoke = '{known}', '{late}', 'AB' | ForEach-Object {{ @{{ serial = $_; reason = 4; at = $at }} }}
        $wanted = @{{ issued = $issued; revoke = $revoke }}
        Add-AdcsLate -Wanted $wanted -Result $result -Directory '{tmp_path}' -What 'x'
        Invoke-AdcsRevocation -Wanted $wanted -Result $result -What 'x'
        $result['entered'].Count, ($result['not_entered'] | ForEach-Object {{ $_.serial }}), $result['reentered'].Count
        $result['failed_revocations'] | ForEach-Object {{ $_.serial + ' ' + $_.code }}"""
    assert run(host, tmp_path, "_adcs_late", script) == [1, "AB", 2, "AB 0x80094004"]
    rows = host.database()["requests"]
    assert [(row["Disposition"], row["RevokedReason"], row["RevokedEffectiveWhen"]) for row in rows] == [
        (21, 4, "2026-01-31T15:49:20+00:00")
    ] * 2


def issued_elsewhere(host: AdcsHost) -> bytes:
    """A certificate of this CA that no row knows of."""
    ca, start = host.certificate(host.generations[-1]), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "late.example.com")])
    builder = x509.CertificateBuilder(ca.subject, name, ec.generate_private_key(ec.SECP256R1()).public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=1))
    signed = builder.sign(host.key(host.container(host.generations[-1]) or ""), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def test_crls_are_found_wherever_the_ca_publishes_them(host: AdcsHost, tmp_path: Path) -> None:
    """Deltas are told by what they are: here both have names that say the contrary."""
    host.install_by_hand()
    script = """
        $facts = Get-AdcsAuthority -Parameters @{ name = $null }
        @(Get-AdcsCrl -Facts $facts | ForEach-Object { [string]$_.path + '|' + $_.content })"""

    def found() -> list[tuple[str, bool]]:
        told = [one.split("|") for one in run(host, tmp_path, "_adcs_crl", script)]
        crls = [x509.load_der_x509_crl(base64.b64decode(content)) for _path, content in told]
        return [(Path(path).name, any("Delta" in type(e.value).__name__ for e in c.extensions)) for (path, _content), c in zip(told, crls)]

    (name,) = (path.name for path in host.cert_enroll.glob("*.crl") if "+" not in path.name)
    assert found() == [(name, False)]
    shutil.rmtree(host.cert_enroll)
    web = tmp_path / "web"
    host.configure(CRLPublicationURLs=[f"1:file://{web}/base+%3.crl", f"64:{web}/%3.crl", "6:http://pki.example.com/%3.crl"])
    assert found() == [("", False)], "none lies there: as the CA has it"
    host.publish_crls()
    assert found() == [(f"base+{host.active}.crl", False)]


def test_an_account_with_two_roles_still_backs_up_the_keys(host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand()
    host.switch(role_separation=True)
    script = f"""
        $password = New-SecureString -Request @{{ password = 'Xq7-0123456789abcdef' }} -Name 'password'
        $made = Export-Authority -Thumbprint '{host.generations[0]}' -Password $password
        $made.files.Count, $made.not_exportable.Count"""
    assert run(host, tmp_path, "_adcs_keys", script) == [1, 0]


def test_a_request_with_another_number_is_found(host: AdcsHost, tmp_path: Path) -> None:
    folder = tmp_path / "CertEnroll"
    folder.mkdir()
    for number, name in enumerate(("ca01_Issuing(1).req", "ca01_Issuing(3).req", "ca01_Other(9).req")):
        (folder / name).touch()
        os.utime(folder / name, (number, number))
    wanted = "ca01_Issuing(2).req", "ca01_Third.req"
    script = f"""
        foreach ($name in '{wanted[0]}', '{wanted[1]}') {{
            [IO.Path]::GetFileName((Get-RequestBeside -Path (Join-Path -Path '{folder}' -ChildPath $name)))
        }}"""
    assert run(host, tmp_path, "_adcs_authority", script) == ["ca01_Issuing(3).req", "ca01_Third.req"]
