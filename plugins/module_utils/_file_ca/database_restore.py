# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: putting the database of a CA of files back; may change in any release."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directories, move_aside
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import LinkFiles, SetFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_copy import lies_in
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import LARGEST_INDEX, DatabaseFiles, parse_number
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_places import ExtraPaths, places_here, refuse_outside
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_state import hex_or_none
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import (
    Files,
    older_files,
    staged_path,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import (
    attribute_in,
    index_text,
    is_unique_subject,
    read_index,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import Listed, Member, archive_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.moving import files_here, move_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import Numbers, Outcome, Published, compare
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import scratch_directory
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_base import Base, choose
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_configuration import MOVED, Configurations, place_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_evidence import LARGEST_LOOKED_AT, KnownCrls, published_on
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_issued import Issued, folders_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_mass import MassRestore
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_places import compared, followed
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.restore_writing import (
    lacks_chain,
    owner_of,
    recorded_protection,
    staged_member,
)
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._orders import database as orders
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import SetAside
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, protect_path
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE as CORE_ARCHIVE
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile, write_new
from ansible_collections.keyward.pki.plugins.module_utils._stored import Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

CORE = ("index", "serial", "crl_number")
_SOMETHING_ELSE = "something else is in the place of what the set holds"
_ASIDE = "Find out which is right. With on_conflict: set_aside the host's files are kept under another name"
_MERGE = _ASIDE + "; where the CA went on after a snapshot was brought back, on_conflict: merge brings both databases together"


@dataclass(frozen=True)
class _Item:
    """A member in its place on this host, and what is there: missing, same, different, shortened (a certificate without its chain), or
    as C(Configurations) says."""

    member: Member
    path: str
    there: str


class Restoration:
    """One set, of which the host gets back what it lacks."""

    def __init__(self, backend: FileCa, stored: Stored, order: orders.Restore, check: bool, links: t.Sequence[LinkFiles] = ()) -> None:
        self._backend, self._stored, self._order, self._check = backend, stored, order, check
        self._set = SetFiles(stored.path, stored.manifest.members, links)
        self._core: t.Dict[str, Member] = {}  # by part
        self._aside = order.on_conflict == "set_aside"
        self._set_aside: t.List[SetAside] = []
        self._restored: t.List[orders.BroughtBack] = []
        self._texts: t.Dict[str, bytes] = {}
        self._finished: t.List[Finding] = []
        self._mended = self._undone = False
        self._when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._base: t.Optional[Base] = None
        self._crls = KnownCrls(stored.manifest.generations)
        self._places = places_here(backend)
        self._ways: t.Optional[t.Set[str]] = set()  # folders that were looked at; None: each time anew
        self._move = move_of(backend, stored.manifest.authority, stored.manifest.generations[-1])
        self._files: t.Optional[Files] = None
        self._extra, self._unnamed = ExtraPaths(order.extra_paths), 0
        self._database: t.Optional[str] = None  # where the configuration on this host has it as yet
        with contextlib.suppress(KeywardError):
            files = backend.files()
            self._database, self._files = files.database, files_here(files, self._move)
        self._configurations = Configurations(backend, self._move, self._files is not None and not self._aside)
        self._random_serials = bool(self._files and self._files.random_serials)
        self._keys, self._subscribers = self._key_places()
        self._issued = Issued(self._free_place, self._here, self._refuse_no_place)
        self._issued_in: t.Set[str] = set()  # folders of what was issued

    def carry_out(self) -> orders.Restored:
        self._issued_in, folders = folders_of(self._set, self._move.path)
        if self._check:
            return self._carry_out(None)
        with MassRestore(folders) as mass:
            mass.take_away_left()
            return self._carry_out(mass)

    def _carry_out(self, mass: t.Optional[MassRestore]) -> orders.Restored:
        if self._files and self._files.database:
            database = DatabaseFiles(self._backend, self._files)
            self._finished = [] if self._check else database.finish("nothing was restored")
            self._undone = bool(database.waiting if self._check else self._finished)
        items = self._compared(mass)
        if self._order.part == "configuration":
            items = [item for item in items if item.member.part == "configuration"]
            self._refuse([item for item in items if item.there == "different"])
            self._put_back(items, {}, mass)
            return self._answer(None, None)
        if not self._configurations.texts:
            self._move.refuse_former(self._database, self._backend.config_file)
        paths = {item.member.part: item.path for item in items}
        theirs, live = self._theirs(), self._live(paths)
        ours = self._ours(live)
        base = self._chosen(items, ours, theirs)
        published = self._published(items, live)
        expected = (published, self._advance(), self._ca_expires(), self._unique_subject())
        outcome = compare(base.numbers, *expected, base.unknown_since)
        if base.replaced and outcome.numbers.rows == ours.rows and os.path.lexists(live.path):
            base = base.kept(ours, theirs)
            outcome = compare(base.numbers, *expected, base.unknown_since)
        if outcome.newer:
            raise KeywardError(
                "nothing was restored",
                "; ".join(finding.message for finding in outcome.newer),
                "Find a newer set, or give advance: auto: the numbers go on beyond them, and revocations are entered again",
                outcome.newer,
            )
        self._base = base
        texts = self._changed_texts(base, ours, theirs, outcome.numbers, live)
        # What the software has moved since then is where it belongs.
        left = [item for item in items if not (base.newer and item.member.part == "movable")]
        left = [self._beside(item) for item in left if item.member.part not in CORE or item.member.part in texts]
        self._put_back(left, {part: text for part, text in texts.items() if text is not None}, mass)
        return self._answer(outcome, published)

    # --- looking ---

    def _place(self, member: t.Union[Listed, Member]) -> str:
        """Where a member belongs on this host. The files of the database of a CA that moved: where its configuration here has them."""
        named = place_of(member.part, self._files) if self._files and self._move and member.type == "file" else None
        return named or self._move.path(member.path)

    def _free_place(self, member: t.Union[Listed, Member]) -> str:
        path = self._place(member)
        if path in self._keys or lies_in(path, self._subscribers):
            raise KeywardError("nothing was restored", f"the set holds a file for a private key's place, {path}", "Use another set")
        return path

    def _here(self, member: Member) -> Member:
        return replace(member, target=self._move.path(member.target)) if member.target else member

    def _refuse_no_place(self, path: str) -> None:
        refuse_outside(path, self._places, self._extra, self._backend, "nothing was restored", self._ways)

    def _compared(self, mass: t.Optional[MassRestore]) -> t.List[_Item]:
        """Every member, read to its end and proved, beside what is in its place. What was issued and is missing is staged."""
        items = []
        for member, stream in self._set.contents(CORE_ARCHIVE):
            path = self._free_place(member)
            if stream and member.part in ("index", "serial", "crl_number", "attributes"):
                self._texts[member.part] = stream.read(LARGEST_INDEX)
                self._core[member.part] = member
            here = self._here(member)
            there = compared(here, path)
            if stream and member.part == "configuration":
                there = self._configurations.compare(member, path, stream, there)
            if stream and member.part == "crl":
                self._crls.look(path, stream.read(LARGEST_LOOKED_AT))
            if member.part == "extra" and not self._extra.names(path):
                self._unnamed += there != "same"
                continue
            if there == "different" and member.part == "attributes" and self._says_the_same(path):
                there = "same"
            if stream and there == "different" and member.part == "certificate" and lacks_chain(path, stream.read(LARGEST_INPUT)):
                there = "shortened"
            items.append(_Item(here, path, there))
        self._issued.look(self._set, mass, self._order.part == "all")
        items += [_Item(found.member, found.path, found.there) for found in self._issued.others]
        for item in items:
            if self._order.part in ("all", item.member.part):
                self._refuse_outside(item)
        return items

    def _refuse_outside(self, item: _Item) -> None:
        what = "nothing was restored" if not self._set_aside else f"{item.path} was not put back"
        if item.member.part == "extra" and item.path not in self._extra:
            raise KeywardError(what, f"{item.path} leads out of what extra_paths names", "Look at the links on its way")
        if item.there != "same":
            refuse_outside(item.path, self._places, self._extra, self._backend, what, self._ways)

    def _key_places(self) -> t.Tuple[t.Set[str], t.Tuple[str, ...]]:
        """The files of the CA's private keys, and where subscribers' keys lie."""
        files = self._files
        if files is None:
            return set(), ()
        own = files.private_key
        return {own, staged_path(own), *(path for _number, path in older_files(own))} if own else set(), files.subscribers

    def _theirs(self) -> Numbers:
        """The set's database."""
        texts = self._texts
        index = read_index(texts.get("index", b""))
        if index.passed_over:  # a last row without its newline was never openssl's, and is a row all the same
            self._mended = True
            texts["index"] += b"\n"
            index = read_index(texts["index"])
        return Numbers(
            index.by_number,
            parse_number(texts["serial"], "serial of the set") if "serial" in texts and not self._random_serials else None,
            parse_number(texts["crl_number"], "crlnumber of the set") if "crl_number" in texts else None,
        )

    def _live(self, paths: t.Mapping[str, str]) -> DatabaseFiles:
        """The files of the host's database: where the configuration says, or else where those of the set belong."""
        files = self._files or Files("", "", None, None)
        named = replace(
            files,
            database=files.database or paths.get("index"),
            serial=files.serial or (None if self._random_serials else paths.get("serial")),
            crl_number=files.crl_number or paths.get("crl_number"),
        )
        return DatabaseFiles(self._backend, named)

    def _ours(self, live: DatabaseFiles) -> Numbers:
        """The host's database."""
        try:
            return live.numbers("nothing was restored")
        except KeywardError:
            if not self._aside:
                raise
        # Damaged, and to be set aside. Its numbers never go back all the same.
        numbers: t.List[t.Optional[int]] = [None, None]
        with contextlib.suppress(KeywardError):
            numbers[0] = live.next_serial
        with contextlib.suppress(KeywardError):
            numbers[1] = live.next_crl_number
        return Numbers({}, *numbers)

    def _chosen(self, items: t.Sequence[_Item], ours: Numbers, theirs: Numbers) -> Base:
        merging = self._order.on_conflict == "merge"
        parts = ("configuration", "attributes", "extra") if merging else ("configuration", "attributes", "issued", "request", "extra")
        different = [item for item in items if item.there == "different" and item.member.part in parts]
        self._refuse(different, remedy=_MERGE if all(item.member.part in ("issued", "request") for item in different) else _ASIDE)
        index_lost = not any(item.member.part == "index" and item.there != "missing" for item in items)
        base = choose(ours, theirs, index_lost and not ours.rows, self._order.on_conflict)
        if base.conflict:
            core = [item for item in items if item.member.part in CORE and item.there == "different"]
            self._refuse(core, "the database on the host has entries that the set lacks, and lacks some that it has", _MERGE)
        if merging and base.replaced and self._unique_subject():
            subjects = [row.subject for row in base.numbers.rows.values() if row.kind == "V"]
            if len(subjects) != len(set(subjects)):
                raise KeywardError(
                    "nothing was restored",
                    "the two databases have valid certificates of one subject, and unique_subject allows one",
                    "Set unique_subject = no in index.txt.attr, and run the task again",
                )
        return base

    def _published(self, items: t.Sequence[_Item], live: DatabaseFiles) -> Published:
        of_set = {*self._issued.there, *(item.path for item in items)}
        found, advisories = published_on(self._stored.manifest.generations, live, self._issued_in, of_set, self._order.published)
        self._finished += advisories
        return found

    def _refuse(self, items: t.Sequence[_Item], why: str = _SOMETHING_ELSE, remedy: str = _ASIDE) -> None:
        if items and not self._aside:
            paths = ", ".join(item.path for item in items[:5])
            raise KeywardError(
                "nothing was restored",
                f"{why}: {paths}",
                remedy,
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
        configured = None
        with contextlib.suppress(KeywardError, FileNotFoundError):
            configured = self._backend.setting("unique_subject")
        with scratch_directory() as scratch:
            path = os.path.join(scratch, "attributes")
            write_new(path, self._texts.get("attributes", b"") if attributes is None else attributes, 0o600)
            return is_unique_subject(attribute_in(path, scratch), configured)

    def _ca_expires(self) -> str:
        text = self._stored.manifest.generations[-1].not_after
        return asn1_time(parse_time(text))

    # --- writing ---

    def _changed_texts(
        self, base: Base, ours: Numbers, theirs: Numbers, result: Numbers, live: DatabaseFiles
    ) -> t.Dict[str, t.Optional[bytes]]:
        """The files of the database that are to be written, by part: None where the set's bytes are right. Those left out stay."""
        texts: t.Dict[str, t.Optional[bytes]] = {}
        there = os.path.lexists(live.path) or live.path in live.waiting
        if result.rows != ours.rows or not there or (base.twice and base.unknown_since):
            source = self._texts.get("index", b"")
            if base.merged or not base.replaced:
                source, before = read_file(live.path, "the database", LARGEST_INDEX), ours.rows
            else:
                before = theirs.rows
            verbatim = base.replaced and not base.merged and not self._mended and result.rows == theirs.rows
            texts["index"] = None if verbatim else index_text(source, before, result.rows, base.twice)
        for part, want, our, their in (
            ("serial", result.next_serial, ours.next_serial, theirs.next_serial),
            ("crl_number", result.next_crl_number, ours.next_crl_number, theirs.next_crl_number),
        ):
            if part not in self._texts:
                continue
            # A file of which the number means nothing is put back where it is missing.
            if want != our if want is not None else not os.path.lexists(self._core_path(part)):
                texts[part] = None if want == their else f"{even_hex(want or 0)}\n".encode("ascii")
        return texts

    def _put_back(self, items: t.Sequence[_Item], texts: t.Mapping[str, bytes], mass: t.Optional[MassRestore]) -> None:
        """What only adds comes first; the database itself comes last, so that a killed run has taken nothing away."""
        wanted = {}
        for item in items:
            missing = item.there in ("missing", "shortened", MOVED)
            replacing = item.there == "different" and item.member.part != "certificate" and item.member.type != "directory"
            if item.member.part in ("companion", "crl", "movable"):
                replacing = replacing and self._gives_way(item)
            if missing or (replacing and (item.member.part in CORE or self._gives_way(item))):
                wanted[item.member.path] = item
        changed = dict(texts)
        for item in wanted.values():
            self._restored.append(orders.BroughtBack(item.path, _part(item.member.part)))
        dropped = self._base is not None and self._base.newer  # the software has moved these since
        if self._order.part == "all":
            self._restored += self._issued.brought_back(dropped)
        for part in changed:
            path = self._core_path(part)
            if path not in [one.path for one in self._restored]:
                self._restored.append(orders.BroughtBack(path, "database"))
        apart = {item.path for item in wanted.values() if item.member.type != "file" or self._gives_way(item)}
        written = [*(item.path for item in wanted.values()), *map(self._core_path, changed), *self._issued.staged]
        links = followed(written, apart, self._backend.directory, "nothing was restored")
        protections = {item.path: recorded_protection(item.member, item.path) for item in wanted.values() if item.member.type != "link"}
        if mass is None:
            self._set_aside = [SetAside(i.path) for i in wanted.values() if i.there == "different" and self._gives_way(i)]
            return
        path, self._ways = "", None
        stack = contextlib.ExitStack()
        try:
            late: t.List[t.Tuple[StagedFile, str]] = []
            directories: t.List[_Item] = []
            archives = sorted({archive_of(item.member.part) for item in wanted.values()})
            for member, stream in self._set.contents(*archives) if archives else ():
                if member.path not in wanted:
                    continue
                item = wanted[member.path]
                path = item.path
                self._refuse_outside(item)  # once more: what was written meanwhile may be a link
                if member.type == "directory":
                    if make_directories(path, Protection(0o755)):
                        protect_path(path, protections[path], os.O_DIRECTORY)
                        directories.append(item)
                    continue
                make_directories(os.path.dirname(path), Protection(0o755))
                if item.there == "different" and self._gives_way(item):
                    self._set_aside.append(SetAside(path, move_aside(path, self._when)))
                if member.type == "link":
                    os.symlink(t.cast(str, item.member.target), path)
                    if os.geteuid() == 0:
                        os.chown(path, *owner_of(member), follow_symlinks=False)
                    os.utime(path, ns=(member.mtime, member.mtime), follow_symlinks=False)
                    continue
                if member.part in CORE:
                    data = changed.pop(member.part, None)
                    place = links.get(path, path)
                    late.append((stack.enter_context(staged_member(place, stream, member, protections[path], data)), member.part))
                    continue
                data = self._configurations.texts.get(member.path)
                with staged_member(links.get(path, path), stream, member, protections[path], data) as staged:
                    if item.there in ("different", "shortened", MOVED):
                        staged.replace()
                    else:
                        staged.commit()
            if self._order.part == "all":
                mass.finish(self._refuse_no_place, self._backend.directory, dropped)
            for part, data in changed.items():
                path = self._core_path(part)
                like = self._core[part]
                make_directories(os.path.dirname(path), Protection(0o755))
                own, place = recorded_protection(like, path), links.get(path, path)
                late.append((stack.enter_context(staged_member(place, None, like, own, data)), part))
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

    def _gives_way(self, item: _Item) -> bool:
        """Whether what is there is kept under another name: as the task says, or where the set's certificate of one number counts."""
        return self._aside or (self._base is not None and self._number_of(item) in self._base.theirs_count)

    def _beside(self, item: _Item) -> _Item:
        """The set's certificate of a number that the host has on another one is kept as well, under another name."""
        number, base = self._number_of(item), t.cast(Base, self._base)
        if item.there != "different" or number not in base.twice or number in base.theirs_count:
            return item
        kept = glob.glob(glob.escape(item.path) + ".set-aside-*")
        if any(compared(item.member, path) == "same" for path in kept):
            return item
        return replace(item, path=f"{item.path}.set-aside-{self._when}", there="missing")

    @staticmethod
    def _number_of(item: _Item) -> t.Optional[int]:
        """Which certificate a file holds, as openssl names it."""
        match = re.match(r"([0-9A-Fa-f]+)\.pem\Z", os.path.basename(item.path))
        return int(match.group(1), 16) if match and item.member.part in ("issued", "movable") else None

    def _core_path(self, part: str) -> str:
        return self._place(self._core[part])

    def _answer(self, outcome: t.Optional[Outcome], published: t.Optional[Published]) -> orders.Restored:
        manifest = self._stored.manifest
        advisories = [*self._crls.findings(), *self._finished]
        if self._unnamed:
            text = "files that the set has by extra_paths are missing here, or others: they come back where a task names them"
            advisories.append(Finding("extra_paths_not_restored", f"{self._unnamed} {text}"))
        if outcome and self._base:
            advisories += self._base.findings(outcome, manifest.as_of)
        if outcome and outcome.entered:
            advisories.append(Finding("certificates_reentered", f"{outcome.entered} certificates that the set lacked were entered"))
        if published is not None and not published.compared:
            advisories.append(
                Finding(
                    "published_not_compared",
                    f"nothing published was compared: what was issued or revoked after {manifest.as_of} may be missing",
                )
            )
        paths, loads = {one.path for one in self._restored}, self._configurations.loads
        advisories += self._configurations.findings(manifest.authority.directory)
        for path in paths & loads.keys():
            advisories += [Finding("configuration_loads_code", f"{path}, as the set has it: {said}") for said in loads[path]]
        numbers = outcome.numbers if outcome else None
        advanced = {name: hex_or_none(number) for name, number in outcome.advanced.items()} if outcome else {}
        return orders.Restored(
            changed=bool(self._restored) or self._undone,
            restored=tuple(self._restored),
            set_aside=tuple(self._set_aside),
            next_serial=hex_or_none(numbers.next_serial) if numbers else manifest.state.next_serial,
            next_crl_number=hex_or_none(numbers.next_crl_number) if numbers else manifest.state.next_crl_number,
            advanced=orders.Advance(**advanced) if any(advanced.values()) else None,
            rewritten=self._configurations.rewritten(paths),
            reentered=tuple(orders.Revocation(even_hex(one.serial), one.at, one.reason) for one in (outcome.reentered if outcome else ())),
            advisories=tuple(advisories),
        )


def _part(part: str) -> str:
    parts = {"movable": "issued", **dict.fromkeys(("index", "serial", "crl_number", "attributes", "companion"), "database")}
    return parts.get(part, part)
