# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_install and ca_renew against simulated Windows hosts, and the playbooks around them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.adcs import AdcsHost, Parent, WindowsAnsible
from support.plays import PASSWORD, codes, failure, new_store, play, step
from support.roles import a_root, make_stores, newest_manifest, now, playbook, ran

SUBJECT = {"countryName": "DE", "organizationName": "Example", "commonName": "Example CA"}
EC = {"subject": SUBJECT, "key_type": "EC", "curve": "secp256r1"}


@pytest.fixture
def hosts(tmp_path: Path) -> dict[str, AdcsHost]:
    return {name: AdcsHost(tmp_path / name, name.upper()) for name in ("one", "two")}


def inventory(hosts: dict[str, AdcsHost], **more: dict[str, Any]) -> dict[str, Any]:
    return {name: host.variables(**more.get(name, {})) for name, host in hosts.items()}


def renewals(host: AdcsHost) -> list[list[str]]:
    return [call["arguments"] for call in host.ran("-renewCert")]


def installations(host: AdcsHost) -> list[dict[str, Any]]:
    return [call["parameters"] for call in host.ran("Install-AdcsCertificationAuthority")]


def keys_of(host: AdcsHost) -> list[Any]:
    return [host.certificate(sha1).public_key() for sha1 in host.generations]


def different_keys(host: AdcsHost) -> int:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return len({key.public_bytes(serialization.Encoding.DER, form) for key in keys_of(host)})


class Issuing(Parent):
    """A CA between a root and those that it signs for."""

    def __init__(self, root: Parent) -> None:
        super().__init__("Example Issuing Parent CA")
        request = x509.CertificateSigningRequestBuilder().subject_name(self.name).add_extension(x509.BasicConstraints(True, None), True)
        signed = request.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.certificate = root.sign(signed)


# --- ca_install ----------------------------------------------------------------------------------------------------


def test_a_root_is_installed(windows: WindowsAnsible, hosts: dict[str, AdcsHost], tmp_path: Path) -> None:
    hosts["one"].switch(feature="absent", feature_restart_needed=True)
    hosts["two"].switch(feature="absent")
    given = {"kind": "root", "subject": SUBJECT, "key_type": "{{ key_type }}", "curve": "secp384r1", "key_size": 2048, "days": 400}
    variables = {"one": {"key_type": "EC"}, "two": {"key_type": "RSA"}}
    tasks = [
        step("ca_install", "predicted", **given, check=True),
        step("ca_install", "first", **given),
        step("ca_install", "second", **given),
    ]
    result = play(windows, tasks, hosts=inventory(hosts, **variables))
    one, two = hosts["one"], hosts["two"]
    for name in hosts:
        assert result.task("predicted", name)["changed"] and not result.task("predicted", name)["reboot_required"]
    first = result.task("first", "one")
    assert (first["changed"], first["reboot_required"], first["authority"], first["pending"]) == (True, True, None, False)
    second = result.task("second", "one")
    assert (second["changed"], second["reboot_required"]) == (False, True)
    assert not one.active and installations(one) == [] and len(one.ran("Install-WindowsFeature")) == 1

    done = result.task("first", "two")
    assert (done["changed"], done["reboot_required"], done["pending"]) == (True, False, False)
    assert [generation["private_key"] for generation in done["generations"]] == ["present"]
    assert result.task("second", "two")["changed"] is False and len(installations(two)) == 1
    (root,) = [two.certificate(sha1) for sha1 in two.generations]
    assert root.subject.rfc4514_string() == "CN=Example CA,O=Example,C=DE" and root.public_key().key_size == 2048
    assert (root.not_valid_after_utc - root.not_valid_before_utc).days == 400

    one.reboot()
    result = play(windows, [step("ca_install", "after the restart", **given)], hosts=inventory({"one": one}, **variables))
    assert result.task("after the restart")["changed"] and not result.task("after the restart")["reboot_required"]
    assert isinstance(keys_of(one)[0].curve, ec.SECP384R1) and one.machine()["service"] == "Running"


