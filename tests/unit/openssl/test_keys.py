# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms in which the openssl backend finds private keys, and keys that are not to be had."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import key_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Place
from support.openssl_ca import OpensslCa, openssl
from support.openssl_reading import MakeCa, codes, key_names, public_key, read
from support.openssl_shapes import make_pair
from tools import require_tool

# --- forms -------------------------------------------------------------------------------------------------------

TRADITIONAL = ("-traditional",)
FORMS = {
    "PKCS#8 PEM": ("rsa:2048", ("pkcs8", "-topk8", "-nocrypt"), "PEM", "PKCS#8", False),
    "PKCS#8 DER": ("P-256", ("pkcs8", "-topk8", "-nocrypt", "-outform", "DER"), "DER", "PKCS#8", False),
    "PKCS#8 PEM encrypted": ("P-256", ("pkcs8", "-topk8", "-passout", "stdin"), "PEM", "PKCS#8", True),
    "PKCS#8 DER encrypted": ("ed25519", ("pkcs8", "-topk8", "-passout", "stdin", "-outform", "DER"), "DER", "PKCS#8", True),
    "PKCS#8 PEM encrypted, PBES1": ("P-256", ("pkcs8", "-topk8", "-passout", "stdin", "-v1", "PBE-SHA1-3DES"), "PEM", "PKCS#8", True),
    "PKCS#1 PEM": ("rsa:2048", ("rsa", *TRADITIONAL), "PEM", "PKCS#1", False),
    "PKCS#1 DER": ("rsa:2048", ("rsa", *TRADITIONAL, "-outform", "DER"), "DER", "PKCS#1", False),
    "PKCS#1 PEM encrypted": ("rsa:2048", ("rsa", *TRADITIONAL, "-aes256", "-passout", "stdin"), "PEM", "PKCS#1", True),
    "SEC1 PEM": ("P-384", ("ec",), "PEM", "SEC1", False),
    "SEC1 DER": ("P-384", ("ec", "-outform", "DER"), "DER", "SEC1", False),
    "SEC1 PEM encrypted": ("P-384", ("ec", "-aes128", "-passout", "stdin"), "PEM", "SEC1", True),
}


@pytest.mark.parametrize("form", FORMS)
def test_key_forms(make_ca: MakeCa, rsa_ca: OpensslCa, tmp_path: Path, form: str) -> None:
    algorithm, command, encoding, container, encrypted = FORMS[form]
    if algorithm == "rsa:2048":
        ca = copy.copy(rsa_ca)
        ca.directory = tmp_path / "ca"
        ca.config_file, ca.private_key = ca.directory / "openssl.cnf", ca.directory / "private" / "cakey.pem"
        shutil.copytree(rsa_ca.directory, ca.directory)
    else:
        ca = make_ca(algorithm=algorithm)
    digest = public_key(ca.private_key)
    openssl(command[0], "-in", ca.private_key, *command[1:], "-out", ca.directory / "new", passphrase="at rest")
    (ca.directory / "new").replace(ca.private_key)

    (generation,) = read(ca, private_key_passphrase="at rest").generations
    assert (generation.private_key, generation.public_key_sha256, generation.encrypted_at_rest) == ("present", digest, encrypted)
    place = generation.key_place
    assert place and (place.encoding, place.container, place.encrypted_at_rest) == (encoding, container, encrypted)
    if encrypted:
        for passphrase, why in ((None, "it is encrypted at rest"), ("wrong", "passphrase")):
            reading = read(ca, private_key_passphrase=passphrase)
            (generation,) = reading.generations
            assert (generation.private_key, generation.encrypted_at_rest, generation.exportable) == ("inaccessible", True, None)
            assert generation.key_place == place
            assert codes(reading) == ["key_inaccessible" if passphrase else "key_needs_passphrase"]
            assert str(ca.private_key) in reading.advisories[0].message and why in reading.advisories[0].message
            assert reading.advisories[0].certificate == generation.sha256
            assert not reading.private_keys


def test_parameters_certificates_and_text_around_a_key(make_ca: MakeCa) -> None:
    ca = make_ca(algorithm="P-384")
    parameters = openssl("ecparam", "-name", "secp384r1").stdout
    key, certificate = openssl("ec", "-in", ca.private_key).stdout, ca.certificate.read_text()
    ca.private_key.write_text(f"some text\n{parameters}{certificate}-----BEGIN RSA PRIVATE KEY-----\nunfinished\n{key}more\n")
    (generation,) = read(ca).generations
    assert (generation.private_key, generation.key_place and generation.key_place.container) == ("present", "SEC1")


