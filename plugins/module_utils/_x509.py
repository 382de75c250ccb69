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

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline, _readable
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, by_library, claims
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
    from cryptography.x509.oid import NameOID

    # What the library raises where an extension is not there, or where any of a document can't be read: X.400 and EDI names, too.
    UNREADABLE: t.Tuple[t.Type[Exception], ...] = (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    )
except ImportError:  # the modules say which library is missing
    pass


def moment(thing: t.Any, name: str) -> t.Any:
    """A time of a certificate, CRL or entry, UTC without a time zone; None where it has none."""
    found = getattr(thing, f"{name}_utc", None) or getattr(thing, name, None)  # *_utc: cryptography 42
    return found.replace(tzinfo=None) if found else None


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
                    "It must not be empty nor too long (a commonName has at most 64 characters), and a countryName has two letters",
                ) from exc
    if not attributes:
        raise KeywardError("the CA can't be installed", "its subject is empty", "Give subject, with a commonName at least")
    return x509.Name(attributes)


def _camel_case(constant: str) -> str:
    first, *others = constant.lower().split("_")
    return first + "".join(word.capitalize() for word in others)


def is_self_signed(certificate: bytes) -> bool:
    """Whether its own key signed a certificate (DER). Where nothing here can verify that, equal names decide."""
    return self_signed(certificate) is not Whose.NOT_OURS


def self_signed(certificate: bytes) -> Whose:
    """Whether its own key signed a certificate (DER), as far as the library can tell. Raises ValueError where it is none."""
    own = _outline.certificate(certificate)
    return by_library(own, own.public_key) if own.self_issued else Whose.NOT_OURS


def ca_version(certificate: bytes) -> t.Optional[int]:
    """The index of an AD CS certificate (DER) among those of its CA: szOID_CERTSRV_CA_VERSION, low 16 bits. None without one.

    https://learn.microsoft.com/windows/win32/seccrypto/certification-authority-renewal
    """
    try:
        extensions = load(certificate).extensions
        value = extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.311.21.1")).value
        return _der.integer(_der.only(t.cast(x509.UnrecognizedExtension, value).value)) & 0xFFFF
    except UNREADABLE:
        return None


def load(data: bytes) -> x509.Certificate:
    """The first certificate of PEM or DER bytes, as the library reads it: see C(_readable). Raises ValueError."""
    der = next(iter(pem_certificates(data)), b"") if b"-----BEGIN" in data else data
    return t.cast(x509.Certificate, _loaded(x509.load_der_x509_certificate, der, _readable.certificate, "subject", "issuer"))


def load_request(data: bytes) -> x509.CertificateSigningRequest:
    """The same for a request."""
    der = request_der(data)
    return t.cast(x509.CertificateSigningRequest, _loaded(x509.load_der_x509_csr, der, _readable.request, "subject"))


def _loaded(load_der: t.Callable[[bytes], t.Any], der: bytes, readable: t.Callable[[bytes], bytes], *names: str) -> t.Any:
    """Raises ValueError where the library can read neither it, with these names, nor what C(readable) makes of it."""
    for put in (bytes, readable):
        try:
            parsed = load_der(put(der))
            for name in names:
                getattr(parsed, name)
            return parsed
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            continue
    raise ValueError("it can't be read here")


def request_der(data: bytes) -> bytes:
    """The DER of a request in PEM or DER bytes; what can't be one where there is none."""
    if b"-----BEGIN" not in data:
        return data
    return next((pem_content(block) for label, block in pem_blocks(data) if label in _REQUESTS), b"")


def short_subject(certificate: bytes) -> str:
    """The common name of a certificate's subject, or its last attribute where it has none."""
    return _outline.short_name(_outline.certificate(certificate).subject)


def is_certificate(der: bytes) -> bool:
    try:
        _outline.certificate(der)
    except ValueError:
        return False
    return True


def is_issued_by(certificate: bytes, issuer: bytes) -> bool:
    """Whether the issuer's key signed a certificate (both DER), as far as the library can tell."""
    return whose_by_library(certificate, issuer) is Whose.OURS


def whose_by_library(certificate: bytes, issuer: bytes) -> Whose:
    """Whether the issuer's key signed a certificate (both DER), without openssl. Raises ValueError where one of them is none."""
    one, other = _outline.certificate(certificate), _outline.certificate(issuer)
    return by_library(one, other.public_key) if claims(one, other) else Whose.NOT_OURS


