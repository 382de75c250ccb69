# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the URLs that a certificate names; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import extension

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass

LONGEST_URL = 2048


def urls_of(certificate: x509.Certificate) -> t.Iterator[t.Tuple[str, str]]:
    """What it is for, crl, certificate or ocsp, and the URL; each once."""
    found: t.Dict[t.Tuple[str, str], None] = {}
    for point in extension(certificate, x509.CRLDistributionPoints) or ():
        for name in point.full_name or ():
            found[("crl", _url(name))] = None
    for one in extension(certificate, x509.AuthorityInformationAccess) or ():
        ocsp = one.access_method == x509.oid.AuthorityInformationAccessOID.OCSP
        if ocsp or one.access_method == x509.oid.AuthorityInformationAccessOID.CA_ISSUERS:
            found[("ocsp" if ocsp else "certificate", _url(one.access_location))] = None
    return ((kind, url) for kind, url in found if url and len(url) <= LONGEST_URL)


def _url(name: t.Any) -> str:
    return str(name.value) if isinstance(name, x509.UniformResourceIdentifier) else ""
