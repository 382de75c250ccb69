# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the manifests of database sets, and their JSON; may change in any release.

A set of files is core.tar.gz (configuration, index, numbers, CA certificates, CRLs: always whole), issued.tar.gz (what was issued;
in an increment only what is new) and members.gz (one JSON line for each member, sorted by path; in an increment those that were added,
changed or removed). Software that writes its database itself has files of its own, and full sets only.
No files and no Ansible here.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, Home, homes_from_json
from ansible_collections.keyward.pki.plugins.module_utils._manifest import whose
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable_in
from ansible_collections.keyward.pki.plugins.module_utils._time import parse_time

FORMAT, FORMAT_VERSION = "keyward.pki database set", 1
CORE, ISSUED, MEMBERS = "core.tar.gz", "issued.tar.gz", "members.gz"
LARGEST_SET_MANIFEST = 64 << 20  # bytes; that of an AD CS set names each revocation
MOST_LINKS = 1000  # the sets that one increment builds on
_FILE_OF_A_SET = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|]{1,200}\Z")
_ID = re.compile(r"[0-9a-f]{32}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"([0-9]{6,12})-[0-9T.]{15,22}Z\Z")


@dataclass(frozen=True)
class SetFile:
    """One file of a set, as its manifest records it."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class State:
    """What is compared to see whether a database changed: digests of its contents and configuration, and its numbers; no times.

    C(entries), C(revoked): how many certificates it has, and how many of them are revoked. C(stamps): a digest of what tells that a file
    of what was issued was touched; where it differs, the bytes of these files decide.
    """

    database: str
    configuration: str
    entries: int
    next_serial: t.Optional[str]
    next_crl_number: t.Optional[str]
    revoked: int = 0
    stamps: t.Optional[str] = None


@dataclass(frozen=True)
class Members:
    """How many files, directories and links a database consists of, and their bytes in all.

    C(sha256): of the complete list, None for software that writes its sets itself. C(held), C(held_size): what lies in this set; in an
    increment, the rest lies in the sets that it builds on.
    """

    count: int
    size: int
    sha256: t.Optional[str] = None
    held: int = 0
    held_size: int = 0


def members_of(files: t.Collection[t.Any]) -> Members:
    """Of files as the software of a CA wrote them."""
    size = sum(file.size for file in files)
    return Members(len(files), size, None, len(files), size)


@dataclass(frozen=True)
class Changes:
    """How many members of what was issued differ from those of the base."""

    added: int
    changed: int
    removed: int


@dataclass(frozen=True)
class Link:
    """A set that an increment builds on. C(set): the name of its directory; C(sha256): of its manifest."""

    set: str
    sha256: str


@dataclass(frozen=True)
class Base:
    """The set that an increment adds to. C(sha256): of its manifest. C(links): all that the increment builds on, the full one first."""

    id: str
    sha256: str
    links: t.Tuple[Link, ...]
    changes: Changes


@dataclass(frozen=True)
class Lacking:
    """What a set lacks that an earlier one has. C(set): the name of that one's directory. C(rows): how many, C(revoked) ones among them.

    C(until): when the last of these certificates expires; from then on it is no loss.
    """

    set: str
    as_of: str
    rows: int
    revoked: int
    until: str


@dataclass(frozen=True)
class SetManifest:
    """What lies beside the files of one set.

    C(previous): the SHA-256 of the manifest before it. C(kind): full or increment. C(database): the id of what the set is of.
    C(made_at): where this copy was made. C(seconds): how long the host took. C(own): what only the judgement of its backend reads.
    """

    id: str
    sequence: int
    previous: t.Optional[str]
    kind: str
    database: str
    authority: Authority
    homes: t.Tuple[Home, ...]
    made_at: Home
    created: str
    as_of: str
    made: t.Mapping[str, t.Any]
    files: t.Tuple[SetFile, ...]
    members: Members
    state: State
    left_out: t.Tuple[t.Mapping[str, t.Any], ...]
    generations: t.Tuple[Generation, ...]
    base: t.Optional[Base] = None
    lacking: t.Tuple[Lacking, ...] = ()
    own: t.Optional[t.Mapping[str, t.Any]] = None
    also_follows: t.Tuple[str, ...] = ()  # after a fork: the digests of the ends of the other branches
    seconds: t.Optional[int] = None

    @property
    def links(self) -> t.Tuple[Link, ...]:
        """What it builds on; nothing for a full one."""
        return self.base.links if self.base else ()

    @property
    def size(self) -> int:
        """Bytes of its own files."""
        return sum(file.size for file in self.files)

    @property
    def public_keys(self) -> t.FrozenSet[str]:
        return frozenset(generation.public_key_sha256 for generation in self.generations)

    @property
    def is_archive(self) -> bool:
        """Whether it consists of our archives; otherwise its files are as the CA's software wrote them."""
        return are_files_of_a_set([file.name for file in self.files], archive=True)

    def as_json(self) -> t.Dict[str, t.Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "sequence": self.sequence,
            "previous": self.previous,
            "also_follows": list(self.also_follows),
            "kind": self.kind,
            "base": None if self.base is None else _base_as_json(self.base),
            "database": {"id": self.database},
            "authority": self.authority.as_json(),
            "homes": [home.as_json() for home in self.homes],
            "made_at": self.made_at.as_json(),
            "created": self.created,
            "as_of": self.as_of,
            "seconds": self.seconds,
            "made": dict(self.made),
            "files": [dict(vars(file)) for file in self.files],
            "members": dict(vars(self.members)),
            "state": dict(vars(self.state)),
            "left_out": [dict(one) for one in self.left_out],
            "lacking": [dict(vars(one)) for one in self.lacking],
            "generations": [generation.as_json() for generation in self.generations],
            "own": None if self.own is None else dict(self.own),
        }


def set_manifest_from_json(shape: t.Mapping[str, t.Any]) -> SetManifest:
    """A manifest from its JSON. Raises ValueError, KeyError, TypeError or OverflowError where it is damaged or of a later release."""
    shape = printable_in(shape)
    if shape["format"] != FORMAT or shape["format_version"] != FORMAT_VERSION or shape["kind"] not in ("full", "increment"):
        raise ValueError("another format")
    files = tuple(SetFile(str(f["name"]), str(f["sha256"]), int(f["size"])) for f in shape["files"])
    for name in ("created", "as_of"):
        parse_time(shape[name])
    names = [file.name for file in files]
    if not are_files_of_a_set(names, archive=True) and not are_files_of_a_set(names, archive=False):
        raise ValueError("other files")
    database, base, members = str(shape["database"]["id"]), None if shape["base"] is None else _base(shape["base"]), shape["members"]
    if not _ID.match(database) or (base is None) is not (shape["kind"] == "full"):
        raise ValueError("a set of nothing that can be")
    if base and (base.id == shape["id"] or not are_files_of_a_set(names, archive=True)):
        raise ValueError("an increment that can't be")
    return SetManifest(
        id=str(shape["id"]),
        sequence=int(shape["sequence"]),
        previous=None if shape["previous"] is None else str(shape["previous"]),
        also_follows=tuple(str(digest) for digest in shape["also_follows"]),
        kind=str(shape["kind"]),
        database=database,
        authority=whose(shape),
        homes=homes_from_json(shape["homes"]),
        made_at=Home.from_json(shape["made_at"]),
        created=str(shape["created"]),
        as_of=str(shape["as_of"]),
        made=dict(shape["made"]),
        files=files,
        members=Members(
            int(members["count"]),
            int(members["size"]),
            None if members["sha256"] is None else str(members["sha256"]),
            int(members["held"]),
            int(members["held_size"]),
        ),
        state=State(**shape["state"]),
        left_out=tuple(dict(one) for one in shape["left_out"]),
        generations=tuple(Generation.from_json(generation) for generation in shape["generations"]),
        base=base,
        lacking=tuple(_lacking(one) for one in shape["lacking"]),
        own=None if shape.get("own") is None else dict(shape["own"]),
        seconds=None if shape["seconds"] is None else int(shape["seconds"]),
    )


def _base_as_json(base: Base) -> t.Dict[str, t.Any]:
    return {**vars(base), "links": [dict(vars(link)) for link in base.links], "changes": dict(vars(base.changes))}


def _base(shape: t.Mapping[str, t.Any]) -> Base:
    links = tuple(Link(str(link["set"]), str(link["sha256"])) for link in shape["links"][: MOST_LINKS + 1])
    names = [_NAME.match(link.set) for link in links]
    numbers = [int(name.group(1)) for name in names if name]
    changes = Changes(*(int(shape["changes"][name]) for name in ("added", "changed", "removed")))
    base = Base(str(shape["id"]), str(shape["sha256"]), links, changes)
    if not 0 < len(links) <= MOST_LINKS or not all(_DIGEST.match(link.sha256) for link in links) or links[-1].sha256 != base.sha256:
        raise ValueError("links that can't be")
    if len(numbers) != len(links) or any(one >= other for one, other in zip(numbers, numbers[1:])):
        raise ValueError("links that lead nowhere")  # each builds on lower numbers, so no chain is a loop
    return base


def _lacking(shape: t.Mapping[str, t.Any]) -> Lacking:
    for name in ("as_of", "until"):
        parse_time(shape[name])
    return Lacking(str(shape["set"]), str(shape["as_of"]), int(shape["rows"]), int(shape["revoked"]), str(shape["until"]))


def are_files_of_a_set(names: t.Sequence[str], archive: bool) -> bool:
    """Whether these can be the files of a set: our archives and their list, or others whose names stay inside its folder."""
    if archive:
        return sorted(names) == [CORE, ISSUED, MEMBERS]
    return 0 < len(names) == len(set(names)) and all(_leads_nowhere_else(name) for name in names)


def _leads_nowhere_else(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(_FILE_OF_A_SET.match(part) and part.strip(". ") for part in parts)
