# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The openssl backend on CAs that the openssl command made."""

from __future__ import annotations

import copy
import os
import pwd
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, Older, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import key_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import absolute
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Place
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import PendingRequest
from support.openssl_ca import OpensslCa, openssl
from support.openssl_shapes import make_pair
from tools import require_tool

MakeCa = Callable[..., OpensslCa]


@pytest.fixture
def make_ca(tmp_path: Path) -> MakeCa:
    require_tool("openssl")
    return lambda **known: OpensslCa(tmp_path / "ca", **known)


@pytest.fixture(scope="module")
def rsa_ca(tmp_path_factory: pytest.TempPathFactory) -> OpensslCa:
    """To be copied: RSA keys take long to make."""
    require_tool("openssl")
    return OpensslCa(tmp_path_factory.mktemp("rsa") / "ca", algorithm="rsa:2048", relative=True)


@pytest.fixture
def ca(make_ca: MakeCa) -> OpensslCa:
    return make_ca()


@pytest.fixture
def three(ca: OpensslCa) -> OpensslCa:
    """Generations 0 and 1 share a key, 2 has its own and is the current one; kept as renewals keep them."""
    ca.renew_keeping(new_key=False)
    ca.renew_keeping()
    return ca


def read(ca: OpensslCa, **known: object) -> Facts:
    return OpensslBackend(Selector(config_file=str(ca.config_file), **known)).facts()  # type: ignore[arg-type]


def codes(reading: Facts) -> list[str]:
    return [advisory.code for advisory in reading.advisories]


def key_names(reading: Facts) -> list[str | None]:
    return [generation.key_place and os.path.basename(generation.key_place.path) for generation in reading.generations]


def public_key(path: Path, passphrase: str | None = None) -> str:
    given = () if passphrase is None else ("-passin", "stdin")
    pem = openssl("pkey", "-in", path, "-pubout", *given, passphrase=passphrase).stdout
    der = path.with_name("spki.der")
    (path.with_name("spki.pem")).write_text(pem)
    openssl("pkey", "-pubin", "-in", path.with_name("spki.pem"), "-outform", "DER", "-pubout", "-out", der)
    digest = openssl("dgst", "-sha256", "-r", der).stdout.split()[0]
    der.unlink()
    path.with_name("spki.pem").unlink()
    return digest


# --- what is there -----------------------------------------------------------------------------------------------


def test_a_new_ca(ca: OpensslCa) -> None:
    ca.private_key.chmod(0o640)
    reading = read(ca)

    authority = reading.authority
    assert (authority.backend, authority.name, authority.sanitized_name) == ("openssl", "CA_default", "example-root-ca")
    assert (authority.subject, authority.directory, authority.place["config_file"]) == (
        "CN=Example Root CA,O=Example",
        str(ca.directory),
        str(ca.config_file),
    )
    (generation,) = reading.generations
    assert (generation.index, generation.private_key, generation.encrypted_at_rest, generation.exportable) == (0, "present", False, True)
    assert generation.public_key_sha256 == public_key(ca.private_key)
    me = pwd.getpwuid(os.getuid()).pw_name
    assert generation.key_place and generation.key_place.group
    assert generation.key_place == Place(str(ca.private_key), me, generation.key_place.group, "0640", False, "PEM", "PKCS#8")
    assert generation.certificate_place and generation.certificate_place.path == str(ca.certificate)
    assert (generation.certificate_place.mode, generation.certificate_place.container) == ("0644", None)
    assert list(reading.private_keys) == [generation.public_key_sha256]
    assert vars(reading.database) == {
        "path": str(ca.directory / "index.txt"),
        "exists": True,
        "entries": 1,
        "serial": "1001",
        "crl_number": "01",
    }
    assert (reading.chain, reading.pending_request, reading.advisories) == ((), None, ())


