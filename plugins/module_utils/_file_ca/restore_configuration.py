# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the configuration of a set beside that of the host, also where the CA moved; may change in any release."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import Contents
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import attributes_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.loaded_code import loaded_by
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import Member
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.moving import Move
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import LARGEST_CONFIG
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Rewritten

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

MOVED, KEPT = "moved", "kept"


class Configurations:
    """C(texts): what is to be here instead of the set's bytes, by the path in the set. C(loads): what each has the CA load."""

    def __init__(self, backend: FileCa, move: Move, usable: bool) -> None:
        self._backend, self._move, self._usable = backend, move, usable
        self.texts: t.Dict[str, bytes] = {}
        self.loads: t.Dict[str, t.List[str]] = {}
        self._lines: t.Dict[str, t.List[t.Tuple[str, str]]] = {}  # by the path here
        self._kept: t.List[str] = []

    def compare(self, member: Member, path: str, stream: Contents, there: str) -> str:
        """C(there), or moved where what is here still names the former place, or kept where the host has its own of the moved CA."""
        data = stream.read(LARGEST_CONFIG + 1)
        self.loads[path] = [*self._backend.runs(path), *loaded_by(data[:LARGEST_CONFIG], self._backend.directory)]
        if not self._move or len(data) > LARGEST_CONFIG:
            return there
        before, text = data, self._move.text(data)
        if there == "different" and os.path.isfile(path):
            here = read_file(path, "the configuration", LARGEST_CONFIG)
            if self._move.same(here, data):
                before, text, there = here, self._move.text(here), "same"
            elif self._usable:
                self._kept.append(path)
                return KEPT
        if text != before:
            self.texts[member.path], self._lines[path] = text, self._move.lines(before, text)
            return MOVED if there == "same" else there
        return there

    def rewritten(self, paths: t.Collection[str]) -> t.Tuple[Rewritten, ...]:
        return tuple(Rewritten(path, *line) for path in sorted(self._lines) if path in paths for line in self._lines[path])

    def findings(self, directory: str) -> t.Iterator[Finding]:
        """C(directory): where the CA was."""
        for path in self._kept:
            text = f"{path} is not that of the set, which is of the same CA in {directory}: it stays. Compare both"
            yield Finding("configuration_differs", text)
        names = [path for path in self._kept if self._names_former(path)]
        if names:
            yield Finding("moved", f"the CA was in {directory}, and {', '.join(names)} still says so: correct it")

    def _names_former(self, path: str) -> bool:
        here = read_file(path, "the configuration", LARGEST_CONFIG)
        return self._move.text(here) != here


def place_of(part: str, files: Files) -> t.Optional[str]:
    """Where the configuration of this host has a file of the database. None for another, and where it has none."""
    named = {"index": files.database, "serial": files.serial, "crl_number": files.crl_number}
    return attributes_of(files.database) if part == "attributes" and files.database else named.get(part)
