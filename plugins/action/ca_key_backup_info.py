# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, generation_advisories, merge_generations, uncovered
from ansible_collections.keyward.pki.plugins.module_utils._home import Standing
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._reasons import reason
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS, Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import at_most_now, now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._verdict import judge
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    BackupTask,
    backup_result,
    lost_on_host,
    opened,
    same_name,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import KnownAuthority
from ansible_collections.keyward.pki.plugins.plugin_utils._task import NothingNamed, NothingOnHost, Result, findings


class ActionModule(BackupTask):
    NAME, ARGUMENTS = "ca_key_backup_info", _arguments.CA_KEY_BACKUP_INFO

    def perform(self) -> Result:
        told, unreadable = self._told()
        known, damaged = self.known(told) if told else self.authorities.all
        found = self.stand(known, told) if told else Standing(self.lost(known, "backup"))
        match, elsewhere = found.known, [self.not_at_home(found, told)] if told and found.elsewhere else []
        earlier = match.generations if match else []
        covered = match.covered if match else frozenset()
        expected = merge_generations(earlier, told.generations if told else [])
        due_for = uncovered(expected, covered)
        authority = told.authority if told else match.authority if match else None
        newest = match.newest if match else None
        verdict = judge(opened(newest, self._passwords), expected) if newest and self._passwords else None
        result: Result = {
            "changed": False,
            "authority": self.authority_result(authority, match) if authority else None,
            "generations": [g.as_result("backup" if g.sha256 in covered else "none") for g in expected],
            "backups": [_listed(match, backup, expected) for backup in match.backups] if match else [],
            "newest": backup_result(newest, match.paths(newest)) if match and newest else None,
            "superseded": _superseded(match) if match else [],
            "under_previous_password": _under_previous_password(match) if match else [],
            "homes": [home.as_json() for home in match.homes] if match else [],
            "due": bool(due_for or not newest or elsewhere) if told or match else None,
            "age": _age(newest) if newest else None,
            "reasons": findings(
                elsewhere,
                (reason("generation_missing", f"the newest backup, {g.label}", certificate=g.sha256) for g in due_for),
                verdict.reasons if verdict else (),
            ),
            "advisories": findings(
                unreadable,
                told.advisories if told else (),
                damaged,
                found.advisories,
                match.advisories if match else (),
                self._remembered(match),
                same_name(known, match, told) if told else (),
                lost_on_host(expected, told) if told else (),
                (
                    Finding("missing_in_store", f"{store.path} lacks {backup.name}")
                    for backup, store in (match.copies(self.stores) if match else [])
                ),
                generation_advisories(expected, now_text()),
                verdict.advisories if verdict else (),
            ),
        }
        if verdict:
            result["restorable"] = verdict.restorable
        return result

    def _remembered(self, known: KnownAuthority | None) -> list[Finding]:
        """What is less than before, or can't be compared."""
        found: list[Finding] = []
        try:
            self.memory.refuse_other_stores(self.stores)
        except KeywardError as exc:
            found.append(Finding("other_store", str(exc)))
        if known:
            error = self.memory.rolled_back(BACKUPS.name, known.id, known.signed, said=known.said)
            found += [Finding("rolled_back", str(error))] if error else self.memory.unknown(BACKUPS.name, known.id)
        return found

    def _told(self) -> tuple[Told | None, list[Finding]]:
        """The host's authority, or why it can't be told: stores are looked at all the same."""
        try:
            return self.look(), []
        except NothingNamed:  # the stores alone are looked at
            return None, []
        except NothingOnHost as exc:
            return None, [Finding("nothing_on_host", str(exc))]
        except KeywardError as exc:
            return None, [Finding("authority_unreadable", str(exc))]
        except AnsibleConnectionFailure as exc:  # on the worst day there is no host
            return None, [Finding("authority_unreadable", str(self.lost_connection(exc)))]


def _age(backup: Stored) -> int:
    moment = now()
    return int((moment - at_most_now(backup.manifest.created, moment)).total_seconds())


def _listed(known: KnownAuthority, backup: Stored, expected: t.Sequence[Generation]) -> Result:
    return {
        **backup_result(backup, known.paths(backup)),
        "sequence": backup.manifest.sequence,
        "previous": backup.manifest.previous,
        "made": dict(backup.manifest.made),
        "generations": [generation.sha256 for generation in backup.manifest.generations],
        "covers_all": not uncovered(expected, backup.manifest.fingerprints),
    }


def _superseded(known: KnownAuthority) -> list[str]:
    return [b.manifest.id for b in known.backups[1:] if b.manifest.fingerprints <= known.backups[0].manifest.fingerprints]


def _under_previous_password(known: KnownAuthority) -> list[str]:
    changed = max((b.manifest.sequence for b in known.backups if b.manifest.made.get("reason") == "password_change"), default=0)
    return [backup.manifest.id for backup in known.backups if backup.manifest.sequence < changed]
