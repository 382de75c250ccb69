# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the guides, for tests that run it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def guide(name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The plays of a guide, in its order, and the variables that it tells to set."""
    plays: list[dict[str, Any]] = []
    variables: dict[str, Any] = {}
    for block in blocks(DOCS / name, "yaml"):
        content = yaml.safe_load(block)
        if isinstance(content, dict):
            variables.update(content)
        else:
            plays += content
    return plays, variables


def guide_blocks(name: str) -> tuple[list[Any], set[str]]:
    """The blocks of a guide that are lists, and the variables of those that are dictionaries."""
    blocks_of = [yaml.safe_load(block) for block in blocks(DOCS / name, "yaml")]
    return [one for one in blocks_of if isinstance(one, list)], {key for one in blocks_of if isinstance(one, dict) for key in one}
