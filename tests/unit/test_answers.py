# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host answers that was tampered with ends a task with an error in three parts, never with a traceback."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority
from ansible_collections.keyward.pki.plugins.module_utils._manifest import SetFile, SetManifest, State
from ansible_collections.keyward.pki.plugins.plugin_utils._database_flows import CaDatabaseBackup
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
    "adcs": {},
    "advisories": [],
    "state": {"last_request_id": 1, "revocations": [], "next_crl_number": 1, "configuration_sha256": "x"},
    "store": {"local_disk": False, "manifests": []},
}


def run(flow: type, answer: Any, **arguments: Any) -> dict[str, Any]:
    task = SimpleNamespace(args=arguments, async_val=0, check_mode=True, diff=False, delegate_to=None, action="x", environment=None)
    action = flow(task, MagicMock(module_implementation_preferences=(".ps1", "")), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    action._refuse_unguarded_transport = lambda: None
    action._execute_module = lambda **_: answer
    result: dict[str, Any] = action.run(task_vars={"inventory_hostname": "ca01"})
    return result


def changed(answer: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of an answer with another value at a path; C(...) takes it away."""
    made = place = copy.deepcopy(answer)
    *above, last = path.split(".")
    for name in above:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


def test_sound_answers() -> None:
    assert run(CaInfo, ANSWER)["authority"]["subject"] == "CN=Example Root CA"
    assert run(CaDatabaseBackup, ANSWER, host_store="D:\\store")["due"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("generations", ...),
        ("generations", [7]),
        ("generations.0.certificate", "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n"),
        ("generations.0.certificate", "AAAA"),
        ("generations.0.index", 1e999),
        ("generations.0.key_place", {"evil": True}),
        ("authority", None),
        ("authority.evil", 1),
        ("advisories", [{"code": "x"}]),
        ("state", ...),
        ("state.revocations", [1, "2"]),
        ("state.next_crl_number", "1"),
        ("store.manifests", [{"text": "{}"}]),
        ("store", 5),
    ],
)
def test_an_answer_of_another_shape(path: str, value: Any) -> None:
    result = run(CaDatabaseBackup, changed(ANSWER, path, value), host_store="D:\\store")
    assert result["failed"] and "the host ca01 answered in a way that no release of the collection does" in result["msg"]
    assert "evil" not in result["msg"] and result["msg"].endswith(".")


@pytest.mark.parametrize(
    "answer", [{"failed": True, "nothing_there": False}, {"failed": True, "nothing_there": False, "msg": "x", "reasons": 1}]
)
def test_a_failure_of_another_shape(answer: dict[str, Any]) -> None:
    assert "no release of the collection" in run(CaInfo, answer)["msg"]


def test_a_database_that_vanished_is_not_stored_as_the_newest_set() -> None:
    authority = Authority("adcs", "Example CA", "Example CA", "CN=Example Root CA", "C:\\CertLog", host="ca01")
    facts = {"ca_type": None, "computer": "CA01", "archived_keys": "absent", "log_directory": "", "kra_certificates": []}
    manifest = SetManifest(
        id="1",
        sequence=1,
        previous=None,
        kind="full",
        authority=authority,
        created="2026-01-01T00:00:00Z",
        as_of="2026-01-01T00:00:00Z",
        made={},
        files=(SetFile("database.json", "x", 1),),
        members=1,
        state=State("d", "c", 7, None, None),
        left_out=(),
        generations=(generation("first"),),
        adcs={**facts, "last_request_id": 7, "clock_skew_minutes": 10, "revocations": [], "next_crl_number": 1},
    )
    told = {"directory": "ca", "name": "000001-20260101T000000.000000Z", "text": json.dumps(manifest.as_json()), "damage": None}
    answer = changed(ANSWER, "store.manifests", [told])
    assert run(CaDatabaseBackup, answer, host_store="D:\\store")["due"]
    emptied = run(CaDatabaseBackup, changed(answer, "state.last_request_id", 0), host_store="D:\\store")
    assert emptied["failed"] and "missing or empty" in emptied["msg"]


def test_what_breaks_before_the_host_answered_is_no_fault_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaDatabaseBackup, "perform", lambda _self: {}["x"])
    with pytest.raises(KeyError):
        run(CaDatabaseBackup, ANSWER)
