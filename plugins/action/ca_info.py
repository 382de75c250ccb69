# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _outline
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_number, moment, next_update
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known, known_crl
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import generation_advisories
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Look, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Held, ReadStore
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Crled, Crls
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, now_text
from ansible_collections.keyward.pki.plugins.module_utils._whose import whose_crl
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, Task, findings


class ActionModule(Task):
    NAME, ARGUMENTS = "ca_info", _arguments.CA_INFO

    def perform(self) -> Result:
        told = t.cast(Told, self.completed(self.send(Look(database=True), Told)))
        waiting = told.pending_request
        crls, unseen = [{**vars(crl), "successor_at": None} for crl in told.database.crls], list[Finding]()
        if told.generations and not told.abilities.signs_any_crl:
            crls, unseen = self._published_itself(told)
        return {
            "changed": False,
            **self.shown(told),
            "database": {**vars(told.database), "crls": crls},
            "host_store": self._held(told) if self.options["host_store"] else None,
            "pending_request": {name: getattr(waiting, name) for name in ("path", "subject", "public_key_sha256")} if waiting else None,
            "reasons": [],
            "advisories": findings(told.advisories, unseen, generation_advisories(told.generations, now_text())),
        }

    def _held(self, told: Told) -> Result:
        """What a store of the host holds, as it tells it: whoever knows the signers judges that."""
        path, keys = self.options["host_store"], {generation.public_key_sha256 for generation in told.generations}
        held, failure = Held("", ()), None
        try:
            held = self.send(ReadStore(path, self._host, tuple(sorted(keys)), digests=True), Held, module="ca_database_backup")
        except KeywardError as exc:
            failure = str(exc)
        return {"path": path, "failure": failure, **dump(held)}

    def _published_itself(self, told: Told) -> tuple[list[Result], list[Finding]]:
        """The CRLs of software that signs and publishes them itself, and keeps them in no file of its database."""
        try:
            there = self.send(Crls(look=True), Crled, module="ca_crl")
            known = [known_crl(whose_crl, one, crl.content, crl.path, False) for one in told.generations for crl in there.crls]
        except KeywardError as exc:
            return [], [Finding("certutil_failed", f"no CRL of this CA could be looked at: {exc}")]
        of_each = {crl.der: crl for crl in known if crl}  # of a key that was used again, the newest certificate
        return [_shown(crl, crl.generation.sha256 not in there.idle) for crl in of_each.values()], []


def _shown(crl: Known, needed: bool) -> Result:
    successor = _outline.announced(_outline.crl_extensions(crl.der))
    return {
        "path": crl.path or "",
        "public_key_sha256": crl.generation.public_key_sha256,
        "number": crl_number(crl.parsed),
        "this_update": format_time(moment(crl.parsed, "last_update")),
        "next_update": next_update(crl.parsed),
        "needed": needed and crl.generation.not_after >= now_text(),
        "successor_at": format_time(successor) if successor else None,
    }
