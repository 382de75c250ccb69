# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: certificates, requests and CRLs in memory; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import typing as t
from datetime import datetime

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, by_library, claims
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
    from cryptography.x509.oid import NameOID, SignatureAlgorithmOID
except ImportError:  # the modules say which library is missing
    pass

_SIGNED = ("tbs_certificate_bytes", "tbs_certrequest_bytes", "tbs_certlist_bytes")


def moment(thing: t.Any, name: str) -> t.Any:
    """A time of a certificate, CRL or entry, UTC without a time zone; None where it has none."""
    found = getattr(thing, f"{name}_utc", None) or getattr(thing, name, None)  # *_utc: cryptography 42
    return found.replace(tzinfo=None) if found else None


def validity(certificate: x509.Certificate) -> t.Tuple[datetime, datetime]:
    """(not before, not after), UTC without a time zone."""
    return moment(certificate, "not_valid_before"), moment(certificate, "not_valid_after")


def subject_name(subject: t.Mapping[str, t.Any]) -> x509.Name:
    """An X.509 name of attributes such as C(commonName), or dotted object identifiers, in their order. A list gives one attribute each."""
    known = {_camel_case(name): oid for name, oid in vars(NameOID).items() if isinstance(oid, x509.ObjectIdentifier)}
    attributes = []
    for name, given in subject.items():
        oid = known.get(name) or (x509.ObjectIdentifier(name) if re.match(r"[0-2](\.[0-9]+)+\Z", name) else None)
        if oid is None:
            raise KeywardError(
                "the CA can't be installed",
                f"there is no subject attribute {name}",
                "Use names such as commonName, organizationName, organizationalUnitName, countryName, or a dotted object identifier",
            )
        for value in given if isinstance(given, list) else [given]:
            try:
                attributes.append(x509.NameAttribute(oid, str(value)))
            except (ValueError, TypeError) as exc:
                raise KeywardError(
                    "the CA can't be installed",
                    f"the subject attribute {name} can't have the value {value!r}",
                    "It must not be empty, and a countryName has two letters",
                ) from exc
    if not attributes:
        raise KeywardError("the CA can't be installed", "its subject is empty", "Give subject, with a commonName at least")
    return x509.Name(attributes)


def _camel_case(constant: str) -> str:
    first, *others = constant.lower().split("_")
    return first + "".join(word.capitalize() for word in others)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether its own key signed it. Where nothing here can verify that, equal names decide."""
    own = _outline.certificate(certificate.public_bytes(serialization.Encoding.DER))
    return own.self_issued and by_library(own, own.public_key) is not Whose.NOT_OURS


def is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def ca_version(certificate: bytes) -> t.Optional[int]:
    """The index of an AD CS certificate (DER) among those of its CA: szOID_CERTSRV_CA_VERSION, low 16 bits. None without one.

    https://learn.microsoft.com/windows/win32/seccrypto/certification-authority-renewal
    """
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        value = extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.311.21.1")).value
        return _der.integer(_der.only(t.cast(x509.UnrecognizedExtension, value).value)) & 0xFFFF
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None


def load(data: bytes) -> x509.Certificate:
    """The first certificate of PEM or DER bytes. Raises ValueError."""
    try:
        return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
    except (TypeError, UnsupportedAlgorithm) as exc:
        raise ValueError("no certificate that can be read here") from exc


def short_subject(certificate: bytes) -> str:
    """The common name of a certificate's subject, or its last attribute where it has none."""
    return _outline.short_name(_outline.certificate(certificate).subject)


def is_certificate(der: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(der)
    except (ValueError, TypeError):
        return False
    return True


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key signed it, as far as the library can tell."""
    one, other = (_outline.certificate(each.public_bytes(serialization.Encoding.DER)) for each in (certificate, issuer))
    return claims(one, other) and by_library(one, other.public_key) is Whose.OURS


def verified(signed: t.Any, key: t.Any) -> t.Optional[bool]:
    """Whether a public key verifies the signature of a certificate, request or CRL. None where that can't be told here."""
    body = next(getattr(signed, name) for name in _SIGNED if hasattr(signed, name))
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signed.signature, body, _padding(signed), signed.signature_hash_algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signed.signature, body, ec.ECDSA(signed.signature_hash_algorithm))
        elif isinstance(key, dsa.DSAPublicKey):
            key.verify(signed.signature, body, signed.signature_hash_algorithm)
        elif isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
            key.verify(signed.signature, body)
        else:
            return None
    except InvalidSignature:
        return False
    except (UnsupportedAlgorithm, ValueError, TypeError, AttributeError):
        return None
    return True


def _padding(signed: t.Any) -> t.Any:
    if signed.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
        return signed.signature_algorithm_parameters  # cryptography 41
    return padding.PKCS1v15()


# --- keys --------------------------------------------------------------------------------------------------------


def public_key_sha256(public_key: t.Any) -> str:
    """Hex SHA-256 of the SubjectPublicKeyInfo (DER), what C(openssl pkey -pubout -outform DER | sha256sum) prints."""
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def key_algorithm(public_key: t.Any) -> str:
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA-{public_key.key_size}"
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return f"EC {public_key.curve.name}"
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(public_key, ed448.Ed448PublicKey):
        return "Ed448"
    if isinstance(public_key, dsa.DSAPublicKey):
        return f"DSA-{public_key.key_size}"
    return type(public_key).__name__.replace("PublicKey", "")


