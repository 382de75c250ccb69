# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import KEY_MISSING, Home, generation_advisories
from ansible_collections.keyward.pki.plugins.module_utils._home import HomeChange
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import Imported, ImportKeys
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._verdict import foreign
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs_keys
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    BackupTask,
    ChosenBackup,
    one_time_password,
    recorded_place,
    store_of,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._task import NothingNamed, NothingOnHost, Result, findings


class ActionModule(BackupTask):
    NAME, ARGUMENTS = "ca_key_restore", _arguments.CA_KEY_RESTORE

    def perform(self) -> Result:
        self._required("password", "Give the password of the backup")
        chosen, self._place = None, None
        try:
            told, abilities = self._looked()
        except NothingNamed:  # then it is the CA that the backup is of
            chosen = self.choose(None)
            if chosen.authority is None:
                raise KeywardError(
                    "nothing was restored",
                    "a PKCS #12 file does not say where its CA lives",
                    "Give the options that say which CA it is to be",
                ) from None
            self._place = recorded_place(chosen.authority)
            told, abilities = self._looked()
        chosen = chosen or self.choose(told)
        if self.said and chosen.known is None:
            why = "the backup lies in no store, and so nothing can be recorded of where its CA lives"
            raise KeywardError("nothing was restored", why, "Give authority_id and stores instead of backup")
        cured = {generation.sha256 for generation in chosen.generations}
        told_before = [one for one in (told.advisories if told else ()) if not (one.code in KEY_MISSING and one.certificate in cured)]
        advisories = [*told_before, *chosen.refuse_unless_restorable("nothing was restored")]
        if told and not chosen.is_of(told, self.said is not None):  # before any key travels
            raise foreign(told.authority, chosen.authority, chosen.generations)
        outcome = self._put_back(chosen, told, abilities)
        if not abilities.keys_in_hand:
            advisories += _adcs_keys.not_as_before(chosen, outcome, self._trial_password)
        authority = told.authority if told else chosen.authority
        home = self._said_home(chosen)
        result: Result = {
            "changed": outcome.changed or home is not None,
            "restorable": all(advisory.code != "opens_without_password" for advisory in advisories),
            "authority": replace(authority, id=chosen.authority.id if chosen.authority else None).as_result() if authority else None,
            "generations": [generation.as_result("backup") for generation in chosen.generations],
            "backup": chosen.as_result(),
            "homes": [each.as_json() for each in (home.homes if home else chosen.known.homes if chosen.known else ())],
            "restored": [dict(vars(each)) for each in outcome.restored],
            "set_aside": [dict(vars(each)) for each in outcome.set_aside],
            "reasons": [],
            "advisories": findings(advisories, generation_advisories(chosen.generations, now_text())),
        }
        if outcome.changed and not self._check:
            self._record(chosen, result)
        if home and chosen.known and not self._check:
            self.say_home([Store(path, BACKUPS, self.signers) for path in chosen.known.holdings], chosen.known, home)
        if self.options["stores"] and chosen.stored:
            said = home.number if home else chosen.known.said if chosen.known else None
            result["advisories"] += findings(self.remember_or_warn(self.stores, BACKUPS.name, chosen.stored, said_of_homes=said))
        if self._task.diff:
            result["diff"] = {
                "before": "".join(f"{each.path}: missing\n" for each in outcome.restored),
                "after": "".join(f"{each.path}: {each.kind}{f', {each.access}' if each.access else ''}\n" for each in outcome.restored),
            }
        return result

    def _said_home(self, chosen: ChosenBackup) -> HomeChange | None:
        """What a person says of the homes. Where nothing of the CA was there before, it lives in the place that it was put back to."""
        if self.said is None or chosen.known is None:
            return None
        try:
            here = self.look(self._place).authority.home
        except NothingOnHost:  # in check mode
            here = Home(self._host, {**chosen.known.authority.home.place, **self.stated_home.place})
        return chosen.known.change_home(self.said, here)

    # --- the keys ---

    def _looked(self) -> tuple[Told | None, Abilities]:
        """The authority on the host, None where nothing of it is there, and what its software can do."""
        try:
            told = self.look(self._place)
        except NothingOnHost as exc:
            return None, exc.abilities
        return told, told.abilities

    def _put_back(self, chosen: ChosenBackup, told: Told | None, abilities: Abilities) -> Imported:
        """The keys that are missing as far as the host was seen; if it then says that it needs others, exactly those, once."""
        done = self._import(chosen, told, abilities, _missing(chosen, told))
        if done.needs:
            done = self._import(chosen, told, abilities, done.needs)
        if done.needs:
            raise KeywardError(
                "nothing was restored",
                f"the host {self._host} asks for keys that the backup does not have, or for those that it was given",
                "Run the task again; if it happens again, look into that host",
            )
        return done

    def _import(self, chosen: ChosenBackup, told: Told | None, abilities: Abilities, keys: t.Collection[str]) -> Imported:
        files = () if self._check else chosen.given(keys, abilities.keys_in_hand)
        # Export what was imported once more, under a throwaway password, to see whether the next backup can be made.
        self._trial_password = one_time_password() if files and not abilities.keys_in_hand else None
        order = ImportKeys(
            generations=tuple(chosen.generations),
            of=told.generations[-1].sha256 if told else None,
            directory=chosen.authority.directory if chosen.authority else None,
            files=files,
            on_conflict="set_aside" if self.options["on_conflict"] == "set_aside" else "fail",
            allow_unencrypted_key=self.options["allow_unencrypted_key"],
            trial_password=self._trial_password,
        )
        return self.send(order, Imported, self._place)

    def _record(self, chosen: ChosenBackup, result: Result) -> None:
        if not chosen.stored:
            return
        paths = chosen.paths if self.options.get("stores") else [chosen.stored.path]
        places = [place for place in (store_of(path, self.signers) for path in paths) if place]
        self.record_or_warn("restore", chosen.stored, places, restored=result["restored"], set_aside=result["set_aside"])


def _missing(chosen: ChosenBackup, told: Told | None) -> set[str]:
    """The keys (public, SHA-256) that a host lacks by what it told; none where it could not tell anything."""
    if told is None:
        return set()
    there = {generation.public_key_sha256 for generation in told.generations if generation.private_key != "missing"}
    return {generation.public_key_sha256 for generation in chosen.generations} - there
