# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: installing a CA whose keys and certificates are files; may change in any release."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, request_path
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import key_bytes, load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_template import configuration
from ansible_collections.keyward.pki.plugins.module_utils._files import locked, make_directories, put_new, read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, Place, generation_of, slug
from ansible_collections.keyward.pki.plugins.module_utils._host import Answer, Request, facts
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import GivenFile
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import given_certificates, refuse_wrong_answer
from ansible_collections.keyward.pki.plugins.module_utils._restoration import restore_generations
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem, public_key_sha256

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the modules say which library is missing
    pass

DEFAULT_SECTION = "CA_default"


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
        with contextlib.nullcontext() if self._check else locked([os.path.dirname(self._config_file)], "the CA can't be installed"):
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
        put_new(self._config_file, text.encode("utf-8"), 0o644)

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
                put_new(path, text.encode("ascii"), 0o644)
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
            waiting = None if root or answer else read_if_there(path, "the request")
            found = {"request": waiting.decode("ascii", "replace"), "request_file": path} if waiting else {}
            return self._outcome(None, changed or not waiting, pending=not root and not answer, **found)
        if there:
            key = there.key
        else:
            key = _x509.new_key(self._options["key_type"], self._options["key_size"], self._options["curve"])
            put_new(private_key, key_bytes(key, place, self._which.private_key_passphrase), 0o600)
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
        put_new(files.certificate, text, 0o644)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(request_path(files.certificate))
        return self._outcome(OpensslBackend(self._which).facts(), True)

    def _requested(self, files: Files, key: t.Any, subject: t.Any, changed: bool) -> Answer:
        path = request_path(files.certificate)
        waiting = read_if_there(path, "the request")
        if waiting is None:
            made = _x509.ca_request(key, subject, self._options.get("path_length"))
            waiting, changed = made.public_bytes(serialization.Encoding.PEM), True
            put_new(path, waiting, 0o644)
        asked = x509.load_pem_x509_csr(waiting)
        names = asked.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        authority = Authority(
            backend="openssl",
            name=files.section,
            sanitized_name=slug(str(names[-1].value) if names else ""),
            subject=asked.subject.rfc4514_string(),
            directory=self._backend.directory,
            place=self._backend.place_of(files),
        )
        return self._outcome(None, changed, authority=authority.as_json(), pending=True, request=waiting.decode("ascii"), request_file=path)

    def _brought_back(self, changed: bool) -> Answer:
        import base64

        files = [GivenFile(file["password"], base64.b64decode(file["content"]), file["name"], ()) for file in self._request["bundles"]]
        generations = [Generation.from_json(shape) for shape in self._request["generations"]]
        known = self._request.get("authority")
        outcome = restore_generations(self._backend, None, files, generations, known["directory"] if known else None, self._check)
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
