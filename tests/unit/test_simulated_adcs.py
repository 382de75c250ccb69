# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated AD CS does what the documents say that Windows does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from adcs import authority, windows_pfx
from adcs.machine import CONFIGURATION, Failure
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_reader
from cryptography import x509
from support import adcs
from support.adcs import AdcsHost, Parent
from tools import require_tool

PASSWORD = "correct horse battery staple"


@pytest.fixture
def host(tmp_path: Path) -> AdcsHost:
    return AdcsHost(tmp_path / "ca01")


@pytest.fixture
def root(host: AdcsHost) -> AdcsHost:
    """Index rules of a CA that was renewed with a new key, with the same one, and with a new one."""
    host.install_by_hand("Ex'ample CA")
    host.renew_by_hand()
    host.renew_by_hand(reuse_key=True)
    host.renew_by_hand()
    return host


def program(host: AdcsHost, name: str, *arguments: object) -> tuple[int, str]:
    path = host.system_root / "System32" / f"{name}.exe"
    done = subprocess.run([path, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode, done.stdout.decode("cp850").replace("\r\n", "\n") + done.stderr.decode()


def powershell(host: AdcsHost, script: str) -> Any:
    """What the script puts out; $password is a SecureString."""
    start = f"""
        Set-StrictMode -Version 2.0
        $password = New-Object securestring; '{PASSWORD}'.ToCharArray() | ForEach-Object {{ $password.AppendChar($_) }}
        $null = Get-Service -Name CertSvc -ErrorAction SilentlyContinue
        function Get-Failure([scriptblock]$Work) {{
            try {{ $null = & $Work; "nothing" }} catch {{ "{{0:x8}}" -f $_.Exception.GetBaseException().HResult }}
        }}
        {script}"""
    return adcs.powershell(host, start)


def test_a_renewed_authority_follows_the_index_rules(root: AdcsHost) -> None:
    assert [root.container(sha1) for sha1 in root.generations] == [f"Ex!0027ample CA{suffix}" for suffix in ("", "(1)", "(1)", "(3)")]
    certificates = [root.certificate(sha1) for sha1 in root.generations]
    assert [authority.version(certificate) for certificate in certificates] == [(0, 0), (1, 1), (2, 1), (3, 3)]
    previous = certificates[3].extensions.get_extension_for_oid(authority.PREVIOUS_CERT_HASH).value.value[2:]
    assert previous.hex().upper() == root.generations[2]
    assert root.value("CACertHash")[0] == re.sub("(..)(?=.)", r"\1 ", root.generations[0].lower())
    assert {path.name for path in root.cert_enroll.glob("*.crl")} == {
        f"Ex!0027ample CA{key}{delta}.crl" for key in ("", "(1)", "(3)") for delta in ("", "+")
    }


@pytest.mark.parametrize(("algorithm", "scheme"), [("3des", "pbeWithSHA1And3-KeyTripleDES-CBC"), ("aes", "PBES2, PBKDF2, AES-256-CBC")])
def test_the_bundle_is_one_that_windows_writes(root: AdcsHost, algorithm: str, scheme: str) -> None:
    root.switch(pfx_algorithm=algorithm)
    root.backup_key(root.state / "backup", PASSWORD, force=False)
    data = (root.state / "backup" / "Ex!0027ample CA.p12").read_bytes()
    assert data.endswith(bytes(8))
    contents = _pkcs12_reader.read(data, PASSWORD)
    assert (contents.key_bags, len(contents.certificates), contents.encryption.iterations) == (3, 4, 2000)
    shown = subprocess.run(
        [require_tool("openssl"), "pkcs12", "-legacy", "-info", "-nodes", "-passin", f"pass:{PASSWORD}"],
        input=data,
        capture_output=True,
        check=True,
    )
    text = shown.stdout.decode() + shown.stderr.decode()
    assert text.index("Shrouded Keybag") < text.index("Encrypted data")
    assert text.count(scheme) == 4
    for expected in ("localKeyID: 03 00 00 00", "friendlyName: Ex!0027ample CA(3)", "Microsoft Local Key set: <No Values>"):
        assert expected in text
    assert "Microsoft CSP Name: Microsoft Software Key Storage Provider" in text and "X509v3 Key Usage: 90" in text
    read = windows_pfx.read(data, PASSWORD)
    assert read and [key.container for key in read.keys] == [f"Ex!0027ample CA{suffix}" for suffix in ("", "(1)", "(3)")]
    assert read.aes is (algorithm == "aes")
    assert windows_pfx.read(data, "wrong") is None


def test_a_subordinate_waits_for_its_certificate(host: AdcsHost) -> None:
    parent = Parent()
    answer = host.install_by_hand("Sub CA", "StandaloneSubordinateCA")
    assert (answer["ErrorId"], host.value("SetupStatus"), host.generations) == (398, 9, [])
    with pytest.raises(Failure, match="80070002"):
        host.start()
    request = Path(host.value("RequestFileName")).read_bytes()
    with pytest.raises(Failure, match="800b0109"):
        host.install_certificate(parent.sign(request))
    host.certify(parent)
    assert (host.value("SetupStatus"), len(host.generations), host.value("RequestFileName")) == (1, 1, None)
    host.renew_by_hand()
    assert (host.value("SetupStatus"), len(host.generations)) == (9, 1)
    with pytest.raises(Failure, match="800700aa"):
        host.renew(reuse_key=False)
    host.certify(parent)
    assert authority.version(host.certificate(host.generations[1])) == (1, 1)
    host.backup_key(host.state / "backup", PASSWORD, force=False)
    contents = _pkcs12_reader.read((host.state / "backup" / "Sub CA.p12").read_bytes(), PASSWORD)
    assert x509.load_pem_x509_certificate(parent.certificate).subject in [
        x509.load_der_x509_certificate(each.der).subject for each in contents.certificates
    ]


def test_certutil(root: AdcsHost) -> None:
    first, second = root.issue("one.example.com"), root.issue("two.example.com")
    assert program(root, "certutil", "-revoke", second, 1) == (
        0,
        f'Revoking "{second}"\nCertUtil: -revoke command completed successfully.\n',
    )
    assert program(root, "certutil", "-view", "-restrict", "RequestId=$", "-out", "RequestId", "csv") == (0, '"Issued Request ID"\n"2"\n')
    root.switch(view_numbers="quoted_hex", language="de")
    code, text = program(root, "certutil", "-view", "-restrict", "Disposition=21", "-out", "RequestId,Request.RevokedWhen", "csv")
    assert code == 0 and re.fullmatch(r'"Anforderungs-ID","Sperrdatum"\n"0x2 \(2\)","\d\d\.\d\d\.\d{4} \d\d:\d\d"\n', text)
    before = program(root, "certutil", "-view", "-out", "CRLNumber", "CRL", "csv")[1]
    assert program(root, "certutil", "-CRL")[0] == 0
    assert len(program(root, "certutil", "-view", "-out", "CRLNumber", "CRL", "csv")[1]) > len(before)
    crl = x509.load_der_x509_crl((root.cert_enroll / "Ex!0027ample CA(3).crl").read_bytes())
    assert [each.serial_number for each in crl] == [int(second, 16)] != [int(first, 16)]
    assert program(root, "certutil", "-verifykeys")[0] == 0
    root.stop()
    code, text = program(root, "certutil", "-ping")
    assert code == 0xBA and "-ping-Befehl ist fehlgeschlagen: 0x800706ba" in text
    assert program(root, "certutil", "-renewCert", "ReuseKeys", "parent", "-silent")[0] == 1
    assert root.log[-1] == {"program": "certutil.exe", "arguments": ["-renewCert", "ReuseKeys", "parent", "-silent"]}


def test_the_registry_survives_reg_export_and_import(root: AdcsHost) -> None:
    root.configure(r"\Strange", Text='a "quoted" \\ text', Number=0xFFFFFFFF, Lines=["eins", "ä" * 80], Bytes=bytes(range(200)), Empty=[])
    path = root.state / "configuration.reg"
    before = {key: values for key, values in root.registry.load().items() if key.startswith(CONFIGURATION)}
    assert program(root, "reg", "export", "HKLM\\" + CONFIGURATION, path)[0] == 0
    text = path.read_bytes().decode("utf-16")
    assert text.startswith("Windows Registry Editor Version 5.00\r\n\r\n[HKEY_LOCAL_MACHINE\\")
    assert {line for line in text.splitlines() if line.endswith("\\")} and all(
        len(line) <= 80 for line in text.splitlines() if line.startswith("  ")
    )
    assert program(root, "reg", "export", "HKLM\\" + CONFIGURATION, path)[0] == 1
    root.registry.delete(CONFIGURATION)
    assert root.active is None
    assert program(root, "reg", "import", path)[0] == 0
    assert {key: values for key, values in root.registry.load().items() if key.startswith(CONFIGURATION)} == before


def test_the_database_comes_back_with_what_it_held(root: AdcsHost) -> None:
    serials = [root.issue(f"{number}.example.com") for number in range(3)]
    root.backup_database(root.state / "set", force=False, incremental=False, keep_log=True)
    assert {path.suffix for path in (root.state / "set" / "DataBase").iterdir()} == {".dat", ".edb", ".log"}
    with pytest.raises(Failure, match="80070091"):
        root.backup_database(root.state / "set", force=False, incremental=False, keep_log=True)
    root.issue("lost.example.com")
    with pytest.raises(Failure, match="80070020"):
        root.restore_database(root.state / "set", force=True)
    root.stop()
    with pytest.raises(Failure, match="80070091"):
        root.restore_database(root.state / "set", force=False)
    with pytest.raises(Failure, match="80070002"):
        root.restore_database(root.state, force=True)
    with pytest.raises(Failure, match="8007010b"):
        root.restore_database(root.state / "set" / "DataBase", force=True)
    root.restore_database(root.state / "set", force=True)
    assert root.registry.key(CONFIGURATION + r"\RestoreInProgress")
    root.start()
    assert not root.registry.key(CONFIGURATION + r"\RestoreInProgress")
    assert [row["SerialNumber"] for row in root.database()["requests"]] == serials
    root.database_file.unlink()
    assert root.machine()["service"] == "Running" and program(root, "certutil", "-ping")[0] == 0xBA


def test_the_service_wants_every_key(root: AdcsHost) -> None:
    root.stop()
    lost = root.generations[0]
    root.backup_key(root.state / "backup", PASSWORD, force=False)
    root.remove_certificate(lost, key_too=True)
    with pytest.raises(Failure, match="80090016"):
        root.start()
    with pytest.raises(Failure, match="80070056"):
        root.import_bundle((root.state / "backup" / "Ex!0027ample CA.p12").read_bytes(), "wrong", True)
    root.import_bundle((root.state / "backup" / "Ex!0027ample CA.p12").read_bytes(), PASSWORD, True)
    root.start()
    root.switch(not_exportable={1: "0x80090029"})
    with pytest.raises(Failure, match="80090029"):
        root.backup_key(root.state / "other", PASSWORD, force=False)


@pytest.mark.parametrize(("finds", "count"), [("all", 4), ("newest", 1)])
def test_an_authority_is_installed_from_its_certificate(root: AdcsHost, finds: str, count: int) -> None:
    before = root.generations
    root.backup_key(root.state.parent / "backup", PASSWORD, force=False)
    data = (root.state.parent / "backup" / "Ex!0027ample CA.p12").read_bytes()
    with pytest.raises(Failure, match="0x0"):
        root.install_by_hand()
    root.lose()
    assert (root.active, root.thumbprints(), root.switches()["feature"]) == (None, [], "absent")
    root.switch(feature="present", install_finds=finds)
    root.import_bundle(data, PASSWORD, True)
    assert root.install({"CAType": "StandaloneRootCA", "CertificateID": before[-1]})["ErrorId"] == 0
    assert (root.active, root.common_name, root.generations) == ("Ex!0027ample CA", "Ex'ample CA", before[-count:])
    root.ping()


def test_a_renewal_may_take_effect_later(root: AdcsHost) -> None:
    root.switch(renewal_takes_effect="at_restart")
    assert program(root, "certutil", "-silent", "-renewCert", "ReuseKeys")[0] == 0
    assert len(root.generations) == 4
    root.stop()
    root.start()
    assert len(root.generations) == 5


def test_the_drives_and_cmdlets(root: AdcsHost) -> None:
    root.switch(keys_fail={1: "0x8009000D"}, cluster=True)
    root.remove_key(root.container(root.generations[3]) or "")
    answer = powershell(
        root,
        r"""
        $configuration = 'HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'
        $active = (Get-ItemProperty -LiteralPath $configuration).Active
        $values = Get-ItemProperty -LiteralPath "$configuration\$active"
        $sha1 = $values.CACertHash | ForEach-Object { ($_ -replace ' ').ToUpper() }
        $certificates = $sha1 | ForEach-Object { Get-Item -LiteralPath "Cert:\LocalMachine\My\$_" }
        $class = [System.Security.Cryptography.X509Certificates.ECDsaCertificateExtensions]
        $key = $class::GetECDsaPrivateKey($certificates[0])
        $signature = $key.SignData([byte[]](1, 2), 'SHA256')
        $directory = Join-Path $env:SystemRoot 'Temp/keyward-test'
        $null = New-Item -ItemType Directory -Path $directory
        $before = Get-Acl -LiteralPath $directory
        $acl = Get-Acl -LiteralPath $directory
        $acl.SetSecurityDescriptorSddlForm('O:BAG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)')
        Set-Acl -LiteralPath $directory -AclObject $acl
        $after = Get-Acl -LiteralPath $directory
        $service = Get-Service CertSvc
        Stop-Service -Name CertSvc
        $service.WaitForStatus('Stopped', [timespan]::FromSeconds(5))
        @{
            values = @($values.CAType, $values.CommonName, (Get-Item -LiteralPath "$configuration\$active").GetValue('SetupStatus'))
            found = @($certificates | ForEach-Object { $_.HasPrivateKey })
            signed = $class::GetECDsaPublicKey($certificates[0]).VerifyData([byte[]](1, 2), $signature, 'SHA256')
            failures = @($certificates[1, 3] | ForEach-Object { $each = $_; Get-Failure { $class::GetECDsaPrivateKey($each) } })
            missing = Test-Path -LiteralPath 'Cert:\LocalMachine\My\0000000000000000000000000000000000000000'
            store = @(Get-ChildItem -LiteralPath Cert:\LocalMachine\My).Count
            cluster = @(Get-ItemProperty -Path 'HKLM:\Cluster\Resources\*\Parameters').ServiceName
            protected = @($before.AreAccessRulesProtected, $after.AreAccessRulesProtected)
            access = @($after.Access | ForEach-Object { $_.IdentityReference.Value })
            status = "$($service.Status)"
        }""",
    )
    assert answer == {
        "values": [3, "Ex'ample CA", 1],
        "found": [True] * 4,
        "signed": True,
        "failures": ["8009000d", "80090016"],
        "missing": False,
        "store": 4,
        "cluster": "CertSvc",
        "protected": [False, True],
        "access": ["NT AUTHORITY\\SYSTEM", "BUILTIN\\Administrators"],
        "status": "Stopped",
    }


def test_the_keys_go_out_and_come_back_through_the_cmdlets(root: AdcsHost) -> None:
    lost = root.generations[0]
    answer = powershell(
        root,
        rf"""
        $backup = Join-Path $env:SystemRoot 'Temp/backup'
        $file = Join-Path $backup "Ex!0027ample CA.p12"
        $runspace = [runspacefactory]::CreateRunspace(); $runspace.Open()
        $shell = [powershell]::Create(); $shell.Runspace = $runspace
        $parameters = @{{ Path = $backup; KeyOnly = $true; Password = $password }}
        $null = $shell.AddCommand('Backup-CARoleService').AddParameters($parameters).Invoke()
        $again = Get-Failure {{ Backup-CARoleService -Path $backup -KeyOnly -Password $password }}
        $export = @{{ FilePath = "$backup/one.p12"; ChainOption = 'EndEntityCertOnly'; Password = $password }}
        $one = Export-PfxCertificate -Cert Cert:\LocalMachine\My\{lost} @export
        Remove-Item -LiteralPath Cert:\LocalMachine\My\{lost}
        $gone = -not (Test-Path -LiteralPath Cert:\LocalMachine\My\{lost})
        $import = @{{ FilePath = $file; CertStoreLocation = 'Cert:\LocalMachine\My' }}
        $wrong = Get-Failure {{ Import-PfxCertificate @import -Exportable }}
        $found = @(Import-PfxCertificate @import -Password $password)
        $kept = Get-Failure {{ Export-PfxCertificate -Cert $found[0] -FilePath "$backup/two.p12" -Password $password }}
        $text = [Net.NetworkCredential]::new('', $password).Password
        @{{
            again = $again; gone = $gone; wrong = $wrong; kept = $kept; name = $one.Name
            dotnet = [Security.Cryptography.X509Certificates.X509CertificateLoader]::LoadPkcs12CollectionFromFile($file, $text).Count
            found = $found.Count; keys = @($found | Where-Object {{ $_.HasPrivateKey }}).Count
        }}""",
    )
    assert answer == {
        "again": "80070050",
        "gone": True,
        "wrong": "80070056",
        "kept": "8009000b",
        "name": "one.p12",
        "dotnet": 4,
        "found": 4,
        "keys": 4,
    }
    bundle = _pkcs12_reader.read((root.system_root / "Temp" / "backup" / "one.p12").read_bytes(), PASSWORD)
    assert (bundle.key_bags, len(bundle.certificates)) == (1, 1)
    assert [line["parameters"]["Password"] for line in root.ran("Backup-CARoleService")] == ["SecureString"] * 2
    assert PASSWORD not in json.dumps(root.log)


def test_a_bare_host_becomes_an_authority(host: AdcsHost) -> None:
    host.switch(feature="absent", feature_restart_needed=True, exceptions="win32", language="de")
    script = r"""
        $before = $null -eq (Get-Service -Name CertSvc -ErrorAction SilentlyContinue)
        $feature = Install-WindowsFeature -Name ADCS-Cert-Authority -IncludeManagementTools
        $provider = 'ECDSA_P256#Microsoft Software Key Storage Provider'
        $install = @{ CAType = 'StandaloneRootCA'; CACommonName = 'New CA'; CryptoProviderName = $provider }
        $native = 0; $done = @{ ErrorId = -1 }
        try { $done = Install-AdcsCertificationAuthority @install -Force -Confirm:$false } catch { $native = $_.Exception.NativeErrorCode }
        @{
            before = $before; restart = "$($feature.RestartNeeded)"; native = $native; result = $done.ErrorId
            state = (Get-WindowsFeature ADCS-Cert-Authority).InstallState; service = "$((Get-Service CertSvc).Status)"
        }"""
    waiting = {"before": True, "restart": "Yes", "native": 0x422, "result": -1, "state": "InstallPending", "service": "Stopped"}
    assert powershell(host, script) == waiting
    host.reboot()
    done = {"before": False, "restart": "No", "native": 0, "result": 0, "state": "Installed", "service": "Running"}
    assert powershell(host, script) == done
    assert host.common_name == "New CA"


def test_what_hangs_can_be_ended(root: AdcsHost) -> None:
    root.switch(hangs=["Backup-CARoleService", "-ping"])
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([root.system_root / "System32" / "certutil.exe", "-ping"], timeout=2, stdin=subprocess.DEVNULL, check=False)
    state = powershell(
        root,
        """
        $shell = [powershell]::Create()
        $work = $shell.AddCommand('Backup-CARoleService').AddParameters(@{ Path = $env:SystemRoot; KeyOnly = $true }).BeginInvoke()
        $ended = $work.AsyncWaitHandle.WaitOne(3000)
        $shell.Stop()
        "$ended $($shell.InvocationStateInfo.State)"
        """,
    )
    assert state == "False Stopped"
    assert time.monotonic() - start < 60
    assert shutil.which("certutil.exe") is None