def test_what_windows_can_not_install(windows: WindowsAnsible, hosts: dict[str, AdcsHost]) -> None:
    hosts = {"one": hosts["one"]}
    hosts["one"].switch(cluster=True, feature="absent")
    tasks = [
        step("ca_install", "Ed25519", kind="root", subject=SUBJECT, key_type="Ed25519", fails=True),
        step("ca_install", "path length", kind="root", **EC, path_length=0, fails=True),
        step("ca_install", "cluster", kind="root", **EC, fails=True),
        step("ca_install", "an answer to nothing", kind="subordinate", **EC, certificate=Parent().certificate.decode(), fails=True),
    ]
    result = play(windows, tasks, hosts=inventory(hosts))
    assert "AD CS knows no Ed25519 keys" in failure(result, "Ed25519")
    assert "CAPolicy.inf" in failure(result, "path length")
    assert "cluster" in failure(result, "cluster")
    called = [line for line in hosts["one"].log if "cmdlet" in line or "program" in line]
    assert not hosts["one"].active and {line.get("cmdlet") for line in called} <= {"Get-Service"}, called


def test_a_subordinate_is_installed_and_renewed(windows: WindowsAnsible, hosts: dict[str, AdcsHost], tmp_path: Path) -> None:
    """Its request is answered by the parent's certificate alone, or with the chain, which is needed where the host knows only the root."""
    one, two = hosts["one"], hosts["two"]
    two.switch(renewal_takes_effect="at_restart")
    root = Parent()
    issuing = Issuing(root)
    for host in (one, two):
        host.trust(root.certificate)
    keys, databases = tmp_path / "keys", tmp_path / "databases"
    given = {"kind": "subordinate", **EC}

    def answer(name: str) -> str:
        request = Path(hosts[name].value("RequestFileName")).read_bytes()
        if name == "one":
            return root.sign(request).decode()
        return (issuing.sign(request) + issuing.certificate + root.certificate).decode()

    def answers() -> dict[str, Any]:
        return inventory(hosts, **{name: {"answer": answer(name)} for name in hosts})

    tasks = [
        new_store(keys),
        step("ca_store", "databases", path=str(databases), kind="databases"),
        step("ca_install", "predicted", **given, check=True),
        step("ca_install", "requested", **given),
        step("ca_install", "waits", **given),
        step("ca_key_backup", "keys of a CA that waits", stores=[str(keys)], password=PASSWORD, fails=True),
    ]
    result = play(windows, tasks, hosts=inventory(hosts))
    for name, host in hosts.items():
        for title, changed in (("predicted", True), ("requested", True), ("waits", False)):
            shown = result.task(title, name)
            assert (shown["changed"], shown["pending"], shown["generations"]) == (changed, True, []), title
        assert "first certificate" in failure(result, "keys of a CA that waits", name)
        assert "CERTIFICATE REQUEST" in result.task("requested", name)["request"]
        assert result.task("waits", name)["request_file"] == host.value("RequestFileName")

    backups = [
        step("ca_key_backup", "keys", stores=[str(keys)], password=PASSWORD),
        step("ca_database_backup", "database", stores=[str(databases)]),
    ]
    tasks = [
        step("ca_install", "answered, predicted", **given, certificate="{{ answer }}", check=True),
        step("ca_install", "answered", **given, certificate="{{ answer }}"),
        step("ca_install", "answered again", **given, certificate="{{ answer }}"),
        *backups,
    ]
    result = play(windows, tasks, hosts=answers())
    for name, host in hosts.items():
        changed = [
            result.task(title, name)["changed"] for title in ("answered, predicted", "answered", "answered again", "keys", "database")
        ]
        assert changed == [True, True, False, True, True]
        assert not result.task("answered", name)["pending"] and len(host.generations) == 1
        assert host.machine()["service"] == "Running"

    moment = now()
    tasks = [
        step("ca_renew", "renewed", issued_before=moment, reuse_key=False),
        step("ca_renew", "pending", issued_before=moment, reuse_key=False),
        *backups,
    ]
    result = play(windows, tasks, hosts=inventory(hosts))
    for name, host in hosts.items():
        renewed, pending = result.task("renewed", name), result.task("pending", name)
        assert (renewed["changed"], renewed["pending"], renewed["renewed"]) == (True, True, False)
        assert (pending["changed"], pending["pending"], pending["request"]) == (False, True, renewed["request"])
        assert not result.task("keys", name)["changed"] and len(host.generations) == 1 and len(renewals(host)) == 1
        assert host.machine()["service"] == "Running"

    tasks = [
        step("ca_renew", "another's answer", reuse_key=False, certificate=root.certificate.decode(), fails=True),
        step("ca_renew", "put in place", issued_before=moment, reuse_key=False, certificate="{{ answer }}"),
        step("ca_renew", "put in place again", issued_before=moment, reuse_key=False, certificate="{{ answer }}"),
        *backups,
    ]
    result = play(windows, tasks, hosts=answers())
    for name, host in hosts.items():
        assert "another key" in failure(result, "another's answer", name)
        done = result.task("put in place", name)
        assert (done["changed"], done["renewed"], done["pending"]) == (True, True, False) and codes(done["reasons"]) == ["answered"]
        assert not result.task("put in place again", name)["changed"]
        assert len(host.generations) == different_keys(host) == 2 and len(renewals(host)) == 1
        assert result.task("keys", name)["changed"]


