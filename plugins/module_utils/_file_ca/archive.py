# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the archives of a set and the list of their members, made without private keys, proved, and read; may change
in any release.

A member's name is its absolute path without the leading slash, so that C(tar --acls -xzp -C /) puts it back. List and archives are
sorted by path: both are read and written as streams, side by side.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import gzip
import hashlib
import heapq
import io
import itertools
import json
import os
import pwd
import re
import stat
import tarfile
import typing as t
import zlib
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import leads_by
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.private_key_search import private_key_in
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import LeftOut
from ansible_collections.keyward.pki.plugins.module_utils._protection import recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED, MEMBERS, Changes, Members

_CHUNK = 1024 * 1024
LARGEST_MEMBER = 1024 * 1024 * 1024
# Of one member: names and links have 4 KiB at most. And what is read ahead.
_LARGEST_HEADERS = 64 * 1024
_LONGEST_LINE = 128 * 1024  # of the list: two paths, each letter escaped
# What small files are packed into unpacks to no more than RATIO times as much, and FLOOR; larger ones are looked at one by one.
RATIO, FLOOR = 200, 64 * 1024 * 1024
_LOOKED_AT = 16 * 1024
_ANOTHER = "Use another set, or another copy of this one"
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
    "extra",
    "directory",
)
# Without these a set is none.
_ESSENTIAL = ("configuration", "index", "serial", "crl_number", "attributes", "certificate")
# Folders of which all is taken. Others may write into them.
_TREES = ("issued", "request", "movable", "crl", "extra")
# ELF, Mach-O and PE: what a configuration could have loaded.
_PROGRAMS = tuple(map(bytes.fromhex, ("7f454c46", "feedface", "cefaedfe", "feedfacf", "cffaedfe", "cafebabe", "4d5a")))
ISSUED_PARTS = ("issued", "request", "movable")


def archive_of(part: str) -> str:
    return ISSUED if part in ISSUED_PARTS else CORE


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


class Written(t.NamedTuple):
    members: Members
    left_out: t.List[LeftOut]
    changes: t.Optional[Changes] = None


def write_set(
    folder: str,
    wanted: t.Mapping[str, str],
    key_files: t.Collection[str],
    known: t.Sequence[bytes],
    owners: t.Collection[int],
    base: t.Optional[t.Dict[str, bytes]] = None,
) -> Written:
    """The archives of C(wanted) (path -> part) and the list of their members, new in a folder. Files with a private key are left out.

    C(key_files): the paths of the CA's own keys; C(known): their numbers; C(owners): whose links are followed. Raises KeywardError,
    OSError.
    """
    left_out: t.List[LeftOut] = []
    count = size = held = held_size = changed = added = 0
    complete = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        archives = {name: stack.enter_context(_new_archive(os.path.join(folder, name))) for name in (CORE, ISSUED)}
        listed = stack.enter_context(_new_list(os.path.join(folder, MEMBERS)))
        left, lines = dict(base or {}), {}
        for member in _added(archives, wanted, key_files, known, left_out, owners, base or {}):
            line, before = line_of(member), left.pop(member.path, None)
            complete.update(line)
            count, size = count + 1, size + member.size
            if archive_of(member.part) == CORE or line != before:
                lines[member.path] = line
                held, held_size = held + 1, held_size + member.size
                if archive_of(member.part) == ISSUED:
                    changed, added = changed + (before is not None), added + (before is None)
        lines.update({path: json.dumps({"path": path, "removed": True}).encode() + b"\n" for path in left})
        for _path, line in sorted(lines.items()):
            listed.write(line)
    removed = sum(1 for line in left.values() if archive_of(json.loads(line)["part"]) == ISSUED)
    changes = None if base is None else Changes(added, changed, removed)
    return Written(Members(count, size, complete.hexdigest(), held, held_size), left_out, changes)


@contextlib.contextmanager
def _new_archive(path: str) -> t.Iterator[tarfile.TarFile]:
    with open(path, "xb") as raw:
        os.fchmod(raw.fileno(), 0o600)
        with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=6, format=tarfile.PAX_FORMAT) as archive:
            yield archive
        _sync(raw)


