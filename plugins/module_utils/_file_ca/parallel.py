# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: work in slices on the cores that are there, and what comes of it in order; may change in any release.

Each process does each n-th slice and tells what came of it by a pipe of its own. A process whose parent is gone finds nobody at the
other end of its pipe and ends, so that a killed task leaves none behind.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import struct
import threading
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

_LENGTH = struct.Struct("<Q")
_MOST_AHEAD = 8 << 20  # bytes that a process may be ahead of the others
_MOST = 8  # processes

Work = t.Callable[[int], t.Iterator[t.Any]]
Result = t.TypeVar("Result")


def cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def in_order(slices: int, work: Work, processes: t.Optional[int] = None) -> t.Iterator[t.Any]:
    """What C(work) yields for each slice, in the order of the slices. An exception in it is raised here."""
    count = min(processes or cores(), slices, _MOST)
    team = _team(count, slices, work) if count > 1 else None
    if team is None:
        for number in range(slices):
            yield from work(number)
        return
    try:
        for number in range(slices):
            yield from team.of_slice(number)
    finally:
        team.end()


@contextlib.contextmanager
def beside(work: t.Callable[[], Result], is_long: bool = True) -> t.Iterator[t.Callable[[], Result]]:
    """A function for what C(work) returns or raises. Another process does it meanwhile; where that can't be or it is not long, this one
    does it when the function is called."""
    team = _team(1, 1, lambda _number: iter([work()])) if is_long and cores() > 1 else None
    if team is None:
        yield work
        return
    try:
        yield lambda: next(team.of_slice(0))
    finally:
        team.end()


def _team(count: int, slices: int, work: Work) -> t.Optional[_Team]:
    if threading.active_count() == 1:  # a fork copies the locks of threads, and not the threads
        with contextlib.suppress(OSError):  # so many processes are not allowed
            return _Team(count, slices, work)
    return None


class _Team:
    def __init__(self, count: int, slices: int, work: Work) -> None:
        self._pipes: t.List[int] = []
        self._processes: t.List[int] = []
        self._ended: t.Set[int] = set()
        self._got = [bytearray() for _each in range(count)]
        gc.collect()
        gc.freeze()  # pages that no collector marks stay shared
        try:
            self._begin(count, slices, work)
        except OSError:
            self.end()
            raise
        finally:
            gc.unfreeze()

    def _begin(self, count: int, slices: int, work: Work) -> None:
        for number in range(count):
            reading, writing = os.pipe()
            self._pipes.append(reading)
            try:
                process = os.fork()
                if process == 0:
                    for pipe in self._pipes:
                        os.close(pipe)
                    _work(writing, range(number, slices, count), work)
            finally:
                os.close(writing)
            self._processes.append(process)

    def of_slice(self, number: int) -> t.Iterator[t.Any]:
        whose = number % len(self._pipes)
        while True:
            kind, told = self._message(whose)
            if kind == "end":
                return
            if kind == "refused":
                raise KeywardError.quoted(*told)
            if kind == "error":
                raise told
            yield told

    def _message(self, whose: int) -> t.Tuple[str, t.Any]:
        got = self._got[whose]
        while True:
            if len(got) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(got)[0]
                if len(got) >= end:
                    message = pickle.loads(bytes(got[_LENGTH.size : end]))  # noqa: S301 - a process of this one wrote it
                    del got[:end]
                    return t.cast(t.Tuple[str, t.Any], message)
            self._receive(whose)

    def _receive(self, whose: int) -> None:
        """From all that are not too far ahead, so that none waits for the one whose turn it is."""
        if whose in self._ended:
            raise KeywardError("the work was not done", "a process that did a part of it was ended", "Run the task again")
        waiting = [n for n in range(len(self._pipes)) if n == whose or (n not in self._ended and len(self._got[n]) < _MOST_AHEAD)]
        ready = select.poll()
        for number in waiting:
            ready.register(self._pipes[number], select.POLLIN)
        for pipe, _events in ready.poll():
            data = os.read(pipe, 1 << 20)
            number = self._pipes.index(pipe)
            self._got[number] += data
            if not data:
                self._ended.add(number)

    def end(self) -> None:
        for pipe in self._pipes:
            os.close(pipe)
        for process in self._processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(process, 0)


def _work(pipe: int, slices: t.Iterable[int], work: Work) -> t.NoReturn:
    """In a process of its own."""
    code = 1
    try:
        for number in slices:
            for told in work(number):
                _tell(pipe, "told", told)
            _tell(pipe, "end", None)
        code = 0
    except BrokenPipeError:
        pass
    except KeywardError as exc:
        _tell(pipe, "refused", (str(exc), exc.findings))
    except BaseException as exc:
        with contextlib.suppress(Exception):  # then the parent sees that this process has ended
            _tell(pipe, "error", exc)
    finally:
        os._exit(code)


def _tell(pipe: int, kind: str, told: t.Any) -> None:
    message = pickle.dumps((kind, told), pickle.HIGHEST_PROTOCOL)
    left = memoryview(_LENGTH.pack(len(message)) + message)
    while left:
        left = left[os.write(pipe, left) :]
