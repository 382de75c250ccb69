# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the CRL and the certificate of each key as files that a web server can serve; may change in any release.

RFC 5280 wants DER behind a URL, and a single CRL. So each key has files of its own, and keeps their names when another key is current.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils import _outline
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known
from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import slug
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_CRL
from ansible_collections.keyward.pki.plugins.module_utils._staged import put
from ansible_collections.keyward.pki.plugins.module_utils._x509 import short_subject, spki_sha256

try:
    from cryptography.hazmat.primitives.serialization import Encoding
except ImportError:  # the modules say which library is missing
    pass


@dataclass
class DerFiles:
    paths: list[str] = field(default_factory=list)
    changed: bool = False


def der_files(told: Told, crls: t.Sequence[Known], folder: str, check: bool) -> DerFiles:
    """C(<CA>-<n>.crl) and C(.crt), n being the first generation that had the key. Raises KeywardError."""
    done = DerFiles()
    name = slug(short_subject(told.generations[-1].certificate))
    first = {one.public_key_sha256: one.index for one in reversed(told.generations)}
    newest = {one.public_key_sha256: one.certificate for one in told.generations}
    wanted = {f"{name}-{first[key]}.crt": certificate for key, certificate in newest.items()}
    # A key may have a CRL for each of its certificates. The newest certificate's comes last, and counts: most clients need it.
    wanted.update({f"{name}-{first[crl.generation.public_key_sha256]}.crl": crl.parsed.public_bytes(Encoding.DER) for crl in crls})
    for key in newest:
        _refuse_of_another(os.path.join(folder, f"{name}-{first[key]}.crt"), key)
    for file, content in sorted(wanted.items()):
        path = os.path.join(folder, file)
        done.paths.append(path)
        if read_if_there(path, "the published file", LARGEST_CRL) == content:
            continue
        done.changed = True
        if not check:
            make_directory(folder, 0o755)
            put(path, content, 0o644, like=path)
    return done


def _refuse_of_another(path: str, key: str) -> None:
    """Raise KeywardError where the files of that name are those of another key: the name is from the subject, which a host tells."""
    try:
        there = _outline.certificate(read_if_there(path, "the published file", LARGEST_CRL) or b"")
    except ValueError:
        return
    if spki_sha256(there.public_key) != key:
        raise KeywardError(
            "the CRLs were not put where they are published",
            f"{path} is the certificate of another key: of another CA of this name, or the generations are numbered otherwise than before",
            "Give each CA a der_directory of its own; if that one is gone for good, take its .crt and .crl away from there",
        )
