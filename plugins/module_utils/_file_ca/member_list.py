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
import io
import itertools
import json
import operator
import os
import pwd
import re
import stat
import typing as t
import zlib
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._chains import BASE_DAMAGED
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED

# What small files are packed into unpacks to no more than RATIO times as much, and FLOOR; larger ones are looked at one by one.
RATIO, FLOOR = 200, 64 * 1024 * 1024
LONGEST_LINE = 128 * 1024  # two paths, each letter escaped
_PIECE = 64 * 1024
_FARTHEST = (1 << 63) * 10**9  # nanoseconds: some file systems keep 64 bits of seconds
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
# A line as it is written, of a file whose path and owners need no escape and that has no ACL: almost all. JSON takes ten times as long.
_LINE = re.compile(
    rb'\{"path":"((?:/(?!\.{1,2}[/"])[ !#-.0-\[\]-~]+)+)","part":"([a-z_]+)","type":"file","mode":"([0-7]{4})"'
    rb',"owner":"([ !#-\[\]-~]*)","group":"([ !#-\[\]-~]*)","uid":(0|[1-9]\d{0,8}),"gid":(0|[1-9]\d{0,8})'
    rb',"mtime":(0|-?[1-9]\d{0,17}|[1-8]\d{18}),"size":(0|[1-9]\d{0,17}),"sha256":"([0-9a-f]{64})","target":null,"acl":null,"default_acl":null'
    rb',"ctime":(0|-?[1-9]\d{0,17}|[1-8]\d{18}),"inode":(0|[1-9]\d{0,18})\}\n\Z'
)
# The part that a line is of, of those and of others.
_PART = re.compile(rb'\{"path":"[ !#-\[\]-~]*","part":"([a-z_]+)","type":"')
_BEGIN = b'{"path":"'
_ASCII = {part.encode("ascii"): part for part in PARTS}
_encoded = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
# ELF, Mach-O and PE: what a configuration could have loaded.
PROGRAMS = tuple(map(bytes.fromhex, ("7f454c46", "feedface", "cefaedfe", "feedfacf", "cffaedfe", "cafebabe", "4d5a")))
_MODE = re.compile(r"[0-7]{4}\Z")
_PATH_OF = operator.itemgetter(0)
_NO_MORE: t.Tuple[t.Optional[str], t.Iterator[t.Any]] = (None, iter(()))
_WRONG = (ValueError, TypeError, KeyError, AttributeError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile)


Stamp = t.Tuple[int, int, int, int]  # size, mtime, ctime, inode: as long as they are the same, nobody has touched a file


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
        object.__setattr__(member, name, _once(getattr(member, name)))
    return member


@functools.lru_cache(maxsize=1024)
def _once(text: str) -> str:
    return text


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
        and abs(member.mtime) < _FARTHEST
        and abs(member.ctime) < _FARTHEST
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
        raise _damaged(path) from exc


def _damaged(path: str) -> KeywardError:
    return KeywardError("the set can't be used", f"its list of members {path} is damaged", ANOTHER)


def lines_in(path: str) -> t.Iterator[bytes]:
    """The lines of one list. Raises ValueError, OSError and what gzip raises."""
    longest = RATIO * os.stat(path).st_size + FLOOR
    with gzip.open(path, "rb") as stream:
        rest = b""
        for piece in iter(lambda: stream.read(_PIECE), b""):
            longest -= len(piece)
            lines = io.BytesIO(rest + piece).readlines()
            rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
            if longest < 0 or len(rest) > LONGEST_LINE:
                raise ValueError
            yield from lines
        if rest:
            yield rest


class Listed:
    """A line of a list of members that was judged. C(held): the number of the list in a chain in which it stands."""

    __slots__ = ("_match", "_member", "held", "line", "part", "path", "size")

    def __init__(self, line: bytes, held: int = 0) -> None:
        """Raises as C(lines_in) where it is not the line of a member."""
        self.line, self.held = line, held
        self._member: t.Optional[Member] = None
        match = self._match = _LINE.match(line)
        if match and match.group(2) in _ASCII:
            self.path, self.part, self.size = match.group(1).decode("ascii"), _ASCII[match.group(2)], int(match.group(9))
        else:
            self._match, member = None, parsed(json.loads(line))
            self._member, self.path, self.part, self.size = member, member.path, member.part, member.size

    @property
    def type(self) -> str:
        return "file" if self._match else self.member.type

    @property
    def target(self) -> t.Optional[str]:
        return None if self._match else self.member.target

    @property
    def mtime(self) -> int:
        return int(self._match.group(8)) if self._match else self.member.mtime

    @property
    def protection(self) -> t.Tuple[t.Any, ...]:
        """The same for all that are protected alike."""
        if self._match:
            return self._match.group(3, 4, 5, 6, 7)
        one = self.member
        return one.type, one.mode, one.owner, one.group, one.uid, one.gid, one.acl, one.default_acl

    @property
    def sha256(self) -> t.Optional[str]:
        return self._match.group(10).decode("ascii") if self._match else self.member.sha256

    @property
    def member(self) -> Member:
        if self._member is None:
            words = [word.decode("ascii") for word in t.cast(t.Match[bytes], self._match).groups()]
            path, _part, mode, owner, group, uid, gid, mtime, _size, sha256, ctime, inode = words
            numbers = int(uid), int(gid), int(mtime), self.size
            self._member = Member(
                path, self.part, "file", _once(mode), _once(owner), _once(group), *numbers, sha256, ctime=int(ctime), inode=int(inode)
            )
        return self._member