@contextlib.contextmanager
def _new_list(path: str) -> t.Iterator[_DigestingWriter]:
    with open(path, "xb") as raw:
        os.fchmod(raw.fileno(), 0o600)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            yield _DigestingWriter(packed)
        _sync(raw)


def _sync(stream: t.BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


class _DigestingWriter:
    def __init__(self, stream: t.Any) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)

    @property
    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _added(
    archives: t.Mapping[str, tarfile.TarFile],
    wanted: t.Mapping[str, str],
    key_files: t.Collection[str],
    known: t.Sequence[bytes],
    left_out: t.List[LeftOut],
    owners: t.Collection[int],
    base: t.Mapping[str, bytes],
) -> t.Iterator[Member]:
    """Each member, once it is in its archive."""

    @functools.lru_cache(maxsize=1024)
    def of_others(folder: str) -> t.Optional[str]:
        return leads_by(folder, owners)

    identities = {(status.st_dev, status.st_ino) for status in map(_status, key_files) if status}
    inside = {os.path.realpath(path) for path in wanted if not os.path.islink(path)}
    for path, part in sorted(wanted.items()):
        archive = archives[archive_of(part)]
        status = _status(path, follow=False)
        if status is None:
            continue
        link: t.Optional[str] = of_others(os.path.dirname(path))
        if stat.S_ISLNK(status.st_mode) and not link and os.path.realpath(path) not in inside:
            link = leads_by(path, owners)
        if link:
            behind = f"it lies behind the link {link}, which others than root and the CA's owner can change"
            if part in _ESSENTIAL:
                remedy = "Find out who made it; take it away, or take the right to write there from others"
                raise KeywardError(f"{path} can't be backed up", behind, remedy)
            left_out.append(LeftOut(path, behind))
            continue
        followed = _status(path) if stat.S_ISLNK(status.st_mode) else None
        if followed and part not in _TREES:
            status = followed  # on another host the link would lead nowhere
        elif followed and stat.S_ISREG(followed.st_mode) and os.path.realpath(path) not in inside | set(key_files):
            left_out.append(LeftOut(path, "it leads out of the CA's folders: the set has the link alone"))
        if stat.S_ISREG(status.st_mode):
            if path in key_files or (status.st_dev, status.st_ino) in identities:
                left_out.append(LeftOut(path, "it is the file of a private key of this CA", 1 if path in key_files else None))
                continue
            if status.st_size > LARGEST_MEMBER:  # a sparse file costs an attacker no disk space
                left_out.append(LeftOut(path, "it is larger than 1 GiB, as no file of a CA is"))
                continue
            member, why = _add_file(archive, path, part, known, status, base.get(path))
            if why:
                left_out.append(LeftOut(path, why))
            elif member:
                yield member
        elif stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
            acls = recorded_acls(path) if target is None else {}
            member = _member(path, part, status, target=target, **acls)
            if line_of(member) != base.get(path) or archive_of(part) == CORE:
                archive.addfile(_tar_info(member))
            yield member
        else:
            left_out.append(LeftOut(path, "it is neither a file nor a directory"))


def _status(path: str, follow: bool = True) -> t.Optional[os.stat_result]:
    try:
        return os.stat(path) if follow else os.lstat(path)
    except OSError:
        return None


