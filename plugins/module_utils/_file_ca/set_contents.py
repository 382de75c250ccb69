# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a set of a CA of files holds, and what a newer one lacks of it; may change in any release."""

from __future__ import annotations

import functools
import os
import typing as t
from datetime import datetime

from ansible_collections.keyward.pki.plugins.module_utils._database_policy import NEVER, Lacks
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import LinkFiles, SetFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import LARGEST_INDEX
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Row, changed_rows
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import ISSUED_PARTS
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED, MEMBERS
from ansible_collections.keyward.pki.plugins.module_utils._stored import Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, now


def set_files(stored: Stored) -> SetFiles:
    """All of a set, with what lies in those that it builds on."""
    links = [LinkFiles(os.path.join(one.path, ISSUED), os.path.join(one.path, MEMBERS), one.manifest.members) for one in stored.links]
    return SetFiles(stored.path, stored.manifest.members, tuple(links))


class SetContents:
    """The index of a set, and the files that were issued."""

    def __init__(self, stored: Stored) -> None:
        self._files = set_files(stored)

    @functools.cached_property
    def index(self) -> bytes:
        for member, stream in self._files.contents(CORE):
            if stream and member.part == "index":
                return stream.read(LARGEST_INDEX)
        return b""

    @functools.cached_property
    def digests(self) -> t.Set[bytes]:
        """Of the files that were issued: a file that has moved is no loss."""
        return {digest for digest, _path in self.issued()}

    def issued(self) -> t.Iterator[t.Tuple[bytes, str]]:
        for one in self._files.list():
            if one.part in ISSUED_PARTS and one.sha256:
                yield bytes.fromhex(one.sha256), one.path


def compared(newer: Stored, older: Stored, files: bool = True) -> Lacks:
    """What a set lacks of an older one's rows and issued files. C(files): these as well. Raises KeywardError, OSError.

    Lost is a row that is gone, or no longer revoked; one that says less of its certificate, as a restore enters it, only keeps the older
    set from going.
    """
    ours, theirs = _contents(newer), _contents(older)
    changed = [(our, row) for our, row in changed_rows(ours.index, theirs.index) if not (our and our.covers(row))]
    example = f"the entry {changed[0][1].serial}" if changed else ""
    for digest, path in theirs.issued() if files and not changed else ():
        if digest not in ours.digests:
            example = path
            break
    today = format_time(now())
    missed = [(row, _expires(row)) for our, row in changed if our is None or (row.kind == "R" != our.kind)]
    missed = [(row, until) for row, until in missed if until > today]
    return Lacks(
        rows=len(missed),
        revoked=sum(1 for row, _until in missed if row.kind == "R"),
        until=max((until for _row, until in missed), default=NEVER),
        any=bool(example),
        example=example,
    )


@functools.lru_cache(maxsize=2)
def _contents(stored: Stored) -> SetContents:
    return SetContents(stored)


def _expires(row: Row) -> str:
    """ISO 8601, UTC. What can't be read counts as what never expires."""
    for form, length in (("%y%m%d%H%M%SZ", 13), ("%Y%m%d%H%M%SZ", 15)):
        if len(row.expires) == length:
            try:
                return format_time(datetime.strptime(row.expires, form))
            except ValueError:
                break
    return NEVER
