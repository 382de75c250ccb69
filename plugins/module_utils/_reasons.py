# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: why a bundle is not restorable, in fixed sentences; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding

REASONS = {
    "password_wrong": "the password does not open it",
    "opens_without_password": "it opens without a password",
    "key_missing": "the private key is not in it",
    "key_mismatch": "the private key in it is not the one that the certificate certifies",
    "generation_missing": "the CA certificate is not in it",
    "not_exportable": "the private key can't leave the place where it is kept",
    "foreign_authority": "it holds the keys of another authority",
    "digest_mismatch": "the bytes are not those that were recorded",
    "malformed": "it is damaged, or no PKCS #12 file",
    "unsupported": "it uses an algorithm that can't be read here",
    "limit_exceeded": "it asks for more work or memory than any honest file does",
}


def reason(code: str, about: str, detail: str = "", certificate: t.Optional[str] = None) -> Finding:
    """A reason with its fixed sentence; C(about) names the file or generation, C(detail) adds what is known beyond it."""
    sentence = f"{about}: {REASONS[code]}"
    return Finding(code, f"{sentence} ({detail})" if detail else sentence, certificate)
