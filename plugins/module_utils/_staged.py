# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: files that are written whole before they take a place, protected first; may change in any release."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._directories import sync_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, protect, protection_of

_CHUNK = 1024 * 1024
Content = t.Union[bytes, t.Iterable[bytes]]


class StagedFile:
    """A file written whole on the file system of its place, and protected, before it takes the place in one step.

    Where the file system can, it has no name until then: of a run that is killed no key stays behind. C(sha256): what its content must
    have; C(mtime): nanoseconds. As a context it discards what took no place. Raises OSError, and KeywardError as C(protect) does.
    """

    def __init__(
        self, path: str, content: Content, protection: Protection, sha256: t.Optional[str] = None, mtime: t.Optional[int] = None
    ) -> None:
        self.path = path
        self._name: t.Optional[str] = None
        stream = _nameless(os.path.dirname(path))
        if stream is None:
            self._name = self._hidden()
            stream = _born(self._name)
        self._stream = stream
        try:
            _fill(stream, path, content, protection, sha256, mtime)
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Raises FileExistsError where something has come to lie at the place meanwhile: it never takes another file's."""
        if self._name is None:
            self._link(self.path)
        else:
            self._refuse_swapped(self._name)
            self._commit_named(self._name)
        sync_directory(os.path.dirname(self.path))

    def replace(self) -> None:
        """Takes the place of what lies there, if anything does."""
        if self._name is None:
            # One name for all runs: the next one takes away what a killed one has left.
            beside = os.path.join(os.path.dirname(self.path), f".{os.path.basename(self.path)}.new")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            self._link(beside)
            self._name = beside
        self._refuse_swapped(self._name)
        os.replace(self._name, self.path)
        sync_directory(os.path.dirname(self.path))

    def _hidden(self) -> str:
        return os.path.join(os.path.dirname(self.path), f".{os.path.basename(self.path)}.{secrets.token_hex(4)}.new")

    def _refuse_swapped(self, name: str) -> None:
        """Whoever owns the directory may give the name to another file meanwhile."""
        if not os.path.samestat(os.lstat(name), os.fstat(self._stream.fileno())):
            raise OSError(5, "the file does not hold what was written")

    def _link(self, path: str) -> None:
        # Only with a directory's descriptor does Python call linkat, which follows the symbolic link in /proc.
        os.link(_link_to(self._stream), path, src_dir_fd=self._stream.fileno())

    def _commit_named(self, name: str) -> None:
        try:
            os.link(name, self.path, follow_symlinks=False)
            os.unlink(name)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(self.path):
                raise FileExistsError(17, "exists", self.path) from None
            os.rename(name, self.path)

    def discard(self) -> None:
        """What took its place stays."""
        self._stream.close()
        if self._name is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.discard()


def write_new(path: str, data: bytes, mode: t.Optional[int]) -> None:
    """Create a file that must not exist, under its own name, where nobody reads yet: in a scratch or staged directory. Raises OSError.

    A mode of None leaves the one that a share gives to its files.
    """
    stream = _born(path)
    try:
        with stream:
            _fill(stream, path, data, Protection(mode))
    except BaseException:
        os.unlink(path)
        raise


def put_new(path: str, data: bytes, mode: int, like: t.Optional[str] = None) -> None:
    """A whole new file: protected as C(like) is, where that is there, else of this mode. Raises KeywardError, also where one is there."""
    _put(path, data, mode, like, StagedFile.commit, "Put that right and run the task again: nothing was replaced")


def put(path: str, data: bytes, mode: int, like: t.Optional[str] = None) -> None:
    """As C(put_new), in the place of what is there."""
    _put(path, data, mode, like, StagedFile.replace, "Put that right and run the task again")


def _put(path: str, data: bytes, mode: int, like: t.Optional[str], take: t.Callable[[StagedFile], None], remedy: str) -> None:
    try:
        protection = protection_of(like) if like and os.path.exists(like) else Protection(mode)
        with StagedFile(path, data, protection) as staged:
            take(staged)
    except OSError as exc:
        raise KeywardError(f"{path} was not written", os_cause(exc), remedy) from exc


def _born(path: str) -> t.BinaryIO:
    """A new file under this name that nobody else may read."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return t.cast(t.BinaryIO, os.fdopen(os.open(path, flags, 0o600), "w+b"))


def _nameless(directory: str) -> t.Optional[t.BinaryIO]:
    """A new private file in a directory, without a name; None where that is not possible, or where it could not get one later."""
    try:
        stream = os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b")
    except (AttributeError, OSError):  # not Linux, or a file system that can't
        return None
    if not os.path.exists(_link_to(stream)):
        stream.close()
        return None
    return t.cast(t.BinaryIO, stream)


def _link_to(stream: t.BinaryIO) -> str:
    return f"/proc/self/fd/{stream.fileno()}"


def _fill(
    stream: t.BinaryIO,
    path: str,
    content: Content,
    protection: Protection,
    sha256: t.Optional[str] = None,
    mtime: t.Optional[int] = None,
) -> None:
    """Write, protect, sync, and read again."""
    descriptor = stream.fileno()
    written = hashlib.sha256()
    for piece in [content] if isinstance(content, bytes) else content:
        written.update(piece)
        stream.write(piece)
    stream.flush()
    protect(descriptor, protection, path)
    if mtime is not None:
        os.utime(descriptor, ns=(mtime, mtime))
    os.fsync(descriptor)
    stream.seek(0)
    held = hashlib.sha256()
    for piece in iter(lambda: stream.read(_CHUNK), b""):
        held.update(piece)
    if held.digest() != written.digest() or sha256 not in (None, held.hexdigest()):
        raise OSError(5, "the file does not hold what was written")
