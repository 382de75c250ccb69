# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is stored of a host and sent to it: at home, elsewhere, and where a person names the authority."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup_info import ActionModule as CaKeyBackupInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa

PASSWORD = "correct horse battery staple 1"


class Fleet:
    """Two CAs, each backed up from its host: a on ca1, b on ca2; their stores."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores = [directory / "keys", directory / "keys2"]
        for store in self.stores:
            initialise(str(store), "keys")
        self.a = OpensslCa(directory / "a", name="Example A", algorithm="ed25519")
        self.b = OpensslCa(directory / "b", name="Example B", algorithm="ed25519")
        self.ids = {name: self.does(CaKeyBackup, host, ca)["authority"]["id"] for name, host, ca in self.originals()}

    def originals(self) -> list[tuple[str, str, OpensslCa]]:
        return [("a", "ca1", self.a), ("b", "ca2", self.b)]

    def does(self, task: Any, host: str | FakeHost, ca: OpensslCa, *, check: bool = False, **options: Any) -> dict[str, Any]:
        one = FakeHost(host) if isinstance(host, str) else host
        given = {"config_file": str(ca.config_file), "stores": [str(store) for store in self.stores], "password": PASSWORD}
        return one.run(task, {name: value for name, value in {**given, **options}.items() if value is not None}, check=check)

    def night(self) -> list[bool | None]:
        """Whether each original's nightly backup changed something."""
        return [self.does(CaKeyBackup, host, ca).get("changed") for _name, host, ca in self.originals()]

    def clone(self, ca: OpensslCa, name: str = "clone") -> OpensslCa:
        """The same CA in another place, in which its configuration says where it is."""
        copy = OpensslCa(self.directory / name, name=ca.name, algorithm="ed25519")
        for path in (*ca.directory.glob("cacert*.pem"), *ca.directory.glob("private/*.pem")):
            shutil.copy(path, copy.directory / path.relative_to(ca.directory))
        return copy

    @property
    def stored(self) -> list[str]:
        """Backups and what persons said, in all stores."""
        found = [path for store in self.stores for path in store.rglob("*") if path.name == "manifest.json" or path.match("events/*.json")]
        return sorted(str(path.relative_to(self.directory)) for path in found)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def codes(result: dict[str, Any], kind: str = "reasons") -> list[str]:
    return [one["code"] for one in result[kind]]


def showing(host: str, *cas: OpensslCa) -> FakeHost:
    """A host that answers with the certificates of these CAs, as if their keys were lost; it keeps what it was sent."""
    fake = FakeHost(host)

    def forged(_order: str, answer: dict[str, Any]) -> dict[str, Any]:
        shown = [{**answer["generations"][0], "certificate": ca.certificate.read_text(), "index": n} for n, ca in enumerate(cas)]
        for one in shown:
            one.update(private_key="missing", key_place=None)
        return {**answer, "generations": shown, "files": []}

    fake.forge = forged
    return fake


def sent(host: FakeHost) -> str:
    return json.dumps([document for _order, document, _check in host.sent if document.get("files") or document.get("keys")])


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_of_a_clone_nothing_is_stored_night_after_night_and_its_original_is_served(fleet: Fleet) -> None:
    clone, before = fleet.clone(fleet.a), fleet.stored
    for renew in (lambda: None, clone.renew_keeping, lambda: clone.renew_in_place(new_key=False)):
        renew()
        for _night in range(2):
            refused = fleet.does(CaKeyBackup, "ca9", clone)
            assert codes(refused) == ["not_at_home"] and "nothing was backed up" in refused["msg"]
            assert f"keyward_authority_id={fleet.ids['a'][:16]} -e keyward_move=true" in refused["msg"]
            told = fleet.does(CaKeyBackupInfo, "ca9", clone)
            assert told["due"] and codes(told)[0] == "not_at_home" and [home["host"] for home in told["homes"]] == ["ca1"]
            assert fleet.night() == [False, False] and fleet.stored == before
    assert "not_at_home" in codes(fleet.does(CaKeyVerify, "ca9", clone), "advisories")


def test_in_another_place_of_its_host_a_ca_is_elsewhere(fleet: Fleet) -> None:
    assert codes(fleet.does(CaKeyBackup, "ca1", fleet.clone(fleet.a))) == ["not_at_home"]


@pytest.mark.parametrize("shown", ["b", "ba", "ab"])
def test_a_host_that_shows_the_certificates_of_another_ca_gets_and_stores_nothing(fleet: Fleet, shown: str) -> None:
    before = fleet.stored
    cas = [fleet.a if name == "a" else fleet.b for name in shown]
    for task in (CaKeyRestore, CaKeyBackup):
        host = showing("ca1", *cas)
        refused = fleet.does(task, host, fleet.a)
        assert refused["failed"] and codes(refused) == ["not_at_home"] and sent(host) == "[]"
    assert fleet.stored == before and fleet.night() == [False, False]


