# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a store holds, as it is read, on the controller or on a host; may change in any release.

Whoever may write into a store may put there what they like. What counts is what somebody known vouches for (C(judge)).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._home import MOVED, TWIN, HomeChange
from ansible_collections.keyward.pki.plugins.module_utils._manifest import manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import LARGEST_SET_MANIFEST, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._signed import (
    VERIFIED,
    WAY_OUT,
    Judge,
    NobodyKnown,
    digest,
    event_numbers,
    read_events,
    signature_beside,
)
from ansible_collections.keyward.pki.plugins.module_utils._time import name_time

MANIFEST, EVENTS = "manifest.json", "events"
_NAME = re.compile(r"[0-9]{6,12}-[0-9]{8}T[0-9]{6}(\.[0-9]{6})?Z\Z")
_CHUNK = 1024 * 1024
# No run of ours gives a number so far beyond the newest that counts: somebody may want to use up all numbers.
FAR = 1_000_000


class Kind(t.NamedTuple):
    """What a store holds. C(small): its files are bundles, so that all of them are read and compared with their digests.

    C(ids): by which the directories are named that lie above that of a backup or set: its authority's; and its database's.
    """

    name: str
    noun: str
    ids: t.Callable[[t.Any], t.Tuple[t.Optional[str], ...]]
    levels: int
    read: t.Callable[[t.Mapping[str, t.Any]], t.Any]
    largest_manifest: int
    small: bool
    opens_alone: str


BACKUPS = Kind(
    "keys",
    "backup",
    lambda manifest: (manifest.authority.id,),
    1,
    manifest_from_json,
    4 << 20,
    True,
    "Give the PKCS #12 file beside it as the backup: it opens without the manifest",
)
SETS = Kind(
    "databases",
    "set",
    lambda manifest: (manifest.authority.id, manifest.database),
    2,
    set_manifest_from_json,
    LARGEST_SET_MANIFEST,
    False,
    "Use another set; the archives beside it open with tar",
)


def is_name(name: str) -> bool:
    """Whether it is the name of the directory of a backup or set."""
    return _NAME.match(name) is not None


def new_name(sequence: int) -> str:
    return f"{sequence:06d}-{name_time()}"


def sequence_of(name: str) -> int:
    return int(name.split("-", maxsplit=1)[0])


def digest_of(path: str, size: t.Optional[int] = None) -> str:
    """SHA-256 of a regular file, in bounded memory. A FIFO or a device is refused, never waited for. Raises OSError.

    C(size): that it must have, else it is not read and has no digest: a sparse file takes no room, and years to read.
    """
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENXIO, "not a regular file", path)
        if size not in (None, status.st_size):
            return ""
        for piece in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(piece)
    return digest.hexdigest()


