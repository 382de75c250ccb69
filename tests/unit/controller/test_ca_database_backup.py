# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ca_database_backup decides, on what a host tells, and where a set goes."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import State
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.authorities import authority, generation, set_manifest
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa
from support.signers import ALLOWED, sign, verify

DAMAGED_NAME = "000009-20260101T000000.000000Z"


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "databases")


def new_store(path: Path) -> Path:
    initialise(str(path), "databases")
    return path


class Host(FakeHost):
    def __init__(self, ca: OpensslCa, name: str = "ca1") -> None:
        super().__init__(name)
        self.which = {"config_file": str(ca.config_file)}

    def back_up(self, *, check: bool = False, **options: Any) -> dict[str, Any]:
        return self.run(CaDatabaseBackup, {**self.which, **options}, check=check)


def sets(store: Path) -> list[Path]:
    return sorted(store.glob("*/*/0*Z"))


def codes(findings: list[dict[str, Any]]) -> list[str]:
    return [finding["code"] for finding in findings]


@pytest.mark.parametrize("where", ["stores", "host_store"])
def test_one_flow_wherever_the_store_is(ca: OpensslCa, store: Path, where: str, home: Path) -> None:
    host, place = Host(ca), {where: [str(store)] if where == "stores" else str(store)}
    predicted = host.back_up(check=True, **place)
    assert predicted["changed"] and predicted["set"] is None and sets(store) == []
    left = [store / f".{'0' * 16}.{kind}" for kind in ("new", "removed")]
    for path in left:
        path.mkdir()
        os.utime(path, (0, 0))
    first = host.back_up(**place)
    assert not any(path.exists() for path in left), "what killed runs left takes room"
    (path,) = sets(store)
    assert (first["changed"], codes(first["reasons"]), first["set"]["paths"]) == (True, ["no_set"], [str(path)])
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["authority"]["id"] == first["authority"]["id"] and manifest["authority"]["host"] == "ca1"
    assert manifest["members"]["count"] == first["set"]["members"] > 5 and manifest["files"] == first["set"]["files"]
    assert manifest["state"]["next_serial"] == first["database"]["next_serial"] and manifest["left_out"] == first["left_out"] != []
    again = host.back_up(**place)
    assert not again["changed"] and again["set"] == first["set"] and again["authority"] == first["authority"]
    ca.issue("second.example.com")
    second = host.back_up(keep_full_sets=1, keep_days=0, full_after={"sets": 0}, **place)
    assert codes(second["reasons"]) == ["database_changed"] and second["removed"] == [str(path)]
    (kept,) = sets(store)
    newer = json.loads((kept / "manifest.json").read_text())
    assert (newer["sequence"], newer["previous"], newer["database"]) == (2, digest, manifest["database"])
    assert len(list(store.glob("*/events/*.json"))) == 2
    looked = ["database.state"] if where == "stores" else ["database.state", "host_store.read"]
    made = ["database.copy"] if where == "stores" else ["database.copy", "host_store.commit"]
    assert host.orders() == [*looked, *looked, *made, *looked, *looked, *made]
    assert len(verify(store, home / ALLOWED)) == 3
    (line,) = (store / "allowed_signers").read_text().splitlines()
    assert line in (home / ALLOWED).read_text(), "each store keeps the public half of its signer"


def test_another_store_of_the_host_is_seen(ca: OpensslCa, store: Path) -> None:
    """At the path of the one that was there before; the same path on another host is another store."""
    host = Host(ca)
    assert host.back_up(host_store=str(store))["changed"]
    kept = store.rename(store.with_name("kept"))
    new_store(store)
    for answer in (host.back_up(host_store=str(store)), host.run(CaDatabaseRestore, {**host.which, "host_store": str(store)})):
        assert f"the store {store} on ca1 is not used" in answer["msg"] and "it is another one than before" in answer["msg"]
    assert sets(store) == []
    other = OpensslCa(ca.directory.with_name("other"), name="Another CA", algorithm="ed25519")
    assert Host(other, "ca2").back_up(host_store=str(store))["changed"]
    shutil.rmtree(store)
    kept.rename(store)
    assert not host.back_up(host_store=str(store))["changed"]