def test_older_generations_beside_the_current_one(three: OpensslCa) -> None:
    reading = read(three)
    assert [generation.index for generation in reading.generations] == [0, 1, 2]
    assert [os.path.basename(g.certificate_place.path) for g in reading.generations if g.certificate_place] == [
        *("cacert.0.pem", "cacert.1.pem", "cacert.pem"),
    ]
    assert key_names(reading) == ["cakey.0.pem", "cakey.0.pem", "cakey.pem"]
    assert {generation.private_key for generation in reading.generations} == {"present"}
    assert len(reading.private_keys) == 2
    assert not reading.advisories


def test_keys_are_paired_by_public_key_never_by_name(ca: OpensslCa) -> None:
    ca.renew_keeping()
    ca.renew_keeping()
    private = ca.private_key.parent
    before = {g.sha256: g.public_key_sha256 for g in read(ca).generations}
    for old, new in (("cakey.0.pem", "x"), ("cakey.1.pem", "cakey.0.pem"), ("cakey.pem", "cakey.1.pem"), ("x", "cakey.pem")):
        (private / old).rename(private / new)
    reading = read(ca)
    assert {g.sha256: g.public_key_sha256 for g in reading.generations} == before
    assert key_names(reading) == ["cakey.pem", "cakey.0.pem", "cakey.1.pem"]
    for generation in reading.generations:
        assert generation.key_place and public_key(Path(generation.key_place.path)) == generation.public_key_sha256


def test_numbers_are_the_names_and_the_current_one_follows(ca: OpensslCa) -> None:
    ca.renew_keeping(n=7)
    shutil.copy(ca.certificate, ca.directory / "cacert.12.pem")  # a copy of the current one is no generation
    shutil.copy(ca.directory / "cacert.7.pem", ca.directory / "cacert.9.pem")
    for name in ("cacert.07.pem", "cacert.x.pem", "cacert.1.pem.bak", "xcacert.1.pem"):
        shutil.copy(ca.directory / "cacert.7.pem", ca.directory / name)
    reading = read(ca)
    assert [generation.index for generation in reading.generations] == [7, 8]
    assert not reading.advisories


def test_a_certificate_of_another_ca_beside_it_is_left_out_and_reported(ca: OpensslCa, tmp_path: Path) -> None:
    make_pair(ca.directory / "cacert.0.pem", tmp_path / "other.key", "/CN=Another")
    reading = read(ca)
    assert [generation.index for generation in reading.generations] == [0]
    assert codes(reading) == ["ignored_certificate"]
    assert "cacert.0.pem" in reading.advisories[0].message and "CN=Another" in reading.advisories[0].message


def test_a_damaged_older_certificate_is_an_error(three: OpensslCa) -> None:
    path = three.directory / "cacert.1.pem"
    path.write_text(path.read_text().replace("MII", "MIJ"))
    with pytest.raises(KeywardError, match=rf"the older certificate {path} can't be read: it is damaged"):
        read(three)
    path.write_text("")
    with pytest.raises(KeywardError, match=rf"the older certificate {path} can't be read: no certificate is in it"):
        read(three)


def test_renewed_by_hand_in_place(ca: OpensslCa) -> None:
    before = read(ca)
    ca.renew_in_place()
    after = read(ca)
    assert len(after.generations) == 1
    assert after.generations[0].sha256 != before.generations[0].sha256
    assert after.authority == before.authority


# --- stated ------------------------------------------------------------------------------------------------------


