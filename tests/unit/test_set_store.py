# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores of sets: what is removed from them, what never is, and what a damaged manifest does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._manifest import ARCHIVE, MEMBERS, SetFile, SetManifest, State
from ansible_collections.keyward.pki.plugins.module_utils._store import SETS, AuthorityDirectory, Store, document
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.authorities import authority, generation

AUTHORITY = "example-root-ca-0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    initialise(str(tmp_path / "databases"), "databases")
    return Store(str(tmp_path / "databases"), SETS)


def add(store: Store, sequence: int, host: str = "ca.example.com") -> str:
    """A set; the name of its directory."""
    content = b"content"
    manifest = SetManifest(
        id=f"{sequence:032x}",
        sequence=sequence,
        previous=None,
        kind="full",
        authority=authority(host=host),
        created="2026-01-01T00:00:00Z",
        as_of="2026-01-01T00:00:00Z",
        made={},
        files=tuple(SetFile(name, hashlib.sha256(content).hexdigest(), len(content)) for name in (ARCHIVE, MEMBERS)),
        members=1,
        state=State("d", "c", 1, None, None),
        left_out=(),
        generations=(generation("first"),),
    )
    name = f"{sequence:06d}-20260101T000000.000000Z"
    with store.stage() as staged:
        for file in manifest.files:
            staged.write(file.name, content)
        staged.commit(document(manifest.as_json()), AUTHORITY, name)
    return name


def left(store: Store) -> set[str]:
    return {path.name for path in Path(store.path, AUTHORITY).iterdir()}


def test_a_host_that_shows_the_certificates_of_another_removes_none_of_its_sets(store: Store) -> None:
    old, good = add(store, 1), add(store, 2)
    add(store, 3, "evil.example.com")
    newest = add(store, 4, "evil.example.com")
    removed = store.keep(AUTHORITY, 1, "evil.example.com")
    assert [Path(path).name[:6] for path in removed] == ["000003"] and left(store) == {old, good, newest}
    assert len(store.keep(AUTHORITY, 1, "ca.example.com")) == 1 and left(store) == {good, newest}


@pytest.mark.parametrize(
    "damage",
    [{"created": "yesterday"}, {"as_of": None}, {"members": 1e999}, {"sequence": float("inf")}, {"own": 5}, {"files": [1]}],
)
def test_a_damaged_manifest_is_told_and_hides_no_other_set(store: Store, damage: dict[str, Any]) -> None:
    add(store, 1)
    path = Path(store.path, AUTHORITY, add(store, 2), "manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    directory = AuthorityDirectory(str(path.parent.parent), SETS)
    assert directory.newest is not None and directory.newest.manifest.sequence == 1
    assert [advisory.code for advisory in directory.advisories] == ["malformed"]
