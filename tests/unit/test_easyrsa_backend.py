# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The easyrsa backend on PKIs that the real easyrsa made and goes on with, Debian's and the newer one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _backends
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.easyrsa import EasyrsaBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from cryptography import x509
from support.easyrsa_ca import PASSPHRASE, VERSIONS, EasyrsaCa, EasyrsaPki
from support.openssl_ca import openssl
from support.plays import fingerprint, fingerprints_in

MakeCa = Callable[..., EasyrsaCa]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_ca(tmp_path: Path, version: str) -> MakeCa:
    return lambda directory="pki", **known: EasyrsaCa(tmp_path / directory, version, **known)


@pytest.fixture
def ca(make_ca: MakeCa) -> EasyrsaCa:
    return make_ca()


@pytest.fixture
def renewed(tmp_path: Path) -> EasyrsaCa:
    """Renewed twice by easy-rsa's own renew-ca, which Debian's release has not."""
    ca = EasyrsaCa(tmp_path / "pki", "3.2")
    ca.easyrsa("renew-ca")
    ca.easyrsa("renew-ca")
    return ca


def backend(ca: EasyrsaPki, **known: Any) -> EasyrsaBackend:
    options = {"backend": "easyrsa", "directory": str(ca.directory), "private_key_passphrase": ca.passphrase, **known}
    found = _backends.find(Selector(**options))
    assert isinstance(found, EasyrsaBackend)
    return found


def facts(ca: EasyrsaPki, **known: Any) -> Facts:
    return backend(ca, **known).facts()


def codes(found: Facts) -> list[str]:
    return [advisory.code for advisory in found.advisories]


# --- what is there -----------------------------------------------------------------------------------------------


def test_a_pki_as_build_ca_makes_it(ca: EasyrsaCa) -> None:
    ca.issue("first")
    found = facts(ca)
    (generation,) = found.generations
    assert generation.sha256 == fingerprint(ca.certificate) and generation.private_key == "present" and generation.encrypted_at_rest
    assert generation.key_place and generation.key_place.path == str(ca.private_key)
    assert (found.authority.backend, dict(found.authority.place)) == ("easyrsa", {"directory": str(ca.directory), "name": "CA_default"})
    assert found.database.path == str(ca.directory / "index.txt") and found.database.entries == 1
    assert codes(found) == [] and found.pending_request is None


def test_an_encrypted_key_needs_its_passphrase(ca: EasyrsaCa) -> None:
    for passphrase in (None, "another"):
        found = facts(ca, private_key_passphrase=passphrase)
        assert found.generations[0].private_key == "inaccessible" and not found.private_keys
        assert codes(found) == ["key_inaccessible" if passphrase else "key_needs_passphrase"]


def test_auto_takes_what_easyrsa_calls_a_pki_and_nothing_else(ca: EasyrsaCa, tmp_path: Path) -> None:
    assert isinstance(_backends.find(Selector(directory=str(ca.directory))), EasyrsaBackend)
    others = (
        {"directory": str(ca.directory), "config_file": str(tmp_path / "openssl.cnf")},
        {"directory": str(ca.directory), "certificate_file": "ca.crt", "private_key_file": "private/ca.key"},
        {"directory": str(tmp_path)},
    )
    for other in others:
        assert not isinstance(_backends.find(Selector(**other)), EasyrsaBackend), other


def test_a_pki_that_is_gone_is_nothing_there(ca: EasyrsaCa) -> None:
    for gone in (ca.certificate.unlink, lambda: shutil.rmtree(ca.directory)):
        gone()
        with pytest.raises(NothingThere):
            facts(ca)


def test_generations_of_renew_ca(renewed: EasyrsaCa) -> None:
    """They lie in expired-ca.list, the newest first, with text around each."""
    listed = renewed.directory / "expired-ca.list"
    before = fingerprints_in(listed.read_text())
    found = facts(renewed)
    assert [generation.index for generation in found.generations] == [0, 1, 2] and codes(found) == []
    assert {generation.sha256 for generation in found.generations[:2]} == before and len(before) == 2
    assert found.generations[-1].sha256 == fingerprint(renewed.certificate)
    first = openssl("x509", "-noout", "-serial", "-in", listed).stdout.strip().partition("=")[2]
    assert found.generations[1].serial.upper() == first, "the second is the first in the list"
    assert {generation.private_key for generation in found.generations} == {"present"}


def test_generations_of_both_kinds_keep_their_numbers(renewed: EasyrsaCa, tmp_path: Path) -> None:
    """Two of renew-ca, then one that was kept as ca.2.crt, then the current one; what both name is there once."""
    shutil.copy(renewed.certificate, renewed.directory / "ca.2.crt")
    with (renewed.directory / "expired-ca.list").open("a") as listed:
        listed.write(renewed.certificate.read_text())
    options = ("-key", renewed.private_key, "-passin", "stdin", "-subj", "/CN=Example Root CA", "-out", renewed.certificate)
    openssl("req", "-new", "-x509", *options, passphrase=PASSPHRASE)
    found = facts(renewed)
    assert [generation.index for generation in found.generations] == [0, 1, 2, 3] and codes(found) == []
    assert len({generation.sha256 for generation in found.generations}) == 4


