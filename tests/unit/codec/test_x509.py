# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates, requests and CRLs in memory."""

from __future__ import annotations

import hashlib

from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex, pem, pem_blocks, pem_certificates, public_key_sha256
from cryptography.hazmat.primitives import serialization
from support import pfx


def test_public_key_sha256_is_of_the_subject_public_key_info():
    public = pfx.key("rsa-2048").public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert public_key_sha256(public) == hashlib.sha256(der).hexdigest()


def test_a_byte_order_mark_stands_before_a_pem_file_as_openssl_takes_it():
    text = pem(b"\x30\x03\x02\x01\x05").encode()
    assert pem_certificates(b"\xef\xbb\xbf" + text) == [b"\x30\x03\x02\x01\x05"]
    assert next(pem_blocks(b"\xef\xbb\xbf" + text))[1].startswith(b"-----BEGIN"), "what is given to the library has none"
    assert pem_certificates(text + b"\xef\xbb\xbf" + text) == [b"\x30\x03\x02\x01\x05"]
    assert not pem_certificates(b"x" + text)


def test_a_crl_is_found_behind_any_text():
    der = b"\x30\x81\x80" + bytes(128)
    block = pem(der, "X509 CRL").encode()
    assert crl_der(b"    Serial Number: 1000\n" * 1000 + block) == der == crl_der(block) == crl_der(der)
    assert crl_der(b"<html>") == crl_der(b"") == b"", "no CRL is nothing"


def test_a_number_is_written_as_openssl_writes_it():
    """Software that forgot a leading zero made negative serial numbers."""
    assert [even_hex(number) for number in (0, 0xF, 0x10, -0xF, -0x1000, -0x10000)] == ["00", "0F", "10", "-0F", "-1000", "-010000"]
