# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: this moment, and how times are written; may change in any release. Times are UTC without a time zone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_CLOCKS_DIFFER = timedelta(minutes=10)
_FORM = "%Y-%m-%dT%H:%M:%SZ"  # ISO 8601
_WRITTEN = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z\Z")


def now() -> datetime:
    """This moment in whole seconds, as in certificates."""
    return datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)


def after(begin: datetime, span: timedelta) -> datetime:
    """A moment later, and no later than a certificate can say (RFC 5280, 4.1.2.5)."""
    last = datetime.max.replace(microsecond=0)
    return begin + span if last - begin > span else last


def format_time(moment: datetime) -> str:
    """A time as results, manifests and events write it."""
    return f"{moment.year:04d}{moment.strftime(_FORM[2:])}"


def parse_time(text: str) -> datetime:
    """The time that C(format_time) wrote. Raises ValueError, TypeError."""
    found = _WRITTEN.match(text)  # strptime costs each process a hundred times as much
    if not found:
        raise ValueError("no time")
    return datetime(*map(int, found.groups()))  # type: ignore[arg-type]


def at_most_now(text: str, moment: datetime) -> datetime:
    """A stored time, but one in the future counts as infinitely old: a clock was wrong, or somebody wants old things to look new.

    Raises ValueError, TypeError.
    """
    stored = parse_time(text)
    return datetime.min if stored - moment > _CLOCKS_DIFFER else min(stored, moment)


def now_text() -> str:
    return format_time(now())


def name_time() -> str:
    """This moment, with fractions, as the names of backups and sets have it."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")


def asn1_time(moment: datetime) -> str:
    """As certificates have it: UTCTime up to 2049, GeneralizedTime after (RFC 5280, 4.1.2.5)."""
    return f"{moment:%y%m%d%H%M%SZ}" if 1950 <= moment.year < 2050 else f"{moment:%Y%m%d%H%M%SZ}"
