# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: authorities as stores of key backups know them; may change in any release."""

from __future__ import annotations

import functools
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, Home
from ansible_collections.keyward.pki.plugins.module_utils._home import HomeChange, Known, change_home, homes_after, number_said, shown_of
from ansible_collections.keyward.pki.plugins.module_utils._signed import ends
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS, Series, Stored
from ansible_collections.keyward.pki.plugins.plugin_utils import _hints
from ansible_collections.keyward.pki.plugins.plugin_utils._memory import Memory


class KnownAuthority:
    """What all stores together hold of one authority. C(memory): what was looked at before is not looked at again."""

    def __init__(self, latest: Stored, stores: int = 1, memory: Memory | None = None) -> None:
        self.latest, self._stores, self._memory = latest, stores, memory
        self.holdings: dict[str, Series] = {}

    @functools.cached_property
    def series(self) -> list[Series]:
        """Its series in each store that has one."""
        found = list(self.holdings.values())
        if self._memory and len(found) == self._stores:
            self._memory.spare_older(BACKUPS.name, self.id, found)
        return found

    @property
    def id(self) -> str:
        return self.latest.manifest.authority.id or ""

    @property
    def authority(self) -> Authority:
        return t.cast(Authority, self.latest.manifest.authority)

    @property
    def subject(self) -> str:
        return self.authority.subject

    @property
    def homes(self) -> tuple[Home, ...]:
        """Where it lives, by its newest manifest and what a person said since."""
        return homes_after(self.latest.manifest.homes, self.latest.digest, self.home_changes)

    @functools.cached_property
    def home_changes(self) -> list[HomeChange]:
        return [change for directory in self.holdings.values() for change in directory.home_changes]

    @property
    def said(self) -> int:
        """The number of the last thing that a person said of its homes since its newest manifest."""
        return number_said(self.latest.digest, self.home_changes)

    @property
    def former_homes(self) -> list[Home]:
        stored = [home for directory in self.holdings.values() for one in directory.every for home in one.manifest.homes]
        return [*(home for change in self.home_changes for home in change.homes), *stored]

    def change_home(self, kind: str | None, here: Home) -> HomeChange | None:
        """What is to be recorded of what a person says (C(kind)); None where nothing is new in it."""
        return change_home(kind, self.homes, here, [self.latest.digest], self.home_changes) if kind else None

    @property
    def public_keys(self) -> frozenset[str]:
        return t.cast("frozenset[str]", self.latest.manifest.public_keys)

    @property
    def name(self) -> str:
        """Its directory's name, the same in every store."""
        return os.path.basename(os.path.dirname(self.latest.path))

    @functools.cached_property
    def backups(self) -> list[Stored]:
        """Every intact backup once, newest first, whatever store it was found in."""
        found: dict[str, Stored] = {}
        for directory in self.series:
            for backup in directory.all:
                if backup.damage is None:
                    found.setdefault(backup.manifest.id, backup)
        return sorted(found.values(), key=lambda backup: backup.rank, reverse=True)

    @property
    def newest(self) -> Stored | None:
        return self.backups[0] if self.backups else None

    @functools.cached_property
    def signed(self) -> list[Stored]:
        """Every one that somebody known vouches for, once, newest first, whether or not its files are sound."""
        found = {one.digest: one for directory in self.series for one in directory.all}
        return sorted(found.values(), key=lambda one: one.rank, reverse=True)

    @functools.cached_property
    def ends(self) -> list[Stored]:
        """More than one after a fork that nothing has joined yet."""
        return ends(self.signed, max((directory.settled for directory in self.series), default=0))

    @property
    def advisories(self) -> list[Finding]:
        found = [advisory for directory in self.series for advisory in directory.advisories]
        if len(self.ends) > 1:
            paths = " and ".join(one.path for one in self.ends)
            found.append(Finding("forked", f"{paths} don't follow each other: two runs made them apart. The next backup joins them"))
        return found

    @property
    def generations(self) -> list[Generation]:
        """Every generation that any intact backup covers, as the newest of them records it; the newest's current one is last."""
        generations: list[Generation] = []
        for backup in self.backups:
            known = {generation.sha256 for generation in generations}
            generations = [g for g in backup.manifest.generations if g.sha256 not in known] + generations
        return generations

    def paths(self, backup: Stored) -> list[str]:
        """Where a backup lies, in each store that has it."""
        return [other.path for directory in self.series for other in directory.all if other.manifest.id == backup.manifest.id]

    def copies(self, stores: t.Sequence[Store]) -> list[tuple[Stored, Store]]:
        """The copies to make, oldest first: a store lacks a backup, or has a damaged one, that another store has intact."""
        lacking = []
        for store in stores:
            there = self.holdings[store.path].all if store.path in self.holdings else []
            sound = {backup.name for backup in there if backup.damage is None}
            lacking += [(backup, store) for backup in reversed(self.backups) if backup.name not in sound]
        return lacking

    @property
    def covered(self) -> frozenset[str]:
        """The generations that the newest intact backup covers. Every store has it, once the copies are made."""
        return t.cast("frozenset[str]", self.newest.manifest.fingerprints) if self.newest else frozenset()


