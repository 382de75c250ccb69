# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: installing and renewing a CA whose keys and certificates are files; may change in any release.

A renewal completes the new key and certificate beside the old ones, as C(cakey.next.pem) and C(cacert.next.pem), and then
switches, in steps of which each leaves every generation readable. Whatever step a run was killed after, the next one goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import typing as t
from dataclasses import dataclass
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, older_path, request_path, staged_path
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT, load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_template import configuration
from ansible_collections.keyward.pki.plugins.module_utils._files import (
    StagedFile,
    make_directories,
    owner_numbers,
    read_file,
    sync_directory,
)
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, Place, generation_of, slug
from ansible_collections.keyward.pki.plugins.module_utils._host import Answer, Request, facts
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import (
    given_certificates,
    refuse_endless,
    refuse_wrong_answer,
    renewal_reasons,
)
from ansible_collections.keyward.pki.plugins.module_utils._restoration import key_bytes, restore_generations
from ansible_collections.keyward.pki.plugins.module_utils._time import now
from ansible_collections.keyward.pki.plugins.module_utils._verdict import open_bundle
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem, pem_certificates, public_key_sha256

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the modules say which library is missing
    pass

DEFAULT_SECTION = "CA_default"


# --- renewal -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Where a CA has its certificate and its key, and where those of its next generation wait."""

    certificate: str
    private_key: str

    @property
    def next_certificate(self) -> str:
        return staged_path(self.certificate)

    @property
    def next_private_key(self) -> str:
        return staged_path(self.private_key)

    @property
    def request(self) -> str:
        return request_path(self.certificate)


def renew(which: Selector, request: Request, check: bool) -> Answer:
    """Renew the CA certificate when that is due, or go on with a renewal that was begun.

    C(request): reuse_key, remaining_days, issued_before (ISO 8601), days, certificate (PEM). Raises KeywardError.
    """
    backend = OpensslBackend(which)
    reading = backend.facts()
    pair = _pair_of(reading, backend.files())
    with _alone(os.path.dirname(pair.certificate), check):
        return _Renewal(which, reading, pair, request, check).carry_out()


def _pair_of(reading: Facts, files: Files) -> _Pair:
    current = reading.generations[-1]
    refusal = None
    if current.exportable is False or files.private_key is None:
        refusal = ("its private key is in a token", "Renew it with the tools of the token, and keep the old certificate as cacert.<n>.pem")
    elif current.private_key == "missing":
        refusal = ("its private key is missing", "Put it back first (ca_key_restore)")
    elif current.private_key != "present" or current.key_place is None:
        refusal = ("its private key can't be used", "Give private_key_passphrase, or become a user that may read the key")
    elif os.path.realpath(files.certificate) == os.path.realpath(files.private_key):
        refusal = ("certificate and private key are in one file", "Put them into files of their own, and name these in the configuration")
    if refusal:
        raise KeywardError(f"the CA {current.subject} can't be renewed", *refusal)
    return _Pair(files.certificate, t.cast(str, files.private_key))


