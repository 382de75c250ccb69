# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: many new files put back at once; may change in any release.

All are staged first, those of each folder in a private directory beside or above it; then their file systems are synced once, each file
gets its name, and the folders are synced. Until then nothing that a CA looks at has changed. A run that is killed leaves the private
directories, which the next one takes away. Several processes may stage; the one that made this object finishes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import struct
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directories
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import Contents
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.immovable import refuse_immovable
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import LinkOfOthers, enter, owner_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import Listed
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_writing import recorded_protection
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, gives_no_acl, is_born_so, protect

_BIRTH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STAGING = re.compile(r"\.[0-9a-f]{16}\.keyward-restore\Z")
_CHUNK = 1024 * 1024
_MOST_FOLDERS = 50  # of each some descriptors are open; what is in others is put back one by one
_MADE = struct.Struct("<IB40sQQ")  # which folder, apart, name, device, inode: all of them fit into a pipe
_NOREPLACE = 1


def is_staging(name: str) -> bool:
    """Whether it is what a run that was killed left."""
    return _STAGING.match(name) is not None


def _take_away_left(above: str, beginning: str) -> None:
    """Where others can give such a name to any directory, it stays."""
    with contextlib.suppress(OSError):
        status = os.lstat(above)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
            for name in os.listdir(above):
                if is_staging(name) and name.startswith(beginning):
                    shutil.rmtree(os.path.join(above, name), ignore_errors=True)


def _with_those_above(folder: str) -> t.Iterator[str]:
    while True:
        yield folder
        if folder == os.path.dirname(folder):
            return
        folder = os.path.dirname(folder)


def _beginning(folder: str) -> str:
    """Of the names of its private directories: above it there may be others' as well."""
    return "." + hashlib.sha256(folder.encode("utf-8", "surrogateescape")).hexdigest()[:8]


class Made(t.NamedTuple):
    """A private directory that a process has made for a folder. C(apart): for what may be dropped."""

    folder: str
    apart: bool
    name: str
    identity: t.Tuple[int, int]  # device and inode


class _Staging:
    """A private directory. It is opened once: what takes its name meanwhile gets and loses nothing."""

    def __init__(self, above: str, name: str, identity: t.Optional[t.Tuple[int, int]] = None) -> None:
        """C(identity): of one that another process has made."""
        self.above, self._name, self.descriptor = os.open(above, _DIRECTORY), name, -1
        try:
            if identity is None:
                os.mkdir(name, 0o700, dir_fd=self.above)
            self.descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.above)
            status = os.fstat(self.descriptor)
            self.identity = status.st_dev, status.st_ino
            ours = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
            if not ours or (os.listdir(self.descriptor) if identity is None else self.identity != identity):
                raise OSError(errno.EPERM, "it was put there by somebody else", above)
            self.gives_no_acl = identity is None and gives_no_acl(self.descriptor)
        except BaseException:
            self.close()
            raise

    def take_away(self) -> None:
        with contextlib.suppress(OSError):
            for name in os.listdir(self.descriptor):
                os.unlink(name, dir_fd=self.descriptor)
            os.rmdir(self._name, dir_fd=self.above)
        self.close()

    def close(self) -> None:
        for descriptor in (self.descriptor, self.above):
            if descriptor != -1:
                os.close(descriptor)


