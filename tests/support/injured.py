# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A call in a child of this process whose n-th change of the file system goes wrong: the child is killed there, or gets an error.

outcome, steps = injured(call, 3, errno.ENOSPC)    # "done", "said: <message>", "broke: <traceback>" or "killed"; changes until then
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import traceback
from collections.abc import Callable
from typing import Any

RUN: Any = vars(subprocess)["run"]
# What changes a file system, as Python calls it. Written data shows in fsync: all that is kept is synced.
CALLS = ("link", "rename", "replace", "unlink", "fsync", "mkdir", "rmdir", "symlink", "fchmod", "fchown", "chmod", "chown", "ftruncate")
KILL = -1


def injured(call: Callable[[], dict[str, Any]], number: int, error: int) -> tuple[str, int]:
    """C(error): what the n-th change fails with, KILL to kill the child there. C(number) 0: nothing goes wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        told = json.dumps(_told(call, number, error)).encode()
        os.write(writing, told[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    return tuple(json.loads(data)) if data else ("killed", number)  # type: ignore[return-value]


def _told(call: Callable[[], dict[str, Any]], number: int, error: int) -> tuple[str, int]:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == number and error == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if steps == number:
            raise OSError(error, os.strerror(error))

    def stepping(really: Any) -> Any:
        def changed(*arguments: Any, **known: Any) -> Any:
            step()
            return really(*arguments, **known)

        return changed

    def ran(*arguments: Any, **known: Any) -> Any:
        """A command is one change, and its end another. It gets no error of its own here."""
        nonlocal steps
        for end in (False, True):
            done = RUN(*arguments, **known) if end else None
            steps += 1
            if steps == number and error == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
        return done

    for name in CALLS:
        setattr(os, name, stepping(getattr(os, name)))
    subprocess.run = ran
    try:
        result = call()
        return (f"said: {result['msg']}" if result.get("failed") else "done"), steps
    except BaseException:
        return f"broke: {traceback.format_exc()[-2000:]}", steps


def at_once(*calls: Callable[[], dict[str, Any]]) -> list[str]:
    """The outcomes of calls that run at the same time, each in a child of its own."""
    ends = []
    for call in calls:
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            os.write(writing, json.dumps(_told(call, 0, 0)).encode()[:60_000])
            os._exit(0)
        os.close(writing)
        ends.append(reading)
    outcomes = []
    for reading in ends:
        with os.fdopen(reading, "rb") as stream:
            outcomes.append(json.loads(stream.read())[0])
        os.wait()
    return outcomes
