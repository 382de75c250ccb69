# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing in a store is believed that nobody known signed, and nothing that is less than what was there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup_info import ActionModule as CaKeyBackupInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.action.ca_store import ActionModule as CaStore
from ansible_collections.keyward.pki.plugins.module_utils._signed import SHOW_FINGERPRINTS
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.plugin_utils import _signers
from support.estate import Estate, codes, said
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa
from support.signers import ALLOWED, KEY, MEMORY, key_of, make_home, rewrite, sign, verify


@pytest.fixture
def estate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Estate]:
    return Estate(tmp_path, monkeypatch)  # type: ignore[return-value]


def test_ssh_keygen_checks_every_file_of_every_store(estate: Estate, tmp_path: Path) -> None:
    """By several signers, one of them valid until a day that has come."""
    estate.back_up()
    other = make_home(tmp_path / "other", "colleague")
    both = key_of("tests")[1] + key_of("colleague")[1]
    for home in (estate.home, other):
        (home / ALLOWED).write_text(both)
    estate.at(other)
    estate.renewed()
    assert len(verify(tmp_path, other / ALLOWED)) == 8, "two backups and two events in each of two stores"
    assert {path.read_text().count("\n") for path in tmp_path.glob("*/allowed_signers")} == {2}, "each store has both public halves"
    for path in tmp_path.glob("*/allowed_signers"):
        shown = subprocess.run(["sh", "-c", SHOW_FINGERPRINTS], cwd=path.parent, capture_output=True, text=True, check=True).stdout.split()
        assert len([word for word in shown if word.startswith("SHA256:")]) == 2, "as the paper has them"
    (other / ALLOWED).write_text(both.replace('"keyward" ', '"keyward",valid-before="20200101Z" ', 1))
    estate.at(make_home(tmp_path / "third", "colleague"))
    (estate.home / ALLOWED).write_text((other / ALLOWED).read_text())
    result = estate.run(CaKeyBackupInfo)
    assert "was not a valid one" in json.dumps(result["advisories"]) and len(result["backups"]) == 1
    (estate.home / ALLOWED).write_text(key_of("colleague")[1])
    assert len(estate.run(CaKeyBackupInfo)["backups"]) == 1


def test_a_controller_with_a_key_of_its_own_makes_no_first_backup(estate: Estate, tmp_path: Path) -> None:
    estate.back_up()
    estate.at(make_home(tmp_path / "other", "stranger"))
    text = said(estate.back_up())
    assert "nothing was backed up: this authority is in" in text and "is unknown to" in text and "with the paper" in text
    assert said(estate.back_up(stores=[str(estate.stores[1])])) and len(estate.backups(estate.stores[0])) == 1
    theirs = str(estate.stores[0] / "allowed_signers")
    assert not estate.back_up(allowed_signers=theirs, store_signing_key=str(tmp_path / "home" / KEY))["changed"], "compared with the paper"


def test_where_the_signers_are_not_mounted(estate: Estate) -> None:
    estate.back_up()
    (estate.home / ALLOWED).unlink()
    for task in (CaKeyBackup, CaKeyBackupInfo, CaKeyRestore, CaKeyVerify):
        assert "does not exist. Is its volume mounted?" in said(estate.run(task)), task
    (estate.home / ALLOWED).write_text("")
    assert "no line of it says" in said(estate.back_up())


def copy_of(store: Path) -> Path:
    return Path(shutil.copytree(store, store.with_name(f"{store.name}.before")))


def put_back(store: Path) -> None:
    shutil.rmtree(store)
    store.with_name(f"{store.name}.before").rename(store)


def test_stores_that_were_rolled_back(estate: Estate) -> None:
    first = estate.back_up()
    for store in estate.stores:
        copy_of(store)
    estate.renewed()
    put_back(estate.stores[0])
    result = estate.back_up()
    assert result["changed"] and not result["due"] and len(estate.backups(estate.stores[0])) == 2, "the other one has what it lacks"
    copy_of(estate.stores[0])
    shutil.rmtree(estate.backups(estate.stores[0])[1])
    put_back(estate.stores[1])
    for task in (CaKeyBackup, CaKeyRestore, CaKeyVerify):
        assert "they hold less than before: the highest has the number 1, and 2 was there" in said(estate.run(task)), task
    assert "rolled_back" in codes(estate.run(CaKeyBackupInfo)["advisories"])
    accepted = estate.back_up(accept=[first["authority"]["id"]])
    assert accepted["changed"] and accepted["due"] and not estate.back_up()["changed"]


def test_a_store_that_was_emptied_or_replaced(estate: Estate) -> None:
    estate.back_up()
    for store in estate.stores:
        for path in store.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
    assert "they hold less than before" in said(estate.back_up())
    new = estate.stores[0]
    for path in list(new.iterdir()):
        path.unlink()
    identity = initialise(str(new), "keys")["id"]
    assert "it is another one than before" in said(estate.back_up()) and identity in said(estate.back_up())
    assert "other_store" in codes(estate.run(CaKeyBackupInfo)["advisories"])


