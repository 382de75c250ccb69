# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys are found in every form and in odd places, and nothing else is taken for one."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._private_key_search import OVERLAP, WINDOW, key_material, private_key_in
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
