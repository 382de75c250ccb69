# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: directories, what is renamed and synced in them, and lists; may change in any release."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, expected_label, give_mode, protect_path

_LARGEST_LIST = 1 << 20


def sync_directory(path: str) -> None:
    """Make renames and new names in a directory durable, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # CIFS and some FUSE file systems can't fsync a directory; the file itself was fsynced
    finally:
        os.close(descriptor)


def beside(path: str) -> str:
    """Where a new file is written before one rename puts it in place."""
    return f"{path}.new"


def take_place(path: str) -> None:
    """Raises OSError."""
    os.replace(beside(path), path)
    sync_directory(os.path.dirname(path))


@contextlib.contextmanager
def writing(what: str) -> t.Iterator[None]:
    """Raises KeywardError for an OSError."""
    try:
        yield
    except OSError as exc:
        raise KeywardError(f"{what} was not written", os_cause(exc), "Put that right and run the task again") from exc


def move_aside(path: str, when: str) -> str:
    """Rename a file to C(<path>.set-aside-<when>), never over another; returns the new path. Raises OSError."""
    for attempt in range(100):
        aside = f"{path}.set-aside-{when}" + (f"-{attempt}" if attempt else "")
        if not os.path.lexists(aside):
            os.rename(path, aside)
            sync_directory(os.path.dirname(path))
            return aside
    raise FileExistsError(17, "exists", path)


def make_directories(path: str, protection: Protection) -> t.List[str]:
    """Create a directory and those above it that are missing; returns those made, outermost first. Raises OSError, KeywardError."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        os.mkdir(directory, 0o700)
        label = expected_label(directory, stat.S_IFDIR)
        protect_path(directory, replace(protection, label=label), os.O_DIRECTORY)
        sync_directory(os.path.dirname(directory))
    return missing[::-1]


def make_directory(path: str, mode: int, attempts: int = 10) -> None:
    """Create a directory and its parents where they are missing; another run may be making them. Raises KeywardError."""
    try:
        make_directories(path, Protection(mode))
    except OSError as exc:
        if isinstance(exc, FileExistsError) and attempts:
            return make_directory(path, mode, attempts - 1)
        raise KeywardError(f"the directory {path} was not made", os_cause(exc), "Put that right and run the task again") from exc


def add_line(path: str, line: str, mode: t.Optional[int]) -> None:
    """Append to a file; create it where it is missing. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.ENXIO, "not a regular file", path)
        fcntl.flock(stream, fcntl.LOCK_EX)
        there = stream.read(_LARGEST_LIST)
        if line.encode() in there.splitlines():
            return
        stream.write((b"" if not there or there.endswith(b"\n") else b"\n") + line.encode() + b"\n")
        if mode is not None and not there:
            give_mode(stream.fileno(), mode, path)
        os.fsync(stream.fileno())
