# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: from which database a restore goes on, the host's, the set's or both; may change in any release.

No files and no Ansible here.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Row
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import MARGIN, Numbers, Outcome, merge
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex


@dataclass(frozen=True)
class Base:
    """The database to go on from. C(replaced): its rows are not the host's, C(merged): they are those of both; C(newer): they
    are the host's, and more than the set's.

    C(unknown_since): the numbers (serial, crl_number) of which nobody knows how many were given after the set. C(further): those in
    which the host, whose rows are lost, is beyond the set. C(twice): numbers on two certificates, with the row that gave way;
    C(theirs_count): those of which the set's stays.
    """

    numbers: Numbers
    replaced: bool = False
    merged: bool = False
    newer: bool = False
    conflict: bool = False
    unknown_since: t.FrozenSet[str] = frozenset()
    further: t.FrozenSet[str] = frozenset()
    twice: t.Mapping[int, Row] = field(default_factory=dict)
    theirs_count: t.FrozenSet[int] = frozenset()

    def kept(self, ours: Numbers, theirs: Numbers) -> Base:
        """For a restore whose rows are the host's own: then the host's numbers show what was issued."""
        base = _with_numbers(ours.rows, ours, theirs, False)
        if not self.merged:
            return base
        # The rows don't show whether set and host were merged before; numbers a margin beyond the set's do.
        behind = [name for name, our, their in _pairs(ours, theirs) if our is not None and our < (their or 0) + MARGIN]
        return replace(base, merged=True, twice=self.twice, theirs_count=self.theirs_count, unknown_since=base.unknown_since | {*behind})

    def findings(self, outcome: Outcome, as_of: str) -> t.Iterator[Finding]:
        """The findings about a restore. C(as_of): the moment of the set."""
        if self.newer:
            yield Finding("database_newer", "the database on the host has more than the set, and stays")
        if self.further:
            text = "the numbers on the host are beyond the set's and stay; what was issued or revoked in between may be missing"
            yield Finding("numbers_newer", text)
        for serial, row in sorted(self.twice.items()):
            both = f"{self.numbers.rows[serial].subject} and {row.subject}"
            text = f"number {even_hex(serial)} is on two certificates, {both}: a CRL names numbers only, so that revoking one revokes both"
            yield Finding("serial_used_twice", text + ". Replace one of them")
        if self.unknown_since and any(outcome.advanced.values()):
            text = f"the numbers go on {MARGIN} beyond what was seen: how many were given after {as_of} is not known"
            yield Finding("numbers_advanced", text)


def choose(ours: Numbers, theirs: Numbers, index_lost: bool, on_conflict: str) -> Base:
    """C(ours): the host's, None for a number whose file is gone; C(theirs): the set's."""
    if index_lost or (theirs.rows and not ours.rows and on_conflict != "set_aside"):
        # The rows are lost, or those of a CA that was brought back with its keys alone. The numbers may not be: they never go back.
        base = _with_numbers(theirs.rows, ours, theirs, False)
        further = {name for name, our, their in _pairs(ours, theirs) if their is not None and (our or 0) > their}
        return replace(base, replaced=True, further=frozenset(further))
    if on_conflict == "set_aside":
        return replace(_with_numbers(theirs.rows, ours, theirs, True), replaced=True)
    if ours.has_rows_of(theirs):
        return replace(_with_numbers(ours.rows, ours, theirs, False), newer=ours.rows != theirs.rows)
    if theirs.has_rows_of(ours):
        return replace(_with_numbers(theirs.rows, ours, theirs, False), replaced=True)
    if on_conflict != "merge":
        return Base(ours, conflict=True)
    merged = merge(ours, theirs)
    base = replace(_with_numbers(merged.rows, ours, theirs, True), replaced=True, merged=True, twice=merged.twice)
    return replace(base, theirs_count=frozenset(serial for serial in merged.twice if merged.rows[serial] == theirs.rows[serial]))


def _pairs(ours: Numbers, theirs: Numbers) -> t.Tuple[t.Tuple[str, t.Optional[int], t.Optional[int]], ...]:
    return (("serial", ours.next_serial, theirs.next_serial), ("crl_number", ours.next_crl_number, theirs.next_crl_number))


def _with_numbers(rows: t.Mapping[int, Row], ours: Numbers, theirs: Numbers, parted: bool) -> Base:
    """C(parted): after the set the CA went on twice, here and elsewhere, so that no number here tells what was given."""
    following: t.Dict[str, t.Optional[int]] = {}
    unknown = set()
    for name, our, their in _pairs(ours, theirs):
        following[name] = None if our is None and their is None else max(our or 0, their or 0)
        if parted or our is None or our < (their or 0):
            unknown.add(name)
    return Base(Numbers(rows, following["serial"], following["crl_number"]), unknown_since=frozenset(unknown))
