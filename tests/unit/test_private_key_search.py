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
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.private_key_search import (
    OVERLAP,
    WINDOW,
    key_material,
    private_key_in,
    private_key_in_file,
)
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


def found_in(data: bytes, known: list[bytes] | None = None) -> str | None:
    """Read piece by piece and as a whole, of which what is public is told quickly: both find it, or neither does."""
    found, whole = private_key_in(io.BytesIO(data), known or []), private_key_in_file(data, known or [])
    assert bool(found) is bool(whole), (found, whole, data[:80])
    return found


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
        assert found_in((shown.encode()), key_material(key)), shown
    public = openssl("pkey", "-in", tmp_path / "key", "-noout", "-text_pub").stdout
    assert found_in((public.encode()), key_material(key)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_in_every_place(kind: str) -> None:
    key = pfx.key(kind)
    certificate = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(pfx.certificate(key, "Some CA", 1)) + b"-----END CERTIFICATE-----\n"
    assert found_in(certificate) is None
    assert found_in((pfx.certificate(key, "Some CA", 1)), key_material(key)) is None
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
            assert found_in(content), (name, place)
    for number in key_material(key):
        for content in (os.urandom(50) + number + os.urandom(50), base64.b64encode(b"xy" + number)):
            assert found_in((content), [number]), "its bare numbers"
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
        assert found_in(data) is None
        assert found_in(base64.encodebytes(data)) is None


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
    missed = [name for name, data in found.items() if found_in(data) is None]
    assert missed == []
    for number in key_material(key):
        for content in (number[::-1], base64.urlsafe_b64encode(number), number.hex().encode(), number.hex(":").upper().encode()):
            assert found_in((b"x " + content), [number]), content


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
        assert found_in(content), content[:80]
    for number in numbers:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), number)
        for content in (
            armoured(builder.add_extension(unknown, False).sign(key, digest).public_bytes(Encoding.DER)),
            number.hex(":").encode() + b"\n" + armoured(certificate),
            armoured(certificate) + base64.urlsafe_b64encode(number),
        ):
            assert found_in(content) is None or kind == "ed25519"
            assert found_in((content), numbers)
    assert found_in((armoured(certificate) * 3), numbers) is None


def test_a_key_behind_the_text_of_a_certificate_is_found(tmp_path: Path) -> None:
    """In the text that openssl prints before it: as its own lines, spelt as digits, in its words, and between its lines of digits."""
    ca, key = OpensslCa(tmp_path / "ca", algorithm="rsa:2048"), pfx.key("ed25519")
    issued = openssl("x509", "-in", ca.certificate, "-text").stdout.encode()
    (number,) = key_material(key)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    digits = b"                " + number.hex(":").encode() + b"\n"
    assert issued.startswith(b"Certificate:\n") and found_in(issued, [number]) is None
    places = [
        b"Certificate:\n",
        b"-----BEGIN CERTIFICATE-----\n",
        *re.findall(rb" +[A-Z][^\n]*[a-z][^\n]*\n", issued),
    ]
    assert {b"                Modulus:\n", b"        Version: 3 (0x2)\n", b"        X509v3 extensions:\n"} < set(places)
    for place in places:
        for planted in (digits, digits.upper(), b"x: " + base64.b64encode(der) + b"\n", base64.b64encode(number) + b"\n"):
            content = issued.replace(place, planted + place)
            assert content != issued and found_in(content, [number]), (place, planted)
        assert found_in(issued.replace(place, base64.b64encode(der) + b"\n" + place)), "a key of others"
    for said in (
        b"sha256WithRSAEncryption",
        rb"(?<=Not Before: ).*",
        rb"(?<=Modulus:)",
        rb"65537 .*",
        rb"(?<=Public-Key: \().*(?= bit)",
        b"3 .0x2.",
    ):
        words = re.sub(said, base64.b64encode(number)[:43], issued, count=1)
        assert words != issued and found_in(words, [number]), said
    for behind in (
        der,
        base64.b64encode(der),
        b"\n" + base64.b64encode(der) + b"\n",
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ):
        assert found_in(issued + behind)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, datetime.datetime(2026, 1, 1), datetime.datetime(2027, 1, 1))
    for inside in (b"xyz" + der, base64.b64encode(der)):
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), inside)
        made = builder.add_extension(extension, False).sign(pfx.key("ed25519"), None)
        assert found_in(made.public_bytes(Encoding.DER)) and private_key_in_file(made.public_bytes(Encoding.PEM)), inside


def test_an_index_is_searched(tmp_path: Path) -> None:
    """Of a row all but the subject is told quickly."""
    (number,) = key_material(pfx.key("ed25519"))
    rows = [b"V\t271128200415Z\t\t%040X\tunknown\t/O=Example/CN=host-%d.example.com\n" % (n << 100, n) for n in range(50)]
    revoked = b"R\t271128200415Z\t261128200415Z,keyCompromise\t0A\tunknown\t/CN=gone\n"
    assert found_in(b"".join(rows) + revoked, [number]) is None
    for planted in (base64.b64encode(number), number.hex().encode(), number.hex(":").encode()):
        assert found_in(rows[0] + b"V\t271128200415Z\t\t01\tunknown\t/CN=" + planted + b"\n" + rows[1], [number])
        assert found_in(rows[0] + b"#" + planted + b"\n" + rows[1], [number])
