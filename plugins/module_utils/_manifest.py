# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the manifests that lie beside bundles and in sets, and their JSON; may change in any release.

No files and no Ansible here.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, Home, homes_from_json
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable_in
from ansible_collections.keyward.pki.plugins.module_utils._time import parse_time

FORMAT, FORMAT_VERSION = "keyward.pki key backup", 1
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
SET_FORMAT, SET_FORMAT_VERSION = "keyward.pki database set", 1
ARCHIVE, MEMBERS = "database.tar.gz", "members.json"
LARGEST_SET_MANIFEST = 16 << 20  # bytes
_FILE_OF_A_SET = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|]{1,200}\Z")


# --- backups ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BundleFile:
    """A bundle as a manifest records it. C(opened_by): the id of the backup whose password opens it."""

    name: str
    sha256: str
    size: int
    opened_by: str


@dataclass(frozen=True)
class Manifest:
    """What lies beside the bundles of one backup. No secret in it. C(homes): where the authority lives; C(made_at): of this copy."""

    id: str
    sequence: int
    previous: t.Optional[str]
    authority: Authority
    homes: t.Tuple[Home, ...]
    made_at: Home
    created: str
    proved_at: str
    made: t.Mapping[str, t.Any]
    files: t.Tuple[BundleFile, ...]
    generations: t.Tuple[Generation, ...]

    @property
    def fingerprints(self) -> t.FrozenSet[str]:
        return frozenset(generation.sha256 for generation in self.generations)

    @property
    def public_keys(self) -> t.FrozenSet[str]:
        return frozenset(generation.public_key_sha256 for generation in self.generations)

    def as_json(self) -> t.Dict[str, t.Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "sequence": self.sequence,
            "previous": self.previous,
            "authority": self.authority.as_json(),
            "homes": [home.as_json() for home in self.homes],
            "made_at": self.made_at.as_json(),
            "created": self.created,
            "proved_at": self.proved_at,
            "made": dict(self.made),
            "files": [dict(vars(file)) for file in self.files],
            "generations": [generation.as_json() for generation in self.generations],
        }


def manifest_from_json(shape: t.Mapping[str, t.Any]) -> Manifest:
    """A manifest from its JSON. Raises ValueError, KeyError, TypeError or OverflowError where it is damaged or of a later release."""
    shape = printable_in(shape)
    if shape["format"] != FORMAT or shape["format_version"] != FORMAT_VERSION:
        raise ValueError("another format")
    files = tuple(BundleFile(str(f["name"]), str(f["sha256"]), int(f["size"]), str(f["opened_by"])) for f in shape["files"])
    if not files or any(not FILE_NAME.match(file.name) for file in files):
        raise ValueError("a file name that can't be")
    parse_time(shape["created"])
    return Manifest(
        id=str(shape["id"]),
        sequence=int(shape["sequence"]),
        previous=shape["previous"],
        authority=_whose(shape),
        homes=homes_from_json(shape["homes"]),
        made_at=Home.from_json(shape["made_at"]),
        created=str(shape["created"]),
        proved_at=str(shape["proved_at"]),
        made=dict(shape["made"]),
        files=files,
        generations=tuple(Generation.from_json(generation) for generation in shape["generations"]),
    )


def _whose(shape: t.Mapping[str, t.Any]) -> Authority:
    """A manifest names all that there is to say of its authority."""
    return Authority.from_json({name: shape["authority"][name] for name in Authority.__dataclass_fields__})


# --- sets ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetFile:
    """One file of a set, as its manifest records it."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class State:
    """What a database is: digests of its contents, of its configuration, and its numbers. Times are no part of it."""

    database: str
    configuration: str
    entries: int
    next_serial: t.Optional[str]
    next_crl_number: t.Optional[str]


@dataclass(frozen=True)
class SetManifest:
    """What lies beside the files of one set. C(own): what only the judgement of its backend reads."""

    id: str
    sequence: int
    previous: t.Optional[str]
    kind: str
    authority: Authority
    created: str
    as_of: str
    made: t.Mapping[str, t.Any]
    files: t.Tuple[SetFile, ...]
    members: int
    state: State
    left_out: t.Tuple[t.Mapping[str, str], ...]
    generations: t.Tuple[Generation, ...]
    own: t.Optional[t.Mapping[str, t.Any]] = None

    @property
    def public_keys(self) -> t.FrozenSet[str]:
        return frozenset(generation.public_key_sha256 for generation in self.generations)

    @property
    def is_archive(self) -> bool:
        """Otherwise its files are as the software of its CA wrote them."""
        return are_files_of_a_set([file.name for file in self.files], archive=True)

    def as_json(self) -> t.Dict[str, t.Any]:
        return {
            "format": SET_FORMAT,
            "format_version": SET_FORMAT_VERSION,
            "id": self.id,
            "sequence": self.sequence,
            "previous": self.previous,
            "kind": self.kind,
            "authority": self.authority.as_json(),
            "created": self.created,
            "as_of": self.as_of,
            "made": dict(self.made),
            "files": [dict(vars(file)) for file in self.files],
            "members": self.members,
            "state": dict(vars(self.state)),
            "left_out": [dict(one) for one in self.left_out],
            "generations": [generation.as_json() for generation in self.generations],
            "own": None if self.own is None else dict(self.own),
        }


def set_manifest_from_json(shape: t.Mapping[str, t.Any]) -> SetManifest:
    """A manifest from its JSON. Raises ValueError, KeyError, TypeError or OverflowError where it is damaged or of a later release."""
    shape = printable_in(shape)
    if shape["format"] != SET_FORMAT or shape["format_version"] != SET_FORMAT_VERSION:
        raise ValueError("another format")
    files = tuple(SetFile(str(f["name"]), str(f["sha256"]), int(f["size"])) for f in shape["files"])
    for name in ("created", "as_of"):
        parse_time(shape[name])
    names = [file.name for file in files]
    if not are_files_of_a_set(names, archive=True) and not are_files_of_a_set(names, archive=False):
        raise ValueError("other files")
    return SetManifest(
        id=str(shape["id"]),
        sequence=int(shape["sequence"]),
        previous=shape["previous"],
        kind=str(shape["kind"]),
        authority=_whose(shape),
        created=str(shape["created"]),
        as_of=str(shape["as_of"]),
        made=dict(shape["made"]),
        files=files,
        members=int(shape["members"]),
        state=State(**shape["state"]),
        left_out=tuple(dict(one) for one in shape["left_out"]),
        generations=tuple(Generation.from_json(generation) for generation in shape["generations"]),
        own=None if shape.get("own") is None else dict(shape["own"]),
    )


def are_files_of_a_set(names: t.Sequence[str], archive: bool) -> bool:
    """Whether these can be the files of a set: an archive and its list, or files of which no name leads elsewhere."""
    if archive:
        return sorted(names) == sorted((ARCHIVE, MEMBERS))
    return 0 < len(names) == len(set(names)) and all(_leads_nowhere_else(name) for name in names)


def _leads_nowhere_else(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(_FILE_OF_A_SET.match(part) and part.strip(". ") for part in parts)
