# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a CA that consists of files, whatever software signs with them; may change in any release.

A backend of such a CA derives from C(FileCa) and answers where its files are.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import stat
import typing as t
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _outline
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, RenewedMeanwhile, Selector, Waiting, told
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import (
    Files,
    GenerationFiles,
    absolute,
    request_path,
    staged_path,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT, KeyFile
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, slug, uncovered
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities, DatabaseFacts, PendingRequest
from ansible_collections.keyward.pki.plugins.module_utils._outline import same_name
from ansible_collections.keyward.pki.plugins.module_utils._time import now, now_text, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import request_der, short_subject, spki_sha256

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._orders import keys

CLOCK_OFF = timedelta(days=1)
LARGEST_DATABASE = 1 << 30  # bytes of an index.txt


def part(name: str) -> t.Any:
    """A module of this toolbox, loaded where an order needs it.

    Not by a statement: what that names, Ansible sends with every module. The public modules name what their own orders need.
    """
    return importlib.import_module(f"{__package__}.{name}")


class FileCa:
    """What every CA of files shares. C(directory): where its relative paths count from."""

    NAME: t.ClassVar[str]
    ABILITIES: t.ClassVar[Abilities] = Abilities()
    FIXED: t.ClassVar[bool] = False  # whether its directory alone says where its files are
    MODE: t.ClassVar[int] = 0o755  # of that directory, where it is made

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.config_file: t.Optional[str] = None
        if selector.config_file is not None:
            self.config_file = absolute(selector.directory or "", selector.config_file)
            base = selector.directory or os.path.dirname(self.config_file)
        else:
            base = selector.directory or os.path.dirname(selector.certificate_file or "")
        self.directory = absolute("", base)
        self._stated_from = self.directory if selector.directory or self.config_file else os.getcwd()
        self._generation_files = GenerationFiles(selector, self.stated_path)
        self.key_file: t.Callable[[str, t.Optional[str]], t.Optional[KeyFile]] = self._generation_files.key_file
        self.finds_older: t.Callable[[Files], bool] = self._generation_files.finds_older
        self.passphrase: t.Callable[[Generation], t.Optional[str]] = self._generation_files.passphrase
        self.known_facts: t.Optional[Facts] = None

    @classmethod
    def claims(cls, selector: Selector) -> bool:
        """Whether these options mean a CA of this software (backend: auto)."""
        raise NotImplementedError

    def files(self) -> Files:
        """Where its files are. Raises KeywardError, NothingThere where what says so does not exist."""
        raise NotImplementedError

    def configuration(self) -> t.List[str]:
        """The files that configure it. Raises KeywardError, FileNotFoundError where what is named does not exist."""
        return []

    def setting(self, name: str) -> t.Optional[str]:
        """What its configuration says of it under a name of C(openssl ca). Raises as C(configuration)."""
        return None

    def runs(self, path: str) -> t.List[str]:
        """How the CA's software runs a file of its configuration, as clauses."""
        return []

    def urls_said(self) -> t.Set[str]:
        """The URLs in its configuration, which the certificates that it issues name."""
        return set()

    def beside(self, directory: str) -> t.List[str]:
        """Paths outside the CA's directory that belong to it: wherever the CA lies, the same ones in the same order."""
        return []

    def passphrases_said(self) -> t.List[t.Tuple[str, str]]:
        """The files of its configuration that hold a passphrase, each with the name of the setting. Raises as C(configuration)."""
        return []

    def settings_not_read(self) -> t.List[str]:
        """What it would sign by and nobody here can tell, each as the beginning of a sentence."""
        return []

    def signing(self, files: Files, scratch: str) -> t.Any:
        """What C(openssl ca) signs by, for the commands; C(scratch): a directory for what it must be given. None where nothing says it."""
        return None

    def subordinate(self, files: Files, extensions: str) -> t.List[str]:
        """What C(openssl ca) must be told so that the certificate is that of a CA. Raises KeywardError where it would not be."""
        return ["-extensions", extensions]

    def file_issued(self, issued: Generation) -> None:
        """Put an issued certificate where the software looks for it. Called on every request for it, also when it is there."""

    def lay_out(self, order: t.Any, check: bool) -> bool:
        """Create what a CA of this software has beside keys and certificates; whether something was missing. Existing files stay.

        Raises KeywardError where the order can't be carried out by this software.
        """
        return t.cast("bool", part("installing").lay_out(self.files(), check))

    def stated_path(self, path: str) -> str:
        return absolute(self._stated_from, path)

    @property
    def stated(self) -> t.Set[str]:
        """The files that the options name."""
        paths = [self.selector.certificate_file, self.selector.private_key_file]
        for one in self.selector.older or ():
            paths += [one.certificate_file, one.private_key_file]
        return {self.stated_path(path) for path in paths if path}

    def again(self) -> FileCa:
        """The same CA, to be read anew."""
        return type(self)(self.selector)

    def alone(self, files: Files, what: str, check: bool) -> t.ContextManager[t.Tuple[int, ...]]:
        """Keeps other runs from changing this CA meanwhile, other than in check mode. Yields what a program holds the locks by."""
        from ansible_collections.keyward.pki.plugins.module_utils._lock import locked, wait_until_gone

        wait_until_gone(files.lock, what, check)
        if check:
            return contextlib.nullcontext(())
        return locked([os.path.dirname(path) for path in (files.certificate, files.database) if path], what)

    def as_decided(self, of: t.Optional[str], what: str, at: t.Optional[str] = None) -> Facts:
        """The authority as it is, under its lock. Raises RenewedMeanwhile unless C(of) is its newest generation.

        C(at): the controller's time, where something is to be signed; KeywardError where the clock of this host is a day off.
        """
        if at and abs(now() - parse_time(at)) > CLOCK_OFF:
            why = f"the clock of this host says {now_text()}, and that of the controller {at}"
            raise KeywardError(what, why, "Set the clock that is wrong: what is signed has the time of this host")
        facts = self.facts()
        newest = facts.generations[-1]
        if newest.sha256 != of:
            why = f"the CA {newest.subject} was renewed meanwhile, and its certificate is now {newest.label}"
            raise RenewedMeanwhile(what, why, "Run the task again: it decides by that certificate")
        return facts

    def facts(self) -> Facts:
        """The authority as it is on this host. Raises KeywardError where it can't be told, NothingThere where it is gone."""
        files = self.files()
        try:
            found = self._generation_files.read(files)
        except NothingThere as exc:
            waiting = self.waiting(files)
            if waiting is None:
                raise
            raise Waiting(waiting) from exc
        current = found.generations[-1]
        unread = [
            Finding("setting_not_read", f"{said}: nothing is signed until it is written plainly") for said in self.settings_not_read()
        ]
        self.known_facts = Facts(
            authority=Authority(
                backend=self.NAME,
                name=files.section,
                sanitized_name=slug(short_subject(current.certificate)),
                subject=current.subject,
                directory=self.directory,
                place=self.place_of(files),
            ),
            generations=found.generations,
            private_keys=found.private_keys,
            chain=found.chain,
            database=_database(files),
            pending_request=self._pending_request(files, found.generations),
            unfinished=found.unswitched,
            advisories=(*found.advisories, *self._passphrases_beside(found.generations), *unread),
        )
        return self.known_facts

    def _passphrases_beside(self, generations: t.Sequence[Generation]) -> t.List[Finding]:
        """Findings for encrypted keys whose passphrase lies beside them."""
        if not any(generation.encrypted_at_rest for generation in generations):
            return []
        from ansible_collections.keyward.pki.plugins.module_utils._file_ca.passphrases import files_beside, said_in

        said = [said_in(path, name) for path, name in self.passphrases_said()]
        return said + files_beside(generations, self.selector.private_key_passphrase)

    def place_of(self, files: Files) -> t.Dict[str, str]:
        """The options that lead to this CA, wherever a task runs: its configuration, or where there is none its files."""
        stated = self.selector
        told = self.FIXED or self.config_file
        # Without a configuration there is no section: it may get one later.
        place = {"config_file": self.config_file, "directory": self.directory, "name": files.section if told else stated.name}
        if stated.certificate_file or not told:
            place["certificate_file"] = files.certificate
        if stated.private_key_file or not told:
            place["private_key_file"] = files.private_key or files.token
        return {option: value for option, value in place.items() if value}

    def places(self, generations: t.Sequence[Generation], directory: t.Optional[str]) -> t.Dict[str, Generation]:
        return t.cast("t.Dict[str, Generation]", part("places").places(self, generations, directory))

    # --- orders, as C(Backend) types them; what carries one out is loaded only for it ---

    def export_keys(self, order: keys.ExportKeys, check: bool) -> keys.Exported:
        from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import Exported, File

        facts = self.facts()
        files: t.Tuple[File, ...] = ()
        due = uncovered(facts.generations, order.covered)
        # If a key is nowhere, the task fails on the controller: no other key needs to travel.
        if due and all(each.public_key_sha256 in {*facts.private_keys, *order.carried} for each in due):
            from ansible_collections.keyward.pki.plugins.module_utils._sealing import ONE_TIME_ITERATIONS, refuse_unsealable, seal

            here = [generation for generation in facts.generations if generation.public_key_sha256 in facts.private_keys]
            refuse_unsealable(here, facts.private_keys)
            if here and order.one_time_password and not check:
                content = seal(here, facts.private_keys, facts.chain, order.one_time_password, ONE_TIME_ITERATIONS)
                files = (File("keys.p12", content),)
        return t.cast(Exported, told(self, facts, Exported, files=files))

    def import_keys(self, order: t.Any, check: bool) -> t.Any:
        return part("key_restore").import_keys(self, order, check)

    def install(self, order: t.Any, check: bool) -> t.Any:
        return part("installing").install(self, order, check)

    def renew(self, order: t.Any, check: bool) -> t.Any:
        return part("switch").renew(self, order, check)

    def answer(self, order: t.Any, check: bool) -> t.Any:
        if order.of is None:
            return part("installing").answer_first(self, order, check)
        return part("switch").answer(self, order, check)

    def sign(self, order: t.Any, check: bool) -> t.Any:
        return part("issuing").sign(self, order, check)

    def crls(self, order: t.Any, check: bool) -> t.Any:
        return part("crls").crls(self, order, check)

    def database(self) -> t.Any:
        return part("database").FileDatabase(self)

    def _pending_request(self, files: Files, generations: t.Sequence[Generation]) -> t.Optional[PendingRequest]:
        waiting, stem = request_path(files.certificate), os.path.splitext(files.certificate)[0]
        own = _outline.certificate(generations[-1].certificate).subject
        others = (f"{stem}.csr", f"{stem}.req", os.path.join(os.path.dirname(files.certificate), "careq.pem"))
        for path in (waiting, *([files.request] if files.request else others)):
            try:
                data = read_file(path, "the request", LARGEST_INPUT)
                request = _outline.request(request_der(data))
                digest, ours = spki_sha256(request.public_key), same_name(request.issuer, own)
            except (FileNotFoundError, KeywardError, ValueError):
                continue
            unanswered = path == waiting or all(digest != generation.public_key_sha256 for generation in generations)
            subject = generations[-1].subject
            if ours and unanswered:
                if path != waiting:
                    return PendingRequest(path, subject, digest, answerable=False)
                lacks = self._missing_key(files, digest, generations[-1])
                return PendingRequest(path, subject, digest, data.decode("ascii", "replace"), lacks_key=lacks)
        return None

    def waiting(self, files: Files) -> t.Optional[Facts]:
        """What is there of a CA that an installation made, and that waits for its first certificate."""
        path = request_path(files.certificate)
        data = None if os.path.lexists(files.certificate) else read_if_there(path, "the request", LARGEST_INPUT)
        try:
            request = _outline.request(request_der(data or b""))
            subject, digest = _outline.rfc4514(request.issuer), spki_sha256(request.public_key)
        except ValueError:
            return None
        authority = Authority(
            backend=self.NAME,
            name=files.section,
            sanitized_name=slug(_outline.short_name(request.issuer)),
            subject=subject,
            directory=self.directory,
            place=self.place_of(files),
        )
        key = self.key_file(files.private_key, self.selector.private_key_passphrase) if files.private_key else None
        lacks = None if key and key.digest == digest else files.private_key
        pending = PendingRequest(path, subject, digest, (data or b"").decode("ascii", "replace"), lacks_key=lacks)
        return Facts(authority, (), {}, (), _database(files), pending)

    def _missing_key(self, files: Files, digest: str, current: Generation) -> t.Optional[str]:
        """Where the request's private key belongs, if it is missing: then no answer to the request can be used."""
        belongs = staged_path(files.private_key or "")
        waiting = self.key_file(belongs, self.selector.private_key_passphrase) if files.private_key else None
        return None if digest in (current.public_key_sha256, waiting.digest if waiting else None) else belongs


def _database(files: Files) -> DatabaseFacts:
    return DatabaseFacts(
        path=files.database,
        exists=bool(files.database and os.path.exists(files.database)),
        entries=_lines_in(files.database),
        serial=None if files.random_serials else _hex_in(files.serial),
        crl_number=_hex_in(files.crl_number),
    )


def _lines_in(path: t.Optional[str]) -> t.Optional[int]:
    if not path:
        return None
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_DATABASE:
                return None
            lines, last = 0, b"\n"
            for piece in iter(lambda: stream.read(LARGEST_INPUT), b""):
                lines, last = lines + piece.count(b"\n"), piece[-1:]
            return lines + (last != b"\n")
    except OSError:
        return None


def _hex_in(path: t.Optional[str]) -> t.Optional[str]:
    if not path:
        return None
    try:
        text = read_file(path, "the number", LARGEST_INPUT).strip()
    except (FileNotFoundError, KeywardError):
        return None
    return text.decode("ascii") if re.match(rb"[0-9A-Fa-f]+\Z", text) else None
