# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ours, not ours, can't tell: whatever a CA signs with, and whatever its name is written in."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _outline, _signature, _whose
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der
from ansible_collections.keyward.pki.plugins.module_utils._generation import generation_of
from ansible_collections.keyward.pki.plugins.module_utils._one_line import one_line
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, by_library, scheme
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, by_openssl, issued_in, whose_certificate, whose_crl
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem_certificates
from support.openssl_ca import openssl
from tools import require_tool

CONFIG = """\
[ca]
default_ca = one
[one]
database = {folder}/index.txt
new_certs_dir = {folder}
serial = {folder}/serial
crlnumber = {folder}/crlnumber
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = {md}
default_days = 30
default_crl_days = 30
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = dn
prompt = no
string_mask = {mask}
[dn]
CN = {name}
"""
KINDS = {
    "rsa": ("rsa:2048", []),
    "rsa-pss": ("rsa:2048", ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:17"]),
    "bound to pss": ("rsa-pss", ["-pkeyopt", "rsa_keygen_bits:2048"]),
    "ec": ("ec", ["-pkeyopt", "ec_paramgen_curve:P-384"]),
    "ec with explicit parameters": ("ec", ["-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"]),
    "a curve that the library lacks": ("ec", ["-pkeyopt", "ec_paramgen_curve:prime239v1"]),
    "ed25519": ("ed25519", []),
    "ed448": ("ed448", []),
}


class Ca:
    """A root with one certificate and a CRL, made by openssl alone. name: bytes of a TeletexString where it is no text."""

    def __init__(self, folder: Path, kind: str = "rsa", md: str = "sha256", name: bytes = b"A CA", mask: str = "utf8only") -> None:
        require_tool("openssl")
        folder.mkdir()
        self.folder, self.config = folder, folder / "ca.cnf"
        self.config.write_bytes(CONFIG.format(folder=folder, md=md, mask=mask, name="NAME").encode().replace(b"NAME", name))
        (folder / "index.txt").touch()
        (folder / "serial").write_text("1000\n")
        (folder / "crlnumber").write_text("01\n")
        if kind == "dsa":
            openssl("genpkey", "-genparam", "-algorithm", "DSA", "-pkeyopt", "dsa_paramgen_bits:1024", "-out", folder / "p")
            openssl("genpkey", "-paramfile", folder / "p", "-out", folder / "ca.key")
            key = ["-key", folder / "ca.key"]
            signing: list[str] = []
        else:
            algorithm, options = KINDS[kind]
            signing = options if "-sigopt" in options else []
            key = ["-newkey", algorithm, *([] if signing else options), "-nodes", "-keyout", folder / "ca.key"]
        utf8 = ["-utf8"] if mask == "utf8only" else []
        openssl("req", *utf8, "-x509", "-config", self.config, *key, f"-{md}", *signing, "-days", "300", "-out", folder / "ca.pem")
        openssl(
            "req", *utf8, "-new", "-config", self.config, "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "k", "-out", folder / "r"
        )
        common = ["ca", "-config", self.config, "-batch", *signing]
        openssl(*common, "-notext", "-preserveDN", "-in", folder / "r", "-out", folder / "issued.pem")
        openssl(*common, "-gencrl", "-out", folder / "crl.pem")

    @property
    def certificate(self) -> bytes:
        return pem_certificates((self.folder / "ca.pem").read_bytes())[0]

    @property
    def issued(self) -> bytes:
        return pem_certificates((self.folder / "issued.pem").read_bytes())[0]

    @property
    def crl(self) -> bytes:
        return (self.folder / "crl.pem").read_bytes()


@pytest.mark.parametrize(
    ("kind", "md"),
    [
        *((kind, "sha256") for kind in KINDS),
        ("rsa", "sha1"),
        ("rsa", "md5"),
        ("rsa", "sha3-256"),
        ("ec", "sha1"),
        ("dsa", "sha1"),
        ("dsa", "sha256"),
    ],
)
def test_whatever_it_is_signed_with(kind: str, md: str, tmp_path: Path) -> None:
    try:
        ca = Ca(tmp_path / "ca", kind, md)
    except AssertionError as exc:
        pytest.skip(f"openssl here makes none: {str(exc)[-200:]}")
    other = Ca(tmp_path / "other", kind, md)  # of the same name
    assert whose_crl(ca.crl, ca.certificate) is whose_certificate(ca.issued, ca.certificate) is Whose.OURS
    assert whose_crl(ca.crl, other.certificate) is whose_certificate(ca.issued, other.certificate) is Whose.NOT_OURS
    generations = [generation_of(other.certificate), generation_of(ca.certificate, 1)]
    assert among(generations, lambda issuer: whose_crl(ca.crl, issuer)) == (generations[1], Whose.OURS)
    one = issued_in((ca.folder / "issued.pem").read_bytes(), generations)
    assert one and (one.outline.serial, one.whose, one.subject) == (0x1000, Whose.OURS, "/CN=A CA")
    assert issued_in((ca.folder / "ca.pem").read_bytes(), generations) is None, "its own certificate is not what it issued"
    crl, key = _outline.crl(crl_der(ca.crl)), _outline.certificate(ca.certificate).public_key
    how = scheme(crl.algorithm)
    assert how and how.digest == (None if kind.startswith("ed") else md)
    assert by_openssl(crl, key) is (Whose.CANT_TELL if how.digest is None else Whose.OURS)
    assert by_library(crl, key) in (Whose.OURS, Whose.CANT_TELL)


def test_where_both_refuse_nobody_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on RHEL 9, whose policy forbids SHA-1 to both."""
    ca, other = Ca(tmp_path / "ca", md="sha1"), Ca(tmp_path / "other", name=b"Another", md="sha1")
    monkeypatch.setattr(_whose, "by_library", lambda *_arguments: Whose.CANT_TELL)
    monkeypatch.setattr(_whose, "_REFUSED", set())
    asked: list[str] = []
    monkeypatch.setattr(_whose, "by_openssl", lambda *_arguments: asked.append("") or Whose.CANT_TELL)
    generations = [generation_of(other.certificate), generation_of(ca.certificate, 1)]
    for _time in range(3):
        assert among(generations, lambda issuer: whose_crl(ca.crl, issuer)) == (generations[1], Whose.CANT_TELL)
    assert len(asked) == 1, "openssl is asked once for a key and an algorithm"
    assert whose_crl(ca.crl, other.certificate) is Whose.NOT_OURS, "a name is compared without any signature"
    one = issued_in((ca.folder / "issued.pem").read_bytes(), generations[1:])
    assert one is None or one.whose is Whose.CANT_TELL


def test_an_answer_of_openssl_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = Ca(tmp_path / "ca")
    crl, key = _outline.crl(crl_der(ca.crl)), _outline.certificate(ca.certificate).public_key
    for text in ("echo Verified NOT", "exit 1", "echo Error setting digest >&2; exit 1"):
        program = tmp_path / "openssl"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setattr("shutil.which", lambda _name, program=program: str(program))
        assert by_openssl(crl, key) is Whose.CANT_TELL
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert by_openssl(crl, key) is Whose.CANT_TELL


@pytest.mark.parametrize(
    ("name", "mask", "line", "subject"),
    [
        (b"M\xfcller", "MASK:0x4", r"/CN=M\xFCller", "CN=M\xfcller"),  # TeletexString in Latin-1
        (b"M\xc3\xbcller", "utf8only", r"/CN=M\xC3\xBCller", "CN=M\xfcller"),
        (b"Ministry, of <1>", "pkix", "/CN=" + "".join(f"\\x00{letter}" for letter in "Ministry, of <1>"), r"CN=Ministry\, of \<1\>"),
    ],
)
def test_names_in_any_bytes(name: bytes, mask: str, line: str, subject: str, tmp_path: Path) -> None:
    ca = Ca(tmp_path / "ca", name=name, mask=mask)
    outline = _outline.certificate(ca.issued)
    assert one_line(outline.subject) == line and generation_of(ca.certificate).subject == subject
    assert (ca.folder / "index.txt").read_text().rstrip("\n").split("\t")[5] == line, "as openssl has it"
    assert whose_certificate(ca.issued, ca.certificate) is whose_crl(ca.crl, ca.certificate) is Whose.OURS
    one = issued_in((ca.folder / "issued.pem").read_bytes(), [generation_of(ca.certificate)])
    assert one is not None and one.subject == line


def test_a_damaged_certificate_is_said_and_other_files_are_not(tmp_path: Path) -> None:
    ca = Ca(tmp_path / "ca")
    generations = [generation_of(ca.certificate)]
    text = (ca.folder / "issued.pem").read_text().splitlines(keepends=True)
    with pytest.raises(ValueError, match="is impossible|a value"):
        issued_in("".join([text[0], *text[4:]]).encode(), generations)
    for other in (ca.crl, crl_der(ca.crl), (ca.folder / "r").read_bytes(), b"", b"0", b"README\n", (ca.folder / "k").read_bytes()):
        assert issued_in(other, generations) is None


def test_two_names_are_one_to_a_verifier(tmp_path: Path) -> None:
    one, other, third = (
        _outline.certificate(Ca(tmp_path / folder, name=name, mask=mask).certificate).subject
        for folder, name, mask in (("a", b"Example  CA", "pkix"), ("b", b"example ca", "utf8only"), ("c", b"Example CB", "pkix"))
    )
    assert one != other and _outline.same_name(one, other) and not _outline.same_name(one, third)


def test_a_scheme_that_is_not_known_or_can_not_be() -> None:
    for text in (
        "",
        "30",
        "3000",
        "30030601ff",
        "300b06092a864886f70d01010a",
        "300d06092a864886f70d01010a3000",
        "300a06082a8503070101030a",
    ):
        found = scheme(bytes.fromhex(text)) if text else scheme(b"")
        assert found is None or found == _signature.Scheme((_outline.RSA, _outline.RSA_PSS), "sha1", 20, "sha1")