class MassRestore:
    """New files on their way into some folders. As a context it takes away what got no name."""

    def __init__(self, folders: t.Iterable[str]) -> None:
        # Where a folder is missing, what is above it lies on the file system that it will be on.
        self._folders = {folder: next(filter(os.path.isdir, _with_those_above(folder))) for folder in sorted(folders)[:_MOST_FOLDERS]}
        self._own: t.Dict[t.Tuple[str, bool], _Staging] = {}  # of this process
        self._all: t.Dict[Made, _Staging] = {}
        self._told, self._telling = os.pipe()
        for pipe in (self._told, self._telling):
            os.set_blocking(pipe, False)
        self._protections: t.Dict[t.Tuple[t.Any, ...], Protection] = {}

    def takes(self, folder: str) -> bool:
        return folder in self._folders

    def take_away_left(self) -> None:
        for folder in self._folders:
            for above in _with_those_above(folder):
                _take_away_left(above, "." if above == folder else _beginning(folder))

    def _staging(self, folder: str, apart: bool) -> _Staging:
        found = self._own.get((folder, apart))
        if found is None:
            refuse_immovable([os.path.join(folder, "new")], "nothing was restored")
            name = f"{_beginning(folder)}{secrets.token_hex(4)}.keyward-restore"
            found = self._own[folder, apart] = _Staging(self._folders[folder], name)
            os.write(self._telling, _MADE.pack(list(self._folders).index(folder), apart, name.encode("ascii"), *found.identity))
        return found

    def _made(self) -> t.Iterator[Made]:
        """By all processes, since it was asked last."""
        folders = list(self._folders)
        with contextlib.suppress(BlockingIOError):
            while True:
                number, apart, name, *identity = _MADE.unpack(os.read(self._told, _MADE.size))
                yield Made(folders[number], bool(apart), name.rstrip(b"\0").decode("ascii"), (identity[0], identity[1]))

    def take(self, made: Made) -> None:
        """Raises OSError where something else has its name."""
        self._all[made] = _Staging(self._folders[made.folder], made.name, made.identity)

    def add(self, path: str, contents: Contents, one: Listed, apart: bool = False) -> None:
        """C(apart): with those that may be dropped. Raises OSError, and KeywardError as C(protect) does."""
        folder, _slash, name = path.rpartition("/")
        staging, wanted = self._staging(folder, apart), self._protection(one, path)
        # Born with its mode: nobody else gets into the private directory.
        descriptor = os.open(name, _BIRTH, (wanted.mode or 0) & 0o777, dir_fd=staging.descriptor)
        try:
            left = one.size
            while left:
                piece = contents.read(_CHUNK)
                left -= len(piece)
                while piece:
                    piece = piece[os.write(descriptor, piece) :]
            if not staging.gives_no_acl or not is_born_so(descriptor, wanted):
                protect(descriptor, wanted, path)
            os.utime(descriptor, ns=(one.mtime, one.mtime))
        finally:
            os.close(descriptor)

    def _protection(self, one: Listed, path: str) -> Protection:
        known = self._protections.get(one.protection)
        if known is None or known.label is not None:  # which depends on the path
            known = self._protections[one.protection] = recorded_protection(one.member, path)
        return known

    def gather(self) -> None:
        """What all processes have made. Raises OSError as C(take) does."""
        for made in self._made():
            self.take(made)

    def finish(self, look: t.Callable[[str], None], ca: str, drop: bool = False) -> None:
        """What was gathered. C(look) refuses a path in a folder that is no place for it; C(ca): the CA's directory, whose owner's
        links are followed; C(drop): what was staged apart.

        Raises KeywardError where a link took the place of a folder since the look, FileExistsError where something has come to lie in the
        place of one meanwhile: none takes another file's.
        """
        found = [(made, staging.descriptor) for made, staging in sorted(self._all.items()) if not (drop and made.apart)]
        for _device, staging in {made.identity[0]: staging for made, staging in found}.items():
            _sync(staging)
        for made, staging in found:
            names = sorted(os.listdir(staging))
            if names:
                look(os.path.join(made.folder, names[0]))
                make_directories(made.folder, Protection(0o755))
                target = _entered(made.folder, owner_of(ca))
                try:
                    for name in names:
                        _name(staging, target, made.folder, name)
                    os.fsync(target)
                finally:
                    os.close(target)

    def __enter__(self) -> MassRestore:
        return self

    def __exit__(self, *_exception: object) -> None:
        for made in self._made():
            with contextlib.suppress(OSError):
                self.take(made)
        for staging in self._all.values():
            staging.take_away()
        for staging in self._own.values():
            staging.close()
        for pipe in (self._told, self._telling):
            os.close(pipe)


def _entered(folder: str, owners: t.Collection[int]) -> int:
    try:
        way = enter(folder, owners)
    except LinkOfOthers as exc:
        why = f"{exc.link} is a link now, which others than root and the CA's owner can change"
        remedy = "Find out who made it; take it away, and run the task again: it goes on"
        raise KeywardError(f"what was issued was not put back into {folder}", why, remedy) from None
    try:
        return os.open(".", _DIRECTORY, dir_fd=way)
    finally:
        os.close(way)


def _name(staging: int, target: int, folder: str, name: str) -> None:
    try:
        _rename(staging, target, name)
    except FileExistsError as exc:
        raise FileExistsError(exc.errno, exc.strerror, os.path.join(folder, name)) from None


def _rename(staging: int, target: int, name: str) -> None:
    rename = _renaming()
    if rename is not None:
        raw = os.fsencode(name)
        if rename(staging, raw, target, raw, _NOREPLACE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):  # this file system can't
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        os.link(name, name, src_dir_fd=staging, dst_dir_fd=target, follow_symlinks=False)
        os.unlink(name, dir_fd=staging)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=target, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, "exists") from None
        os.rename(name, name, src_dir_fd=staging, dst_dir_fd=target)


@functools.lru_cache(maxsize=1)
def _renaming() -> t.Any:
    """C(renameat2), where it is there: one step where a link and its removal are two."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _sync(descriptor: int) -> None:
    """All of the file system that it is on."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None or syncfs(descriptor) != 0:
        os.sync()
