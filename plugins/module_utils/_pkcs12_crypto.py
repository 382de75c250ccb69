# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what reading and writing PKCS #12 share, the primitives and the names; may change in any release.

No files and no Ansible here. Written after RFC 7292 (PKCS #12), RFC 8018 (PBES2, PBKDF2), RFC 7914 (scrypt), RFC 9879 (PBMAC1)
and RFC 2268 (RC2). The reader and the writer share nothing but this file and `_der`: neither proves itself.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import typing as t
from functools import partial
from itertools import repeat

from ansible_collections.keyward.pki.plugins.module_utils import _der

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
except ImportError:  # the modules say which library is missing
    pass

# Bounds on what a file may ask for. All that is visible is checked before any key is derived, the rest as soon as it is decrypted.
MAX_ITERATIONS = 5_000_000  # of one derivation
MAX_TOTAL_ITERATIONS = 20_000_000  # of all derivations of a file
# What those may cost, in iterations of PBKDF2-HMAC-SHA256: about 4 s, and 10 s in a file whose MAC must prove the password first.
MAX_WORK, MAX_WORK_UNDER_A_MAC = 14_000_000, 40_000_000
MAX_SCRYPT_MEMORY = 64 * 1024 * 1024  # bytes
MAX_RC2_SIZE = 1024 * 1024  # bytes of a file; RC2 runs in Python


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


# --- names of things ---------------------------------------------------------------------------------------------

PKCS7_DATA, PKCS7_ENCRYPTED = "1.2.840.113549.1.7.1", "1.2.840.113549.1.7.6"
_BAG = "1.2.840.113549.1.12.10.1."
KEY_BAG, SHROUDED_KEY_BAG, CERTIFICATE_BAG, SAFE_BAG = _BAG + "1", _BAG + "2", _BAG + "3", _BAG + "6"
_WINDOWS_PROVIDER, _WINDOWS_MACHINE_KEY, _KEY_USAGE = "1.3.6.1.4.1.311.17.1", "1.3.6.1.4.1.311.17.2", "2.5.29.15"
FRIENDLY_NAME, LOCAL_KEY_ID, X509_CERTIFICATE = "1.2.840.113549.1.9.20", "1.2.840.113549.1.9.21", "1.2.840.113549.1.9.22.1"
PBKDF2, PBES2, PBMAC1, SCRYPT = "1.2.840.113549.1.5.12", "1.2.840.113549.1.5.13", "1.2.840.113549.1.5.14", "1.3.6.1.4.1.11591.4.11"
AES_256_CBC, HMAC_SHA1, HMAC_SHA256, SHA256 = (
    "2.16.840.1.101.3.4.1.42",
    "1.2.840.113549.2.7",
    "1.2.840.113549.2.9",
    "2.16.840.1.101.3.4.2.1",
)

_RSADSI, _NIST = "1.2.840.113549.2.", "2.16.840.1.101.3.4."
_SHA3 = ("sha3_224", "sha3_256", "sha3_384", "sha3_512")
_DIGESTS = {_RSADSI + "5": "md5", "1.3.14.3.2.26": "sha1"}
for _arc, _name in enumerate(("sha256", "sha384", "sha512", "sha224", "sha512_224", "sha512_256", *_SHA3), 1):
    _DIGESTS[_NIST + f"2.{_arc}"] = _name
_HMACS = {_NIST + f"2.{_arc}": _name for _arc, _name in enumerate(_SHA3, 13)}
for _arc, _name in enumerate(("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha512_224", "sha512_256"), 6):
    _HMACS[_RSADSI + str(_arc)] = _name


class CipherKind(t.NamedTuple):
    name: str
    algorithm: str  # its class in `cryptography`; "" = our own RC2
    key_size: int
    block_size: int  # 0 = a stream cipher


_CIPHERS = {  # of PBES2, with the IV as parameter
    _NIST + "1.2": CipherKind("AES-128-CBC", "AES", 16, 16),
    _NIST + "1.22": CipherKind("AES-192-CBC", "AES", 24, 16),
    AES_256_CBC: CipherKind("AES-256-CBC", "AES", 32, 16),
    "1.2.840.113549.3.7": CipherKind("3DES-CBC", "TripleDES", 24, 8),
    "1.3.14.3.2.7": CipherKind("DES-CBC", "TripleDES", 8, 8),
    "1.2.392.200011.61.1.1.1.2": CipherKind("CAMELLIA-128-CBC", "Camellia", 16, 16),
    "1.2.392.200011.61.1.1.1.3": CipherKind("CAMELLIA-192-CBC", "Camellia", 24, 16),
    "1.2.392.200011.61.1.1.1.4": CipherKind("CAMELLIA-256-CBC", "Camellia", 32, 16),
    "1.2.410.200004.1.4": CipherKind("SEED-CBC", "SEED", 16, 16),
}
_LEGACY_CIPHERS = {  # pbeWithSHAAnd..., RFC 7292 appendix C
    "1.2.840.113549.1.12.1.1": CipherKind("RC4-128", "ARC4", 16, 0),
    "1.2.840.113549.1.12.1.2": CipherKind("RC4-40", "ARC4", 5, 0),
    "1.2.840.113549.1.12.1.3": CipherKind("3DES", "TripleDES", 24, 8),
    "1.2.840.113549.1.12.1.4": CipherKind("3DES-2KEY", "TripleDES", 16, 8),
    "1.2.840.113549.1.12.1.5": CipherKind("RC2-128", "", 16, 8),
    "1.2.840.113549.1.12.1.6": CipherKind("RC2-40", "", 5, 8),
}


# --- key derivation ----------------------------------------------------------------------------------------------

FOR_KEY, FOR_IV, FOR_MAC = 1, 2, 3


class Kdf(t.NamedTuple):
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

    def work(self, size: int) -> int:
        """What deriving so many bytes costs, in iterations of PBKDF2-HMAC-SHA256, rounded up."""
        if self.kind == "scrypt":
            return 3 * self.iterations * self.r * self.p
        common = self.digest in ("sha1", "sha224", "sha256")
        halves = 2 if (self.kind, self.digest) == ("pbkdf2", "sha256") else 3 if common else 8
        return self.iterations * halves * -(-size // _sizes(self.digest)[0]) // 2


def _sizes(digest: str) -> tuple[int, int]:
    """Digest and block size in bytes."""
    try:
        sample = hashlib.new(digest)
    except ValueError:
        raise Unsupported("the digest is not available here", digest) from None
    return sample.digest_size, sample.block_size


def pkcs12_kdf(digest: str, password: bytes, salt: bytes, iterations: int, purpose: int, size: int) -> bytes:
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


class Secrets:
    """A password, what was derived from it in this call, and how much the file has asked for."""

    def __init__(self, password: str | None) -> None:
        password = password or ""
        bmp = password.encode("utf-16-be", "surrogatepass") + b"\0\0"
        self._utf8 = password.encode("utf-8", "surrogatepass")
        # Writers disagree whether an empty password is an empty string (a terminator only) or none at all.
        self._bmp = [bmp] if password else [bmp, b""]
        self._derived: dict[t.Any, bytes] = {}
        self.most_work = MAX_WORK
        self._iterations = self._work = self._rc2_size = 0

    def charge(self, kdf: Kdf, *sizes: int) -> None:
        """Counts the derivations of so many bytes each against the limits, before they are made."""
        if (kdf.work(1) if kdf.kind == "scrypt" else kdf.iterations) > MAX_ITERATIONS:
            raise LimitExceeded("iterations of one key derivation", MAX_ITERATIONS)
        tries = len(self.encodings(kdf))
        self._iterations += (kdf.work(1) if kdf.kind == "scrypt" else kdf.iterations) * len(sizes) * tries
        self._work += sum(kdf.work(size) for size in sizes) * tries
        if self._iterations > MAX_TOTAL_ITERATIONS or self._work > self.most_work:
            raise LimitExceeded("iterations of all key derivations", MAX_TOTAL_ITERATIONS)

    def charge_rc2(self, size: int) -> None:
        self._rc2_size += size
        if self._rc2_size > MAX_RC2_SIZE:
            raise LimitExceeded("bytes under RC2", MAX_RC2_SIZE)

    def encodings(self, kdf: Kdf) -> list[bytes]:
        return list(self._bmp) if kdf.kind == "pkcs12" else [self._utf8]

    def settle(self, kdf: Kdf, encoding: bytes) -> None:
        """One encoding proved right: the others need no try any more."""
        if kdf.kind == "pkcs12":
            self._bmp = [encoding]

    def derive(self, kdf: Kdf, encoding: bytes, size: int, purpose: int = FOR_KEY) -> bytes:
        request = (kdf, encoding, size, purpose if kdf.kind == "pkcs12" else 0)
        if request not in self._derived:
            self._derived[request] = self._derive(kdf, encoding, size, purpose)
        return self._derived[request]

    @staticmethod
    def _derive(kdf: Kdf, password: bytes, size: int, purpose: int) -> bytes:
        if kdf.kind == "pkcs12":
            return pkcs12_kdf(kdf.digest, password, kdf.salt, kdf.iterations, purpose, size)
        try:
            if kdf.kind == "pbkdf2":
                return hashlib.pbkdf2_hmac(kdf.digest, password, kdf.salt, kdf.iterations, size)
            from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

            return Scrypt(kdf.salt, size, kdf.iterations, kdf.r, kdf.p).derive(password)
        except (ValueError, MemoryError, UnsupportedAlgorithm):
            raise Unsupported("the key derivation is not available here", kdf.name) from None


def _iterations(value: _der.Value) -> int:
    """An iteration count. One that is impossible condemns the whole file, wherever it stands."""
    count = _der.integer(value)
    if count <= 0:
        raise Malformed("an iteration count is not positive")
    if count > MAX_ITERATIONS:
        raise LimitExceeded("iterations of one key derivation", MAX_ITERATIONS)
    return count


def algorithm_of(value: _der.Value) -> tuple[str, _der.Value | None]:
    """Identifier and parameters of an AlgorithmIdentifier."""
    members = _der.members(value, 1)
    return _der.oid(members[0]), members[1] if len(members) > 1 else None


def _parameters(value: _der.Value | None, least: int) -> list[_der.Value]:
    if value is None:
        raise _der.Damaged("an algorithm lacks its parameters")
    return _der.members(value, least)


def _pbkdf2(parameters: _der.Value | None) -> tuple[Kdf, int | None]:
    """PBKDF2-params (RFC 8018 A.2): the derivation, and the key size in bytes where it is stated."""
    salt, count, *rest = _parameters(parameters, 2)
    iterations = _iterations(count)
    if salt.tag == _der.SEQUENCE:
        raise Unsupported("the salt's source is not supported", algorithm_of(salt)[0])
    size = _der.integer(rest.pop(0)) if rest and rest[0].tag == _der.INTEGER else None
    prf = algorithm_of(rest[0])[0] if rest else HMAC_SHA1
    if prf not in _HMACS:
        raise Unsupported("the key derivation's function is not supported", prf)
    return Kdf("pbkdf2", _HMACS[prf], _der.octets(salt), iterations), size


def _scrypt(parameters: _der.Value | None) -> tuple[Kdf, int | None]:
    """scrypt-params (RFC 7914 7.1)."""
    salt, *costs = _parameters(parameters, 4)
    n, r, p = map(_der.integer, costs[:3])
    if n < 2 or n & (n - 1) or r < 1 or p < 1:
        raise Malformed("a cost of scrypt is impossible")
    if 128 * r * (n + p) > MAX_SCRYPT_MEMORY:
        raise LimitExceeded("bytes of memory for scrypt", MAX_SCRYPT_MEMORY)
    return Kdf("scrypt", "", _der.octets(salt), n, r, p), _der.integer(costs[3]) if len(costs) > 3 else None


# --- ciphers -----------------------------------------------------------------------------------------------------

_RC2_TABLE = bytes.fromhex(  # PITABLE, RFC 2268 section 2
    "d978f9c419ddb5ed28e9fd794aa0d89dc67e37832b76538e624c6488448bfba2179a59f587b34f1361456d8d09817d32bd8f40eb86b77b0bf09521225c6b4e82"
    "54d66593ce60b21c7356c014a78cf1dc1275ca1f3bbee4d1423dd430a33cb6266fbf0eda4669075727f21d9bbc944303f811c7f690ef3ee706c3d52fc8661ed7"
    "08e8eade8052eef784aa72ac354d6a2a961ad2715a1549744b9fd05e0418a4ecc2e0416e0f51cbcc2491af50a1f47039997c3a8523b8b47afc02365b25559731"
    "2d5dfa98e38a92ae05df2910676cbac9d300e6cfe19ea82c6316013f58e289a90d38341bab33ffb0bb480c5fb9b1cd2ec5f3db47e5a59c770aa62068fe7fc1ad"
)


def rc2_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
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


def _decrypted(kind: CipherKind, key: bytes, iv: bytes, data: bytes) -> bytes | None:
    """The plain bytes without their padding, or None where the padding is wrong: another key, or damage."""
    if kind.block_size and (not data or len(data) % kind.block_size):
        raise _der.Damaged("what is encrypted has an impossible length")
    if not kind.algorithm:
        plain = rc2_cbc(key, iv, data)
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


class Scheme(t.NamedTuple):
    """A password-based encryption: derivation and cipher."""

    kdf: Kdf
    cipher: CipherKind
    iv: bytes  # empty where it is derived

    @property
    def name(self) -> str:
        return f"{self.cipher.name}, {self.kdf.name}"

    def decrypt(self, secrets: Secrets, data: bytes, sound: t.Callable[[bytes], bool]) -> bytes | None:
        """The plain bytes, or None where this password yields nothing sound."""
        for encoding in secrets.encodings(self.kdf):
            key = secrets.derive(self.kdf, encoding, self.cipher.key_size)
            iv = self.iv
            if not iv and self.cipher.block_size:
                iv = secrets.derive(self.kdf, encoding, self.cipher.block_size, FOR_IV)
            plain = _decrypted(self.cipher, key, iv, data)
            if plain is not None and sound(plain):
                secrets.settle(self.kdf, encoding)
                return plain
        return None


def scheme_of(value: _der.Value) -> Scheme:
    """The scheme of an AlgorithmIdentifier: PBES2 (RFC 8018 A.4), or one of PKCS #12's own."""
    oid, parameters = algorithm_of(value)
    if oid in _LEGACY_CIPHERS:
        salt, count = _parameters(parameters, 2)[:2]
        return Scheme(Kdf("pkcs12", "sha1", _der.octets(salt), _iterations(count)), _LEGACY_CIPHERS[oid], b"")
    if oid != PBES2:
        raise Unsupported("the encryption is not supported", oid)
    derivation, encryption = _parameters(parameters, 2)[:2]
    kdf_oid, kdf_parameters = algorithm_of(derivation)
    if kdf_oid not in (PBKDF2, SCRYPT):
        raise Unsupported("the key derivation is not supported", kdf_oid)
    kdf, size = (_pbkdf2 if kdf_oid == PBKDF2 else _scrypt)(kdf_parameters)
    cipher_oid, iv = algorithm_of(encryption)
    if cipher_oid not in _CIPHERS:
        raise Unsupported("the cipher is not supported", cipher_oid)
    cipher = _CIPHERS[cipher_oid]
    if iv is None or len(_der.octets(iv)) != cipher.block_size or size not in (None, cipher.key_size):
        raise _der.Damaged("the parameters of a cipher do not fit it")
    return Scheme(kdf, cipher, _der.octets(iv))


# --- the MAC -----------------------------------------------------------------------------------------------------


class Mac(t.NamedTuple):
    """MacData of RFC 7292 section 4, or PBMAC1 (RFC 9879)."""

    kdf: Kdf
    digest: str
    key_size: int
    value: bytes

    @property
    def name(self) -> str:
        return f"HMAC-{self.digest.upper().replace('_', '-')}, {self.kdf.name}"

    def proves(self, secrets: Secrets, content: bytes) -> bool:
        for encoding in secrets.encodings(self.kdf):
            key = secrets.derive(self.kdf, encoding, self.key_size, FOR_MAC)
            if hmac.compare_digest(hmac.new(key, content, self.digest).digest(), self.value):
                secrets.settle(self.kdf, encoding)
                return True
        return False


def mac_of(value: _der.Value) -> Mac:
    info, salt, *count = _der.members(value, 2)
    algorithm, expected = _der.members(info, 2)[:2]
    oid, parameters = algorithm_of(algorithm)
    if oid == PBMAC1:
        derivation, function = _parameters(parameters, 2)[:2]
        kdf_oid, kdf_parameters = algorithm_of(derivation)
        if kdf_oid != PBKDF2:
            raise Unsupported("the key derivation of the MAC is not supported", kdf_oid)
        kdf, size = _pbkdf2(kdf_parameters)
        digest = _HMACS.get(algorithm_of(function)[0])
        if digest is None:
            raise Unsupported("the MAC is not supported", algorithm_of(function)[0])
        _sizes(digest)
        if size is None or not 1 <= size <= 64:  # RFC 9879 section 4: it must be there
            raise _der.Damaged("the key size of the MAC is missing or impossible")
        return Mac(kdf, digest, size, _der.octets(expected))
    if oid not in _DIGESTS:
        raise Unsupported("the digest of the MAC is not supported", oid)
    digest = _DIGESTS[oid]
    kdf = Kdf("pkcs12", digest, _der.octets(salt), _iterations(count[0]) if count else 1)
    return Mac(kdf, digest, _sizes(digest)[0], _der.octets(expected))
