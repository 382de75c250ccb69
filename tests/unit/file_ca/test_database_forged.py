# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets that are damaged, or that whoever can write the store has made: nothing but the CA is reached."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _staged
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import database_restore, restore_mass
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.loaded_code import loaded_by
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, Members
from support.openssl_ca import OpensslCa
from support.sets import (
    contents_of,
    copied,
    digested,
    ended_within,
    forged,
    listed,
    lose_all_but_keys,
    make,
    refused,
    relisted,
    restore,
    restored,
)


def test_a_damaged_set_is_found_before_anything_is_touched(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    folder = tmp_path / "set"
    archive, whole, members = folder / CORE, (folder / CORE).read_bytes(), listed(folder)
    archive.write_bytes(whole[:-100])
    assert "does not have the digest" in refused(lambda: restore(ca, folder, manifest))
    assert "damaged or cut off" in refused(lambda: restore(ca, folder, digested(folder, manifest)))
    archive.write_bytes(whole)
    issued = next(number for number, one in enumerate(members) if one["part"] == "issued")
    file = next(number for number, one in enumerate(members) if one["sha256"])
    for damaged, why in (
        ([one for one in members if one["part"] != "configuration"], "is not what the list of members says"),
        (members[:-1], "is not what the list of members says"),
        ([*members, {**members[0], "path": "/zzz"}], "/zzz is missing in "),
        ([{**one, "sha256": "0" * 64} if number == file else one for number, one in enumerate(members)], "does not have the digest"),
        ([{**members[0], "path": "/a/../b"}, *members[1:]], "is damaged"),
        ([*members[:issued], *reversed(members[issued : issued + 2]), *members[issued + 2 :]], "is damaged"),
        ([*members[: issued + 1], *members[issued:]], "is damaged"),
        ([{**members[0], "path": "/a/key.pem"}, *members[1:]], "not what the list"),
    ):
        made = relisted(folder, manifest, damaged)
        assert why in refused(lambda made=made: restore(ca, folder, made))
    for told in (
        Members(1, 1, "0" * 64),
        replace(manifest.members, count=manifest.members.count + 1),
        replace(manifest.members, sha256="0"),
    ):
        made = replace(relisted(folder, manifest, members), members=told)
        assert "list of members" in refused(lambda made=made: restore(ca, folder, made))
    archive.unlink()
    os.mkfifo(archive)
    with ended_within(20):
        assert "it is not a regular file" in refused(lambda: restore(ca, folder, manifest))
    assert sorted(ca.directory.iterdir()) == [ca.directory / "private"], "nothing was touched"


def test_a_forged_set_makes_no_program_of_root(ca: OpensslCa, tmp_path: Path) -> None:
    path = ca.directory / "newcerts" / "shell"
    manifest = forged(tmp_path / "set", make(ca, tmp_path / "set"), ({"path": str(path), "mode": "6755"}, b"#!/bin/sh"))
    restore(ca, tmp_path / "set", manifest)
    assert path.exists() and oct(path.stat().st_mode) == "0o100755"


@pytest.mark.parametrize("nameless", [True, False])
def test_what_is_swapped_while_it_is_restored_changes_nothing_else(
    ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    """The directory of the CA may belong to another user than root, who restores."""
    manifest, victim = make(ca, tmp_path / "set"), tmp_path / "victim"
    issued = ca.directory / "index.txt.attr"
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


def test_a_directory_that_is_swapped_while_much_is_restored_changes_nothing(
    ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the directory of issued certificates takes away the one in which they are staged, and gives its name to others."""
    manifest, newcerts = make(ca, tmp_path / "set"), ca.directory / "newcerts"
    before = contents_of(tmp_path / "set")
    lose_all_but_keys(ca)
    newcerts.mkdir()
    real, seen = restore_mass._sync, list[Path]()

    def swapped(descriptor: int) -> None:
        for staged in [] if seen else newcerts.glob(".*.keyward-restore"):
            seen.append(staged)
            staged.rename(tmp_path / "taken")
            (ca.directory / "private").rename(staged)
        real(descriptor)

    monkeypatch.setattr(restore_mass, "_sync", swapped)
    restore(ca, tmp_path / "set", manifest)
    (staged,) = seen
    assert [path.name for path in staged.iterdir()] == [ca.private_key.name], "what has its name now is not taken away"
    staged.rename(ca.directory / "private")
    assert {path.name for path in newcerts.iterdir()} == {"1000.pem"}
    assert (newcerts / "1000.pem").read_bytes() == before[str(newcerts / "1000.pem").lstrip("/")] and not list(
        (tmp_path / "taken").iterdir()
    )


def test_any_number_of_folders_comes_back(ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that gets files has two open descriptors, and a process may have 1024."""
    newcerts = ca.directory / "newcerts"
    for number in range(7):
        (newcerts / str(number)).mkdir()
        (newcerts / str(number) / "1000.pem").write_bytes((newcerts / "1000.pem").read_bytes())
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    monkeypatch.setattr(restore_mass, "_MOST_FOLDERS", 3)
    real, most = restore_mass._sync, list[int]()

    def counted(descriptor: int) -> None:
        most.append(len(list(ca.directory.rglob(".*.keyward-restore"))))
        real(descriptor)

    monkeypatch.setattr(restore_mass, "_sync", counted)
    restore(ca, tmp_path / "set", manifest)
    assert len(list(newcerts.rglob("1000.pem"))) == 8 and max(most) == 3
    assert not list(ca.directory.rglob(".*.keyward-restore"))


@pytest.mark.parametrize("others", [True, False])
def test_what_a_killed_restore_left_is_in_no_set_and_goes(ca: OpensslCa, tmp_path: Path, others: bool) -> None:
    newcerts = ca.directory / "newcerts"
    left = newcerts / f".{'0' * 16}.keyward-restore"
    left.mkdir(mode=0o700)
    (left / "1000.pem").write_text("half of it")
    manifest = make(ca, tmp_path / "set")
    assert not [path for path in contents_of(tmp_path / "set") if "keyward-restore" in path]
    (newcerts / "1000.pem").unlink()
    if others:  # who could have given its name to any directory
        newcerts.chmod(0o777)
    restore(ca, tmp_path / "set", manifest)
    assert (newcerts / "1000.pem").exists() and left.exists() is others
    assert {path.name for path in newcerts.iterdir()} == {"1000.pem", *([left.name] if others else [])}


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
    [{"uid": "0"}, {"mode": "99999"}, {"mode": "-644"}, {"mtime": 1 << 93}, {"size": -1}, {"owner": 7}, {"path": 7}, {"gid": 1 << 40}],
)
def test_a_list_of_members_that_is_no_list(ca: OpensslCa, tmp_path: Path, change: dict[str, Any]) -> None:
    manifest, folder = make(ca, tmp_path / "set"), tmp_path / "set"
    (ca.directory / "index.txt").unlink()
    made = relisted(folder, manifest, [{**one, **change} if one["part"] == "index" else one for one in listed(folder)])
    assert "its list of members" in refused(lambda: restore(ca, folder, made))


def test_what_would_unpack_to_more_than_a_database_is_not_unpacked(ca: OpensslCa, tmp_path: Path) -> None:
    """Some MB of an archive become many GB: refused before any of it is read."""
    manifest, folder = make(ca, tmp_path / "set"), tmp_path / "set"
    shapes = listed(folder)
    members = [{**one, "size": 1 << 40} if one["part"] == "index" else one for one in shapes]
    assert "would unpack to" in refused(lambda: restore(ca, folder, relisted(folder, manifest, members)))
    lies = relisted(folder, manifest, members)
    assert "its list of members" in refused(lambda: restore(ca, folder, replace(lies, members=manifest.members)))


# --- what a set decides ------------------------------------------------------------------------------------------------


def test_a_set_without_its_configuration_writes_nowhere_else(ca: OpensslCa, tmp_path: Path) -> None:
    """The configuration on the host decides, whether or not the set has one, or the same."""
    manifest, outside = make(ca, tmp_path / "set"), tmp_path / "cron.d"
    outside.mkdir()
    made = forged(tmp_path / "set", manifest, ({"path": str(outside / "evil")}, b"* * * * * root id"))
    (ca.directory / "index.txt").unlink()
    ca.config_file.write_text(ca.config_file.read_text() + "\n# another one than the set's\n")
    assert "is no place of this CA" in refused(lambda: restore(ca, tmp_path / "set", made, on_conflict="set_aside"))
    assert list(outside.iterdir()) == []


def test_where_nothing_is_left_a_set_fills_the_directory_that_the_task_names(ca: OpensslCa, tmp_path: Path) -> None:
    manifest, outside = make(ca, tmp_path / "set"), tmp_path / "cron.d"
    shutil.copytree(tmp_path / "set", tmp_path / "honest")
    outside.mkdir()
    made = forged(tmp_path / "set", manifest, ({"path": str(outside / "evil")}, b"* * * * * root id"))
    lose_all_but_keys(ca)
    assert "no configuration is on the host that says" in refused(lambda: restore(ca, tmp_path / "set", made))
    assert list(outside.iterdir()) == [] and [path.name for path in ca.directory.iterdir()] == ["private"]
    assert restore(ca, tmp_path / "honest", manifest).changed


def test_a_ca_with_files_elsewhere_gets_its_configuration_first(ca: OpensslCa, tmp_path: Path) -> None:
    """A person looks at it in between: from then on it says what belongs to the CA."""
    (tmp_path / "etc").mkdir()
    ca.config_file.rename(tmp_path / "etc" / "ca.cnf")
    selector = Selector(config_file=str(tmp_path / "etc" / "ca.cnf"))
    text = (tmp_path / "etc" / "ca.cnf").read_text()
    (tmp_path / "etc" / "ca.cnf").write_text(text.replace("dir = .", f"dir = {ca.directory}"))
    manifest, _answer = copied(selector, tmp_path / "set")
    (tmp_path / "etc" / "ca.cnf").unlink()
    lose_all_but_keys(ca)
    assert f"is outside {tmp_path}/etc" in refused(lambda: restored(selector, tmp_path / "set", manifest))
    assert restored(selector, tmp_path / "set", manifest, part="configuration").changed
    assert restored(selector, tmp_path / "set", manifest).changed and (ca.directory / "index.txt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_nothing_is_written_through_a_link_of_others(ca: OpensslCa, tmp_path: Path) -> None:
    manifest, newcerts = make(ca, tmp_path / "set"), ca.directory / "newcerts"
    newcerts.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "1000.pem").unlink()
    newcerts.symlink_to(tmp_path / "elsewhere")
    os.chown(newcerts, 12345, -1, follow_symlinks=False)
    assert f"through the link {newcerts}" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    os.chown(newcerts, 0, -1, follow_symlinks=False)
    assert restore(ca, tmp_path / "set", manifest).changed and (tmp_path / "elsewhere" / "1000.pem").exists()


def test_what_a_set_brings_is_no_program_and_written_by_no_others(ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, newcerts = tmp_path / "set", ca.directory / "newcerts"
    manifest = make(ca, folder)
    shutil.copytree(folder, tmp_path / "second")
    program = forged(folder, manifest, ({"path": str(newcerts / "evil.so")}, b"\x7fELF\x02\x01"))
    assert "it is a program" in refused(lambda: restore(ca, folder, program))
    open_to_all = forged(
        tmp_path / "second",
        manifest,
        ({"path": str(newcerts / "ww"), "mode": "0666"}, b"x"),
        ({"path": str(newcerts / "wd"), "part": "directory", "type": "directory", "mode": "1777"}, b""),
    )
    born, real = dict[str, str](), database_restore.protect_path

    def protected(path: str, *wanted: Any) -> None:
        born[os.path.basename(path)] = oct(os.stat(path).st_mode & 0o7777)
        real(path, *wanted)

    monkeypatch.setattr(database_restore, "protect_path", protected)
    restore(ca, tmp_path / "second", open_to_all)
    assert born["wd"] == "0o755", "not for a moment could others write there"
    assert [oct((newcerts / name).stat().st_mode & 0o7777) for name in ("ww", "wd")] == ["0o664", "0o775"]


def test_what_is_too_much_to_be_shown_is_counted() -> None:
    text = "".join(f".include /srv/{number}.cnf\n" for number in range(25))
    told = loaded_by(text.encode(), "/etc/ca")
    assert len(told) == 21 and told[-1].startswith("5 more")


def test_a_configuration_that_loads_code_is_said(ca: OpensslCa, tmp_path: Path) -> None:
    honest = make(ca, tmp_path / "honest")
    text = ca.config_file.read_text()
    loading = (
        "\n[init]\nproviders = prov\nengines=more\n[prov]\nevil = e\n[e]\nmodule = /srv/evil.so\n[more]\ndynamic_path=/srv/evil\\\n.so\n"
        "x.module = /srv/dot.so\na-b::module = /srv/section.so\nmod\0junk\nule = /srv/nul.so\n.includefoo = /srv/include.cnf\n"
    )
    ca.config_file.write_text(f"openssl_conf = init\n.include /srv/foreign.cnf\n.include own.cnf\n{text}{loading}")
    manifest = make(ca, tmp_path / "set")
    ca.config_file.unlink()
    for check in (True, False):
        told = [one.message.partition(": ")[2] for one in restore(ca, tmp_path / "set", manifest, check=check).advisories]
        told = [one for one in told if " = " in one]
        assert told == [
            *(".include = /srv/foreign.cnf", "module = /srv/evil.so", "dynamic_path = /srv/evil.so", "module = /srv/dot.so"),
            *("module = /srv/section.so", "module = /srv/nul.so", ".include = /srv/include.cnf"),
        ]
    again = restore(ca, tmp_path / "set", manifest)
    assert not [one for one in again.advisories if one.code == "configuration_loads_code"]
    ca.config_file.unlink()
    assert not [one for one in restore(ca, tmp_path / "honest", honest).advisories if one.code == "configuration_loads_code"]
