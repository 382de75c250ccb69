# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a PKCS #12 file shows without its password; may change in any release. No files and no Ansible here."""

from __future__ import annotations

from ansible_collections.keyward.pki.plugins.module_utils import _der
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_crypto import Secrets
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_reader import WEAK_ITERATIONS, WEAK_NAMES, as_pkcs12_errors, parsed


def weakness(data: bytes) -> str | None:
    """Why the outside of a file, which no password hides, is weak; None where it is not.

    Raises Malformed, Unsupported, LimitExceeded.
    """
    with as_pkcs12_errors(), _der.one_document():
        file = parsed(data, Secrets(None))
    schemes = [scheme for item in file.items for scheme in (item.scheme, item.safe) if scheme]
    if any(item.kind == "private_key" and not item.scheme and not item.safe for item in file.items):
        return "a private key in it is not encrypted"
    if file.mac is None:
        return "it has no integrity check (MAC)"
    names = [name for name in (*(scheme.name for scheme in schemes), file.mac.name) if WEAK_NAMES.search(name)]
    if names:
        return f"it is protected by {names[0]}"
    least = min([*(scheme.kdf.iterations for scheme in schemes), file.mac.kdf.iterations])
    return f"one of its keys is derived in {least} iterations only" if least < WEAK_ITERATIONS else None