# --- keys --------------------------------------------------------------------------------------------------------


def public_key_sha256(public_key: t.Any) -> str:
    """Hex SHA-256 of the SubjectPublicKeyInfo (DER), what C(openssl pkey -pubout -outform DER | sha256sum) prints."""
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def load_public_key(spki: bytes) -> t.Any:
    """The key of a SubjectPublicKeyInfo (DER); None where the library does not know its kind."""
    try:
        return serialization.load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def spki_sha256(spki: bytes) -> str:
    """C(public_key_sha256) of a SubjectPublicKeyInfo as it stands, also of a kind that the library does not know."""
    key = load_public_key(spki)
    return hashlib.sha256(spki).hexdigest() if key is None else public_key_sha256(key)


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

# As openssl, which passes over a byte order mark where the file begins.
_MARKER = re.compile(rb"(?:\A\xef\xbb\xbf|^)-----(BEGIN|END) ([A-Z0-9 #]{1,64})-----[ \t]*\r?$", re.MULTILINE)
CERTIFICATE, REQUEST, CRL = "CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL"
_CERTIFICATES = (CERTIFICATE, "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
_REQUESTS = (REQUEST, "NEW CERTIFICATE REQUEST")


def pem(der: bytes, label: str = CERTIFICATE) -> str:
    body = base64.b64encode(der).decode("ascii")
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def pem_blocks(data: bytes) -> t.Iterator[t.Tuple[str, bytes]]:
    """The (label, bytes from BEGIN to END) of each PEM block; text around them and unfinished ones are passed over."""
    label, start = b"", 0
    for marker in _MARKER.finditer(data):
        if marker.group(1) == b"BEGIN":
            label, start = marker.group(2), marker.start(1) - 5
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
    """A CRL of PEM or DER bytes, as the library reads it: see C(_readable). Raises ValueError."""
    der = crl_der(data)
    return _loaded(x509.load_der_x509_crl, der, _readable.crl, "issuer")


def crl_der(data: bytes) -> bytes:
    """The DER of the first CRL in PEM or DER bytes; empty, which no parser takes, where there is none."""
    return next(crls_in(data), b"")


def crls_in(data: bytes) -> t.Iterator[bytes]:
    """All of them (DER)."""
    if data[:1] == b"\x30" and data[1:2] >= b"\x80":  # DER: what has a name and a signature is longer than 127 bytes
        yield data
    else:  # openssl crl -text writes a line for each entry before the PEM block
        yield from (pem_content(block) for label, block in pem_blocks(data) if label == CRL)


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
    """(serial number, when, one of REASONS) of each certificate of its issuer that a CRL says is revoked.

    An indirect CRL lists those of other CAs as well: an entry that names one counts for what follows, too. A delta CRL names what is
    no more on hold.
    """
    own = True
    for entry in parsed:
        why = None
        try:
            for extension in entry.extensions:
                why = getattr(getattr(extension.value, "reason", None), "value", why)
                if isinstance(extension.value, x509.CertificateIssuer):
                    own = parsed.issuer in extension.value.get_values_for_type(x509.DirectoryName)
        except UNREADABLE:
            pass
        if own and why != "removeFromCRL":
            yield entry.serial_number, moment(entry, "revocation_date"), REASONS.get(why or "")


def is_delta(der: bytes) -> bool:
    """Whether a CRL (DER) lists only what has changed since another one. Raises ValueError where it is none."""
    return "2.5.29.27" in _outline.crl_extensions(der)


def crl_number(parsed: t.Any) -> t.Optional[str]:
    try:
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE:  # another one, of which the number knows nothing
        try:
            there = _outline.crl_extensions(parsed.public_bytes(serialization.Encoding.DER))
            number = _der.integer(_der.only(there["2.5.29.20"]))
        except (KeyError, ValueError):
            return None
    return even_hex(number)


def next_update(parsed: t.Any) -> t.Optional[str]:
    end = moment(parsed, "next_update")
    return format_time(end) if end else None


def even_hex(number: int) -> str:
    """A serial or CRL number as openssl writes it: upper-case, an even number of digits, behind a minus where old software made it so."""
    text = f"{abs(number):X}"
    return f"{'-' if number < 0 else ''}{'0' if len(text) % 2 else ''}{text}"