def test_certificate_forms(ca: OpensslCa) -> None:
    (before,) = read(ca).generations
    text = openssl("x509", "-in", ca.certificate, "-text").stdout
    assert text.startswith("Certificate:")
    trusted = openssl("x509", "-in", ca.certificate, "-addtrust", "serverAuth", "-trustout").stdout
    assert "TRUSTED CERTIFICATE" in trusted
    for content in (text, text.replace("\n", "\r\n"), trusted, ca.private_key.read_text() + text):
        ca.certificate.write_bytes(content.encode())
        (generation,) = read(ca).generations
        assert generation == before
    ca.certificate.write_text(text)
    openssl("x509", "-in", ca.certificate, "-outform", "DER", "-out", ca.directory / "new")
    (ca.directory / "new").replace(ca.certificate)
    (generation,) = read(ca).generations
    assert generation.certificate == before.certificate
    assert generation.certificate_place and generation.certificate_place.encoding == "DER"


def test_the_same_certificate_and_key_in_one_file(ca: OpensslCa) -> None:
    both = ca.private_key.read_text() + ca.certificate.read_text()
    ca.certificate.write_text(both)
    reading = read(ca, private_key_file="cacert.pem")
    assert reading.generations[0].private_key == "present"
    assert reading.generations[0].key_place and reading.generations[0].key_place.path == str(ca.certificate)


# --- keys that are not to be had -----------------------------------------------------------------------------------


def test_a_missing_key(three: OpensslCa) -> None:
    (three.private_key.parent / "cakey.0.pem").unlink()
    reading = read(three)
    assert [g.private_key for g in reading.generations] == ["missing", "missing", "present"]
    assert [g.key_place and g.key_place.path for g in reading.generations] == [None, None, str(three.private_key)]
    assert codes(reading) == ["older_key_missing_on_host"] * 2
    assert [a.certificate for a in reading.advisories] == [g.sha256 for g in reading.generations[:2]]


def test_a_key_that_fits_no_certificate(ca: OpensslCa, tmp_path: Path) -> None:
    make_pair(tmp_path / "x.pem", ca.private_key)
    reading = read(ca)
    assert [g.private_key for g in reading.generations] == ["missing"]
    assert sorted(codes(reading)) == ["key_missing_on_host", "key_without_certificate"]
    assert len(reading.private_keys) == 1


def test_an_encrypted_key_belongs_to_a_generation_by_name_only_while_it_is_closed(make_ca: MakeCa) -> None:
    ca = make_ca(passphrase="at rest")
    ca.renew_keeping(new_key=False)
    ca.renew_keeping()
    (ca.private_key.parent / "cakey.5.pem").write_bytes(ca.private_key.read_bytes())

    closed = read(ca)
    assert [g.private_key for g in closed.generations] == ["inaccessible"] * 3
    assert [g.encrypted_at_rest for g in closed.generations] == [True] * 3
    assert key_names(closed) == ["cakey.0.pem", "cakey.0.pem", "cakey.pem"]
    assert sorted(str(a.certificate) for a in closed.advisories) == sorted(["None", *(g.sha256 for g in closed.generations)])

    opened = read(ca, private_key_passphrase="at rest")
    assert [g.private_key for g in opened.generations] == ["present"] * 3
    assert key_names(opened) == key_names(closed)
    assert not opened.advisories


def test_a_key_file_that_can_not_be_read(ca: OpensslCa) -> None:
    content = ca.private_key.read_bytes()
    for make, why in (
        (lambda: ca.private_key.symlink_to(ca.private_key.name), "links lead in a circle"),
        (lambda: os.mkfifo(ca.private_key), "it is no regular file"),
        (lambda: ca.private_key.write_bytes(content + b"\n" * key_files.LARGEST_INPUT), "of at most 1048576 bytes"),
        (lambda: ca.private_key.write_bytes(b""), "it holds no private key"),
        (lambda: ca.private_key.write_bytes(b"\x30\x80\x02"), "it holds no private key"),
        (lambda: ca.private_key.write_bytes(content.replace(b"MI", b"MM")), "it is damaged, or of a kind"),
    ):
        ca.private_key.unlink()
        make()
        reading = read(ca)
        assert [g.private_key for g in reading.generations] == ["inaccessible"], why
        assert why in reading.advisories[0].message
        assert "Error" not in reading.advisories[0].message


