# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warm processes of simulated hosts are to be told from new ones by their speed alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adcs.machine import TESTS
from support import adcs
from support.adcs import AdcsHost, powershell

PROCESS = "[Diagnostics.Process]::GetCurrentProcess().Id"


@pytest.fixture
def host(tmp_path: Path) -> AdcsHost:
    return AdcsHost(tmp_path / "ca01")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A server of this test's own, with one PowerShell; a process that starts it can be killed."""
    place = tmp_path / "server"
    place.mkdir()
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1000")
    command = [sys.executable, str(TESTS / "adcs" / "server.py"), str(place)]
    process = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.Popen({command}, stdin=subprocess.PIPE).wait()"])
    until((place / "socket").exists)
    monkeypatch.setattr(adcs, "warm", lambda: str(place / "socket"))
    yield process
    process.kill()
    process.wait()


def until(over: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not over():
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.05)


def gone(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(") ")[2][0] == "Z"
    except OSError:
        return True


def test_a_request_finds_nothing_of_an_earlier_one(server: object, host: AdcsHost, tmp_path: Path) -> None:
    left = """
        $env:LEFT = 'x'; $global:left = 'x'; function global:Get-Left { 'x' }; Set-Alias -Scope Global left Get-Left
        $global:ErrorActionPreference = 'Continue'; Set-Location /; Import-Module PKI; Get-Service CertSvc | Out-Null; """
    look = f"""
        $found = @($env:LEFT, $global:left, (Get-Command Get-Left, left -ErrorAction SilentlyContinue), $global:ErrorActionPreference)
        $found += @(Get-Module PKI, AdcsSimulation).Count, [bool](Get-PSDrive HKLM -ErrorAction SilentlyContinue)
        $found += "$PWD", $env:KEYWARD_ADCS_STATE, {PROCESS}
        ConvertTo-Json -InputObject $found"""
    other = AdcsHost(tmp_path / "other", cold=True)
    before, first = powershell(host, look), powershell(host, left + PROCESS)
    after, cold = powershell(host, look), powershell(other, look)
    *found, state, process = json.loads(after)
    assert process == first == json.loads(before)[-1], "another process answered"
    assert found == json.loads(before)[:-2] == json.loads(cold)[:-2]
    assert state == str(host.state)


def test_who_is_killed_takes_with_him_what_ran_for_him(server: object, host: AdcsHost, tmp_path: Path) -> None:
    asks = f"from support.adcs import *; AdcsHost.environment = {host.environment}; "
    asks += f"powershell(AdcsHost(Path({str(host.state)!r})), {f'{PROCESS} > {tmp_path}/process; Start-Sleep 600'!r})"
    asker = subprocess.Popen([sys.executable, "-c", asks], env={**os.environ, "PYTHONPATH": str(TESTS)})
    until(lambda: (tmp_path / "process").exists() and (tmp_path / "process").read_text().strip())
    asker.kill()
    asker.wait()
    first = int((tmp_path / "process").read_text())
    until(lambda: gone(first))
    assert powershell(host, PROCESS) != first

    host.switch(hangs=["-ping"])
    done = tmp_path / "done"
    command = [host.system_root / "System32" / "certutil.exe", "-ping"]
    with done.open("wb") as stream:
        program = subprocess.Popen(command, env={**os.environ, **host.environment}, stdout=stream)
    until(lambda: host.ran("-ping"))
    program.kill()
    program.wait()
    until(lambda: not [each for each in Path("/proc").glob("[0-9]*/fd/1") if each.exists() and os.path.realpath(each) == str(done)])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_everything_ends_with_who_started_it(server: subprocess.Popen[bytes], host: AdcsHost, how: signal.Signals) -> None:
    first = powershell(host, PROCESS)
    place = Path(host.environment["KEYWARD_ADCS_SERVER"]).parent
    server.send_signal(how)
    until(lambda: gone(first) and not place.exists())