class Found(t.NamedTuple):
    """C(damaged): what is said of directories of which no manifest reads."""

    known: list[KnownAuthority]
    damaged: list[Finding]


class Authorities:
    """Those in some stores. Hints say where to look; where what is found there does not tell all, everything is looked at.

    C(memory): of a task that comes back each night.
    """

    def __init__(self, stores: t.Sequence[Store], memory: Memory | None = None) -> None:
        self._stores, self._memory = stores, memory
        self._series: dict[str, Series] = {}  # by its path, so that nothing is read twice

    def of(self, host: str, generations: t.Sequence[Generation] | None = None, beginning: str | None = None) -> Found:
        """Those that can be the authority of a host, and whoever else owns something of what it shows (C(generations)).

        C(beginning): of the id of the one that a person names.
        """
        keys = [generation.public_key_sha256 for generation in generations or ()]
        names = _hints.hinted(self._stores, [host], keys)
        if beginning is not None:
            names |= _hints.with_id(self._stores, beginning)
        found = self.read(names)
        if beginning is not None:
            complete = any(each.id.startswith(beginning) for each in found.known)
        elif generations is None:
            complete = any(home.host == host for each in found.known for home in each.homes)
        else:
            complete = all_owned(generations, found.known)
        return found if complete else self.all

    @functools.cached_property
    def all(self) -> Found:
        return self.read(None)

    def read(self, names: t.Collection[str] | None) -> Found:
        """C(names): of their directories; None for all."""
        known: dict[str, KnownAuthority] = {}
        damaged: list[Finding] = []
        for store in self._stores:
            for one in store.series(names):
                directory = self._series.setdefault(one.path, one)
                latest = directory.latest
                if latest:
                    identity = latest.manifest.authority.id or ""
                    authority = known.setdefault(identity, KnownAuthority(latest, len(self._stores), self._memory))
                    there = authority.holdings.setdefault(store.path, directory)
                    if there.latest and latest.rank > there.latest.rank:  # its directory was copied by somebody
                        authority.holdings[store.path] = directory
                    authority.latest = max(authority.latest, latest, key=lambda backup: backup.rank)
                else:
                    damaged += directory.advisories
        return Found(list(known.values()), damaged)


def all_owned(generations: t.Sequence[Generation], known: t.Sequence[Known]) -> bool:
    """Whether for each certificate that a host shows its owner is among these: then no other authority can own one."""
    return all(any(shown_of(each, [generation]) for each in known) for generation in generations)


def next_sequence(stores: t.Sequence[Store], authority_directory: str) -> int:
    return max(store.one(authority_directory).next_sequence for store in stores)
