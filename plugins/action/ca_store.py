# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._sshsig import fingerprint, line_of
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise_as_asked
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers, make_signing_key, read_signing_key
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, Task

# Ansible adds to a module's answer what it finds at its path.
_ADDED = ("uid", "gid", "owner", "group", "mode", "state", "size", "secontext")


class ActionModule(Task):
    NAME, ARGUMENTS = "ca_store", _arguments.CA_STORE

    def perform(self) -> Result:
        """Make the store on the host. There is no order: it belongs to no CA."""
        if self.options["host"]:
            arguments = {name: value for name, value in self._task.args.items() if name not in _arguments.SIGNERS}
            outcome: Result = self._execute_module(module_args=arguments, task_vars=self._task_vars)
            first = bool(outcome.get("changed"))
        else:
            outcome = initialise_as_asked(self.options, self._check)
            first = outcome["id"] is not None and not _holds_anything(outcome["path"])
        if not outcome.get("failed"):
            outcome["signer"] = self._signer(first and not self._check)
            outcome["changed"] = outcome["changed"] or bool(outcome["signer"] and outcome["signer"]["made"])
        if self._task.diff and "before" in outcome:
            outcome["diff"] = {"before": outcome["before"], "after": outcome["after"]}
        left_out = ("before", "after", "invocation", "reasons", "nothing_there", "renewed_meanwhile", "backend", "abilities", *_ADDED)
        return {name: value for name, value in outcome.items() if name not in left_out}

    def _signer(self, first: bool) -> Result | None:
        """Who signs for stores here; the signing key is made with the first store. None where there is none, or it can't be read."""
        signers = Signers(self.options)
        given = all(self.options[name] is not None for name in ("store_signing_key", "allowed_signers"))
        made = make_signing_key(signers, given) if first else None
        try:
            blob = made or read_signing_key(signers.key_path).blob
        except KeywardError:
            return None
        shape = {"public_key": line_of(blob), "fingerprint": fingerprint(blob), "path": signers.key_path, "made": made is not None}
        if made:
            self._display.display(f"The stores' signing key was made: {signers.key_path}. For the paper: {shape['fingerprint']}")
        return shape

    def refusal(self, error: KeywardError) -> Result:
        return {"failed": True, "msg": str(error)}


def _holds_anything(path: str) -> bool:
    """Whether a signing key may be made: never beside signed manifests, since whoever signed them has a key already."""
    with os.scandir(path) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
