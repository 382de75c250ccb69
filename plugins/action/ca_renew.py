# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import PendingRequest, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Answer, Changed, Renew
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import (
    answer_among,
    asked_of_parent,
    given_certificates,
    in_order,
    is_root,
    lost_key,
    refuse_endless,
    refuse_short_answer,
    refuse_unusable_key,
    refuse_weak_key,
    refuse_wrong_answer,
    renewal_reasons,
)
from ansible_collections.keyward.pki.plugins.module_utils._successor_policy import Asked, differences
from ansible_collections.keyward.pki.plugins.module_utils._time import after, now, now_text, parse_time
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs, _adcs_trust
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result, Task, findings


class ActionModule(Task):
    NAME, ARGUMENTS = "ca_renew", _arguments.CA_RENEW

    def perform(self) -> Result:
        if all(self.options[name] is None for name in ("remaining_days", "issued_before", "certificate")):
            raise KeywardError(
                "ca_renew can't run",
                "it was not told when a renewal is due",
                "Give remaining_days or issued_before: a renewal makes both untrue, so that no later run renews again",
            )
        result = self.decided_anew(self._renewed_if_due)
        if self._task.diff:
            now = "".join(f"generation {one['index']}: {one['fingerprints']['sha256']}\n" for one in result["generations"])
            if result["changed"] and self._check:
                now += "a request to the parent\n" if result["pending"] else "a new generation\n"
            result["diff"] = {"before": self._before, "after": now}
        return result

    def _renewed_if_due(self) -> Result:
        told, self._different = self.look(), list[Finding]()
        self._before = "".join(f"generation {one.index}: {one.sha256}\n" for one in told.generations)
        if told.abilities.keys_in_hand:
            refuse_unusable_key(told.generations[-1], told.advisories)
        if self.options["days"] is not None and not told.abilities.takes_days:
            raise _adcs.no_days()
        root = is_root(told.generations)
        if root and told.abilities.renewal_keeps_start and self.options["reuse_key"] and self.options["issued_before"] is not None:
            raise _adcs.no_issued_before()
        waiting = told.pending_request if told.pending_request and told.pending_request.answerable and not root else None
        order, reasons = self._decided(told, root, waiting)
        if order is None:
            return {
                "changed": False,
                **self.shown(told),
                "due": False,
                "renewed": False,
                "pending": waiting is not None,
                "request": waiting.request if waiting else None,
                "request_file": waiting.path if waiting else None,
                "reasons": [],
            }
        done: Changed = self.completed(self.send(order, Changed))
        renewed = done.changed and not done.pending
        if renewed and not self._check and not told.abilities.takes_days:
            _adcs.refuse_endless(renewal_reasons(done.generations[-1], self.options, _adcs.backdated(told)))
        if renewed and not self._check and not self._different:
            self._different = differences(done.generations[-1], Asked(told.generations[-1].certificate))
        return {
            "changed": done.changed,
            **self.shown(replace(done, advisories=(*done.advisories, *self._different))),
            "due": True,
            "renewed": renewed,
            "pending": done.pending,
            "request": done.request,
            "request_file": done.request_file,
            "reasons": findings(reasons),
        }

    def _decided(self, told: Told, root: bool, waiting: PendingRequest | None) -> tuple[Renew | Answer | None, list[Finding]]:
        """What the host is to do, and why; None where nothing is due. Raises KeywardError."""
        current, given = told.generations[-1], self.options["certificate"]
        renew = Renew(current.sha256, self.options["reuse_key"], self.options["days"], at=now_text())
        certificates = [] if given is None or root else given_certificates(given)
        there = {generation.sha256 for generation in told.generations}
        answer = answer_among(certificates, waiting.public_key_sha256 if waiting else None, there) if certificates else None
        complete = next((generation for generation in told.generations if generation.index > current.index), None)
        # A certificate that was put in place, and of which the CA does not know yet, needs no other answer.
        if told.unfinished and (answer is None or complete or not waiting):
            text = f"{complete.label} was complete and not in its place" if complete else ""
            text = text or f"a renewal of {current.label} was begun and not finished"
            return replace(renew, finish=True), [Finding("unfinished_renewal", text, (complete or current).sha256)]
        if given is not None and root:
            raise KeywardError(
                f"the CA {current.subject} can't be renewed",
                "a certificate was given, and this is a root: it signs its own",
                "Leave certificate out",
            )
        if answer:
            if waiting is None:
                raise KeywardError(
                    "the certificate was not put in place",
                    "this CA has no pending request that it could answer",
                    "Run ca_renew without it first",
                )
            asked = asked_of_parent(waiting.request, current)
            refuse_wrong_answer(answer, waiting.public_key_sha256 or answer.public_key_sha256, asked)
            refuse_short_answer(answer, self.options["remaining_days"])
            self._different = [*differences(answer, asked), *_adcs_trust.of_answer(answer, told.abilities)]
            text = "".join(map(_x509.pem, in_order(answer, certificates)))
            crls = _adcs_trust.crls_beside(given, certificates) if told.abilities.checks_its_certificate else ()
            return Answer(current.sha256, text, crls, proved=waiting.public_key_sha256 is not None), [
                Finding("answered", f"{answer.label} answers the request", answer.sha256)
            ]
        if certificates or waiting:
            if waiting and waiting.lacks_key and not certificates:
                raise lost_key(current.subject, str(waiting.path), waiting.lacks_key)
            return None, []
        reasons = renewal_reasons(current, self.options, _adcs.backdated(told))
        if not reasons:
            return None, []
        if self.options["reuse_key"]:
            refuse_weak_key(current, current.public_key, same=True)
        begin, start, end = now(), parse_time(current.not_before), parse_time(current.not_after)
        days = self.options["days"]
        known_end = root and told.abilities.takes_days
        ends = after(begin, timedelta(days=days) if days else end - start)
        refuse_endless(current, self.options, begin, ends if known_end else datetime.max)
        return renew, reasons
