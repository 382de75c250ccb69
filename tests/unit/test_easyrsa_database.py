# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of what easy-rsa has issued: whole, free of subscribers' keys, and back for the real easyrsa to go on with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import database_copy, database_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_copy import Survey
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Look, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import LeftOut, Restored
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetManifest
from support.easyrsa_ca import VERSIONS, EasyrsaCa, EasyrsaPki, assert_crl_of, assert_verifies
from support.sets import copied, listed, restored, sent


@pytest.fixture(params=VERSIONS, scope="module")
def used(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EasyrsaCa:
    """Certificates of every fate, and subscribers' keys in every place where a release of easy-rsa leaves them. To be copied."""
    ca = EasyrsaCa(tmp_path_factory.mktemp("used") / "pki", request.param)
    for name in ("first", "second"):
        ca.issue(name)
    ca.issue("third", "server", passphrase=True)
    for kind in ("p12", "p8"):
        ca.easyrsa(f"export-{kind}", "first")
    ca.easyrsa("revoke", "second", "keyCompromise")
    ca.sign_crl()
    ca.easyrsa("--renew-days=9999" if ca.version == "3.1" else "--batch", "renew", "third")
    key = (ca.directory / "private" / "first.key").read_text()
    (ca.directory / "private" / "easyrsa-tls.key").write_text("-----BEGIN OpenVPN Static key V1-----\n0123\n")
    (ca.directory / "first.creds").write_text(f"<key>\n{key}</key>\n")
    for folder in ("inline/private", "renewed/private_by_serial", "revoked/private_by_serial"):
        (ca.directory / folder).mkdir(parents=True, exist_ok=True)
        (ca.directory / folder / "planted.inline").write_text(f"<key>\n{key}</key>\n")
    return ca


@pytest.fixture
def ca(used: EasyrsaCa, tmp_path: Path) -> EasyrsaPki:
    shutil.copytree(used.directory, tmp_path / "pki")
    return EasyrsaPki(tmp_path / "pki", used.version)


def which(pki: EasyrsaPki) -> Selector:
    return Selector(backend="easyrsa", directory=str(pki.directory), private_key_passphrase=pki.passphrase)


def make(pki: EasyrsaPki, folder: Path) -> tuple[SetManifest, list[str], tuple[LeftOut, ...]]:
    """A set in a folder: its manifest, its members' paths below the PKI, and what was left out."""
    manifest, answer = copied(which(pki), folder)
    paths = [member["path"] for member in listed(folder)]
    return manifest, [path.removeprefix(f"{pki.directory}/") for path in paths], answer.left_out


def restore(pki: EasyrsaPki, folder: Path, manifest: SetManifest, **options: Any) -> Restored:
    return restored(which(pki), folder, manifest, **options)


def test_a_set_holds_what_easy_rsa_needs_and_no_key(ca: EasyrsaPki, tmp_path: Path) -> None:
    _manifest, members, left_out = make(ca, tmp_path / "set")
    expected = {"ca.crt", "crl.pem", "index.txt", "index.txt.attr", "serial", "issued/first.crt", "issued/third.crt", "reqs/first.req"}
    expected |= {"vars", "renewed/issued/third.crt"}
    expected |= {"openssl-easyrsa.cnf", "renewed/reqs/third.req"} if ca.version == "3.1" else {"crl.der"}
    expected |= {f"certs_by_serial/{path.name}" for path in (ca.directory / "certs_by_serial").iterdir()}
    assert expected <= set(members)
    keys = [path for path in members if "key" in path or path.startswith(("private", "inline")) or "private_by_serial" in path]
    assert keys == [] and "first.creds" not in members
    counted = {Path(one.path).relative_to(ca.directory).as_posix(): one.count for one in left_out}
    inside = [path for path in (ca.directory / "private").iterdir() if path != ca.private_key]
    assert counted.pop("private") == len(inside) >= 5, "the CA's own key is not a subscriber's"
    assert counted.pop("renewed/private", None) == (1 if ca.version == "3.1" else None)
    assert counted.pop("inline") == len([path for path in (ca.directory / "inline").rglob("*") if path.is_file()])
    assert counted == {"first.creds": 1, "renewed/private_by_serial": 1, "revoked/private_by_serial": 2}


def test_easy_rsa_goes_on_with_what_came_back(ca: EasyrsaPki, tmp_path: Path) -> None:
    manifest, members, _left_out = make(ca, tmp_path / "set")
    kept = {path: (ca.directory / path).read_bytes() for path in members if (ca.directory / path).is_file()}
    rows, key = ca.index(), ca.private_key.read_bytes()
    shutil.rmtree(ca.directory)
    assert restore(ca, tmp_path / "set", manifest, part="configuration").changed
    ca.private_key.parent.mkdir(mode=0o700)
    ca.private_key.write_bytes(key)
    assert restore(ca, tmp_path / "set", manifest).changed
    assert not restore(ca, tmp_path / "set", manifest).changed
    assert ca.index() == rows and {path: (ca.directory / path).read_bytes() for path in kept} == kept
    assert_verifies(ca.issue("fourth"), ca.certificate)
    ca.easyrsa("revoke", "first")
    assert_crl_of(ca.sign_crl(), ca.certificate)
    assert [state for state, _serial, _name in ca.index()].count("R") == 2


def test_a_database_that_went_on_stays_as_it_is(ca: EasyrsaPki, tmp_path: Path) -> None:
    """Serial numbers are random: the later one may be the lower one. What was renewed and revoked since has been moved."""
    serials = ca.directory / "serial"
    serials.write_text("FF" * 16 + "\n")
    manifest, _members, _left_out = make(ca, tmp_path / "set")
    ca.easyrsa("revoke", "first")
    ca.issue("first")
    serials.write_text("01\n")
    before = {path: path.read_bytes() for path in ca.directory.rglob("*") if path.is_file()}
    outcome = restore(ca, tmp_path / "set", manifest)
    assert not outcome.changed and "database_newer" in [one.code for one in outcome.advisories]
    assert {path: path.read_bytes() for path in ca.directory.rglob("*") if path.is_file()} == before


def test_serial_numbers_that_count_go_on(ca: EasyrsaPki, tmp_path: Path) -> None:
    """EASYRSA_RAND_SN=no: as with openssl ca."""
    with (ca.directory / "vars").open("a") as variables:
        variables.write("set_var EASYRSA_RAND_SN no\n")
    (ca.directory / "serial").write_text("05\n")
    manifest, _members, _left_out = make(ca, tmp_path / "set")
    assert manifest.state.next_serial == "05"
    (ca.directory / "index.txt").unlink()
    (ca.directory / "serial").write_text("07\n")
    assert restore(ca, tmp_path / "set", manifest).next_serial == "07"


def test_vars_of_the_folder_above_belong_to_the_set(tmp_path: Path) -> None:
    """As make-cadir has it; and back on a host where that folder is gone, too."""
    home = tmp_path / "cadir"
    home.mkdir()
    shutil.copytree("/usr/share/easy-rsa/x509-types", home / "x509-types")
    ca = EasyrsaCa(home / "pki", "3.1")
    (ca.directory / "vars").unlink()
    (home / "vars").write_text("set_var EASYRSA_DIGEST sha384\n")
    manifest, members, _left_out = make(ca, tmp_path / "set")
    assert {str(home / "vars"), str(home / "x509-types" / "ca")} <= set(members)
    shutil.rmtree(home)
    restore(ca, tmp_path / "set", manifest, part="configuration")
    assert (home / "vars").read_text() == "set_var EASYRSA_DIGEST sha384\n" and (home / "x509-types" / "ca").exists()


@pytest.mark.parametrize("place", ["private/ca.key", "private/other.key", "inline/private/x.inline", "../elsewhere"])
def test_nothing_comes_back_where_keys_lie_or_outside(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = EasyrsaCa(tmp_path / "pki", "3.1")
    planted = (ca.directory / place).resolve()
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text("nothing secret")
    original = Survey.wanted
    monkeypatch.setattr(Survey, "wanted", lambda self: {**original(self), str(planted): "request"})
    monkeypatch.setattr(Survey, "key_files", set())
    manifest, _members, _left_out = make(ca, tmp_path / "set")
    monkeypatch.undo()
    planted.unlink()
    with pytest.raises(KeywardError, match="private key's place|no place of this CA"):
        restore(ca, tmp_path / "set", manifest)
    assert not planted.exists()


def test_a_set_is_made_while_easyrsa_waits_for_an_answer(ca: EasyrsaPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.2 has a lock file then; so has one that was killed."""
    monkeypatch.setattr(database_copy, "PAUSE", 0)
    for locked in (False, True):
        if locked:
            (ca.directory / "lock.file").write_text("4711\n")
        _manifest, answer = copied(which(ca), tmp_path / f"{locked}")
        assert [one.code for one in answer.advisories] == (["unfinished_issue"] if locked else [])


def test_what_openssl_left_undone_is_done_before_a_set_is_made(ca: EasyrsaPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_files, "SETTLED", 0.0)
    index, before = ca.directory / "index.txt", (ca.directory / "index.txt").read_bytes()
    ca.easyrsa("revoke", "first")
    after = index.read_bytes()
    Path(f"{index}.new").write_bytes(after)
    Path(f"{index}.old").write_bytes(before)
    index.unlink()
    manifest, answer = copied(which(ca), tmp_path / "set")
    assert [one.code for one in answer.advisories] == ["unfinished_finished"] and index.read_bytes() == after
    assert manifest.state.entries == after.count(b"\n")


def test_a_certificate_without_a_row_is_named(ca: EasyrsaPki) -> None:
    ca.issue("fourth")
    lines = (ca.directory / "index.txt").read_text().splitlines(keepends=True)
    (ca.directory / "index.txt").write_text("".join(lines[:-1]))
    told: Told = sent(which(ca), Look(database=True))
    said = [one.message for one in told.advisories if one.code == "certificate_without_row"]
    assert len(said) == 1 and f"certs_by_serial/{lines[-1].split(chr(9))[3]}.pem has no row" in said[0]


def test_a_pki_in_another_place_names_that_one(ca: EasyrsaPki, tmp_path: Path) -> None:
    said = (ca.directory / "vars").read_text() + f'set_var EASYRSA_PKI "{ca.directory}" # not {ca.directory}2\n# {ca.directory}\n'
    (ca.directory / "vars").write_text(said)
    manifest, _members, _left_out = make(ca, tmp_path / "set")
    ca.directory.rename(tmp_path / "gone")
    moved = EasyrsaPki.__new__(EasyrsaPki)
    moved.directory, moved.version, moved.passphrase = tmp_path / "vpn" / "pki", ca.version, ca.passphrase
    answer = restore(moved, tmp_path / "set", manifest)
    assert [(one.path, one.after) for one in answer.rewritten] == [
        (str(moved.directory / "vars"), f'set_var EASYRSA_PKI "{moved.directory}" # not {ca.directory}2')
    ]
    assert (moved.directory / "vars").read_text() == said.replace(f'"{ca.directory}"', f'"{moved.directory}"')
    assert (moved.directory / "index.txt").read_bytes() == (tmp_path / "gone" / "index.txt").read_bytes() and not ca.directory.exists()
    assert not restore(moved, tmp_path / "set", manifest).changed
