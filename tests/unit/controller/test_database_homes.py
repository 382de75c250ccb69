# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sets are stored of a host and sent to it: at home, elsewhere, and where a person names the authority."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.estate import Fleet, codes, showing
from support.openssl_ca import OpensslCa
from support.signers import MEMORY


@pytest.fixture(params=[True, False], ids=["key stores tell", "sets alone tell"])
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Fleet:
    return Fleet(tmp_path, request.param)


def test_of_a_clone_no_set_is_stored_and_its_original_is_served(fleet: Fleet) -> None:
    clone, before = fleet.clone(fleet.a), fleet.sets
    for act in (lambda: None, lambda: clone.issue("more"), clone.renew_keeping):
        act()
        refused = fleet.back_up("ca9", clone)
        assert (
            codes(refused) == ["not_at_home"]
            and f"keyward.pki.database_backup --limit ca9 -e keyward_authority_id={fleet.ids['a'][:16]}" in refused["msg"]
        )
        (clone.directory / "index.txt").unlink(missing_ok=True)
        assert codes(fleet.restore("ca9", clone)) == ["not_at_home"] and not (clone.directory / "index.txt").exists()
        shutil.copy(fleet.a.directory / "index.txt", clone.directory / "index.txt")
    assert not fleet.back_up("ca1", fleet.a)["changed"] and fleet.sets == before


@pytest.mark.parametrize("shown", ["b", "ba", "ab"])
def test_a_host_that_shows_another_ca_stores_and_gets_no_set_of_it(fleet: Fleet, shown: str) -> None:
    """Its set would be that CA's newest, and be put back there as root."""
    before = fleet.sets
    host = showing("ca1", *(fleet.a if name == "a" else fleet.b for name in shown))
    for task in (fleet.back_up, fleet.restore):
        host.sent.clear()
        refused = task(host, fleet.a)
        assert refused["failed"] and codes(refused) == ["not_at_home"], refused["msg"]
        assert host.orders() == (["database.state"] if task == fleet.back_up else ["look"])
    index = fleet.b.directory / "index.txt"
    content = index.read_bytes()
    index.unlink()
    assert fleet.restore("ca2", fleet.b)["changed"] and index.read_bytes() == content and fleet.sets == before


@pytest.mark.parametrize("proved", [True, False], ids=["whose keys are backed up", "whose keys are in no backup"])
@pytest.mark.parametrize("rogue", ["a", "b"])  # which of both directories comes first
def test_a_host_that_showed_another_ca_before_that_was_known(tmp_path: Path, rogue: str, proved: bool) -> None:
    """Its sets never become those of the other, which would get a database from it, and code as root."""
    fleet = Fleet(tmp_path, True, stored=False)
    liar, other = (fleet.a, fleet.b) if rogue == "a" else (fleet.b, fleet.a)
    if proved:
        assert fleet.keys("ca1", liar)["changed"]
    assert fleet.back_up(showing("ca1", other, liar), liar)["changed"], "nobody knows the other yet"
    before = fleet.sets
    identity = fleet.keys("ca2", other)["authority"]["id"]
    index = (other.directory / "index.txt").read_bytes()
    (other.directory / "index.txt").unlink()
    assert "no intact set of this database" in fleet.restore("ca2", other)["msg"]
    (other.directory / "index.txt").write_bytes(index)
    stored = fleet.back_up("ca2", other)
    assert stored["authority"]["id"] == identity and f"/{other.name.lower().replace(' ', '-')}-" in stored["set"]["paths"][0]
    assert not fleet.back_up("ca2", other)["changed"]
    assert codes(fleet.back_up(showing("ca1", other, liar), liar)) == ["not_at_home"]
    (other.directory / "index.txt").unlink()
    assert fleet.restore("ca2", other)["set"]["paths"] == stored["set"]["paths"]
    assert len(fleet.sets) == len(before) + 1


def test_without_backups_of_keys_a_host_can_claim_a_ca_that_has_no_set_yet(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, False, stored=False)
    assert fleet.back_up(showing("ca1", fleet.b, fleet.a), fleet.a)["changed"]
    assert codes(fleet.back_up("ca2", fleet.b)) == ["not_at_home"]
    (fleet.b.directory / "index.txt").unlink()
    assert codes(fleet.restore("ca2", fleet.b)) == ["not_at_home"]
    fleet.with_keys = True
    fleet.keys("ca2", fleet.b)
    fleet.b.directory.joinpath("index.txt").touch()
    assert fleet.back_up("ca2", fleet.b)["changed"]


