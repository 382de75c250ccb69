# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two databases of one CA brought together, and numbers that go on after every restore."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Row, read_index
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import MARGIN, Numbers, Published, compare, merge
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_base import choose
from support.openssl_ca import OpensslCa, openssl
from support.sets import exact, lose_all_but_keys, make, published, refused, restore


def row(number: int, state: str = "V", subject: str = "", revoked: str = "260101000000Z") -> Row:
    return Row(state, "270101000000Z", revoked if state == "R" else "", f"{number:04X}", "unknown", subject or f"/CN=n{number}")


def database(*rows: Row, serial: int | None = 10, crl: int | None = 10) -> Numbers:
    return Numbers({int(each.serial, 16): each for each in rows}, serial, crl)


@pytest.mark.parametrize("ours_state", ["V", "R", "E"])
@pytest.mark.parametrize("theirs_state", ["V", "R", "E"])
def test_of_one_certificate_the_revoked_row_stays(ours_state: str, theirs_state: str) -> None:
    merged = merge(database(row(1, ours_state), row(2)), database(row(1, theirs_state), row(3)))
    assert sorted(merged.rows) == [1, 2, 3] and not merged.twice
    expected = "R" if "R" in (ours_state, theirs_state) else "E" if "E" in (ours_state, theirs_state) else "V"
    assert merged.rows[1].kind == expected


def test_of_two_revocations_the_earlier_stays() -> None:
    early, late = row(1, "R", revoked="250101000000Z,superseded"), row(1, "R", revoked="260101000000Z,keyCompromise")
    assert merge(database(early), database(late)).rows[1] == merge(database(late), database(early)).rows[1] == early


@pytest.mark.parametrize(("ours", "theirs", "stays"), [("V", "V", "/CN=a"), ("V", "R", "/CN=b"), ("R", "V", "/CN=a"), ("E", "R", "/CN=b")])
def test_a_number_on_two_certificates_is_named(ours: str, theirs: str, stays: str) -> None:
    merged = merge(database(row(1, ours, "/CN=a")), database(row(1, theirs, "/CN=b")))
    assert merged.rows[1].subject == stays and {each.subject for each in merged.twice.values()} == {"/CN=a", "/CN=b"} - {stays}


@pytest.mark.parametrize(
    ("ours", "theirs", "lost", "on_conflict", "unknown"),
    [
        # (serial and CRL number of the host, of the set; rows of the host lost) -> which go on by a margin
        ((None, None), (5, 6), True, "fail", {"serial", "crl_number"}),
        ((5, None), (5, 6), True, "fail", {"crl_number"}),
        ((9, 9), (5, 6), True, "fail", set()),
        ((4, 6), (5, 6), True, "fail", {"serial"}),
        ((None, 6), (5, 6), False, "fail", {"serial"}),
        ((9, 9), (5, 6), False, "fail", set()),
        ((9, 9), (5, 6), False, "set_aside", {"serial", "crl_number"}),
    ],
)
def test_numbers_go_on_by_a_margin_unless_the_hosts_own_show_what_was_given(
    ours: tuple[int | None, int | None], theirs: tuple[int, int], lost: bool, on_conflict: str, unknown: set[str]
) -> None:
    rows = () if lost else (row(1),)
    here, there = database(*rows, serial=ours[0], crl=ours[1]), database(row(1), serial=theirs[0], crl=theirs[1])
    base = choose(here, there, lost, on_conflict)
    assert base.unknown_since == unknown
    outcome = compare(base.numbers, Published(), None, "", False, base.unknown_since)
    for name, number, host, saved in (
        ("serial", outcome.numbers.next_serial, ours[0], theirs[0]),
        ("crl_number", outcome.numbers.next_crl_number, ours[1], theirs[1]),
    ):
        assert number == max(host or 0, saved) + (MARGIN if name in unknown else 0)


def test_numbers_that_a_ca_does_not_have_stay_away() -> None:
    base = choose(database(serial=None, crl=None), database(row(1), serial=None, crl=None), True, "fail")
    outcome = compare(base.numbers, Published((7,), (), (), True), "auto", "", False, base.unknown_since)
    assert (outcome.numbers.next_serial, outcome.numbers.next_crl_number) == (None, None)