def test_stated_generations(ca: OpensslCa, tmp_path: Path) -> None:
    safe = tmp_path / "safe"
    safe.mkdir()
    oldest, second = ca.renew_keeping(n=0), ca.renew_keeping(n=1)
    first = read(ca).generations
    shutil.move(oldest[0], safe / "b.crt")
    openssl("pkey", "-in", oldest[1], "-aes256", "-passout", "stdin", "-out", safe / "b.key", passphrase="another one")
    oldest[1].unlink()
    shutil.copy(second[0], ca.directory / "a.crt")

    stated = (
        Older("a.crt", "private/cakey.1.pem"),
        Older(str(safe / "b.crt"), str(safe / "b.key"), "another one"),
        Older("cacert.pem"),  # the current one is not older
        Older("a.crt"),
    )
    reading = read(ca, older=stated)
    # Both began in the same second, perhaps; then the fingerprint orders them.
    expected = sorted(first[:2], key=lambda g: (g.not_before, g.sha256))
    assert [g.sha256 for g in reading.generations] == [*(g.sha256 for g in expected), first[2].sha256]
    assert [g.index for g in reading.generations] == [0, 1, 2]
    assert [g.private_key for g in reading.generations] == ["present"] * 3
    by_name = {os.path.basename(g.certificate_place.path): g for g in reading.generations if g.certificate_place}
    assert by_name["b.crt"].encrypted_at_rest is True
    assert by_name["a.crt"].certificate_place and by_name["a.crt"].certificate_place.path == str(ca.directory / "a.crt")
    assert not reading.advisories

    backend = OpensslBackend(Selector(config_file=str(ca.config_file), older=stated, private_key_passphrase="usual"))
    assert backend.passphrase(by_name["b.crt"]) == "another one"
    assert backend.passphrase(by_name["a.crt"]) == backend.passphrase(by_name["cacert.pem"]) == "usual"


def test_stated_in_the_order_in_which_they_began(ca: OpensslCa, tmp_path: Path) -> None:
    reading = read(ca, older=tuple(Older(str(_dated(ca, tmp_path, year))) for year in (2023, 2021, 2022)))
    assert [g.not_before[:4] for g in reading.generations[:3]] == ["2021", "2022", "2023"]
    assert [g.index for g in reading.generations] == [0, 1, 2, 3]
    assert key_names(reading) == ["cakey.pem"] * 4


def _dated(ca: OpensslCa, folder: Path, year: int) -> Path:
    path = folder / f"dated-{year}.pem"
    openssl(
        *("ca", "-batch", "-config", ca.config_file, "-selfsign", "-notext", "-startdate", f"{year}0101000000Z"),
        *("-enddate", f"{year + 10}0101000000Z", "-extensions", "v3_ca", "-in", _request(ca, folder), "-out", path, "-outdir", folder),
        cwd=ca.directory,
    )
    return path


def _request(ca: OpensslCa, folder: Path, private_key: Path | None = None, subject: str | None = None) -> Path:
    path = folder / "request.csr"
    openssl("req", "-new", "-key", private_key or ca.private_key, "-config", ca.config_file, "-subj", subject or ca.subject, "-out", path)
    return path


def test_a_stated_certificate_that_is_gone_is_reported(three: OpensslCa) -> None:
    reading = read(three, older=(Older("gone.pem", "gone.key"), Older("cacert.1.pem", "private/cakey.0.pem")))
    assert [g.index for g in reading.generations] == [0, 1]
    assert codes(reading) == ["certificate_missing_on_host"]
    assert f"{three.directory}/gone.pem" in reading.advisories[0].message


def test_without_a_configuration(three: OpensslCa) -> None:
    which = Selector(directory=str(three.directory), certificate_file="cacert.pem", private_key_file="private/cakey.pem")
    reading = OpensslBackend(which).facts()
    assert [g.sha256 for g in reading.generations] == [g.sha256 for g in read(three).generations]
    assert (reading.authority.name, reading.authority.directory) == ("cacert.pem", str(three.directory))
    assert set(reading.authority.place) == {"directory", "name", "certificate_file", "private_key_file"}
    assert vars(reading.database) == {"path": None, "exists": False, "entries": None, "serial": None, "crl_number": None}

    bare = Selector(certificate_file=str(three.certificate), private_key_file=str(three.private_key), name="ours")
    assert OpensslBackend(bare).facts().authority.directory == str(three.directory)
    assert OpensslBackend(bare).facts().authority.name == "ours"


def test_options_go_before_the_configuration(three: OpensslCa) -> None:
    reading = read(three, certificate_file="cacert.0.pem", private_key_file="private/cakey.0.pem", older=())
    assert [(g.index, g.private_key) for g in reading.generations] == [(0, "present")]
    assert reading.generations[0].certificate_place and reading.generations[0].certificate_place.path.endswith("cacert.0.pem")
    assert reading.authority.name == "CA_default"


