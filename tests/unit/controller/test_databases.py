# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which database a set is of, what is said of one that has lost entries, and that its good sets stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa, openssl

FULL: dict[str, Any] = {"full_after": {"sets": 0}}
PRUNING: dict[str, Any] = {"keep_full_sets": 1, "keep_days": 0, **FULL}


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


@pytest.fixture(params=["stores", "host_store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The option that names a new store, on the controller or on the host."""
    path = str(tmp_path / "databases")
    initialise(path, "databases")
    return {request.param: [path] if request.param == "stores" else path}


def back_up(ca: OpensslCa, place: dict[str, Any], host: str = "ca1", **options: Any) -> dict[str, Any]:
    check = options.pop("check", False)
    return FakeHost(host).run(CaDatabaseBackup, {"config_file": str(ca.config_file), **place, **options}, check=check)


def put_back(ca: OpensslCa, place: dict[str, Any], host: str = "ca1", **options: Any) -> dict[str, Any]:
    return FakeHost(host).run(CaDatabaseRestore, {"config_file": str(ca.config_file), **place, **options})


def sets(place: dict[str, Any]) -> list[Path]:
    (path,) = place["stores"] if "stores" in place else (place["host_store"],)
    return sorted(Path(path).glob("*/*/0*Z"))


def databases(place: dict[str, Any]) -> set[Path]:
    return {path.parent for path in sets(place)}


def codes(result: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in result["advisories"]]


def lost(result: dict[str, Any]) -> str:
    """What is said of entries that the database has lost."""
    return "".join(
        finding["message"] for finding in result["advisories"] if finding["code"] == "rows_vanished" and finding["level"] == "red"
    )


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings that a person sees."""
    found: list[str] = []
    monkeypatch.setattr("ansible.utils.display.Display.warning", lambda _self, text: found.append(text))
    return found


def revoke(ca: OpensslCa, serial: str) -> None:
    openssl("ca", "-config", ca.config_file, "-revoke", ca.directory / "newcerts" / f"{serial}.pem", cwd=ca.directory)


def two_sections(ca: OpensslCa) -> None:
    """A second section, vpn, with the same key and a database of its own."""
    text = ca.config_file.read_text()
    begin = text.index("[ CA_default ]")
    section = text[begin : text.index("[", begin + 1)]
    for name in ("index.txt", "serial", "newcerts"):
        section = section.replace(f"$dir/{name}", f"$dir/vpn/{name}")
    ca.config_file.write_text(text + "\n" + section.replace("[ CA_default ]", "[ vpn ]"))
    shutil.copytree(ca.directory / "newcerts", ca.directory / "vpn" / "newcerts")
    for name in ("index.txt", "serial"):
        shutil.copy(ca.directory / name, ca.directory / "vpn" / name)


def test_two_sections_with_one_key_are_two_databases(ca: OpensslCa, place: dict[str, Any]) -> None:
    two_sections(ca)
    (ca.directory / "vpn" / "serial").write_text("8000\n")
    made = {name: back_up(ca, place, name=name, **PRUNING)["set"] for name in ("CA_default", "vpn")}
    assert made["CA_default"]["database"] != made["vpn"]["database"] and len(databases(place)) == len(sets(place)) == 2
    assert len({path.parent for path in databases(place)}) == 1, "of one authority"
    for name in ("CA_default", "vpn", "CA_default"):
        result = back_up(ca, place, name=name, **PRUNING)
        assert not result["changed"] and result["set"] == made[name] and "other_copy" not in codes(result)
    for name, lost in (("CA_default", ca.directory), ("vpn", ca.directory / "vpn")):
        content = (lost / "serial").read_text()
        (lost / "serial").unlink()
        (lost / "index.txt").unlink()
        assert "missing or empty" in back_up(ca, place, name=name)["msg"]
        result = put_back(ca, place, name=name)
        assert result["changed"] and result["set"]["database"] == made[name]["database"]
        assert int((lost / "serial").read_text(), 16) >= int(content, 16)


def test_where_nothing_is_left_the_section_says_which(ca: OpensslCa, place: dict[str, Any]) -> None:
    two_sections(ca)
    made = {name: back_up(ca, place, name=name)["set"] for name in ("CA_default", "vpn")}
    shutil.rmtree(ca.directory)
    assert "which database of ca1 is meant" in put_back(ca, place)["msg"]
    result = put_back(ca, place, name="vpn")
    assert result.get("set") == made["vpn"], result


def test_a_copy_of_a_ca_has_a_database_of_its_own_and_is_named(ca: OpensslCa, place: dict[str, Any]) -> None:
    """A clone, or a standby: what one of them issues, the other does not have."""
    first = back_up(ca, place)
    ca.issue("on-the-clone.example.com")
    assert "not at home" in back_up(ca, place, host="ca2")["msg"]
    clone = back_up(ca, place, host="ca2", authority_id=first["authority"]["id"], twin=True)
    assert clone["set"]["database"] != first["set"]["database"] and "other_copy" in codes(clone)
    assert len(databases(place)) == 2


def test_lost_entries_are_said_until_they_are_back(ca: OpensslCa, place: dict[str, Any], said: list[str]) -> None:
    ca.issue("second.example.com")
    revoke(ca, "1000")
    shutil.rmtree(ca.directory / "requests")  # its keys are left out, and that is said
    back_up(ca, place)
    (good,) = sets(place)
    index = (ca.directory / "index.txt").read_text()
    (ca.directory / "index.txt").write_text(index.splitlines(True)[1])
    predicted = back_up(ca, place, check=True)
    assert predicted["changed"] and "fewer_entries" in codes(predicted)
    for changed in (True, False, False):
        result = back_up(ca, place, **PRUNING)
        assert result["changed"] is changed and "1 entries" in lost(result)
        assert "1 of them revoked" in lost(result) and good.name in lost(result) and lost(result) in said.pop()
    assert result["set"] is not None and good in sets(place) and len(sets(place)) == 2
    assert put_back(ca, {"set": str(good)})["changed"]
    assert "1000" in (ca.directory / "index.txt").read_text()
    result = back_up(ca, place, **PRUNING)
    assert result["changed"] and lost(result) == "" and said == []
    assert len(sets(place)) == 1, "the newest holds all again"


def test_a_snapshot_that_was_brought_back_removes_no_good_set(ca: OpensslCa, place: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(ca.directory, tmp_path / "snapshot")
    ca.issue("second.example.com")
    revoke(ca, "1001")
    back_up(ca, place, **PRUNING)
    (good,) = sets(place)
    shutil.rmtree(ca.directory)
    shutil.copytree(tmp_path / "snapshot", ca.directory)
    for number in range(3):
        ca.issue(f"after-{number}.example.com")
        result = back_up(ca, place, **PRUNING)
        assert "1 of them revoked" in lost(result) and "older_sets_kept" in codes(result)
        assert good in sets(place) and len(sets(place)) == 2, "and of the others only the newest"
    lacking = json.loads((sets(place)[-1] / "manifest.json").read_text())["lacking"]
    assert [one["set"] for one in lacking] == [good.name]


def test_a_set_that_a_person_took_away_is_missed_no_longer(ca: OpensslCa, place: dict[str, Any], tmp_path: Path) -> None:
    ca.issue("second.example.com")
    back_up(ca, place)
    (good,) = sets(place)
    (ca.directory / "index.txt").write_text((ca.directory / "index.txt").read_text().splitlines(True)[0])
    assert lost(back_up(ca, place, **FULL))
    shutil.move(good, tmp_path / "away")
    result = back_up(ca, place)
    assert lost(result) == "" and not result["changed"]


def test_what_is_left_out_is_said_each_time(ca: OpensslCa, place: dict[str, Any], said: list[str]) -> None:
    both = ca.directory / "newcerts" / "both.pem"
    both.write_bytes(ca.private_key.read_bytes() + ca.certificate.read_bytes())
    for changed in (True, False):
        result = back_up(ca, place)
        assert result["changed"] is changed and str(both) in [one["path"] for one in result["left_out"]]
        assert [one["message"] for one in result["advisories"] if str(both) in one["message"]]
        assert "left out" in said[-1] and str(both) in said.pop()


def test_a_set_is_kept_as_long_as_was_asked(ca: OpensslCa, place: dict[str, Any]) -> None:
    for number in range(2):
        back_up(ca, place)
        ca.issue(f"n{number}.example.com")
    assert back_up(ca, place, keep_full_sets=1, **FULL)["removed"] == [] and len(sets(place)) == 3
    ca.issue("more.example.com")
    result = back_up(ca, place, **PRUNING)
    assert len(result["removed"]) == 3 and len(sets(place)) == 1
    assert "keep_days is less than 0" in back_up(ca, place, keep_days=-1)["msg"]


@pytest.mark.parametrize("path", ["relative/path", "~/scripts"])
def test_extra_paths_are_paths_of_the_host(ca: OpensslCa, place: dict[str, Any], path: str) -> None:
    assert "not absolute" in back_up(ca, place, extra_paths=[path])["msg"]
    assert "not absolute" in put_back(ca, place, extra_paths=[path])["msg"]


def test_a_store_that_is_new_hides_no_lost_entry(ca: OpensslCa, tmp_path: Path) -> None:
    stores = [str(tmp_path / name) for name in ("new", "old")]
    for path in stores:
        initialise(path, "databases")
    ca.issue("second.example.com")
    back_up(ca, {"stores": stores[1:]})
    index = ca.directory / "index.txt"
    index.write_text(index.read_text().splitlines(True)[0])
    for _time in range(2):
        assert "1 entries" in lost(back_up(ca, {"stores": stores}))
