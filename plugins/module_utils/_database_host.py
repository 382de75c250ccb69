# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: backing up the database of C(openssl ca) on its host, and putting it back; may change in any release.

openssl locks nothing. A copy is consistent because every file is looked at before and after it (inode, size, times), and the
copy is made again where anything has changed meanwhile. openssl writes a certificate before the row that names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import age_in_seconds, due_reasons, refuse_emptied
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import (
    CHANGED,
    LARGEST_MEMBER,
    LeftOut,
    Member,
    members_bytes,
    open_archive,
    prove_archive,
    read_members,
    signature_of,
    write_archive,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import (
    Files,
    crl_path,
    older_files,
    request_path,
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
    index_time,
    one_line,
    parse_index,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.private_key_search import key_material
from ansible_collections.keyward.pki.plugins.module_utils._files import (
    make_directories,
    move_aside,
    read_file,
    set_owner_and_mode,
    sync_directory,
)
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, authority_id, directory_name
from ansible_collections.keyward.pki.plugins.module_utils._host import Answer, Request, facts
from ansible_collections.keyward.pki.plugins.module_utils._manifest import (
    ARCHIVE,
    MEMBERS,
    SetFile,
    SetManifest,
    State,
    set_manifest_from_json,
)
from ansible_collections.keyward.pki.plugins.module_utils._store import (
    MANIFEST,
    SETS,
    AuthorityDirectory,
    Store,
    Stored,
    digest_of,
    document,
    read_stored,
    recognise,
)
from ansible_collections.keyward.pki.plugins.module_utils._time import name_time, now, now_text, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._verdict import refuse_foreign
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex, pem_certificates

ATTEMPTS, PAUSE = 8, 0.5  # seconds
_REQUESTS = ("requests", "csr", "csrs", "req", "reqs")
_CHUNK = 1024 * 1024
LARGEST_INDEX = 1024 * 1024 * 1024


# --- what there is -----------------------------------------------------------------------------------------------


class Survey:
    """The files of a CA that belong to a set, each with its part, and what they say."""

    def __init__(self, backend: OpensslBackend, reading: Facts) -> None:
        self._backend, self._reading = backend, reading
        self._files = backend.files()
        config_file = backend.config_file
        if config_file is None or self._files.database is None:
            raise KeywardError(
                "the database can't be backed up",
                "the CA has no configuration that names its database",
                "Give config_file, and name it there",
            )
        self._configuration = OpensslConfig(config_file, backend.directory).files

    @property
    def key_files(self) -> t.Set[str]:
        paths = {generation.key_place.path for generation in self._reading.generations if generation.key_place}
        if self._files.private_key:
            paths |= {self._files.private_key, staged_path(self._files.private_key)}
            paths |= {path for _number, path in older_files(self._files.private_key)}
        return paths

    @property
    def known(self) -> t.List[bytes]:
        return [number for key in self._reading.private_keys.values() for number in key_material(key)]

    def wanted(self) -> t.Dict[str, str]:
        """Path -> part, in the order in which they are to be restored."""
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
        found.setdefault(files.certificate, "certificate")
        for _number, path in older_files(files.certificate):
            found.setdefault(path, "certificate")
        crl = crl_path(files, self._backend.directory)
        for path in (crl, *(path for _number, path in older_files(crl))):
            found.setdefault(path, "crl")
        beside = files.new_certificates or index
        requests = [os.path.join(os.path.dirname(beside), name) for name in _REQUESTS]
        trees = [(files.new_certificates, "issued"), (files.certificates, "issued"), (files.crl_directory, "crl")]
        for tree, part in [*trees, *((path, "request") for path in requests)]:
            if tree and os.path.isdir(tree):
                _add_tree(found, tree, part)
        for folder in dict.fromkeys((self._backend.directory, os.path.dirname(files.certificate))):
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    if name.endswith((".csr", ".req")):
                        found.setdefault(os.path.join(folder, name), "request")
        # What waits for its answer belongs to a key that no backup holds: alone, it would only stop the next renewal.
        found.pop(request_path(files.certificate), None)
        return found

    def state(self, wanted: t.Mapping[str, str]) -> State:
        """Raises KeywardError where the database can't be read."""
        whole = {"index", "serial", "crl_number", "attributes", "certificate"}
        contents, configuration = hashlib.sha256(), hashlib.sha256()
        for path, part in sorted(wanted.items()):
            if part == "configuration":
                configuration.update(f"{path} {_digest_or_none(path)}\n".encode("utf-8", "surrogateescape"))
            elif part in whole and not os.path.isdir(path):
                contents.update(f"{path} {_digest_or_none(path)}\n".encode("utf-8", "surrogateescape"))
            elif part == "crl":
                contents.update(f"{path} {_crl_state(path)}\n".encode("utf-8", "surrogateescape"))
            elif part in ("issued", "request"):
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    if not stat.S_ISDIR(status.st_mode):
                        contents.update(f"{path} {status.st_size}\n".encode("utf-8", "surrogateescape"))
        numbers = read_numbers(self._files)
        return State(
            contents.hexdigest(), configuration.hexdigest(), len(numbers.rows), _hex(numbers.next_serial), _hex(numbers.next_crl_number)
        )


def _hex(number: t.Optional[int]) -> t.Optional[str]:
    return None if number is None else even_hex(number)


def _add_tree(found: t.Dict[str, str], folder: str, part: str) -> None:
    for directory, directories, names in os.walk(folder):
        directories.sort()
        found.setdefault(directory, "directory")
        links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        for name in sorted([*names, *links]):
            found.setdefault(os.path.join(directory, name), part)


def _crl_state(path: str) -> t.Optional[str]:
    """Others, such as a web server, may write where CRLs lie: a link isn't followed, and nothing is read without end."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_MEMBER:
        return f"{status.st_mode:o} {status.st_size}"
    return _digest_or_none(path)


def _digest_or_none(path: str) -> t.Optional[str]:
    try:
        return digest_of(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise KeywardError(f"{path} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc


def read_numbers(files: Files) -> Numbers:
    """The database as numbers. Raises KeywardError where it can't be read; one that does not exist has no rows."""
    index = t.cast(str, files.database)
    rows = {}
    with contextlib.suppress(FileNotFoundError):
        rows = parse_index(read_file(index, "the database", LARGEST_INDEX).decode("utf-8", "surrogateescape"), index)
    return Numbers(rows, _number_in(files.serial), _number_in(files.crl_number))


def _number_in(path: t.Optional[str]) -> t.Optional[int]:
    if path is None:
        return None
    try:
        return _parse_number(read_file(path, "the number", 65536), path)
    except FileNotFoundError:
        return None


def _parse_number(data: bytes, path: str) -> int:
    try:
        return int(data.strip(), 16)
    except ValueError:
        raise KeywardError(f"{path} can't be read", "it holds no hexadecimal number", "Find out what became of it") from None


# --- backup ------------------------------------------------------------------------------------------------------


def back_up_database(which: Selector, request: Request, check: bool) -> Answer:
    """The database as it is; with C(request["make"]), a directory, a set's files made in it; with C(request["host_store"]) all of it here.

    C(request): max_age, keep_full_sets, made (for the manifest). Raises KeywardError.
    """
    backend = OpensslBackend(which)
    reading = backend.facts()
    survey = Survey(backend, reading)
    if request.get("make"):
        try:
            made = make_files(survey, request["make"], reading)
        except OSError as exc:
            why = f"the set could not be written into {request['make']}: {os_cause(exc)}"
            raise KeywardError("the database was not backed up", why, "Make room there, or name another remote_tmp") from exc
        _hand_over(request["make"])
        return {**facts(reading), **made.as_answer()}
    state = survey.state(survey.wanted())
    answer = {**facts(reading), "state": dict(vars(state))}
    if request.get("host_store"):
        return {**answer, **_into_host_store(survey, reading, state, request, check)}
    return answer


@dataclass(frozen=True)
class MadeSet:
    files: t.Tuple[SetFile, ...]
    members: int
    state: State
    as_of: str
    left_out: t.Tuple[LeftOut, ...]
    unfinished: bool

    def as_answer(self) -> Answer:
        return {
            "files": [dict(vars(file)) for file in self.files],
            "members": self.members,
            "state": dict(vars(self.state)),
            "as_of": self.as_of,
            "left_out": [dict(vars(one)) for one in self.left_out],
            "unfinished": self.unfinished,
        }


def make_files(survey: Survey, folder: str, reading: Facts) -> MadeSet:
    """The archive and the list of its members, proved, in a directory. Raises KeywardError, OSError."""
    archive = os.path.join(folder, ARCHIVE)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(archive)
        as_of = now_text()
        wanted = survey.wanted()
        half_written = [path + ".new" for path, part in wanted.items() if part in ("index", "serial") and os.path.lexists(path + ".new")]
        if half_written and attempt < ATTEMPTS - 1:
            continue
        before = signature_of(wanted)
        try:
            state = survey.state(wanted)
            members, left_out = write_archive(archive, wanted, survey.key_files, survey.known)
        except CHANGED:
            continue
        if survey.wanted() == wanted and signature_of(wanted) == before:
            break
    else:
        raise KeywardError(
            "the database was not backed up",
            f"the CA changed it each of {ATTEMPTS} times while it was copied",
            "Run the task when the CA issues less, or stop issuing for a moment",
        )
    prove_archive(archive, members, survey.known)
    listed = os.path.join(folder, MEMBERS)
    with open(listed, "xb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(members_bytes(members))
        stream.flush()
        os.fsync(stream.fileno())
    files = tuple(SetFile(os.path.basename(path), digest_of(path), os.path.getsize(path)) for path in (archive, listed))
    return MadeSet(files, len(members), state, as_of, tuple(left_out), bool(half_written))


def _hand_over(folder: str) -> None:
    """The login user, whose directory this is, fetches the files."""
    status = os.stat(folder)
    if status.st_uid == os.geteuid():
        return
    try:
        for name in (ARCHIVE, MEMBERS):
            os.chown(os.path.join(folder, name), status.st_uid, status.st_gid, follow_symlinks=False)
    except OSError as exc:
        raise KeywardError(
            "the set can't be fetched", os_cause(exc), "Become root, or log in as the CA's own user, or use host_store"
        ) from exc


def set_manifest(
    made: MadeSet,
    authority: Authority,
    generations: t.Iterable[Generation],
    directory: AuthorityDirectory,
    about: Answer,
    adcs: t.Optional[Answer] = None,
) -> SetManifest:
    """The manifest of a new set in an authority's directory."""
    newest = directory.newest
    return SetManifest(
        id=secrets.token_hex(16),
        sequence=directory.next_sequence,
        previous=newest.manifest.id if newest else None,
        kind="full",
        authority=authority,
        created=now_text(),
        as_of=made.as_of,
        made=about,
        files=made.files,
        members=made.members,
        state=made.state,
        left_out=tuple(dict(vars(one)) for one in made.left_out),
        generations=tuple(generations),
        adcs=adcs,
    )


def keep(store: Store, name: str, count: t.Optional[int], host: t.Optional[str]) -> t.List[str]:
    """Remove the sets of a host beyond its newest C(count) intact ones; their paths. The last intact one always stays.

    C(host): its name in the inventory. A host that shows the public certificates of another's CA removes none of that CA's sets.
    """
    if count is None:
        return []
    intact = 0
    removed = []
    for one in store.authority(name).all:
        if one.manifest.authority.host != host:
            continue
        if intact >= max(count, 1):
            removed.append(store.remove(one))
        elif one.damage is None:
            intact += 1
    return removed


def of_place(store: Store, host: t.Optional[str], place: t.Mapping[str, t.Any]) -> t.List[AuthorityDirectory]:
    """Where nothing of a CA is left on the host: those whose newest set names this host and the place that was given."""
    found = []
    for one in store.authorities():
        authority = one.latest.manifest.authority if one.latest else None
        named = ("config_file", "directory", "name")
        if authority and authority.host == host and all(place.get(n) in (None, getattr(authority, n)) for n in named):
            found.append(one)
    return found


def given_set(path: str) -> Stored:
    """What the option C(set) names: a set's directory, or an authority's directory (its newest). Raises KeywardError."""
    if os.path.exists(os.path.join(path, MANIFEST)):
        return read_stored(path, SETS)
    newest = AuthorityDirectory(path, SETS).newest
    if newest is None:
        raise KeywardError(
            f"{path} is no set", "no intact set lies in it", "Give a set's directory, or an authority's directory in a store"
        )
    return newest


def set_name(manifest: SetManifest) -> str:
    return f"{manifest.sequence:06d}-{name_time()}"


def set_result(manifest: SetManifest, paths: t.Sequence[str]) -> Answer:
    return {
        "id": manifest.id,
        "paths": list(paths),
        "created": manifest.created,
        "as_of": manifest.as_of,
        "files": [dict(vars(file)) for file in manifest.files],
        "members": manifest.members,
    }


def _known(authority: Authority, reading: Facts, directory: t.Optional[AuthorityDirectory]) -> Authority:
    own = directory.latest.manifest.authority.id if directory and directory.latest else None
    return replace(authority, id=own or authority_id(reading.generations))


def _into_host_store(survey: Survey, reading: Facts, state: State, request: Request, check: bool) -> Answer:
    store = Store(request["host_store"], SETS)
    store.refuse_if_not_writable()
    live = replace(reading.authority, host=request.get("host"))
    directory = recognise(store.authorities(), live, reading.generations)
    newest = directory.newest if directory else None
    refuse_emptied(state, reading.generations, newest.manifest if newest else None)
    age = age_in_seconds(request["max_age"]) if request.get("max_age") else None
    reasons = due_reasons(state, newest.manifest if newest else None, age, now())
    answer: Answer = {
        "reasons": [reason.as_result() for reason in reasons],
        "set": set_result(newest.manifest, [newest.path]) if newest else None,
        "left_out": [],
        "removed": [],
        "store_advisories": [advisory.as_result() for advisory in (directory.advisories if directory else [])],
        "id": _known(live, reading, directory).id if directory else None,
    }
    if not reasons or check:
        return answer
    authority = _known(live, reading, directory)
    with store.stage() as staged:
        with staged.guarded():
            made = make_files(survey, staged.path, reading)
        with store.locked():
            directory = store.authority(directory.name if directory else directory_name(authority))
            about = {**request["made"], "reason": reasons[0].code}
            manifest = set_manifest(made, authority, reading.generations, directory, about)
            path = staged.commit(document(manifest.as_json()), directory.name, set_name(manifest))
            removed = keep(store, directory.name, request.get("keep_full_sets"), manifest.authority.host)
    event = {"event": "set", "at": now_text(), "controller": request["made"]["controller"], "host": request.get("host"), "set": manifest.id}
    store.record(directory.name, event)
    return {
        **answer,
        **made.as_answer(),
        "set": set_result(manifest, [path]),
        "removed": removed,
        "id": authority.id,
    }


# --- restore -----------------------------------------------------------------------------------------------------


def restore_database(which: Selector, request: Request, check: bool) -> Answer:
    """Put back what the host lacks of a set; without C(request["restore"]) only look, at the CA or at C(request["host_store"]).

    C(request["restore"]): manifest and either folder (of the set's files) or host_store; part, on_conflict, published, advance.
    Raises KeywardError, NothingThere.
    """
    backend = OpensslBackend(which)
    if "restore" not in request and not request.get("host_store"):
        return facts(backend.facts())
    reading: t.Optional[Facts] = None
    with contextlib.suppress(NothingThere):
        reading = backend.facts()
    if "restore" not in request:
        stored = _of_host_store(Store(request["host_store"], SETS), which, reading, request.get("host"))
        return {"changed": False, "manifest": stored.manifest.as_json()}
    options: t.Mapping[str, t.Any] = request["restore"]
    if options.get("host_store"):
        stored = _of_host_store(Store(options["host_store"], SETS), which, reading, request.get("host"))
    else:
        stored = Stored(options["folder"], set_manifest_from_json(options["manifest"]), SETS)
    if stored.damage:
        raise KeywardError(
            "nothing was restored", f"the set can't be used: {stored.damage}", "Use another set, or another copy of this one"
        )
    if reading:
        live = replace(reading.authority, host=request.get("host"))
        refuse_foreign(live, reading.generations, stored.manifest.authority, stored.manifest.generations)
    answer = _Restore(which, backend, stored, options, check).carry_out()
    if options.get("host_store") and answer["changed"] and not check:
        event = {
            "event": "restore",
            "at": now_text(),
            "controller": options["controller"],
            "host": request.get("host"),
            "set": stored.manifest.id,
        }
        Store(options["host_store"], SETS).record(os.path.basename(os.path.dirname(stored.path)), event)
    return {**answer, "set": set_result(stored.manifest, [stored.path]), "manifest": stored.manifest.as_json()}


def _of_host_store(store: Store, which: Selector, reading: t.Optional[Facts], host: t.Optional[str]) -> Stored:
    if reading:
        found = recognise(store.authorities(), replace(reading.authority, host=host), reading.generations)
        directories = [found] if found else []
    else:
        directories = of_place(store, host, {"config_file": which.config_file, "directory": which.directory, "name": which.name})
    newest = only_set(directories, host)
    return newest


def only_set(directories: t.Sequence[AuthorityDirectory], host: t.Optional[str]) -> Stored:
    """The newest intact set of the only authority. Raises KeywardError."""
    if len(directories) > 1:
        raise KeywardError(
            "nothing was restored",
            f"it can't be told which authority of {host} is meant: " + " or ".join(sorted(one.name for one in directories)),
            "Name one: give its directory in the store as set, or its config_file and name",
        )
    newest = directories[0].newest if directories else None
    if newest is None:
        raise KeywardError(
            "nothing was restored", f"no intact set of this authority on {host} is stored", "Mount the right store, or name a set (set)"
        )
    return newest


@dataclass(frozen=True)
class _Item:
    """A member in its place on this host, and what is there: missing, same, different, or shortened (a certificate without its chain)."""

    member: Member
    path: str
    there: str


class _Places:
    """Where the files of a CA lie that a set of it may hold, links in the way followed."""

    def __init__(self, backend: OpensslBackend, config_file: str) -> None:
        files = backend.files()
        beside = os.path.dirname(files.new_certificates or files.database or backend.directory)
        trees = [backend.directory, files.new_certificates, files.certificates, files.crl_directory]
        trees += [os.path.join(beside, name) for name in _REQUESTS]
        named = [files.certificate, files.database, files.serial, files.crl_number, files.crl]
        self._trees = {path for tree in trees if tree for path in (_canonical(tree), os.path.realpath(tree))}
        self._exact = {_canonical(path) for path in OpensslConfig(config_file, backend.directory).files}
        self._exact |= {os.path.dirname(_canonical(path)) for path in (files.certificate, files.database) if path}
        # Also cacert.0.pem beside cacert.pem, and index.txt.old.
        self._stems = {os.path.splitext(_canonical(path))[0] + "." for path in named if path}
        self._stems |= {_canonical(path) + "." for path in named if path}
        self._exact |= {_canonical(path) for path in named if path}
        self._requests = os.path.dirname(_canonical(files.certificate))

    def __contains__(self, path: str) -> bool:
        path = _canonical(path)
        folder, name = os.path.split(path)
        return (
            path in self._exact
            or any(path == tree or path.startswith(tree.rstrip("/") + "/") for tree in self._trees)
            or any(path.startswith(stem) and "/" not in path[len(stem) :] for stem in self._stems)
            or (folder == self._requests and name.endswith((".csr", ".req")))
        )


def _canonical(path: str) -> str:
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


class _Restore:
    def __init__(self, which: Selector, backend: OpensslBackend, stored: Stored, options: t.Mapping[str, t.Any], check: bool) -> None:
        self._which, self._backend, self._stored, self._options, self._check = which, backend, stored, options, check
        self._archive = os.path.join(stored.path, ARCHIVE)
        self._members = read_members(os.path.join(stored.path, MEMBERS))
        self._aside = options["on_conflict"] == "set_aside"
        self._set_aside: t.List[Answer] = []
        self._restored: t.List[Answer] = []
        self._texts: t.Dict[str, bytes] = {}
        self._more = False
        self._further: t.Set[str] = set()  # the numbers (parts) in which the host is beyond the set
        self._places: t.Optional[_Places] = None

    def carry_out(self) -> Answer:
        items = self._compared()
        if self._options["part"] == "configuration":
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
        left = [item for item in left if item.member.part not in self._further]
        texts = self._changed_texts(items, ours, base, outcome, replaced)
        self._put_back(left, texts)
        return self._answer(outcome, published)

    # --- looking ---

    def _place(self, path: str) -> str:
        old, new = self._stored.manifest.authority, self._backend
        if path == old.config_file and new.config_file:
            return new.config_file
        if path == old.directory:
            return new.directory
        if path.startswith(old.directory.rstrip("/") + "/"):
            return os.path.join(new.directory, path[len(old.directory.rstrip("/")) + 1 :])
        return path

    def _compared(self) -> t.List[_Item]:
        """Every member, read to its end and proved, beside what is in its place."""
        items = []
        keys = self._key_places()
        for member, stream in open_archive(self._archive, self._members):
            path = self._place(member.path)
            if path in keys:
                raise KeywardError("nothing was restored", f"the set holds a file for a private key's place, {path}", "Use another set")
            if stream and member.part in ("index", "serial", "crl_number", "attributes"):
                self._texts[member.part] = stream.read(LARGEST_INDEX)
            there = _compare(member, path)
            if stream and there == "different" and member.part == "certificate" and _lacks_chain(path, stream.read(LARGEST_INPUT)):
                there = "shortened"
            items.append(_Item(member, path, there))
        prove_archive(self._archive, self._members)
        main = self._backend.config_file
        if main and any(item.path == main and item.there == "same" for item in items):
            with contextlib.suppress(KeywardError):
                self._places = _Places(self._backend, main)
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

    def _key_places(self) -> t.Set[str]:
        try:
            private_key = self._backend.files().private_key
        except KeywardError:
            return set()
        return {private_key, staged_path(private_key), *(path for _n, path in older_files(private_key))} if private_key else set()

    def _base(self, items: t.Sequence[_Item]) -> t.Tuple[Numbers, Numbers, bool]:
        """(the database on the host, the one to go on from, whether that is the set's)."""
        paths = {item.member.part: item.path for item in items}
        texts = {part: self._texts[part] for part in self._texts}
        theirs = Numbers(
            parse_index(texts.get("index", b"").decode("utf-8", "surrogateescape"), "of the set"),
            _parse_number(texts["serial"], "serial of the set") if "serial" in texts else None,
            _parse_number(texts["crl_number"], "crlnumber of the set") if "crl_number" in texts else None,
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
            return ours, ours, False
        if theirs.covers(ours):
            return ours, theirs, True
        core = [item for item in items if item.member.part in ("index", "serial", "crl_number") and item.there == "different"]
        self._refuse(core, "the database on the host has entries that the set lacks, and lacks some that it has")
        return ours, theirs, True

    def _live(self, paths: t.Mapping[str, str]) -> Numbers:
        try:
            return read_numbers(Files("", "", None, None, paths.get("index", ""), paths.get("serial"), paths.get("crl_number")))
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
        given = self._options.get("advance")
        return {name: int(value, 16) for name, value in given.items()} if isinstance(given, dict) else given

    def _unique_subject(self) -> bool:
        """As openssl ca decides it: by the file beside the database, else by the configuration, else yes."""
        config_file = self._backend.config_file
        text = self._texts.get("attributes", b"").decode("utf-8", "replace")
        with contextlib.suppress(KeywardError, FileNotFoundError):
            if not text and config_file:
                config, files = OpensslConfig(config_file, self._backend.directory), self._backend.files()
                text = f"unique_subject = {config.get(files.section, 'unique_subject') or 'yes'}"
        found = re.search(r"^\s*unique_subject\s*=\s*(\S)", text, re.MULTILINE)
        return not (found and found.group(1) in "fFnN0")

    def _ca_expires(self) -> str:
        text = self._stored.manifest.generations[-1].not_after
        return index_time(parse_time(text))

    def _published(self, items: t.Sequence[_Item]) -> Published:
        """What the controller read, and certificates that lie on the host though the set does not know them."""
        given = self._options["published"]
        issued = [Issued(int(serial, 16), expires, subject, where) for serial, expires, subject, where in given["issued"]]
        folders = {os.path.dirname(item.path) for item in items if item.member.part == "issued"}
        seen = {item.path for item in items}
        signers = [_x509.load(generation.certificate) for generation in self._stored.manifest.generations]
        for folder in sorted(folders):
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    path = os.path.join(folder, name)
                    if path not in seen and name.endswith(".pem"):
                        issued += issued_in(path, signers)
        return Published(
            [int(number, 16) for number in given["crl_numbers"]],
            [Revocation(int(serial, 16), at, why) for serial, at, why in given["revocations"]],
            issued,
            given["compared"],
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
            if item.member.part in ("companion", "crl"):
                replacing = replacing and self._aside
            if missing or (replacing and (item.member.part in core or self._aside)):
                wanted[item.member.path] = item
        changed = {part: data for part, data in texts.items() if part in core}
        for item in wanted.values():
            self._restored.append({"path": item.path, "part": _part(item.member.part)})
        for part in changed:
            path = self._core_path(part)
            if path not in [one["path"] for one in self._restored]:
                self._restored.append({"path": path, "part": "database"})
        if self._check:
            self._set_aside = [{"path": i.path, "kept_as": None} for i in wanted.values() if i.there == "different" and self._aside]
            return
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = ""
        try:
            late: t.List[t.Tuple[str, str, Member]] = []
            directories = []
            for member, stream in open_archive(self._archive, self._members) if wanted else ():
                if member.path not in wanted:
                    continue
                item = wanted[member.path]
                path = item.path
                self._refuse_outside(item)  # once more: what was written meanwhile may be a link
                if member.type == "directory":
                    made = make_directories(path, int(member.mode, 8))
                    if made:
                        owner = _owner(member) if os.geteuid() == 0 else (-1, -1)
                        set_owner_and_mode(path, int(member.mode, 8), *owner, os.O_DIRECTORY)
                        directories.append(item)
                    continue
                make_directories(os.path.dirname(path), 0o755)
                if item.there == "different" and self._aside:
                    self._set_aside.append({"path": path, "kept_as": move_aside(path, when)})
                if member.type == "link":
                    os.symlink(t.cast(str, member.target), path)
                    if os.geteuid() == 0:
                        os.chown(path, *_owner(member), follow_symlinks=False)
                    continue
                staged = _staged(path, stream, member, changed.pop(member.part, None) if member.part in core else None)
                if member.part in core:
                    late.append((staged, path, member))
                else:
                    _take_place(staged, path, item.there in ("different", "shortened"))
            for part, data in changed.items():
                path = self._core_path(part)
                like = next(member for member in self._members if member.part == part)
                late.append((_staged(path, None, like, data), path, like))
            order = {"index": 0, "crl_number": 1, "serial": 2}
            # The numbers go on before the rows do: a run killed in between hands out no number twice.
            for staged, path, _member in sorted(late, key=lambda one: -order[one[2].part]):
                _take_place(staged, path, True)
            for item in reversed(directories):
                os.utime(item.path, ns=(item.member.mtime, item.member.mtime), follow_symlinks=False)
        except OSError as exc:
            raise KeywardError(
                f"{path} could not be put back",
                os_cause(exc),
                "Put that right and run the task again: it goes on where it stopped, and what was set aside is still there",
            ) from exc

    def _core_path(self, part: str) -> str:
        return self._place(next(member.path for member in self._members if member.part == part))

    def _answer(self, outcome: t.Optional[Outcome], published: t.Optional[Published]) -> Answer:
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
        advanced = {name: _hex(number) for name, number in outcome.advanced.items()} if outcome else {}
        return {
            "changed": bool(self._restored),
            "restored": self._restored,
            "set_aside": self._set_aside,
            "next_serial": _hex(numbers.next_serial) if numbers else manifest.state.next_serial,
            "next_crl_number": _hex(numbers.next_crl_number) if numbers else manifest.state.next_crl_number,
            "advanced": advanced if any(advanced.values()) else None,
            "reentered": [
                {"serial": even_hex(one.serial), "revoked_at": one.at, "reason": one.reason}
                for one in (outcome.reentered if outcome else ())
            ],
            "advisories": [advisory.as_result() for advisory in advisories],
        }


def _part(part: str) -> str:
    return "database" if part in ("index", "serial", "crl_number", "attributes", "companion") else part


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
    return "same" if _digest_or_none(path) == member.sha256 else "different"


def _lacks_chain(path: str, whole: bytes) -> bool:
    """Whether a file holds the set's CA certificate without those of the CAs above it: a restored key brings only its own."""
    certificates = pem_certificates(whole)
    return len(certificates) > 1 and pem_certificates(read_file(path, "the CA certificate", LARGEST_INPUT)) == certificates[:1]


def issued_in(path: str, signers: t.Sequence[t.Any]) -> t.List[Issued]:
    """The certificate of a PEM or DER file, where one of the CA's generations signed it."""
    try:
        parsed = _x509.load(read_file(path, "the certificate"))
    except (KeywardError, ValueError, FileNotFoundError):
        return []
    if _x509.is_self_signed(parsed) or not any(_x509.is_issued_by(parsed, signer) for signer in signers):
        return []
    expires = index_time(_x509.validity(parsed)[1])
    return [Issued(parsed.serial_number, expires, one_line(parsed.subject), os.path.basename(path))]


def _staged(path: str, stream: t.Optional[t.IO[bytes]], member: Member, data: t.Optional[bytes]) -> str:
    """A file whole beside its place; its name. Raises OSError."""
    make_directories(os.path.dirname(path), 0o755)
    staged = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{secrets.token_hex(4)}.new")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            if data is not None:
                out.write(data)
            else:
                for piece in iter(lambda: t.cast(t.IO[bytes], stream).read(_CHUNK), b""):
                    out.write(piece)
            out.flush()
            # Not by its name: whoever owns the directory may give that to another file meanwhile.
            uid, gid = _owner(member)
            if os.geteuid() == 0:
                os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, int(member.mode, 8) & 0o777)
            if data is None:
                os.utime(descriptor, ns=(member.mtime, member.mtime))
            os.fsync(descriptor)
        if data is None and digest_of(staged) != member.sha256:
            raise OSError(5, "the file does not hold what was written")
    except BaseException:
        os.unlink(staged)
        raise
    return staged


def _owner(member: Member) -> t.Tuple[int, int]:
    import grp
    import pwd

    uid, gid = member.uid, member.gid
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(member.owner).pw_uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(member.group).gr_gid
    return uid, gid


def _take_place(staged: str, path: str, replacing: bool) -> None:
    try:
        if replacing:
            os.replace(staged, path)
        else:
            os.link(staged, path, follow_symlinks=False)
            os.unlink(staged)
        sync_directory(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        raise
