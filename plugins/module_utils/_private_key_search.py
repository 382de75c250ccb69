# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: finding private keys in files of any kind and size; may change in any release. No Ansible here."""

from __future__ import annotations

import binascii
import re
import typing as t

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
except ImportError:  # the modules say which library is missing
    pass

WINDOW = 1024 * 1024
# Longer than any key in any encoding: what one window cuts, the next one holds whole.
OVERLAP = 64 * 1024

_ARMOUR = re.compile(rb"-----BEGIN [A-Z0-9 #]{0,40}(?:PRIVATE KEY|PKCS12|TSS2)")
_DER = re.compile(
    rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05[\x01-\x0d]"  # PBES1, PBES2 (RFC 8018)
    rb"|\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01[\x01-\x06]"  # PBE of PKCS #12 (RFC 7292, appendix C)
    rb"|\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01[\x01\x02]"  # its key bags
    rb"|\x30\x82..\x02\x01\x00\x02(?:\x82..|\x81.)\x00"  # RSAPrivateKey (RFC 8017), DSA
    rb"|\x30(?:[\x20-\x7f]|\x81.|\x82..)\x02\x01\x01\x04[\x14-\x48]",  # ECPrivateKey (RFC 5915)
    re.DOTALL,
)
# The version and the algorithm of a PrivateKeyInfo (RFC 5958). A CRL has the same two, and no OCTET STRING after them.
_ALGORITHM = re.compile(rb"\x02\x01[\x00\x01](?=\x30[\x05-\x7f\x81\x82])")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{8,}={0,2}[ \t\r\n]*){1,}")


def key_material(private_key: t.Any) -> t.List[bytes]:
    """The numbers of a private key that nothing but the key knows, as bytes."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        numbers = private_key.private_numbers()
        return [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (numbers.p, numbers.q, numbers.d)]
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        value = private_key.private_numbers().private_value
        return [value.to_bytes((private_key.curve.key_size + 7) // 8, "big")]
    try:
        raw = serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        return [private_key.private_bytes(*raw)]
    except (ValueError, TypeError, AttributeError):
        return []


def private_key_in(stream: t.BinaryIO, known: t.Sequence[bytes] = ()) -> t.Optional[str]:
    """What kind of private key a file holds, as a clause; None where it holds none. C(known): the numbers of keys to look for."""
    window, first = b"", True
    while True:
        piece = stream.read(WINDOW)
        if not piece:
            return None
        window = window[-OVERLAP:] + piece
        found = _found(window, first, known)
        if found:
            return found
        first = False


def _found(window: bytes, first: bool, known: t.Sequence[bytes]) -> t.Optional[str]:
    if _ARMOUR.search(window):
        return "it holds a private key (PEM)"
    if first and _starts_as_key(window):
        return "it is a private key or PKCS #12 file (DER)"
    if _holds(window, known):
        return "it holds a private key (DER)"
    digits = window.translate(None, b": \t\r\n").lower() if known else b""
    if any(number.hex().encode("ascii") in digits for number in known):
        return "it holds a private key (hexadecimal digits)"
    for run in _BASE64.finditer(window):
        text = run.group().translate(None, b" \t\r\n=")
        # Where the text begins inside a group of four is not known; long runs are CRLs and lists of certificates.
        for shift in range(4 if len(text) < OVERLAP else 1):
            whole = text[shift:]
            whole = whole[:-1] if len(whole) % 4 == 1 else whole
            if _holds(binascii.a2b_base64(whole + b"=" * (-len(whole) % 4)), known):
                return "it holds a private key (base64)"
    return None


def _holds(data: bytes, known: t.Sequence[bytes]) -> bool:
    if _DER.search(data) or any(number in data for number in known):
        return True
    return any(_is_private_key_info(data, match.end()) for match in _ALGORITHM.finditer(data))


def _is_private_key_info(data: bytes, algorithm: int) -> bool:
    """Whether an AlgorithmIdentifier begins at a position, and an OCTET STRING follows it."""
    try:
        start, end = _content(data, algorithm)
        return data[start] == 0x06 and data[end] == 0x04 and data[start + 1] < 16 and end - start < 2048
    except IndexError:
        return False


def _starts_as_key(data: bytes) -> bool:
    """Whether the first two elements in an outer SEQUENCE are those of a private key or of a PKCS #12 file."""
    try:
        if data[0] != 0x30:
            return False
        position = _content(data, 0)[0]
        first = data[position]
        start, end = _content(data, position)
        second = data[end]
    except IndexError:
        return False
    if first == 0x02:
        number = data[start:end]
        return (number in (b"\x00", b"\x01") and second in (0x30, 0x02, 0x04)) or (number == b"\x03" and second == 0x30)
    return first == 0x30 and second == 0x04


def _content(data: bytes, position: int) -> t.Tuple[int, int]:
    """(start, end) of the content of the element at a position; of one without a length (BER) the start twice."""
    length, start = data[position + 1], position + 2
    if length == 0x80:
        return start, start
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[position + 2 : start], "big")
    return start, start + length