def test_a_ca_without_a_set_comes_back_from_its_keys(windows: WindowsAnsible, hosts: dict[str, AdcsHost], tmp_path: Path) -> None:
    host, keys = hosts["one"], tmp_path / "keys"
    host.install_by_hand(ca_type="EnterpriseRootCA")
    host.renew_by_hand()
    stored = {"stores": [str(keys)], "password": PASSWORD}
    made = play(windows, [new_store(keys), step("ca_key_backup", "keys", **stored)], hosts=inventory({"one": host}))
    named = {"authority_id": made.task("keys", "one")["authority"]["id"]}
    before = host.generations
    host.lose()
    host.switch(untrusted_root="refused")
    tasks = [
        step("ca_install", "not named", kind="root", **EC, **stored, fails=True),
        step("ca_install", "without its password", kind="root", **EC, stores=[str(keys)], **named, fails=True),
        step("ca_install", "brought back", kind="root", **EC, **stored, **named),
        step("ca_install", "again", kind="root", **EC, **stored),
        step("ca_key_backup", "nothing is due", **stored),
    ]
    result = play(windows, tasks, hosts=inventory({"one": host}))
    assert "lived in this place" in failure(result, "not named") and "Give its password" in failure(result, "without its password")
    assert [result.task(title)["changed"] for title in ("brought back", "again", "nothing is due")] == [True, False, False]
    assert len(result.task("brought back")["restored"]) == 6, "two keys, their certificates, and these once more where roots are trusted"
    assert host.generations == before and installations(host)[-1]["CertificateID"] == before[-1]
    assert host.common_name == "Example Root CA" and host.value("CAType") == 0, "it is an enterprise CA, as before"


