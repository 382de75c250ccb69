# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a CA issued, of a set, beside what is on the host; may change in any release.

Each file is read once, by one process for each core: it is proved, compared, and where nothing is in its place it is staged.
"""

from __future__ import annotations

import os
import typing as t
from collections import Counter

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import Contents, SetFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import ISSUED_PARTS, Member
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_mass import MassRestore
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_places import compared
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import BroughtBack

MOST_NAMED = 1000  # files of one folder; of more a restore says how many
MOVABLE = "movable"  # what the software itself moves from folder to folder

Place = t.Callable[[Member], str]


class Found(t.NamedTuple):
    """What is in the place of a member: C(same), C(missing), or C(different) as C(Restoration) says."""

    path: str
    there: str
    part: str
    member: t.Optional[Member] = None  # of what is not as it should be, and not staged


class Issued:
    """C(place): where a member belongs, or KeywardError; C(here): it as it is to be on this host; C(refuse): raises where a path is no
    place of the CA."""

    def __init__(self, place: Place, here: t.Callable[[Member], Member], refuse: t.Callable[[str], None]) -> None:
        self._place, self._here, self._refuse = place, here, refuse
        self._mass: t.Optional[MassRestore] = None
        self._missing: t.Dict[t.Tuple[str, str], t.List[str]] = {}  # by folder and part: the first of them
        self._counts: t.Counter[t.Tuple[str, str]] = Counter()
        self.there: t.Set[str] = set()
        self.others: t.List[Found] = []

    def look(self, files: SetFiles, mass: t.Optional[MassRestore], stage: bool) -> None:
        """C(stage): what is missing; with a C(mass) of None it is told alone. Raises KeywardError."""
        self._mass = mass

        def judge(member: Member, stream: t.Optional[Contents]) -> Found:
            return self._judge(member, stream, stage)

        for found in files.judged(judge):
            if found.member is not None:
                self.others.append(found)
            elif found.there == "missing":
                key = os.path.dirname(found.path), found.part
                self._counts[key] += 1
                if self._counts[key] <= MOST_NAMED:
                    self._missing.setdefault(key, []).append(found.path)
            else:
                self.there.add(found.path)
        if mass:
            try:
                mass.gather()
            except OSError as exc:
                why = f"{os_cause(exc)}; nothing was changed"
                raise KeywardError("the set could not be put back", why, "Find out who writes there, and run the task again") from exc

    def _judge(self, member: Member, stream: t.Optional[Contents], stage: bool) -> Found:
        path, member = self._place(member), self._here(member)
        there = compared(member, path)
        if there == "same":
            return Found(path, there, member.part)
        if not stage or stream is None or there != "missing" or (self._mass and not self._mass.takes(os.path.dirname(path))):
            return Found(path, there, member.part, member)
        self._refuse(path)
        if self._mass:
            try:
                self._mass.add(path, stream, member, member.part == MOVABLE)
            except OSError as exc:
                why = f"{os_cause(exc)}; nothing was changed"
                raise KeywardError(f"{path} could not be put back", why, "Put that right and run the task again") from exc
        return Found(path, there, member.part)

    @property
    def staged(self) -> t.List[str]:
        """Where some of it goes, in each folder."""
        return [path for paths in self._missing.values() for path in paths]

    def brought_back(self, drop: bool) -> t.Iterator[BroughtBack]:
        """What was staged. C(drop): but for what can be movable."""
        for (folder, part), paths in sorted(self._missing.items()):
            if drop and part == MOVABLE:
                continue
            said = "issued" if part == MOVABLE else part
            if self._counts[folder, part] > MOST_NAMED:
                yield BroughtBack(folder, said, self._counts[folder, part])
            else:
                yield from (BroughtBack(path, said) for path in paths)


def folders_of(files: SetFiles, path_here: t.Callable[[str], str]) -> t.Tuple[t.Set[str], t.Set[str]]:
    """The folders of what the CA issued, and those with what it was asked for as well. The list is judged. Raises KeywardError."""
    found: t.Dict[str, t.Set[str]] = {part: set() for part in ISSUED_PARTS}
    for one in files.list():
        if one.part in found:
            found[one.part].add(one.path.rpartition("/")[0])
    here = {part: {os.path.dirname(path_here(f"{folder}/x")) for folder in folders} for part, folders in found.items()}
    return here["issued"] | here[MOVABLE], set().union(*here.values())
