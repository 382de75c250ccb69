# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: finding private keys in files of any kind and size; may change in any release. No Ansible here."""

from __future__ import annotations

import binascii
import io
import re
import typing as t

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
except ImportError:  # the modules say which library is missing
    pass

WINDOW = 1024 * 1024
# Longer than any key in any encoding: a key that one window cuts is whole in the next.
OVERLAP = 64 * 1024


class _Pattern(t.NamedTuple):
    """C(literal): what is in each match; most files lack it, and that is seen ten times as fast."""

    literal: bytes
    pattern: t.Pattern[bytes]


def _patterns(*found: t.Tuple[bytes, bytes]) -> t.Tuple[_Pattern, ...]:
    return tuple(_Pattern(literal, re.compile(pattern, re.DOTALL)) for literal, pattern in found)


_ARMOUR = _patterns((b"BEGIN ", rb"----[- ]BEGIN [A-Z0-9 #]{0,40}(?:PRIVATE KEY|PKCS12|TSS2)"))
_MARKS = _patterns(
    (b"PuTTY-User-Key-File-", rb"PuTTY-User-Key-File-"),
    (b"openssh-key-v1\x00", rb"openssh-key-v1\x00"),
    (b"xponent:", rb"private(?:Exponent| exponent):[ \t]*\r?\n"),  # openssl pkey -text, certtool
    (b"priv:", rb"priv:(?<![^\s]priv:)[ \t]*\r?\n"),
    (b"\x1e\xf1\xb5\xb0", rb"\x1e\xf1\xb5\xb0\x00{4}"),  # PVK
    (b"\x07\x02\x00\x00", rb"\x07\x02\x00\x00....(?:RSA2|DSS[24])"),  # PRIVATEKEYBLOB
    (b"\x00\x00\x00", rb"RSA[23]..\x00\x00[\x01-\x08]\x00{3}"),  # the private blobs of CNG
    (b"\x00\x00\x00", rb"ECS[246][\x20\x30\x42]\x00{3}"),
)
_JWK = re.compile(rb'"d"\s*:\s*"[A-Za-z0-9_-]{16}')
# Containers that can't be searched count as keys: a set must be proved to hold none.
_OPAQUE = re.compile(
    rb"\A(?:\x1f\x8b|BZh[1-9]|\xfd7zXZ\x00|PK\x03\x04|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!|Salted__|U2FsdGVkX1|\s*-----BEGIN PGP MESSAGE)"
)
_DER = _patterns(
    # PBES1, PBES2 (RFC 8018)
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05[\x01-\x0d]"),
    # PBE of PKCS #12 (RFC 7292, appendix C)
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c", rb"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01[\x01-\x06]"),
    # its key bags, and PBE of NSS
    (
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c",
        rb"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c(?:\x0a\x01[\x01\x02]|\x05\x01[\x01-\x06])",
    ),
    (b"\x2b\x06\x01\x04\x01\x2a\x02\x11", rb"\x06\x0a\x2b\x06\x01\x04\x01\x2a\x02\x11\x01\x01"),  # JKS
    (b"\x2b\x06\x01\x04\x01\x2a\x02\x13", rb"\x06\x09\x2b\x06\x01\x04\x01\x2a\x02\x13\x01"),  # JCEKS
    # RSAPrivateKey (RFC 8017), DSA
    (b"\x02\x01\x00\x02", rb"\x02\x01\x00\x02(?<=\x30\x82..\x02\x01\x00\x02)(?:\x82..|\x81.)\x00"),
    # ECPrivateKey (RFC 5915)
    (
        b"\x02\x01\x01\x04",
        rb"\x02\x01\x01\x04[\x14-\x48](?:(?<=\x30[\x20-\x7f].{5})|(?<=\x30\x81.{6})|(?<=\x30\x82.{7}))",
    ),
)
# The version and the algorithm of a PrivateKeyInfo (RFC 5958). A CRL has the same two, and no OCTET STRING after them.
_ALGORITHM = re.compile(rb"\x02\x01[\x00\x01](?=\x30[\x05-\x7f\x81\x82])")
_URL_SAFE = re.compile(rb"[A-Za-z0-9_-]{40,}")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{8,}={0,2}[ \t\r\n]*){1,}")
_HEX_DUMP = re.compile(rb"(?:[0-9A-Fa-f]{2}:){8,}[0-9A-Fa-f]{0,2}")  # no base64: it stands in each certificate's text
# What openssl ca writes of a certificate into its index, but for the subject: no number of a key is as short as a serial number.
_ROW = re.compile(rb"^[VRE]\t[0-9]{12,14}Z\t(?:[0-9]{12,14}Z(?:,[A-Za-z]{1,24})?)?\t[0-9A-F]{1,40}\tunknown\t", re.MULTILINE)
SHORTEST = 32  # characters: a key of 24 bytes in base64. Nobody signs certificates with a shorter one.
# Lines of openssl x509 -text: nothing but digits, as of a modulus or a signature; and its own words, with room for no key behind them.
_DUMPED = re.compile(rb"\n {8,40}[0-9A-Fa-f:][0-9A-Fa-f: \n]{40,}(?=\n)")
_DATE = rb"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT"
_WORDS = re.compile(
    rb"\n {4,16}(?:Signature Algorithm: [A-Za-z0-9-]{1,30}|Signature Value:|Public Key Algorithm: [A-Za-z0-9-]{1,30}"
    rb"|Version: \d \(0x\d\)|Serial Number:|Validity|Not Before: " + _DATE + rb"|Not After : " + _DATE + rb"|Subject Public Key Info:"
    rb"|Public-Key: \(\d{3,5} bit\)|Modulus:|Exponent: 65537 \(0x10001\)"
    rb"|X509v3 extensions:|X509v3 [A-Za-z ]{1,28}: ?(?:critical)?)(?=\n)"
)
_ONLY_PEM = re.compile(
    rb"-----BEGIN (CERTIFICATE|TRUSTED CERTIFICATE|X509 CRL|(?:NEW )?CERTIFICATE REQUEST)-----\n"
    rb"((?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{1,64}={0,2}\n)-----END \1-----\n\Z"
)
_LOWER = bytes(range(256)).lower()
_DIGITS = bytes(104 if chr(octet) in "0123456789abcdefABCDEF" else octet for octet in range(256))
_LETTERS = bytes(97 if (chr(octet).isalnum() and octet < 128) or octet in b"+/-_=\r\n" else 46 for octet in range(256))
_PUBLIC_PEM = re.compile(
    rb"-----BEGIN (CERTIFICATE|TRUSTED CERTIFICATE|X509 CRL|(?:NEW )?CERTIFICATE REQUEST)-----\r?\n"
    rb"((?:[A-Za-z0-9+/]{1,76}\r?\n){0,65536}[A-Za-z0-9+/]{1,76}={0,2}\r?\n)-----END \1-----"
)


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


