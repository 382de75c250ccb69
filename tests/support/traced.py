# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processes of a run did, as strace saw it: the programs they started and the bytes they wrote."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

STARTS = ("execve", "execveat")
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg")
COPIES = ("sendfile", "copy_file_range", "splice")
OPTIONS = ("-f", "-q", "-v", "-y", "-s", "4000000", "-e", "signal=none", "-e", "trace=" + ",".join((*STARTS, *WRITES, *COPIES)))

CALL = re.compile(rb"^(\d+) +(\w+)\((.*)$", re.DOTALL)
STRING = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"')
DESCRIPTOR = re.compile(rb"\d+<((?:[^>\\]|\\.)*)>")


class Call(NamedTuple):
    """A system call; `data` holds its strings (argv and environment, or the bytes written), `files` the paths of its descriptors."""

    process: int
    name: str
    files: list[str]
    data: list[bytes]

    @property
    def starts_a_program(self) -> bool:
        return self.name in STARTS

    @property
    def copies(self) -> bool:
        return self.name in COPIES

    @property
    def file(self) -> str | None:
        """The path of the regular file that is written; None for pipes, sockets and devices."""
        path = self.files[-1 if self.name in COPIES and self.name != "sendfile" else 0] if self.files else ""
        return path if path.startswith("/") and not re.match("/dev/(?!shm/)", path) else None


def traced_commands(strace: str, commands: Path, directory: Path) -> Path:
    """A folder with an ansible-playbook that is traced with all its children; the trace lies beside it, see `calls`."""
    folder = directory / "bin"
    folder.mkdir(parents=True)
    program = folder / "ansible-playbook"
    line = shlex.join([strace, *OPTIONS, "--seccomp-bpf", "-o", str(directory / "trace"), str(commands / "ansible-playbook")])
    program.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    program.chmod(0o700)
    return folder


@contextlib.contextmanager
def traced_process(strace: str, process: int, trace: Path) -> Iterator[None]:
    """Traces a process that runs already, with the children that it starts."""
    tracer = subprocess.Popen([strace, *OPTIONS, "-o", str(trace), "-p", str(process)], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while b"TracerPid:\t0\n" in Path(f"/proc/{process}/status").read_bytes():
            assert tracer.poll() is None and time.monotonic() < deadline, tracer.stderr and tracer.stderr.read()
            time.sleep(0.02)
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=30)


def calls(trace: Path) -> Iterator[Call]:
    for line in trace.read_bytes().splitlines():
        match = CALL.match(line)
        if match:
            process, name, arguments = match.groups()
            between = STRING.split(arguments)  # and the strings
            strings = [_plain(string) for string in between[1::2]]
            files = [_plain(path).decode("utf-8", "replace") for path in DESCRIPTOR.findall(b"".join(between[::2]))]
            yield Call(int(process), name.decode(), files, strings)


def _plain(string: bytes) -> bytes:
    return string.decode("unicode_escape").encode("latin-1") if b"\\" in string else string
