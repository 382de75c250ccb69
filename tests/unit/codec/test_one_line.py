# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A subject in one line is letter for letter what openssl writes: compared with its library."""

from __future__ import annotations

import ctypes
import ctypes.util
import random

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _der, _one_line
from ansible_collections.keyward.pki.plugins.module_utils._one_line import one_line

OTHERS = ("1.2.3.4", "2.5.4.127", "1.3.6.1.4.1.99999.1")
VALUES = (
    b"a",
    b"",
    b"a/b+c",
    b"M\xc3\xbcller",
    b"\xe4",
    b"\0\0\0a\0\0\0b",
    b"\0a\0b",
    b"tab\tnew\nline",
    b"\\",
    b"\x7f~ ",
    b"=,",
    b"\0\0\0\0",
)
TAGS = (0x0C, 0x13, 0x14, 0x16, 0x1B, 0x1E, 0x1C, 0x12)


def oid(dotted: str) -> bytes:
    first, second, *more = map(int, dotted.split("."))
    body = b""
    for number in (first * 40 + second, *more):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.insert(0, 0x80 | number & 0x7F)
        body += bytes(groups)
    return _der.tlv(_der.OID, body)


def attribute(dotted: str, tag: int, value: bytes) -> bytes:
    return _der.tlv(_der.SEQUENCE, oid(dotted), _der.tlv(tag, value))


def name(*relative: list[bytes]) -> bytes:
    return _der.tlv(_der.SEQUENCE, *(_der.tlv(_der.SET, *sorted(parts)) for parts in relative))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
    for function in ("d2i_X509_NAME", "X509_NAME_oneline"):
        getattr(lib, function).restype = ctypes.c_void_p
    return lib


def by_openssl(library: ctypes.CDLL, der: bytes) -> str | None:
    start = ctypes.c_char_p(der)
    parsed = library.d2i_X509_NAME(None, ctypes.byref(start), ctypes.c_long(len(der)))
    if not parsed:
        return None
    buffer = ctypes.create_string_buffer(65536)
    library.X509_NAME_oneline(ctypes.c_void_p(parsed), buffer, len(buffer))
    library.X509_NAME_free(ctypes.c_void_p(parsed))
    return buffer.value.decode("ascii")


def test_every_name_of_an_attribute_is_openssls(library: ctypes.CDLL) -> None:
    for dotted in (*_one_line._NAMES, *OTHERS):
        der = name([attribute(dotted, 0x0C, b"x")])
        assert one_line(der) == by_openssl(library, der)


def test_odd_values_and_several_in_one_set(library: ctypes.CDLL) -> None:
    rng, judged = random.Random(5), 0  # noqa: S311 - the same each time
    kinds = [*_one_line._NAMES, *OTHERS]
    for _name in range(2000):
        relative = [
            [attribute(rng.choice(kinds), rng.choice(TAGS), rng.choice(VALUES)) for _part in range(rng.choice((1, 1, 1, 2, 3)))]
            for _set in range(rng.randrange(5))
        ]
        der = name(*relative)
        expected = by_openssl(library, der)
        if expected is not None:
            judged += 1
            assert one_line(der) == expected, der.hex()
    assert judged > 500


@pytest.mark.parametrize("data", [b"", b"\x30\x02\x31\x00", b"\x30\x80", b"\x04\x00", name([b"\x30\x00"])])
def test_what_is_no_name_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(ValueError):
        one_line(data)
