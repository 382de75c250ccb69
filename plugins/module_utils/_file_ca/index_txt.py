# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the index.txt of openssl ca, read as openssl reads it, and written; may change in any release.

openssl reads it into memory (its text database), checks each row, and writes what it has in memory back at the next change.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import sys
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_faults import Fault, faults_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig

_BLOCK = 512  # bytes that openssl reads at once; a line that is longer is read in pieces
_SEPARATOR = re.compile(r"(?<!\\)\t")
_NUMBER = re.compile(r"-?[0-9A-Fa-f]+\Z")
_DAY = rb"(?:(?:0[1-9]|1[0-2])(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])(?:29|30)|(?:0[13578]|1[02])31)"
_TIME = _DAY + rb"(?:[01]\d|2[0-3])[0-5]\d[0-5]\dZ"
# A row as openssl writes it, with which nothing can be wrong; in one of its blocks.
_PLAIN = re.compile(
    rb"([VE](?=\t[^\t\n]*\t\t)|R(?=\t[^\t\n]*\t[^\t\n]))\t((?:\d\d)?\d\d"
    + _TIME
    + rb")\t((?:\d\d"
    + _TIME
    + rb"(?:,(?:unspecified|keyCompromise"
    rb"|CACompromise|affiliationChanged|superseded|cessationOfOperation|certificateHold))?)?)"
    rb"\t((?:[0-9A-F]{2}){1,40})\t(unknown)\t((?:/[ -~]{0,300})?)\n"
)
_SHOWN = 20  # the most faults of one file that are reported


@dataclass(frozen=True)
class Row:
    """One certificate in an index.txt: V, R or E, and its six fields."""

    __slots__ = ("expires", "file", "revoked", "serial", "state", "subject")  # there may be a million

    state: str
    expires: str
    revoked: str
    serial: str
    file: str
    subject: str

    @property
    def kind(self) -> str:
        """openssl looks at the first letter of the state only."""
        return self.state[:1]

    @property
    def number(self) -> t.Optional[int]:
        return int(self.serial, 16) if _NUMBER.match(self.serial) else None

    @property
    def text(self) -> str:
        fields = (self.state, self.expires, self.revoked, self.serial, self.file, self.subject)
        return "\t".join(field.replace("\t", "\\\t") for field in fields)

    def covers(self, earlier: Row) -> bool:
        """Whether this row is the earlier one or what has become of it: revoked or expired since."""
        if self == earlier:
            return True
        later = {"V": ("V", "R", "E"), "E": ("E", "R"), "R": ("R",)}.get(earlier.kind, ())
        same = (self.expires, self.number, self.subject) == (earlier.expires, earlier.number, earlier.subject)
        return same and self.kind in later and (earlier.kind != "R" or self.revoked == earlier.revoked)


class PlainRows:
    """The rows of an index in which nothing is odd, made each time that they are asked for: a million of them fill the memory."""

    def __init__(self, data: bytes, counts: t.Tuple[int, int]) -> None:
        self._data, self.counts = data, counts

    def __len__(self) -> int:
        return self.counts[0]

    def __iter__(self) -> t.Iterator[Row]:
        return map(self.row, io.BytesIO(self._data))

    @property
    def by_number(self) -> RowsByNumber:
        return RowsByNumber(self._data)

    @staticmethod
    def row(line: bytes) -> Row:
        state, expires, revoked, serial, file, subject = line[:-1].decode("ascii").split("\t")
        return Row(sys.intern(state), expires, sys.intern(revoked), serial, sys.intern(file), subject)

    @property
    def numbers(self) -> t.Set[t.Optional[int]]:
        return {int(line.split(b"\t", 4)[3], 16) for line in io.BytesIO(self._data)}

    def of_numbers(self, numbers: t.Container[t.Optional[int]]) -> t.Iterator[Row]:
        return (self.row(line) for line in io.BytesIO(self._data) if int(line.split(b"\t", 4)[3], 16) in numbers)


