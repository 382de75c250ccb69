# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""openssl killed while it works, and what the files of a database show that its rows don't: said, finished, never given twice."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import database_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import read_index
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Look, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import StateTold, TellState
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Crled, Crls, DueCrl, Sign
from support.openssl_ca import OpensslCa, openssl
from support.sets import copied, exact, lose_all_but_keys, make, refused, restore, sent, which

INDEX = ("index.txt", "index.txt.attr")
NUMBERS = ("serial", "crlnumber")


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is at work here: no .new is waited for."""
    monkeypatch.setattr(database_files, "SETTLED", 0.0)


def texts(ca: OpensslCa) -> dict[str, str]:
    return {name: (ca.directory / name).read_text() for name in (*INDEX, *NUMBERS) if (ca.directory / name).exists()}


def codes(answer: Told | Crled | StateTold) -> list[str]:
    return [one.code for one in answer.advisories]


def stopped(ca: OpensslCa, work: Callable[[], object], names: tuple[str, ...], renames: int) -> tuple[dict[str, str], dict[str, str]]:
    """The files as openssl leaves them that is killed after so many of its renames; (what was there before, what would be after)."""
    before = texts(ca)
    work()
    after = texts(ca)
    steps = []
    for name in names:
        path = ca.directory / name
        path.write_text(before[name])
        Path(f"{path}.new").write_text(after[name])
        Path(f"{path}.old").unlink(missing_ok=True)
        steps += [(path, Path(f"{path}.old")), (Path(f"{path}.new"), path)]
    for source, target in steps[:renames]:
        source.rename(target)
    return before, after


WORK = {
    "issue": (("serial", *INDEX), lambda ca: ca.issue("second.example.com")),
    "revoke": (INDEX, lambda ca: openssl("ca", "-config", ca.config_file, "-revoke", "newcerts/1000.pem", cwd=ca.directory)),
    "crl": (("crlnumber",), lambda ca: ca.sign_crl()),
}


@pytest.mark.parametrize(("work", "renames"), [(work, count) for work, (names, _do) in WORK.items() for count in range(2 * len(names) + 1)])
def test_whatever_was_left_undone_is_done_before_a_set_is_made(ca: OpensslCa, tmp_path: Path, work: str, renames: int) -> None:
    names, do = WORK[work]
    _before, after = stopped(ca, lambda: do(ca), names, renames)
    undone = [name for name in names if (ca.directory / f"{name}.new").exists()]
    if undone == ["index.txt.attr"] and (ca.directory / undone[0]).exists():
        undone = []  # it says the same
    told: StateTold = sent(which(ca), TellState())
    looked: Told = sent(which(ca), Look(database=True))
    assert codes(told) == codes(looked)
    assert codes(told) == ["unfinished_issue"] * len(undone)
    manifest, answer = copied(which(ca), tmp_path / "set")
    assert texts(ca) == after
    assert [one.code for one in answer.advisories] == ["unfinished_finished"] * len(undone)
    whole = exact(ca.directory)
    assert not codes(sent(which(ca), TellState())) and exact(ca.directory) == whole
    lose_all_but_keys(ca)
    restore(ca, tmp_path / "set", manifest)
    assert read_index((ca.directory / "index.txt").read_bytes()).by_number == read_index(after["index.txt"].encode()).by_number


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crl_number_that_was_used_is_not_used_again(ca: OpensslCa, renames: int) -> None:
    ca.sign_crl()
    stopped(ca, ca.sign_crl, ("crlnumber",), renames)
    used = int(openssl("crl", "-in", ca.directory / "crl.pem", "-noout", "-crlnumber").stdout.split("=")[1], 16)
    told: Crled = sent(which(ca), Crls())
    (placed,) = told.crls
    due = DueCrl(placed.certificate or "", hashlib.sha256(placed.content).hexdigest())
    done: Crled = sent(which(ca), Crls(told.generations[-1].sha256, (due,), days=9))
    assert done.changed and "unfinished_finished" in codes(done)
    shown = openssl("crl", "-in", ca.directory / "crl.pem", "-noout", "-crlnumber").stdout.split("=")[1]
    assert int(shown, 16) == used + 1


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("serial", "10"),  # cut off before its newline
        ("serial", "0F00\n"),  # goes back
        ("serial", ""),
        ("index.txt", ""),
        ("index.txt", "V\t270101000000Z\t\t1009\tunknown\t/CN=other\n"),  # lacks a row
        ("index.txt", "no row\n"),
    ],
)
def test_a_new_file_that_is_not_whole_is_never_put_in_place(ca: OpensslCa, tmp_path: Path, name: str, new: str) -> None:
    (ca.directory / f"{name}.new").write_text(new)
    before = texts(ca)
    assert not DatabaseFiles(OpensslBackend(which(ca)), OpensslBackend(which(ca)).files()).waiting
    (ca.directory / name).rename(ca.directory / f"{name}.old")
    assert not [path for path in DatabaseFiles(OpensslBackend(which(ca)), OpensslBackend(which(ca)).files()).waiting if name in path]
    assert "database_file_missing" in codes(sent(which(ca), Look(database=True)))
    (ca.directory / f"{name}.old").rename(ca.directory / name)
    assert texts(ca) == before


def test_a_link_is_no_file_that_openssl_left(ca: OpensslCa, tmp_path: Path) -> None:
    for name in NUMBERS:
        (tmp_path / name).write_text("FFFF\n")
        (ca.directory / f"{name}.new").symlink_to(tmp_path / name)
    (tmp_path / "index").write_text(texts(ca)["index.txt"] + "E\t200101000000Z\t\t0999\tunknown\t/CN=x\n")
    (ca.directory / "index.txt.new").symlink_to(tmp_path / "index")
    assert not DatabaseFiles(OpensslBackend(which(ca)), OpensslBackend(which(ca)).files()).waiting


def test_a_row_without_its_certificate_waits(ca: OpensslCa) -> None:
    """openssl was killed before it wrote the certificate: nobody has it, and the number alone is left out."""
    before, after = stopped(ca, lambda: ca.issue("second.example.com"), ("serial", *INDEX), 0)
    (ca.directory / "newcerts" / "1001.pem").unlink()
    database = DatabaseFiles(OpensslBackend(which(ca)), OpensslBackend(which(ca)).files())
    assert [Path(path).name for path in database.waiting] == ["serial"]
    database.finish("x")
    assert texts(ca) == {**before, "serial": after["serial"]}


def test_a_new_file_that_openssl_is_writing_is_waited_for(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_files, "SETTLED", 5.0)
    monkeypatch.setattr(database_files, "PAUSE", 0.0)
    (ca.directory / "crlnumber.new").write_text("03\n")
    database = DatabaseFiles(OpensslBackend(which(ca)), OpensslBackend(which(ca)).files())
    monkeypatch.setattr(database_files.time, "sleep", lambda _seconds: (ca.directory / "crlnumber.new").rename(ca.directory / "crlnumber"))
    assert database.waiting and database.finish("x") == [] and texts(ca)["crlnumber"] == "03\n"


def test_a_certificate_without_a_row_is_named_and_not_overwritten(ca: OpensslCa) -> None:
    before = texts(ca)
    ca.issue("second.example.com")
    for name, text in before.items():
        (ca.directory / name).write_text(text)
    told: Told = sent(which(ca), Look(database=True))
    (said,) = [one.message for one in told.advisories if one.code == "certificate_without_row"]
    assert "newcerts/1001.pem" in said and "the next certificate would get its number" in said
    (ca.directory / "newcerts" / "copy.pem").write_bytes((ca.directory / "newcerts" / "1001.pem").read_bytes())
    shutil.copy(ca.certificate, ca.directory / "newcerts" / "AB.pem")
    assert len(sent(which(ca), Look(database=True)).advisories) == len(told.advisories), "its own certificate needs no row"
    openssl("ca", "-config", ca.config_file, "-valid", "newcerts/1001.pem", cwd=ca.directory)
    (ca.directory / "serial").write_text("1002\n")
    assert "certificate_without_row" not in codes(sent(which(ca), Look(database=True)))


def test_no_request_is_signed_over_a_certificate_without_a_row(ca: OpensslCa, tmp_path: Path) -> None:
    text = ca.config_file.read_text() + "\n[ v3_subordinate_ca ]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign, cRLSign\n"
    ca.config_file.write_text(text)
    before = texts(ca)
    ca.issue("second.example.com")
    for name, content in before.items():
        (ca.directory / name).write_text(content)
    request = tmp_path / "request.pem"
    openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", tmp_path / "key"),
        "-subj",
        "/CN=Sub",
        "-out",
        request,
    )
    of = sent(which(ca), Look()).generations[-1].sha256
    message = refused(lambda: sent(which(ca), Sign(of, request.read_text())))
    assert "newcerts/1001.pem" in message and "openssl ca -valid" in message


def test_a_crl_that_shows_more_than_the_database_is_said(ca: OpensslCa) -> None:
    before = texts(ca)
    openssl("ca", "-config", ca.config_file, "-revoke", "newcerts/1000.pem", cwd=ca.directory)
    ca.sign_crl()
    assert not {"revocations_missing", "crl_number_behind"} & set(codes(sent(which(ca), TellState())))
    for name, text in before.items():
        (ca.directory / name).write_text(text)
    told: StateTold = sent(which(ca), TellState())
    said = {one.code: one.message for one in told.advisories}
    assert "lists 1 certificates" in said["revocations_missing"] and "1000" in said["revocations_missing"]
    assert "crl.pem has number" in said["crl_number_behind"]
    row = (ca.directory / "index.txt").read_text().split("\t")
    row[0], row[1] = "E", "200101000000Z"
    (ca.directory / "index.txt").write_text("\t".join(row))
    assert "revocations_missing" not in codes(sent(which(ca), TellState())), "one that has expired is no loss"


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (lambda text: text + "\n", "line 2 is empty"),
        (lambda text: text + text, "the serial number of line 1 again"),
        (lambda text: text.replace("V\t", "V\t\t", 1), "has 7 columns"),
    ],
)
def test_what_openssl_refuses_is_no_set_and_no_crl(ca: OpensslCa, tmp_path: Path, odd: Callable[[str], str], said: str) -> None:
    of = sent(which(ca), Look()).generations[-1].sha256
    index = ca.directory / "index.txt"
    index.write_text(odd(index.read_text()))
    told: Told = sent(which(ca), Look(database=True))
    assert [one.code for one in told.advisories] == ["index_refused"] and said in told.advisories[0].message
    assert said in refused(lambda: make(ca, tmp_path / "set"))
    assert said in refused(lambda: sent(which(ca), TellState()))
    for order in (Crls(), Crls(of, (DueCrl(of),))):
        assert said in refused(lambda order=order: sent(which(ca), order))


def test_a_revoked_row_that_openssl_does_not_read_stops_a_crl(ca: OpensslCa) -> None:
    ca.issue("second.example.com")
    openssl("ca", "-config", ca.config_file, "-revoke", "newcerts/1001.pem", cwd=ca.directory)
    index = ca.directory / "index.txt"
    index.write_text(index.read_text()[:-1])
    told: StateTold = sent(which(ca), TellState())
    assert codes(told) == ["index_passed_over"] and "line 2" in told.advisories[0].message
    message = refused(lambda: sent(which(ca), Crls()))
    assert "would leave revoked certificates out (1001)" in message and "line 2" in message


def test_serials_that_are_written_otherwise_are_compared_as_numbers(ca: OpensslCa) -> None:
    """A CRL that has every revoked row is not signed again each time."""
    ca.issue("second.example.com")
    openssl("ca", "-config", ca.config_file, "-revoke", "newcerts/1001.pem", cwd=ca.directory)
    index = ca.directory / "index.txt"
    index.write_text(index.read_text().replace("\t1001\t", "\t00001001\t"))
    ca.sign_crl()
    told: Crled = sent(which(ca), Crls())
    assert [one.lacks for one in told.crls] == [0]


@pytest.mark.parametrize("name", NUMBERS)
def test_an_old_number_shows_what_was_given(ca: OpensslCa, tmp_path: Path, name: str) -> None:
    manifest = make(ca, tmp_path / "set")
    (ca.directory / name).unlink()
    (ca.directory / f"{name}.old").write_text("ABCD\n")
    answer = restore(ca, tmp_path / "set", manifest)
    number = answer.next_serial if name == "serial" else answer.next_crl_number
    assert int(number or "", 16) == 0xABCE + 0x10000


def test_what_openssl_left_undone_comes_before_any_set(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    stopped(ca, lambda: ca.issue("second.example.com"), ("serial", *INDEX), 3)
    whole = exact(ca.directory)
    assert restore(ca, tmp_path / "set", manifest, check=True).changed and exact(ca.directory) == whole
    answer = restore(ca, tmp_path / "set", manifest)
    assert answer.changed and not restore(ca, tmp_path / "set", manifest).changed
    assert "unfinished_finished" in [one.code for one in answer.advisories]
    assert texts(ca)["serial"] == "1002\n" and "second.example.com" in texts(ca)["index.txt"]


@pytest.mark.parametrize("content", ["", "xyz\n", "-5\n", "0x10\n"])
def test_a_number_that_cannot_be_read_is_an_error_in_three_parts(ca: OpensslCa, content: str) -> None:
    (ca.directory / "serial").write_text(content)
    with pytest.raises(KeywardError) as caught:
        sent(which(ca), TellState())
    assert "serial can't be read: it holds no hexadecimal number" in str(caught.value)
    assert str(caught.value).endswith(". Find out what became of it.")
    (ca.directory / "crlnumber").write_text(content)
    told = [(one.code, one.message.split(" ")[0]) for one in sent(which(ca), Look(database=True)).advisories]
    assert told == [("database_unreadable", str(ca.directory / name)) for name in ("serial", "crlnumber")]


@pytest.mark.parametrize("renames", range(7))
def test_a_request_is_signed_after_what_was_left_undone(ca: OpensslCa, tmp_path: Path, renames: int) -> None:
    text = ca.config_file.read_text() + "\n[ v3_subordinate_ca ]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign, cRLSign\n"
    ca.config_file.write_text(text)
    stopped(ca, lambda: ca.issue("second.example.com"), ("serial", *INDEX), renames)
    request = tmp_path / "request.pem"
    new = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", tmp_path / "key")
    openssl(*new, "-subj", "/CN=Sub", "-out", request)
    order = Sign(sent(which(ca), Look()).generations[-1].sha256, request.read_text())
    whole = exact(ca.directory)
    assert sent(which(ca), order, check=True).changed and exact(ca.directory) == whole
    signed = sent(which(ca), order)
    assert signed.serial == "1002" and sorted(read_index((ca.directory / "index.txt").read_bytes()).by_number) == [0x1000, 0x1001, 0x1002]
