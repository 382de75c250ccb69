# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: sets and what they build on, in all stores together; may change in any release.

An increment is of use only with every set that it builds on, down to a full one. Each of them may come from any store that has it sound:
the manifest of the increment, which is signed, names them by the digests of their manifests.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import MEMBERS, Link, SetManifest
from ansible_collections.keyward.pki.plugins.module_utils._signed import ends
from ansible_collections.keyward.pki.plugins.module_utils._stored import Series, Stored, digest_of

BASE_DAMAGED = "base_damaged"  # the code by which a host says that it can't build on a set
_ANOTHER = "Mount the store that has it, or use an older set"


def list_fault(one: Stored) -> t.Optional[str]:
    """What is wrong with the list of a set. It is small, and decides what is not read again."""
    recorded = {file.name: file.sha256 for file in one.manifest.files}
    path = os.path.join(one.path, MEMBERS)
    try:
        return None if digest_of(path) == recorded[MEMBERS] else f"{path} does not have the digest that the manifest records"
    except OSError as exc:
        return f"{path}: {os_cause(exc)}"


class Chains:
    """The sets of one database. C(thorough): their files have the recorded digests; otherwise their sizes must do, as each night."""

    def __init__(self, series: t.Iterable[Series], thorough: bool = False) -> None:
        self._series, self._thorough = list(series), thorough
        self.passed_over: t.Dict[str, Finding] = {}  # damaged copies of what is sound in another store, by path

    @property
    def signed(self) -> t.List[Stored]:
        """Those that somebody known vouches for, each once, newest first; but for those that are spared."""
        found: t.Dict[str, Stored] = {}
        for one in self._series:
            for stored in one.all:
                found.setdefault(stored.digest, stored)
        return sorted(found.values(), key=lambda one: one.rank, reverse=True)

    @property
    def ends(self) -> t.List[Stored]:
        """More than one after a fork that nothing has joined yet."""
        return ends(self.signed, max((series.settled for series in self._series), default=0))

    def named(self, names: t.Iterable[str]) -> t.List[Stored]:
        """Of those that somebody known vouches for, the ones of these names."""
        found: t.Dict[str, Stored] = {}
        for name in sorted(names):
            for stored in self._stored(name):
                if stored.doubt is None:
                    found.setdefault(stored.digest, stored)
        return list(found.values())

    @property
    def newest(self) -> t.Optional[Stored]:
        """The newest one that can be restored, with what it builds on."""
        for one in self.signed:
            try:
                return self.whole(one)
            except KeywardError:
                continue
        if not any(series.spared for series in self._series):
            return None
        for series in self._series:
            series.spared = frozenset()
        return self.newest

    @property
    def faults(self) -> t.List[Finding]:
        """Why those that are newer than C(newest) can't be restored."""
        found = []
        for one in self.signed:
            try:
                self.whole(one)
                break
            except KeywardError as exc:
                own = self._fault(one)
                found.append(Finding("digest_mismatch", f"{one.path}: {own}") if own else Finding("set_not_whole", str(exc)))
        return found

    def whole(self, one: Stored) -> Stored:
        """A sound copy of a set, with all that it builds on. Raises KeywardError, which names what is missing or damaged."""
        what, manifest = f"the set {one.path} can't be used", one.manifest
        found = self.sound(one.name, one.digest)
        if found is None:
            raise KeywardError(what, str(self._fault(one)), "Use another copy of it, or an older set")
        links = []
        for number, link in enumerate(manifest.links):
            below = self.sound(link.set, link.sha256)
            why = self._why_missing(link) if below is None else _why_not(manifest, number, below.manifest)
            if why or below is None:
                raise KeywardError(what, f"the set {link.set}, which it builds on, {why}", _ANOTHER)
            links.append(below)
        found.links = tuple(links)
        return found

    def sound(self, name: str, digest: str) -> t.Optional[Stored]:
        """The set of that name and manifest, from whichever store has it so that nothing is wrong with it."""
        faults: t.Dict[str, str] = {}
        for copy in self._stored(name):
            if copy.digest != digest or copy.doubt is not None:
                continue
            fault = self._fault(copy)
            if fault is None:
                for path, why in faults.items():
                    self.passed_over[path] = Finding("digest_mismatch", f"{path}: {why}. The copy {copy.path} was taken")
                return copy
            faults[copy.path] = fault
        return None

    def _stored(self, name: str) -> t.Iterator[Stored]:
        for series in self._series:
            one = series.stored(name) if name in series.names else None
            if isinstance(one, Stored):
                yield one

    def _fault(self, one: Stored) -> t.Optional[str]:
        return one.damage if self._thorough else one.flaw

    def _why_missing(self, link: Link) -> str:
        for copy in self._stored(link.set):
            if copy.digest == link.sha256:
                return f"counts for nothing: {copy.doubt}" if copy.doubt else f"is damaged: {self._fault(copy)}"
        return "is missing"


def _why_not(manifest: SetManifest, number: int, below: SetManifest) -> t.Optional[str]:
    """Why a set can't be the one that another builds on at this place; None where it can."""
    if (below.database, below.authority.id) != (manifest.database, manifest.authority.id):
        return "is of another database"
    if below.links != manifest.links[:number] or not below.is_archive:
        return "builds on others than that one says"
    return None


def chains_of(series: t.Iterable[Series]) -> t.List[t.List[Stored]]:
    """Full sets, each with the increments that build on it, newest first; the chain with the newest set first."""
    found: t.Dict[str, t.List[Stored]] = {}
    for one in sorted((one for each in series for one in each.all), key=lambda one: one.rank, reverse=True):
        found.setdefault(one.manifest.links[0].sha256 if one.manifest.links else one.digest, []).append(one)
    return list(found.values())
