# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a set of a database is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import age_in_seconds, due_reasons
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import State
from support.authorities import set_manifest


def test_due() -> None:
    state = State("d", "c", 1, "01", "01")
    manifest = set_manifest(state=state)
    at = datetime(2026, 1, 2, 0, 0, 1)
    assert [one.code for one in due_reasons(state, None, None, at)] == ["no_set"]
    assert due_reasons(state, manifest, None, at) == [] == due_reasons(state, manifest, 2 * 86400, at)
    assert [one.code for one in due_reasons(state, manifest, 86400, at)] == ["max_age"]
    ahead = replace(manifest, created="2026-01-02T00:00:09Z")
    assert due_reasons(state, ahead, 86400, at) == [], "two clocks that differ a little"
    assert [one.code for one in due_reasons(state, replace(ahead, created="2099-01-01T00:00:00Z"), 86400, at)] == ["max_age"]
    changed = [one.code for one in due_reasons(replace(state, database="x", configuration="y"), manifest, None, at)]
    assert changed == ["database_changed", "configuration_changed"]
    assert [age_in_seconds(text) for text in ("12h", "7d", "4w")] == [43200, 604800, 2419200]
    for text in ("", "7", "0d", "7m", "-1d", "7d "):
        with pytest.raises(KeywardError) as refused:
            age_in_seconds(text)
        assert "is no age" in str(refused.value)
