# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written is read back, by code that shares nothing but primitives with what wrote it."""

from __future__ import annotations

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_crypto, _pkcs12_reader, _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._x509 import public_key_sha256
from cryptography.hazmat.primitives.asymmetric import x25519
from support import pfx
from support.pfx import AES, MAC, PASSWORD, three_keys

# --- round trips ---


@pytest.mark.parametrize("kinds", [["rsa-2048"], ["ec-secp256r1", "ec-secp521r1"], ["rsa-2048", "ec-secp384r1", "ed25519", "ed448"]])
def test_every_key_comes_back(few_iterations, kinds):
    keys = [pfx.named(kind, f"generation {index}", index) for index, kind in enumerate(kinds)]
    contents = _pkcs12_reader.read(_pkcs12_writer.write(keys, [], PASSWORD), PASSWORD)
    assert [pfx.pkcs8(entry.key) for entry in contents.private_keys] == [pfx.pkcs8(entry.key) for entry in keys]
    assert [entry.friendly_name for entry in contents.private_keys] == [entry.name for entry in keys]
    assert [entry.public_key_sha256 for entry in contents.private_keys] == [public_key_sha256(entry.key.public_key()) for entry in keys]
    assert all(entry.encrypted for entry in contents.private_keys)
    assert contents.key_bags == len(kinds)
    assert (contents.unreadable, contents.advisories) == ((), ())


def test_certificates_follow_their_keys_and_one_of_each_key_bears_its_id(few_iterations):
    renewed = pfx.named("rsa-2048", "root")
    older = pfx.certificate(renewed.key, "Test root", 7)
    renewed = _pkcs12_writer.NamedKey(renewed.key, renewed.name, [*renewed.certificates, older])
    other, chain = pfx.named("ec-secp256r1", "other"), pfx.certificate(pfx.key("ed25519"), "Above", 1)
    contents = _pkcs12_reader.read(_pkcs12_writer.write([renewed, other], [chain, older], PASSWORD), PASSWORD)
    key_ids = [bytes.fromhex(public_key_sha256(entry.key.public_key())) for entry in (renewed, other)]
    assert [entry.local_key_id for entry in contents.private_keys] == key_ids
    assert [(entry.der, entry.local_key_id, entry.friendly_name) for entry in contents.certificates] == [
        (renewed.certificates[0], key_ids[0], "root"),
        (other.certificates[0], key_ids[1], "other"),
        (older, None, None),
        (chain, None, None),
    ]


def test_a_bundle_says_how_it_is_protected():
    contents = _pkcs12_reader.read(_pkcs12_writer.write([pfx.named("ed25519", "one")], [], PASSWORD), PASSWORD)
    assert contents.encryption == _pkcs12_reader.Encryption((AES,), (AES,), MAC, 300_000, False)


def test_keys_and_certificates_share_a_salt_that_no_other_bundle_has(few_iterations):
    def salts_and_ivs(data):
        items = _pkcs12_reader.parsed(data, _pkcs12_crypto.Secrets(PASSWORD)).items
        return {item.scheme.kdf.salt for item in items}, {item.scheme.iv for item in items}

    first, second = (salts_and_ivs(_pkcs12_writer.write(three_keys(), [], PASSWORD)) for _bundle in range(2))
    assert len(first[0]) == len(second[0]) == 1
    assert not first[0] & second[0]
    assert len(first[1] | second[1]) == 8


@pytest.mark.parametrize(("keys", "iterations"), [(1, 300_000), (2, 300_000), (3, 250_000), (4, 200_000), (9, 100_000), (199, 5_000)])
def test_iterations_are_what_dotnet_still_opens(keys, iterations):
    assert _pkcs12_writer.iterations_for(keys) == iterations


def test_writing_and_reading_cost_one_derivation_each(few_iterations, derivations):
    data = _pkcs12_writer.write(three_keys(), [], PASSWORD)
    assert derivations == {"pbkdf2": 1, "pkcs12": 1}
    _pkcs12_reader.read(data, PASSWORD)
    assert derivations == {"pbkdf2": 2, "pkcs12": 2}
    assert _pkcs12_reader.opens(data, PASSWORD)
    assert derivations == {"pbkdf2": 3, "pkcs12": 2}
    assert not _pkcs12_reader.opens(data, "another")
    assert derivations == {"pbkdf2": 4, "pkcs12": 2}


# --- what is not written ---


@pytest.mark.parametrize("password", ["", "pässwörd", "tab\there", "newline\n", "key\N{KEY}"])
def test_a_password_that_readers_encode_differently_is_refused(password):
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        _pkcs12_writer.write([pfx.named("ed25519", "one")], [], password)
    assert not password or password not in str(refused.value)


def test_names_and_keys_are_unique():
    one = pfx.named("ed25519", "one")
    with pytest.raises(ValueError, match="name"):
        _pkcs12_writer.write([one, pfx.named("ec-secp256r1", "ONE")], [], PASSWORD)
    with pytest.raises(ValueError, match="twice"):
        _pkcs12_writer.write([one, _pkcs12_writer.NamedKey(one.key, "two", [])], [], PASSWORD)


def unwritable_keys():
    yield x25519.X25519PrivateKey.generate()
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa

        yield mldsa.MLDSA65PrivateKey.generate()
    except Exception:  # before release 47, or a build whose OpenSSL knows none
        return


def test_a_key_that_pkcs12_readers_would_not_bring_back_is_refused_with_the_reason():
    for private_key in unwritable_keys():
        refusal = _pkcs12_writer.key_refusal(private_key)
        assert refusal
        assert type(private_key).__name__ in refusal
        with pytest.raises(_pkcs12_crypto.Unsupported) as refused:
            _pkcs12_writer.write([_pkcs12_writer.NamedKey(private_key, "one", [])], [], PASSWORD)
        assert str(refused.value) == refusal
    assert [_pkcs12_writer.key_refusal(pfx.key(kind)) for kind in ("rsa-2048", "ec-secp256r1", "ed25519", "ed448")] == [None] * 4
