# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each reason and advisory makes of a run: documentation, code and every code that can be produced agree."""

from __future__ import annotations

import ast
import re
from collections import Counter

from ansible_collections.keyward.pki.plugins.module_utils._database_policy import SET_REASONS
from ansible_collections.keyward.pki.plugins.module_utils._reasons import REASONS
from ansible_collections.keyward.pki.plugins.plugin_utils._levels import LEVELS, RED, level_of
from support.pythons import ROOT

MAKERS = ("Finding", "reason", "_set_reason")


def _names(node: ast.AST) -> set[str]:
    """The codes that an expression can be, as far as they stand in it."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def produced() -> set[str]:
    """Every code in the sources: where a finding is made, and where a name is given to one that is handed on."""
    found = set(REASONS) | set(SET_REASONS)
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS and node.args:
                found |= _names(node.args[0])
            elif isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and re.fullmatch(r"code|KEY_\w+", t.id) for t in node.targets
            ):
                found |= _names(node.value)
    for path in sorted((ROOT / "plugins").rglob("*.ps*1")):
        found |= set(re.findall(r"(?:-Code|\bcode =) '([a-z_]+)'", path.read_text(encoding="utf-8")))
    return found


def test_every_code_has_one_level_and_every_level_is_of_a_code() -> None:
    listed = [code for codes in LEVELS.values() for code in codes]
    assert [code for code, count in Counter(listed).items() if count > 1] == []
    assert produced() - set(listed) == set(), "give it a level in plugin_utils/_levels.py, and a row in docs/outcomes.md"
    assert set(listed) - produced() == set(), "nothing produces it any more"
    assert level_of("made_up_by_a_host") == RED


def test_the_guide_has_the_same_table() -> None:
    text = (ROOT / "docs" / "outcomes.md").read_text(encoding="utf-8")
    described = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        cells = [row.split("|")[1] for row in part.splitlines() if row.startswith("| `")]
        described[part.split("\n")[0].lower()] = sorted(code for cell in cells for code in re.findall(r"`([a-z_]+)`", cell))
    assert described == {level: sorted(codes) for level, codes in LEVELS.items()}