def test_a_store_of_the_host_is_no_second_copy(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    """A task takes it or stores on the controller, and says each night where it lies on a disk of the host itself."""
    second = new_store(tmp_path / "second")
    assert "exactly one of stores, host_store" in Host(ca).back_up(host_store=str(store), stores=[str(second)])["msg"]
    host = Host(ca)
    host.forge = lambda order, answer: {**answer, "local_disk": True} if order == "host_store.read" else answer
    for _night in range(2):
        assert "store_on_the_host" in codes(host.back_up(host_store=str(store))["advisories"])


def test_a_set_of_a_ca_that_was_renewed_meanwhile_is_not_stored(ca: OpensslCa, store: Path) -> None:
    """Its manifest would not name the newest generation."""
    host = Host(ca)

    def renewed(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        if order == "database.state":
            ca.renew_in_place()
        return answer

    host.forge = renewed
    assert "was renewed meanwhile" in host.back_up(stores=[str(store)])["msg"]
    assert "was renewed meanwhile" in host.back_up(host_store=str(store))["msg"]
    assert sets(store) == [] and [path.name for path in store.iterdir()] == ["keyward-store.json"]


@pytest.mark.parametrize("where", ["stores", "host_store"])
def test_a_set_that_another_run_stored_meanwhile_is_followed_by_none(ca: OpensslCa, store: Path, where: str) -> None:
    """Nor does the database get a second id."""
    host, other, place = Host(ca), Host(ca), {where: [str(store)] if where == "stores" else str(store)}

    def meanwhile(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        if order == ("database.copy" if where == "stores" else "host_store.read"):
            assert other.back_up(**place)["changed"]
        return answer

    host.forge = meanwhile
    for number in (1, 2):
        ca.issue(f"n{number}.example.com")
        assert "another run has stored a set" in host.back_up(**place)["msg"]
        assert len(sets(store)) == number and len({path.parent for path in sets(store)}) == 1
    assert [path.name for path in store.iterdir() if path.name.startswith(".")] == []


def test_two_controllers_that_name_the_stores_in_another_order(
    ca: OpensslCa, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has stored its set in its first store only when the other comes to its own first one: no fork."""
    one, other, both = Host(ca), Host(ca), [str(store), str(new_store(tmp_path / "second"))]
    assert one.back_up(stores=both)["changed"]
    ca.issue("www")

    def killed(*_arguments: Any) -> str:
        raise KeywardError("killed", "between two stores", "it goes on")

    def meanwhile(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        if order == "database.copy":
            with monkeypatch.context() as patch:
                patch.setattr(Store, "copy", killed)
                assert other.back_up(stores=both)["failed"]
        return answer

    one.forge = meanwhile
    assert "another run has stored a set" in one.back_up(stores=both[::-1])["msg"]
    one.forge = None
    assert one.back_up(stores=both[::-1])["changed"] and not one.back_up(stores=both)["changed"]
    assert len({path.name for path in sets(store)}) == 2 and [path.name for path in sets(store)] == [
        path.name for path in sets(tmp_path / "second")
    ]


def test_damaged_sets_in_a_store_of_the_host_are_told(ca: OpensslCa, store: Path) -> None:
    shutil.rmtree(ca.directory / "requests")  # its .key files are left out, and that is said
    host = Host(ca)
    host.back_up(host_store=str(store))
    (first,) = sets(store)
    shutil.copytree(first, first.parent / DAMAGED_NAME)
    (first.parent / DAMAGED_NAME / "manifest.json").write_text("{")
    result = host.back_up(host_store=str(store))
    assert not result["changed"] and codes(result["advisories"]) == ["malformed"] and DAMAGED_NAME in result["advisories"][0]["message"]
    with (first / "core.tar.gz").open("ab") as stream:
        stream.write(b"x")
    result = host.back_up(host_store=str(store))
    assert codes(result["reasons"]) == ["no_set"] and "digest_mismatch" in codes(result["advisories"])
    assert [path.name[:6] for path in sets(store)] == ["000001", "000009", "000010"]
    for each in sets(store):
        (each / "manifest.json").write_text("{")
    identity = result["authority"]["id"]
    result = host.back_up(host_store=str(store))
    assert "they hold less than before: the highest has the number 0, and 10 was there" in result["msg"]
    result = host.back_up(host_store=str(store), accept=[identity])
    assert codes(result["reasons"]) == ["no_set"] and codes(result["advisories"]) == ["malformed"] * 3, "what is there is said"
    assert {path.parent.parent for path in sets(store)} == {first.parent.parent} and len({path.parent for path in sets(store)}) == 2


def test_sets_of_others_are_not_told(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    other = OpensslCa(tmp_path / "other", name="Another CA", algorithm="ed25519")
    Host(other, "elsewhere").back_up(host_store=str(store))
    host = Host(ca)
    told = []
    host.forge = lambda order, answer: told.append(answer) or answer  # type: ignore[func-returns-value]
    assert host.back_up(host_store=str(store))["changed"]
    assert [answer["sets"] for answer in told if "sets" in answer] == [[]]
    assert len({path.parent for path in sets(store)}) == 2


@pytest.mark.parametrize(
    ("order", "change"),
    [
        ("database.copy", {"files": [{"name": "../x", "sha256": "0", "size": 1}]}),
        ("database.copy", {"files": []}),
        ("database.copy", {"as_of": "yesterday"}),
        ("database.copy", {"state": None}),
        ("database.copy", {"members": 7}),
        ("database.state", {"state": {"database": 7}}),
        ("database.state", {"state": None}),
    ],
)
def test_a_host_that_answers_otherwise_stores_nothing(ca: OpensslCa, store: Path, order: str, change: dict[str, Any]) -> None:
    host = Host(ca)
    host.forge = lambda sent, answer: {**answer, **change} if sent == order else answer
    assert "Look into that host" in host.back_up(stores=[str(store)])["msg"]
    assert [path.name for path in store.iterdir()] == ["keyward-store.json"]


@pytest.mark.parametrize("directory", ["..", ".hidden", ""])
def test_a_controller_names_nothing_but_sets_in_a_store_of_the_host(
    ca: OpensslCa, store: Path, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible_collections.keyward.pki.plugins.action.ca_database_backup.directory_name", lambda _authority: directory)
    assert "named no set" in Host(ca).back_up(host_store=str(store))["msg"]
    assert [path.name for path in store.iterdir()] == ["keyward-store.json"]


# --- what only the judgement of one software reads -------------------------------------------------------------------

TOLD: dict[str, Any] = {
    "changed": False,
    "authority": {
        "backend": "adcs",
        "name": "Example CA",
        "sanitized_name": "Example CA",
        "subject": None,
        "directory": "C:\\CertLog",
        "place": {"name": "Example CA"},
    },
    "generations": [generation("first").as_json()],
    "database": {"path": "C:\\CertLog", "exists": True, "entries": None, "serial": None, "crl_number": None},
    "abilities": {"keys_in_hand": False, "sets_are_archives": False},
    "own": {
        "ca_type": None,
        "provider": "x",
        "provider_type": 0,
        "computer": "CA01",
        "archived_keys": "absent",
        "kra_certificates": [],
        "log_directory": "",
        "clock_skew_minutes": 10,
    },
    "own_state": {"last_request_id": 1, "revocations": [], "unissued": [], "next_crl_number": 1, "configuration_sha256": "x"},
    "id": "0" * 32,
    "sets": [],
}


def backed_up(answer: dict[str, Any]) -> dict[str, Any]:
    host = FakeHost("ca01", windows=True)
    host.answer = lambda _order, _document: answer
    return host.run(CaDatabaseBackup, {"host_store": "D:\\store"}, check=True)


def changed(answer: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of an answer with another value at a path; C(...) takes it away."""
    made = place = copy.deepcopy(answer)
    *above, last = path.split(".")
    for name in above:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


def test_a_sound_answer() -> None:
    result = backed_up(TOLD)
    assert result["due"] and result["database"] == {"entries": 1, "next_serial": None, "next_crl_number": "01"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("generations", ...),
        ("generations", [7]),
        ("generations.0.certificate", "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n"),
        ("generations.0.index", 1e999),
        ("generations.0.key_place", {"evil": True}),
        ("authority", None),
        ("advisories", [{"code": "x"}]),
        ("own_state", ...),
        ("own_state.revocations", [1, "2"]),
        ("own_state.next_crl_number", "1"),
        ("sets", [{"manifest": "{}"}]),
        ("sets", 5),
    ],
)
def test_an_answer_of_another_shape(path: str, value: Any) -> None:
    result = backed_up(changed(TOLD, path, value))
    assert result["failed"] and "the host ca01 answered in a way that no release of the collection does" in result["msg"]
    assert "evil" not in result["msg"] and result["msg"].endswith(".")


OWN = {**TOLD["own"], "last_request_id": 7, "revocations": [], "unissued": [], "next_crl_number": 1}


def test_a_database_that_vanished_is_not_stored_as_the_newest_set(home: Path) -> None:
    manifest = set_manifest(
        authority=authority(backend="adcs", host="ca01", place={"name": "Example CA"}, id=generation("first").sha256),
        state=State("d", "c", 7, None, None),
        own=OWN,
    )
    name = "000001-20260101T000000.000000Z"
    held = {"directory": f"ca-{generation('first').sha256[:16]}", "database": f"ca-{manifest.database[:16]}", "name": name}
    held["path"] = f"D:\\store\\{name}"
    (home / "manifest.json").write_text(json.dumps(manifest.as_json()))
    sign(home / "manifest.json", home)
    held.update(manifest=(home / "manifest.json").read_text(), signature=(home / "manifest.json.sig").read_text())
    answer = changed(TOLD, "sets", [held])
    assert codes(backed_up(answer)["reasons"]) == ["database_changed", "configuration_changed"]
    emptied = backed_up(changed(answer, "own_state.last_request_id", 0))
    assert emptied["failed"] and "missing or empty" in emptied["msg"]
