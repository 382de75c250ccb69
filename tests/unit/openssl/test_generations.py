# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The generations that the openssl backend finds of CAs that the openssl command made."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Older, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import absolute
from ansible_collections.keyward.pki.plugins.module_utils._generation import Place
from support.openssl_ca import OpensslCa, openssl
from support.openssl_reading import MakeCa, codes, key_names, public_key, read, request
from support.openssl_shapes import make_pair

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
        "crls": (),
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
        *("-enddate", f"{year + 10}0101000000Z", "-extensions", "v3_ca", "-in", request(ca, folder), "-out", path, "-outdir", folder),
        cwd=ca.directory,
    )
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
    assert set(reading.authority.place) == {"directory", "certificate_file", "private_key_file"}
    assert vars(reading.database) == {"path": None, "exists": False, "entries": None, "serial": None, "crl_number": None, "crls": ()}

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