def test_given_numbers_are_taken_as_they_are() -> None:
    base = choose(database(serial=None, crl=None), database(row(1), serial=5, crl=6), True, "fail")
    outcome = compare(base.numbers, Published(), {"serial": 0x50, "crl_number": None}, "", False, base.unknown_since)
    assert (outcome.numbers.next_serial, outcome.numbers.next_crl_number) == (0x50, 6 + MARGIN)


def texts(ca: OpensslCa) -> Mapping[str, str]:
    return {name: (ca.directory / name).read_text() for name in ("index.txt", "serial", "crlnumber")}


def revoke(ca: OpensslCa, serial: str, reason: str = "keyCompromise") -> None:
    openssl("ca", "-config", ca.config_file, "-revoke", f"newcerts/{serial}.pem", "-crl_reason", reason, cwd=ca.directory)


def parted(ca: OpensslCa, folder: Path) -> None:
    """A snapshot was brought back after a set was made, and the CA went on: b and bb are in the set, c on the host."""
    shutil.copytree(ca.directory, folder / "snapshot", symlinks=True)
    ca.issue("b")
    revoke(ca, "1001")
    ca.issue("bb")


def test_a_database_that_went_on_after_a_snapshot_has_everything(ca: OpensslCa, tmp_path: Path) -> None:
    parted(ca, tmp_path)
    manifest = make(ca, tmp_path / "set")
    theirs = (ca.directory / "newcerts" / "1001.pem").read_bytes()
    shutil.rmtree(ca.directory)
    shutil.copytree(tmp_path / "snapshot", ca.directory, symlinks=True)
    ca.issue("c")
    ours = (ca.directory / "newcerts" / "1001.pem").read_bytes()
    assert "on_conflict: merge brings both" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    before = texts(ca)
    assert restore(ca, tmp_path / "set", manifest, on_conflict="merge", check=True).changed and texts(ca) == before
    answer = restore(ca, tmp_path / "set", manifest, on_conflict="merge")
    index = read_index((ca.directory / "index.txt").read_bytes())
    assert {number: (each.kind, each.subject) for number, each in index.by_number.items()} == {
        0x1000: ("V", "/CN=first.example.com"),
        0x1001: ("R", "/CN=b"),
        0x1002: ("V", "/CN=bb"),
    }
    assert "#V" in texts(ca)["index.txt"] and "/CN=c" in texts(ca)["index.txt"]
    (twice,) = [one.message for one in answer.advisories if one.code == "serial_used_twice"]
    assert "number 1001" in twice and "/CN=b" in twice and "/CN=c" in twice
    assert texts(ca)["serial"] == "011003\n"
    assert (ca.directory / "newcerts" / "1001.pem").read_bytes() == theirs
    (aside,) = (one.kept_as for one in answer.set_aside)
    assert Path(aside or "").read_bytes() == ours
    whole = exact(ca.directory)
    again = restore(ca, tmp_path / "set", manifest, on_conflict="merge")
    assert not again.changed and exact(ca.directory) == whole
    ca.issue("later")
    text = openssl("crl", "-in", ca.sign_crl(), "-noout", "-text").stdout
    assert "Serial Number: 1001" in text and (ca.directory / "newcerts" / "011003.pem").exists()


def test_where_neither_is_revoked_the_hosts_certificate_stays_and_the_sets_is_kept(ca: OpensslCa, tmp_path: Path) -> None:
    shutil.copytree(ca.directory, tmp_path / "snapshot", symlinks=True)
    ca.issue("b")
    manifest = make(ca, tmp_path / "set")
    theirs = (ca.directory / "newcerts" / "1001.pem").read_bytes()
    shutil.rmtree(ca.directory)
    shutil.copytree(tmp_path / "snapshot", ca.directory, symlinks=True)
    ca.issue("c")
    ours = (ca.directory / "newcerts" / "1001.pem").read_bytes()
    restore(ca, tmp_path / "set", manifest, on_conflict="merge")
    assert (ca.directory / "newcerts" / "1001.pem").read_bytes() == ours
    (kept,) = (ca.directory / "newcerts").glob("1001.pem.set-aside-*")
    assert kept.read_bytes() == theirs
    whole = exact(ca.directory)
    again = restore(ca, tmp_path / "set", manifest, on_conflict="merge")
    assert not again.changed and exact(ca.directory) == whole
    assert "serial_used_twice" in {one.code for one in again.advisories}