def test_paths_count_from_the_directory(make_ca: MakeCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = make_ca(relative=True)
    ca.config_file = ca.config_file.rename(tmp_path / "openssl.cnf")
    monkeypatch.chdir(tmp_path)
    reading = OpensslBackend(Selector(config_file="../openssl.cnf", directory="ca")).facts()
    (generation,) = reading.generations
    assert (reading.authority.directory, reading.authority.place["config_file"]) == (str(ca.directory), str(ca.config_file))
    assert generation.key_place and generation.key_place.path == str(ca.private_key)


def test_absolute_keeps_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    here = str(tmp_path)
    assert absolute(here, "./link/./x//y") == f"{here}/link/x/y"
    assert absolute(here, "real/../x") == f"{here}/x"
    assert absolute(here, "link/../x") == f"{here}/link/../x"  # that is real/x
    assert absolute(here, "//x") == "/x"


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
            assert codes(reading) == ["key_inaccessible"]
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
    assert codes(reading) == ["key_missing_on_host"] * 2
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
    assert "an elliptic curve with explicit parameters" in reading.advisories[0].message


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


# --- beside the keys -----------------------------------------------------------------------------------------------


def test_chain(ca: OpensslCa, tmp_path: Path) -> None:
    ders = []
    for name in ("policy", "root"):
        make_pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", f"/CN={name}")
        openssl("x509", "-in", tmp_path / f"{name}.pem", "-outform", "DER", "-out", tmp_path / f"{name}.der")
        ders.append((tmp_path / f"{name}.der").read_bytes())
    own = ca.certificate.read_text()
    both = "".join((tmp_path / f"{name}.pem").read_text() for name in ("policy", "root"))
    ca.certificate.write_text(own + both + both + "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    reading = read(ca)
    assert reading.chain == tuple(ders)
    assert len(reading.generations) == 1

    (ca.directory / "chain.pem").write_text((tmp_path / "root.pem").read_text())
    assert read(ca, chain_file="chain.pem").chain == (ders[1],)
    assert read(ca, chain_file=str(tmp_path / "root.der")).chain == (ders[1],)
    for content, why in ((None, "it does not exist"), (b"", "no certificate is in it"), (b"0\x00", "one that is damaged")):
        (ca.directory / "chain.pem").unlink()
        if content is not None:
            (ca.directory / "chain.pem").write_bytes(content)
        with pytest.raises(KeywardError, match=rf"the chain {ca.directory}/chain.pem can't be read: .*{why}") as caught:
            read(ca, chain_file="chain.pem")
        assert not isinstance(caught.value, NothingThere)
        (ca.directory / "chain.pem").touch()


def test_database(ca: OpensslCa) -> None:
    ca.issue("second.example.com")
    (ca.directory / "index.txt").write_bytes((ca.directory / "index.txt").read_bytes().rstrip(b"\n"))
    (ca.directory / "serial").write_text("0a1B\n")
    (ca.directory / "crlnumber").unlink()
    assert read(ca).database.entries == 2
    assert read(ca).database.serial == "0a1B"
    assert read(ca).database.crl_number is None
    (ca.directory / "serial").write_text("not a number\n")
    (ca.directory / "index.txt").unlink()
    assert vars(read(ca).database) == {
        **{"path": str(ca.directory / "index.txt"), "exists": False, "entries": None, "serial": None, "crl_number": None},
    }
    os.mkfifo(ca.directory / "index.txt")
    assert read(ca).database.entries is None


def test_pending_request(ca: OpensslCa, tmp_path: Path) -> None:
    make_pair(tmp_path / "x.pem", tmp_path / "new.key")
    expected = {"subject": "CN=Example Root CA,O=Example", "public_key_sha256": public_key(tmp_path / "new.key")}
    for name in ("cacert.csr", "cacert.req", "careq.pem"):
        place = ca.directory / name
        assert read(ca).pending_request is None
        shutil.copy(_request(ca, tmp_path), place)  # its key is certified already
        assert read(ca).pending_request is None
        shutil.copy(_request(ca, tmp_path, tmp_path / "new.key", "/CN=Somebody else"), place)
        assert read(ca).pending_request is None
        shutil.copy(_request(ca, tmp_path, tmp_path / "new.key"), place)
        assert read(ca).pending_request == PendingRequest(str(place), answerable=False, **expected)
        openssl("req", "-in", place, "-outform", "DER", "-out", tmp_path / "der")
        shutil.copy(tmp_path / "der", place)
        assert read(ca).pending_request == PendingRequest(str(place), answerable=False, **expected)
        place.write_text("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")


# --- errors --------------------------------------------------------------------------------------------------------


def test_nothing_there(ca: OpensslCa) -> None:
    with pytest.raises(NothingThere, match=rf"the CA certificate {ca.directory}/gone.pem can't be read: it does not exist"):
        read(ca, certificate_file="gone.pem")
    with pytest.raises(NothingThere, match=r"the configuration /nowhere/openssl.cnf can't be read: it does not exist"):
        OpensslBackend(Selector(config_file="/nowhere/openssl.cnf")).facts()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "default_ca = CA_default",
            "",
            "it has no default_ca in its section [ca]. Give the CA's section as name; sections with a private_key",
        ),
        ("default_ca = CA_default", "default_ca = other", "it has no section [other], which default_ca in [ca] says is the CA's"),
        (
            "private_key = $dir/private/cakey.pem",
            "",
            "its CA section [CA_default] names no private_key. Name it there, or give private_key_file",
        ),
        ("certificate = $dir/cacert.pem", "certificate =", "its CA section [CA_default] names no certificate"),
        ("database = $dir", "database = $gone", "the variable $gone has no value (used in section [CA_default])"),
    ],
)
def test_configurations_that_openssl_would_not_take(ca: OpensslCa, old: str, new: str, message: str) -> None:
    ca.config_file.write_text(ca.config_file.read_text().replace(old, new))
    with pytest.raises(KeywardError) as caught:
        read(ca)
    assert message in str(caught.value)
    assert str(ca.config_file) in str(caught.value)
    assert not isinstance(caught.value, NothingThere)
    done = openssl("ca", "-gencrl", "-config", ca.config_file, "-out", ca.directory / "crl.pem", cwd=ca.directory, check=False)
    assert done.returncode != 0


