# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of a store for one host: hints say where to look, never what is true, and nothing of it grows with others or with age."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup_info import ActionModule as CaKeyBackupInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._signed import VERIFIED
from ansible_collections.keyward.pki.plugins.plugin_utils._hints import of_host
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers
from support.estate import Fleet, codes, showing
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa
from support.plays import authorities
from support.signers import MEMORY


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", 10)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, True)


def night(fleet: Fleet) -> None:
    """Nothing is due for either of the first CA's."""
    for result in (fleet.keys("ca1", fleet.a), fleet.back_up("ca1", fleet.a)):
        assert result["changed"] is False, result


def stores(fleet: Fleet) -> list[Path]:
    return [fleet.directory / "keys", fleet.directory / "sets"]


def own(fleet: Fleet, store: str) -> Path:
    return next(path for path in authorities(fleet.directory / store) if path.name.endswith(fleet.ids["a"][:16]))


def hints(fleet: Fleet) -> list[Path]:
    return sorted(path for store in stores(fleet) for path in store.glob("by-*/*/*"))


def without_hints(fleet: Fleet) -> None:
    for store in stores(fleet):
        for path in store.glob("by-*"):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)


def opened(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> list[str]:
    """The files of the stores that C(work) opens."""
    found: list[str] = []
    before, above = os.open, tuple(f"{store}{os.sep}" for store in stores(fleet))

    def counting(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).startswith(above) and not str(path).endswith(".lock"):
            found.append(str(path))
        return before(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", counting)
        work()
    return found


# --- what is read ----------------------------------------------------------------------------------------------------


def test_what_is_read_does_not_grow_with_the_number_of_other_authorities(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    night(fleet)
    alone = opened(fleet, monkeypatch, lambda: night(fleet))
    for store in stores(fleet):
        (other,) = (path for path in authorities(store) if path.name.startswith("example-b"))
        for number in range(198):
            shutil.copytree(other, store / f"other-{hashlib.sha256(str(number).encode()).hexdigest()[:16]}")
    assert opened(fleet, monkeypatch, lambda: night(fleet)) == alone
    without_hints(fleet)
    assert len(opened(fleet, monkeypatch, lambda: night(fleet))) > 2 * 198, "where no hint fits, everything is looked at"
    assert opened(fleet, monkeypatch, lambda: night(fleet)) == alone, "the hints are there again"


def grown(folder: Path, count: int, home: Path) -> None:
    """More and more backups or sets, signed, each after the one before; and what persons did with each."""
    signers, last = Signers({}), max(folder.glob("0*Z"))
    for number in range(int(last.name[:6]) + 1, int(last.name[:6]) + 1 + count):
        made = shutil.copytree(last, folder / f"{number:06d}-20260101T000000.{number:06d}Z")
        document = made / "manifest.json"
        shape = json.loads(document.read_text())
        shape.update(sequence=number, id=f"{number:032x}", previous=hashlib.sha256(document.read_bytes()).hexdigest())
        document.write_text(json.dumps(shape))
        (made / "manifest.json.sig").write_bytes(signers.sign(document.read_bytes()))
        events = next(path for path in (folder / "events", folder.parent / "events") if path.exists())
        for kind in (VERIFIED, "set", "restore"):
            (events / f"{number:06d}-20260101T000000Z-{kind}-0000.json").write_text("{}")
        last = made
    (home / MEMORY).unlink()


def test_what_is_read_does_not_grow_with_age(fleet: Fleet, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for count in (5, 295):
        for store in ("keys", "sets"):
            grown(own(fleet, store) if store == "keys" else next(own(fleet, store).glob("*-*")), count, home)
            home.joinpath(MEMORY).touch()
        home.joinpath(MEMORY).unlink()
        first = opened(fleet, monkeypatch, lambda: night(fleet))
        counts.append(len(opened(fleet, monkeypatch, lambda: night(fleet))))
        assert len(first) > 2 * count
    assert counts[0] == counts[1] < 40


# --- what was looked at before ---------------------------------------------------------------------------------------


def test_where_the_newest_is_damaged_the_older_ones_are_looked_at(fleet: Fleet, home: Path) -> None:
    folder = own(fleet, "keys")
    grown(folder, 9, home)
    night(fleet)
    newest = max(folder.glob("0*Z"))
    os.truncate(newest / "authority.p12", 10)
    result = fleet.keys("ca1", fleet.a)
    assert not result["due"] and codes(result["advisories"]) == ["digest_mismatch"]
    assert result["backup"]["paths"] == [str(sorted(folder.glob("0*Z"))[-2])]


@pytest.mark.parametrize("number", [4, 12], ids=["an older one that comes late", "a newer one that does not follow"])
def test_a_fork_is_seen_whatever_was_looked_at_before(fleet: Fleet, home: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.keyward.pki.plugins.plugin_utils import _memory

    folder = own(fleet, "keys")
    grown(folder, 9, home)
    night(fleet)
    third = next(folder.glob("000003-*"))
    made = shutil.copytree(third, folder / f"{number:06d}-20260202T000000Z")
    document = made / "manifest.json"
    shape = json.loads(document.read_text())
    previous = hashlib.sha256((third / "manifest.json").read_bytes()).hexdigest()
    document.write_text(json.dumps({**shape, "sequence": number, "id": "f" * 32, "previous": previous}))
    (made / "manifest.json.sig").write_bytes(Signers({}).sign(document.read_bytes()))
    for _night in range(2):
        assert "forked" in codes(fleet.keys("ca1", fleet.a)["advisories"])
    fleet.a.renew_keeping()
    assert fleet.keys("ca1", fleet.a)["changed"]
    for day in range(6):  # whichever older ones are looked at again
        monkeypatch.setattr(_memory, "now", lambda day=day: datetime(2027, 1, 1 + day))
        assert codes(fleet.keys("ca1", fleet.a)["advisories"]) == [], day


def test_a_damaged_older_one_is_found_in_its_turn_and_told_until_it_is_mended(
    fleet: Fleet, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.keyward.pki.plugins.plugin_utils import _memory

    folder = own(fleet, "keys")
    grown(folder, 9, home)
    night(fleet)
    today, third = _memory.now(), next(folder.glob("000003-*"))
    bundle = (third / "authority.p12").read_bytes()
    os.truncate(third / "authority.p12", 10)
    told = []
    for day in range(4):
        monkeypatch.setattr(_memory, "now", lambda day=day: today.replace(year=2027, month=1, day=1 + day))
        told.append("digest_mismatch" in codes(fleet.keys("ca1", fleet.a)["advisories"]))
    assert True in told[:3] and told == sorted(told), "found within three days, and told from then on"
    (third / "authority.p12").write_bytes(bundle)
    assert fleet.keys("ca1", fleet.a)["advisories"] == []


# --- hints are never believed ----------------------------------------------------------------------------------------


def test_each_task_leaves_them_and_mends_them(fleet: Fleet) -> None:
    before = hints(fleet)
    names = {f"{path.parent.parent.name}/{path.parent.name}" for path in before}
    assert {f"by-host/{of_host('ca1')}", f"by-host/{of_host('ca2')}"} < names and len(names) == 4 and len(before) == 8
    assert all(path.stat().st_size == 0 and path.stat().st_mode & 0o777 == 0o600 for path in before)
    assert {path.stat().st_mode & 0o777 for store in stores(fleet) for path in store.glob("by-*/*/")} == {0o700}
    without_hints(fleet)
    assert not fleet.keys("ca1", fleet.a)["changed"] and not fleet.back_up("ca1", fleet.a)["changed"]
    assert hints(fleet) == [path for path in before if path.name == own(fleet, "keys").name]


@pytest.mark.parametrize("host", ["a" * 300, "ca/../../etc", "CA1", "ca1.", "Straße", "..", "host with space", "\N{SNOWMAN}"])
def test_any_host_has_a_name_that_file_systems_take(host: str) -> None:
    name = of_host(host)
    assert len(name) < 64 and name == name.lower() and name.isascii() and name != of_host("ca1") and set("/. ").isdisjoint(name)


def planted(fleet: Fleet) -> None:
    """Those of the first CA lead to the second one, and nowhere; and what is no hint lies among them."""
    for store in stores(fleet):
        theirs, mine = (next(path.name for path in authorities(store) if path.name.startswith(f"example-{one}")) for one in "ba")
        for place in store.glob(f"by-*/*/{mine}"):
            place.unlink()
            for name in (theirs, "nobody-" + "0" * 16, "events", "x" * 200):
                (place.parent / name).touch()
            with contextlib.suppress(FileExistsError):
                (place.parent / ("link-" + "0" * 16)).symlink_to("/etc/passwd")


def unreadable(fleet: Fleet) -> None:
    """Files and links in the place of directories."""
    without_hints(fleet)
    for store in stores(fleet):
        (store / "by-key").touch()
        (store / "by-host").symlink_to(fleet.directory)


@pytest.mark.parametrize("spoilt", [None, without_hints, planted, unreadable], ids=["intact", "gone", "planted", "unreadable"])
def test_whoever_changes_them_wins_nothing(fleet: Fleet, tmp_path: Path, spoilt: Callable[[Fleet], None] | None) -> None:
    def spoil() -> None:
        if spoilt:
            spoilt(fleet)

    there = {path: path.lstat().st_mtime_ns for path in tmp_path.iterdir()}
    for host in (showing("ca1", fleet.b), showing("ca1", fleet.a, fleet.b), showing("ca1", fleet.b, fleet.a)):
        spoil()
        given = {"config_file": str(fleet.a.config_file), "stores": [str(tmp_path / "keys")], "password": "correct horse battery staple 1"}
        for task in (CaKeyBackup, CaKeyRestore):
            assert codes(host.run(task, given)) == ["not_at_home"], task
        assert codes(fleet.back_up(host, fleet.a)) == ["not_at_home"]
        assert not any(document.get("files") for _order, document, _check in host.sent)
    spoil()
    night(fleet)
    # A renewed CA stays the authority that it is; under another host's name, and in another place, it is not at home.
    spoil()
    fleet.a.renew_in_place()
    renewed = fleet.keys("ca1", fleet.a)
    assert renewed["changed"] and renewed["authority"]["id"] == fleet.ids["a"]
    spoil()
    assert fleet.back_up("ca1", fleet.a)["authority"]["id"] == fleet.ids["a"]
    for host, ca in (("ca9", fleet.a), ("ca1", fleet.clone(fleet.a))):
        spoil()
        assert codes(fleet.keys(host, ca)) == ["not_at_home"] and codes(fleet.back_up(host, ca)) == ["not_at_home"]
    spoil()
    assert fleet.keys("ca9", fleet.a, authority_id=fleet.ids["a"][:8], move=True)["changed"]
    spoil()
    assert not fleet.keys("ca9", fleet.a)["changed"] and codes(fleet.keys("ca1", fleet.a)) == ["not_at_home"]
    assert fleet.back_up("ca9", fleet.a)["set"]["database"] == fleet.back_up("ca9", fleet.a)["set"]["database"]
    assert len(list(own(fleet, "sets").glob("*-*/"))) == 1, "the database keeps its id"
    assert {path for path in tmp_path.iterdir() if path.name not in ("clone",)} == {*there}


def test_of_two_stores_one_is_enough_to_be_led_by(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is read-only serves without hints."""
    from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise

    initialise(str(tmp_path / "keys2"), "keys")
    both = {"stores": [str(tmp_path / "keys"), str(tmp_path / "keys2")]}
    assert fleet.keys("ca1", fleet.a, **both)["changed"] and not fleet.keys("ca1", fleet.a, **both)["changed"]
    for number in range(20):
        shutil.copytree(next((tmp_path / "keys").glob("example-b*")), tmp_path / "keys" / f"other-{number:016x}")
    shutil.rmtree(tmp_path / "keys" / "by-key")
    shutil.rmtree(tmp_path / "keys" / "by-host")
    assert not any("other-" in path for path in opened(fleet, monkeypatch, lambda: fleet.keys("ca1", fleet.a, **both)))
    without_hints(fleet)
    fleet.a.private_key.unlink()
    given = {"config_file": str(fleet.a.config_file), "password": "correct horse battery staple 1", "stores": [str(tmp_path / "keys")]}
    for task in (CaKeyBackupInfo, CaKeyRestore):
        assert FakeHost("ca1").run(task, given)["authority"]["id"] == fleet.ids["a"]
    assert fleet.a.private_key.exists() and hints(fleet) == []


def test_a_first_one_is_one_only_where_all_of_them_were_looked_at(fleet: Fleet, tmp_path: Path) -> None:
    """A host that is home to one CA has another one that the stores know, and no hint leads there."""
    second = OpensslCa(tmp_path / "second", name="Example Second", algorithm="ed25519")
    first = fleet.keys("ca1", second)["authority"]["id"], fleet.back_up("ca1", second)["set"]["database"]
    for path in hints(fleet):
        if path.name.startswith("example-second"):
            path.unlink()
    again = fleet.keys("ca1", second), fleet.back_up("ca1", second)
    assert [each["changed"] for each in again] == [False, False]
    assert (again[0]["authority"]["id"], again[1]["set"]["database"]) == first
