# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a timer, an execution environment and monitoring need, as the guides show it."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import yaml
from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import OPTIONS
from support.guides import DOCS, ROOT, blocks

PLAYBOOKS = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}


def unit(text: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(text)
    return parsed


def test_the_timer_starts_the_nightly_playbook() -> None:
    service, timer = map(unit, blocks(DOCS / "nightly.md", "ini"))
    assert service["Service"]["Type"] == "oneshot" and "Restart" not in service["Service"]
    assert re.fullmatch(r"/\S+/ansible-playbook -i \S+ keyward\.pki\.nightly", service["Service"]["ExecStart"])
    assert timer["Timer"]["Persistent"] == "true" and re.fullmatch(r"\*-\*-\* \d\d:\d\d:00", timer["Timer"]["OnCalendar"])
    assert timer["Install"]["WantedBy"] == "timers.target"


def test_the_execution_environment_has_what_a_controller_needs() -> None:
    (definition,) = map(yaml.safe_load, blocks(DOCS / "nightly.md", "yaml"))
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    needs = definition["dependencies"]
    assert definition["version"] == 3 and definition["images"]["base_image"]["name"]
    lowest = runtime["requires_ansible"].removeprefix(">=").rpartition(".")[0]
    assert needs["ansible_core"]["package_pip"].startswith(f"ansible-core>={lowest},") and needs["ansible_runner"]
    assert needs["galaxy"]["collections"] == [{"name": "keyward.pki"}]
    assert needs["python"] == ["cryptography>=36"] and "openssh-clients" in needs["system"]
    assert tuple(map(int, needs["python_interpreter"]["package_system"].removeprefix("python").split("."))) >= (3, 11)


def test_ansible_builder_takes_the_execution_environment(tmp_path: Path) -> None:
    """As far as it goes without a container engine: its schema, and the files that an image is built from."""
    (definition,) = blocks(DOCS / "nightly.md", "yaml")
    (tmp_path / "execution-environment.yml").write_text(definition, encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("ansible-builder")),
        "create",
        "--context",
        "context",
        "--output-filename",
        "Containerfile",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = tmp_path / "context"
    assert "keyward.pki" in (made / "_build" / "requirements.yml").read_text(encoding="utf-8")
    assert "cryptography" in (made / "_build" / "requirements.txt").read_text(encoding="utf-8")
    assert (made / "Containerfile").stat().st_size > 0


def test_the_monitoring_of_the_audit_names_what_it_writes() -> None:
    offline, rules = map(yaml.safe_load, blocks(DOCS / "audit.md", "yaml"))
    assert {name.removeprefix("keyward_") for name in offline} <= OPTIONS
    template = (ROOT / "roles" / "audit" / "templates" / "audit.prom.j2").read_text(encoding="utf-8")
    written = set(re.findall(r"^# TYPE (\w+) gauge$", template, re.MULTILINE))
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert alerts and set(re.findall(r"keyward_\w+", " ".join(alerts))) <= written


def test_the_playbooks_that_are_shown_are_there_and_all_are_shown() -> None:
    shown = set()
    for document in [ROOT / "README.md", *DOCS.glob("*.md")]:
        named = set(re.findall(r"ansible-playbook (?:-i \S+ )?keyward\.pki\.(\w+)", document.read_text(encoding="utf-8")))
        assert named <= PLAYBOOKS, document.name
        shown |= named
    assert shown == PLAYBOOKS


def test_the_inventory_of_the_readme_names_what_the_roles_know() -> None:
    (text,) = blocks(ROOT / "README.md", "ini")
    parsed = unit(re.sub(r"(?m)^(\S+\.example\.com)$", r"\1=", text))
    described = yaml.safe_load((ROOT / "roles" / "nightly" / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    variables = dict(parsed["cas:vars"])
    assert variables.pop("ansible_become") == "true"
    assert set(variables) <= set(described["argument_specs"]["main"]["options"])
    for name in ("keyward_key_stores", "keyward_database_stores"):
        assert isinstance(ast.literal_eval(variables[name]), list)
