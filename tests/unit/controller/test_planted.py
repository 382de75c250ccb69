# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody without a signing key puts into a store: nothing of it counts, and nothing is stopped by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_backup_info import ActionModule as CaKeyBackupInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.estate import Estate, codes
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa
from support.signers import KEY, MEMORY

NEXT = "000002-20260101T000000.000000Z"


@pytest.fixture
def estate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estate:
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", 10)
    one = Estate(tmp_path, monkeypatch)
    assert one.back_up()["changed"]
    return one


def planted(backup: Path, name: str = NEXT, **changed: Any) -> Path:
    """A copy of a backup under another name, with another manifest."""
    folder = Path(shutil.copytree(backup, backup.parent / name))
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changed}, indent=2) + "\n")
    return folder


def another_namespace(estate: Estate, backup: Path) -> None:
    """Signed by the very key, for something else: so it signs commits, too."""
    manifest = planted(backup, sequence=2) / "manifest.json"
    Path(f"{manifest}.sig").unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(estate.home / KEY), "-n", "git", str(manifest)], check=True)


def of_another_authority(estate: Estate, backup: Path) -> None:
    """Signed, and whole: but it lies among the backups of this one."""
    other = OpensslCa(estate.folder / "other ca", name="Another CA", algorithm="ed25519")
    for _each in range(2):  # the second has the next number
        estate.back_up(ca=other, force=True)
    (theirs,) = (path for path in estate.stores[0].glob("another-ca-*/000002-*"))
    shutil.copytree(theirs, backup.parent / NEXT)


def of_another_kind(estate: Estate, backup: Path) -> None:
    """The signed manifest of a set of this authority's database."""
    initialise(str(estate.folder / "sets"), "databases")
    assert estate.run(CaDatabaseBackup, stores=[str(estate.folder / "sets")], password=None)["changed"]
    (theirs,) = (path for path in (estate.folder / "sets").glob("*/*/000001-*Z"))
    shutil.copytree(theirs, backup.parent / NEXT)


def an_event_in_its_place(estate: Estate, backup: Path) -> None:
    folder = backup.parent / NEXT
    folder.mkdir()
    event = next(path for path in (backup.parent / "events").glob("*.json"))
    shutil.copy(event, folder / "manifest.json")
    shutil.copy(f"{event}.sig", folder / "manifest.json.sig")


def waiting_for_a_writer(estate: Estate, backup: Path) -> None:
    """FIFOs, in the places of all that is read."""
    (backup.parent / NEXT).mkdir()
    for path in (
        backup.parent / NEXT / "manifest.json",
        backup.parent / NEXT / "manifest.json.sig",
        backup.parent / "events" / "000001-20260101T000000Z-moved-00000000.json",
        backup.parent / "000003-20260101T000000.000000Z",
        estate.stores[0] / "fifo",
    ):
        os.mkfifo(path)


def endless(estate: Estate, backup: Path) -> None:
    """Devices and links to them, and files without end."""
    folder = backup.parent / NEXT
    folder.mkdir()
    (folder / "manifest.json").symlink_to("/dev/zero")
    (backup.parent / "events" / "000001-20260101T000000Z-twin-00000000.json").symlink_to("/dev/zero")
    large = planted(backup, "000004-20260101T000000.000000Z")
    os.truncate(large / "manifest.json", 1 << 40)
    os.truncate(large / "manifest.json.sig", 1 << 40)


def the_highest_number(estate: Estate, backup: Path) -> None:
    """A name that no number comes after."""
    for digits in (12, 18, 200, 226):
        planted(backup, "9" * digits + "-20260101T000000.000000Z", sequence=int("9" * min(digits, 18)))


def another_directory_of_it(estate: Estate, backup: Path) -> None:
    """A second one that bears its id, and one that bears none, with what is signed in them."""
    for name in (f"zzz-{backup.parent.name.rpartition('-')[2]}", "zzz-", "zzz", "\x1b[2J\udcff"):
        shutil.copytree(backup.parent, backup.parent.with_name(name))


def links(estate: Estate, backup: Path) -> None:
    (estate.folder / "outside").mkdir()
    shutil.copytree(backup, estate.folder / "outside" / NEXT)
    (backup.parent / NEXT).symlink_to(estate.folder / "outside" / NEXT)
    (backup.parent.parent / "linked").symlink_to(estate.folder / "outside")


