# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what every CA software must answer; may change in any release. Only the type checker and people read it.

A backend knows its software, and no store. It tells what is there and does one order; it decides nothing. What consists of
files derives from C(FileCa) in _file_ca/base.py; software with an interface of its own implements C(Backend) directly.
A module that imported this would send every host what all orders need.
"""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, Selector
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import Lacks
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._orders import database, key_restore, keys, lifecycle
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities, CrlFacts
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import State
from ansible_collections.keyward.pki.plugins.module_utils._stored import Stored

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa


class Backend(t.Protocol):
    """What runs a CA. Each raises KeywardError; NothingThere where there is no such CA. C(check): touch nothing, predict."""

    NAME: t.ClassVar[str]  # the value of the option backend
    ABILITIES: t.ClassVar[Abilities]

    def __init__(self, selector: Selector) -> None: ...

    @classmethod
    def claims(cls, selector: Selector) -> bool:
        """Whether these options mean a CA of this software (backend: auto)."""

    def facts(self) -> Facts:
        """The authority as it is."""

    def export_keys(self, order: keys.ExportKeys, check: bool) -> keys.Exported:
        """Every private key that can leave, where a generation is there that the order does not cover."""

    def import_keys(self, order: key_restore.ImportKeys, check: bool) -> key_restore.Imported:
        """Put back what is missing of the order's generations and keys."""

    def install(self, order: lifecycle.Install, check: bool) -> lifecycle.Changed:
        """Make a CA where none is, or go on with one that waits for its first certificate."""

    def renew(self, order: lifecycle.Renew, check: bool) -> lifecycle.Changed:
        """Renew the CA certificate, or finish a renewal that was begun. Refuses where C(order.of) is no longer the newest generation."""

    def answer(self, order: lifecycle.Answer, check: bool) -> lifecycle.Changed:
        """Put a parent's certificate for the pending request in place."""

    def sign(self, order: lifecycle.Sign, check: bool) -> lifecycle.Signed:
        """The certificate for the request of a subordinate CA; issued once."""

    def crls(self, order: lifecycle.Crls, check: bool) -> lifecycle.Crled:
        """The CRLs of the generations that the order names."""

    def database(self) -> Database:
        """What it has issued."""


class Database(t.Protocol):
    """What a CA has issued, and all that belongs to it but keys. Each raises KeywardError."""

    def look(self, order: database.TellState) -> t.Tuple[State, t.List[Finding]]:
        """What is compared with sets, and C(findings)."""

    def changed(self, order: database.TellChanged) -> bool:
        """Whether what was issued is otherwise than a set has it. Refuses as C(Backend.renew)."""

    def crls(self) -> t.Tuple[CrlFacts, ...]:
        """The CRLs that lie on the host."""

    def findings(self) -> t.List[Finding]:
        """What is wrong with it."""

    def copy(self, order: database.Copy, folder: str, check: bool) -> database.Copied:
        """The files of a full set, proved, in a folder. Refuses as C(Backend.renew). Raises OSError where the folder can't be written."""

    def compare(self, newer: Stored, older: Stored, files: bool = True) -> Lacks:
        """What a set lacks that an older one of the same database has; its files only where C(files). Raises OSError as well."""

    def restore(self, order: database.Restore, folder: str, check: bool) -> database.Restored:
        """What is missing of the set in a folder, put back. Refuses as C(Backend.renew)."""


def of_files(ca: FileCa) -> Backend:
    """Every CA of files answers so: the type checker compares them."""
    return ca