def test_a_subordinate_below_an_openssl_root(windows: WindowsAnsible, hosts: dict[str, AdcsHost], tmp_path: Path) -> None:
    """One run of the playbook: request, signature on another host, certificate in place, backups of both."""
    host = hosts["one"]
    stores = make_stores(windows, tmp_path)
    directory = tmp_path / "root"
    root = windows.local(**a_root(directory), **stores)
    playbook(windows, "install", {"root": root})
    host.trust((directory / "cacert.pem").read_bytes())
    variables = {
        **stores,
        "keyward_kind": "subordinate",
        "keyward_subject": SUBJECT,
        "keyward_key_type": "EC",
        "keyward_curve": "secp256r1",
        "keyward_parent": {"host": "root", "config_file": str(directory / "openssl.cnf")},
    }
    both = {"root": root, "ca": host.variables(**variables)}
    result = playbook(windows, "install", both)
    (sha1,) = host.generations
    assert sorted(host.certificate(sha1).issuer.rfc4514_string().split(",")) == ["CN=Example Root CA", "O=Example"]
    held = [newest_manifest(Path(stores["keyward_key_stores"][0]), number)["generations"] for number in (0, 1)]
    assert sha1.lower() in {one["fingerprints"]["sha1"] for generations in held for one in generations}
    assert ran(result, "ca_database_backup").count(True) == 2  # the parent's, which has a row more, and the new CA's
    assert not host.value("SetupStatus") & 8


# --- ca_renew ------------------------------------------------------------------------------------------------------


def test_a_root_is_renewed(windows: WindowsAnsible, hosts: dict[str, AdcsHost]) -> None:
    one, two = hosts["one"], hosts["two"]
    for host in (one, two):
        host.install_by_hand()
    two.switch(renewal_takes_effect="at_restart", pings_until_ready=2)
    (two.system_root / "CAPolicy.inf").write_text("[certsrv_server]\nRenewalValidityPeriod = Years\nRenewalValidityPeriodUnits = 10\n")
    moment = now()
    renew = {"issued_before": "{{ moment | default(omit) }}", "remaining_days": "{{ days | default(omit) }}", "reuse_key": "{{ reuse }}"}
    tasks = [
        step("ca_renew", "not told when", reuse_key=False, fails=True),
        step("ca_renew", "would stay due", issued_before=moment, reuse_key=True, fails=True),
        step("ca_renew", "for days", remaining_days=30, days=100, reuse_key=False, fails=True),
        step("ca_renew", "not due", remaining_days=30, reuse_key=False),
        step("ca_renew", "predicted", **renew, check=True),
        step("ca_renew", "renewed", **renew),
        step("ca_renew", "again", **renew),
    ]
    result = play(windows, tasks, hosts=inventory(hosts, one={"reuse": False, "moment": moment}, two={"reuse": True, "days": 1900}))
    for (name, host), why in zip(hosts.items(), ("issued_before", "remaining_days")):
        assert "RenewalValidityPeriod" in failure(result, "for days", name)
        assert "when a renewal is due" in failure(result, "not told when", name)
        assert "each run would renew it again" in failure(result, "would stay due", name)
        changed = [result.task(title, name)["changed"] for title in ("not due", "predicted", "renewed", "again")]
        assert changed == [False, True, True, False]
        assert result.task("predicted", name)["renewed"] and len(result.task("predicted", name)["generations"]) == 1
        done = result.task("renewed", name)
        assert done["renewed"] and not done["pending"] and codes(done["reasons"]) == [why] and done["advisories"] == []
        assert [one["fingerprints"]["sha1"].upper() for one in done["generations"]] == host.generations
        assert len(host.generations) == 2 and len(renewals(host)) == 1 and host.machine()["service"] == "Running"
        assert host.ran("Stop-Service") and not list(host.system_root.rglob("keyward-renewal.txt"))
    assert different_keys(one) == 2 and different_keys(two) == 1
    assert len({two.certificate(sha1).not_valid_before_utc for sha1 in two.generations}) == 1
    assert renewals(one) == [["-silent", "-renewCert"]] and renewals(two) == [["-silent", "-renewCert", "ReuseKeys"]]


