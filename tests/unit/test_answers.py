# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host answers that was tampered with ends a task with an error in three parts, never with a traceback."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
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
