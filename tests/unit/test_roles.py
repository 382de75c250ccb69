# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' variables, their documentation and the modules' options are one and the same thing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.keyward.pki.plugins.module_utils import _arguments

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
# What a role calls otherwise than the module.
OPTIONS = {"key_stores": "stores", "database_stores": "stores"}


def specification(role: str) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    options: dict[str, Any] = content["argument_specs"]["main"]["options"]
    return options


def tasks(role: str) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "roles" / role / "tasks").iterdir()))


def defaults(role: str) -> dict[str, Any]:
    name = "restore.yml" if role == "restore" else "authority.yml"
    content = yaml.safe_load((ROOT / "roles" / role / "tasks" / name).read_text(encoding="utf-8"))
    return {
        module: {option: re.sub(rf"\b{role}_authority\b", "authority", value) for option, value in options.items()}
        for module, options in content[0]["module_defaults"].items()
    }


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_described_and_every_described_one_is_used(role: str) -> None:
    used = set(re.findall(r"\bkeyward_[a-z_]+\b", tasks(role)))
    # The playbook of the role restore does for the role install what it does for everybody.
    if "keyward.pki.restore" in tasks(role):
        used |= set(re.findall(r"\bkeyward_[a-z_]+\b", tasks("restore")))
    assert set(specification(role)) == used


@pytest.mark.parametrize("role", ROLES)
def test_the_types_and_secrets_are_those_of_the_modules(role: str) -> None:
    described = specification(role)
    for module, options in defaults(role).items():
        arguments = getattr(_arguments, module.rpartition(".")[2].upper()) if module.startswith("keyward") else _arguments.WHICH_AUTHORITY
        for option, value in options.items():
            assert option in arguments, f"{module} has no option {option}"
            for variable in set(re.findall(r"\bkeyward_([a-z_]+)\b", value)):
                if OPTIONS.get(variable, variable) != option:
                    continue
                told, has = described[f"keyward_{variable}"], arguments[option]
                for key in ("elements", "choices"):
                    assert told.get(key) == has.get(key), (variable, key)
                assert told["type"] == has.get("type", "str"), variable
                assert bool(told.get("no_log")) == bool(has.get("no_log")), variable


def test_all_roles_hand_the_same_variables_to_a_module() -> None:
    known: dict[str, Any] = {}
    for role in ROLES:
        for module, options in defaults(role).items():
            assert known.setdefault(module, options) == options, (role, module)


def test_each_role_has_its_playbook() -> None:
    assert sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml")) == ROLES
    for role in ROLES:
        (play,) = yaml.safe_load((ROOT / "playbooks" / f"{role}.yml").read_text(encoding="utf-8"))
        assert play["roles"] == [{"role": f"keyward.pki.{role}"}]


@pytest.mark.parametrize("role", ROLES)
def test_no_loop_runs_over_what_holds_passwords(role: str) -> None:
    for path in (ROOT / "roles" / role / "tasks").iterdir():
        for loop in re.findall(r"^ *loop: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert "range(" in loop, path
