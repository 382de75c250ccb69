# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what all stores together hold of an authority, and the backup that is given; may change in any release."""

from __future__ import annotations

import contextlib
import functools
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._manifest import FILE_NAME
from ansible_collections.keyward.pki.plugins.module_utils._store import BACKUPS, MANIFEST, AuthorityDirectory, Store, Stored, read_stored


class KnownAuthority:
    """What all stores together hold of one authority."""

    def __init__(self, latest: Stored) -> None:
        self.latest = latest
        self.holdings: dict[str, AuthorityDirectory] = {}

    @property
    def id(self) -> str:
        return self.latest.manifest.authority.id or ""

    @property
    def authority(self) -> Authority:
        return t.cast(Authority, self.latest.manifest.authority)

    @property
    def public_keys(self) -> frozenset[str]:
        return t.cast("frozenset[str]", self.latest.manifest.public_keys)

    @property
    def name(self) -> str:
        """Its directory's name, the same in every store."""
        return os.path.basename(os.path.dirname(self.latest.path))

    @functools.cached_property
    def backups(self) -> list[Stored]:
        """Every intact backup once, newest first, whatever store it was found in."""
        found: dict[str, Stored] = {}
        for directory in self.holdings.values():
            for backup in directory.all:
                if backup.damage is None:
                    found.setdefault(backup.manifest.id, backup)
        return sorted(found.values(), key=lambda backup: backup.rank, reverse=True)

    @property
    def newest(self) -> Stored | None:
        return self.backups[0] if self.backups else None

    @property
    def advisories(self) -> list[Finding]:
        return [advisory for directory in self.holdings.values() for advisory in directory.advisories]

    @property
    def generations(self) -> list[Generation]:
        """Every generation that any intact backup covers, as the newest of them records it; the newest's current one is last."""
        generations: list[Generation] = []
        for backup in self.backups:
            known = {generation.sha256 for generation in generations}
            generations = [g for g in backup.manifest.generations if g.sha256 not in known] + generations
        return generations

    def paths(self, backup: Stored) -> list[str]:
        """Where a backup lies, in each store that has it."""
        return [other.path for directory in self.holdings.values() for other in directory.all if other.manifest.id == backup.manifest.id]

    def copies(self, stores: t.Sequence[Store]) -> list[tuple[Stored, Store]]:
        """Selector store lacks a backup that another has: oldest first."""
        lacking = []
        for store in stores:
            there = self.holdings[store.path].names if store.path in self.holdings else []
            lacking += [(backup, store) for backup in reversed(self.backups) if backup.name not in there]
        return lacking

    def covered(self, stores: t.Sequence[Store]) -> frozenset[str]:
        """The generations that the newest intact backup of every store covers, once the copies are made."""
        covered = []
        for store in stores:
            holding = self.holdings.get(store.path)
            sound = {backup.name for backup in holding.all if backup.damage is None} if holding else set()
            damaged = set(holding.names) - sound if holding else set()
            intact = [backup for backup in self.backups if backup.name not in damaged]
            covered.append(intact[0].manifest.fingerprints if intact else frozenset())
        return frozenset.intersection(*covered)


def known_authorities(stores: t.Sequence[Store]) -> tuple[list[KnownAuthority], list[Finding]]:
    """Every authority in the stores, and the directories of which no manifest reads."""
    known: dict[str, KnownAuthority] = {}
    advisories: list[Finding] = []
    for store in stores:
        for directory in store.authorities():
            latest = directory.latest
            if latest:
                authority = known.setdefault(latest.manifest.authority.id or "", KnownAuthority(latest))
                authority.holdings[store.path] = directory
                authority.latest = max(authority.latest, latest, key=lambda backup: backup.rank)
            else:
                advisories += directory.advisories
    return list(known.values()), advisories


def next_sequence(stores: t.Sequence[Store], authority_directory: str) -> int:
    return max(store.authority(authority_directory).next_sequence for store in stores)


class GivenBackup:
    """What the option C(backup) names: a PKCS #12 file, a backup's directory, or an authority's directory (newest first)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stored: Stored | None = None
        if os.path.isdir(path):
            authority = AuthorityDirectory(path, BACKUPS)
            if os.path.exists(os.path.join(path, MANIFEST)):
                self.stored = read_stored(path, BACKUPS)
            elif authority.newest:
                self.stored = authority.newest
            elif authority.advisories:
                raise KeywardError(f"{path} has no backup that can be used", authority.advisories[0].message, "Give another store's copy")
            else:
                raise KeywardError(
                    f"{path} is no backup", "no backup lies in it", "Give a PKCS #12 file, a backup's directory or an authority's directory"
                )
            self.files = self.stored.files()
        else:
            try:
                self.files = {os.path.basename(path): read_file(path, "the backup")}
            except FileNotFoundError:
                raise KeywardError(f"the backup {path} can't be read", "it does not exist", "Is the share mounted?") from None
            beside = os.path.join(os.path.dirname(os.path.abspath(path)), MANIFEST)
            if FILE_NAME.match(os.path.basename(path)) and os.path.exists(beside):
                with contextlib.suppress(KeywardError):
                    stored = read_stored(os.path.dirname(beside), BACKUPS)
                    if [file.name for file in stored.manifest.files] == [os.path.basename(path)]:
                        self.stored = stored


def store_of(backup: Stored) -> tuple[Store, str] | None:
    """The store that a backup directory lies in, and its authority's directory name there; None where it lies elsewhere."""
    authority_directory = os.path.dirname(os.path.realpath(backup.path))
    try:
        return Store(os.path.dirname(authority_directory), BACKUPS), os.path.basename(authority_directory)
    except KeywardError:
        return None