@contextlib.contextmanager
def _alone(directory: str, check: bool) -> t.Iterator[None]:
    """Keeps other runs from changing the same CA at the same time."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not check:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Renewal:
    def __init__(self, which: Selector, reading: Facts, pair: _Pair, request: Request, check: bool) -> None:
        self._which, self._reading, self._pair, self._request, self._check = which, reading, pair, request, check
        self._current = reading.generations[-1]
        self._certificate = x509.load_der_x509_certificate(self._current.certificate)
        self._next_key = load_key_file(pair.next_private_key, which.private_key_passphrase)
        self._passphrase = OpensslBackend(which).passphrase(self._current)

    def carry_out(self) -> Answer:
        unswitched = [
            g for g in self._reading.generations if g.certificate_place and g.certificate_place.path == self._pair.next_certificate
        ]
        if unswitched:
            return self._finish(unswitched[0])
        at_place = t.cast(Place, self._current.key_place).path
        if os.path.realpath(at_place) != os.path.realpath(self._pair.private_key):
            raise KeywardError(
                f"the CA {self._current.subject} can't be renewed",
                f"{self._pair.private_key} holds another key than that of its certificate, which is in {at_place}",
                "Find out which certificate that key belongs to: it may be one that is not here",
            )
        if os.path.lexists(self._pair.next_certificate):
            raise KeywardError(
                f"the CA {self._current.subject} can't be renewed",
                f"{self._pair.next_certificate} is there and is no certificate of this CA",
                "Find out what it is and move it away",
            )
        if self._next_key and not self._next_key.key:
            raise KeywardError(
                f"the CA {self._current.subject} can't be renewed",
                f"a private key waits in {self._pair.next_private_key}, and it can't be used: {self._next_key.why}",
                f"{self._next_key.remedy}. If it is a leftover, move it away",
            )
        if _x509.is_self_signed(self._certificate):
            return self._root()
        return self._subordinate()

    def _refuse_stated(self) -> None:
        """Where the older generations are stated, the renewed one would not be among them, and nothing would look for it."""
        if self._which.older is not None:
            raise KeywardError(
                f"the CA {self._current.subject} can't be renewed",
                "its older generations are stated (option older), and the renewed one would not be among them",
                f"Move them beside the current files, as {older_path(self._pair.certificate, 0)}, {older_path(self._pair.private_key, 0)} "
                "and so on, and leave the option older out",
            )

    def _answer(self, reasons: t.Sequence[Finding] = (), **more: t.Any) -> Answer:
        changed = bool(more.get("changed"))
        reading = OpensslBackend(self._which).facts() if changed and not self._check else self._reading
        return {
            **facts(reading),
            "due": bool(reasons),
            "renewed": False,
            "pending": False,
            "request": None,
            "request_file": None,
            "reasons": [reason.as_result() for reason in reasons],
            **more,
        }

    def _root(self) -> Answer:
        if self._request.get("certificate"):
            raise KeywardError(
                f"the CA {self._current.subject} can't be renewed",
                "a certificate was given, and this is a root: it signs its own",
                "Leave certificate out",
            )
        reasons = renewal_reasons(self._current, self._request)
        if not reasons:
            return self._answer()
        self._refuse_stated()
        start, end = _x509.validity(self._certificate)
        days, begin = self._request.get("days"), now()
        refuse_endless(self._current, self._request, begin, begin + (timedelta(days=days) if days else end - start))
        if self._check:
            return self._answer(reasons, changed=True, renewed=True)
        key = self._new_key()
        certificate = _x509.renewed_root(self._certificate, key, self._request.get("days"))
        self._write_certificate(certificate.public_bytes(serialization.Encoding.DER), [])
        self._switch()
        return self._answer(reasons, changed=True, renewed=True)

    def _finish(self, generation: Generation) -> Answer:
        fitting = {self._reading.generations[-1].public_key_sha256, self._next_key.digest if self._next_key else None}
        at_place = load_key_file(self._pair.private_key, self._passphrase)
        if generation.public_key_sha256 not in fitting and not (at_place and at_place.digest == generation.public_key_sha256):
            raise KeywardError(
                f"the CA {self._current.subject} can't be renewed",
                f"no private key here fits {self._pair.next_certificate}",
                f"Put it back as {self._pair.next_private_key}, or move that certificate away",
            )
        if not self._check:
            self._switch()
        finding = Finding("unfinished_renewal", f"{generation.label} was complete and not in its place", generation.sha256)
        return self._answer([finding], changed=True, renewed=True)

    def _subordinate(self) -> Answer:
        waiting = _read_if_there(self._pair.request, "the request")
        given = self._request.get("certificate")
        if given:
            return self._install_answer(given, bool(waiting))
        if waiting:
            self._refuse_lost_key(waiting)
            return self._answer(pending=True, request=waiting.decode("ascii", "replace"), request_file=self._pair.request)
        reasons = renewal_reasons(self._current, self._request)
        if not reasons:
            return self._answer()
        self._refuse_stated()
        refuse_endless(self._current, self._request, now(), datetime.max)
        text = None
        if not self._check:
            key = self._new_key()
            made = _x509.ca_request(key, self._certificate.subject, None, self._certificate)
            data = made.public_bytes(serialization.Encoding.PEM)
            _put(self._pair.request, data, 0o644, self._current.certificate_place)
            text = data.decode("ascii")
        return self._answer(reasons, changed=True, pending=True, request=text, request_file=self._pair.request)

    def _refuse_lost_key(self, waiting: bytes) -> None:
        """A request whose key is gone would be pending for ever: no answer to it can be used."""
        try:
            digest = public_key_sha256(x509.load_pem_x509_csr(waiting).public_key())
        except (ValueError, TypeError):
            digest = ""
        if digest not in (self._current.public_key_sha256, self._next_key.digest if self._next_key else None):
            raise KeywardError(
                f"the CA {self._current.subject} can't be renewed",
                f"the request {self._pair.request} waits for its answer, and its private key is not in {self._pair.next_private_key}",
                "Put that key back. If it is lost, move the request away, and the renewal begins again",
            )

    def _install_answer(self, given: str, requested: bool) -> Answer:
        certificates = given_certificates(given)
        known = {generation.sha256 for generation in self._reading.generations}
        answer = generation_of(certificates[0])
        if answer.sha256 in known:
            waiting = _read_if_there(self._pair.request, "the request")
            text = waiting.decode("ascii", "replace") if waiting else None
            return self._answer(pending=requested, request=text, request_file=self._pair.request if requested else None)
        if not requested:
            raise KeywardError(
                "the certificate was not put in place",
                "this CA has no pending request that it could answer",
                "Run ca_renew without it first",
            )
        self._refuse_stated()
        expected = (self._next_key.digest if self._next_key else None) or self._current.public_key_sha256
        refuse_wrong_answer(answer, expected, self._current.subject)
        days = self._request.get("remaining_days")
        _start, end = _x509.validity(x509.load_der_x509_certificate(answer.certificate))
        if days is not None and end - now() < timedelta(days=days):
            raise KeywardError(
                "the certificate was not put in place",
                f"it is valid until {answer.not_after}, fewer than remaining_days ({days}): each run would renew the CA again",
                "Give fewer remaining_days. Or have the parent CA revoke it, and sign the same request for more days",
            )
        finding = Finding("answered", f"{answer.label} answers the request", answer.sha256)
        if not self._check:
            chain = certificates[1:] or self._chain_in_place()
            self._write_certificate(certificates[0], chain)
            self._switch()
        return self._answer([finding], changed=True, renewed=True)

    def _chain_in_place(self) -> t.List[bytes]:
        return pem_certificates(read_file(self._pair.certificate, "the CA certificate", LARGEST_INPUT))[1:]

    def _new_key(self) -> t.Any:
        """The key of the next generation: the same, the one that waits already, or a new one, which waits from now on."""
        if self._next_key:
            return self._next_key.key
        if self._request["reuse_key"]:
            return self._reading.private_keys[self._current.public_key_sha256]
        key = _x509.key_like(self._certificate.public_key())
        place = t.cast(Place, self._current.key_place)
        _put(self._pair.next_private_key, key_bytes(key, place, self._passphrase, False), _mode(place, 0o600), place)
        self._next_key = load_key_file(self._pair.next_private_key, self._which.private_key_passphrase)
        return key

    def _write_certificate(self, certificate: bytes, chain: t.Sequence[bytes]) -> None:
        place = t.cast(Place, self._current.certificate_place)
        text = certificate if place.encoding == "DER" else "".join(map(pem, [certificate, *chain])).encode("ascii")
        _put(self._pair.next_certificate, text, _mode(place, 0o644), place)

    def _switch(self) -> None:
        """Each step leaves every generation readable, and is left out where an earlier run took it."""
        pair, path = self._pair, self._pair.certificate
        try:
            _keep(path, self._current.index)
            if os.path.lexists(pair.next_private_key):
                users = [g.index for g in self._reading.generations if g.public_key_sha256 == self._current.public_key_sha256]
                path = pair.private_key
                _keep(path, min(users))
                os.replace(pair.next_private_key, path)
                sync_directory(os.path.dirname(path))
            path = pair.request
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            path = pair.certificate
            os.replace(pair.next_certificate, path)
            sync_directory(os.path.dirname(path))
        except OSError as exc:
            raise KeywardError(
                f"the renewed certificate could not take its place: {path}",
                os_cause(exc),
                "Put that right and run the task again: it goes on where it stopped, and no generation is lost",
            ) from exc


def _keep(path: str, number: int) -> None:
    """Give a file that is about to be replaced the name of an older generation, too. It keeps its inode, owner and mode."""
    while True:
        kept = older_path(path, number)
        try:
            os.link(path, kept)
        except FileExistsError:
            if _same(path, kept):
                break
            number += 1
        except OSError:  # a file system without hard links
            status = os.stat(path)
            staged = StagedFile(kept, read_file(path, "the file"), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            try:
                staged.commit()
            finally:
                staged.discard()
        else:
            break
    sync_directory(os.path.dirname(path))


def _same(one: str, other: str) -> bool:
    return os.path.samefile(one, other) or read_file(one, "the file") == read_file(other, "the file")


def _mode(place: Place, otherwise: int) -> int:
    return int(place.mode, 8) if place.mode else otherwise


def _put(path: str, data: bytes, mode: int, like: t.Optional[Place] = None) -> None:
    """A whole new file, of the owner of another. Raises KeywardError, also where one is there."""
    owner, group = owner_numbers(like.owner, like.group, f"{path} was not written") if like else (-1, -1)
    try:
        staged = StagedFile(path, data, mode, owner, group)
        try:
            staged.commit()
        finally:
            staged.discard()
    except OSError as exc:
        raise KeywardError(f"{path} was not written", os_cause(exc), "Put that right and run the task again: nothing was replaced") from exc


def _read_if_there(path: str, what: str) -> t.Optional[bytes]:
    try:
        return read_file(path, what, LARGEST_INPUT)
    except FileNotFoundError:
        return None


# --- installation ------------------------------------------------------------------------------------------------


def install(which: Selector, request: Request, check: bool) -> Answer:
    """Make a CA where none is, or bring one back from a backup; without C(request["install"]) only look.

    C(request["install"]): kind, subject, key_type, key_size, curve, days, path_length, certificate. C(request["bundles"]), as
    for a restore: the CA is not made but brought back. Raises KeywardError, NothingThere where there is nothing to look at.
    """
    if "install" not in request:
        return facts(OpensslBackend(which).facts())
    return _Installation(which, request, check).carry_out()


class _Installation:
    def __init__(self, which: Selector, request: Request, check: bool) -> None:
        if which.config_file is None:
            raise KeywardError("the CA can't be installed", "no config_file was given", "Give the path that its openssl.cnf is to have")
        self._which, self._request, self._check = which, request, check
        self._backend = OpensslBackend(which)
        self._config_file = t.cast(str, self._backend.config_file)
        self._options: t.Mapping[str, t.Any] = request["install"]
        # What openssl takes in the name of a section (CONF, conf_def.h).
        if which.name and not re.match(r"[A-Za-z0-9_!.%&*+,/;?@^~|-]+( +[A-Za-z0-9_!.%&*+,/;?@^~|-]+)*\Z", which.name):
            raise KeywardError(
                "the CA can't be installed",
                f"its name, {which.name!r}, can't be that of a section in its openssl.cnf",
                "Give a name of ASCII letters, digits, '-', '_' and '.'",
            )

    def carry_out(self) -> Answer:
        there = os.path.exists(self._config_file)
        if self._check and not there:
            return self._predicted()
        changed = False
        if not there:
            self._write_configuration()
            changed = True
        files = self._backend.files()
        if files.private_key is None:
            raise KeywardError(
                "the CA can't be installed",
                f"its configuration says that its key is in a token: {files.token}",
                "Install it with the tools of the token",
            )
        with _alone(os.path.dirname(self._config_file), self._check):
            self._refuse_remains(files)
            changed = self._lay_out(files) or changed
            if "bundles" in self._request:
                return self._brought_back(changed)
            return self._made(files, changed)

    def _predicted(self) -> Answer:
        root = self._options["kind"] == "root"
        return self._outcome(None, True, pending=not root and not self._options.get("certificate"))

    def _outcome(self, reading: t.Optional[Facts], changed: bool, **more: t.Any) -> Answer:
        answer = facts(reading) if reading else {"authority": None, "generations": [], "advisories": []}
        return {**answer, "pending": False, "request": None, "request_file": None, "restored": [], **more, "changed": changed}

    def _write_configuration(self) -> None:
        directory = self._backend.directory
        _directories([directory, os.path.dirname(self._config_file)], 0o755)
        text = configuration(directory, self._which.name or DEFAULT_SECTION, self._options["key_type"])
        _put(self._config_file, text.encode("utf-8"), 0o644)

    def _refuse_remains(self, files: Files) -> None:
        """Where certificates were issued there was a CA: a new one in its place would issue their serial numbers again."""
        if os.path.lexists(files.certificate):
            raise KeywardError(
                "the CA can't be installed",
                f"{files.certificate} is there and is no certificate that can be read",
                "Find out what it is and move it away",
            )
        if "bundles" not in self._request and files.database and os.path.exists(files.database) and os.path.getsize(files.database):
            raise KeywardError(
                "the CA can't be installed",
                f"its database {files.database} has entries, so there was a CA here",
                "Bring that CA back (the playbook keyward.pki.restore). If this is to be another one, choose another directory",
            )

    def _lay_out(self, files: Files) -> bool:
        folders = [files.new_certificates, files.certificates, files.crl_directory]
        above = [os.path.dirname(path) for path in (files.certificate, files.database, files.serial, files.crl_number) if path]
        wanted = [path for path in [*above, *folders, self._requests(files)] if path]
        missing = [path for path in wanted if not os.path.isdir(path)]
        new = [(files.database, ""), (files.serial, _first_serial()), (files.crl_number, "01\n")]
        if files.database:
            new.append((files.database + ".attr", "unique_subject = no\n"))
        absent = [(path, text) for path, text in new if path and not os.path.lexists(path)]
        keys = os.path.dirname(t.cast(str, files.private_key))
        if not self._check:
            _directories([keys], 0o700)
            _directories(missing, 0o755)
            for path, text in absent:
                _put(path, text.encode("ascii"), 0o644)
        return bool(missing or absent)

    def _requests(self, files: Files) -> str:
        beside = files.new_certificates or files.certificate
        return os.path.join(os.path.dirname(beside), "requests")

    def _made(self, files: Files, changed: bool) -> Answer:
        private_key = t.cast(str, files.private_key)
        place = Place(private_key, mode="0600", encrypted_at_rest=bool(self._which.private_key_passphrase))
        there = load_key_file(private_key, self._which.private_key_passphrase)
        if there and not there.key:
            raise KeywardError("the CA can't be installed", f"its private key {private_key} can't be used: {there.why}", there.remedy)
        subject = _x509.subject_name(self._options.get("subject") or {})
        root = self._options["kind"] == "root"
        answer = self._options.get("certificate")
        if root and answer:
            raise KeywardError(
                "the CA can't be installed", "a certificate was given, and this is a root: it signs its own", "Leave certificate out"
            )
        if self._check:
            path = request_path(files.certificate)
            waiting = None if root or answer else _read_if_there(path, "the request")
            found = {"request": waiting.decode("ascii", "replace"), "request_file": path} if waiting else {}
            return self._outcome(None, changed or not waiting, pending=not root and not answer, **found)
        if there:
            key = there.key
        else:
            key = _x509.new_key(self._options["key_type"], self._options["key_size"], self._options["curve"])
            _put(private_key, key_bytes(key, place, self._which.private_key_passphrase, False), 0o600)
            changed = True
        if root:
            certificate = _x509.root_certificate(key, subject, self._options["days"], self._options.get("path_length"))
            text = certificate.public_bytes(serialization.Encoding.PEM)
        elif answer:
            certificates = given_certificates(answer)
            refuse_wrong_answer(generation_of(certificates[0]), public_key_sha256(key.public_key()), subject.rfc4514_string())
            text = "".join(map(pem, certificates)).encode("ascii")
        else:
            return self._requested(files, key, subject, changed)
        _put(files.certificate, text, 0o644)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(request_path(files.certificate))
        return self._outcome(OpensslBackend(self._which).facts(), True)

    def _requested(self, files: Files, key: t.Any, subject: t.Any, changed: bool) -> Answer:
        path = request_path(files.certificate)
        waiting = _read_if_there(path, "the request")
        if waiting is None:
            made = _x509.ca_request(key, subject, self._options.get("path_length"))
            waiting, changed = made.public_bytes(serialization.Encoding.PEM), True
            _put(path, waiting, 0o644)
        asked = x509.load_pem_x509_csr(waiting)
        names = asked.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        authority = Authority(
            backend="openssl",
            name=files.section,
            sanitized_name=slug(str(names[-1].value) if names else ""),
            subject=asked.subject.rfc4514_string(),
            directory=self._backend.directory,
            config_file=self._config_file,
        )
        shape = {**authority.as_result(), "config_file": authority.config_file}
        return self._outcome(None, changed, authority=shape, pending=True, request=waiting.decode("ascii"), request_file=path)

    def _brought_back(self, changed: bool) -> Answer:
        import base64

        bundles = [
            open_bundle(file["name"], base64.b64decode(file["content"]), [file["password"]], file["sha256"])
            for file in self._request["bundles"]
        ]
        outcome = restore_generations(
            self._backend,
            None,
            bundles,
            [Generation.from_json(shape) for shape in self._request["generations"]],
            known=Authority(**self._request["authority"]) if self._request.get("authority") else None,
            host=self._request.get("host"),
            set_conflicts_aside=False,
            allow_unencrypted_key=False,
            check=self._check,
        )
        reading = None if self._check else OpensslBackend(self._which).facts()
        return self._outcome(reading, changed or outcome["changed"], restored=outcome["restored"])


def _first_serial() -> str:
    """A random start of 63 bits, then one after the other: a CA that was made twice by mistake issues no number twice, and what an
    older database has not issued yet can be told from what it has."""
    return f"{secrets.randbits(62) | 1 << 62:016X}\n"


def _directories(paths: t.Sequence[str], mode: int) -> None:
    for path in paths:
        try:
            make_directories(path, mode)
        except OSError as exc:
            raise KeywardError(f"the directory {path} was not made", os_cause(exc), "Put that right and run the task again") from exc
