# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what AD CS needs to trust the certificate that it gets; may change in any release.

A CA on Windows checks the revocation of its own certificate when that is installed, when the service starts and when it issues.
"""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _outline, _x509
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import raw_extensions
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass

_DISTRIBUTION_POINTS = "2.5.29.31"
_CA_VERSION = "1.3.6.1.4.1.311.21.1"  # szOID_CERTSRV_CA_VERSION, in each request of AD CS


def asks_here(request: bytes) -> bool:
    """Whether a request (DER) was made by AD CS."""
    return _CA_VERSION in _outline.request(request).extensions


def without_distribution_point(sha256: str | None) -> Finding:
    text = (
        "the certificate says nowhere where a CRL lies (crlDistributionPoints), and a CA on Windows checks its own certificate: it may "
        "deny every request (0x80092012). Have the CA above put them into what it signs"
    )
    return Finding("no_distribution_point", text, sha256)


def of_answer(answer: Generation, abilities: Abilities) -> list[Finding]:
    """What a person should know before AD CS gets this certificate."""
    if not abilities.checks_its_certificate or has_distribution_point(_x509.load(answer.certificate)):
        return []
    return [without_distribution_point(answer.sha256)]


def has_distribution_point(certificate: x509.Certificate) -> bool:
    return any(each.oid == _DISTRIBUTION_POINTS for each in raw_extensions(certificate))


def crls_beside(text: str, certificates: t.Sequence[bytes]) -> tuple[bytes, ...]:
    """The CRLs (DER) that came with the certificates of a parent's answer. Raises KeywardError for one that is of no CA above."""
    issuers = {_outline.certificate(certificate).issuer for certificate in certificates}
    found = []
    for label, block in _x509.pem_blocks(text.encode("utf-8")):
        if label != "X509 CRL":
            continue
        why = "a CRL that was given with it can't be read"
        try:
            der = _x509.pem_content(block)
            crl = _outline.crl(der)
            if any(_outline.same_name(crl.issuer, issuer) for issuer in issuers):
                found.append(der)
                continue
            why = f"a CRL of {_outline.rfc4514(crl.issuer)} was given with it, which is no CA above"
        except ValueError:
            pass
        raise KeywardError("the certificate was not put in place", why, "Give the CRLs of the CAs above, or none")
    return tuple(found)
