# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: one store, of key backups or of database sets, on the controller or on a host; may change in any release.

What is stored is a directory that is complete or not there at all: C(<authority>/<sequence>-<UTC time>/) for a backup,
C(<authority>/<database>/<sequence>-<UTC time>/) for a set. It is written apart, fsynced, read again and renamed into place, its
manifest last, and then the signature of that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._directories import add_line, sync_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._home import MOVED, TWIN
from ansible_collections.keyward.pki.plugins.module_utils._lock import locked
from ansible_collections.keyward.pki.plugins.module_utils._protection import give_mode
from ansible_collections.keyward.pki.plugins.module_utils._signed import SIGNATURE, VERIFIED, Event, Judge, said_of
from ansible_collections.keyward.pki.plugins.module_utils._staged import write_new
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import open_store, refuse_open_to_the_world
from ansible_collections.keyward.pki.plugins.module_utils._stored import (
    EVENTS,
    MANIFEST,
    Kind,
    Series,
    Stored,
    digest_of,
    folders,
    read_stored,
)

SIGNERS = "allowed_signers"
BY_KEY, BY_HOST = "by-key", "by-host"  # hints, beside the directories of authorities
_STAGED, _REMOVED = re.compile(r"\.[0-9a-f]{16}\.new\Z"), re.compile(r"\.[0-9a-f]{16}\.removed\Z")


class Store:
    """A store that was initialised for this kind of thing. Raises KeywardError where there is none."""

    def __init__(self, path: str, kind: Kind, judge: t.Optional[Judge]) -> None:
        self.directory = open_store(os.path.realpath(path), kind.name)
        self.path, self.kind, self.judge = self.directory.path, kind, judge

    def series(self, authorities: t.Optional[t.Iterable[str]] = None) -> t.List[Series]:
        """All that it holds. C(authorities): what it holds of those, by their directories."""
        found = folders(self.path) if authorities is None else [each for each in sorted(authorities) if self._has(each)]
        found = [name for name in found if name not in (BY_KEY, BY_HOST)]
        for _level in range(self.kind.levels - 1):
            found = [f"{above}/{name}" for above in found for name in self._folders(above) if name != EVENTS]
        return [self.one(name) for name in found]

    def _has(self, authority: str) -> bool:
        with contextlib.suppress(OSError):
            return stat.S_ISDIR(os.lstat(os.path.join(self.path, authority)).st_mode)
        return False

    def _folders(self, above: str) -> t.List[str]:
        """Those of one authority. One that can't be read stops no other: a series in it says so."""
        try:
            return folders(os.path.join(self.path, above))
        except KeywardError:
            return ["unreadable"]

    def one(self, name: str) -> Series:
        """That of a name below the store, whether or not it is there yet."""
        return Series(os.path.join(self.path, name), self.kind, self.judge, in_store=True)

    def refuse_if_not_writable(self) -> None:
        refuse_open_to_the_world(self.directory)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise KeywardError(
                f"the store {self.path} can't be written",
                "permission is denied",
                "Run the play as a user that may, or change the store's owner (ca_store)",
            )

    @property
    def place(self) -> str:
        """By which a controller remembers it."""
        return self.path

    @property
    def id(self) -> str:
        return self.directory.id

    def keep_signer(self, line: str) -> None:
        """Each store keeps a copy of the public halves, which is believed only where the paper says the same. Raises KeywardError."""
        path = os.path.join(self.path, SIGNERS)
        try:
            if line.encode() in (read_if_there(path, "the copy of the signers") or b"").splitlines():
                return  # it may lie on media that can't be rewritten
            add_line(path, line, self.directory.file_mode)
        except OSError as exc:
            raise KeywardError(f"{path} was not written", os_cause(exc), "Look at what lies there, and run the task again") from exc

    def locked(self) -> t.ContextManager[t.Any]:
        """Keeps other runs from storing at the same time; on shares without locks, where that was accepted, the rename alone decides."""
        return locked([self.path], f"nothing was stored in {self.path}", self.directory.share_permissions_accepted)

    def stage(self, name: t.Optional[str] = None) -> Staged:
        """C(name): of one that was left to be committed."""
        return Staged(self, name)

    def remove_left(self) -> None:
        """What runs left behind a day ago that ended between making a set and giving it its place, or while they took one away."""
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                left = _STAGED.match(entry.name) or _REMOVED.match(entry.name)
                if left and entry.stat(follow_symlinks=False).st_mtime < time.time() - 86400:
                    shutil.rmtree(entry.path, ignore_errors=True)

    def copy(self, source: Stored, series: str) -> str:
        """What another store has, byte for byte, into the series of that name; the path that the copy has. Raises KeywardError.

        A damaged one that lies there is renamed, and stays.
        """
        with self.stage() as staged:
            for file in source.manifest.files:
                place = staged.place_of(file.name)
                with staged.guarded():
                    shutil.copyfile(os.path.join(source.path, file.name), place)
                    if digest_of(place) != file.sha256:
                        raise OSError(errno.EIO, "the copy differs")
            with self.locked():
                self._set_aside(os.path.join(self.path, series), source.name)
                return staged.commit(source.document, source.signature, series, source.name)

    def _set_aside(self, folder: str, name: str) -> None:
        """What lies in the place of a sound one. Raises KeywardError."""
        path, number = os.path.join(folder, name), 1
        while os.path.lexists(f"{path}.damaged-{number}"):
            number += 1
        try:
            if os.path.lexists(path):
                os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
                os.rename(path, f"{path}.damaged-{number}")
        except OSError as exc:
            raise KeywardError(f"the damaged {path} was not set aside", os_cause(exc), "Put that right and run the task again") from exc

    def remove(self, stored: Stored) -> str:
        """Take a set away; the path that it had. Raises OSError."""
        gone = os.path.join(self.path, f".{secrets.token_hex(8)}.removed")
        os.rename(stored.path, gone)
        shutil.rmtree(gone, ignore_errors=True)
        return stored.path

    def record(self, authority_directory: str, event: Event) -> None:
        """Write one event, once, into the authority's C(events/). Raises KeywardError."""
        directory = os.path.join(self.path, authority_directory, EVENTS)
        try:
            self.own_directory(os.path.dirname(directory))
            self.own_directory(directory)
            write_new(os.path.join(directory, event.name), event.content, self.directory.file_mode)
            write_new(os.path.join(directory, event.name + SIGNATURE), event.signature, self.directory.file_mode)
            sync_directory(directory)
        except OSError as exc:
            raise KeywardError(
                f"the event could not be recorded in {directory}", os_cause(exc), "What the task did is done; only its record is missing"
            ) from exc

    def take_vouching(self, source: Stored, series: str) -> bool:
        """What persons vouch for, and where a CA lives, counts where they say so: their events, from where a backup lies.

        Whether it is whole here then.

        Raises KeywardError.
        """
        authority = series.split("/", maxsplit=1)[0]
        events = os.path.join(os.path.dirname(source.path), EVENTS)
        for event in said_of(events, (VERIFIED, MOVED, TWIN), source.digest, self.judge):
            if not os.path.exists(os.path.join(self.path, authority, EVENTS, event.name)):
                self.record(authority, event)
        here = self.one(series).stored(source.name) if os.path.isdir(os.path.join(self.path, series, source.name)) else None
        return isinstance(here, Stored) and here.digest == source.digest and not here.doubt and not here.damage

    def own_directory(self, path: str) -> None:
        """Make it where it is missing. A link in its place would lead what is written out of the store. Raises OSError."""
        with contextlib.suppress(FileExistsError):
            self.make_directory(path)
            sync_directory(os.path.dirname(path))
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))

    def make_directory(self, path: str) -> None:
        os.mkdir(path, 0o700)
        if self.directory.directory_mode is not None:
            give_mode(path, self.directory.directory_mode)


