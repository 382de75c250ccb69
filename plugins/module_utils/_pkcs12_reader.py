# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: reading PKCS #12, bytes to contents; may change in any release. No files and no Ansible here.

It exists because the readers at hand return the first private key of a file and are silent about the others. It also proves what
the writer made: it shares with it nothing but `_der` and `_pkcs12_crypto`.
"""

from __future__ import annotations

import contextlib
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils import _der
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_crypto import (
    CERTIFICATE_BAG,
    FRIENDLY_NAME,
    KEY_BAG,
    LOCAL_KEY_ID,
    MAX_WORK_UNDER_A_MAC,
    PKCS7_DATA,
    PKCS7_ENCRYPTED,
    SAFE_BAG,
    SHROUDED_KEY_BAG,
    X509_CERTIFICATE,
    Kdf,
    LimitExceeded,
    Mac,
    Malformed,
    PasswordWrong,
    Pkcs12Error,
    Scheme,
    Secrets,
    Unsupported,
    algorithm_of,
    mac_of,
    scheme_of,
)
from ansible_collections.keyward.pki.plugins.module_utils._x509 import public_key_sha256

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

MAX_SIZE = 8 * 1024 * 1024  # bytes
MAX_BAGS = 10_000
MAX_KEYS = 200
MAX_DIAGNOSIS_WORK = 1_000_000  # spent on telling damage from a wrong password, beyond the first derivation

WEAK_ITERATIONS = 10_000  # fewer than this are weak
WEAK_NAMES = re.compile("none|SHA1|MD5|RC2|RC4|DES")
# The private keys that every release of `cryptography` knows: RSA, DSA, EC, Ed25519, Ed448, X25519, X448.
_KEY_ALGORITHMS = re.compile(r"1\.2\.840\.(113549\.1\.1\.(1|7|10)|10040\.4\.1|10045\.2\.1)|1\.3\.101\.11[0-3]")
_WINDOWS_PROVIDER, _WINDOWS_MACHINE_KEY, _KEY_USAGE = "1.3.6.1.4.1.311.17.1", "1.3.6.1.4.1.311.17.2", "2.5.29.15"


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


class _Item(t.NamedTuple):
    """A key bag, a certificate bag or an encrypted safe. Either `plain`, or `sealed` under `scheme`, or neither: `fault` says why."""

    kind: str
    plain: bytes = b""
    sealed: bytes = b""
    scheme: Scheme | None = None
    fault: UnreadableEntry | None = None
    safe: Scheme | None = None  # what the safe around it is encrypted with
    friendly_name: str | None = None
    local_key_id: bytes | None = None
    provider: str | None = None
    machine_key: bool = False

    def sound(self, plain: bytes) -> bool:
        """Whether decrypted bytes have the outline of what this item holds. Chance passes with less than 1 in 2^40."""
        try:
            value = _der.only(plain)
            if self.kind == "safe":
                return all(_der.oid(_der.members(bag, 2)[0]) for bag in _der.members(value))
            return bool(_private_key_algorithm(value))
        except _der.Damaged:
            return False


def _unreadable(kind: str, cause: Exception) -> UnreadableEntry:
    return UnreadableEntry(kind, str(cause), cause.oid if isinstance(cause, Unsupported) else None)


def _private_key_algorithm(value: _der.Value) -> str:
    """The algorithm of a PrivateKeyInfo (RFC 5208)."""
    version, algorithm, key = _der.members(value, 3)[:3]
    _der.integer(version)
    _der.octets(key)
    return algorithm_of(algorithm)[0]


def _sealed_item(kind: str, algorithm: _der.Value, sealed: bytes, secrets: Secrets, **more: t.Any) -> _Item:
    try:
        scheme = scheme_of(algorithm)
    except (Unsupported, _der.Damaged) as exc:
        return _Item(kind, fault=_unreadable(kind, exc), **more)
    secrets.charge(scheme.kdf, scheme.cipher.key_size, *([] if scheme.iv else [scheme.cipher.block_size]))
    if not scheme.cipher.algorithm:
        secrets.charge_rc2(len(sealed))
    return _Item(kind, sealed=sealed, scheme=scheme, **more)


def _attributes(members: list[_der.Value]) -> dict[str, t.Any]:
    """friendlyName, localKeyId and Windows' attributes of a bag. What can't be read is left out: a name costs nobody a key."""
    found: dict[str, t.Any] = {}
    try:
        attributes = _der.members(members[2], tag=_der.SET) if len(members) > 2 else []
    except _der.Damaged:
        return found
    for attribute in attributes:
        try:
            identifier, values = _der.members(attribute, 2)[:2]
            oid = _der.oid(identifier)
            if oid == FRIENDLY_NAME:
                name = _der.members(values, 1, _der.SET)[0]
                if name.tag in (_der.BMP, _der.UTF8):
                    found["friendly_name"] = name.body.decode("utf-16-be" if name.tag == _der.BMP else "utf-8")
            elif oid == LOCAL_KEY_ID:
                found["local_key_id"] = _der.octets(_der.members(values, 1, _der.SET)[0])
            elif oid == _WINDOWS_PROVIDER:
                found["provider"] = _der.members(values, 1, _der.SET)[0].body.decode("utf-16-be")
            elif oid == _WINDOWS_MACHINE_KEY:
                found["machine_key"] = True
        except (_der.Damaged, UnicodeDecodeError):
            continue
    return found


def _bag_item(oid: str, members: list[_der.Value], secrets: Secrets, safe: Scheme | None) -> _Item | None:
    """The item of one bag; None for kinds that hold neither key nor certificate."""
    if oid not in (KEY_BAG, SHROUDED_KEY_BAG, CERTIFICATE_BAG):
        return None
    kind = "certificate" if oid == CERTIFICATE_BAG else "private_key"
    more = {"safe": safe, **_attributes(members)}
    try:
        value = _der.content(members)
        if oid == KEY_BAG:
            return _Item(kind, plain=value.whole, **more)
        inner = _der.members(value, 2)
        if oid == SHROUDED_KEY_BAG:
            return _sealed_item(kind, inner[0], _der.octets(inner[1]), secrets, **more)
        if _der.oid(inner[0]) != X509_CERTIFICATE:
            return None
        return _Item(kind, plain=_der.octets(_der.content(inner)), **more)
    except _der.Damaged as exc:
        return _Item(kind, fault=_unreadable(kind, exc), **more)


def _bag_items(contents: bytes, secrets: Secrets, safe: Scheme | None) -> t.Iterator[_Item]:
    """The items of one SafeContents, and of those nested in it, in their order."""
    waiting = [(bag, 1) for bag in reversed(_der.members(_der.only(contents)))]
    while waiting:
        bag, depth = waiting.pop()
        members = _der.members(bag, 2)
        oid = _der.oid(members[0])
        if oid == SAFE_BAG:
            if depth >= _der.MAX_DEPTH:
                raise LimitExceeded("nested safes", _der.MAX_DEPTH)
            waiting.extend((inner, depth + 1) for inner in reversed(_der.members(_der.content(members))))
        else:
            item = _bag_item(oid, members, secrets, safe)
            if item:
                yield item


def _safe_items(content: bytes, secrets: Secrets) -> t.Iterator[_Item]:
    """What shows without a password: the bags of the clear safes, and the encrypted safes, in their order."""
    for info in _der.members(_der.only(content)):
        members = _der.members(info, 2)
        oid = _der.oid(members[0])
        if oid == PKCS7_DATA:
            yield from _bag_items(_der.octets(_der.content(members)), secrets, None)
        elif oid == PKCS7_ENCRYPTED:
            _version, encrypted = _der.members(_der.content(members), 2)[:2]
            _type, algorithm, sealed = _der.members(encrypted, 3)[:3]
            yield _sealed_item("safe", algorithm, _der.octets(sealed, _der.CONTEXT_0), secrets)
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
    mac: Mac | None
    trailing: bool


def parsed(data: bytes, secrets: Secrets) -> _File:
    """The outside of a file, each bound checked."""
    if len(data) > MAX_SIZE:
        raise LimitExceeded("bytes", MAX_SIZE)
    if data[:1] != b"\x30":
        raise Malformed("it is not a PKCS #12 file")
    outer = _der.first(data)
    version, info, *rest = _der.members(outer, 2)
    if _der.integer(version) != 3:
        raise Unsupported("this version of PFX is not supported", f"version {_der.integer(version)}")
    members = _der.members(info, 2)
    if _der.oid(members[0]) != PKCS7_DATA:
        raise Unsupported("this kind of integrity protection is not supported", _der.oid(members[0]))
    if len(rest) > 1:
        raise _der.Damaged("something follows its MAC")
    mac = mac_of(rest[0]) if rest else None
    if mac:
        secrets.charge(mac.kdf, mac.key_size)
        secrets.most_work = MAX_WORK_UNDER_A_MAC
    content = _der.octets(_der.content(members))
    return _File(content, _counted(_safe_items(content, secrets)), mac, bool(data[len(outer.whole) :].strip(b"\0")))


# Plain bytes; or why there are none; or None where what came out is not sound: another password, or damage.
_Outcome = t.Union[bytes, UnreadableEntry, None]


def _opened(item: _Item, secrets: Secrets) -> _Outcome:
    if item.scheme is None:
        return item.fault or item.plain
    try:
        return item.scheme.decrypt(secrets, item.sealed, item.sound)
    except (Unsupported, _der.Damaged) as exc:
        return _unreadable(item.kind, exc)


def _unwrapped(items: t.Iterable[_Item], secrets: Secrets, safes: list[tuple[_Item, _Outcome]]) -> t.Iterator[_Item]:
    """Keys and certificates, those of the encrypted safes too; what became of the safes is added to `safes`."""
    for item in items:
        if item.kind != "safe":
            yield item
            continue
        outcome = _opened(item, secrets)
        safes.append((item, outcome))
        if isinstance(outcome, bytes):
            yield from _bag_items(outcome, secrets, item.scheme)


def _mac_mismatch(file: _File, secrets: Secrets) -> Pkcs12Error:
    """What a wrong MAC means: damage where the password decrypts something nevertheless, else another password."""
    tried: set[Kdf] = set()
    for item in file.items:
        if item.scheme is None:
            continue
        kdf = item.scheme.kdf
        if tried and sum(each.work(1) for each in tried | {kdf}) > MAX_DIAGNOSIS_WORK:
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
        oid = _private_key_algorithm(_der.only(plain))
    except _der.Damaged as exc:
        return _unreadable(item.kind, exc)
    try:
        key = _loaded_key(plain)
        digest = public_key_sha256(key.public_key())
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
        for attribute in _der.members(_der.members(_der.only(plain), 4)[3], tag=_der.CONSTRUCTED_0):
            identifier, values = _der.members(attribute, 2)[:2]
            if _der.oid(identifier) == _KEY_USAGE:
                bits = _der.members(values, 1, _der.SET)[0]
                return bits.body[1] if bits.tag == _der.BITS and len(bits.body) > 1 else None
    except _der.Damaged:
        pass
    return None


def _certificate_entry(item: _Item, plain: bytes) -> CertificateEntry | UnreadableEntry:
    try:
        certificate = _der.first(plain)  # some writers leave bytes after it
        parts = _der.members(certificate, 3)
        if not (len(parts) == 3 and len(_der.members(parts[0])) >= 6 and algorithm_of(parts[1]) and parts[2].tag == _der.BITS):
            raise _der.Damaged("a certificate lacks a part")
    except _der.Damaged:
        return UnreadableEntry(item.kind, "the certificate is damaged", None)
    return CertificateEntry(certificate.whole, item.friendly_name, item.local_key_id)


def _encryption(items: t.Sequence[_Item], mac: Mac | None) -> Encryption:
    def schemes_of(kind: str) -> tuple[str, ...]:
        schemes = [item.scheme or item.safe for item in items if item.kind == kind and not item.fault]
        return tuple(dict.fromkeys(scheme.name if scheme else "none" for scheme in schemes))

    counts = [scheme.kdf.iterations for item in items for scheme in (item.scheme, item.safe) if scheme]
    iterations = min([*counts, mac.kdf.iterations] if mac else counts) if counts else 0
    key, certificates = schemes_of("private_key"), schemes_of("certificate")
    names_used = " ".join((*key, *certificates, mac.name if mac else ""))
    weak = bool(key or certificates) and (iterations < WEAK_ITERATIONS or bool(WEAK_NAMES.search(names_used)))
    return Encryption(key, certificates, mac.name if mac else None, iterations, weak)


@contextlib.contextmanager
def as_pkcs12_errors() -> t.Iterator[None]:
    try:
        yield
    except _der.Damaged as exc:
        raise Malformed(f"its structure is broken: {exc}") from None
    except _der.LimitExceeded as exc:
        raise LimitExceeded(exc.limit, exc.value) from None


def read(data: bytes, password: str | None, intact: bool = False) -> Contents:
    """Everything that a PKCS #12 file holds. None and "" are the same password. C(intact): a known digest stands for the MAC.

    Raises PasswordWrong, Malformed (also where the password is right and the MAC is not), Unsupported, LimitExceeded.
    """
    with as_pkcs12_errors(), _der.one_document():
        return _read(data, Secrets(password), intact)


def _read(data: bytes, secrets: Secrets, intact: bool) -> Contents:
    file = parsed(data, secrets)
    if file.mac and not intact and not file.mac.proves(secrets, file.content):
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
    secrets = Secrets(password)
    try:
        with as_pkcs12_errors(), _der.one_document():
            file = parsed(data, secrets)
            outcomes = []
            for item in file.items:
                outcomes.append((item, _opened(item, secrets)))
                if item.scheme and isinstance(outcomes[-1][1], bytes):
                    return True
            _refuse_if_nothing_opened(outcomes)
            return file.mac is None or file.mac.proves(secrets, file.content)
    except PasswordWrong:
        return False
