# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What others put in the place of a directory or file while root reads a CA gets nothing foreign into a set."""

from __future__ import annotations

import gzip
import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import archive_reading, links
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive_reading import Archive, Reader
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import Folders, LinkOfOthers

FOREIGN = b"what only root may read"
OTHER = 12345


@pytest.fixture
def issued(tmp_path: Path) -> Path:
    folder = tmp_path / "ca" / "issued"
    folder.mkdir(parents=True)
    for name in ("01.pem", "02.pem"):
        (folder / name).write_bytes(b"issued " + name.encode())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "02.pem").write_bytes(FOREIGN)
    return folder


class Reading:
    """One set of these files, read step by step."""

    def __init__(self, folder: Path) -> None:
        self.packed: list[bytes] = []
        self._wanted = {str(path): "issued" for path in folder.iterdir()}
        self.reader = Reader(self._wanted, (), (), {os.geteuid(), 0}, {})
        self._archive = Archive(self.packed.append)

    def look(self, path: Path) -> Any:
        return self.reader.look(str(path), "issued")

    def add(self, path: Path, status: Any) -> Any:
        return self.reader.add(self._archive, str(path), "issued", status)

    def content(self) -> bytes:
        self._archive.flush()
        return gzip.decompress(b"".join(self.packed))


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)
    os.chown(path, OTHER, -1, follow_symlinks=False)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")


def swap(folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    link(folder, folder.parent.parent / "outside")


@needs_root
@pytest.mark.parametrize("looked_at_before", [False, True])
def test_a_link_in_the_place_of_a_folder_that_was_looked_at(issued: Path, looked_at_before: bool) -> None:
    reading = Reading(issued)
    with closing(reading.reader):
        assert reading.add(issued / "01.pem", reading.look(issued / "01.pem"))
        status = reading.look(issued / "02.pem") if looked_at_before else None
        swap(issued)
        assert reading.add(issued / "02.pem", status or reading.look(issued / "02.pem"))
    assert b"issued 02.pem" in reading.content()
    assert FOREIGN not in reading.content()


@needs_root
def test_a_link_in_the_place_of_a_folder_before_it_is_looked_at(issued: Path) -> None:
    reading = Reading(issued)
    swap(issued)
    with closing(reading.reader):
        assert reading.look(issued / "02.pem") is None
    assert [f"behind the link {issued}" in one.why for one in reading.reader.left_out()] == [True]


@needs_root
def test_a_link_in_the_place_of_a_file_that_was_looked_at(issued: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reading, "PAUSE", 0)
    reading, file = Reading(issued), issued / "02.pem"
    with closing(reading.reader):
        status = reading.look(file)
        file.unlink()
        link(file, issued.parent.parent / "outside" / "02.pem")
        assert reading.add(file, status) is None
    assert "link" in reading.reader.left_out()[0].why
    assert FOREIGN not in reading.content()


def test_another_file_in_the_place_of_one_that_was_looked_at_is_looked_at_anew(issued: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reading, "PAUSE", 0)
    key, file = issued.parent / "ca.key", issued / "02.pem"
    key.write_bytes(b"the key")
    reading = Reading(issued)
    reading.reader = Reader({str(file): "issued"}, [str(key)], (), {os.geteuid(), 0}, {})
    with closing(reading.reader):
        status = reading.look(file)
        file.unlink()
        os.link(key, file)
        assert reading.add(file, status) is None
    assert [one.why for one in reading.reader.left_out()] == ["it is the file of a private key of this CA"]


@needs_root
def test_a_folder_on_the_way_becomes_a_link_on_the_way_to_what_is_in_it(issued: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may write into it: what was a directory when it was looked at is none when it is entered, or after that."""
    true_stat, swapped = os.stat, []

    def stat_and_swap(path: Any, **how: Any) -> os.stat_result:
        status = true_stat(path, **how)
        if path == "issued" and not swapped:
            swapped.append(path)
            swap(issued)
        return status

    folders = Folders({os.geteuid(), 0})
    monkeypatch.setattr(links.os, "stat", stat_and_swap)
    with closing(folders), suppress(LinkOfOthers, OSError), open(folders.open(str(issued / "02.pem")), "rb") as file:
        assert file.read() != FOREIGN
    assert swapped


def test_links_of_the_owner_are_followed(issued: Path, tmp_path: Path) -> None:
    (tmp_path / "to").symlink_to("ca/../ca")
    (issued / "03.pem").symlink_to("../../to/issued/01.pem")
    with closing(Folders({os.geteuid(), 0})) as folders, open(folders.open(str(tmp_path / "to" / "issued" / "03.pem")), "rb") as file:
        assert file.read() == b"issued 01.pem"


def test_as_many_folders_are_open_as_may_be(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with closing(Folders({os.geteuid(), 0})) as folders:
        for number in range(200):
            (tmp_path / str(number)).mkdir()
            with suppress(FileNotFoundError):
                folders.status(str(tmp_path / str(number) / "none"))
        assert len(os.listdir("/proc/self/fd")) - before <= 64
    assert len(os.listdir("/proc/self/fd")) == before
