# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database put back: never behind what is published, never in the place of a newer one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._acl import recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import restore_mass
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import read_index
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import MARGIN
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Advance
from support.acls import setfacl
from support.killed import killed_at
from support.openssl_ca import OpensslCa, openssl
from support.sets import details, exact, lose_all_but_keys, make, published, refused, restore, which


def revoke(ca: OpensslCa, serial: str, reason: str = "keyCompromise") -> None:
    certificate = ca.directory / "newcerts" / f"{serial}.pem"
    openssl("ca", "-config", ca.config_file, "-revoke", certificate, "-crl_reason", reason, cwd=ca.directory)


def test_an_old_database_is_refused_until_it_is_told_how_to_go_on(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    for out_there, code in (
        (published(0x1001), "published_certificates_newer"),
        (published(number=2), "published_crl_newer"),
        (published(revoked=(0x1000,)), "published_crl_newer"),
    ):
        with pytest.raises(KeywardError) as caught:
            restore(ca, tmp_path / "set", manifest, published=out_there)
        assert [finding.code for finding in caught.value.findings] == [code]
        assert sorted(ca.directory.iterdir()) == [ca.directory / "private"], "nothing was touched"
    out_there = published(0x1001, 0x1004, revoked=(0x1000, 0x1004, 0x1005), number=7)
    behind = {"serial": "1003", "crl_number": "08"}
    assert "is not beyond what was issued" in refused(lambda: restore(ca, tmp_path / "set", manifest, published=out_there, advance=behind))
    answer = restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")
    assert (answer.next_serial, answer.next_crl_number) == ("011006", "010008")
    assert answer.advanced == Advance("011006", "010008")
    assert [one.serial for one in answer.reentered] == ["1000", "1004", "1005"]
    rows = read_index((ca.directory / "index.txt").read_bytes()).by_number
    assert [(rows[n].state, rows[n].subject) for n in sorted(rows)] == [
        ("R", "/CN=first.example.com"),
        ("V", "/CN=n4097"),
        ("R", "/CN=n4100"),
        ("R", "/CN=re-entered from the published CRL"),
    ]
    assert rows[0x1000].revoked == "260101000000Z,keyCompromise"
    whole = exact(ca.directory)
    for advance in ("auto", None, {"serial": "1006"}):
        assert not restore(ca, tmp_path / "set", manifest, published=out_there, advance=advance).changed and exact(ca.directory) == whole
    ca.issue("later.example.com")
    assert (ca.directory / "newcerts" / "011006.pem").exists()
    text = openssl("crl", "-in", ca.sign_crl(), "-noout", "-text").stdout
    assert all(f"{number:04X}" in text for number in (0x1000, 0x1004, 0x1005)) and "Key Compromise" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_a_link_of_others_in_the_place_of_a_folder_that_was_looked_at(
    ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    outside, real = tmp_path / "outside", restore_mass.make_directories
    outside.mkdir()

    def swap(folder: str, protection: Any) -> None:
        real(folder, protection)
        if folder.endswith("newcerts"):
            os.rename(folder, folder + ".away")
            os.symlink(outside, folder)
            os.chown(folder, 12345, -1, follow_symlinks=False)

    monkeypatch.setattr(restore_mass, "make_directories", swap)
    message = refused(lambda: restore(ca, tmp_path / "set", manifest))
    assert message.startswith(f"what was issued was not put back into {ca.directory}/newcerts: {ca.directory}/newcerts is a link now")
    assert not list(outside.iterdir())


@pytest.mark.parametrize("unique", ["yes", "no"])
def test_certificates_of_one_subject_are_entered_as_openssl_can_read_them(ca: OpensslCa, tmp_path: Path, unique: str) -> None:
    (ca.directory / "index.txt.attr").write_text(f"unique_subject = {unique}\n")
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    subjects = ("/CN=first.example.com", "/CN=second.example.com", "/CN=second.example.com")
    out_there = published(0x1001, 0x1002, 0x1003, subjects=subjects)
    for _run in range(2):
        answer = restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")
        assert int(answer.next_serial or "", 16) == 0x1004 + MARGIN
    rows = read_index((ca.directory / "index.txt").read_bytes()).by_number
    assert sorted(rows) == ([0x1000, 0x1003] if unique == "yes" else [0x1000, 0x1001, 0x1002, 0x1003])
    ca.issue("third.example.com")


def test_a_newer_database_stays_and_another_one_is_a_conflict(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    ca.issue("second.example.com")
    revoke(ca, "1000")
    ca.sign_crl()
    (ca.directory / "newcerts" / "1000.pem").unlink()
    answer = restore(ca, tmp_path / "set", manifest)
    assert [one.path for one in answer.restored] == [str(ca.directory / "newcerts" / "1000.pem")]
    assert "database_newer" in {one.code for one in answer.advisories}
    assert read_index((ca.directory / "index.txt").read_bytes()).by_number[0x1000].state == "R"

    lines = (ca.directory / "index.txt").read_text().splitlines(keepends=True)
    (ca.directory / "index.txt").write_text("".join(lines[1:]))
    whole = exact(ca.directory)
    assert "has entries that the set lacks, and lacks some" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    (ca.config_file).write_text(ca.config_file.read_text() + "# changed\n")
    assert str(ca.config_file) in refused(lambda: restore(ca, tmp_path / "set", manifest, part="configuration"))
    (ca.config_file).write_text(ca.config_file.read_text().replace("# changed\n", ""))
    assert {path: what for path, what in exact(ca.directory).items() if "openssl" not in path} == {
        path: what for path, what in whole.items() if "openssl" not in path
    }
    # 1001 is out there: the host itself shows it, and the set's serial would hand it out again.
    message = refused(lambda: restore(ca, tmp_path / "set", manifest, on_conflict="set_aside"))
    assert "were issued that the database lacks: 1001" in message
    answer = restore(ca, tmp_path / "set", manifest, on_conflict="set_aside", advance="auto")
    kept = {Path(one.path).name: Path(one.kept_as or "") for one in answer.set_aside}
    assert "index.txt" in kept and kept["index.txt"].read_text() == "".join(lines[1:])
    assert answer.next_serial == "011002"
    ca.issue("third.example.com")
    assert (ca.directory / "newcerts" / "011002.pem").exists()


def test_an_older_database_is_brought_up_to_the_set(ca: OpensslCa, tmp_path: Path) -> None:
    older = {name: (ca.directory / name).read_bytes() for name in ("index.txt", "serial", "crlnumber")}
    ca.issue("second.example.com")
    revoke(ca, "1000")
    manifest = make(ca, tmp_path / "set")
    newer = {name: (ca.directory / name).read_bytes() for name in older}
    for name, data in older.items():
        (ca.directory / name).write_bytes(data)
    assert restore(ca, tmp_path / "set", manifest).changed
    newer["serial"] = b"011002\n"  # the host does not show what was given after the set; its crlnumber does
    assert {name: (ca.directory / name).read_bytes() for name in older} == newer


@pytest.mark.parametrize("emptied", [False, True])
def test_numbers_that_are_still_there_never_go_back(ca: OpensslCa, tmp_path: Path, emptied: bool) -> None:
    manifest = make(ca, tmp_path / "set")
    if emptied:
        (ca.directory / "index.txt").write_text("")
    else:
        (ca.directory / "index.txt").unlink()
    (ca.directory / "serial").write_text("1009\n")
    (ca.directory / "crlnumber").write_text("07\n")
    numbers = {name: exact(ca.directory)[str(ca.directory / name)] for name in ("serial", "crlnumber")}
    for check in (True, False):
        answer = restore(ca, tmp_path / "set", manifest, check=check)
        assert [Path(one.path).name for one in answer.restored] == ["index.txt"]
        assert (answer.next_serial, answer.next_crl_number) == ("1009", "07")
        assert "numbers_newer" in {one.code for one in answer.advisories}
    assert {name: exact(ca.directory)[str(ca.directory / name)] for name in numbers} == numbers
    assert not restore(ca, tmp_path / "set", manifest).changed
    (ca.directory / "index.txt").unlink()
    answer = restore(ca, tmp_path / "set", manifest, published=published(0x1010, number=3), advance="auto")
    assert (answer.next_serial, answer.next_crl_number) == ("011011", "07")
    assert [(ca.directory / name).read_text() for name in numbers] == ["011011\n", "07\n"]


def test_a_restore_that_is_killed_anywhere_is_finished(ca: OpensslCa, tmp_path: Path) -> None:
    ca.issue("second.example.com")
    shutil.rmtree(ca.directory / "requests")
    shutil.rmtree(ca.directory / "certs")
    manifest = make(ca, tmp_path / "set")
    complete = {name: what[4] for name, what in details(ca.directory).items()}
    complete.update({"serial": b"011002\n", "crlnumber": b"010002\n"})  # once, however often it was killed
    out_there = published(revoked=(0x1000,))
    reached = 0
    for number in range(1, 80, 3):
        lose_all_but_keys(ca)
        if not killed_at(number, lambda: restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")):
            break
        reached += 1
        restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")
        now = {name: what[4] for name, what in details(ca.directory).items() if ".new" not in name}
        assert read_index(now.pop("index.txt")).by_number[0x1000].state == "R", number
        assert now == {name: what for name, what in complete.items() if name != "index.txt"}, number
    assert reached >= 8


def test_the_backend_reads_what_was_restored(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    restore(ca, tmp_path / "set", manifest, part="configuration")
    restore(ca, tmp_path / "set", manifest)
    assert OpensslBackend(which(ca)).facts().generations[0].private_key == "present"


def test_a_set_keeps_who_may_read_what_it_holds(ca: OpensslCa, tmp_path: Path) -> None:
    """With an ACL the group bits of a mode are its mask; a default ACL opens what is written into its directory."""
    index, folder, issued = ca.directory / "index.txt", ca.directory / "newcerts", ca.directory / "newcerts" / "1000.pem"
    kept_out, inherited = (
        "user::rw-,user:daemon:r--,group::---,mask::r--,other::---",
        "user::rwx,user:daemon:rwx,group::r-x,mask::rwx,other::---",
    )
    setfacl(index, "--set", kept_out)
    setfacl(folder, "-d", "--set", inherited)
    before = {path: (recorded_acls(str(path)), path.stat().st_mode) for path in (index, folder, issued)}
    manifest = make(ca, tmp_path / "set")
    unpacked = tmp_path / "by tar"
    unpacked.mkdir()
    for name in ("issued.tar.gz", "core.tar.gz"):
        subprocess.run(["tar", "--acls", "-xzpf", tmp_path / "set" / name, "-C", unpacked], check=True)
    for path, (acls, mode) in before.items():
        there = unpacked / str(path).lstrip("/")
        assert (recorded_acls(str(there)), there.stat().st_mode) == (acls, mode)
    lose_all_but_keys(ca)
    restore(ca, tmp_path / "set", manifest)
    assert {path: (recorded_acls(str(path)), path.stat().st_mode) for path in before} == before
    assert before[index][0]["acl"] == kept_out and before[folder][0]["default_acl"] == inherited


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_what_was_issued_comes_back_with_its_owner_and_readers_where_a_folder_opens_what_is_made_in_it(
    ca: OpensslCa, tmp_path: Path
) -> None:
    folder, issued = ca.directory / "newcerts", ca.directory / "newcerts" / "1000.pem"
    os.chown(issued, 12345, 12346)
    issued.chmod(0o640)
    (folder / "1001.pem").write_bytes(issued.read_bytes())
    setfacl(folder, "-d", "--set", "user::rwx,user:daemon:rwx,group::r-x,mask::rwx,other::r-x")
    paths = [issued, folder / "1001.pem"]
    setfacl(paths[1], "-b")

    def protection() -> list[Any]:
        return [(recorded_acls(str(path)), path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in paths]

    before, manifest = protection(), make(ca, tmp_path / "set")
    for path in paths:
        path.unlink()
    restore(ca, tmp_path / "set", manifest)
    assert protection() == before
    assert recorded_acls(str(folder))["default_acl"]


def test_a_database_that_goes_on_keeps_its_readers(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    for name in ("index.txt", "serial"):
        setfacl(ca.directory / name, "-m", "u:daemon:rw")
        (ca.directory / name).chmod(0o660)
    before = [recorded_acls(str(ca.directory / name)) for name in ("index.txt", "serial")]
    answer = restore(ca, tmp_path / "set", manifest, published=published(0x1001), advance="auto")
    assert answer.next_serial == "011002"
    assert [recorded_acls(str(ca.directory / name)) for name in ("index.txt", "serial")] == before
