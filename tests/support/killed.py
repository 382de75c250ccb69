# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed at a change of the file system."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

RUN: Any = vars(subprocess)["run"]
CALLS = ("link", "rename", "replace", "unlink", "fsync")


def killed_at(number: int, call: Any) -> bool:
    """Runs a call in a child that kills itself before its n-th change of the file system; whether it came that far.

    A command that it runs, such as openssl, is one change, and its end another.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def cut() -> None:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(really: Any) -> Any:
            def changed(*arguments: Any, **known: Any) -> Any:
                cut()
                return really(*arguments, **known)

            return changed

        def ran(*arguments: Any, really: Any = RUN, **known: Any) -> Any:
            cut()
            done = really(*arguments, **known)
            cut()
            return done

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        subprocess.run = ran
        with contextlib.suppress(BaseException):
            call()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
