# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs as they are found: names that the library can't decode, keys that it does not know."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.action.ca_sign import ActionModule as CaSign
from ansible_collections.keyward.pki.plugins.module_utils import _outline
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem_certificates
from support.fake_host import FakeHost
from support.odd_certificates import (
    BMP,
    CA_TRUE,
    NAMED,
    PRINTABLE,
    SIGNS,
    T61,
    UTF8,
    VERSION_1_SAID,
    extension,
    make_odd,
    name,
    odd_request,
)
from support.openssl_ca import OpensslCa, openssl
from support.plays import tree

PASSWORD = "correct horse battery staple"
LATIN_1 = "[req]\nprompt = no\ndistinguished_name = dn\nstring_mask = MASK:0x4\n[dn]\nCN = M\xfcller CA\n"


def with_latin_1_name(ca: OpensslCa) -> None:
    """A name in Latin-1 that is no valid text in its own type, as firewalls and old scripts have written them."""
    config = ca.directory / "named.cnf"
    config.write_bytes(LATIN_1.encode("latin-1"))
    extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    openssl("req", "-x509", "-new", "-config", config, "-key", ca.private_key, "-days", "300", *extensions, "-out", ca.certificate)
    config.unlink()


def test_a_ca_with_a_name_that_cannot_be_decoded_gets_its_backup(tmp_path: Path) -> None:
    ca, host = OpensslCa(tmp_path / "ca"), FakeHost()
    with_latin_1_name(ca)
    initialise(str(tmp_path / "keys"), "keys")
    which = {"config_file": str(ca.config_file)}
    given: dict[str, Any] = {**which, "stores": [str(tmp_path / "keys")], "password": PASSWORD}
    told = host.run(CaInfo, which)
    assert not told.get("failed") and told["authority"]["subject"] == "CN=M\xfcller CA" == told["generations"][0]["subject"]
    stored = host.run(CaKeyBackup, given)
    assert stored["changed"] and stored["restorable"], stored.get("msg")
    assert host.run(CaKeyVerify, given)["restorable"]
    key = ca.private_key.read_bytes()
    ca.private_key.unlink()
    assert host.run(CaKeyRestore, given)["changed"] and ca.private_key.read_bytes() == key
    signed = host.run(CaCrl, which)
    assert signed["changed"] and len(signed["crls"]) == 1, signed.get("msg")
    again = host.run(CaCrl, {**which, "published_crl": signed["crls"][0]["path"]})
    assert again["changed"] and openssl("crl", "-in", signed["crls"][0]["path"], "-CAfile", ca.certificate, "-noout").returncode == 0
    old = subject_of(ca)
    renewed = host.run(CaRenew, {**which, "reuse_key": True, "remaining_days": 4000, "days": 5000})
    assert renewed["changed"] and subject_of(ca) == old and openssl("verify", "-CAfile", ca.certificate, ca.certificate).returncode == 0


def subject_of(ca: OpensslCa) -> bytes:
    return _outline.certificate(pem_certificates(ca.certificate.read_bytes())[0]).subject


X400_NAME = extension("2.5.29.17", b"\x30\x04\xa3\x02\x30\x00", b"")
SAID_DEFAULT = extension("2.5.29.35", b"\x30\x00", b"\x01\x01\x00")


