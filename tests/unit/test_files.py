# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A staged file takes its place whole, and nobody else's, with and without nameless files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _staged, _store_directory
from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directories, make_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile


@pytest.fixture(params=["nameless", "named", "no hard links"], autouse=True)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    if request.param == "nameless":
        stream = _staged._nameless(str(tmp_path))
        if stream is None:
            pytest.skip("this file system holds no nameless files")
        stream.close()
    else:
        monkeypatch.setattr(_staged, "_nameless", lambda _directory: None)
    if request.param == "no hard links":

        def refused(*_arguments: object, **_keywords: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    return str(request.param)


def test_it_takes_its_place_whole_and_private(file_system: str, tmp_path: Path) -> None:
    path = tmp_path / "cakey.pem"
    staged = StagedFile(str(path), b"the key", Protection(0o640, os.getuid(), os.getgid()))
    assert not path.exists()
    there = list(tmp_path.iterdir())
    assert len(there) == (0 if file_system == "nameless" else 1) and all(stat.S_IMODE(one.stat().st_mode) == 0o640 for one in there)
    staged.commit()
    staged.discard()
    assert path.read_bytes() == b"the key" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_nlink == 1 and list(tmp_path.iterdir()) == [path]


def test_it_never_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "cakey.pem"
    staged = StagedFile(str(path), b"the key", Protection(0o600))
    path.write_bytes(b"another key")
    with pytest.raises(FileExistsError):
        staged.commit()
    staged.discard()
    assert path.read_bytes() == b"another key" and list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_one_that_was_given_up(tmp_path: Path) -> None:
    StagedFile(str(tmp_path / "cakey.pem"), b"the key", Protection(0o600)).discard()
    assert not list(tmp_path.iterdir())


def test_a_new_directory_that_is_swapped_for_a_link_changes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the directory above can do that at any moment, and the link may lead to /etc."""
    victim = tmp_path / "victim"
    victim.mkdir(0o700)
    mkdir = os.mkdir

    def swapped(path: str, mode: int) -> None:
        mkdir(path, mode)
        os.rmdir(path)
        os.symlink(victim, path)

    monkeypatch.setattr(os, "mkdir", swapped)
    before = victim.stat()
    with pytest.raises(OSError):
        make_directories(str(tmp_path / "new"), Protection(0o755, os.getuid() + 1, os.getgid()))
    after = victim.stat()
    assert (before.st_mode, before.st_uid, before.st_ctime_ns) == (after.st_mode, after.st_uid, after.st_ctime_ns)


def test_a_store_that_is_swapped_for_a_link_changes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, store = tmp_path / "victim", tmp_path / "store"
    victim.mkdir(0o700)
    store.mkdir(0o750)
    real = _store_directory.make_directories

    def swapped(*arguments: object) -> list[str]:
        made = real(*arguments)  # type: ignore[arg-type]
        store.rmdir()
        store.symlink_to(victim)
        return made

    monkeypatch.setattr(_store_directory, "make_directories", swapped)
    with pytest.raises(KeywardError):
        _store_directory.initialise(str(store), "databases", 0o770)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o700 and not list(victim.iterdir())


def test_a_directory_that_another_run_makes_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.mkdir

    def late(path: str, mode: int) -> None:
        before(path, mode)
        raise FileExistsError(17, "exists", path)

    monkeypatch.setattr(os, "mkdir", late)
    make_directory(str(tmp_path / "a" / "b"), 0o700)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(KeywardError, match="was not made"):
        make_directory(str(tmp_path / "file"), 0o700)
