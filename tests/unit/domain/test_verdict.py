# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one verdict."""

from __future__ import annotations

from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_reader, _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._generation import uncovered
from ansible_collections.keyward.pki.plugins.module_utils._sealing import seal
from ansible_collections.keyward.pki.plugins.module_utils._verdict import judge, open_bundle
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from support.authorities import PASSWORD, certificate, generation, key, sealed


def verdict(data, expected, passwords=(PASSWORD,), sha256=None):
    return judge([open_bundle("authority.p12", data, list(passwords), sha256)], expected)


def codes(found):
    return [reason.code for reason in found.reasons]


def test_every_generation_comes_back():
    found = verdict(sealed("a", "b", "c"), [generation("a"), generation("b", 1), generation("c", 2)])
    assert found.restorable and not found.advisories


def test_a_wrong_password_is_no_damage():
    assert codes(verdict(sealed("a"), [generation("a")], ["not the password at all"])) == ["password_wrong"]


def test_the_second_password_is_tried():
    assert verdict(sealed("a"), [generation("a")], ["not the password at all", PASSWORD]).restorable


def test_truncated_is_malformed():
    assert codes(verdict(sealed("a")[:-1], [generation("a")])) == ["malformed"]


def test_other_bytes_than_recorded():
    assert codes(verdict(sealed("a"), [generation("a")], sha256="0" * 64)) == ["digest_mismatch"]


def test_a_generation_that_is_not_in_it():
    assert codes(verdict(sealed("a"), [generation("a"), generation("b", 1)])) == ["generation_missing"]


def test_a_renewal_with_the_same_key_is_a_generation_of_its_own():
    renewed = generation("a", 1)
    found = verdict(sealed("a"), [generation("a"), renewed])
    assert codes(found) == ["generation_missing"]
    assert found.reasons[0].certificate == renewed.sha256


def test_another_authority_is_said_to_be_one():
    found = verdict(sealed("a"), [generation("x", subject="Other CA")])
    assert codes(found) == ["foreign_authority"]
    assert "CN=Example Root CA" in found.reasons[0].message


def test_a_certificate_without_its_key():
    data = _pkcs12_writer.write([_pkcs12_writer.NamedKey(key("a"), "a", [certificate("a")])], [generation("b", 1).certificate], PASSWORD)
    assert codes(verdict(data, [generation("a"), generation("b", 1)])) == ["key_missing"]


def test_a_certificate_with_another_key():
    data = _pkcs12_writer.write([_pkcs12_writer.NamedKey(key("stranger"), "a", [certificate("a")])], [], PASSWORD)
    assert codes(verdict(data, [generation("a")])) == ["key_mismatch"]
    assert codes(verdict(data, [])) == ["key_mismatch"]


def test_a_file_that_opens_without_a_password():
    loaded = x509.load_der_x509_certificate(certificate("a"))
    data = pkcs12.serialize_key_and_certificates(b"a", key("a"), loaded, None, serialization.NoEncryption())
    assert codes(verdict(data, [generation("a")])) == ["opens_without_password"]


def test_a_key_in_a_token_is_never_a_success():
    token = generation("b", 1, exportable=False)
    assert codes(verdict(sealed("a", "b"), [generation("a"), token])) == ["not_exportable"]


def test_nothing_is_restorable_from_nothing():
    assert not judge([], [generation("a")]).restorable


def test_weak_encryption_and_trailing_bytes_are_advisories():
    found = verdict(sealed("a") + b"\n", [generation("a")])
    assert found.restorable
    assert [advisory.code for advisory in found.advisories] == ["trailing_bytes"]


def test_two_certificates_on_one_key_need_one_key():
    first, second = generation("a"), generation("a", 1)
    data = seal([first, second], {first.public_key_sha256: key("a")}, [], PASSWORD)
    assert len(_pkcs12_reader.read(data, PASSWORD).private_keys) == 1
    assert verdict(data, [first, second]).restorable


def test_uncovered_counts_certificates_not_keys():
    assert uncovered([generation("a"), generation("a", 1)], {generation("a").sha256}) == [generation("a", 1)]
