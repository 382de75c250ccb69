# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whose a CRL is, and when its successor is due; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _outline
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import extension, may
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der, crl_number, is_delta, load_crl, moment, next_update
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, claims
from ansible_collections.keyward.pki.plugins.module_utils._time import after, format_time, now
from ansible_collections.keyward.pki.plugins.module_utils._x509 import CRL, load, pem

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass


SOON = timedelta(hours=48)
PUBLISHED_WITHIN = timedelta(hours=2)


@dataclass(frozen=True)
class Known:
    """A CRL that C(generation) verifies. C(lacks): how many revocations it does not list."""

    generation: Generation
    path: t.Optional[str]
    der: bytes
    lacks: int = 0
    proved: bool = True  # False: nothing at hand can verify it
    parsed: t.Any = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError where it can't be read."""
        object.__setattr__(self, "parsed", load_crl(self.der))

    @property
    def number(self) -> int:
        return int(crl_number(self.parsed) or "0", 16)

    @property
    def age(self) -> t.Tuple[int, datetime]:
        """Of two CRLs, the newer one has more: by number, and where one has none, by the time from which it is valid."""
        return self.number, moment(self.parsed, "last_update")

    @property
    def refreshed_at(self) -> datetime:
        """Before its last third, and by so much earlier that the next night is not too late."""
        span = self._span
        return t.cast(datetime, moment(self.parsed, "last_update") + span * 2 / 3 - min(timedelta(days=1), span / 6))

    @property
    def in_last_third(self) -> bool:
        """Of its time; or, where it announces its successor for later, that is overdue."""
        return bool(moment(self.parsed, "last_update") + self._span * 2 / 3 < now()) and overdue(self.der)

    @property
    def days(self) -> int:
        """For how many days it is valid, begun ones counted."""
        return max(1, -(-self._span // timedelta(days=1)))

    def succeeds(self, before: Known) -> bool:
        """Whether clients lose nothing by it: it lists what that one does, is numbered no lower, and is valid for longer."""
        entries, there = ({entry.serial_number for entry in each.parsed} for each in (self, before))
        ends = [next_update(each.parsed) or "" for each in (self, before)]
        return entries >= there and self.number >= before.number and ends[0] > ends[1]

    @property
    def _span(self) -> timedelta:
        begins, ends = moment(self.parsed, "last_update"), moment(self.parsed, "next_update")
        return t.cast(timedelta, ends - begins) if ends else timedelta(0)

    def is_good(self, remaining_days: t.Optional[int]) -> bool:
        """Whether it needs no successor. C(remaining_days): None for before its last third."""
        begun = moment(self.parsed, "last_update") <= now() + timedelta(minutes=5)
        if not begun or self.lacks or is_delta(self.der):  # a delta CRL has only what is new
            return False
        if remaining_days is None:
            return self.refreshed_at > now()
        return (next_update(self.parsed) or "") >= format_time(now() + timedelta(days=remaining_days))

    def as_result(self) -> t.Dict[str, t.Any]:
        return {
            "certificate": self.generation.sha256,
            "path": self.path,
            "crl": pem(self.der, CRL),
            "number": crl_number(self.parsed),
            "next_update": next_update(self.parsed),
        }


def overdue(der: bytes) -> bool:
    """Whether a CRL announces no successor, or one that should be there by now."""
    successor = _outline.announced(_outline.crl_extensions(der))
    return successor is None or after(successor, PUBLISHED_WITHIN) < now()


Judge = t.Callable[[bytes, bytes], Whose]  # whose a CRL is: its bytes, a certificate (DER)


def known_crl(judge: Judge, generation: Generation, data: bytes, path: t.Optional[str], placed: bool, lacks: int = 0) -> t.Optional[Known]:
    """The CRL of a generation in these bytes, None where they hold none. C(placed): they lie where that CRL belongs.

    One that bears the CA's name and that nothing at hand can verify counts where it lies in that place.
    Raises KeywardError where another CA's lies there: then two CAs would take each other's place.
    """
    try:
        der = crl_der(data)
        outline, whose = _outline.crl(der), judge(der, generation.certificate)
        known = Known(generation, path, der, lacks, proved=whose is Whose.OURS)
    except (ValueError, TypeError):
        return None
    if placed and not claims(outline, _outline.certificate(generation.certificate)):
        raise KeywardError(
            "no CRL was signed",
            f"{path} holds a CRL of another CA, {_outline.rfc4514(outline.issuer)}",
            "Give each CA a place of its own: crl, or crl_dir, in its section of the configuration",
        )
    if whose is Whose.OURS or (whose is Whose.CANT_TELL and (placed or _names_key(der, generation))):
        return known
    return None


def _names_key(der: bytes, generation: Generation) -> bool:
    """Whether a CRL says that the key of this generation signed it."""
    key, _serial = _outline.authority_key(_outline.crl_extensions(der))
    return bool(key) and t.cast(bytes, key).hex() == generation.subject_key_identifier


def is_successor(judge: Judge, data: bytes, published: bytes, generation: Generation, path: str) -> bool:
    """Whether what lies in the place of a generation's CRL follows the last published one, with all its entries."""
    there = known_crl(judge, generation, data, path, True)
    if there is None or not there.is_good(0):
        return False
    last = load_crl(published)
    listed, number = {entry.serial_number for entry in there.parsed}, crl_number(last)
    if not {entry.serial_number for entry in last} <= listed:
        return False
    if number is not None and crl_number(there.parsed) is not None:
        return there.number > int(number, 16)
    same = there.der == crl_der(published)
    return not same and bool(moment(there.parsed, "last_update") >= moment(last, "last_update"))


def rejection(der: bytes, certificate: bytes) -> t.Optional[str]:
    """Why who has this certificate rejects a CRL (both DER) that its key signed, as a clause (RFC 5280, 5.2.1 and 6.3.3)."""
    own = load(certificate)
    if not may(own, "crl_sign"):
        return "that certificate may not sign CRLs (its keyUsage lacks cRLSign)"
    (key, serial), identifier = _outline.authority_key(_outline.crl_extensions(der)), extension(own, x509.SubjectKeyIdentifier)
    if serial not in (None, own.serial_number):
        return "it names the serial number of another certificate (authorityKeyIdentifier)"
    if identifier is not None and key not in (None, identifier.digest):
        return "it names another key identifier (authorityKeyIdentifier)"
    return None


def running_out(known: t.Iterable[Known]) -> t.List[Finding]:
    """Where the newest CRL of a key that is known is about to expire, or has: then nothing is more urgent."""
    newest: t.Dict[str, Known] = {}
    for one in known:
        key = one.generation.public_key_sha256
        if key not in newest or one.age > newest[key].age:
            newest[key] = one
    found = []
    for one in newest.values():
        until, generation = next_update(one.parsed), one.generation
        if until and until < format_time(now() + SOON) and generation.not_after >= format_time(now()):
            text = f"the last CRL of {generation.label} that is known here expires on {until}. Before anything else put the keys back"
            remedy = "(ca_key_restore), sign the last published CRL again (ca_crl with published_crl), and publish that"
            found.append(Finding("crl_expires_soon", f"{text} {remedy}", generation.sha256))
    return found


def of_each_key(generations: t.Sequence[Generation]) -> t.List[t.List[Generation]]:
    """The generations of each key, oldest first; the keys in the order in which they were last renewed."""
    found: t.Dict[str, t.List[Generation]] = {}
    for generation in generations:
        found.setdefault(generation.public_key_sha256, []).append(generation)
    return sorted(found.values(), key=lambda same: generations.index(same[-1]))
