# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import (
    generation_advisories,
    generation_of,
    merge_generations,
)
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_reader import Contents
from ansible_collections.keyward.pki.plugins.module_utils._signed import VERIFIED
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._verdict import Verdict, judge
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    FROM_AN_OPEN_ONE,
    BackupTask,
    ChosenBackup,
    store_of,
    unprotected,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, findings


class ActionModule(BackupTask):
    NAME, ARGUMENTS = "ca_key_verify", _arguments.CA_KEY_VERIFY
    PROVES_UNVOUCHED = True

    def perform(self) -> Result:
        told = self.look() if self.names_an_authority else None
        chosen = self.choose(told, to_send=False)
        recorded = chosen.authority
        expected = chosen.generations
        if told:
            expected = merge_generations(chosen.generations if chosen.is_of(told) else [], told.generations)
        verdict = self._unless_unvouched(chosen, judge(chosen.bundles, expected))
        advisories = [*(told.advisories if told else ()), *([chosen.elsewhere] if chosen.elsewhere else [])]
        contents = [bundle.contents for bundle in chosen.bundles if bundle.contents]
        result: Result = {
            "changed": False,
            "restorable": verdict.restorable,
            "authority": told.authority.as_result() if told else recorded.as_result() if recorded else None,
            "generations": [g.as_result() for g in expected],
            "backup": chosen.as_result(),
            "private_keys": sorted({entry.public_key_sha256 for content in contents for entry in content.private_keys}),
            "certificates": [
                _certificate_result(der) for der in dict.fromkeys(e.der for content in contents for e in content.certificates)
            ],
            "encryption": _encryption_result(contents),
            "reasons": findings(verdict.reasons),
            "advisories": findings(advisories, verdict.advisories, generation_advisories(expected, now_text())),
        }
        if not verdict.restorable:
            error = KeywardError(
                f"{chosen.paths[0]} is not restorable",
                "; ".join(fault.message for fault in verdict.reasons),
                FROM_AN_OPEN_ONE
                if unprotected(verdict)
                else "Give the password that it was made with; where it has been changed, the old one as previous_password"
                if all(fault.code == "password_wrong" for fault in verdict.reasons)
                else "Make a new backup while the CA's keys are still there (ca_key_backup), or find another one (ca_key_backup_info)",
            )
            result.update(failed=True, msg=str(error))
        elif self.options["verified_by"] and not self._check:
            self._vouch(chosen, self.options["verified_by"])
        return result

    def _unless_unvouched(self, chosen: ChosenBackup, verdict: Verdict) -> Verdict:
        """Refuse a backup that no known signer vouches for, since no task would restore it, unless a person vouches for it now."""
        doubt = chosen.stored.doubt if chosen.stored else None
        if doubt is None or self.options["verified_by"]:
            return verdict
        text = f"nobody known vouches for {chosen.paths[0]}: {doubt}. Where you do, give your name as verified_by"
        return replace(verdict, reasons=(*verdict.reasons, Finding("unknown_signer", text)))

    def _vouch(self, chosen: ChosenBackup, person: str) -> None:
        """A signed event in each store that has the backup. Raises KeywardError."""
        what = "nobody vouches for the backup"
        if not chosen.stored:
            raise KeywardError(what, "a PKCS #12 file has no manifest to vouch for", "Give the backup's directory in a store as backup")
        places = [place for place in (store_of(path, self.signers) for path in chosen.paths) if place]
        if not places:
            raise KeywardError(what, f"{chosen.paths[0]} lies in no store", "Give its directory in a store as backup")
        event = self.event(VERIFIED, chosen.stored, person=person)
        for store, directory in places:
            store.record(directory, event)


def _certificate_result(der: bytes) -> Result:
    try:
        generation = generation_of(der)
    except ValueError:
        return {
            "subject": None,
            "fingerprints": {"sha1": None, "sha256": hashlib.sha256(der).hexdigest()},
            "public_key_sha256": None,
            "not_after": None,
        }
    shape = generation.as_result()
    return {name: shape[name] for name in ("subject", "fingerprints", "public_key_sha256", "not_after")}


def _encryption_result(contents: t.Sequence[Contents]) -> Result | None:
    """The protection of a whole backup: that of its weakest file."""
    if not contents:
        return None
    all_of = [content.encryption for content in contents]
    return {
        "key": "; ".join(dict.fromkeys(name for encryption in all_of for name in encryption.key)),
        "certificates": "; ".join(dict.fromkeys(name for encryption in all_of for name in encryption.certificates)),
        "mac": "; ".join(dict.fromkeys(encryption.mac or "none" for encryption in all_of)),
        "iterations": min(encryption.iterations for encryption in all_of),
        "weak": any(encryption.weak for encryption in all_of),
    }
