# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the PKCS #12 codec, bytes to contents and back; may change in any release.

No files and no Ansible here. It exists because the readers at hand return the first private key of a file and are silent about
the others. Written after RFC 7292 (PKCS #12), RFC 8018 (PBES2, PBKDF2), RFC 7914 (scrypt), RFC 9879 (PBMAC1), RFC 2268 (RC2)
and X.690 (DER, and as much BER as other software writes).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import struct
import typing as t
from dataclasses import dataclass
from functools import partial
from itertools import repeat

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

# Bounds on what a file may ask for. All that is visible is checked before any key is derived, the rest as soon as it is decrypted.
MAX_SIZE = 8 * 1024 * 1024  # bytes
MAX_DEPTH = 32
MAX_ELEMENTS = 100_000  # values looked at in one pass over a DER value
MAX_BAGS = 10_000
MAX_KEYS = 200
MAX_ITERATIONS = 5_000_000  # of one derivation
MAX_TOTAL_ITERATIONS = 20_000_000  # of all derivations of a file
MAX_DIAGNOSIS_ITERATIONS = 1_000_000  # spent on telling damage from a wrong password, beyond the first derivation
MAX_SCRYPT_MEMORY = 64 * 1024 * 1024  # bytes
MAX_RC2_SIZE = 1024 * 1024  # bytes of a file; RC2 runs in Python

# What a bundle is written with: the most that .NET's X509CertificateLoader opens. By default it refuses more than 300 000 iterations
# of one derivation, and more than 1 000 000 for all keys and the certificates, which it derives anew for each. The MAC is not in that sum.
WRITE_ITERATIONS = 300_000
WRITE_TOTAL_ITERATIONS = 1_000_000
SALT_SIZE = 16  # bytes

WEAK_ITERATIONS = 10_000  # fewer than this are weak
_WEAK_NAMES = re.compile("none|SHA1|MD5|RC2|RC4|DES")


class Pkcs12Error(Exception):
    """Why bytes could not be read or written as PKCS #12: one short sentence without a secret."""


class PasswordWrong(Pkcs12Error):
    """The password is not that of the file."""

    def __init__(self) -> None:
        super().__init__("the password does not open it")


class Malformed(Pkcs12Error):
    """The bytes are damaged or were never PKCS #12."""


class Unsupported(Pkcs12Error):
    """Sound, but in need of something that is not supported: `oid`, a dotted object identifier or a name."""

    def __init__(self, why: str, oid: str) -> None:
        super().__init__(why if oid in why else f"{why} ({oid})")
        self.oid = oid


class LimitExceeded(Pkcs12Error):
    """The file asks for more than `limit` allows."""

    def __init__(self, limit: str, value: int) -> None:
        super().__init__(f"it exceeds the limit of {value} {limit}")
        self.limit = limit


class _Damaged(Exception):
    """A value that is not what its place demands. At the outside it makes the file malformed, within a bag the bag unreadable."""


@dataclass(frozen=True)
class KeyEntry:
    """A private key. `encrypted`: it lay under a password, in a shrouded bag, in an encrypted safe, or both.

    Windows adds the rest: `provider` (the name of the CSP or KSP), `machine_key`, and `key_usage`, the bits by which it tells
    the kinds of keys apart.
    """

    key: PrivateKeyTypes
    public_key_sha256: str
    friendly_name: str | None
    local_key_id: bytes | None
    encrypted: bool
    provider: str | None = None
    machine_key: bool = False
    key_usage: int | None = None


@dataclass(frozen=True)
class CertificateEntry:
    """An X.509 certificate: sound DER of the right outline, not necessarily one that `cryptography` parses."""

    der: bytes
    friendly_name: str | None
    local_key_id: bytes | None


@dataclass(frozen=True)
class UnreadableEntry:
    """What was there and could not be read. `kind`: private_key, certificate or safe. `oid`: the algorithm, where that is the cause."""

    kind: str
    why: str
    oid: str | None


@dataclass(frozen=True)
class Encryption:
    """How a file is protected: the distinct schemes of its keys, of its certificates ("none" = in the clear), and of its MAC.

    `iterations` is the lowest count of a KDF that protects anything, MAC included (for scrypt its cost N); 0 when nothing is encrypted.
    `weak`: SHA-1, MD5, RC2, RC4, DES or 3DES anywhere, fewer than 10 000 iterations, or a key or certificate in the clear.
    """

    key: tuple[str, ...]
    certificates: tuple[str, ...]
    mac: str | None
    iterations: int
    weak: bool


@dataclass(frozen=True)
class Contents:
    """All that a file holds, in its order. `key_bags` counts the bags seen: always the keys returned and those reported unreadable.

    Names are as found: they may hold any character and are no paths. `advisories`: "trailing_bytes" (something other than NULs
    follows the file), "no_mac" (its integrity is not protected).
    """

    private_keys: tuple[KeyEntry, ...]
    certificates: tuple[CertificateEntry, ...]
    unreadable: tuple[UnreadableEntry, ...]
    encryption: Encryption
    key_bags: int
    advisories: tuple[str, ...]


@dataclass(frozen=True)
class NamedKey:
    """A private key to be written, under a name that no other key has, with its certificates (DER), the newest first."""

    key: PrivateKeyTypes
    name: str
    certificates: t.Sequence[bytes]


# --- DER and BER -------------------------------------------------------------------------------------------------

_INTEGER, _BITS, _OCTETS, _NULL, _OID, _UTF8, _BMP, _SEQUENCE, _SET = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x1E, 0x30, 0x31
_CONTEXT_0, _CONSTRUCTED_0, _CONSTRUCTED = 0x80, 0xA0, 0x20


class _Value(t.NamedTuple):
    tag: int
    body: bytes
    whole: bytes  # with tag and length


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the body of the value at an offset; the end is -1 where the length is indefinite."""
    try:
        tag, length = data[at], data[at + 1]
    except IndexError:
        raise _Damaged("a value is cut off") from None
    start = at + 2
    if length == 0x80 and tag & _CONSTRUCTED:
        return tag, start, -1
    if length >= 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[start : start + size], "big")
        start += size
        if not 1 <= size <= 8:
            raise _Damaged("a length is impossible")
    if start + length > len(data):
        raise _Damaged("a value is longer than what holds it")
    return tag, start, start + length


def _end_of_contents(data: bytes, at: int) -> int:
    """The offset of the two NULs that end a body of indefinite length which starts at `at` (X.690 8.1.5)."""
    depth = 0
    for _step in repeat(None, MAX_ELEMENTS):
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


def _first(data: bytes, at: int = 0) -> _Value:
    tag, start, end = _header(data, at)
    if end >= 0:
        return _Value(tag, data[start:end], data[at:end])
    end = _end_of_contents(data, start)
    return _Value(tag, data[start:end], data[at : end + 2])


def _values(data: bytes) -> list[_Value]:
    """All values that follow each other in `data`."""
    found: list[_Value] = []
    at = 0
    while at < len(data):
        if len(found) == MAX_ELEMENTS:
            raise LimitExceeded("values", MAX_ELEMENTS)
        found.append(_first(data, at))
        at += len(found[-1].whole)
    return found


def _only(data: bytes) -> _Value:
    value = _first(data)
    if len(value.whole) != len(data):
        raise _Damaged("something follows a value that ought to be the only one")
    return value


def _members(value: _Value, least: int = 0, tag: int = _SEQUENCE) -> list[_Value]:
    """The members of a SEQUENCE (or another constructed type), of which there must be at least so many."""
    if value.tag != tag:
        raise _Damaged("a value has the wrong type")
    members = _values(value.body)
    if len(members) < least:
        raise _Damaged("a value lacks a part")
    return members


def _integer(value: _Value) -> int:
    if value.tag != _INTEGER or not 1 <= len(value.body) <= 64:
        raise _Damaged("a number is none")
    return int.from_bytes(value.body, "big", signed=True)


def _oid(value: _Value) -> str:
    """The dotted form of an OBJECT IDENTIFIER."""
    if value.tag != _OID or not 1 <= len(value.body) <= 64 or value.body[-1] & 0x80:
        raise _Damaged("an object identifier is none")
    arcs, arc = [], 0
    for octet in value.body:
        arc = arc << 7 | octet & 0x7F
        if octet < 0x80:
            arcs.append(arc)
            arc = 0
    top = min(arcs[0] // 40, 2)
    return ".".join(map(str, [top, arcs[0] - 40 * top, *arcs[1:]]))


def _octets(value: _Value, primitive: int = _OCTETS) -> bytes:
    """The content of an OCTET STRING, which BER allows to be cut into pieces, and those again."""
    if value.tag == primitive:
        return value.body
    if value.tag != primitive | _CONSTRUCTED:
        raise _Damaged("an octet string is none")
    pieces: list[bytes] = []
    waiting = [(value, 0)]
    while waiting:
        piece, depth = waiting.pop()
        if piece.tag == _OCTETS:
            pieces.append(piece.body)
        elif piece is value or piece.tag == _OCTETS | _CONSTRUCTED:
            if depth > MAX_DEPTH:
                raise LimitExceeded("nested values", MAX_DEPTH)
            waiting.extend((member, depth + 1) for member in reversed(_values(piece.body)))
        else:
            raise _Damaged("an octet string is none")
    return b"".join(pieces)


def _content(members: list[_Value]) -> _Value:
    """What [0] EXPLICIT holds, the second member of a ContentInfo or of a bag."""
    held = _members(members[1], 1, _CONSTRUCTED_0)
    if len(held) > 1:
        raise _Damaged("a value has a part too many")
    return held[0]


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def _der_integer(number: int) -> bytes:
    return _der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _der_oid(dotted: str) -> bytes:
    top, second, *arcs = map(int, dotted.split("."))
    body = b""
    for arc in (40 * top + second, *arcs):
        septets = range(max(arc.bit_length() - 1, 0) // 7, -1, -1)
        body += bytes(arc >> 7 * at & 0x7F | (0x80 if at else 0) for at in septets)
    return _der(_OID, body)


# --- names of things ---------------------------------------------------------------------------------------------

_PKCS7_DATA, _PKCS7_ENCRYPTED = "1.2.840.113549.1.7.1", "1.2.840.113549.1.7.6"
_BAG = "1.2.840.113549.1.12.10.1."
_KEY_BAG, _SHROUDED_KEY_BAG, _CERTIFICATE_BAG, _SAFE_BAG = _BAG + "1", _BAG + "2", _BAG + "3", _BAG + "6"
_WINDOWS_PROVIDER, _WINDOWS_MACHINE_KEY, _KEY_USAGE = "1.3.6.1.4.1.311.17.1", "1.3.6.1.4.1.311.17.2", "2.5.29.15"
_FRIENDLY_NAME, _LOCAL_KEY_ID, _X509_CERTIFICATE = "1.2.840.113549.1.9.20", "1.2.840.113549.1.9.21", "1.2.840.113549.1.9.22.1"
_PBKDF2, _PBES2, _PBMAC1, _SCRYPT = "1.2.840.113549.1.5.12", "1.2.840.113549.1.5.13", "1.2.840.113549.1.5.14", "1.3.6.1.4.1.11591.4.11"
_AES_256_CBC, _HMAC_SHA1, _HMAC_SHA256, _SHA256 = (
    "2.16.840.1.101.3.4.1.42",
    "1.2.840.113549.2.7",
    "1.2.840.113549.2.9",
    "2.16.840.1.101.3.4.2.1",
)
# The private keys that every release of `cryptography` knows: RSA, DSA, EC, Ed25519, Ed448, X25519, X448.
_KEY_ALGORITHMS = re.compile(r"1\.2\.840\.(113549\.1\.1\.(1|7|10)|10040\.4\.1|10045\.2\.1)|1\.3\.101\.11[0-3]")

_RSADSI, _NIST = "1.2.840.113549.2.", "2.16.840.1.101.3.4."
_SHA3 = ("sha3_224", "sha3_256", "sha3_384", "sha3_512")
_DIGESTS = {_RSADSI + "5": "md5", "1.3.14.3.2.26": "sha1"}
for _arc, _name in enumerate(("sha256", "sha384", "sha512", "sha224", "sha512_224", "sha512_256", *_SHA3), 1):
    _DIGESTS[_NIST + f"2.{_arc}"] = _name
_HMACS = {_NIST + f"2.{_arc}": _name for _arc, _name in enumerate(_SHA3, 13)}
for _arc, _name in enumerate(("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha512_224", "sha512_256"), 6):
    _HMACS[_RSADSI + str(_arc)] = _name


class _CipherKind(t.NamedTuple):
    name: str
    algorithm: str  # its class in `cryptography`; "" = our own RC2
    key_size: int
    block_size: int  # 0 = a stream cipher


_CIPHERS = {  # of PBES2, with the IV as parameter
    _NIST + "1.2": _CipherKind("AES-128-CBC", "AES", 16, 16),
    _NIST + "1.22": _CipherKind("AES-192-CBC", "AES", 24, 16),
    _AES_256_CBC: _CipherKind("AES-256-CBC", "AES", 32, 16),
    "1.2.840.113549.3.7": _CipherKind("3DES-CBC", "TripleDES", 24, 8),
    "1.3.14.3.2.7": _CipherKind("DES-CBC", "TripleDES", 8, 8),
    "1.2.392.200011.61.1.1.1.2": _CipherKind("CAMELLIA-128-CBC", "Camellia", 16, 16),
    "1.2.392.200011.61.1.1.1.3": _CipherKind("CAMELLIA-192-CBC", "Camellia", 24, 16),
    "1.2.392.200011.61.1.1.1.4": _CipherKind("CAMELLIA-256-CBC", "Camellia", 32, 16),
    "1.2.410.200004.1.4": _CipherKind("SEED-CBC", "SEED", 16, 16),
}
_LEGACY_CIPHERS = {  # pbeWithSHAAnd..., RFC 7292 appendix C
    "1.2.840.113549.1.12.1.1": _CipherKind("RC4-128", "ARC4", 16, 0),
    "1.2.840.113549.1.12.1.2": _CipherKind("RC4-40", "ARC4", 5, 0),
    "1.2.840.113549.1.12.1.3": _CipherKind("3DES", "TripleDES", 24, 8),
    "1.2.840.113549.1.12.1.4": _CipherKind("3DES-2KEY", "TripleDES", 16, 8),
    "1.2.840.113549.1.12.1.5": _CipherKind("RC2-128", "", 16, 8),
    "1.2.840.113549.1.12.1.6": _CipherKind("RC2-40", "", 5, 8),
}


# --- key derivation ----------------------------------------------------------------------------------------------

_FOR_KEY, _FOR_IV, _FOR_MAC = 1, 2, 3


class _Kdf(t.NamedTuple):
    """A derivation as a file states it. Two that are equal yield the same bytes."""

    kind: str  # pkcs12, pbkdf2 or scrypt
    digest: str
    salt: bytes
    iterations: int  # for scrypt: N
    r: int = 0
    p: int = 0

    @property
    def name(self) -> str:
        digest = self.digest.upper().replace("_", "-")
        return {"pkcs12": f"PKCS12-KDF-{digest}", "pbkdf2": f"PBKDF2-HMAC-{digest}"}.get(self.kind, "scrypt")

    @property
    def cost(self) -> int:
        """In iterations of PBKDF2, roughly."""
        return 3 * self.iterations * self.r * self.p if self.kind == "scrypt" else self.iterations


def _sizes(digest: str) -> tuple[int, int]:
    """Digest and block size in bytes."""
    try:
        sample = hashlib.new(digest)
    except ValueError:
        raise Unsupported("the digest is not available here", digest) from None
    return sample.digest_size, sample.block_size


def _pkcs12_kdf(digest: str, password: bytes, salt: bytes, iterations: int, purpose: int, size: int) -> bytes:
    """RFC 7292 appendix B.2. The password is a BMPString with its terminator."""
    digest_size, block = _sizes(digest)
    # hashlib's named constructors are much quicker than hashlib.new(), and this loop is where the time goes.
    digest_of = getattr(hashlib, digest, None) or partial(hashlib.new, digest)

    def filled(data: bytes) -> bytes:
        return (data * (block // (len(data) or 1) + 2))[: -(-len(data) // block) * block]

    mixed = filled(salt) + filled(password)
    derived = b""
    while True:
        state = digest_of(bytes((purpose,)) * block + mixed).digest()
        for _round in repeat(None, iterations - 1):
            state = digest_of(state).digest()
        derived += state
        if len(derived) >= size:
            return derived[:size]
        addend = int.from_bytes((state * (block // digest_size + 1))[:block], "big") + 1
        blocks = (int.from_bytes(mixed[at : at + block], "big") + addend for at in range(0, len(mixed), block))
        mixed = b"".join((number % (1 << 8 * block)).to_bytes(block, "big") for number in blocks)


class _Secrets:
    """A password, what was derived from it in this call, and how much the file has asked for."""

    def __init__(self, password: str | None) -> None:
        password = password or ""
        bmp = password.encode("utf-16-be", "surrogatepass") + b"\0\0"
        self._utf8 = password.encode("utf-8", "surrogatepass")
        # Writers disagree whether an empty password is an empty string (a terminator only) or none at all.
        self._bmp = [bmp] if password else [bmp, b""]
        self._derived: dict[t.Any, bytes] = {}
        self._charged = self._rc2_size = 0

    def charge(self, kdf: _Kdf, derivations: int = 1) -> None:
        """Counts what a scheme will derive, before it does, against the limits."""
        if kdf.cost > MAX_ITERATIONS:
            raise LimitExceeded("iterations of one key derivation", MAX_ITERATIONS)
        self._charged += kdf.cost * derivations * len(self.encodings(kdf))
        if self._charged > MAX_TOTAL_ITERATIONS:
            raise LimitExceeded("iterations of all key derivations", MAX_TOTAL_ITERATIONS)

    def charge_rc2(self, size: int) -> None:
        self._rc2_size += size
        if self._rc2_size > MAX_RC2_SIZE:
            raise LimitExceeded("bytes under RC2", MAX_RC2_SIZE)

    def encodings(self, kdf: _Kdf) -> list[bytes]:
        return list(self._bmp) if kdf.kind == "pkcs12" else [self._utf8]

    def settle(self, kdf: _Kdf, encoding: bytes) -> None:
        """One encoding proved right: the others need no try any more."""
        if kdf.kind == "pkcs12":
            self._bmp = [encoding]

    def derive(self, kdf: _Kdf, encoding: bytes, size: int, purpose: int = _FOR_KEY) -> bytes:
        request = (kdf, encoding, size, purpose if kdf.kind == "pkcs12" else 0)
        if request not in self._derived:
            self._derived[request] = self._derive(kdf, encoding, size, purpose)
        return self._derived[request]

    @staticmethod
    def _derive(kdf: _Kdf, password: bytes, size: int, purpose: int) -> bytes:
        if kdf.kind == "pkcs12":
            return _pkcs12_kdf(kdf.digest, password, kdf.salt, kdf.iterations, purpose, size)
        try:
            if kdf.kind == "pbkdf2":
                return hashlib.pbkdf2_hmac(kdf.digest, password, kdf.salt, kdf.iterations, size)
            from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

            return Scrypt(kdf.salt, size, kdf.iterations, kdf.r, kdf.p).derive(password)
        except (ValueError, MemoryError, UnsupportedAlgorithm):
            raise Unsupported("the key derivation is not available here", kdf.name) from None


def _iterations(value: _Value) -> int:
    """An iteration count. One that is impossible condemns the whole file, wherever it stands."""
    count = _integer(value)
    if count <= 0:
        raise Malformed("an iteration count is not positive")
    if count > MAX_ITERATIONS:
        raise LimitExceeded("iterations of one key derivation", MAX_ITERATIONS)
    return count


def _algorithm(value: _Value) -> tuple[str, _Value | None]:
    """Identifier and parameters of an AlgorithmIdentifier."""
    members = _members(value, 1)
    return _oid(members[0]), members[1] if len(members) > 1 else None


def _parameters(value: _Value | None, least: int) -> list[_Value]:
    if value is None:
        raise _Damaged("an algorithm lacks its parameters")
    return _members(value, least)


def _pbkdf2(parameters: _Value | None) -> tuple[_Kdf, int | None]:
    """PBKDF2-params (RFC 8018 A.2): the derivation, and the key size in bytes where it is stated."""
    salt, count, *rest = _parameters(parameters, 2)
    iterations = _iterations(count)
    if salt.tag == _SEQUENCE:
        raise Unsupported("the salt's source is not supported", _algorithm(salt)[0])
    size = _integer(rest.pop(0)) if rest and rest[0].tag == _INTEGER else None
    prf = _algorithm(rest[0])[0] if rest else _HMAC_SHA1
    if prf not in _HMACS:
        raise Unsupported("the key derivation's function is not supported", prf)
    return _Kdf("pbkdf2", _HMACS[prf], _octets(salt), iterations), size


def _scrypt(parameters: _Value | None) -> tuple[_Kdf, int | None]:
    """scrypt-params (RFC 7914 7.1)."""
    salt, *costs = _parameters(parameters, 4)
    n, r, p = map(_integer, costs[:3])
    if n < 2 or n & (n - 1) or r < 1 or p < 1:
        raise Malformed("a cost of scrypt is impossible")
    if 128 * r * (n + p) > MAX_SCRYPT_MEMORY:
        raise LimitExceeded("bytes of memory for scrypt", MAX_SCRYPT_MEMORY)
    return _Kdf("scrypt", "", _octets(salt), n, r, p), _integer(costs[3]) if len(costs) > 3 else None


# --- ciphers -----------------------------------------------------------------------------------------------------

_RC2_TABLE = bytes.fromhex(  # PITABLE, RFC 2268 section 2
    "d978f9c419ddb5ed28e9fd794aa0d89dc67e37832b76538e624c6488448bfba2179a59f587b34f1361456d8d09817d32bd8f40eb86b77b0bf09521225c6b4e82"
    "54d66593ce60b21c7356c014a78cf1dc1275ca1f3bbee4d1423dd430a33cb6266fbf0eda4669075727f21d9bbc944303f811c7f690ef3ee706c3d52fc8661ed7"
    "08e8eade8052eef784aa72ac354d6a2a961ad2715a1549744b9fd05e0418a4ecc2e0416e0f51cbcc2491af50a1f47039997c3a8523b8b47afc02365b25559731"
    "2d5dfa98e38a92ae05df2910676cbac9d300e6cfe19ea82c6316013f58e289a90d38341bab33ffb0bb480c5fb9b1cd2ec5f3db47e5a59c770aa62068fe7fc1ad"
)


def _rc2_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Decrypts RC2 in CBC mode, effective key bits = the key's length (RFC 2268). `cryptography` knows no RC2 of 40 bits."""
    size = len(key)
    buffer = list(key) + [0] * (128 - size)
    for at in range(size, 128):
        buffer[at] = _RC2_TABLE[(buffer[at - 1] + buffer[at - size]) & 255]
    buffer[128 - size] = _RC2_TABLE[buffer[128 - size]]
    for at in range(127 - size, -1, -1):
        buffer[at] = _RC2_TABLE[buffer[at + 1] ^ buffer[at + size]]
    k = struct.unpack("<64H", bytes(buffer))
    plain = bytearray()
    for at in range(0, len(data), 8):
        block = data[at : at + 8]
        a, b, c, d = struct.unpack("<4H", block)
        for turn in range(60, -4, -4):
            d = ((d >> 5 | d << 11) - k[turn + 3] - (c & b) - (~c & a)) & 0xFFFF
            c = ((c >> 3 | c << 13) - k[turn + 2] - (b & a) - (~b & d)) & 0xFFFF
            b = ((b >> 2 | b << 14) - k[turn + 1] - (a & d) - (~a & c)) & 0xFFFF
            a = ((a >> 1 | a << 15) - k[turn] - (d & c) - (~d & b)) & 0xFFFF
            if turn in (44, 20):
                d = (d - k[c & 63]) & 0xFFFF
                c = (c - k[b & 63]) & 0xFFFF
                b = (b - k[a & 63]) & 0xFFFF
                a = (a - k[d & 63]) & 0xFFFF
        plain += bytes(x ^ y for x, y in zip(struct.pack("<4H", a, b, c, d), iv))
        iv = block
    return bytes(plain)


def _cipher_class(name: str) -> t.Any:
    """A cipher of `cryptography`, which moves those that have aged to another place, release by release; None where it is gone."""
    if name == "AES":
        return algorithms.AES
    try:
        from cryptography.hazmat.decrepit.ciphers import algorithms as decrepit
    except ImportError:
        return getattr(algorithms, name, None)
    return getattr(decrepit, name, None) or getattr(algorithms, name, None)


def _decrypted(kind: _CipherKind, key: bytes, iv: bytes, data: bytes) -> bytes | None:
    """The plain bytes without their padding, or None where the padding is wrong: another key, or damage."""
    if kind.block_size and (not data or len(data) % kind.block_size):
        raise _Damaged("what is encrypted has an impossible length")
    if not kind.algorithm:
        plain = _rc2_cbc(key, iv, data)
    else:
        if kind.algorithm == "TripleDES":
            key = (key * 3)[:24]
        algorithm = _cipher_class(kind.algorithm)
        try:
            if algorithm is None:
                raise UnsupportedAlgorithm(kind.name)
            decryptor = Cipher(algorithm(key), modes.CBC(iv) if kind.block_size else None).decryptor()
            plain = decryptor.update(data) + decryptor.finalize()
        except UnsupportedAlgorithm:
            raise Unsupported("the cipher is not available here", kind.name) from None
    if not kind.block_size:
        return plain
    pad = plain[-1]
    if not 1 <= pad <= kind.block_size or plain[-pad:] != bytes((pad,)) * pad:
        return None
    return plain[:-pad]


class _Scheme(t.NamedTuple):
    """A password-based encryption: derivation and cipher."""

    kdf: _Kdf
    cipher: _CipherKind
    iv: bytes  # empty where it is derived

    @property
    def name(self) -> str:
        return f"{self.cipher.name}, {self.kdf.name}"

    def decrypt(self, secrets: _Secrets, data: bytes, sound: t.Callable[[bytes], bool]) -> bytes | None:
        """The plain bytes, or None where this password yields nothing sound."""
        for encoding in secrets.encodings(self.kdf):
            key = secrets.derive(self.kdf, encoding, self.cipher.key_size)
            iv = self.iv
            if not iv and self.cipher.block_size:
                iv = secrets.derive(self.kdf, encoding, self.cipher.block_size, _FOR_IV)
            plain = _decrypted(self.cipher, key, iv, data)
            if plain is not None and sound(plain):
                secrets.settle(self.kdf, encoding)
                return plain
        return None


def _scheme(value: _Value) -> _Scheme:
    """The scheme of an AlgorithmIdentifier: PBES2 (RFC 8018 A.4), or one of PKCS #12's own."""
    oid, parameters = _algorithm(value)
    if oid in _LEGACY_CIPHERS:
        salt, count = _parameters(parameters, 2)[:2]
        return _Scheme(_Kdf("pkcs12", "sha1", _octets(salt), _iterations(count)), _LEGACY_CIPHERS[oid], b"")
    if oid != _PBES2:
        raise Unsupported("the encryption is not supported", oid)
    derivation, encryption = _parameters(parameters, 2)[:2]
    kdf_oid, kdf_parameters = _algorithm(derivation)
    if kdf_oid not in (_PBKDF2, _SCRYPT):
        raise Unsupported("the key derivation is not supported", kdf_oid)
    kdf, size = (_pbkdf2 if kdf_oid == _PBKDF2 else _scrypt)(kdf_parameters)
    cipher_oid, iv = _algorithm(encryption)
    if cipher_oid not in _CIPHERS:
        raise Unsupported("the cipher is not supported", cipher_oid)
    cipher = _CIPHERS[cipher_oid]
    if iv is None or len(_octets(iv)) != cipher.block_size or size not in (None, cipher.key_size):
        raise _Damaged("the parameters of a cipher do not fit it")
    return _Scheme(kdf, cipher, _octets(iv))


# --- the MAC -----------------------------------------------------------------------------------------------------


class _Mac(t.NamedTuple):
    """MacData of RFC 7292 section 4, or PBMAC1 (RFC 9879)."""

    kdf: _Kdf
    digest: str
    key_size: int
    value: bytes

    @property
    def name(self) -> str:
        return f"HMAC-{self.digest.upper().replace('_', '-')}, {self.kdf.name}"

    def proves(self, secrets: _Secrets, content: bytes) -> bool:
        for encoding in secrets.encodings(self.kdf):
            key = secrets.derive(self.kdf, encoding, self.key_size, _FOR_MAC)
            if hmac.compare_digest(hmac.new(key, content, self.digest).digest(), self.value):
                secrets.settle(self.kdf, encoding)
                return True
        return False


def _mac(value: _Value) -> _Mac:
    info, salt, *count = _members(value, 2)
    algorithm, expected = _members(info, 2)[:2]
    oid, parameters = _algorithm(algorithm)
    if oid == _PBMAC1:
        derivation, function = _parameters(parameters, 2)[:2]
        kdf_oid, kdf_parameters = _algorithm(derivation)
        if kdf_oid != _PBKDF2:
            raise Unsupported("the key derivation of the MAC is not supported", kdf_oid)
        kdf, size = _pbkdf2(kdf_parameters)
        digest = _HMACS.get(_algorithm(function)[0])
        if digest is None:
            raise Unsupported("the MAC is not supported", _algorithm(function)[0])
        _sizes(digest)
        if size is None or not 1 <= size <= 64:  # RFC 9879 section 4: it must be there
            raise _Damaged("the key size of the MAC is missing or impossible")
        return _Mac(kdf, digest, size, _octets(expected))
    if oid not in _DIGESTS:
        raise Unsupported("the digest of the MAC is not supported", oid)
    digest = _DIGESTS[oid]
    kdf = _Kdf("pkcs12", digest, _octets(salt), _iterations(count[0]) if count else 1)
    return _Mac(kdf, digest, _sizes(digest)[0], _octets(expected))


# --- reading -----------------------------------------------------------------------------------------------------


class _Item(t.NamedTuple):
    """A key bag, a certificate bag or an encrypted safe. Either `plain`, or `sealed` under `scheme`, or neither: `fault` says why."""

    kind: str
    plain: bytes = b""
    sealed: bytes = b""
    scheme: _Scheme | None = None
    fault: UnreadableEntry | None = None
    safe: _Scheme | None = None  # what the safe around it is encrypted with
    friendly_name: str | None = None
    local_key_id: bytes | None = None
    provider: str | None = None
    machine_key: bool = False

    def sound(self, plain: bytes) -> bool:
        """Whether decrypted bytes have the outline of what this item holds. Chance passes with less than 1 in 2^40."""
        try:
            value = _only(plain)
            if self.kind == "safe":
                return all(_oid(_members(bag, 2)[0]) for bag in _members(value))
            return bool(_private_key_algorithm(value))
        except _Damaged:
            return False


def _unreadable(kind: str, cause: Exception) -> UnreadableEntry:
    return UnreadableEntry(kind, str(cause), cause.oid if isinstance(cause, Unsupported) else None)


def _private_key_algorithm(value: _Value) -> str:
    """The algorithm of a PrivateKeyInfo (RFC 5208)."""
    version, algorithm, key = _members(value, 3)[:3]
    _integer(version)
    _octets(key)
    return _algorithm(algorithm)[0]


def _sealed_item(kind: str, algorithm: _Value, sealed: bytes, secrets: _Secrets, **more: t.Any) -> _Item:
    try:
        scheme = _scheme(algorithm)
    except (Unsupported, _Damaged) as exc:
        return _Item(kind, fault=_unreadable(kind, exc), **more)
    secrets.charge(scheme.kdf, 1 if scheme.iv else 2)
    if not scheme.cipher.algorithm:
        secrets.charge_rc2(len(sealed))
    return _Item(kind, sealed=sealed, scheme=scheme, **more)


def _attributes(members: list[_Value]) -> dict[str, t.Any]:
    """friendlyName, localKeyId and Windows' attributes of a bag. What can't be read is left out: a name costs nobody a key."""
    found: dict[str, t.Any] = {}
    try:
        attributes = _members(members[2], tag=_SET) if len(members) > 2 else []
    except _Damaged:
        return found
    for attribute in attributes:
        try:
            identifier, values = _members(attribute, 2)[:2]
            oid = _oid(identifier)
            if oid == _FRIENDLY_NAME:
                name = _members(values, 1, _SET)[0]
                if name.tag in (_BMP, _UTF8):
                    found["friendly_name"] = name.body.decode("utf-16-be" if name.tag == _BMP else "utf-8")
            elif oid == _LOCAL_KEY_ID:
                found["local_key_id"] = _octets(_members(values, 1, _SET)[0])
            elif oid == _WINDOWS_PROVIDER:
                found["provider"] = _members(values, 1, _SET)[0].body.decode("utf-16-be")
            elif oid == _WINDOWS_MACHINE_KEY:
                found["machine_key"] = True
        except (_Damaged, UnicodeDecodeError):
            continue
    return found


def _bag_item(oid: str, members: list[_Value], secrets: _Secrets, safe: _Scheme | None) -> _Item | None:
    """The item of one bag; None for kinds that hold neither key nor certificate."""
    if oid not in (_KEY_BAG, _SHROUDED_KEY_BAG, _CERTIFICATE_BAG):
        return None
    kind = "certificate" if oid == _CERTIFICATE_BAG else "private_key"
    more = {"safe": safe, **_attributes(members)}
    try:
        value = _content(members)
        if oid == _KEY_BAG:
            return _Item(kind, plain=value.whole, **more)
        inner = _members(value, 2)
        if oid == _SHROUDED_KEY_BAG:
            return _sealed_item(kind, inner[0], _octets(inner[1]), secrets, **more)
        if _oid(inner[0]) != _X509_CERTIFICATE:
            return None
        return _Item(kind, plain=_octets(_content(inner)), **more)
    except _Damaged as exc:
        return _Item(kind, fault=_unreadable(kind, exc), **more)


def _bag_items(contents: bytes, secrets: _Secrets, safe: _Scheme | None) -> t.Iterator[_Item]:
    """The items of one SafeContents, and of those nested in it, in their order."""
    waiting = [(bag, 1) for bag in reversed(_members(_only(contents)))]
    while waiting:
        bag, depth = waiting.pop()
        members = _members(bag, 2)
        oid = _oid(members[0])
        if oid == _SAFE_BAG:
            if depth >= MAX_DEPTH:
                raise LimitExceeded("nested safes", MAX_DEPTH)
            waiting.extend((inner, depth + 1) for inner in reversed(_members(_content(members))))
        else:
            item = _bag_item(oid, members, secrets, safe)
            if item:
                yield item


def _safe_items(content: bytes, secrets: _Secrets) -> t.Iterator[_Item]:
    """What shows without a password: the bags of the clear safes, and the encrypted safes, in their order."""
    for info in _members(_only(content)):
        members = _members(info, 2)
        oid = _oid(members[0])
        if oid == _PKCS7_DATA:
            yield from _bag_items(_octets(_content(members)), secrets, None)
        elif oid == _PKCS7_ENCRYPTED:
            _version, encrypted = _members(_content(members), 2)[:2]
            _type, algorithm, sealed = _members(encrypted, 3)[:3]
            yield _sealed_item("safe", algorithm, _octets(sealed, _CONTEXT_0), secrets)
        else:
            yield _Item("safe", fault=UnreadableEntry("safe", f"safes of this type are not supported ({oid})", oid))


def _counted(items: t.Iterable[_Item]) -> list[_Item]:
    counted: list[_Item] = []
    keys = 0
    for item in items:
        counted.append(item)
        keys += item.kind == "private_key"
        if len(counted) > MAX_BAGS:
            raise LimitExceeded("bags", MAX_BAGS)
        if keys > MAX_KEYS:
            raise LimitExceeded("private keys", MAX_KEYS)
    return counted


class _File(t.NamedTuple):
    content: bytes  # the AuthenticatedSafe, which the MAC protects
    items: list[_Item]
    mac: _Mac | None
    trailing: bool


def _parsed(data: bytes, secrets: _Secrets) -> _File:
    """The outside of a file, each bound checked."""
    if len(data) > MAX_SIZE:
        raise LimitExceeded("bytes", MAX_SIZE)
    if data[:1] != b"\x30":
        raise Malformed("it is not a PKCS #12 file")
    outer = _first(data)
    version, info, *rest = _members(outer, 2)
    if _integer(version) != 3:
        raise Unsupported("this version of PFX is not supported", f"version {_integer(version)}")
    members = _members(info, 2)
    if _oid(members[0]) != _PKCS7_DATA:
        raise Unsupported("this kind of integrity protection is not supported", _oid(members[0]))
    if len(rest) > 1:
        raise _Damaged("something follows its MAC")
    mac = _mac(rest[0]) if rest else None
    if mac:
        secrets.charge(mac.kdf)
    content = _octets(_content(members))
    return _File(content, _counted(_safe_items(content, secrets)), mac, bool(data[len(outer.whole) :].strip(b"\0")))


# Plain bytes; or why there are none; or None where what came out is not sound: another password, or damage.
_Outcome = t.Union[bytes, UnreadableEntry, None]


def _opened(item: _Item, secrets: _Secrets) -> _Outcome:
    if item.scheme is None:
        return item.fault or item.plain
    try:
        return item.scheme.decrypt(secrets, item.sealed, item.sound)
    except (Unsupported, _Damaged) as exc:
        return _unreadable(item.kind, exc)


def _unwrapped(items: t.Iterable[_Item], secrets: _Secrets, safes: list[tuple[_Item, _Outcome]]) -> t.Iterator[_Item]:
    """Keys and certificates, those of the encrypted safes too; what became of the safes is added to `safes`."""
    for item in items:
        if item.kind != "safe":
            yield item
            continue
        outcome = _opened(item, secrets)
        safes.append((item, outcome))
        if isinstance(outcome, bytes):
            yield from _bag_items(outcome, secrets, item.scheme)


def _mac_mismatch(file: _File, secrets: _Secrets) -> Pkcs12Error:
    """What a wrong MAC means: damage where the password decrypts something nevertheless, else another password."""
    tried: set[_Kdf] = set()
    for item in file.items:
        if item.scheme is None:
            continue
        kdf = item.scheme.kdf
        if tried and sum(each.cost for each in tried | {kdf}) > MAX_DIAGNOSIS_ITERATIONS:
            continue
        tried.add(kdf)
        if isinstance(_opened(item, secrets), bytes):
            return Malformed("it is damaged: the password decrypts it, but its integrity check fails")
    return PasswordWrong()


def _refuse_if_nothing_opened(outcomes: t.Sequence[tuple[_Item, _Outcome]]) -> None:
    if any(item.scheme and isinstance(outcome, bytes) for item, outcome in outcomes):
        return
    if any(outcome is None for _item, outcome in outcomes):
        raise PasswordWrong()
    if any(isinstance(outcome, bytes) for _item, outcome in outcomes):
        return
    for _item, outcome in outcomes:
        if isinstance(outcome, UnreadableEntry):
            if outcome.oid:
                raise Unsupported("nothing in it can be read: its encryption is not supported", outcome.oid)
            raise Malformed(f"nothing in it can be read: {outcome.why}")


def _loaded_key(plain: bytes) -> PrivateKeyTypes:
    """The private key of a PrivateKeyInfo.

    Newer releases of `cryptography` test the primes of an RSA key whenever they load one, at 0.1 to 0.4 s. Here its parts must
    fit each other; that it is the key of a certificate, callers prove by a signature.
    """
    try:
        key = serialization.load_der_private_key(plain, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:  # before release 39
        return serialization.load_der_private_key(plain, None)
    if isinstance(key, rsa.RSAPrivateKey):
        parts = key.private_numbers()
        p, q, d = parts.p, parts.q, parts.d
        fits = min(p, q) > 2 and p * q % 2 == 1 and p * q == parts.public_numbers.n and parts.iqmp * q % p == 1
        fits = fits and parts.dmp1 == d % (p - 1) and parts.dmq1 == d % (q - 1)
        if not fits or any(parts.public_numbers.e * d % (prime - 1) != 1 for prime in (p, q)):
            raise ValueError("the parts of an RSA key do not fit each other")
    return key


def _key_entry(item: _Item, plain: bytes) -> KeyEntry | UnreadableEntry:
    try:
        oid = _private_key_algorithm(_only(plain))
    except _Damaged as exc:
        return _unreadable(item.kind, exc)
    try:
        key = _loaded_key(plain)
        digest = public_key_sha256(key)
    except UnsupportedAlgorithm:
        return UnreadableEntry(item.kind, f"the key's algorithm or curve is not supported ({oid})", oid)
    except Exception:  # which one depends on the key and on the release of `cryptography`
        if not _KEY_ALGORITHMS.fullmatch(oid):
            return UnreadableEntry(item.kind, f"the key's algorithm is not supported ({oid})", oid)
        return UnreadableEntry(item.kind, "the key is damaged", None)
    encrypted = bool(item.scheme or item.safe)
    windows = (item.provider, item.machine_key, _key_usage(plain))
    return KeyEntry(key, digest, item.friendly_name, item.local_key_id, encrypted, *windows)


def _key_usage(plain: bytes) -> int | None:
    """The first octet of the keyUsage that Windows adds to a PrivateKeyInfo (RFC 5208, attributes); None where there is none."""
    try:
        for attribute in _members(_members(_only(plain), 4)[3], tag=_CONSTRUCTED_0):
            identifier, values = _members(attribute, 2)[:2]
            if _oid(identifier) == _KEY_USAGE:
                bits = _members(values, 1, _SET)[0]
                return bits.body[1] if bits.tag == _BITS and len(bits.body) > 1 else None
    except _Damaged:
        pass
    return None


def _certificate_entry(item: _Item, plain: bytes) -> CertificateEntry | UnreadableEntry:
    try:
        certificate = _first(plain)  # some writers leave bytes after it
        tbs, algorithm, signature = _members(certificate, 3)
        if not (len(_members(tbs)) >= 6 and _algorithm(algorithm) and signature.tag == _BITS):
            raise _Damaged("a certificate lacks a part")
    except (_Damaged, ValueError):
        return UnreadableEntry(item.kind, "the certificate is damaged", None)
    return CertificateEntry(certificate.whole, item.friendly_name, item.local_key_id)


def _encryption(items: t.Sequence[_Item], mac: _Mac | None) -> Encryption:
    def schemes_of(kind: str) -> tuple[str, ...]:
        schemes = [item.scheme or item.safe for item in items if item.kind == kind and not item.fault]
        return tuple(dict.fromkeys(scheme.name if scheme else "none" for scheme in schemes))

    counts = [scheme.kdf.iterations for item in items for scheme in (item.scheme, item.safe) if scheme]
    iterations = min([*counts, mac.kdf.iterations] if mac else counts) if counts else 0
    key, certificates = schemes_of("private_key"), schemes_of("certificate")
    names_used = " ".join((*key, *certificates, mac.name if mac else ""))
    weak = bool(key or certificates) and (iterations < WEAK_ITERATIONS or bool(_WEAK_NAMES.search(names_used)))
    return Encryption(key, certificates, mac.name if mac else None, iterations, weak)


def read(data: bytes, password: str | None) -> Contents:
    """Everything that a PKCS #12 file holds. None and "" are the same password.

    Raises PasswordWrong, Malformed (also where the password is right and the MAC is not), Unsupported, LimitExceeded.
    """
    try:
        return _read(data, _Secrets(password))
    except _Damaged as exc:
        raise Malformed(f"its structure is broken: {exc}") from None


def _read(data: bytes, secrets: _Secrets) -> Contents:
    file = _parsed(data, secrets)
    if file.mac and not file.mac.proves(secrets, file.content):
        raise _mac_mismatch(file, secrets)
    outcomes: list[tuple[_Item, _Outcome]] = []
    items = _counted(_unwrapped(file.items, secrets, outcomes))
    outcomes += [(item, _opened(item, secrets)) for item in items]
    _refuse_if_nothing_opened(outcomes)
    found: list[t.Any] = []
    for item, outcome in outcomes:
        if outcome is None:
            found.append(UnreadableEntry(item.kind, "it is damaged, or under another password", None))
        elif isinstance(outcome, UnreadableEntry):
            found.append(outcome)
        elif item.kind != "safe":
            found.append((_key_entry if item.kind == "private_key" else _certificate_entry)(item, outcome))
    contents = Contents(
        tuple(entry for entry in found if isinstance(entry, KeyEntry)),
        tuple(entry for entry in found if isinstance(entry, CertificateEntry)),
        tuple(entry for entry in found if isinstance(entry, UnreadableEntry)),
        _encryption(items, file.mac),
        sum(item.kind == "private_key" for item in items),
        tuple(name for name, there in (("trailing_bytes", file.trailing), ("no_mac", file.mac is None)) if there),
    )
    if contents.key_bags != len(contents.private_keys) + sum(entry.kind == "private_key" for entry in contents.unreadable):
        raise Malformed("the private keys that were read are not as many as those that are in it")
    return contents


def opens(data: bytes, password: str | None) -> bool:
    """Whether the password opens the file: some protected key or safe of it decrypts to something sound.

    Where the first does, that is one derivation, and a bundle of ours needs no more than one for a wrong password either. It proves
    nothing about the rest, nor that nothing was changed: for callers that have checked a digest of the file. Where nothing is
    encrypted the MAC decides, and where there is none, any password opens it. Raises Malformed, Unsupported, LimitExceeded.
    """
    secrets = _Secrets(password)
    try:
        file = _parsed(data, secrets)
        outcomes = []
        for item in file.items:
            outcomes.append((item, _opened(item, secrets)))
            if item.scheme and isinstance(outcomes[-1][1], bytes):
                return True
        _refuse_if_nothing_opened(outcomes)
        return file.mac is None or file.mac.proves(secrets, file.content)
    except PasswordWrong:
        return False
    except _Damaged as exc:
        raise Malformed(f"its structure is broken: {exc}") from None


# --- writing -----------------------------------------------------------------------------------------------------


def public_key_sha256(key: PrivateKeyTypes | PublicKeyTypes) -> str:
    """The identity of a key pair: SHA-256, in hex, of the public key's SubjectPublicKeyInfo (DER)."""
    public = key.public_key() if hasattr(key, "public_key") else key
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def key_refusal(key: t.Any) -> str | None:
    """Why a private key can't go into a bundle; None when it can."""
    kinds = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, dsa.DSAPrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    if isinstance(key, kinds):
        return None
    return f"readers of PKCS #12 in use know RSA, EC, DSA, Ed25519 and Ed448 keys, and would not bring back this one: {type(key).__name__}"


def iterations_for(key_count: int) -> int:
    """The iterations of every derivation, MAC included, of a bundle with so many keys."""
    return min(WRITE_ITERATIONS, WRITE_TOTAL_ITERATIONS // (key_count + 1))


def _der_attributes(name: str | None, key_id: bytes | None) -> bytes:
    attributes = []
    if name is not None:
        attributes.append(_der(_SEQUENCE, _der_oid(_FRIENDLY_NAME), _der(_SET, _der(_BMP, name.encode("utf-16-be")))))
    if key_id is not None:
        attributes.append(_der(_SEQUENCE, _der_oid(_LOCAL_KEY_ID), _der(_SET, _der(_OCTETS, key_id))))
    return _der(_SET, *sorted(attributes)) if attributes else b""


def _der_bag(oid: str, value: bytes, name: str | None = None, key_id: bytes | None = None) -> bytes:
    return _der(_SEQUENCE, _der_oid(oid), _der(_CONSTRUCTED_0, value), _der_attributes(name, key_id))


def _der_certificate_bag(certificate: bytes, name: str | None = None, key_id: bytes | None = None) -> bytes:
    value = _der(_SEQUENCE, _der_oid(_X509_CERTIFICATE), _der(_CONSTRUCTED_0, _der(_OCTETS, certificate)))
    return _der_bag(_CERTIFICATE_BAG, value, name, key_id)


def _encrypted(key: bytes, kdf: _Kdf, plain: bytes) -> tuple[bytes, bytes]:
    """The AlgorithmIdentifier and the encrypted bytes: PBES2 with AES-256-CBC under an IV of its own."""
    iv = os.urandom(16)
    pad = 16 - len(plain) % 16
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(plain + bytes((pad,)) * pad) + encryptor.finalize()
    prf = _der(_SEQUENCE, _der_oid(_HMAC_SHA256), _der(_NULL))
    derivation = _der(_SEQUENCE, _der_oid(_PBKDF2), _der(_SEQUENCE, _der(_OCTETS, kdf.salt), _der_integer(kdf.iterations), prf))
    encryption = _der(_SEQUENCE, _der_oid(_AES_256_CBC), _der(_OCTETS, iv))
    return _der(_SEQUENCE, _der_oid(_PBES2), _der(_SEQUENCE, derivation, encryption)), sealed


def write(keys: t.Sequence[NamedKey], chain: t.Sequence[bytes], password: str) -> bytes:
    """A bundle: each key in a shrouded bag of its own; its certificates and then the chain in one encrypted safe.

    The first certificate of a key bears its name and localKeyId, the others none: importers pair one certificate with one key.
    Keys and certificates share salt and count, and so one derivation; each has its own IV. Raises Unsupported for a key that
    PKCS #12 can't keep, ValueError for a password that is not printable ASCII, and for a name or a key that occurs twice.
    """
    if not password or any(not " " <= character <= "~" for character in password):
        raise ValueError("the password of a bundle is printable ASCII, the only text that every reader encodes alike")
    if len({named.name.casefold() for named in keys}) < len(keys):
        raise ValueError("two keys of one name: some readers would return one of them")
    for named in keys:
        refusal = key_refusal(named.key)
        if refusal:
            raise Unsupported(refusal, type(named.key).__name__)
    key_ids = [bytes.fromhex(public_key_sha256(named.key)) for named in keys]
    if len(set(key_ids)) < len(keys):
        raise ValueError("a key is there twice")
    secrets = _Secrets(password)
    iterations = iterations_for(len(keys))
    kdf = _Kdf("pbkdf2", "sha256", os.urandom(SALT_SIZE), iterations)
    key = secrets.derive(kdf, secrets.encodings(kdf)[0], 32)

    key_bags, certificate_bags = [], {}
    for named, key_id in zip(keys, key_ids):
        plain = named.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        algorithm, sealed = _encrypted(key, kdf, plain)
        key_bags.append(_der_bag(_SHROUDED_KEY_BAG, _der(_SEQUENCE, algorithm, _der(_OCTETS, sealed)), named.name, key_id))
        for certificate in named.certificates[:1]:
            certificate_bags[certificate] = _der_certificate_bag(certificate, named.name, key_id)
    for certificate in [certificate for named in keys for certificate in named.certificates] + list(chain):
        certificate_bags.setdefault(certificate, _der_certificate_bag(certificate))

    safes = [_content_info(_PKCS7_DATA, _der(_OCTETS, _der(_SEQUENCE, *key_bags)))]
    if certificate_bags:
        algorithm, sealed = _encrypted(key, kdf, _der(_SEQUENCE, *certificate_bags.values()))
        encrypted = _der(_SEQUENCE, _der_oid(_PKCS7_DATA), algorithm, _der(_CONTEXT_0, sealed))
        safes.append(_content_info(_PKCS7_ENCRYPTED, _der(_SEQUENCE, _der_integer(0), encrypted)))
    content = _der(_SEQUENCE, *safes)

    mac_kdf = _Kdf("pkcs12", "sha256", os.urandom(SALT_SIZE), iterations)
    mac_key = secrets.derive(mac_kdf, secrets.encodings(mac_kdf)[0], 32, _FOR_MAC)
    mac = _der(_OCTETS, hmac.new(mac_key, content, "sha256").digest())
    info = _der(_SEQUENCE, _der(_SEQUENCE, _der_oid(_SHA256), _der(_NULL)), mac)
    mac_data = _der(_SEQUENCE, info, _der(_OCTETS, mac_kdf.salt), _der_integer(iterations))
    return _der(_SEQUENCE, _der_integer(3), _content_info(_PKCS7_DATA, _der(_OCTETS, content)), mac_data)


def _content_info(oid: str, value: bytes) -> bytes:
    return _der(_SEQUENCE, _der_oid(oid), _der(_CONSTRUCTED_0, value))
