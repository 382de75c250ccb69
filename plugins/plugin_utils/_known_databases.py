# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: authorities, as far as sets of their databases tell; may change in any release."""

from __future__ import annotations

import functools
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _databases
from ansible_collections.keyward.pki.plugins.module_utils._generation import Home
from ansible_collections.keyward.pki.plugins.module_utils._home import HomeChange, change_home, homes_after, lives
from ansible_collections.keyward.pki.plugins.module_utils._stored import Series, Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import at_most_now, now
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import KnownAuthority


class SetStore(t.Protocol):
    """A store of sets, here or on a host."""

    path: str

    def series(self, authorities: t.Iterable[str] | None = None) -> list[Series]: ...


class KnownDatabases:
    """What all stores together hold of the databases of one authority. C(name): its directory below each store."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.of_others = frozenset[str]()  # keys that backups prove to be those of other authorities
        self.series: dict[str, list[Series]] = {}  # by the path of the store

    @property
    def every(self) -> list[Series]:
        return [one for series in self.series.values() for one in series]

    @property
    def databases(self) -> list[list[Series]]:
        """What the stores hold of each database."""
        found: dict[str, list[Series]] = {}
        for one in self.every:
            found.setdefault(one.name, []).append(one)
        return list(found.values())

    @functools.cached_property
    def latest(self) -> list[Stored]:
        """The newest set of each database."""
        newest: dict[str, Stored] = {}
        for one in self.every:
            if one.latest and (one.name not in newest or one.latest.rank > newest[one.name].rank):
                newest[one.name] = one.latest
        return list(newest.values())

    @property
    def _last(self) -> Stored:
        moment = now()
        return max(self.latest, key=lambda one: (at_most_now(one.manifest.created, moment), one.rank))

    @property
    def id(self) -> str:
        return self._last.manifest.authority.id or ""

    @property
    def subject(self) -> str:
        return str(self._last.manifest.authority.subject)

    @property
    def public_keys(self) -> frozenset[str]:
        """The keys that the CA had when the sets were made: a certificate without its key makes nobody its owner."""
        generations = [generation for one in self.latest for generation in one.manifest.generations]
        return frozenset(generation.public_key_sha256 for generation in generations if generation.private_key != "missing") - self.of_others

    @property
    def homes(self) -> tuple[Home, ...]:
        """Where it lives, by the newest set of each database and what a person said since."""
        found: list[Home] = []
        for one in self.latest:
            found += [home for home in homes_after(one.manifest.homes, one.digest, self.home_changes) if home not in found]
        return tuple(found)

    @functools.cached_property
    def home_changes(self) -> list[HomeChange]:
        return [change for one in self.every for change in one.home_changes]

    @property
    def former_homes(self) -> list[Home]:
        return [home for one in self.latest for home in one.manifest.homes]

    def change_home(self, kind: str | None, here: Home) -> HomeChange | None:
        """Same as in C(KnownAuthority)."""
        return change_home(kind, self.homes, here, [one.digest for one in self.latest], self.home_changes) if kind else None

    def database_at(self, path: str, here: Home, homes: t.Sequence[Home], former: t.Callable[[], t.Sequence[Home]]) -> Series | None:
        """The database that lives here, in one store: known by where its sets were made, and kept by a move.

        C(homes): where its authority lives; C(former): where it lived before a person said that it moved.
        """
        series = self.series.get(path, [])
        found = _databases.of_home(series, here)
        return found or _databases.of_home(series, here, self._left(series, here, homes, former()))

    @staticmethod
    def _left(series: t.Sequence[Series], here: Home, homes: t.Sequence[Home], former: t.Sequence[Home]) -> list[Home]:
        """The homes of databases that moved from there to here."""
        made = [one.latest.manifest.made_at for one in series if one.latest]
        left = [home for home in made if lives(former, home, section=False) and not lives(homes, home, section=False)]
        return [home for home in left if home.place.get("name") in (None, here.place.get("name"))]


Record = t.Union[KnownAuthority, KnownDatabases]


def known_databases(stores: t.Sequence[SetStore], authorities: t.Collection[str] | None = None) -> list[KnownDatabases]:
    """Every authority in the stores of which a manifest reads. C(authorities): of those, by their directories."""
    known: dict[str, KnownDatabases] = {}
    for store in stores:
        for one in store.series(authorities):
            # By id: a directory may have been copied.
            known.setdefault(one.authority.rpartition("-")[2], KnownDatabases(one.authority)).series.setdefault(store.path, []).append(one)
    return [each for each in known.values() if each.latest]


def records(backups: t.Sequence[KnownAuthority], sets: t.Sequence[KnownDatabases]) -> list[Record]:
    """What counts of each authority: where backups of its keys tell, they do, else the newest set.

    A host says which keys it has, and backups prove it: a key in the backups of one authority makes the sets of no other its owner.
    """
    owners: dict[str, KnownAuthority] = {}  # by id and by key
    for one in backups:
        for trait in (one.id, *one.public_keys):
            owners.setdefault(trait, one)
    found: list[Record] = list(backups)
    for each in sets:
        claimed = [owners[trait] for trait in (each.id, *each.public_keys) if trait in owners]
        if each.id not in owners and not any(_own(one, each) for one in claimed):
            each.of_others = frozenset(owners)
            found.append(each)
    return found


def sets_of(record: Record | None, sets: t.Sequence[KnownDatabases]) -> KnownDatabases | None:
    if not isinstance(record, KnownAuthority):
        return next((each for each in sets if each is record), None)
    found = (_own(record, each) for each in sets if each.id == record.id or each.public_keys & record.public_keys)
    return next((each for each in found if each), None)


def _own(record: KnownAuthority, sets: KnownDatabases) -> KnownDatabases | None:
    """The databases among these that were in a home of the authority.

    Any other host can show its certificates, and say that it has the keys.
    """
    own = KnownDatabases(sets.name)
    for path, series in sets.series.items():
        own.series[path] = [one for one in series if not one.latest or _shares_home(record, one.latest.manifest.homes)]
    return own if own.latest else None


def _shares_home(record: KnownAuthority, homes: t.Sequence[Home]) -> bool:
    return any(lives(record.homes, home, section=False) for home in homes) or any(
        lives(record.former_homes, home, section=False) for home in homes
    )
