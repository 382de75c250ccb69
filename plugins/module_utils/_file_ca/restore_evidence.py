# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a restore takes into account: what it was given, and what the host shows; may change in any release."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import subject_bytes
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_findings import own_crls
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import Issued, Published, Revocation
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._one_line import one_line
from ansible_collections.keyward.pki.plugins.module_utils._orders import database as orders
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time


def published_on(
    generations: t.Sequence[Generation],
    live: DatabaseFiles,
    folders: t.Collection[str],
    of_set: t.Container[str],
    given: orders.Published,
) -> Published:
    """What the controller read, and on the host: its own CRLs, the certificates in C(folders) that the set does not know, and numbers."""
    issued = [Issued(int(one.serial, 16), one.expires, one.subject, one.where) for one in given.issued]
    signers = [_x509.load(generation.certificate) for generation in generations]
    for folder in sorted(folders):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                if path not in of_set and name.endswith(".pem"):
                    issued += _issued_in(path, signers)
    revocations = {int(one.serial, 16): Revocation(int(one.serial, 16), one.at or "", one.reason) for one in given.revocations}
    numbers = []
    for _path, parsed in own_crls(live.files, live.directory, generations):
        for serial, at, reason in _x509.revoked_in(parsed):
            revocations.setdefault(serial, Revocation(serial, asn1_time(at), reason))
        number = _x509.crl_number(parsed)
        numbers += [int(number, 16)] if number else []
    return Published(
        [int(number, 16) for number in given.crl_numbers], list(revocations.values()), issued, given.compared, numbers, live.used()
    )


def _issued_in(path: str, signers: t.Sequence[t.Any]) -> t.List[Issued]:
    """The certificate of a PEM or DER file, where one of the CA's generations signed it."""
    try:
        parsed = _x509.load(read_file(path, "the certificate"))
    except (KeywardError, ValueError, FileNotFoundError):
        return []
    if _x509.is_self_signed(parsed) or not any(_x509.is_issued_by(parsed, signer) for signer in signers):
        return []
    expires = asn1_time(_x509.validity(parsed)[1])
    return [Issued(parsed.serial_number, expires, one_line(subject_bytes(parsed)), os.path.basename(path))]
