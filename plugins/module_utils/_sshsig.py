# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: signatures as C(ssh-keygen -Y) makes and checks them (OpenSSH's PROTOCOL.sshsig); may change in any release.

No files and no Ansible here. A public key is its blob, as it stands in base64 on a line of C(.pub).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import typing as t

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
except ImportError:  # the modules say which library is missing
    pass

NAMESPACE = "keyward"
MOST = 16 * 1024  # bytes of a key or a signature: those of RSA with 16384 bits are smaller
LEAST_RSA = 3072  # bits
ED25519, ECDSA, RSA = "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"
SK_ED25519, SK_ECDSA = "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"
KINDS = (ED25519, ECDSA, RSA, SK_ED25519, SK_ECDSA)
AGENT_RSA_SHA512 = 4  # the flag by which an agent signs with SHA-512 instead of SHA-1

_MAGIC = b"SSHSIG"
_ARMOR = re.compile(rb"-----BEGIN SSH SIGNATURE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END SSH SIGNATURE-----\s*\Z")
_HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}


class Fault(ValueError):
    """Why something is no signature or key that counts. Its text is a clause."""


# --- the wire format -----------------------------------------------------------------------------------------------


def pack(*parts: bytes) -> bytes:
    """Strings, each behind its length."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class Reader:
    """Takes strings and numbers from bytes. Raises Fault where they end before."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        if len(piece) != length:
            raise Fault("it is cut off")
        self._at += length
        return piece

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def integer(self) -> int:
        """A positive one, as RSA and ECDSA have them."""
        data = self.string()
        if not data or data[0] & 0x80:
            raise Fault("it holds a number that can't be")
        return int.from_bytes(data, "big")

    def end(self) -> None:
        if self._at != len(self._data):
            raise Fault("something follows its end")


def _integer(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


# --- public keys ---------------------------------------------------------------------------------------------------


class Public(t.NamedTuple):
    """A public key that can be read. C(application): of one in a security key."""

    kind: str
    key: t.Any
    application: bytes = b""


def public(blob: bytes) -> Public:
    """Raises Fault where a signature by that key does not count."""
    reader = Reader(blob)
    kind = reader.string().decode("ascii", "replace")
    if kind not in KINDS:
        raise Fault(f"keys of type {kind[:60]} don't count" if kind.isprintable() else "keys of that type don't count")
    try:
        if kind == RSA:
            exponent, modulus = reader.integer(), reader.integer()
            if modulus.bit_length() < LEAST_RSA:
                raise Fault(f"an RSA key of {modulus.bit_length()} bits does not count, {LEAST_RSA} are the least")
            found = Public(kind, rsa.RSAPublicNumbers(exponent, modulus).public_key())
        elif kind in (ED25519, SK_ED25519):
            found = Public(kind, ed25519.Ed25519PublicKey.from_public_bytes(reader.string()))
        else:
            if reader.string() != b"nistp256":
                raise Fault("it is on another curve than it says")
            found = Public(kind, ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), reader.string()))
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise exc if isinstance(exc, Fault) else Fault("its public key can't be read") from exc
    if kind in (SK_ED25519, SK_ECDSA):
        found = found._replace(application=reader.string())
    reader.end()
    return found


def blob_of(line: str) -> bytes:
    """The key of a C(.pub) line: type, base64, comment. Raises Fault."""
    words = line.split(None, 2)
    try:
        blob = binascii.a2b_base64(words[1].encode("ascii")) if len(line) <= 2 * MOST else b""
        named = Reader(blob).string()
    except (IndexError, ValueError):
        raise Fault("it is no public key") from None
    if named != words[0].encode("ascii", "replace"):
        raise Fault("its type is not that of its key")
    return blob


def line_of(blob: bytes) -> str:
    """The other way, without a comment."""
    return f"{Reader(blob).string().decode('ascii')} {base64.b64encode(blob).decode('ascii')}"


