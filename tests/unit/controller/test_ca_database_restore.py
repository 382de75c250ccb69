# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ca_database_restore decides, on what a host tells, and which set comes from where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa, openssl
from support.sets import exact, lose_all_but_keys
from support.signers import rewrite

LOST = ("index.txt", "newcerts", "cacert.pem", "openssl.cnf")


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "databases"), "databases")
    return tmp_path / "databases"


class Host(FakeHost):
    def __init__(self, ca: OpensslCa | None = None, name: str = "ca1") -> None:
        super().__init__(name)
        self.which = {"config_file": str(ca.config_file)} if ca else {}

    def back_up(self, store: Path) -> Path:
        """The set that is stored."""
        result = self.run(CaDatabaseBackup, {**self.which, "stores": [str(store)]})
        self.sent.clear()
        return Path(result["set"]["paths"][0])

    def restore(self, *, check: bool = False, **options: Any) -> dict[str, Any]:
        return self.run(CaDatabaseRestore, {**self.which, **options}, check=check)


def codes(findings: list[dict[str, Any]]) -> list[str]:
    return [finding["code"] for finding in findings]


def events(store: Path) -> list[str]:
    return sorted(path.name.split("-")[2] for path in store.glob("*/events/*.json"))


@pytest.mark.parametrize("where", ["stores", "host_store", "set"])
def test_one_flow_wherever_the_set_is(ca: OpensslCa, store: Path, where: str) -> None:
    host, path = Host(ca), Host(ca).back_up(store)
    place: Any = {"stores": [str(store)], "host_store": str(store), "set": str(path)}[where]
    before = {name: (ca.directory / name).read_bytes() for name in ("index.txt", "serial", "cacert.pem", "openssl.cnf")}
    lose_all_but_keys(ca)
    assert host.restore(check=True, **{where: place})["changed"] and not (ca.directory / "index.txt").exists()
    result = host.restore(**{where: place})
    assert result["changed"] and result["set"]["paths"] == [str(path)] and result["authority"]["host"] == "ca1"
    assert before.pop("serial") == b"1001\n" and (ca.directory / "serial").read_text() == "011001\n", "beyond what was given since"
    assert codes(result["advisories"]) == ["numbers_advanced", "published_not_compared"]
    assert {name: (ca.directory / name).read_bytes() for name in before} == before
    whole = exact(ca.directory)
    assert not host.restore(**{where: place})["changed"] and exact(ca.directory) == whole
    assert events(store) == ["restore", "set"]
    orders = ["look", "host_store.read", "database.restore"] if where == "host_store" else ["look", "database.restore"]
    assert host.orders() == orders * 3


