# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what tasks share that are still to follow orders; may change in any release."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import platform
import secrets
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import (
    Authority,
    Generation,
    generation_advisories,
)
from ansible_collections.keyward.pki.plugins.module_utils._manifest import Manifest
from ansible_collections.keyward.pki.plugins.module_utils._store import BACKUPS, Store, Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._verdict import (
    bundle_generations,
    held_keys,
    judge,
    key_storage,
    open_bundle,
    refuse_foreign,
)
from ansible_collections.keyward.pki.plugins.module_utils._x509 import public_key_sha256
from ansible_collections.keyward.pki.plugins.plugin_utils._flow import Flow, NothingOnHost, Result
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    ChosenBackup,
    GivenBackup,
    KnownAuthority,
    known_authorities,
    named,
    recognise,
    recorded_place,
    store_of,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._task import COLLECTION_VERSION, findings

__all__ = ["COLLECTION_VERSION", "BackupFlow", "ChosenBackup", "Live", "findings", "live_of", "recorded_place", "request_facts"]

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
except ImportError:  # the modules say which library is missing
    pass


class Live(t.NamedTuple):
    """An authority as its host answered."""

    authority: Authority
    generations: list[Generation]
    advisories: list[Finding]


def live_of(answer: Result, host: str) -> Live:
    """Raises NothingOnHost where the host knows a CA and has none of its certificates."""
    generations = [Generation.from_json(shape) for shape in answer["generations"]]
    who = {**answer["authority"], "host": host}
    if who["subject"] is None:  # a Windows host leaves it to us to read certificates
        if not generations and answer.get("pending_request"):
            raise NothingOnHost(
                f"the CA {who['name']} can't be read", "it waits for its first certificate", "Give ca_install the answer to its request"
            )
        if not generations:
            raise NothingOnHost(
                f"the CA {who['name']} can't be read", "none of its certificates is in the machine store", "Put them back (ca_key_restore)"
            )
        who["subject"] = generations[-1].subject
    return Live(Authority(**who), generations, [Finding(**advisory) for advisory in answer["advisories"]])


def request_facts(pending: Result | None) -> Result | None:
    """What is said of a pending request; where the host gave it whole (C(request), PEM) it is read here."""
    if pending is None or "request" not in pending:
        return pending
    facts = {"path": pending["path"], "subject": None, "public_key_sha256": None}
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        request = x509.load_pem_x509_csr((pending["request"] or "").encode("utf-8"))
        facts.update(subject=request.subject.rfc4514_string(), public_key_sha256=public_key_sha256(request.public_key()))
    return facts


class StoresFlow(Flow):
    """What tasks share that look into stores."""

    def refusal(self, error: KeywardError) -> Result:
        return {**super().refusal(error), "reasons": [finding.as_result() for finding in error.findings]}

    @functools.cached_property
    def stores(self) -> list[Store]:
        paths = self._required("stores", "Give the directories on the controller that hold the key backups")
        found = {store.path: store for store in (Store(path, BACKUPS) for path in paths)}
        return list(found.values())

    def _named(self, known: t.Sequence[KnownAuthority]) -> KnownAuthority | None:
        return named(known, self._host, self.options)

    def _event(self, event: str, manifest: Manifest, **details: t.Any) -> Result:
        """What an authority's events/ keep of a task. No secret in it."""
        return {"event": event, "at": now_text(), "controller": platform.node(), "host": self._host, "backup": manifest.id, **details}


