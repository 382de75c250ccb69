# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what the database of a CA of files is, and a copy of it as the files of a set; may change in any release.

openssl locks nothing. It writes a certificate before the row that names it, and puts index and numbers in place by renaming whole files.
So a copy takes these first, in one moment (C(Moment)), and then what was issued: it has the file of each row. What is issued meanwhile
may be in it, too, without a row, or not: both are right. So a CA that never stops issuing gets a consistent set as well.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._acl import recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive_reading import (
    Acls,
    Held,
    Reader,
    Vanished,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import LARGEST_INDEX, DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_state import DatabaseState
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import (
    crl_path,
    older_files,
    request_path,
    staged_path,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import Folders, LinkOfOthers, owner_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import ISSUED_PARTS, Line, listed_in_base
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.private_key_search import key_material
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_mass import is_staging
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.set_writer import Base, SetWriter
from ansible_collections.keyward.pki.plugins.module_utils._lock import LOCK
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Copied, CopiedFile, LeftOut
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED, MEMBERS
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import MARKER
from ansible_collections.keyward.pki.plugins.module_utils._stored import digest_of
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

# To find a moment in which no openssl puts files in place. It does so for milliseconds at a time, however much a CA issues.
ATTEMPTS, PAUSE = 80, 0.05  # seconds
TIMES = 3  # a copy is made, where files are moved meanwhile
WHAT = "the database was not backed up"
REQUESTS = ("requests", "csr", "csrs", "req", "reqs")
MOST_NAMED = 100  # files of one folder that a set leaves out
MOST_EXTRA = 100_000  # files of one of extra_paths


_ONE_MOMENT = ("configuration", "index", "serial", "crl_number", "attributes", "companion")


class _Opened:
    """A file of a moment."""

    def __init__(self, path: str, inside: Folders) -> None:
        self._path, self._descriptor, self._lies_behind_link = path, -1, False
        try:
            self._descriptor = inside.open(path)
        except LinkOfOthers:  # who reads it next says so
            self._lies_behind_link = True
            return
        except OSError:  # gone, or nothing that can be read: likewise
            return
        self._status = os.fstat(self._descriptor)

    def close(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)

    @property
    def is_file(self) -> bool:
        return self._descriptor != -1 and stat.S_ISREG(self._status.st_mode)

    @property
    def is_there(self) -> bool:
        """Whether its name still leads to it. One that could not be opened must still be a link, or unreadable."""
        if self._descriptor == -1:
            return self._lies_behind_link or os.path.islink(self._path) or not os.access(self._path, os.R_OK)
        try:
            return not self.is_file or os.path.samestat(os.stat(self._path), self._status)
        except OSError:
            return False

    def read(self) -> t.Optional[t.Tuple[os.stat_result, bytes, Acls]]:
        """None where somebody writes into it."""
        size = self._status.st_size
        if size > LARGEST_INDEX:
            why = f"it is larger than {LARGEST_INDEX} bytes"
            raise KeywardError(f"{self._path} can't be read", why, "Check that this is the right file")
        pieces, at = [], 0
        while at < size + 1:
            piece = os.pread(self._descriptor, min(size + 1 - at, 1 << 24), at)
            if not piece:
                break
            pieces.append(piece)
            at += len(piece)
        now = os.fstat(self._descriptor)
        if at != size or (now.st_size, now.st_mtime_ns) != (size, self._status.st_mtime_ns):
            return None
        return now, b"".join(pieces), recorded_acls(self._descriptor)


class Moment(t.NamedTuple):
    """The files that openssl puts in place together, as they were at one time. C(half_written): though it was at work, or stopped then."""

    held: Held
    half_written: bool


class Survey:
    """The files of a CA that belong to a set, each with its part, and what they say."""

    def __init__(self, backend: FileCa, reading: Facts, extra: t.Sequence[str] = (), apart: t.Optional[str] = None) -> None:
        """C(extra): what belongs to a set besides; C(apart): where the set is made, which may lie in a directory of the CA."""
        self._backend, self._reading, self._extra = backend, reading, extra
        self._apart = apart and os.path.realpath(apart)
        self._stores: t.Set[str] = set()
        self._files = backend.files()
        if self._files.database is None:
            raise KeywardError(
                "the database can't be backed up",
                "the CA has no configuration that names its database",
                "Give config_file, and name it there. A CA that has no database takes no store for one: database_stores: []",
            )
        self._configuration = backend.configuration()

    @property
    def key_files(self) -> t.Set[str]:
        paths = {generation.key_place.path for generation in self._reading.generations if generation.key_place}
        if self._files.private_key:
            paths |= {self._files.private_key, staged_path(self._files.private_key)}
            paths |= {path for _number, path in older_files(self._files.private_key)}
        return paths

    def left_out(self) -> t.List[LeftOut]:
        """How many files of subscribers there are, for each folder that no set holds."""
        own, found = self.key_files, []
        for path in self._files.subscribers:
            inside = [os.path.join(folder, name) for folder, _folders, names in os.walk(path) for name in names]
            count = len([name for name in inside if name not in own]) or os.path.isfile(path)
            if count:
                found.append(LeftOut(path, "subscribers' keys are theirs", int(count)))
        return found + [LeftOut(path, "it is a store, which no set holds", 1) for path in sorted(self._stores)]

    @property
    def owners(self) -> t.Set[int]:
        return owner_of(self._backend.directory)

    @property
    def known(self) -> t.List[bytes]:
        return [number for key in self._reading.private_keys.values() for number in key_material(key)]

    def _named(self) -> t.Dict[str, str]:
        """Path -> part of what the configuration names."""
        files = self._files
        found: t.Dict[str, str] = {}
        index = t.cast(str, files.database)
        for path in self._configuration:
            found.setdefault(path, "configuration")
        for folder in dict.fromkeys((self._backend.directory, os.path.dirname(index))):
            found.setdefault(folder, "directory")
        core = ((index, "index"), (files.serial, "serial"), (files.crl_number, "crl_number"), (index + ".attr", "attributes"))
        for named, part in core:
            if named:
                found.setdefault(named, part)
        for named in (index, index + ".attr", files.serial, files.crl_number):
            if named:
                found.setdefault(named + ".old", "companion")
        return found

    def moment(self) -> Moment:
        """An open file stays as it is when another takes its name: it is enough that all of them are opened while none does."""
        paths = [path for path, part in self._named().items() if part in _ONE_MOMENT]
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE)
            last = attempt == ATTEMPTS - 1
            half_written = self._is_at_work()
            if half_written and not last:
                continue
            with contextlib.ExitStack() as stack:
                inside = stack.enter_context(contextlib.closing(Folders(self.owners)))
                opened = {path: stack.enter_context(contextlib.closing(_Opened(path, inside))) for path in paths if os.path.lexists(path)}
                if self._is_at_work() and not last:
                    continue
                # Looked at last: of files that were put in place since they were opened, some have another name or one again.
                if not all(one.is_there for one in opened.values()) or any(os.path.lexists(path) for path in paths if path not in opened):
                    continue
                held = {path: one.read() for path, one in opened.items() if one.is_file}
                if all(found is not None for found in held.values()):
                    return Moment(t.cast(Held, held), half_written)
        why = f"the CA changed it each of {ATTEMPTS} times that its files were opened, in {ATTEMPTS * PAUSE:.0f} seconds"
        raise KeywardError(WHAT, why, "Run the task when the CA issues less, or stop issuing for a moment")

    def _is_at_work(self) -> bool:
        """Whether what lies there while the CA issues is there. It lies there for good where it was stopped then."""
        half_written = [path + ".new" for path, part in self._named().items() if part in ("index", "serial")]
        return any(map(os.path.lexists, [*half_written, *([self._files.lock] if self._files.lock else [])]))

    def reader(self, wanted: t.Mapping[str, str], held: Held, proved: t.Container[bytes] = ()) -> Reader:
        return Reader(wanted, self.key_files, self.known, self.owners, held, proved)

    def wanted(self) -> t.Dict[str, str]:
        """Path -> part, in the order in which they are to be restored."""
        files = self._files
        found = self._named()
        found.setdefault(files.certificate, "certificate")
        for _number, path in older_files(files.certificate):
            found.setdefault(path, "certificate")
        crl = crl_path(files, self._backend.directory)
        for path in (crl, *(path for _number, path in older_files(crl)), *([files.crl_der] if files.crl_der else [])):
            found.setdefault(path, "crl")
        for path, part in files.more:
            if os.path.isdir(path):
                self._add_tree(found, path, part)
            elif part not in ISSUED_PARTS or os.path.lexists(path):
                found.setdefault(path, part)
        beside = files.new_certificates or files.database or ""
        requests = [os.path.join(os.path.dirname(beside), name) for name in REQUESTS]
        trees = [(files.new_certificates, "issued"), (files.certificates, "issued"), (files.crl_directory, "crl")]
        for tree, part in [*trees, *((path, "request") for path in requests)]:
            if tree and os.path.isdir(tree):
                self._add_tree(found, tree, part)
        for folder in dict.fromkeys((self._backend.directory, os.path.dirname(files.certificate))):
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    if name.endswith((".csr", ".req")):
                        found.setdefault(os.path.join(folder, name), "request")
        # Leave the pending request out: its key is in no backup, and a request without its key blocks renewal.
        found.pop(request_path(files.certificate), None)
        self._add_extra(found)
        return {path: part for path, part in found.items() if not lies_in(path, files.subscribers)} if files.subscribers else found

    def _add_tree(self, found: t.Dict[str, str], folder: str, part: str, folders: str = "directory") -> None:
        """All below a folder. In a flat CA that is everything, also what is stored of it, and what is being made."""
        for directory, directories, names in os.walk(folder):
            making = self._apart is not None and os.path.realpath(directory) == self._apart
            if MARKER in names or making:
                if directory == folder:
                    why = f"{folder}, where the CA has its files, is a store itself"
                    raise KeywardError("the database can't be backed up", why, "Move the store to a place of its own")
                self._stores |= set() if making else {directory}
                directories.clear()
                continue
            directories[:] = sorted(name for name in directories if not is_staging(name))
            found.setdefault(directory, folders)
            links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
            for name in sorted(names + links):
                if name != LOCK:
                    found.setdefault(os.path.join(directory, name), part)

    def _add_extra(self, found: t.Dict[str, str]) -> None:
        for path in self._extra:
            if not os.path.lexists(path):
                raise KeywardError(
                    "the database was not backed up",
                    f"{path}, named in extra_paths, does not exist",
                    "Correct extra_paths, or bring it back",
                )
            before = len(found)
            if os.path.isdir(path):
                self._add_tree(found, path, "extra", "extra")
            else:
                found.setdefault(path, "extra")
            if len(found) - before > MOST_EXTRA:
                why = f"{path}, named in extra_paths, has more than {MOST_EXTRA} files"
                raise KeywardError("the database was not backed up", why, "Name what the CA needs, and no more")

    def finish(self) -> t.List[Finding]:
        """What openssl left undone is put in place, so that the set has it."""
        if not DatabaseFiles(self._backend, self._files).waiting:
            return []
        with self._backend.alone(self._files, WHAT, False):
            return DatabaseFiles(self._backend, self._files).finish(WHAT)

    def state(self, wanted: t.Mapping[str, str], held: t.Optional[Held] = None) -> DatabaseState:
        """C(held): what was read of it before. Raises KeywardError where the database can't be read."""
        data = {path: content for path, (_status, content, _acls) in (held or {}).items()}
        database = DatabaseFiles(self._backend, self._files, data)
        database.index.refuse(WHAT, database.path)
        return DatabaseState(database, wanted, data)


def lies_in(path: str, folders: t.Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _in_few_words(left_out: t.Sequence[LeftOut]) -> t.Iterator[LeftOut]:
    """The first of each folder by name, and how many more there are."""
    folders: t.Dict[str, t.List[LeftOut]] = {}
    for one in left_out:
        folders.setdefault(os.path.dirname(one.path), []).append(one)
    for folder, found in folders.items():
        yield from found[:MOST_NAMED]
        if found[MOST_NAMED:]:
            further = next((one for one in found[MOST_NAMED:] if one.count is None), found[MOST_NAMED])
            yield LeftOut(folder, f"{len(found) - MOST_NAMED} further files in it: {further.why}", further.count)


def make_files(survey: Survey, folder: str, base: Base = None, whole: bool = False) -> Copied:
    """The archives and the list of their members in a directory. C(base): the complete list of the set that this one adds to, or with
    C(whole) of one of which nothing is searched again.

    Raises KeywardError, OSError.
    """
    made = [os.path.join(folder, name) for name in (CORE, ISSUED, MEMBERS)]
    finished = survey.finish()
    proved = _proved(base) if base and whole else set()
    for _attempt in range(TIMES):
        as_of = now_text()
        moment = survey.moment()
        wanted = survey.wanted()
        state = survey.state(wanted, moment.held)  # before the copy: what changes from now on makes the next set due
        try:
            with contextlib.closing(survey.reader(wanted, moment.held, proved)) as reader:
                written = SetWriter(folder, reader, None if whole else base).write(wanted, state.look)
            break
        except Vanished:
            for path in made:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
    else:
        why = f"certificates went away or were moved each of {TIMES} times while they were copied"
        raise KeywardError(WHAT, why, "Find out what moves them, and run the task again when it has ended")
    advisories = finished
    if moment.half_written:
        text = "openssl ca was stopped while it issued, or still does: files that end in .new, or a lock, lie beside the database"
        advisories.append(Finding("unfinished_issue", text))
    return Copied(
        files=tuple(
            CopiedFile(os.path.basename(path), written.digests.get(os.path.basename(path)) or digest_of(path), os.path.getsize(path))
            for path in made
        ),
        as_of=as_of,
        members=written.members,
        state=state.told,
        left_out=(*_in_few_words(written.left_out), *survey.left_out()),
        advisories=tuple(advisories),
        changes=written.changes,
    )


def _proved(base: t.Callable[[], t.Iterator[Line]]) -> t.Set[bytes]:
    """The digests of what was issued, as an earlier set has them."""
    listed = (listed_in_base(one.line) for one in base())
    return {bytes.fromhex(one.sha256) for one in listed if one.sha256 and one.part in ISSUED_PARTS}
