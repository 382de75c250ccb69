# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One name for users: what core loads for it, and that names, options and documents agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from support.documents import MODULES, NAMES, document, options
from support.returns import documented

ROOT = MODULES.parents[1]


# Core's own loaders, in a process in which nothing of the collection was imported otherwise.
RESOLVE = """
import json, sys
from ansible.plugins.loader import action_loader, connection_loader, init_plugin_loader, module_loader
init_plugin_loader([sys.argv[1]])
found = {}
for name in sys.argv[2:]:
    for connection in ("ssh", "local", "winrm", "psrp"):
        for mod_type in connection_loader.get("ansible.builtin." + connection, class_only=True).module_implementation_preferences:
            context = module_loader.find_plugin_with_context("keyward.pki." + name, mod_type)
            if context.resolved:
                break
        found[name + " " + connection] = context.plugin_resolved_path
    found[name + " action"] = action_loader.find_plugin_with_context("keyward.pki." + name).plugin_resolved_path
    found[name + " flow"] = action_loader.get("keyward.pki." + name, class_only=True).NAME
print(json.dumps(found))
"""


# What judges and looks needs no more of a Windows host than what ca_info reads. Windows has its own way to sign a request.
# An audit asks no host.
ON_WINDOWS = {name: f"win_{name}.ps1" for name in NAMES}
ON_WINDOWS |= {"ca_key_backup_info": "win_ca_info.ps1", "ca_key_verify": "win_ca_info.ps1"}
ON_WINDOWS |= {"ca_sign": "ca_sign.py", "ca_audit": "ca_audit.py"}


def test_each_name_is_one_module_on_each_platform_and_one_action_plugin() -> None:
    done = subprocess.run([sys.executable, "-c", RESOLVE, str(ROOT / "collections"), *NAMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in NAMES:
        for connection in ("ssh", "local"):
            assert Path(found[f"{name} {connection}"]).resolve() == MODULES / f"{name}.py"
        for connection in ("winrm", "psrp"):
            assert Path(found[f"{name} {connection}"]).resolve() == MODULES / ON_WINDOWS[name]
        assert Path(found[f"{name} action"]).resolve() == ROOT / "plugins" / "action" / f"{name}.py"
        assert found[f"{name} flow"] == name


def test_no_name_is_shared_by_two_platforms_or_forgotten() -> None:
    bases = [path.stem for path in MODULES.iterdir() if path.suffix in (".py", ".ps1")]
    assert len(bases) == len(set(bases))
    assert sorted(path.stem for path in (ROOT / "plugins" / "action").glob("*.py")) == NAMES
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    assert sorted(runtime["action_groups"]["keyward"]) == NAMES
    routes = {name: route["redirect"].removeprefix("keyward.pki.") for name, route in runtime["plugin_routing"]["modules"].items()}
    assert routes == {f"{name}.ps1": file.removesuffix(".ps1") for name, file in ON_WINDOWS.items() if file.endswith(".ps1")}
    for kind in ("*.ps1", "win_*.yml"):
        assert {path.stem for path in MODULES.glob(kind)} == set(routes.values())


def _spec(documented_options: dict[str, Any]) -> dict[str, Any]:
    shape = {}
    for name, option in documented_options.items():
        shape[name] = {key: option[key] for key in ("type", "elements", "choices", "default", "required") if key in option}
        if "suboptions" in option:
            shape[name]["options"] = _spec(option["suboptions"])
    return shape


def _bare(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: _bare(value) if key == "options" else value for key, value in option.items() if key != "no_log"}
        for name, option in spec.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_options_are_documented_as_they_are(name: str) -> None:
    assert _bare(getattr(_arguments, name.upper())) == _spec(options(name))


@pytest.mark.parametrize("name", NAMES)
def test_secrets_are_marked(name: str) -> None:
    secrets = {"password", "previous_password", "private_key_passphrase", "directory_password", "controller"}
    spec = getattr(_arguments, name.upper())
    assert {option for option in secrets & spec.keys() if not spec[option].get("no_log")} == set()
    assert "older" not in spec or spec["older"]["options"]["private_key_passphrase"]["no_log"]


def _described(shape: dict[str, Any]) -> list[str]:
    names = list(shape)
    for option in shape.values():
        names += _described(option.get("contains", {}))
    return names


@pytest.mark.parametrize("name", NAMES)
def test_no_return_has_a_name_that_templates_or_ansible_take(name: str) -> None:
    assert not {"keys", "items", "values", "warnings", "failed", "msg", "invocation"} & set(_described(documented(name)))


def test_the_parts_of_a_result_are_described_once() -> None:
    described: dict[str, list[str]] = {}
    for module in NAMES:
        for name, value in document(module, "RETURN").items():
            if "contains" in value:
                described.setdefault(json.dumps(_parts(value["contains"]), sort_keys=True), []).append(f"{module}.{name}")
    assert [places for places in described.values() if len(places) > 1] == []


def _parts(shape: dict[str, Any]) -> dict[str, Any]:
    return {name: {"type": part["type"], "contains": _parts(part.get("contains", {}))} for name, part in shape.items()}
