# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import whom: the codec knows no files, the domain no Ansible and no CA software, and the reader nothing of the writer. Nowhere
does an import come round to where it began."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from support.pythons import ROOT

OURS = "ansible_collections.keyward.pki.plugins.module_utils"
FOLDER = ROOT / "plugins" / "module_utils"
CODEC = {
    "_der",
    "_outline",
    "_readable",
    "_signature",
    "_pkcs12_crypto",
    "_pkcs12_reader",
    "_pkcs12_writer",
    "_sshsig",
    "_x509",
    "_crl",
    "_ca_certificate",
    "_one_line",
}
DOMAIN = {
    "_generation",
    "_verdict",
    "_reasons",
    "_sealing",
    "_manifest",
    "_set_manifest",
    "_renewal_policy",
    "_successor_policy",
    "_crl_policy",
    "_database_policy",
    "_home",
}
BELOW = {"_errors", "_printable", "_time"}


def imports(name: str) -> set[str]:
    """The modules that a file of module_utils names, anywhere in it; ours without their package."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == OURS:
            found |= {f"{OURS}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return {each.removeprefix(f"{OURS}.") for each in found}


def reached(name: str) -> set[str]:
    """Our modules that come with a module, itself included."""
    found, waiting = set(), {name}
    while waiting:
        found |= waiting
        waiting = {each for one in waiting for each in imports(one) if (FOLDER / f"{each}.py").exists()} - found
    return found


@pytest.mark.parametrize("name", sorted(CODEC | DOMAIN))
def test_codec_and_domain_know_no_files_and_no_ansible(name: str) -> None:
    others = {each for each in imports(name) if each.split(".")[0] not in sys.stdlib_module_names | {"cryptography"}}
    assert others <= (CODEC | DOMAIN | BELOW if name in DOMAIN else CODEC | BELOW)
    assert not {"pathlib", "io", "shutil", "tempfile", "subprocess"} & imports(name)
    called = {node.func.id for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))) if is_call(node)}
    assert "open" not in called


def is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_what_proves_a_bundle_shares_only_primitives_with_what_wrote_it() -> None:
    assert reached("_pkcs12_reader") & reached("_pkcs12_writer") == {"_der", "_pkcs12_crypto"}
    assert "_pkcs12_writer" not in reached("_verdict")
    assert "_pkcs12_reader" not in reached("_pkcs12_writer")


def test_a_look_loads_neither_reader_nor_writer() -> None:
    program = "import sys; import ansible_collections.keyward.pki.plugins.modules.ca_info; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT / "collections")}, capture_output=True, text=True, check=True
    )
    loaded = {name.removeprefix(f"{OURS}.") for name in done.stdout.split() if name.startswith(OURS)}
    assert "_execute" in loaded
    doers = {f"_file_ca.{name}" for name in ("installing", "key_restore", "switch")}
    assert not loaded & {"_pkcs12_crypto", "_pkcs12_reader", "_pkcs12_writer", "_sealing", "_verdict", *doers}


PLUGINS = ROOT / "plugins"
NAMES = {
    ".".join(("ansible_collections.keyward.pki.plugins", *path.relative_to(PLUGINS).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PLUGINS.rglob("*.py")
}


def brings(node: ast.AST) -> set[str]:
    """Our modules that running a file imports, in functions too; what only the type checker reads is left out."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return set()
    found: set[str] = set()
    if isinstance(node, ast.Import):
        found = {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
        found = {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in NAMES else str(node.module) for alias in node.names}
    return (found & NAMES.keys()).union(*map(brings, ast.iter_child_nodes(node)))


def test_no_import_comes_round_to_where_it_began() -> None:
    graph = {name: brings(ast.parse(path.read_text(encoding="utf-8"))) - {name} for name, path in NAMES.items()}
    assert len(graph["ansible_collections.keyward.pki.plugins.module_utils._file_ca.base"]) > 10
    TopologicalSorter(graph).prepare()  # raises CycleError, which names one