class RowsByNumber(t.Mapping[int, Row]):
    """The rows of an index in which nothing is odd, made each time that they are asked for."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, at = data, t.cast(t.Dict[int, int], {}), 0
        for line in io.BytesIO(data):
            self._at[int(line.split(b"\t", 4)[3], 16)] = at
            at += len(line)

    def __getitem__(self, number: int) -> Row:
        at = self._at[number]
        return PlainRows.row(self._data[at : self._data.index(b"\n", at) + 1])

    def __iter__(self) -> t.Iterator[int]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, number: object) -> bool:
        return number in self._at

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RowsByNumber) and self._data == other._data:
            return True
        if not isinstance(other, t.Mapping) or len(other) != len(self):
            return False
        return all(other.get(number) == row for number, row in self.items())

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Index:
    """An index.txt. C(passed_over): rows that a person sees and openssl does not read.

    C(faults): what it refuses or takes for something else.
    """

    rows: t.Union[PlainRows, t.Tuple[Row, ...]]
    passed_over: t.Tuple[Row, ...] = ()
    faults: t.Tuple[Fault, ...] = ()

    @property
    def by_number(self) -> t.Mapping[int, Row]:
        """Rows by number. openssl takes two spellings of one number for two rows: they are one certificate, and the revoked row counts."""
        if isinstance(self.rows, PlainRows):
            return self.rows.by_number
        found: t.Dict[int, Row] = {}
        for row in self.rows:
            number = row.number
            if number is not None and not (number in found and found[number].kind == "R"):
                found[number] = row
        return found

    @property
    def counts(self) -> t.Tuple[int, int]:
        """How many certificates there are, and how many of them are revoked."""
        if isinstance(self.rows, PlainRows):
            return self.rows.counts
        rows = self.by_number.values() if self.faults else self.rows
        return len(rows), sum(1 for row in rows if row.state == "R")

    def of_numbers(self, numbers: t.Container[t.Optional[int]]) -> t.Mapping[int, Row]:
        """As C(by_number), of these numbers."""
        rows = self.rows.of_numbers(numbers) if isinstance(self.rows, PlainRows) else (row for row in self.rows if row.number in numbers)
        return Index(tuple(rows)).by_number

    @property
    def numbers(self) -> t.Set[t.Optional[int]]:
        return self.rows.numbers if isinstance(self.rows, PlainRows) else {row.number for row in self.rows}

    @property
    def listed(self) -> t.Set[t.Optional[int]]:
        """The serial numbers that a person sees in it."""
        return self.numbers | {row.number for row in self.passed_over}

    @property
    def revoked(self) -> t.Set[int]:
        """The serial numbers that openssl puts into a CRL."""
        return {number for row in self.rows if row.kind == "R" for number in (row.number,) if number is not None}

    @property
    def revoked_unread(self) -> t.Set[int]:
        """The serial numbers that look revoked to a person, and that openssl puts into no CRL."""
        rows = itertools.chain((row for row in self.rows if row.kind != "R"), self.passed_over)
        meant = [row for row in rows if row.state.strip("\ufeff \r").upper().startswith("R")]
        return {number for row in meant for number in (row.number,) if number is not None} - self.revoked

    def findings(self, path: str) -> t.List[Finding]:
        """The faults, the gravest first."""
        found = sorted(self.faults, key=lambda fault: (not fault.refused, fault.line))
        shown = [
            Finding("index_refused", f"openssl ca refuses {path}: line {fault.line} {fault.text}")
            if fault.refused
            else Finding("index_passed_over", f"line {fault.line} of {path} {fault.text}")
            for fault in found[:_SHOWN]
        ]
        if found[_SHOWN:]:
            shown.append(Finding(shown[0].code, f"{path} has {len(found) - _SHOWN} further lines of that kind"))
        return shown

    def refuse(self, what: str, path: str) -> None:
        """Raises KeywardError where openssl can't use it."""
        refused = [finding for finding in self.findings(path) if finding.code == "index_refused"]
        if refused:
            remedy = "Correct that line, or put the file back as it was (ca_database_restore, with on_conflict: set_aside)"
            raise KeywardError(what, "; ".join(finding.message for finding in refused[:3]), remedy, refused)


_last: t.Dict[t.Tuple[bytes, bool], Index] = {}  # a task asks some times for the same one, by the digest of what may be long


def read_index(data: bytes, unique_subject: bool = False) -> Index:
    """What openssl has in memory of an index.txt. C(unique_subject): it allows no two valid certificates of one subject."""
    key = hashlib.sha256(data).digest(), unique_subject
    found = _last.get(key)
    if found is None:
        while len(_last) > 1:
            del _last[next(iter(_last))]
        found = _last[key] = _read(data, unique_subject)
    return found


def _read(data: bytes, unique_subject: bool) -> Index:
    counts = _plain_counts(data, unique_subject)
    if counts:
        return Index(PlainRows(data, counts))
    rows, lines, passed_over = [], [], []
    faults: t.List[Fault] = []
    for number, text, why in _records(data):
        fields = _fields(text)
        if len(fields) == 7 and fields[6] == "":  # a tab at the end adds no field
            fields.pop()
        if why:
            faults.append(Fault(number, why))
            if len(fields) == 6:
                passed_over.append(Row(*fields))
        elif len(fields) == 6:
            state, expires, revoked, serial, file, subject = fields
            rows.append(Row(sys.intern(state), expires, sys.intern(revoked), serial, sys.intern(file), subject))
            lines.append(number)
        elif text == "":
            faults.append(Fault(number, "is empty", refused=True))
        else:
            faults.append(Fault(number, f"has {len(fields)} columns between tabs, and a row has 6", refused=True))
    faults += faults_of(rows, lines, unique_subject)
    return Index(tuple(rows), tuple(passed_over), tuple(sorted(faults, key=lambda fault: fault.line)))


