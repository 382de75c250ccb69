# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: locks of directories, which only those who may write there can hold; may change in any release.

The lock file exists only while somebody holds the lock or waits for it, so a user who may only read the directory can't block anybody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text

LOCK = ".keyward.lock"
LONGEST_WAIT = 60  # seconds, for a lock
# The errors by which a file system says that it has no locks.
_CAN_T_LOCK = (errno.EBADF, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EACCES)
_LONGEST_HOLDER = 200


@contextlib.contextmanager
def locked(directories: t.Iterable[str], what: str, may_lack_locks: bool = False) -> t.Iterator[t.Tuple[int, ...]]:
    """Keeps other runs from changing what is in these directories. C(what) says what fails.

    Those that don't exist, or where this user can't write, are left out. Waits C(LONGEST_WAIT) at most.
    C(may_lack_locks): goes on without a lock where the file system has none.
    Yields the descriptors: a program that inherits them holds the locks until it ends, too.
    """
    held: t.List[t.Tuple[str, int]] = []
    deadline = time.monotonic() + LONGEST_WAIT
    try:
        # Each once, in the same order in all runs: no deadlock.
        for directory in sorted({os.path.realpath(directory) for directory in directories}):
            descriptor = _lock(directory, what, deadline, may_lack_locks)
            if descriptor is not None:
                held.append((os.path.join(directory, LOCK), descriptor))
        yield tuple(descriptor for _path, descriptor in held)
    finally:
        for path, descriptor in held:
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(descriptor)


def _lock(directory: str, what: str, deadline: float, may_lack_locks: bool) -> t.Optional[int]:
    """The descriptor of a lock that is held; None where there is nothing to lock."""
    import fcntl

    path = os.path.join(directory, LOCK)
    while True:
        try:
            descriptor = _opened(directory)
        except OSError as exc:
            if not os.access(directory, os.W_OK | os.X_OK):
                return None  # this run can't change anything there either
            # Another user's lock file disappears when its holder is done, or gets the group's rights in a moment. On a Windows share a file
            # that is being removed can for a moment neither be opened nor created.
            if exc.errno not in (errno.EACCES, errno.ENOENT) or time.monotonic() > deadline:
                remedy = "Take that file away if no task is at work there"
                raise KeywardError(what, f"{path} can't be locked: {os_cause(exc)}", remedy) from exc
            time.sleep(0.1)
            continue
        holder = None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us has removed the file: lock the new one.
            if _is(descriptor, path):
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.uname().nodename}, process {os.getpid()}, since {now_text()}".encode(), 0)
                return descriptor
        except BlockingIOError:
            with contextlib.suppress(OSError):
                holder = printable(os.pread(descriptor, _LONGEST_HOLDER, 0).decode("utf-8", "replace"))
        except OSError as exc:
            os.close(descriptor)
            if exc.errno not in _CAN_T_LOCK:
                raise KeywardError(what, f"{path} can't be locked: {os_cause(exc)}", "Check the file system it is on") from exc
            with contextlib.suppress(OSError):
                os.unlink(path)
            if may_lack_locks:
                return None
            why = f"the file system of {directory} can't lock files, so two runs at once could undo each other's work"
            remedy = "Mount it with locks. Where it is the share of a store that can't, say share_permissions: accepted (ca_store)"
            raise KeywardError(what, why, remedy) from exc
        os.close(descriptor)
        if time.monotonic() > deadline:
            why = f"another run has been at work in {directory} for more than {LONGEST_WAIT} seconds"
            raise KeywardError(what, why + (f" ({holder})" if holder else ""), "Wait until it has ended, or end it, and run the task again")
        if holder is not None:
            time.sleep(0.1)


def _opened(directory: str) -> int:
    """The lock file, created where it is missing: of the directory's owner, and of its group where that may write. Raises OSError."""
    path = os.path.join(directory, LOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # not ours: whoever created it has done this
        status = os.stat(directory)
        os.fchown(descriptor, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
        if status.st_mode & stat.S_IWGRP:
            os.fchmod(descriptor, 0o660)
    return descriptor


def _is(descriptor: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    return False


def wait_until_gone(path: t.Optional[str], what: str, check: bool = False) -> None:
    """Wait for the lock file of another program, C(LONGEST_WAIT) at most. Raises KeywardError where it stays.

    One that a killed program left behind stays for ever: where it names a process that has ended, that is said at once, and in check
    mode, which waits for nobody, too.
    """
    deadline = time.monotonic() + LONGEST_WAIT
    while path and os.path.lexists(path):
        holder = _holder(path)
        if holder is not None and not _runs(holder):
            why = f"{path} was left behind by process {holder}, which no longer runs on this host"
            remedy = "See what it left undone (ca_info names it). Then remove that file, and run the task again"
            raise KeywardError(what, why, remedy)
        if check:
            return
        if time.monotonic() > deadline:
            by = f" (process {holder})" if holder is not None else ""
            why = f"another program is at work: {path} has been there for more than {LONGEST_WAIT} seconds{by}"
            raise KeywardError(what, why, "Wait until it has ended, and run the task again. If there is none, remove that file")
        time.sleep(0.1)


def _holder(path: str) -> t.Optional[int]:
    """The number of the process that a lock file names."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        said = os.read(descriptor, _LONGEST_HOLDER).strip()
        return int(said) if said.isdigit() and len(said) < 8 else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