def test_a_renewal_that_was_killed_is_finished(windows: WindowsAnsible, hosts: dict[str, AdcsHost]) -> None:
    """Killed between certutil and the restart. Whether the registry knows the new certificate then or not: it is renewed once."""
    one, two = hosts["one"], hosts["two"]
    one.switch(renew_hangs_after_work=True)
    two.switch(renewal_takes_effect="at_restart", renew_hangs_after_work=True)
    for host in (one, two):
        host.install_by_hand()
        host.cold = True
    moment = now()
    renew = {"issued_before": moment, "reuse_key": False}
    started = windows.start([step("ca_renew", "killed", **renew)], hosts=inventory(hosts))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (len(one.generations) == 2 and (two.state / "renewed.json").exists()):
        time.sleep(0.2)
    started.kill()
    for host in (one, two):
        host.kill()
        host.cold = False
        host.switch(renew_hangs_after_work=False)
    started.finish()
    assert len(one.generations) == 2 and len(two.generations) == 1
    tasks = [
        step("ca_renew", "predicted", **renew, check=True),
        step("ca_renew", "finished", **renew),
        step("ca_renew", "again", **renew),
    ]
    result = play(windows, tasks, hosts=inventory(hosts))
    for name, host in hosts.items():
        assert [result.task(title, name)["changed"] for title in ("predicted", "finished", "again")] == [True, True, False]
        done = result.task("finished", name)
        assert codes(done["reasons"]) == ["unfinished_renewal"] and done["renewed"] and len(done["generations"]) == 2
        assert len(renewals(host)) == 1 and len(host.generations) == 2 and host.machine()["service"] == "Running"


def test_an_answer_that_was_put_in_place_without_a_restart(windows: WindowsAnsible, hosts: dict[str, AdcsHost]) -> None:
    """The next run gets the same certificate again, and finishes what was begun."""
    one, two = hosts["one"], hosts["two"]
    two.switch(renewal_takes_effect="at_restart")
    parent = Parent()
    answers = {}
    for name, host in hosts.items():
        host.install_by_hand("Example Issuing CA", "StandaloneSubordinateCA")
        host.certify(parent)
        host.renew(False)
        answers[name] = parent.sign(Path(host.value("RequestFileName")).read_bytes())
        record = host.system_root / "System32" / "CertSrv" / "keyward-renewal.txt"
        record.write_text("".join(f"{sha1}\n" for sha1 in host.generations))
        host.install_certificate(answers[name])
    assert len(one.generations) == 2 and len(two.generations) == 1
    variables = {name: {"answer": content.decode()} for name, content in answers.items()}
    tasks = [step("ca_renew", title, reuse_key=False, certificate="{{ answer }}") for title in ("finished", "again")]
    result = play(windows, tasks, hosts=inventory(hosts, **variables))
    for name, host in hosts.items():
        done = result.task("finished", name)
        assert done["changed"] and done["renewed"] and codes(done["reasons"]) == ["unfinished_renewal"]
        assert len(done["generations"]) == len(host.generations) == 2
        assert host.ran("Stop-Service") and not result.task("again", name)["changed"] and not host.ran("-installCert")


def test_without_a_covered_key_nothing_is_renewed(windows: WindowsAnsible, hosts: dict[str, AdcsHost], tmp_path: Path) -> None:
    """A key that can't be backed up stops the renewal, and not the backup of the database."""
    host = hosts["one"]
    host.install_by_hand()
    host.switch(not_exportable={0: 0x8009000B})
    stores = make_stores(windows, tmp_path)
    variables = {**stores, "keyward_issued_before": now(), "keyward_reuse_key": False}
    result = playbook(windows, "renewal", {"ca": host.variables(**variables)}, rc=2)
    assert ran(result, "ca_database_backup") == [True]
    assert ran(result, "ca_renew") == [] and renewals(host) == [] and len(host.generations) == 1
    host.switch(not_exportable={})
    result = playbook(windows, "renewal", {"ca": host.variables(**variables)})
    assert ran(result, "ca_renew") == [True] and len(host.generations) == 2 and len(renewals(host)) == 1
