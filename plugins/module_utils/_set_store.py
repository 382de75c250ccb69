# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: stores of database sets, on the controller or on the host of a CA; may change in any release.

A set is a directory C(<authority>/<sequence>-<UTC time>/) that is complete or not there at all.
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
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, sync_directory, write_new
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, belongs, directory_name
from ansible_collections.keyward.pki.plugins.module_utils._manifest import SetManifest, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import MARKER, open_store, refuse_open_to_the_world

MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 16 * 1024 * 1024
_SET_NAME = re.compile(r"[0-9]{6,}-[0-9]{8}T[0-9]{6}\.[0-9]{6}Z\Z")
_CHUNK = 1024 * 1024


def digest_of(path: str) -> str:
    """SHA-256 of a regular file, in bounded memory. A FIFO or a device is refused, never waited for. Raises OSError."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.ENXIO, "not a regular file", path)
        for piece in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(piece)
    return digest.hexdigest()


class StoredSet:
    """One set with a manifest that reads."""

    def __init__(self, path: str, manifest: SetManifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @functools.cached_property
    def damage(self) -> t.Optional[str]:
        """What is wrong with the files, None where all have the recorded digests."""
        for file in self.manifest.files:
            path = os.path.join(self.path, file.name)
            try:
                if digest_of(path) != file.sha256:
                    return f"{file.name} does not have the digest that the manifest records"
            except OSError as exc:
                return f"{file.name}: {os_cause(exc)}"
        return None


def read_set(path: str) -> StoredSet:
    """A set's directory. Raises KeywardError where its manifest is missing or damaged."""
    manifest = os.path.join(path, MANIFEST)
    try:
        return StoredSet(path, set_manifest_from_json(json.loads(read_file(manifest, "the manifest", _LARGEST_MANIFEST))))
    except (FileNotFoundError, NotADirectoryError):
        raise KeywardError(f"{path} is no set", f"it has no {MANIFEST}", "Give a set's directory, or an authority's in a store") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise KeywardError(
            f"the manifest {manifest} can't be used",
            "it is damaged, or was written by a later release",
            "Use another set; the archive beside it opens with tar",
        ) from exc


