# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whose a signed document is, in three answers; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import enum
import typing as t
from dataclasses import dataclass
from datetime import datetime

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline, _readable
from ansible_collections.keyward.pki.plugins.module_utils._outline import DSA, EC, RSA, RSA_PSS, SM2, Outline, Signed, same_name

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
except ImportError:  # the modules say which library is missing
    pass


class Whose(enum.Enum):
    """What a signature says. C(CANT_TELL): it bears the name, and nothing at hand can verify it: said, never passed over or blamed."""

    OURS = "ours"
    NOT_OURS = "not ours"
    CANT_TELL = "can't tell"


FORGEABLE = ("md2", "md4", "md5", "sha1")  # as openssl says them


@dataclass(frozen=True)
class Scheme:
    """How a document is signed: by which keys (their object identifiers), with which hash.

    C(digest): openssl's word, None where the algorithm has its own. C(salt), C(mask): of RSASSA-PSS.
    """

    keys: t.Tuple[str, ...]
    digest: t.Optional[str]
    salt: t.Optional[int] = None
    mask: t.Optional[str] = None

    @property
    def forgeable(self) -> bool:
        """Whether the hash can be forged today, so that clients refuse it."""
        return self.digest in FORGEABLE


_PSS = "1.2.840.113549.1.1.10"
_SHA2, _SHA3 = ("sha224", "sha256", "sha384", "sha512"), ("sha3-224", "sha3-256", "sha3-384", "sha3-512")
_DIGESTS = {
    "1.2.840.113549.2.2": "md2",
    "1.2.840.113549.2.4": "md4",
    "1.2.840.113549.2.5": "md5",
    "1.3.14.3.2.26": "sha1",
    "1.3.36.3.2.1": "ripemd160",
    **{f"2.16.840.1.101.3.4.2.{at}": name for at, name in zip((4, 1, 2, 3, 7, 8, 9, 10), (*_SHA2, *_SHA3))},
}
_ED25519, _ED448 = "1.3.101.112", "1.3.101.113"
_BY_RSA: t.Dict[str, t.Optional[str]] = {
    **{f"1.2.840.113549.1.1.{at}": name for at, name in zip((2, 3, 4, 5), ("md2", "md4", "md5", "sha1"))},
    **{f"1.2.840.113549.1.1.{at}": name for at, name in zip((14, 11, 12, 13), _SHA2)},
    **{f"2.16.840.1.101.3.4.3.{13 + at}": name for at, name in enumerate(_SHA3)},
    "1.3.36.3.3.1.2": "ripemd160",
    "1.3.14.3.2.29": "sha1",
}
_BY_DSA: t.Dict[str, t.Optional[str]] = {
    "1.3.14.3.2.27": "sha1",
    "1.2.840.10040.4.3": "sha1",
    **{f"2.16.840.1.101.3.4.3.{1 + at}": name for at, name in enumerate(_SHA2)},
}
_BY_EC: t.Dict[str, t.Optional[str]] = {
    "1.2.840.10045.4.1": "sha1",
    **{f"1.2.840.10045.4.3.{1 + at}": name for at, name in enumerate(_SHA2)},
    **{f"2.16.840.1.101.3.4.3.{9 + at}": name for at, name in enumerate(_SHA3)},
    "1.2.156.10197.1.501": "sm3",
}
_SCHEMES = (((RSA,), _BY_RSA), ((DSA,), _BY_DSA), ((EC, SM2), _BY_EC), ((_ED25519,), {_ED25519: None}), ((_ED448,), {_ED448: None}))


def scheme(algorithm: bytes) -> t.Optional[Scheme]:
    """Of an AlgorithmIdentifier; None for one that is not known, or that says what can't be."""
    try:
        parts = _der.members(_der.first(algorithm), 1)
        oid = _der.oid(parts[0])
        if oid != _PSS:
            return next((Scheme(keys, digests[oid]) for keys, digests in _SCHEMES if oid in digests), None)
        fields = {field.tag: _der.only(field.body) for field in (_der.members(parts[1]) if len(parts) > 1 else [])}
        digest = _digest(fields.get(0xA0))
        mask = _digest(_der.members(fields[0xA1], 2)[1] if 0xA1 in fields else None)
        salt = _der.integer(fields[0xA2]) if 0xA2 in fields else 20
    except (ValueError, KeyError):
        return None
    return Scheme((RSA, RSA_PSS), digest, salt, mask) if 0 <= salt <= 1024 else None


def _digest(algorithm: t.Optional[_der.Value]) -> str:
    """Raises KeyError for one that is not known."""
    return "sha1" if algorithm is None else _DIGESTS[_der.oid(_der.members(algorithm, 1)[0])]


def claims(signed: Signed, issuer: Outline) -> bool:
    """Whether a document says that it is of this issuer."""
    return same_name(signed.issuer, issuer.subject)


def by_library(signed: Signed, public_key: bytes) -> Whose:
    """Whether a public key (SubjectPublicKeyInfo, DER) verifies a document, as far as the library can tell."""
    how = scheme(signed.algorithm)
    if how is None:
        return Whose.CANT_TELL
    try:
        if _der.oid(_der.members(_der.members(_der.first(public_key), 2)[0], 1)[0]) not in how.keys:
            return Whose.NOT_OURS
        key: t.Any = serialization.load_der_public_key(public_key)
        digest: t.Any = _library_hash(how.digest) if how.digest else None
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signed.signature, signed.body, _padding(how), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and digest:
            key.verify(signed.signature, signed.body, ec.ECDSA(digest))
        elif isinstance(key, dsa.DSAPublicKey) and digest:
            key.verify(signed.signature, signed.body, digest)
        elif isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)) and not digest:
            key.verify(signed.signature, signed.body)
        else:
            return Whose.CANT_TELL
    except InvalidSignature:
        return Whose.NOT_OURS
    except (UnsupportedAlgorithm, ValueError, TypeError, AttributeError, KeyError):
        return Whose.CANT_TELL
    return Whose.OURS


