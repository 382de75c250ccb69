# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what tasks share that are still to follow orders; may change in any release."""

from __future__ import annotations

import contextlib
import functools
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import (
    Authority,
    Generation,
)
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump
from ansible_collections.keyward.pki.plugins.module_utils._store import BACKUPS, Store, Stored
from ansible_collections.keyward.pki.plugins.module_utils._verdict import (
    bundle_generations,
    open_bundle,
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
        """What the host needs to put a backup's keys and certificates back; in check mode without any key."""
        files = () if self._check else chosen.given({generation.public_key_sha256 for generation in chosen.generations}, in_hand=True)
        return {
            "bundles": [dump(file) for file in files],
            "generations": [generation.as_json() for generation in chosen.generations],
            "authority": chosen.authority.as_json() if chosen.authority else None,
        }
