# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares what a module returned with what its RETURN documents."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from support.documents import document

# RV(keyward.pki.<module>#module:<value>), or RV(<value>) of the same module. Only "as in" brings the other's codes along.
REFERENCE = re.compile(r"\b(as in|in the shape of) RV\((?:keyward\.pki\.(\w+)#module:)?(\w+)\)")
# Of any task's result.
COMMON = {"changed", "failed", "msg", "diff", "exception", "item", "ansible_loop_var", "failed_when_result"}
# In a template, result.items is the method of a dictionary. Ansible takes `warnings` for itself.
FORBIDDEN = {"keys", "items", "values", "warnings"}
TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float), "list": list, "dict": dict}
HEX = re.compile(r"[0-9a-f]{64}\Z")


@functools.cache
def documented(module: str) -> dict[str, Any]:
    """The RETURN of a module, in which what refers to another value has the parts of that one, too."""
    shape = document(module, "RETURN")
    return {name: {**described, **_contains(module, described)} for name, described in shape.items()}


def _contains(module: str, described: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: part for _how, place, value in _references(described) for name, part in _parts(place or module, value).items()}
    contains = {**named, **described.get("contains", {})}
    return {"contains": contains} if contains else {}


def _parts(module: str, value: str) -> dict[str, Any]:
    parts: dict[str, Any] = _contains(module, document(module, "RETURN")[value])["contains"]
    return parts


def _references(described: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """How, the module and the value of each reference in a description."""
    return REFERENCE.findall(_text(described))


def _text(described: Mapping[str, Any]) -> str:
    description = described["description"]
    return description if isinstance(description, str) else " ".join(description)


def codes(module: str, name: str) -> set[str]:
    """The codes that a value may have: those that it names, and those of what it is like."""
    described = document(module, "RETURN")[name]
    found = set(re.findall(r"\bV\((\w+)\)", _text(described)))
    return found.union(*(codes(place or module, value) for how, place, value in _references(described) if how == "as in"))


def check_result(module: str, result: Mapping[str, Any], failed: bool) -> None:
    """Fails the test where a result is not what its module documents: names, types, choices, and what is returned always."""
    shape = documented(module)
    # What Ansible shows as warnings it takes from the result under that name.
    returned = {name: value for name, value in result.items() if not name.startswith("_ansible") and name != "warnings"}
    returned.pop(returned.get("ansible_loop_var", ""), None)
    failed = failed or (returned.get("failed_when_result") is False and "msg" in returned)  # its task goes on all the same
    faults = [f"{name}: not documented" for name in returned if name not in COMMON and name not in shape]
    for name, described in shape.items():
        when = str(described["returned"])
        if name in returned:
            faults += _faults(name, returned[name], described)
        elif when.startswith("always") or (when.startswith("success") and not failed):
            faults.append(f"{name}: missing, though returned: {when}")
    faults += [f"{path}: a name that results never have" for path, name in _names(returned) if name in FORBIDDEN]
    faults += _unknown_reasons(module, returned) if "reasons" in shape else []
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


def _unknown_reasons(module: str, returned: Mapping[str, Any]) -> Iterator[str]:
    known = codes(module, "reasons")
    for reason in returned.get("reasons", []):
        if reason["code"] not in known:
            yield f"reasons: {reason['code']} is not documented"
        if reason["certificate"] is not None and not HEX.match(reason["certificate"]):
            yield f"reasons: {reason['certificate']!r} is no SHA-256 fingerprint"
