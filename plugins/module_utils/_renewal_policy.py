# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: when a CA is to be renewed, and which certificate answers its request; may change in any release.

No files and no Ansible here: the controller decides by this, whatever software runs the CA.
"""

from __future__ import annotations

import contextlib
import re
import typing as t
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _ca_certificate, _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, generation_of, why_inaccessible
from ansible_collections.keyward.pki.plugins.module_utils._signature import is_self_signed
from ansible_collections.keyward.pki.plugins.module_utils._successor_policy import Asked, fault
from ansible_collections.keyward.pki.plugins.module_utils._time import now, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem_certificates


def renewal_reasons(current: Generation, conditions: t.Mapping[str, t.Any], backdated: timedelta = timedelta(0)) -> t.List[Finding]:
    """Why a CA is to be renewed; none where it is not. C(conditions): remaining_days and issued_before (ISO 8601), either may be None.

    C(backdated): by how much the CA lets its certificates begin before the moment when they are made.
    """
    start, end = parse_time(current.not_before) + backdated, parse_time(current.not_after)
    found = []
    days, before = conditions.get("remaining_days"), conditions.get("issued_before")
    if days is not None and end - now() < timedelta(days=days):
        found.append(Finding("remaining_days", f"it is valid until {current.not_after}, fewer than {days} days", current.sha256))
    if before is not None and start < _time(before):
        found.append(Finding("issued_before", f"it began to be valid on {current.not_before}, before {before}", current.sha256))
    return found


def refuse_endless(current: Generation, conditions: t.Mapping[str, t.Any], start: datetime, end: datetime) -> None:
    """Raise KeywardError where a certificate of that validity would leave its condition true: each run would renew again."""
    days, before = conditions.get("remaining_days"), conditions.get("issued_before")
    what = None
    if days is not None and end - start <= timedelta(days=days):
        what = f"the new certificate would be valid for {(end - start).days} days, and remaining_days is {days}"
    elif before is not None and start < _time(before):
        what = f"issued_before, {before}, lies in the future, and every certificate issued before it would be due again"
    if what:
        raise KeywardError(
            f"the CA {current.subject} can't be renewed",
            f"{what}: each run would renew it again",
            "Give conditions that the renewal makes untrue: fewer remaining_days, or more days; a time in the past as issued_before",
        )


def is_root(generations: t.Sequence[Generation]) -> bool:
    """Whether it signs its own certificates. C(generations): the current one last.

    Where another CA issued an earlier certificate for the same key, it is a subordinate: C(easyrsa renew-ca) signs even that one's own.
    """
    current = generations[-1]
    same = [generation for generation in generations if generation.public_key_sha256 == current.public_key_sha256]
    return all(is_self_signed(generation.certificate) for generation in same if generation.index <= current.index)


def refuse_unusable_key(current: Generation, told: t.Iterable[Finding] = ()) -> None:
    """Raise KeywardError unless the private key is in hand. The new one is made and kept like it. C(told): the advisories of its host."""
    refusal = None
    why = why_inaccessible(current, told)
    if current.exportable is False:
        refusal = ("its private key is in a token", "Renew it with the tools of the token, and keep the old certificate as cacert.<n>.pem")
    elif current.private_key == "missing":
        refusal = ("its private key is missing", "Put it back first (ca_key_restore)")
    elif current.private_key != "present" or current.key_place is None:
        refusal = (
            (why, "Then run the task again")
            if why
            else ("its private key can't be used", "Give private_key_passphrase, or become a user that may read the key")
        )
    if refusal:
        raise KeywardError(f"the CA {current.subject} can't be renewed", *refusal)


def lost_key(subject: str, request: str, private_key: str, done: str = "renewed") -> KeywardError:
    """A request without its private key would be pending for ever: no answer to it can be used."""
    return KeywardError(
        f"the CA {subject} can't be {done}",
        f"the request {request} waits for its answer, and its private key is not in {private_key}",
        "Put that key back. If it is lost, move the request away, and another is made",
    )


def _time(text: str) -> datetime:
    match = re.match(r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(?::(\d{2}))?Z?)?\Z", text)
    try:
        if not match:
            raise ValueError
        return datetime.strptime(f"{match.group(1)}T{match.group(2) or '00:00'}:{match.group(3) or '00'}", "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        raise KeywardError(
            "the CA can't be renewed", f"issued_before is no time that can be read: {text}", "Give it as 2026-11-01T00:00:00Z (UTC)"
        ) from None


def given_certificates(text: str) -> t.List[bytes]:
    """The certificates (DER) in the answer of a parent CA, in their order. Raises KeywardError where there is none."""
    found = pem_certificates(text.encode("utf-8"))
    for certificate in found:
        with contextlib.suppress(ValueError):
            generation_of(certificate)
            continue
        found = []
        break
    if not found:
        raise KeywardError(
            "the certificate was not put in place",
            "what was given holds no certificate (PEM) that can be read",
            "Give the answer of the parent CA as PEM",
        )
    return found


def answer_among(certificates: t.Sequence[bytes], key: t.Optional[str], known: t.Collection[str] = ()) -> t.Optional[Generation]:
    """The certificate that answers, wherever it stands among those given. None where the CA has it already.

    C(key): public_key_sha256 of the one that waits. C(known): SHA-256 of the certificates that the CA has. Where none is for that key,
    it is the first one, of which is said what is wrong with it.
    """
    given = [generation_of(certificate) for certificate in certificates]
    fitting = [one for one in given if one.public_key_sha256 == key and one.sha256 not in known]
    if fitting:
        return max(fitting, key=lambda one: (one.not_before, one.not_after))
    return None if any(one.sha256 in known for one in given) else given[0]


def in_order(answer: Generation, certificates: t.Sequence[bytes]) -> t.List[bytes]:
    """All that was given, the answer before the others."""
    return [answer.certificate, *(one for one in dict.fromkeys(certificates) if one != answer.certificate)]


def refuse_weak_key(current: Generation, public_key: t.Any, same: bool, where: str = "") -> None:
    """Raise KeywardError for a key for which no CA should get a certificate any more. C(where): a new one that waits."""
    why = _ca_certificate.weakness(public_key)
    if why:
        remedy = "Renew it with a new key (reuse_key: false)" if same else f"Move {where} away, and a new one is made"
        raise KeywardError(f"the CA {current.subject} can't be renewed", why, remedy)


def asked_of_parent(request: t.Optional[str], old: t.Optional[Generation] = None) -> Asked:
    """What an answer is held against. C(request): PEM; what can't be read is left out."""
    der: t.Optional[bytes] = _x509.request_der((request or "").encode("utf-8"))
    try:
        _x509.load_request(der or b"")
    except ValueError:
        der = None
    return Asked(old.certificate if old else None, der)


def refuse_wrong_answer(answer: Generation, key: str, asked: Asked) -> None:
    """Raise KeywardError unless the answer certifies the waiting key (C(key): its public_key_sha256) as this CA, for its work."""
    start, end = parse_time(answer.not_before), parse_time(answer.not_after)
    other = answer.public_key_sha256 != key
    why = "it is for another key than the one that waits" if other else fault(answer.certificate, asked, root=False)
    if why is None and (not start <= now() + timedelta(minutes=5) or end <= now()):
        why = f"it is valid from {answer.not_before} to {answer.not_after}"
    if why:
        raise KeywardError(
            "the certificate was not put in place", why, "Have the parent CA sign the pending request again, as that of a CA"
        )


def refuse_short_answer(answer: Generation, remaining_days: t.Optional[int]) -> None:
    """Raise KeywardError where the answer would leave the condition of the renewal true."""
    if remaining_days is not None and parse_time(answer.not_after) - now() < timedelta(days=remaining_days):
        raise KeywardError(
            "the certificate was not put in place",
            f"it is valid until {answer.not_after}, fewer than remaining_days ({remaining_days}): each run would renew the CA again",
            "Give fewer remaining_days. Or have the parent CA revoke it, and sign the same request for more days",
        )