class BackupFlow(StoresFlow):
    """What verify and restore share: the one backup that is meant."""

    def _choose(self, live: Live | None) -> ChosenBackup:
        given, stores = self.options.get("backup"), self.options.get("stores")
        if (given is None) == (not stores):
            raise KeywardError(
                f"{self.NAME} can't run", "it needs either backup or stores", "Give the backup's path, or the stores to look in"
            )
        if given is not None:
            found = GivenBackup(given)
            return self._opened(found.stored, [found.path], found.files)
        known, _damaged = known_authorities(self.stores)
        match = recognise(known, live) if live else self._named(known)
        if match is None:
            whose = f"{live.authority.subject} on {self._host}" if live else f"an authority on {self._host}"
            names = ", ".join(sorted(candidate.name for candidate in known)) or "none"
            raise KeywardError(
                "no backup was found",
                f"the stores hold none of {whose}",
                f"They hold: {names}. Give the right one's directory as backup, or mount the right store",
            )
        newest = match.newest
        if newest is None:
            raise KeywardError(
                f"no backup of {match.name} can be used",
                "; ".join(advisory.message for advisory in match.advisories),
                "Mount another copy of the store, or give a PKCS #12 file of this authority as backup",
                match.advisories,
            )
        return self._opened(newest, match.paths(newest), newest.files())

    def _opened(self, stored: Stored | None, paths: list[str], files: dict[str, bytes]) -> ChosenBackup:
        self._required("password", "Give the password of the backup")
        recorded = {file.name: file.sha256 for file in stored.manifest.files} if stored else {}
        bundles = [open_bundle(name, data, self._passwords, recorded.get(name)) for name, data in files.items()]
        generations = list(stored.manifest.generations) if stored else bundle_generations(bundles)
        return ChosenBackup(stored, paths, files, bundles, generations)

    def _bundles(self, chosen: ChosenBackup) -> Result:
        """What the host needs to put a backup's keys and certificates back."""
        opened = {bundle.name: bundle for bundle in chosen.bundles}
        return {
            "restore": True,
            "bundles": [
                {
                    "name": name,
                    "content": base64.b64encode(data).decode("ascii"),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "password": opened[name].password_used,
                    "holds": [g.sha1.upper() for g in chosen.generations if g.public_key_sha256 in held_keys([opened[name]])],
                }
                for name, data in chosen.files.items()
            ],
            "generations": [
                {**generation.as_json(), "sha1": generation.sha1.upper(), "sha256": generation.sha256} for generation in chosen.generations
            ],
            "authority": vars(chosen.stored.manifest.authority) if chosen.stored else None,
            # What was imported into Windows is exported once more, under a password of this moment, to see whether it can be.
            "trial_password": secrets.token_urlsafe(24),
        }

    def _trial(self, chosen: ChosenBackup, answer: Result, password: str) -> list[Finding]:
        """What the trial export shows of keys that were imported into Windows: can the next backup be made, and are they kept as before?"""
        trial = [open_bundle(file["name"], base64.b64decode(file["content"]), [password]) for file in answer.get("trial", [])]
        recorded = {g.public_key_sha256: g.key_storage for g in chosen.generations if g.key_storage}
        before = {**key_storage(chosen.bundles, {}), **recorded}
        after = key_storage(trial, {})
        found = []
        for generation in chosen.generations if answer.get("trial") or answer.get("not_exportable") else ():
            key = generation.public_key_sha256
            if key not in held_keys(trial):
                text = f"{generation.label} is back, and its private key can't be exported: the next key backup will fail"
                found.append(Finding("not_exportable", text, generation.sha256))
                continue
            was, is_now = before.get(key, {}), after.get(key, {})
            differ = [name for name in ("provider", "key_spec", "machine_key") if name in was and was[name] != is_now.get(name)]
            if differ:
                text = ", ".join(f"{name} is {is_now.get(name)} and was {was[name]}" for name in differ)
                text = f"{generation.label} is not kept as before: {text}. Repair it before the next renewal (certutil -repairstore)"
                found.append(Finding("key_storage_changed", text, generation.sha256))
        return found


def _recorded_place(chosen: ChosenBackup) -> Result:
    """Selector CA, as the backup's manifest tells it."""
    if not chosen.stored:
        raise KeywardError(
            "nothing was restored", "a PKCS #12 file does not say where its CA lives", "Give config_file, or directory and the files"
        )
    return recorded_place(chosen.stored.manifest.authority)


class CaKeyRestore(BackupFlow):
    NAME, ARGUMENTS = "ca_key_restore", _arguments.CA_KEY_RESTORE

    def perform(self) -> Result:
        self._required("password", "Give the password of the backup")
        chosen = None if self._has_an_authority else self._choose(None)
        place = _recorded_place(chosen) if chosen else None
        try:
            live = live_of(self.on_host({}, place), self._host)
        except NothingOnHost:
            live = None
        chosen = chosen or self._choose(live)
        verdict = judge(chosen.bundles, chosen.generations)
        if not verdict.restorable:
            raise KeywardError(
                "nothing was restored",
                f"{chosen.paths[0]} is not restorable: " + "; ".join(fault.message for fault in verdict.reasons),
                "Give another backup (ca_key_backup_info lists them), or the right password",
                verdict.reasons,
            )
        manifest = chosen.stored.manifest if chosen.stored else None
        if live:  # before any byte of the bundle travels
            refuse_foreign(live.authority, live.generations, manifest.authority if manifest else None, chosen.generations)
        outcome, trial = self._put_back(chosen, place)
        result: Result = {
            "changed": outcome["changed"],
            "restorable": True,
            "authority": self._authority(live, manifest),
            "generations": [g.as_result("backup") for g in chosen.generations],
            "backup": chosen.as_result(),
            "restored": outcome["restored"],
            "set_aside": outcome["set_aside"],
            "reasons": [],
            "advisories": findings(
                live.advisories if live else (), verdict.advisories, trial, generation_advisories(chosen.generations, now_text())
            ),
        }
        if outcome["changed"] and not self._check:
            self._record(chosen, outcome)
        if self._task.diff:
            result["diff"] = {
                "before": "".join(f"{file['path']}: missing\n" for file in outcome["restored"]),
                "after": "".join(f"{file['path']}: {file['kind']}\n" for file in outcome["restored"]),
            }
        return result

    def _put_back(self, chosen: ChosenBackup, place: Result | None) -> tuple[Result, list[Finding]]:
        conflicts = {name: self.options[name] for name in ("on_conflict", "allow_unencrypted_key")}
        request = {**self._bundles(chosen), **conflicts}
        outcome = self.on_host(request, place)
        return outcome, self._trial(chosen, outcome, request["trial_password"])

    def _authority(self, live: Live | None, manifest: Manifest | None) -> Result | None:
        authority = live.authority if live else manifest.authority if manifest else None
        return replace(authority, id=manifest.authority.id if manifest else None).as_result() if authority else None

    def _record(self, chosen: ChosenBackup, outcome: Result) -> None:
        if not chosen.stored:
            return
        details = {"restored": outcome["restored"], "set_aside": outcome["set_aside"]}
        for path in chosen.paths if self.options.get("stores") else [chosen.stored.path]:
            place = store_of(Stored(path, chosen.stored.manifest, BACKUPS))
            if place:
                place[0].record(place[1], self._event("restore", chosen.stored.manifest, **details))
