# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: one store, of key backups or of database sets, on the controller or on a host; may change in any release.

What is stored is a directory that is complete or not there at all: C(<authority>/<sequence>-<UTC time>/) for a backup,
C(<authority>/<database>/<sequence>-<UTC time>/) for a set. It is written apart, fsynced, read again and renamed into place, its
manifest last.
"""

from __future__ import annotations

import contextlib
import errno
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
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, sync_directory
from ansible_collections.keyward.pki.plugins.module_utils._home import MOVED, TWIN, HomeChange
from ansible_collections.keyward.pki.plugins.module_utils._lock import locked
from ansible_collections.keyward.pki.plugins.module_utils._manifest import manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import LARGEST_SET_MANIFEST, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._staged import write_new
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import open_store, refuse_open_to_the_world
from ansible_collections.keyward.pki.plugins.module_utils._time import name_time

MANIFEST, EVENTS = "manifest.json", "events"
_HOME_CHANGE = re.compile(f"-({MOVED}|{TWIN})-")
_LARGEST_EVENT = 1024 * 1024
_NAME = re.compile(r"[0-9]{6,}-[0-9]{8}T[0-9]{6}(\.[0-9]{6})?Z\Z")
_CHUNK = 1024 * 1024


class Kind(t.NamedTuple):
    """What a store holds. C(small): its files are bundles, so that all of them are read and compared with their digests.

    C(levels): how many directories lie above that of a backup or set: its authority's; and its database's.
    """

    name: str
    noun: str
    levels: int
    read: t.Callable[[t.Mapping[str, t.Any]], t.Any]
    largest_manifest: int
    small: bool
    opens_alone: str


BACKUPS = Kind(
    "keys", "backup", 1, manifest_from_json, 4 << 20, True, "Give the PKCS #12 file beside it as the backup: it opens without the manifest"
)
SETS = Kind(
    "databases", "set", 2, set_manifest_from_json, LARGEST_SET_MANIFEST, False, "Use another set; the archives beside it open with tar"
)


def is_name(name: str) -> bool:
    """Whether it is the name of the directory of a backup or set."""
    return _NAME.match(name) is not None


def new_name(sequence: int) -> str:
    return f"{sequence:06d}-{name_time()}"


def sequence_of(name: str) -> int:
    return int(name.split("-", maxsplit=1)[0])


def digest_of(path: str) -> str:
    """SHA-256 of a regular file, in bounded memory. A FIFO or a device is refused, never waited for. Raises OSError."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.ENXIO, "not a regular file", path)
        for piece in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(piece)
    return digest.hexdigest()


def document(shape: t.Mapping[str, t.Any]) -> bytes:
    """A manifest or an event, as it stands in a store."""
    return json.dumps(shape, indent=2, ensure_ascii=True).encode("ascii") + b"\n"


