# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs of easy-rsa that are renewed and sign; the real easyrsa goes on with each generation, its keys encrypted throughout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _lock
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends import easyrsa
from ansible_collections.keyward.pki.plugins.module_utils._backends.easyrsa import EasyrsaBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import GivenFile, ImportKeys
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import ExportKeys
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import (
    Answer,
    Attribute,
    Changed,
    Crls,
    DueCrl,
    Install,
    Renew,
    Sign,
    Signed,
)
from support.easyrsa_ca import VERSIONS, EasyrsaCa, EasyrsaPki, assert_crl_of, assert_verifies
from support.killed import killed_at
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
    assert old in {advisory.certificate for advisory in done.advisories if advisory.code == "needs_older_certificate"}
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


# --- certificates of subordinates --------------------------------------------------------------------------------


def sign(pki: EasyrsaPki, request: Path, check: bool = False, **more: Any) -> Signed:
    return backend(pki).sign(Sign(fingerprint(pki.certificate), request.read_text(), **more), check)


def text(certificate: Path) -> str:
    return openssl("x509", "-in", certificate, "-noout", "-text").stdout


def test_a_request_of_easyrsa_is_signed_once(make_ca: MakeCa) -> None:
    parent, below = make_ca("root"), make_ca("below", name="Below & Sons", subordinate=True)
    request = below.directory / "reqs" / "ca.req"
    assert sign(parent, request, check=True).certificate is None and parent.index() == []
    done = sign(parent, request)
    again = sign(parent, request)
    assert done.changed and not again.changed and done.certificate == again.certificate
    below.certificate.write_text(str(done.certificate))
    assert [(state, name) for state, _serial, name in parent.index()] == [("V", "/CN=Below & Sons")]
    assert_verifies(below.certificate, parent.certificate)
    assert_verifies(below.issue("first"), below.certificate)
    assert "CA:TRUE\n" in text(below.certificate) and len(parent.index()[0][1]) > 30, "serial numbers are random"
    days = openssl("x509", "-in", below.certificate, "-noout", "-checkend", str(824 * 86400), check=False)
    assert (
        days.returncode == 0 and openssl("x509", "-in", below.certificate, "-noout", "-checkend", str(826 * 86400), check=False).returncode
    )
    assert fingerprint(parent.directory / "issued" / "below-sons.crt") == fingerprint(below.certificate)
    parent.easyrsa("revoke", "below-sons")
    assert [state for state, _serial, _name in parent.index()] == ["R"]
    assert sign(parent, request).changed, "what is revoked answers no more"


def test_another_of_the_same_name_stays(make_ca: MakeCa) -> None:
    parent = make_ca("root")
    mine = parent.issue("below").read_bytes()
    for number in range(2):
        below = make_ca(f"below{number}", name="Below", subordinate=True, passphrase=f"another key {number}")
        sign(parent, below.directory / "reqs" / "ca.req")
    filed = sorted(path.name for path in (parent.directory / "issued").iterdir())
    assert len(filed) == 3 and (parent.directory / "issued" / "below.crt").read_bytes() == mine
    parent.easyrsa("revoke", filed[0].removesuffix(".crt"))


def test_the_types_and_variables_of_the_pki_say_how_it_is_signed(make_ca: MakeCa) -> None:
    parent, below = make_ca("root"), make_ca("below", name="Below", subordinate=True)
    types = parent.directory / "x509-types"
    types.mkdir()
    (types / "COMMON").write_text("crlDistributionPoints = URI:http://pki.example.com/root.crl\n")
    (types / "ca").write_text("basicConstraints = CA:TRUE # all\nsubjectKeyIdentifier = hash\nkeyUsage = keyCertSign, cRLSign\n")
    (types / "short").write_text("basicConstraints = critical, CA:TRUE, pathlen:7\n")
    (types / "server").write_text("basicConstraints = CA:FALSE\n")
    with (parent.directory / "vars").open("a") as variables:
        variables.write("set_var EASYRSA_CERT_EXPIRE 99\nset_var EASYRSA_SUBCA_LEN 0\nset_var EASYRSA_DIGEST sha512\n")
    request = below.directory / "reqs" / "ca.req"
    for kind in ("server", "COMMON", "absent", "../../etc/passwd"):
        with pytest.raises(KeywardError, match="CA:TRUE"):
            sign(parent, request, extensions=kind)
    done = sign(parent, request, days=7)
    below.certificate.write_text(str(done.certificate))
    shown = text(below.certificate)
    for expected in ("URI:http://pki.example.com/root.crl", "CA:TRUE, pathlen:0", "ecdsa-with-SHA512"):
        assert expected in shown
    assert openssl("x509", "-in", below.certificate, "-noout", "-checkend", str(8 * 86400), check=False).returncode == 1
    (parent.directory / "vars").unlink()
    other = make_ca("other", name="Other", subordinate=True)
    other.certificate.write_text(str(sign(parent, other.directory / "reqs" / "ca.req", extensions="short").certificate))
    assert "CA:TRUE, pathlen:7" in text(other.certificate)