def private_key_in_file(data: bytes, known: t.Sequence[bytes] = ()) -> t.Optional[str]:
    """As C(private_key_in), of a whole file. One that is a certificate, a CRL or a request and nothing else is told quickly: its text,
    which openssl prints as lines of digits but for some words, and its DER."""
    recognised = _recognised(data)
    if recognised is None:
        return private_key_in(t.cast(t.BinaryIO, io.BytesIO(data)), known)
    text, der = recognised
    if _holds_in_any_way(der, known):
        return "it holds a private key (DER)"
    if _in_digits(text, known):
        return "it holds a private key (hexadecimal digits)"
    return _found(_WORDS.sub(b"\n:", _DUMPED.sub(_undumped, text)), True, known)


def _undumped(match: t.Match[bytes]) -> bytes:
    """Pairs of digits between colons are no base64."""
    return match.group() if b"hhh" in match.group().translate(_DIGITS) else b"\n:"


def _recognised(data: bytes) -> t.Optional[t.Tuple[bytes, bytes]]:
    """The text before it, and the DER; None of anything else."""
    text, der = b"\n", data
    start = data.find(b"-----BEGIN ")
    if start >= 0 and b"\0" not in data:
        match = _ONLY_PEM.match(data, start)
        if match is None or (start and data[start - 1] != 10):
            return None
        try:
            text, der = data[:start], binascii.a2b_base64(match.group(2))
        except ValueError:
            return None
    # Of DER that holds text, as a comment of many letters, the long search tells what that text is.
    return None if not _is_public(der) or _holds_text(der) else (text, der)


def _holds_text(data: bytes) -> bool:
    """Whether letters stand in it, as those of a comment, that could be base64."""
    return b"a" * SHORTEST in data.translate(_LETTERS)


class Searching:
    """The search of a file that is read piece by piece. C(known): the numbers of keys to look for."""

    def __init__(self, known: t.Sequence[bytes] = ()) -> None:
        self._known, self._window, self._first = known, b"", True

    def found_in(self, piece: bytes) -> t.Optional[str]:
        """What kind of private key the file holds as far as it was read, as a clause. C(piece): what comes next, WINDOW bytes at most."""
        self._window = self._window[-OVERLAP:] + piece
        first, self._first = self._first, False
        return _found(self._window, first, self._known)


def private_key_in(stream: t.BinaryIO, known: t.Sequence[bytes] = ()) -> t.Optional[str]:
    """What kind of private key a file holds, as a clause; None where it holds none. C(known): the numbers of keys to look for."""
    searching = Searching(known)
    for piece in iter(lambda: stream.read(WINDOW), b""):
        found = searching.found_in(piece)
        if found:
            return found
    return None


