# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import secrets
import time
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _databases
from ansible_collections.keyward.pki.plugins.module_utils._chains import BASE_DAMAGED
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import (
    Lacks,
    age_in_seconds,
    due_reasons,
    fewer_entries,
    is_old,
    lost_rows,
    refuse_emptied,
    set_reason,
)
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import parallel
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.set_contents import compared, set_files
from ansible_collections.keyward.pki.plugins.module_utils._generation import Home, authority_id, directory_name
from ansible_collections.keyward.pki.plugins.module_utils._home import MOVED, HomeChange
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Misshapen
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import (
    Changed,
    Commit,
    Committed,
    Copied,
    Copy,
    Draft,
    Own,
    StateTold,
    TellChanged,
    TellState,
)
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import (
    MEMBERS,
    Lacking,
    Members,
    SetFile,
    SetManifest,
    State,
    are_files_of_a_set,
    members_of,
)
from ansible_collections.keyward.pki.plugins.module_utils._signed import document
from ansible_collections.keyward.pki.plugins.module_utils._store import Staged, Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import (
    SETS,
    Stored,
    digest_of,
    new_name,
)
from ansible_collections.keyward.pki.plugins.module_utils._time import now, now_text, parse_time
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs_sets, _hints
from ansible_collections.keyward.pki.plugins.plugin_utils._database_sets import DatabaseTask, HostStore, Known, set_result
from ansible_collections.keyward.pki.plugins.plugin_utils._increments import (
    Plan,
    full_after,
    lacking_stores,
    lists_are_sound,
    planned,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import KnownAuthority
from ansible_collections.keyward.pki.plugins.plugin_utils._known_databases import Record, sets_of
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import line_of_a_signer
from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import refuse_unvouched
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, findings, made

_MANY = 10_000  # members of a set whose list another process proves


class Made(t.NamedTuple):
    """A set that was stored."""

    stored: Stored
    copied: Copied
    paths: list[str]
    removed: list[str]
    advisories: t.Sequence[Finding] = ()


class ActionModule(DatabaseTask):
    NAME, ARGUMENTS = "ca_database_backup", _arguments.CA_DATABASE_BACKUP

    def perform(self) -> Result:
        self._one_of("stores", "host_store")
        age = age_in_seconds(self.options["max_age"]) if self.options["max_age"] else None
        self._refuse_odd_keeping()
        full_when = full_after(self.options["full_after"])
        extra = self._extra_paths()
        stores = self._stores()
        for store in stores:
            store.refuse_if_not_writable()
        self.memory.refuse_other_stores(stores)
        self.signers.key  # noqa: B018 - every night, not only on the day when something is due
        told: StateTold = self.completed(self.send(TellState(extra), StateTold))
        self._refuse_extra_paths(told.abilities)
        state = self._state(told)
        there = None if stores else self._host_store(told.generations, to_write=True)
        used: t.Sequence[Store | HostStore] = [there] if there else stores
        self.memory.refuse_other_stores(used)  # a store on the host: take what the host told of it
        known = self._known(told, used)
        moved = [Finding("home_changed", f"a person says where {told.authority.subject} lives")] if known.change else []
        newest, said = known.newest, self._compared(told, known, used)
        refuse_emptied(state, told.generations, newest.manifest if newest else None)
        full = self.options["full"] and told.abilities.sets_are_archives
        reasons = due_reasons(state, newest.manifest if newest else None, age, now(), full) + moved
        if newest and not reasons:
            reasons = self._by_what_was_touched(told, state, newest, known)
        lacking = [] if reasons else lacking_stores(known.own, stores, newest)

        identity = known.authority
        paths = [one.path for series in known.own.values() for one in series.all if newest and one.name == newest.name]
        manifest, latest, stored = newest.manifest if newest else None, newest, None
        if reasons and not self._check:
            identity = identity or _new_id(told)
            told = replace(told, authority=replace(told.authority, id=identity))
            plan = planned(known.own, newest, told, self.options["full"], full_when)
            if stores and not lists_are_sound(plan.known):
                plan = Plan(why=plan.why or "chain_broken")
            draft = self._draft(told, state, reasons[0], known, plan)
            order = (told, draft, known, plan)
            stored = self._in_store_of_host(there, *order) if there else self._in_stores(stores, *order)
            latest, manifest, paths = stored.stored, stored.stored.manifest, stored.paths
            state = manifest.state
        elif lacking and newest and not self._check:
            for store, lacks in lacking:
                copies = {one.digest: store.copy(one, known.name) for one in lacks}
                paths += [copies[newest.digest]] if newest.digest in copies else []
        if latest and not self._check:
            self._remember(used, stores, latest, known)

        left_out = [dict(one) for one in manifest.left_out] if manifest else []
        lost = lost_rows(manifest, known.holds, now()) if manifest else []
        missing = list(_left_out(left_out))
        self.warn(lost, "the database has lost entries: {1}")
        self.warn(missing, "{} files of the CA are left out of its sets: {}")
        result: Result = {
            "changed": bool(reasons or lacking),
            "authority": replace(told.authority, id=identity).as_result(),
            "set": set_result(manifest, paths) if manifest else None,
            "due": bool(reasons),
            "database": {each: getattr(state, each) for each in ("entries", "next_serial", "next_crl_number")},
            "left_out": left_out,
            "removed": stored.removed if stored else [],
            "reasons": findings(reasons),
            "advisories": findings(
                lost,
                told.advisories,
                known.advisories,
                *(series.advisories for series in known.own.values()),
                known.sets.faults,
                (advisory for one in known.all if not one.latest for advisory in one.advisories),
                _databases.copies(known.all, told.authority.home),
                there.advisories if there else (),
                said,
                (*stored.copied.advisories, *stored.advisories) if stored else (),
                fewer_entries(state, newest.manifest) if newest and self._check else (),
                missing,
            ),
        }
        if self._task.diff:
            after = _numbers(state)
            before = after if not reasons else _numbers(newest.manifest.state) if newest else ""
            result["diff"] = {"before": before, "after": after}
        return result

    def _by_what_was_touched(self, told: StateTold, state: State, newest: Stored, known: Known) -> list[Finding]:
        """Why a set is due all the same, where files that were issued have other times or inodes than in the newest one."""
        if not newest.manifest.is_archive or state.stamps == newest.manifest.state.stamps:
            return []
        chain = (*newest.links, newest)
        order = TellChanged(told.generations[-1].sha256, newest.manifest.members.sha256 or "", extra_paths=self._extra_paths())
        try:
            if self.options["host_store"]:
                directory, database = known.name.split("/")
                lists = tuple(f"{one.name}/{MEMBERS}" for one in chain)
                order = replace(order, host_store=self.options["host_store"], directory=directory, database=database, base=lists)
                changed = self.send(order, Changed).changed
            elif lists_are_sound(chain):
                with self._remote_directory() as folder:
                    changed = self.send(replace(order, folder=folder, base=self._send_lists(folder, chain)), Changed).changed
            else:
                return [set_reason("no_set")]
        except KeywardError as exc:
            if any(finding.code == BASE_DAMAGED for finding in exc.findings):
                return [set_reason("no_set")]
            raise
        return [set_reason("database_changed")] if changed else []

    def _remember(self, used: t.Sequence[Store | HostStore], stores: t.Sequence[Store], latest: Stored, known: Known) -> None:
        """What is there now, and where to look for it."""
        series = [store.one(known.name) for store in stores]
        good = len(known.sets.ends) < 2 and not known.sets.faults and not any(one.advisories for one in known.own.values())
        self.memory.remember(used, SETS.name, latest, latest.manifest.database, series if good else ())
        for store in stores:
            authority = known.name.split("/", maxsplit=1)[0]
            _hints.leave(store, authority, [home.host for home in known.homes], latest.manifest.public_keys)

    def _refuse_odd_keeping(self) -> None:
        for name, least in (("keep_full_sets", 1), ("keep_days", 0)):
            if self.options[name] is not None and self.options[name] < least:
                raise KeywardError("ca_database_backup can't run", f"{name} is less than {least}", f"Give a number of at least {least}")

    def _known(self, told: StateTold, stores: t.Sequence[Store | HostStore], everything: bool = False) -> Known:
        """What the stores hold of the host's database; a new id where they hold nothing of it. Raises KeywardError.

        C(everything): wherever it lies in them. Nothing is called the first before that was looked for.
        """
        home = told.authority.home
        known, sets = self._known_in(stores, None if everything else told.generations)
        self.say_forgotten_keys(told.generations)
        found = self.stand(known, told)
        self.refuse_elsewhere("nothing was backed up", found, told)
        record, own = found.known, sets_of(found.known, sets)
        change = record.change_home(self.said, home) if record else None
        if change and isinstance(record, KnownAuthority):
            why = "the backups of its keys say where it lives, and ca_key_backup was not told"
            raise KeywardError("nothing was backed up", why, f"Say it there first ({'move' if change.kind == MOVED else 'twin'}: true)")
        homes = change.homes if change else record.homes if record else (home,)

        def former() -> t.Sequence[Home]:
            return (*record.homes, *record.former_homes) if record else ()

        at = [own.database_at(store.path, home, homes, former) for store in stores] if own else []
        best = max((one for one in at if one and one.latest), key=lambda one: one.latest.rank if one.latest else (0, ""), default=None)
        whose: Record | None = own or record
        identity, every = whose.id if whose else None, own.every if own else []
        if best and best.latest:
            name, database = best.name, best.latest.manifest.database
        elif not everything:
            return self._known(told, stores, everything=True)
        else:
            authority, database = replace(told.authority, id=identity or _new_id(told)), _databases.new_id()
            above = own.name if own else directory_name(authority)
            name = f"{above}/{_databases.directory_of(database, authority)}"
            # Sets without a readable manifest.
            every = every or [one for store in stores for one in store.series([above]) if one.authority == above]
        read = own.series if own else {}
        series = {store.path: next((one for one in read.get(store.path, ()) if one.name == name), store.one(name)) for store in stores}
        self.memory.spare_older(SETS.name, identity or "", list(series.values()), database)
        return Known(name, database, identity, series, every, homes, change, (*found.advisories, *self.unread))

    def _compared(self, told: StateTold, known: Known, stores: t.Sequence[Store | HostStore]) -> list[Finding]:
        """What is to be said of this database's sets beside what was remembered. Raises KeywardError where they are less."""
        signed = known.signed
        if not signed:
            refuse_unvouched((each for store in stores for each in store.series()), told, "the database was not backed up")
            keys = {generation.public_key_sha256 for generation in told.generations}
            error = self.memory.forgotten_by_stores(SETS.name, keys, told.authority.home.as_json())
            if error:
                raise error
            return []
        self.refuse_rolled_back(signed)
        said = self.memory.unknown(SETS.name, signed[0].manifest.authority.id or "", known.id)
        if len(known.sets.ends) > 1:
            paths = " and ".join(one.path for one in known.sets.ends)
            said.append(Finding("forked", f"{paths} don't follow each other: two runs made them apart. The next set joins them"))
        return said

    def _draft(self, told: StateTold, state: State, reason: Finding, known: Known, plan: Plan) -> SetManifest:
        """A set's manifest, but for what only the copy tells."""
        home, last = told.authority.home, known.sets.ends
        return SetManifest(
            id=secrets.token_hex(16),
            sequence=max(series.next_sequence for series in known.own.values()),
            previous=last[0].digest if last else None,
            also_follows=tuple(one.digest for one in last[1:]),
            kind="full",
            database=known.id,
            authority=told.authority,
            homes=known.homes,
            made_at=home,
            created=now_text(),
            as_of=now_text(),
            made=made(reason=reason.code, full_because=plan.why),
            files=(),
            members=Members(0, 0),
            state=state,
            left_out=(),
            generations=told.generations,
            lacking=self._gone_back(told, known),
            own=self._kept(told, told.own_state),
        )

    def _gone_back(self, told: StateTold, known: Known) -> tuple[Lacking, ...]:
        """The losses of a database that only its backend's judgement can compare."""
        if not told.own_state:
            return ()
        return _databases.lacking_of(known.sets, lambda older: self._lost(told, older))

    def _lost(self, told: StateTold, older: Stored) -> Lacks:
        with self.reading():
            return _adcs_sets.lacks(told.own_state, older.manifest)

    def _is_old(self, one: Stored) -> bool:
        return is_old(one.manifest.created, self.options["keep_days"], now())

    def _kept(self, told: StateTold, own_state: Own) -> Result | None:
        """What the manifest keeps for the judgement of a backend that has its own."""
        if not own_state:
            return None
        with self.reading():
            return _adcs_sets.kept(told.own, own_state)

    def _finished(self, told: StateTold, draft: SetManifest, copied: Copied, plan: Plan) -> SetManifest:
        """With what the copy told. Raises KeywardError where that can't be in a manifest."""
        names = [file.name for file in copied.files]
        base = plan.manifest_base(copied.changes)
        # Names become paths here.
        if not are_files_of_a_set(names, told.abilities.sets_are_archives) or (plan.base is None) is not (base is None):
            raise KeywardError(
                "nothing was stored",
                f"the host {self._host} answered with other files than those of a set",
                "Look into that host: no release of the collection answers so",
            )
        with self.reading():
            _refuse_odd_time(copied.as_of)
        return replace(
            draft,
            kind="increment" if base else "full",
            base=base,
            files=tuple(SetFile(file.name, file.sha256, file.size) for file in copied.files),
            members=copied.members or members_of(copied.files),
            as_of=copied.as_of,
            state=self._state(copied),
            left_out=tuple(dict(vars(one)) for one in copied.left_out),
            own=self._kept(told, copied.own_state),
        )

    def _copied(self, told: StateTold, known: Known, plan: Plan, **where: t.Any) -> tuple[Copied, int]:
        """What the host answered, and how many seconds it took."""
        order = Copy(
            told.generations[-1].sha256,
            base_list=plan.base_list,
            whole=plan.base is None,
            truncate_logs=self.options["truncate_logs"],
            extra_paths=self._extra_paths(),
            **where,
        )
        begin = time.monotonic()
        return self.send(order, Copied, last=known.seconds_of("increment" if plan.base else "full")), int(time.monotonic() - begin)

    # --- into a store of the host ---

    def _in_store_of_host(self, store: HostStore, told: StateTold, draft: SetManifest, known: Known, plan: Plan) -> Made:
        """Make and store the set on the host: no file travels."""
        series = known.own[store.path]
        directory, database = known.name.split("/")
        counting = tuple(one.digest for one in series.all)
        begun = Draft(directory, database, document(draft.as_json()).decode("ascii"), counting)
        lists = tuple(f"{one.name}/{MEMBERS}" for one in plan.known)
        try:
            copied, seconds = self._copied(told, known, plan, host_store=self.options["host_store"], draft=begun, base=lists)
        except KeywardError as exc:
            if not any(finding.code == BASE_DAMAGED for finding in exc.findings):
                raise
            plan = Plan(why=plan.why or "chain_broken")
            draft = replace(draft, made={**draft.made, "full_because": plan.why})
            copied, seconds = self._copied(told, known, plan, host_store=self.options["host_store"], draft=begun)
        finished = self._finished(told, draft, copied, plan)
        stored = self._signed(replace(finished, lacking=copied.lacking or draft.lacking, seconds=seconds), store.path)
        order = Commit(
            host_store=self.options["host_store"],
            staged=copied.staged or "",
            directory=directory,
            database=database,
            name=new_name(draft.sequence),
            manifest=stored.document.decode("ascii"),
            signature=(stored.signature or b"").decode("ascii"),
            event=self._sent_event(known.change.kind if known.change else "set", stored, **_said(known.change)),
            signer=line_of_a_signer(self.signers.key.blob),
            counting=(*counting, stored.digest),
            keep=self.options["keep_full_sets"],
            may_go=tuple(one.name for one in series.all if self._is_old(one) and not (told.own_state and self._lost(told, one).any)),
        )
        done = self.send(order, Committed)
        return Made(stored, copied, [done.stored_at], list(done.removed), done.advisories)

    def _signed(self, manifest: SetManifest, path: str) -> Stored:
        content = document(manifest.as_json())
        return Stored(path, manifest, SETS, content, self.signers.sign(content))

    # --- into stores here ---

    def _in_stores(self, stores: t.Sequence[Store], told: StateTold, draft: SetManifest, known: Known, plan: Plan) -> Made:
        first, *others = stores
        for store in stores:
            store.remove_left()
        compare = compared if told.abilities.sets_are_archives else _adcs_sets.compared
        with first.stage() as staged:
            copied, seconds = self._fetched(told, draft, staged, known, plan)
            manifest = replace(self._finished(told, draft, copied, plan), seconds=seconds)
            if manifest.is_archive:
                arrived = Stored(staged.path, manifest, SETS)
                arrived.links = plan.chain
                # Its files were proved on the host. Here the member lists of its chain are compared with the manifest.
                proof = parallel.beside(set_files(arrived).prove_list, manifest.members.count > _MANY)
                with proof as proved, self._saying("compares the set with those before it"):
                    lacking = _databases.lacking_of(known.sets, lambda older: compared(arrived, older, files=False))
                    proved()
                manifest = replace(manifest, lacking=lacking)
            with contextlib.ExitStack() as locks:
                # Another controller may name the same stores in another order.
                for store in sorted(stores, key=lambda store: store.path):
                    locks.enter_context(store.locked())
                    _databases.refuse_second(store, known.name, manifest.sequence, manifest.made_at, [series.name for series in known.all])
                stored = self._signed(manifest, staged.path)
                stored.path = staged.commit(stored.document, stored.signature, known.name, new_name(manifest.sequence))
        with self._saying("brings every store up to date"):
            paths = [stored.path, *(store.copy(stored, known.name) for store in others)]
            pruned = [_databases.prune(store, known.name, self.options["keep_full_sets"], self._is_old, compare) for store in stores]
        removed, event = [path for one in pruned for path in one.removed], self.event("set", stored)
        advisories = [finding for one in pruned for finding in one.advisories]
        for store in stores:
            store.record(known.name.split("/")[0], event)
            if known.change:
                store.record(known.name.split("/")[0], self.event(known.change.kind, stored, **known.change.as_json()))
        self.leave_public_half(stores)
        return Made(stored, copied, paths, removed, advisories)

    def _fetched(self, told: StateTold, draft: SetManifest, staged: Staged, known: Known, plan: Plan) -> tuple[Copied, int]:
        """A set made on the host and moved by the connection's own file transfer, digests compared; and the seconds that it took there."""
        with self._remote_directory() as folder:
            names = self._send_lists(folder, plan.known)
            copied, seconds = self._copied(told, known, plan, folder=folder, base=names)
            self._finished(told, draft, copied, plan)  # before a name of it becomes a path here
            self._refuse_too_large(copied.files, staged.path)
            for file in copied.files:
                staged.write(file.name, b"")
                local = staged.place_of(file.name)
                self._fetch(file.path or self._on_host_path(folder, file.name), local, file.size)
                if digest_of(local) != file.sha256:
                    raise KeywardError(
                        "nothing was stored",
                        f"{file.name} did not arrive as it was made on the host",
                        "Check the connection and the disks",
                    )
        return copied, seconds


def _new_id(told: StateTold) -> str:
    """The id of a new authority. A certificate without its key does not count: it may be that of the CA above."""
    own = [generation for generation in told.generations if generation.private_key != "missing"]
    return authority_id(own or told.generations[-1:])


def _said(change: HomeChange | None) -> Result:
    return change.as_json() if change else {}


def _numbers(state: State) -> str:
    return f"{state.entries} entries, next serial {state.next_serial}, next CRL number {state.next_crl_number}\n"


def _left_out(files: t.Iterable[t.Mapping[str, t.Any]]) -> t.Iterator[Finding]:
    """Reported each night: no set has that file."""
    for one in files:
        if one.get("count") is None:
            yield Finding("private_key_left_out", f"{one['path']}: {one['why']}")


def _refuse_odd_time(text: str) -> None:
    try:
        parse_time(text)
    except ValueError:
        raise Misshapen("as_of", "it is no time") from None
