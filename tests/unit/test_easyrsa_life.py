# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs of easy-rsa that are renewed and sign; the real easyrsa goes on with each generation, its keys encrypted throughout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.easyrsa import EasyrsaBackend
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Answer, Changed, Renew
from support.easyrsa_ca import VERSIONS, EasyrsaCa, EasyrsaPki, assert_crl_of, assert_verifies
from support.openssl_ca import openssl
from support.plays import fingerprint, public_key

MakeCa = Callable[..., EasyrsaCa]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_ca(tmp_path: Path, version: str) -> MakeCa:
    return lambda directory="pki", **known: EasyrsaCa(tmp_path / directory, version, **known)


def backend(pki: EasyrsaPki) -> EasyrsaBackend:
    return EasyrsaBackend(Selector(backend="easyrsa", directory=str(pki.directory), private_key_passphrase=pki.passphrase))


def renew(pki: EasyrsaPki, *, reuse_key: bool = False, check: bool = False) -> Changed:
    return backend(pki).renew(Renew(fingerprint(pki.certificate), reuse_key), check)


def issuer(certificate: Path) -> str:
    return openssl("x509", "-in", certificate, "-noout", "-issuer", "-nameopt", "RFC2253").stdout.strip().partition("=")[2]


# --- renewal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse_key", [False, True])
def test_easyrsa_goes_on_with_either_generation(make_ca: MakeCa, reuse_key: bool) -> None:
    ca = make_ca()
    first, old, old_key = ca.issue("first"), fingerprint(ca.certificate), public_key(ca.private_key, ca.passphrase)
    assert renew(ca, reuse_key=reuse_key, check=True).changed and fingerprint(ca.certificate) == old
    done = renew(ca, reuse_key=reuse_key)
    assert [generation.private_key for generation in done.generations] == ["present", "present"] and not done.pending
    kept, kept_key = ca.directory / "ca.0.crt", ca.private_key.with_name("ca.0.key")
    assert fingerprint(kept) == old != fingerprint(ca.certificate) and kept_key.exists() is not reuse_key
    assert public_key(ca.private_key if reuse_key else kept_key, ca.passphrase) == old_key
    for key in ca.private_key.parent.glob("ca*.key"):
        assert key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----") and key.stat().st_mode & 0o077 == 0

    assert "Example Root CA" in ca.easyrsa("show-ca").stdout
    assert_verifies(ca.issue("second"), ca.certificate)
    assert_verifies(ca.certificate, ca.certificate)
    ca.easyrsa("revoke", "second")
    assert_crl_of(ca.sign_crl(), ca.certificate)
    assert_verifies(first, kept)
    assert_verifies(ca.issue("third", **ca.older(0)), kept)
    ca.easyrsa("revoke", "first", **ca.older(0))
    assert_crl_of(ca.sign_crl(**ca.older(0)), kept)
    assert sorted(state for state, _serial, _name in ca.index()) == ["R", "R", "V"]


def test_a_renewal_after_those_of_renew_ca(tmp_path: Path) -> None:
    ca = EasyrsaCa(tmp_path / "pki", "3.2")
    ca.easyrsa("renew-ca")
    done = renew(ca)
    assert [generation.index for generation in done.generations] == [0, 1, 2]
    assert len({generation.public_key_sha256 for generation in done.generations[:2]}) == 1
    assert (ca.directory / "ca.1.crt").exists() and ca.private_key.with_name("ca.0.key").exists()
    ca.easyrsa("renew-ca")
    done = renew(ca)
    assert [generation.private_key for generation in done.generations] == ["present"] * 5
    assert_crl_of(ca.sign_crl(), ca.certificate)


def test_a_subordinate_is_signed_by_its_parent_and_never_by_itself(make_ca: MakeCa) -> None:
    parent, below = make_ca("root"), make_ca("below", name="Below", subordinate=True)
    below.certificate.write_text(below.answered_by(parent))
    first = below.issue("first")
    waiting = renew(below)
    assert waiting.pending and waiting.request and issuer(below.certificate) == "CN=Example Root CA"
    request = Path(str(waiting.request_file))
    assert_verifies(below.issue("meanwhile"), below.certificate)
    assert not renew(below).changed, "one request, until it is answered"
    answer = below.answered_by(parent, "below-2", request)
    done = backend(below).answer(Answer(fingerprint(below.certificate), answer), False)
    assert len(done.generations) == 2 and not request.exists()
    assert issuer(below.certificate) == issuer(below.directory / "ca.0.crt") == "CN=Example Root CA"
    assert_verifies(below.certificate, parent.certificate)
    assert_verifies(below.issue("second"), below.certificate)
    assert_verifies(first, below.directory / "ca.0.crt")
    assert_crl_of(below.sign_crl(**below.older(0)), below.directory / "ca.0.crt")


def test_a_subordinate_that_renew_ca_made_self_signed_asks_its_parent_again(tmp_path: Path) -> None:
    parent = EasyrsaCa(tmp_path / "root", "3.2")
    below = EasyrsaCa(tmp_path / "below", "3.2", name="Below", subordinate=True)
    below.certificate.write_text(below.answered_by(parent))
    below.easyrsa("renew-ca")
    assert issuer(below.certificate) == "CN=Below", "what easy-rsa does"
    waiting = renew(below)
    assert waiting.pending and waiting.request_file
    answer = below.answered_by(parent, "below-2", Path(waiting.request_file))
    backend(below).answer(Answer(fingerprint(below.certificate), answer), False)
    assert issuer(below.certificate) == "CN=Example Root CA"
    assert_verifies(below.issue("first"), below.certificate)
