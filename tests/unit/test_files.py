# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A staged file takes its place whole, and nobody else's, with and without nameless files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _files
from ansible_collections.keyward.pki.plugins.module_utils._files import StagedFile


@pytest.fixture(params=["nameless", "named", "no hard links"], autouse=True)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    if request.param == "nameless":
        stream = _files._nameless(str(tmp_path))
        if stream is None:
            pytest.skip("this file system holds no nameless files")
        stream.close()
    else:
        monkeypatch.setattr(_files, "_nameless", lambda _directory: None)
    if request.param == "no hard links":

        def refused(*_arguments: object, **_keywords: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    return str(request.param)


def test_it_takes_its_place_whole_and_private(file_system: str, tmp_path: Path) -> None:
    path = tmp_path / "cakey.pem"
    staged = StagedFile(str(path), b"the key", 0o640, os.getuid(), os.getgid())
    assert not path.exists()
    there = list(tmp_path.iterdir())
    assert len(there) == (0 if file_system == "nameless" else 1) and all(stat.S_IMODE(one.stat().st_mode) == 0o640 for one in there)
    staged.commit()
    staged.discard()
    assert path.read_bytes() == b"the key" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_nlink == 1 and list(tmp_path.iterdir()) == [path]


def test_it_never_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "cakey.pem"
    staged = StagedFile(str(path), b"the key", 0o600)
    path.write_bytes(b"another key")
    with pytest.raises(FileExistsError):
        staged.commit()
    staged.discard()
    assert path.read_bytes() == b"another key" and list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_one_that_was_given_up(tmp_path: Path) -> None:
    StagedFile(str(tmp_path / "cakey.pem"), b"the key", 0o600).discard()
    assert not list(tmp_path.iterdir())
