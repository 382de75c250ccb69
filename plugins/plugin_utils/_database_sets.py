# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: sets of databases on the controller, which of them is meant, and how they travel; may change in any release."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import typing as t
from dataclasses import dataclass

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.keyward.pki.plugins.module_utils._chains import Chains
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Home, same_place
from ansible_collections.keyward.pki.plugins.module_utils._home import HomeChange, shown_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import (
    Copied,
    CopiedFile,
    Held,
    HeldSet,
    ReadStore,
    SignedEvent,
    StateTold,
)
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetManifest, State, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._signed import WAY_OUT
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import (
    BACKUPS,
    MANIFEST,
    SETS,
    Series,
    Stored,
    damaged,
    folders,
    is_name,
)
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs_sets, _hints
from ansible_collections.keyward.pki.plugins.plugin_utils._homes import HomeTask
from ansible_collections.keyward.pki.plugins.plugin_utils._increments import lists_to_send
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import Authorities, KnownAuthority, all_owned
from ansible_collections.keyward.pki.plugins.plugin_utils._known_databases import (
    KnownDatabases,
    Record,
    SetStore,
    known_databases,
    records,
    sets_of,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._limits import file_size_limited
from ansible_collections.keyward.pki.plugins.plugin_utils._progress import Progress, read, written
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers
from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import judged
from ansible_collections.keyward.pki.plugins.plugin_utils._stores import named_stores
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result


class HostStored(Stored):
    """A set in a store of a host, judged there. C(directory), C(database): the names of its authority's directory and its database's."""

    def __init__(self, one: HeldSet, manifest: SetManifest) -> None:
        signature = None if one.signature is None else one.signature.encode("utf-8", "surrogateescape")
        super().__init__(one.path, manifest, SETS, one.manifest.encode("utf-8", "surrogateescape"), signature)
        self._name, self.directory, self.database = one.name, one.directory, one.database
        self.flaw = self.damage = one.damage

    @property
    def name(self) -> str:
        return self._name


class HostSeries(Series):
    """What a store of a host holds of one database."""

    def __init__(self, name: str, sets: t.Sequence[HeldSet], signers: Signers) -> None:
        super().__init__(name, SETS, signers, in_store=True)
        self.home_changes = []  # its sets say it themselves
        self.names = sorted((one.name for one in sets), reverse=True)
        self._read = {one.name: self._told(one, signers) for one in sets}

    def _told(self, held: HeldSet, signers: Signers) -> Stored | KeywardError:
        one = _parsed(held)
        if isinstance(one, Stored):
            one.doubt = signers.doubt(one.document, one.signature, one.manifest.created)
            return self.judged(one)
        return one


def _parsed(one: HeldSet) -> Stored | KeywardError:
    try:
        return HostStored(one, set_manifest_from_json(json.loads(one.manifest)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return damaged(one.path, SETS)


class HostStore:
    """A store of a host, as the host told it."""

    def __init__(self, host: str, path: str, held: Held, signers: Signers) -> None:
        self.path, self._held, self._signers = path, held, signers
        self.place, self.id = f"{path} on {host}", held.id  # by which a controller remembers it
        self.advisories: list[Finding] = []
        if held.local_disk:
            text = "the store is on a disk of the CA host itself: what destroys the host destroys it too"
            self.advisories.append(Finding("store_on_the_host", text))

    def series(self, authorities: t.Iterable[str] | None = None) -> list[Series]:
        """All that the host told: it told nothing of others."""
        return [self.one(name) for name in sorted({f"{one.directory}/{one.database}" for one in self._held.sets})]

    def one(self, name: str) -> Series:
        sets = [one for one in self._held.sets if f"{one.directory}/{one.database}" == name and is_name(one.name)]
        return HostSeries(name, sets, self._signers)


# --- which set is meant --------------------------------------------------------------------------------------------


def given_set(path: str, signers: Signers) -> Stored:
    """What the option C(set) names: a set's directory, a database's, or an authority's with one database. Raises KeywardError."""
    if os.path.exists(os.path.join(path, MANIFEST)):
        given = judged(path, SETS, signers)
        if given.doubt:
            raise KeywardError(f"{path} can't be used", f"nobody known vouches for it: {given.doubt}", WAY_OUT)
        beside = Series(os.path.dirname(os.path.abspath(path)), SETS, signers)
        return Chains([beside], thorough=True).whole(given)
    series = [Series(path, SETS, signers)]
    if not series[0].names:
        series = [one for one in (Series(os.path.join(path, name), SETS, signers) for name in folders(path)) if one.names]
    if len(series) > 1:
        raise KeywardError(
            f"{path} is no set", "it holds several databases: " + ", ".join(one.path for one in series), "Give the directory of one"
        )
    sets = Chains(series, thorough=True)
    newest = sets.newest
    if newest is None:
        told = [each.message for one in series for each in one.advisories]
        why = "; ".join(["no intact set lies in it", *told, *(fault.message for fault in sets.faults)])
        raise KeywardError(f"{path} is no set", why, "Give a set's directory, or a database's directory in a store")
    return newest


def of_lost(sets: KnownDatabases, path: str, here: Home, record: Record) -> list[Series]:
    """Where nothing of a CA is left: the databases that were in the place that is stated, else as C(of_live)."""
    there = [one for one in sets.series.get(path, []) if one.latest and one.latest.manifest.made_at.fits(here)]
    return there or of_live(sets, path, here, record)


def of_live(sets: KnownDatabases, path: str, here: Home, record: Record) -> list[Series]:
    """The databases that can be the CA's: its own; where none lives in this place, its databases on other hosts."""
    own = sets.database_at(path, here, record.homes, lambda: record.former_homes)
    if own:
        return [own]
    others = [one for one in sets.series.get(path, []) if one.latest and one.latest.manifest.made_at.host != here.host]
    return [one for one in others if one.latest and same_place(one.latest.manifest.made_at.place, here.place)] or others


def only_database(series: t.Sequence[Series], host: str) -> None:
    """Raise KeywardError where a store has several that can be meant."""
    if len(series) > 1:
        raise KeywardError(
            "nothing was restored",
            f"it can't be told which database of {host} is meant: " + " or ".join(sorted(one.name for one in series)),
            "Name one: give its directory in the store as set, or the options that say which CA it is",
        )


def newest_set(sets: Chains, host: str, others: t.Sequence[Finding] = ()) -> Stored:
    """The newest intact set of a database. C(others): what is said of those that don't count. Raises KeywardError.

    In place of an increment that can't be used none is taken that a person did not name: it may be weeks older.
    """
    newest, faults = sets.newest, sets.faults
    if newest and any(one.manifest.kind == "increment" for one in sets.signed if one.rank > newest.rank):
        way = "take the newer ones out of the store" if isinstance(newest, HostStored) else f"name it: {newest.path} (set)"
        why = "; ".join(fault.message.rstrip(".") for fault in faults)
        raise KeywardError("nothing was restored", why, f"Mount the store that has it. To go on with an older one, {way}", faults)
    if newest is None:
        told = [*others, *faults]
        raise KeywardError(
            "nothing was restored",
            "; ".join([f"no intact set of this database on {host} is stored", *(other.message for other in told)]),
            "Mount the right store, or name a set (set)",
        )
    return newest


def set_result(manifest: SetManifest, paths: t.Sequence[str]) -> Result:
    return {
        "id": manifest.id,
        "kind": manifest.kind,
        "full_because": manifest.made.get("full_because"),
        "links": [link.set for link in manifest.links],
        "changes": dict(vars(manifest.base.changes)) if manifest.base else None,
        "database": manifest.database,
        "paths": list(paths),
        "created": manifest.created,
        "as_of": manifest.as_of,
        "files": [dict(vars(file)) for file in manifest.files],
        "members": manifest.members.count,
    }


@dataclass(frozen=True)
class Known:
    """What the stores hold of an authority. C(own): of this database, by the path of each store; C(name): its directory below a store.

    C(homes): where it lives; C(change): what a person says of that.
    """

    name: str
    id: str
    authority: str | None
    own: t.Mapping[str, Series]
    all: t.Sequence[Series]
    homes: tuple[Home, ...]
    change: HomeChange | None
    advisories: tuple[Finding, ...]

    @functools.cached_property
    def sets(self) -> Chains:
        return Chains(self.own.values())

    @functools.cached_property
    def newest(self) -> Stored | None:
        """The newest one that can be restored, as far as sizes tell."""
        return self.sets.newest

    @functools.cached_property
    def signed(self) -> list[Stored]:
        return self.sets.signed

    def seconds_of(self, kind: str) -> int | None:
        """How long the host took for the last set of that kind."""
        before = (*self.newest.links, self.newest) if self.newest else ()
        return next((one.manifest.seconds for one in reversed(before) if one.manifest.kind == kind), None)

    def holds(self, name: str) -> bool:
        return any(name in one.names for one in self.own.values())


# --- what both tasks share -------------------------------------------------------------------------------------------


class DatabaseTask(HomeTask):
    ROLE = "database_backup"

    def _one_of(self, *names: str) -> None:
        if len([name for name in names if self.options.get(name)]) != 1:
            raise KeywardError(f"{self.NAME} can't run", f"it needs exactly one of {', '.join(names)}", "Give one of them")

    def _extra_paths(self) -> tuple[str, ...]:
        """They are paths of the host, so that no other user's C(~) and no directory of the controller means anything."""
        given = [os.path.normpath(path) for path in self.options["extra_paths"] or () if path.startswith("/")]
        if len(given) != len(self.options["extra_paths"] or ()):
            raise KeywardError(f"{self.NAME} can't run", "extra_paths holds a path that is not absolute", "Give paths that begin with /")
        return tuple(given)

    def _refuse_extra_paths(self, abilities: Abilities) -> None:
        if self.options["extra_paths"] and not abilities.sets_are_archives:
            raise KeywardError(
                f"{self.NAME} can't run",
                "the software of this CA writes its sets itself, and nothing else goes into them",
                "Leave extra_paths out, and back these files up by other means",
            )

    def _stores(self) -> list[Store]:
        """Those on the controller."""
        return named_stores(self.options["stores"] or (), SETS, self.signers)

    @functools.cached_property
    def _backups(self) -> Authorities:
        """What backups of keys tell of authorities. A store that can't be read stops no database: its sets tell, and that is said."""
        found: list[Store] = []
        for path in self.options["key_stores"] or ():
            try:
                stores = named_stores([path], BACKUPS, self.signers)
                self.memory.refuse_other_stores(stores)
                found += stores
            except KeywardError as exc:
                self._say_unread(exc)
        return Authorities(found)

    def _backups_of(self, generations: t.Sequence[Generation] | None, everything: bool = False) -> list[KnownAuthority]:
        """Those that can be the authority of the host. Of one of which a store holds less than before, its sets tell, and that is said."""
        found = self._backups.all if everything else self._backups.of(self._host, generations, self.options["authority_id"])
        return [one for one in found.known if not self._say_unread(self._less_than_before(one))]

    def _less_than_before(self, one: KnownAuthority) -> KeywardError | None:
        """The newest tells it at once, where all is well."""
        newest = self.memory.rolled_back(BACKUPS.name, one.id, [one.latest], said=one.said)
        return self.memory.rolled_back(BACKUPS.name, one.id, one.signed, said=one.said) if newest else None

    def say_forgotten_keys(self, generations: t.Sequence[Generation]) -> None:
        """Where backups of its keys were there before, and no store that is given has one."""
        keys = {generation.public_key_sha256 for generation in generations}
        if self.options["key_stores"] and not self.unread and not any(keys & one.public_keys for one in self._backups_of(generations)):
            self._say_unread(self.memory.forgotten_by_stores(BACKUPS.name, keys))

    def _say_unread(self, why: KeywardError | None) -> bool:
        if why:
            self.unread.append(Finding("key_store_not_read", f"{why} Until then the sets alone say where the CA lives"))
        return why is not None

    @functools.cached_property
    def unread(self) -> list[Finding]:
        """Why stores of key backups say nothing."""
        return []

    def _host_store(self, generations: t.Iterable[Generation], to_write: bool = False, digests: bool = False) -> HostStore:
        keys = {generation.public_key_sha256 for generation in generations}
        backups = self._backups_of(None)
        keys.update(key for one in backups if any(home.host == self._host for home in one.homes) for key in one.public_keys)
        path, named = self.options["host_store"], self.options["authority_id"]
        order = ReadStore(path, self._host, tuple(sorted(keys)), to_write, named, digests)
        return HostStore(self._host, path, self.send(order, Held), self.signers)

    def _known_in(
        self, stores: t.Sequence[SetStore], generations: t.Sequence[Generation] | None = None
    ) -> tuple[list[Record], list[KnownDatabases]]:
        """What counts of each authority, and what the stores hold of their databases. C(generations): as far as these are about them."""
        if generations is None:
            sets = known_databases(stores)
            return records(self._backups_of(None, everything=True), sets), sets
        named, backups = self.options["authority_id"], self._backups_of(generations)
        here = [store for store in stores if isinstance(store, Store)]
        names = _hints.hinted(here, [self._host], [generation.public_key_sha256 for generation in generations])
        for beginning in ([named] if named else []) + [each.id for each in backups]:
            names |= _hints.with_id(here, beginning)
        sets = known_databases(stores, names)
        known = records(backups, sets)
        owners = [each for each in known if shown_of(each, generations) or (named and each.id.startswith(named))]
        if not all_owned(generations, known) or not all(sets_of(each, sets) for each in owners):
            sets = known_databases(stores)
            known = records(backups, sets)
        return known, sets

    def refuse_rolled_back(self, signed: t.Sequence[Stored]) -> None:
        """Raise KeywardError where the stores hold less of a database than before. C(signed): what counts, newest first."""
        manifest = signed[0].manifest
        error = self.memory.rolled_back(SETS.name, manifest.authority.id or "", signed, manifest.database)
        if error:
            raise error

    def _state(self, told: StateTold | Copied) -> State:
        """What a host told of its database. Raises KeywardError."""
        if told.state:
            return told.state
        with self.reading():
            return _adcs_sets.state_of(told.own_state)

    def _sent_event(self, kind: str, about: Stored, **details: t.Any) -> SignedEvent:
        """For a store of the host."""
        event = self.event(kind, about, **details)
        return SignedEvent(event.name, event.content.decode("ascii"), event.signature.decode("ascii"))

    # --- files on their way ---

    @contextlib.contextmanager
    def _remote_directory(self) -> t.Iterator[str]:
        """A directory of the login user on the host that is gone afterwards."""
        with self.room_for(Copied):
            path = str(self._make_tmp_path())
        try:
            yield path
        finally:
            self._remove_tmp_path(path, force=True)

    def _fetch(self, source: str, target: str, size: int) -> None:
        """A file of the host, which ends at the size that was announced. Raises KeywardError."""
        what = f"{self.NAME}: fetches {os.path.basename(source)}"
        with Progress(self._host, what, so_far=written(target), of=size), file_size_limited(size):
            self._transfer(self._connection.fetch_file, source, target)
        if os.stat(target).st_size != size:
            raise KeywardError(
                f"{os.path.basename(source)} was not transferred",
                f"it is not as long as the host {self._host} had said",
                "Check the connection; if it is sound, look into that host",
            )

    def _saying(self, what: str) -> Progress:
        """What this machine does, where it takes long."""
        return Progress(self._host, f"{self.NAME}: {what}")

    def _send_file(self, source: str, target: str) -> None:
        """A file of the controller. Raises KeywardError."""
        what, size = f"{self.NAME}: sends {os.path.basename(source)}", os.path.getsize(source)
        with Progress(self._host, what, so_far=read(source), of=size):
            self._transfer(self._connection.put_file, source, target)

    def _refuse_too_large(self, files: t.Sequence[CopiedFile], folder: str) -> None:
        """Before anything is fetched. Raises KeywardError."""
        total, free = sum(file.size for file in files), shutil.disk_usage(folder).free
        if any(file.size < 0 for file in files) or total > free:
            raise KeywardError(
                "nothing was stored",
                f"the set of the host {self._host} has {total} bytes, and {free} are free in {folder}",
                "Make room there, or look into that host if its database can't be as large",
            )

    def _transfer(self, transfer: t.Callable[[str, str], t.Any], source: str, target: str) -> None:
        try:
            transfer(source, target)
        except AnsibleConnectionFailure:
            raise
        except (AnsibleError, OSError) as exc:
            cause = exc if isinstance(exc, OSError) else exc.__cause__ or getattr(exc, "orig_exc", None)
            why = os_cause(cause) if isinstance(cause, OSError) else "the connection's file transfer failed"
            raise KeywardError(
                f"{os.path.basename(source)} was not transferred", why, f"Check the room and the permissions of {os.path.dirname(target)}"
            ) from exc

    def _send_lists(self, folder: str, chain: t.Sequence[Stored]) -> tuple[str, ...]:
        """The lists of a set and of what it builds on, the full one's first; the names that they have in a folder of the host."""
        names = []
        with lists_to_send(chain) as lists:
            for number, path in enumerate(lists):
                names.append(f"base-{number}.gz")
                self._send_file(path, self._on_host_path(folder, names[-1]))
        if names:
            self._fixup_perms2([folder, *(self._on_host_path(folder, name) for name in names)])
        return tuple(names)

    def _on_host_path(self, folder: str, name: str) -> str:
        return str(self._connection._shell.join_path(folder, name))
