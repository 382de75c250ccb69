# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise_as_asked
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, Task

# Ansible adds to a module's answer what it finds at its path.
_ADDED = ("uid", "gid", "owner", "group", "mode", "state", "size", "secontext")


class ActionModule(Task):
    NAME, ARGUMENTS = "ca_store", _arguments.CA_STORE

    def perform(self) -> Result:
        """On the host with no order: a store there is no CA's."""
        if self.options["host"]:
            outcome: Result = self._execute_module(module_args=dict(self._task.args), task_vars=self._task_vars)
        else:
            outcome = initialise_as_asked(self.options, self._check)
        if self._task.diff and "before" in outcome:
            outcome["diff"] = {"before": outcome["before"], "after": outcome["after"]}
        left_out = ("before", "after", "invocation", "reasons", "nothing_there", "renewed_meanwhile", "backend", "abilities", *_ADDED)
        return {name: value for name, value in outcome.items() if name not in left_out}

    def refusal(self, error: KeywardError) -> Result:
        return {"failed": True, "msg": str(error)}
