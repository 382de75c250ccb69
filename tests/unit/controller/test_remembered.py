# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a controller remembers of stores, and times that stores state."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.module_utils._time import at_most_now
from support.estate import Fleet, codes
from support.signers import MEMORY


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, True)


def renewed(fleet: Fleet) -> Path:
    """The backups of the first CA's keys, after a second one; its directory as it was before lies beside the store."""
    folder = next(path for path in (fleet.directory / "keys").glob("*/") if path.name.endswith(fleet.ids["a"][:16]))
    shutil.copytree(folder, fleet.directory / "older")
    fleet.a.renew_keeping()
    assert fleet.keys("ca1", fleet.a)["changed"] and fleet.back_up("ca1", fleet.a)["changed"]
    return folder


def unread(result: dict[str, Any]) -> list[str]:
    assert not result.get("failed"), result["msg"]
    return [one["message"] for one in result["advisories"] if one["code"] == "key_store_not_read"]


def test_key_stores_that_hold_less_than_before_decide_nothing_in_silence(fleet: Fleet) -> None:
    """Rolled back, emptied, or another store: sets go on, by what they say themselves, and that is said."""
    folder, keys = renewed(fleet), fleet.directory / "keys"
    assert unread(fleet.back_up("ca1", fleet.a)) == []
    shutil.rmtree(folder)
    shutil.copytree(fleet.directory / "older", folder)
    for task in (fleet.back_up, fleet.restore):
        (text,) = unread(task("ca1", fleet.a))
        assert "the highest has the number 1, and 2 was there" in text
    assert unread(fleet.back_up("ca2", fleet.b)) == [], "it is not about that one"
    assert codes(fleet.back_up("ca9", fleet.clone(fleet.a))) == ["not_at_home"]
    shutil.rmtree(folder)
    assert len(unread(fleet.back_up("ca1", fleet.a))) == 1 and unread(fleet.back_up("ca2", fleet.b)) == []
    shutil.rmtree(keys)
    initialise(str(keys), "keys")
    (text,) = unread(fleet.back_up("ca1", fleet.a))
    assert "it is another one than before" in text


def test_key_stores_that_hold_more_than_before_are_read(fleet: Fleet) -> None:
    """Another controller made it: nothing is wrong."""
    memory = fleet.directory.joinpath("home", MEMORY)
    before = memory.read_bytes()
    renewed(fleet)
    memory.write_bytes(before)
    assert unread(fleet.back_up("ca1", fleet.a)) == []


@pytest.mark.parametrize(
    ("stored", "judged"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1)),
        ("2026-05-05T12:05:00Z", datetime(2026, 5, 5, 12)),
        ("2026-05-05T12:15:00Z", datetime.min),
        ("9999-12-31T23:59:59Z", datetime.min),
    ],
)
def test_a_time_that_has_not_come_is_infinitely_old(stored: str, judged: datetime) -> None:
    assert at_most_now(stored, datetime(2026, 5, 5, 12)) == judged
