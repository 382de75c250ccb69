# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: writing PKCS #12, contents to bytes; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import hashlib
import hmac
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._der import (
    BMP,
    CONSTRUCTED_0,
    CONTEXT_0,
    NULL,
    OCTETS,
    SEQUENCE,
    SET,
    tlv,
    tlv_integer,
    tlv_oid,
)
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_crypto import (
    AES_256_CBC,
    CERTIFICATE_BAG,
    FOR_MAC,
    FRIENDLY_NAME,
    HMAC_SHA256,
    LOCAL_KEY_ID,
    PBES2,
    PBKDF2,
    PKCS7_DATA,
    PKCS7_ENCRYPTED,
    SHA256,
    SHROUDED_KEY_BAG,
    X509_CERTIFICATE,
    Kdf,
    Secrets,
    Unsupported,
)

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

# What a bundle is written with: the most that .NET's X509CertificateLoader opens. By default it refuses more than 300 000 iterations
# of one derivation, and more than 1 000 000 for all keys and the certificates, which it derives anew for each. The MAC is not in that sum.
WRITE_ITERATIONS = 300_000
WRITE_TOTAL_ITERATIONS = 1_000_000
SALT_SIZE = 16  # bytes


@dataclass(frozen=True)
class NamedKey:
    """A private key to be written, under a name that no other key has, with its certificates (DER), the newest first."""

    key: PrivateKeyTypes
    name: str
    certificates: t.Sequence[bytes]


def _key_id(key: PrivateKeyTypes) -> bytes:
    """SHA-256 of the public key's SubjectPublicKeyInfo (DER)."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_key().public_bytes(serialization.Encoding.DER, form)).digest()


def key_refusal(key: t.Any) -> str | None:
    """Why a private key can't go into a bundle; None when it can."""
    kinds = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, dsa.DSAPrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    if isinstance(key, kinds):
        return None
    return f"readers of PKCS #12 in use know RSA, EC, DSA, Ed25519 and Ed448 keys, and would not bring back this one: {type(key).__name__}"


def iterations_for(key_count: int) -> int:
    """The iterations of every derivation, MAC included, of a bundle with so many keys."""
    return min(WRITE_ITERATIONS, WRITE_TOTAL_ITERATIONS // (key_count + 1))


def _attributes(name: str | None, key_id: bytes | None) -> bytes:
    attributes = []
    if name is not None:
        attributes.append(tlv(SEQUENCE, tlv_oid(FRIENDLY_NAME), tlv(SET, tlv(BMP, name.encode("utf-16-be")))))
    if key_id is not None:
        attributes.append(tlv(SEQUENCE, tlv_oid(LOCAL_KEY_ID), tlv(SET, tlv(OCTETS, key_id))))
    return tlv(SET, *sorted(attributes)) if attributes else b""


def _bag(oid: str, value: bytes, name: str | None = None, key_id: bytes | None = None) -> bytes:
    return tlv(SEQUENCE, tlv_oid(oid), tlv(CONSTRUCTED_0, value), _attributes(name, key_id))


def _certificate_bag(certificate: bytes, name: str | None = None, key_id: bytes | None = None) -> bytes:
    value = tlv(SEQUENCE, tlv_oid(X509_CERTIFICATE), tlv(CONSTRUCTED_0, tlv(OCTETS, certificate)))
    return _bag(CERTIFICATE_BAG, value, name, key_id)


def encrypt(key: bytes, kdf: Kdf, plain: bytes) -> tuple[bytes, bytes]:
    """The AlgorithmIdentifier and the encrypted bytes: PBES2 with AES-256-CBC under an IV of its own."""
    iv = os.urandom(16)
    pad = 16 - len(plain) % 16
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(plain + bytes((pad,)) * pad) + encryptor.finalize()
    prf = tlv(SEQUENCE, tlv_oid(HMAC_SHA256), tlv(NULL))
    derivation = tlv(SEQUENCE, tlv_oid(PBKDF2), tlv(SEQUENCE, tlv(OCTETS, kdf.salt), tlv_integer(kdf.iterations), prf))
    encryption = tlv(SEQUENCE, tlv_oid(AES_256_CBC), tlv(OCTETS, iv))
    return tlv(SEQUENCE, tlv_oid(PBES2), tlv(SEQUENCE, derivation, encryption)), sealed


def write(keys: t.Sequence[NamedKey], chain: t.Sequence[bytes], password: str, iterations: int | None = None) -> bytes:
    """A bundle: each key in a shrouded bag of its own; its certificates and then the chain in one encrypted safe.

    The first certificate of a key bears its name and localKeyId, the others none: importers pair one certificate with one key.
    Keys and certificates share salt and count, and so one derivation; each has its own IV. C(iterations): only for a password that can't
    be guessed; otherwise as many as readers take. Raises Unsupported for a key that
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
    key_ids = [_key_id(named.key) for named in keys]
    if len(set(key_ids)) < len(keys):
        raise ValueError("a key is there twice")
    secrets = Secrets(password)
    iterations = iterations or iterations_for(len(keys))
    kdf = Kdf("pbkdf2", "sha256", os.urandom(SALT_SIZE), iterations)
    key = secrets.derive(kdf, secrets.encodings(kdf)[0], 32)

    key_bags, certificate_bags = [], {}
    for named, key_id in zip(keys, key_ids):
        plain = named.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        algorithm, sealed = encrypt(key, kdf, plain)
        key_bags.append(_bag(SHROUDED_KEY_BAG, tlv(SEQUENCE, algorithm, tlv(OCTETS, sealed)), named.name, key_id))
        for certificate in named.certificates[:1]:
            certificate_bags[certificate] = _certificate_bag(certificate, named.name, key_id)
    for certificate in [certificate for named in keys for certificate in named.certificates] + list(chain):
        certificate_bags.setdefault(certificate, _certificate_bag(certificate))

    safes = [_content_info(PKCS7_DATA, tlv(OCTETS, tlv(SEQUENCE, *key_bags)))]
    if certificate_bags:
        algorithm, sealed = encrypt(key, kdf, tlv(SEQUENCE, *certificate_bags.values()))
        encrypted = tlv(SEQUENCE, tlv_oid(PKCS7_DATA), algorithm, tlv(CONTEXT_0, sealed))
        safes.append(_content_info(PKCS7_ENCRYPTED, tlv(SEQUENCE, tlv_integer(0), encrypted)))
    content = tlv(SEQUENCE, *safes)

    mac_kdf = Kdf("pkcs12", "sha256", os.urandom(SALT_SIZE), iterations)
    mac_key = secrets.derive(mac_kdf, secrets.encodings(mac_kdf)[0], 32, FOR_MAC)
    mac = tlv(OCTETS, hmac.new(mac_key, content, "sha256").digest())
    info = tlv(SEQUENCE, tlv(SEQUENCE, tlv_oid(SHA256), tlv(NULL)), mac)
    mac_data = tlv(SEQUENCE, info, tlv(OCTETS, mac_kdf.salt), tlv_integer(iterations))
    return tlv(SEQUENCE, tlv_integer(3), _content_info(PKCS7_DATA, tlv(OCTETS, content)), mac_data)


def _content_info(oid: str, value: bytes) -> bytes:
    return tlv(SEQUENCE, tlv_oid(oid), tlv(CONSTRUCTED_0, value))
