# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose the CA of a host is: at home, elsewhere or named, and how a person changes that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Home
from ansible_collections.keyward.pki.plugins.module_utils._home import (
    MOVED,
    TWIN,
    HomeChange,
    at_home,
    change_home,
    homes_after,
    is_of,
    of_id,
    standing,
)
from support.authorities import generation


@dataclass(frozen=True)
class Record:
    id: str
    name: str
    subject: str
    public_keys: frozenset[str]
    homes: tuple[Home, ...]


def at(host: str, directory: str = "/etc/pki/CA", name: str = "CA_default", **more: str) -> Home:
    return Home(host, {"backend": "openssl", "config_file": f"{directory}/openssl.cnf", "directory": directory, "name": name, **more})


def record(name: str, *homes: Home, keys: str | None = None, subject: str = "Example Root CA") -> Record:
    public = frozenset(generation(key).public_key_sha256 for key in keys or name)
    return Record(f"{name}{'0' * 63}", f"authority-{name}", f"CN={subject}", public, homes)


A = record("a", at("ca1"))
B = record("b", at("ca2"), subject="Other CA")
OTHER = {"subject": "Other CA"}

# what the host ca1 shows, and whose it is there
CASES: dict[str, tuple[list[Generation], str | None, str | None]] = {
    "as it was": ([generation("a")], "a", None),
    "renewed, the older one beside it": ([generation("a"), generation("x", 1)], "a", None),
    "renewed by hand, in place": ([generation("x")], "a", None),
    "renewed with its key, under another subject": ([generation("a", **OTHER)], "a", None),
    "another CA": ([generation("x", subject="Third CA")], None, None),
    "another CA beside an older certificate": (
        [generation("a"), generation("x", 1, subject="Third CA")],
        "a",
        "neither the subject nor a key",
    ),
    "certificates of another": ([generation("b", **OTHER)], "b", "lives on ca2"),
    "a certificate of another as an older one": (
        [generation("b", **OTHER), generation("a", 1)],
        "a",
        "that is a certificate of authority-b",
    ),
    "a certificate of another as the newest": ([generation("a"), generation("b", 1, **OTHER)], None, "that is a certificate of authority-"),
    "the name of another, with a key of its own": ([generation("x", **OTHER)], None, None),
    "a certificate of another, and its own of that name": ([generation("b", **OTHER), generation("x", 1, **OTHER)], "b", "lives on ca2"),
}


@pytest.mark.parametrize("name", CASES)
def test_whose_the_ca_of_a_host_is(name: str) -> None:
    generations, whose, why = CASES[name]
    for known in ([A, B], [B, A]):
        found = standing(at("ca1"), generations, known)
        if whose or why is None:
            assert (found.known.id[0] if found.known else None) == whose
        assert (why or "") in (found.elsewhere or "") and (found.elsewhere is None) is (why is None), found.elsewhere


def test_a_clone_is_elsewhere_whatever_is_renewed_there() -> None:
    for generations in ([generation("a")], [generation("a"), generation("x", 1)], [generation("a", 1)]):
        assert standing(at("clone"), generations, [A, B]).elsewhere
    assert standing(at("clone"), [generation("x")], [A, B]).known is None, "nothing of it is left but the name"


def test_two_databases_of_one_key_are_one_authority() -> None:
    assert standing(at("ca1", name="CA_vpn"), [generation("a")], [A]).elsewhere is None
    assert standing(at("ca1", name="CA_vpn"), [generation("x")], [A]).known is None, "where keys don't tell, the section does"
    assert standing(at("ca1", directory="/srv/other"), [generation("a")], [A]).elsewhere


