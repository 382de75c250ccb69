# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the archives of a set and the lists of their members, as they are read; may change in any release.

Lists and archives are sorted by path and are read as streams, side by side. A member of an increment lies in the newest set of its chain
whose list has its whole line.
"""

from __future__ import annotations

import hashlib
import json
import os
import typing as t
import zlib

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import (
    ANOTHER,
    FLOOR,
    PARTS,
    PROGRAMS,
    RATIO,
    Member,
    Sums,
    archive_of,
    lines_in,
    merged,
    parsed,
    refusing,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.tar_blocks import Damaged, Entry, TarReader
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED, MEMBERS, Members

_CHUNK = 1024 * 1024
_WHAT = "the set can't be used"


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
        while self.read(_CHUNK):
            pass
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

    def list(self) -> t.Iterator[Member]:
        """Every member, sorted by path. Raises KeywardError where a list is damaged, or another than the manifest says."""
        sums = Sums()
        with refusing(self._links[-1].members_list):
            for member, line, _held in merged([lines_in(link.members_list) for link in self._links]):
                sums.add(line, member.size)
                if sums.count > self._members.count or sums.size > self._members.size:
                    raise ValueError
                yield member
            if (sums.count, sums.size, sums.sha256) != (self._members.count, self._members.size, self._members.sha256):
                raise ValueError

    def contents(self, *archives: str) -> t.Iterator[t.Tuple[Member, t.Optional[Contents]]]:
        """Each member with its contents, in the order of the archives (all, unless some are named); each digest is checked once it
        was read to its end.

        Raises KeywardError where an archive is damaged, or holds anything else or less than the list says.
        """
        for number, name in enumerate(archives or (CORE, ISSUED)):
            if name == ISSUED and self._chain:
                yield from self._of_chain()
                continue
            # The list is judged once; what is read of it again is in the same file.
            members = self.list() if number == 0 and not self._chain else self._whole_lines(self._links[-1], name)
            expected = (member for member in members if archive_of(member.part) == name)
            yield from _read(os.path.join(self._folder, name), expected)

    def _of_chain(self) -> t.Iterator[t.Tuple[Member, t.Optional[Contents]]]:
        """Of each set what none of the newer ones has again."""
        for _member in self.list():  # the chain makes the list that the manifest names
            pass
        later: t.List[t.Set[str]] = [set()]  # as long as the increments are
        for link in self._links[:0:-1]:
            with refusing(link.members_list):
                shapes = map(json.loads, lines_in(link.members_list))
                later.insert(0, later[0] | {shape["path"] for shape in shapes if "part" in shape or "removed" in shape})
        for link, replaced in zip(self._links, later):
            expected = (member for member in self._whole_lines(link, ISSUED) if archive_of(member.part) == ISSUED)
            for member, stream in _read(link.issued, expected):
                if member.path not in replaced:
                    yield member, stream

    def _whole_lines(self, link: LinkFiles, name: str) -> t.Iterator[Member]:
        """Those of one archive, and perhaps others."""
        others = tuple(b'"part":"%s"' % part.encode("ascii") for part in PARTS if archive_of(part) != name)
        with refusing(link.members_list):
            for line in lines_in(link.members_list):
                # Its path stands before its part, and no quotation mark in a path is without a backslash.
                if not any(other in line for other in others):
                    shape = json.loads(line)
                    if "part" in shape:
                        yield parsed(shape)

    def prove(self) -> None:
        """Read every member: it is what the list says. Raises KeywardError."""
        for _member, _stream in self.contents():
            pass


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as exc:
        raise KeywardError(_WHAT, f"{path}: {os_cause(exc)}", ANOTHER) from exc


def _read(path: str, expected: t.Iterator[Member]) -> t.Iterator[t.Tuple[Member, t.Optional[Contents]]]:
    fault = None
    with open(path, "rb") as packed:
        reader = TarReader(packed)
        try:
            for entry in iter(reader.next, None):
                member = next(expected, None)
                fault = _difference(entry, member)
                if fault or member is None:
                    break
                contents = Contents(reader, member.path) if member.type == "file" else None
                yield member, contents
                if contents and contents.hexdigest != member.sha256:
                    fault = f"{member.path} does not have the digest that the list of members records"
                    break
        except (Damaged, zlib.error):
            fault = f"{path} is damaged or cut off"
        if fault is None:
            missing = next(expected, None)
            fault = f"{missing.path} is missing in {path}" if missing else None
    if fault:
        raise KeywardError(_WHAT, fault, ANOTHER)


def _difference(entry: Entry, member: t.Optional[Member]) -> t.Optional[str]:
    """Why the next entry of an archive is not the next member of the list."""
    if member is None or (entry.name, entry.kind) != (member.path[1:], member.type) or entry.size != member.size:
        return f"{entry.name} is not what the list of members says"
    if entry.kind == "link" and entry.target != member.target:
        return f"{entry.name} leads elsewhere than the list of members says"
    return None
