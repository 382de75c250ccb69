# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores of sets: what is removed from them, what never is, and what a damaged manifest does."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _stored
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import Lacks
from ansible_collections.keyward.pki.plugins.module_utils._databases import prune
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetFile
from ansible_collections.keyward.pki.plugins.module_utils._signed import document
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.module_utils._stored import SETS, Series, Stored
from support.authorities import set_manifest

SERIES = "example-root-ca-0123456789abcdef/ca-dddddddddddddddd"
CONTENT = b"content"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    initialise(str(tmp_path / "databases"), "databases")
    return Store(str(tmp_path / "databases"), SETS, None)


def add(store: Store, sequence: int, **known: Any) -> str:
    """A set; the name of its directory."""
    files = (SetFile("database.json", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT)),)
    manifest = set_manifest(id=f"{sequence:032x}", sequence=sequence, files=files, **known)
    name = f"{sequence:06d}-20260101T000000.000000Z"
    with store.stage() as staged:
        staged.write("database.json", CONTENT)
        staged.commit(document(manifest.as_json()), None, SERIES, name)
    return name


def left(store: Store) -> list[int]:
    return sorted(int(path.name[:6]) for path in Path(store.path, SERIES).iterdir())


def pruned(store: Store, keep: int | None, young: Collection[int] = (), lacking: Collection[tuple[int, int]] = ()) -> list[int]:
    """The sequences of what was removed. young: those that are; lacking: (newer, older) where the newer one does not hold the older."""

    def compare(newer: Stored, older: Stored) -> Lacks:
        assert newer.damage is None, "only an intact one takes another's place"
        return Lacks(any=(newer.manifest.sequence, older.manifest.sequence) in lacking, example="an entry")

    done = prune(store, SERIES, keep, lambda one: one.manifest.sequence not in young, compare)
    return sorted(int(Path(path).name[:6]) for path in done.removed)


def test_which_sets_go(store: Store) -> None:
    for sequence in range(1, 6):
        add(store, sequence)
    assert pruned(store, None) == [] and pruned(store, 5) == []
    assert pruned(store, 3, young={1}) == [2] and left(store) == [1, 3, 4, 5]
    assert pruned(store, 1, young={4}) == [1, 3] and left(store) == [4, 5]
    assert pruned(store, 0) == [4] and left(store) == [5], "the last one stays, whatever was asked"


def test_what_no_newer_set_holds_stays(store: Store) -> None:
    """After a snapshot was brought back, the good set is an old one: it stays until a newer one holds all that it holds."""
    for sequence in range(1, 5):
        add(store, sequence)
    gone_back = {(3, 2), (4, 2)}
    done = prune(
        store, SERIES, 1, lambda _one: True, lambda n, o: Lacks(any=(n.manifest.sequence, o.manifest.sequence) in gone_back, example="x")
    )
    assert left(store) == [2, 4] and len(done.removed) == 2
    assert [(one.code, "000002" in one.message) for one in done.advisories] == [("older_sets_kept", True)]
    add(store, 5)
    assert pruned(store, 1) == [2, 4] and left(store) == [5]


def test_a_damaged_set_stays_and_holds_no_other(store: Store) -> None:
    """Nobody can tell what only it holds."""
    for sequence in range(1, 5):
        add(store, sequence)
    Path(store.path, SERIES, "000002-20260101T000000.000000Z", "database.json").write_text("x")
    Path(store.path, SERIES, "000004-20260101T000000.000000Z", "database.json").write_text("x")
    assert pruned(store, 1) == [1] and left(store) == [2, 3, 4]


def test_a_file_of_another_size_is_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write there makes a sparse file of any size."""
    path = Path(store.path, SERIES, add(store, 1))
    os.truncate(path / "database.json", 1 << 40)

    class Read:
        def __index__(self) -> int:
            raise AssertionError("it was read")

    monkeypatch.setattr(_stored, "_CHUNK", Read())
    (one,) = store.one(SERIES).all
    assert one.damage == "database.json does not have the digest that the manifest records"


def test_a_link_in_what_is_being_stored_gives_no_other_file_a_mode(store: Store, tmp_path: Path) -> None:
    """A store that a group may write in has directories that it may write in."""
    victim = tmp_path / "victim"
    victim.write_text("not of the store")
    victim.chmod(0o644)
    with store.stage() as staged:
        staged.write("database.json", CONTENT)
        Path(staged.path, "link").symlink_to(victim)
        with pytest.raises(KeywardError, match="nothing was stored"):
            staged.commit(document(set_manifest().as_json()), None, SERIES, "000001-20260101T000000.000000Z")
    assert oct(victim.stat().st_mode) == "0o100644" and not Path(store.path, SERIES).exists()


def test_what_a_killed_run_left_goes_after_a_day(store: Store) -> None:
    left = [Path(store.path, f".{'0' * 15}{number}.{kind}") for number in range(2) for kind in ("new", "removed", "other")]
    for path in left:
        path.mkdir()
        (path / "issued.tar.gz").write_bytes(b"x")
        if "1." in path.name:
            os.utime(path, (0, 0))
    store.remove_left()
    assert [path.name[16:] for path in left if not path.exists()] == ["1.new", "1.removed"]
    assert sum(path.exists() for path in left) == 4


def test_what_can_t_be_compared_stays(store: Store) -> None:
    add(store, 1), add(store, 2)

    def broken(_newer: Stored, _older: Stored) -> Lacks:
        raise OSError(5, "an error")

    assert prune(store, SERIES, 1, lambda _one: True, broken).removed == [] and left(store) == [1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        {"created": "yesterday"},
        {"as_of": None},
        {"members": {"count": 1e999, "size": 1, "sha256": None}},
        {"sequence": float("inf")},
        {"own": 5},
        {"files": [1]},
        {"database": {"id": "x"}},
        {"kind": "increment"},
        {"homes": [7]},
        {"lacking": [{"set": "x"}]},
    ],
)
def test_a_damaged_manifest_is_told_and_hides_no_other_set(store: Store, damage: dict[str, Any]) -> None:
    add(store, 1)
    path = Path(store.path, SERIES, add(store, 2), "manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    directory = Series(str(path.parent.parent), SETS, None)
    assert directory.newest is not None and directory.newest.manifest.sequence == 1
    assert [advisory.code for advisory in directory.advisories] == ["malformed"]
