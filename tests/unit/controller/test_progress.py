# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a long task says while it runs: on stderr alone, how far it is, and nothing where it is short or turned off."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.plugin_utils._progress import VARIABLE, Progress, read, written
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The lines, and how Ansible's display was asked to show them."""
    found: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setenv(VARIABLE, "0.05")
    monkeypatch.setattr("ansible.utils.display.Display.display", lambda _self, text, **how: found.append((text, how)))
    return found


def test_a_backup_says_how_far_it_is(tmp_path: Path, shown: list[Any]) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    initialise(str(tmp_path / "store"), "databases")
    host, arguments = FakeHost("ca1"), {"config_file": str(ca.config_file), "stores": [str(tmp_path / "store")]}

    def slowly(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        time.sleep(1.3 if order == "database.copy" else 0)
        return answer

    host.forge = slowly
    first = host.run(CaDatabaseBackup, arguments)
    ours = [(text, how) for text, how in shown if text.startswith("[ca1] ")]
    assert first["changed"] and ours and all(how == {"stderr": True, "screen_only": True} for _text, how in ours)
    lines = [text for text, _how in ours]
    assert any(re.fullmatch(r"\[ca1\] ca_database_backup: the host copies its database: \d s", line) for line in lines), lines
    shown.clear()
    host.run(CaDatabaseBackup, {**arguments, "full": True})
    (ca.directory / "certs" / "more.pem").write_text("more\n")
    host.run(CaDatabaseBackup, {**arguments, "full_after": {"sets": 0}})
    assert any(line.endswith("; the last time it took 1 s") for line, _how in shown), "as the newest manifest says"


def test_a_transfer_says_how_much_of_it(tmp_path: Path, shown: list[Any]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(4 << 20))
    target.write_bytes(bytes(1 << 20))
    with Progress("ca1", "fetches x", so_far=written(str(target)), of=4 << 20):
        time.sleep(0.2)
    assert shown and shown[0][0].startswith("[ca1] fetches x: 1.0 MiB of 4.0 MiB (25 %), 0 s")
    shown.clear()
    program = "import sys, time; stream = open(sys.argv[1], 'rb'); stream.read(2 << 20); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(source)], stdout=subprocess.PIPE) as reading:
        assert reading.stdout and reading.stdout.readline()
        with Progress("ca1", "sends x", so_far=read(str(source)), of=4 << 20):
            time.sleep(0.3)
        reading.kill()
    assert shown and "2.0 MiB of 4.0 MiB (50 %)" in shown[-1][0]
    assert read(str(source))() is None and written(str(tmp_path / "nothing"))() is None


@pytest.mark.parametrize(("value", "said"), [("0", False), ("-1", False), ("60", False), ("", False), ("soon", False), ("0.05", True)])
def test_nothing_is_said_of_what_is_short_or_turned_off(shown: list[Any], monkeypatch: pytest.MonkeyPatch, value: str, said: bool) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with Progress("ca1", "works"):
        time.sleep(0.2)
    assert bool(shown) is said and threading.active_count() == 1
    before = len(shown)
    time.sleep(0.1)
    assert len(shown) == before, "it ends with its block"


def test_a_terminal_that_has_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_text: Any, **_how: Any) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setenv(VARIABLE, "0.02")
    monkeypatch.setattr("ansible.utils.display.Display.display", gone)
    with Progress("ca1", "works"):
        time.sleep(0.1)
