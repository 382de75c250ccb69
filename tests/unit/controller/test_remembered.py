# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a controller remembers of stores, and times that stores state."""

from __future__ import annotations

import errno
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action import ca_key_backup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup_info import ActionModule as CaKeyBackupInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer, _staged
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.module_utils._time import at_most_now
from ansible_collections.keyward.pki.plugins.plugin_utils import _memory, _signers
from support.estate import PASSWORD, Estate, Fleet, codes, said
from support.fake_host import FakeHost
from support.signers import ALLOWED, MEMORY, key_of, make_home, verify


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, True)


def renewed(fleet: Fleet) -> Path:
    """The backups of the first CA's keys, after a second one; its directory as it was before lies beside the store."""
    folder = next(path for path in (fleet.directory / "keys").glob("*/") if path.name.endswith(fleet.ids["a"][:16]))
    shutil.copytree(folder, fleet.directory / "older")
    fleet.a.renew_keeping()
    assert fleet.keys("ca1", fleet.a)["changed"] and fleet.back_up("ca1", fleet.a)["changed"]
    return folder


def unread(result: dict[str, Any]) -> list[str]:
    assert not result.get("failed"), result["msg"]
    return [one["message"] for one in result["advisories"] if one["code"] == "key_store_not_read"]


def test_key_stores_that_hold_less_than_before_decide_nothing_in_silence(fleet: Fleet) -> None:
    """Rolled back, emptied, or another store: sets go on, by what they say themselves, and that is said."""
    folder, keys = renewed(fleet), fleet.directory / "keys"
    assert unread(fleet.back_up("ca1", fleet.a)) == []
    shutil.rmtree(folder)
    shutil.copytree(fleet.directory / "older", folder)
    for task in (fleet.back_up, fleet.restore):
        (text,) = unread(task("ca1", fleet.a))
        assert "the highest has the number 1, and 2 was there" in text
    assert unread(fleet.back_up("ca2", fleet.b)) == [], "it is not about that one"
    assert codes(fleet.back_up("ca9", fleet.clone(fleet.a))) == ["not_at_home"]
    shutil.rmtree(folder)
    assert len(unread(fleet.back_up("ca1", fleet.a))) == 1 and unread(fleet.back_up("ca2", fleet.b)) == []
    shutil.rmtree(keys)
    initialise(str(keys), "keys")
    (text,) = unread(fleet.back_up("ca1", fleet.a))
    assert "it is another one than before" in text


def test_a_ca_that_moved_does_not_go_back_in_silence(fleet: Fleet) -> None:
    """Whoever may write into a store takes the event away by which a person moved a CA: its former host would get its keys again."""
    keys, ca = fleet.directory / "keys", fleet.a
    moving = {"authority_id": fleet.ids["a"], "move": True}
    given = {"config_file": str(ca.config_file), "stores": [str(keys)], "password": PASSWORD}
    assert fleet.keys("ca9", ca, **moving)["changed"] and fleet.keys("ca9", ca)["changed"] is False
    ca.private_key.rename(ca.directory / "kept")
    (event,) = keys.glob("*/events/*-moved-*.json")
    event.unlink()
    for host in ("ca1", "ca9"):
        for task in (CaKeyRestore, CaKeyBackup):
            assert "the event that says so is gone" in said(FakeHost(host).run(task, given)), host
    assert "the event that says so is gone" in unread(fleet.back_up("ca1", ca))[0], "its sets alone say where it lives"
    assert not ca.private_key.exists()
    ca.directory.joinpath("kept").rename(ca.private_key)
    assert fleet.keys("ca9", ca, **moving, accept=[fleet.ids["a"]])["changed"]
    for _night in range(2):
        assert fleet.keys("ca9", ca)["changed"] is False
    assert codes(fleet.keys("ca1", ca)) == ["not_at_home"]
    ca.renew_keeping()
    for due in (True, False):  # the next manifest says it itself
        assert fleet.keys("ca9", ca)["changed"] is due
    for event in keys.glob("*/events/*-moved-*.json"):
        event.unlink()
    assert fleet.keys("ca9", ca)["changed"] is False and codes(fleet.keys("ca1", ca)) == ["not_at_home"]


def test_key_stores_that_hold_more_than_before_are_read(fleet: Fleet) -> None:
    """Another controller made it: nothing is wrong."""
    memory = fleet.directory.joinpath("home", MEMORY)
    before = memory.read_bytes()
    renewed(fleet)
    memory.write_bytes(before)
    assert unread(fleet.back_up("ca1", fleet.a)) == []


@pytest.fixture
def estate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estate:
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", 10)
    return Estate(tmp_path, monkeypatch)


