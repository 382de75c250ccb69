# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whose the CA of a host is, and whether it is at home there; may change in any release.

A host is believed about its own CA only. What it shows makes it a known authority at home, or where a person names that
authority. Anything else is elsewhere: nothing of it is stored, and nothing is sent there. No files and no Ansible here.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import MOST_HOMES, Generation, Home, homes_from_json

MOVED, TWIN = "moved", "twin"  # what a person states about a home, in the words of events
LEAST_DIGITS = 8  # of an id that a person gives


class Known(t.Protocol):
    """An authority, from its newest record. C(public_keys): of the private keys in its backups."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def public_keys(self) -> t.FrozenSet[str]: ...
    @property
    def homes(self) -> t.Tuple[Home, ...]: ...


K = t.TypeVar("K", bound=Known)


@dataclass(frozen=True)
class Standing(t.Generic[K]):
    """What a host is. C(known): the authority that it shows, None where no record has it. C(elsewhere): why it is not at home, or None.

    C(mixed): it also shows a certificate of yet another authority.
    """

    known: t.Optional[K]
    elsewhere: t.Optional[str] = None
    advisories: t.Tuple[Finding, ...] = ()
    mixed: bool = False


def standing(here: Home, generations: t.Sequence[Generation], known: t.Sequence[K]) -> Standing[K]:
    """Which authority a host shows C(here), by the generations that it has; the last one is its newest."""
    newest = generations[-1]
    owners = [each for each in known if shown_of(each, generations)]
    if not owners:
        # It was renewed by hand, in place and with a new key.
        same = [each for each in known if each.subject == newest.subject and lives(each.homes, here)]
        if len(same) > 1:
            return Standing(same[0], "it can be " + " or ".join(each.name for each in same))
        advisories = () if same else _others_at_home(here, known)
        return Standing(same[0] if same else None, None, advisories)
    one = max(owners, key=lambda each: (_continues(newest, each), lives(each.homes, here, section=False)))
    others = [each for each in owners if each is not one]
    if others:
        strange = shown_of(others[0], generations)[0]
        return Standing(one, f"it shows {strange.label}, and that is a certificate of {others[0].name}", mixed=True)
    if not lives(one.homes, here, section=False):
        return Standing(one, f"{one.name} lives on {' and on '.join(map(place_text, one.homes))}, and this is {place_text(here)}")
    if not _continues(newest, one):
        return Standing(one, f"its newest certificate, {newest.label}, has neither the subject nor a key of {one.name}")
    return Standing(one)


def _continues(newest: Generation, known: Known) -> bool:
    return newest.subject == known.subject or newest.public_key_sha256 in known.public_keys


def _others_at_home(here: Home, known: t.Sequence[Known]) -> t.Tuple[Finding, ...]:
    found = [each for each in known if lives(each.homes, here) or (_has_one(here) and lives(each.homes, here, section=False))]
    text = "was at home in this place, and another CA is here now: both are kept, each as an authority of its own"
    return tuple(Finding("another_ca_at_home", f"{each.name} {text}") for each in found)


def _has_one(here: Home) -> bool:
    """Whether a host has one CA of this software: nothing but its name tells it."""
    return not set(here.place) - {"backend", "name"}


def shown_of(known: Known, generations: t.Iterable[Generation]) -> t.List[Generation]:
    """The generations of an authority that a host shows: those with its keys, and the certificate that its id is made of."""
    return [each for each in generations if each.public_key_sha256 in known.public_keys or each.sha256 == known.id]


def shared(generations: t.Iterable[Generation], public_keys: t.Collection[str]) -> t.List[Generation]:
    return [generation for generation in generations if generation.public_key_sha256 in public_keys]


def lives(homes: t.Iterable[Home], here: Home, section: bool = True) -> bool:
    return any(home.fits(here, section) for home in homes)


def place_text(home: Home) -> str:
    where = next((value for part, value in home.place.items() if part != "backend"), None)
    return f"{home.host} ({where})" if where else home.host


def at_home(here: Home, known: t.Sequence[K]) -> t.List[K]:
    """The authorities whose home is a place where no CA is left. C(here): the place as far as it is stated."""
    return [each for each in known if lives(each.homes, here)]


def of_id(beginning: str, known: t.Sequence[K], option: str = "authority_id") -> K:
    """The authority that a task names. Raises KeywardError."""
    what, there = f"the authority {beginning[:64]} can't be told", ", ".join(f"{each.name} ({each.id})" for each in known) or "none"
    if not re.match(f"[0-9a-f]{{{LEAST_DIGITS},64}}\\Z", beginning):
        raise KeywardError(what, f"{option} is no id, and not the first {LEAST_DIGITS} or more digits of one", f"The stores hold {there}")
    found = [each for each in known if each.id.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise KeywardError(what, "it can be " + " or ".join(each.id for each in found), "Give more digits")
    raise KeywardError(what, "no store has it", f"They hold {there}. Give one of these, or mount the right store")


def is_of(known: Known, here: Home, generations: t.Sequence[Generation], moving: bool = False) -> bool:
    """Whether a host shows the authority that a person named. C(moving): the person says that it lives there from now on."""
    if shown_of(known, generations):
        return True
    return generations[-1].subject == known.subject and (moving or lives(known.homes, here))


# --- what a person says of homes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HomeChange:
    """An event by which a person changed the homes. C(follows): SHA-256 of the manifests that it outranks. C(number): of those, from 1."""

    kind: str
    follows: t.Tuple[str, ...]
    number: int
    homes: t.Tuple[Home, ...]

    @classmethod
    def from_json(cls, shape: t.Mapping[str, t.Any]) -> HomeChange:
        """Raises ValueError, KeyError, TypeError."""
        kind = str(shape["type"])
        if kind not in (MOVED, TWIN):
            raise ValueError("another event")
        follows = tuple(str(each) for each in shape["follows"])
        return cls(kind, follows, int(shape["number"]), homes_from_json(shape["homes"]))

    def as_json(self) -> t.Dict[str, t.Any]:
        return {"follows": list(self.follows), "number": self.number, "homes": [home.as_json() for home in self.homes]}


def homes_after(recorded: t.Tuple[Home, ...], digest: str, changes: t.Iterable[HomeChange]) -> t.Tuple[Home, ...]:
    """The homes that a manifest records, with what persons stated since. C(digest): the manifest's."""
    last = _last_change(digest, changes)
    return last.homes if last else recorded


def number_said(digest: str, changes: t.Iterable[HomeChange]) -> int:
    """Of the last thing that persons said since a manifest; 0 where nobody said anything."""
    last = _last_change(digest, changes)
    return last.number if last else 0


def _last_change(digest: str, changes: t.Iterable[HomeChange]) -> t.Optional[HomeChange]:
    return max((change for change in changes if digest in change.follows), key=lambda change: change.number, default=None)


def change_home(
    kind: str, homes: t.Tuple[Home, ...], here: Home, follows: t.Sequence[str], changes: t.Iterable[HomeChange]
) -> t.Optional[HomeChange]:
    """What a person says: it lives here instead (moved), or here too (twin). None where that is so already. Raises KeywardError.

    C(follows): the digests of the manifests that say where it lives now.
    """
    if lives(homes, here, section=False) and (kind == TWIN or len(homes) == 1):
        return None
    if kind == TWIN and len(homes) >= MOST_HOMES:
        raise KeywardError("the twin was not recorded", f"the authority has {MOST_HOMES} homes", "Say move where one of them is gone")
    number = 1 + max((change.number for change in changes if set(follows) & set(change.follows)), default=0)
    return HomeChange(kind, tuple(follows), number, (here,) if kind == MOVED else (*homes, here))
