# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the manifests that lie beside bundles, and their JSON; may change in any release.

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


@dataclass(frozen=True)
class BundleFile:
    """A bundle as a manifest records it. C(opened_by): the id of the backup whose password opens it."""

    name: str
    sha256: str
    size: int
    opened_by: str


@dataclass(frozen=True)
class Manifest:
    """The manifest of one backup; it holds no secret. C(homes): where the authority lives; C(made_at): where this copy was made.

    C(own): what only its backend's judgement reads.
    """

    id: str
    sequence: int
    previous: t.Optional[str]  # the digest of the predecessor's manifest
    authority: Authority
    homes: t.Tuple[Home, ...]
    made_at: Home
    created: str
    proved_at: str
    made: t.Mapping[str, t.Any]
    files: t.Tuple[BundleFile, ...]
    generations: t.Tuple[Generation, ...]
    own: t.Optional[t.Mapping[str, t.Any]] = None
    also_follows: t.Tuple[str, ...] = ()  # after a fork: the digests of the ends of the other branches

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
            "also_follows": list(self.also_follows),
            "authority": self.authority.as_json(),
            "homes": [home.as_json() for home in self.homes],
            "made_at": self.made_at.as_json(),
            "created": self.created,
            "proved_at": self.proved_at,
            "made": dict(self.made),
            "files": [dict(vars(file)) for file in self.files],
            "generations": [generation.as_json() for generation in self.generations],
            "own": None if self.own is None else dict(self.own),
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
        previous=None if shape["previous"] is None else str(shape["previous"]),
        also_follows=tuple(str(digest) for digest in shape["also_follows"]),
        authority=whose(shape),
        homes=homes_from_json(shape["homes"]),
        made_at=Home.from_json(shape["made_at"]),
        created=str(shape["created"]),
        proved_at=str(shape["proved_at"]),
        made=dict(shape["made"]),
        files=files,
        generations=tuple(Generation.from_json(generation) for generation in shape["generations"]),
        own=None if shape.get("own") is None else dict(shape["own"]),
    )


def whose(shape: t.Mapping[str, t.Any]) -> Authority:
    """The authority of a manifest, which must be complete."""
    return Authority.from_json({name: shape["authority"][name] for name in Authority.__dataclass_fields__})