def _add_file(
    archive: tarfile.TarFile, path: str, part: str, known: t.Sequence[bytes], seen: os.stat_result, before: t.Optional[bytes] = None
) -> t.Tuple[t.Optional[Member], t.Optional[str]]:
    """Search a file, then copy it; what was searched is what is copied, or the digests differ. C(seen): what lay there a moment ago."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, None
    except OSError as exc:
        raise KeywardError(f"{path} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc
    with os.fdopen(descriptor, "rb") as stream:
        if not os.path.samestat(os.fstat(descriptor), seen):
            raise _Changed()
        searched = _Measuring(stream)
        why = private_key_in(t.cast(t.BinaryIO, searched), known)
        if why is None and searched.is_program:
            why = "it is a program, as no file of a CA is"
        if why is None and searched.is_nearly_empty and part not in ("index", "configuration"):
            why = "it is nearly empty: nothing but repetition, as no file of a CA is"
        if why:
            return None, why
        stream.seek(0)
        member = _member(path, part, os.fstat(descriptor), sha256=searched.hexdigest, **recorded_acls(descriptor))
        if archive_of(part) == ISSUED and line_of(member) == before:
            return member, None
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


class _Measuring(_Digesting):
    """One that also tells how far a large file can be packed: many of these would make a set that nobody dares to unpack."""

    def __init__(self, stream: t.IO[bytes]) -> None:
        super().__init__(stream)
        self._packer, self._read, self._packed = zlib.compressobj(1), 0, 0
        self.is_program = False

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if self._read > LARGEST_MEMBER:  # it grows while it is read
            raise _Changed()
        self.is_program = self.is_program or (not self._read and data.startswith(_PROGRAMS))
        self._read += len(data)
        if self._read > _LOOKED_AT:
            self._packed += len(self._packer.compress(data))
        return data

    @property
    def is_nearly_empty(self) -> bool:
        if self._read <= _LOOKED_AT:
            return False
        return self._read > (self._packed + len(self._packer.flush())) * RATIO // 2


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
def _opened(path: str) -> t.Iterator[t.Tuple[tarfile.TarFile, _Bounded]]:
    with gzip.open(path, "rb") as unpacked:
        bounded = _Bounded(t.cast("t.IO[bytes]", unpacked))
        with tarfile.open(fileobj=t.cast("t.IO[bytes]", bounded), mode="r|") as archive:
            yield archive, bounded


# --- reading -----------------------------------------------------------------------------------------------------------


def line_of(member: Member) -> bytes:
    return json.dumps(vars(member), ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


@dataclass(frozen=True)
class LinkFiles:
    """Of a set that another one builds on."""

    issued: str
    members_list: str
    members: Members


def complete_lines(paths: t.Sequence[str]) -> t.Iterator[t.Tuple[str, bytes, int]]:
    """The lines of a chain's lists as one: path, line, and the number of the list that it is from."""
    with contextlib.ExitStack() as stack:
        lists = [_numbered(stack.enter_context(gzip.open(path, "rb")), number) for number, path in enumerate(paths)]
        for path, group in itertools.groupby(heapq.merge(*lists, key=lambda one: (one[0], -one[2])), key=lambda one: one[0]):
            _path, line, number = next(group)
            if b'"removed": true' not in line:
                yield path, line, number


def _numbered(lines: t.Any, number: int) -> t.Iterator[t.Tuple[str, bytes, int]]:
    for line in iter(lambda: lines.readline(_LONGEST_LINE), b""):
        yield json.loads(line)["path"], line, number


