# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_database_restore against simulated Windows hosts: bare ones, in place, and beside what is published."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from adcs.machine import CONFIGURATION
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from support.adcs import AdcsHost, WindowsAnsible
from support.openssl_ca import OpensslCa
from support.plays import PASSWORD, backups, codes, failure, new_store, play, sets, step
from support.roles import now

POLICY = "[Version]\r\nSignature=$Windows NT$\r\n"


@pytest.fixture
def host(tmp_path: Path) -> AdcsHost:
    return AdcsHost(tmp_path / "first")


def new_databases(path: Path) -> dict[str, Any]:
    return step("ca_store", f"store {path.name}", path=str(path), kind="databases")


def issued_at_once(host: AdcsHost, path: Path) -> None:
    """A certificate of this CA that no database knows."""
    ca = host.certificate(host.generations[-1])
    start = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(hours=1)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "late.example.com")])
    builder = x509.CertificateBuilder(ca.subject, name, ec.generate_private_key(ec.SECP256R1()).public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
    signed = builder.sign(host.key(host.container(host.generations[-1]) or ""), hashes.SHA256())
    path.write_bytes(signed.public_bytes(Encoding.DER))


def test_onto_a_bare_host(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    """The configuration, the keys, the rest. Windows takes up the newest generation only; the registry of the set knows all."""
    host.switch(install_finds="newest", kra=True)
    place, logs = tmp_path / "D" / "CertDB", tmp_path / "E" / "CertLog"
    host.install_by_hand("Example Issuing CA", "EnterpriseRootCA", DatabaseDirectory=str(place), LogDirectory=str(logs))
    host.renew_by_hand()
    host.revoke(host.issue("gone.example.com"), 1)
    host.issue("www.example.com")
    host.configure(ValidityPeriodUnits=7)
    (host.system_root / "CAPolicy.inf").write_bytes(POLICY.encode())
    keys, store = tmp_path / "keys", tmp_path / "store"
    stores = {"stores": [str(store)]}
    tasks = [
        new_store(keys),
        new_databases(store),
        step("ca_key_backup", "keys", stores=[str(keys)], password=PASSWORD),
        step("ca_database_backup", "database", **stores),
    ]
    play(windows, tasks, hosts={"ca": host.variables()})
    before, rows = host.generations, host.database()["requests"]
    host.lose()
    shutil.rmtree(place)
    shutil.rmtree(logs)
    tasks = [
        step("ca_database_restore", "before its keys", **stores, fails=True),
        step("ca_database_restore", "configuration, predicted", **stores, part="configuration", check=True),
        step("ca_database_restore", "configuration", **stores, part="configuration"),
        step("ca_database_restore", "configuration again", **stores, part="configuration"),
        host.task("no role yet", "assert not host.active and (host.system_root / 'CAPolicy.inf').exists()"),
        step("ca_key_restore", "keys", stores=[str(keys)], password=PASSWORD),
        step("ca_database_restore", "predicted", **stores, check=True),
        host.task("still no role", "assert not host.active"),
        step("ca_database_restore", "restored", **stores),
        step("ca_database_restore", "again", **stores),
        step("ca_database_backup", "nothing is due", **stores, check=True),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    assert "Put the keys back first" in failure(result, "before its keys")
    titles = ("configuration, predicted", "configuration", "configuration again", "predicted", "restored", "again")
    assert [result.task(title)["changed"] for title in titles] == [True, True, False, True, True, False]
    (setup,) = [call["parameters"] for call in host.ran("Install-AdcsCertificationAuthority")]
    assert setup["CertificateID"] == before[-1] and setup["CAType"] == "EnterpriseRootCA"
    assert (setup["DatabaseDirectory"], setup["LogDirectory"]) == (str(place), str(logs))
    assert host.generations == before and len(before) == 2
    assert host.database()["requests"] == rows and host.database_file.parent == place
    assert host.value("ValidityPeriodUnits") == 7 and host.machine()["service"] == "Running"
    done = result.task("restored")
    assert {one["part"] for one in done["restored"]} == {"database", "configuration"}
    (told,) = [one["message"] for one in done["advisories"] if one["code"] == "archived_keys"]
    assert "5D0C8E1B2F6A44D39017AA30C26E51F48809BE7D" in told
    # What it logs, who manages it and where it publishes is as in the set; what stands around it is told, with what is left of it.
    assert "configuration_differs" not in codes(done["advisories"])
    left = {one["item"]: one["commands"][0] for one in done["checklist"] if one["left"]}
    assert left == {
        "templates": "certutil -setcatemplates +WebServer,+SubCA",
        "nt_auth": "certutil -f -dspublish <certificate file> NTAuthCA",
    }
    assert len(done["checklist"]) == 6 and result.task("again")["checklist"] == []


def test_in_place(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand()
    serial = host.issue("www.example.com")
    store = tmp_path / "store"
    stores = {"stores": [str(store)]}
    tasks = [
        new_databases(store),
        step("ca_database_backup", "first", **stores),
        host.task("more", "host.issue('more.example.com')"),
        step("ca_database_restore", "has it all and more", **stores),
        step("ca_database_backup", "second", **stores),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    assert result.task("has it all and more")["changed"] is False
    first, second = sets(store)
    both = host.database()["requests"]
    damaged = tmp_path / "damaged"
    shutil.copytree(second, damaged)
    with (damaged / "DataBase" / f"{host.active}.edb").open("ab") as stream:
        stream.write(b" ")
    stopped = (host.state / "log.jsonl").read_text().count("Stop-Service")
    marker = "RestoreInProgress"
    tasks = [
        host.task("the database is lost", "host.stop()", "host.database_file.unlink()", "host.start()"),
        step("ca_database_restore", "damaged", set=str(damaged), fails=True),
        host.task("nothing was touched", f"assert (host.state / 'log.jsonl').read_text().count('Stop-Service') == {stopped}"),
        step("ca_database_restore", "lost, predicted", **stores, check=True),
        step("ca_database_restore", "lost", **stores),
        host.task("it is back", f"assert host.database()['requests'] == {both!r}"),
        step("ca_database_restore", "lost, again", **stores),
        step("ca_database_restore", "older, in place of more", set=str(first), on_conflict="set_aside"),
        host.task("it is older", f"assert host.database()['requests'] == {both[:1]!r}", f"host.revoke({serial!r}, 1)"),
        step("ca_database_restore", "conflict", **stores, fails=True),
        step("ca_database_restore", "conflict set aside", **stores, on_conflict="set_aside"),
        host.task("killed", "host.stop()", f"host.registry.set({CONFIGURATION + chr(92) + marker!r}, DatabaseRestored=1)"),
        step("ca_database_backup", "while a restore is not finished", **stores, fails=True),
        step("ca_database_restore", "after the kill", **stores),
        step("ca_database_restore", "again", **stores),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    assert "digest" in failure(result, "damaged") or "size" in failure(result, "damaged")
    titles = ("lost, predicted", "lost", "lost, again", "older, in place of more", "conflict set aside", "after the kill", "again")
    assert [result.task(title)["changed"] for title in titles] == [True, True, False, True, True, True, False]
    assert codes(result.task("conflict")["reasons"]) == ["conflict"] and "the set lacks" in failure(result, "conflict")
    assert "restore was begun" in failure(result, "while a restore is not finished")
    kept = {one["path"]: Path(one["kept_as"]) for one in result.task("conflict set aside")["set_aside"]}
    aside = json.loads((kept[str(host.database_directory)] / host.database_file.name).read_bytes())
    assert [row["Disposition"] for row in aside["requests"]] == [21]
    assert host.database()["requests"] == both and host.machine()["service"] == "Running"
    assert not host.registry.key(f"{CONFIGURATION}\\{marker}")


def test_what_is_published_is_newer(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand()
    known = host.issue("www.example.com")
    store, published = tmp_path / "store", tmp_path / "published"
    stores = {"stores": [str(store)]}
    play(windows, [new_databases(store), step("ca_database_backup", "made", **stores)], hosts={"ca": host.variables()})
    now()
    host.revoke(known, 1)
    unknown = host.issue("later.example.com")
    host.revoke(unknown, 4)
    host.publish_crls()
    host.publish_crls()
    published.mkdir()
    crl = shutil.copy(host.cert_enroll / f"{host.active}.crl", tmp_path / "published.crl")
    issued_at_once(host, published / "late.cer")
    host.stop()
    host.database_file.unlink()
    options = {**stores, "published_crl": [str(crl)]}
    tasks = [
        step("ca_database_restore", "CRL", **options, fails=True),
        step("ca_database_restore", "certificates", **stores, published_certificates=str(published), fails=True),
        step("ca_database_restore", "no directory", **stores, published_certificates=str(tmp_path / "none"), fails=True),
        step("ca_database_restore", "numbers", **options, advance={"serial": "FF"}, fails=True),
        host.task("nothing was restored", "assert not host.database_file.exists()"),
        step("ca_database_restore", "advanced, predicted", **options, advance="auto", check=True),
        step("ca_database_restore", "advanced", **options, advance="auto"),
        step("ca_database_restore", "again", **options, advance="auto"),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    assert codes(result.task("CRL")["reasons"]) == ["published_crl_newer"]
    assert codes(result.task("certificates")["reasons"]) == ["published_certificates_newer"]
    assert "does not exist" in failure(result, "no directory")
    assert "advance can't set them on Windows" in failure(result, "numbers")
    assert [result.task(title)["changed"] for title in ("advanced, predicted", "advanced", "again")] == [True, True, False]
    done = result.task("advanced")
    assert [(int(one["serial"], 16), one["reason"]) for one in done["reentered"]] == [(int(known, 16), "keyCompromise")]
    assert {"crl_number_behind", "published_crl_newer", "revocation_not_reentered"} <= set(codes(done["advisories"]))
    assert done["next_serial"] is None and done["next_crl_number"] == "02" and done["advanced"] is None
    (row,) = host.database()["requests"]
    assert (row["Disposition"], row["RevokedReason"]) == (21, 1)


def test_onto_another_computer(windows: WindowsAnsible, host: AdcsHost, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """What belongs to the host stays the new one's; and what is of another authority or another system is refused."""
    host.install_by_hand()
    host.issue("www.example.com")
    host.configure(CRLPublicationURLs=["65:C:/CertEnroll/%3%8%9.crl", "6:http://ca01.example.com/%3%8%9.crl"])
    keys, store = tmp_path / "keys", tmp_path / "store"
    made = [
        new_store(keys),
        new_databases(store),
        step("ca_key_backup", "keys", stores=[str(keys)], password=PASSWORD),
        step("ca_database_backup", "database", stores=[str(store)]),
    ]
    play(windows, made, hosts={"old": host.variables()})
    (one,) = sets(store)
    openssl_store, config = tmp_path / "openssl", str(openssl_ca.config_file)
    made = [
        new_databases(openssl_store),
        step("ca_database_backup", "database", config_file=config, stores=[str(openssl_store)]),
        step("ca_database_restore", "a Windows set", set=str(one), fails=True),
    ]
    result = play(windows, made, hosts={"posix": windows.local()})
    assert "backend is adcs, and this is no Windows host" in failure(result, "a Windows set")
    (of_openssl,) = sets(openssl_store)

    rows, before = host.database()["requests"], host.generations
    directories = {name: host.registry.get(CONFIGURATION, name) for name in ("DBDirectory", "ConfigurationDirectory")}
    shutil.rmtree(host.state)
    new, other = AdcsHost(tmp_path / "second", "CA02"), AdcsHost(tmp_path / "third", "CA03")
    other.install_by_hand("Another Root CA")
    refused = [
        step("ca_database_restore", "of another", set=str(one), fails=True),
        step("ca_database_restore", "of openssl", set=str(of_openssl), fails=True),
    ]
    result = play(windows, refused, hosts={"other": other.variables()})
    assert codes(result.task("of another")["reasons"]) == ["foreign_authority"]
    assert "ran on openssl, and the software on this host can't read it" in failure(result, "of openssl")
    assert not other.ran("Stop-Service")

    tasks = [
        step("ca_key_restore", "keys", backup=str(backups(keys)[0]), password=PASSWORD),
        step("ca_database_restore", "restored", set=str(one)),
        step("ca_database_restore", "again", set=str(one)),
    ]
    result = play(windows, tasks, hosts={"new": new.variables()})
    assert [result.task(title)["changed"] for title in ("restored", "again")] == [True, False]
    assert new.generations == before and new.database()["requests"] == rows
    assert new.value("CAServerName") == "CA02" and new.value("CRLPublicationURLs")[1] == "6:http://ca01.example.com/%3%8%9.crl"
    assert new.registry.get(CONFIGURATION, "ConfigurationDirectory") != directories["ConfigurationDirectory"]
    named = [one["message"] for one in result.task("restored")["advisories"] if one["code"] == "names_old_host"]
    assert len(named) == 1 and "CRLPublicationURLs" in named[0]
