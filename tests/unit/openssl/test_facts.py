# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the openssl backend reads beside the keys, and its errors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import key_files
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import PendingRequest
from support.openssl_ca import OpensslCa, openssl
from support.openssl_reading import MakeCa, public_key, read, request
from support.openssl_shapes import make_pair

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
        **{"path": str(ca.directory / "index.txt"), "exists": False, "entries": None, "serial": None, "crl_number": None, "crls": ()},
    }
    os.mkfifo(ca.directory / "index.txt")
    assert read(ca).database.entries is None


def test_pendingrequest(ca: OpensslCa, tmp_path: Path) -> None:
    make_pair(tmp_path / "x.pem", tmp_path / "new.key")
    expected = {"subject": "CN=Example Root CA,O=Example", "public_key_sha256": public_key(tmp_path / "new.key")}
    for name in ("cacert.csr", "cacert.req", "careq.pem"):
        place = ca.directory / name
        assert read(ca).pending_request is None
        shutil.copy(request(ca, tmp_path), place)  # its key is certified already
        assert read(ca).pending_request is None
        shutil.copy(request(ca, tmp_path, tmp_path / "new.key", "/CN=Somebody else"), place)
        assert read(ca).pending_request is None
        shutil.copy(request(ca, tmp_path, tmp_path / "new.key"), place)
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
