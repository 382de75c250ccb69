# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys, certificates and hand-made PKCS #12 files for tests of the codec."""

from __future__ import annotations

import datetime
import functools
import hashlib
import hmac
import os
from typing import Any

from ansible_collections.keyward.pki.plugins.module_utils import _der, _pkcs12_crypto, _pkcs12_writer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

PASSWORD = "Correct-Horse-Battery-1!"
# How a bundle of ours is protected.
AES = "AES-256-CBC, PBKDF2-HMAC-SHA256"
MAC = "HMAC-SHA256, PKCS12-KDF-SHA256"


def key(kind: str, number: int = 0) -> Any:
    """A private key: "rsa-2048", "ec-secp384r1", "ed25519" or "ed448"; the same one for the same arguments."""
    return _key(kind, number)


@functools.cache
def _key(kind: str, number: int) -> Any:
    name, _dash, detail = kind.partition("-")
    if name == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=int(detail))
    if name == "ec":
        return ec.generate_private_key(getattr(ec, detail.upper())())
    return (ed25519.Ed25519PrivateKey if name == "ed25519" else ed448.Ed448PrivateKey).generate()


def certificate(private_key: Any, name: str, serial: int) -> bytes:
    """A self-signed CA certificate, DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(subject, subject, private_key.public_key(), serial, start, start.replace(year=2046))
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    digest = None if isinstance(private_key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
    return builder.sign(private_key, digest).public_bytes(serialization.Encoding.DER)


def pkcs8(private_key: Any, password: str | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return private_key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, encryption)


def named(kind: str, name: str, number: int = 0) -> _pkcs12_writer.NamedKey:
    """A key with one certificate, ready to be written."""
    private_key = key(kind, number)
    return _pkcs12_writer.NamedKey(private_key, name, [certificate(private_key, f"Test {name}", 100 + number)])


def three_keys() -> list[_pkcs12_writer.NamedKey]:
    return [named("rsa-2048", "first"), named("ec-secp384r1", "second"), named("ed25519", "third")]


# The pieces of a file, for those that the codec itself would never write.
SEQUENCE, SET, OCTETS, INTEGER, NULL = 0x30, 0x31, 0x04, 0x02, 0x05


def seq(*parts: bytes) -> bytes:
    return _der.tlv(SEQUENCE, *parts)


def octets(body: bytes) -> bytes:
    return _der.tlv(OCTETS, body)


def integer(number: int) -> bytes:
    return _der.tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted: str) -> bytes:
    return _der.tlv_oid(dotted)


def explicit(value: bytes) -> bytes:
    return _der.tlv(0xA0, value)


def clear_safe(*bags: bytes) -> bytes:
    return seq(oid("1.2.840.113549.1.7.1"), explicit(octets(seq(*bags))))


def encrypted_safe(algorithm: bytes, sealed: bytes) -> bytes:
    inner = seq(oid("1.2.840.113549.1.7.1"), algorithm, _der.tlv(0x80, sealed))
    return seq(oid("1.2.840.113549.1.7.6"), explicit(seq(integer(0), inner)))


def bag(kind: int, value: bytes, *attributes: bytes) -> bytes:
    """1 key, 2 shrouded key, 3 certificate, 4 CRL, 5 secret, 6 safe contents."""
    attribute_set = _der.tlv(SET, *attributes) if attributes else b""
    return seq(oid(f"1.2.840.113549.1.12.10.1.{kind}"), explicit(value), attribute_set)


def certificate_bag(der: bytes) -> bytes:
    return bag(3, seq(oid("1.2.840.113549.1.9.22.1"), explicit(octets(der))))


def friendly_name(encoded: bytes, tag: int = 0x1E) -> bytes:
    return seq(oid("1.2.840.113549.1.9.20"), _der.tlv(SET, _der.tlv(tag, encoded)))


def pbes2(password: str, plain: bytes, iterations: int = 10) -> tuple[bytes, bytes]:
    """AlgorithmIdentifier and ciphertext of AES-256 under PBKDF2."""
    kdf = _pkcs12_crypto.Kdf("pbkdf2", "sha256", os.urandom(16), iterations)
    derived = hashlib.pbkdf2_hmac("sha256", password.encode(), kdf.salt, min(iterations, 10), 32)
    return _pkcs12_writer.encrypt(derived, kdf, plain)


def shrouded(password: str, plain: bytes, iterations: int = 10) -> bytes:
    """A shrouded key bag. Above ten iterations it lies about them."""
    algorithm, sealed = pbes2(password, plain, iterations)
    return bag(2, seq(algorithm, octets(sealed)))


def pfx(*safes: bytes, password: str | None = None, mac: bytes | None = None) -> bytes:
    """A file of these safes, with a MAC under the password, or with the MacData given, or without one."""
    content = seq(*safes)
    if password is not None:
        salt = os.urandom(8)
        mac_key = _pkcs12_crypto.pkcs12_kdf("sha256", password.encode("utf-16-be") + b"\0\0", salt, 10, 3, 32)
        digest = hmac.new(mac_key, content, "sha256").digest()
        mac = seq(seq(seq(oid("2.16.840.1.101.3.4.2.1"), _der.tlv(NULL)), octets(digest)), octets(salt), integer(10))
    return seq(integer(3), seq(oid("1.2.840.113549.1.7.1"), explicit(octets(content))), mac or b"")


def parts(data: bytes) -> tuple[bytes, bytes]:
    """The AuthenticatedSafe and the MacData of a file."""
    _version, info, mac = _der.members(_der.first(data))
    return _der.octets(_der.content(_der.members(info))), mac.whole


def pbmac1(content: bytes, password: str, iterations: int = 10, key_size: int | None = 32) -> bytes:
    """MacData after RFC 9879: HMAC-SHA256 under PBKDF2-HMAC-SHA512. Above ten iterations it lies about them."""
    salt = os.urandom(16)
    prf = seq(oid("1.2.840.113549.2.11"), _der.tlv(NULL))
    size = b"" if key_size is None else integer(key_size)
    derivation = seq(oid("1.2.840.113549.1.5.12"), seq(octets(salt), integer(iterations), size, prf))
    scheme = seq(oid("1.2.840.113549.2.9"), _der.tlv(NULL))
    algorithm = seq(oid("1.2.840.113549.1.5.14"), seq(derivation, scheme))
    mac_key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, min(iterations, 10), key_size or 64)
    return seq(seq(algorithm, octets(hmac.new(mac_key, content, "sha256").digest())), octets(b"NOT USED"))
