# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: stores of key backups on the controller; may change in any release.

A backup is a directory C(<authority>/<sequence>-<UTC time>/) that is complete or not there at all: it is written apart,
fsynced, read again and renamed into place. Nothing in a store is ever changed or deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, sync_directory, write_new
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._manifest import FILE_NAME, Manifest, manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import (
    MARKER,
    StoreDirectory,
    open_store,
    refuse_open_to_the_world,
)

MANIFEST = "manifest.json"
_BACKUP_NAME = re.compile(r"[0-9]{6,}-[0-9]{8}T[0-9]{6}(\.[0-9]{6})?Z\Z")
_LARGEST_MANIFEST = 4 * 1024 * 1024


class StoredBackup:
    """One backup directory with a manifest that reads."""

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def rank(self) -> tuple[int, str]:
        """Newest = highest: by sequence, then by id. Times only inform."""
        return self.manifest.sequence, self.manifest.id

    @property
    def manifest_file(self) -> bytes:
        return _file_of(self.path, MANIFEST)

    def files(self) -> dict[str, bytes]:
        """The bundles' bytes. Raises KeywardError where one is gone."""
        return {file.name: _file_of(self.path, file.name) for file in self.manifest.files}

    @functools.cached_property
    def damage(self) -> str | None:
        """What is wrong with the files, None where all have the recorded digests."""
        for file in self.manifest.files:
            try:
                if hashlib.sha256(_file_of(self.path, file.name)).hexdigest() != file.sha256:
                    return f"{file.name} does not have the digest that the manifest records"
            except KeywardError as exc:
                return str(exc)
        return None


def _file_of(directory: str, name: str) -> bytes:
    path = os.path.join(directory, name)
    try:
        return read_file(path, "the backup file")
    except FileNotFoundError:
        raise KeywardError(
            f"the backup {directory} is not complete", f"{name} is missing", "Take another backup: ca_key_backup_info lists them"
        ) from None


def read_backup(directory: str) -> StoredBackup:
    """A backup directory. Raises KeywardError where its manifest is missing or damaged."""
    path = os.path.join(directory, MANIFEST)
    try:
        manifest = manifest_from_json(json.loads(read_file(path, "the manifest", _LARGEST_MANIFEST)))
    except FileNotFoundError:
        raise KeywardError(f"{directory} is no backup", f"it has no {MANIFEST}", "Give a backup's directory or a PKCS #12 file") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise KeywardError(
            f"the manifest {path} can't be used",
            "it is damaged, or was written by a later release",
            "Give the PKCS #12 file beside it as the backup: it opens without the manifest",
        ) from exc
    return StoredBackup(directory, manifest)


