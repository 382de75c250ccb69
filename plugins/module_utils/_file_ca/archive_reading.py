# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the files of a CA on their way into an archive, without private keys; may change in any release.

Each file is read once: what is searched is what is digested and packed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import time
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._acl import recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import Folders, LinkOfOthers, leads_by
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import (
    ISSUED_PARTS,
    PROGRAMS,
    Member,
    member_of,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.private_key_search import Searching, private_key_in_file
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.tar_blocks import header, packer, padding, sized
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import LeftOut

LARGEST_MEMBER = 64 << 30  # bytes
_SMALL = 4 << 20  # files up to here are held in memory, once
_CHUNK = 1 << 20
RATIO = 200  # what is packed unpacks to no more than so many times as much
_LOOKED_AT = 16 * 1024
TRIES, PAUSE = 5, 0.05  # to read a file that others write to; seconds
# Without these a set is none.
_ESSENTIAL = ("configuration", "index", "serial", "crl_number", "attributes", "certificate")
_REPETITIVE = ("index", "configuration")
# Folders of which all is taken. Others may write into them.
_TREES = ("issued", "request", "movable", "crl", "extra")

Acls = t.Mapping[str, t.Optional[str]]
Held = t.Mapping[str, t.Tuple[os.stat_result, bytes, Acls]]


class Vanished(Exception):
    """A file was gone before it was read: it may have been moved."""


class Archive:
    """Members, packed as one gzip member for each MiB of them."""

    def __init__(self, out: t.Callable[[bytes], object]) -> None:
        self._out = out
        self._begin()

    def _begin(self) -> None:
        self._packer, self._size, self._entries = packer(), 0, 0
        self._held: t.Optional[bytearray] = bytearray()  # until it is known how long it is

    def add(self, data: bytes) -> None:
        packed = self._packer.compress(data)
        if packed and self._held is None:
            self._out(packed)
        elif packed and self._held is not None:
            self._held += packed
            if len(self._held) > _SMALL:  # too much to hold
                self._out(bytes(self._held))
                self._held = None
        self._size += len(data)

    def between(self) -> None:
        """Between two members."""
        self._entries += 1
        if self._size >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        if self._size:
            packed = self._packer.flush()
            self._out(packed if self._held is None else sized(bytes(self._held + packed), self._entries))
            self._begin()


class Reader:
    """Files on their way into an archive. C(wanted): path -> part; C(key_files): the paths of the CA's own keys; C(known): their numbers;
    C(owners): whose links are followed; C(held): what was read before; C(proved): the digests of what was searched for the same keys."""

    def __init__(
        self,
        wanted: t.Mapping[str, str],
        key_files: t.Collection[str],
        known: t.Sequence[bytes],
        owners: t.Collection[int],
        held: Held,
        proved: t.Container[bytes] = (),
    ) -> None:
        self._proved = proved
        self._wanted, self._key_files, self._known, self._owners, self._held = wanted, key_files, known, owners, held
        self._identities = {(status.st_dev, status.st_ino) for status in map(status_of, key_files) if status}
        self._inside = Folders(owners)
        self._left_out: t.List[LeftOut] = []

    def close(self) -> None:
        self._inside.close()

    def left_out(self) -> t.List[LeftOut]:
        """Since it was asked last."""
        found, self._left_out = self._left_out, []
        return found

    @functools.cached_property
    def _folders(self) -> t.Dict[str, t.List[str]]:
        """The folders of wanted files, by where they are in truth."""
        found: t.Dict[str, t.List[str]] = {}
        for folder in {os.path.dirname(path) for path in self._wanted}:
            found.setdefault(os.path.realpath(folder), []).append(folder)
        return found

    def _is_inside(self, path: str) -> bool:
        """Whether a set has what a link leads to."""
        folder, name = os.path.split(path)
        places = [os.path.join(each, name) for each in self._folders.get(folder, ())]
        return any(place in self._wanted and not os.path.islink(place) for place in places)

    def look(self, path: str, part: str) -> t.Optional[os.stat_result]:
        """The status of a member; None, and why, where it is in no set. Raises KeywardError, Vanished."""
        try:
            status = self._inside.status(path)
        except LinkOfOthers as exc:
            if status_of(path, follow=False):
                self._lies_behind(exc.link, path, part)
            return None
        except OSError:
            if path not in self._held:
                if part in ISSUED_PARTS:
                    raise Vanished from None
                return None
            status = self._held[path][0]  # openssl is just putting another in its place
        followed = None
        if stat.S_ISLNK(status.st_mode):
            real = os.path.realpath(path)
            inside = self._is_inside(real)
            link = None if inside else leads_by(path, self._owners)
            if link:
                self._lies_behind(link, path, part)
                return None
            followed = status_of(path)
        if followed and part not in _TREES:
            status = followed  # on another host the link would lead nowhere
        elif followed and stat.S_ISREG(followed.st_mode) and not inside and real not in self._key_files:
            self._leave_out(path, "it leads out of the CA's folders: the set has the link alone")
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                return status
            self._leave_out(path, "it is neither a file nor a directory")
            return None
        if path in self._key_files or (status.st_dev, status.st_ino) in self._identities:
            self._leave_out(path, "it is the file of a private key of this CA", 1 if path in self._key_files else None)
            return None
        if status.st_size > _SMALL and (status.st_size > LARGEST_MEMBER or status.st_blocks * 512 * RATIO // 2 < status.st_size):
            # A sparse file costs an attacker no disk space.
            self._leave_out(path, "it is sparse, or larger than 64 GiB, as no file of a CA is")
            return None
        return status

    def _lies_behind(self, link: str, path: str, part: str) -> None:
        behind = f"it lies behind the link {link}, which others than root and the CA's owner can change"
        if part in _ESSENTIAL:
            remedy = "Find out who made it; take it away, or take the right to write there from others"
            raise KeywardError(f"{path} can't be backed up", behind, remedy)
        self._leave_out(path, behind)

    def _leave_out(self, path: str, why: str, count: t.Optional[int] = None) -> None:
        self._left_out.append(LeftOut(path, why, count))

    def add(
        self, archive: Archive, path: str, part: str, status: os.stat_result, known_as: t.Optional[Member] = None
    ) -> t.Optional[Member]:
        """The member that a file, directory or link has become in an archive. C(known_as): how an earlier set has it; where it is still
        the same it is not packed again. None where it is left out. Raises KeywardError, Vanished."""
        if not stat.S_ISREG(status.st_mode):
            target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
            member = member_of(path, part, status, target=target, **(recorded_acls(path) if target is None else {}))
            if known_as is None or not known_as.says_the_same(member):
                archive.add(header(member))
                archive.between()
            return member
        if path in self._held:
            return self._add_small(archive, path, part, *self._held[path], known_as)
        looked_at: t.Optional[os.stat_result] = status
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE)
                looked_at = self.look(path, part)
            if looked_at is None:
                return None
            try:
                return self._add_file(archive, path, part, looked_at, known_as)
            except _Changed:
                continue
        if part in _ESSENTIAL:
            raise KeywardError(f"{path} can't be backed up", f"it changed each of {TRIES} times while it was read", "Run the task again")
        self._leave_out(path, f"it changed each of {TRIES} times while it was read")
        return None

    def _add_file(
        self, archive: Archive, path: str, part: str, looked_at: os.stat_result, known_as: t.Optional[Member]
    ) -> t.Optional[Member]:
        try:
            descriptor = self._inside.open(path)
        except FileNotFoundError:
            raise Vanished from None
        except LinkOfOthers:
            raise _Changed from None
        except OSError as exc:
            raise KeywardError(f"{path} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not os.path.samestat(status, looked_at):
                raise _Changed
            if status.st_size > _SMALL:
                return self._add_large(archive, path, part, descriptor, status)
            data = os.read(descriptor, status.st_size + 1)
            if len(data) != status.st_size or _moment(os.fstat(descriptor)) != _moment(status):
                raise _Changed
            return self._add_small(archive, path, part, status, data, recorded_acls(descriptor), known_as)
        finally:
            os.close(descriptor)

    def _add_small(
        self,
        archive: Archive,
        path: str,
        part: str,
        status: os.stat_result,
        data: bytes,
        acls: Acls,
        known_as: t.Optional[Member],
    ) -> t.Optional[Member]:
        digest = hashlib.sha256(data).digest()
        is_proved = (digest in self._proved and part in ISSUED_PARTS) or (known_as is not None and known_as.sha256 == digest.hex())
        why = None if is_proved else private_key_in_file(data, self._known)
        why = why or _unfit(part, data[:4], lambda: _is_nearly_empty(data))
        if why:
            self._leave_out(path, why)
            return None
        member = member_of(path, part, status, sha256=digest.hex(), **acls)
        if known_as is None or not known_as.says_the_same(member):
            for piece in (header(member), data, padding(len(data))):
                archive.add(piece)
            archive.between()
        return member

    def _add_large(self, archive: Archive, path: str, part: str, descriptor: int, status: os.stat_result) -> t.Optional[Member]:
        """Search it, then pack it: it is not held in memory, so it is read twice, and the digests are compared."""
        searching, measuring, digest, size = Searching(self._known), packer(), hashlib.sha256(), 0
        packed, first = 0, b""
        for piece in _pieces(descriptor, status.st_size):
            first = first or piece[:4]
            why = searching.found_in(piece)
            if why:
                self._leave_out(path, why)
                return None
            digest.update(piece)
            packed += len(measuring.compress(piece)) if part not in _REPETITIVE else 0
            size += len(piece)
        why = _unfit(part, first, lambda: size > (packed + len(measuring.flush())) * RATIO // 2)
        if why:
            self._leave_out(path, why)
            return None
        if size != status.st_size or _moment(os.fstat(descriptor)) != _moment(status):
            raise _Changed
        member = member_of(path, part, status, sha256=digest.hexdigest(), **recorded_acls(descriptor))
        again = hashlib.sha256()
        archive.add(header(member))
        for piece in _pieces(descriptor, size):
            again.update(piece)
            archive.add(piece)
        archive.add(padding(size))
        archive.between()
        if again.hexdigest() != member.sha256:
            raise KeywardError(f"{path} can't be backed up", "it changed while it was copied", "Run the task again")
        return member


class _Changed(Exception):
    """A file changed while it was read."""


def status_of(path: str, follow: bool = True) -> t.Optional[os.stat_result]:
    try:
        return os.stat(path) if follow else os.lstat(path)
    except OSError:
        return None


def _moment(status: os.stat_result) -> t.Tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _pieces(descriptor: int, size: int) -> t.Iterator[bytes]:
    """From the beginning, and no further than it was long at first: it may grow while it is read."""
    at = 0
    while at < size:
        piece = os.pread(descriptor, min(_CHUNK, size - at), at)
        if not piece:
            raise _Changed
        at += len(piece)
        yield piece


def _unfit(part: str, first: bytes, is_nearly_empty: t.Callable[[], bool]) -> t.Optional[str]:
    if first.startswith(PROGRAMS):
        return "it is a program, as no file of a CA is"
    if part not in _REPETITIVE and is_nearly_empty():
        return "it is nearly empty: nothing but repetition, as no file of a CA is"
    return None


def _is_nearly_empty(data: bytes) -> bool:
    """Many of these would make a set that nobody dares to unpack."""
    if len(data) <= _LOOKED_AT:
        return False
    measuring = packer()
    return len(data) > (len(measuring.compress(data)) + len(measuring.flush())) * RATIO // 2