def test_root_and_subordinate_on_one_host() -> None:
    sub = record("s", at("ca1", name="CA_sub"), subject="Sub CA")
    root = record("r", at("ca1", name="CA_root"))
    for known in ([root, sub], [sub, root]):
        assert standing(at("ca1", name="CA_sub"), [generation("s", subject="Sub CA")], known) == standing(
            at("ca1", name="CA_sub"), [generation("s", subject="Sub CA")], [sub]
        )
        assert at_home(at("ca1", name="CA_root"), known) == [root] and at_home(at("ca1", name="CA_sub"), known) == [sub]
        assert len(at_home(Home("ca1", {"config_file": "/etc/pki/CA/openssl.cnf"}), known)) == 2, "one must be named"


def test_a_home_that_was_recorded_before_the_configuration_existed() -> None:
    early = replace(A, homes=(Home("ca1", {"backend": "openssl", "directory": "/etc/pki/CA"}),))
    for generations in ([generation("a")], [generation("x")]):
        assert standing(at("ca1"), generations, [early, B]) == standing(at("ca1"), generations, [early])
        assert standing(at("ca1"), generations, [early, B]).elsewhere is None
    assert at_home(at("ca1"), [early, B]) == [early]


def test_another_ca_at_a_home_is_said() -> None:
    found = standing(at("ca1"), [generation("x", subject="Third CA")], [A, B])
    assert [advisory.code for advisory in found.advisories] == ["another_ca_at_home"] and "authority-a" in found.advisories[0].message
    assert not standing(at("ca1", name="CA_sub"), [generation("x", subject="Third CA")], [A]).advisories
    windows = Home("ca3", {"backend": "adcs", "name": "Old CA"})
    assert standing(Home("ca3", {"backend": "adcs", "name": "New CA"}), [generation("x")], [record("w", windows)]).advisories
    both = [record("a", at("ca1")), record("c", at("ca1"))]
    assert "it can be authority-a or authority-c" in str(standing(at("ca1"), [generation("x")], both).elsewhere)


def test_a_person_names_an_authority() -> None:
    known = [A, B, replace(A, id="a" + "0" * 62 + "1")]
    assert of_id("b" + "0" * 7, known) is B and of_id(A.id, known) is A
    for beginning, why in (("a" * 8, "no store has it"), ("a" + "0" * 20, "Give more digits"), ("b", "digits"), ("B" * 64, "digits")):
        with pytest.raises(KeywardError, match=why):
            of_id(beginning, known)


def test_what_a_named_authority_must_show() -> None:
    elsewhere = at("new", "/srv/ca")
    assert is_of(A, elsewhere, [generation("a")]) and is_of(A, elsewhere, [generation("a"), generation("x", 1, **OTHER)])
    assert (
        not is_of(A, elsewhere, [generation("x")])
        and is_of(A, elsewhere, [generation("x")], moving=True)
        and is_of(A, at("ca1"), [generation("x")])
    )
    assert not is_of(A, at("ca1"), [generation("x", **OTHER)], moving=True)


def test_moves_and_twins() -> None:
    new, standby = at("ca9"), at("ca8", "/srv/ca")
    moved = change_home(MOVED, A.homes, new, ["d1", "d3"], [])
    assert moved and moved.homes == (new,) and homes_after(A.homes, "d1", [moved]) == (new,) == homes_after(A.homes, "d3", [moved])
    assert homes_after(A.homes, "d2", [moved]) == A.homes, "the next manifest says it itself"
    twin = change_home(TWIN, moved.homes, standby, ["d1"], [moved])
    assert twin and twin.homes == (new, standby) and homes_after(A.homes, "d1", [twin, moved]) == (new, standby)
    assert change_home(TWIN, twin.homes, standby, ["d1"], [moved, twin]) is None and change_home(MOVED, (new,), new, ["d1"], []) is None
    back = change_home(MOVED, twin.homes, new, ["d1"], [moved, twin])
    assert back and back.homes == (new,) and homes_after(A.homes, "d1", [twin, back, moved]) == (new,)
    for change in (moved, twin):
        assert HomeChange.from_json({"type": change.kind, "follows": change.follows, **change.as_json()}) == change
    with pytest.raises(ValueError):
        HomeChange.from_json({"type": "restore", "follows": moved.follows, **moved.as_json()})