@pytest.mark.parametrize("name", ["n", "d", "p", "q", "dmp1", "dmq1", "iqmp"])
def test_an_rsa_key_whose_numbers_do_not_belong_together(tmp_path: Path, name: str) -> None:
    require_tool("openssl")
    path = tmp_path / "key.pem"
    openssl("genrsa", "-traditional", "-out", path, "1024")
    whole = load_key_file(str(path), None)
    assert whole and whole.digest
    numbers = whole.key.private_numbers()
    value = numbers.public_numbers.n if name == "n" else getattr(numbers, name)
    der = path.with_suffix(".der")
    openssl("rsa", "-traditional", "-in", path, "-outform", "DER", "-out", der)
    size = (value.bit_length() + 7) // 8
    old = value.to_bytes(size, "big")
    assert old in der.read_bytes()
    der.write_bytes(der.read_bytes().replace(old, (value ^ (1 << 100)).to_bytes(size, "big")))
    damaged = load_key_file(str(der), None)
    assert damaged and damaged.key is None and damaged.why
    assert "it is damaged" in damaged.why


def test_where_the_folder_of_the_keys_is_closed(three: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a user who may not enter private/, each key is inaccessible, not missing."""
    closed = str(three.private_key.parent)
    really_open, really_list = os.open, os.listdir

    def refuse(really: Callable[..., object]) -> Callable[..., object]:
        def call(path: object, *arguments: object, **known: object) -> object:
            if str(path).startswith(closed):
                raise PermissionError(13, "refused", path)
            return really(path, *arguments, **known)

        return call

    monkeypatch.setattr(os, "open", refuse(really_open))
    monkeypatch.setattr(os, "listdir", refuse(really_list))
    reading = read(three)
    assert [g.private_key for g in reading.generations] == ["inaccessible"] * 3
    assert [g.encrypted_at_rest for g in reading.generations] == [None] * 3
    assert all("permission is denied" in advisory.message for advisory in reading.advisories)


def test_a_curve_that_can_not_be_read(ca: OpensslCa) -> None:
    openssl("ecparam", "-name", "prime239v1", "-genkey", "-param_enc", "explicit", "-out", ca.private_key)
    reading = read(ca)
    assert [(g.private_key, g.encrypted_at_rest) for g in reading.generations] == [("inaccessible", False)]
    assert codes(reading) == ["key_inaccessible"]
    assert "EC with explicit parameters" in reading.advisories[0].message


def test_a_known_curve_with_explicit_parameters(ca: OpensslCa) -> None:
    """Newer releases of cryptography recognise the curve, older ones refuse it; never is the key called missing."""
    openssl("ec", "-param_enc", "explicit", "-in", ca.private_key, "-out", ca.directory / "new")
    (ca.directory / "new").replace(ca.private_key)
    reading = read(ca)
    assert (reading.generations[0].private_key, codes(reading)) in (("present", []), ("inaccessible", ["key_inaccessible"]))


@pytest.mark.parametrize(
    "value",
    [
        *("pkcs11:token=ca;object=root", "PKCS11:token=ca;pin-value=1234", "org.openssl.engine:pkcs11:pkcs11:object=root", "engine:tpm2:x"),
        *("handle:0x81000001", "slot_0-id_01", "label_root", "id_0102", "0:01"),
    ],
)
def test_a_key_in_a_token(three: OpensslCa, value: str) -> None:
    three.config_file.write_text(
        three.config_file.read_text().replace("private_key = $dir/private/cakey.pem", f"private_key = {value.replace(';', chr(92) + ';')}")
    )
    reading = read(three)
    current = reading.generations[-1]
    assert (current.private_key, current.exportable, current.key_place, current.encrypted_at_rest) == ("present", False, None, None)
    assert current.public_key_sha256 not in reading.private_keys
    assert "pin-value" not in repr(reading)
    # The backup was made when the key was still a file: it isn't put back beside the token.
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    backend.facts()
    recorded = replace(current, key_place=Place(str(three.private_key)))
    assert backend.places([recorded], str(three.directory))[current.sha256].key_place is None


@pytest.mark.parametrize("label", ["PKCS#11 PROVIDER URI", "TSS2 PRIVATE KEY"])
def test_a_file_that_points_to_a_token(three: OpensslCa, label: str) -> None:
    (three.private_key.parent / "cakey.0.pem").write_text(f"-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n")
    reading = read(three)
    assert [(g.private_key, g.exportable) for g in reading.generations] == [("present", False), ("present", False), ("present", True)]
    assert len(reading.private_keys) == 1
    assert not reading.advisories


@pytest.mark.parametrize("value", ["private/gone.pem", "/nowhere/label_ca", "a b:c", "c:"])
def test_a_path_is_no_token(ca: OpensslCa, value: str) -> None:
    reading = read(ca, private_key_file=value)
    assert [g.private_key for g in reading.generations] == ["missing"]
