# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the archive of a set, made without private keys, proved, and read; may change in any release.

A member's name is its absolute path without the leading slash: C(tar --acls -xzpf database.tar.gz -C /) puts everything back.
"""

from __future__ import annotations

import contextlib
import grp
import gzip
import hashlib
import io
import json
import os
import pwd
import re
import stat
import tarfile
import typing as t
from dataclasses import dataclass
from zlib import error as zlib_error

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.private_key_search import private_key_in
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import LeftOut
from ansible_collections.keyward.pki.plugins.module_utils._protection import recorded_acls

_CHUNK = 1024 * 1024
LARGEST_MEMBER = 1024 * 1024 * 1024
# Of one member: names and links have 4 KiB at most. And what is read ahead.
_LARGEST_HEADERS = 64 * 1024
_LARGEST_LIST = 512 * 1024 * 1024
PARTS = (
    "configuration",
    "index",
    "serial",
    "crl_number",
    "attributes",
    "companion",
    "issued",
    "request",
    "movable",
    "crl",
    "certificate",
    "directory",
)


@dataclass(frozen=True)
class Member:
    """One file, directory or symbolic link of a set. C(mtime): nanoseconds."""

    path: str
    part: str
    type: str  # file, directory or link
    mode: str
    owner: str
    group: str
    uid: int
    gid: int
    mtime: int
    size: int
    sha256: t.Optional[str] = None
    target: t.Optional[str] = None
    acl: t.Optional[str] = None  # as setfacl takes it, by names; default_acl: what a directory gives to files in it
    default_acl: t.Optional[str] = None


def _name(numbers: t.Callable[[int], t.Any], number: int) -> str:
    try:
        return str(numbers(number)[0])
    except KeyError:
        return str(number)


def _member(path: str, part: str, status: os.stat_result, **more: t.Any) -> Member:
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "link" if stat.S_ISLNK(status.st_mode) else "file"
    return Member(
        path,
        part,
        kind,
        f"{stat.S_IMODE(status.st_mode):04o}",
        _name(pwd.getpwuid, status.st_uid),
        _name(grp.getgrgid, status.st_gid),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if kind == "file" else 0,
        **more,
    )


def signature_of(paths: t.Iterable[str]) -> t.Dict[str, t.Optional[t.Tuple[int, ...]]]:
    """What tells that a file has changed meanwhile, for each path; None where it does not exist."""
    found: t.Dict[str, t.Optional[t.Tuple[int, ...]]] = {}
    for path in paths:
        found[path] = _signature(_status(path, follow=False))
        if found[path] and os.path.islink(path):
            found[os.path.realpath(path)] = _signature(_status(path))
    return found


def _signature(status: t.Optional[os.stat_result]) -> t.Optional[t.Tuple[int, ...]]:
    if status is None:
        return None
    return (status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def write_archive(
    path: str, wanted: t.Mapping[str, str], key_files: t.Collection[str], known: t.Sequence[bytes]
) -> t.Tuple[t.List[Member], t.List[LeftOut]]:
    """Write a new archive of C(wanted) (path -> part). Files that hold a private key are left out.

    C(key_files): the paths of the CA's own keys; C(known): their numbers. Raises KeywardError, OSError.
    """
    members, left_out = [], []
    identities = {(status.st_dev, status.st_ino) for status in map(_status, key_files) if status}
    inside = {os.path.realpath(member_path) for member_path in wanted if not os.path.islink(member_path)}
    with open(path, "xb") as raw, tarfile.open(fileobj=raw, mode="w:gz", compresslevel=6, format=tarfile.PAX_FORMAT) as archive:
        os.fchmod(raw.fileno(), 0o600)
        for member_path, part in wanted.items():
            status = _status(member_path, follow=False)
            if status is None:
                continue
            followed = _status(member_path) if stat.S_ISLNK(status.st_mode) else None
            if followed and not _stays_a_link(member_path, part, followed, inside, identities):
                status = followed
            if stat.S_ISREG(status.st_mode):
                if member_path in key_files or (status.st_dev, status.st_ino) in identities:
                    left_out.append(LeftOut(member_path, "it is the file of a private key of this CA"))
                    continue
                if status.st_size > LARGEST_MEMBER:  # a sparse file costs an attacker no disk space
                    left_out.append(LeftOut(member_path, "it is larger than 1 GiB, as no file of a CA is"))
                    continue
                member, why = _add_file(archive, member_path, part, known)
                if why:
                    left_out.append(LeftOut(member_path, why))
                elif member:
                    members.append(member)
            elif stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                target = os.readlink(member_path) if stat.S_ISLNK(status.st_mode) else None
                acls = recorded_acls(member_path) if target is None else {}
                member = _member(member_path, part, status, target=target, **acls)
                archive.addfile(_tar_info(member))
                members.append(member)
        archive.close()
        raw.flush()
        os.fsync(raw.fileno())
    return members, left_out


def _status(path: str, follow: bool = True) -> t.Optional[os.stat_result]:
    try:
        return os.stat(path) if follow else os.lstat(path)
    except OSError:
        return None


def _stays_a_link(path: str, part: str, target: os.stat_result, inside: t.Collection[str], keys: t.Collection[t.Tuple[int, int]]) -> bool:
    """Whether a set keeps a symbolic link as one. Elsewhere it holds what the link leads to: on another host that would lead nowhere."""
    if part not in ("issued", "request", "crl"):
        return False
    return os.path.realpath(path) in inside or (target.st_dev, target.st_ino) in keys or not stat.S_ISREG(target.st_mode)


def _add_file(archive: tarfile.TarFile, path: str, part: str, known: t.Sequence[bytes]) -> t.Tuple[t.Optional[Member], t.Optional[str]]:
    """Search a file, then copy it; what was searched is what is copied, or the digests differ."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, None
    except OSError as exc:
        raise KeywardError(f"{path} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc
    with os.fdopen(descriptor, "rb") as stream:
        searched = _Digesting(stream)
        why = private_key_in(t.cast(t.BinaryIO, searched), known)
        if why:
            return None, why
        stream.seek(0)
        member = _member(path, part, os.fstat(descriptor), sha256=searched.hexdigest, **recorded_acls(descriptor))
        copied = _Digesting(stream)
        try:
            archive.addfile(_tar_info(member), t.cast(t.IO[bytes], copied))
        except OSError as exc:
            if exc.errno is not None:
                raise
            raise _Changed() from exc
        if copied.hexdigest != member.sha256:
            raise _Changed()
    return member, None


class _Changed(Exception):
    """A file changed while it was copied."""


CHANGED = _Changed


class _Digesting:
    """A stream that digests what is read from it."""

    def __init__(self, stream: t.IO[bytes]) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    @property
    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _tar_info(member: Member) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.path.lstrip("/"))
    info.type = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[member.type]
    info.mode, info.uid, info.gid = int(member.mode, 8), member.uid, member.gid
    info.uname, info.gname = member.owner, member.group
    info.mtime, info.size = member.mtime / 10**9, member.size
    info.linkname = member.target or ""
    acls = (("access", member.acl), ("default", member.default_acl))
    info.pax_headers = {f"SCHILY.acl.{kind}": acl for kind, acl in acls if acl}  # what tar --acls reads
    return info


