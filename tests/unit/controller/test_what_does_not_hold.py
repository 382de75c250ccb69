# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nothing here protects from, and what shows it then; and what lies open in stores."""

from __future__ import annotations

import gzip
import json
import os
import shutil
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
from support.estate import PASSWORD, Estate, Fleet, codes, said
from support.fake_host import FakeHost
from support.signers import ALLOWED, MEMORY, key_of, make_home, rewrite


@pytest.fixture
def estate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estate:
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", 10)
    return Estate(tmp_path, monkeypatch)


def test_whoever_has_the_controller_decides_what_counts(estate: Estate) -> None:
    """Signed with its key, a home that nobody said counts: the CA's host is no longer at home."""
    estate.back_up()
    for store in estate.stores:
        (backup,) = estate.backups(store)
        homes = json.loads((backup / "manifest.json").read_text())["homes"]
        rewrite(backup / "manifest.json", estate.home, homes=[{**homes[0], "host": "evil"}])
    assert codes(estate.back_up()["reasons"]) == ["not_at_home"]


def test_any_signer_speaks_for_every_authority(estate: Estate, tmp_path: Path) -> None:
    """Each estate has a key of its own, then: one that is in no other estate's list speaks for nothing there."""
    estate.back_up()
    (backup,) = estate.backups(estate.stores[0])
    lab = make_home(tmp_path / "lab", "lab")
    forged = Path(shutil.copytree(backup, backup.parent / "000002-20260101T000000.000000Z"))
    rewrite(forged / "manifest.json", lab, sequence=2, id="e" * 32)
    assert estate.run(CaKeyBackupInfo)["newest"]["paths"][0] == str(backup)
    (estate.home / ALLOWED).write_text(key_of("tests")[1] + key_of("lab")[1])
    assert estate.run(CaKeyBackupInfo)["newest"]["paths"] == [str(forged)]


def test_a_host_can_lie_about_its_own_ca(tmp_path: Path) -> None:
    """What it says of its numbers is stored."""
    fleet, host = Fleet(tmp_path, False), FakeHost("ca1")

    def lies(_order: str, answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "state": {**answer["state"], "next_serial": "BEEF", "database": "0" * 64}} if answer.get("state") else answer

    host.forge = lies
    told = fleet.back_up(host, fleet.a)
    assert told["changed"] and told["database"]["next_serial"] == "BEEF"
    assert not fleet.back_up("ca2", fleet.b)["changed"]


def test_all_stores_rolled_back_where_nothing_remembers(tmp_path: Path) -> None:
    """What is signed is taken, and that is said. A CRL that was published since shows it; so does the paper, if the id stands there."""
    fleet = Fleet(tmp_path, True)
    for name in ("keys", "sets"):
        shutil.copytree(tmp_path / name, tmp_path / f"{name} of last year")
    fleet.a.issue("more")
    assert fleet.keys("ca1", fleet.a, force=True)["changed"] and fleet.back_up("ca1", fleet.a)["changed"]
    published = shutil.copy(fleet.a.sign_crl(), tmp_path / "published.pem")
    for name in ("keys", "sets"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / f"{name} of last year", tmp_path / name)
    gone = ("index.txt*", "serial*", "crlnumber*", "crl.pem", "more*", "1002.pem")
    for path in [path for pattern in gone for path in fleet.a.directory.rglob(pattern)]:
        path.unlink()
    assert "they hold less than before" in said(fleet.restore("ca1", fleet.a)), "a controller that remembers stops"
    (tmp_path / "home" / MEMORY).unlink()
    shown = fleet.restore("ca1", fleet.a, published_crl=[str(published)])
    assert shown["failed"] and codes(shown) == ["published_crl_newer"], shown["msg"]
    (tmp_path / "home" / MEMORY).unlink()
    taken = fleet.restore("ca1", fleet.a)
    assert taken["changed"] and "not_remembered" in codes(taken, "advisories"), taken


def test_what_may_be_read_in_stores(estate: Estate, tmp_path: Path) -> None:
    """Of keys, PKCS #12 files that no other password opens; of databases, what was issued, in clear, and no private key."""
    sets = tmp_path / "sets"
    initialise(str(sets), "databases")
    estate.ca.issue("www")
    estate.back_up()
    assert estate.run(CaDatabaseBackup, stores=[str(sets)], password=None)["changed"]
    key = estate.ca.private_key.read_text().splitlines()[1].encode()
    for path in (path for folder in (*estate.stores, sets) for path in folder.rglob("*") if path.is_file()):
        shown = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert key not in shown and b"PRIVATE KEY" not in shown, path
    (core,) = sets.rglob("core.tar.gz")
    assert b"www" in gzip.decompress(core.read_bytes())
    assert "password does not open" in said(estate.run(CaKeyVerify, password=PASSWORD + "x"))


def test_whoever_may_write_can_delete(estate: Estate) -> None:
    """One store of two: the other one has what it lacks. Both: where it is remembered, tasks stop."""
    estate.back_up()
    for path in estate.backups(estate.stores[0]):
        shutil.rmtree(path.parent)
    assert estate.back_up(password=None)["changed"] and len(estate.backups(estate.stores[0])) == 1
    for store in estate.stores:
        shutil.rmtree(estate.backups(store)[0].parent)
    assert "they hold less than before" in said(estate.back_up())


def test_nothing_in_a_store_of_keys_is_written_again(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it may lie on media that can't be rewritten: there, what a stolen key signed stays, and counts for nothing."""
    estate.back_up()

    def there() -> dict[Path, tuple[int, int, int]]:
        files = (path for store in estate.stores for path in store.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = there()
    opened: list[str] = []
    real = os.open

    def watched(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and Path(os.fsdecode(path)) in before:
            opened.append(os.fsdecode(path))
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", watched)
    estate.renewed()
    assert not estate.back_up()["changed"] and estate.run(CaKeyVerify, verified_by="Ada")["restorable"]
    estate.back_up(password=PASSWORD + " changed", previous_password=PASSWORD)
    after = there()
    assert {path: after.get(path) for path in before} == before and opened == [] and len(after) > len(before) + 10


def test_the_worst_day_with_a_copy_that_nobody_can_write(estate: Estate, tmp_path: Path) -> None:
    """Of all stores; a laptop that has neither key nor memory; and the paper."""
    sets = tmp_path / "sets"
    initialise(str(sets), "databases")
    estate.ca.issue("www")
    estate.back_up()
    assert estate.run(CaDatabaseBackup, stores=[str(sets)], password=None)["changed"]
    estate.at(tmp_path / "laptop")
    (tmp_path / "laptop").mkdir()
    for folder in (*estate.stores, sets):
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o500 if path.is_dir() else 0o400)
    index, key = estate.ca.directory / "index.txt", estate.ca.private_key
    content = index.read_bytes()
    index.unlink()
    key.unlink()
    paper = {"allowed_signers": str(estate.stores[0] / "allowed_signers")}
    for task, given in ((CaKeyRestore, {}), (CaDatabaseRestore, {"stores": [str(sets)], "password": None})):
        assert "Is its volume mounted?" in said(estate.run(task, **given))
        done = estate.run(task, **given, **paper)
        assert done["changed"] and "not_remembered" in codes(done, "advisories"), done
    assert index.read_bytes() == content and key.exists()