class AuthorityDirectory:
    """What one store holds of one authority. A fleet's store holds many, so nothing is read before it is needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._read: dict[str, StoredBackup | KeywardError] = {}

    @functools.cached_property
    def names(self) -> list[str]:
        """The directories of its backups, highest sequence first."""
        try:
            with os.scandir(self.path) as entries:
                found = [entry.name for entry in entries if _BACKUP_NAME.match(entry.name)]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda name: (_sequence(name), name), reverse=True)

    def _backup(self, name: str) -> StoredBackup | KeywardError:
        if name not in self._read:
            try:
                self._read[name] = read_backup(os.path.join(self.path, name))
            except KeywardError as exc:
                self._read[name] = exc
        return self._read[name]

    @functools.cached_property
    def latest(self) -> StoredBackup | None:
        """The newest backup whose manifest reads, whether or not its files are sound: it tells whose this is."""
        best = None
        for name in self.names:
            backup = self._backup(name)
            if best and _sequence(name) < best.manifest.sequence:
                break
            if isinstance(backup, StoredBackup) and (best is None or backup.rank > best.rank):
                best = backup
        return best

    @property
    def backups(self) -> list[StoredBackup]:
        """Every backup whose manifest reads."""
        return [backup for backup in map(self._backup, self.names) if isinstance(backup, StoredBackup)]

    @property
    def advisories(self) -> list[Finding]:
        unreadable = [Finding("malformed", str(fault)) for fault in map(self._backup, self.names) if isinstance(fault, KeywardError)]
        return unreadable + [Finding("digest_mismatch", f"{backup.path}: {backup.damage}") for backup in self.backups if backup.damage]

    @property
    def newest(self) -> StoredBackup | None:
        """The newest backup whose files have the recorded digests."""
        intact = [backup for backup in self.backups if backup.damage is None]
        return max(intact, key=lambda backup: backup.rank, default=None)


def _sequence(name: str) -> int:
    return int(name.split("-", maxsplit=1)[0])


class KeyStore:
    """A store of kind C(keys)."""

    def __init__(self, path: str) -> None:
        self.directory: StoreDirectory = open_store(os.path.realpath(path), "keys")
        self.path = self.directory.path

    def authorities(self) -> list[AuthorityDirectory]:
        try:
            with os.scandir(self.path) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        except OSError as exc:
            raise KeywardError(f"the store {self.path} can't be read", os_cause(exc), "Check its permissions and its file system") from exc
        return [AuthorityDirectory(os.path.join(self.path, name)) for name in names]

    def refuse_if_not_writable(self) -> None:
        refuse_open_to_the_world(self.directory)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise KeywardError(
                f"the store {self.path} can't be written",
                "permission is denied",
                "Run the play as a user that may, or change the store's owner (ca_store)",
            )

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """Keeps other runs from storing at the same time; on shares without locks the rename alone decides."""
        with open(os.path.join(self.path, MARKER), "rb") as marker:
            try:
                fcntl.flock(marker, fcntl.LOCK_EX)
            except OSError as exc:
                if exc.errno not in (errno.EBADF, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EACCES):
                    raise
            yield

    def stage(self, manifest: bytes, files: t.Mapping[str, bytes]) -> StagedBackup:
        return StagedBackup(self, manifest, files)

    def record(self, authority_directory: str, event: t.Mapping[str, t.Any]) -> None:
        """Write one event, once, into the authority's C(events/)."""
        directory = os.path.join(self.path, authority_directory, "events")
        stamp = str(event["at"]).replace("-", "").replace(":", "")
        try:
            with contextlib.suppress(FileExistsError):
                self._make_directory(directory)
            name = f"{stamp}-{event['event']}-{secrets.token_hex(4)}.json"
            write_new(os.path.join(directory, name), _json(event), self.directory.file_mode)
            sync_directory(directory)
        except OSError as exc:
            raise KeywardError(
                f"the event could not be recorded in {directory}", os_cause(exc), "What the task did is done; only its record is missing"
            ) from exc

    def _make_directory(self, path: str) -> None:
        os.mkdir(path, 0o700)
        if self.directory.directory_mode is not None:
            os.chmod(path, self.directory.directory_mode)