class _Bounded:
    """What tarfile may read of an archive until C(left) is set anew: it reads headers whole, and they may say any size."""

    def __init__(self, stream: t.IO[bytes]) -> None:
        self._stream, self.left = stream, _LARGEST_HEADERS

    def read(self, size: int) -> bytes:
        if self.left <= 0:
            raise tarfile.ReadError
        data = self._stream.read(min(size, self.left))
        self.left -= len(data)
        return data


@contextlib.contextmanager
def _bounded(stream: t.IO[bytes]) -> t.Iterator[t.Tuple[tarfile.TarFile, _Bounded]]:
    bounded = _Bounded(stream)
    with tarfile.open(fileobj=t.cast("t.IO[bytes]", bounded), mode="r|") as archive:
        yield archive, bounded


def members_bytes(members: t.Sequence[Member]) -> bytes:
    return json.dumps([vars(member) for member in members], indent=0, ensure_ascii=True).encode("ascii") + b"\n"


def read_members(path: str) -> t.List[Member]:
    """The list of a set's members. Raises KeywardError where it is damaged."""
    try:
        members = [Member(**shape) for shape in json.loads(read_file(path, "the list of members", _LARGEST_LIST))]
        if not all(map(_sound, members)):
            raise ValueError
        return members
    except FileNotFoundError:
        raise KeywardError("the set can't be used", f"{path} is missing", "Use another set") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise KeywardError("the set can't be used", f"its list of members {path} is damaged", "Use another set") from exc


