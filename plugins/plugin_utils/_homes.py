# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whether the host of a task is a CA's home, and what a person states of that; may change in any release."""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Home
from ansible_collections.keyward.pki.plugins.module_utils._home import MOVED, TWIN, K, Standing, at_home, is_of, of_id, standing
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._reasons import reason
from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import StoreTask

SHOWN_DIGITS = 16  # of an id, as in the name of its directory


class HomeTask(StoreTask):
    """A task that stores something of a CA, or sends something to its host."""

    ROLE: t.ClassVar[str]  # the playbook in which a person says where a CA lives

    @property
    def stated_home(self) -> Home:
        """This host, and the place as far as the task states it."""
        backend = self.options["backend"]
        return Home(self._host, {**_arguments.stated_place(self.options), **({} if backend == "auto" else {"backend": backend})})

    @property
    def said(self) -> str | None:
        """What a person says in this task: moved, twin or nothing. Raises KeywardError."""
        words = [kind for option, kind in (("move", MOVED), ("twin", TWIN)) if self.options.get(option)]
        if len(words) > 1:
            raise KeywardError(f"{self.NAME} can't run", "move and twin exclude each other", "Give one of them")
        if words and not self._names_one():
            raise KeywardError(
                f"{self.NAME} can't run", "it was not told which authority lives here", "Give authority_id (ca_key_backup_info tells it)"
            )
        return words[0] if words else None

    def _names_one(self) -> bool:
        return self.options.get("authority_id") is not None

    def named(self, known: t.Sequence[K]) -> K | None:
        """The authority that a person names by its id. Raises KeywardError."""
        beginning = self.options.get("authority_id")
        return None if beginning is None else of_id(str(beginning), known)

    def stand(self, known: t.Sequence[K], told: Told) -> Standing[K]:
        """Whose the host's CA is. Raises KeywardError where a person names an authority that it is not."""
        one = self.named(known)
        if one is None:
            return standing(told.authority.home, told.generations, known)
        if not is_of(one, told.authority.home, told.generations, self.said is not None):
            raise KeywardError(
                f"the CA on {self._host} is not {one.name}",
                f"{told.authority.subject} shares no key with it, and does not have its name in its place",
                "Name another authority, or another place; to put the keys of this one back, move what is there away",
                [reason("foreign_authority", f"the CA {told.authority.subject}")],
            )
        return Standing(one)

    def lost(self, known: t.Sequence[K], option: str) -> K | None:
        """The authority that lived where nothing of a CA is left: the one that is named, or the only one at home. Raises KeywardError."""
        one = self.named(known)
        if one:
            return one
        found = at_home(self.stated_home, known)
        if len(found) > 1:
            raise KeywardError(
                f"it can't be told which authority of {self._host} is meant",
                "its stores hold " + " and ".join(sorted(f"{each.name} ({each.id[:SHOWN_DIGITS]})" for each in found)),
                f"Name one: give its id as authority_id, its directory in the store as {option}, or the options that say which CA it is",
            )
        return found[0] if found else None

    def refuse_elsewhere(self, what: str, found: Standing[K], told: Told) -> None:
        """Raise KeywardError unless the CA is at home, or nobody knows it. C(what) says what was not done."""
        if found.elsewhere:
            error = KeywardError(what, self._why(found, told), self._remedy(found))
            error.findings = (self.not_at_home(found, told),)
            raise error

    def not_at_home(self, found: Standing[K], told: Told) -> Finding:
        return Finding("not_at_home", f"{self._why(found, told)}. {self._remedy(found)}", told.generations[-1].sha256)

    def _why(self, found: Standing[K], told: Told) -> str:
        return f"the CA {told.authority.subject} is not at home on {self._host}: {found.elsewhere}"

    def _remedy(self, found: Standing[K]) -> str:
        if found.mixed:
            return "Move that certificate out of the places of this CA, or out of the option older"
        identity = found.known.id[:SHOWN_DIGITS] if found.known else ""
        command = f"ansible-playbook keyward.pki.{self.ROLE} --limit {self._host} -e keyward_authority_id={identity}"
        return (
            f"If it lives here from now on, say so once: {command} -e keyward_move=true. If it lives here too (a standby), "
            "keyward_twin=true instead. If this is an old host or a copy, take the keys away from it"
        )