def test_two_valid_certificates_of_one_subject_are_refused_where_openssl_would(ca: OpensslCa, tmp_path: Path) -> None:
    (ca.directory / "index.txt.attr").write_text("unique_subject = yes\n")
    shutil.copytree(ca.directory, tmp_path / "snapshot", symlinks=True)
    ca.issue("b")
    ca.issue("same")
    manifest = make(ca, tmp_path / "set")
    shutil.rmtree(ca.directory)
    shutil.copytree(tmp_path / "snapshot", ca.directory, symlinks=True)
    ca.issue("same")
    message = refused(lambda: restore(ca, tmp_path / "set", manifest, on_conflict="merge"))
    assert "valid certificates of one subject" in message and "unique_subject = no" in message


def test_merge_is_as_fail_where_one_side_holds_the_other(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    ca.issue("second.example.com")
    whole = exact(ca.directory)
    assert not restore(ca, tmp_path / "set", manifest, on_conflict="merge").changed and exact(ca.directory) == whole


def test_what_the_hosts_own_crl_shows_is_not_forgotten(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    revoke(ca, "1000")
    crl = ca.sign_crl()
    ca.sign_crl()
    for name in ("index.txt", "index.txt.old", "serial", "crlnumber", "crlnumber.old", "serial.old"):
        (ca.directory / name).unlink(missing_ok=True)
    message = refused(lambda: restore(ca, tmp_path / "set", manifest))
    assert "1 revocations that it lacks" in message
    answer = restore(ca, tmp_path / "set", manifest, advance="auto")
    assert read_index((ca.directory / "index.txt").read_bytes()).by_number[0x1000].revoked.endswith(",keyCompromise")
    shown = int(openssl("crl", "-in", crl, "-noout", "-crlnumber").stdout.split("=")[1], 16)
    assert int(answer.next_crl_number or "", 16) == shown + 1 + MARGIN
    assert not restore(ca, tmp_path / "set", manifest, advance="auto").changed


def test_the_number_of_the_hosts_own_crl_alone_stops_nothing(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    numbers = []
    for _crl in range(3):
        numbers.append(int(openssl("crl", "-in", ca.sign_crl(), "-noout", "-crlnumber").stdout.split("=")[1], 16))
    (ca.directory / "crlnumber").unlink()
    (ca.directory / "crlnumber.old").unlink()
    answer = restore(ca, tmp_path / "set", manifest)
    assert int(answer.next_crl_number or "", 16) == numbers[-1] + 1 + MARGIN


def test_a_crl_of_another_ca_in_the_place_counts_for_nothing(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    other = OpensslCa(tmp_path / "other", name="Example Root CA")
    revoke(other, "1000")
    shutil.copy(other.sign_crl(), ca.directory / "crl.pem")
    (ca.directory / "index.txt").unlink()
    restore(ca, tmp_path / "set", manifest)
    assert read_index((ca.directory / "index.txt").read_bytes()).by_number[0x1000].kind == "V"


def test_a_crl_that_nothing_can_verify_revokes_nothing_outside_its_place(ca: OpensslCa, tmp_path: Path) -> None:
    """Whoever may write into a folder of the CA chooses the algorithm of a signature that is none."""
    manifest = make(ca, tmp_path / "set")
    revoke(ca, "1000")
    crl = ca.sign_crl()
    der = openssl("crl", "-in", crl, "-outform", "DER", "-out", tmp_path / "der") and (tmp_path / "der").read_bytes()
    planted = crl.with_name("planted.crl")
    planted.write_bytes(der.replace(bytes.fromhex("06032b6570"), bytes.fromhex("06032b657f")))
    for name in (crl.name, "index.txt", "index.txt.old"):
        (ca.directory / name).unlink()
    answer = restore(ca, tmp_path / "set", manifest)
    assert read_index((ca.directory / "index.txt").read_bytes()).by_number[0x1000].kind == "V"
    (said,) = [one.message for one in answer.advisories if one.code == "signature_not_verified"]
    assert str(planted) in said and "give it as published_crl" in said
    (ca.directory / "index.txt").unlink()
    planted.rename(crl)
    restore(ca, tmp_path / "set", manifest, advance="auto")
    assert read_index((ca.directory / "index.txt").read_bytes()).by_number[0x1000].kind == "R", "in its place it is the CA's"


def test_a_set_aside_restore_happens_once(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    ca.issue("second.example.com").unlink()
    (ca.directory / "newcerts" / "1001.pem").unlink()
    options = {"on_conflict": "set_aside", "advance": "auto"}
    assert restore(ca, tmp_path / "set", manifest, **options).next_serial == "011002"
    whole = exact(ca.directory)
    assert not restore(ca, tmp_path / "set", manifest, **options).changed and exact(ca.directory) == whole


@pytest.mark.parametrize("advance", [None, "auto"])
def test_a_restored_ca_never_gives_a_number_of_the_day_again(ca: OpensslCa, tmp_path: Path, advance: str | None) -> None:
    manifest = make(ca, tmp_path / "set")
    ca.issue("of-the-day")
    ca.sign_crl()
    kept = shutil.copytree(ca.directory / "newcerts", tmp_path / "kept")
    lose_all_but_keys(ca)
    answer = restore(ca, tmp_path / "set", manifest, advance=advance)
    assert {"numbers_advanced", "published_not_compared"} <= {one.code for one in answer.advisories}
    assert manifest.as_of in "".join(one.message for one in answer.advisories)
    before = texts(ca)
    assert not restore(ca, tmp_path / "set", manifest, advance=advance).changed and texts(ca) == before
    ca.issue("after")
    assert not {path.name for path in kept.iterdir()} & {path.name for path in (ca.directory / "newcerts").iterdir()} - {"1000.pem"}
    lose_all_but_keys(ca)
    restore(ca, tmp_path / "set", manifest, published=replace(published(), compared=False))


def test_a_last_row_without_its_newline_is_not_lost_with_the_set(ca: OpensslCa, tmp_path: Path) -> None:
    revoke(ca, "1000")
    index = ca.directory / "index.txt"
    whole = index.read_bytes()
    index.write_bytes(whole[:-1])
    manifest = make(ca, tmp_path / "set")
    index.unlink()
    restore(ca, tmp_path / "set", manifest)
    assert index.read_bytes() == whole and read_index(index.read_bytes()).revoked == {0x1000}
    assert not restore(ca, tmp_path / "set", manifest).changed


def test_a_ca_that_draws_its_serials_only_counts_its_crls(ca: OpensslCa, tmp_path: Path) -> None:
    """Whatever rand_serial says: openssl takes it for yes."""
    ca.config_file.write_text(ca.config_file.read_text().replace("serial = $dir/serial", "rand_serial = no", 1))
    (ca.directory / "serial").unlink()
    ca.issue("drawn")
    manifest = make(ca, tmp_path / "set")
    assert manifest.state.next_serial is None
    lose_all_but_keys(ca)
    answer = restore(ca, tmp_path / "set", manifest)
    assert (answer.next_serial, answer.next_crl_number) == (None, "010002")
    assert not (ca.directory / "serial").exists()
    ca.issue("drawn.too")


def test_an_index_that_openssl_refuses_gives_way_only_when_it_is_kept(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    (ca.directory / "serial").write_text("2000\n")
    index = ca.directory / "index.txt"
    whole = index.read_bytes()
    index.write_bytes(whole + b"\n")
    for on_conflict in ("fail", "merge"):
        message = refused(lambda how=on_conflict: restore(ca, tmp_path / "set", manifest, on_conflict=how))
        assert "line 2 is empty" in message and "on_conflict: set_aside" in message
    answer = restore(ca, tmp_path / "set", manifest, on_conflict="set_aside")
    assert index.read_bytes() == whole and answer.next_serial == f"{0x2000 + MARGIN:06X}", "numbers never go back"
    assert [Path(one.kept_as or "").read_bytes() for one in answer.set_aside if one.path == str(index)] == [whole + b"\n"]