def _sound(member: Member) -> bool:
    texts, numbers = (member.path, member.mode, member.owner, member.group), (member.uid, member.gid, member.mtime, member.size)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
        return False
    detail = member.target if member.type == "link" else member.sha256 if member.type == "file" else ""
    return (
        _plain(member.path)
        and member.part in PARTS
        and member.type in ("file", "directory", "link")
        and isinstance(detail, str)
        and all(acl is None or isinstance(acl, str) for acl in (member.acl, member.default_acl))
        and re.match(r"[0-7]{4}\Z", member.mode) is not None
        and all(0 <= number < 1 << 32 for number in (member.uid, member.gid))
        and member.size >= 0
        and abs(member.mtime) < 1 << 63
    )


def _plain(path: str) -> bool:
    return path.startswith("/") and os.path.normpath(path) == path and not path.startswith("//") and "\0" not in path


def prove_archive(path: str, members: t.Sequence[Member], known: t.Sequence[bytes] = ()) -> None:
    """Read every member again: it is what the list says, and no private key. Raises KeywardError."""
    for member, stream in open_archive(path, members):
        searched = _Digesting(stream or io.BytesIO())
        why = private_key_in(t.cast(t.BinaryIO, searched), known)
        if why:
            raise KeywardError("the set can't be used", f"{member.path} in it: {why}", "Take that file away and make the set again")


def open_archive(path: str, members: t.Sequence[Member]) -> t.Iterator[t.Tuple[Member, t.Optional[t.IO[bytes]]]]:
    """Each member with its contents, in the order of the archive; each digest is checked once it was read to its end.

    Raises KeywardError where the archive is damaged, or holds anything else or less than the list says.
    """
    left = {member.path.lstrip("/"): member for member in members}
    fault = None
    try:
        with gzip.open(path, "rb") as unpacked, _bounded(t.cast("t.IO[bytes]", unpacked)) as (archive, bounded):
            for info in archive:
                member = left.pop(info.name, None)
                kind = (
                    "file" if info.isreg() and not info.issparse() else "directory" if info.isdir() else "link" if info.issym() else "other"
                )
                if member is None or kind != member.type or (kind == "file" and info.size != member.size):
                    fault = f"{info.name} is not what the list of members says"
                    break
                if kind == "link" and info.linkname != member.target:
                    fault = f"{info.name} leads elsewhere than the list of members says"
                    break
                bounded.left = info.size + _LARGEST_HEADERS
                stream = archive.extractfile(info) if kind == "file" else None
                digesting = _Digesting(stream) if stream else None
                yield member, t.cast("t.Optional[t.IO[bytes]]", digesting)
                if digesting:
                    while digesting.read(_CHUNK):
                        pass
                    if digesting.hexdigest != member.sha256:
                        fault = f"{info.name} does not have the digest that the list of members records"
                        break
                bounded.left = _LARGEST_HEADERS
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib_error) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        fault = "the archive is damaged or cut off"
    if fault is None and left:
        fault = f"{min(left)} is missing in the archive"
    if fault:
        raise KeywardError("the set can't be used", fault, "Use another set, or another copy of this one")
