# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on several cores ends as on one, and leaves no process behind; a large tree is copied so, and tar reads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _backends
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import archive_reading, database, parallel, restore_issued, restore_mass
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.tar_blocks import pieces_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import TellState
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import ISSUED
from support.openssl_ca import OpensslCa
from support.sets import contents_of, details, digested, lose_all_but_keys, make, restore
from tools import require_tool


def children() -> set[str]:
    """The processes that this one has started, ended ones included."""
    return {child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text(encoding="ascii").split()}


def test_what_comes_of_slices_is_in_their_order() -> None:
    def work(number: int) -> Iterator[tuple[int, int, bytes]]:
        for piece in range(3):
            yield number, os.getpid(), bytes(piece * 300_000)

    told = list(parallel.in_order(7, work, processes=3))
    assert [(number, len(data)) for number, _process, data in told] == [(n, p * 300_000) for n in range(7) for p in range(3)]
    assert len({process for _number, process, _data in told} - {os.getpid()}) == 3


@pytest.mark.parametrize("error", [KeywardError("this", "failed", "Do that"), OSError(28, "full", "/there"), None])
def test_an_error_or_a_killed_process_is_said(error: Exception | None) -> None:
    def work(number: int) -> Iterator[int]:
        yield number
        if number == 3:
            if error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise error or AssertionError

    before = children()
    with pytest.raises(type(error) if error else KeywardError, match="this: failed" if isinstance(error, KeywardError) else None):
        list(parallel.in_order(8, work, processes=2))
    assert children() == before, "others may have started some"


def test_where_so_many_processes_are_not_allowed_one_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls, before = os.fork, list[int](), children()

    def fork() -> int:
        calls.append(1)
        if len(calls) == 2:
            raise BlockingIOError(11, "so many")
        return real()

    monkeypatch.setattr(os, "fork", fork)
    pipes = len(os.listdir("/proc/self/fd"))
    assert list(parallel.in_order(5, lambda number: iter([number, os.getpid()]), processes=3)) == [
        each for number in range(5) for each in (number, os.getpid())
    ]
    assert len(calls) == 2 and children() == before and len(os.listdir("/proc/self/fd")) == pipes


@pytest.mark.parametrize("long", [True, False])
def test_what_is_done_beside_gives_the_same_result(long: bool) -> None:
    before = children()
    with parallel.beside(lambda: (os.getpid(), bytes(3_000_000)), long) as result:
        process, data = result()
    assert len(data) == 3_000_000 and (process != os.getpid()) is long and children() == before
    with pytest.raises(KeywardError, match="this: failed"), parallel.beside(refused, long) as result:
        result()
    with pytest.raises(OSError, match="something else"), parallel.beside(lambda: time.sleep(60), long):
        raise OSError("something else")
    assert children() == before


def refused() -> None:
    raise KeywardError("this", "failed", "Do that")


def test_who_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
sys.path[:0] = {sys.path!r}
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import archive_reading, parallel, restore_issued, restore_mass
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.tar_blocks import pieces_of
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import ISSUED
def work(number):
    open(f"{tmp_path}/{{os.getpid()}}", "w").close()
    time.sleep(0.2)
    yield bytes(1 << 20)
for _told in parallel.in_order(1000, work, processes=2):
    print("begun", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout and parent.stdout.readline() == b"begun\n"
        parent.kill()
    processes = [int(path.name) for path in tmp_path.iterdir()]
    assert len(processes) == 2
    until = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]


