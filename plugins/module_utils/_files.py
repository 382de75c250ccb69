# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: bounded reads, two-stage writes and locks; may change in any release."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause

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


def write_new(path: str, data: bytes, mode: t.Optional[int], owner: int = -1, group: int = -1) -> None:
    """Create a file that must not exist: born private, then its owner and mode, fsynced, re-read. Raises OSError.

    A mode of None leaves the one that a share gives to its files.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            _fill(stream, data, mode, owner, group)
    except BaseException:
        os.unlink(path)
        raise


def _fill(stream: t.BinaryIO, data: bytes, mode: t.Optional[int], owner: int, group: int) -> None:
    descriptor = stream.fileno()
    stream.write(data)
    stream.flush()
    if owner != -1 or group != -1:
        os.fchown(descriptor, owner, group)
    if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)
    os.fsync(descriptor)
    stream.seek(0)
    if stream.read() != data:
        raise OSError(5, "the file does not hold what was written")


def owner_numbers(owner: t.Optional[str], group: t.Optional[str], what: str) -> t.Tuple[int, int]:
    """The numbers of a user and a group, given as name or number; -1 for None, which keeps what is.

    Raises KeywardError where there is none; C(what) says what fails then.
    """
    import grp
    import pwd

    try:
        uid = -1 if owner is None else int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise KeywardError(what, f"there is no user {owner} here", "Create the user, or give another owner") from None
    try:
        gid = -1 if group is None else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise KeywardError(what, f"there is no group {group} here", "Create the group, or give another one") from None
    return uid, gid


def set_owner_and_mode(path: str, mode: t.Optional[int], owner: int = -1, group: int = -1, kind: int = 0) -> None:
    """Of a file, or with O_DIRECTORY of a directory; never through a link that took its place meanwhile. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind)
    try:
        if owner != -1 or group != -1:
            os.fchown(descriptor, owner, group)
        if mode is not None:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make renames and new names in a directory durable, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # CIFS and some FUSE file systems can't fsync a directory; the file itself was fsynced
    finally:
        os.close(descriptor)


class StagedFile:
    """A file written whole on the file system of its place, that takes the place in one step and never takes another file's.

    Where the file system can, it has no name until then: of a run that is killed no key stays behind.
    """

    def __init__(self, path: str, data: bytes, mode: t.Optional[int], owner: int = -1, group: int = -1) -> None:
        self.path = path
        self._stream = _nameless(os.path.dirname(path))
        if self._stream:
            try:
                _fill(self._stream, data, mode, owner, group)
            except BaseException:
                self._stream.close()
                raise
        else:
            self._staged = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{secrets.token_hex(4)}.new")
            write_new(self._staged, data, mode, owner, group)

    def commit(self) -> None:
        """Raises FileExistsError where something has come to lie at the place meanwhile."""
        if self._stream:
            # Only with a directory's descriptor does Python call linkat, which follows the symbolic link in /proc.
            os.link(_link_to(self._stream), self.path, src_dir_fd=self._stream.fileno())
        else:
            self._commit_named()
        sync_directory(os.path.dirname(self.path))

    def _commit_named(self) -> None:
        try:
            os.link(self._staged, self.path, follow_symlinks=False)
            os.unlink(self._staged)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(self.path):
                raise FileExistsError(17, "exists", self.path) from None
            os.rename(self._staged, self.path)

    def discard(self) -> None:
        """What was committed stays."""
        if self._stream:
            self._stream.close()
            return
        try:
            os.unlink(self._staged)
        except FileNotFoundError:
            pass


def _nameless(directory: str) -> t.Optional[t.BinaryIO]:
    """A new private file in a directory, without a name; None where that is not possible, or where it could not get one later."""
    try:
        stream = os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b")
    except (AttributeError, OSError):  # not Linux, or a file system that can't
        return None
    if not os.path.exists(_link_to(stream)):
        stream.close()
        return None
    return stream


def _link_to(stream: t.BinaryIO) -> str:
    return f"/proc/self/fd/{stream.fileno()}"


def put_new(path: str, data: bytes, mode: int, owner: t.Optional[str] = None, group: t.Optional[str] = None) -> None:
    """A whole new file of this owner and group. Raises KeywardError, also where one is there."""
    uid, gid = owner_numbers(owner, group, f"{path} was not written")
    try:
        staged = StagedFile(path, data, mode, uid, gid)
        try:
            staged.commit()
        finally:
            staged.discard()
    except OSError as exc:
        raise KeywardError(f"{path} was not written", os_cause(exc), "Put that right and run the task again: nothing was replaced") from exc


def beside(path: str) -> str:
    """Where a file waits to take a place in one step."""
    return f"{path}.new"


def stage_beside(path: str, data: bytes, mode: int) -> None:
    """A whole file beside the place of another, in the stead of what waited there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside(path))
    staged = StagedFile(beside(path), data, mode)
    try:
        staged.commit()
    finally:
        staged.discard()


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


def make_directories(path: str, mode: t.Optional[int], owner: int = -1, group: int = -1) -> t.List[str]:
    """Create a directory and those above it that are missing; returns those made, outermost first. Raises OSError."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        os.mkdir(directory, 0o700)
        set_owner_and_mode(directory, mode, owner, group, os.O_DIRECTORY)
        sync_directory(os.path.dirname(directory))
    return missing[::-1]


def make_directory(path: str, mode: int) -> None:
    """A directory and those above it, where they are missing. Raises KeywardError."""
    try:
        make_directories(path, mode)
    except OSError as exc:
        raise KeywardError(f"the directory {path} was not made", os_cause(exc), "Put that right and run the task again") from exc
