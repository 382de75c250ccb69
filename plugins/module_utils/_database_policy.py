# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: when a set of a database is due, and when none may take the place of the newest; may change in any release.

No files and no Ansible here.
"""

from __future__ import annotations

import re
import typing as t
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._manifest import SetManifest, State
from ansible_collections.keyward.pki.plugins.module_utils._time import parse_time

SET_REASONS = {
    "no_set": "no intact set of this database is stored",
    "database_changed": "the database has changed since the newest set",
    "configuration_changed": "the configuration has changed since the newest set",
    "max_age": "the newest set is older than max_age",
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


def _set_reason(code: str) -> Finding:
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
