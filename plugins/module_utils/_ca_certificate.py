# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: making keys, certificates and requests of a CA, and what a certificate lets it do; may change in any release.

No files and no Ansible here.
"""

from __future__ import annotations

import typing as t
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline, _readable, _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._signature import signer
from ansible_collections.keyward.pki.plugins.module_utils._time import after, now

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
    from cryptography.x509.oid import AttributeOID, ExtensionOID
except ImportError:  # the modules say which library is missing
    pass

LEAST_RSA, LEAST_EC = 2048, 224  # bits, NIST SP 800-131A
_NOT_RENEWED, _BY_HAND = "the CA was not renewed", "Make the new certificate with the tool that made the old one"
# What limits a certificate, by the names that people and configurations know.
LIMITS = {"2.5.29.19": "basicConstraints", "2.5.29.15": "keyUsage", "2.5.29.37": "extendedKeyUsage", "2.5.29.30": "nameConstraints"}
_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


# --- keys --------------------------------------------------------------------------------------------------------


def new_key(key_type: str, key_size: int, curve: str) -> t.Any:
    """A private key: RSA of C(key_size) bits, EC on C(curve), or Ed25519."""
    if key_type == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=key_size)
    if key_type == "EC":
        return ec.generate_private_key(getattr(ec, curve.upper())())
    return ed25519.Ed25519PrivateKey.generate()


def key_like(public_key: t.Any) -> t.Any:
    """A private key of the same algorithm and size, but none that is too weak. Raises KeywardError where no new CA key is of that kind."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return rsa.generate_private_key(public_exponent=65537, key_size=max(public_key.key_size, LEAST_RSA))
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(ec.SECP256R1() if weakness(public_key) else public_key.curve)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return ed25519.Ed25519PrivateKey.generate()
    if isinstance(public_key, ed448.Ed448PublicKey):
        return ed448.Ed448PrivateKey.generate()
    raise KeywardError(
        _NOT_RENEWED,
        f"no new key is made of the kind that it has ({type(public_key).__name__.replace('PublicKey', '')})",
        "Make the new key and certificate with the tool that made the old ones, beside them as an older generation",
    )


def stand_in_key() -> bytes:
    """A private key of this moment (PEM), for what is signed to be looked at and thrown away."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def weakness(public_key: t.Any) -> t.Optional[str]:
    """Why no CA should get a certificate for this key any more, as a clause."""
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < LEAST_RSA:
        return f"its RSA key has {public_key.key_size} bits, fewer than {LEAST_RSA}"
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.key_size < LEAST_EC:
        return f"its elliptic curve, {public_key.curve.name}, has {public_key.key_size} bits, fewer than {LEAST_EC}"
    if isinstance(public_key, dsa.DSAPublicKey):
        return "its key is a DSA key, which clients no longer accept"
    return None


def _hash_for(key: t.Any, before: t.Any = None) -> t.Any:
    """The hash to sign with: as before, but never one that can be forged; None where the algorithm has its own."""
    if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
        return None
    if before is not None and not isinstance(before, (hashes.MD5, hashes.SHA1, hashes.SHA224)):
        return before
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256:
        return hashes.SHA384() if key.curve.key_size <= 384 else hashes.SHA512()
    return hashes.SHA256()


def _hash_of(certificate: x509.Certificate) -> t.Any:
    try:
        return certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None


# --- what stands in a certificate or request ---------------------------------------------------------------------


class RawExtension(t.NamedTuple):
    """An extension as it stands in a certificate, byte by byte."""

    oid: str
    critical: bool
    value: bytes


def raw_extensions(certificate: x509.Certificate) -> t.List[RawExtension]:
    """Raises KeywardError where they can't be read."""
    try:
        fields = _der.members(_der.first(certificate.tbs_certificate_bytes), 6)
        found = []
        for outer in (field for field in fields[6:] if field.tag == _der.CONSTRUCTED_0 + 3):
            for each in _der.members(_der.only(outer.body)):
                oid, *flag, value = _der.members(each, 2)
                found.append(RawExtension(_der.oid(oid), bool(flag and flag[0].body.strip(b"\0")), value.body))
    except ValueError:
        raise _unreadable() from None
    if len({each.oid for each in found}) != len(found):
        raise _unreadable()
    return found


