# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _outline, _x509
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import unreadable, weakness
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._home import of_id
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Sign, Signed
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import is_root
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._whose import whose_request
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs, _adcs_trust
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import BackupTask
from ansible_collections.keyward.pki.plugins.plugin_utils._subject import subject_name
from ansible_collections.keyward.pki.plugins.plugin_utils._task import NothingOnHost, Result, findings

Folded = t.Sequence[tuple[str, str]]


class ActionModule(BackupTask):
    NAME, ARGUMENTS = "ca_sign", _arguments.CA_SIGN

    def perform(self) -> Result:
        self._expected = self._of_record() if self.options["requested_by"] is not None else self._as_stated()
        return self.decided_anew(self._signed)

    # --- whose request it may be ---

    def _as_stated(self) -> bytes | None:
        if self.options["subject"] == {}:
            raise KeywardError("the request was not signed", "the subject that is to be signed for is empty", "Give the subject of the CA")
        return None if self.options["subject"] is None else subject_name(self.options["subject"]).public_bytes()

    def _of_record(self) -> bytes:
        """The subject of the authority that asks, by its newest backup. Raises KeywardError where no CA above it signs for it.

        Its host is believed about nothing here: a compromised one asks in the name of another CA.
        """
        if self.options["subject"] is not None:
            raise KeywardError("ca_sign can't run", "subject and requested_by exclude each other", "Give one of them")
        beginning = str(self.options["requested_by"])
        self.memory.refuse_other_stores(self.stores)
        one = of_id(beginning, self.authorities.of(self._host, (), beginning).known, "requested_by")
        self.refuse_rolled_back(one)
        generations = one.latest.manifest.generations
        subjects = {tuple(sorted(_folded(_subject(generation)))) for generation in generations}
        why = None
        if is_root(generations):
            why = f"{one.name} is a root: it signs its own certificate"
        elif len(subjects) > 1:
            why = f"the subject of {one.name} has changed, and nobody but a person can say which one is right"
        if why:
            raise KeywardError("the request was not signed", why, "Look at the request, and sign it in a task of its own, with subject")
        return _subject(generations[-1])

    def _signed(self) -> Result:
        try:
            told = self.look(module="ca_info")  # which every platform has
        except NothingOnHost as exc:
            if not exc.abilities.signs_requests:
                raise _adcs.no_requests() from exc
            raise
        if not told.abilities.signs_requests:
            raise _adcs.no_requests()
        current = told.generations[-1]
        self._refuse_request(self.options["request"], current)
        order = Sign(current.sha256, self.options["request"], self.options["days"], self.options["extensions"] or "", now_text())
        done: Signed = self.completed(self.send(order, Signed))
        return {
            "changed": done.changed,
            **self.shown(done),
            "certificate": done.certificate,
            "serial": done.serial,
            "chain": list(done.chain),
            "crl": done.crl,
            "advisories": findings(done.advisories, self._unchecked(done), self._outliving(done.certificate, current)),
            "reasons": [],
        }

    def _refuse_request(self, text: str, current: Generation) -> None:
        """Raise KeywardError unless a CA below this one may have asked so."""
        data = _x509.request_der(text.encode("utf-8"))
        try:
            asked = _outline.request(data)
            why = self._fault(asked, data)
        except ValueError:
            why = "it is no certificate request (PEM) that can be read here"
        if why:
            raise KeywardError("the request was not signed", why, "Give the request as ca_renew or ca_install returned it")
        # With the name of its issuer, a subordinate could sign CRLs in that name, and no path length counts it (RFC 5280, 4.2.1.9).
        if _folded(asked.issuer) == _folded(_subject(current)):
            raise KeywardError(
                "the request was not signed",
                "its subject is that of the CA that should sign it",
                "Have the subordinate made with a subject of its own",
            )

    def _fault(self, asked: _outline.Asked, data: bytes) -> str | None:
        """Raises ValueError where it can't be read."""
        name, key = _outline.rfc4514(asked.issuer), _x509.load_public_key(asked.public_key)
        if whose_request(data) is Whose.NOT_OURS:  # where nothing here can tell, openssl does before it signs
            return "its signature is not that of the key in it"
        if not _outline.texts(asked.issuer):
            return "its subject is empty"
        if self._expected is not None and sorted(_folded(asked.issuer)) != sorted(_folded(self._expected)):
            return f"it asks for the subject {name}, and {_outline.rfc4514(self._expected)} is to be signed"
        lost = unreadable(_x509.load_request(data), asked.extensions)
        if lost:
            return f"its {', '.join(lost)} can't be read, so that the certificate could allow more than is asked for"
        if key is None:
            return "its key is of a kind that the cryptography package can't read, so that nobody can say how strong it is"
        return weakness(key)

    def _unchecked(self, done: Signed) -> t.Iterator[Finding]:
        if not done.distribution_point and _adcs_trust.asks_here(_x509.request_der(self.options["request"].encode("utf-8"))):
            made = _x509.pem_certificates(done.certificate.encode("ascii")) if done.certificate else []
            yield _adcs_trust.without_distribution_point(generation_of(made[0]).sha256 if made else None)

    def _outliving(self, certificate: str | None, issuer: Generation) -> t.Iterator[Finding]:
        found = _x509.pem_certificates(certificate.encode("ascii")) if certificate else []
        for answer in map(generation_of, found[:1]):
            if answer.not_after > issuer.not_after:
                text = f"{answer.label} is valid until {answer.not_after}, its issuer until {issuer.not_after}"
                yield Finding("outlives_issuer", text, answer.sha256)


def _subject(generation: Generation) -> bytes:
    return _outline.certificate(generation.certificate).subject


def _folded(name: bytes) -> Folded:
    """As names are compared (RFC 5280, 7.1): neither case nor the number of spaces counts."""
    return [(oid, " ".join(text.split()).casefold()) for relative in _outline.texts(name) for oid, text in relative]
