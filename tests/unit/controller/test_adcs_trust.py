# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CA on Windows gets beside its certificate, so that it can check that."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from adcs import windows_pfx
from adcs.machine import SOFTWARE_KSP
from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import generation_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities, Told
from ansible_collections.keyward.pki.plugins.module_utils._verdict import bundle_generations, judge, open_bundle
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs, _adcs_keys, _adcs_trust
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.adcs import Parent
from support.authorities import authority, generation

CHECKS = Abilities(checks_its_certificate=True)


def answer(parent: Parent, distribution_point: bool) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Issuing CA")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return parent.sign(request.public_bytes(serialization.Encoding.PEM), distribution_point)


def test_crls_of_the_cas_above_come_along_and_no_others() -> None:
    parent, other = Parent(), Parent("Another CA")
    certificate = answer(parent, True)
    der = _x509.pem_certificates(certificate)
    given = (certificate + parent.crl()).decode()
    (crl,) = _adcs_trust.crls_beside(given, der)
    assert x509.load_der_x509_crl(crl).issuer == parent.name and _adcs_trust.crls_beside(certificate.decode(), der) == ()
    with pytest.raises(KeywardError, match="CN=Another CA was given with it, which is no CA above"):
        _adcs_trust.crls_beside(given + other.crl().decode(), der)
    with pytest.raises(KeywardError, match="can't be read"):
        _adcs_trust.crls_beside(given + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", der)


def test_a_certificate_that_names_no_crl_is_told_where_that_matters() -> None:
    without, with_one = (generation_of(_x509.pem_certificates(answer(Parent(), each))[0]) for each in (False, True))
    assert [one.code for one in _adcs_trust.of_answer(without, CHECKS)] == ["no_distribution_point"]
    assert _adcs_trust.of_answer(with_one, CHECKS) == [] and _adcs_trust.of_answer(without, Abilities()) == []


def test_where_keys_are_kept_is_told() -> None:
    """In another provider than when the newest backup was made; or as a certificate says that can't be renewed with its key."""
    ours = Told(authority(), (), own={"provider": "An HSM Key Storage Provider"})
    assert [one.code for one in _adcs_keys.storage_changed(ours, {"provider": "Microsoft Software Key Storage Provider"})] == [
        "key_storage_changed"
    ]
    for kept in (None, {}, {"provider": None}, {"provider": "An HSM Key Storage Provider"}):
        assert _adcs_keys.storage_changed(ours, kept) == []
    assert _adcs_keys.storage_changed(Told(authority(), ()), {"provider": "x"}) == []
    ksp = {"provider": "Microsoft Software Key Storage Provider", "key_spec": 2}
    trapped = replace(generation("first"), key_storage=ksp)
    others = [replace(trapped, key_storage=storage) for storage in (None, {**ksp, "key_spec": 0}, {**ksp, "provider": "A Provider"})]
    for own in (None, {}, {"key_specs": {trapped.sha256: None}}):
        (told,) = _adcs_keys.wrong_specification([trapped, *others], own)
        assert "KeySpec 2" in told.message and "KeyProv.inf" in told.message
    assert _adcs_keys.wrong_specification([trapped], {"key_specs": {trapped.sha256: 0}}) == [], (
        "the certificate's property, not the file, decides"
    )
    (told,) = _adcs_keys.wrong_specification([replace(trapped, key_storage={**ksp, "key_spec": 0})], {"key_specs": {trapped.sha256: 1}})
    assert "KeySpec 1" in told.message


def test_an_account_of_the_directory_is_whole_or_not_given() -> None:
    options = {"directory_user": None, "directory_password": None}
    assert _adcs.directory_account("ca_install", options) is None
    whole = {"directory_user": "EXAMPLE\\pki-admin", "directory_password": "a secret"}
    assert _adcs.directory_account("ca_install", whole) == {"user": "EXAMPLE\\pki-admin", "password": "a secret"}
    for name in options:
        with pytest.raises(KeywardError, match="belong together") as caught:
            _adcs.directory_account("ca_install", {**whole, name: None})
        assert "a secret" not in str(caught.value) and name in str(caught.value)
    with pytest.raises(KeywardError, match="not Windows"):
        _adcs.refuse_directory_account("ca_install", whole)


def test_an_ml_dsa_key_is_kept_and_proved_as_windows_wrote_it() -> None:
    """Where the library here knows it; elsewhere the verdict names its algorithm."""
    mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
    key, start = mldsa.MLDSA65PrivateKey.generate(), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PQ Root")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = builder.not_valid_before(start).not_valid_after(start + timedelta(days=9)).sign(key, None)
    entry = windows_pfx.Entry(certificate.public_bytes(serialization.Encoding.DER), key, "PQ Root", SOFTWARE_KSP, 0)
    bundle = open_bundle("authority.p12", windows_pfx.write([entry], [], "a password of some length", "aes"), ["a password of some length"])
    (one,) = bundle_generations([bundle])
    assert judge([bundle], [one]).restorable
