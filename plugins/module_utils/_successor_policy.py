# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whether a new CA certificate does the work of the old one and of its request; may change in any release.

No files and no Ansible here. Whoever signed the certificate, it is held against both before it takes its place.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils import _outline, _x509
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import (
    extension,
    key_usage,
    may,
    raw_extensions,
    unreadable,
    uses,
    weakness,
)
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, self_signed, whose_by_library

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass

# The names by which people know extensions; any other is called by its number.
_NAMES = {
    "2.5.29.30": "name constraints",
    "2.5.29.31": "CRL distribution points",
    "2.5.29.32": "certificate policies",
    "2.5.29.33": "policy mappings",
    "2.5.29.36": "policy constraints",
    "2.5.29.37": "extended key usage",
    "2.5.29.54": "inhibit any policy",
    "2.5.29.17": "subject alternative names",
    "2.5.29.18": "issuer alternative names",
    "2.5.29.46": "a freshest CRL",
    "1.3.6.1.5.5.7.1.1": "authority information access",
    "2.5.29.15": "key usage",
}
# Extensions whose value is new in each certificate; the others are compared by meaning.
_OWN = {"2.5.29.14", "2.5.29.35", "2.5.29.19", "2.5.29.15"}
_NARROWING = {"2.5.29.30", "2.5.29.37", "2.5.29.36", "2.5.29.54"}
_USE_NAMES = {"key_cert_sign": "keyCertSign", "crl_sign": "cRLSign", "digital_signature": "digitalSignature"}


@dataclass(frozen=True)
class Asked:
    """What a certificate is held against (DER). C(old): the one whose work it takes over. C(request): what a parent was asked to sign."""

    old: t.Optional[bytes] = None
    request: t.Optional[bytes] = None

    @property
    def subject(self) -> t.Optional[bytes]:
        """As it stands there, byte by byte."""
        if self.old is not None:
            return _outline.certificate(self.old).subject
        return _outline.request(self.request).issuer if self.request is not None else None

    @property
    def before(self) -> t.Any:
        """What the certificate should be like: the old one, else the request; None where there is neither."""
        if self.old is not None:
            return _x509.load(self.old)
        return _x509.load_request(self.request) if self.request is not None else None


