# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Python for a host that tells how often it was started and what it logged, and that can stop at a chosen moment."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

HOOK = """\
import json, os, sys, time

DIRECTORY = {directory!r}
STOP = {stop!r}
busy = False


def hook(event, arguments):
    global busy
    if busy or event not in ("syslog.syslog", STOP and STOP[0]):
        return
    busy = True
    try:
        if event == "syslog.syslog":
            with open(DIRECTORY + "/syslog", "a") as stream:
                stream.write(json.dumps(arguments[1]) + "\\n")
        elif STOP[1] in str(arguments):
            with open(DIRECTORY + "/stopped.new", "w") as stream:
                stream.write(str(os.getpid()))
            os.rename(DIRECTORY + "/stopped.new", DIRECTORY + "/stopped")
            time.sleep(600)
    finally:
        busy = False


sys.addaudithook(hook)
sys.path.insert(0, {support!r})
from kept_code import keep_code
keep_code()
del sys.path[0]
"""
SUPPORT = Path(__file__).resolve().parent


class HostPython:
    """`program` is for ansible_python_interpreter. A module execution is one start of it. `hooks` is what it has in PYTHONPATH.

    stop_at: (audit event, text in its arguments): where the first such event comes, the process waits to be killed.
    """

    def __init__(self, directory: Path, stop_at: tuple[str, str] | None = None, python: str | Path = sys.executable) -> None:
        self._directory = directory
        self.hooks = hooks = directory / "hooks"
        hooks.mkdir(parents=True)
        (hooks / "sitecustomize.py").write_text(HOOK.format(directory=str(directory), stop=stop_at, support=str(SUPPORT)))
        self.program = directory / "python"
        self.program.write_text(
            f'#!/bin/sh\necho "$$ $*" >> {directory}/starts\nPYTHONDONTWRITEBYTECODE=1 PYTHONPATH={hooks} exec {python} "$@"\n'
        )
        self.program.chmod(0o755)

    @property
    def starts(self) -> list[str]:
        return self._lines("starts")

    @property
    def syslog(self) -> list[str]:
        """What was sent to syslog, by all executions."""
        return [json.loads(line) for line in self._lines("syslog")]

    def wait_until_stopped(self, timeout: float = 60) -> int:
        """The process that waits at `stop_at`."""
        deadline = time.monotonic() + timeout
        while not (self._directory / "stopped").exists():
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.02)
        return int((self._directory / "stopped").read_text())

    def kill(self) -> None:
        os.kill(self.wait_until_stopped(), signal.SIGKILL)

    def _lines(self, name: str) -> list[str]:
        path = self._directory / name
        return path.read_text().splitlines() if path.exists() else []
