# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the archives of a set and the list of their members, as they are made; may change in any release.

What was issued is read by one process for each core; all else, and whatever becomes of it, is written here. With the lists of an earlier
set it is an increment: what was not touched since is not read, and what is the same is not packed again.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import json
import os
import tempfile
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._file_ca import parallel
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive_reading import Archive, Reader
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import (
    ISSUED_PARTS,
    Line,
    Listed,
    ListWriter,
    Member,
    Stamp,
    Sums,
    is_untouched,
    line_of,
    listed_in_base,
    parsed,
    removed_line,
    touched_line,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.tar_blocks import END, packer
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import LeftOut
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED, MEMBERS, Changes, Members

_SLICE = 512  # files that a process reads before its work is taken
_AT_ONCE = 16 * _SLICE  # files that are compared with an earlier set before those that differ are read
_LARGEST_SLICE = 16 << 20  # bytes, packed, that it holds in memory
_PIECE = 4 << 20


Base = t.Optional[t.Callable[[], t.Iterator[Line]]]
Look = t.Callable[[t.Sequence[str]], t.Iterable[Stamp]]
_Known = t.Mapping[str, t.Optional[Member]]  # what an earlier set has of files that are read


class Written(t.NamedTuple):
    members: Members
    left_out: t.List[LeftOut]
    digests: t.Dict[str, str]  # of the archives
    changes: t.Optional[Changes]


class _Core(t.NamedTuple):
    """All that is whole in every set, packed."""

    lines: t.List[_Line]
    left_out: t.List[LeftOut]
    sha256: str


class _Line(t.NamedTuple):
    """What the complete list, and the list of this set, get of one path."""

    path: str
    complete: bytes
    size: int
    listed: bytes


class _Read(t.NamedTuple):
    """What became of a file that was read. C(what): added, changed, touched, removed, or nothing of it that is in a set."""

    number: int
    what: str
    line: bytes
    size: int


class _Slice(t.NamedTuple):
    read: t.List[_Read]
    packed: bytes
    left_out: t.List[LeftOut]


class _File:
    """A new file, and the digest of what is written into it. As a context."""

    def __init__(self, path: str) -> None:
        self._raw, self._digest = open(path, "xb"), hashlib.sha256()  # noqa: SIM115 - it is closed with this context
        os.fchmod(self._raw.fileno(), 0o600)

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._raw.write(data)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class SetWriter:
    """The archives and the list of a set, new in a folder. C(base): the complete list of the set that this one adds to."""

    def __init__(self, folder: str, reader: Reader, base: Base = None) -> None:
        self._folder, self._reader, self._base = folder, reader, base
        self._complete, self._own, self._left_out = Sums(), Sums(), t.cast(t.List[LeftOut], [])
        self._counts = {"added": 0, "changed": 0, "removed": 0}

    def write(self, wanted: t.Mapping[str, str], look: Look) -> Written:
        """C(look): how these files, which were issued, lie there now. Raises KeywardError, Vanished, OSError."""
        others = sorted((path, part) for path, part in wanted.items() if part not in ISSUED_PARTS)
        issued = sorted(path for path, part in wanted.items() if part in ISSUED_PARTS)
        with ListWriter(os.path.join(self._folder, MEMBERS)) as listed, _File(os.path.join(self._folder, ISSUED)) as file:
            with parallel.beside(functools.partial(self._core, others), len(issued) > _SLICE) as packed:
                stamps = look(issued)
                core = packed()
            for line in core.lines:
                self._own.add(b"", line.size)
            self._left_out += core.left_out
            for line in heapq.merge(core.lines, self._issued(file, issued, stamps, wanted, core.lines)):
                if line.complete:
                    self._complete.add(line.complete, line.size)
                if line.listed:
                    listed.write(line.listed)
            file.write(_end())
        digests = {CORE: core.sha256, ISSUED: file.sha256}
        members = Members(self._complete.count, self._complete.size, self._complete.sha256, self._own.count, self._own.size)
        return Written(members, self._left_out, digests, Changes(**self._counts) if self._base else None)

    def _core(self, paths: t.Sequence[t.Tuple[str, str]]) -> _Core:
        lines = []
        with _File(os.path.join(self._folder, CORE)) as file:
            archive = Archive(file.write)
            for path, part in paths:
                status = self._reader.look(path, part)
                member = self._reader.add(archive, path, part, status) if status else None
                if member:
                    lines.append(_Line(path, line_of(member), member.size, line_of(member)))
            archive.flush()
            file.write(_end())
        return _Core(lines, self._reader.left_out(), file.sha256)

    def _issued(
        self, file: _File, issued: t.Sequence[str], stamps: t.Iterable[Stamp], wanted: t.Mapping[str, str], core: t.Sequence[_Line]
    ) -> t.Iterator[_Line]:
        if self._base is None:
            yield from self._read(file, issued, wanted, {})
            return
        whole = {line.path for line in core}
        for kept, gone, known in _since(issued, stamps, self._base(), wanted, whole):
            removed = [_Line(one.path, b"", 0, removed_line(one.path)) for one in gone]
            self._counts["removed"] += sum(1 for one in gone if one.part in ISSUED_PARTS)
            if known or removed:
                yield from heapq.merge(kept, self._read(file, list(known), wanted, known), removed)
            else:
                yield from kept

    def _read(self, file: _File, paths: t.Sequence[str], wanted: t.Mapping[str, str], known: _Known) -> t.Iterator[_Line]:
        work = functools.partial(_read_slice, self._folder, self._reader, paths, wanted, known)
        for part in parallel.in_order(-(-len(paths) // _SLICE), work):
            file.write(part.packed)
            self._left_out += part.left_out
            for number, what, line, size in part.read:
                if what in self._counts:
                    self._counts[what] += 1
                if what in ("added", "changed"):
                    self._own.add(b"", size)
                if what == "touched":
                    yield _Line(paths[number], line, size, touched_line(parsed(json.loads(line))))
                elif what == "removed":
                    yield _Line(paths[number], b"", 0, removed_line(paths[number]))
                else:
                    yield _Line(paths[number], line, size, line)


def _end() -> bytes:
    packing = packer()
    return t.cast(bytes, packing.compress(END) + packing.flush())


def is_changed(reader: Reader, base: t.Iterator[Line], wanted: t.Mapping[str, str], look: Look) -> bool:
    """Whether what was issued has other files or bytes than in the set of which C(base) is the complete list.

    Raises KeywardError, Vanished, OSError.
    """
    issued = sorted(path for path, part in wanted.items() if part in ISSUED_PARTS)
    for _kept, gone, known in _since(issued, look(issued), base, wanted):
        paths = list(known)
        work = functools.partial(_read_slice, None, reader, paths, wanted, known)
        read = (each for part in parallel.in_order(-(-len(paths) // _SLICE), work) for each in part.read)
        if any(one.part in ISSUED_PARTS for one in gone) or any(_has_changed(each, known[paths[each.number]]) for each in read):
            return True
    return False


def _has_changed(read: _Read, before: t.Optional[Member]) -> bool:
    """Whether its bytes are others: its times and its protection make no set due."""
    if before is None or read.what != "changed":
        return read.what != "touched"
    now = Listed(read.line)
    return (now.type, now.sha256, now.target) != (before.type, before.sha256, before.target)


def _since(
    issued: t.Sequence[str],
    stamps: t.Iterable[Stamp],
    base: t.Iterator[Line],
    wanted: t.Mapping[str, str],
    whole: t.Container[str] = (),
) -> t.Iterator[t.Tuple[t.List[_Line], t.List[Listed], _Known]]:
    """Of so many paths at a time: what is as in the base, what is gone, and what is to be read. C(whole): what is passed over."""
    beside = _side_by_side(zip(issued, stamps), base)
    for some in iter(lambda: list(itertools.islice(beside, _AT_ONCE)), []):
        kept: t.List[_Line] = []
        gone: t.List[Listed] = []
        known: t.Dict[str, t.Optional[Member]] = {}
        for path, stamp, before in some:
            if path in whole:
                continue
            if stamp is None:
                gone.append(listed_in_base(before))
            elif before and is_untouched(before, wanted[path], stamp):
                kept.append(_Line(path, before, stamp[0], b""))
            else:
                known[path] = listed_in_base(before).member if before else None
        yield kept, gone, known


def _side_by_side(stamped: t.Iterable[t.Tuple[str, Stamp]], base: t.Iterator[Line]) -> t.Iterator[t.Tuple[str, t.Optional[Stamp], bytes]]:
    """Each path of either, how it lies there, and the line that the earlier set has of it. Both are sorted."""
    one = next(base, None)
    for path, stamp in stamped:
        while one is not None and one.path < path:
            yield one.path, None, one.line
            one = next(base, None)
        if one is not None and one.path == path:
            yield path, stamp, one.line
            one = next(base, None)
        else:
            yield path, stamp, b""
    while one is not None:
        yield one.path, None, one.line
        one = next(base, None)


def _read_slice(
    folder: t.Optional[str], reader: Reader, paths: t.Sequence[str], wanted: t.Mapping[str, str], known: _Known, slice_number: int
) -> t.Iterator[_Slice]:
    """What comes of some files; in one of several processes."""
    read: t.List[_Read] = []
    with tempfile.SpooledTemporaryFile(max_size=_LARGEST_SLICE, dir=folder) as packed:
        archive = Archive(packed.write)
        for number in range(slice_number * _SLICE, min((slice_number + 1) * _SLICE, len(paths))):
            path, before = paths[number], known.get(paths[number])
            status = reader.look(path, wanted[path])
            member = reader.add(archive, path, wanted[path], status, before) if status else None
            if member is None:
                read += [_Read(number, "removed", b"", 0)] if before else []
            else:
                what = "added" if before is None else "touched" if before.says_the_same(member) else "changed"
                read.append(_Read(number, what, line_of(member), member.size))
        archive.flush()
        packed.seek(0)
        for piece in iter(lambda: packed.read(_PIECE), b""):
            yield _Slice([], piece, [])
    yield _Slice(read, b"", reader.left_out())