class Stored:
    """One backup or set with a manifest that reads. C(document): its file; C(signature): what lies beside that.

    C(doubt): why nobody known vouches for it; None where somebody does, and where nobody was asked. C(links): those that it builds on,
    where they were looked for (C(_chains)), the full one first.
    """

    links: t.Tuple[Stored, ...] = ()

    def __init__(
        self,
        path: str,
        manifest: t.Any,
        kind: Kind,
        document: bytes = b"",
        signature: t.Optional[bytes] = None,
        doubt: t.Optional[str] = None,
    ) -> None:
        self.path, self.manifest, self.kind = path, manifest, kind
        self.document, self.signature, self.doubt = document, signature, doubt

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def rank(self) -> t.Tuple[int, str]:
        """Newest = highest: by sequence, then by id. Times only inform."""
        return self.manifest.sequence, self.manifest.id

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of its manifest, by which what comes after names it."""
        return digest(self.document)

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
    def flaw(self) -> t.Optional[str]:
        """What is wrong with the files as far as their sizes tell: large ones are not read each night."""
        for file in self.manifest.files:
            try:
                status = os.stat(os.path.join(self.path, file.name))
            except OSError as exc:
                return f"{file.name}: {os_cause(exc)}"
            if status.st_size != file.size or not stat.S_ISREG(status.st_mode):
                return f"{file.name} has not the size that the manifest records"
        return None

    @property
    def fault(self) -> t.Optional[str]:
        """What is looked at each night."""
        return self.damage if self.kind.small else self.flaw

    @functools.cached_property
    def damage(self) -> t.Optional[str]:
        """What is wrong with the files, None where all have the recorded digests."""
        for file in self.manifest.files:
            try:
                if digest_of(os.path.join(self.path, file.name), file.size) != file.sha256:
                    return f"{file.name} does not have the digest that the manifest records"
            except OSError as exc:
                return f"{file.name}: {os_cause(exc)}"
        return None


def read_stored(path: str, kind: Kind, judge: t.Optional[Judge]) -> Stored:
    """The directory of a backup or set. C(judge): None on a host. Raises KeywardError where its manifest is missing or damaged."""
    manifest = os.path.join(path, MANIFEST)
    try:
        content = read_file(manifest, "the manifest", kind.largest_manifest)
        read, signature = kind.read(json.loads(content)), signature_beside(manifest)
        return Stored(path, read, kind, content, signature, judge.doubt(content, signature, read.created) if judge else None)
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
    is needed.

    C(judge): who knows the signers; None on a host. What nobody known vouches for takes its number, and counts for nothing else.
    C(in_store): the name of its directory says whose it is.
    """

    def __init__(self, path: str, kind: Kind, judge: t.Optional[Judge], in_store: bool = False) -> None:
        self.path, self.kind, self._judge = path, kind, judge
        self._in_store = in_store
        self.spared: t.FrozenSet[str] = frozenset()  # the names of those that were looked at before
        self.settled = 0  # the number before which all were
        self._read: t.Dict[str, t.Union[Stored, KeywardError]] = {}
        self._unreadable: t.Optional[KeywardError] = None

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
                found = [entry.name for entry in entries if _NAME.match(entry.name) and entry.is_dir(follow_symlinks=False)]
        except OSError as exc:
            if not isinstance(exc, (FileNotFoundError, NotADirectoryError)):
                self._unreadable = KeywardError(f"{self.path} can't be read", os_cause(exc), "Check its permissions and its file system")
            return []
        return sorted(found, key=lambda name: (sequence_of(name), name), reverse=True)

    @property
    def next_sequence(self) -> int:
        """Above every number that is taken, by a damaged one too."""
        newest = self.latest.manifest.sequence if self.latest else 0
        return max((number for number in map(sequence_of, self.names) if number < newest + FAR), default=newest) + 1

    def stored(self, name: str) -> t.Union[Stored, KeywardError]:
        if name not in self._read:
            try:
                self._read[name] = self.judged(read_stored(os.path.join(self.path, name), self.kind, self._judge))
            except NobodyKnown:
                raise
            except KeywardError as exc:
                self._read[name] = exc
        return self._read[name]

    @property
    def events(self) -> str:
        """Those of its authority."""
        return os.path.join(self.path if self.kind.levels == 1 else os.path.dirname(self.path), EVENTS)

    @functools.cached_property
    def _vouched_numbers(self) -> t.FrozenSet[int]:
        return event_numbers(self.events, (VERIFIED,))

    def _vouched(self, one: Stored) -> bool:
        """Whether a person vouches for its manifest, in an event of its number."""
        if one.manifest.sequence not in self._vouched_numbers:
            return False
        events = read_events(self.events, (VERIFIED,), self._judge, one.manifest.sequence, one.manifest.sequence)
        return any(event.get("follows") == one.digest for event in events)

    def judged(self, one: Stored) -> Stored:
        """A signature is over a manifest, not over the place where it lies."""
        if not self._judge:
            return one
        if one.doubt and self._vouched(one):
            one.doubt = None
        if is_name(one.name) and sequence_of(one.name) != one.manifest.sequence:
            one.doubt = one.doubt or f"it was stored under the number {one.manifest.sequence}"
        elif self._in_store:
            for folder, identity, noun in zip(self.name.split("/"), self.kind.ids(one.manifest), ("authority", "database")):
                if not folder.rpartition("-")[2] or not str(identity).startswith(folder.rpartition("-")[2]):
                    one.doubt = one.doubt or f"it is of another {noun}"
        return one

    @functools.cached_property
    def latest(self) -> t.Optional[Stored]:
        """The newest one that counts, whether or not its files are sound: it tells whose this is."""
        best: t.Optional[Stored] = None
        for name in self.names:
            if best and sequence_of(name) < best.manifest.sequence:
                break
            one = self.stored(name)
            if isinstance(one, Stored) and one.doubt is None and (best is None or one.rank > best.rank):
                best = one
        return best

    @property
    def all(self) -> t.List[Stored]:
        """Those whose manifest reads, and for which somebody vouches, newest first; but for those that are spared."""
        return sorted((one for one in self._manifests if one.doubt is None), key=lambda one: one.rank, reverse=True)

    @property
    def every(self) -> t.List[Stored]:
        """As C(all), and nothing is spared."""
        found = [one for one in map(self.stored, self.names) if isinstance(one, Stored) and one.doubt is None]
        return sorted(found, key=lambda one: one.rank, reverse=True)

    @property
    def doubtful(self) -> t.List[Stored]:
        """Those for which nobody known vouches."""
        return [one for one in self._manifests if one.doubt is not None]

    @property
    def _looked_at(self) -> t.List[str]:
        return [name for name in self.names if name not in self.spared]

    @property
    def _manifests(self) -> t.List[Stored]:
        return [one for one in map(self.stored, self._looked_at) if isinstance(one, Stored)]

    @property
    def faults(self) -> t.Dict[str, KeywardError]:
        """Those whose manifest does not read, by name, and why."""
        found = {name: self.stored(name) for name in self._looked_at}
        return {name: one for name, one in found.items() if isinstance(one, KeywardError)}

    @property
    def newest(self) -> t.Optional[Stored]:
        """The newest backup whose files have the recorded digests. Of sets, C(_chains) tells it."""
        return next((one for one in self.all if one.damage is None), None)

    @functools.cached_property
    def home_changes(self) -> t.List[HomeChange]:
        """What persons said of its homes, in no order. What does not read, or is of nobody known, is passed over.

        Of a backup's only what was said since: it repeats the homes. An event of several databases has the number of one of them.
        """
        found = []
        since = self.latest.manifest.sequence if self.latest and self.kind.levels == 1 else 0
        for event in read_events(self.events, (MOVED, TWIN), self._judge, since):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found.append(HomeChange.from_json(event))
        return found

    @property
    def advisories(self) -> t.List[Finding]:
        """What is damaged, of large files as far as their sizes tell; and what nobody vouches for."""
        faults = [*self.faults.values(), *([self._unreadable] if self._unreadable else [])]
        unreadable = [Finding("malformed", str(fault)) for fault in faults]
        unreadable += [Finding("unknown_signer", f"{one.path} counts for nothing: {one.doubt}. {WAY_OUT}") for one in self.doubtful]
        return unreadable + [Finding("digest_mismatch", f"{one.path}: {one.fault}") for one in self.all if one.fault]


def folders(path: str) -> t.List[str]:
    """The directories in a store, or in an authority's, that hold something of theirs. Raises KeywardError."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))
    except OSError as exc:
        raise KeywardError(f"{path} can't be read", os_cause(exc), "Check its permissions and the file system of the store") from exc
