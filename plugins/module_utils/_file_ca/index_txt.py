# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the index.txt of openssl ca, and what an old one must become; may change in any release."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex


@dataclass(frozen=True)
class Row:
    """One certificate in an index.txt: V, R or E, and its six fields."""

    state: str
    expires: str
    revoked: str
    serial: str
    file: str
    subject: str

    @property
    def text(self) -> str:
        return f"{self.state}\t{self.expires}\t{self.revoked}\t{self.serial}\t{self.file}\t{self.subject}"

    def covers(self, earlier: Row) -> bool:
        """Whether this row is the earlier one or what has become of it: revoked or expired since."""
        if self == earlier:
            return True
        later = {"V": ("V", "R", "E"), "E": ("E", "R"), "R": ("R",)}[earlier.state]
        same = (self.expires, self.serial, self.subject) == (earlier.expires, earlier.serial, earlier.subject)
        return same and self.state in later and (earlier.state != "R" or self.revoked == earlier.revoked)


def parse_index(text: str, path: str) -> t.Dict[int, Row]:
    """The rows by serial number. Raises KeywardError where openssl would not read it either."""
    rows = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("#") or line == "":
            continue
        fields = line.split("\t")
        try:
            row = Row(*fields)
            if row.state not in ("V", "R", "E"):
                raise ValueError
            rows[int(row.serial, 16)] = row
        except (TypeError, ValueError):
            raise KeywardError(
                f"the database {path} can't be read",
                f"its line {number} is not one of openssl ca",
                "Find out what it is before anything else",
            ) from None
    return rows


def index_text(source: bytes, base: Numbers, result: Numbers) -> bytes:
    """The bytes of an index.txt with what is to result in the place of what was read from it; all else stays as it is."""
    lines = source.decode("utf-8", "surrogateescape").split("\n")
    known = {row.text: row for row in base.rows.values()}
    out = []
    for line in lines:
        row = known.get(line)
        out.append(result.rows[int(row.serial, 16)].text if row else line)
    added = [result.rows[serial].text for serial in result.rows if serial not in base.rows]
    if out and out[-1] == "":
        out.pop()
    return "".join(f"{line}\n" for line in [*out, *added]).encode("utf-8", "surrogateescape")


def serials(database: str, state: bytes) -> t.Set[str]:
    """The serial numbers (upper-case hex) of the rows of an index.txt in a state: V, R or E."""
    found = set()
    try:
        with open(database, "rb") as stream:
            for line in stream:
                fields = line.rstrip(b"\n").split(b"\t")
                if fields[0] == state and len(fields) > 3:
                    found.add(fields[3].decode("ascii", "replace").upper())
    except OSError as exc:
        raise KeywardError(
            f"the database {database} can't be read", os_cause(exc), "Let the user that runs this task read it (become)"
        ) from exc
    return found


# --- what an old one must become -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """A database as numbers: its rows by serial number, and what comes next. None where the CA has no such file."""

    rows: t.Mapping[int, Row]
    next_serial: t.Optional[int]
    next_crl_number: t.Optional[int]

    def covers(self, earlier: Numbers) -> bool:
        """Whether this database has everything of the other, or what has become of it."""
        return (
            all(serial in self.rows and self.rows[serial].covers(row) for serial, row in earlier.rows.items())
            and (self.next_serial or 0) >= (earlier.next_serial or 0)
            and (self.next_crl_number or 0) >= (earlier.next_crl_number or 0)
        )


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
    """What is out there: numbers and revocations of CRLs, certificates."""

    crl_numbers: t.Sequence[int] = ()
    revocations: t.Sequence[Revocation] = ()
    issued: t.Sequence[Issued] = ()
    compared: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a database is to be. C(newer): why what is published is newer than the database was."""

    numbers: Numbers
    newer: t.Tuple[Finding, ...] = ()
    reentered: t.Tuple[Revocation, ...] = ()
    advanced: t.Mapping[str, t.Optional[int]] = field(default_factory=dict)
    entered: int = 0  # certificates that the database lacked


def compare(base: Numbers, published: Published, advance: t.Any, ca_expires: str, unique_subject: bool = False) -> Outcome:
    """The database that must result. C(advance): None, "auto" or {serial, crl_number} as numbers. Raises KeywardError.

    C(unique_subject): openssl ca reads no database in which two valid rows have one subject; of several the last one is entered.

    An old database hands out serial numbers and CRL numbers a second time, and forgets revocations.
    """
    known = {one.serial: one for one in published.issued}
    unknown = sorted(serial for serial in known if serial not in base.rows)
    numbers = [number for number in published.crl_numbers if number >= (base.next_crl_number or 0)]
    missing = [one for one in published.revocations if one.serial not in base.rows or base.rows[one.serial].state != "R"]
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
    seen = max([*unknown, *(one.serial for one in missing if one.serial not in base.rows)], default=-1)
    least = {"serial": max(base.next_serial or 0, seen + 1), "crl_number": max([base.next_crl_number or 0, *(n + 1 for n in numbers)])}
    wanted = dict(least)
    if isinstance(advance, dict):
        for name, given in advance.items():
            if given is not None and given < least[name]:
                if newer:
                    raise KeywardError(
                        "nothing was restored",
                        f"advance.{name} {given:X} is not beyond what was issued and published",
                        f"Give at least {least[name]:X}, or advance: auto",
                    )
                continue
            wanted[name] = given if given is not None else least[name]
    rows = dict(base.rows)
    for one in missing if advance is not None else ():
        there, seen_as = rows.get(one.serial), known.get(one.serial)
        if there:
            rows[one.serial] = replace(there, state="R", revoked=one.field)
        else:
            expires = seen_as.expires if seen_as else ca_expires
            subject = seen_as.subject if seen_as else "/CN=re-entered from the published CRL"
            rows[one.serial] = Row("R", expires, one.field, even_hex(one.serial), "unknown", subject)
    entered = [] if advance is None else [known[serial] for serial in unknown if serial not in rows]
    if unique_subject:
        named = {row.subject for row in rows.values() if row.state == "V"}
        entered = list({seen_as.subject: seen_as for seen_as in entered if seen_as.subject not in named}.values())
    for seen_as in entered:
        rows[seen_as.serial] = Row("V", seen_as.expires, "", even_hex(seen_as.serial), "unknown", seen_as.subject)
    result = Numbers(
        rows,
        None if base.next_serial is None else wanted["serial"] if advance is not None else base.next_serial,
        None if base.next_crl_number is None else wanted["crl_number"] if advance is not None else base.next_crl_number,
    )
    advanced = {
        "serial": result.next_serial if result.next_serial != base.next_serial else None,
        "crl_number": result.next_crl_number if result.next_crl_number != base.next_crl_number else None,
    }
    return Outcome(result, (), tuple(missing) if advance is not None else (), advanced, len(entered))
