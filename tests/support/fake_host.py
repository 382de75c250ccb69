# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A public task in this process, on a host that carries its orders out at once: the same module code, without Ansible's processes.

host = FakeHost("ca1")
result = host.run(ActionModule, {"config_file": str(ca.config_file), "stores": [...], "password": PASSWORD}, check=True)
host.sent                                       # what went to the host: (order's name, the document, check)
host.forge = lambda order, answer: {...}        # changes what a host that was tampered with answers
host.answer = lambda order, document: {...}     # answers without any module: a Windows host
"""

from __future__ import annotations

import base64
import copy
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.keyward.pki.plugins.module_utils import _execute

Forge = Callable[[str, dict[str, Any]], dict[str, Any]]


class FakeHost:
    def __init__(self, name: str = "ca1", *, windows: bool = False) -> None:
        self.name, self.windows = name, windows
        self.sent: list[tuple[str, dict[str, Any], bool]] = []
        self.forge: Forge | None = None
        self.fetch_file: Callable[[str, str], Any] = shutil.copyfile
        self.answer: Forge | None = None  # (order's name, its document) -> an answer, instead of the module

    def run(self, task: type, arguments: Mapping[str, Any], *, check: bool = False, diff: bool = False) -> dict[str, Any]:
        """The result of a task, as Ansible would register it."""
        given = SimpleNamespace(
            args=dict(arguments), async_val=0, check_mode=check, diff=diff, delegate_to=None, action="keyward", environment=None
        )
        connection = Mock(module_implementation_preferences=(".ps1", "") if self.windows else ("",))
        action = task(given, connection, Mock(), Mock(), Mock(), Mock())
        action._refuse_unguarded_transport = lambda: None
        action._execute_module = lambda module_name, module_args, task_vars: self._module(module_name, module_args, check)
        connection.put_file, connection.fetch_file = shutil.copyfile, self.fetch_file
        connection._shell.join_path = os.path.join
        action._make_tmp_path, action._fixup_perms2 = tempfile.mkdtemp, lambda _paths: None
        action._remove_tmp_path = lambda path, force: shutil.rmtree(path, ignore_errors=True)
        result: dict[str, Any] = action.run(task_vars={"inventory_hostname": self.name})
        return result

    def orders(self) -> list[str]:
        return [name for name, _document, _check in self.sent]

    def _module(self, name: str, arguments: dict[str, Any], check: bool) -> dict[str, Any]:
        document = json.loads(base64.b64decode(arguments["controller"]))
        self.sent.append((document["order"], document, check))
        if self.answer:
            return self.answer(document["order"], document)
        module = importlib.import_module(f"ansible_collections.keyward.pki.plugins.modules.{name.rpartition('.')[2]}")
        seen: list[Any] = []
        run, module.run = module.run, lambda spec, *orders: seen.extend((spec, orders))
        try:
            module.main()
        finally:
            module.run = run
        validation = ArgumentSpecValidator(seen[0]).validate(copy.deepcopy(arguments))
        assert not validation.error_messages, validation.error_messages
        answer: dict[str, Any] = json.loads(json.dumps(_execute.answered(validation.validated_parameters, seen[1], check)))
        return self.forge(document["order"], answer) if self.forge else answer
