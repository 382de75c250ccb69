# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules document: DOCUMENTATION with its fragments, and RETURN."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import Any

import yaml

MODULES = Path(__file__).resolve().parents[2] / "plugins" / "modules"
NAMES = sorted(path.stem for path in MODULES.glob("ca_*.py"))


@functools.cache
def document(module: str, name: str) -> dict[str, Any]:
    """DOCUMENTATION or RETURN of plugins/modules/<module>.py, as it is written there."""
    for statement in ast.parse((MODULES / f"{module}.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == name:
            return dict(yaml.safe_load(ast.literal_eval(statement.value)))
    raise AssertionError(f"{module} has no {name}")


@functools.cache
def options(module: str) -> dict[str, Any]:
    """The documented options of a module, those of its fragments included."""
    documentation = document(module, "DOCUMENTATION")
    found = dict(documentation.get("options", {}))
    for fragment in documentation["extends_documentation_fragment"]:
        file, _dot, name = fragment.removeprefix("keyward.pki.").partition(".")
        source = importlib.import_module(f"ansible_collections.keyward.pki.plugins.doc_fragments.{file}").ModuleDocFragment
        found.update(yaml.safe_load(getattr(source, name.upper() or "DOCUMENTATION"))["options"])
    return found