def fault(new: bytes, asked: Asked, root: bool) -> t.Optional[str]:
    """Why a certificate (DER) can't do the work, as a clause."""
    parsed, own, subject = _x509.load(new), _outline.certificate(new), asked.subject
    if subject not in (None, own.subject):
        return _other_subject(own.subject, subject)
    if root and self_signed(new) is not Whose.OURS:
        return "it is not signed by its own key, as that of a root is"
    lost = unreadable(parsed, own.extensions)
    if lost:
        return f"its {', '.join(lost)} can't be read, so that nobody can say what it allows"
    constraints = extension(parsed, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return "it is no CA certificate (basicConstraints)"
    if not may(parsed, "key_cert_sign"):
        return "it may not sign certificates (its keyUsage lacks keyCertSign)"
    if asked.old is not None and may(asked.before, "crl_sign") and not may(parsed, "crl_sign"):
        return "it may not sign CRLs (its keyUsage lacks cRLSign), and the old one may"
    return weakness(_x509.load_public_key(own.public_key))


def _other_subject(subject: bytes, wanted: bytes) -> str:
    name, expected = map(_outline.rfc4514, (subject, wanted))
    if name == expected:
        return f"its subject, {name}, is encoded in other bytes than the CA's: what it issued would not chain to it"
    return f"its subject is {name}, and the CA's is {expected}"


# --- what is different, and stops nothing ------------------------------------------------------------------------


def differences(new: Generation, asked: Asked) -> t.List[Finding]:
    """What a person should know of a certificate that does the work."""
    parsed, before = _x509.load(new.certificate), asked.before
    found = []
    lost = sorted(_lost_extensions(parsed, before)) if asked.old is not None else []
    if lost:
        text = f"the new certificate has no {', '.join(lost)}, which the old certificate has"
        found.append(Finding("extension_lost", text, new.sha256))
    other = sorted(_other_places(parsed, before)) if asked.old is not None else []
    if other:
        text = f"the new certificate has other {', '.join(other)} than the old certificate"
        found.append(Finding("extension_changed", text, new.sha256))
    stricter = narrower(parsed, asked)
    if stricter:
        text = f"the new certificate allows less than was asked for: {', '.join(stricter)}"
        found.append(Finding("stricter_certificate", text, new.sha256))
    if asked.old is not None and _longer(parsed, before):
        text = f"the new certificate allows more CAs below it than the old certificate: {_path(parsed)}, and it was {_path(before)}"
        found.append(Finding("wider_certificate", text, new.sha256))
    added = sorted(_added(parsed, asked)) if asked.old is None and asked.request is not None else []
    if added:
        found.append(Finding("added_by_parent", f"the new certificate has what was not asked for: {', '.join(added)}", new.sha256))
    if not may(parsed, "crl_sign"):
        text = "the new certificate may not sign CRLs (its keyUsage lacks cRLSign): clients that look at that reject them"
        found.append(Finding("may_not_sign_crls", text, new.sha256))
    return found


def _added(new: x509.Certificate, asked: Asked) -> t.Set[str]:
    """Known extensions that the request does not ask for; restrictions are reported on their own."""
    return {_NAMES[each.oid] for each in raw_extensions(new) if each.oid in set(_NAMES) - _OWN - _NARROWING - _named(asked)}


def _named(asked: Asked) -> t.Set[str]:
    """The object identifiers of the extensions of what a certificate should be like."""
    if asked.old is not None:
        return {*_outline.certificate(asked.old).extensions}
    return {*_outline.request(asked.request).extensions} if asked.request is not None else set()


def _lost_extensions(new: x509.Certificate, old: x509.Certificate) -> t.Set[str]:
    has = {each.oid for each in raw_extensions(new)}
    return {_NAMES.get(each.oid, f"extension {each.oid}") for each in raw_extensions(old) if each.oid not in has | _OWN}


def _other_places(new: x509.Certificate, old: x509.Certificate) -> t.Set[str]:
    """Extensions of the CA software itself, such as counters, don't matter: only those that clients look at do."""
    before = {each.oid: each.value for each in raw_extensions(old) if each.oid in _NAMES and each.oid not in _OWN}
    return {_NAMES[each.oid] for each in raw_extensions(new) if each.value != before.get(each.oid, each.value)}


def narrower(new: x509.Certificate, asked: Asked) -> t.List[str]:
    """What a certificate forbids that neither its request nor the old one forbids."""
    found, before = [], asked.before
    if before is None:
        return []
    length, limit = path_length(new), path_length(before)
    if length is not None and (limit is None or length < limit):
        found.append(_path(new))
    allowed, wanted = uses(new), uses(before)
    if allowed is not None and wanted is not None and wanted - allowed:
        found.append("no " + ", ".join(sorted(_USE_NAMES.get(name, name) for name in wanted - allowed)))
    has = _named(asked)
    found += [_NAMES[each.oid] for each in raw_extensions(new) if each.oid in _NARROWING and each.oid not in has]
    return found


def more_than_asked(new: x509.Certificate, request: x509.CertificateSigningRequest) -> t.List[x509.ExtensionType]:
    """The limits that the certificate lacks and its request asks for."""
    found: t.List[x509.ExtensionType] = []
    asked, length = path_length(request), path_length(new)
    if asked is not None and (length is None or length > asked):
        found.append(x509.BasicConstraints(True, asked))
    wanted, allowed = uses(request), uses(new)
    if wanted is not None and (allowed is None or allowed - wanted):
        found.append(key_usage(wanted if allowed is None else allowed & wanted))
    wanted_for, allowed_for = extension(request, x509.ExtendedKeyUsage), extension(new, x509.ExtendedKeyUsage)
    if wanted_for is not None and (allowed_for is None or set(allowed_for) - set(wanted_for)):
        both = [use for use in wanted_for if allowed_for is None or use in allowed_for]
        found.append(x509.ExtendedKeyUsage(both or list(wanted_for)))
    names, permitted = extension(request, x509.NameConstraints), extension(new, x509.NameConstraints)
    if names is not None and permitted is None:
        found.append(names)
    return found


def names_not_asked(new: x509.Certificate, request: x509.CertificateSigningRequest) -> t.List[str]:
    """The subject alternative names of a certificate that its request does not have."""
    wanted, given = (extension(thing, x509.SubjectAlternativeName) for thing in (request, new))
    return [str(name.value) for name in given or () if name not in set(wanted or ())]


def path_length(thing: t.Any) -> t.Optional[int]:
    """How many CAs may follow below a certificate or request; None for any number."""
    constraints = extension(thing, x509.BasicConstraints)
    return constraints.path_length if constraints is not None and constraints.ca else None


def _path(certificate: x509.Certificate) -> str:
    length = path_length(certificate)
    return "no limit of the path length" if length is None else f"path length {length}"


def _longer(new: x509.Certificate, old: x509.Certificate) -> bool:
    before, after = path_length(old), path_length(new)
    return before is not None and (after is None or after > before)


# --- what was issued ---------------------------------------------------------------------------------------------


def leaning(issued: t.Sequence[bytes], generations: t.Sequence[Generation], new: Generation) -> t.Tuple[t.List[Finding], t.Optional[str]]:
    """Compare what issued certificates say about their issuer with a new generation: what to report, and why it can't take its place.

    C(issued): a sample (DER) of what earlier generations issued and what has not expired.
    """
    own = _x509.load(new.certificate)
    identifier = extension(own, x509.SubjectKeyIdentifier)
    older = {int(generation.serial, 16): generation for generation in generations if generation.sha256 != new.sha256}
    named: t.Dict[int, int] = {}
    others: t.Set[str] = set()
    for each in issued:
        key, serial = _outline.authority_key(_outline.certificate(each).extensions)
        if serial in older:
            named[serial] = named.get(serial, 0) + 1
        if identifier is not None and key is not None and key != identifier.digest and _by(each, new):
            others.add(key.hex())
    found = [
        Finding(
            "needs_older_certificate",
            f"{count} of {len(issued)} certificates that were looked at name the issuer and serial number of {older[serial].label} "
            "(authorityKeyIdentifier): until they have expired, who checks them needs that certificate beside the new one",
            older[serial].sha256,
        )
        for serial, count in sorted(named.items())
    ]
    why = None
    if others:
        why = f"its subject key identifier is {t.cast(t.Any, identifier).digest.hex()}, and what its key issued names {min(others)}"
    return found, why


def _by(certificate: bytes, issuer: Generation) -> bool:
    return whose_by_library(certificate, issuer.certificate) is not Whose.NOT_OURS
