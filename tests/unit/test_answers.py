# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host answers that was tampered with ends a task with an error in three parts, never with a traceback."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible import constants
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from support.authorities import generation

SHAPE = {
    "index": 0,
    "certificate": generation("first").as_result()["certificate"],
    "private_key": "present",
    "encrypted_at_rest": None,
    "exportable": None,
    "certificate_place": None,
    "key_place": None,
}
ANSWER: dict[str, Any] = {
    "changed": False,
    "authority": {
        "backend": "adcs",
        "name": "Example CA",
        "sanitized_name": "Example CA",
        "subject": None,
        "directory": "C:\\CertLog",
        "place": {"name": "Example CA"},
    },
    "generations": [SHAPE],
    "database": {"path": "C:\\CertLog", "exists": True, "entries": None, "serial": None, "crl_number": None},
    "pending_request": None,
    "own": {},
    "advisories": [],
}


def run(flow: type, answer: Any, **arguments: Any) -> dict[str, Any]:
    task = SimpleNamespace(args=arguments, async_val=0, check_mode=True, diff=False, delegate_to=None, action="x", environment=None)
    action = flow(task, MagicMock(module_implementation_preferences=(".ps1", "")), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    action._refuse_unguarded_transport = lambda: None
    action._execute_module = lambda **_: answer
    result: dict[str, Any] = action.run(task_vars={"inventory_hostname": "ca01"})
    return result


def test_sound_answers() -> None:
    assert run(CaInfo, ANSWER)["authority"]["subject"] == "CN=Example Root CA"


@pytest.mark.parametrize(
    "answer", [{"failed": True, "nothing_there": False}, {"failed": True, "nothing_there": False, "msg": "x", "reasons": 1}]
)
def test_a_failure_of_another_shape(answer: dict[str, Any]) -> None:
    assert "no release of the collection" in run(CaInfo, answer)["msg"]


def test_what_breaks_before_the_host_answered_is_no_fault_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaInfo, "perform", lambda _self: {}["x"])
    with pytest.raises(KeyError):
        run(CaInfo, ANSWER)


# --- what is shown of an answer ---

ODD = "x\x1b[2J\r\nok: \u202eevil\x9b\udcff {{ lookup('pipe', 'id') }}"
SHOWN = "x\\x1b[2J\\x0d\\x0aok: \\u202eevil\\x9b\\xff {{ lookup('pipe', 'id') }}"


def test_text_from_a_host_can_be_printed() -> None:
    told = {**ANSWER["authority"], "name": ODD, "directory": ODD, "place": {"name": ODD}}
    finding = {"code": ODD, "message": ODD, "certificate": ODD}
    result = run(CaInfo, {**ANSWER, "authority": told, "advisories": [finding], "warnings": [ODD, ODD * 1000, {}], "deprecations": [ODD]})
    assert (result["authority"]["name"], result["authority"]["directory"]) == (SHOWN, SHOWN)
    assert result["advisories"] == [{"code": SHOWN, "message": SHOWN, "certificate": SHOWN, "level": "red"}]
    assert result["warnings"][0] == SHOWN and len(result["warnings"]) == 3 and len(result["warnings"][1]) < 5000
    assert result["warnings"][2].endswith(f" on ca01: {SHOWN}")
    assert "deprecations" not in result
    failed = run(CaInfo, {"failed": True, "nothing_there": False, "msg": ODD, "reasons": [finding], "abilities": {}})
    assert failed["msg"] == SHOWN and failed["reasons"] == [{"code": SHOWN, "message": SHOWN, "certificate": SHOWN}]
    assert "\x1b" not in run(CaInfo, {"failed": True, "msg": ODD, "exception": f"\x1b[2J\nValueError{ODD}"})["msg"]


def test_a_subject_can_be_printed_and_stays_what_the_certificate_says() -> None:
    odd = generation("odd", subject="Evil\x1b[2J\u202eCA")
    assert "\x1b" in odd.subject and "\x1b" not in odd.label
    told = run(CaInfo, {**ANSWER, "generations": [{**SHAPE, "certificate": odd.as_result()["certificate"]}]})
    assert told["generations"][0]["subject"] == told["authority"]["subject"] == "CN=Evil\\x1b[2J\\u202eCA"


def test_a_host_sets_no_fact() -> None:
    """Facts come before the variables of the inventory: it could name the authority that it is, or another store."""
    assert "ansible_facts" not in run(CaInfo, {**ANSWER, "ansible_facts": {"keyward_key_stores": ["/srv/mine"]}})


@pytest.mark.parametrize("debug", [True, False])
def test_nothing_is_sent_while_core_prints_what_it_sends(monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    monkeypatch.setattr(constants, "DEFAULT_DEBUG", debug)
    connection = MagicMock(module_implementation_preferences=("",), become=None)
    task = SimpleNamespace(args={}, async_val=0, check_mode=True, diff=False, delegate_to=None, action="x", environment=None)
    action = CaInfo(task, connection, MagicMock(), MagicMock(), MagicMock(), MagicMock())
    sent: list[Any] = []
    action._execute_module = lambda **arguments: sent.append(arguments) or ANSWER
    result = action.run(task_vars={"inventory_hostname": "ca01"})
    assert bool(sent) is not debug
    assert ("ANSIBLE_DEBUG" in result.get("msg", "")) is debug
