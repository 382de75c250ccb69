# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host sends is cut where it goes on beyond what it said, or beyond what an answer may take."""

from __future__ import annotations

import errno
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.plugin_utils._limits import file_size_limited, memory_limited
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa

MIB = 1 << 20


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


def limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(what) for what in (resource.RLIMIT_FSIZE, resource.RLIMIT_DATA)]


def test_a_file_ends_at_the_size_that_was_said(tmp_path: Path) -> None:
    before = limits()
    with file_size_limited(MIB), pytest.raises(OSError) as caught:
        shutil.copyfile("/dev/zero", tmp_path / "zeros")
    assert caught.value.errno == errno.EFBIG and (tmp_path / "zeros").stat().st_size == MIB
    # Of a program that the connection runs, too.
    with file_size_limited(MIB):
        done = subprocess.run(["dd", "if=/dev/zero", f"of={tmp_path / 'more'}", "bs=64k"], capture_output=True, check=False, timeout=60)
    assert done.returncode != 0 and (tmp_path / "more").stat().st_size == MIB and limits() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where the system doesn't tell what a process uses, nothing is limited")
def test_an_answer_takes_no_more_memory_than_it_may() -> None:
    before = limits()
    with memory_limited(32 * MIB), pytest.raises(MemoryError):
        bytearray(2048 * MIB)  # more than what earlier tests may have left to be used again
    assert limits() == before and len(bytearray(64 * MIB)) == 64 * MIB


def test_a_host_that_answers_without_end_is_cut(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeHost()

    def endless(_order: str, _document: dict[str, Any]) -> dict[str, Any]:
        return {"msg": "x" * (2048 * MIB)}  # more than what earlier tests may have left to be used again

    host.answer = endless
    monkeypatch.setattr("ansible_collections.keyward.pki.plugins.module_utils._orders.database.StateTold.ROOM", 32 * MIB)
    result = host.run(CaDatabaseBackup, {"config_file": str(ca.config_file), "host_store": "/srv/sets"})
    assert result["failed"] and "answers more than fits" in result["msg"]


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        ({"path": "/dev/zero"}, "the file would be larger than allowed"),
        ({"path": "/dev/null"}, "not as long as the host ca1 had said"),
        ({"size": 1 << 62}, "are free in"),
        ({"size": -1}, "are free in"),
    ],
)
def test_a_host_that_sends_another_file_than_it_said(ca: OpensslCa, tmp_path: Path, forged: dict[str, Any], said: str) -> None:
    initialise(str(tmp_path / "sets"), "databases")
    host = FakeHost()

    def another(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        if order == "database.copy":
            answer["files"][0].update(forged)
        return answer

    host.forge = another
    result = host.run(CaDatabaseBackup, {"config_file": str(ca.config_file), "stores": [str(tmp_path / "sets")]})
    assert result["failed"] and said in result["msg"]
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["keyward-store.json"]


class TimedOut(BaseException):
    """As core raises it."""


def test_a_slow_host_is_ended_by_the_timeout_of_its_task(ca: OpensslCa, tmp_path: Path) -> None:
    """And by nothing else; nothing stays behind."""
    initialise(str(tmp_path / "sets"), "databases")
    host = FakeHost()

    def slow(_source: str, target: str) -> None:
        with Path(target).open("wb") as stream:
            while True:
                stream.write(b"x")
                time.sleep(0.01)

    def ended(_number: int, _frame: Any) -> None:
        raise TimedOut

    host.fetch_file = slow
    before = signal.signal(signal.SIGALRM, ended)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(TimedOut):
            host.run(CaDatabaseBackup, {"config_file": str(ca.config_file), "stores": [str(tmp_path / "sets")]})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["keyward-store.json"]
