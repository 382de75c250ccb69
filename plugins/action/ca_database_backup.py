# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import secrets
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import age_in_seconds, due_reasons, refuse_emptied
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import prove_archive, read_members
from ansible_collections.keyward.pki.plugins.module_utils._generation import authority_id, directory_name
from ansible_collections.keyward.pki.plugins.module_utils._manifest import (
    ARCHIVE,
    MEMBERS,
    SetFile,
    SetManifest,
    State,
    are_files_of_a_set,
)
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Misshapen
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Commit, Copied, Copy, Own, StateTold, TellState
from ansible_collections.keyward.pki.plugins.module_utils._store import (
    SETS,
    AuthorityDirectory,
    Staged,
    Store,
    Stored,
    digest_of,
    document,
    new_name,
    recognise,
)
from ansible_collections.keyward.pki.plugins.module_utils._time import now, now_text, parse_time
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs_sets
from ansible_collections.keyward.pki.plugins.plugin_utils._database_sets import DatabaseTask, set_result
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, findings, made


class Made(t.NamedTuple):
    """A set that was stored."""

    manifest: SetManifest
    copied: Copied
    paths: list[str]
    removed: list[str]


class ActionModule(DatabaseTask):
    NAME, ARGUMENTS = "ca_database_backup", _arguments.CA_DATABASE_BACKUP

    def perform(self) -> Result:
        self._one_of("stores", "host_store")
        age = age_in_seconds(self.options["max_age"]) if self.options["max_age"] else None
        if self.options["keep_full_sets"] is not None and self.options["keep_full_sets"] < 1:
            raise KeywardError(
                "ca_database_backup can't run", "keep_full_sets is less than 1", "Give the number of sets to keep, at least 1"
            )
        stores = self._stores()
        for store in stores:
            store.refuse_if_not_writable()
        told: StateTold = self.completed(self.send(TellState(), StateTold))
        state = self._state(told)
        there = None if stores else self._host_store(told.generations, to_write=True)
        held: dict[str, AuthorityDirectory | None] = {}
        for one in [there] if there else stores:
            held[one.path] = recognise(one.authorities(), told.authority, told.generations)
        directories = [directory for directory in held.values() if directory]
        newest = max((directory.newest for directory in directories if directory.newest), key=lambda one: one.rank, default=None)
        refuse_emptied(state, told.generations, newest.manifest if newest else None)
        reasons = due_reasons(state, newest.manifest if newest else None, age, now())
        lacking = [store for store in stores if newest and not reasons and not _has(held[store.path], newest)]

        identity = next((one.latest.manifest.authority.id for one in directories if one.latest), None)
        paths = [one.path for directory in directories for one in directory.all if newest and one.name == newest.name]
        manifest, stored = newest.manifest if newest else None, None
        if reasons and not self._check:
            identity = identity or authority_id(told.generations)
            told = replace(told, authority=replace(told.authority, id=identity))
            name = directories[0].name if directories else directory_name(told.authority)
            draft = self._draft(told, state, reasons[0])
            stored = self._in_store_of_host(told, draft, there.authority(name)) if there else self._in_stores(told, draft, stores, name)
            manifest, state, paths = stored.manifest, stored.manifest.state, stored.paths
        elif lacking and newest and not self._check:
            paths += [store.copy(newest, directories[0].name) for store in lacking]

        left_out = stored.copied.left_out if stored else ()
        result: Result = {
            "changed": bool(reasons or lacking),
            "authority": replace(told.authority, id=identity).as_result(),
            "set": set_result(manifest, paths) if manifest else None,
            "due": bool(reasons),
            "database": {each: getattr(state, each) for each in ("entries", "next_serial", "next_crl_number")},
            "left_out": [dict(vars(one)) for one in left_out],
            "removed": stored.removed if stored else [],
            "reasons": findings(reasons),
            "advisories": findings(
                told.advisories,
                *(directory.advisories for directory in directories),
                there.advisories if there else (),
                stored.copied.advisories if stored else (),
                (Finding("private_key_left_out", f"{one.path} was left out: {one.why}") for one in left_out if one.count is None),
            ),
        }
        if self._task.diff:
            after = _numbers(state)
            before = after if not reasons else _numbers(newest.manifest.state) if newest else ""
            result["diff"] = {"before": before, "after": after}
        return result

    def _draft(self, told: StateTold, state: State, reason: Finding) -> SetManifest:
        """A set's manifest, but for its place in the order of sets and for what only the copy tells."""
        return SetManifest(
            id=secrets.token_hex(16),
            sequence=0,
            previous=None,
            kind="full",
            authority=told.authority,
            created=now_text(),
            as_of=now_text(),
            made=made(reason=reason.code),
            files=(),
            members=0,
            state=state,
            left_out=(),
            generations=told.generations,
            own=self._kept(told, told.own_state),
        )

    def _kept(self, told: StateTold, own_state: Own) -> Result | None:
        """What the manifest keeps for the judgement of a backend that has its own."""
        if not own_state:
            return None
        with self.reading():
            return _adcs_sets.kept(told.own, own_state)

    def _finished(self, told: StateTold, draft: SetManifest, copied: Copied) -> SetManifest:
        """With what the copy told. Raises KeywardError where that can't be in a manifest."""
        names = [file.name for file in copied.files]
        if not are_files_of_a_set(names, told.abilities.sets_are_archives):  # they become paths here
            raise KeywardError(
                "nothing was stored",
                f"the host {self._host} answered with other files than those of a set",
                "Look into that host: no release of the collection answers so",
            )
        with self.reading():
            _refuse_odd_time(copied.as_of)
        return replace(
            draft,
            files=tuple(SetFile(file.name, file.sha256, file.size) for file in copied.files),
            members=len(names) if copied.members is None else copied.members,
            as_of=copied.as_of,
            state=self._state(copied),
            left_out=tuple(dict(vars(one)) for one in copied.left_out),
            own=self._kept(told, copied.own_state),
        )

    def _copied(self, told: StateTold, **where: t.Any) -> Copied:
        order = Copy(told.generations[-1].sha256, truncate_logs=self.options["truncate_logs"], **where)
        return self.send(order, Copied)

    # --- into a store of the host ---

    def _in_store_of_host(self, told: StateTold, draft: SetManifest, directory: AuthorityDirectory) -> Made:
        """Made and stored there: nothing travels."""
        draft = replace(draft, sequence=directory.next_sequence, previous=directory.newest.manifest.id if directory.newest else None)
        commit = Commit(
            directory=directory.name,
            name=new_name(draft.sequence),
            manifest=document(draft.as_json()).decode("ascii"),
            event=self._event("set", draft),
            keep=self.options["keep_full_sets"],
        )
        copied = self._copied(told, host_store=self.options["host_store"], commit=commit)
        return Made(self._finished(told, draft, copied), copied, [str(copied.stored_at)], list(copied.removed))

    # --- into stores here ---

    def _in_stores(self, told: StateTold, draft: SetManifest, stores: t.Sequence[Store], name: str) -> Made:
        first, *others = stores
        with first.stage() as staged:
            copied = self._fetched(told, draft, staged)
            manifest = self._finished(told, draft, copied)
            if manifest.is_archive:
                prove_archive(os.path.join(staged.path, ARCHIVE), read_members(os.path.join(staged.path, MEMBERS)))
            with first.locked():
                newest = first.authority(name).newest
                sequence = max(store.authority(name).next_sequence for store in stores)
                manifest = replace(manifest, sequence=sequence, previous=newest.manifest.id if newest else None)
                paths = [staged.commit(document(manifest.as_json()), name, new_name(sequence))]
        stored = Stored(paths[0], manifest, SETS)
        paths += [store.copy(stored, name) for store in others]
        removed = []
        for store in stores:
            removed += store.keep(name, self.options["keep_full_sets"], self._host)
            store.record(name, self._event("set", manifest))
        return Made(manifest, copied, paths, removed)

    def _fetched(self, told: StateTold, draft: SetManifest, staged: Staged) -> Copied:
        """A set made on the host and moved by the connection's own file transfer, digests compared."""
        with self._remote_directory() as folder:
            copied = self._copied(told, folder=folder)
            self._finished(told, draft, copied)  # before a name of it becomes a path here
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
        return copied


def _numbers(state: State) -> str:
    return f"{state.entries} entries, next serial {state.next_serial}, next CRL number {state.next_crl_number}\n"


def _has(directory: AuthorityDirectory | None, one: Stored) -> bool:
    return bool(directory and any(other.name == one.name and other.damage is None for other in directory.all))


def _refuse_odd_time(text: str) -> None:
    try:
        parse_time(text)
    except ValueError:
        raise Misshapen("as_of", "it is no time") from None