def fingerprint(blob: bytes) -> str:
    """As C(ssh-keygen -l) shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


# --- private keys --------------------------------------------------------------------------------------------------


def new_private_key() -> t.Any:
    """Ed25519; where that is not allowed (FIPS 140), ECDSA P-256."""
    try:
        return ed25519.Ed25519PrivateKey.generate()
    except UnsupportedAlgorithm:
        return ec.generate_private_key(ec.SECP256R1())


def private_bytes(key: t.Any) -> bytes:
    """As C(ssh-keygen) writes a key without a passphrase."""
    written = serialization.PrivateFormat.OpenSSH
    return t.cast(bytes, key.private_bytes(serialization.Encoding.PEM, written, serialization.NoEncryption()))


class Locked(Fault):
    """A private key that a passphrase protects."""


def private_key(data: bytes) -> t.Any:
    """The key of a file that C(ssh-keygen) wrote. Raises Fault."""
    try:
        key = serialization.load_ssh_private_key(data, None)
    except TypeError:
        raise Locked("a passphrase protects it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Fault("it is no private key in OpenSSH's own format") from None
    if isinstance(key, ed25519.Ed25519PrivateKey) or (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        return key
    raise Fault("it is neither an Ed25519 key nor one of ECDSA on P-256")


def public_blob(key: t.Any) -> bytes:
    """The public half of a private key."""
    form = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return blob_of(form.decode("ascii"))


def signature_by(key: t.Any, data: bytes) -> bytes:
    """What an agent would answer for that key."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return pack(ED25519.encode(), key.sign(data))
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return pack(ECDSA.encode(), pack(_integer(r), _integer(s)))


# --- signatures ----------------------------------------------------------------------------------------------------


def to_sign(document: bytes) -> bytes:
    """What is signed for a document."""
    return _MAGIC + pack(NAMESPACE.encode(), b"", b"sha512", hashlib.sha512(document).digest())


def armored(blob: bytes, signature: bytes) -> bytes:
    """The file C(.sig): who signed, and the signature of what C(to_sign) gave."""
    whole = _MAGIC + (1).to_bytes(4, "big") + pack(blob, NAMESPACE.encode(), b"", b"sha512", signature)
    text = base64.b64encode(whole)
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return b"\n".join([b"-----BEGIN SSH SIGNATURE-----", *lines, b"-----END SSH SIGNATURE-----", b""])


def signer_of(document: bytes, signature: bytes) -> bytes:
    """The public key that signed a document. C(signature): its C(.sig). Raises Fault where none did."""
    match = _ARMOR.match(signature) if len(signature) <= 2 * MOST else None
    if match is None:
        raise Fault("it is no SSH signature")
    try:
        data = binascii.a2b_base64(match.group(1))
    except ValueError:
        raise Fault("it is no SSH signature") from None
    reader = Reader(data)
    if reader.take(len(_MAGIC)) != _MAGIC or reader.number() != 1:
        raise Fault("it is no SSH signature")
    blob, namespace, reserved, hashed, proof = (reader.string() for _part in range(5))
    reader.end()
    if namespace != NAMESPACE.encode():
        raise Fault("it was made for another purpose")
    digest = _HASHES.get(hashed)
    if digest is None:
        raise Fault("it is over a digest that does not count")
    signed = _MAGIC + pack(namespace, reserved, hashed, digest(document).digest())
    try:
        _refuse_unless_signed(public(blob), proof, signed)
    except InvalidSignature:
        raise Fault("it is not over this document") from None
    return blob


def _refuse_unless_signed(by: Public, signature: bytes, data: bytes) -> None:
    """Raises Fault, InvalidSignature."""
    reader = Reader(signature)
    kind, proof = reader.string().decode("ascii", "replace"), reader.string()
    if by.kind == RSA:
        digests = {"rsa-sha2-256": hashes.SHA256, "rsa-sha2-512": hashes.SHA512}
        if kind not in digests:
            raise Fault("it is over a digest that does not count")
        reader.end()
        by.key.verify(proof, data, padding.PKCS1v15(), digests[kind]())
        return
    if kind != by.kind:
        raise Fault("its type is not that of its key")
    if by.application:
        flags_and_counter = reader.take(5)
        data = hashlib.sha256(by.application).digest() + flags_and_counter + hashlib.sha256(data).digest()
    reader.end()
    if by.kind in (ED25519, SK_ED25519):
        by.key.verify(proof, data)
        return
    numbers = Reader(proof)
    r, s = numbers.integer(), numbers.integer()
    numbers.end()
    by.key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
