# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what openssl ca checks in each row of an index.txt, and what it takes for something else.

May change in any release. Checked against the command itself by tests.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Row

_TIMES = {
    "utc": re.compile(r"()(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:Z|[+-](\d\d)(\d\d))\Z", re.ASCII),
    "generalized": re.compile(r"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:(\d\d)(?:\.\d+)?)?(?:Z|[+-](\d\d)(\d\d))\Z", re.ASCII),
}
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_HOLD, _TIMED = "holdinstruction", ("keytime", "cakeytime")
_REASONS = (
    *("unspecified", "keycompromise", "cacompromise", "affiliationchanged", "superseded", "cessationofoperation"),
    *("certificatehold", "removefromcrl", _HOLD, *_TIMED),
)
_OBJECT = re.compile(r"[0-2](\.\d+)+\Z|[A-Za-z][\w -]*\Z", re.ASCII)  # which names openssl knows can't be told here
_HEX = re.compile(r"[0-9A-Fa-f]+\Z")
_ONE_LINE = re.compile(r"(?:/[ -~]*)?\Z")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a line. C(refused): openssl ca uses no index.txt that has it."""

    line: int
    text: str
    refused: bool = False


def faults_of(rows: t.Sequence[Row], lines: t.Sequence[int], unique_subject: bool) -> t.Iterator[Fault]:
    """What is wrong with rows that were read; C(lines): where each stands."""
    serials: t.Dict[str, int] = {}
    numbers: t.Dict[t.Optional[int], int] = {}
    subjects: t.Dict[str, int] = {}
    for row, line in zip(rows, lines):
        refused = _refused(row)
        if refused:
            yield Fault(line, refused, refused=True)
            continue
        text, number = row.serial.lstrip("0"), row.number
        if text in serials:
            yield Fault(line, f"has the serial number of line {serials[text]} again", refused=True)
        elif number in numbers:
            yield Fault(line, f"has the serial number of line {numbers[number]} again, in other letters")
        else:
            for odd in _odd(row):
                yield Fault(line, odd)
        serials.setdefault(text, line)
        numbers.setdefault(number, line)
        if unique_subject and row.kind == "V":
            if row.subject in subjects:
                why = f"is a second valid certificate of one subject (line {subjects[row.subject]}), and unique_subject allows one"
                yield Fault(line, why, refused=True)
            subjects.setdefault(row.subject, line)


def _refused(row: Row) -> t.Optional[str]:
    """Why openssl ca refuses a row, in the order in which it looks."""
    if row.kind != "R" and row.revoked:
        return f"has a date of revocation, and its state, {row.state!a}, is not R"
    if row.kind == "R":
        why = _bad_revocation(row.revoked)
        if why:
            return why
    if not (is_time(row.expires, "utc") or is_time(row.expires, "generalized")):
        return "has no date of expiry that can be read"
    digits = row.serial[1:] if row.serial.startswith("-") else row.serial
    if len(digits) < 2 or len(digits) % 2:
        return "has a serial number that is no even number of digits"
    if not _HEX.match(digits):
        return "has a serial number that is not hexadecimal"
    return None


def _bad_revocation(text: str) -> t.Optional[str]:
    at, *rest = text.split(",", 2)
    if not is_time(at, "utc"):
        return "has no date of revocation that can be read"
    if not rest:
        return None
    reason, argument = rest[0].lower(), rest[1] if len(rest) == 2 else None
    if reason not in _REASONS:
        return "has a reason of revocation that openssl does not know"
    if reason == _HOLD and not (argument is not None and _OBJECT.match(argument)):
        return "is on hold, without an instruction that can be read"
    if reason in _TIMED and not (argument is not None and is_time(argument, "generalized")):
        return "is compromised, without a time that can be read"
    return None


def _odd(row: Row) -> t.Iterator[str]:
    """What openssl ca accepts, and treats otherwise than it looks."""
    if row.kind not in ("V", "R", "E"):
        mark = "a byte order mark stands before its state" if row.state.startswith("\ufeff") else f"its state is {row.state!a}"
        yield f"is neither valid nor revoked to openssl, and in no CRL: {mark}"
    if row.kind == "R" and row.revoked.partition(",")[2].lower() == "removefromcrl":
        yield "is revoked for the reason removeFromCRL: to clients the certificate is valid, whatever CRL lists it so"
    number = t.cast(int, row.number)
    digits = f"{abs(number):X}"
    if row.serial.lstrip("0") != (("-" + "0" * (len(digits) % 2)) if number < 0 else "") + digits * (number != 0):
        yield f"has its serial number as {row.serial}: openssl compares letters, and revokes that certificate in a second row"
    if not _ONE_LINE.match(row.subject):
        end = " (it ends with a carriage return)" if row.subject.endswith("\r") else ""
        yield f"has a subject that is not as openssl writes it{end}: openssl ca -revoke will say that the name does not match"


def is_time(text: str, kind: str) -> bool:
    """Whether openssl takes a text for a time: C(utc) with two digits of the year, C(generalized) with four."""
    match = _TIMES[kind].match(text)
    if not match:
        return False
    century, year, month, day, hour, minute, second, zone_hour, zone_minute = (int(part or 0) for part in match.groups())
    year += (century if kind == "generalized" else 20 if year < 50 else 19) * 100
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= month <= 12 or not 1 <= day <= _DAYS[month - 1] + (leap and month == 2):
        return False
    return hour <= 23 and minute <= 59 and second <= 59 and zone_hour <= 12 and zone_minute <= 59
