# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the numbers of a database, and how a restored one must go on; may change in any release.

No files and no Ansible here. An old database hands out serial numbers and CRL numbers a second time, and forgets revocations.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Row
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex

MARGIN = 0x10000  # how far numbers jump where nobody knows what was issued since
_WHAT = "nothing was restored"


@dataclass(frozen=True)
class Numbers:
    """The rows of a database by serial number, and its next numbers; None for a number that the CA has no file for, or has lost."""

    rows: t.Mapping[int, Row]
    next_serial: t.Optional[int]
    next_crl_number: t.Optional[int]

    def has_rows_of(self, earlier: Numbers) -> bool:
        """Whether this database has every row of the other, or what has become of it."""
        return all(serial in self.rows and self.rows[serial].covers(row) for serial, row in earlier.rows.items())


@dataclass(frozen=True)
class Revocation:
    serial: int
    at: str  # YYMMDDHHMMSSZ, as in an index.txt
    reason: t.Optional[str]

    @property
    def field(self) -> str:
        return f"{self.at},{self.reason}" if self.reason else self.at


@dataclass(frozen=True)
class Issued:
    """A certificate that is known to be issued."""

    serial: int
    expires: str
    subject: str  # as in an index.txt
    where: str


@dataclass(frozen=True)
class Published:
    """What is out there: numbers and revocations of CRLs, certificates. C(own_crl_numbers): of CRLs that lie on the host itself.

    C(used): numbers that the host shows as given, without the certificate or CRL.
    """

    crl_numbers: t.Sequence[int] = ()
    revocations: t.Sequence[Revocation] = ()
    issued: t.Sequence[Issued] = ()
    compared: bool = False
    own_crl_numbers: t.Sequence[int] = ()
    used: Numbers = Numbers({}, None, None)


@dataclass(frozen=True)
class Outcome:
    """What a database is to be. C(newer): why what is published is newer than the database was."""

    numbers: Numbers
    newer: t.Tuple[Finding, ...] = ()
    reentered: t.Tuple[Revocation, ...] = ()
    advanced: t.Mapping[str, t.Optional[int]] = field(default_factory=dict)
    entered: int = 0  # certificates that the database lacked


def compare(
    base: Numbers,
    published: Published,
    advance: t.Any,
    ca_expires: str,
    unique_subject: bool = False,
    unknown_since: t.Collection[str] = (),
) -> Outcome:
    """The database that must result. C(advance): None, "auto" or {serial, crl_number} as numbers. Raises KeywardError.

    C(unique_subject): openssl ca reads no database in which two valid rows have one subject; of several the last one is entered.
    C(unknown_since): the numbers (serial, crl_number) of which nobody knows how many were given since: they go on by a margin.
    """
    known = {one.serial: one for one in published.issued}
    unknown = sorted(serial for serial in known if serial not in base.rows)
    numbers = [number for number in published.crl_numbers if number >= (base.next_crl_number or 0)]
    missing = [one for one in published.revocations if one.serial not in base.rows or base.rows[one.serial].kind != "R"]
    newer = []
    if numbers or missing:
        what = [f"CRL number {max(numbers):X}"] if numbers else []
        what += [f"{len(missing)} revocations that it lacks"] if missing else []
        newer.append(Finding("published_crl_newer", "a published CRL is newer than the database: " + ", ".join(what)))
    if unknown:
        where = ", ".join(f"{serial:X} ({known[serial].where})" for serial in unknown[:5])
        newer.append(Finding("published_certificates_newer", f"{len(unknown)} certificates were issued that the database lacks: {where}"))
    if newer and advance is None:
        return Outcome(base, tuple(newer))
    changing = bool(missing or unknown)
    rows = dict(base.rows) if changing else {}  # there may be a million
    for one in missing:
        there, seen_as = rows.get(one.serial), known.get(one.serial)
        if there:
            rows[one.serial] = replace(there, state="R", revoked=one.field)
        else:
            expires = seen_as.expires if seen_as else ca_expires
            subject = seen_as.subject if seen_as else "/CN=re-entered from the published CRL"
            rows[one.serial] = Row("R", expires, one.field, even_hex(one.serial), "unknown", subject)
    entered = [known[serial] for serial in unknown if serial not in rows]
    if unique_subject:
        named = {row.subject for row in rows.values() if row.kind == "V"}
        entered = list({seen_as.subject: seen_as for seen_as in entered if seen_as.subject not in named}.values())
    for seen_as in entered:
        rows[seen_as.serial] = Row("V", seen_as.expires, "", even_hex(seen_as.serial), "unknown", seen_as.subject)
    issued = [*unknown, *(one.serial for one in missing if one.serial not in base.rows)]
    listed = [*numbers, *(number for number in published.own_crl_numbers if number >= (base.next_crl_number or 0))]
    wanted = _following(base, published.used, issued, listed, advance, unknown_since)
    result = Numbers(rows if changing else base.rows, wanted["serial"], wanted["crl_number"])
    advanced = {
        "serial": result.next_serial if result.next_serial != base.next_serial else None,
        "crl_number": result.next_crl_number if result.next_crl_number != base.next_crl_number else None,
    }
    return Outcome(result, (), tuple(missing), advanced, len(entered))


