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

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import parallel
from support.openssl_ca import OpensslCa
from support.sets import contents_of, make
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


def test_who_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
sys.path[:0] = {sys.path!r}
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import parallel
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