def _is_plain(data: bytes) -> bool:
    position = 0
    for match in _PLAIN.finditer(data):
        if match.start() != position:
            return False
        position = match.end()
    return position == len(data)


def _plain_counts(data: bytes, unique_subject: bool) -> t.Optional[t.Tuple[int, int]]:
    """As C(Index.counts), of one in which nothing is odd; None of others."""
    if not _is_plain(data):
        return None
    serials, subjects, rows, valid, revoked = set(), set(), 0, 0, 0
    for line in io.BytesIO(data):
        state, _expires, _revoked, serial, _file, subject = line.split(b"\t", 5)
        serials.add(serial.lstrip(b"0"))
        rows, revoked = rows + 1, revoked + (state == b"R")
        if unique_subject and state == b"V":
            subjects.add(subject)
            valid += 1
    return (rows, revoked) if (len(serials), len(subjects)) == (rows, valid) else None


def changed_rows(newer: bytes, older: bytes) -> t.List[t.Tuple[t.Optional[Row], Row]]:
    """The rows of an older index.txt that a newer one has otherwise or not at all, with what the newer one has of that number.

    Where nothing is odd in them, of what is the same no rows are made: there may be a million.
    """
    if not (_is_plain(newer) and _is_plain(older)):
        ours, theirs = read_index(newer).by_number, read_index(older).by_number
        return [(ours.get(number), row) for number, row in theirs.items() if ours.get(number) != row]
    there = set(newer.splitlines(keepends=True))
    rows = read_index(b"".join(line for line in io.BytesIO(older) if line not in there)).by_number
    same = (line for line in there if int(line.split(b"\t", 4)[3], 16) in rows) if rows else ()
    now = read_index(b"".join(same)).by_number
    return [(now.get(number), row) for number, row in rows.items()]


def _records(data: bytes) -> t.Iterator[t.Tuple[int, str, str]]:
    """(line number, text, why openssl skips it: empty where it reads it), in the blocks in which openssl reads."""
    size, position, line, start, record = _BLOCK, 0, 1, 1, b""
    while position < len(data):
        if record:
            size += _BLOCK
        last = position + size - len(record) - 1
        end = data.find(b"\n", position, last) + 1 or min(last, len(data))
        piece = data[position:end]
        position = end
        seen = piece.split(b"\0", 1)[0]
        if seen != piece:
            yield line, "", "holds a NUL byte: what follows is not read as it stands"
        if not seen:
            if data.find(b"\n", position) != -1:
                yield line, "", "and those that follow are not read, because of that byte: they go with openssl's next change"
            break
        comment = not record and seen[:1] == b"#"
        if comment:
            yield line, "", "begins with #: openssl does not read it, and it goes with its next change"
        else:
            record += seen
        line += piece.endswith(b"\n")
        if comment:
            start = line
        elif seen.endswith(b"\n"):
            yield start, _text(record[:-1]), ""
            start, record = line, b""
    if record:
        yield start, _text(record), "has no newline at its end: openssl does not read it, and it goes with its next change"


def _fields(text: str) -> t.List[str]:
    if "\\" not in text:
        return text.split("\t")
    return [field.replace("\\\t", "\t") for field in _SEPARATOR.split(text)]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def is_unique_subject(attributes: t.Optional[str], configured: t.Optional[str]) -> bool:
    """As openssl ca decides it: by the file beside the index, else by the configuration, else yes. Both are its values of the name."""
    value = configured if attributes is None else attributes
    return not (value and value[0] in "fFnN0")


def attribute_in(path: str, directory: str) -> t.Optional[str]:
    """What an index.txt.attr says of unique_subject; None where openssl can't read it or it says nothing."""
    try:
        return OpensslConfig(path, directory).get("default", "unique_subject")
    except (KeywardError, FileNotFoundError):
        return None


def index_text(source: bytes, base: t.Mapping[int, Row], result: t.Mapping[int, Row], twice: t.Mapping[int, Row]) -> bytes:
    """The bytes of an index.txt with what is to result in the place of what was read from it; all else stays as it is.

    C(twice): rows of a number that another row has; openssl allows it once, and they are noted as comments.
    """
    text = source.decode("utf-8", "surrogateescape")
    known = {row.text: number for number, row in base.items()}
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    out = [result[known[line]].text if line in known else line for line in lines]
    out += [result[number].text for number in result if number not in base]
    out += [f"#{row.text}" for row in twice.values() if f"#{row.text}" not in out]
    return "".join(f"{line}\n" for line in out).encode("utf-8", "surrogateescape")