def _unreadable() -> KeywardError:
    why = "the extensions of its certificate can't be read, so the new certificate could not have the same"
    return KeywardError(_NOT_RENEWED, why, _BY_HAND)


def extension(thing: t.Any, kind: t.Any) -> t.Any:
    """The value of an extension of a certificate or request; None where it has none, or one that can't be read."""
    try:
        return thing.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except _x509.UNREADABLE:
        return _alone(thing, kind) if isinstance(thing, x509.Certificate) else None


def _alone(certificate: x509.Certificate, kind: t.Any) -> t.Any:
    """An extension of a certificate of which another one can't be read."""
    try:
        der = _readable.certificate(certificate.public_bytes(serialization.Encoding.DER), kind.oid.dotted_string)
        return x509.load_der_x509_certificate(der).extensions.get_extension_for_class(kind).value
    except _x509.UNREADABLE:
        return None


def unreadable(thing: t.Any, there: t.Container[str], *kinds: t.Any) -> t.List[str]:
    """What can't be read of what a certificate or request allows and forbids. C(there): the object identifiers of its extensions."""
    limits = kinds or (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.NameConstraints)
    lacking = (kind.oid for kind in limits if kind.oid.dotted_string in there and extension(thing, kind) is None)
    return [LIMITS[oid.dotted_string] for oid in lacking]


def uses(thing: t.Any) -> t.Optional[t.Set[str]]:
    """What the key usage of a certificate or request allows; None where it has none, which allows everything."""
    usage = extension(thing, x509.KeyUsage)
    if usage is None:
        return None
    named = set(_USES if usage.key_agreement else _USES[:-2])
    return {name for name in named if getattr(usage, name)}


def key_usage(allowed: t.Collection[str]) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in allowed for name in _USES})


def may(certificate: x509.Certificate, use: str) -> bool:
    """Whether the key usage of a certificate allows a use: C(key_cert_sign), C(crl_sign)."""
    allowed = uses(certificate)
    return allowed is None or use in allowed


# --- what is made ------------------------------------------------------------------------------------------------


def _ca_extensions(path_length: t.Optional[int]) -> t.List[t.Tuple[x509.ExtensionType, bool]]:
    return [(x509.BasicConstraints(True, path_length), True), (key_usage(("key_cert_sign", "crl_sign")), True)]


def root_certificate(key: t.Any, subject: x509.Name, days: int, path_length: t.Optional[int]) -> x509.Certificate:
    """A self-signed CA certificate (RFC 5280, 4.2)."""
    start = now()
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), start, after(start, timedelta(days=days))
    )
    for value, critical in _ca_extensions(path_length):
        builder = builder.add_extension(value, critical)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    return builder.sign(key, _hash_for(key))


def renewed_root(old: bytes, key: t.Any, days: t.Optional[int]) -> t.Tuple[bytes, t.List[str]]:
    """A self-signed certificate (DER) after the template of an older one: its subject, byte by byte, and extensions, a new time,
    serial number and key. Also what it says that the old one did not say, because a CA must (RFC 5280, 4.2.1)."""
    like, outline, begin = _x509.load(old), _outline.certificate(old), now()
    builder = x509.CertificateBuilder(
        like.subject,
        like.subject,
        key.public_key(),
        x509.random_serial_number(),
        begin,
        after(begin, timedelta(days=days) if days else outline.ends - outline.begins),
    )
    extensions, added = _renewed_extensions(like, key)
    for each in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(each.oid), each.value), each.critical)
    made = builder.sign(key, _hash_for(key, _hash_of(like))).public_bytes(serialization.Encoding.DER)
    return _with_name(made, key, outline.subject, _IN_CERTIFICATES), added


# Where the names stand (RFC 5280, 4.1: issuer and subject, behind the version; RFC 2986, 4.1).
_IN_CERTIFICATES, _IN_REQUESTS = (3, 5), (1,)


