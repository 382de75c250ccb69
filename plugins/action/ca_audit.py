# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import platform
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._chains import Chains
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Home
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import parse
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Held
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS, SETS, Kind
from ansible_collections.keyward.pki.plugins.module_utils._time import now, parse_time
from ansible_collections.keyward.pki.plugins.plugin_utils import _hints
from ansible_collections.keyward.pki.plugins.plugin_utils._audit import Audit, Holdings, Seen, lines, seen_generations
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import Authorities, KnownAuthority
from ansible_collections.keyward.pki.plugins.plugin_utils._known_databases import Record, known_databases
from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import StoreTask
from ansible_collections.keyward.pki.plugins.plugin_utils._stores import named_stores
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result
from ansible_collections.keyward.pki.plugins.plugin_utils._told_stores import ToldStore


class ActionModule(StoreTask):
    NAME, ARGUMENTS = "ca_audit", _arguments.CA_AUDIT

    def perform(self) -> Result:
        inventory = [self._seen(ca) for ca in self.options["cas"]]
        faults: list[Finding] = []
        keys = self._stores("key_stores", BACKUPS, faults)
        databases = self._stores("database_stores", SETS, faults)
        on_hosts = self._stores_on_hosts(inventory, faults)
        if not keys and not databases and not on_hosts and not faults:
            raise KeywardError("ca_audit can't run", "no store was given", "Give key_stores, and database_stores where there are any")
        known, damaged = Authorities(list(keys.values())).all
        holdings = Holdings(
            known,
            known_databases([*databases.values(), *on_hosts]),
            {path: store.path for stores in (keys, databases, {one.path: one for one in on_hosts}) for path, store in stores.items()},
            [
                *faults,
                *damaged,
                *(advisory for one in on_hosts for advisory in one.advisories),
                *self._remembered_only({one.id for one in known}, keys.values()),
                *_hints_missing(keys.values(), known),
            ],
        )
        document = Audit(holdings, self.signers, now(), self._remembered).document(inventory, printable(platform.node()))
        return {"changed": False, "audit": document, "lines": lines(document)}

    def _stores(self, option: str, kind: Kind, faults: list[Finding]) -> dict[str, Store]:
        """The readable stores, by the paths in the inventory. What is only in an unreadable store counts as lost today."""
        found: dict[str, Store] = {}
        given = dict.fromkeys([*(self.options[option] or ()), *(path for ca in self.options["cas"] for path in ca[option])])
        for path in given:
            if os.path.realpath(path) in {store.path for store in found.values()}:
                continue
            try:
                (store,) = named_stores([path], kind, self.signers)
                self.memory.refuse_other_stores([store])
                named_stores([*found, path], kind, self.signers)
                found[path] = store
            except KeywardError as exc:
                faults.append(Finding("store_unreadable", str(exc)))
        return found

    def _stores_on_hosts(self, inventory: t.Sequence[Seen], faults: list[Finding]) -> list[ToldStore]:
        """As the hosts told them; several CAs of a host may have one."""
        answers: dict[tuple[str, str], list[Held]] = {}
        for one in inventory:
            if one.host_store and one.store_failure:
                faults.append(Finding("store_unreadable", f"{one.home.host}: {one.store_failure}"))
            elif one.host_store and one.held:
                answers.setdefault((one.home.host, one.host_store), []).append(one.held)
        faults[:] = dict.fromkeys(faults)
        found = [ToldStore(host, path, told, self.signers) for (host, path), told in answers.items()]
        for store in list(found):
            try:
                self.memory.refuse_other_stores([store])
            except KeywardError as exc:
                faults.append(Finding("store_unreadable", str(exc)))
                found.remove(store)
        return found

    def _remembered_only(self, there: t.Collection[str], stores: t.Iterable[Store]) -> list[Finding]:
        """Authorities of which no store that was read has a backup: gone from there, or in stores of which nothing was said."""
        found, read = list[Finding](), {store.id: store.path for store in stores}
        for one, had in sorted(self.memory.authorities(BACKUPS.name).items()):
            gone, text = [read[each] for each in sorted(had) if each in read], f"backups of the authority {one}"
            if one not in there and gone:
                remedy = f"bring them back. If they were taken out for good, take keys/{one} out of {self.memory.path}"
                found.append(Finding("rolled_back", f"{' and '.join(gone)} had {text}, and no store that was read has any: {remedy}"))
            elif one not in there:
                found.append(Finding("remembered_only", f"{self.memory.path} remembers {text}, in stores that were not read"))
        return found

    def _remembered(self, record: Record) -> list[Finding]:
        """Findings where the stores hold less than this controller remembers."""
        if isinstance(record, KnownAuthority):
            errors = [self.memory.rolled_back(BACKUPS.name, record.id, record.signed, said=record.said)]
        else:
            errors = [
                self.memory.rolled_back(SETS.name, signed[0].manifest.authority.id or "", signed, signed[0].manifest.database)
                for signed in (Chains(copies).signed for copies in record.databases)
                if signed
            ]
        return [Finding("rolled_back", str(error)) for error in errors if error]

    @staticmethod
    def _seen(ca: t.Mapping[str, t.Any]) -> Seen:
        info, failure = ca["info"], ca["failure"]
        place = _arguments.stated_place(ca["place"])
        if ca["place"].get("backend") is not None:
            place["backend"] = str(ca["place"]["backend"])
        told, database, advisories = None, None, tuple[Finding, ...]()
        held, store_failure = None, None
        if info:
            try:
                told = seen_generations(info)
                database = info["database"]
                for crl in database["crls"]:
                    parse_time(crl["this_update"])
                    parse_time(crl["next_update"] or crl["this_update"])
                    parse_time(crl["successor_at"] or crl["this_update"])
                if info.get("host_store"):
                    held, store_failure = parse(Held, info["host_store"]), info["host_store"]["failure"]
                backend = info["authority"]["backend"]
                place = {**place, "backend": str(backend)}
                advisories = tuple(
                    Finding(
                        code=str(one["code"]),
                        message=printable(str(one["message"])),
                        certificate=one["certificate"] and str(one["certificate"]),
                    )
                    for one in info["advisories"]
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                told, failure = None, "what it answered is not what ca_info returns"
        return Seen(
            Home(ca["host"], place),
            printable(ca["label"]),
            tuple(ca["key_stores"]),
            tuple(ca["database_stores"]),
            ca["host_store"],
            ca["offline"],
            told,
            database if told is not None else None,
            advisories,
            None if failure is None else printable(failure),
            held if told is not None else None,
            None if store_failure is None else printable(str(store_failure)),
        )


def _hints_missing(stores: t.Iterable[Store], known: t.Sequence[KnownAuthority]) -> list[Finding]:
    """Missing hints: they make runs slower, nothing else."""
    lacking = [
        store.path
        for store in stores
        for one in known
        if store.path in one.holdings and not _hints.are_there(store, one.name, [home.host for home in one.homes], one.public_keys)
    ]
    text = "of {} of its authorities hints are missing, so that each run reads more of it; the next backup of each puts them back"
    return [Finding("hints_missing", f"{path}: {text.format(lacking.count(path))}") for path in dict.fromkeys(lacking)]