def test_a_foreign_certificate_in_the_list_is_told_and_left_out(renewed: EasyrsaCa, tmp_path: Path) -> None:
    other = EasyrsaCa(tmp_path / "other", "3.2", name="Another CA")
    with (renewed.directory / "expired-ca.list").open("a") as listed:
        listed.write(other.certificate.read_text())
    found = facts(renewed)
    assert codes(found) == ["ignored_certificate"] and len(found.generations) == 3


def test_a_subordinate_that_waits_for_its_parent(make_ca: MakeCa) -> None:
    parent, below = make_ca("root"), make_ca("below", name="Below", subordinate=True)
    with pytest.raises(NothingThere):
        facts(below)
    below.certificate.write_text(below.answered_by(parent))
    found = facts(below)
    assert found.pending_request is None, "easy-rsa leaves its answered request where it is"
    assert [generation.subject for generation in found.generations] == ["CN=Below"]


# --- what configures it ------------------------------------------------------------------------------------------


def test_the_configuration_names_the_files(ca: EasyrsaCa) -> None:
    """In the PKI, in the folder of easy-rsa above it, or nowhere."""
    expected = backend(ca).files()
    configuration = ca.directory / "openssl-easyrsa.cnf"
    text = Path("/usr/share/easy-rsa/openssl-easyrsa.cnf").read_text()
    text = text.replace("[ CA_default ]", "[ CA_default ]\ncrlnumber = $ENV::EASYRSA_PKI/crlnumber")
    for place in (configuration, ca.directory.parent / "openssl-easyrsa.cnf"):
        configuration.unlink(missing_ok=True)
        assert backend(ca).files() == expected
        place.write_text(text)
        assert backend(ca).files().crl_number == str(ca.directory / "crlnumber")
    with pytest.raises(KeywardError, match="Leave name out"):
        facts(ca, name="another")


def test_vars_are_read_as_easyrsa_reads_them_and_never_run(ca: EasyrsaCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = ca.directory / "vars"
    variables.write_text(
        'set_var EASYRSA_CRL_DAYS\t"30" # a month\n#set_var EASYRSA_CERT_EXPIRE 10\n  set_var EASYRSA_DIGEST sha512\n'
        f'set_var EASYRSA_PKI "/elsewhere"\nset_var EASYRSA_DN "$(touch {tmp_path}/ran)"\ntouch {tmp_path}/ran\n'
    )
    found = backend(ca).environment
    expected = {"CRL_DAYS": "30", "CERT_EXPIRE": "825", "DIGEST": "sha512", "DN": "cn_only", "PKI": str(ca.directory)}
    assert {name: found[f"EASYRSA_{name}"] for name in expected} == expected
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("EASYRSA_CRL_DAYS", "7")
    assert backend(ca).environment["EASYRSA_CRL_DAYS"] == "7", "the environment comes first"
    variables.unlink()
    (tmp_path / "vars").write_text("set_var EASYRSA_DIGEST sha384\n")
    assert backend(ca).environment["EASYRSA_DIGEST"] == "sha256", "the folder above is not easy-rsa's"
    (tmp_path / "x509-types").mkdir()
    assert backend(ca).environment["EASYRSA_DIGEST"] == "sha384"


def test_the_first_set_var_counts_as_easyrsa_has_it(ca: EasyrsaCa) -> None:
    (ca.directory / "vars").write_text("set_var EASYRSA_CRL_DAYS 20\nset_var EASYRSA_CRL_DAYS 40\n")
    assert backend(ca).environment["EASYRSA_CRL_DAYS"] == "20"
    crl = x509.load_pem_x509_crl(ca.sign_crl().read_bytes())
    assert crl.next_update_utc and (crl.next_update_utc - crl.last_update_utc).days == 20


def test_nothing_is_signed_by_settings_that_only_a_shell_can_tell(ca: EasyrsaCa, tmp_path: Path) -> None:
    (ca.directory / "vars").write_text("set_var EASYRSA_DN org\nset_var EASYRSA_CRL_DAYS $((2*30))\n")
    found = backend(ca)
    (said,) = (each for each in found.facts().advisories if each.code == "setting_not_read")
    assert f"EASYRSA_CRL_DAYS (line 2 of {ca.directory}/vars)" in said.message
    with pytest.raises(KeywardError, match="EASYRSA_CRL_DAYS.*Write plain values"):
        found.signing(found.files(), str(tmp_path))
    (ca.directory / "vars").write_text('set_var EASYRSA_CRL_DAYS "60"\nset_var EASYRSA_REQ_OU "$(hostname)"\n')
    assert codes(facts(ca)) == []


def test_files_that_are_stated_are_taken(ca: EasyrsaCa) -> None:
    ca.certificate.rename(ca.directory / "moved.crt")
    ca.private_key.rename(ca.directory / "private" / "moved.key")
    found = facts(ca, certificate_file="moved.crt", private_key_file="private/moved.key")
    assert [generation.private_key for generation in found.generations] == ["present"]
    assert found.authority.place["certificate_file"] == str(ca.directory / "moved.crt")
