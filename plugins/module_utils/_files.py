# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: bounded reads, directories and locks; may change in any release."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, expected_label, protect_path

LARGEST_FILE = 16 * 1024 * 1024
LONGEST_WAIT = 60  # seconds, for a lock


def read_file(path: str, what: str, limit: int = LARGEST_FILE) -> bytes:
    """The bytes of a regular file of at most C(limit) bytes. A FIFO or a device is refused, never waited for.

    Raises KeywardError, FileNotFoundError where there is nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise KeywardError(f"{what} {path} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise KeywardError(f"{what} {path} can't be read", "it is not a regular file", "Give the path of a file")
    with os.fdopen(descriptor, "rb") as stream:
        try:
            data = stream.read(limit + 1)
        except OSError as exc:
            raise KeywardError(f"{what} {path} can't be read", os_cause(exc), "Check the file system it is on") from exc
    if len(data) > limit:
        raise KeywardError(f"{what} {path} can't be read", f"it is larger than {limit} bytes", "Check that this is the right file")
    return data


def read_if_there(path: str, what: str, limit: int = LARGEST_FILE) -> t.Optional[bytes]:
    """As C(read_file), None where there is nothing. Raises KeywardError."""
    try:
        return read_file(path, what, limit)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def locked(directories: t.Iterable[str], what: str) -> t.Iterator[t.Tuple[int, ...]]:
    """Keeps other runs from changing what is in these directories; those that don't exist are left out. C(what) says what fails.

    Waits C(LONGEST_WAIT) at most. Yields the descriptors: a program that inherits them holds the locks until it ends, too.
    """
    import fcntl

    held: t.List[int] = []
    deadline = time.monotonic() + LONGEST_WAIT
    try:
        # Each once, in one order for all runs: none waits for a lock while it holds one that the other waits for.
        for directory in sorted({os.path.realpath(directory) for directory in directories}):
            try:
                held.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            except FileNotFoundError:
                continue
            except OSError as exc:
                remedy = "Let the user that runs this task read it (become)"
                raise KeywardError(what, f"the directory {directory} can't be locked: {os_cause(exc)}", remedy) from exc
            while True:
                try:
                    fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    pass
                if time.monotonic() > deadline:
                    why = f"another run has been at work in {directory} for more than {LONGEST_WAIT} seconds"
                    raise KeywardError(what, why, "Wait until it has ended, and run the task again")
                time.sleep(0.1)
        yield tuple(held)
    finally:
        for descriptor in held:
            os.close(descriptor)


def wait_until_gone(path: t.Optional[str], what: str) -> None:
    """Wait for the lock file of another program, C(LONGEST_WAIT) at most. Raises KeywardError where it stays."""
    deadline = time.monotonic() + LONGEST_WAIT
    while path and os.path.lexists(path):
        if time.monotonic() > deadline:
            why = f"another program is at work: {path} has been there for more than {LONGEST_WAIT} seconds"
            raise KeywardError(what, why, "Wait until it has ended, and run the task again. If there is none, remove that file")
        time.sleep(0.1)


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
    """Where a file waits to take a place in one step."""
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


def make_directory(path: str, mode: int) -> None:
    """A directory and those above it, where they are missing. Raises KeywardError."""
    try:
        make_directories(path, Protection(mode))
    except OSError as exc:
        raise KeywardError(f"the directory {path} was not made", os_cause(exc), "Put that right and run the task again") from exc