class Staged:
    """A private directory in a store, gone when its block ends, unless it was committed, or left to be committed by the next order."""

    def __init__(self, store: Store, name: t.Optional[str] = None) -> None:
        self._store, self._left = store, False
        self.path = os.path.join(store.path, name or f".{secrets.token_hex(8)}.new")
        with self.guarded():
            if name is None:
                store.make_directory(self.path)
            elif not _STAGED.match(name) or not stat.S_ISDIR(os.lstat(self.path).st_mode):
                raise OSError(errno.ENOTDIR, "no directory that is being made")

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_exception: t.Any) -> None:
        if not self._left:
            shutil.rmtree(self.path, ignore_errors=True)

    def leave(self) -> str:
        """Keep it until the next order; its name."""
        self._left = True
        return os.path.basename(self.path)

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

    def commit(self, manifest: bytes, signature: t.Optional[bytes], series: str, name: str) -> str:
        """Write manifest and signature last and give it all its place; the path that it has from now on. Raises KeywardError."""
        with self.guarded():
            for folder, _folders, names in os.walk(self.path, topdown=False):
                for each in names:
                    self._finish(os.path.join(folder, each))
                if folder != self.path:
                    sync_directory(folder)
        self.write(MANIFEST, manifest)
        if signature is not None:
            self.write(MANIFEST + SIGNATURE, signature)
        self._read_back(manifest)
        parent = self._store.path
        path = os.path.join(parent, series, name)
        try:
            sync_directory(self.path)
            for folder in series.split("/"):
                parent = os.path.join(parent, folder)
                self._store.own_directory(parent)
            os.rename(self.path, path)
            sync_directory(parent)
        except OSError as exc:
            raise KeywardError(
                f"{path} was not stored",
                os_cause(exc),
                f"Run the task again: every earlier {self._store.kind.noun} is untouched, and nothing stands half-written",
            ) from exc
        return path

    def _read_back(self, manifest: bytes) -> None:
        """Before it counts as stored. Raises KeywardError."""
        again = read_stored(self.path, self._store.kind, self._store.judge)
        damage = again.damage if self._store.kind.small else None  # large ones were compared when they arrived
        if again.doubt or damage or again.document != manifest:
            why = again.doubt or damage or "the manifest that was written is not the one that is read"
            remedy = "Run the task again; if it happens again, report this as a bug"
            raise KeywardError(f"nothing was stored in {self._store.path}", why, remedy)

    def _finish(self, path: str) -> None:
        """Others may write in a store, too: a link of theirs would have a file elsewhere get the store's mode."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if self._store.directory.file_mode is not None:
                give_mode(descriptor, self._store.directory.file_mode, path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
