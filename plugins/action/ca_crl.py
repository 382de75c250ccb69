# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import may
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der, crls_in, is_delta, load_crl, next_update
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known, known_crl, of_each_key, rejection
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, why_inaccessible
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_CRL, Crled, Crls, DueCrl, SignAgain
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, unverified, whose_crl
from ansible_collections.keyward.pki.plugins.module_utils._x509 import load
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs
from ansible_collections.keyward.pki.plugins.plugin_utils._clients import Clients
from ansible_collections.keyward.pki.plugins.plugin_utils._der_files import DerFiles, der_files
from ansible_collections.keyward.pki.plugins.plugin_utils._task import NothingOnHost, Result, Task, findings

_OF_AGE = ("crl_expired", "crl_runs_out")


class ActionModule(Task):
    NAME, ARGUMENTS = "ca_crl", _arguments.CA_CRL

    def perform(self) -> Result:
        given = [name for name in ("published_crl", "scratch") if self.options[name]] + ["sign: false"] * (not self.options["sign"])
        if len(given) > 1:
            raise KeywardError("ca_crl can't run", f"{' and '.join(given)} exclude each other", "Give one of them")
        if not self.options["sign"]:
            return self._looked_at()
        if self.options["scratch"]:
            return self._proofs()
        return self.decided_anew(self._signed_again if self.options["published_crl"] else self._refreshed)

    def _looked_at(self) -> Result:
        """What lies on the host, and what runs out. Nobody said that CRLs are signed here, so a key that is missing is no matter."""
        told: Crled = self.completed(self.send(Crls(urls=self._looks_at_urls, look=True), Crled))
        kept, found = list[Known](), list[Finding]()
        for same in of_each_key([one for one in told.generations if one.not_after >= now_text() and one.sha256 not in told.idle]):
            last = self._newest([crl for generation in same for crl in self._crls_of(told, generation)], same[-1])
            kept += [last] if last else []
            found += self._runs_out(last) if last else ()
        return self._result(told, False, kept, found)

    @staticmethod
    def _runs_out(crl: Known) -> t.Iterator[Finding]:
        until, remedy = next_update(crl.parsed), "Run keyward.pki.crl, and publish it"
        if until is not None and until < now_text():
            text = f"the CRL {crl.path} expired on {until}: clients reject what it is for. {remedy}"
            yield Finding("crl_expired", text, crl.generation.sha256)
        elif until is not None and crl.in_last_third:
            text = f"the CRL {crl.path} is in the last third of its time, and expires on {until}. {remedy}"
            yield Finding("crl_runs_out", text, crl.generation.sha256)
        if crl.lacks:
            text = f"the CRL {crl.path} lacks {crl.lacks} certificates that the database says are revoked. {remedy}"
            yield Finding("crl_lacks_revocations", text, crl.generation.sha256)

    def _refreshed(self) -> Result:
        """The CRL of each key, signed again where it is missing, wrong, lacks a revocation or is about to expire."""
        told: Crled = self.completed(self.send(Crls(urls=self._looks_at_urls), Crled))
        named = told.named
        able, advisories = self._able(told, expired=False)
        due, good, found = self._due(told, able, self.options["remaining_days"])
        due, kept, locked = self._without_locked(told, able, due)
        changed = bool(due)
        if self._check and due and told.abilities.signs_any_crl:  # to be rehearsed
            order = Crls(told.generations[-1].sha256, tuple(due), days=self.options["days"], at=now_text())
            rehearsed: Crled = self.send(order, Crled)
            advisories += rehearsed.advisories
        signed: set[str] = set()
        wanted = [] if self._check else due
        while wanted:
            order = Crls(told.generations[-1].sha256, tuple(wanted), days=self.options["days"], at=now_text())
            done: Crled = self.completed(self.send(order, Crled))
            told = replace(done, changed=told.changed or done.changed, advisories=(*told.advisories, *done.advisories))
            signed |= {one.certificate for one in wanted}
            due, good, found = self._due(told, able, 0)
            due, kept, locked = self._without_locked(told, able, due)
            # Where the CRL of a key names one of its certificates, those for the others are due from then on.
            wanted, changed = [one for one in due if one.certificate not in signed], told.changed
        if due and not self._check:
            raise self._not_there(told, able, due)
        return self._result(replace(told, named=named), changed, [*kept, *good], [*advisories, *found, *locked])

    @property
    def _looks_at_urls(self) -> bool:
        return bool(self.options["fetch"] or self.options["former_hosts"])

    def _locked(self, generation: Generation) -> bool:
        """Whether its key is encrypted and no passphrase was given: that must not fail the run each night."""
        given = self._secret("private_key_passphrase") or any(one.get("private_key_passphrase") for one in self.options["older"] or ())
        return generation.private_key == "inaccessible" and bool(generation.encrypted_at_rest) and not given

    @staticmethod
    def _usable(generation: Generation, told: Told) -> bool:
        """A key that only the library can't read is the CA software's to sign with; whether it can, it says itself."""
        unread = generation.private_key == "inaccessible" and generation.encrypted_at_rest is False
        return generation.private_key == "present" or unread or not told.abilities.keys_in_hand

    def _without_locked(self, told: Crled, able: list[Generation], due: list[DueCrl]) -> tuple[list[DueCrl], list[Known], list[Finding]]:
        """The generations that can sign, the CRLs that stay for keys which can't be used, and the findings about those."""
        locked = {one.sha256: one for one in able if self._locked(one)}
        kept, found = list[Known](), list[Finding]()
        for generation in (locked[one.certificate] for one in due if one.certificate in locked):
            last = self._newest([crl for crl in self._crls_of(told, generation) if crl.is_good(0)], generation)
            why = f"the key of {generation.label} is encrypted, and its passphrase was not given"
            remedy = "Run keyward.pki.crl with private_key_passphrase; the passphrase belongs into no inventory"
            if last is None or last.in_last_third:
                until = f"its CRL expires on {next_update(last.parsed)}" if last else "it has no CRL that is valid and whole"
                found.append(Finding("crl_not_refreshed", f"{until}: {why}. {remedy}", generation.sha256))
            else:
                text = f"the CRL of {generation.label} expires on {next_update(last.parsed)} and is to be refreshed: {why}. {remedy}"
                found.append(Finding("crl_needs_passphrase", text, generation.sha256))
            kept += [last] if last else []
        return [one for one in due if one.certificate not in locked], kept, found

    def _able(self, told: Told, expired: bool) -> tuple[list[Generation], list[Finding]]:
        """The generations to sign with, the current one last, and why others don't. Raises KeywardError where a key is missing."""
        able, advisories = [], []
        for generation in told.generations:
            if generation.exportable is False and told.abilities.keys_in_hand:
                text = f"{generation.label}: its key is in a token, which signs its CRL by its own means"
                advisories.append(Finding("key_in_token", text, generation.sha256))
            elif not expired and generation.not_after < now_text():
                text = f"{generation.label} has expired: no CRL is signed for it"
                advisories.append(Finding("expired_generation", text, generation.sha256))
            elif not self._usable(generation, told) and (expired or not self._locked(generation)):
                why = why_inaccessible(generation, told.advisories)
                raise KeywardError(
                    "no CRL was signed",
                    why or f"the private key of {generation.label} is {generation.private_key}",
                    "Then run the task again" if why else "Put it back (ca_key_restore), or give its passphrase",
                )
            else:
                able.append(generation)
        return able, advisories

    def _due(self, told: Crled, able: list[Generation], remaining_days: int | None) -> tuple[list[DueCrl], list[Known], list[Finding]]:
        """What is due, the CRLs that need no successor, and what is to be said: one by each key, and where it names one of its
        certificates (authorityKeyIdentifier) one for each of them."""
        due: list[DueCrl] = []
        good: list[Known] = []
        found: list[Finding] = []
        for same in of_each_key(able):
            crls = [crl for generation in reversed(same) for crl in self._crls_of(told, generation)]
            serving = [crl for crl in crls if crl.is_good(remaining_days)]
            newest = self._newest(serving, same[-1])
            if newest:
                good.append(newest)
            elif same[-1].sha256 in told.idle:
                text = f"nothing that the key of {same[-1].label} signed is still valid: it needs no CRL"
                found.append(Finding("no_crl_needed", text, same[-1].sha256))
                continue
            else:
                due.append(self._due_crl(told, same[-1]))
            for generation in same[:-1] if newest and told.abilities.signs_any_crl else ():
                own = self._newest(serving, generation)
                if own is None:
                    due.append(self._due_crl(told, generation))
                elif own is not newest:
                    good.insert(-1, own)
                    text = f"who has {generation.label} needs {own.path}: CRLs of this CA name a certificate (authorityKeyIdentifier)"
                    found.append(Finding("crl_names_certificate", text, generation.sha256))
            found += self._rejected(newest, same[-1]) if newest else ()
        return due, good, found

    @staticmethod
    def _newest(crls: list[Known], generation: Generation) -> Known | None:
        """The newest CRL that holders of this generation's certificate accept. Where the certificate allows none, any will do."""
        able = may(load(generation.certificate), "crl_sign")
        taken = [crl for crl in crls if not able or rejection(crl.der, generation.certificate) is None]
        return max(taken, key=lambda crl: crl.age, default=None)

    @staticmethod
    def _due_crl(told: Crled, generation: Generation) -> DueCrl:
        placed = next((crl for crl in told.crls if crl.certificate == generation.sha256), None)
        return DueCrl(generation.sha256, hashlib.sha256(placed.content).hexdigest() if placed else None)

    def _crls_of(self, told: Crled, generation: Generation) -> list[Known]:
        """Where a host can't tell whose its CRLs are, the generation that verifies one is its signer."""
        own = [crl for crl in told.crls if crl.certificate in (None, generation.sha256)]
        known = [known_crl(whose_crl, generation, crl.content, crl.path, crl.certificate is not None, crl.lacks) for crl in own]
        return [crl for crl in known if crl]

    def _not_there(self, told: Crled, able: list[Generation], missing: list[DueCrl]) -> KeywardError:
        due = {one.certificate for one in missing}
        lacking = {crl.certificate: crl.lacks for crl in told.crls if crl.lacks}
        why = [
            f"that of {generation.label} lacks {lacking[generation.sha256]} certificates that the database says are revoked"
            if generation.sha256 in lacking
            else f"{generation.label} has none that is valid"
            for generation in able
            if generation.sha256 in due
        ]
        return KeywardError(
            "not every key has its CRL",
            "; ".join(why),
            "Run the task again. If that doesn't help, see what ca_info says of the database, and look at the places of the CRLs",
        )

    def _proofs(self) -> Result:
        """Sign a CRL with each key, in a scratch place."""
        told: Crled = self.completed(self.send(Crls(scratch=True, urls=self._looks_at_urls), Crled))
        able, advisories = self._able(told, expired=True)
        if told.abilities.signs_any_crl:
            crls = [crl for generation in able for crl in self._crls_of(told, generation)]
        else:
            crls, unproved = _adcs.proofs(self, able)
            advisories += unproved
        return self._result(told, False, crls, [*advisories, *(one for crl in crls for one in self._rejected(crl))])

    @staticmethod
    def _rejected(crl: Known, generation: Generation | None = None) -> t.Iterator[Finding]:
        """A signature is not all: clients look at what the certificate allows. C(generation): whose certificate, if another's."""
        generation = generation or crl.generation
        why = rejection(crl.der, generation.certificate)
        if why:
            yield Finding("crl_rejected", f"clients reject the CRL of {generation.label}: {why}", generation.sha256)

    def _signed_again(self) -> Result:
        path = self.options["published_crl"]
        try:
            data = read_file(path, "the published CRL", LARGEST_CRL)
            load_crl(data)
        except FileNotFoundError:
            raise KeywardError(f"the published CRL {path} can't be read", "it does not exist", "Give a file on the controller") from None
        except (ValueError, TypeError):
            raise KeywardError(
                "no CRL was signed", "the published CRL can't be read, neither as PEM nor as DER", "Give the last one"
            ) from None
        if len(list(crls_in(data))) > 1:
            raise KeywardError("no CRL was signed", f"{path} holds several CRLs", "Give each in a file of its own, in one task for each")
        try:
            told = self.look()
        except NothingOnHost as exc:
            if exc.abilities.signs_any_crl:
                raise
            return self._signed_by_its_key(data)
        if not told.abilities.signs_any_crl:
            return self._signed_by_its_key(data)
        if among(told.generations, lambda certificate: whose_crl(data, certificate))[0] is None:
            raise KeywardError("no CRL was signed", "no generation of this CA signed the published CRL", "Give a CRL of this CA")
        order = Crls(told.generations[-1].sha256, days=self.options["days"], published=data, at=now_text())
        done: Crled = self.completed(self.send(order, Crled))
        return self._result(done, done.changed, [crl for generation in done.generations for crl in self._crls_of(done, generation)], [])

    def _signed_by_its_key(self, data: bytes) -> Result:
        """By software that signs what its database says: its key does without one, also where nothing but the key is on the host."""
        if is_delta(crl_der(data)):
            why = "the published CRL is a delta CRL: it lists only what has changed since the last complete one"
            raise KeywardError("no CRL was signed", why, "Give the newest complete CRL")
        told: Crled = self.completed(self.send(SignAgain(crl_der(data)), Crled))
        signer = among(told.generations, lambda certificate: whose_crl(data, certificate))[0]
        if signer is None:
            raise KeywardError(
                "no CRL was signed", "no key that is on this host signed the published CRL", "Put its key back (ca_key_restore)"
            )
        if self._check:
            return self._result(told, False, [], [])
        before = Known(signer, None, crl_der(data))
        order = SignAgain(before.der, signer.sha256, self.options["days"] or before.days)
        done: Crled = self.completed(self.send(order, Crled))
        made = [crl for crl in self._crls_of(done, signer) if crl.succeeds(before)]
        if not made:
            raise KeywardError(
                "no CRL was signed",
                "what the host signed does not succeed the published CRL: it lacks an entry or the number, or ends no later",
                "Give more days. If that doesn't help, sign it by hand on the host: certutil -sign",
            )
        return self._result(done, False, made[:1], [])

    def _result(self, told: Crled, changed: bool, crls: list[Known], advisories: list[Finding]) -> Result:
        written = der_files(told, crls, self.options["der_directory"], self._check) if self.options["der_directory"] else DerFiles()
        clients = Clients(told, crls, self.options["former_hosts"] or ()) if self._looks_at_urls else None
        # What clients get decides: a file on the host that is older than that is nothing to act on.
        served = {one.sha256 for one in told.generations if clients and one.public_key_sha256 in clients.served}
        advisories = [one for one in advisories if one.code not in _OF_AGE or one.certificate not in served]
        return {
            "changed": changed or written.changed,
            **self.shown(told),
            "crls": [crl.as_result() for crl in crls],
            "der_files": written.paths,
            "published": clients.published if clients else [],
            "advisories": findings(
                told.advisories, advisories, (_unverified(crl) for crl in crls if not crl.proved), clients.findings if clients else ()
            ),
            "reasons": [],
        }


def _unverified(crl: Known) -> Finding:
    return unverified(f"the CRL of {crl.generation.label}")
