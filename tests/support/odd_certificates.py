# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and requests as old software wrote them, and as no tool of today does: made value by value, signed by openssl."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.keyward.pki.plugins.module_utils import _der
from support.openssl_ca import OpensslCa

UTF8, PRINTABLE, T61, IA5, BMP = 0x0C, 0x13, 0x14, 0x16, 0x1E
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
VERSION_1_SAID, VERSION_3 = bytes.fromhex("a003020100"), bytes.fromhex("a003020102")


def name(*attributes: tuple[int, bytes], oid: str = "2.5.4.3") -> bytes:
    """Common names, each of a string type and bytes."""
    pairs = (_der.tlv(_der.SEQUENCE, _der.tlv_oid(oid), _der.tlv(tag, raw)) for tag, raw in attributes)
    return _der.tlv(_der.SEQUENCE, *(_der.tlv(_der.SET, pair) for pair in pairs))


def extension(oid: str, value: bytes, critical: bytes = b"\x01\x01\xff") -> bytes:
    return _der.tlv(_der.SEQUENCE, _der.tlv_oid(oid), critical, _der.tlv(_der.OCTETS, value))


NAMED = extension("2.5.29.14", b"\x04\x04root", b"")
CA_TRUE, SIGNS = extension("2.5.29.19", b"\x30\x03\x01\x01\xff"), extension("2.5.29.15", b"\x03\x02\x01\x06")


def make_odd(
    ca: OpensslCa,
    subject: bytes = name((UTF8, b"Odd CA")),
    *,
    begins: bytes = b"\x17\x0d250101000000Z",
    ends: bytes = b"\x17\x0d350101000000Z",
    version: bytes = VERSION_3,
    extensions: Sequence[bytes] = (CA_TRUE, SIGNS, NAMED),
    serial: bytes = b"\x01",
) -> None:
    """Gives a CA (P-256) that has issued nothing yet such a certificate."""
    key = _public_key(ca.private_key)
    validity = _der.tlv(_der.SEQUENCE, begins, ends)
    more = [_der.tlv(0xA3, _der.tlv(_der.SEQUENCE, *extensions))] if extensions else []
    number = _der.tlv(_der.INTEGER, serial)
    body = _der.tlv(_der.SEQUENCE, version, number, _ECDSA_SHA256, subject, validity, subject, key, *more)
    ca.certificate.write_bytes(_pem("CERTIFICATE", _signed(body, ca.private_key)))
    for path in [*(ca.directory / "newcerts").iterdir(), *(ca.directory / "certs").iterdir()]:
        path.unlink()
    (ca.directory / "index.txt").write_text("")


def odd_request(private_key: Path, subject: bytes, extensions: Sequence[bytes] = (CA_TRUE, SIGNS)) -> str:
    asked = _der.tlv(_der.SEQUENCE, _der.tlv_oid("1.2.840.113549.1.9.14"), _der.tlv(_der.SET, _der.tlv(_der.SEQUENCE, *extensions)))
    body = _der.tlv(_der.SEQUENCE, _der.tlv_integer(0), subject, _public_key(private_key), _der.tlv(0xA0, asked))
    return _pem("CERTIFICATE REQUEST", _signed(body, private_key)).decode("ascii")


def _public_key(private_key: Path) -> bytes:
    command = ["openssl", "pkey", "-in", str(private_key), "-pubout", "-outform", "DER"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def _signed(body: bytes, private_key: Path) -> bytes:
    command = ["openssl", "dgst", "-sha256", "-sign", str(private_key)]
    signature = subprocess.run(command, input=body, capture_output=True, check=True).stdout
    return _der.tlv(_der.SEQUENCE, body, _ECDSA_SHA256, _der.tlv(_der.BITS, b"\0" + signature))


def _pem(label: str, der: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode('ascii')}-----END {label}-----\n".encode("ascii")