def proves(private_key: t.Any, public_key: t.Any) -> bool:
    """Whether the private key is the public key's: it signs, in memory, and the public key verifies."""
    challenge = b"keyward.pki proof of possession"
    try:
        if isinstance(private_key, rsa.RSAPrivateKey):
            public_key.verify(
                private_key.sign(challenge, padding.PKCS1v15(), hashes.SHA256()), challenge, padding.PKCS1v15(), hashes.SHA256()
            )
        elif isinstance(private_key, ec.EllipticCurvePrivateKey):
            public_key.verify(private_key.sign(challenge, ec.ECDSA(hashes.SHA256())), challenge, ec.ECDSA(hashes.SHA256()))
        elif isinstance(private_key, dsa.DSAPrivateKey):
            public_key.verify(private_key.sign(challenge, hashes.SHA256()), challenge, hashes.SHA256())
        else:
            public_key.verify(private_key.sign(challenge), challenge)
    except (InvalidSignature, ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        return False
    return True


# --- PEM ---------------------------------------------------------------------------------------------------------

_MARKER = re.compile(rb"^-----(BEGIN|END) ([A-Z0-9 #]{1,64})-----[ \t]*\r?$", re.MULTILINE)
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")


def pem(der: bytes) -> str:
    body = base64.b64encode(der).decode("ascii")
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def pem_blocks(data: bytes) -> t.Iterator[t.Tuple[str, bytes]]:
    """The (label, bytes from BEGIN to END) of each PEM block; text around them and unfinished ones are passed over."""
    label, start = b"", 0
    for marker in _MARKER.finditer(data):
        if marker.group(1) == b"BEGIN":
            label, start = marker.group(2), marker.start()
        elif label and marker.group(2) == label:
            yield label.decode("ascii"), data[start : marker.end()]
            label = b""


def pem_certificates(data: bytes) -> t.List[bytes]:
    """The certificates (DER) in PEM text, in their order."""
    return [first_element(pem_content(block)) for label, block in pem_blocks(data) if label in _CERTIFICATES]


def first_certificate(data: bytes) -> t.Optional[bytes]:
    """The DER of the first certificate in PEM or DER bytes; None where they say nothing of a certificate."""
    found = pem_certificates(data)
    return found[0] if found else first_element(data) if data[:1] == b"\x30" else None


def pem_content(block: bytes) -> bytes:
    """The DER of a block; nothing where it is damaged."""
    try:
        return binascii.a2b_base64(b"".join(line for line in block.splitlines() if b"-----" not in line))
    except ValueError:
        return b""


def first_element(data: bytes) -> bytes:
    """The first DER element; a TRUSTED CERTIFICATE, and some files, add more behind it."""
    try:
        return _der.first(data).whole
    except ValueError:
        return data


# --- CRLs --------------------------------------------------------------------------------------------------------


def load_crl(data: bytes) -> t.Any:
    """A CRL of PEM or DER bytes. Raises ValueError."""
    load = x509.load_pem_x509_crl if b"-----BEGIN" in data[:4096] else x509.load_der_x509_crl
    return load(data)


def crl_der(data: bytes) -> bytes:
    """The DER of a CRL in PEM or DER bytes; empty, which no parser takes, where there is none."""
    if b"-----BEGIN" not in data[:4096]:
        return data
    return next((pem_content(block) for label, block in pem_blocks(data) if label == "X509 CRL"), b"")


def signed_by(parsed: t.Any, certificate: bytes) -> bool:
    """Whether the key of a certificate (DER) signed a CRL, as far as the library can tell."""
    crl, issuer = _outline.crl(parsed.public_bytes(serialization.Encoding.DER)), _outline.certificate(certificate)
    return claims(crl, issuer) and by_library(crl, issuer.public_key) is Whose.OURS


# The reasons of RFC 5280, 5.3.1, as databases and results have them; there are no words for the others.
REASONS = {
    "keyCompromise": "keyCompromise",
    "cACompromise": "CACompromise",
    "affiliationChanged": "affiliationChanged",
    "superseded": "superseded",
    "cessationOfOperation": "cessationOfOperation",
    "certificateHold": "certificateHold",
}


def revoked_in(parsed: t.Any) -> t.Iterator[t.Tuple[int, datetime, t.Optional[str]]]:
    """(serial number, when, one of REASONS) of each certificate that a CRL lists."""
    for entry in parsed:
        why = next((e.value.reason.value for e in entry.extensions if hasattr(e.value, "reason")), None)
        yield entry.serial_number, moment(entry, "revocation_date"), REASONS.get(why or "")


def crl_number(parsed: t.Any) -> t.Optional[str]:
    try:
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, ValueError):
        return None
    return even_hex(number)


def next_update(parsed: t.Any) -> t.Optional[str]:
    end = moment(parsed, "next_update")
    return format_time(end) if end else None


def even_hex(number: int) -> str:
    """A serial or CRL number: upper-case, an even number of digits."""
    text = f"{number:X}"
    return text if len(text) % 2 == 0 else "0" + text
