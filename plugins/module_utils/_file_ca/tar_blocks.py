# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the blocks of tar archives, written and read; may change in any release.

They are ustar blocks, with pax headers where a path, an ACL or a number needs them, packed as gzip members: C(tar -xz) opens them.
The head of a gzip member says how long it is and how many entries it has, so that several processes can read one archive.
tarfile would take longer for a header than reading and packing a certificate takes.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import typing as t
import zlib

from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import Member

BLOCK = 512
END = bytes(2 * BLOCK)
LEVEL = 4  # half the work of 6, and 3 % more bytes
_TYPES = {"file": b"0", "directory": b"5", "link": b"2"}
_KINDS = {b"0": "file", b"\0": "file", b"5": "directory", b"2": "link"}
_LARGEST_HEADER = 64 * 1024  # of one member: names and links have 4 KiB at most
_PIECE = 256 * 1024
_EXTRA = struct.Struct("<H2sHQI")  # the extra field of a gzip head: its length, whose it is, and what it says
_HEAD = 10 + _EXTRA.size
_IN_MEMORY = 8 << 20  # bytes that a gzip member may unpack to and be read at once


def packer() -> t.Any:
    return zlib.compressobj(LEVEL, zlib.DEFLATED, 31)


def sized(packed: bytes, entries: int) -> bytes:
    """A gzip member that says how long it is, and how many entries are in it."""
    extra = _EXTRA.pack(_EXTRA.size - 2, b"KW", 12, len(packed) + _EXTRA.size, entries)
    return packed[:3] + b"\x04" + packed[4:10] + extra + packed[10:]


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def header(member: Member) -> bytes:
    """A member's name is its absolute path without the leading slash, so that C(tar --acls -xzp -C /) puts it back."""
    name, target = member.path[1:], member.target or ""
    plain = name.isascii() and target.isascii() and member.owner.isascii() and member.group.isascii()
    seconds = member.mtime // 10**9
    if (
        not plain
        or member.acl
        or member.default_acl
        or len(name) > 100
        or len(target) > 100
        or max(len(member.owner), len(member.group)) > 31
        or max(member.uid, member.gid) >= 1 << 21
        or member.size >= 1 << 33
        or not 0 <= seconds < 1 << 33
    ):
        return _pax(member, seconds)
    if member.type == "directory" and len(name) < 100:
        name += "/"
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%sustar\00000%s%s%s" % (
        name.encode("ascii").ljust(100, b"\0"),
        int(member.mode, 8),
        member.uid,
        member.gid,
        member.size,
        seconds,
        _TYPES[member.type],
        target.encode("ascii").ljust(100, b"\0"),
        member.owner.encode("ascii").ljust(32, b"\0"),
        member.group.encode("ascii").ljust(32, b"\0"),
        b"0000000\0000000000\0",
    )
    head = head.ljust(BLOCK, b"\0")
    return b"%s%06o\0 %s" % (head[:148], _sum(head), head[156:])


def _sum(head: bytes) -> int:
    """Of the 512 bytes. The lower half of an Adler-32 is a sum, and that of 256 bytes stays below its modulus."""
    return (zlib.adler32(head[:256]) & 0xFFFF) + (zlib.adler32(head[256:]) & 0xFFFF) - 2


def _pax(member: Member, seconds: int) -> bytes:
    info = tarfile.TarInfo(member.path[1:])
    info.type = _TYPES[member.type]
    info.mode, info.uid, info.gid = int(member.mode, 8), member.uid, member.gid
    info.uname, info.gname = member.owner, member.group
    info.mtime, info.size, info.linkname = seconds, member.size, member.target or ""
    acls = (("access", member.acl), ("default", member.default_acl))
    info.pax_headers = {f"SCHILY.acl.{kind}": acl for kind, acl in acls if acl}  # what tar --acls reads
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


# --- reading -----------------------------------------------------------------------------------------------------------


class Damaged(Exception):
    """An archive that can't be read on."""


class Readable(t.Protocol):
    def read(self, size: int, /) -> bytes: ...


class Entry(t.NamedTuple):
    name: str
    kind: str  # file, directory, link or other
    size: int
    target: str


class Piece(t.NamedTuple):
    """A part of an archive that can be read alone. C(length), C(entries): None of what is left of it."""

    begin: int
    length: t.Optional[int]
    first: int  # entry
    entries: t.Optional[int]


def pieces_of(path: str) -> t.List[Piece]:
    """Those of an archive, in order; the last one is what is left, at least the end. Raises OSError."""
    found: t.List[Piece] = []
    begin = first = 0
    with open(path, "rb") as stream:
        while True:
            head = os.pread(stream.fileno(), _HEAD, begin)
            if len(head) < _HEAD or head[:4] != b"\x1f\x8b\x08\x04":
                break
            size, whose, inner, length, entries = _EXTRA.unpack_from(head, 10)
            if (size, whose, inner) != (_EXTRA.size - 2, b"KW", 12) or length <= _HEAD:
                break
            found.append(Piece(begin, length, first, entries))
            begin, first = begin + length, first + entries
    return [*found, Piece(begin, None, first, None)]