def test_without_memory_what_is_signed_is_taken_and_that_is_said(estate: Estate) -> None:
    estate.back_up()
    (estate.home / MEMORY).unlink()
    assert codes(estate.back_up()["advisories"]) == ["not_remembered"]
    assert estate.back_up()["advisories"] == []


def test_two_controllers_that_write_apart(estate: Estate, tmp_path: Path) -> None:
    """Each into the store that it reaches. Their backups follow the same one; the next backup joins them and covers what both cover."""
    estate.back_up()
    estate.stores, (one, two) = [estate.stores[0]], estate.stores
    estate.renewed()
    other = make_home(tmp_path / "other")
    estate.at(other)
    estate.stores = [two]
    estate.ca.renew_keeping()
    estate.back_up()
    estate.stores = [one, two]
    info = estate.run(CaKeyBackupInfo)
    assert "forked" in codes(info["advisories"]) and len(info["backups"]) == 3
    assert "it can't be told which backup" in said(estate.run(CaKeyRestore))
    assert estate.run(CaKeyRestore, stores=None, backup=[str(estate.backups(two)[-1])]).get("restorable")
    estate.back_up()  # which of both is the newest decides whether it lacks something
    estate.renewed()
    manifests = [json.loads((path / "manifest.json").read_text()) for path in estate.backups(one)]
    assert [len(each["also_follows"]) for each in manifests].count(1) == 1 and len(manifests[-1]["generations"]) == 4
    assert "forked" not in codes(estate.run(CaKeyBackupInfo)["advisories"])


def test_a_planted_directory_under_the_next_name_and_a_damaged_copy(estate: Estate) -> None:
    estate.back_up()
    (first,) = estate.backups(estate.stores[0])
    planted = first.parent / "000002-20260101T000000.000000Z"
    shutil.copytree(first, planted)
    (planted / "manifest.json").write_text((first / "manifest.json").read_text().replace('"sequence": 1', '"sequence": 2'))
    result = estate.back_up()
    assert not result["changed"] and codes(result["advisories"]) == ["unknown_signer"]
    assert not (estate.stores[1] / planted.relative_to(estate.stores[0])).exists(), "it is not copied"
    shutil.rmtree(planted)
    shutil.copytree(first, planted)
    assert "it was stored under the number 1" in json.dumps(estate.back_up()["advisories"])
    newer = estate.renewed()
    assert [Path(path).name[:6] for path in newer["backup"]["paths"]] == ["000003", "000003"]
    twin = Path(newer["backup"]["paths"][1])
    (twin / "authority.p12").write_bytes(b"damaged")
    assert estate.back_up(password=None)["changed"]
    assert (twin / "authority.p12").read_bytes() != b"damaged" and twin.with_name(f"{twin.name}.damaged-1").is_dir()


def test_a_stolen_key_is_taken_out_and_a_person_vouches(estate: Estate, tmp_path: Path) -> None:
    estate.back_up()
    (backup,) = estate.backups(estate.stores[0])
    forged = backup.parent / "000009-20260101T000000.000000Z"
    shutil.copytree(backup, forged)
    rewrite(forged / "manifest.json", estate.home, sequence=9)
    estate.at(make_home(tmp_path / "new", "today"))
    for task in (CaKeyBackup, CaKeyRestore):
        assert "unknown to" in said(estate.run(task))
    given = {"stores": None, "backup": [str(backup)]}
    assert codes(estate.run(CaKeyVerify, **given)["reasons"]) == ["unknown_signer"]
    assert "password does not open" in said(estate.run(CaKeyVerify, **given, verified_by="Ada", password="another password of it"))
    assert estate.run(CaKeyVerify, **given, verified_by="Ada")["restorable"]
    (event,) = backup.parent.glob("events/*-verified-*.json")
    assert json.loads(event.read_text())["person"] == "Ada" and event.with_name(event.name + ".sig").exists()
    estate.ca.private_key.unlink()
    assert estate.run(CaKeyRestore)["changed"] and estate.ca.private_key.exists()
    result = estate.back_up()
    assert result["backup"]["id"] == json.loads((backup / "manifest.json").read_text())["id"] and "unknown_signer" in codes(
        result["advisories"]
    )


def test_nothing_is_due_only_where_the_bundle_holds_what_its_manifest_says(estate: Estate) -> None:
    """Even where it is signed."""
    estate.back_up()
    old = {store: estate.backups(store)[0] / "authority.p12" for store in estate.stores}
    estate.renewed()
    for store in estate.stores:
        newest = estate.backups(store)[-1]
        shutil.copy(old[store], newest / "authority.p12")
        shape = json.loads((newest / "manifest.json").read_text())
        before = json.loads((old[store].parent / "manifest.json").read_text())["files"][0]
        rewrite(newest / "manifest.json", estate.home, files=[{**before, "opened_by": shape["id"]}])
    assert not estate.back_up(password=None)["due"]
    assert estate.back_up()["due"], "with the password at hand"


