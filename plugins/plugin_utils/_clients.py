# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what clients of a CA get behind the URLs that its certificates name; may change in any release."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ansible_collections.keyward.pki.plugins.module_utils import _outline
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der, load_crl, next_update, revoked_in
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import SOON, Known, overdue
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._named_urls import urls_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Crled
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, is_self_signed
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, whose_certificate, whose_crl
from ansible_collections.keyward.pki.plugins.module_utils._x509 import load, pem_certificates
from ansible_collections.keyward.pki.plugins.plugin_utils._fetched import MISSING, NOT_ASKED, SERVED, UNREACHABLE, Fetched, fetched

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
    from cryptography.x509 import InvalidVersion
except ImportError:  # the modules say which library is missing
    pass

_PEM = b"-----BEGIN"


@dataclass(frozen=True)
class _Wanted:
    """C(keys): whose CRL or certificate is to be there. C(child): the certificate of this CA that names it, where it is its parent's."""

    url: str
    kind: str
    keys: frozenset[str]
    child: Generation | None = None

    @property
    def text(self) -> str:
        return f"{self.url}, where {'the parent' if self.child else 'this CA'}'s {'CRL' if self.kind == 'crl' else 'certificate'} is to be,"


class Clients:
    """C(published): what each URL serves. C(findings): what is to be said of it. C(served): keys whose CRL is right there."""

    def __init__(self, told: Crled, known: t.Sequence[Known], former_hosts: t.Collection[str] = ()) -> None:
        self._told, self._known = told, known
        self.published: list[dict[str, t.Any]] = []
        self.findings: list[Finding] = []
        self.served: set[str] = set()
        wanted = [one for one in _wanted(told) if not former_hosts or _is_of(one.url, former_hosts)]
        got = fetched(one.url for one in wanted if one.kind != "ocsp")
        for one in wanted:
            self._look(one, got.get(one.url, Fetched(NOT_ASKED, why="an OCSP responder is asked for one certificate only")))
        if former_hosts:
            self.findings = [self._of_former_host(one) for one in self.published]

    def _look(self, one: _Wanted, got: Fetched) -> None:
        found, until = list[Finding](), None
        if len(one.keys) > 1 and one.kind != "ocsp":
            text = f"{one.url} is named by certificates of {len(one.keys)} keys of this CA, and serves what one of them signed (RFC 5280)"
            found.append(Finding("one_url_two_keys", f"{text}: whoever has a certificate of another one finds no CRL of it there"))
        if got.state == SERVED:
            if _PEM in got.content:
                found.append(Finding("published_not_der", f"{one.text} serves PEM: clients expect DER there (RFC 5280)"))
            judge = self._crl if one.kind == "crl" else self._certificate
            fault, until = judge(one, got.content)
            found += [fault] if fault else []
        elif got.state == MISSING:
            found.append(Finding("published_missing", f"{one.text} serves nothing: {got.why}. Publish it there"))
        elif got.state == UNREACHABLE:
            found.append(Finding("url_unreachable", f"{one.text} can't be looked at from the controller: {got.why}"))
        else:
            found.append(Finding("url_not_looked_at", f"{one.url} was not looked at: {got.why}"))
        self.findings += found
        state = next((each.code for each in found if each.code not in ("published_not_der", "one_url_two_keys")), "good")
        issuer = "parent" if one.child else "own"
        message = "; ".join(each.message for each in found)
        self.published.append(
            {"url": one.url, "kind": one.kind, "issuer": issuer, "state": state, "next_update": until, "message": message}
        )

    def _crl(self, one: _Wanted, data: bytes) -> tuple[Finding | None, str | None]:
        try:
            parsed, outline = load_crl(data), _outline.crl(crl_der(data))
        except (ValueError, TypeError):
            return Finding("published_missing", f"{one.text} serves something that is no CRL. Publish it there"), None
        until = next_update(parsed)
        if one.child:
            if not _outline.same_name(outline.issuer, _outline.certificate(one.child.certificate).issuer):
                return Finding("published_crl_other_key", f"{one.text} serves a CRL of {_outline.rfc4514(outline.issuer)}"), until
            if until is None or until < now_text() or (until < format_time(now() + SOON) and overdue(crl_der(data))):
                text = f"{one.text} serves one that {_ends(until)}: have the parent's CRL refreshed, or clients reject this CA"
                return Finding("parent_crl_stale", text), until
            return None, until
        signer, whose = among(self._told.generations, lambda certificate: whose_crl(data, certificate))
        if signer is None or signer.public_key_sha256 not in one.keys:
            other = f"the key of {signer.label}" if signer else f"another CA, {_outline.rfc4514(outline.issuer)}"
            return Finding("published_crl_other_key", f"{one.text} serves a CRL that {other} signed. Publish that of the right key"), until
        served = Known(signer, None, data, proved=whose is Whose.OURS)
        return self._stale(one, served), until

    def _stale(self, one: _Wanted, served: Known) -> Finding | None:
        key, until = served.generation.public_key_sha256, next_update(served.parsed)
        own = max((each for each in self._known if each.generation.public_key_sha256 == key), key=lambda each: each.age, default=None)
        lacks = 0
        if own and own.age > served.age:
            listed = {number for number, _at, _why in revoked_in(served.parsed)}
            lacks = len([1 for number, at, _why in revoked_in(own.parsed) if number not in listed and at <= now()])
        why = None
        if until is None or until < now_text():
            why = _ends(until)
        elif lacks:
            why = f"lacks {lacks} revocations that the CA's own has"
        elif served.in_last_third:
            why = f"is in the last third of its time, and expires on {until}"
        if why is None:
            self.served.add(key)
            return None
        newer = "Publish the newer one that the CA has" if own and own.age > served.age else "Sign and publish a new one (keyward.pki.crl)"
        return Finding("published_crl_stale", f"{one.text} serves a CRL that {why}. {newer}", served.generation.sha256)

    def _certificate(self, one: _Wanted, data: bytes) -> tuple[Finding | None, None]:
        certificates = _certificates(data)
        if not certificates:
            text = f"{one.text} serves neither a certificate nor a certs-only CMS message. Publish it there"
            return Finding("published_missing", text), None
        if one.child:
            own = one.child.certificate
            right = any(_judged(own, each) is not Whose.NOT_OURS for each in certificates)
        else:
            keys = {each.certificate: each.public_key_sha256 for each in self._told.generations}
            right = any(keys.get(each) in one.keys for each in certificates)
        text = f"{one.text} serves a certificate with which what names it can't be verified. Publish the right one"
        return (None if right else Finding("published_certificate_other", text)), None

    @staticmethod
    def _of_former_host(one: dict[str, t.Any]) -> Finding:
        said = f"{one['url']} serves what it should" if one["state"] == "good" else one["message"]
        text = f"certificates name a URL on a host where the CA was: {said}"
        return Finding("url_of_former_host", f"{text}. Publish there for as long as they are valid, or let that name lead to the new host")


