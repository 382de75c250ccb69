# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks: only who may write can hold one, none waits for ever, and nothing of one is left."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _lock
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._lock import LOCK, locked
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import MARKER, initialise
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS

WHAT = "nothing was done"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lock, "LONGEST_WAIT", 0.3)


def test_one_at_a_time_and_who_holds_it_is_said(tmp_path: Path) -> None:
    with locked([str(tmp_path), str(tmp_path / "gone")], WHAT) as held:
        assert len(held) == 1
        with pytest.raises(KeywardError, match=rf"{WHAT}: another run .* \({os.uname().nodename}, process {os.getpid()}, since 2"):
            locked([str(tmp_path)], WHAT).__enter__()
    with locked([str(tmp_path)], WHAT):
        pass
    assert list(tmp_path.iterdir()) == []


def test_many_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []
    wrong: list[object] = []

    def run(number: int) -> None:
        try:
            for _turn in range(20):
                with locked([str(tmp_path)], WHAT):
                    inside.append(number)
                    if inside != [number]:
                        wrong.append(list(inside))
                    inside.remove(number)
        except KeywardError as exc:
            wrong.append(exc)

    _lock.LONGEST_WAIT = 60
    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("directory", "file"), [(0o755, 0o600), (0o750, 0o600), (0o2770, 0o660)])
def test_who_may_only_read_there_can_t_open_it(tmp_path: Path, directory: int, file: int) -> None:
    tmp_path.chmod(directory)
    with locked([str(tmp_path)], WHAT):
        status = (tmp_path / LOCK).stat()
        assert stat.S_IMODE(status.st_mode) == file and status.st_gid == tmp_path.stat().st_gid


def test_a_reader_stops_no_store(tmp_path: Path) -> None:
    initialise(str(tmp_path / "store"), "keys", 0o750)
    with (tmp_path / "store" / MARKER).open() as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        descriptor = os.open(tmp_path / "store", os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with Store(str(tmp_path / "store"), BACKUPS, None).locked():
            pass
        os.close(descriptor)


def test_a_lock_of_a_run_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("ca1, process 1, since 2026-01-01T00:00:00Z")
    with locked([str(tmp_path)], WHAT):
        pass


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    (tmp_path / LOCK).symlink_to(tmp_path / "other")
    with pytest.raises(KeywardError, match="can't be locked"):
        locked([str(tmp_path)], WHAT).__enter__()
    assert (tmp_path / "other").read_text() == "x"


def test_where_the_file_system_has_no_locks_that_is_said_unless_it_was_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", without)
    initialise(str(tmp_path / "one"), "keys")
    with pytest.raises(KeywardError, match="can't lock files.*share_permissions: accepted"):
        Store(str(tmp_path / "one"), BACKUPS, None).locked().__enter__()
    initialise(str(tmp_path / "two"), "keys", accept_share_permissions=True)
    with Store(str(tmp_path / "two"), BACKUPS, None).locked():
        pass
    assert [path.name for path in tmp_path.glob("*/*")] == [MARKER, MARKER]
