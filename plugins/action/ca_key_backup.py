# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import (
    Generation,
    authority_id,
    directory_name,
    generation_advisories,
    merge_generations,
    uncovered,
    why_inaccessible,
)
from ansible_collections.keyward.pki.plugins.module_utils._home import HomeChange
from ansible_collections.keyward.pki.plugins.module_utils._manifest import BundleFile, Manifest
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import prepare
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import Exported, ExportKeys
from ansible_collections.keyward.pki.plugins.module_utils._reasons import reason
from ansible_collections.keyward.pki.plugins.module_utils._sealing import ONE_TIME_ITERATIONS, password_fault, seal
from ansible_collections.keyward.pki.plugins.module_utils._signed import document
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS, Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import name_time, now_text
from ansible_collections.keyward.pki.plugins.module_utils._verdict import Bundle, held_keys, judge, open_bundle, weaker_than_asked
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs_keys, _hints
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    BUNDLE_NAME,
    BackupTask,
    Sealed,
    backup_result,
    bundles_with,
    hollow,
    lost_on_host,
    one_time_password,
    opens,
    refuse_unless_restorable,
    same_name,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import Authorities, KnownAuthority, next_sequence
from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import refuse_unvouched
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, findings, made

prepare(Exported)  # Ansible loads this before it forks a process for each host


class Plan(t.NamedTuple):
    """What a key backup has to do."""

    told: Exported
    match: KnownAuthority | None
    expected: list[Generation]  # every generation that is or was there
    due_for: list[Generation]  # those that no backup covers
    covered: frozenset[str]
    home: HomeChange | None  # what a person states about its home
    why: str | None  # install, renewal, password_change, storage_change or forced; None where nothing is due
    copies: list[tuple[Stored, Store]]

    @property
    def newest(self) -> Stored | None:
        return self.match.newest if self.match else None