# --- CRLs --------------------------------------------------------------------------------------------------------


def sign_crls(pki: EasyrsaPki, days: int | None = None) -> None:
    due = tuple(DueCrl(generation.sha256, None) for generation in backend(pki).facts().generations)
    backend(pki).crls(Crls(fingerprint(pki.certificate), due, days=days), False)


def test_each_generation_signs_its_crl(make_ca: MakeCa) -> None:
    ca = make_ca()
    ca.issue("first")
    ca.easyrsa("revoke", "first", "keyCompromise")
    ca.sign_crl()
    (ca.directory / "crl.pem").unlink()
    renew(ca)
    sign_crls(ca)
    for crl, certificate in (("crl.pem", "ca.crt"), ("crl.0.pem", "ca.0.crt")):
        assert_crl_of(ca.directory / crl, ca.directory / certificate)
        shown = openssl("crl", "-in", ca.directory / crl, "-noout", "-text").stdout
        assert ca.index()[0][1] in shown and "CRL Number" not in shown
    der = ca.directory / "crl.der"
    assert der.exists() is (ca.version == "3.2"), "easy-rsa makes it"
    if der.exists():
        pem = openssl("crl", "-inform", "DER", "-in", der).stdout
        assert pem == (ca.directory / "crl.pem").read_text()
    until = openssl("crl", "-in", ca.directory / "crl.pem", "-noout", "-nextupdate").stdout
    ca.sign_crl()
    assert openssl("crl", "-in", ca.directory / "crl.pem", "-noout", "-nextupdate").stdout[:18] == until[:18], "EASYRSA_CRL_DAYS"


def test_a_pki_whose_configuration_names_no_days(tmp_path: Path) -> None:
    """3.2 writes one without, and says them on the command line."""
    ca = EasyrsaCa(tmp_path / "pki", "3.1")
    configuration = ca.directory / "openssl-easyrsa.cnf"
    configuration.write_text("".join(line for line in configuration.read_text().splitlines(True) if not line.startswith("default_")))
    with configuration.open("a") as more:
        more.write("[ CA_default ]\ndefault_md = sha256")
    sign_crls(ca)
    assert_crl_of(ca.directory / "crl.pem", ca.certificate)