def _library_hash(name: str) -> t.Any:
    """Raises AttributeError for one that the library lacks."""
    return getattr(hashes, name.upper().replace("-", "_"))()


def _padding(how: Scheme) -> t.Any:
    if how.salt is None or how.mask is None:
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(_library_hash(how.mask)), how.salt)


# --- of certificates -------------------------------------------------------------------------------------------------


def is_self_signed(certificate: bytes) -> bool:
    """Whether its own key signed a certificate (DER). Where nothing here can verify that, equal names decide."""
    return self_signed(certificate) is not Whose.NOT_OURS


def self_signed(certificate: bytes) -> Whose:
    """Whether its own key signed a certificate (DER), as far as the library can tell. Raises ValueError where it is none."""
    own = _outline.certificate(certificate)
    return by_library(own, own.public_key) if own.self_issued else Whose.NOT_OURS


def is_issued_by(certificate: bytes, issuer: bytes) -> bool:
    """Whether the issuer's key signed a certificate (both DER), as far as the library can tell."""
    return whose_by_library(certificate, issuer) is Whose.OURS


def whose_by_library(certificate: bytes, issuer: bytes) -> Whose:
    """Whether the issuer's key signed a certificate (both DER), without openssl. Raises ValueError where one of them is none."""
    one, other = _outline.certificate(certificate), _outline.certificate(issuer)
    return by_library(one, other.public_key) if claims(one, other) else Whose.NOT_OURS


# --- signing ---------------------------------------------------------------------------------------------------------


def signer(key: t.Any, before: bytes) -> t.Tuple[bytes, t.Callable[[bytes], bytes], bool]:
    """The AlgorithmIdentifier to sign by, what signs, and whether the hash is another than that of C(before), which can be forged."""
    how = scheme(before)
    keep = how is not None and how.digest in _SHA2[1:]
    if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
        own = "1.3.101.112" if isinstance(key, ed25519.Ed25519PrivateKey) else "1.3.101.113"
        return _der.tlv(_der.SEQUENCE, _der.tlv_oid(own)), key.sign, False
    digest = how.digest if how and keep and how.digest else "sha256"
    at, hash_ = _SHA2.index(digest), _library_hash(digest)
    if isinstance(key, rsa.RSAPrivateKey):
        if how and keep and how.salt is not None:
            return before, lambda body: key.sign(body, _padding(how), hash_), False
        oid = f"1.2.840.113549.1.1.{(14, 11, 12, 13)[at]}"
        return _algorithm(oid, True), lambda body: key.sign(body, padding.PKCS1v15(), hash_), not keep
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _algorithm(f"1.2.840.10045.4.3.{1 + at}"), lambda body: key.sign(body, ec.ECDSA(hash_)), not keep
    return _algorithm(f"2.16.840.1.101.3.4.3.{1 + at}"), lambda body: key.sign(body, hash_), not keep


def _algorithm(oid: str, null: bool = False) -> bytes:
    return _der.tlv(_der.SEQUENCE, _der.tlv_oid(oid), _der.tlv(_der.NULL) if null else b"")


def crl_again(last: bytes, key: t.Any, begins: datetime, ends: datetime) -> t.Tuple[bytes, bool]:
    """A CRL (DER) once more, with the next number: its name and entries byte by byte, whatever the library makes of them.

    Also whether it is signed with another hash, because the last one can be forged. Raises ValueError where it is no CRL.
    """
    body, algorithm, _signature = _der.members(_der.first(last), 3)[:3]
    fields = _der.members(body, 3)
    version = [fields.pop(0).whole] if fields[0].tag == _der.INTEGER else []
    _old, issuer, *rest = fields
    rest = [field for field in rest if field.tag not in (0x17, 0x18)]  # thisUpdate, nextUpdate
    how, sign, changed = signer(key, algorithm.whole)
    parts = [_numbered(field) if field.tag == _der.CONSTRUCTED_0 else field.whole for field in rest]
    made = _der.tlv(_der.SEQUENCE, *version, how, issuer.whole, _readable.time(begins), _readable.time(ends), *parts)
    return _der.tlv(_der.SEQUENCE, made, how, _der.tlv(_der.BITS, b"\0", sign(made))), changed


_CRL_NUMBER = "2.5.29.20"


def _numbered(outer: _der.Value) -> bytes:
    """The extensions of a CRL, with the next number where they have one."""
    made = []
    for each in _der.members(_der.only(outer.body)):
        oid, *critical, value = _der.members(each, 2)
        if _der.oid(oid) == _CRL_NUMBER:
            number = _der.tlv_integer(_der.integer(_der.only(value.body)) + 1)
            made.append(_der.tlv(_der.SEQUENCE, oid.whole, *(flag.whole for flag in critical), _der.tlv(_der.OCTETS, number)))
        else:
            made.append(each.whole)
    return _der.tlv(_der.CONSTRUCTED_0, _der.tlv(_der.SEQUENCE, *made))