def _following(
    base: Numbers, used: Numbers, issued: t.Sequence[int], listed: t.Sequence[int], advance: t.Any, unknown_since: t.Collection[str]
) -> t.Dict[str, t.Optional[int]]:
    """The next numbers: beyond everything seen, plus a margin where nobody knows what was issued since."""
    wanted: t.Dict[str, t.Optional[int]] = {}
    for name, following, seen in (
        ("serial", base.next_serial, [*issued, (used.next_serial or 0) - 1]),
        ("crl_number", base.next_crl_number, [*listed, (used.next_crl_number or 0) - 1]),
    ):
        if following is None:
            wanted[name] = None
            continue
        least = max([following, *(number + 1 for number in seen)])
        wanted[name] = least + MARGIN if name in unknown_since or least > following else least
        given = advance.get(name) if isinstance(advance, dict) else None
        if given is not None and given >= least:
            wanted[name] = given
        elif given is not None and least > following:
            raise KeywardError(
                _WHAT,
                f"advance.{name} {given:X} is not beyond what was issued and published",
                f"Give at least {least:X}, or advance: auto",
            )
    return wanted


# --- two databases of one CA -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Merged:
    """The union of two databases. C(twice): numbers that are on two certificates, with the row that gave way."""

    rows: t.Mapping[int, Row]
    twice: t.Mapping[int, Row]


def merge(ours: Numbers, theirs: Numbers) -> Merged:
    """Every row of both. Of one certificate the revoked row counts, and of two revocations the earlier.

    openssl allows a number once. Where it is on two certificates, the revoked row stays, else ours: a CRL knows numbers only, so that
    revoking it revokes both.
    """
    rows, twice = dict(ours.rows), {}
    for serial, row in theirs.rows.items():
        there = rows.get(serial)
        if there is None:
            rows[serial] = row
            continue
        first, second = _by_weight(there, row)
        rows[serial] = first
        if (there.expires, there.subject) != (row.expires, row.subject):
            twice[serial] = second
    return Merged(rows, twice)


def _by_weight(ours: Row, theirs: Row) -> t.Tuple[Row, Row]:
    weights = {"R": 2, "E": 1}
    if ours.kind == theirs.kind == "R" and theirs.revoked[:13] < ours.revoked[:13]:
        return theirs, ours
    return (theirs, ours) if weights.get(theirs.kind, 0) > weights.get(ours.kind, 0) else (ours, theirs)


# --- what was lost ---------------------------------------------------------------------------------------------------


def not_in_crl(revoked: t.Collection[int], listed: t.Iterable[int]) -> t.List[int]:
    """The serial numbers of revoked rows that a CRL does not list."""
    return sorted({*revoked} - {*listed})
