# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whether what a CA has issued verifies under its renewed certificate; may change in any release."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _outline, _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import scratch_directory, verified_under
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._staged import write_new
from ansible_collections.keyward.pki.plugins.module_utils._successor_policy import Asked, leaning, narrower
from ansible_collections.keyward.pki.plugins.module_utils._time import now
from ansible_collections.keyward.pki.plugins.module_utils._whose import whose_certificate

SAMPLE = 50  # certificates, spread evenly over the directory


def judge_by_issued(files: Files, generations: t.Sequence[Generation], new: Generation, asked: Asked, what: str) -> t.List[Finding]:
    """What must be said of a new generation because of what the CA has issued. Raises KeywardError where that would not verify any more."""
    issued = [each for each in sample(files.new_certificates) if _by_any(each, generations)]
    found, why = leaning(issued, generations, new)
    older = {int(generation.serial, 16) for generation in generations}
    # Those that name the serial number of an older CA certificate are reported already.
    lost = [] if why else [each for each in _lost(issued, generations, new) if _serial_named(each) not in older]
    if lost:
        example = _x509.even_hex(_outline.certificate(lost[0]).serial)
        why = f"{len(lost)} of {len(issued)} certificates that were looked at, such as {example}, do not verify under it"
        stricter = narrower(_x509.load(new.certificate), asked)
        if stricter:
            text = f"the new certificate allows less than the old one ({', '.join(stricter)}): {why}"
            return [*found, Finding("issued_not_verified", text, new.sha256)]
    if why:
        remedy = "Have a certificate made that keeps that. Or renew with a new key: the old certificate goes on for what it issued"
        raise KeywardError(what, f"the new certificate can't do the work of the old one: {why}", remedy)
    return found


def sample(folder: t.Optional[str]) -> t.List[bytes]:
    """Some of the certificates (DER) in a directory that have not expired. What can't be read is passed over: others may write there."""
    try:
        names = sorted(name for name in os.listdir(folder or "") if name.endswith((".pem", ".crt")))
    except OSError:
        return []
    step, found = max(1, len(names) // SAMPLE), []
    for name in names[::-step][: SAMPLE + 1]:
        try:
            der = _x509.pem_certificates(read_file(os.path.join(t.cast(str, folder), name), "the certificate", LARGEST_INPUT))[0]
            _x509.load(der)
        except (FileNotFoundError, KeywardError, IndexError, ValueError):
            continue
        if _outline.certificate(der).ends > now():
            found.append(der)
    return found


def _by_any(certificate: bytes, generations: t.Sequence[Generation]) -> bool:
    return any(whose_certificate(certificate, generation.certificate) is not Whose.NOT_OURS for generation in generations)


def _serial_named(certificate: bytes) -> t.Optional[int]:
    return _outline.authority_key(_outline.certificate(certificate).extensions)[1]


def _lost(issued: t.Sequence[bytes], generations: t.Sequence[Generation], new: Generation) -> t.List[bytes]:
    """Certificates that verify under an older certificate of the same key, but not under the new one."""
    older = [one for one in generations if one.public_key_sha256 == new.public_key_sha256 and one.sha256 != new.sha256]
    if not issued or not older:
        return []
    with scratch_directory() as scratch:
        paths = {os.path.join(scratch, f"{number}.pem"): each for number, each in enumerate(issued)}
        for path, each in paths.items():
            write_new(path, _x509.pem(each).encode("ascii"), 0o600)

        def good(generation: Generation) -> t.Set[str]:
            trusted = os.path.join(scratch, f"{generation.sha256}.pem")
            write_new(trusted, _x509.pem(generation.certificate).encode("ascii"), 0o600)
            return verified_under(trusted, list(paths))

        before = set().union(*map(good, older))
        return [paths[path] for path in sorted(before - good(new))]
