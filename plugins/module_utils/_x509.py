# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: certificates, requests and keys in memory; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa

    _OWN = (UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
except ImportError:  # the modules say which library is missing
    _OWN = ()  # type: ignore[assignment]
# What the library raises where an extension is not there, or where any of a document can't be read: X.400 and EDI names, too.
UNREADABLE: t.Tuple[t.Type[Exception], ...] = (ValueError, TypeError, *_OWN)


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
    return t.cast(x509.Certificate, loaded(x509.load_der_x509_certificate, der, "certificate", "subject", "issuer"))


def load_request(data: bytes) -> x509.CertificateSigningRequest:
    """The same for a request."""
    der = request_der(data)
    return t.cast(x509.CertificateSigningRequest, loaded(x509.load_der_x509_csr, der, "request", "subject"))


def loaded(load_der: t.Callable[[bytes], t.Any], der: bytes, kind: str, *names: str) -> t.Any:
    """Raises ValueError where the library can read neither it, with these names, nor what C(_readable) makes of it.

    C(kind): certificate, request or crl.
    """
    for refused in (False, True):
        try:
            parsed = load_der(_as_readable(kind, der) if refused else der)
            for name in names:
                getattr(parsed, name)
            return parsed
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            continue
    raise ValueError("it can't be read here")


def _as_readable(kind: str, der: bytes) -> bytes:
    from ansible_collections.keyward.pki.plugins.module_utils import _readable  # most CAs never need it

    return t.cast(bytes, getattr(_readable, kind)(der))


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


def even_hex(number: int) -> str:
    """A serial or CRL number as openssl writes it: upper-case, an even number of digits, behind a minus where old software made it so."""
    text = f"{abs(number):X}"
    return f"{'-' if number < 0 else ''}{'0' if len(text) % 2 else ''}{text}"
