# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: when a set of a database is due, and a full one, what a newer one must hold, and when an older one may go; may
change in any release.

No files and no Ansible here.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Home
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import MOST_LINKS, Lacking, SetManifest, State
from ansible_collections.keyward.pki.plugins.module_utils._time import at_most_now, parse_time

SET_REASONS = {
    "no_set": "no intact set of this database is stored",
    "database_changed": "the database has changed since the newest set",
    "configuration_changed": "the configuration has changed since the newest set",
    "max_age": "the newest set is older than max_age",
    "full_asked": "the newest set is an increment, and a full one was asked for",
}
_UNITS = {"h": 3600, "d": 86400, "w": 604800}


def age_in_seconds(text: str) -> int:
    """A C(max_age) such as C(12h), C(7d) or C(4w). Raises KeywardError."""
    match = re.match(r"([1-9][0-9]{0,5})([hdw])\Z", text)
    if not match:
        raise KeywardError(
            "max_age can't be used", f"{text} is no age", "Give a number with h, d or w for hours, days or weeks, such as 7d"
        )
    return int(match.group(1)) * _UNITS[match.group(2)]


def due_reasons(
    state: State, newest: t.Optional[SetManifest], max_age: t.Optional[int], now: datetime, full: bool = False
) -> t.List[Finding]:
    """Why a set is due, in the order of SET_REASONS; none where it is not. C(max_age): seconds; C(now): UTC without a time zone."""
    if newest is None:
        return [set_reason("no_set")]
    found = []
    if state.database != newest.state.database:
        found.append(set_reason("database_changed"))
    if state.configuration != newest.state.configuration:
        found.append(set_reason("configuration_changed"))
    if max_age is not None and now - at_most_now(newest.created, now) > timedelta(seconds=max_age):
        found.append(set_reason("max_age"))
    if full and newest.kind != "full":
        found.append(set_reason("full_asked"))
    return found


@dataclass(frozen=True)
class FullAfter:
    """When a chain gets a new full set: after so many increments (C(sets)), so many days, or when they have grown to this share (percent)
    of the full one's bytes.

    C(share): None for SHARE, and then increments of less than FEW_BYTES together don't count.
    """

    sets: int = 30
    days: int = 35
    share: t.Optional[int] = None


SHARE, FEW_BYTES = 50, 16 << 20
GROWN = ("chain_long", "chain_old", "chain_large")  # reasons of a full set that doubt nothing of the chain


def full_reason(
    chain: t.Sequence[SetManifest], home: Home, generations: t.Sequence[Generation], after: FullAfter, now: datetime
) -> t.Optional[str]:
    """Why the next set is a full one; None where it builds on the last of C(chain), which begins with a full one."""
    full, increments = chain[0], chain[1:]
    if chain[-1].made_at != home:
        return "made_elsewhere"
    # What they hold was searched for the keys that were at hand.
    searched = frozenset.intersection(*(_at_hand(one.generations) for one in chain))
    if not _at_hand(generations) <= searched:
        return "new_key"
    if len(chain) > min(after.sets, MOST_LINKS - 1):
        return "chain_long"
    if now - at_most_now(full.created, now) >= timedelta(days=after.days):
        return "chain_old"
    size = sum(one.size for one in increments)
    few = FEW_BYTES if after.share is None else 0
    if size > max(full.size * (SHARE if after.share is None else after.share) // 100, few):
        return "chain_large"
    return None


def _at_hand(generations: t.Iterable[Generation]) -> t.FrozenSet[str]:
    return frozenset(generation.public_key_sha256 for generation in generations if generation.private_key == "present")


def set_reason(code: str) -> Finding:
    return Finding(code, SET_REASONS[code])


def refuse_emptied(state: State, generations: t.Sequence[Generation], newest: t.Optional[SetManifest]) -> None:
    """A CA's database never becomes empty by itself. As the newest set, nothing would take the place of what was lost."""
    ours = {generation.public_key_sha256 for generation in generations}
    if newest and newest.state.entries and not state.entries and ours & newest.public_keys:
        raise KeywardError(
            "the database was not backed up",
            f"it is missing or empty, and the set of {newest.as_of} has {newest.state.entries} entries of this CA",
            "Bring it back (ca_database_restore), then run the task again",
        )


# --- what a newer set must hold --------------------------------------------------------------------------------------

NEVER = "9999-12-31T23:59:59Z"


@dataclass(frozen=True)
class Lacks:
    """What one set lacks that an earlier one has. C(rows): of certificates that have not expired; C(revoked) ones among them.

    C(until): when the last of these expires. C(any): whether it lacks anything at all, such as rows of expired certificates;
    C(example): one thing.
    """

    rows: int = 0
    revoked: int = 0
    until: str = NEVER
    any: bool = False
    example: str = ""


def lacking(name: str, as_of: str, lacks: Lacks) -> t.Optional[Lacking]:
    """What a manifest says of that; None where no row is lost. C(name): of the earlier set's directory."""
    return Lacking(name, as_of, lacks.rows, lacks.revoked, lacks.until) if lacks.rows else None


def lost_rows(manifest: SetManifest, there: t.Callable[[str], bool], now: datetime) -> t.List[Finding]:
    """What is to be said of the newest set, each night until that is put right. C(there): whether a set of that name is stored."""
    found = []
    for one in manifest.lacking:
        if parse_time(one.until) > now and there(one.set):
            revoked = f", {one.revoked} of them revoked" if one.revoked else ""
            text = f"the database lacks {one.rows} entries that the set {one.set} has{revoked}"
            remedy = "was a snapshot brought back, or a row deleted? Put them back (ca_database_restore), or take that set out of its store"
            found.append(Finding("rows_vanished", f"{text}: {remedy}"))
    return found


def fewer_entries(state: State, newest: SetManifest) -> t.List[Finding]:
    """What can be told without a copy: which entries these are is seen when it is made."""
    pairs = ((newest.state.entries - state.entries, "entries"), (newest.state.revoked - state.revoked, "revoked ones"))
    fewer = [f"{count} {what}" for count, what in pairs if count > 0]
    return [Finding("fewer_entries", f"the database has fewer than the set of {newest.as_of}: {' and '.join(fewer)}")] if fewer else []


def is_old(created: str, days: int, now: datetime) -> bool:
    """Whether a set is older than C(keep_days). One from a clock that was ahead is not: in doubt, it stays."""
    return now - parse_time(created) >= timedelta(days=days)
