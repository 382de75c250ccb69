# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the archives of a set and the lists of their members, as they are read; may change in any release.

Lists and archives are sorted by path and are read as streams, side by side. A member of an increment lies in the newest set of its chain
whose list has its whole line.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import typing as t
import zlib

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import parallel
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import (
    ANOTHER,
    FLOOR,
    PROGRAMS,
    RATIO,
    Expected,
    Listed,
    Member,
    Sums,
    lines_in,
    merged,
    named_in,
    refusing,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.tar_blocks import Damaged, Entry, TarReader, opened, pieces_of
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED, MEMBERS, Members

_CHUNK = 1024 * 1024
_WHAT = "the set can't be used"


Read = t.Iterator[t.Tuple[Listed, t.Optional["Contents"]]]
Judge = t.Callable[[Read], t.Any]


class LinkFiles(t.NamedTuple):
    """What an increment needs of an older set of its chain: two of its files, and what its manifest says of its members."""

    issued: str
    members_list: str
    members: Members


class Contents:
    """What a member holds, read to its end or not at all."""

    def __init__(self, reader: TarReader, path: str) -> None:
        self._reader, self._digest, self._path, self._first = reader, hashlib.sha256(), path, True

    def read(self, size: int = -1) -> bytes:
        data = self._reader.read(size) if size >= 0 else b"".join(iter(lambda: self._reader.read(_CHUNK), b""))
        if self._first and data.startswith(PROGRAMS):
            raise KeywardError(_WHAT, f"{self._path} in it: it is a program, as no file of a CA is", ANOTHER)
        self._first = False
        self._digest.update(data)
        return data

    @property
    def hexdigest(self) -> str:
        while self._reader.left:
            self.read(_CHUNK)
        return self._digest.hexdigest()


class SetFiles:
    """The files of a set in a folder. They are read as streams, and no further than its manifest says that they go.

    C(chain): the sets that it adds to, the full one first.
    """

    def __init__(self, folder: str, members: Members, chain: t.Sequence[LinkFiles] = ()) -> None:
        self._folder, self._members, self._chain = folder, members, tuple(chain)
        own = LinkFiles(os.path.join(folder, ISSUED), os.path.join(folder, MEMBERS), members)
        self._links = (*self._chain, own)
        packed = sum(_size(link.issued) for link in self._links) + _size(os.path.join(folder, CORE))
        for size in (members.size, sum(link.members.held_size for link in self._links)):
            if size > RATIO * packed + FLOOR:
                raise KeywardError(_WHAT, f"its files would unpack to {size} bytes, as no database does", ANOTHER)

    def list(self) -> t.Iterator[Listed]:
        """Every member, sorted by path. Raises KeywardError where a list is damaged, or another than the manifest says."""
        sums = Sums()
        with refusing(self._links[-1].members_list):
            for one in merged([lines_in(link.members_list) for link in self._links]):
                sums.add(one.line, one.size)
                if sums.count > self._members.count or sums.size > self._members.size:
                    raise ValueError
                yield one
            if (sums.count, sums.size, sums.sha256) != (self._members.count, self._members.size, self._members.sha256):
                raise ValueError

    def contents(self, *archives: str) -> t.Iterator[t.Tuple[Member, t.Optional[Contents]]]:
        """Each member with its contents, in the order of the archives (all, unless some are named); each digest is checked once it
        was read to its end. The list is not judged here.

        Raises KeywardError where an archive is damaged, or holds anything else or less than the list says.
        """
        for name in archives or (CORE, ISSUED):
            if name == CORE:
                yield from _Archive(os.path.join(self._folder, CORE), self._links[-1].members_list, name, set()).all()
            else:
                for read in self._issued():
                    yield from read.all()

    def judged(self, judge: Judge) -> t.Iterator[t.Any]:
        """What C(judge) says of what was issued, of so many members at a time, in order. One process for each core reads and judges.

        Raises KeywardError as C(contents) does, where C(judge) takes all that it gets.
        """
        for read in self._issued():
            yield from parallel.in_order(len(read.pieces), functools.partial(read.judged, judge))

    def _issued(self) -> t.Iterator[_Archive]:
        """Of each set of the chain what none of the newer ones has again."""
        later: t.List[t.Set[str]] = [set()]  # as long as the increments are
        for link in self._links[:0:-1]:
            with refusing(link.members_list):
                later.insert(0, later[0] | {*named_in(link.members_list)})
        for link, replaced in zip(self._links, later):
            yield _Archive(link.issued, link.members_list, ISSUED, replaced)

    def prove_list(self) -> None:
        """Raises KeywardError as C(list)."""
        for _one in self.list():
            pass

    def prove(self) -> None:
        """Read every member: it is what the list says. Raises KeywardError."""
        self.prove_list()
        for _member, _stream in self.contents():
            pass


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as exc:
        raise KeywardError(_WHAT, f"{path}: {os_cause(exc)}", ANOTHER) from exc


class _Archive:
    """An archive beside the list of its members. C(replaced): the paths of what is passed over."""

    def __init__(self, path: str, members_list: str, name: str, replaced: t.Collection[str]) -> None:
        self._path, self._replaced = path, replaced
        self.pieces = pieces_of(path)
        self._expected = Expected(members_list, name)

    def all(self) -> t.Iterator[t.Tuple[Member, t.Optional[Contents]]]:
        for number in range(len(self.pieces)):
            for listed, contents in self._of(number):
                yield listed.member, contents

    def judged(self, judge: Judge, number: int) -> t.Iterator[t.Any]:
        """Of one piece; of a higher number each time that a process asks."""
        yield judge(self._of(number))

    def _of(self, number: int) -> Read:
        piece, fault = self.pieces[number], None
        self._expected.go_to(piece.first)
        with open(self._path, "rb") as packed:
            try:
                reader = opened(packed.fileno(), piece)
                for _number in itertools.count() if piece.entries is None else range(piece.entries):
                    entry = reader.next()
                    if entry is None and piece.entries is None:
                        break
                    listed = self._expected.next()
                    fault = "an entry is missing" if entry is None else _difference(entry, listed)
                    if fault or listed is None:
                        break
                    contents = Contents(reader, listed.path) if listed.type == "file" else None
                    if listed.path not in self._replaced:
                        yield listed, contents
                    if contents and contents.hexdigest != listed.sha256:
                        fault = f"{listed.path} does not have the digest that the list of members records"
                        break
                else:
                    fault = None if reader.at_end else f"{self._path} holds more than it says"
            except (Damaged, zlib.error):
                fault = f"{self._path} is damaged or cut off"
        if fault is None and piece.entries is None:
            missing = self._expected.next()
            fault = f"{missing.path} is missing in {self._path}" if missing else None
        if fault:
            raise KeywardError(_WHAT, fault, ANOTHER)


def _difference(entry: Entry, listed: t.Optional[Listed]) -> t.Optional[str]:
    """Why the next entry of an archive is not the next member of the list."""
    if listed is None or (entry.name, entry.kind) != (listed.path[1:], listed.type) or entry.size != listed.size:
        return f"{entry.name} is not what the list of members says"
    if entry.kind == "link" and entry.target != listed.target:
        return f"{entry.name} leads elsewhere than the list of members says"
    return None