def test_a_crl_that_runs_out_is_said_before_all_else(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    """In a few hours nobody accepts what the CA issued: the database can wait."""

    def signed(days: str, name: str) -> Path:
        openssl("ca", "-config", ca.config_file, "-gencrl", "-crldays", days, "-out", ca.directory / name, cwd=ca.directory)
        return ca.directory / name

    signed("1", "crl.pem")
    host, path = Host(ca), Host(ca).back_up(store)
    lose_all_but_keys(ca)
    for options in ({"part": "configuration"}, {}):
        first = host.restore(set=str(path), check=True, **options)["advisories"][0]
        assert first["code"] == "crl_expires_soon" and first["level"] == "warning" and "ca_crl with published_crl" in first["message"]
    host.restore(set=str(path))
    fresh = signed("30", "fresh.pem")
    assert "crl_expires_soon" not in codes(host.restore(set=str(path), published_crl=[str(fresh)], advance="auto")["advisories"])
    assert "crl_expires_soon" in codes(host.restore(set=str(path), published_crl=[str(signed("1", "x.pem"))], advance="auto")["advisories"])
    fresh.rename(ca.directory / "crl.pem")
    assert "crl_expires_soon" not in codes(host.restore(set=str(path))["advisories"]), "the host's own is the newest that is known"


def test_the_code_that_a_configuration_loads_stands_in_the_diff(ca: OpensslCa, store: Path) -> None:
    """It runs as whoever signs. So a person sees it before the set takes the place of what is lost."""
    with ca.config_file.open("a") as more:
        more.write("[more]\nmodule = /srv/other.so\n")
    host, _path = Host(ca), Host(ca).back_up(store)
    ca.config_file.unlink()
    options = {**host.which, "stores": [str(store)]}
    for check in (True, False):
        result = host.run(CaDatabaseRestore, options, check=check, diff=True)
        assert "configuration_loads_code" in codes(result["advisories"])
        assert f"{ca.config_file}, as the set has it: module = /srv/other.so\n" in result["diff"]["after"]
    assert "module" not in host.run(CaDatabaseRestore, options, diff=True)["diff"]["after"], "nothing is brought any more"


def test_a_set_says_which_ca_where_the_task_does_not(ca: OpensslCa, store: Path) -> None:
    path = Host(ca).back_up(store)
    lose_all_but_keys(ca)
    assert Host().restore(set=str(path.parent))["changed"]
    assert ca.config_file.exists()


def test_the_set_of_another_authority_is_refused(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    path = Host(ca).back_up(store)
    other = OpensslCa(tmp_path / "other", name="Another CA", algorithm="ed25519")
    whole, host = exact(other.directory), Host(other)
    result = host.restore(set=str(path))
    assert codes(result["reasons"]) == ["foreign_authority"] and exact(other.directory) == whole
    assert host.orders() == ["look"], "no file travels"
    assert "no intact set of this database" in host.restore(stores=[str(store)])["msg"]
    assert "no intact set of this database" in host.restore(host_store=str(store))["msg"]


@pytest.mark.parametrize("where", ["stores", "host_store"])
def test_a_ca_that_was_renewed_meanwhile_is_not_touched(ca: OpensslCa, store: Path, where: str) -> None:
    host = Host(ca)
    host.back_up(store)
    (ca.directory / "index.txt").unlink()

    def renewed(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        if order == "look":
            ca.renew_in_place()
        return answer

    host.forge = renewed
    assert "was renewed meanwhile" in host.restore(**{where: [str(store)] if where == "stores" else str(store)})["msg"]
    assert not (ca.directory / "index.txt").exists()


def test_a_ca_that_came_meanwhile_is_not_touched(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    host = Host(ca)
    host.back_up(store)
    shutil.move(ca.directory, tmp_path / "away")

    def arrived(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        if order == "look":
            shutil.copytree(tmp_path / "away", ca.directory)
            (ca.directory / "index.txt").unlink()
        return answer

    host.forge = arrived
    assert "was renewed meanwhile" in host.restore(stores=[str(store)])["msg"]
    assert not (ca.directory / "index.txt").exists()


def test_damaged_sets_bring_nothing_back(ca: OpensslCa, store: Path) -> None:
    host = Host(ca)
    path = host.back_up(store)
    with (path / "core.tar.gz").open("ab") as stream:
        stream.write(b"x")
    assert "does not have the digest" in host.restore(set=str(path))["msg"] and host.orders() == [], "it does not travel"
    for option in ({"stores": [str(store)]}, {"host_store": str(store)}, {"set": str(path.parent)}):
        assert "no intact set" in host.restore(**option)["msg"], option


def test_what_is_published(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    host = Host(ca)
    host.back_up(store)
    issued = tmp_path / "issued"
    issued.mkdir()
    ca.issue("later.example.com")
    shutil.copy(ca.directory / "newcerts" / "1001.pem", issued)
    shutil.copy(ca.certificate, issued)
    (issued / "note.txt").write_text("no certificate")
    certificate = ca.directory / "newcerts" / "1000.pem"
    openssl("ca", "-config", ca.config_file, "-revoke", certificate, "-crl_reason", "CACompromise", cwd=ca.directory)
    crl = ca.sign_crl()
    shutil.move(crl, tmp_path / "published.pem")
    lose_all_but_keys(ca)
    there = {"stores": [str(store)], "published_crl": [str(tmp_path / "published.pem")]}
    assert codes(host.restore(**there)["reasons"]) == ["published_crl_newer"]
    assert codes(host.restore(stores=[str(store)], published_certificates=str(issued))["reasons"]) == ["published_certificates_newer"]
    result = host.restore(**there, published_certificates=str(issued), advance="auto")
    assert (result["next_serial"], result["advanced"]) == ("011002", {"serial": "011002", "crl_number": result["next_crl_number"]})
    (entered,) = result["reentered"]
    assert (entered["serial"], entered["reason"]) == ("1000", "CACompromise") and entered["revoked_at"].endswith("Z")
    assert "/CN=later.example.com" in (ca.directory / "index.txt").read_text()
    assert "1000" in openssl("crl", "-in", ca.sign_crl(), "-noout", "-text").stdout


def test_all_crls_of_a_published_file_are_compared(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    """Web servers want those of all generations in one file."""
    host = Host(ca)
    ca.renew_keeping()
    host.back_up(store)
    older, revoked = ca.directory / "cacert.0.pem", ca.directory / "newcerts" / "1000.pem"
    pair = {"certificate": older, "private_key": ca.directory / "private" / "cakey.0.pem"}
    first = ca.sign_crl().read_bytes()
    openssl("ca", "-config", ca.config_file, "-revoke", revoked, cwd=ca.directory)
    second = ca.sign_crl(**pair).read_bytes()
    (ca.directory / "crl.pem").unlink()
    lose_all_but_keys(ca)
    (tmp_path / "all.pem").write_bytes(first + second)
    result = host.restore(stores=[str(store)], published_crl=[str(tmp_path / "all.pem")], advance="auto")
    assert [one["serial"] for one in result["reentered"]] == ["1000"], result.get("msg")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"published_crl": ["nowhere.pem"]}, "it does not exist"),
        ({"published_crl": ["note"]}, "it is no CRL"),
        ({"published_crl": ["other.pem"]}, "no generation of this CA signed it"),
        ({"published_crl": ["both.pem"]}, "or one in it: that is of CN=Another CA"),
        ({"published_certificates": "nowhere"}, "does not exist"),
        ({"advance": "on"}, "neither auto nor a dictionary"),
        ({"advance": {"serial": "xyz"}}, "no hexadecimal number"),
        ({"advance": {"crl": "1"}}, "neither auto nor a dictionary"),
    ],
)
def test_what_can_t_be_compared_or_taken(ca: OpensslCa, store: Path, tmp_path: Path, options: dict[str, Any], why: str) -> None:
    host = Host(ca)
    host.back_up(store)
    (tmp_path / "note").write_text("something")
    shutil.copy(OpensslCa(tmp_path / "another", name="Another CA", algorithm="ed25519").sign_crl(), tmp_path / "other.pem")
    (tmp_path / "both.pem").write_bytes(ca.sign_crl().read_bytes() + (tmp_path / "other.pem").read_bytes())
    for option, value in options.items():
        if option == "published_crl":
            options = {option: [str(tmp_path / each) for each in value]}
        elif option == "published_certificates":
            options = {option: str(tmp_path / value)}
    assert why in host.restore(stores=[str(store)], **options)["msg"]


@pytest.mark.parametrize(
    "change", [{"restored": 7}, {"advanced": {"serial": 7}}, {"reentered": [{"at": "x"}]}, {"changed": "yes"}, {"advisories": ["x"]}]
)
def test_a_host_that_answers_otherwise(ca: OpensslCa, store: Path, change: dict[str, Any]) -> None:
    host = Host(ca)
    host.back_up(store)
    host.forge = lambda order, answer: {**answer, **change} if order == "database.restore" else answer
    assert "Look into that host" in host.restore(stores=[str(store)])["msg"]


# --- software that writes its sets itself ----------------------------------------------------------------------------

ABILITIES = {"keys_in_hand": False, "sets_are_archives": False, "takes_numbers": False}


def test_archives_and_plain_files_are_for_different_software(ca: OpensslCa, store: Path, home: Path) -> None:
    path = Host(ca).back_up(store)
    host = Host(ca)
    host.forge = lambda _order, answer: {**answer, "abilities": ABILITIES}
    assert "ran on openssl, and the software on this host can't read it" in host.restore(set=str(path))["msg"]
    manifest = json.loads((path / "manifest.json").read_text())
    rewrite(path / "manifest.json", home, files=[{**manifest["files"][0], "name": "database.json"}])
    shutil.copy(path / "core.tar.gz", path / "database.json")
    assert "can't read it" in Host(ca).restore(set=str(path))["msg"]
    host.forge = lambda _order, answer: {**answer, "abilities": ABILITIES}
    assert "two can't be brought together" in host.restore(set=str(path), on_conflict="merge")["msg"]


def test_a_database_that_went_on_twice_is_brought_together(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    """A snapshot was brought back after the set was stored, and the CA went on."""
    host = Host(ca)
    shutil.copytree(ca.directory, tmp_path / "snapshot")
    ca.issue("in-the-set")
    host.back_up(store)
    shutil.rmtree(ca.directory)
    shutil.copytree(tmp_path / "snapshot", ca.directory)
    ca.issue("on-the-host")
    refused = host.restore(stores=[str(store)])
    assert refused["failed"] and codes(refused["reasons"]) == ["conflict"] and "on_conflict: merge" in refused["msg"]
    result = host.restore(stores=[str(store)], on_conflict="merge")
    assert not result.get("failed") and result["changed"] and result["next_serial"] == "011002"
    assert "serial_used_twice" in codes(result["advisories"])
    assert not host.restore(stores=[str(store)], on_conflict="merge")["changed"]