def many_events(estate: Estate, backup: Path) -> None:
    for number in range(300):
        name = f"{backup.parent}/events/999999-20260101T000000Z-verified-{number:08x}.json"
        with open(name, "wb") as stream:
            stream.truncate(1 << 20)
        shutil.copy(backup / "manifest.json.sig", f"{name}.sig")


def no_text(estate: Estate, backup: Path) -> None:
    folder = planted(backup, "000005-20260101T000000.000000Z")
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
    deep = planted(backup, "000006-20260101T000000.000000Z")
    (deep / "manifest.json").write_text("[" * 100_000)
    planted(backup, "000007-20260101T000000.000000Z", sequence=7, homes=[{"host": "\x1b]0;x\x07", "place": {}}] * 3)
    os.mkdir(os.fsencode(backup.parent) + b"/\xff-\x1b[2J")


PLANTED = (
    another_namespace,
    of_another_authority,
    of_another_kind,
    an_event_in_its_place,
    waiting_for_a_writer,
    endless,
    the_highest_number,
    another_directory_of_it,
    links,
    many_events,
    no_text,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("remembers", [True, False], ids=["remembers", "remembers nothing"])
def test_what_is_planted_counts_for_nothing(
    estate: Estate, plant: Callable[[Estate, Path], None], remembers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is there stays the newest; the next backup comes after it; it is restored, and no other store has more than before."""
    (backup,) = estate.backups(estate.stores[0])
    estate.ca.certificate.read_bytes()
    plant(estate, backup)
    if not remembers:
        (estate.home / MEMORY).unlink()
    identity = json.loads((backup / "manifest.json").read_text())["id"]
    for _night in range(2):
        info = estate.run(CaKeyBackupInfo)
        assert (info["newest"]["id"], info["due"], len(info["backups"])) == (identity, False, 1)
        result = estate.back_up()
        assert not result.get("failed") and not result["due"] and result["backup"]["id"] == identity, result
        json.dumps(result).encode("utf-8"), json.dumps(info).encode("utf-8")
        assert "\x1b" not in str(result) + str(info)
    assert [path.name for path in estate.backups(estate.stores[1]) if path.parent.name == backup.parent.name] == [backup.name]
    assert estate.run(CaKeyVerify)["restorable"]
    estate.ca.private_key.unlink()
    assert estate.run(CaKeyRestore)["changed"] and estate.ca.private_key.exists()
    newer = estate.renewed()
    assert newer["backup"]["id"] != identity and len({Path(path).parent.name for path in newer["backup"]["paths"]}) == 1
    assert codes(newer["reasons"]) and not estate.back_up()["changed"]


@pytest.mark.parametrize("where", ["stores", "host_store"])
def test_what_is_planted_among_sets_counts_for_nothing(tmp_path: Path, where: str) -> None:
    """In a store on the controller, and in one of the host."""
    initialise(str(tmp_path / "sets"), "databases")
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    given = {"config_file": str(ca.config_file), where: str(tmp_path / "sets") if where == "host_store" else [str(tmp_path / "sets")]}
    first = FakeHost().run(CaDatabaseBackup, given)
    database = Path(first["set"]["paths"][0]).parent
    for name in (database.name, f"aaa-{database.name.rpartition('-')[2]}", "zzz-"):
        shutil.copytree(database.parent, tmp_path / "sets" / f"aaa-{database.parent.name.rpartition('-')[2]}" / name, dirs_exist_ok=True)
    shutil.copytree(database, database.with_name(f"aaa-{database.name.rpartition('-')[2]}"))
    planted(Path(first["set"]["paths"][0]), sequence=2)
    for digits in (12, 200):
        planted(Path(first["set"]["paths"][0]), "9" * digits + "-20260101T000000.000000Z", sequence=int("9" * digits))
    os.mkfifo(database.parent / "events" / "000001-20260101T000000Z-moved-00000000.json")
    for _night in range(2):
        again = FakeHost().run(CaDatabaseBackup, given)
        assert not again.get("failed") and not again["due"] and again["set"]["id"] == first["set"]["id"], again
    ca.issue("more")
    newer = FakeHost().run(CaDatabaseBackup, given)
    assert newer["changed"] and not FakeHost().run(CaDatabaseBackup, given)["due"], newer
    index = ca.directory / "index.txt"
    content = index.read_bytes()
    index.unlink()
    restored = FakeHost().run(CaDatabaseRestore, given)
    assert restored["changed"] and index.read_bytes() == content, restored