def test_a_subordinate_that_shows_its_parents_certificate(tmp_path: Path) -> None:
    """Stored first, it makes the parent not its own: a certificate alone makes nobody its owner."""
    fleet = Fleet(tmp_path, False)
    parent = OpensslCa(tmp_path / "parent", name="Example Parent", algorithm="ed25519")
    sub = OpensslCa(tmp_path / "sub", name="Example Sub", algorithm="ed25519")
    stated = {"older": [{"certificate_file": str(parent.certificate)}]}
    of_sub = fleet.back_up("ca3", sub, **stated)
    of_parent = fleet.back_up("ca4", parent)
    assert of_sub["changed"] and of_parent["changed"] and of_sub["authority"]["id"] != of_parent["authority"]["id"]
    for _night in range(2):
        assert not fleet.back_up("ca4", parent)["changed"]
        refused = fleet.back_up("ca3", sub, **stated)
        assert codes(refused) == ["not_at_home"] and "out of the option older" in refused["msg"] and "Example Parent" in refused["msg"]
        assert not fleet.back_up("ca3", sub)["changed"]


def test_root_and_subordinate_on_one_host_one_of_them_lost(fleet: Fleet) -> None:
    sub = OpensslCa(fleet.directory / "sub", name="Example Sub", algorithm="ed25519")
    if fleet.with_keys:
        fleet.keys("ca1", sub)
    fleet.back_up("ca1", sub)
    for ca in (sub, fleet.a):
        content = (ca.directory / "index.txt").read_bytes()
        away = ca.directory.with_suffix(".away")
        ca.directory.rename(away)
        assert fleet.restore("ca1", ca)["changed"] and (ca.directory / "index.txt").read_bytes() == content
        assert fleet.restore("ca5", ca)["failed"], "nobody lives there"


def test_a_copy_has_sets_of_its_own_where_a_person_names_its_authority(fleet: Fleet) -> None:
    clone, named = fleet.clone(fleet.a), {"authority_id": fleet.ids["a"][:12]}
    copied = fleet.back_up("ca9", clone, **named)
    assert copied["changed"] and copied["authority"]["id"] == fleet.ids["a"]
    assert copied["set"]["database"] != fleet.back_up("ca1", fleet.a)["set"]["database"]
    assert not fleet.back_up("ca9", clone, **named)["changed"] and codes(fleet.back_up("ca9", clone)) == ["not_at_home"]
    clone.issue("more")
    assert fleet.back_up("ca9", clone, **named)["changed"] and not fleet.back_up("ca1", fleet.a)["changed"]
    (clone.directory / "index.txt").unlink()
    assert fleet.restore("ca9", clone, **named)["changed"] and "more" in (clone.directory / "index.txt").read_text()
    refused = fleet.back_up("ca1", fleet.a, authority_id=fleet.ids["b"])
    assert codes(refused) == ["foreign_authority"]


def test_a_ca_moves_with_its_database(fleet: Fleet) -> None:
    before = fleet.back_up("ca1", fleet.a)["set"]["database"]
    said = {"authority_id": fleet.ids["a"], "move": True}
    if fleet.with_keys:
        refused = fleet.back_up("ca9", fleet.a, **said)
        assert "ca_key_backup was not told" in refused["msg"]
        assert fleet.keys("ca9", fleet.a, **said)["changed"]
    else:
        moved = fleet.back_up("ca9", fleet.a, **said)
        assert moved["changed"] and codes(moved) == ["home_changed"] and moved["set"]["database"] == before
        assert len(list((fleet.directory / "sets").rglob("*-moved-*.json"))) == 1
    assert codes(fleet.back_up("ca1", fleet.a)) == ["not_at_home"]
    assert not fleet.back_up("ca9", fleet.a, **said)["changed"]
    fleet.a.issue("more")
    after = fleet.back_up("ca9", fleet.a)
    assert after["changed"] and after["set"]["database"] == before and not fleet.back_up("ca9", fleet.a)["changed"]
    (fleet.a.directory / "index.txt").unlink()
    assert codes(fleet.restore("ca1", fleet.a)) == ["not_at_home"] and fleet.restore("ca9", fleet.a)["changed"]


def test_a_twin_is_at_home_with_a_database_of_its_own(fleet: Fleet) -> None:
    standby, said = fleet.clone(fleet.a), {"authority_id": fleet.ids["a"], "twin": True}
    if fleet.with_keys:
        fleet.keys("ca9", standby, **said)
    assert fleet.back_up("ca9", standby, **said)["changed"]
    for host, ca in (("ca1", fleet.a), ("ca9", standby)):
        assert not fleet.back_up(host, ca)["changed"]
        ca.issue("again")
        assert fleet.back_up(host, ca)["changed"] and not fleet.back_up(host, ca)["changed"]
    names = {result["set"]["database"] for result in (fleet.back_up("ca1", fleet.a), fleet.back_up("ca9", standby))}
    assert len(names) == 2


