# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: where the certificates of the CAs above a CA of files stand; may change in any release."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._signature import is_self_signed
from ansible_collections.keyward.pki.plugins.module_utils._staged import put
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem, pem_certificates


def chain_like(there: t.Sequence[bytes], given: t.Sequence[bytes]) -> t.List[bytes]:
    """The part of a parent's chain to write behind a certificate: nothing if the present one stands alone, a root only if it has one.

    C(there): what stands behind the present certificate.
    """
    if not any(map(_is_root, there)):
        given = [each for each in given if not _is_root(each)]
    return list(given) if there else []


def put_chain(path: str, given: t.Sequence[bytes]) -> None:
    """Put a parent's chain into the chain file, before what it has. Raises KeywardError."""
    path = os.path.realpath(path)
    data = read_if_there(path, "the chain", LARGEST_INPUT)
    there = pem_certificates(data or b"")
    if set(given) <= set(there):
        return
    text = "".join(map(pem, dict.fromkeys([*given, *there]))).encode("ascii")
    put(path, text, 0o644, like=path)


def _is_root(certificate: bytes) -> bool:
    try:
        return is_self_signed(certificate)
    except ValueError:
        return False
