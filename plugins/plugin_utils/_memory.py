# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a controller remembers of stores, so that an older state of them is seen; may change in any release.

A signature says who made something, not that it is the newest: whoever may write into a store can put last year's content back.
"""

from __future__ import annotations

import json
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Home
from ansible_collections.keyward.pki.plugins.module_utils._lock import locked
from ansible_collections.keyward.pki.plugins.module_utils._signed import digest, document
from ansible_collections.keyward.pki.plugins.module_utils._staged import put
from ansible_collections.keyward.pki.plugins.module_utils._stored import Series, Stored, sequence_of
from ansible_collections.keyward.pki.plugins.module_utils._time import now
from ansible_collections.keyward.pki.plugins.plugin_utils import _signers

OF_THE_MACHINE, OF_THE_USER = "/var/lib/keyward/memory.json", "~/.local/state/keyward/memory.json"
FORMAT, VERSION = "keyward.pki memory", 1
IN_TURN = 4  # older backups or sets that are looked at again each day
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
                one["sequence"] + 0, one["digest"] + "", [*one["public_keys"]], one["home"]["host"] + "", one["said"] + 0, [*one["stores"]]
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

    def rolled_back(
        self, kind: str, authority: str, there: t.Iterable[Stored], database: str = "", said: int | None = None
    ) -> KeywardError | None:
        """How what is there is less than what was; None where it is not. C(there): all that count.

        C(said): the number of the last thing that a person said of its homes since the newest backup; of a set, the next one says it.
        """
        before = self._shape["newest"].get(_name(kind, authority, database))
        if before is None or authority in self._accept:
            return None
        found = {one.digest: one.manifest.sequence for one in there}
        highest = max(found.values(), default=0)
        unsaid = said is not None and highest == before["sequence"] and said < before["said"]
        if (before["digest"] in found or highest > before["sequence"]) and not unsaid:
            return None
        why = f"the highest has the number {highest}, and {before['sequence']} was there"
        if highest == before["sequence"]:
            why = f"another one has the number {highest} than before"
        if before["digest"] in found:
            why = "a person said where it lives, and the event that says so is gone (say so again, together with accept)"
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

    def forgotten_at(self, kind: str, here: Home, there: t.Collection[str]) -> KeywardError | None:
        """Where nothing of a CA is left in a place: whether one lived there that the stores hold no more. C(there): ids that they hold."""
        for name, before in self._shape["newest"].items():
            of_kind, authority = name.split("/")[:2]
            home = Home(before["home"]["host"], before["home"]["place"])
            if of_kind == kind and authority not in there and home.fits(here):
                return self.rolled_back(kind, authority, ())
        return None

    def unknown(self, kind: str, authority: str, database: str = "") -> list[Finding]:
        """The finding where nothing was remembered yet: the newest signed one is believed."""
        if _name(kind, authority, database) in self._shape["newest"]:
            return []
        text = f"{self.path} remembers nothing of this authority: what is signed was taken, whether or not a newer one was there"
        return [Finding("not_remembered", text)]

    # --- what need not be looked at again ---

    def spare_older(self, kind: str, authority: str, series: t.Sequence[Series], database: str = "") -> None:
        """What was looked at with the remembered one, and is there by its name, is spared, but for some in turn.

        C(series): of each store. Nothing is spared where the newest ones don't follow the remembered one, or anything is said of them.
        """
        before = self._shape["newest"].get(_name(kind, authority, database))
        if not before or not before.get("looked_at"):
            return
        last = before["sequence"]
        if any(_digest_of_names(each.names, last) != before["looked_at"] for each in series):
            return
        older = [name for name in series[0].names if sequence_of(name) < last]
        spared = frozenset(older) - _in_turn(older)
        for each in series:
            each.spared, each.settled = spared, last
        if not all(_follow(each, before["digest"], last) and not each.advisories for each in series):
            for each in series:
                each.spared, each.settled = frozenset(), 0

    def authorities(self, kind: str) -> dict[str, set[str]]:
        """The ids of the authorities that were seen before, and those of the stores that had their newest."""
        return {name.split("/")[1]: {*one["stores"]} for name, one in self._shape["newest"].items() if name.startswith(f"{kind}/")}

    # --- what is there now ---

    def remember(
        self,
        stores: t.Iterable[Remembered],
        kind: str,
        newest: Stored,
        database: str = "",
        looked_at: t.Sequence[Series] | None = None,
        said: int | None = None,
    ) -> None:
        """C(looked_at): of each store, where nothing is to be said of all that lies there. C(said): as above. Raises KeywardError."""
        ids = {store.place: store.id for store in stores}
        authority = newest.manifest.authority.id or ""
        name = _name(kind, authority, database)
        entry = {
            "sequence": newest.manifest.sequence,
            "digest": newest.digest,
            "public_keys": sorted(newest.manifest.public_keys),
            "home": newest.manifest.made_at.as_json(),
            "looked_at": None,
            "said": said or 0,
            "stores": sorted(ids.values()),
        }
        before = self._shape["newest"].get(name)
        if said is None and before and before["digest"] == newest.digest:
            entry["said"] = before["said"]
        names = {_digest_of_names(each.names, newest.manifest.sequence) for each in looked_at or ()}
        if len(names) == 1:
            entry["looked_at"] = names.pop()
        elif looked_at is None and before and before["digest"] == newest.digest:
            entry["looked_at"] = before.get("looked_at")
        if self._shape["newest"].get(name) == entry and ids.items() <= self._shape["stores"].items():
            return
        folder, what = os.path.dirname(self.path), f"the memory {self.path}"
        make_directory(folder, 0o700)
        with locked([folder], f"{what} was not written"):
            shape = self._read()  # another run has written it meanwhile
            known = shape["newest"].get(name)
            if known is None or known["sequence"] <= entry["sequence"] or authority in self._accept:
                shape["newest"][name] = entry
            shape["stores"].update(ids)
            put(self.path, document(shape), 0o600)
        self._shape = shape


def _digest_of_names(names: t.Iterable[str], last: int) -> str:
    return digest("\n".join(sorted(name for name in names if sequence_of(name) <= last)).encode())


def _in_turn(names: t.Sequence[str]) -> frozenset[str]:
    """Today's share of the older ones: within some days each is looked at again, so that later damage is found."""
    begin = now().toordinal() * IN_TURN % len(names) if names else 0
    return frozenset([*names[begin:], *names[:begin]][:IN_TURN])


def _follow(series: Series, remembered: str, last: int) -> bool:
    """Whether the newest is sound, and each that came after the remembered one follows it or one of them."""
    looked = series.all
    digests = {one.digest for one in looked}
    followed = all(one.manifest.previous in digests for one in looked if one.manifest.sequence > last)
    return remembered in digests and followed and looked[0] is series.latest and not looked[0].fault


def _name(kind: str, authority: str, database: str) -> str:
    return "/".join(part for part in (kind, authority, database) if part)


def _empty() -> Shape:
    return {"format": FORMAT, "format_version": VERSION, "stores": {}, "newest": {}}