@pytest.mark.parametrize("remembers", [True, False])
def test_a_set_among_those_of_another_database_of_its_ca_counts_for_nothing(fleet: Fleet, remembers: bool) -> None:
    """Signed as it is: whoever may write into a store would have one database put back as the other, or neither backed up."""
    standby, said = fleet.clone(fleet.a), {"authority_id": fleet.ids["a"], "twin": True}
    if fleet.with_keys:
        fleet.keys("ca9", standby, **said)
    assert fleet.back_up("ca9", standby, **said)["changed"]
    for name in ("one", "two"):
        standby.issue(name)
        assert fleet.back_up("ca9", standby)["changed"]
    own, other = sorted((fleet.directory / "sets").glob("example-a*/*-*"))
    assert (own.name[:3], other.name[:3]) == ("ca1", "ca9")
    planted = max(other.glob("0*Z"))
    shutil.copytree(planted, own / planted.name)
    if not remembers:
        fleet.directory.joinpath("home", MEMORY).unlink()
    result = fleet.back_up("ca1", fleet.a)
    assert not result["changed"] and result["set"]["paths"] == [str(min(own.glob("0*Z")))]
    assert "it is of another database" in next(one["message"] for one in result["advisories"] if one["code"] == "unknown_signer")
    (fleet.a.directory / "index.txt").unlink()
    assert fleet.restore("ca1", fleet.a)["set"]["paths"] == result["set"]["paths"]
    assert "/CN=two" not in (fleet.a.directory / "index.txt").read_text()


def test_two_sections_with_one_key_move_together(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, False)
    section = fleet.a.config_file.read_text()
    begin = section.index("[ CA_default ]")
    own = section[begin : section.index("\n[", begin + 1)].replace("CA_default", "CA_vpn").replace("index.txt", "vpn.txt")
    fleet.a.config_file.write_text(section + "\n" + own + "\n")
    shutil.copy(fleet.a.directory / "index.txt", fleet.a.directory / "vpn.txt")
    fleet.back_up("ca1", fleet.a)
    vpn = fleet.back_up("ca1", fleet.a, name="CA_vpn")
    assert vpn["authority"]["id"] == fleet.ids["a"] and vpn["changed"]
    databases = [fleet.back_up("ca1", fleet.a, **which)["set"]["database"] for which in ({}, {"name": "CA_vpn"})]
    assert len(set(databases)) == 2
    assert fleet.back_up("ca9", fleet.a, authority_id=fleet.ids["a"], move=True)["changed"]
    for which, database in (({}, databases[0]), ({"name": "CA_vpn"}, databases[1])):
        assert codes(fleet.back_up("ca1", fleet.a, **which)) == ["not_at_home"]
        assert fleet.back_up("ca9", fleet.a, **which)["set"]["database"] == database


def test_a_store_of_the_host_knows_its_home_too(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, False)
    initialise(str(tmp_path / "hs"), "databases")
    here: dict[str, Any] = {"stores": None, "host_store": str(tmp_path / "hs"), "memory": str(tmp_path / "memory.json")}
    own = fleet.back_up("ca1", fleet.a, **here)
    assert own["changed"] and codes(fleet.back_up("ca9", fleet.clone(fleet.a), **here)) == ["not_at_home"]
    moved = fleet.back_up("ca9", fleet.a, authority_id=own["authority"]["id"][:16], move=True, **here)
    assert codes(moved) == ["home_changed"] and moved["set"]["database"] == own["set"]["database"]
    assert codes(fleet.back_up("ca1", fleet.a, **here)) == ["not_at_home"] and not fleet.back_up("ca9", fleet.a, **here)["changed"]
    (fleet.a.directory / "index.txt").unlink()
    assert fleet.restore("ca9", fleet.a, **here)["changed"]


def test_a_store_of_keys_that_is_not_mounted_stops_no_database(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, True)
    (tmp_path / "keys").rename(tmp_path / "away")
    fleet.a.issue("more")
    stored = fleet.back_up("ca1", fleet.a)
    assert stored["changed"] and "key_store_not_read" in codes(stored, "advisories")
    assert codes(fleet.back_up("ca9", fleet.clone(fleet.a))) == ["not_at_home"], "the sets tell it as well"
    (fleet.a.directory / "index.txt").unlink()
    back = fleet.restore("ca1", fleet.a)
    assert back["changed"] and "key_store_not_read" in codes(back, "advisories")
