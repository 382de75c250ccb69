# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The primitives of PKCS #12, against published values."""

from __future__ import annotations

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_crypto


@pytest.mark.parametrize(
    ("password", "salt", "iterations", "purpose", "expected"),
    [  # the values of Peter Gutmann's test set, used by several implementations
        ("smeg", "0A58CF64530D823F", 1, 1, "8AAAE6297B6CB04642AB5B077851284EB7128F1A2A7FBCA3"),
        ("smeg", "0A58CF64530D823F", 1, 2, "79993DFE048D3B76"),
        ("queeg", "05DEC959ACFF72F7", 1000, 1, "ED2034E36328830FF09DF1E1A07DD357185DAC0D4F9EB3D4"),
        ("queeg", "05DEC959ACFF72F7", 1000, 2, "11DEDAD7758D4860"),
    ],
)
def test_pkcs12_key_derivation(password, salt, iterations, purpose, expected):
    wanted = bytes.fromhex(expected)
    encoded = password.encode("utf-16-be") + b"\0\0"
    assert _pkcs12_crypto.pkcs12_kdf("sha1", encoded, bytes.fromhex(salt), iterations, purpose, len(wanted)) == wanted


@pytest.mark.parametrize(
    ("key", "plain", "sealed"),
    [  # RFC 2268 section 5, those whose effective bits are those of the key
        ("ffffffffffffffff", "ffffffffffffffff", "278b27e42e2f0d49"),
        ("3000000000000000", "1000000000000001", "30649edf9be7d2c2"),
        ("88bca90e90875a7f0f79c384627bafb2", "0000000000000000", "2269552ab0f85ca6"),
    ],
)
def test_rc2(key, plain, sealed):
    assert _pkcs12_crypto.rc2_cbc(bytes.fromhex(key), bytes(8), bytes.fromhex(sealed)) == bytes.fromhex(plain)