def ended_process() -> int:
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_nothing_is_signed_while_easyrsa_is_at_work(make_ca: MakeCa, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = make_ca()
    monkeypatch.setattr(_lock, "LONGEST_WAIT", 0)
    (ca.directory / "lock.file").write_text(f"{os.getpid()}\n")
    for order in (lambda: sign_crls(ca), lambda: renew(ca)):
        with pytest.raises(KeywardError, match=f"another program is at work: .*lock.file.*process {os.getpid()}"):
            order()
    monkeypatch.setattr(_lock, "LONGEST_WAIT", 60)
    (ca.directory / "lock.file").write_text(f"{ended_process()}\n")
    for order in (lambda: sign_crls(ca), lambda: renew(ca)):
        with pytest.raises(KeywardError, match="left behind by process .* no longer runs on this host. See what it left undone"):
            order()
    assert not (ca.directory / "crl.pem").exists() and not (ca.directory / "ca.0.crt").exists()
    (ca.directory / "lock.file").unlink()
    sign_crls(ca)


# --- keys --------------------------------------------------------------------------------------------------------


def test_every_generation_comes_back(tmp_path: Path) -> None:
    """Those of renew-ca had no file of their own: now each has one, and the list may come back with the database, too."""
    ca = EasyrsaCa(tmp_path / "pki", "3.2")
    ca.easyrsa("renew-ca")
    renew(ca)
    saved = {name: (ca.directory / name).read_bytes() for name in ("expired-ca.list", "index.txt", "serial")}
    told = backend(ca).export_keys(ExportKeys(one_time_password="a password for this test"), False)
    assert len(told.generations) == 3 and len(told.files) == 1
    certificates = [generation.sha256 for generation in told.generations]
    shutil.rmtree(ca.directory)
    order = ImportKeys(
        told.generations,
        directory=str(ca.directory),
        files=(GivenFile("a password for this test", told.files[0].content, told.files[0].name, tuple(certificates)),),
    )
    assert backend(ca).import_keys(order, False).changed
    assert sorted(path.name for path in ca.private_key.parent.iterdir()) == ["ca.0.key", "ca.key"]
    assert sorted(path.name for path in ca.directory.glob("*.crt")) == ["ca.0.crt", "ca.1.crt", "ca.crt"]
    for key in ca.private_key.parent.iterdir():
        assert "ENCRYPTED" in key.read_text() and key.stat().st_mode & 0o077 == 0
    assert ca.private_key.parent.stat().st_mode & 0o077 == 0
    for name, content in saved.items():
        (ca.directory / name).write_bytes(content)
    found = backend(ca).facts()
    assert [generation.sha256 for generation in found.generations] == certificates and not found.advisories
    again = replace(order, of=certificates[-1])
    assert not backend(ca).import_keys(again, False).changed
    for name in ("issued", "certs_by_serial", "reqs"):
        (ca.directory / name).mkdir()
    assert_verifies(ca.issue("second"), ca.certificate)
    assert_crl_of(ca.sign_crl(**ca.older(1)), ca.directory / "ca.1.crt")


# --- installation ------------------------------------------------------------------------------------------------


def install(pki: EasyrsaPki, kind: str = "root", check: bool = False, **more: Any) -> Changed:
    subject = (Attribute("2.5.4.10", "Example"), Attribute("2.5.4.3", f"New {kind}"))
    order = Install(kind, subject, **{"key_type": "EC", "key_size": 4096, "curve": "secp256r1", "days": 3650, **more})
    return backend(pki).install(order, check)


@pytest.mark.parametrize("initialised", [False, True])
def test_what_is_installed_is_easyrsas_to_use(tmp_path: Path, version: str, initialised: bool) -> None:
    pki = EasyrsaPki(tmp_path / "pki", version)
    if not initialised:
        shutil.rmtree(pki.directory)
    assert install(pki, check=True).changed and pki.directory.exists() is initialised
    done = install(pki)
    assert [generation.private_key for generation in done.generations] == ["present"] and not done.pending
    assert pki.private_key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for path in (pki.directory, pki.private_key.parent, pki.private_key):
        assert path.stat().st_mode & 0o077 == 0
    assert_verifies(pki.issue("first"), pki.certificate)
    pki.easyrsa("revoke", "first")
    assert_crl_of(pki.sign_crl(), pki.certificate)
    assert "New root" in pki.easyrsa("show-ca").stdout
    assert pki.easyrsa("build-ca", check=False).returncode != 0, "easy-rsa sees that there is a CA"
    before = fingerprint(pki.certificate)
    assert renew(pki).changed and fingerprint(pki.directory / "ca.0.crt") == before
    assert_verifies(pki.issue("second"), pki.certificate)


def test_an_installed_subordinate_is_signed_by_a_parent_of_easyrsa(make_ca: MakeCa, tmp_path: Path) -> None:
    parent = make_ca("root")
    pki = EasyrsaPki(tmp_path / "below", parent.version)
    waiting = install(pki, "subordinate")
    assert waiting.pending and not install(pki, "subordinate").changed
    parent.easyrsa("import-req", str(waiting.request_file), "below")
    parent.easyrsa("sign-req", "ca", "below")
    answer = openssl("x509", "-in", parent.directory / "issued" / "below.crt").stdout
    done = backend(pki).answer(Answer(None, answer), False)
    assert done.changed and issuer(pki.certificate) == "CN=Example Root CA"
    assert_verifies(pki.issue("first"), pki.certificate)


def test_no_ca_is_made_where_easyrsa_has_issued(make_ca: MakeCa) -> None:
    ca = make_ca()
    ca.issue("first")
    ca.certificate.unlink()
    with pytest.raises(KeywardError, match="there was a CA here"):
        install(ca)


def test_a_killed_installation_is_finished_with_the_same_key(tmp_path: Path) -> None:
    pki = EasyrsaPki(tmp_path / "pki", "3.1")
    reached = 0
    for number in range(1, 200):
        shutil.rmtree(pki.directory)
        if not killed_at(number, lambda: install(pki)):
            break
        reached += 1
        keys = [path.read_bytes() for path in pki.directory.rglob("ca.key")]
        if not pki.certificate.exists():
            install(pki)
        assert keys in ([], [pki.private_key.read_bytes()])
        if number % 5 == 0:
            assert_crl_of(pki.sign_crl(), pki.certificate)
    assert reached > 10


def test_a_host_without_easy_rsa_signs_as_well(make_ca: MakeCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the script has built in: since 3.2 a PKI need not have a configuration."""
    monkeypatch.setattr(easyrsa, "_SHARED", ())
    parent, below = make_ca("root"), make_ca("below", name="Below", subordinate=True)
    (parent.directory / "openssl-easyrsa.cnf").unlink(missing_ok=True)
    below.certificate.write_text(str(sign(parent, below.directory / "reqs" / "ca.req").certificate))
    assert_verifies(below.certificate, parent.certificate)
    assert "X509v3 Basic Constraints: critical\n                CA:TRUE\n" in text(below.certificate)
    sign_crls(parent)
    assert_crl_of(parent.directory / "crl.pem", parent.certificate)
    by_hand = openssl("crl", "-in", parent.directory / "crl.pem", "-noout", "-text").stdout
    assert "X509v3 Authority Key Identifier" in by_hand and "serial:" in by_hand