class Stored:
    """One backup or set with a manifest that reads."""

    def __init__(self, path: str, manifest: t.Any, kind: Kind) -> None:
        self.path, self.manifest, self.kind = path, manifest, kind

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def rank(self) -> t.Tuple[int, str]:
        """Newest = highest: by sequence, then by id. Times only inform."""
        return self.manifest.sequence, self.manifest.id

    @property
    def manifest_file(self) -> bytes:
        return self._content(MANIFEST)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of its manifest, by which what comes after names it."""
        return hashlib.sha256(self.manifest_file).hexdigest()

    def files(self) -> t.Dict[str, bytes]:
        """The bytes of its files, which are small. Raises KeywardError where one is gone."""
        return {file.name: self._content(file.name) for file in self.manifest.files}

    def _content(self, name: str) -> bytes:
        path = os.path.join(self.path, name)
        try:
            return read_file(path, f"the {self.kind.noun} file")
        except FileNotFoundError:
            raise KeywardError(
                f"the {self.kind.noun} {self.path} is not complete", f"{name} is missing", f"Take another {self.kind.noun}"
            ) from None

    @functools.cached_property
    def damage(self) -> t.Optional[str]:
        """What is wrong with the files, None where all have the recorded digests."""
        for file in self.manifest.files:
            try:
                if digest_of(os.path.join(self.path, file.name)) != file.sha256:
                    return f"{file.name} does not have the digest that the manifest records"
            except OSError as exc:
                return f"{file.name}: {os_cause(exc)}"
        return None


def read_stored(path: str, kind: Kind) -> Stored:
    """The directory of a backup or set. Raises KeywardError where its manifest is missing or damaged."""
    manifest = os.path.join(path, MANIFEST)
    try:
        return Stored(path, kind.read(json.loads(read_file(manifest, "the manifest", kind.largest_manifest))), kind)
    except (FileNotFoundError, NotADirectoryError):
        raise KeywardError(
            f"{path} is no {kind.noun}", f"it has no {MANIFEST}", f"Give the directory of a {kind.noun}, or an authority's in a store"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise damaged(manifest, kind) from exc


def damaged(manifest: str, kind: Kind) -> KeywardError:
    return KeywardError(f"the manifest {manifest} can't be used", "it is damaged, or was written by a later release", kind.opens_alone)


class Series:
    """The backups of one authority, or the sets of one database, in one store. A fleet's store holds many, so nothing is read before it
    is needed."""

    def __init__(self, path: str, kind: Kind) -> None:
        self.path, self.kind = path, kind
        self._read: t.Dict[str, t.Union[Stored, KeywardError]] = {}

    @property
    def name(self) -> str:
        """Its path below the store: C(<authority>), or C(<authority>/<database>)."""
        return "/".join(self.path.split("/")[-self.kind.levels :])

    @property
    def authority(self) -> str:
        """The directory of its authority."""
        return self.name.split("/", maxsplit=1)[0]

    @functools.cached_property
    def names(self) -> t.List[str]:
        """The directories of its backups or sets, highest sequence first."""
        try:
            with os.scandir(self.path) as entries:
                found = [entry.name for entry in entries if _NAME.match(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda name: (sequence_of(name), name), reverse=True)

    @property
    def next_sequence(self) -> int:
        """Above every number that is taken, by a damaged one too."""
        return max(map(sequence_of, self.names), default=0) + 1

    def _stored(self, name: str) -> t.Union[Stored, KeywardError]:
        if name not in self._read:
            try:
                self._read[name] = read_stored(os.path.join(self.path, name), self.kind)
            except KeywardError as exc:
                self._read[name] = exc
        return self._read[name]

    @functools.cached_property
    def latest(self) -> t.Optional[Stored]:
        """The newest one whose manifest reads, whether or not its files are sound: it tells whose this is."""
        best: t.Optional[Stored] = None
        for name in self.names:
            one = self._stored(name)
            if best and sequence_of(name) < best.manifest.sequence:
                break
            if isinstance(one, Stored) and (best is None or one.rank > best.rank):
                best = one
        return best

    @property
    def all(self) -> t.List[Stored]:
        """Those whose manifest reads, newest first."""
        return sorted((one for one in map(self._stored, self.names) if isinstance(one, Stored)), key=lambda one: one.rank, reverse=True)

    @property
    def faults(self) -> t.Dict[str, KeywardError]:
        """Those whose manifest does not read, by name, and why."""
        found = {name: self._stored(name) for name in self.names}
        return {name: one for name, one in found.items() if isinstance(one, KeywardError)}

    @property
    def newest(self) -> t.Optional[Stored]:
        """The newest one whose files have the recorded digests."""
        return next((one for one in self.all if one.damage is None), None)

    @functools.cached_property
    def home_changes(self) -> t.List[HomeChange]:
        """What persons said of its homes, in no order. What does not read is passed over."""
        above = self.path if self.kind.levels == 1 else os.path.dirname(self.path)
        found, directory = [], os.path.join(above, EVENTS)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(directory)):
                if _HOME_CHANGE.search(name):
                    with contextlib.suppress(KeywardError, OSError, ValueError, KeyError, TypeError, RecursionError):
                        content = read_file(os.path.join(directory, name), "the event", _LARGEST_EVENT)
                        found.append(HomeChange.from_json(json.loads(content)))
        return found

    @property
    def advisories(self) -> t.List[Finding]:
        """What is damaged: of bundles each, of large files those that are newer than the newest sound one."""
        unreadable = [Finding("malformed", str(fault)) for fault in self.faults.values()]
        newest = None if self.kind.small else self.newest
        looked = [one for one in self.all if newest is None or one.rank > newest.rank]
        return unreadable + [Finding("digest_mismatch", f"{one.path}: {one.damage}") for one in looked if one.damage]


def folders(path: str) -> t.List[str]:
    """The directories in a store, or in an authority's, that hold something of theirs. Raises KeywardError."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))
    except OSError as exc:
        raise KeywardError(f"{path} can't be read", os_cause(exc), "Check its permissions and the file system of the store") from exc