def _found(window: bytes, first: bool, known: t.Sequence[bytes]) -> t.Optional[str]:
    if first and _OPAQUE.match(window):
        return "it is compressed or encrypted, so it can't be told whether it holds a private key"
    for text in (window, window.replace(b"\0", b"")) if b"\0" in window else (window,):  # UTF-16
        if _matches(_ARMOUR, text):
            return "it holds a private key (PEM)"
        if b'"kty"' in text and _JWK.search(text):
            return "it holds a private key (JWK)"
    if _matches(_MARKS, window):
        return "it holds a private key"
    if first and _starts_as_key(window):
        return "it is a private key or PKCS #12 file (DER)"
    window, contents = _taken_out(window) if b"-----BEGIN" in window else (window, [])
    if any(_holds_in_any_way(data, known) or (_holds_text(data) and _in_base64(data, known)) for data in contents):
        return "it holds a private key (base64)"
    if _holds(window, known):
        return "it holds a private key (DER)"
    if _in_digits(window, known):
        return "it holds a private key (hexadecimal digits)"
    window = _ROW.sub(b"\n", window) if b"Z\t" in window else window
    if not _holds_text(window.translate(None, b" \t\r\n")):
        return None  # nothing is long enough to spell a key
    window = _HEX_DUMP.sub(b":", window)
    if _in_base64(window, known):
        return "it holds a private key (base64)"
    return "it holds a number of this CA's private key" if known and _spelt_out(window, known) else None


def _in_base64(window: bytes, known: t.Sequence[bytes]) -> bool:
    """Whether text holds a key in base64."""
    for run in _BASE64.finditer(window):
        text = run.group().translate(None, b" \t\r\n=")
        if len(text) < SHORTEST:
            continue
        # The text may begin anywhere in a group of four: try each offset. Long runs are CRLs and lists of certificates.
        for shift in range(4 if len(text) < OVERLAP else 1):
            whole = text[shift:]
            whole = whole[:-1] if len(whole) % 4 == 1 else whole
            data = binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))
            if _holds_in_any_way(data, known):
                return True
    return False


def _in_digits(text: bytes, known: t.Sequence[bytes]) -> bool:
    """Whether a known number is there in hexadecimal digits."""
    digits = text.translate(_LOWER, b": \t\r\n") if known else b""
    return any(_is_in(number.hex().encode("ascii"), digits) for number in known)


def _spelt_out(window: bytes, known: t.Sequence[bytes]) -> bool:
    """Whether a known number is there in base64url."""
    for run in _URL_SAFE.finditer(window):
        text = run.group().translate(bytes.maketrans(b"-_", b"+/"))
        for shift in range(4):
            whole = text[shift : len(text) - (len(text) - shift) % 4]
            data = binascii.a2b_base64(whole + b"AAAA")
            if any(number[:-2] in data for number in known):
                return True
    return False


def _matches(patterns: t.Sequence[_Pattern], data: bytes) -> bool:
    for literal, pattern in patterns:  # noqa: SIM110 - a generator takes twice as long, some times for each file
        if literal in data and pattern.search(data):
            return True
    return False


def _taken_out(window: bytes) -> t.Tuple[bytes, t.List[bytes]]:
    """What is left without its certificates, CRLs and requests (PEM), and these (DER): most of what a CA has issued, and quickly told."""
    contents: t.List[bytes] = []

    def take_out(match: t.Match[bytes]) -> bytes:
        try:
            data = binascii.a2b_base64(match.group(2))
        except ValueError:
            return match.group()
        if not _is_public(data):
            return match.group()
        contents.append(data)
        return b"\n"

    return _PUBLIC_PEM.sub(take_out, window), contents


def _is_in(long: bytes, data: bytes) -> bool:
    """Its beginning alone is found faster, and is nowhere in almost any file."""
    return long[:8] in data and long in data


def _is_public(data: bytes) -> bool:
    """Whether it is of the shape of a certificate, a CRL or a request, and nothing follows: something signed, algorithm, signature."""
    try:
        start, end = _content(data, 0)
        elements = [position for position, _tag in zip(_positions(data, start, end), range(4))]
        return data[0] == 0x30 and end == len(data) and [data[at] for at in elements] == [0x30, 0x30, 0x03]
    except IndexError:
        return False


def _positions(data: bytes, start: int, end: int) -> t.Iterator[int]:
    """Where each element of a constructed one begins. Raises IndexError."""
    while start < end:
        yield start
        start = _content(data, start)[1]


def _holds_in_any_way(data: bytes, known: t.Sequence[bytes]) -> bool:
    """Whether decoded bytes hold a key, in text or DER."""
    return _holds(data, known) or _matches(_ARMOUR, data) or _matches(_MARKS, data)


def _holds(data: bytes, known: t.Sequence[bytes]) -> bool:
    if _matches(_DER, data):
        return True
    for number in known:
        if _is_in(number, data) or _is_in(number[::-1], data):
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
