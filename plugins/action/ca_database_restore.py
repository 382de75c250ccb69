# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
import re
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._chains import Chains
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Home
from ansible_collections.keyward.pki.plugins.module_utils._home import lives, shared
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities, Look, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import (
    Advance,
    ChainLink,
    FileTold,
    ReadFile,
    Restore,
    Restored,
    SentFile,
    SignedEvent,
    StateTold,
)
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import ISSUED, MEMBERS, SetFile, SetManifest
from ansible_collections.keyward.pki.plugins.module_utils._signed import document
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import SETS, Series, Stored
from ansible_collections.keyward.pki.plugins.module_utils._verdict import foreign
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs, _adcs_registry, _adcs_sets, _published
from ansible_collections.keyward.pki.plugins.plugin_utils._database_sets import (
    DatabaseTask,
    HostStore,
    HostStored,
    given_set,
    newest_set,
    of_live,
    of_lost,
    only_database,
    set_result,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import recorded_place
from ansible_collections.keyward.pki.plugins.plugin_utils._known_databases import KnownDatabases, Record, sets_of
from ansible_collections.keyward.pki.plugins.plugin_utils._task import NothingNamed, NothingOnHost, Result, findings

# Advisories on what a set decides, where it takes the place of what is lost: in the diff, too.
DECIDING = ("configuration_decides", "configuration_loads_code")


class ActionModule(DatabaseTask):
    NAME, ARGUMENTS = "ca_database_restore", _arguments.CA_DATABASE_RESTORE

    _checklist: t.Sequence[Result] = ()  # what stands around the CA and is in no set
    _remembered: t.Sequence[Finding] = ()
    _passed_over: t.Sequence[Finding] = ()  # sets that are newer than the chosen one and can't be used, and damaged copies

    def perform(self) -> Result:
        self._one_of("stores", "host_store", "set")
        advance, extra = self._advance(), self._extra_paths()
        chosen = None
        if self.options["set"]:
            with self._saying("compares the files of the set with its manifest"):
                chosen = given_set(self.options["set"], self.signers)
        self._place = None
        try:
            told, abilities = self._looked()
        except NothingNamed:
            if chosen is None:
                raise
            self._place = recorded_place(chosen.manifest.authority)  # it is the CA that the set is of
            told, abilities = self._looked()
        live = self._live(told)
        chosen = chosen or self._newest(live)
        manifest: SetManifest = chosen.manifest
        self._refuse_what_it_can_t(manifest, abilities, advance)
        self._refuse_extra_paths(abilities)
        if live and not self._is_of(live, chosen):
            raise foreign(live.authority, manifest.authority, manifest.generations)
        published = _published.seen(self.options["published_crl"], self.options["published_certificates"], manifest.generations)
        order = Restore(
            of=live.generations[-1].sha256 if live else None,
            manifest=document(manifest.as_json()).decode("ascii"),
            part=self.options["part"],
            on_conflict=self.options["on_conflict"],
            published=published.as_order(),
            advance=advance,
            extra_paths=extra,
        )
        if abilities.sets_are_archives:
            done = self._carried_out(order, chosen, manifest.files)
        else:
            done = self._judged_here(order, chosen, told, published)
        done = replace(done, advisories=(*published.running_out(done.advisories), *published.advisories))
        if done.changed and not self._check and not isinstance(chosen, HostStored):
            self._record(chosen)
        return self._result(done, chosen)

    def _advance(self) -> Advance | None:
        given = self.options["advance"]
        if given is None:
            return None
        if given == "auto":
            return Advance()
        if not isinstance(given, dict) or set(given) - {"serial", "crl_number"} or not given:
            raise KeywardError(
                "ca_database_restore can't run", "advance is neither auto nor a dictionary of serial and crl_number", "Correct it"
            )
        for name, number in given.items():
            if not re.match(r"[0-9A-Fa-f]+\Z", str(number)):
                raise KeywardError(
                    "ca_database_restore can't run", f"advance.{name} is no hexadecimal number", "Give hex digits, in quotes"
                )
        return Advance(**{name: str(number) for name, number in given.items()})

    # --- what is there, and which set ---

    def _looked(self) -> tuple[StateTold | None, Abilities]:
        """What is on the host; None where there is no such CA."""
        try:
            told = self.send(Look(), StateTold, self._place)
            return told, told.abilities
        except NothingOnHost as exc:
            return None, exc.abilities

    def _live(self, told: StateTold | None) -> Told | None:
        """The authority on the host; None where nothing tells which it is."""
        try:
            return t.cast(Told, self.completed(told)) if told else None
        except NothingOnHost:
            return None

    def _newest(self, live: Told | None) -> Stored:
        """The newest intact set of the database in all stores. Raises KeywardError."""
        generations = live.generations if live else ()
        kept = self._stores()
        stores: t.Sequence[Store | HostStore] = [self._host_store(generations, digests=True)] if self.options["host_store"] else kept
        self.memory.refuse_other_stores(stores)
        known, sets = self._known_in(stores)
        if live:
            standing = self.stand(known, live)
            self.refuse_elsewhere("nothing was restored", standing, live)
            record, here = standing.known, live.authority.home
        else:
            here = self.stated_home
            record = self.lost(known, "set") or self._of_section(known, sets, here)
        own = sets_of(record, sets)
        found = list[Series]()
        advisories = [advisory for store in stores for one in store.series() if not one.latest for advisory in one.advisories]
        for store in stores if record and own else ():
            series = (of_live if live else of_lost)(t.cast(KnownDatabases, own), store.path, here, t.cast(Record, record))
            only_database(series, self._host)
            found += series
        whole = Chains(found, thorough=True)
        signed = whole.signed
        with self._saying("compares the files of the newest set with its manifest"):
            newest = newest_set(whole, self._host, advisories)
        self.refuse_rolled_back(signed)
        if len(whole.ends) > 1:
            raise KeywardError(
                "nothing was restored",
                "it can't be told which set is meant, two runs made them apart: " + " and ".join(one.path for one in whole.ends),
                "Name one: give its directory in the store as set",
            )
        self._passed_over = [*whole.faults, *whole.passed_over.values()]
        self._remembered = self.remember_or_warn(stores, SETS.name, newest, newest.manifest.database)
        return newest

    @staticmethod
    def _of_section(known: t.Sequence[Record], sets: t.Sequence[KnownDatabases], here: Home) -> Record | None:
        """The authority that lives here, where its recorded home names another section than the task: one authority may have several."""
        found = []
        for one in known:
            own = sets_of(one, sets)
            if own and lives(one.homes, here, section=False) and lives([each.manifest.made_at for each in own.latest], here):
                found.append(one)
        return found[0] if len(found) == 1 else None

    @staticmethod
    def _is_of(live: Told, chosen: Stored) -> bool:
        """Whether the host shows the authority that a set is of. Each of its certificates counts: it was named, or found at home."""
        keys = {generation.public_key_sha256 for generation in chosen.manifest.generations}
        same = live.authority.subject == chosen.manifest.authority.subject and lives(chosen.manifest.homes, live.authority.home)
        return same or bool(shared(live.generations, keys))

    def _refuse_what_it_can_t(self, manifest: SetManifest, abilities: Abilities, advance: Advance | None) -> None:
        if manifest.is_archive is not abilities.sets_are_archives:
            raise KeywardError(
                "nothing was restored",
                f"the set is of a CA that ran on {manifest.authority.backend}, and the software on this host can't read it",
                "Name another set",
            )
        if abilities.sets_are_archives:
            _adcs.refuse_directory_account(self.NAME, self.options)
        if self.options["on_conflict"] == "merge" and not abilities.sets_are_archives:
            why = "the software on this host opens its database alone, so two can't be brought together"
            raise KeywardError("nothing was restored", why, "Choose one of the two: on_conflict: set_aside keeps the other aside")
        if advance and advance != Advance() and not abilities.takes_numbers:
            raise _adcs_sets.no_numbers()

    # --- the restore ---

    def _judged_here(self, order: Restore, chosen: Stored, told: StateTold | None, published: _published.Seen) -> Restored:
        """The host's software compares nothing: whether the set may take the place of the database is decided here."""
        with self.reading():
            restoration = _adcs_sets.Restoration(told, chosen.manifest, published, self.options)
        exported = self._file(chosen, _adcs_registry.REGISTRY) if restoration.takes_the_place else b""
        account = _adcs.directory_account(self.NAME, self.options)
        # Whether the database would be restored is known already: in check mode it stays where it is.
        files = restoration.files(with_database=isinstance(chosen, HostStored) or not self._check)
        done = self._carried_out(replace(order, own={**restoration.terms(exported), "account": account}), chosen, files)
        kept = self._file(chosen, _adcs_sets.CONFIGURATION) if restoration.has_templates else b""
        with self.reading():
            self._checklist = restoration.checklist(done, exported, kept)
            return restoration.judged(done, exported, kept)

    def _file(self, chosen: Stored, name: str) -> bytes:
        """A small file of a set. Raises KeywardError where it is another one than the manifest records."""
        if isinstance(chosen, HostStored):
            order = ReadFile(self.options["host_store"], chosen.directory, chosen.database, chosen.name, name)
            content: bytes = self.send(order, FileTold, self._place).content
        else:
            content = read_file(os.path.join(chosen.path, name), f"{name} of the set")
        if (name, hashlib.sha256(content).hexdigest()) not in [(file.name, file.sha256) for file in chosen.manifest.files]:
            why = f"{name} of the set {chosen.path} does not have the digest that the manifest records"
            raise KeywardError("nothing was restored", why, "Use another copy of the set, and look who may write into this store")
        return content

    def _carried_out(self, order: Restore, chosen: Stored, files: t.Sequence[SetFile]) -> Restored:
        if isinstance(chosen, HostStored):
            order = replace(
                order,
                host_store=self.options["host_store"],
                directory=chosen.directory,
                database=chosen.database,
                name=chosen.name,
                files=tuple(SentFile(file.name, file.name, file.sha256) for file in files),
                chain=tuple(_chain_link(one, f"{one.name}/") for one in chosen.links),
                event=self._restored(chosen),
            )
            return self.send(order, Restored, self._place)
        with self._remote_directory() as folder:
            sent = []
            for number, file in enumerate(files):
                sent.append(SentFile(file.name, file.name if chosen.manifest.is_archive else f"file-{number}", file.sha256))
                target = self._on_host_path(folder, sent[-1].sent_as)
                self._send_file(os.path.join(chosen.path, file.name), target)
            chain = [_chain_link(one, f"link-{number}-") for number, one in enumerate(chosen.links)]
            for link, one in zip(chain, chosen.links, strict=True):
                for name in (ISSUED, MEMBERS):
                    target = self._on_host_path(folder, link.issued if name == ISSUED else link.members)
                    self._send_file(os.path.join(one.path, name), target)
            names = [*(file.sent_as for file in sent), *(name for link in chain for name in (link.issued, link.members))]
            self._fixup_perms2([folder, *(self._on_host_path(folder, name) for name in names)])
            return self.send(replace(order, folder=folder, files=tuple(sent), chain=tuple(chain)), Restored, self._place)

    def _restored(self, chosen: Stored) -> SignedEvent | None:
        """What a store of the host records; None where nobody can sign it."""
        try:
            return self._sent_event("restore", chosen)
        except KeywardError as exc:
            self._display.warning(f"{self.NAME}: the store records nothing of this: {exc}")
            return None

    def _record(self, chosen: Stored) -> None:
        authority = os.path.dirname(os.path.dirname(os.path.realpath(chosen.path)))
        try:
            store = Store(os.path.dirname(authority), SETS, self.signers)
        except KeywardError:
            return  # a set that lies in no store
        self.record_or_warn("restore", chosen, [(store, os.path.basename(authority))])

    def _result(self, done: Restored, chosen: Stored) -> Result:
        manifest: SetManifest = chosen.manifest
        result: Result = {
            "changed": done.changed,
            "authority": replace(manifest.authority, host=self._host).as_result(),
            "set": set_result(manifest, [chosen.path]),
            "as_of": manifest.as_of,
            "restored": [dict(vars(one)) for one in done.restored],
            "set_aside": [dict(vars(one)) for one in done.set_aside],
            "next_serial": done.next_serial,
            "next_crl_number": done.next_crl_number,
            "rewritten": [dict(vars(one)) for one in done.rewritten],
            "advanced": dict(vars(done.advanced)) if done.advanced else None,
            "reentered": [{"serial": one.serial, "revoked_at": one.at, "reason": one.reason} for one in done.reentered],
            "checklist": list(self._checklist),
            "reasons": [],
            "advisories": findings(self.unread, self._remembered, self._passed_over, done.advisories),
        }
        if self._task.diff:
            telling = [one.message for one in done.advisories if one.code in DECIDING]
            result["diff"] = {
                "before": "".join(f"{one.path}\n" for one in done.set_aside)
                + "".join(f"{one.path}: {one.before}\n" for one in done.rewritten),
                "after": "".join(f"{one.path}: {one.part}\n" for one in done.restored)
                + "".join(f"{one.path}: {one.after}\n" for one in done.rewritten)
                + "".join(f"{text}\n" for text in telling),
            }
        return result


def _chain_link(one: Stored, where: str) -> ChainLink:
    return ChainLink(one.document.decode("ascii"), f"{where}{ISSUED}", f"{where}{MEMBERS}")