class StagedBackup:
    """A backup that is written whole and proved, and not yet there."""

    def __init__(self, store: KeyStore, manifest: bytes, files: t.Mapping[str, bytes]) -> None:
        self._store = store
        self._path = os.path.join(store.path, f".{secrets.token_hex(8)}.new")
        try:
            store._make_directory(self._path)
            for name, data in (*files.items(), (MANIFEST, manifest)):
                write_new(os.path.join(self._path, name), data, store.directory.file_mode)
            sync_directory(self._path)
        except OSError as exc:
            self.discard()
            raise KeywardError(
                f"nothing was stored in {store.path}",
                os_cause(exc),
                "Put that right and run the task again; every earlier backup is untouched",
            ) from exc

    def commit(self, authority_directory: str, name: str) -> str:
        """The path that the backup has from now on. Raises KeywardError."""
        parent = os.path.join(self._store.path, authority_directory)
        path = os.path.join(parent, name)
        try:
            with contextlib.suppress(FileExistsError):
                self._store._make_directory(parent)
                sync_directory(self._store.path)
            os.rename(self._path, path)
            sync_directory(parent)
        except OSError as exc:
            raise KeywardError(
                f"{path} was not stored",
                os_cause(exc),
                "Run the task again: every earlier backup is untouched, and nothing stands half-written",
            ) from exc
        return path

    def discard(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def manifest_bytes(manifest: Manifest) -> bytes:
    return _json(manifest.as_json())


def _json(document: t.Mapping[str, t.Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=True).encode("ascii") + b"\n"


class KnownAuthority:
    """What all stores together hold of one authority."""

    def __init__(self, latest: StoredBackup) -> None:
        self.latest = latest
        self.holdings: dict[str, AuthorityDirectory] = {}

    @property
    def id(self) -> str:
        return self.latest.manifest.authority.id or ""

    @property
    def authority(self) -> Authority:
        return self.latest.manifest.authority

    @property
    def public_keys(self) -> frozenset[str]:
        return self.latest.manifest.public_keys

    @property
    def name(self) -> str:
        """Its directory's name, the same in every store."""
        return os.path.basename(os.path.dirname(self.latest.path))

    @functools.cached_property
    def backups(self) -> list[StoredBackup]:
        """Every intact backup once, newest first, whatever store it was found in."""
        found: dict[str, StoredBackup] = {}
        for directory in self.holdings.values():
            for backup in directory.backups:
                if backup.damage is None:
                    found.setdefault(backup.manifest.id, backup)
        return sorted(found.values(), key=lambda backup: backup.rank, reverse=True)

    @property
    def newest(self) -> StoredBackup | None:
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

    def paths(self, backup: StoredBackup) -> list[str]:
        """Where a backup lies, in each store that has it."""
        return [
            other.path for directory in self.holdings.values() for other in directory.backups if other.manifest.id == backup.manifest.id
        ]

    def copies(self, stores: t.Sequence[KeyStore]) -> list[tuple[StoredBackup, KeyStore]]:
        """Selector store lacks a backup that another has: oldest first."""
        lacking = []
        for store in stores:
            there = self.holdings[store.path].names if store.path in self.holdings else []
            lacking += [(backup, store) for backup in reversed(self.backups) if backup.name not in there]
        return lacking

    def covered(self, stores: t.Sequence[KeyStore]) -> frozenset[str]:
        """The generations that the newest intact backup of every store covers, once the copies are made."""
        covered = []
        for store in stores:
            holding = self.holdings.get(store.path)
            sound = {backup.name for backup in holding.backups if backup.damage is None} if holding else set()
            damaged = set(holding.names) - sound if holding else set()
            intact = [backup for backup in self.backups if backup.name not in damaged]
            covered.append(intact[0].manifest.fingerprints if intact else frozenset())
        return frozenset.intersection(*covered)


def known_authorities(stores: t.Sequence[KeyStore]) -> tuple[list[KnownAuthority], list[Finding]]:
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


def next_sequence(stores: t.Sequence[KeyStore], authority_directory: str) -> int:
    """The sequence of the next backup: above every number that is taken, by a damaged backup too."""
    taken = [_sequence(name) for store in stores for name in AuthorityDirectory(os.path.join(store.path, authority_directory)).names]
    return max(taken, default=0) + 1


class GivenBackup:
    """What the option C(backup) names: a PKCS #12 file, a backup's directory, or an authority's directory (newest first)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stored: StoredBackup | None = None
        if os.path.isdir(path):
            authority = AuthorityDirectory(path)
            if os.path.exists(os.path.join(path, MANIFEST)):
                self.stored = read_backup(path)
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
                    stored = read_backup(os.path.dirname(beside))
                    if [file.name for file in stored.manifest.files] == [os.path.basename(path)]:
                        self.stored = stored


def store_of(backup: StoredBackup) -> tuple[KeyStore, str] | None:
    """The store that a backup directory lies in, and its authority's directory name there; None where it lies elsewhere."""
    authority_directory = os.path.dirname(os.path.realpath(backup.path))
    try:
        return KeyStore(os.path.dirname(authority_directory)), os.path.basename(authority_directory)
    except KeywardError:
        return None
