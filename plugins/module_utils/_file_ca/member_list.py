# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the members of a set, and the lists of them; may change in any release.

A full set lists all of them, one JSON line each, sorted by path. An increment lists, sorted as well, all of its core and what was added
or changed since; of what is gone C({"path": ..., "removed": true}); of what has the bytes and the protection that it had and was only
touched C({"path": ..., "ctime": ..., "inode": ...}). Lists are read and written as streams: they are as long as a database.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import gzip
import hashlib
import heapq
import json
import os
import pwd
import re
import stat
import sys
import typing as t
import zlib
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._chains import BASE_DAMAGED
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED

# What small files are packed into unpacks to no more than RATIO times as much, and FLOOR; larger ones are looked at one by one.
RATIO, FLOOR = 200, 64 * 1024 * 1024
LONGEST_LINE = 128 * 1024  # two paths, each letter escaped
ANOTHER = "Use another set, or another copy of this one"
PARTS = (
    "configuration",
    "index",
    "serial",
    "crl_number",
    "attributes",
    "companion",
    "issued",
    "request",
    "movable",
    "crl",
    "certificate",
    "extra",
    "directory",
)
ISSUED_PARTS = ("issued", "request", "movable")
_encoded = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
# ELF, Mach-O and PE: what a configuration could have loaded.
PROGRAMS = tuple(map(bytes.fromhex, ("7f454c46", "feedface", "cefaedfe", "feedfacf", "cffaedfe", "cafebabe", "4d5a")))
_MODE = re.compile(r"[0-7]{4}\Z")
_WRONG = (ValueError, TypeError, KeyError, AttributeError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile)


def archive_of(part: str) -> str:
    return ISSUED if part in ISSUED_PARTS else CORE


@dataclass(frozen=True)
class Member:
    """One file, directory or symbolic link of a set. C(mtime), C(ctime): nanoseconds."""

    path: str
    part: str
    type: str  # file, directory or link
    mode: str
    owner: str
    group: str
    uid: int
    gid: int
    mtime: int
    size: int
    sha256: t.Optional[str] = None
    target: t.Optional[str] = None
    acl: t.Optional[str] = None  # as setfacl takes it, by names; default_acl: what a directory gives to files in it
    default_acl: t.Optional[str] = None
    ctime: int = 0  # with it and the inode a later copy sees what was not touched since
    inode: int = 0

    def is_untouched(self, status: os.stat_result) -> bool:
        return (status.st_size if self.type == "file" else 0, status.st_mtime_ns, status.st_ctime_ns, status.st_ino) == (
            self.size,
            self.mtime,
            self.ctime,
            self.inode,
        )

    def says_the_same(self, other: Member) -> bool:
        """But for the two that tell whether a file was touched."""
        return {**vars(self), "ctime": 0, "inode": 0} == {**vars(other), "ctime": 0, "inode": 0}


def member_of(path: str, part: str, status: os.stat_result, **more: t.Any) -> Member:
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "link" if stat.S_ISLNK(status.st_mode) else "file"
    return Member(
        path,
        part,
        kind,
        f"{stat.S_IMODE(status.st_mode):04o}",
        _user(status.st_uid),
        _group(status.st_gid),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if kind == "file" else 0,
        ctime=status.st_ctime_ns,
        inode=status.st_ino,
        **more,
    )


@functools.lru_cache(maxsize=1024)
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@functools.lru_cache(maxsize=1024)
def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


# --- lines -------------------------------------------------------------------------------------------------------------


def line_of(member: Member) -> bytes:
    return _line(vars(member))


def removed_line(path: str) -> bytes:
    return _line({"path": path, "removed": True})


def touched_line(member: Member) -> bytes:
    return _line({"path": member.path, "ctime": member.ctime, "inode": member.inode})


def _line(shape: t.Mapping[str, t.Any]) -> bytes:
    return _encoded(shape).encode("ascii") + b"\n"


def parsed(shape: t.Mapping[str, t.Any]) -> Member:
    """Raises ValueError or TypeError where it is none."""
    member = Member(**shape)
    if not _is_sound(member):
        raise ValueError
    for name in ("part", "type", "mode", "owner", "group"):  # the same few words in each line, once in memory
        object.__setattr__(member, name, sys.intern(getattr(member, name)))
    return member


