# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database whose files are no plain files: links are followed, and what can't be replaced is seen before the first step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import immovable
from support.lifecycle import crl, install, state
from support.lifecycle import refused as task_refused
from support.lifecycle import sign as ca_sign
from support.openssl_ca import OpensslCa, openssl
from support.sets import exact, make, refused, restore


def on_medium(path: Path, medium: Path) -> Path:
    medium.mkdir(exist_ok=True)
    path.rename(medium / path.name)
    path.symlink_to(medium / path.name)
    return medium / path.name


def mounted(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    monkeypatch.setattr(immovable, "_mount_points", lambda: set(map(str, paths)))


@pytest.mark.parametrize("name", ["index.txt", "serial", "crlnumber"])
def test_a_file_that_is_mounted_alone_is_seen_before_a_restore(
    name: str, ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make(ca, tmp_path / "set")
    for changed, text in (("index.txt", ""), ("serial", "0FFF\n"), ("crlnumber", "00\n")):
        (ca.directory / changed).write_text(text)
    whole = exact(ca.directory)
    mounted(monkeypatch, ca.directory / name)
    for check in (True, False):
        assert f"{name} is mounted by itself" in refused(lambda check=check: restore(ca, tmp_path / "set", manifest, check=check))
        assert exact(ca.directory) == whole
    mounted(monkeypatch)
    assert restore(ca, tmp_path / "set", manifest).changed


def test_a_folder_that_takes_no_file_is_seen_before_a_restore(ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make(ca, tmp_path / "set")
    (ca.directory / "index.txt").write_text("")
    (ca.directory / "newcerts" / "1000.pem").unlink()
    whole, really = exact(ca.directory), os.access
    folder = str(ca.directory / "newcerts")
    monkeypatch.setattr(os, "access", lambda path, mode, **more: str(path) != folder and really(path, mode, **more))
    for check in (True, False):
        message = refused(lambda check=check: restore(ca, tmp_path / "set", manifest, check=check))
        assert f"no file can be put into {folder}" in message and exact(ca.directory) == whole


@pytest.mark.parametrize("name", ["index.txt", "serial", "openssl.cnf"])
def test_a_file_behind_a_link_comes_back_where_it_lies(name: str, ca: OpensslCa, tmp_path: Path) -> None:
    real = on_medium(ca.directory / name, tmp_path / "medium")
    manifest = make(ca, tmp_path / "set")
    before = real.read_bytes()
    if name == "openssl.cnf":
        real.write_bytes(before + b"# changed\n")
        restore(ca, tmp_path / "set", manifest, part="configuration", on_conflict="set_aside")
        assert real.read_bytes() == before + b"# changed\n" and ca.config_file.read_bytes() == before, "a link is kept aside as it is"
        return
    real.write_text("" if name == "index.txt" else "0FFF\n")
    assert restore(ca, tmp_path / "set", manifest).changed
    assert (ca.directory / name).is_symlink() and not restore(ca, tmp_path / "set", manifest).changed
    assert real.read_bytes() == before if name == "index.txt" else int(real.read_text(), 16) > int(before, 16)


def test_a_database_on_a_medium_that_is_not_mounted_is_said(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    on_medium(ca.directory / "index.txt", tmp_path / "medium").unlink()
    whole = exact(ca.directory)
    for check in (True, False):
        assert "Mount the medium" in refused(lambda check=check: restore(ca, tmp_path / "set", manifest, check=check))
        assert exact(ca.directory) == whole


def test_a_link_that_others_can_change_leads_no_database(ca: OpensslCa, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a link to another user")
    manifest = make(ca, tmp_path / "set")
    real = on_medium(ca.directory / "index.txt", tmp_path / "medium")
    real.write_text("")
    os.chown(ca.directory / "index.txt", 4711, -1, follow_symlinks=False)
    assert "which others than root" in refused(lambda: restore(ca, tmp_path / "set", manifest)) and real.read_bytes() == b""


@pytest.mark.parametrize("name", ["index.txt", "serial", "index.txt.attr"])
def test_nothing_is_issued_that_the_database_could_not_take(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """openssl writes certificate and number first, and would leave them without a row."""
    root = tmp_path / "root"
    install(root)
    asked: Any = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    before = state(root)
    mounted(monkeypatch, root / name)
    assert f"{name} is mounted by itself" in task_refused(lambda: ca_sign(root, asked)) and state(root) == before
    mounted(monkeypatch)
    assert ca_sign(root, asked)["changed"]


@pytest.mark.parametrize("name", ["crlnumber", "crl.pem"])
@pytest.mark.parametrize("check", [True, False])
def test_no_crl_is_signed_whose_number_could_not_go_on(
    name: str, check: bool, ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crl(ca)
    before = state(ca.directory)
    mounted(monkeypatch, ca.directory / name)
    message = task_refused(lambda: crl(ca, remaining_days=31, check=check))
    assert f"{name} is mounted by itself" in message and state(ca.directory) == before


@pytest.mark.parametrize("name", ["index.txt", "serial", "index.txt.attr", "crlnumber"])
def test_a_link_that_openssl_would_replace_is_seen_before(name: str, tmp_path: Path) -> None:
    root, task = tmp_path / "root", "crl" if name == "crlnumber" else "sign"
    install(root)
    asked: Any = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    real = on_medium(root / name, tmp_path / "medium")
    before, kept = state(root), real.read_bytes()
    message = task_refused(lambda: crl(root) if task == "crl" else ca_sign(root, asked))
    assert f"Name {real} itself in the configuration" in message and state(root) == before and real.read_bytes() == kept
    if name == "index.txt.attr":
        on_medium(root / "index.txt", tmp_path / "medium")
    config, named = root / "openssl.cnf", name.removesuffix(".attr")
    config.write_text(config.read_text().replace(f"$dir/{named}\n", f"{tmp_path / 'medium' / named}\n"))
    assert (crl(root) if task == "crl" else ca_sign(root, asked))["changed"]


def test_a_crl_whose_link_leads_to_what_is_not_mounted_is_not_signed(ca: OpensslCa, tmp_path: Path) -> None:
    crl(ca)
    on_medium(ca.directory / "crl.pem", tmp_path / "www")
    (tmp_path / "www").rename(tmp_path / "away")
    number = (ca.directory / "crlnumber").read_text()
    assert "its directory is not there" in task_refused(lambda: crl(ca))
    assert not (tmp_path / "www").exists() and (ca.directory / "crlnumber").read_text() == number


def test_lost_files_come_back_beside_a_link(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    (ca.directory / "newcerts").rename(tmp_path / "medium")
    (ca.directory / "newcerts").symlink_to(tmp_path / "medium")
    for lost in (tmp_path / "medium" / "1000.pem", ca.directory / "index.txt"):
        lost.unlink()
    assert restore(ca, tmp_path / "set", manifest).changed and (tmp_path / "medium" / "1000.pem").exists()
    openssl("ca", "-config", ca.config_file, "-gencrl", "-out", tmp_path / "crl.pem")