def is_untouched(line: bytes, part: str, stamp: Stamp) -> bool:
    """Whether a line is of a file, of this part, that has the size, the times and the inode that it had. In a text of JSON no bare
    quotation mark stands."""
    size, mtime, ctime, inode = stamp
    return (
        line.endswith(b',"ctime":%d,"inode":%d}\n' % (ctime, inode))
        and b',"mtime":%d,"size":%d,"sha256":"' % (mtime, size) in line
        and b'","part":"%s","type":"file",' % part.encode("ascii") in line
    )


class Line(t.NamedTuple):
    """The whole line of a member. C(held): the number of the list in a chain in which it stands."""

    path: str
    held: int
    line: bytes


def _by_path(lines: t.Iterable[bytes], number: int) -> t.Iterator[Line]:
    before = ""
    for line in lines:
        end = line.find(b'"', len(_BEGIN))
        name = line[len(_BEGIN) : end]
        path = json.loads(line)["path"] if b"\\" in name or not line.startswith(_BEGIN) else name.decode("ascii")
        if path <= before:
            raise ValueError
        before = path
        yield Line(path, number, line)


def merged_lines(lists: t.Sequence[t.Iterable[bytes]]) -> t.Iterator[Line]:
    """The complete list that a chain makes, oldest first; what is in a line is not judged. Raises as C(lines_in)."""
    first, *later = (_by_path(lines, number) for number, lines in enumerate(lists))
    groups = itertools.groupby(heapq.merge(*later), key=_PATH_OF)
    path, changes = next(groups, _NO_MORE)
    for one in first:
        while path is not None and path < one.path:
            yield from _newest(changes)
            path, changes = next(groups, _NO_MORE)
        if path == one.path:
            yield from _newest(itertools.chain([one], changes))
            path, changes = next(groups, _NO_MORE)
        else:
            yield one
    while path is not None:
        yield from _newest(changes)
        path, changes = next(groups, _NO_MORE)


def _newest(lines: t.Iterable[Line]) -> t.Iterator[Line]:
    """What has become of a member, unless it is gone."""
    found: t.Optional[Line] = None
    for one in lines:
        shape = json.loads(one.line)
        if shape == {"path": one.path, "removed": True}:
            found = None
        elif shape.keys() == {"path", "ctime", "inode"}:
            if found is None:
                raise ValueError
            found = found._replace(line=line_of(parsed({**json.loads(found.line), **shape})))
        else:
            found = one
    if found:
        yield found


def merged(lists: t.Sequence[t.Iterable[bytes]]) -> t.Iterator[Listed]:
    """As C(merged_lines), each line judged."""
    for one in merged_lines(lists):
        listed = Listed(one.line, one.held)
        if listed.path != one.path:
            raise ValueError
        yield listed


def named_in(path: str) -> t.Iterator[str]:
    """The paths of which one list has the whole line, or says that they are gone. Raises as C(lines_in)."""
    for line in lines_in(path):
        match = _LINE.match(line)
        if match:
            yield match.group(1).decode("ascii")
        else:
            shape = json.loads(line)
            if "part" in shape or "removed" in shape:
                yield shape["path"]


class Expected:
    """The members of which one list has the whole line, as they follow each other in an archive. C(at): the number of the next one."""

    def __init__(self, path: str, archive: str) -> None:
        self.at = 0
        self._path, self._archive, self._lines = path, archive, lines_in(path)
        self._others = {part.encode("ascii") for part in PARTS if archive_of(part) != archive}

    def go_to(self, number: int) -> None:
        """Pass over those before. Raises KeywardError."""
        while self.at < number and self._line():
            self.at += 1

    def next(self) -> t.Optional[Listed]:
        """None at the end. Raises KeywardError."""
        line = self._line()
        if line is None:
            return None
        self.at += 1
        try:
            return Listed(line)
        except _WRONG as exc:
            raise _damaged(self._path) from exc

    def _line(self) -> t.Optional[bytes]:
        try:
            for line in self._lines:
                match = _PART.match(line)
                if match:
                    if match.group(1) not in self._others:
                        return line
                    continue
                shape = json.loads(line)
                if "part" in shape and archive_of(shape["part"]) == self._archive:
                    return line
        except _WRONG as exc:
            raise _damaged(self._path) from exc
        return None


def complete(lists: t.Sequence[str], sha256: str) -> t.Iterator[Line]:
    """Every member of the set to which the last of these lists belongs, the full set's first. C(sha256): of its complete list.

    Raises KeywardError where it is another.
    """
    digest = hashlib.sha256()
    with _refusing_base():
        for one in merged_lines([lines_in(path) for path in lists]):
            digest.update(one.line)
            yield one
        if digest.hexdigest() != sha256:
            raise ValueError


def listed_in_base(line: bytes) -> Listed:
    """A line of C(complete), judged. Raises KeywardError."""
    with _refusing_base():
        return Listed(line)


@contextlib.contextmanager
def _refusing_base() -> t.Iterator[None]:
    try:
        yield
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
