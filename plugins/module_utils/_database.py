# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: sets, when one is due, and what makes an old database dangerous; may change in any release.

No files and no Ansible here. The rows are those of the index.txt of C(openssl ca).
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils._bundle import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._time import parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass

FORMAT, FORMAT_VERSION = "keyward.pki database set", 1
ARCHIVE, MEMBERS = "database.tar.gz", "members.json"

SET_REASONS = {
    "no_set": "no intact set of this database is stored",
    "database_changed": "the database has changed since the newest set",
    "configuration_changed": "the configuration has changed since the newest set",
    "max_age": "the newest set is older than max_age",
}
_WINDOWS_NAME = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|]{1,200}\Z")
_UNITS = {"h": 3600, "d": 86400, "w": 604800}


# --- sets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetFile:
    """One file of a set, as its manifest records it."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class State:
    """What a database is: digests of its contents, of its configuration, and its numbers. Times are no part of it."""

    database: str
    configuration: str
    entries: int
    next_serial: t.Optional[str]
    next_crl_number: t.Optional[str]


@dataclass(frozen=True)
class SetManifest:
    """What lies beside the archive of one set."""

    id: str
    sequence: int
    previous: t.Optional[str]
    kind: str
    authority: Authority
    created: str
    as_of: str
    made: t.Mapping[str, t.Any]
    files: t.Tuple[SetFile, ...]
    members: int
    state: State
    left_out: t.Tuple[t.Mapping[str, str], ...]
    generations: t.Tuple[Generation, ...]
    adcs: t.Optional[t.Mapping[str, t.Any]] = None  # what only a Windows CA has

    @property
    def public_keys(self) -> t.FrozenSet[str]:
        return frozenset(generation.public_key_sha256 for generation in self.generations)

    @property
    def rank(self) -> t.Tuple[int, str]:
        """Newest = highest: by sequence, then by id. Times only inform."""
        return self.sequence, self.id

    def as_json(self) -> t.Dict[str, t.Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "sequence": self.sequence,
            "previous": self.previous,
            "kind": self.kind,
            "authority": {**self.authority.as_result(), "config_file": self.authority.config_file},
            "created": self.created,
            "as_of": self.as_of,
            "made": dict(self.made),
            "files": [dict(vars(file)) for file in self.files],
            "members": self.members,
            "state": dict(vars(self.state)),
            "left_out": [dict(one) for one in self.left_out],
            "generations": [generation.as_json() for generation in self.generations],
            **({"adcs": dict(self.adcs)} if self.adcs is not None else {}),
        }


def set_manifest_from_json(shape: t.Mapping[str, t.Any]) -> SetManifest:
    """A manifest from its JSON. Raises ValueError, KeyError, TypeError or OverflowError where it is damaged or of a later release."""
    if shape["format"] != FORMAT or shape["format_version"] != FORMAT_VERSION:
        raise ValueError("another format")
    files = tuple(SetFile(str(f["name"]), str(f["sha256"]), int(f["size"])) for f in shape["files"])
    adcs = shape.get("adcs")
    for name in ("created", "as_of"):
        parse_time(shape[name])
    if not are_files_of_a_set([file.name for file in files], adcs is not None):
        raise ValueError("other files")
    return SetManifest(
        id=str(shape["id"]),
        sequence=int(shape["sequence"]),
        previous=shape["previous"],
        kind=str(shape["kind"]),
        authority=Authority(**{name: shape["authority"][name] for name in Authority.__dataclass_fields__}),
        created=str(shape["created"]),
        as_of=str(shape["as_of"]),
        made=dict(shape["made"]),
        files=files,
        members=int(shape["members"]),
        state=State(**shape["state"]),
        left_out=tuple(dict(one) for one in shape["left_out"]),
        generations=tuple(Generation.from_json(generation) for generation in shape["generations"]),
        adcs=None if adcs is None else _facts_of_windows(adcs),
    )


def _facts_of_windows(shape: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    lists = {name: shape[name] for name in ("kra_certificates", "revocations")}
    right = (
        all(isinstance(shape[name], str) for name in ("computer", "archived_keys", "log_directory"))
        and isinstance(shape["ca_type"], (str, type(None)))
        and all(isinstance(shape[name], int) for name in ("last_request_id", "clock_skew_minutes"))
        and isinstance(shape["next_crl_number"], (int, type(None)))
        and all(isinstance(value, list) and all(isinstance(one, str) for one in value) for value in lists.values())
    )
    if not right:
        raise TypeError("other facts")
    return dict(shape)


def are_files_of_a_set(names: t.Sequence[str], of_windows: bool) -> bool:
    """Whether these can be the files of a set: an archive and its list, or what Windows made, no name of which leads elsewhere."""
    if not of_windows:
        return sorted(names) == sorted((ARCHIVE, MEMBERS))
    return 0 < len(names) == len(set(names)) and all(_is_windows_name(name) for name in names)


def _is_windows_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(_WINDOWS_NAME.match(part) and part.strip(". ") for part in parts)


def age_in_seconds(text: str) -> int:
    """A C(max_age) such as C(12h), C(7d) or C(4w). Raises KeywardError."""
    match = re.match(r"([1-9][0-9]{0,5})([hdw])\Z", text)
    if not match:
        raise KeywardError(
            "max_age can't be used", f"{text} is no age", "Give a number with h, d or w for hours, days or weeks, such as 7d"
        )
    return int(match.group(1)) * _UNITS[match.group(2)]


def due_reasons(state: State, newest: t.Optional[SetManifest], max_age: t.Optional[int], now: datetime) -> t.List[Finding]:
    """Why a set is due, in the order of SET_REASONS; none where it is not. C(max_age): seconds; C(now): UTC without a time zone."""
    if newest is None:
        return [_set_reason("no_set")]
    found = []
    if state.database != newest.state.database:
        found.append(_set_reason("database_changed"))
    if state.configuration != newest.state.configuration:
        found.append(_set_reason("configuration_changed"))
    created = parse_time(newest.created)
    # One from a clock that was far ahead would never grow old.
    if max_age is not None and abs(now - created) > timedelta(seconds=max_age):
        found.append(_set_reason("max_age"))
    return found


def refuse_emptied(state: State, generations: t.Sequence[Generation], newest: t.Optional[SetManifest]) -> None:
    """A CA's database never becomes empty by itself. As the newest set, nothing would take the place of what was lost."""
    ours = {generation.public_key_sha256 for generation in generations}
    if newest and newest.state.entries and not state.entries and ours & newest.public_keys:
        raise KeywardError(
            "the database was not backed up",
            f"it is missing or empty, and the set of {newest.as_of} has {newest.state.entries} entries of this CA",
            "Bring it back (ca_database_restore), then run the task again",
        )


def _set_reason(code: str) -> Finding:
    return Finding(code, SET_REASONS[code])


# --- rows --------------------------------------------------------------------------------------------------------


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


def index_time(moment: datetime) -> str:
    """A time as in an index.txt: ASN.1 UTCTime up to 2049, GeneralizedTime after (RFC 5280, 4.1.2.5)."""
    return f"{moment:%y%m%d%H%M%SZ}" if 1950 <= moment.year < 2050 else f"{moment:%Y%m%d%H%M%SZ}"


_SHORT = {"1.2.840.113549.1.9.1": "emailAddress", "2.5.4.5": "serialNumber", "2.5.4.4": "SN", "2.5.4.42": "GN", "2.5.4.12": "title"}


def one_line(name: x509.Name) -> str:
    """A name as C(openssl ca) writes it into an index.txt: C(/C=DE/O=Example/CN=www), other bytes as C(\\xNN)."""
    parts = []
    for attribute in name:
        short = _SHORT.get(attribute.oid.dotted_string) or attribute.rfc4514_attribute_name
        value = "".join(chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}" for byte in str(attribute.value).encode("utf-8"))
        parts.append(f"/{short}={value}")
    return "".join(parts)
