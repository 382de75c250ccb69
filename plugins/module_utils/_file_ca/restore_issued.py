# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a CA issued, of a set, beside what is on the host; may change in any release.

Each file is read once, by one process for each core: it is proved, compared, and where nothing is in its place it is staged.
What comes of many is told at once.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import Contents, Read, SetFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import ISSUED_PARTS, Listed, Member
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_mass import MassRestore, is_staging
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_places import compared
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import BroughtBack

MOST_NAMED = 1000  # files of one folder; of more a restore says how many
MOVABLE = "movable"  # what the software itself moves from folder to folder

Place = t.Callable[[t.Union[Listed, Member]], str]


class Found(t.NamedTuple):
    """What is not as it should be, and not staged: C(missing), or C(different) as C(Restoration) says."""

    path: str
    there: str
    member: Member


class _Missing:
    """What is staged of a folder and a part: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: t.List[str] = []

    def add(self, paths: t.Sequence[str], count: int) -> None:
        self.count += count
        self.first += paths[: MOST_NAMED - len(self.first)]


class _Seen(t.NamedTuple):
    """What is in the places of some members. C(missing): by folder and part."""

    there: t.List[str]
    missing: t.Dict[t.Tuple[str, str], _Missing]
    others: t.List[Found]


class Issued:
    """C(place): where a member belongs, or KeywardError; C(here): it as it is to be on this host; C(refuse): raises where a path is no
    place of the CA."""

    def __init__(self, place: Place, here: t.Callable[[Member], Member], refuse: t.Callable[[str], None]) -> None:
        self._place, self._here, self._refuse = place, here, refuse
        self._mass: t.Optional[MassRestore] = None
        self._missing: t.Dict[t.Tuple[str, str], _Missing] = {}
        self._empty: t.Dict[str, bool] = {}  # whether a folder had no file
        self.there: t.Set[str] = set()
        self.others: t.List[Found] = []

    def look(self, files: SetFiles, mass: t.Optional[MassRestore], stage: bool) -> None:
        """C(stage): what is missing; with a C(mass) of None it is told alone. Raises KeywardError."""
        self._mass = mass

        def judge(read: Read) -> _Seen:
            seen = _Seen([], {}, [])
            for one, stream in read:
                self._judge(one, stream, stage, seen)
            return seen

        for seen in files.judged(judge):
            self.others += seen.others
            self.there.update(seen.there)
            for key, missing in seen.missing.items():
                self._missing.setdefault(key, _Missing()).add(missing.first, missing.count)
        if mass:
            try:
                mass.gather()
            except OSError as exc:
                why = f"{os_cause(exc)}; nothing was changed"
                raise KeywardError("the set could not be put back", why, "Find out who writes there, and run the task again") from exc

    def _judge(self, one: Listed, stream: t.Optional[Contents], stage: bool, seen: _Seen) -> None:
        path = self._place(one)
        folder = path.rpartition("/")[0]
        there = "missing" if self._is_empty(folder) else compared(one if one.target is None else self._here(one.member), path)
        if there == "same":
            seen.there.append(path)
            return
        if not stage or stream is None or there != "missing" or (self._mass and not self._mass.takes(folder)):
            seen.others.append(Found(path, there, self._here(one.member)))
            return
        self._refuse(path)
        if self._mass:
            try:
                self._mass.add(path, stream, one, one.part == MOVABLE)
            except OSError as exc:
                why = f"{os_cause(exc)}; nothing was changed"
                raise KeywardError(f"{path} could not be put back", why, "Put that right and run the task again") from exc
        seen.missing.setdefault((folder, one.part), _Missing()).add([path], 1)

    def _is_empty(self, folder: str) -> bool:
        """Then nothing is looked for in it. What comes to lie there meanwhile is seen when the staged files get their names."""
        if folder not in self._empty:
            try:
                with os.scandir(folder) as entries:
                    self._empty[folder] = all(is_staging(entry.name) for entry in entries)
            except OSError as exc:
                self._empty[folder] = isinstance(exc, FileNotFoundError)
        return self._empty[folder]

    @property
    def staged(self) -> t.List[str]:
        """Where some of it goes, in each folder."""
        return [path for missing in self._missing.values() for path in missing.first]

    def brought_back(self, drop: bool) -> t.Iterator[BroughtBack]:
        """What was staged. C(drop): but for what can be movable."""
        for folder, part in sorted(self._missing):
            if drop and part == MOVABLE:
                continue
            said, missing = "issued" if part == MOVABLE else part, self._missing[folder, part]
            if missing.count > MOST_NAMED:
                yield BroughtBack(folder, said, missing.count)
            else:
                yield from (BroughtBack(path, said) for path in missing.first)


def folders_of(files: SetFiles, path_here: t.Callable[[str], str]) -> t.Tuple[t.Set[str], t.Set[str]]:
    """The folders of what the CA issued, and those with what it was asked for as well. The list is judged. Raises KeywardError."""
    found: t.Dict[str, t.Set[str]] = {part: set() for part in ISSUED_PARTS}
    for one in files.list():
        if one.part in found:
            found[one.part].add(one.path.rpartition("/")[0])
    here = {part: {os.path.dirname(path_here(f"{folder}/x")) for folder in folders} for part, folders in found.items()}
    return here["issued"] | here[MOVABLE], set().union(*here.values())
