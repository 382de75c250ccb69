# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' variables, their documentation and the modules' options are one and the same thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.plugin_utils._outcome import WORDS
from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import OPTIONS, PARENT
from support.documents import options

ROLES = Path(__file__).resolve().parents[2] / "roles"
SHARED = "each_authority"
PUBLIC = sorted(path.name for path in ROLES.iterdir() if path.name != SHARED)
PER_CA = [role for role in PUBLIC if (ROLES / role / "tasks" / "authority.yml").exists()]
VARIABLES = yaml.safe_load((ROLES / SHARED / "vars" / "main.yml").read_text(encoding="utf-8"))
# Of the roles alone: no module has an option of that name.
OWN = {"keyward_authorities", "keyward_label", "keyward_new_password", "keyward_parent", "keyward_publish_tasks", "keyward_old_home"}
OF_AN_AUDIT = {"keyward_audit_directory", "keyward_audit_template", "keyward_audit_textfile"}  # of the whole play, not of a CA
OWN |= {"keyward_offline", *OF_AN_AUDIT}
OF_STORES = {"key_stores": "stores", "database_stores": "stores"}  # besides the options of these names


def specification(role: str) -> dict[str, Any]:
    content = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["argument_specs"]["main"]["options"]
    return found


def tasks(role: str) -> list[Any]:
    """What a role runs: its own tasks, those that it shares, and the ones of the role that it includes."""
    own = [path.read_text(encoding="utf-8") for path in sorted((ROLES / role / "tasks").iterdir())]
    some = {name for name in ("sign", "publish") if not any(f"tasks_from: {name}\n" in text for text in own)}
    shared = [path.read_text(encoding="utf-8") for path in sorted((ROLES / SHARED / "tasks").iterdir()) if path.stem not in some]
    restores = role != "restore" and any("keyward.pki.restore" in text for text in own)
    return [yaml.safe_load(text) for text in [*own, *shared]] + (tasks("restore") if restores else [])


def resolved(value: Any) -> str:
    """The text of a value, with that of every variable of the shared role that it names."""
    text = str(value)
    return text + "".join(resolved(VARIABLES[name]) for name in set(re.findall(rf"\b{SHARED}_[a-z_]+\b", text)) if name in VARIABLES)


def handed(node: Any) -> Iterator[tuple[str, str, str]]:
    """Each module below a task or default, with an option and what that is given."""
    if isinstance(node, list):
        for one in node:
            yield from handed(one)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name.startswith(("keyward.pki.", "group/keyward.pki.")):
                variable = re.fullmatch(r"\{\{ (\w+) \}\}", value) if isinstance(value, str) else None
                given = VARIABLES[variable[1]] if variable else value
                if isinstance(given, dict):
                    # The options of the group are those of each module that is about a CA.
                    yield from (
                        (name.rpartition(".")[2].replace("keyward", "ca_info"), option, resolved(one)) for option, one in given.items()
                    )
            else:
                yield from handed(value)


def sources(role: str) -> dict[str, list[tuple[str, str]]]:
    """For each variable the options of modules that the role gives it to."""
    found: dict[str, list[tuple[str, str]]] = {}
    for module, option, value in handed(tasks(role)):
        for variable in set(re.findall(r"\bkeyward_([a-z_]+)\b", value)):
            if option in (variable, OF_STORES.get(variable, variable)) and (module, option) not in found.setdefault(
                f"keyward_{variable}", []
            ):
                found[f"keyward_{variable}"].append((module, option))
    return found


def first_sentence(option: dict[str, Any], module: str) -> str:
    """The first sentence of an option, in which other options have the names that they have in a role."""
    description = option["description"]
    text = description if isinstance(description, str) else description[0]
    stores = "keyward_database_stores" if "database" in module else "keyward_key_stores"
    sentence = re.split(r"(?<=\.) (?=[A-Z])", text)[0].replace("O(stores)", f"O({stores})")
    return re.sub(r"O\((?!keyward_)(\w+)\)", r"O(keyward_\1)", sentence)


def as_in_a_role(option: dict[str, Any], argument: dict[str, Any], module: str) -> dict[str, Any]:
    """A documented option as the argument specification of a role has it."""
    shape = {"description": first_sentence(option, module), "type": option["type"]}
    shape |= {key: option[key] for key in ("elements", "choices", "default") if key in option}
    if "suboptions" in option:
        shape["options"] = {
            name: as_in_a_role(one, argument["options"][name], module) | ({"required": True} if one.get("required") else {})
            for name, one in option["suboptions"].items()
        }
    return shape | ({"no_log": True} if argument.get("no_log") else {})


def expected(module: str, option: str) -> dict[str, Any]:
    return as_in_a_role(options(module)[option], getattr(_arguments, module.upper())[option], module)


@pytest.mark.parametrize("role", PER_CA)
def test_every_variable_is_described_and_every_described_one_is_used(role: str) -> None:
    used = set(re.findall(r"\bkeyward_[a-z_]+\b", resolved(tasks(role))))
    assert set(specification(role)) == used


@pytest.mark.parametrize("role", PER_CA)
def test_a_variable_is_described_as_the_options_that_it_is_given_to(role: str) -> None:
    described, given = specification(role), sources(role)
    assert set(given) == set(described) - OWN, role
    for variable, places in given.items():
        shapes = [expected(*place) for place in places]
        sentences = list(dict.fromkeys(shape.pop("description") for shape in shapes))
        assert all(shape == shapes[0] for shape in shapes), variable
        told = dict(described[variable])
        text = told.pop("description")
        assert (told, [text] if isinstance(text, str) else text) == (shapes[0], sentences), variable


