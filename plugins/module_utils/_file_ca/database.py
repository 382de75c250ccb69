# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: orders on the database of a CA of files; may change in any release."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import Lacks
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import parallel
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import LinkFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive_reading import Vanished
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_copy import Survey, make_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_findings import findings
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import ISSUED_PARTS, complete
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.set_writer import is_changed
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import CrlFacts
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Copied, Copy, Restore, Restored, TellChanged, TellState
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import ISSUED, MEMBERS, State, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._stored import SETS, Stored, digest_of

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

_LARGE = 1 << 20  # bytes of an index: of about 10 000 certificates


class FileDatabase:
    def __init__(self, ca: FileCa) -> None:
        self._ca = ca

    def look(self, order: TellState) -> t.Tuple[State, t.List[Finding]]:
        survey = Survey(self._ca, self._ca.known_facts or self._ca.facts(), order.extra_paths)
        with parallel.beside(self.findings, self._is_large()) as findings_told:
            wanted = survey.wanted()
            state = survey.state(wanted)
            state.look(sorted(path for path, part in wanted.items() if part in ISSUED_PARTS))
            return state.told, findings_told()

    def changed(self, order: TellChanged) -> bool:
        facts = self._ca.as_decided(order.of, "what was issued can't be compared with the newest set")
        survey = Survey(self._ca, facts, order.extra_paths)
        wanted = survey.wanted()
        try:
            with contextlib.closing(survey.reader(wanted, {})) as reader:
                return is_changed(reader, complete(order.base, order.base_list), wanted, survey.state(wanted).look)
        except Vanished:
            return True

    def _is_large(self) -> bool:
        try:
            return os.path.getsize(self._ca.files().database or "") > _LARGE
        except OSError:
            return False

    def crls(self) -> t.Tuple[CrlFacts, ...]:
        from ansible_collections.keyward.pki.plugins.module_utils._file_ca.crl_proofs import crl_facts

        facts, files = self._ca.known_facts or self._ca.facts(), self._ca.files()
        try:
            return crl_facts(DatabaseFiles(self._ca, files), files, facts.generations) if files.database else ()
        except KeywardError:
            return ()  # findings says why

    def findings(self) -> t.List[Finding]:
        facts, files = self._ca.known_facts or self._ca.facts(), self._ca.files()
        try:
            return findings(DatabaseFiles(self._ca, files), files, facts.generations) if files.database else []
        except KeywardError as exc:
            return [Finding("database_unreadable", str(exc))]

    def copy(self, order: Copy, folder: str, check: bool) -> Copied:
        """Make a copy without a lock: the CA may issue meanwhile."""
        facts = self._ca.as_decided(order.of, "the database was not backed up")
        base = functools.partial(complete, order.base, order.base_list or "") if order.base else None
        return make_files(Survey(self._ca, facts, order.extra_paths, folder), folder, base, order.whole)

    def compare(self, newer: Stored, older: Stored, files: bool = True) -> Lacks:
        from ansible_collections.keyward.pki.plugins.module_utils._file_ca.set_contents import compared

        return compared(newer, older, files)

    def restore(self, order: Restore, folder: str, check: bool) -> Restored:
        from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_restore import Restoration

        what = "nothing was restored"
        with self._alone(what, check):
            facts: t.Optional[Facts] = None
            with contextlib.suppress(NothingThere):
                facts = self._ca.as_decided(order.of, what)
            if order.of and not facts:
                raise KeywardError(
                    what, "the CA that was here when the set was chosen is gone", "Run the task again: it sees what is there now"
                )
            links = []
            for link in order.chain:
                below = Stored(os.path.dirname(link.members), set_manifest_from_json(json.loads(link.manifest)), SETS)
                for path, name in ((link.issued, ISSUED), (link.members, MEMBERS)):
                    recorded = {file.name: file.sha256 for file in below.manifest.files}[name]
                    if digest_of(path) != recorded:
                        raise KeywardError(what, f"{path} does not have the digest that its manifest records", "Use another set")
                links.append(LinkFiles(link.issued, link.members, below.manifest.members))
            stored = Stored(folder, set_manifest_from_json(json.loads(order.manifest)), SETS)
            if stored.damage:
                raise KeywardError(what, f"the set can't be used: {stored.damage}", "Use another set, or another copy of this one")
            return Restoration(self._ca, stored, order, check, links).carry_out()

    def _alone(self, what: str, check: bool) -> t.ContextManager[t.Any]:
        """Lock the CA. Where its configuration is lost as well, nothing else can be at work, and there is nothing to lock."""
        try:
            files = self._ca.files()
        except KeywardError:
            return contextlib.nullcontext()
        return self._ca.alone(files, what, check)