class ActionModule(BackupTask):
    NAME, ARGUMENTS = "ca_key_backup", _arguments.CA_KEY_BACKUP

    @functools.cached_property
    def authorities(self) -> Authorities:
        return Authorities(self.stores, self.memory)

    def perform(self) -> Result:
        for store in self.stores:
            store.refuse_if_not_writable()
        self.memory.refuse_other_stores(self.stores)
        self.signers.key  # noqa: B018 - every night, not only on the day when something is due
        told = self._first_look(self.known(None).known)
        known, damaged = self.known(told)
        found = self.stand(known, told)
        match = found.known
        if match:
            self.refuse_rolled_back(match)
        self.refuse_elsewhere("nothing was backed up", found, told)
        if not match:
            self._refuse_first(told)
        proved, lacking = self._prove(match) if match else ("password", frozenset())
        plan = self._plan(told, match, proved, lacking)
        advisories = [*told.advisories, *damaged, *found.advisories, *same_name(known, match, told)]
        advisories += [*match.advisories, *self.memory.unknown(BACKUPS.name, match.id)] if match else []
        return self._carry_out(plan, advisories)

    def _refuse_first(self, told: Told) -> None:
        """Raise KeywardError where the stores hold this authority after all, or did."""
        refuse_unvouched((each for store in self.stores for each in store.series()), told, "nothing was backed up")
        error = self.memory.forgotten_by_stores(BACKUPS.name, {generation.public_key_sha256 for generation in told.generations})
        if error:
            raise error

    # --- the host ---

    def _first_look(self, known: t.Sequence[KnownAuthority]) -> Exported:
        """One execution: the authority as it is and, where a backup seems due, its keys.

        Of a host that is nobody's home, every authority is told: nothing of one that only moved there is to be stored.
        """
        one, said = self.named(known), self.said
        here = [candidate for candidate in known if any(home.host == self._host for home in candidate.homes)]
        here = [one] if one and (said or one not in here) else here
        covered: set[str] = set()
        for candidate in [] if self.options["force"] else here:
            covered |= set() if self._changes_password_of(candidate) else candidate.covered
        if not here and not self.options["force"]:
            covered = {sha256 for candidate in known for sha256 in candidate.latest.manifest.fingerprints}
        return self._ask(covered, {key for candidate in here or known for key in candidate.public_keys})

    def _ask(self, covered: t.Collection[str], carried: t.Collection[str]) -> Exported:
        order = ExportKeys(tuple(sorted(covered)), tuple(sorted(carried)), self._one_time_password())
        return t.cast(Exported, self.completed(self.send(order, Exported)))

    def _one_time_password(self) -> str | None:
        """A one-time password for the host's keys; None in check mode, and where no password, or too weak a one, was given."""
        password = self._secret("password")
        fit = password is not None and not password_fault(password)
        self._one_time = one_time_password() if fit and not self._check else None
        return self._one_time

    # --- what is due ---

    def _changes_password_of(self, known: KnownAuthority) -> bool:
        previous, newest = self._secret("previous_password"), known.newest
        if previous is None or newest is None:
            return False
        return not opens(newest, self._secret("password") or "") and opens(newest, previous)

    def _prove(self, known: KnownAuthority) -> tuple[str, frozenset[str]]:
        """Which of the passwords opens the newest backup, and what that covers and does not hold.

        A wrong one is an error, never a reason to write a new backup.
        """
        password, previous, newest = self._secret("password"), self._secret("previous_password"), known.newest
        if newest is None or password is None:
            return "password", frozenset()
        for name, each in (("password", password), ("previous_password", previous)):
            lacking = hollow(newest, each) if each is not None else None
            if lacking is not None:
                return name, lacking
        raise KeywardError(
            "nothing was backed up",
            f"the password does not open the newest backup of this authority, {newest.path}",
            "Give the password that it was made with. To change it, give the new one as password and the old one as previous_password",
            [reason("password_wrong", newest.path)],
        )

    def _plan(self, told: Exported, match: KnownAuthority | None, proved: str, lacking: frozenset[str]) -> Plan:
        covered = match.covered - lacking if match else frozenset()
        expected = merge_generations(match.generations if match else [], told.generations)
        due_for = uncovered(expected, covered)
        why = None
        if not match:
            why = "install"
        elif due_for:
            why = "renewal"
        elif proved == "previous_password":
            why = "password_change"
        elif _storage_changed(told, match):
            why = "storage_change"
        elif self.options["force"]:
            why = "forced"
        home = match.change_home(self.said, told.authority.home) if match else None
        return Plan(told, match, expected, due_for, covered, home, why, match.copies(self.stores) if match else [])

    def _carry_out(self, plan: Plan, advisories: list[Finding]) -> Result:
        changed = _storage_changed(plan.told, plan.match)
        advisories += [*lost_on_host(plan.expected, plan.told), *generation_advisories(plan.expected, now_text()), *changed]
        result: Result = {
            "changed": bool(plan.why or plan.copies or plan.home),
            "authority": self.authority_result(plan.told.authority, plan.match),
            "backup": None,
            "due": bool(plan.why),
            "reasons": findings(reason("generation_missing", f"the newest backup, {g.label}", certificate=g.sha256) for g in plan.due_for),
        }
        covered, newest = plan.covered, plan.newest
        if plan.match and newest:
            copied = [os.path.join(store.path, plan.match.name, newest.name) for backup, store in plan.copies if backup is newest]
            result["backup"] = backup_result(newest, [*plan.match.paths(newest), *copied])
        if plan.why:
            self._refuse_what_can_not_be_sealed(plan)
            password = self._password_to_write_with(plan)
        if not self._check:
            self._copy(plan)
            sealed = self._sealed(plan, password) if plan.why else None
            if plan.match and plan.home:
                self.say_home(self.stores, plan.match, plan.home)
            if sealed:
                backup, paths, stored = self._store(plan, sealed, password)
                result["changed"] = stored or bool(plan.home)
                advisories += sealed.advisories
                result["backup"] = backup_result(backup, paths)
                result["restorable"] = True
                result["authority"]["id"] = backup.manifest.authority.id
                covered, newest = backup.manifest.fingerprints, backup
            if newest:
                self._remember(newest, plan)
        result["advisories"] = findings(advisories)
        result["generations"] = [g.as_result("backup" if g.sha256 in covered else "none") for g in plan.expected]
        if self._task.diff:
            after = frozenset(g.sha256 for g in plan.expected) if plan.why else plan.covered
            result["diff"] = {"before": _coverage(plan.expected, plan.covered), "after": _coverage(plan.expected, after)}
        return result

    def _refuse_what_can_not_be_sealed(self, plan: Plan) -> None:
        """Refuse a partial backup, before the password is asked for."""
        carried = {generation.public_key_sha256 for generation in plan.match.generations} if plan.match else set()
        faults, remedies = [], []
        for generation in plan.told.generations:
            if generation.public_key_sha256 in carried:
                continue
            if generation.exportable is False:
                faults.append(reason("not_exportable", generation.label, certificate=generation.sha256))
                remedies.append("A key in a token or HSM: back it up by the means of that token")
            elif (why := why_inaccessible(generation, plan.told.advisories)) is not None:
                faults.append(Finding("key_missing", why, generation.sha256))
                remedies.append("Then run the task again")
            elif generation.private_key != "present":
                faults.append(reason("key_missing", generation.label, f"on the host it is {generation.private_key}", generation.sha256))
                remedies.append("A key that is missing: put it back, or state the generation's files (option older)")
        there = {generation.sha256 for generation in plan.told.generations}
        stated = [advisory for advisory in plan.told.advisories if advisory.code == "certificate_missing_on_host"]
        if len(stated) > len([generation for generation in plan.expected if generation.sha256 not in there]):
            faults += [Finding("generation_missing", advisory.message) for advisory in stated]
            remedies.append("Correct the option older, or put the certificate back")
        if faults:
            raise KeywardError(
                "nothing was backed up",
                "; ".join(fault.message for fault in faults),
                ". ".join(dict.fromkeys(remedies)),
                faults,
            )

    def _password_to_write_with(self, plan: Plan) -> str:
        password = self._secret("password")
        if password is None:
            raise KeywardError(
                "nothing was backed up",
                f"a backup is due, and no password was given to protect it ({_why_due(plan)})",
                "Give password",
            )
        fault = password_fault(password)
        if fault:
            raise KeywardError(
                "nothing was backed up",
                f"the password is not fit to protect a CA key: {fault}",
                "Give a long random one, and keep it apart",
            )
        return password

    # --- the new backup ---

    def _sealed(self, plan: Plan, password: str) -> Sealed:
        """The files of the new backup, proved."""
        if plan.told.abilities.keys_in_hand:
            data = self._sealed_here(plan, password)
            return Sealed({BUNDLE_NAME: data}, plan.expected)
        earlier = plan.match.backups if plan.match else []

        def write(only: t.Sequence[str]) -> Exported:
            return self.send(ExportKeys(password=password, only=tuple(only)), Exported)

        return _adcs_keys.sealed(write, plan.told, plan.expected, earlier, self._passwords)

    def _sealed_here(self, plan: Plan, password: str) -> bytes:
        """One bundle with every expected generation. Keys that the host has lost are carried over from earlier backups."""
        bundles = self._handed_over(plan)
        if plan.match and not judge(bundles, plan.expected).restorable:
            bundles += bundles_with(plan.match, {g.public_key_sha256 for g in plan.expected} - held_keys(bundles), self._passwords)
        contents = [bundle.contents for bundle in bundles if bundle.contents]
        keys = {entry.public_key_sha256: entry.key for content in contents for entry in content.private_keys}
        chain = [entry.der for content in contents for entry in content.certificates]
        data = seal(plan.expected, keys, chain, password)
        refuse_unless_restorable([open_bundle(BUNDLE_NAME, data, [password])], plan.expected)
        return data

    def _handed_over(self, plan: Plan) -> list[Bundle]:
        """The host's keys, opened. They are asked for again where the host couldn't know that a backup is due."""
        told = plan.told
        if not told.files and any(generation.private_key == "present" for generation in told.generations):
            told = self._ask((), plan.match.public_keys if plan.match else ())
        bundles = [open_bundle(file.name, file.content, [self._one_time]) for file in told.files]
        weak = [each for each in (weaker_than_asked(bundle, ONE_TIME_ITERATIONS) for bundle in bundles) if each]
        if weak:
            raise KeywardError(
                "nothing was stored",
                f"the host {self._host} handed its keys over less protected than it was asked to: {weak[0]}",
                "Look into that host: no release of the collection answers so. Its keys may be known to others",
            )
        broken = [bundle.fault for bundle in bundles if bundle.fault]
        if broken:
            raise KeywardError(
                "nothing was stored",
                f"what the host {self._host} handed over can't be opened: {broken[0].message}",
                "Run the task again; if it happens again, look into that host",
                broken,
            )
        return bundles

    # --- the stores ---

    def _store(self, plan: Plan, sealed: Sealed, password: str) -> tuple[Stored, list[str], bool]:
        """Store one backup in every store. Where another run stored one meanwhile that does as well: that one, and False."""
        moment, before = name_time(), plan.match.ends if plan.match else []
        identity = secrets.token_hex(16)
        authority = replace(plan.told.authority, id=plan.match.id if plan.match else authority_id(plan.expected))
        directory = plan.match.name if plan.match else directory_name(authority)
        manifest = Manifest(
            id=identity,
            sequence=next_sequence(self.stores, directory),
            previous=before[0].digest if before else None,
            also_follows=tuple(one.digest for one in before[1:]),
            authority=authority,
            homes=plan.home.homes if plan.home else plan.match.homes if plan.match else (authority.home,),
            made_at=authority.home,
            created=now_text(),
            proved_at=now_text(),
            made=made(reason=plan.why, reference=self.options["reference"]),
            files=tuple(
                BundleFile(name, hashlib.sha256(data).hexdigest(), len(data), sealed.opened_by.get(name, identity))
                for name, data in sealed.files.items()
            ),
            generations=tuple(sealed.generations),
            own=_adcs_keys.kept_with_keys(plan.told),
        )
        name = f"{manifest.sequence:06d}-{moment}"
        with contextlib.ExitStack() as stack:
            staged = []
            for store in self.stores:
                staged.append(stack.enter_context(store.stage()))
                for file, data in sealed.files.items():
                    staged[-1].write(file, data)
            for store in sorted(self.stores, key=lambda store: store.path):
                stack.enter_context(store.locked())
            meanwhile = self._stored_meanwhile(authority.id, plan, password)
            if meanwhile:
                return *meanwhile, False
            content = document(manifest.as_json())
            signature = self.signers.sign(content)
            paths = [backup.commit(content, signature, directory, name) for backup in staged]
        stored = Stored(paths[0], manifest, BACKUPS, content, signature)
        event = self.event("backup", stored, reason=plan.why, reference=self.options["reference"])
        for store in self.stores:
            store.record(directory, event)
        self.leave_public_half(self.stores)
        return stored, paths, True

    def _stored_meanwhile(self, identity: str | None, plan: Plan, password: str) -> tuple[Stored, list[str]] | None:
        there = Authorities(self.stores).read(_hints.with_id(self.stores, identity or "")).known
        now = next((candidate for candidate in there if candidate.id == identity), None)
        newest = now.newest if now else None
        if now is None or newest is None or (plan.newest and newest.manifest.id == plan.newest.manifest.id):
            return None
        if uncovered(plan.expected, now.covered) or not opens(newest, password):
            raise KeywardError(
                "nothing was stored",
                f"another run stored {newest.path} at the same time",
                "Run the task again: it takes that backup into account",
            )
        return newest, now.paths(newest)

    def _copy(self, plan: Plan) -> None:
        """Give each store the backups that it lacks, byte for byte, without a password."""
        self.leave_public_half({store.path: store for _backup, store in plan.copies}.values())
        for backup, store in plan.copies:
            directory = os.path.basename(os.path.dirname(backup.path))
            if store.take_vouching(backup, directory):
                continue
            store.copy(backup, directory)
            store.record(directory, self.event("copy", backup, source=backup.path))

    def _remember(self, newest: Stored, plan: Plan) -> None:
        """What is there now, and where to look for it."""
        name = os.path.basename(os.path.dirname(newest.path))
        series = [store.one(name) for store in self.stores]
        good = plan.match is None or not plan.match.advisories
        said = 0 if newest is not plan.newest else plan.home.number if plan.home else plan.match.said if plan.match else 0
        self.memory.remember(self.stores, BACKUPS.name, newest, looked_at=series if good else (), said=said)
        homes = plan.home.homes if plan.home else plan.match.homes if plan.match else newest.manifest.homes
        for store in self.stores:
            _hints.leave(store, name, [home.host for home in homes], newest.manifest.public_keys)


def _storage_changed(told: Told, match: KnownAuthority | None) -> list[Finding]:
    return _adcs_keys.storage_changed(told, match.newest.manifest.own) if match and match.newest else []


def _why_due(plan: Plan) -> str:
    """Why a backup is due. Where older backups are damaged, that is the cause, and told alone."""
    if plan.match is None:
        return "the stores hold no backup of this CA"
    damaged = [advisory.message for advisory in plan.match.advisories]
    found = damaged or [f"the newest backup does not hold {generation.label}" for generation in plan.due_for]
    return "; ".join(found or [one.message for one in _storage_changed(plan.told, plan.match)])


def _coverage(generations: t.Sequence[Generation], covered: t.Collection[str]) -> str:
    return "".join(f"{generation.label}: {'covered' if generation.sha256 in covered else 'not covered'}\n" for generation in generations)