@pytest.mark.parametrize(
    ("written", "subject"),
    [
        ({"subject": name((PRINTABLE, b"*.example_CA & Co."))}, "CN=*.example_CA & Co."),
        ({"subject": name((PRINTABLE, b"M\xfcller CA"))}, "CN=M\xfcller CA"),
        ({"subject": name((T61, b"M\xfcller CA"), (T61, b"2"))}, "CN=2,CN=M\xfcller CA"),
        ({"subject": name((BMP, "M\xfcller CA".encode("utf-16-be")))}, "CN=M\xfcller CA"),
        ({"subject": name((UTF8, b"L" * 600))}, "CN=" + "L" * 600),
        ({"version": VERSION_1_SAID}, "CN=Odd CA"),
        ({"extensions": (CA_TRUE, SIGNS, NAMED, SAID_DEFAULT)}, "CN=Odd CA"),
        ({"serial": b"\xff"}, "CN=Odd CA"),
        ({"extensions": (CA_TRUE, SIGNS, NAMED, X400_NAME)}, "CN=Odd CA"),
    ],
    ids=["characters", "latin-1", "teletex", "bmp", "long", "version 1", "said default", "negative serial", "x400"],
)
def test_a_certificate_that_the_library_refuses_is_of_a_ca_like_any_other(written: Any, subject: str, tmp_path: Path) -> None:
    ca, host = OpensslCa(tmp_path / "ca"), FakeHost()
    make_odd(ca, **written)
    issued = ca.issue("leaf.example.com")
    for kind in ("keys", "databases"):
        initialise(str(tmp_path / kind), kind)
    which = {"config_file": str(ca.config_file)}
    given: dict[str, Any] = {**which, "stores": [str(tmp_path / "keys")], "password": PASSWORD}
    stored = host.run(CaKeyBackup, given)
    assert stored.get("restorable") and stored["authority"]["subject"] == subject, stored.get("msg")
    ca.private_key.rename(tmp_path / "kept")
    assert host.run(CaKeyRestore, given)["changed"] and ca.private_key.read_bytes() == (tmp_path / "kept").read_bytes()
    assert host.run(CaDatabaseBackup, {**which, "stores": [str(tmp_path / "databases")]})["changed"]
    signed = host.run(CaCrl, which)
    assert signed.get("changed"), signed.get("msg")
    assert "crl_rejected" not in [each["code"] for each in signed["advisories"]]
    old = subject_of(ca)
    renewed = host.run(CaRenew, {**which, "reuse_key": True, "remaining_days": 4000, "days": 5000})
    assert renewed.get("changed") and subject_of(ca) == old, renewed.get("msg")
    assert openssl("verify", "-CAfile", ca.certificate, issued).returncode == 0
    request = odd_request(ca.directory / "requests" / "leaf.example.com.key", name((T61, b"M\xfcller")))
    subordinate = host.run(CaSign, {**which, "request": request, "extensions": "v3_ca"})
    assert subordinate.get("changed"), subordinate.get("msg")
    (tmp_path / "sub.pem").write_text(subordinate["certificate"])
    assert openssl("verify", "-CAfile", ca.certificate, tmp_path / "sub.pem").returncode == 0
    assert not host.run(CaSign, {**which, "request": request, "extensions": "v3_ca"})["changed"]


