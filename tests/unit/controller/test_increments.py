# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Increments: when a set is one, what it holds, and that a chain comes back whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import archive_reading, database_copy, set_writer
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.guides import DOCS, blocks
from support.openssl_ca import OpensslCa
from support.sets import details, lose_all_but_keys
from support.signers import make_home, rewrite

Place = dict[str, Any]


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


@pytest.fixture(params=["stores", "host_store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return {request.param: [new_store(tmp_path / "databases")] if request.param == "stores" else new_store(tmp_path / "databases")}


def new_store(path: Path) -> str:
    initialise(str(path), "databases")
    return str(path)


def back_up(ca: OpensslCa, place: Place, host: str = "ca1", check: bool = False, **options: Any) -> dict[str, Any]:
    return FakeHost(host).run(CaDatabaseBackup, {"config_file": str(ca.config_file), **place, **options}, check=check)


def put_back(ca: OpensslCa, place: Place, check: bool = False, **options: Any) -> dict[str, Any]:
    return FakeHost("ca1").run(CaDatabaseRestore, {"config_file": str(ca.config_file), **place, **options}, check=check)


def sets(place: Place) -> list[Path]:
    (path,) = place["stores"] if "stores" in place else (place["host_store"],)
    return sorted(Path(path).glob("*/*/0*Z"))


def kinds(place: Place) -> list[str]:
    return [json.loads((path / "manifest.json").read_text())["kind"] for path in sets(place)]


def made(ca: OpensslCa, place: Place, count: int, **options: Any) -> list[dict[str, Any]]:
    """A full set, and increments on it; the results."""
    found = []
    for number in range(count):
        found.append(back_up(ca, place, **options))
        ca.issue(f"n{number}.example.com")
    return found


NUMBERS = {"serial", "crlnumber"}  # they go on after a restore


def contents(ca: OpensslCa) -> dict[str, Any]:
    """All but subscribers' keys, which no set holds."""
    return {name: each for name, each in details(ca.directory).items() if not name.endswith(".key")}


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def codes(result: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in result["advisories"]]


def issued(path: Path) -> list[str]:
    with tarfile.open(path / "issued.tar.gz") as archive:
        return [Path(name).name for name in archive.getnames() if name.endswith(".pem")]


def test_what_is_new_is_an_increment_and_a_chain_comes_back_whole(ca: OpensslCa, place: Place) -> None:
    first = back_up(ca, place)
    assert (first["set"]["kind"], first["set"]["full_because"], first["set"]["links"]) == ("full", "no_base", [])
    ca.issue("second.example.com")
    again = back_up(ca, place)
    assert (again["set"]["kind"], again["set"]["changes"]) == ("increment", {"added": 3, "changed": 0, "removed": 0})
    assert not back_up(ca, place)["changed"], "and nothing is due"
    ca.issue("third.example.com")
    third = back_up(ca, place)
    full, second, newest = sets(place)
    assert kinds(place) == ["full", "increment", "increment"] and third["set"]["links"] == [full.name, second.name]
    assert len(issued(second)) == len(issued(newest)) == 2, "each has what is new"
    before = contents(ca)
    lose_all_but_keys(ca)
    predicted = put_back(ca, place, check=True)
    done = put_back(ca, place)
    assert done.get("changed") and predicted["restored"] == done["restored"], done
    assert differing(before, contents(ca)) <= NUMBERS
    assert not put_back(ca, place)["changed"]


def test_an_older_set_of_a_chain_comes_back_as_well(ca: OpensslCa, place: Place) -> None:
    back_up(ca, place)
    ca.issue("second.example.com")
    at = contents(ca)
    back_up(ca, place)
    ca.issue("third.example.com")
    back_up(ca, place)
    lose_all_but_keys(ca)
    assert put_back(ca, {"set": str(sets(place)[1])})["changed"]
    assert differing(at, contents(ca)) <= NUMBERS


def test_what_was_changed_and_removed_is_so_after_a_restore_and_what_returned_is_there(ca: OpensslCa, place: Place) -> None:
    (ca.directory / "certs" / "gone.pem").write_text("gone\n")
    (ca.directory / "certs" / "back.pem").write_text("as it was\n")
    (ca.directory / "certs" / "changed.pem").write_text("before\n")
    back_up(ca, place)
    (ca.directory / "certs" / "gone.pem").unlink()
    (ca.directory / "certs" / "back.pem").unlink()
    (ca.directory / "certs" / "changed.pem").write_text("afterwards\n")
    second = back_up(ca, place)
    assert second["set"]["changes"] == {"added": 0, "changed": 1, "removed": 2}
    (ca.directory / "certs" / "back.pem").write_text("as it is\n")
    third = back_up(ca, place)
    assert third["set"]["changes"] == {"added": 1, "changed": 0, "removed": 0}
    before = contents(ca)
    lose_all_but_keys(ca)
    assert put_back(ca, place)["changed"] and not put_back(ca, place)["changed"]
    assert differing(before, contents(ca)) <= NUMBERS | {"certs"} and not (ca.directory / "certs" / "gone.pem").exists()


def test_a_long_chain_travels_as_two_lists_and_what_was_only_touched_is_not_stored_again(ca: OpensslCa, tmp_path: Path) -> None:
    place = {"stores": [new_store(tmp_path / "databases")]}
    made(ca, place, 3)
    for path in ca.directory.rglob("*.pem"):
        path.chmod(path.stat().st_mode)  # as a restore does: another inode, another ctime
    (ca.directory / "certs" / "n0.example.com.pem").unlink()
    fourth = back_up(ca, place)
    assert fourth["set"]["changes"] == {"added": 3, "changed": 0, "removed": 1} and len(issued(sets(place)[-1])) == 2
    ca.issue("more.example.com")
    host = FakeHost("ca1")
    host.run(CaDatabaseBackup, {"config_file": str(ca.config_file), **place})
    assert [document["base"] for order, document, _check in host.sent if order == "database.copy"] == [["base-0.gz", "base-1.gz"]]
    assert kinds(place) == ["full", *["increment"] * 4]
    before = contents(ca)
    lose_all_but_keys(ca)
    assert put_back(ca, place)["changed"] and differing(before, contents(ca)) <= NUMBERS


# --- when a set is a full one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [({"sets": 1}, "chain_long"), ({"days": 0}, "chain_old"), ({"share": 0}, "chain_large"), ({"sets": 2, "days": 1, "share": 500}, None)],
)
def test_full_after(ca: OpensslCa, place: Place, options: dict[str, int], why: str | None) -> None:
    results = made(ca, place, 3, full_after=options)
    kind = "full" if why else "increment"
    assert (results[2]["set"]["kind"], results[2]["set"]["full_because"]) == (kind, why)
    if not why:
        assert back_up(ca, place, full_after=options)["set"]["full_because"] == "chain_long"


def test_a_full_set_of_a_chain_that_has_grown_searches_what_is_new(ca: OpensslCa, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a person asks for searches everything, as one for a new key does."""
    made(ca, place, 2)
    searched = list[bytes]()
    real = archive_reading.private_key_in_file
    monkeypatch.setattr(archive_reading, "private_key_in_file", lambda data, known: searched.append(data) or real(data, known))
    new, old = ((ca.directory / "certs" / f"{name}.example.com.pem").read_bytes() for name in ("n1", "n0"))
    assert back_up(ca, place, full_after={"sets": 0})["set"]["full_because"] == "chain_long"
    assert new in searched and old not in searched
    assert len(issued(sets(place)[-1])) == len({*issued(sets(place)[0]), *issued(sets(place)[1]), *issued(sets(place)[2])})
    ca.issue("last.example.com")
    back_up(ca, place)
    assert back_up(ca, place, full=True)["set"]["full_because"] == "asked" and old in searched


def test_what_changes_while_a_set_is_made_makes_the_next_one_due(ca: OpensslCa, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    late = ca.directory / "certs" / "late.pem"
    late.write_text("before\n")

    def changing(function: str) -> Any:
        real = getattr(database_copy.SetWriter, function)

        def changed(*arguments: Any) -> Any:
            result = real(*arguments)
            late.write_text(late.read_text() + f"after {function}\n")
            return result

        return changed

    assert back_up(ca, place)["changed"]
    for function in ("_core", "write"):  # before what was issued is read, and after that
        (ca.directory / "certs" / function).write_text("makes a set due\n")
        with monkeypatch.context() as patched:
            patched.setattr(database_copy.SetWriter, function, changing(function))
            assert back_up(ca, place)["set"]["changes"] == {"added": 1, "changed": 0, "removed": 0}
        assert back_up(ca, place)["set"]["changes"] == {"added": 0, "changed": 1, "removed": 0}
        assert not back_up(ca, place)["changed"]


def test_what_was_touched_makes_a_set_due_where_its_bytes_changed(ca: OpensslCa, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = list[bytes]()
    real = archive_reading.private_key_in_file
    monkeypatch.setattr(archive_reading, "private_key_in_file", lambda data, known: searched.append(data) or real(data, known))
    request, others = ca.directory / "requests" / "host.csr", sorted((ca.directory / "newcerts").iterdir())
    request.write_text("one request\n")
    made(ca, place, 2)
    assert back_up(ca, place)["changed"] and not back_up(ca, place)["changed"]
    os.chmod(request, 0o600)
    for path in others:
        os.utime(path)
    assert not back_up(ca, place, check=True)["changed"] and not back_up(ca, place)["changed"]

    searched.clear()
    request.write_text("two request\n")
    assert back_up(ca, place, check=True)["reasons"] == [
        {"code": "database_changed", "message": "the database has changed since the newest set", "certificate": None}
    ]
    assert back_up(ca, place)["set"]["changes"] == {"added": 0, "changed": 1 + len(others), "removed": 0}, "their times go with it"
    assert not back_up(ca, place)["changed"]
    assert request.read_bytes() in searched and not [path for path in others if path.read_bytes() in searched], "these were proved before"


def test_a_list_that_was_written_anew_is_not_built_on(ca: OpensslCa, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a line of it believed before its digest is known, as in a list that is not compared at once."""
    monkeypatch.setattr(set_writer, "_AT_ONCE", 1)
    back_up(ca, place)
    members = sets(place)[0] / "members.gz"
    size, lines = members.stat().st_size, gzip.decompress(members.read_bytes())
    anew = gzip.compress(lines.replace(b'"part":"issued"', b'"part":"nobody"'))
    assert len(anew) <= size
    members.write_bytes(anew.ljust(size, b"\0"))  # which gzip passes over
    os.utime(ca.directory / "newcerts" / "1000.pem")
    due = back_up(ca, place)
    assert [one["code"] for one in due["reasons"]] == ["no_set"] and due["set"]["full_because"] == "chain_broken"


@pytest.mark.parametrize("seconds", [-300_000_000, 10_400_000_000])  # 1960, 2299
def test_a_file_of_an_odd_time_stops_no_backup(ca: OpensslCa, place: Place, seconds: int) -> None:
    odd = ca.directory / "newcerts" / "1000.pem"
    os.utime(odd, (seconds, seconds))
    made(ca, place, 3)
    assert kinds(place) == ["full", "increment", "increment"]
    odd.unlink()
    put_back(ca, place)
    assert odd.stat().st_mtime == seconds


def test_a_damaged_list_makes_a_set_due_once_it_is_needed(ca: OpensslCa, place: Place) -> None:
    back_up(ca, place)
    members = sets(place)[0] / "members.gz"
    content = members.read_bytes()
    members.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert not back_up(ca, place)["changed"]
    os.utime(ca.directory / "newcerts" / "1000.pem")
    due = back_up(ca, place)
    assert [one["code"] for one in due["reasons"]] == ["no_set"] and due["set"]["full_because"] == "chain_broken"


def test_small_increments_are_never_too_large_where_no_share_is_given(ca: OpensslCa, place: Place) -> None:
    made(ca, place, 5)
    assert kinds(place) == ["full", *["increment"] * 4]


def test_full_after_is_checked(ca: OpensslCa, place: Place) -> None:
    assert "only 0 to 999 can be" in back_up(ca, place, full_after={"sets": 1000})["msg"]


def test_a_person_asks_for_a_full_set_once(ca: OpensslCa, place: Place) -> None:
    made(ca, place, 2)
    back_up(ca, place)
    asked = back_up(ca, place, full=True)
    assert [one["code"] for one in asked["reasons"]] == ["full_asked"] and asked["set"]["full_because"] == "asked"
    assert not back_up(ca, place, full=True)["changed"], "the newest is a full one"


def test_a_new_key_is_looked_for_in_all_that_was_issued(ca: OpensslCa, place: Place) -> None:
    made(ca, place, 2)
    ca.renew_keeping()
    assert back_up(ca, place)["set"]["full_because"] == "new_key"
    ca.renew_keeping(new_key=False)
    assert back_up(ca, place)["set"]["kind"] == "increment", "with the same key there is nothing new to look for"


def test_another_host_makes_a_full_set(ca: OpensslCa, place: Place) -> None:
    first = made(ca, place, 2)[0]
    moved = back_up(ca, place, host="ca2", authority_id=first["authority"]["id"], move=True)
    assert (moved["set"]["database"], moved["set"]["full_because"]) == (first["set"]["database"], "made_elsewhere")


def test_a_signer_who_was_removed_makes_the_next_set_a_full_one(ca: OpensslCa, place: Place, home: Path) -> None:
    made(ca, place, 2)
    before = home / ".config" / "keyward"
    other = make_home(home.parent / "other", "other") / ".config" / "keyward"
    shutil.copy(other / "signing_key", before / "signing_key")
    allowed = (before / "allowed_signers").read_text()
    (before / "allowed_signers").write_text(allowed + (other / "allowed_signers").read_text())
    back_up(ca, place)
    ca.issue("more.example.com")
    (before / "allowed_signers").write_text((other / "allowed_signers").read_text())
    result = back_up(ca, place)
    assert result["set"]["kind"] == "full" and {"unknown_signer", "set_not_whole"} <= {*codes(result)}


def test_a_newest_set_that_nobody_vouches_for_any_more_is_followed_by_a_full_one(ca: OpensslCa, place: Place, home: Path) -> None:
    first, *_more = made(ca, place, 2)
    mine, other = (folder / ".config" / "keyward" for folder in (home, make_home(home.parent / "other", "other")))
    own = {name: (mine / name).read_bytes() for name in ("signing_key", "allowed_signers")}
    (mine / "signing_key").write_bytes((other / "signing_key").read_bytes())
    (mine / "allowed_signers").write_bytes(own["allowed_signers"] + (other / "allowed_signers").read_bytes())
    back_up(ca, place)
    for name, content in own.items():
        (mine / name).write_bytes(content)
    ca.issue("more.example.com")
    assert "hold less than before" in back_up(ca, place)["msg"]
    assert back_up(ca, place, accept=[first["authority"]["id"]])["set"]["full_because"] == "unvouched"


# --- chains that are not whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_chain_that_lacks_a_link_is_not_restored_and_the_link_is_named(ca: OpensslCa, place: Place, damage: str) -> None:
    made(ca, place, 3)
    full, second, newest = sets(place)
    injure(second, damage)
    lose_all_but_keys(ca)
    before = contents(ca)
    for chosen in (place, {"set": str(newest)}):
        said = put_back(ca, chosen)["msg"]
        assert second.name in said and ("missing" if damage == "missing" else "damaged") in said and contents(ca) == before
    if "stores" in place:
        assert f"name it: {full} (set)" in put_back(ca, place)["msg"]
    assert put_back(ca, {"set": str(full)})["changed"], "an older one is whole"


def injure(path: Path, damage: str) -> None:
    if damage == "missing":
        shutil.rmtree(path)
    else:
        content = (path / "issued.tar.gz").read_bytes()
        (path / "issued.tar.gz").write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_where_a_link_is_missing_or_damaged_the_next_set_is_a_full_one(ca: OpensslCa, place: Place, damage: str) -> None:
    made(ca, place, 3)
    injure(sets(place)[1], damage)
    result = back_up(ca, place)
    assert result["changed"] and result["set"]["full_because"] == "chain_broken"
    assert {"set_not_whole"} | ({"digest_mismatch"} if damage == "cut" else set()) <= {*codes(result)}
    assert "set_not_whole" not in codes(back_up(ca, place)), "the newest is whole again"


def test_a_list_that_was_changed_in_the_store_decides_nothing(ca: OpensslCa, place: Place) -> None:
    made(ca, place, 2)
    members = sets(place)[0] / "members.gz"
    members.write_bytes(members.read_bytes()[:-1] + b"x")
    result = back_up(ca, place)
    assert result["set"]["full_because"] == "chain_broken"
    assert kinds(place) == ["full", "increment", "full"] or "digest_mismatch" in codes(result)


def test_a_core_that_was_changed_in_the_store_stops_no_backup(ca: OpensslCa, place: Place) -> None:
    """What was lost since then can't be told from it: the set before it tells."""
    made(ca, place, 2)
    core = sets(place)[-1] / "core.tar.gz"
    core.write_bytes(core.read_bytes()[:60] + b"x" + core.read_bytes()[61:])
    assert len(sets(place)) == 2 and back_up(ca, place)["changed"] and len(sets(place)) == 3


def test_a_list_that_is_not_the_one_that_was_signed_brings_nothing_back(ca: OpensslCa, place: Place, home: Path) -> None:
    made(ca, place, 2)
    manifest = sets(place)[-1] / "manifest.json"
    rewrite(manifest, home, members={**json.loads(manifest.read_text())["members"], "sha256": "0" * 64})
    lose_all_but_keys(ca)
    before = contents(ca)
    assert "list of members" in put_back(ca, place)["msg"] and contents(ca) == before


def test_a_set_whose_lists_are_not_what_the_host_says_is_not_stored(ca: OpensslCa, tmp_path: Path) -> None:
    """Nobody could restore it."""
    place = {"stores": [new_store(tmp_path / "databases")]}
    made(ca, place, 2)
    host = FakeHost("ca1")

    def lying(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "members": {**answer["members"], "sha256": "0" * 64}} if order == "database.copy" else answer

    host.forge = lying
    result = host.run(CaDatabaseBackup, {"config_file": str(ca.config_file), **place})
    assert "list of members" in result["msg"] and len(sets(place)) == 2


def test_a_link_may_come_from_any_store(ca: OpensslCa, tmp_path: Path) -> None:
    both = {"stores": [new_store(tmp_path / "one"), new_store(tmp_path / "two")]}
    one, two = ({"stores": [path]} for path in both["stores"])
    made(ca, both, 2)
    back_up(ca, both)
    injure(sets(one)[0], "changed")
    injure(sets(two)[1], "missing")
    before = contents(ca)
    lose_all_but_keys(ca)
    done = put_back(ca, both)
    assert done["changed"] and differing(before, contents(ca)) <= NUMBERS
    (said,) = (each["message"] for each in done["advisories"] if each["code"] == "digest_mismatch")
    assert said.startswith(f"{sets(one)[0]}: ") and said.endswith(f"The copy {sets(two)[0]} was taken")


def test_a_link_that_one_store_lacks_makes_the_next_set_a_full_one_in_each(ca: OpensslCa, tmp_path: Path) -> None:
    both = {"stores": [new_store(tmp_path / "one"), new_store(tmp_path / "two")]}
    made(ca, both, 3)
    injure(sets({"stores": both["stores"][1:]})[1], "missing")
    result = back_up(ca, both)
    assert result["set"]["full_because"] == "chain_broken" and len(result["set"]["paths"]) == 2


def test_a_store_that_is_new_gets_the_whole_chain(ca: OpensslCa, tmp_path: Path) -> None:
    one = {"stores": [new_store(tmp_path / "one")]}
    made(ca, one, 2)
    back_up(ca, one)
    two = {"stores": [new_store(tmp_path / "two")]}
    result = back_up(ca, {"stores": [*one["stores"], *two["stores"]]})
    assert result["changed"] and not result["due"] and [path.name for path in sets(two)] == [path.name for path in sets(one)]
    assert {str(sets(one)[-1]), str(sets(two)[-1])} == {*result["set"]["paths"]}
    injure(sets(two)[0], "cut")
    assert back_up(ca, {"stores": [*one["stores"], *two["stores"]]})["changed"], "a damaged link gets its sound twin"
    lose_all_but_keys(ca)
    assert put_back(ca, two)["changed"]


def by_hand(ca: OpensslCa, database_set: Path, scratch: Path) -> str:
    """The guide's commands for a set, run by a shell; what they say."""
    script = "".join(blocks(DOCS / "restore-without-it.md", "sh"))
    signers = database_set.parents[2] / "allowed_signers"
    script = re.sub(r"^SET=\S+$", f"SET={database_set}", script[script.index("SET=") :], flags=re.MULTILINE)
    done = subprocess.run(
        ["sh", "-euc", f"CA={ca.directory}\nSIGNERS={signers}\n{script}"], cwd=scratch, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_guide_puts_a_chain_back_by_bare_commands(ca: OpensslCa, tmp_path: Path) -> None:
    place = {"stores": [new_store(tmp_path / "databases")]}
    for name in ("gone", "back", "changed"):
        (ca.directory / "certs" / f"{name}.pem").write_text("before\n")
    back_up(ca, place)
    for name in ("gone", "back"):
        (ca.directory / "certs" / f"{name}.pem").unlink()
    (ca.directory / "certs" / "changed.pem").write_text("afterwards\n")
    back_up(ca, place)
    (ca.directory / "certs" / "back.pem").write_text("as it is\n")
    ca.issue("second.example.com")
    back_up(ca, place)
    before = contents(ca)
    lose_all_but_keys(ca)
    full, second, newest = sets(place)
    assert "The set is signed and intact" in by_hand(ca, newest, tmp_path)
    after = contents(ca)  # tar keeps times to less than a nanosecond's precision
    assert differing({name: (each[0], each[-1]) for name, each in before.items()}, {n: (e[0], e[-1]) for n, e in after.items()}) == set()
    assert not put_back(ca, place)["restored"], "nothing is missing"
    lose_all_but_keys(ca)
    injure(second, "cut")
    shown = by_hand(ca, newest, tmp_path)
    assert f"MISSING OR DAMAGED: {second / 'issued.tar.gz'}" in shown and "intact" not in shown
    assert [path.name for path in ca.directory.iterdir()] == ["private"], "nothing was taken"
    signature, content = full / "manifest.json.sig", (full / "manifest.json.sig").read_bytes()
    shutil.copy(newest / "manifest.json.sig", signature)
    assert "intact" not in by_hand(ca, full, tmp_path) and [path.name for path in ca.directory.iterdir()] == ["private"]
    signature.write_bytes(content)
    assert "The set is signed and intact" in by_hand(ca, full, tmp_path) and (ca.directory / "certs" / "gone.pem").exists()


# --- what goes -------------------------------------------------------------------------------------------------------


def test_a_chain_goes_whole_or_stays(ca: OpensslCa, place: Place) -> None:
    keeping = {"keep_full_sets": 1, "keep_days": 0, "full_after": {"sets": 2}}
    made(ca, place, 3, **keeping)
    assert kinds(place) == ["full", "increment", "increment"], "what the newest builds on stays"
    first = sets(place)
    result = back_up(ca, place, **keeping)
    assert sorted(result["removed"]) == [str(path) for path in first] and kinds(place) == ["full"]
    ca.issue("more.example.com")
    assert back_up(ca, place, **keeping)["removed"] == [] and kinds(place) == ["full", "increment"]


def test_a_chain_of_which_one_set_holds_more_stays(ca: OpensslCa, place: Place) -> None:
    """It was taken out of the CA's folders since, and no newer set holds it."""
    keeping = {"keep_full_sets": 1, "keep_days": 0}
    back_up(ca, place)
    extra = ca.directory / "certs" / "of-a-while.pem"
    extra.write_text("nothing else\n")
    back_up(ca, place)
    extra.unlink()
    back_up(ca, place)
    ca.issue("more.example.com")
    result = back_up(ca, place, full_after={"sets": 0}, **keeping)
    assert result["removed"] == [] and "older_sets_kept" in codes(result) and len(sets(place)) == 4


def test_a_damaged_newest_chain_holds_no_other(ca: OpensslCa, place: Place) -> None:
    """By digest: its size is right."""
    keeping = {"keep_full_sets": 1, "keep_days": 0, "full_after": {"sets": 1}}
    back_up(ca, place, **keeping)
    ca.issue("a.example.com")
    back_up(ca, place, full=True)
    injure(sets(place)[1], "changed")
    ca.issue("b.example.com")
    result = back_up(ca, place, **keeping)
    assert result["set"]["kind"] == "increment" and result["removed"] == [], "an increment on it is as good as it is"