def test_a_name_makes_nobody_another_ca(fleet: Fleet, tmp_path: Path) -> None:
    """Its own key under the name of another: an authority of its own, which is said."""
    rogue = OpensslCa(tmp_path / "rogue", name="Example B", algorithm="ed25519")
    stored = fleet.does(CaKeyBackup, "ca1", rogue)
    assert stored["authority"]["id"] not in fleet.ids.values() and "same_name_other_keys" in codes(stored, "advisories")
    shutil.rmtree(fleet.b.directory)
    back = fleet.does(CaKeyRestore, "ca2", fleet.b)
    assert back["authority"]["id"] == fleet.ids["b"] and back["changed"]


def test_a_host_that_is_used_again_for_another_ca(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "a").rename(tmp_path / "away")
    second = OpensslCa(tmp_path / "a", name="Example C", algorithm="ed25519")
    for first in (True, False):
        stored = fleet.does(CaKeyBackup, "ca1", second)
        assert stored["changed"] is first and stored["authority"]["id"] not in fleet.ids.values()
        assert "another_ca_at_home" in codes(stored, "advisories") or not first
    shutil.rmtree(second.directory)
    refused = fleet.does(CaKeyRestore, "ca1", second)
    assert refused["failed"] and "it can't be told which authority of ca1 is meant" in refused["msg"]
    back = fleet.does(CaKeyRestore, "ca1", second, authority_id=stored["authority"]["id"])
    assert back["changed"] and back["authority"]["id"] == stored["authority"]["id"]


# --- a home where nothing is left ------------------------------------------------------------------------------------


def test_root_and_subordinate_on_one_host_one_of_them_lost(fleet: Fleet, tmp_path: Path) -> None:
    sub = OpensslCa(tmp_path / "sub", name="Example Sub", algorithm="ed25519")
    own = fleet.does(CaKeyBackup, "ca1", sub)["authority"]["id"]
    for ca, identity in ((sub, own), (fleet.a, fleet.ids["a"])):
        kept = ca.private_key.read_bytes()
        shutil.rmtree(ca.directory)
        assert fleet.does(CaKeyRestore, "ca1", ca)["authority"]["id"] == identity and ca.private_key.read_bytes() == kept
    shutil.rmtree(fleet.a.directory)
    refused = fleet.does(CaKeyRestore, "ca3", fleet.a)
    assert "no backup was found" in refused["msg"], "it is nobody's home"


def test_a_home_that_was_recorded_before_the_configuration_existed(fleet: Fleet, tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "early", name="Example Early", algorithm="ed25519")
    stated = {"config_file": None, "certificate_file": str(ca.certificate), "private_key_file": str(ca.private_key)}
    early = fleet.does(CaKeyBackup, "ca1", ca, directory=str(ca.directory), **stated)["authority"]["id"]
    for which in ({}, {"name": "CA_default"}):
        assert fleet.does(CaKeyBackup, "ca1", ca, **which)["authority"]["id"] == early
        shutil.rmtree(ca.directory / "private")
        ca.certificate.unlink()
        (ca.directory / "private").mkdir(mode=0o700)
        assert fleet.does(CaKeyRestore, "ca1", ca, **which)["authority"]["id"] == early and ca.private_key.exists()
    ca.renew_in_place()
    renewed = fleet.does(CaKeyBackup, "ca1", ca, name="CA_default")
    assert renewed["changed"] and renewed["authority"]["id"] == early


# --- named -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [8, 16, 64])
def test_a_person_names_an_authority_once(fleet: Fleet, digits: int) -> None:
    clone, name = fleet.clone(fleet.a), fleet.ids["a"][:digits]
    clone.renew_keeping()
    stored = fleet.does(CaKeyBackup, "ca9", clone, authority_id=name)
    assert stored["changed"] and stored["authority"]["id"] == fleet.ids["a"]
    told = fleet.does(CaKeyBackupInfo, "ca9", clone, authority_id=name)
    assert not told["due"] and [home["host"] for home in told["homes"]] == ["ca1"], "a copy changes no home"
    assert codes(fleet.does(CaKeyBackup, "ca9", clone)) == ["not_at_home"]
    clone.private_key.unlink()
    assert codes(fleet.does(CaKeyRestore, "ca9", clone)) == ["not_at_home"] and not clone.private_key.exists()
    assert fleet.does(CaKeyRestore, "ca9", clone, authority_id=name)["changed"] and clone.private_key.exists()


def test_what_is_named_must_be_there(fleet: Fleet) -> None:
    before = fleet.stored
    for task in (CaKeyBackup, CaKeyRestore):
        refused = fleet.does(task, "ca1", fleet.a, authority_id=fleet.ids["b"])
        assert codes(refused) == ["foreign_authority"] and "is not example-b" in refused["msg"]
    for digits, why in (("0" * 16, "no store has it"), ("x", "first 8 or more digits")):
        assert why in fleet.does(CaKeyBackup, "ca1", fleet.a, authority_id=digits)["msg"]
    for said, why in (({"move": True}, "which authority lives here"), ({"move": True, "twin": True}, "exclude each other")):
        assert why in fleet.does(CaKeyBackup, "ca1", fleet.a, **said)["msg"]
    assert fleet.stored == before