def test_an_unknown_name_lists_the_sections(ca: OpensslCa) -> None:
    with pytest.raises(KeywardError, match=r"no section \[other\], which name says is the CA's.*private_key: CA_default"):
        read(ca, name="other")


@pytest.mark.parametrize("content", [b"", b"\x30\x03abc", b"text\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_no_certificate(ca: OpensslCa, content: bytes) -> None:
    ca.certificate.write_bytes(content)
    with pytest.raises(KeywardError, match=rf"the CA certificate {ca.certificate} can't be read: ") as caught:
        read(ca)
    assert isinstance(caught.value, NothingThere)  # a restore can put it back


def test_neither_configuration_nor_files() -> None:
    with pytest.raises(KeywardError, match="neither config_file nor private_key_file is given"):
        OpensslBackend(Selector(certificate_file="/x.pem")).facts()


def test_no_secret_in_what_is_shown(make_ca: MakeCa) -> None:
    ca = make_ca(passphrase="canary-passphrase")
    for passphrase in ("canary-passphrase", "canary-wrong"):
        backend = OpensslBackend(Selector(config_file=str(ca.config_file), private_key_passphrase=passphrase))
        reading = backend.facts()
        assert "canary" not in repr(reading) + "".join(a.message for a in reading.advisories)
        assert "PrivateKey object" not in repr(reading)


def test_nothing_is_touched_and_each_key_is_loaded_once(three: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    really = key_files.serialization.load_pem_private_key
    monkeypatch.setattr(
        key_files.serialization,
        "load_pem_private_key",
        lambda data, password, **known: loaded.append(data) or really(data, password, **known),
    )
    before = {path: os.stat(path) for path in three.directory.rglob("*")}
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    backend.places(backend.facts().generations, None)
    assert len(loaded) == 2
    after = {path: os.stat(path) for path in three.directory.rglob("*")}
    assert {p: (s.st_mtime_ns, s.st_ino) for p, s in before.items()} == {p: (s.st_mtime_ns, s.st_ino) for p, s in after.items()}


# --- places --------------------------------------------------------------------------------------------------------


def paths(placed: dict[str, Generation], generations: tuple[Generation, ...] | list[Generation], base: Path | str) -> list[tuple[str, str]]:
    """(certificate, key) of each generation, seen from `base`."""
    found = []
    for generation in generations:
        one = placed[generation.sha256]
        assert one.certificate_place and one.key_place
        found.append((os.path.relpath(one.certificate_place.path, base), os.path.relpath(one.key_place.path, base)))
    return found


THREE_PATHS = [("cacert.0.pem", "private/cakey.0.pem"), ("cacert.1.pem", "private/cakey.0.pem"), ("cacert.pem", "private/cakey.pem")]


def test_places_on_the_same_host(three: OpensslCa) -> None:
    generations = read(three).generations
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    live = backend.facts()
    placed = backend.places(generations, str(three.directory))
    assert paths(placed, generations, three.directory) == THREE_PATHS
    assert [placed[g.sha256].certificate_place for g in generations] == [g.certificate_place for g in live.generations]
    assert [placed[g.sha256].private_key for g in generations] == ["present"] * 3

    for path in three.private_key.parent.glob("cakey*"):
        path.unlink()
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    backend.facts()
    placed = backend.places(generations, str(three.directory))
    assert paths(placed, generations, three.directory) == THREE_PATHS
    assert [placed[g.sha256].private_key for g in generations] == ["missing"] * 3
    recorded = generations[0].key_place
    assert recorded and placed[generations[0].sha256].key_place == recorded


def test_places_where_nothing_is_left(three: OpensslCa, tmp_path: Path) -> None:
    generations = read(three).generations
    shutil.rmtree(three.directory)
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    with pytest.raises(NothingThere):
        backend.facts()
    assert paths(backend.places(generations, str(three.directory)), generations, three.directory) == THREE_PATHS
    # Another directory of the new host; and one where only the files are stated.
    elsewhere = OpensslBackend(Selector(config_file=str(tmp_path / "new" / "openssl.cnf")))
    assert paths(elsewhere.places(generations, str(three.directory)), generations, tmp_path / "new") == THREE_PATHS
    stated = OpensslBackend(Selector(certificate_file=str(tmp_path / "x/c.crt"), private_key_file=str(tmp_path / "x/k.key")))
    assert paths(stated.places(generations, None), generations, tmp_path / "x")[-1] == ("c.crt", "k.key")
    assert paths(stated.places(generations, None), generations, three.directory)[:2] == THREE_PATHS[:2]


def test_places_where_only_the_configuration_is_left(three: OpensslCa, tmp_path: Path) -> None:
    generations = read(three).generations
    new = tmp_path / "new"
    new.mkdir()
    text = three.config_file.read_text().replace(f"dir = {three.directory}", "dir = .")
    (new / "openssl.cnf").write_text(text.replace("cacert.pem", "certs/authority.crt").replace("cakey.pem", "authority.key"))
    backend = OpensslBackend(Selector(config_file=str(new / "openssl.cnf")))
    assert paths(backend.places(generations, str(three.directory)), generations, new) == [
        *THREE_PATHS[:2],
        ("certs/authority.crt", "private/authority.key"),
    ]


def test_places_of_a_ca_renewed_in_place(ca: OpensslCa) -> None:
    (older,) = read(ca).generations
    ca.renew_in_place(new_key=False)
    (middle,) = read(ca).generations
    ca.renew_in_place()
    (newer,) = read(ca).generations
    backup = [older, replace(middle, index=1), replace(newer, index=2)]
    for present in (True, False):
        if not present:
            shutil.rmtree(ca.directory)
        backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
        if present:
            backend.facts()
        assert paths(backend.places(backup, str(ca.directory)), backup, ca.directory) == THREE_PATHS


def test_places_never_give_two_keys_one_path(three: OpensslCa) -> None:
    """An older generation took the name that the collision would take."""
    zero, one, two = read(three).generations
    assert zero.certificate_place and zero.key_place and two.certificate_place and two.key_place
    clash = replace(zero, certificate_place=two.certificate_place, key_place=two.key_place, index=0)
    squatter = replace(
        one,
        certificate_place=zero.certificate_place,
        key_place=zero.key_place,
        public_key_sha256="f" * 64,  # a key of its own
    )
    backup = [clash, squatter, two]
    placed = OpensslBackend(Selector(config_file="/nowhere/openssl.cnf")).places(backup, None)
    assert paths(placed, backup, three.directory) == [
        ("cacert.3.pem", "private/cakey.3.pem"),
        ("cacert.0.pem", "private/cakey.0.pem"),
        ("cacert.pem", "private/cakey.pem"),
    ]


def test_places_when_the_host_was_renewed_since(ca: OpensslCa) -> None:
    """What is here already stays where it is; only what is not goes where it was."""
    backup = read(ca).generations
    ca.renew_keeping()
    backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
    backend.facts()
    placed = backend.places(backup, str(ca.directory))
    assert paths(placed, backup, ca.directory) == [("cacert.0.pem", "private/cakey.0.pem")]
    assert placed[backup[0].sha256].private_key == "present"


def test_places_when_the_current_key_lies_elsewhere(ca: OpensslCa) -> None:
    """The configuration names one file for the current key: a copy of it elsewhere is no help."""
    backup = read(ca).generations
    ca.private_key.rename(ca.private_key.with_name("cakey.0.pem"))
    backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
    assert [g.private_key for g in backend.facts().generations] == ["present"]
    placed = backend.places(backup, str(ca.directory))
    assert paths(placed, backup, ca.directory) == [("cacert.pem", "private/cakey.pem")]
    assert placed[backup[0].sha256].private_key == "missing"


def test_places_keep_how_a_file_was(make_ca: MakeCa, tmp_path: Path) -> None:
    ca = make_ca(passphrase="at rest")
    ca.private_key.chmod(0o640)
    (generation,) = read(ca, private_key_passphrase="at rest").generations
    recorded = replace(generation, key_place=replace(generation.key_place, owner="nobody"))  # type: ignore[type-var]
    backend = OpensslBackend(Selector(config_file=str(tmp_path / "new/openssl.cnf")))
    place = backend.places([recorded], str(ca.directory))[generation.sha256].key_place
    assert place and place == replace(recorded.key_place, path=str(tmp_path / "new/private/cakey.pem"))  # type: ignore[type-var]
    assert (place.owner, place.mode, place.encrypted_at_rest) == ("nobody", "0640", True)


def test_places_of_a_backup_that_knows_none(three: OpensslCa) -> None:
    bare = [replace(g, certificate_place=None, key_place=None) for g in read(three).generations]
    shutil.rmtree(three.private_key.parent)
    for path in three.directory.glob("cacert*"):
        path.unlink()
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    assert paths(backend.places(bare, None), bare, three.directory) == THREE_PATHS
    with pytest.raises(KeywardError, match="the backup does not say where its keys were"):
        OpensslBackend(Selector(config_file="/nowhere/openssl.cnf")).places(bare, None)


def test_places_say_what_lies_there(make_ca: MakeCa, tmp_path: Path) -> None:
    """Even where the certificate is gone, and the authority as a whole can't be read."""
    ca = make_ca(passphrase="at rest")
    backup = read(ca, private_key_passphrase="at rest").generations
    ca.certificate.unlink()
    for passphrase, state in (("at rest", "present"), (None, "inaccessible"), ("wrong", "inaccessible")):
        backend = OpensslBackend(Selector(config_file=str(ca.config_file), private_key_passphrase=passphrase))
        assert backend.places(backup, str(ca.directory))[backup[0].sha256].private_key == state
    make_pair(tmp_path / "x.pem", ca.private_key)
    assert backend.places(backup, str(ca.directory))[backup[0].sha256].private_key == "inaccessible"  # read once
    backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
    assert backend.places(backup, str(ca.directory))[backup[0].sha256].private_key == "missing"
    assert stat.S_IMODE(os.stat(ca.private_key).st_mode) == 0o600