@pytest.mark.parametrize("check", [True, False])
def test_a_request_whose_limits_cannot_be_read_is_not_signed(check: bool, tmp_path: Path) -> None:
    """Nobody could say that the certificate allows no more than it asks for."""
    ca = OpensslCa(tmp_path / "ca")
    key = ca.directory / "requests" / "first.example.com.key"
    limits = extension("2.5.29.19", b"\x30\x06\x01\x01\xff\x02\x01\xff")
    before = tree(ca.directory)
    for asked in ((limits, SIGNS), (CA_TRUE, SIGNS, extension("2.5.29.17", b"\x30\x04\x82\x02\xfc\xfc"))):
        which = {"config_file": str(ca.config_file), "request": odd_request(key, name((UTF8, b"Sub"))), "extensions": "v3_ca"}
        assert "can't be read" not in str(FakeHost().run(CaSign, which, check=True).get("msg"))
        done = FakeHost().run(CaSign, {**which, "request": odd_request(key, name((UTF8, b"Sub")), asked)}, check=check)
        assert done["failed"] and "basicConstraints" in done["msg"] and "can't be read" in done["msg"]
    assert tree(ca.directory) == before


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"], "EC with explicit parameters"),
        (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime239v1"], "EC prime239v1"),
        (["-algorithm", "SM2"], "SM2"),
        (["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_primes:3"], "RSA with more than two primes"),
        (["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"], None),
    ],
)
@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_a_key_of_an_unsupported_kind_is_called_by_its_name(arguments: list[str], kind: str | None, form: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    openssl("genpkey", *arguments, "-outform", form, "-out", path)
    found = load_key_file(str(path), None)
    assert found is not None
    if found.key is None:
        assert kind is not None and f"of the kind {kind}, which the cryptography package" in str(found.why)
        assert "no bundle can hold it" in found.remedy
    else:
        assert kind is None or "explicit" in kind  # this release of the library reads it


def test_a_file_that_is_no_key_file_says_how_to_make_one(openssl_ca: OpensslCa, tmp_path: Path) -> None:
    path = tmp_path / "key"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "", "-f", path], check=True, capture_output=True)
    openssl(
        "pkcs12", "-export", "-inkey", openssl_ca.private_key, "-in", openssl_ca.certificate, "-passout", "pass:x", "-out", tmp_path / "p12"
    )
    os.mkfifo(tmp_path / "pipe")
    said = {"key": ("format of OpenSSH", "ssh-keygen -p -m PKCS8"), "p12": ("a PKCS #12 file", "-nocerts"), "pipe": ("no regular file", "")}
    for file, (why, remedy) in said.items():
        found = load_key_file(str(tmp_path / file), None)
        assert found is not None and found.key is None and why in str(found.why) and remedy in found.remedy and "become" not in found.remedy


def test_a_key_that_openssl_opens_only_with_its_legacy_provider_says_so(openssl_ca: OpensslCa, tmp_path: Path) -> None:
    old = ["-v1", "PBE-MD5-DES", "-provider", "legacy", "-provider", "default", "-passout", "pass:secret"]
    openssl("pkcs8", "-topk8", "-in", openssl_ca.private_key, *old, "-out", tmp_path / "old")
    (tmp_path / "old").replace(openssl_ca.private_key)
    given = {"config_file": str(openssl_ca.config_file), "private_key_passphrase": "secret"}
    told = FakeHost().run(CaCrl, given)
    assert told["failed"] and "only in its legacy provider" in told["msg"] and "default_md" not in told["msg"]


@pytest.mark.parametrize("how", ["traditional", "PKCS #8"])
def test_a_key_that_the_library_cannot_decrypt_is_not_called_damaged(how: str, tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "key"
    openssl("genrsa", "-out", plain, "2048")
    if how == "traditional":
        openssl("rsa", "-in", plain, "-traditional", "-camellia256", "-passout", "pass:secret", "-out", path)
    else:
        openssl("pkcs8", "-topk8", "-in", plain, "-v2", "aria256", "-passout", "pass:secret", "-out", path)
    found = load_key_file(str(path), "secret")
    assert found is not None and found.key is None and found.why is not None
    said = "CAMELLIA-256-CBC" if how == "traditional" else "1.2.410.200046.1.1.12"
    assert f"can't open ({said})" in found.why and "damaged" not in found.why and f"openssl pkey -in {path} -aes256" in found.remedy


@pytest.mark.parametrize("which", ["certificate", "private_key"])
def test_a_byte_order_mark_is_nothing_to_a_ca(which: str, tmp_path: Path) -> None:
    """Editors on Windows write one, and openssl passes over it."""
    ca = OpensslCa(tmp_path / "ca")
    path: Path = getattr(ca, which)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    ca.sign_crl()
    initialise(str(tmp_path / "keys"), "keys")
    given = {"config_file": str(ca.config_file), "stores": [str(tmp_path / "keys")], "password": PASSWORD}
    assert FakeHost().run(CaKeyBackup, given).get("restorable")


def test_a_damaged_key_is_not_called_an_unsupported_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER", "-out", path)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(bytes(data))
    found = load_key_file(str(path), None)
    assert found is not None and found.key is None and "damaged" in str(found.why)
