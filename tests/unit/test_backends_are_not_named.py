# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing outside a backend's own files names it: no import, no file of its software, no option of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
UTILS, CONTROLLER = PLUGINS / "module_utils", PLUGINS / "plugin_utils"
ROLES = PLUGINS.parent / "roles"
# What a CA software is, and the toolbox of those that consist of files.
OWN = {UTILS / "_backends", UTILS / "_file_ca"}
# Lists of options, the judgement that one software's files need, and the command that verifies what the library refuses, whoever signed.
EXCEPTED = {UTILS / "_arguments.py", UTILS / "_backend.py", UTILS / "_whose.py", *CONTROLLER.glob("_adcs*.py")}
NEUTRAL = [
    path
    for folder in (UTILS, CONTROLLER, PLUGINS / "action")
    for path in sorted(folder.rglob("*.py"))
    if path not in EXCEPTED and not any(parent in OWN for parent in path.parents)
] + [UTILS / "_file_ca" / "archive.py"]
NAMED = re.compile(r"openssl|easyrsa|adcs|index\.txt|config_file|_backends\.\w", re.IGNORECASE)
# What a person may run on a file of ours, what else reads such files, and where the judgement lies that one software needs.
ALLOWED = re.compile(r"openssl (pkcs12|pkey)|Java, Windows and openssl|TraditionalOpenSSL|(plugin_utils\.)?_adcs(_\w+)?\b|_backends\.find")


def words(path: Path) -> Iterator[tuple[int, str]]:
    """The names, imports and texts of a file, without its docstrings and comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            prose.add(node.body[0].value)  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg


@pytest.mark.parametrize("path", NEUTRAL, ids=lambda path: str(path.relative_to(PLUGINS)))
def test_no_backend_is_named(path: Path) -> None:
    found = [f"line {line}: {word}" for line, word in words(path) if NAMED.search(ALLOWED.sub("", word))]
    assert not found


@pytest.mark.parametrize("path", sorted(ROLES.glob("*/tasks/*.yml")), ids=lambda path: str(path.relative_to(ROLES)))
def test_no_role_asks_which_backend_it_is(path: Path) -> None:
    steps = re.sub(r"(?m)^\s*#.*$", "", path.read_text(encoding="utf-8"))
    assert not re.search(r"openssl|easyrsa|adcs|index\.txt", steps)