@pytest.mark.parametrize("role", [role for role in PUBLIC if "keyward_parent" in specification(role)])
def test_a_parent_is_named_by_the_options_that_name_every_ca(role: str) -> None:
    described = specification(role)
    parent = dict(described["keyward_parent"]["options"])
    assert parent.pop("host")["required"]
    assert {name: parent.pop(name) for name in ("days", "extensions")} == {
        name: expected("ca_sign", name) for name in ("days", "extensions")
    }
    assert parent == {name: described[f"keyward_{name}"] for name in _arguments.WHICH_AUTHORITY}


def test_each_option_is_the_entry_of_its_name_over_the_plain_variable() -> None:
    for name, value in VARIABLES.items():
        if isinstance(value, dict):
            arguments = getattr(_arguments, name.removeprefix(f"{SHARED}_").upper(), _arguments.WHICH_AUTHORITY)
            assert set(value) <= set(arguments), name
            signers = set(arguments) & set(_arguments.SIGNERS)
            assert signers <= set(value), f"{name} leaves the signers or the memory of other tasks"
    entries = re.findall(rf"{SHARED}_entry\.(\w+) \| default\(keyward_(\w+) \|", resolved(VARIABLES))
    assert len(entries) > 30 and [pair for pair in entries if pair[0] != pair[1]] == []


def test_each_role_has_its_playbook() -> None:
    playbooks = ROLES.parent / "playbooks"
    assert sorted(path.stem for path in playbooks.glob("*.yml")) == PUBLIC
    for role in PUBLIC:
        plays = yaml.safe_load((playbooks / f"{role}.yml").read_text(encoding="utf-8"))
        pattern = "lookup('keyward.pki.ca_hosts', keyward_hosts | default('all'))"
        if role == "audit":  # which can look at the stores alone, and says itself what it found
            asked = f"{pattern} if keyward_ask_hosts | default(true) | bool else 'all:!all'"
            assert [play["hosts"] for play in plays] == [f"{{{{ {asked} }}}}", f"{{{{ {pattern} }}}}"]
            continue
        assert {play["hosts"] for play in plays} == {f"{{{{ {pattern} }}}}"}
        if role not in PER_CA:
            assert [play["roles"] for play in plays] == [[{"role": f"keyward.pki.{role}"}]]
            continue
        served, said = plays
        assert [task["vars"]["each_authority_role"] for task in served["tasks"]] == [f"keyward.pki.{role}"]
        parts = [task["ansible.builtin.include_role"]["tasks_from"] for play in plays for task in play["tasks"]]
        assert (parts, served["serial"], said.get("serial")) == (["play", "summary"], "{{ keyward_serial | default('100%') }}", None)


def test_the_stores_that_are_made_are_those_that_the_other_roles_use() -> None:
    described = specification("stores")
    own = "".join(
        path.read_text(encoding="utf-8") for path in (ROLES / "stores").glob("*/main.yml") if path.parent.name in ("tasks", "vars")
    )
    assert set(described) == set(re.findall(r"\bkeyward_[a-z_]+\b", own))
    assert {name: described[name]["type"] for name in described} == {name: specification("nightly")[name]["type"] for name in described}


@pytest.mark.parametrize("role", PER_CA)
def test_what_a_task_registers_is_told_and_is_forgotten_for_the_next_ca(role: str) -> None:
    own = "".join(path.read_text(encoding="utf-8") for path in sorted((ROLES / role / "tasks").iterdir()))
    tasks = yaml.safe_load((ROLES / role / "tasks" / "main.yml").read_text(encoding="utf-8"))
    (main,) = [task for task in tasks if "each_authority_steps" in task.get("vars", {})]
    told = re.findall(rf"\b({role}_\w+) \| default\(\{{}}\)", str(main["vars"]["each_authority_steps"]))
    first = yaml.safe_load((ROLES / role / "tasks" / "authority.yml").read_text(encoding="utf-8"))[0]
    forgotten = first.get("ansible.builtin.set_fact", {})
    assert sorted(forgotten) == sorted(told)
    registered = re.findall(rf"\bregister: ({role}_\w+)", own)
    looks = {f"{role}_{name}" for name in ("info", "report", "state", "before", "old")}  # of what is there, nothing is done by them
    assert set(registered) - looks <= set(told) and len(registered) == len(set(registered))
    assert {step["module"] for step in main["vars"]["each_authority_steps"]} <= set(WORDS)


@pytest.mark.parametrize("role", PUBLIC)
def test_a_role_shows_an_example(role: str) -> None:
    content = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]
    (play,) = yaml.safe_load(content["examples"])
    (shown,) = play["roles"]
    assert shown["role"] == f"keyward.pki.{role}" and play["hosts"] == "cas" and play["become"] is True
    names = {name.removeprefix("keyward_") for name in shown["vars"]}
    assert shown["vars"].keys() <= content["options"].keys() and not names & {"password", "new_password", "private_key_passphrase"}
    assert all(set(entry) <= OPTIONS for entry in shown["vars"].get("keyward_authorities", []))


def test_the_options_of_an_entry_are_the_variables_of_the_roles() -> None:
    described = {name.removeprefix("keyward_") for role in PUBLIC for name in specification(role)}
    assert described - {"authorities"} - {name.removeprefix("keyward_") for name in OF_AN_AUDIT} <= OPTIONS
    assert set(specification("renewal")["keyward_parent"]["options"]) == PARENT


def test_no_loop_runs_over_what_holds_passwords() -> None:
    loops = [(path, loop) for path in ROLES.glob("*/tasks/*.yml") for loop in re.findall(r"\b(?:loop|with_\w+): (.*)", path.read_text())]
    assert loops and [path for path, loop in loops if "range(" not in loop] == []
