# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates, requests and CRLs in memory."""

from __future__ import annotations

import hashlib

from ansible_collections.keyward.pki.plugins.module_utils._x509 import public_key_sha256
from cryptography.hazmat.primitives import serialization
from support import pfx


def test_public_key_sha256_is_of_the_subject_public_key_info():
    public = pfx.key("rsa-2048").public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert public_key_sha256(public) == hashlib.sha256(der).hexdigest()
