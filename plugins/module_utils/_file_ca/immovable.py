# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: files that no rename can replace, such as mount points; may change in any release."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

Hindrance = t.Tuple[str, str]  # why, and what to do

_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20  # ioctl_iflags(2)
_GET_FLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1  # FS_IOC_GETFLAGS
_LARGEST = 16 * 1024 * 1024


def refuse_immovable(paths: t.Iterable[str], what: str) -> None:
    """Raise KeywardError where one of these files couldn't be replaced or made; C(what) fails then. Before the first step."""
    mounted, folders = _mount_points(), set()
    for path in paths:
        there = os.path.lexists(path)
        folder = os.path.dirname(path)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not there and folder in folders:
            continue
        folders.add(folder)
        hindrance = _why(path if there else None, folder, mounted)
        if hindrance:
            raise KeywardError(what, *hindrance)


def why_it_stays(path: str) -> t.Optional[Hindrance]:
    """Why no file can be renamed over this one, as far as that shows beforehand."""
    return _why(path, os.path.dirname(path), _mount_points())


def _why(path: t.Optional[str], folder: str, mounted: t.Container[str]) -> t.Optional[Hindrance]:
    """C(path): None for a new one."""
    if path and os.path.realpath(path) in mounted:
        why = f"{path} is mounted by itself, as containers mount single files: no other file can take its place"
        return why, f"Mount its directory {os.path.dirname(os.path.realpath(path))} instead"
    for what in (path, folder) if path else (folder,):
        flags = _flags(what)
        letter = "i" if flags & _IMMUTABLE else "a" if flags & _APPEND_ONLY else None
        if letter:
            kind = "immutable" if letter == "i" else "open for appending only"
            return f"{what} is {kind} (chattr +{letter})", f"Take that away meanwhile: chattr -{letter} {what}"
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        why = "its file system is mounted read-only" if read_only else "this user may not write there"
        return (
            f"no file can be put into {folder}: {why}",
            "Mount it for writing" if read_only else "Let the user that runs this task (become)",
        )
    status, user = os.stat(folder), os.geteuid()
    if path and status.st_mode & stat.S_ISVTX and user not in (0, status.st_uid, os.lstat(path).st_uid):
        return f"{folder} is sticky, and {path} is another user's", "Become that user, or the owner of the directory"
    return None


def _mount_points() -> t.Set[str]:
    """The mount points, where the system lists them (Linux)."""
    found = set()
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as stream:
        for line in stream.read(_LARGEST).splitlines():
            fields = line.split(b" ")
            if len(fields) > 4:
                found.add(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal.group(1), 8)]), fields[4])))
    return found


def _flags(path: str) -> int:
    """The flags of its inode; 0 where the file system has none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(struct.unpack("I", fcntl.ioctl(descriptor, _GET_FLAGS, b"\0" * 8)[:4])[0])
    except OSError:
        return 0
    finally:
        os.close(descriptor)