class _Window:
    """So many bytes of a file."""

    def __init__(self, descriptor: int, begin: int, length: t.Optional[int]) -> None:
        self._descriptor, self._at = descriptor, begin
        self._end = None if length is None else begin + length

    def read(self, size: int) -> bytes:
        data = os.pread(self._descriptor, size if self._end is None else min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data


def opened(descriptor: int, piece: Piece) -> TarReader:
    """Raises Damaged."""
    if piece.length is not None and piece.length < _IN_MEMORY:
        unpacker = zlib.decompressobj(31)
        try:
            data = unpacker.decompress(os.pread(descriptor, piece.length, piece.begin), _IN_MEMORY)
        except zlib.error as exc:
            raise Damaged from exc
        if unpacker.eof and not unpacker.unused_data:
            return TarReader(io.BytesIO(data))
    return TarReader(Unpacking(_Window(descriptor, piece.begin, piece.length)))


class Unpacking:
    """What gzip members in a file unpack to, in bounded memory. Raises Damaged."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._unpacker: t.Any = None
        self._packed, self._ready, self._at = b"", b"", 0

    def read(self, size: int) -> bytes:
        """So many bytes; fewer at the end alone."""
        end = self._at + size
        if end <= len(self._ready):
            data = self._ready[self._at : end]
            self._at = end
            return data
        pieces = [self._ready[self._at :]]
        missing = size - len(pieces[0])
        self._ready, self._at = b"", 0
        while missing > 0 and self._fill():
            pieces.append(self._ready[:missing])
            self._at = len(pieces[-1])
            missing -= self._at
        return b"".join(pieces)

    def _fill(self) -> bool:
        while True:
            if not self._packed:
                self._packed = self._stream.read(_PIECE)
                if not self._packed:
                    if self._unpacker is not None:
                        raise Damaged
                    return False
            if self._unpacker is None:
                self._unpacker = zlib.decompressobj(31)
            try:
                data = self._unpacker.decompress(self._packed, 1 << 20)
            except zlib.error as exc:
                raise Damaged from exc
            self._packed = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                self._packed, self._unpacker = self._unpacker.unused_data, None
            if data:
                self._ready, self._at = data, 0
                return True


class TarReader:
    """The entries of a tar archive, one after the other. Raises Damaged; no header is believed to be longer than names can be."""

    def __init__(self, unpacked: Readable) -> None:
        self._unpacking = unpacked
        self.left = self._pad = 0  # of the contents of an entry

    @property
    def at_end(self) -> bool:
        """Whether nothing follows the entry that was read last."""
        self._pass_over()
        return not self._unpacking.read(1)

    def _pass_over(self) -> None:
        while self.left:
            self.read(1 << 20)

    def next(self) -> t.Optional[Entry]:
        """None at the end. What is left of the entry before is passed over."""
        self._pass_over()
        pax: t.Dict[str, str] = {}
        for _header in range(8):
            head = self._unpacking.read(BLOCK)
            if head[:1] in (b"", b"\0") and not head.strip(b"\0"):
                return None
            if len(head) != BLOCK or _number(head[148:156]) != _sum(head[:148] + b"        " + head[156:]):
                raise Damaged
            size, kind = _number(head[124:136]), head[156:157]
            if kind == b"0" and not pax and not head[345]:  # almost all
                self.left, self._pad = size, -size % BLOCK
                return Entry(_text(head[:100]), "file", size, "")
            if kind not in b"xg":
                return self._entry(head, kind, size, pax)
            if size > _LARGEST_HEADER:
                raise Damaged
            records = self._unpacking.read(size + -size % BLOCK)[:size]
            pax.update(_records(records))
        raise Damaged

    def _entry(self, head: bytes, kind: bytes, size: int, pax: t.Mapping[str, str]) -> Entry:
        name, target = _text(head[:100]), _text(head[157:257])
        prefix = _text(head[345:500]) if head[257:262] == b"ustar" else ""
        if prefix:
            name = f"{prefix}/{name}"
        name, target = pax.get("path", name), pax.get("linkpath", target)
        if "size" in pax:
            if not pax["size"].isdigit() or len(pax["size"]) > 18:
                raise Damaged
            size = int(pax["size"])
        known = _KINDS.get(kind, "other")
        if any(each.startswith("GNU.sparse") for each in pax):
            known = "other"
        self.left = size if known == "file" else 0
        self._pad = -self.left % BLOCK
        if known == "other":
            raise Damaged
        return Entry(name.rstrip("/") if known == "directory" else name, known, size if known == "file" else 0, target)

    def read(self, size: int) -> bytes:
        """Of the contents of the entry."""
        if not self.left:
            return b""
        data = self._unpacking.read(min(size, self.left))
        if not data:
            raise Damaged
        self.left -= len(data)
        if not self.left and len(self._unpacking.read(self._pad)) != self._pad:
            raise Damaged
        return data


def _number(field: bytes) -> int:
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    try:
        number = int(text, 8) if text else 0
    except ValueError:
        raise Damaged from None
    if number < 0:
        raise Damaged
    return number


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _records(data: bytes) -> t.Dict[str, str]:
    """Of a pax header: C(<length> <name>=<value>\\n)."""
    found = {}
    at = 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + 8)
        if blank < 0 or not data[at:blank].isdigit():
            raise Damaged
        end = at + int(data[at:blank])
        name, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= blank + 1 or data[end - 1 : end] != b"\n" or not equals:
            raise Damaged
        found[name.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return found
