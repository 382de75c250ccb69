# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A renewal where files are no plain files: links are followed, what can't be replaced is seen before, what fails is taken back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import immovable, switch
from support.killed import killed_at
from support.lifecycle import SUBJECT, crl, cuts, fingerprints, install, keys_present, refused, renew, sign, state
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    require_tool("openssl")
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


def on_medium(path: Path, medium: Path) -> Path:
    """The file lies on a medium, and a link leads to it."""
    medium.mkdir(exist_ok=True)
    path.rename(medium / path.name)
    path.symlink_to(medium / path.name)
    return medium / path.name


def still_signs(ca: OpensslCa) -> None:
    """Key and certificate in place belong together: openssl ca checks that."""
    openssl("ca", "-config", ca.config_file, "-gencrl", "-out", ca.directory.parent / "crl.pem")


def test_a_key_on_a_medium_stays_on_the_medium(ca: OpensslCa, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    on_medium(ca.private_key, medium)
    for number in (0, 1):
        assert renew(ca)["renewed"] and ca.private_key.is_symlink()
        assert sorted(path.name for path in ca.private_key.parent.iterdir()) == ["cakey.pem"], "no key but on the medium"
        assert (medium / f"cakey.{number}.pem").exists()
    still_signs(ca)
    assert len(fingerprints(ca)) == 3 and keys_present(ca) == {"present"}
    assert [Path(one["path"]).name for one in crl(ca)["crls"]] == ["crl.0.pem", "crl.1.pem", "crl.pem"]


def test_a_certificate_behind_a_link_is_renewed_where_it_lies(ca: OpensslCa, tmp_path: Path) -> None:
    real = on_medium(ca.certificate, tmp_path / "published")
    renew(ca)
    assert ca.certificate.is_symlink() and sorted(path.name for path in real.parent.iterdir()) == ["cacert.0.pem", "cacert.pem"]
    assert len(fingerprints(ca)) == 2
    still_signs(ca)


def test_a_renewal_behind_links_that_is_killed_anywhere_is_finished(tmp_path: Path) -> None:
    reached = 0
    for number, directory in cuts(tmp_path):
        ca = OpensslCa(directory, algorithm="ed25519")
        for path in (ca.private_key, ca.certificate):
            on_medium(path, tmp_path / f"medium{number}")
        due = {"reuse_key": False, "remaining_days": 4000, "days": 5000}
        killed = killed_at(number, lambda ca=ca, due=due: renew(ca, **due))
        assert keys_present(ca) == {"present"}
        renew(ca, **due)
        assert len(fingerprints(ca)) == 2 and not list(tmp_path.rglob("*next*")), number
        still_signs(ca)
        if not killed:
            break
        reached += 1
    assert reached >= 10


def test_a_medium_that_is_not_mounted_is_said(ca: OpensslCa, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    on_medium(ca.private_key, medium)
    medium.rename(tmp_path / "away")
    assert "its private key is missing" in refused(lambda: renew(ca))
    (tmp_path / "away").rename(medium)
    assert renew(ca)["renewed"]


# --- seen before ---


def hindered(ca: OpensslCa, why: str, reuse_key: bool = False) -> None:
    before = state(ca.directory)
    for check in (True, False):
        assert why in refused(lambda check=check: renew(ca, check=check, reuse_key=reuse_key)) and state(ca.directory) == before
    still_signs(ca)


def test_a_file_that_is_mounted_alone_is_seen_before(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(immovable, "_mount_points", lambda: {str(ca.certificate)})
    hindered(ca, f"{ca.certificate} is mounted by itself")
    monkeypatch.setattr(immovable, "_mount_points", lambda: {str(ca.private_key)})
    hindered(ca, f"{ca.private_key} is mounted by itself")
    assert renew(ca, reuse_key=True)["renewed"], "the key stays"


def test_where_something_is_mounted() -> None:
    assert "/proc" in immovable._mount_points()


@pytest.fixture
def changed_attributes() -> Iterator[Callable[..., None]]:
    """chattr, taken back at the end."""
    if not shutil.which("chattr") or os.geteuid() != 0:
        pytest.skip("no chattr here, or not root")
    done: list[tuple[str, Path]] = []

    def change(letter: str, path: Path) -> None:
        if subprocess.run(["chattr", f"+{letter}", path], capture_output=True, check=False).returncode:
            pytest.skip("this file system has no such attributes")
        done.append((letter, path))

    yield change
    for letter, path in done:
        subprocess.run(["chattr", f"-{letter}", path], check=True)


@pytest.mark.parametrize("letter", ["i", "a"])
def test_immutable_and_append_only_files_are_seen_before(ca: OpensslCa, changed_attributes: Callable[..., None], letter: str) -> None:
    changed_attributes(letter, ca.certificate)
    hindered(ca, f"chattr -{letter} {ca.certificate}")
    hindered(ca, f"chattr -{letter} {ca.certificate}", reuse_key=True)


def test_an_immutable_directory_is_seen_before(ca: OpensslCa, changed_attributes: Callable[..., None]) -> None:
    changed_attributes("i", ca.private_key.parent)
    hindered(ca, f"chattr -i {ca.private_key.parent}")


def test_a_directory_that_takes_no_file_is_seen_before(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: str(path) != str(ca.private_key.parent) and really(path, mode, **more))
    hindered(ca, f"no file can be put into {ca.private_key.parent}: this user may not write there")


# --- taken back ---


def failing(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """What the kernel answers to a rename onto a busy file."""
    really = os.replace

    def replaced(source: Any, target: Any) -> None:
        if str(target) == str(place):
            raise OSError(errno.EBUSY, "busy")
        really(source, target)

    monkeypatch.setattr(os, "replace", replaced)


@pytest.mark.parametrize("links", [True, False], ids=["hard-links", "copies"])
@pytest.mark.parametrize("which", ["certificate", "private_key"])
def test_a_switch_that_fails_is_taken_back_and_finished_later(
    ca: OpensslCa, monkeypatch: pytest.MonkeyPatch, which: str, links: bool
) -> None:
    before = {path: path.read_bytes() for path in (ca.certificate, ca.private_key)}
    if not links:
        monkeypatch.setattr(switch, "_same_file", copied)
    with monkeypatch.context() as patched:
        failing(patched, getattr(ca, which))
        assert "it is in use" in refused(lambda: renew(ca))
        assert {path: path.read_bytes() for path in before} == before
        still_signs(ca)
        assert not (ca.directory / "cacert.0.pem").exists() and not (ca.private_key.parent / "cakey.0.pem").exists()
        assert len(fingerprints(ca)) == 2 and keys_present(ca) == {"present"}, "the complete pair waits"
    assert renew(ca)["renewed"] and len(fingerprints(ca)) == 2 and not list(ca.directory.rglob("*next*"))
    still_signs(ca)


def copied(path: str, name: str) -> None:
    if os.path.lexists(name):
        raise FileExistsError
    shutil.copy2(path, name)


def test_a_request_whose_answer_cannot_take_its_place_waits_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool("openssl")
    root, sub = tmp_path / "root", tmp_path / "sub"
    install(root)
    subordinate = {"kind": "subordinate", "subject": {**SUBJECT, "commonName": "Example Issuing CA"}}
    install(sub, **subordinate, certificate=sign(root, install(sub, **subordinate)["request"])["certificate"])
    request = sub / "cacert.next.csr"
    answer = sign(root, renew(sub)["request"])["certificate"]
    text, key = request.read_bytes(), (sub / "private" / "cakey.pem").read_bytes()
    with monkeypatch.context() as patched:
        failing(patched, sub / "cacert.pem")
        assert "could not take its place" in refused(lambda: renew(sub, certificate=answer))
    assert request.read_bytes() == text and (sub / "private" / "cakey.pem").read_bytes() == key
    assert renew(sub, certificate=answer)["renewed"] and not request.exists()


def test_a_link_that_others_can_change_is_not_followed(ca: OpensslCa, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a link to another user")
    on_medium(ca.private_key, tmp_path / "medium")
    os.chown(ca.private_key, 4711, -1, follow_symlinks=False)
    hindered(ca, f"through the link {ca.private_key}, which others")


# --- CRLs ---


def test_a_crl_behind_a_link_is_signed_where_it_is_served(ca: OpensslCa, tmp_path: Path) -> None:
    crl(ca)
    served = on_medium(ca.directory / "crl.pem", tmp_path / "www")
    before = served.read_bytes()
    assert crl(ca, remaining_days=31)["changed"]
    assert (ca.directory / "crl.pem").is_symlink() and served.read_bytes() != before
    assert not crl(ca)["changed"]


def test_a_crl_that_cannot_be_replaced_uses_up_no_number(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    crl(ca)
    number = (ca.directory / "crlnumber").read_text()
    monkeypatch.setattr(immovable, "_mount_points", lambda: {str(ca.directory / "crl.pem")})
    assert "crl.pem is mounted by itself" in refused(lambda: crl(ca, remaining_days=31))
    assert (ca.directory / "crlnumber").read_text() == number