class Store:
    """A store that was initialised for this kind of thing. Raises KeywardError where there is none."""

    def __init__(self, path: str, kind: Kind) -> None:
        self.directory = open_store(os.path.realpath(path), kind.name)
        self.path, self.kind = self.directory.path, kind

    def series(self) -> t.List[Series]:
        """All that it holds."""
        found = folders(self.path)
        for _level in range(self.kind.levels - 1):
            found = [f"{above}/{name}" for above in found for name in folders(os.path.join(self.path, above)) if name != EVENTS]
        return [self.one(name) for name in found]

    def one(self, name: str) -> Series:
        """That of a name below the store, whether or not it is there yet."""
        return Series(os.path.join(self.path, name), self.kind)

    def refuse_if_not_writable(self) -> None:
        refuse_open_to_the_world(self.directory)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise KeywardError(
                f"the store {self.path} can't be written",
                "permission is denied",
                "Run the play as a user that may, or change the store's owner (ca_store)",
            )

    def locked(self) -> t.ContextManager[t.Any]:
        """Keeps other runs from storing at the same time; on shares without locks, where that was accepted, the rename alone decides."""
        return locked([self.path], f"nothing was stored in {self.path}", self.directory.share_permissions_accepted)

    def stage(self) -> Staged:
        return Staged(self)

    def copy(self, source: Stored, series: str) -> str:
        """What another store has, byte for byte, into the series of that name; the path that the copy has. Raises KeywardError."""
        with self.stage() as staged:
            for file in source.manifest.files:
                place = staged.place_of(file.name)
                with staged.guarded():
                    shutil.copyfile(os.path.join(source.path, file.name), place)
                    if digest_of(place) != file.sha256:
                        raise OSError(errno.EIO, "the copy differs")
            with self.locked():
                return staged.commit(source.manifest_file, series, source.name)

    def remove(self, stored: Stored) -> str:
        """Take a set away; the path that it had. Raises OSError."""
        gone = os.path.join(self.path, f".{secrets.token_hex(8)}.removed")
        os.rename(stored.path, gone)
        shutil.rmtree(gone, ignore_errors=True)
        return stored.path

    def record(self, authority_directory: str, event: t.Mapping[str, t.Any]) -> None:
        """Write one event, once, into the authority's C(events/)."""
        directory = os.path.join(self.path, authority_directory, EVENTS)
        stamp = str(event["at"]).replace("-", "").replace(":", "")
        try:
            with contextlib.suppress(FileExistsError):
                self.make_directory(directory)
            name = f"{stamp}-{event['event']}-{secrets.token_hex(4)}.json"
            write_new(os.path.join(directory, name), document(event), self.directory.file_mode)
            sync_directory(directory)
        except OSError as exc:
            raise KeywardError(
                f"the event could not be recorded in {directory}", os_cause(exc), "What the task did is done; only its record is missing"
            ) from exc

    def make_directory(self, path: str) -> None:
        os.mkdir(path, 0o700)
        if self.directory.directory_mode is not None:
            os.chmod(path, self.directory.directory_mode)


class Staged:
    """A private directory in a store, gone when its block ends, unless it was committed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = os.path.join(store.path, f".{secrets.token_hex(8)}.new")
        with self.guarded():
            store.make_directory(self.path)

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_exception: t.Any) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def guarded(self) -> t.Iterator[None]:
        """What the operating system refuses here, as an error that says that nothing was stored."""
        try:
            yield
        except OSError as exc:
            raise KeywardError(
                f"nothing was stored in {self._store.path}",
                os_cause(exc),
                f"Put that right and run the task again; every earlier {self._store.kind.noun} is untouched",
            ) from exc

    def place_of(self, name: str) -> str:
        """Where a file belongs in it; one of Windows' database has a folder of its own. Raises KeywardError."""
        folder, _slash, _base = name.rpartition("/")
        if folder:
            with self.guarded(), contextlib.suppress(FileExistsError):
                self._store.make_directory(os.path.join(self.path, folder))
        return os.path.join(self.path, name)

    def write(self, name: str, data: bytes) -> None:
        with self.guarded():
            write_new(self.place_of(name), data, self._store.directory.file_mode)

    def commit(self, manifest: bytes, series: str, name: str) -> str:
        """Write the manifest last and give it all its place; the path that it has from now on. Raises KeywardError."""
        with self.guarded():
            for folder, _folders, names in os.walk(self.path, topdown=False):
                for each in names:
                    self._finish(os.path.join(folder, each))
                if folder != self.path:
                    sync_directory(folder)
        self.write(MANIFEST, manifest)
        parent = self._store.path
        path = os.path.join(parent, series, name)
        try:
            sync_directory(self.path)
            for folder in series.split("/"):
                above, parent = parent, os.path.join(parent, folder)
                with contextlib.suppress(FileExistsError):
                    self._store.make_directory(parent)
                    sync_directory(above)
            os.rename(self.path, path)
            sync_directory(parent)
        except OSError as exc:
            raise KeywardError(
                f"{path} was not stored",
                os_cause(exc),
                f"Run the task again: every earlier {self._store.kind.noun} is untouched, and nothing stands half-written",
            ) from exc
        return path

    def _finish(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._store.directory.file_mode is not None:
                os.fchmod(descriptor, self._store.directory.file_mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
