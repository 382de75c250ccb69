# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: reading and writing DER, and as much BER as other software writes (X.690); may change in any release.

No files and no Ansible here. The one walk of the collection: every value is bounded before anything of it is believed.
"""

from __future__ import annotations

import contextlib
import typing as t
from contextvars import ContextVar

MAX_DEPTH = 32
MAX_ELEMENTS = 100_000  # values side by side, or inside one of indefinite length
MAX_LOOKS = 600_000  # visits to values of one document, repeated visits included

INTEGER, BITS, OCTETS, NULL, OID, UTF8, BMP, SEQUENCE, SET = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x1E, 0x30, 0x31
CONTEXT_0, CONSTRUCTED_0, CONSTRUCTED = 0x80, 0xA0, 0x20


class Damaged(ValueError):
    """A value that is not what its place demands."""


class LimitExceeded(ValueError):
    """The document exceeds a bound: `limit` names it, `value` is its size."""

    def __init__(self, limit: str, value: int) -> None:
        super().__init__(f"it exceeds the limit of {value} {limit}")
        self.limit, self.value = limit, value


class Value(t.NamedTuple):
    tag: int
    body: bytes
    whole: bytes  # with tag and length


_looks: ContextVar[t.Optional[t.List[int]]] = ContextVar("looks", default=None)


@contextlib.contextmanager
def one_document() -> t.Iterator[None]:
    """Bounds the total work on one document: values nest, and every pass visits all of them again."""
    token = _looks.set([MAX_LOOKS])
    try:
        yield
    finally:
        _looks.reset(token)


def _count() -> None:
    left = _looks.get()
    if left is None:
        return
    left[0] -= 1
    if left[0] < 0:
        raise LimitExceeded("values", MAX_LOOKS)


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the body of the value at an offset; the end is -1 where the length is indefinite."""
    _count()
    try:
        tag, length = data[at], data[at + 1]
    except IndexError:
        raise Damaged("a value is cut off") from None
    start = at + 2
    if length == 0x80 and tag & CONSTRUCTED:
        return tag, start, -1
    if length >= 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[start : start + size], "big")
        start += size
        if not 1 <= size <= 8:
            raise Damaged("a length is impossible")
    if start + length > len(data):
        raise Damaged("a value is longer than what holds it")
    return tag, start, start + length


def _end_of_contents(data: bytes, at: int) -> int:
    """The offset of the two NULs that end a body of indefinite length which starts at `at` (X.690 8.1.5)."""
    depth = 0
    for _step in range(MAX_ELEMENTS):
        tag, start, end = _header(data, at)
        if tag == 0 and end == start:
            if depth == 0:
                return at
            depth -= 1
        elif end < 0:
            depth += 1
            if depth > MAX_DEPTH:
                raise LimitExceeded("nested values", MAX_DEPTH)
        at = max(start, end)
    raise LimitExceeded("values", MAX_ELEMENTS)


def first(data: bytes, at: int = 0) -> Value:
    tag, start, end = _header(data, at)
    if end >= 0:
        return Value(tag, data[start:end], data[at:end])
    end = _end_of_contents(data, start)
    return Value(tag, data[start:end], data[at : end + 2])


def values(data: bytes) -> list[Value]:
    """All values that follow each other in `data`."""
    found: list[Value] = []
    at = 0
    while at < len(data):
        if len(found) == MAX_ELEMENTS:
            raise LimitExceeded("values", MAX_ELEMENTS)
        found.append(first(data, at))
        at += len(found[-1].whole)
    return found


def only(data: bytes) -> Value:
    value = first(data)
    if len(value.whole) != len(data):
        raise Damaged("something follows a value that ought to be the only one")
    return value


def members(value: Value, least: int = 0, tag: int = SEQUENCE) -> list[Value]:
    """The members of a SEQUENCE (or another constructed type), of which there must be at least so many."""
    if value.tag != tag:
        raise Damaged("a value has the wrong type")
    found = values(value.body)
    if len(found) < least:
        raise Damaged("a value lacks a part")
    return found


def integer(value: Value) -> int:
    if value.tag != INTEGER or not 1 <= len(value.body) <= 64:
        raise Damaged("a number is none")
    return int.from_bytes(value.body, "big", signed=True)


def oid(value: Value) -> str:
    """The dotted form of an OBJECT IDENTIFIER."""
    if value.tag != OID or not 1 <= len(value.body) <= 64 or value.body[-1] & 0x80:
        raise Damaged("an object identifier is none")
    arcs, arc = [], 0
    for octet in value.body:
        arc = arc << 7 | octet & 0x7F
        if octet < 0x80:
            arcs.append(arc)
            arc = 0
    top = min(arcs[0] // 40, 2)
    return ".".join(map(str, [top, arcs[0] - 40 * top, *arcs[1:]]))


def octets(value: Value, primitive: int = OCTETS) -> bytes:
    """The content of an OCTET STRING, which BER allows to be cut into pieces, and those again."""
    if value.tag == primitive:
        return value.body
    if value.tag != primitive | CONSTRUCTED:
        raise Damaged("an octet string is none")
    # One pass, whatever lies in what: an end in `ends` is -1 where only two NULs tell it (X.690 8.1.5).
    data, at = value.body, 0
    pieces: list[bytes] = []
    ends = [len(data)]
    for _step in range(MAX_ELEMENTS):
        while ends and at == ends[-1]:
            ends.pop()
        if not ends:
            return b"".join(pieces)
        tag, start, end = _header(data, at)
        if tag == 0 and end == start and ends[-1] < 0:
            ends.pop()
        elif tag == OCTETS:
            pieces.append(data[start:end])
        elif tag == OCTETS | CONSTRUCTED:
            if len(ends) > MAX_DEPTH:
                raise LimitExceeded("nested values", MAX_DEPTH)
            ends.append(end)
            end = start
        else:
            raise Damaged("an octet string is none")
        bound = next((limit for limit in reversed(ends) if limit >= 0), len(data))
        if max(start, end) > bound:
            raise Damaged("a value is longer than what holds it")
        at = max(start, end)
    raise LimitExceeded("values", MAX_ELEMENTS)


def content(parts: list[Value]) -> Value:
    """What [0] EXPLICIT holds, the second member of a ContentInfo or of a bag."""
    held = members(parts[1], 1, CONSTRUCTED_0)
    if len(held) > 1:
        raise Damaged("a value has a part too many")
    return held[0]


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def tlv_integer(number: int) -> bytes:
    length = (number if number >= 0 else ~number).bit_length() // 8 + 1  # old software wrote negative serial numbers
    return tlv(INTEGER, number.to_bytes(length, "big", signed=True))


def tlv_oid(dotted: str) -> bytes:
    top, second, *arcs = map(int, dotted.split("."))
    body = b""
    for arc in (40 * top + second, *arcs):
        septets = range(max(arc.bit_length() - 1, 0) // 7, -1, -1)
        body += bytes(arc >> 7 * at & 0x7F | (0x80 if at else 0) for at in septets)
    return tlv(OID, body)
