# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys are found in the forms that are in use and in odd places, and nothing else is taken for one."""

from __future__ import annotations

import base64
import bz2
import datetime
import gzip
import io
import json
import lzma
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.private_key_search import OVERLAP, WINDOW, key_material, private_key_in
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from support import pfx
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool

KINDS = ["rsa-2048", "ec-secp256r1", "ec-secp521r1", "ed25519", "ed448"]


def forms(key: Any) -> dict[str, bytes]:
    found = {}
    for encoding in (Encoding.PEM, Encoding.DER):
        for container in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            for encryption in (NoEncryption(), BestAvailableEncryption(b"a password")):
                try:
                    found[f"{encoding} {container} {type(encryption).__name__}"] = key.private_bytes(encoding, container, encryption)
                except (ValueError, TypeError):
                    continue
    found["PKCS#12"] = pkcs12.serialize_key_and_certificates(b"ca", key, None, None, BestAvailableEncryption(b"a password"))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_that_openssl_prints(kind: str, tmp_path: Path) -> None:
    require_tool("openssl")
    key = pfx.key(kind)
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    text = openssl("pkey", "-in", tmp_path / "key", "-noout", "-text").stdout
    for shown in (text, text.upper(), text.replace(":", "").replace("\n", "\r\n")):
        assert private_key_in(io.BytesIO(shown.encode()), key_material(key)), shown
    public = openssl("pkey", "-in", tmp_path / "key", "-noout", "-text_pub").stdout
    assert private_key_in(io.BytesIO(public.encode()), key_material(key)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_in_every_place(kind: str) -> None:
    key = pfx.key(kind)
    certificate = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(pfx.certificate(key, "Some CA", 1)) + b"-----END CERTIFICATE-----\n"
    assert private_key_in(io.BytesIO(certificate)) is None
    assert private_key_in(io.BytesIO(pfx.certificate(key, "Some CA", 1)), key_material(key)) is None
    for name, data in forms(key).items():
        inside = os.urandom(3000).replace(b"\n", b"x")
        far = certificate * ((WINDOW - 300) // len(certificate)) + b"\n"
        places = {
            "alone": data,
            "after a certificate": certificate + data,
            "with other line ends": data.replace(b"\n", b"\r\n") if b"-----" in data else data,
            "across two windows": far[: WINDOW - 200] + b"\n" + data,
            "base64 without armour": base64.encodebytes(data if b"-----" not in data else pfx.certificate(key, "x", 1) + data),
        }
        if b"-----" not in data:
            places["in other bytes"] = inside + data + inside
        for place, content in places.items():
            if "DER" not in name and place == "base64 without armour" and "PKCS#12" not in name:
                continue
            assert private_key_in(io.BytesIO(content)), (name, place)
    for number in key_material(key):
        for content in (os.urandom(50) + number + os.urandom(50), base64.b64encode(b"xy" + number)):
            assert private_key_in(io.BytesIO(content), [number]), "its bare numbers"
    assert len(max(forms(key).values(), key=len)) * 4 < OVERLAP


def test_what_a_ca_keeps_is_no_private_key(tmp_path: Path) -> None:
    require_tool("openssl")
    for algorithm in ("rsa:2048", "P-256", "ed25519"):
        ca = OpensslCa(tmp_path / algorithm.replace(":", ""), algorithm=algorithm)
        ca.sign_crl()
        openssl("crl", "-in", ca.directory / "crl.pem", "-outform", "DER", "-out", ca.directory / "crl.der")
        openssl("x509", "-in", ca.certificate, "-outform", "DER", "-out", ca.directory / "cacert.der")
        for path in ca.directory.rglob("*"):
            if path.is_file() and path.suffix != ".key":
                with path.open("rb") as stream:
                    found = private_key_in(stream)
                assert bool(found) is (path == ca.private_key), (path, found)


def test_random_bytes_are_no_private_key() -> None:
    for _number in range(20):
        data = os.urandom(200_000)
        assert private_key_in(io.BytesIO(data)) is None
        assert private_key_in(io.BytesIO(base64.encodebytes(data))) is None


def test_less_usual_forms(tmp_path: Path) -> None:
    require_tool("openssl")
    key = pfx.key("rsa-2048")
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(plain)
    numbers = key.private_numbers()
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password"))
    sun = b"\x30\x0e\x06\x0a\x2b\x06\x01\x04\x01\x2a\x02\x11\x01\x01\x05\x00\x04\x82\x05\x00"
    jce = b"\x30\x0d\x06\x09\x2b\x06\x01\x04\x01\x2a\x02\x13\x01\x05\x00\x04\x82\x05\x00"
    url = base64.urlsafe_b64encode(numbers.d.to_bytes(256, "big")).rstrip(b"=")
    found = {
        "PEM in base64, as in a secret of Kubernetes": b"tls.key: " + base64.b64encode(plain) + b"\n",
        "PEM in JSON": json.dumps({"key": plain.decode()}).encode(),
        "PEM with the line ends of an old Mac": plain.replace(b"\n", b"\r"),
        "PEM with a byte order mark": b"\xef\xbb\xbf" + plain,
        "UTF-16": plain.decode().encode("utf-16"),
        "UTF-16, big endian": plain.decode().encode("utf-16-be"),
        "OpenSSH": key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "OpenSSH without armour": b"openssh-key-v1\x00\x00\x00\x00\x04none",
        "SSH2": b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----",
        "PuTTY": b"PuTTY-User-Key-File-3: ssh-rsa\r\nEncryption: aes256-cbc\r\n",
        "PVK": b"\x1e\xf1\xb5\xb0\x00\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00",
        "a blob of Windows": b"\x07\x02\x00\x00\x00\xa4\x00\x00RSA2\x00\x08\x00\x00",
        "a blob of Windows CNG": b"RSA3\x00\x08\x00\x00\x03\x00\x00\x00\x00\x01\x00\x00",
        "JKS": b"\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01" + sun,
        "JCEKS": b"\xce\xce\xce\xce\x00\x00\x00\x02\x00\x00\x00\x01" + jce,
        "JWK": json.dumps({"kty": "RSA", "n": "AQAB", "d": url.decode()}).encode(),
        "JWK, in other words": json.dumps({"d": url.decode(), "crv": "P-256", "kty": "EC"}, indent=2).encode(),
        "openssl pkey -text": openssl("pkey", "-in", tmp_path / "key", "-text", "-noout").stdout.encode(),
        "openssl pkey -text of Ed25519": b"ED25519 Private-Key:\npriv:\n    01:02",
        "base64 in short lines": re.sub(b"(.{10})", b"\\1\n", base64.b64encode(der)),
        **{name: pack(plain) for name, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress))},
        "zip": b"PK\x03\x04\x14\x00",
        "7z": b"7z\xbc\xaf\x27\x1c\x00\x04",
        "zstd": b"\x28\xb5\x2f\xfd\x04",
        "openssl enc": b"Salted__12345678",
        "openssl enc -a": base64.encodebytes(b"Salted__12345678" + os.urandom(40)),
        "PGP": b"-----BEGIN PGP MESSAGE-----\n",
    }
    missed = [name for name, data in found.items() if private_key_in(io.BytesIO(data)) is None]
    assert missed == []
    for number in key_material(key):
        for content in (number[::-1], base64.urlsafe_b64encode(number), number.hex().encode(), number.hex(":").upper().encode()):
            assert private_key_in(io.BytesIO(b"x " + content), [number]), content


