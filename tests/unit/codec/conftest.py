# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the codec share."""

from __future__ import annotations

import hashlib

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_crypto, _pkcs12_writer


@pytest.fixture(autouse=True)
def quick_bundles():
    """Here the iterations are those of the product, unless a test asks for few."""


@pytest.fixture
def few_iterations(monkeypatch):
    """Bundles that cost nothing to write and to read."""
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", 10)


@pytest.fixture
def derivations(monkeypatch):
    """Counts the key derivations that run."""
    counts = {"pbkdf2": 0, "pkcs12": 0}
    pbkdf2_hmac, pkcs12_kdf = hashlib.pbkdf2_hmac, _pkcs12_crypto.pkcs12_kdf

    def counted_pbkdf2(*arguments):
        counts["pbkdf2"] += 1
        return pbkdf2_hmac(*arguments)

    def counted_pkcs12(*arguments):
        counts["pkcs12"] += 1
        return pkcs12_kdf(*arguments)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted_pbkdf2)
    monkeypatch.setattr(_pkcs12_crypto, "pkcs12_kdf", counted_pkcs12)
    return counts
