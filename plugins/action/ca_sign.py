# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Sign, Signed
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs
from ansible_collections.keyward.pki.plugins.plugin_utils._task import NothingOnHost, Result, Task, findings

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:  # the modules say which library is missing
    pass

LEAST_RSA = 2048


class ActionModule(Task):
    NAME, ARGUMENTS = "ca_sign", _arguments.CA_SIGN

    def perform(self) -> Result:
        return self.decided_anew(self._signed)

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
        order = Sign(current.sha256, self.options["request"], self.options["days"], self.options["extensions"] or "")
        done: Signed = self.completed(self.send(order, Signed))
        return {
            "changed": done.changed,
            **self.shown(done),
            "certificate": done.certificate,
            "serial": done.serial,
            "chain": list(done.chain),
            "advisories": findings(done.advisories, self._outliving(done.certificate, current)),
            "reasons": [],
        }

    def _refuse_request(self, text: str, current: Generation) -> None:
        """Raise KeywardError unless a CA below this one may have asked so."""
        try:
            asked = x509.load_pem_x509_csr(text.encode("utf-8"))
            why = self._fault(asked)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            why = "it is no certificate request (PEM) that can be read here"
        if why:
            raise KeywardError("the request was not signed", why, "Give the request as ca_renew or ca_install returned it")
        # With the name of its issuer, a subordinate could sign CRLs in that name, and no path length counts it (RFC 5280, 4.2.1.9).
        if _folded(asked.subject) == _folded(_x509.load(current.certificate).subject):
            raise KeywardError(
                "the request was not signed",
                "its subject is that of the CA that should sign it",
                "Have the subordinate made with a subject of its own",
            )

    def _fault(self, asked: x509.CertificateSigningRequest) -> str | None:
        if not asked.is_signature_valid:
            return "its signature is not that of the key in it"
        if not list(asked.subject):
            return "its subject is empty"
        key = asked.public_key()
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA:
            return f"its RSA key has {key.key_size} bits, fewer than {LEAST_RSA}"
        return None

    def _outliving(self, certificate: str | None, issuer: Generation) -> t.Iterator[Finding]:
        found = _x509.pem_certificates(certificate.encode("ascii")) if certificate else []
        for answer in map(generation_of, found[:1]):
            if answer.not_after > issuer.not_after:
                text = f"{answer.label} is valid until {answer.not_after}, its issuer until {issuer.not_after}"
                yield Finding("outlives_issuer", text, answer.sha256)


def _folded(name: x509.Name) -> list[tuple[str, str]]:
    """As names are compared (RFC 5280, 7.1): neither case nor the number of spaces counts."""
    return [(attribute.oid.dotted_string, " ".join(str(attribute.value).split()).casefold()) for attribute in name]
