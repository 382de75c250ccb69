# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible sends with a module: what its import statements name, wherever they stand. Each has what its orders load, and no more."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from support.pythons import ROOT

PLUGINS = ROOT / "plugins"
OURS = "ansible_collections.keyward.pki.plugins.module_utils"
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("ca_*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> set[str]:
    """Files of module_utils that a file names in import statements, as paths without their ending."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OURS):
            package = str(node.module).removeprefix(OURS).strip(".").replace(".", "/")
            found |= {package} | {f"{package}/{alias.name}".strip("/") for alias in node.names}
    return {each for each in found if (PLUGINS / "module_utils" / f"{each}.py").is_file()} | (
        {f"{each}/__init__" for each in found if (PLUGINS / "module_utils" / each / "__init__.py").is_file()}
    )


@functools.cache
def sent(module: str) -> set[str]:
    found: set[str] = set()
    waiting = named(PLUGINS / "modules" / f"{module}.py")
    while waiting:
        found |= waiting
        waiting = {each for one in waiting for each in named(PLUGINS / "module_utils" / f"{one}.py")} - found
    return found


def orders(module: str) -> list[str]:
    """The names of a module's orders: what it gives C(run) behind its options."""
    call = next(
        (
            node
            for node in ast.walk(parsed(PLUGINS / "modules" / f"{module}.py"))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run"
        ),
        None,
    )
    wanted = {argument.id for argument in call.args if isinstance(argument, ast.Name)} if call else set()
    return [name for path in (PLUGINS / "module_utils" / "_orders").glob("*.py") for kind, name in kinds(path) if kind in wanted]


def kinds(path: Path) -> list[tuple[str, str]]:
    found = []
    for node in parsed(path).body:
        for line in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(line, ast.AnnAssign) and getattr(line.target, "id", "") == "NAME" and isinstance(line.value, ast.Constant):
                found.append((node.name, str(line.value.value)))  # type: ignore[attr-defined]
    return found


def loaded_by(method: str) -> set[str]:
    """The parts that a method of a CA of files loads, whatever software runs it."""
    folder = PLUGINS / "module_utils"
    trees = [parsed(path) for path in (folder / "_file_ca" / "base.py", *sorted((folder / "_backends").glob("*.py")))]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == method]
    calls = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {
        f"_file_ca/{call.args[0].value}"  # type: ignore[attr-defined]
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "part"
    }


# What carries an order out calls these methods of the CA.
CALLED = {
    "install": ("lay_out", "import_keys", "places"),
    "import_keys": ("places",),
    "renew": ("urls_said",),
    "answer": ("urls_said",),
    "sign": ("signing",),
    "crls": ("signing",),
}


def needed(module: str) -> set[str]:
    found: set[str] = loaded_by("database") if module == "ca_info" else set()  # its look asks for what is wrong with the database
    for name in orders(module):
        subject, _dot, method = name.rpartition(".")
        found |= {"_host_sets"} | loaded_by("database") if subject else loaded_by(method)
        for other in CALLED.get(name, ()):
            found |= loaded_by(other)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_each_module_is_sent_with_what_its_orders_load(module: str) -> None:
    assert needed(module) <= sent(module)


def test_what_is_needed_is_told_by_the_orders() -> None:
    assert needed("ca_renew") == {"_file_ca/switch", "_file_ca/installing", "_file_ca/named_urls"} and needed("ca_key_backup") == set()
    assert needed("ca_database_backup") == {"_host_sets", "_file_ca/database"} and len(needed("ca_install")) == 6


def test_a_look_is_sent_with_little() -> None:
    """What restores, copies, signs and switches is not sent where a key backup looks whether one is due."""
    others = {"archive", "switch", "key_restore", "openssl_command", "named_urls", "places"}
    assert not {"_host_sets", "_store", "_stored", "_pkcs12_reader", "_backend_protocol"} & sent("ca_key_backup")
    assert not {f"_file_ca/{name}" for name in others} & sent("ca_key_backup")
    sizes = {module: sum((PLUGINS / "module_utils" / f"{each}.py").stat().st_size for each in sent(module)) for module in MODULES}
    assert sizes["ca_key_backup"] < 280_000 < sizes["ca_database_restore"]
