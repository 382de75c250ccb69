# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: documents of a store and the signatures beside them; may change in any release.

A document is a manifest or an event. Whoever may write into a store may write those, too: what counts is signed (C(<document>.sig)).
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import re
import secrets
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file

SIGNATURE = ".sig"
LARGEST_SIGNATURE, LARGEST_EVENT, MOST_EVENTS = 32 * 1024, 1 << 20, 10_000
_EVENT_NAME = re.compile(r"([0-9]{6,18})-[0-9TZ.]+-([a-z_]+)-[^/]*\.json\Z")
_MOST_OF_EVENTS = 64 << 20  # bytes: whoever may write there makes any number of large ones
EVENT_FORMAT, EVENT_VERSION = "keyward.pki event", 1
SHOW_FINGERPRINTS = "cut -d ' ' -f 3- allowed_signers | ssh-keygen -lf -"  # of a list: behind principal and options
WAY_OUT = (
    f"If it is yours: compare the store's copy of allowed_signers with the paper ({SHOW_FINGERPRINTS}), and give that file as "
    "allowed_signers. If a key was stolen: prove what is sound with its password, and vouch for it (ca_key_verify)"
)
VERIFIED = "verified"  # a person has proved a backup with its password, and vouches for its manifest


class NobodyKnown(KeywardError):
    """There is no list of signers: nothing can be judged, and no manifest is to blame."""


class Judge(t.Protocol):
    """Who knows the signers: a controller. A host judges nothing, and what it reads counts only once a controller has judged it."""

    def doubt(self, document: bytes, signature: t.Optional[bytes], at: str) -> t.Optional[str]:
        """Why nobody known vouches for a document of that time; None where somebody does. Raises KeywardError."""


def document(shape: t.Mapping[str, t.Any]) -> bytes:
    """A manifest or an event, as it stands in a store."""
    return json.dumps(shape, indent=2, ensure_ascii=True).encode("ascii") + b"\n"


def digest(content: bytes) -> str:
    """By which a document names another one."""
    return hashlib.sha256(content).hexdigest()


class Named:
    """A judge on a host: what counts is what the controller named, which has judged it."""

    def __init__(self, digests: t.Iterable[str]) -> None:
        self._digests = frozenset(digests)

    def doubt(self, document: bytes, signature: t.Optional[bytes], at: str) -> t.Optional[str]:
        return None if digest(document) in self._digests else "the controller did not name it"


def signature_beside(path: str) -> t.Optional[bytes]:
    """What lies beside a document; None where nothing does that could be its signature."""
    try:
        return read_file(path + SIGNATURE, "the signature", LARGEST_SIGNATURE)
    except (FileNotFoundError, NotADirectoryError, KeywardError):
        return None


def ends(signed: t.Sequence[t.Any], settled: int = 0) -> t.List[t.Any]:
    """The newest, and the ends of branches beside its own, newest first. C(signed): each once, newest first.

    A branch begins where two follow the same one. It ends where a later one names it. C(settled): before this number each was named by
    a later one, when all of them were looked at.
    """
    by_digest = {one.digest: one for one in signed}
    followed = {name for one in signed for name in (one.manifest.previous, *one.manifest.also_follows)}
    beside = collections.Counter(one.manifest.previous for one in signed)
    found: t.List[t.Any] = []
    for one in signed:
        before: t.Any = one
        while before and beside[before.manifest.previous] < 2:
            before = by_digest.get(before.manifest.previous or "")
        if one.digest not in followed and (before or not found) and one.manifest.sequence >= settled:
            found.append(one)
    return found


# --- events ----------------------------------------------------------------------------------------------------------


class Event(t.NamedTuple):
    """What happened to a backup or set: a file of its authority's C(events/), written once, and its signature."""

    name: str
    content: bytes
    signature: bytes


def event_shape(kind: str, manifest: t.Any, follows: t.Any, at: str, who: t.Mapping[str, t.Any], **details: t.Any) -> t.Dict[str, t.Any]:
    """C(follows): the digest of the manifest that it is about. No secret in it."""
    return {
        "format": EVENT_FORMAT,
        "format_version": EVENT_VERSION,
        "type": kind,
        "authority": manifest.authority.id,
        "sequence": manifest.sequence,
        "follows": follows,
        "at": at,
        "who": dict(who),
        **details,
    }


def event_name(shape: t.Mapping[str, t.Any]) -> str:
    """Begins with the sequence, so that a listing shows what follows what."""
    stamp = str(shape["at"]).replace("-", "").replace(":", "")
    return f"{shape['sequence']:06d}-{stamp}-{shape['type']}-{secrets.token_hex(4)}.json"


def _events(
    folder: str, kinds: t.Sequence[str], judge: t.Optional[Judge], first: int = 0, last: t.Optional[int] = None
) -> t.Iterator[t.Tuple[Event, t.Dict[str, t.Any]]]:
    """Those of some types that somebody known signed. What can't be read, or is of nobody known, is none.

    C(first), C(last): of the numbers that their names begin with.
    """
    try:
        names = sorted(name for name, number in _named(folder, kinds) if first <= number and (last is None or number <= last))
    except OSError:
        return
    left = _MOST_OF_EVENTS
    for name in names[-MOST_EVENTS:]:
        path = os.path.join(folder, name)
        try:
            content = read_file(path, "the event", min(LARGEST_EVENT, left))
            left -= len(content)
            shape = json.loads(content)
            if shape["format"] != EVENT_FORMAT or shape["type"] not in kinds:
                continue
            signature = signature_beside(path)
            doubt = judge.doubt(content, signature, shape["at"]) if judge else None
        except NobodyKnown:
            raise
        except (FileNotFoundError, KeywardError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if doubt is None:
            yield Event(name, content, signature or b""), shape


def _named(folder: str, kinds: t.Sequence[str]) -> t.Iterator[t.Tuple[str, int]]:
    """The events that have these types by their names, and the numbers that these begin with. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            found = _EVENT_NAME.match(entry.name)
            if found and found.group(2) in kinds:
                yield entry.name, int(found.group(1))


def event_numbers(folder: str, kinds: t.Sequence[str]) -> t.FrozenSet[int]:
    """Of which backups or sets there can be such events."""
    try:
        return frozenset(number for _name, number in _named(folder, kinds))
    except OSError:
        return frozenset()


def read_events(
    folder: str, kinds: t.Sequence[str], judge: t.Optional[Judge], first: int = 0, last: t.Optional[int] = None
) -> t.Iterator[t.Dict[str, t.Any]]:
    return (shape for _event, shape in _events(folder, kinds, judge, first, last))


def said_of(folder: str, kinds: t.Sequence[str], follows: str, judge: t.Optional[Judge]) -> t.List[Event]:
    """The events of some types by which persons say something of the manifest of that digest."""
    found = []
    for event, shape in _events(folder, kinds, judge):
        about = shape.get("follows")
        if about == follows or (isinstance(about, list) and follows in about):
            found.append(event)
    return found
