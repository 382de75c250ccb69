# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._generation import generation_advisories
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Look, Told
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, Task, findings


class ActionModule(Task):
    NAME, ARGUMENTS = "ca_info", _arguments.CA_INFO

    def perform(self) -> Result:
        told = t.cast(Told, self.completed(self.send(Look(database=True), Told)))
        waiting = told.pending_request
        return {
            "changed": False,
            **self.shown(told),
            "database": {**vars(told.database), "crls": [dict(vars(crl)) for crl in told.database.crls]},
            "pending_request": {name: getattr(waiting, name) for name in ("path", "subject", "public_key_sha256")} if waiting else None,
            "reasons": [],
            "advisories": findings(told.advisories, generation_advisories(told.generations, now_text())),
        }
