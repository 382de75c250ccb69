# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a restore takes into account: what it was given, and what the host shows; may change in any release."""

from __future__ import annotations

import contextlib
import functools
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der, crl_number, revoked_in
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known, running_out
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_findings import own_crls
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import crl_path, older_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import Issued, Published, Revocation
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders import database as orders
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, issued_in, unverified, whose_crl

LARGEST_LOOKED_AT = 16 * 1024 * 1024  # bytes of a CRL


class KnownCrls:
    """The CRLs of a set and those in their places on the host."""

    def __init__(self, generations: t.Sequence[Generation]) -> None:
        self._generations = generations
        self._known: t.List[Known] = []

    def look(self, path: str, data: bytes) -> None:
        for content in (data, self._in_place(path)):
            with contextlib.suppress(ValueError, TypeError):
                signer, whose = among(self._generations, functools.partial(whose_crl, content))
                if signer:
                    self._known.append(Known(signer, path, crl_der(content), proved=whose is Whose.OURS))

    @staticmethod
    def _in_place(path: str) -> bytes:
        with contextlib.suppress(KeywardError):
            return read_if_there(path, "the CRL", LARGEST_LOOKED_AT) or b""
        return b""

    def findings(self) -> t.List[Finding]:
        return running_out(self._known)


def published_on(
    generations: t.Sequence[Generation],
    live: DatabaseFiles,
    folders: t.Collection[str],
    of_set: t.Container[str],
    given: orders.Published,
) -> t.Tuple[Published, t.List[Finding]]:
    """What the controller read, and on the host: its own CRLs, the certificates in C(folders) that the set does not know, and numbers.

    A CRL revokes, and others may write into the CA's folders: one that nothing here can verify counts in its place only.
    """
    issued = [Issued(int(one.serial, 16), one.expires, one.subject, one.where) for one in given.issued]
    advisories: t.List[Finding] = []
    for folder in sorted(folders):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                if path not in of_set and name.endswith(".pem"):
                    issued += _issued_in(path, generations, advisories)
    revocations = {int(one.serial, 16): Revocation(int(one.serial, 16), one.at or "", one.reason) for one in given.revocations}
    numbers, place = [], crl_path(live.files, live.directory)
    placed = {place, live.files.crl_der, *(path for _number, path in older_files(place))}
    for path, parsed, whose, _signer in own_crls(live.files, live.directory, generations):
        if whose is Whose.CANT_TELL:
            advisories.append(unverified(path, passed_over="" if path in placed else "If it is the CA's, give it as published_crl"))
            if path not in placed:
                continue
        for serial, at, reason in revoked_in(parsed):
            revocations.setdefault(serial, Revocation(serial, asn1_time(at), reason))
        number = crl_number(parsed)
        numbers += [int(number, 16)] if number else []
    crl_numbers = [int(number, 16) for number in given.crl_numbers]
    found = Published(crl_numbers, list(revocations.values()), issued, given.compared, numbers, live.used())
    return found, advisories


def _issued_in(path: str, generations: t.Sequence[Generation], advisories: t.List[Finding]) -> t.List[Issued]:
    """The certificate of a PEM or DER file, where the CA issued it or may have; one that can't be read is named."""
    try:
        one = issued_in(read_file(path, "the certificate"), generations)
    except (KeywardError, FileNotFoundError):
        return []
    except ValueError:
        text = f"{path} says that it is a certificate, and can't be read: its serial number is not taken into account"
        advisories.append(Finding("certificate_unreadable", text))
        return []
    if one is None:
        return []
    if one.whose is Whose.CANT_TELL:
        advisories.append(unverified(path))
    return [Issued(one.outline.serial, asn1_time(one.outline.ends), one.subject, os.path.basename(path))]
