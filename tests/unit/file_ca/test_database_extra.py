# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to a set besides the CA's own files, and what never does: a store, and what a set is being made of."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import TellState
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.openssl_ca import OpensslCa
from support.sets import contents_of, copied, exact, forged, refused, restored, sent, which


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """A directory of scripts, beside the CA."""
    folder = tmp_path / "scripts"
    (folder / "deep").mkdir(parents=True)
    (folder / "publish.sh").write_text("#!/bin/sh\n")
    (folder / "publish.sh").chmod(0o750)
    (folder / "deep" / "extensions.cnf").write_text("[ server ]\n")
    (folder / "latest").symlink_to("publish.sh")
    return folder


def inside(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        found[str(path.relative_to(folder))] = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
    return found


def test_what_the_ca_needs_besides_comes_back_where_it_is_named(ca: OpensslCa, extra: Path, tmp_path: Path) -> None:
    before, mode = inside(extra), (extra / "publish.sh").stat().st_mode
    manifest, _answer = copied(which(ca), tmp_path / "set", extra_paths=(str(extra),))
    assert str(extra / "publish.sh").lstrip("/") in contents_of(tmp_path / "set")
    shutil.rmtree(extra)
    (ca.directory / "index.txt").unlink()
    answer = restored(which(ca), tmp_path / "set", manifest)
    assert answer.changed and not extra.exists() and "extra_paths_not_restored" in [one.code for one in answer.advisories]
    answer = restored(which(ca), tmp_path / "set", manifest, extra_paths=(str(extra / "deep"),))
    assert inside(extra) == {"deep": False, "deep/extensions.cnf": b"[ server ]\n"}, "what is named, and no more"
    answer = restored(which(ca), tmp_path / "set", manifest, extra_paths=(str(extra),))
    assert inside(extra) == before and (extra / "publish.sh").stat().st_mode == mode
    assert {one.part for one in answer.restored} == {"extra"}
    whole = exact(extra)
    again = restored(which(ca), tmp_path / "set", manifest, extra_paths=(str(extra),))
    assert not again.changed and exact(extra) == whole and "extra_paths_not_restored" not in [one.code for one in again.advisories]
    (extra / "publish.sh").write_text("#!/bin/sh\n# mine\n")
    assert "something else is in the place" in refused(lambda: restored(which(ca), tmp_path / "set", manifest, extra_paths=(str(extra),)))


def test_a_change_of_it_makes_a_set_due(ca: OpensslCa, extra: Path) -> None:
    order = TellState((str(extra),))
    first = sent(which(ca), order).state
    assert sent(which(ca), order).state == first
    (extra / "deep" / "extensions.cnf").write_text("[ server ]\n# more\n")
    then = sent(which(ca), order).state
    assert then.configuration != first.configuration and then.database == first.database
    assert sent(which(ca), TellState()).state.database == first.database


def test_no_key_comes_with_it(ca: OpensslCa, extra: Path, tmp_path: Path) -> None:
    shutil.copy(ca.private_key, extra / "deep" / "backup")
    _manifest, answer = copied(which(ca), tmp_path / "set", extra_paths=(str(extra),))
    assert str(extra / "deep" / "backup") in [one.path for one in answer.left_out if one.count is None]
    assert str(extra / "deep" / "backup").lstrip("/") not in contents_of(tmp_path / "set")


def test_what_is_not_there_is_named(ca: OpensslCa, tmp_path: Path) -> None:
    assert "/nowhere, named in extra_paths" in refused(lambda: copied(which(ca), tmp_path / "set", extra_paths=("/nowhere",)))


def test_a_forged_set_leads_nowhere_by_it(ca: OpensslCa, extra: Path, tmp_path: Path) -> None:
    """Not beyond what is named, and through no link that lies in it."""
    outside = tmp_path / "etc"
    outside.mkdir()
    manifest, _answer = copied(which(ca), tmp_path / "set", extra_paths=(str(extra),))
    made = forged(tmp_path / "set", manifest, ({"path": str(outside / "cron"), "part": "extra"}, b"* * * * * root id"))
    answer = restored(which(ca), tmp_path / "set", made, extra_paths=(str(extra),))
    assert not list(outside.iterdir()) and "extra_paths_not_restored" in [one.code for one in answer.advisories]
    (extra / "aside").symlink_to(outside)
    made = forged(tmp_path / "set", manifest, ({"path": str(extra / "aside" / "cron"), "part": "extra"}, b"* * * * * root id"))
    assert "leads out of what extra_paths names" in refused(lambda: restored(which(ca), tmp_path / "set", made, extra_paths=(str(extra),)))
    assert not list(outside.iterdir())


@pytest.mark.parametrize("kind", ["databases", "keys"])
def test_a_store_in_the_directory_of_a_flat_ca_is_in_no_set(ca: OpensslCa, tmp_path: Path, kind: str) -> None:
    ca.config_file.write_text(ca.config_file.read_text().replace("new_certs_dir", "certs = $dir\nnew_certs_dir", 1))
    store = ca.directory / "deep" / "backup"
    store.mkdir(parents=True)
    initialise(str(store), kind)
    (store / "authority").mkdir()
    (store / "authority" / "something").write_text("stored")
    before = sent(which(ca), TellState()).state
    _manifest, answer = copied(which(ca), ca.directory / "set")
    assert not [name for name in contents_of(ca.directory / "set") if "backup" in name or "/set" in name], "nor what it is made of"
    assert [(one.why, one.count) for one in answer.left_out if one.path == str(store)] == [("it is a store, which no set holds", 1)]
    assert [one.path for one in answer.left_out if one.path == str(ca.private_key) and one.count is None] == [], "it is where it belongs"
    shutil.rmtree(ca.directory / "set")
    (store / "authority" / "more").write_text("stored")
    assert sent(which(ca), TellState()).state == before, "what is stored makes nothing due"


def test_a_set_does_not_hold_what_it_is_made_of_where_a_link_leads_to_the_ca(ca: OpensslCa, tmp_path: Path) -> None:
    """Temporary files lie in the home of a user, by one path, and the CA by another."""
    (tmp_path / "link").symlink_to(ca.directory)
    ca.config_file.write_text(ca.config_file.read_text().replace(f"dir = {ca.directory}", f"dir = {tmp_path}/link\ncerts = $dir", 1))
    ca.config_file.write_text(ca.config_file.read_text().replace("certs = $dir/certs", "", 1))
    copied(which(ca), ca.directory / "set")
    names = contents_of(ca.directory / "set")
    assert any(name.endswith("newcerts/1000.pem") for name in names) and not [name for name in names if "/set" in name]


def test_a_ca_whose_files_lie_in_a_store_is_refused(ca: OpensslCa, tmp_path: Path) -> None:
    (ca.directory / "newcerts" / "keyward-store.json").write_text("{}")
    assert "is a store itself" in refused(lambda: copied(which(ca), tmp_path / "set"))
