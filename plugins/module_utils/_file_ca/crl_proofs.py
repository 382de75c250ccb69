# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what clients make of a CRL, and which keys still need one; may change in any release."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der, crl_number, moment, next_update
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import rejection
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_findings import own_crls
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Index
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.issued import sample
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import crl_faults, scratch_directory
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import CrlFacts
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, is_issued_by, is_self_signed
from ansible_collections.keyward.pki.plugins.module_utils._staged import write_new
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, now_text
from ansible_collections.keyward.pki.plugins.module_utils._whose import whose_certificate
from ansible_collections.keyward.pki.plugins.module_utils._x509 import CRL, even_hex, pem

MOST_LOOKED_AT = 5000  # certificates, to find out whether a key still needs a CRL


def client_findings(files: Files, generations: t.Sequence[Generation], data: bytes) -> t.List[Finding]:
    """Why C(openssl verify -crl_check) rejects a CRL, under each certificate of its key. C(rejection) finds what needs no openssl."""
    found = []
    issued = sample(files.new_certificates)
    with scratch_directory() as scratch:
        path = os.path.join(scratch, "crl.pem")
        write_new(path, pem(crl_der(data), CRL).encode("ascii"), 0o600)
        for generation in generations:
            leaf = next((each for each in issued if is_issued_by(each, generation.certificate)), None)
            if leaf is None and is_self_signed(generation.certificate):
                leaf = generation.certificate
            if leaf is None or rejection(crl_der(data), generation.certificate):
                continue
            trusted, checked = (os.path.join(scratch, f"{generation.sha256}.{kind}") for kind in ("ca", "checked"))
            write_new(trusted, pem(generation.certificate).encode("ascii"), 0o600)
            write_new(checked, pem(leaf).encode("ascii"), 0o600)
            faults = crl_faults(trusted, path, checked)
            if faults:
                text = f"clients that have {generation.label} reject this CRL: openssl verify -crl_check says {'; '.join(faults)}"
                found.append(Finding("crl_rejected", text, generation.sha256))
    return found


def crl_facts(database: DatabaseFiles, files: Files, generations: t.Sequence[Generation]) -> t.Tuple[CrlFacts, ...]:
    """The CRLs on the host, and whether clients need them still."""
    idle, found = idle_generations(database.index, files, generations), []
    for path, parsed, _whose, signer in own_crls(files, database.directory, generations):
        key = signer.public_key_sha256
        needed = any(each.sha256 not in idle for each in generations if each.public_key_sha256 == key)
        begun = format_time(moment(parsed, "last_update"))
        found.append(CrlFacts(path, key, crl_number(parsed), begun, next_update(parsed), needed))
    return tuple(found)


def idle_generations(index: Index, files: Files, generations: t.Sequence[Generation]) -> t.List[str]:
    """The generations whose key signed certificates that have all expired. In doubt a key still needs its CRL."""
    keys = {generation.public_key_sha256: generation for generation in generations}
    current = generations[-1].public_key_sha256
    waiting = {key: generation.certificate for key, generation in keys.items() if key != current}
    signed: t.Set[str] = set()
    if not waiting or not files.new_certificates or len(index.rows) > MOST_LOOKED_AT:
        return []
    now = now_text()
    for row in (row for row in index.rows if row.number is not None):
        expired = _moment(row.expires) < now
        try:
            path = os.path.join(files.new_certificates, even_hex(t.cast(int, row.number)) + ".pem")
            der = _x509.first_certificate(read_file(path, "the certificate", LARGEST_INPUT)) or b""
            by = {key: whose_certificate(der, issuer) for key, issuer in waiting.items()}
        except (FileNotFoundError, KeywardError, ValueError):
            if not expired:
                return []
            continue
        signed.update(key for key, whose in by.items() if whose is Whose.OURS)
        for key in (key for key, whose in by.items() if whose is not Whose.NOT_OURS and not expired):
            del waiting[key]
    return [generation.sha256 for generation in generations if generation.public_key_sha256 in signed & waiting.keys()]


def _moment(text: str) -> str:
    """A time of an index.txt as results have it; one that can't be read lies in the future."""
    match = re.match(r"(\d\d|\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z\Z", text)
    if not match:
        return "9999"
    year, *rest = match.groups()
    year = year if len(year) == 4 else f"{'20' if year < '50' else '19'}{year}"
    return "{}-{}-{}T{}:{}:{}Z".format(year, *rest)
