# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets that are damaged, or that whoever can write the store has made: nothing but the CA is reached."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _staged
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._manifest import ARCHIVE, MEMBERS, SetManifest
from ansible_collections.keyward.pki.plugins.module_utils._store import digest_of
from support.openssl_ca import OpensslCa
from support.sets import ended_within, lose_all_but_keys, make, refused, restore


def test_a_damaged_set_is_found_before_anything_is_touched(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    archive, members = tmp_path / "set" / ARCHIVE, tmp_path / "set" / MEMBERS
    whole, listed = archive.read_bytes(), json.loads(members.read_text())

    def with_digests() -> SetManifest:
        return replace(manifest, files=tuple(replace(f, sha256=digest_of(str(tmp_path / "set" / f.name))) for f in manifest.files))

    archive.write_bytes(whole[:-100])
    assert "does not have the digest" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    assert "damaged or cut off" in refused(lambda: restore(ca, tmp_path / "set", with_digests()))
    archive.write_bytes(whole)
    for damaged, why in (
        (listed[:-1], "is not what the list of members says"),
        ([*listed, {**listed[0], "path": "/etc/other"}], "is missing in the archive"),
        ([{**listed[0], "sha256": "0" * 64}, *listed[1:]], "does not have the digest"),
        ([{**listed[0], "path": "/a/../b"}, *listed[1:]], "is damaged"),
        ([{**listed[0], "path": str(ca.private_key)}, *listed[1:]], "not what the list"),
    ):
        members.write_text(json.dumps(damaged))
        assert why in refused(lambda: restore(ca, tmp_path / "set", with_digests()))
    archive.unlink()
    os.mkfifo(archive)
    with ended_within(20):
        assert "it is not a regular file" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    assert sorted(ca.directory.iterdir()) == [ca.directory / "private"], "nothing was touched"


def forged(folder: Path, manifest: SetManifest, *members: tuple[dict[str, Any], bytes]) -> SetManifest:
    """The set with more members, as whoever can write the store would make it: all its digests are right."""
    archive, listed = folder / ARCHIVE, json.loads((folder / MEMBERS).read_text())
    with tarfile.open(archive) as old, tarfile.open(folder / "forged", "w:gz") as new:
        for info in old:
            new.addfile(info, old.extractfile(info) if info.isreg() else None)
        for more, data in members:
            shape = {"part": "issued", "type": "file", "mode": "0644", "owner": "root", "group": "root", "uid": 0, "gid": 0, "mtime": 0}
            shape.update({"target": None, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more})
            info = tarfile.TarInfo(str(shape["path"]).lstrip("/"))
            info.type = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE}[shape["type"]]
            info.size, info.linkname = len(data), shape["target"] or ""
            new.addfile(info, io.BytesIO(data))
            listed.append(shape)
    os.replace(folder / "forged", archive)
    (folder / MEMBERS).write_text(json.dumps(listed))
    files = tuple(replace(file, sha256=digest_of(str(folder / file.name))) for file in manifest.files)
    return replace(manifest, files=files)


def test_a_forged_set_makes_no_program_of_root(ca: OpensslCa, tmp_path: Path) -> None:
    path = ca.directory / "newcerts" / "shell"
    manifest = forged(tmp_path / "set", make(ca, tmp_path / "set"), ({"path": str(path), "mode": "6755"}, b"#!/bin/sh"))
    restore(ca, tmp_path / "set", manifest)
    assert path.exists() and oct(path.stat().st_mode) == "0o100755"


@pytest.mark.parametrize("nameless", [True, False])
def test_what_is_swapped_while_it_is_restored_changes_nothing_else(
    ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    """The directory of issued certificates may belong to another user than root, who restores."""
    manifest, victim = make(ca, tmp_path / "set"), tmp_path / "victim"
    issued = ca.directory / "newcerts" / "1000.pem"
    issued.unlink()
    victim.write_text("of root")
    victim.chmod(0o600)
    real, seen = os.fsync, list[Path]()

    def swapped(descriptor: int) -> None:
        for staged in issued.parent.glob(".*.new"):
            seen.append(staged)
            staged.unlink()
            os.link(victim, staged)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", swapped)
    if nameless:
        restore(ca, tmp_path / "set", manifest)
        assert issued.exists() and not seen, "a file without a name can't be swapped"
    else:
        monkeypatch.setattr(_staged, "_nameless", lambda _directory: None)
        with pytest.raises(KeywardError, match="could not be put back"):
            restore(ca, tmp_path / "set", manifest)
        assert seen and not issued.exists()
    assert oct(victim.stat().st_mode) == "0o100600"


def test_a_forged_set_reaches_nothing_but_the_ca(ca: OpensslCa, tmp_path: Path) -> None:
    """As far as the configuration on the host says what belongs to the CA."""
    outside, newcerts = tmp_path / "etc", ca.directory / "newcerts"
    outside.mkdir()
    evil = outside / "evil"
    manifest = make(ca, tmp_path / "honest")
    (ca.directory / "index.txt").unlink()
    (newcerts / "planted").symlink_to(outside)  # by whoever may write there
    for number, (members, why) in enumerate(
        (
            ([{"path": str(evil)}], "is no place of this CA"),
            ([{"path": str(evil), "part": "configuration"}], "is no place of this CA"),
            ([{"path": str(evil), "part": "crl", "type": "link", "target": "x"}], "is no place of this CA"),
            ([{"path": str(newcerts / "planted" / "evil")}], "is no place of this CA"),
            (
                [{"path": str(newcerts / "a"), "type": "link", "target": str(outside)}, {"path": str(newcerts / "a" / "evil")}],
                "is no place",
            ),
        )
    ):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "honest", folder)
        made = forged(folder, manifest, *((shape, b"" if "target" in shape else b"evil") for shape in members))
        assert why in refused(lambda folder=folder, made=made: restore(ca, folder, made))
        assert not list(outside.iterdir())
    restore(ca, tmp_path / "honest", manifest)
    assert (ca.directory / "index.txt").exists()


@pytest.mark.parametrize(
    "change",
    [{"uid": "0"}, {"mode": "99999"}, {"mode": "-644"}, {"mtime": 1 << 80}, {"size": -1}, {"owner": 7}, {"path": 7}, {"gid": 1 << 40}],
)
def test_a_list_of_members_that_is_no_list(ca: OpensslCa, tmp_path: Path, change: dict[str, Any]) -> None:
    manifest, listed = make(ca, tmp_path / "set"), tmp_path / "set" / MEMBERS
    (ca.directory / "index.txt").unlink()
    members = json.loads(listed.read_text())
    listed.write_text(json.dumps([{**one, **change} if one["part"] == "index" else one for one in members]))
    files = tuple(replace(file, sha256=digest_of(str(tmp_path / "set" / file.name))) for file in manifest.files)
    assert "its list of members" in refused(lambda: restore(ca, tmp_path / "set", replace(manifest, files=files)))