def _with_name(made: bytes, key: t.Any, name: bytes, places: t.Sequence[int]) -> bytes:
    """The same document (DER), with a name as it stands elsewhere: the library writes it its own way, and some it can't write."""
    body, algorithm, _signature = _der.members(_der.first(made), 3)
    parts = [field.whole for field in _der.members(body, max(places) + 1)]
    if all(parts[at] == name for at in places):
        return made
    how, sign, _changed = signer(key, algorithm.whole)
    for at in places:
        parts[at] = name
    if how != algorithm.whole and places == _IN_CERTIFICATES:
        parts[2] = how
    told = _der.tlv(_der.SEQUENCE, *parts)
    return _der.tlv(_der.SEQUENCE, told, how, _der.tlv(_der.BITS, b"\0", sign(told)))


def _renewed_extensions(old: x509.Certificate, key: t.Any) -> t.Tuple[t.List[RawExtension], t.List[str]]:
    """The extensions of a renewed root, and what is new among them."""
    found, added = {each.oid: each for each in raw_extensions(old)}, []

    def put(value: t.Any, critical: bool, say: str = "") -> None:
        oid = value.oid.dotted_string
        found[oid] = RawExtension(oid, found[oid].critical if oid in found else critical, value.public_bytes())
        added.extend([say] if say else [])

    identifier = _identifier_like(old, key)
    constrained, used = ExtensionOID.BASIC_CONSTRAINTS.dotted_string in found, ExtensionOID.KEY_USAGE.dotted_string in found
    allowed = uses(old)
    if (constrained and extension(old, x509.BasicConstraints) is None) or (used and allowed is None):
        raise _unreadable()
    if not constrained:
        put(x509.BasicConstraints(True, None), True, "basicConstraints CA:TRUE")
    wanted = {"key_cert_sign": "keyCertSign", "crl_sign": "cRLSign"}
    if used or not constrained:
        lacking = [name for name in wanted if name not in (allowed or ())]
        if lacking:
            put(key_usage({*(allowed or ()), *wanted}), True, "keyUsage " + ", ".join(wanted[name] for name in lacking))
    if extension(old, x509.SubjectKeyIdentifier) is not None or old.public_key() != key.public_key():
        put(identifier, False)
    if ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string in found:
        put(x509.AuthorityKeyIdentifier(identifier.digest, None, None), False)
    return list(found.values()), added


def _identifier_like(old: x509.Certificate, key: t.Any) -> x509.SubjectKeyIdentifier:
    """The subject key identifier of a key: the old one where the key is the same, however it was made."""
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    if x509.SubjectKeyIdentifier.from_public_key(old.public_key()) == own:
        return extension(old, x509.SubjectKeyIdentifier) or own
    return own


def ca_request(key: t.Any, subject: t.Optional[x509.Name], path_length: t.Optional[int], like: t.Optional[bytes] = None) -> bytes:
    """A PKCS #10 request (DER) of a CA, or of one C(like) the CA of a certificate (DER).

    Each is unique, so that an answered one is known by its bytes (RFC 2985, 5.4.2: unstructuredName).
    """
    old = _x509.load(like) if like else None
    builder = x509.CertificateSigningRequestBuilder(old.subject if old else subject)
    extensions = _ca_extensions(path_length)
    if old:
        if unreadable(old, _outline.certificate(t.cast(bytes, like)).extensions, x509.BasicConstraints, x509.KeyUsage):
            raise _unreadable()
        constraints, allowed = extension(old, x509.BasicConstraints), uses(old)
        extensions = _ca_extensions(constraints.path_length if constraints else None)
        extensions[1] = (key_usage({*(allowed or ("crl_sign",)), "key_cert_sign"}), True)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    unique = f"{now():%Y%m%dT%H%M%SZ}-{x509.random_serial_number() & 0xFFFFFFFF:08x}"
    builder = builder.add_attribute(AttributeOID.UNSTRUCTURED_NAME, unique.encode("ascii"))
    made = builder.sign(key, _hash_for(key, _hash_of(old) if old else None)).public_bytes(serialization.Encoding.DER)
    return _with_name(made, key, _outline.certificate(like).subject, _IN_REQUESTS) if like else made
