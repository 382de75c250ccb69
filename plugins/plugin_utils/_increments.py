# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whether the next set of a database is full or an increment, and of which base; may change in any release."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import tempfile
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._chains import Chains, list_fault
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import GROWN, FullAfter, full_reason
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import ListWriter, lines_in, refusing
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import (
    MEMBERS,
    MOST_LINKS,
    Base,
    Changes,
    Link,
)
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import Series, Stored, sequence_of
from ansible_collections.keyward.pki.plugins.module_utils._time import now

_ODD = "ca_database_backup can't run"


class Plan(t.NamedTuple):
    """What the next set is: an increment on C(base), or a full one, and why.

    C(proved): of a full one, the set of which what is the same is not searched again for keys.
    """

    base: Stored | None = None
    why: str | None = None
    proved: Stored | None = None

    @property
    def chain(self) -> tuple[Stored, ...]:
        """The base and all that it builds on, the full set first."""
        return (*self.base.links, self.base) if self.base else ()

    @property
    def known(self) -> tuple[Stored, ...]:
        """The sets whose lists the host gets."""
        last = self.base or self.proved
        return (*last.links, last) if last else ()

    @property
    def base_list(self) -> str | None:
        return self.known[-1].manifest.members.sha256 if self.known else None

    def manifest_base(self, changes: Changes | None) -> Base | None:
        if self.base is None or changes is None:
            return None
        links = tuple(Link(one.name, one.digest) for one in self.chain)
        return Base(self.base.manifest.id, self.base.digest, links, changes)


def planned(own: t.Mapping[str, Series], newest: Stored | None, told: Told, full: bool, after: FullAfter) -> Plan:
    """C(own): what each store holds of the database; C(newest): the newest set that can be restored."""
    if not told.abilities.sets_are_archives:
        return Plan()
    if full:
        return Plan(why="asked")
    sets = Chains(own.values())
    if newest is None or not newest.manifest.is_archive:
        return Plan(why="no_base")
    if newest.digest != sets.signed[0].digest or not all(_is_whole_in(series, newest) for series in own.values()):
        return Plan(why="chain_broken")
    if len(sets.ends) > 1:
        return Plan(why="forked")
    chain = (*newest.links, newest)
    if any(_doubtful_since(series, chain[0]) for series in own.values()):
        return Plan(why="unvouched")  # for example by a signer who was removed since
    why = full_reason([one.manifest for one in chain], told.authority.home, told.generations, after, now())
    return Plan(None, why, newest if why in GROWN else None) if why else Plan(newest)


def _doubtful_since(series: Series, full: Stored) -> bool:
    names = [name for name in series.names if sequence_of(name) > full.manifest.sequence]
    return any(isinstance(one, Stored) and one.doubt is not None for one in map(series.stored, names))


def _is_whole_in(series: Series, one: Stored) -> bool:
    try:
        Chains([series]).whole(one)
    except KeywardError:
        return False
    return True


def lists_are_sound(chain: t.Sequence[Stored]) -> bool:
    """Whether the member lists of a set, and of those that it builds on, are sound."""
    for one in chain:
        one.flaw = one.flaw or list_fault(one)
    return not any(one.flaw for one in chain)


@contextlib.contextmanager
def lists_to_send(chain: t.Sequence[Stored]) -> t.Iterator[list[str]]:
    """The list of the full set, and one of all that the increments on it changed: each file that travels takes its time."""
    lists = [os.path.join(one.path, MEMBERS) for one in chain]
    if len(lists) < 3:
        yield lists
        return
    with tempfile.TemporaryDirectory() as folder:
        together = os.path.join(folder, MEMBERS)
        with refusing(lists[-1]), ListWriter(together) as writer:
            for line in _changed_together([lines_in(path) for path in lists[1:]]):
                writer.write(line)
        yield [lists[0], together]


def _changed_together(lists: t.Sequence[t.Iterable[bytes]]) -> t.Iterator[bytes]:
    """The newest line of each path; one that only tells a touch, with what the increment before it had of that file."""
    shapes = [_shapes(number, lines) for number, lines in enumerate(lists)]
    for _path, group in itertools.groupby(heapq.merge(*shapes, key=lambda one: one[:2]), key=lambda one: one[0]):
        found: dict[str, t.Any] = {}
        for _name, _number, shape in group:
            found = {**found, **shape} if "part" in found and shape.keys() == {"path", "ctime", "inode"} else shape
        yield json.dumps(found, separators=(",", ":")).encode("ascii") + b"\n"


def _shapes(number: int, lines: t.Iterable[bytes]) -> t.Iterator[tuple[str, int, dict[str, t.Any]]]:
    for line in lines:
        shape = json.loads(line)
        yield shape["path"], number, shape


def full_after(given: t.Mapping[str, t.Any] | None) -> FullAfter:
    """The option. Raises KeywardError."""
    stated = {name: value for name, value in (given or {}).items() if value is not None}
    for name, least, most in (("sets", 0, MOST_LINKS - 1), ("days", 0, 36500), ("share", 0, 100_000)):
        if not least <= stated.get(name, least) <= most:
            raise KeywardError(_ODD, f"full_after.{name} is {stated[name]}, and only {least} to {most} can be", "Correct it")
    return FullAfter(**stated)


def lacking_stores(own: t.Mapping[str, Series], stores: t.Iterable[Store], newest: Stored | None) -> list[tuple[Store, list[Stored]]]:
    """The stores that lack a sound copy of the newest set, or of one that it builds on, and which of them, oldest first."""
    found = []
    for store in stores if newest else ():
        there = Chains([own[store.path]])
        lacks = [one for one in (*newest.links, newest) if not there.sound(one.name, one.digest)] if newest else []
        if lacks:
            found.append((store, lacks))
    return found