class SetDirectory:
    """What one store holds of one authority."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.advisories: t.List[Finding] = []

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @functools.cached_property
    def sets(self) -> t.List[StoredSet]:
        """Those whose manifest reads, newest first."""
        try:
            names = [name for name in os.listdir(self.path) if _SET_NAME.match(name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for name in names:
            try:
                found.append(read_set(os.path.join(self.path, name)))
            except KeywardError as exc:
                self.advisories.append(Finding("malformed", str(exc)))
        return sorted(found, key=lambda one: one.manifest.rank, reverse=True)

    @functools.cached_property
    def newest(self) -> t.Optional[StoredSet]:
        """The newest one whose files have the recorded digests."""
        for one in self.sets:
            if one.damage is None:
                return one
            self.advisories.append(Finding("digest_mismatch", f"{one.path}: {one.damage}"))
        return None

    @property
    def next_sequence(self) -> int:
        try:
            taken = [int(name.split("-", maxsplit=1)[0]) for name in os.listdir(self.path) if _SET_NAME.match(name)]
        except (FileNotFoundError, NotADirectoryError):
            taken = []
        return max(taken, default=0) + 1


class SetStore:
    """A store of kind C(databases)."""

    def __init__(self, path: str) -> None:
        self.directory = open_store(os.path.realpath(path), "databases")
        self.path = self.directory.path

    def authorities(self) -> t.List[SetDirectory]:
        try:
            with os.scandir(self.path) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))
        except OSError as exc:
            raise KeywardError(f"the store {self.path} can't be read", os_cause(exc), "Check its permissions and its file system") from exc
        return [SetDirectory(os.path.join(self.path, name)) for name in names]

    def recognise(self, authority: Authority, generations: t.Sequence[Generation]) -> t.Optional[SetDirectory]:
        """The authority's own directory: by a shared CA key before the same place."""
        candidates = [(one, one.sets[0].manifest) for one in self.authorities() if one.sets]
        for why in ("key", "place"):
            for one, manifest in candidates:
                if belongs(authority, generations, manifest.authority, manifest.public_keys) == why:
                    return one
        return None

    def of_place(self, host: t.Optional[str], place: t.Mapping[str, t.Any]) -> t.List[SetDirectory]:
        """Where nothing of a CA is left on the host: those whose newest set names this host and the place that was given."""
        found = []
        for one in self.authorities():
            authority = one.sets[0].manifest.authority if one.sets else None
            named = ("config_file", "directory", "name")
            if authority and authority.host == host and all(place.get(n) in (None, getattr(authority, n)) for n in named):
                found.append(one)
        return found

    def refuse_if_not_writable(self) -> None:
        refuse_open_to_the_world(self.directory)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise KeywardError(
                f"the store {self.path} can't be written",
                "permission is denied",
                "Run the play as a user that may, or change its owner (ca_store)",
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

    @contextlib.contextmanager
    def staging(self) -> t.Iterator[str]:
        """A private directory in the store that is gone afterwards, unless it was committed. Raises KeywardError."""
        path = os.path.join(self.path, f".{secrets.token_hex(8)}.new")
        try:
            self._make_directory(path)
            yield path
        except OSError as exc:
            raise KeywardError(
                f"nothing was stored in {self.path}", os_cause(exc), "Put that right and run the task again; every earlier set is untouched"
            ) from exc
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def place_in(self, staged: str, name: str) -> str:
        """Where a file of a set belongs in its directory; that of Windows' database has one of its own. Raises OSError."""
        folder, _slash, _base = name.rpartition("/")
        if folder:
            with contextlib.suppress(FileExistsError):
                self._make_directory(os.path.join(staged, folder))
        return os.path.join(staged, name)

    def commit(self, staged: str, manifest: SetManifest, authority_directory: str, name: str) -> str:
        """Write the manifest last and give the set its place; the path that it has from now on. Raises OSError."""
        for file in manifest.files:
            self._finish(os.path.join(staged, file.name))
        for folder in {os.path.dirname(file.name) for file in manifest.files} - {""}:
            sync_directory(os.path.join(staged, folder))
        text = json.dumps(manifest.as_json(), indent=2, ensure_ascii=True).encode("ascii") + b"\n"
        write_new(os.path.join(staged, MANIFEST), text, self.directory.file_mode)
        sync_directory(staged)
        parent = os.path.join(self.path, authority_directory)
        with contextlib.suppress(FileExistsError):
            self._make_directory(parent)
            sync_directory(self.path)
        path = os.path.join(parent, name)
        os.rename(staged, path)
        sync_directory(parent)
        return path

    def _finish(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self.directory.file_mode is not None:
                os.fchmod(descriptor, self.directory.file_mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def copy(self, source: StoredSet, authority_directory: str) -> str:
        """A set of another store, byte for byte. Raises KeywardError."""
        with self.staging() as staged, self.locked():
            for file in source.manifest.files:
                path = self.place_in(staged, file.name)
                shutil.copyfile(os.path.join(source.path, file.name), path)
                if digest_of(path) != file.sha256:
                    raise OSError(errno.EIO, "the copy differs")
            return self.commit(staged, source.manifest, authority_directory, source.name)

    def keep(self, directory: SetDirectory, count: t.Optional[int], host: t.Optional[str]) -> t.List[str]:
        """Remove the sets of a host beyond its newest C(count) intact ones; their paths. The last intact one always stays.

        C(host): its name in the inventory. A host that shows the public certificates of another's CA removes none of that CA's sets.
        """
        if count is None:
            return []
        intact = 0
        removed = []
        for one in SetDirectory(directory.path).sets:
            if one.manifest.authority.host != host:
                continue
            if intact >= max(count, 1):
                gone = os.path.join(self.path, f".{secrets.token_hex(8)}.removed")
                os.rename(one.path, gone)
                shutil.rmtree(gone, ignore_errors=True)
                removed.append(one.path)
            elif one.damage is None:
                intact += 1
        return removed

    def record(self, authority_directory: str, event: t.Mapping[str, t.Any]) -> None:
        """Write one event, once, into the authority's C(events/)."""
        directory = os.path.join(self.path, authority_directory, "events")
        stamp = str(event["at"]).replace("-", "").replace(":", "")
        try:
            with contextlib.suppress(FileExistsError):
                self._make_directory(directory)
            name = f"{stamp}-{event['event']}-{secrets.token_hex(4)}.json"
            text = json.dumps(event, indent=2, ensure_ascii=True).encode("ascii") + b"\n"
            write_new(os.path.join(directory, name), text, self.directory.file_mode)
            sync_directory(directory)
        except OSError as exc:
            raise KeywardError(
                f"the event could not be recorded in {directory}", os_cause(exc), "What the task did is done; only its record is missing"
            ) from exc

    def _make_directory(self, path: str) -> None:
        os.mkdir(path, 0o700)
        if self.directory.directory_mode is not None:
            os.chmod(path, self.directory.directory_mode)


def directory_for(store: SetStore, authority: Authority, generations: t.Sequence[Generation]) -> SetDirectory:
    """Where the sets of an authority lie in a store, or will: C(authority) has its id."""
    return store.recognise(authority, generations) or SetDirectory(os.path.join(store.path, directory_name(authority)))


def given_set(path: str) -> StoredSet:
    """What the option C(set) names: a set's directory, or an authority's directory (its newest). Raises KeywardError."""
    if os.path.exists(os.path.join(path, MANIFEST)):
        return read_set(path)
    newest = SetDirectory(path).newest
    if newest is None:
        raise KeywardError(
            f"{path} is no set", "no intact set lies in it", "Give a set's directory, or an authority's directory in a store"
        )
    return newest
