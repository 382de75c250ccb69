# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities, PendingRequest, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import ImportKeys
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Answer, Attribute, Changed, Install
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import (
    answer_among,
    asked_of_parent,
    given_certificates,
    in_order,
    lost_key,
    refuse_wrong_answer,
)
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS
from ansible_collections.keyward.pki.plugins.module_utils._successor_policy import differences
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs, _adcs_keys, _adcs_trust
from ansible_collections.keyward.pki.plugins.plugin_utils._homes import SHOWN_DIGITS
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    BackupTask,
    ChosenBackup,
    one_time_password,
)
from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import refuse_unvouched_at
from ansible_collections.keyward.pki.plugins.plugin_utils._subject import subject_name
from ansible_collections.keyward.pki.plugins.plugin_utils._task import NothingOnHost, Result


class ActionModule(BackupTask):
    NAME, ARGUMENTS = "ca_install", _arguments.CA_INSTALL

    def perform(self) -> Result:
        return self.decided_anew(self._installed)

    def _installed(self) -> Result:
        try:
            return self._there(self.look())
        except NothingOnHost as exc:
            return self._answered(exc.waiting) if exc.waiting else self._new(exc.abilities)

    def _there(self, told: Told) -> Result:
        """What is said of a CA that exists already: it is never touched."""
        lost = [generation.label for generation in told.generations if generation.private_key == "missing"]
        if lost:
            raise KeywardError(
                "nothing was installed",
                f"there is a CA in this place, and private keys of it are missing: {', '.join(lost)}",
                "Put them back (ca_key_restore)",
            )
        self._refuse_lost_database(told)
        return self._result(Changed(False, told.authority, told.generations, advisories=told.advisories))

    def _refuse_lost_database(self, told: Told) -> None:
        """Raise KeywardError where the database of a known CA is gone: it would begin anew, with numbers that were given out."""
        if not self.options.get("stores") or not told.database.path or told.database.exists:
            return
        found = self.stand(self.known(told).known, told)
        if found.known:
            raise KeywardError(
                "nothing was installed",
                f"the CA in this place is {found.known.name}, and its database {told.database.path} is missing",
                "Restore it (keyward.pki.restore, or ca_database_restore)",
            )

    def _answered(self, told: Told) -> Result:
        """A subordinate that waits for its first certificate."""
        if self.options["kind"] == "root":
            raise KeywardError(
                "nothing was installed",
                f"the CA on {self._host} waits for a certificate of a CA above it, and kind is root",
                "Give kind: subordinate, or find out who made a request there",
            )
        waiting, given = t.cast(PendingRequest, told.pending_request), self.options["certificate"]
        if waiting.lacks_key:
            raise lost_key(told.authority.subject, str(waiting.path), waiting.lacks_key, "installed")
        if given is None:
            state = Changed(False, told.authority, pending=True, request=waiting.request, request_file=waiting.path)
            return self._result(replace(state, advisories=told.advisories))
        certificates, asked = given_certificates(given), asked_of_parent(waiting.request)
        answer = t.cast(Generation, answer_among(certificates, waiting.public_key_sha256))
        refuse_wrong_answer(answer, waiting.public_key_sha256 or answer.public_key_sha256, asked)
        text = "".join(map(_x509.pem, in_order(answer, certificates)))
        crls = _adcs_trust.crls_beside(given, certificates) if told.abilities.checks_its_certificate else ()
        done = self.send(Answer(None, text, crls, proved=waiting.public_key_sha256 is not None), Changed)
        return self._result(done, [*differences(answer, asked), *_adcs_trust.of_answer(answer, told.abilities)])

    def _new(self, abilities: Abilities) -> Result:
        if abilities.keys_in_hand:
            _adcs.refuse_directory_account(self.NAME, self.options)
        chosen = self._lost()
        if chosen is None:
            self._refuse_certificate()
            order = self._order(self._required("subject", "Give the subject of the new CA, such as {commonName: Example Root CA}"))
            if not abilities.keys_in_hand:
                own = _adcs.terms_of_installation(self.options)
                order = replace(order, own={**own, "account": _adcs.directory_account(self.NAME, self.options)})
            result = self._result(self.send(order, Changed))
        else:
            result = self._brought_back(chosen, abilities)
        if self._task.diff:
            place = next((str(self.options[name]) for name in _arguments.SELECTING[1:] if self.options[name]), self._host)
            result["diff"] = {"before": f"{place}: no CA\n", "after": f"{place}: {'a CA brought back' if chosen else 'a new CA'}\n"}
        return result

    def _order(self, subject: t.Mapping[str, t.Any]) -> Install:
        names = ("kind", "key_type", "key_size", "curve", "days", "path_length")
        attributes = [Attribute(one.oid.dotted_string, str(one.value)) for one in subject_name(subject)] if subject else []
        return Install(subject=tuple(attributes), **{name: self.options[name] for name in names})

    def _refuse_certificate(self) -> None:
        if self.options["certificate"] is None:
            return
        why = ("no request of a CA waits for a certificate on this host", "Leave certificate out, and a request is made")
        if self.options["kind"] == "root":
            why = ("a certificate was given, and this is a root: it signs its own", "Leave certificate out")
        raise KeywardError("the CA can't be installed", *why)

    def _lost(self) -> ChosenBackup | None:
        """The backup that a person names: it is brought back, and no new CA is made. Raises KeywardError where one was lost here."""
        if not self._names_one():
            if self.options.get("stores"):
                self._refuse_lost()
            return None
        self._required("password", "The backup of the CA is named. Give its password, and the CA is brought back from it")
        chosen = self.choose(None)
        chosen.refuse_unless_restorable("nothing was installed")
        return chosen

    def _refuse_lost(self) -> None:
        """Raise KeywardError where a CA lived in this place, by what the stores hold, or held before: a new one would hide that."""
        self.memory.refuse_other_stores(self.stores)
        known, here = self.authorities.all.known, self.stated_home
        lost = self.lost(known, "backup")
        if lost:
            raise KeywardError(
                "nothing was installed",
                f"{lost.name} lived in this place, the stores hold its keys, and nothing of it is left on {self._host}",
                f"Restore it (keyward.pki.restore, or ca_key_restore). To install it from its backup, say authority_id: "
                f"{lost.id[:SHOWN_DIGITS]}. For another CA name another place",
            )
        refuse_unvouched_at(here, (each for store in self.stores for each in store.series()), "nothing was installed")
        error = self.memory.forgotten_at(BACKUPS.name, here, {each.id for each in known})
        if error:
            raise error

    def _brought_back(self, chosen: ChosenBackup, abilities: Abilities) -> Result:
        own, trial = None, None
        if not abilities.keys_in_hand:
            # Export what was imported once more, under a throwaway password, to see whether the next backup can be made.
            account = _adcs.directory_account(self.NAME, self.options)
            own, trial = {**_adcs.terms_of_bringing_back(chosen), "account": account}, one_time_password()
        keys = ImportKeys(
            generations=tuple(chosen.generations),
            directory=chosen.authority.directory if chosen.authority else None,
            files=() if self._check else chosen.given({g.public_key_sha256 for g in chosen.generations}, abilities.keys_in_hand),
            trial_password=trial,
        )
        done = self.send(replace(self._order({}), keys=keys, own=own), Changed)
        return self._result(done, _adcs_keys.not_as_before(chosen, done.imported, trial) if done.imported and trial else ())

    def _result(self, done: Changed, advisories: t.Sequence[Finding] = ()) -> Result:
        if done.authority:
            subject = done.authority.subject or (done.generations[-1].subject if done.generations else "")
            done = replace(done, authority=replace(done.authority, host=self._host, subject=subject))
        return {
            "changed": done.changed,
            **self.shown(replace(done, advisories=(*done.advisories, *advisories))),
            "restored": [dict(vars(one)) for one in done.imported.restored] if done.imported else [],
            "pending": done.pending,
            "request": done.request,
            "request_file": done.request_file,
            "reboot_required": done.reboot_required,
            "reasons": [],
        }
