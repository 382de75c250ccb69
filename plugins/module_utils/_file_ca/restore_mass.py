# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: many new files put back at once; may change in any release.

All are staged first, each folder's in a private directory in it; then their file systems are synced once, each file gets its name, and
the folders are synced. A run that is killed leaves the private directory, which the next one takes away.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import Contents
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import Member
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_writing import recorded_protection
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, protect

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STAGING = re.compile(r"\.[0-9a-f]{16}\.keyward-restore\Z")
_CHUNK = 1024 * 1024
_MOST_FOLDERS = 200  # on their way at once: each has two open descriptors, and a process may have 1024


def is_staging(name: str) -> bool:
    """Whether it is what a run that was killed left."""
    return _STAGING.match(name) is not None


def take_away_left(folder: str) -> None:
    """Where others can give such a name to any directory, it stays."""
    with contextlib.suppress(OSError):
        status = os.lstat(folder)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
            for name in filter(is_staging, os.listdir(folder)):
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


class _Folder:
    """One that gets files. It and its private directory are opened once: what takes their names meanwhile gets and loses nothing."""

    def __init__(self, path: str) -> None:
        self.path, self._name = path, f".{secrets.token_hex(8)}.keyward-restore"
        self.descriptor = os.open(path, _DIRECTORY)
        self.staging = -1
        try:
            os.mkdir(self._name, 0o700, dir_fd=self.descriptor)
            self.staging = os.open(self._name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.descriptor)
            status = os.fstat(self.staging)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise OSError(1, "it was put there by somebody else", path)
        except BaseException:
            self._close()
            raise

    def end(self) -> None:
        with contextlib.suppress(OSError):
            for name in os.listdir(self.staging):
                os.unlink(name, dir_fd=self.staging)
            os.rmdir(self._name, dir_fd=self.descriptor)
        self._close()

    def _close(self) -> None:
        for descriptor in (self.staging, self.descriptor):
            if descriptor != -1:
                os.close(descriptor)


class MassRestore:
    """New files on their way. As a context it takes away what got no name."""

    def __init__(self) -> None:
        self._folders: t.Dict[str, _Folder] = {}
        self._protections: t.Dict[t.Tuple[t.Any, ...], Protection] = {}

    def knows(self, folder: str) -> bool:
        return folder in self._folders

    def add(self, path: str, contents: Contents, member: Member) -> None:
        """Raises OSError, and KeywardError as C(protect) does."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            if len(self._folders) == _MOST_FOLDERS:
                self.finish()
            self._folders[folder] = _Folder(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self._folders[folder].staging)
        try:
            for piece in iter(lambda: contents.read(_CHUNK), b""):
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
            protect(descriptor, self._protection(member, path), path)
            os.utime(descriptor, ns=(member.mtime, member.mtime))
        finally:
            os.close(descriptor)

    def _protection(self, member: Member, path: str) -> Protection:
        key = (member.mode, member.owner, member.group, member.uid, member.gid, member.acl, member.default_acl)
        known = self._protections.get(key)
        if known is None or known.label is not None:  # which depends on the path
            known = self._protections[key] = recorded_protection(member, path)
        return known

    def finish(self) -> None:
        """Raises FileExistsError where something has come to lie in the place of one meanwhile: none takes another file's."""
        for folder in self._folders.values():
            _sync(folder.staging)
        for folder in self._folders.values():
            for name in sorted(os.listdir(folder.staging)):
                _name(folder, name)
            os.fsync(folder.descriptor)
        self._end()

    def _end(self) -> None:
        for folder in self._folders.values():
            folder.end()
        self._folders.clear()

    def __enter__(self) -> MassRestore:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()


def _name(folder: _Folder, name: str) -> None:
    try:
        os.link(name, name, src_dir_fd=folder.staging, dst_dir_fd=folder.descriptor, follow_symlinks=False)
        os.unlink(name, dir_fd=folder.staging)
    except FileExistsError as exc:
        raise FileExistsError(exc.errno, exc.strerror, os.path.join(folder.path, name)) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(os.path.join(folder.path, name)):
            raise FileExistsError(17, "exists", os.path.join(folder.path, name)) from None
        os.rename(name, name, src_dir_fd=folder.staging, dst_dir_fd=folder.descriptor)


def _sync(descriptor: int) -> None:
    """All of the file system that it is on."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None or syncfs(descriptor) != 0:
        os.sync()
