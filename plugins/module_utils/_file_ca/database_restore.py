# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: putting the database of a CA of files back; may change in any release."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import (
    Member,
    SetFiles,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_copy import (
    LARGEST_INDEX,
    digest_or_none,
    hex_or_none,
    lies_in,
    parse_number,
    read_numbers,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_places import DatabasePlaces
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import (
    Files,
    older_files,
    staged_path,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import (
    Issued,
    Numbers,
    Outcome,
    Published,
    Revocation,
    compare,
    index_text,
    parse_index,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._files import (
    make_directories,
    move_aside,
    read_file,
)
from ansible_collections.keyward.pki.plugins.module_utils._orders import database as orders
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import SetAside
from ansible_collections.keyward.pki.plugins.module_utils._protection import (
    Protection,
    acl_from_text,
    expected_label,
    protect_path,
    protection_of,
)
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile
from ansible_collections.keyward.pki.plugins.module_utils._store import Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex, one_line, pem_certificates

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class _Item:
    """A member in its place on this host, and what is there: missing, same, different, or shortened (a certificate without its chain)."""

    member: Member
    path: str
    there: str


class Restoration:
    """One set, of which the host gets back what it lacks."""

    def __init__(self, backend: FileCa, stored: Stored, order: orders.Restore, check: bool) -> None:
        self._backend, self._stored, self._order, self._check = backend, stored, order, check
        self._set = SetFiles(stored.path, stored.manifest.members)
        self._core: t.Dict[str, Member] = {}  # by part
        self._aside = order.on_conflict == "set_aside"
        self._set_aside: t.List[SetAside] = []
        self._restored: t.List[orders.BroughtBack] = []
        self._texts: t.Dict[str, bytes] = {}
        self._more = False
        self._further: t.Set[str] = set()  # the numbers (parts) in which the host is beyond the set
        self._places: t.Optional[DatabasePlaces] = None
        self._newer = False  # the host's database has all of the set's, and more
        self._random_serials = False
        with contextlib.suppress(KeywardError):
            self._random_serials = backend.files().random_serials

    def carry_out(self) -> orders.Restored:
        items = self._compared()
        if self._order.part == "configuration":
            items = [item for item in items if item.member.part == "configuration"]
            self._refuse([item for item in items if item.there == "different"])
            self._put_back(items, {})
            return self._answer(None, None)
        ours, base, replaced = self._base(items)
        published = self._published(items)
        outcome = compare(base, published, self._advance(), self._ca_expires(), self._unique_subject())
        if outcome.newer:
            raise KeywardError(
                "nothing was restored",
                "; ".join(finding.message for finding in outcome.newer),
                "Find a newer set, or give advance: auto: the numbers go on beyond them, and revocations are entered again",
                outcome.newer,
            )
        core = ("index", "serial", "crl_number")
        left = [item for item in items if item.member.part not in core or replaced or item.there == "missing"]
        # What the software has moved since then is where it belongs.
        left = [item for item in left if item.member.part not in self._further and not (self._newer and item.member.part == "movable")]
        texts = self._changed_texts(items, ours, base, outcome, replaced)
        self._put_back(left, texts)
        return self._answer(outcome, published)

    # --- looking ---

    def _place(self, path: str) -> str:
        old, new = self._stored.manifest.authority, self._backend
        if path == old.place.get("config_file") and new.config_file:
            return new.config_file
        if path == old.directory:
            return new.directory
        if path.startswith(old.directory.rstrip("/") + "/"):
            return os.path.join(new.directory, path[len(old.directory.rstrip("/")) + 1 :])
        return path

    def _compared(self) -> t.List[_Item]:
        """Every member, read to its end and proved, beside what is in its place."""
        items = []
        keys, subscribers = self._key_places()
        for member, stream in self._set.contents():
            path = self._place(member.path)
            if path in keys or lies_in(path, subscribers):
                raise KeywardError("nothing was restored", f"the set holds a file for a private key's place, {path}", "Use another set")
            if stream and member.part in ("index", "serial", "crl_number", "attributes"):
                self._texts[member.part] = stream.read(LARGEST_INDEX)
                self._core[member.part] = member
            there = _compare(member, path)
            if there == "different" and member.part == "attributes" and self._says_the_same(path):
                there = "same"
            if stream and there == "different" and member.part == "certificate" and _lacks_chain(path, stream.read(LARGEST_INPUT)):
                there = "shortened"
            items.append(_Item(member, path, there))
        self._set.prove()
        main = self._backend.config_file
        if self._backend.FIXED or any(item.path == main and item.there == "same" for item in items):
            with contextlib.suppress(KeywardError):
                self._places = DatabasePlaces(self._backend)
        for item in items:
            self._refuse_outside(item)
        return items

    def _refuse_outside(self, item: _Item) -> None:
        """A set is no more trusted than its store. Where the CA's configuration is lost, the set alone says what belongs to it."""
        if self._places and item.path not in self._places:
            raise KeywardError(
                "nothing was restored" if not self._set_aside else f"{item.path} was not put back",
                f"the set holds {item.path}, which is no place of this CA as its configuration on the host describes it",
                "Find out how it came into the set, or what is wrong with the directory. The archive opens with tar",
            )

    def _key_places(self) -> t.Tuple[t.Set[str], t.Tuple[str, ...]]:
        """The files of the CA's private keys, and where subscribers' keys lie."""
        try:
            files = self._backend.files()
        except KeywardError:
            return set(), ()
        own = files.private_key
        return {own, staged_path(own), *(path for _number, path in older_files(own))} if own else set(), files.subscribers

    def _base(self, items: t.Sequence[_Item]) -> t.Tuple[Numbers, Numbers, bool]:
        """(the database on the host, the one to go on from, whether that is the set's)."""
        paths = {item.member.part: item.path for item in items}
        texts = {part: self._texts[part] for part in self._texts}
        theirs = Numbers(
            parse_index(texts.get("index", b"").decode("utf-8", "surrogateescape"), "of the set"),
            parse_number(texts["serial"], "serial of the set") if "serial" in texts and not self._random_serials else None,
            parse_number(texts["crl_number"], "crlnumber of the set") if "crl_number" in texts else None,
        )
        there = {part: os.path.lexists(paths[part]) for part in self._texts}
        ours = self._live(paths)
        different = [
            item for item in items if item.there == "different" and item.member.part in ("configuration", "attributes", "issued", "request")
        ]
        if not there.get("index") or (theirs.rows and not ours.rows and not self._aside):
            self._refuse(different)
            # The rows are lost, or those of a CA that ca_install brought back; the numbers may not be: they never go back.
            numbers = {"serial": (ours.next_serial, theirs.next_serial), "crl_number": (ours.next_crl_number, theirs.next_crl_number)}
            self._further = {part for part, (our, their) in numbers.items() if their is not None and (our or 0) > their}
            serial, crl_number = (our if part in self._further else their for part, (our, their) in numbers.items())
            return ours, replace(theirs, next_serial=serial, next_crl_number=crl_number), True
        self._more = len(ours.rows) > len(theirs.rows)
        same = ours == theirs
        if self._aside:
            return ours, (ours if same else theirs), not same
        self._refuse(different)
        if ours.covers(theirs):
            self._newer = not same
            return ours, ours, False
        if theirs.covers(ours):
            return ours, theirs, True
        core = [item for item in items if item.member.part in ("index", "serial", "crl_number") and item.there == "different"]
        self._refuse(core, "the database on the host has entries that the set lacks, and lacks some that it has")
        return ours, theirs, True

    def _live(self, paths: t.Mapping[str, str]) -> Numbers:
        try:
            files = Files("", "", None, None, paths.get("index", ""), paths.get("serial"), paths.get("crl_number"))
            return read_numbers(replace(files, random_serials=self._random_serials))
        except KeywardError:
            if not self._aside:
                raise
            return Numbers({}, None, None)  # damaged, and to be set aside

    def _refuse(self, items: t.Sequence[_Item], why: str = "something else is in the place of what the set holds") -> None:
        if items and not self._aside:
            paths = ", ".join(item.path for item in items[:5])
            raise KeywardError(
                "nothing was restored",
                f"{why}: {paths}",
                "Find out which is right. With on_conflict: set_aside the host's files are kept under another name",
                [Finding("conflict", f"{item.path} holds something else") for item in items[:50]],
            )

    def _advance(self) -> t.Any:
        """As C(compare) takes it."""
        given = {name: int(value, 16) for name, value in vars(self._order.advance).items() if value} if self._order.advance else None
        return "auto" if given == {} else given

    def _says_the_same(self, attributes: str) -> bool:
        """openssl ca writes what it reads, also into a file that was empty."""
        return self._unique_subject(read_file(attributes, "the attributes", LARGEST_INPUT)) == self._unique_subject()

    def _unique_subject(self, attributes: t.Optional[bytes] = None) -> bool:
        """As openssl ca decides it: by the file beside the database, else by the configuration, else yes."""
        text = (self._texts.get("attributes", b"") if attributes is None else attributes).decode("utf-8", "replace")
        with contextlib.suppress(KeywardError, FileNotFoundError):
            if not text:
                text = f"unique_subject = {self._backend.setting('unique_subject') or 'yes'}"
        found = re.search(r"^\s*unique_subject\s*=\s*(\S)", text, re.MULTILINE)
        return not (found and found.group(1) in "fFnN0")

    def _ca_expires(self) -> str:
        text = self._stored.manifest.generations[-1].not_after
        return asn1_time(parse_time(text))

    def _published(self, items: t.Sequence[_Item]) -> Published:
        """What the controller read, and certificates that lie on the host though the set does not know them."""
        given = self._order.published
        issued = [Issued(int(one.serial, 16), one.expires, one.subject, one.where) for one in given.issued]
        folders = {os.path.dirname(item.path) for item in items if item.member.part in ("issued", "movable")}
        seen = {item.path for item in items}
        signers = [_x509.load(generation.certificate) for generation in self._stored.manifest.generations]
        for folder in sorted(folders):
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    path = os.path.join(folder, name)
                    if path not in seen and name.endswith(".pem"):
                        issued += _issued_in(path, signers)
        return Published(
            [int(number, 16) for number in given.crl_numbers],
            [Revocation(int(one.serial, 16), one.at or "", one.reason) for one in given.revocations],
            issued,
            given.compared,
        )

    # --- writing ---

    def _changed_texts(
        self, items: t.Sequence[_Item], ours: Numbers, base: Numbers, outcome: Outcome, replaced: bool
    ) -> t.Dict[str, bytes]:
        """The contents of the database's files where they are to be other than the set's or the host's; by part."""
        texts = {}
        result = outcome.numbers
        if result.rows != base.rows:
            source = (
                self._texts.get("index", b"")
                if replaced
                else read_file(next(item.path for item in items if item.member.part == "index"), "the database", LARGEST_INDEX)
            )
            texts["index"] = index_text(source, base, result)
        if result.next_serial != base.next_serial:
            texts["serial"] = f"{even_hex(result.next_serial or 0)}\n".encode("ascii")
        if result.next_crl_number != base.next_crl_number:
            texts["crl_number"] = f"{even_hex(result.next_crl_number or 0)}\n".encode("ascii")
        return texts

    def _put_back(self, items: t.Sequence[_Item], texts: t.Mapping[str, bytes]) -> None:
        """What only adds comes first; the database itself comes last, so that a killed run has taken nothing away."""
        core = ("index", "serial", "crl_number")
        wanted = {}
        for item in items:
            missing = item.there in ("missing", "shortened")
            replacing = item.there == "different" and item.member.part not in ("certificate", "directory")
            if item.member.part in ("companion", "crl", "movable"):
                replacing = replacing and self._aside
            if missing or (replacing and (item.member.part in core or self._aside)):
                wanted[item.member.path] = item
        changed = {part: data for part, data in texts.items() if part in core}
        for item in wanted.values():
            self._restored.append(orders.BroughtBack(item.path, _part(item.member.part)))
        for part in changed:
            path = self._core_path(part)
            if path not in [one.path for one in self._restored]:
                self._restored.append(orders.BroughtBack(path, "database"))
        protections = {item.path: _protection(item.member, item.path) for item in wanted.values() if item.member.type != "link"}
        if self._check:
            self._set_aside = [SetAside(i.path) for i in wanted.values() if i.there == "different" and self._aside]
            return
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = ""
        stack = contextlib.ExitStack()
        try:
            late: t.List[t.Tuple[StagedFile, str]] = []
            directories: t.List[_Item] = []
            for member, stream in self._set.contents() if wanted else ():
                if member.path not in wanted:
                    continue
                item = wanted[member.path]
                path = item.path
                self._refuse_outside(item)  # once more: what was written meanwhile may be a link
                if member.type == "directory":
                    if make_directories(path, Protection(int(member.mode, 8))):
                        protect_path(path, protections[path], os.O_DIRECTORY)
                        directories.append(item)
                    continue
                make_directories(os.path.dirname(path), Protection(0o755))
                if item.there == "different" and self._aside:
                    self._set_aside.append(SetAside(path, move_aside(path, when)))
                if member.type == "link":
                    os.symlink(t.cast(str, member.target), path)
                    if os.geteuid() == 0:
                        os.chown(path, *_owner(member), follow_symlinks=False)
                    continue
                if member.part in core:
                    data = changed.pop(member.part, None)
                    late.append((stack.enter_context(_staged(path, stream, member, protections[path], data)), member.part))
                    continue
                with _staged(path, stream, member, protections[path], None) as staged:
                    if item.there in ("different", "shortened"):
                        staged.replace()
                    else:
                        staged.commit()
            for part, data in changed.items():
                path = self._core_path(part)
                like = self._core[part]
                make_directories(os.path.dirname(path), Protection(0o755))
                late.append((stack.enter_context(_staged(path, None, like, _protection(like, path), data)), part))
            order = {"index": 0, "crl_number": 1, "serial": 2}
            # The numbers go on before the rows do: a run killed in between hands out no number twice.
            for staged, part in sorted(late, key=lambda one: -order[one[1]]):
                path = self._core_path(part)
                staged.replace()
            for item in reversed(directories):
                os.utime(item.path, ns=(item.member.mtime, item.member.mtime), follow_symlinks=False)
        except OSError as exc:
            raise KeywardError(
                f"{path} could not be put back",
                os_cause(exc),
                "Put that right and run the task again: it goes on where it stopped, and what was set aside is still there",
            ) from exc
        finally:
            stack.close()

    def _core_path(self, part: str) -> str:
        return self._place(self._core[part].path)

    def _answer(self, outcome: t.Optional[Outcome], published: t.Optional[Published]) -> orders.Restored:
        manifest = self._stored.manifest
        advisories = []
        if self._more and not self._aside:
            advisories.append(Finding("database_newer", "the database on the host has entries that the set lacks; they stay"))
        if self._further:
            text = "the numbers on the host are beyond the set's and stay; what was issued or revoked in between may be missing"
            advisories.append(Finding("numbers_newer", text))
        if outcome and outcome.entered:
            advisories.append(Finding("certificates_reentered", f"{outcome.entered} certificates that the set lacked were entered"))
        if published is not None and not published.compared:
            advisories.append(
                Finding(
                    "published_not_compared",
                    f"nothing published was compared: what was issued or revoked after {manifest.as_of} may be missing",
                )
            )
        if manifest.authority.directory != self._backend.directory:
            advisories.append(
                Finding("moved", f"the CA was in {manifest.authority.directory}: its configuration may still say so, it was not changed")
            )
        numbers = outcome.numbers if outcome else None
        advanced = {name: hex_or_none(number) for name, number in outcome.advanced.items()} if outcome else {}
        return orders.Restored(
            changed=bool(self._restored),
            restored=tuple(self._restored),
            set_aside=tuple(self._set_aside),
            next_serial=hex_or_none(numbers.next_serial) if numbers else manifest.state.next_serial,
            next_crl_number=hex_or_none(numbers.next_crl_number) if numbers else manifest.state.next_crl_number,
            advanced=orders.Advance(**advanced) if any(advanced.values()) else None,
            reentered=tuple(orders.Revocation(even_hex(one.serial), one.at, one.reason) for one in (outcome.reentered if outcome else ())),
            advisories=tuple(advisories),
        )


def _part(part: str) -> str:
    parts = {"movable": "issued", **dict.fromkeys(("index", "serial", "crl_number", "attributes", "companion"), "database")}
    return parts.get(part, part)


def _compare(member: Member, path: str) -> str:
    try:
        status = os.lstat(path)
    except OSError:
        return "missing"
    if member.type == "directory":
        return "same" if os.path.isdir(path) else "different"
    if member.type == "link":
        return "same" if stat.S_ISLNK(status.st_mode) and os.readlink(path) == member.target else "different"
    if not os.path.isfile(path):
        return "different"
    if os.path.getsize(path) != member.size:
        return "different"
    return "same" if digest_or_none(path) == member.sha256 else "different"


def _lacks_chain(path: str, whole: bytes) -> bool:
    """Whether a file holds the set's CA certificate without those of the CAs above it: a restored key brings only its own."""
    certificates = pem_certificates(whole)
    return len(certificates) > 1 and pem_certificates(read_file(path, "the CA certificate", LARGEST_INPUT)) == certificates[:1]


def _issued_in(path: str, signers: t.Sequence[t.Any]) -> t.List[Issued]:
    """The certificate of a PEM or DER file, where one of the CA's generations signed it."""
    try:
        parsed = _x509.load(read_file(path, "the certificate"))
    except (KeywardError, ValueError, FileNotFoundError):
        return []
    if _x509.is_self_signed(parsed) or not any(_x509.is_issued_by(parsed, signer) for signer in signers):
        return []
    expires = asn1_time(_x509.validity(parsed)[1])
    return [Issued(parsed.serial_number, expires, one_line(parsed.subject), os.path.basename(path))]


def _staged(path: str, stream: t.Optional[t.IO[bytes]], member: Member, recorded: Protection, data: t.Optional[bytes]) -> StagedFile:
    """A file whole on the file system of its place: C(data), or what the set holds; protected as what lies there, else as recorded."""
    protection = protection_of(path) if os.path.exists(path) else recorded
    if data is not None or stream is None:
        return StagedFile(path, data or b"", protection)
    return StagedFile(path, iter(lambda: stream.read(_CHUNK), b""), protection, member.sha256, member.mtime)


def _protection(member: Member, path: str) -> Protection:
    """As the set records it, for a place on this host. Raises KeywardError where an ACL names somebody who is not here."""
    what, mode = f"{path} was not restored", int(member.mode, 8) & (0o7777 if member.type == "directory" else 0o777)
    owner = _owner(member) if os.geteuid() == 0 else (-1, -1)
    acl, default = acl_from_text(member.acl, what, mode), acl_from_text(member.default_acl, what)
    kind = stat.S_IFDIR if member.type == "directory" else stat.S_IFREG
    return Protection(mode, *owner, acl, default, expected_label(path, kind | mode))


def _owner(member: Member) -> t.Tuple[int, int]:
    import grp
    import pwd

    uid, gid = member.uid, member.gid
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(member.owner).pw_uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(member.group).gr_gid
    return uid, gid
