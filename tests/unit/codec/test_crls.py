# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom a CRL calls revoked: indirect and delta CRLs, and entries with what the library can't read."""

from __future__ import annotations

from datetime import datetime

from ansible_collections.keyward.pki.plugins.module_utils._crl import is_delta, load_crl, revoked_in
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from support.authorities import key

WHEN = datetime(2026, 1, 1)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def entry(serial: int, *extensions: x509.ExtensionType) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(WHEN)
    for extension in extensions:
        builder = builder.add_extension(extension, isinstance(extension, x509.CertificateIssuer))
    return builder.build()


def crl(*entries: x509.RevokedCertificate, delta: bool = False) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(name("Own CA")).last_update(WHEN).next_update(datetime(2026, 2, 1))
    for one in entries:
        builder = builder.add_revoked_certificate(one)
    if delta:
        builder = builder.add_extension(x509.DeltaCRLIndicator(3), True)
    return builder.sign(key("own"), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def issued_by(text: str) -> x509.CertificateIssuer:
    return x509.CertificateIssuer([x509.DirectoryName(name(text))])


def test_an_indirect_crl_lists_certificates_of_other_cas_as_well() -> None:
    listed = crl(entry(1), entry(2, issued_by("Other CA")), entry(3), entry(4, issued_by("Own CA")), entry(5))
    assert [serial for serial, _at, _why in revoked_in(load_crl(listed))] == [1, 4, 5]


def test_what_is_no_more_on_hold_is_not_revoked() -> None:
    released, held = x509.CRLReason(x509.ReasonFlags.remove_from_crl), x509.CRLReason(x509.ReasonFlags.certificate_hold)
    listed = crl(entry(1, held), entry(2, released), entry(3), delta=True)
    assert [(serial, why) for serial, _at, why in revoked_in(load_crl(listed))] == [(1, "certificateHold"), (3, None)]
    assert is_delta(listed) and not is_delta(crl())


def test_an_entry_that_cannot_be_read_is_a_revocation_all_the_same() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.29"), b"\x30\x04\xa3\x02\x30\x00")
    assert [serial for serial, _at, _why in revoked_in(load_crl(crl(entry(1, odd), entry(2))))] == [1, 2]