class SetFiles:
    """The files of a set in a folder. They are read as streams, and no further than its manifest says that they go."""

    def __init__(self, folder: str, members: Members, chain: t.Sequence[LinkFiles] = ()) -> None:
        self._folder, self._members, self._chain = folder, members, tuple(chain)
        try:
            sizes = {name: os.stat(os.path.join(folder, name)).st_size for name in (CORE, ISSUED, MEMBERS)}
        except OSError as exc:
            raise KeywardError("the set can't be used", f"{exc.filename}: {os_cause(exc)}", _ANOTHER) from exc
        if members.held_size > RATIO * (sizes[CORE] + sizes[ISSUED]) + FLOOR:
            raise KeywardError("the set can't be used", f"its files would unpack to {members.size} bytes, as no database does", _ANOTHER)
        self._lists = [*(link.members_list for link in self._chain), os.path.join(folder, MEMBERS)]
        self._longest_list = RATIO * sum(os.path.getsize(path) for path in self._lists) + FLOOR

    def list(self) -> t.Iterator[Member]:
        return (member for member, _number in self._all())

    def _all(self) -> t.Iterator[t.Tuple[Member, int]]:
        """Every member, sorted by path. Raises KeywardError where the list is damaged, or another than the manifest says."""
        path = os.path.join(self._folder, MEMBERS)
        count = size = length = 0
        digest, before = hashlib.sha256(), ""
        try:
            with contextlib.nullcontext():
                for _path, line, number in complete_lines(self._lists):
                    digest.update(line)
                    member = Member(**json.loads(line))
                    count, size, length = count + 1, size + member.size, length + len(line)
                    if not _sound(member) or member.path <= before:
                        raise ValueError
                    if count > self._members.count or size > self._members.size or length > self._longest_list:
                        raise ValueError
                    before = member.path
                    yield member, number
            if (count, size, digest.hexdigest()) != (self._members.count, self._members.size, self._members.sha256):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise KeywardError("the set can't be used", f"its list of members {path} is damaged", _ANOTHER) from exc

    def contents(self, *archives: str) -> t.Iterator[t.Tuple[Member, t.Optional[t.IO[bytes]]]]:
        """Each member with its contents, in the order of the archives (all, unless some are named); each digest is checked once it
        was read to its end.

        Raises KeywardError where an archive is damaged, or holds anything else or less than the list says.
        """
        for name in archives or (CORE, ISSUED):
            numbers = range(len(self._chain) + 1) if name == ISSUED else [len(self._chain)]
            for number in numbers:
                yield from self._archive(name, number)

    def _archive(self, name: str, number: int) -> t.Iterator[t.Tuple[Member, t.Optional[t.IO[bytes]]]]:
        path = self._chain[number].issued if number < len(self._chain) else os.path.join(self._folder, name)
        expected = (member for member, at in self._all() if archive_of(member.part) == name and at == number)
        fault = None
        try:
            with _opened(path) as (archive, bounded):
                for entry in archive:
                    info: t.Optional[tarfile.TarInfo] = entry
                    member = next(expected, None)
                    while number < len(self._chain) and member and info and member.path.lstrip("/") > info.name:
                        bounded.left = info.size + _LARGEST_HEADERS
                        info = archive.next()  # a newer set has it, or it was removed
                    if number < len(self._chain) and member is None:
                        break
                    if info is None:
                        fault = f"{member.path if member else name} is missing in {path}"
                        break
                    fault = _difference(info, member)
                    if fault or member is None:
                        break
                    bounded.left = info.size + _LARGEST_HEADERS
                    stream = archive.extractfile(info) if member.type == "file" else None
                    digesting = _Digesting(stream) if stream else None
                    yield member, t.cast("t.Optional[t.IO[bytes]]", digesting)
                    while digesting and digesting.read(_CHUNK):
                        pass
                    if digesting and digesting.hexdigest != member.sha256:
                        fault = f"{info.name} does not have the digest that the list of members records"
                        break
                    bounded.left = _LARGEST_HEADERS
        except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as exc:
            if isinstance(exc, OSError) and exc.errno is not None:
                raise
            fault = f"{name} is damaged or cut off"
        if fault is None:
            missing = next(expected, None)
            fault = f"{missing.path} is missing in {name}" if missing else None
        if fault:
            raise KeywardError("the set can't be used", fault, _ANOTHER)

    def prove(self, known: t.Sequence[bytes] = ()) -> None:
        """Read every member again: it is what the list says, and no private key. Raises KeywardError."""
        for member, stream in self.contents():
            searched = _Measuring(stream or io.BytesIO())
            why = private_key_in(t.cast(t.BinaryIO, searched), known)
            if why is None and searched.is_program:
                why = "it is a program, as no file of a CA is"
            if why:
                raise KeywardError("the set can't be used", f"{member.path} in it: {why}", "Take that file away and make the set again")


def _difference(info: tarfile.TarInfo, member: t.Optional[Member]) -> t.Optional[str]:
    """Why the next entry of an archive is not the next member of the list."""
    kind = "file" if info.isreg() and not info.issparse() else "directory" if info.isdir() else "link" if info.issym() else "other"
    if member is None or (info.name, kind) != (member.path.lstrip("/"), member.type) or (kind == "file" and info.size != member.size):
        return f"{info.name} is not what the list of members says"
    if kind == "link" and info.linkname != member.target:
        return f"{info.name} leads elsewhere than the list of members says"
    return None


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