def test_a_large_database_is_looked_at_by_two_processes(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    (ca.directory / "newcerts" / "77.pem").write_bytes((ca.directory / "newcerts" / "1000.pem").read_bytes())
    backend = _backends.find(Selector(config_file=str(ca.config_file)))
    backend.facts()
    told = [backend.database().look(TellState())]
    monkeypatch.setattr(database, "_LARGE", 0)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    monkeypatch.setattr(parallel, "_Team", CountedTeam)
    told.append(backend.database().look(TellState()))
    assert told[0] == told[1] and CountedTeam.made == 1


class CountedTeam(parallel._Team):
    made = 0

    def __init__(self, *arguments: Any) -> None:
        type(self).made += 1
        super().__init__(*arguments)


def test_a_large_tree_is_copied_by_several_processes(ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With names that need more than a plain header, and a key between them."""
    newcerts, whole = ca.directory / "newcerts", (ca.directory / "newcerts" / "1000.pem").read_bytes()
    names = [f"{number:04}.pem" for number in range(1300)] + ["ü.pem", "l" * 120 + ".pem", 'quote".pem']
    for name in names:
        (newcerts / name).write_bytes(whole)
    (newcerts / "0700.key").write_bytes(ca.private_key.read_bytes())
    sets = []
    for cores in (3, 1):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        manifest = make(ca, tmp_path / f"set{cores}")
        sets.append((manifest.members, manifest.left_out, contents_of(tmp_path / f"set{cores}")))
    assert sets[0] == sets[1]
    members, left_out, held = sets[0]
    assert str(newcerts / "0700.key") in [one["path"] for one in left_out] and members.count == members.held == len(held)
    assert all(held[str(newcerts / name).lstrip("/")] == whole for name in names)
    (tmp_path / "out").mkdir()
    subprocess.run([require_tool("tar"), "-xzf", tmp_path / "set3" / "issued.tar.gz", "-C", tmp_path / "out"], check=True)
    unpacked = tmp_path / "out" / str(newcerts).lstrip("/")
    assert {path.name for path in unpacked.iterdir()} == {path.name for path in newcerts.iterdir()} - {"0700.key"}


@pytest.fixture
def many(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Issued files that make some pieces of an archive, which several processes read."""
    monkeypatch.setattr(archive_reading, "_CHUNK", 4096)
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    names = [f"{number:04}.pem" for number in range(60)]
    for name in names:
        (ca.directory / "newcerts" / name).write_text(f"{name} " * 300)
    return names


def without_keys(ca: OpensslCa) -> dict[str, object]:
    return {name: each for name, each in details(ca.directory).items() if not name.endswith(".key")}


@pytest.mark.parametrize("there", [True, False])
def test_what_was_issued_comes_back_by_several_processes(
    ca: OpensslCa, tmp_path: Path, many: list[str], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    manifest, before = make(ca, tmp_path / "set"), without_keys(ca)
    assert len(pieces_of(str(tmp_path / "set" / ISSUED))) > 20
    lose_all_but_keys(ca)
    if there:
        (ca.directory / "newcerts").mkdir()
    (ca.directory / "newcerts" / "0007.pem").write_text("0007.pem " * 300) if there else None
    predicted = restore(ca, tmp_path / "set", manifest, check=True)
    assert [path.name for path in ca.directory.iterdir() if path.name.startswith(".")] == []
    answer = restore(ca, tmp_path / "set", manifest)
    assert answer.restored == predicted.restored and {Path(one.path).name for one in answer.restored} >= {*many} - {"0007.pem"}
    differing = {name for name in before.keys() | without_keys(ca).keys() if before.get(name) != without_keys(ca).get(name)}
    assert differing <= {"serial", "crlnumber", *(["newcerts", "newcerts/0007.pem"] if there else [])}
    assert not restore(ca, tmp_path / "set", manifest).changed
    monkeypatch.setattr(restore_issued, "MOST_NAMED", 20)
    lose_all_but_keys(ca)
    (told,) = (one for one in restore(ca, tmp_path / "set", manifest).restored if one.path.endswith("newcerts") and one.part == "issued")
    assert told.count == len(many) + 1


@pytest.mark.parametrize("damage", ["cut", "swapped", "longer", "emptied"])
def test_pieces_that_are_not_as_the_list_says_change_nothing(ca: OpensslCa, tmp_path: Path, many: list[str], damage: str) -> None:
    """As whoever can sign a set would make it: all digests are right."""
    manifest, archive = make(ca, tmp_path / "set"), tmp_path / "set" / ISSUED
    pieces, data = pieces_of(str(archive)), archive.read_bytes()
    parts = [data[one.begin : one.begin + one.length] if one.length else data[one.begin :] for one in pieces]
    if damage == "swapped":
        parts[3], parts[4] = parts[4], parts[3]
    elif damage == "longer":  # a count of entries that is not true
        parts[3] = parts[3][:24] + b"\1\0\0\0" + parts[3][28:]
    else:
        parts = parts[:-2] if damage == "cut" else parts[-1:]
    archive.write_bytes(b"".join(parts))
    lose_all_but_keys(ca)
    before = details(ca.directory)
    with pytest.raises(KeywardError, match="the set can't be used"):
        restore(ca, tmp_path / "set", digested(tmp_path / "set", manifest))
    assert details(ca.directory) == before


def test_a_private_directory_that_was_swapped_is_not_used(
    ca: OpensslCa, tmp_path: Path, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is given to another of root's before the first process sees what the others have made."""
    manifest, newcerts = make(ca, tmp_path / "set"), ca.directory / "newcerts"
    lose_all_but_keys(ca)
    newcerts.mkdir()
    real = restore_mass.MassRestore.take

    def swapped(mass: restore_mass.MassRestore, made: restore_mass.Made) -> None:
        if (ca.directory / "private").exists():
            (newcerts / made.name).rename(tmp_path / "taken")
            (ca.directory / "private").rename(newcerts / made.name)
        real(mass, made)

    monkeypatch.setattr(restore_mass.MassRestore, "take", swapped)
    with pytest.raises(KeywardError, match="could not be put back"):
        restore(ca, tmp_path / "set", manifest)
    assert not (ca.directory / "index.txt").exists()