def test_cron_as_root_a_person_and_an_execution_environment_on_the_same_stores(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a key, a list and a memory of its own; what one stores the others take, and each remembers it by itself."""
    machine, mounted = tmp_path / "etc", tmp_path / "mounted"
    for each, name in ((machine, "root"), (mounted, "environment")):
        made = make_home(tmp_path / f"made for {name}", name)
        shutil.copytree(made / ".config/keyward", each)
    person = make_home(tmp_path / "person", "person")
    everybody = "".join(key_of(name)[1] for name in ("root", "person", "environment"))
    for path in (machine / "allowed_signers", mounted / "allowed_signers", person / ALLOWED):
        path.write_text(everybody)
    (tmp_path / "nobody").mkdir()
    paths = {name: str(mounted / name) for name in ("store_signing_key", "allowed_signers", "memory")}
    (mounted / "signing_key").rename(paths["store_signing_key"])

    def cron(**options: Any) -> dict[str, Any]:
        estate.at(tmp_path / "nobody")
        with monkeypatch.context() as there:
            there.setattr(_signers, "OF_THE_MACHINE", str(machine))
            there.setattr(_memory, "OF_THE_MACHINE", str(tmp_path / "var" / "memory.json"))
            return estate.back_up(**options)

    def by_a_person(**options: Any) -> dict[str, Any]:
        estate.at(person)
        return estate.back_up(**options)

    def environment(**options: Any) -> dict[str, Any]:
        estate.at(tmp_path / "nobody")
        return estate.back_up(**options, **paths)

    for number, run in enumerate((cron, by_a_person, environment, cron), start=1):
        if number > 1:
            estate.ca.renew_keeping()
        result = run()
        assert result.get("changed") and result["due"] and len(estate.backups(estate.stores[1])) == number, result
        assert run(password=None)["advisories"] == []
    for run in (by_a_person, environment):
        assert not run()["changed"]
    everyone = tmp_path / "var" / "memory.json", person / MEMORY, mounted / "memory"
    assert {json.loads(path.read_text())["newest"].popitem()[1]["sequence"] for path in everyone} == {4}
    assert list((tmp_path / "nobody").iterdir()) == []
    assert {len(path.read_text().splitlines()) for path in tmp_path.glob("*/allowed_signers") if path.parent in estate.stores} == {3}
    assert len(verify(estate.stores[0], person / ALLOWED)) == 8


def test_a_controller_whose_clock_is_ahead(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backup counts, by its number; it is infinitely old, and the next one follows it. With a key that has run out it signs nothing."""
    with monkeypatch.context() as there:
        for module in (ca_key_backup, _signers):
            there.setattr(module, "now_text", lambda: "2999-01-01T00:00:00Z")
        assert estate.back_up()["backup"]["created"] == "2999-01-01T00:00:00Z"
        allowed = (estate.home / ALLOWED).read_text()
        (estate.home / ALLOWED).write_text(allowed.replace('"keyward" ', '"keyward",valid-before="20900101Z" '))
        assert "does not name the signing key" in said(estate.back_up())
        (estate.home / ALLOWED).write_text(allowed)
    assert not estate.back_up()["due"] and estate.run(CaKeyBackupInfo)["age"] > 10**10
    newer = estate.renewed()
    assert Path(newer["backup"]["paths"][0]).name.startswith("000002-") and estate.run(CaKeyBackupInfo)["age"] < 600


def test_a_memory_that_can_not_be_read_or_written(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, it is an error with a way out. What needs none to be written goes on, and that is said."""
    estate.back_up()
    memory = estate.home / MEMORY
    sound = memory.read_text()
    for damaged in ("", "{", sound[:-10], "[]", sound.replace('"sequence": 1', '"sequence": "x"'), '{"format": "another"}', "\0" * 9):
        memory.write_text(damaged)
        if damaged:
            for task in (CaKeyBackup, CaKeyBackupInfo, CaKeyVerify):
                assert "move it aside: what is signed is taken then, and said" in said(estate.run(task)), damaged
        else:
            assert "not_remembered" in codes(estate.run(CaKeyBackupInfo)["advisories"])
    memory.unlink()
    os.mkfifo(memory)
    assert "regular file" in said(estate.back_up())
    memory.unlink()

    def refused(_staged: Any) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(_staged.StagedFile, "replace", refused)
    assert "memory.json was not written: the file system is read-only" in said(estate.back_up())
    assert estate.run(CaKeyVerify)["restorable"]


@pytest.mark.parametrize(
    ("stored", "judged"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1)),
        ("2026-05-05T12:05:00Z", datetime(2026, 5, 5, 12)),
        ("2026-05-05T12:15:00Z", datetime.min),
        ("9999-12-31T23:59:59Z", datetime.min),
    ],
)
def test_a_time_that_has_not_come_is_infinitely_old(stored: str, judged: datetime) -> None:
    assert at_most_now(stored, datetime(2026, 5, 5, 12)) == judged