def _wanted(told: Crled) -> t.Iterator[_Wanted]:
    """The URLs that issued certificates and the CA's own certificates name, each once."""
    by_sha256 = {each.sha256: each.public_key_sha256 for each in told.generations}
    found: dict[tuple[str, str, bool], _Wanted] = {}

    def add(one: _Wanted) -> None:
        at = (one.url, one.kind, one.child is None)
        found[at] = replace(found[at], keys=found[at].keys | one.keys) if at in found else one

    for named in told.named:
        add(_Wanted(named.url, named.kind, frozenset(by_sha256[each] for each in named.signers if each in by_sha256)))
    for generation in {each.public_key_sha256: each for each in told.generations if each.not_after >= now_text()}.values():
        try:
            certificate = load(generation.certificate)
            root, named_urls = is_self_signed(generation.certificate), list(urls_of(certificate))
        except (ValueError, UnsupportedAlgorithm):
            continue
        for kind, url in named_urls:
            add(_Wanted(url, kind, frozenset([generation.public_key_sha256] if root else ()), None if root else generation))
    return iter(found.values())


def _certificates(data: bytes) -> list[bytes]:
    """The certificates in what a URL serves: DER, PEM, or a certs-only CMS message."""
    if _PEM in data:
        return pem_certificates(data)
    try:
        _outline.certificate(data)
        return [data]
    except ValueError:
        pass
    try:
        return [each.public_bytes(Encoding.DER) for each in pkcs7.load_der_pkcs7_certificates(data)]
    except (ValueError, UnsupportedAlgorithm, InvalidVersion):
        return []


def _judged(certificate: bytes, issuer: bytes) -> Whose:
    try:
        return whose_certificate(certificate, issuer)
    except ValueError:
        return Whose.NOT_OURS


def _ends(until: str | None) -> str:
    if until is None:
        return "does not say until when it is valid (nextUpdate)"
    return f"{'expired' if until < now_text() else 'expires'} on {until}"


def _is_of(url: str, hosts: t.Collection[str]) -> bool:
    """Whether a URL is on one of these hosts: an inventory may leave the domain out."""
    try:
        name = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return any(name == host.lower() or name.split(".")[0] == host.lower() or name == host.lower().split(".")[0] for host in hosts if name)