def test_a_ca_moves_and_is_at_home_there_alone(fleet: Fleet) -> None:
    """The inventory host was renamed, or the CA is on another one."""
    said = {"authority_id": fleet.ids["a"], "move": True}
    before = fleet.stored
    assert fleet.does(CaKeyBackup, "ca9", fleet.a, check=True, **said)["changed"] and fleet.stored == before
    moved = fleet.does(CaKeyBackup, "ca9", fleet.a, **said)
    assert moved["changed"] and not moved["due"]
    assert sorted(Path(path).parts[0] for path in fleet.stored if path not in before) == ["keys", "keys2"]
    assert not fleet.does(CaKeyBackup, "ca9", fleet.a, **said)["changed"]
    third = fleet.directory / "keys3"
    initialise(str(third), "keys")
    fleet.stores.append(third)
    assert fleet.does(CaKeyBackup, "ca9", fleet.a)["changed"]
    assert fleet.does(CaKeyBackup, "ca9", fleet.a, stores=[str(third)])["changed"] is False, "a copy says it, too"
    for renew in (lambda: None, fleet.a.renew_keeping):
        renew()
        assert codes(fleet.does(CaKeyBackup, "ca1", fleet.a)) == ["not_at_home"]
        assert fleet.does(CaKeyBackup, "ca9", fleet.a)["backup"]
    newest = max(path for path in fleet.stores[0].glob("example-a*/0*/manifest.json"))
    assert [home["host"] for home in json.loads(newest.read_text())["homes"]] == ["ca9"], "the next manifest repeats it"
    shutil.rmtree(fleet.a.directory)
    assert fleet.does(CaKeyRestore, "ca1", fleet.a)["failed"] and fleet.does(CaKeyRestore, "ca9", fleet.a)["changed"]


def test_a_twin_is_at_home_beside_the_other(fleet: Fleet) -> None:
    standby = fleet.clone(fleet.a)
    assert fleet.does(CaKeyBackup, "ca9", standby, authority_id=fleet.ids["a"], twin=True)["changed"]
    for host, ca in (("ca1", fleet.a), ("ca9", standby)):
        assert not fleet.does(CaKeyBackup, host, ca)["changed"]
        ca.private_key.unlink()
        assert fleet.does(CaKeyRestore, host, ca)["changed"] and ca.private_key.exists()
    told = fleet.does(CaKeyBackupInfo, "ca9", standby)
    assert [home["host"] for home in told["homes"]] == ["ca1", "ca9"]
    third = fleet.does(CaKeyBackup, "ca1", fleet.a, authority_id=fleet.ids["a"], move=True)
    assert third["changed"] and codes(fleet.does(CaKeyBackup, "ca9", standby)) == ["not_at_home"], "here instead of everywhere else"


def test_a_restore_elsewhere_is_a_copy_unless_a_person_says_that_it_lives_there(fleet: Fleet, tmp_path: Path) -> None:
    new = OpensslCa(tmp_path / "new", algorithm="ed25519")
    backup = str(next(fleet.stores[0].glob("example-a*")))
    for how in ({"authority_id": fleet.ids["a"]}, {"stores": None, "backup": backup}):
        new.certificate.unlink()
        new.private_key.unlink()
        copied = fleet.does(CaKeyRestore, "new", new, **how)
        assert copied["changed"] and [home["host"] for home in copied["homes"]] == ["ca1"]
        assert codes(fleet.does(CaKeyBackup, "new", new)) == ["not_at_home"]
    for how, store in (({"authority_id": fleet.ids["a"]}, 2), ({"stores": None, "backup": backup}, 1)):
        said = {"twin" if store == 2 else "move": True}
        before = fleet.stored
        assert fleet.does(CaKeyRestore, "new", new, check=True, **how, **said)["changed"] and fleet.stored == before
        done = fleet.does(CaKeyRestore, "new", new, **how, **said)
        assert done["changed"] and "new" in [home["host"] for home in done["homes"]] and len(fleet.stored) == len(before) + store
        assert not fleet.does(CaKeyRestore, "new", new, **how, **said)["changed"]
        assert not fleet.does(CaKeyBackup, "new", new)["changed"]
    wrong = fleet.does(CaKeyRestore, "new", new, stores=None, backup=backup, authority_id=fleet.ids["b"])
    assert f"and the backup is of {fleet.ids['a']}" in wrong["msg"]
    (alone,) = (path for path in [tmp_path / "alone.p12"])
    shutil.copy(next(Path(backup).rglob("*.p12")), alone)
    refused = fleet.does(CaKeyRestore, "new", new, stores=None, backup=str(alone), move=True)
    assert "lies in no store" in refused["msg"]
