# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a controller remembers of stores, so that an older state of them is seen; may change in any release.

Signatures say who made what, not that it is the newest: whoever may write into a store can put back what was there last year.
"""

from __future__ import annotations

import json
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import make_directory, read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._lock import locked
from ansible_collections.keyward.pki.plugins.module_utils._signed import document
from ansible_collections.keyward.pki.plugins.module_utils._staged import put
from ansible_collections.keyward.pki.plugins.module_utils._stored import Stored
from ansible_collections.keyward.pki.plugins.plugin_utils import _signers

OF_THE_MACHINE, OF_THE_USER = "/var/lib/keyward/memory.json", "~/.local/state/keyward/memory.json"
FORMAT, VERSION = "keyward.pki memory", 1
_LARGEST = 64 << 20  # bytes

Shape = dict[str, t.Any]


class Remembered(t.Protocol):
    """A store, here or on a host."""

    @property
    def place(self) -> str: ...
    @property
    def id(self) -> str: ...


class Memory:
    """C(accept): ids of stores and authorities for which a person takes what is there."""

    def __init__(self, path: str | None, accept: t.Collection[str]) -> None:
        machine = os.path.isdir(_signers.OF_THE_MACHINE)
        self.path = os.path.abspath(path or (OF_THE_MACHINE if machine else os.path.expanduser(OF_THE_USER)))
        self._accept = frozenset(accept)
        self._shape = self._read()

    def _read(self) -> Shape:
        try:
            shape = json.loads(read_if_there(self.path, "the memory", _LARGEST) or document(_empty()))
            if shape["format"] != FORMAT or shape["format_version"] != VERSION:
                raise ValueError
            for one in shape["newest"].values():
                one["sequence"] + 0, one["digest"] + "", [*one["public_keys"]], one["home"]
            return {**shape, "stores": dict(shape["stores"])}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise KeywardError(
                f"the memory {self.path} can't be used",
                "it is damaged, or was written by a later release",
                "Bring it back from a backup of this controller. Otherwise move it aside: what is signed is taken then, and said",
            ) from exc

    # --- what was there before ---

    def refuse_other_stores(self, stores: t.Iterable[Remembered]) -> None:
        """Raise KeywardError where another store lies at a path than before."""
        for store in stores:
            before, now = self._shape["stores"].get(store.place), store.id
            if before not in (None, now) and now not in self._accept:
                raise KeywardError(
                    f"the store {store.place} is not used",
                    f"it is another one than before (its id was {before}, and is {now})",
                    f"Mount the right one. If it is to take that one's place, say once accept: {now}",
                )

    def rolled_back(self, kind: str, authority: str, there: t.Iterable[Stored], database: str = "") -> KeywardError | None:
        """How what is there is less than what was; None where it is not. C(there): all that count."""
        before = self._shape["newest"].get(_name(kind, authority, database))
        if before is None or authority in self._accept:
            return None
        found = {one.digest: one.manifest.sequence for one in there}
        highest = max(found.values(), default=0)
        if before["digest"] in found or highest > before["sequence"]:
            return None
        why = f"the highest has the number {highest}, and {before['sequence']} was there"
        if highest == before["sequence"]:
            why = f"another one has the number {highest} than before"
        return KeywardError(
            f"what the stores hold of the authority {authority} is not used",
            f"they hold less than before: {why}",
            "Mount the right stores, or another copy of them. Where a signer is no longer allowed, vouch for what is sound "
            f"(ca_key_verify). If the rest is lost for good, say once accept: {authority}",
            [Finding("rolled_back", why)],
        )

    def forgotten_by_stores(self, kind: str, public_keys: t.Collection[str], home: t.Any = None) -> KeywardError | None:
        """For an authority of which the stores hold nothing: whether one with its keys was there before. C(home): of a database."""
        for name, before in self._shape["newest"].items():
            of_kind, authority, database = [*name.split("/"), ""][:3]
            if of_kind == kind and {*public_keys} & {*before["public_keys"]} and home in (None, before["home"]):
                error = self.rolled_back(kind, authority, (), database)
                if error:
                    return error
        return None

    def unknown(self, kind: str, authority: str, database: str = "") -> list[Finding]:
        """What is said where nothing was remembered: the newest that is signed was taken."""
        if _name(kind, authority, database) in self._shape["newest"]:
            return []
        text = f"{self.path} remembers nothing of this authority: what is signed was taken, whether or not a newer one was there"
        return [Finding("not_remembered", text)]

    # --- what is there now ---

    def remember(self, stores: t.Iterable[Remembered], kind: str, newest: Stored, database: str = "") -> None:
        """Raises KeywardError."""
        ids = {store.place: store.id for store in stores}
        authority = newest.manifest.authority.id or ""
        name = _name(kind, authority, database)
        entry = {
            "sequence": newest.manifest.sequence,
            "digest": newest.digest,
            "public_keys": sorted(newest.manifest.public_keys),
            "home": newest.manifest.made_at.as_json() if database else None,
        }
        if self._shape["newest"].get(name) == entry and ids.items() <= self._shape["stores"].items():
            return
        folder, what = os.path.dirname(self.path), f"the memory {self.path}"
        make_directory(folder, 0o700)
        with locked([folder], f"{what} was not written"):
            shape = self._read()  # others have written meanwhile
            known = shape["newest"].get(name)
            if known is None or known["sequence"] <= entry["sequence"] or authority in self._accept:
                shape["newest"][name] = entry
            shape["stores"].update(ids)
            put(self.path, document(shape), 0o600)
        self._shape = shape


def _name(kind: str, authority: str, database: str) -> str:
    return "/".join(part for part in (kind, authority, database) if part)


def _empty() -> Shape:
    return {"format": FORMAT, "format_version": VERSION, "stores": {}, "newest": {}}