def armoured(der: bytes, label: str = "CERTIFICATE") -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(der) + f"-----END {label}-----\n".encode()


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-secp256r1", "ed25519"])
def test_what_looks_like_a_certificate_is_searched(kind: str) -> None:
    """In its armour, in its extensions, in the text around it, and where its own length ends."""
    key, certificate = pfx.key(kind), pfx.certificate(pfx.key("rsa-2048"), "Some CA", 1)
    numbers, der = key_material(key), key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, datetime.datetime(2026, 1, 1), datetime.datetime(2027, 1, 1))
    inside = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"xyz" + der), False)
    digest = None if kind == "ed25519" else hashes.SHA256()
    for content in (
        armoured(der),
        armoured(inside.sign(key, digest).public_bytes(Encoding.DER)),
        armoured(certificate + der),
        armoured(certificate) + base64.encodebytes(der) + armoured(certificate),
        b"Certificate:\n    " + base64.b64encode(der) + b"\n" + armoured(certificate),
        armoured(der, "X509 CRL"),
    ):
        assert private_key_in(io.BytesIO(content)), content[:80]
    for number in numbers:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), number)
        for content in (
            armoured(builder.add_extension(unknown, False).sign(key, digest).public_bytes(Encoding.DER)),
            number.hex(":").encode() + b"\n" + armoured(certificate),
            armoured(certificate) + base64.urlsafe_b64encode(number),
        ):
            assert private_key_in(io.BytesIO(content)) is None or kind == "ed25519"
            assert private_key_in(io.BytesIO(content), numbers)
    assert private_key_in(io.BytesIO(armoured(certificate) * 3), numbers) is None
