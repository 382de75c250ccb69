# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares what a module returned with what its RETURN documents."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

MODULES = Path(__file__).resolve().parents[2] / "plugins" / "modules"
# Of any task's result.
COMMON = {"changed", "failed", "msg", "diff", "exception", "item", "ansible_loop_var"}
# In a template, result.items is the method of a dictionary. Ansible takes `warnings` for itself.
FORBIDDEN = {"keys", "items", "values", "warnings"}
TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float), "list": list, "dict": dict}
HEX = re.compile(r"[0-9a-f]{64}\Z")


@functools.cache
def documented(module: str) -> dict[str, Any]:
    """The RETURN of plugins/modules/<module>.py."""
    for statement in ast.parse((MODULES / f"{module}.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "RETURN":
            shape = yaml.safe_load(ast.literal_eval(statement.value))
            if module == "ca_key_backup_info":  # "with the keys of newest and those listed here"
                shape["backups"]["contains"] = {**shape["newest"]["contains"], **shape["backups"]["contains"]}
            return dict(shape)
    raise AssertionError(f"{module} documents no RETURN")


def check_result(module: str, result: Mapping[str, Any], failed: bool) -> None:
    """Fails the test where a result is not what its module documents: names, types, choices, and what is returned always."""
    shape = documented(module)
    returned = {name: value for name, value in result.items() if not name.startswith("_ansible")}
    faults = [f"{name}: not documented" for name in returned if name not in COMMON and name not in shape]
    for name, described in shape.items():
        when = str(described["returned"])
        if name in returned:
            faults += _faults(name, returned[name], described)
        elif when.startswith("always") or (when.startswith("success") and not failed):
            faults.append(f"{name}: missing, though returned: {when}")
    faults += [f"{path}: a name that results never have" for path, name in _names(returned) if name in FORBIDDEN]
    faults += _unknown_reasons(shape, returned)
    if failed and not re.search(r"\S: .+\. .+[^.?][.?]\Z", str(returned.get("msg")), re.DOTALL):
        faults.append(f"msg: not what failed, why, and what to do next: {returned.get('msg')}")
    assert not faults, f"{module} returned what it does not document\n" + "\n".join(faults)


def _faults(path: str, value: Any, described: Mapping[str, Any]) -> Iterator[str]:
    if value is None:
        return
    kind = described["type"]
    if not isinstance(value, TYPES[kind]) or (kind == "int" and isinstance(value, bool)):
        yield f"{path}: {value!r} is no {kind}"
        return
    if "choices" in described and value not in described["choices"]:
        yield f"{path}: {value!r} is none of {described['choices']}"
    if kind == "list":
        for index, element in enumerate(value):
            inner = {**described, "type": described["elements"]}
            inner.pop("elements")
            yield from _faults(f"{path}[{index}]", element, inner)
    elif kind == "dict" and "contains" in described:
        for name in described["contains"].keys() - value.keys():
            yield f"{path}.{name}: missing"
        for name, inner_value in value.items():
            if name in described["contains"]:
                yield from _faults(f"{path}.{name}", inner_value, described["contains"][name])
            else:
                yield f"{path}.{name}: not documented"


def _names(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"{path}.{name}".lstrip("."), name
            yield from _names(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from _names(element, f"{path}[{index}]")


def _unknown_reasons(shape: Mapping[str, Any], returned: Mapping[str, Any]) -> Iterator[str]:
    if "reasons" not in shape:
        return
    known = set(re.findall(r"V\((\w+)\)", " ".join(shape["reasons"]["contains"]["code"]["description"])))
    for reason in returned.get("reasons", []):
        if reason["code"] not in known:
            yield f"reasons: {reason['code']} is not documented"
        if reason["certificate"] is not None and not HEX.match(reason["certificate"]):
            yield f"reasons: {reason['certificate']!r} is no SHA-256 fingerprint"
