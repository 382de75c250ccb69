# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PKCS #12 files as Windows writes them (keys first, 2000 iterations, its attributes), and what Windows takes from one."""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

COLLECTIONS = Path(__file__).resolve().parents[2] / "collections"
if str(COLLECTIONS) not in sys.path:
    sys.path.append(str(COLLECTIONS))

from ansible_collections.keyward.pki.plugins.module_utils import _der, _pkcs12_crypto, _pkcs12_writer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.serialization import pkcs12
from support.pfx import NULL, SET, bag, certificate_bag, clear_safe, encrypted_safe, explicit, integer, octets, oid, seq

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
except ImportError:
    from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES

ITERATIONS = 2000
FRIENDLY_NAME, LOCAL_KEY_ID = "1.2.840.113549.1.9.20", "1.2.840.113549.1.9.21"
PROVIDER_NAME, MACHINE_KEY_SET = "1.3.6.1.4.1.311.17.1", "1.3.6.1.4.1.311.17.2"
KEY_USAGE = "2.5.29.15"
SHROUDED_KEY_BAG = "1.2.840.113549.1.12.10.1.2"
BMP, BITS = 0x1E, 0x03


class Entry(NamedTuple):
    """A certificate with its key. spec: 0 for a key storage provider, 1 AT_KEYEXCHANGE, 2 AT_SIGNATURE."""

    certificate: bytes
    key: Any
    container: str
    provider: str
    spec: int


class Key(NamedTuple):
    key: Any
    container: str | None
    provider: str | None
    spec: int


class Contents(NamedTuple):
    keys: list[Key]
    certificates: list[bytes]
    aes: bool


def public(key: Any) -> bytes:
    der: bytes = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der


def public_of(certificate: bytes) -> bytes:
    loaded = x509.load_der_x509_certificate(certificate)
    return loaded.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _encrypt(password: str, plain: bytes, algorithm: str) -> tuple[bytes, bytes]:
    salt = os.urandom(8)
    if algorithm == "aes":
        kdf = _pkcs12_crypto.Kdf("pbkdf2", "sha256", salt, ITERATIONS)
        return _pkcs12_writer.encrypt(hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS, 32), kdf, plain)
    secret = password.encode("utf-16-be") + b"\0\0"
    key, iv = (_pkcs12_crypto.pkcs12_kdf("sha1", secret, salt, ITERATIONS, purpose, size) for purpose, size in ((1, 24), (2, 8)))
    pad = 8 - len(plain) % 8
    encryptor = Cipher(TripleDES(key), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(plain + bytes((pad,)) * pad) + encryptor.finalize()
    return seq(oid("1.2.840.113549.1.12.1.3"), seq(octets(salt), integer(ITERATIONS))), sealed


def _attribute(kind: str, *values: bytes) -> bytes:
    return seq(oid(kind), _der.tlv(SET, *values))


def _pkcs8(entry: Entry) -> bytes:
    """With the key usage attribute that tells Windows the key spec."""
    plain = entry.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    usage = {0: 0x90, 1: 0x10, 2: 0x80}[entry.spec]
    attributes = _der.tlv(0xA0, _attribute(KEY_USAGE, _der.tlv(BITS, bytes((0, usage)))))
    members = [member.whole for member in _der.members(_der.first(plain))]
    return seq(*members[:3], attributes)


def write(entries: Sequence[Entry], chain: Sequence[bytes], password: str, algorithm: str = "3des", each_key: bool = False) -> bytes:
    """A key that several certificates share is written once, or, with each_key, once for each of them."""
    ids: dict[bytes, bytes] = {}
    key_bags, certificate_bags = [], []
    for entry in entries:
        known = public(entry.key)
        if each_key or known not in ids:
            ids[known] = (len(key_bags) + 1).to_bytes(4, "little")
            sealed_algorithm, sealed = _encrypt(password, _pkcs8(entry), algorithm)
            key_bags.append(
                bag(
                    2,
                    seq(sealed_algorithm, octets(sealed)),
                    _attribute(LOCAL_KEY_ID, octets(ids[known])),
                    _attribute(FRIENDLY_NAME, _der.tlv(BMP, entry.container.encode("utf-16-be"))),
                    _attribute(PROVIDER_NAME, _der.tlv(BMP, entry.provider.encode("utf-16-be"))),
                    _attribute(MACHINE_KEY_SET),
                )
            )
        value = seq(oid("1.2.840.113549.1.9.22.1"), explicit(octets(entry.certificate)))
        certificate_bags.append(bag(3, value, _attribute(LOCAL_KEY_ID, octets(ids[known]))))
    certificate_bags += [certificate_bag(der) for der in chain]
    content = seq(clear_safe(*key_bags), encrypted_safe(*_encrypt(password, seq(*certificate_bags), algorithm)))

    digest, digest_oid = ("sha256", "2.16.840.1.101.3.4.2.1") if algorithm == "aes" else ("sha1", "1.3.14.3.2.26")
    salt = os.urandom(20)
    size = hashlib.new(digest).digest_size
    mac_key = _pkcs12_crypto.pkcs12_kdf(digest, password.encode("utf-16-be") + b"\0\0", salt, ITERATIONS, 3, size)
    info = seq(seq(oid(digest_oid), _der.tlv(NULL)), octets(hmac.new(mac_key, content, digest).digest()))
    mac = seq(info, octets(salt), integer(ITERATIONS))
    return seq(integer(3), seq(oid("1.2.840.113549.1.7.1"), explicit(octets(content))), mac) + bytes(8)


def read(data: bytes, password: str) -> Contents | None:
    """None where the password is wrong. The MAC and the certificates are the business of `cryptography`; it would return one key only."""
    whole = _der.first(data).whole
    try:
        loaded = pkcs12.load_pkcs12(whole, password.encode())
    except ValueError:
        return None
    listed = ([loaded.cert] if loaded.cert else []) + list(loaded.additional_certs)
    certificates = [each.certificate.public_bytes(serialization.Encoding.DER) for each in listed]
    keys, aes = [], False
    _version, info, *_mac = _der.members(_der.first(whole))
    for safe in _der.members(_der.first(_der.octets(_der.content(_der.members(info))))):
        members = _der.members(safe)
        if _der.oid(members[0]) != "1.2.840.113549.1.7.1":
            continue
        for each in _der.members(_der.first(_der.octets(_der.content(members)))):
            kind, value, *attributes = _der.members(each)
            if _der.oid(kind) == SHROUDED_KEY_BAG:
                shrouded = value.body
                aes = aes or oid("1.2.840.113549.1.5.13") in shrouded
                key = serialization.load_der_private_key(shrouded, password.encode(), unsafe_skip_rsa_key_validation=True)
                keys.append(_key(key, _attributes(attributes)))
    return Contents(keys, certificates, aes)


def _attributes(given: Sequence[Any]) -> dict[str, bytes]:
    found = {}
    for attribute in _der.members(given[0], tag=SET) if given else ():
        kind, values = _der.members(attribute)
        inner = _der.values(values.body)
        found[_der.oid(kind)] = inner[0].body if inner else b""
    return found


def _key(key: Any, attributes: dict[str, bytes]) -> Key:
    name, provider = (attributes[kind].decode("utf-16-be") if kind in attributes else None for kind in (FRIENDLY_NAME, PROVIDER_NAME))
    return Key(key, name, provider, 0 if provider is None or "Key Storage Provider" in provider else 1)