@pytest.mark.parametrize("change", [{"authority": []}, {"made": {}}, {"generations": [5]}, {"sequence": 10**30}, {"created": None}])
def test_what_is_wrong_with_one_authority_stops_no_other(estate: Estate, tmp_path: Path, change: dict[str, Any]) -> None:
    estate.back_up()
    other = OpensslCa(tmp_path / "other ca", name="Another CA", algorithm="ed25519")
    (backup,) = estate.backups(estate.stores[0])
    manifest = backup / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    sign(manifest, estate.home)
    assert estate.back_up(ca=other)["changed"]
    assert not estate.run(CaKeyBackupInfo).get("failed")


def test_the_worst_day_with_a_file_its_password_and_the_paper(estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that knows nobody restores from the PKCS #12 file; with the paper also from a copy of the store that it can't write."""
    estate.back_up()
    (backup,) = estate.backups(estate.stores[0])
    (tmp_path / "laptop").mkdir()
    estate.at(tmp_path / "laptop")
    shutil.copy(backup / "authority.p12", tmp_path / "laptop" / "key.p12")
    for file in (tmp_path / "laptop" / "key.p12", backup / "authority.p12"):
        estate.ca.private_key.unlink()
        result = estate.run(CaKeyRestore, stores=None, backup=[str(file)])
        assert result["changed"] and estate.ca.private_key.stat().st_mode & 0o777 == 0o600, result
    estate.ca.private_key.unlink()
    warned: list[str] = []
    monkeypatch.setattr("ansible.utils.display.Display.warning", lambda _self, text, **_options: warned.append(text))
    assert "Is its volume mounted?" in said(estate.run(CaKeyRestore))
    given = {"stores": [str(estate.stores[0])], "allowed_signers": str(estate.stores[0] / "allowed_signers")}
    assert estate.run(CaKeyVerify, **given)["restorable"] and estate.run(CaKeyRestore, **given)["changed"]
    assert len(warned) == 1 and "in no store's events" in warned[0] and "signing_key" in warned[0]


def test_a_backup_says_each_night_that_it_can_not_sign(estate: Estate) -> None:
    estate.back_up()
    (estate.home / KEY).unlink()
    assert "it does not exist. Is its volume mounted? If it is lost, make a new one" in said(estate.back_up())
    assert estate.run(CaKeyVerify)["restorable"]


def test_nothing_is_written_through_a_link(estate: Estate, tmp_path: Path) -> None:
    estate.back_up()
    folder = estate.backups(estate.stores[0])[0].parent
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(folder / "events")
    (folder / "events").symlink_to(tmp_path / "elsewhere")
    assert said(estate.back_up(force=True)) and list((tmp_path / "elsewhere").iterdir()) == []
    folder.rename(tmp_path / "elsewhere" / "real")
    folder.symlink_to(tmp_path / "elsewhere" / "real")
    before = sorted((tmp_path / "elsewhere" / "real").iterdir())
    assert said(estate.back_up(force=True)) and sorted((tmp_path / "elsewhere" / "real").iterdir()) == before


def test_a_set_of_a_clock_that_was_ahead_is_infinitely_old(estate: Estate, tmp_path: Path) -> None:
    initialise(str(tmp_path / "sets"), "databases")
    given = {"stores": [str(tmp_path / "sets")], "password": None, "max_age": "4w"}
    assert estate.run(CaDatabaseBackup, **given)["changed"] and not estate.run(CaDatabaseBackup, **given)["changed"]
    (manifest,) = (tmp_path / "sets").rglob("manifest.json")
    rewrite(manifest, estate.home, created="2999-01-01T00:00:00Z")
    assert codes(estate.run(CaDatabaseBackup, **given)["reasons"]) == ["max_age"]


def test_a_backup_of_a_clock_that_was_ahead_is_infinitely_old(estate: Estate) -> None:
    estate.back_up()
    assert 0 <= estate.run(CaKeyBackupInfo)["age"] < 600
    for store in estate.stores:
        rewrite(estate.backups(store)[0] / "manifest.json", estate.home, created="2999-01-01T00:00:00Z")
    assert estate.run(CaKeyBackupInfo)["age"] > 1000 * 365 * 86400


def test_the_first_store_makes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_signers, "in_a_container", lambda: False)
    made = FakeHost().run(CaStore, {"path": str(tmp_path / "keys"), "kind": "keys"})
    assert made["changed"] and made["signer"]["made"] and made["signer"]["fingerprint"].startswith("SHA256:")
    again = FakeHost().run(CaStore, {"path": str(tmp_path / "databases"), "kind": "databases"})
    assert not again["signer"]["made"] and again["signer"]["fingerprint"] == made["signer"]["fingerprint"]
    shutil.rmtree(tmp_path / ".config")
    (tmp_path / "keys" / "an-authority").mkdir()
    there = FakeHost().run(CaStore, {"path": str(tmp_path / "keys"), "kind": "keys"})
    assert there["signer"] is None and not (tmp_path / ".config").exists(), "never where signed manifests lie"
