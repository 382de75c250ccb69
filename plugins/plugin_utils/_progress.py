# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a long task says while it runs; may change in any release.

One line every few seconds through Ansible's display, on stderr only: not in the log, nor in a callback's output. A worker's display passes
it to the main process, so that lines of several hosts don't mix. A task that ends within the first interval says nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import typing as t

from ansible.utils.display import Display

VARIABLE, INTERVAL = "KEYWARD_PROGRESS", 10.0  # seconds; 0 says nothing


class Progress:
    """Says what a task waits for, as long as its block takes.

    C(so_far): how many bytes are done, None where that can't be told, C(of) how many; C(last): how many seconds it took the last time.
    """

    def __init__(
        self, host: str, what: str, *, so_far: t.Callable[[], int | None] | None = None, of: int = 0, last: int | None = None
    ) -> None:
        self._host, self._what, self._so_far, self._of, self._last = host, what, so_far, of, last
        self._over, self._begin = threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        if _interval() > 0:
            self._thread.start()
        return self

    def __exit__(self, *_exception: t.Any) -> None:
        self._over.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_interval()):
            with contextlib.suppress(OSError):  # the terminal may be gone: that must not stop a backup
                Display().display(self._line(), stderr=True, screen_only=True)

    def _line(self) -> str:
        done = self._so_far() if self._so_far else None
        how_far = "" if done is None else f" {_size(done)} of {_size(self._of)} ({100 * done // max(self._of, 1)} %),"
        last = "" if self._last is None else f"; the last time it took {_span(self._last)}"
        return f"[{self._host}] {self._what}:{how_far} {_span(int(time.monotonic() - self._begin))}{last}"


def _interval() -> float:
    with contextlib.suppress(ValueError):
        return max(float(os.environ.get(VARIABLE, INTERVAL)), 0.0)
    return INTERVAL


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60} s"


def _size(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def written(path: str) -> t.Callable[[], int | None]:
    """How much of a file has arrived."""

    def so_far() -> int | None:
        try:
            return os.stat(path).st_size
        except OSError:
            return None

    return so_far


def read(path: str) -> t.Callable[[], int | None]:
    """How far this process, or a program that it started, has read a file (Linux)."""

    def so_far() -> int | None:
        with contextlib.suppress(OSError, ValueError, StopIteration):
            status = os.stat(path)
            return max((_position(one, status) for one in _with_children(str(os.getpid()))), default=0) or None
        return None

    return so_far


def _with_children(process: str) -> t.Iterator[str]:
    yield process
    for task in os.listdir(f"/proc/{process}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{process}/task/{task}/children", encoding="ascii") as children:
            for child in children.read().split():
                yield from _with_children(child)


def _position(process: str, file: os.stat_result) -> int:
    found = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{process}/fd/{name}"), file):
                    with open(f"/proc/{process}/fdinfo/{name}", encoding="ascii") as details:
                        found = max(found, int(details.readline().split()[1]))  # pos: 4096
    return found
