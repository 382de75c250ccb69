# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chains of sets: which is whole, and that those of whoever can write a store are refused, soon, and with their reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._chains import Chains, chains_of
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import Base, Changes, Link, SetFile, SetManifest
from ansible_collections.keyward.pki.plugins.module_utils._signed import digest, document
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.module_utils._stored import SETS, Stored
from support.authorities import authority, set_manifest
from support.sets import ended_within

SERIES = "example-root-ca-0123456789abcdef/ca-dddddddddddddddd"
FILES = tuple(
    SetFile(name, hashlib.sha256(name.encode()).hexdigest(), len(name)) for name in ("core.tar.gz", "issued.tar.gz", "members.gz")
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    initialise(str(tmp_path / "databases"), "databases")
    return Store(str(tmp_path / "databases"), SETS, None)


def name_of(sequence: int) -> str:
    return f"{sequence:06d}-20260101T000000.000000Z"


def add(store: Store, sequence: int, on: Sequence[SetManifest] = (), **known: Any) -> SetManifest:
    """A set with three small files, on all of a chain; its manifest."""
    links = tuple(Link(name_of(one.sequence), digest(document(one.as_json()))) for one in on)
    base = Base(on[-1].id, links[-1].sha256, links, Changes(1, 0, 0)) if on else None
    shape = {"id": f"{sequence:032x}", "sequence": sequence, "files": FILES, "base": base, "kind": "increment" if on else "full"}
    manifest = set_manifest(**{**shape, **known})
    write(store, manifest.as_json(), sequence)
    return manifest


def write(store: Store, shape: dict[str, Any], sequence: int) -> None:
    folder = Path(store.path, SERIES, name_of(sequence))
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(document(shape))
    for file in FILES:
        (folder / file.name).write_text(file.name)


def why(store: Store, sequence: int, thorough: bool = False) -> str:
    """Why a set can't be used."""
    series = store.one(SERIES)
    one = series.stored(name_of(sequence))
    if isinstance(one, KeywardError):
        return str(one)
    with pytest.raises(KeywardError) as caught:
        Chains([series], thorough).whole(one)
    return str(caught.value)


def newest(store: Store) -> int:
    found = Chains([store.one(SERIES)]).newest
    return found.manifest.sequence if found else 0


def test_a_chain_is_whole_with_all_its_links(store: Store) -> None:
    chain = [add(store, 1)]
    chain.append(add(store, 2, chain))
    chain.append(add(store, 3, chain))
    add(store, 4), add(store, 5, chain[:2])
    found = Chains([store.one(SERIES)], thorough=True).newest
    assert found and found.manifest.sequence == 5 and [one.manifest.sequence for one in found.links] == [1, 2]
    assert [[one.manifest.sequence for one in each] for each in chains_of([store.one(SERIES)])] == [[5, 3, 2, 1], [4]]


def test_what_is_wrong_with_a_link_is_named(store: Store) -> None:
    chain = [add(store, 1)]
    chain.append(add(store, 2, chain))
    add(store, 3, chain)
    path = Path(store.path, SERIES, name_of(2), "issued.tar.gz")
    path.write_text("x" * len("issued.tar.gz"))
    assert newest(store) == 3, "of its size"
    assert f"the set {name_of(2)}, which it builds on, is damaged: issued.tar.gz does not have the digest" in why(store, 3, thorough=True)
    path.unlink()
    assert f"{name_of(2)}, which it builds on, is damaged" in why(store, 3) and newest(store) == 1
    (path.parent / "manifest.json").unlink()
    assert f"{name_of(2)}, which it builds on, is missing" in why(store, 3)


def test_a_base_that_nobody_known_signed_counts_for_nothing(store: Store) -> None:
    class Judge:
        def doubt(self, document: bytes, _signature: bytes | None, _at: str) -> str | None:
            return "signed by nobody known" if json.loads(document)["sequence"] == 1 else None

    whose = authority(id="0123456789abcdef" * 4)
    add(store, 2, [add(store, 1, authority=whose)], authority=whose)
    judged = Store(store.path, SETS, Judge())
    assert "counts for nothing: signed by nobody known" in why(judged, 2) and newest(judged) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda shape: shape.update(id=shape["base"]["id"]), "is damaged"),  # it names itself
        (lambda shape: shape["base"]["links"].append({"set": name_of(3), "sha256": "0" * 64}), "is damaged"),  # the last is not the base
        (lambda shape: shape["base"].update(links=[shape["base"]["links"][0]] * 2), "is damaged"),  # a loop
        (lambda shape: shape["base"].update(links=[{"set": name_of(9), "sha256": "0" * 64}, *shape["base"]["links"]]), "is damaged"),
        (lambda shape: shape["base"].update(links=[]), "is damaged"),
        (lambda shape: shape["base"]["links"][-1].update(set="../../elsewhere"), "is damaged"),
        (lambda shape: shape["base"].update(changes={"added": 1e999, "changed": 0, "removed": 0}), "is damaged"),
        (lambda shape: shape["base"].update(links=long_chain(shape["base"]["links"])), "is damaged"),
        (lambda shape: shape["database"].update(id="e" * 32), "is of another database"),
        (lambda shape: shape["authority"].update(id="f" * 64), "is of another database"),
        (lambda shape: shape["base"]["links"][-1].update(sha256="0" * 64) or shape["base"].update(sha256="0" * 64), "is missing"),
        (lambda shape: shape["base"]["links"].pop(0), "builds on others than that one says"),
    ],
)
def test_hostile_increments_are_refused(store: Store, change: Any, expected: str) -> None:
    chain = [add(store, 1)]
    chain.append(add(store, 2, chain))
    shape = json.loads(document(replace(add(store, 3, chain), id="3" * 32, sequence=4).as_json()))
    change(shape)
    write(store, shape, 4)
    with ended_within(10):
        text = why(store, 4)
    assert expected in text and text.count(". ") >= 1 and newest(store) == 3, text


def long_chain(links: list[dict[str, str]]) -> list[dict[str, str]]:
    more = [{"set": f"{number:012d}-20260101T000000.000000Z", "sha256": f"{number:064x}"} for number in range(100, 10_100)]
    return [*more, *links]


def test_an_increment_of_files_of_another_software_is_none(store: Store) -> None:
    chain = [add(store, 1)]
    shape = add(store, 2, chain).as_json()
    shape.update(files=[{"name": "database.json", "sha256": "x", "size": 1}], sequence=3, id="3" * 32)
    write(store, shape, 3)
    assert "is damaged" in why(store, 3)


def test_links_come_from_any_store(store: Store, tmp_path: Path) -> None:
    initialise(str(tmp_path / "second"), "databases")
    second = Store(str(tmp_path / "second"), SETS, None)
    for each in (store, second):
        add(each, 2, [add(each, 1)])
    Path(store.path, SERIES, name_of(1), "core.tar.gz").unlink()
    Path(second.path, SERIES, name_of(2), "core.tar.gz").unlink()
    found = Chains([store.one(SERIES), second.one(SERIES)]).newest
    assert isinstance(found, Stored) and found.path.startswith(store.path) and found.links[0].path.startswith(second.path)