def _is_sound(member: Member) -> bool:
    texts = (member.path, member.mode, member.owner, member.group)
    numbers = (member.uid, member.gid, member.mtime, member.size, member.ctime, member.inode)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
        return False
    detail = member.target if member.type == "link" else member.sha256 if member.type == "file" else ""
    return (
        _is_plain(member.path)
        and member.part in PARTS
        and member.type in ("file", "directory", "link")
        and isinstance(detail, str)
        and all(acl is None or isinstance(acl, str) for acl in (member.acl, member.default_acl))
        and _MODE.match(member.mode) is not None
        and all(0 <= number < 1 << 32 for number in (member.uid, member.gid))
        and member.size >= 0
        and abs(member.mtime) < 1 << 63
        and abs(member.ctime) < 1 << 63
        and 0 <= member.inode < 1 << 64
    )


def _is_plain(path: str) -> bool:
    return path.startswith("/") and os.path.normpath(path) == path and not path.startswith("//") and "\0" not in path


# --- lists -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def refusing(path: str) -> t.Iterator[None]:
    """What is wrong with a list, as an error that says so."""
    try:
        yield
    except _WRONG as exc:
        raise KeywardError("the set can't be used", f"its list of members {path} is damaged", ANOTHER) from exc


def lines_in(path: str) -> t.Iterator[bytes]:
    """The lines of one list. Raises ValueError, OSError and what gzip raises."""
    longest = RATIO * os.stat(path).st_size + FLOOR
    with gzip.open(path, "rb") as stream:
        for line in iter(lambda: stream.readline(LONGEST_LINE), b""):
            longest -= len(line)
            if longest < 0:
                raise ValueError
            yield line


class Listed(t.NamedTuple):
    """A member of a complete list, its line in that, and the number of the list in a chain in which it stands."""

    member: Member
    line: bytes
    held: int


def _numbered(lines: t.Iterable[bytes], number: int) -> t.Iterator[t.Tuple[str, int, t.Dict[str, t.Any], bytes]]:
    before = ""
    for line in lines:
        shape = json.loads(line)
        if shape["path"] <= before:
            raise ValueError
        before = shape["path"]
        yield before, number, shape, line


def merged(lists: t.Sequence[t.Iterable[bytes]]) -> t.Iterator[Listed]:
    """The complete list that a chain makes, oldest first. Raises as C(lines_in)."""
    found: t.Optional[Listed] = None
    numbered = [_numbered(lines, number) for number, lines in enumerate(lists)]
    for path, number, shape, line in heapq.merge(*numbered, key=lambda one: one[:2]) if numbered[1:] else numbered[0]:
        if found is not None and found.member.path != path:
            yield found
            found = None
        if shape.get("removed") is True and len(shape) == 2:
            found = None
        elif shape.keys() == {"path", "ctime", "inode"}:
            if found is None:
                raise ValueError
            member = parsed({**vars(found.member), **shape})
            found = Listed(member, line_of(member), found.held)
        else:
            found = Listed(parsed(shape), line, number)
    if found is not None:
        yield found


def complete(lists: t.Sequence[str], sha256: str) -> t.Iterator[Listed]:
    """Every member of the set to which the last of these lists belongs, the full set's first. C(sha256): of its complete list.

    Raises KeywardError where it is another.
    """
    digest = hashlib.sha256()
    try:
        for one in merged([lines_in(path) for path in lists]):
            digest.update(one.line)
            yield one
        if digest.hexdigest() != sha256:
            raise ValueError
    except _WRONG as exc:
        why = "the lists of the set that it builds on are damaged"
        raise KeywardError("the database was not backed up", why, "Make a full set (full: true)", [Finding(BASE_DAMAGED, why)]) from exc


class ListWriter:
    """A list that is written into a new file, packed. As a context."""

    def __init__(self, path: str) -> None:
        self._raw = open(path, "xb")  # noqa: SIM115 - it is closed with this context
        os.fchmod(self._raw.fileno(), 0o600)
        self._packed = gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=self._raw, mtime=0)

    def write(self, line: bytes) -> None:
        self._packed.write(line)

    def __enter__(self) -> ListWriter:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._packed.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()


class Sums:
    """How many members a list has, how many bytes they have, and its digest."""

    def __init__(self) -> None:
        self.count = self.size = 0
        self._digest = hashlib.sha256()

    def add(self, line: bytes, size: int) -> None:
        self.count, self.size = self.count + 1, self.size + size
        self._digest.update(line)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
