# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each YAML block of the documents: its variables and its tasks are taken as they are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import cas_of, faults
from support.guides import DOCS, ROOT, blocks

DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCKS = [(document, yaml.safe_load(block)) for document in DOCUMENTS for block in blocks(document, "yaml")]
# Of connections and become; and what is no variable: an execution environment, rules of Prometheus.
OTHERS = ("ansible_", "version", "images", "dependencies", "groups")
# A task that a guide's own play gives it to names it, and no role.
OF_A_PLAY = {"keyward_backup", "keyward_last_crl"}


def variables_of_roles() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        found |= yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    return {name: {**option, "required": False} for name, option in found.items()}


def written(value: Any) -> Any:
    """A value without what only a play knows."""
    if isinstance(value, dict):
        return {name: written(one) for name, one in value.items() if not (isinstance(one, str) and "{{" in one)}
    return [written(one) for one in value] if isinstance(value, list) else value


def tasks(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each module of this collection that a play or a list of tasks runs, with its options."""
    if isinstance(node, list):
        for one in node:
            yield from tasks(one)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name.startswith("keyward.pki."):
                yield name.removeprefix("keyward.pki."), value
            elif isinstance(value, (list, dict)):
                yield from tasks(value)


def refused(specification: dict[str, Any], options: dict[str, Any]) -> list[str]:
    return list(ArgumentSpecValidator(specification).validate(options).error_messages)


def of_a_document(document: Path) -> str:
    return document.name


@pytest.mark.parametrize("document", sorted({document for document, _content in BLOCKS}), ids=of_a_document)
def test_the_variables_that_a_document_shows_are_those_of_the_roles(document: Path) -> None:
    known = variables_of_roles()
    for content in (content for where, content in BLOCKS if where == document and isinstance(content, dict)):
        assert all(name in known or name in OF_A_PLAY or name.startswith(OTHERS) for name in content), content
        shown = {name: value for name, value in content.items() if name in known}
        assert faults(shown.get("keyward_authorities"), shown, shown.get("keyward_parent")) == []
        assert refused(known, written(shown)) == []
        entries = [{f"keyward_{name}": value for name, value in entry.items()} for entry in shown.get("keyward_authorities", ())]
        assert [refused(known, written(entry)) for entry in entries] == [[]] * len(entries)


def test_the_tasks_that_the_documents_show_are_taken_by_their_modules() -> None:
    shown = [task for _document, content in BLOCKS for task in tasks(content)]
    assert {module for module, _options in shown} >= {"ca_store", "ca_key_backup", "ca_key_verify", "ca_key_restore", "ca_crl"}
    for module, options in shown:
        specification = {name: {**one, "required": False} for name, one in getattr(_arguments, module.upper()).items()}
        assert set(options) <= set(specification) - {"controller"}, module
        assert refused(specification, written(options)) == [], module


HEADING = re.compile(r"\A# (group|host)_vars/(\S+)\.yml\n")
FILES = [
    (document.name, *heading, block) for document in DOCUMENTS for block in blocks(document, "yaml") for heading in HEADING.findall(block)
]


@pytest.mark.parametrize(("document", "kind", "name", "block"), FILES, ids=[f"{one[0]}-{one[2]}-{i}" for i, one in enumerate(FILES)])
def test_ansible_reads_the_inventory_that_a_guide_shows(document: str, kind: str, name: str, block: str, tmp_path: Path) -> None:
    """Beside the inventory of the README, under the name that the block has; and what the roles make of it is a CA."""
    (hosts,) = blocks(ROOT / "README.md", "ini")
    hosts = hosts.partition("[cas:vars]")[0] if name == "cas" else hosts
    host = name if kind == "host" else "ca1.example.com"
    (tmp_path / "hosts.ini").write_text(f"{hosts}\n[{'others' if kind == 'host' else name}]\n{host}\n", encoding="utf-8")
    (tmp_path / f"{kind}_vars").mkdir()
    (tmp_path / f"{kind}_vars" / f"{name}.yml").write_text(block, encoding="utf-8")
    loader = DataLoader()
    inventory = InventoryManager(loader, [str(tmp_path / "hosts.ini")])
    found = VariableManager(loader, inventory).get_vars(host=inventory.get_host(host), include_hostvars=False)
    shown = yaml.safe_load(block)
    assert {variable: found[variable] for variable in shown} == shown
    places = {f"keyward_{option}" for option in (*_arguments.BEGINNING_OF_A_PLACE, "backend", "authorities")}
    if places & {*shown}:
        assert len(cas_of(host, found)) == len(shown.get("keyward_authorities", [0]))
