# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a CA signs, certificates of subordinate CAs and CRLs, by the openssl command; may change in any release."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import serials
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import run_openssl
from ansible_collections.keyward.pki.plugins.module_utils._files import StagedFile, read_file, sync_directory, write_new
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._host import Answer, Request, facts
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._x509 import (
    even_hex,
    pem,
    pem_certificates,
    public_key_sha256,
)

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:  # the modules say which library is missing
    pass

LARGEST_CRL = 256 * 1024 * 1024
LEAST_RSA = 2048


@contextlib.contextmanager
def _scratch() -> t.Iterator[str]:
    """A private directory that is gone afterwards."""
    path = tempfile.mkdtemp(prefix="keyward-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _alone(directory: str) -> t.Iterator[int]:
    """openssl locks nothing: of two runs at the same time, one would lose its entry in the database. The lock is for C(run_openssl)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


# --- certificates of subordinate CAs ------------------------------------------------------------------------------


def sign(which: Selector, request: Request, check: bool) -> Answer:
    """Have C(openssl ca) sign the request of a subordinate CA, once. C(request): request (PEM), days, extensions. Raises KeywardError."""
    asked = _request(request["request"])
    backend = OpensslBackend(which)
    reading = backend.facts()
    files = backend.files()
    current = reading.generations[-1]
    if not backend.config_file or not files.database or not files.new_certificates:
        raise KeywardError(
            "the request was not signed",
            "the configuration of the CA that should sign it names no database and no new_certs_dir",
            "Give config_file, and name them there",
        )
    _refuse_other_extensions(backend.config_file, backend.directory, files.section, request["extensions"])
    _refuse_the_issuer(asked, current)
    with _alone(os.path.dirname(files.database)) if not check else contextlib.nullcontext() as lock:
        earlier = _answered(files, asked, reading.generations, _REQUEST)
        changed = earlier is None
        if changed and not check:
            earlier = _sign(which, backend, files, reading.generations, asked, request, [lock] if lock else [])
    advisories = [*reading.advisories]
    if earlier and earlier.not_after > current.not_after:
        advisories.append(
            Finding(
                "outlives_issuer",
                f"{earlier.label} is valid until {earlier.not_after}, its issuer until {current.not_after}",
                earlier.sha256,
            )
        )
    return {
        **facts(reading),
        "changed": changed,
        "certificate": pem(earlier.certificate) if earlier else None,
        "serial": earlier.serial if earlier else None,
        "chain": [pem(der) for der in (current.certificate, *reading.chain)],
        "advisories": [advisory.as_result() for advisory in advisories],
    }


def _request(text: str) -> t.Any:
    why = None
    try:
        asked = x509.load_pem_x509_csr(text.encode("utf-8"))
        if not asked.is_signature_valid:
            why = "its signature is not that of the key in it"
        elif not list(asked.subject):
            why = "its subject is empty"
        else:
            key: t.Any = asked.public_key()
            if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA:
                why = f"its RSA key has {key.key_size} bits, fewer than {LEAST_RSA}"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "it is no certificate request (PEM) that can be read here"
    if why:
        raise KeywardError("the request was not signed", why, "Give the request as ca_renew or ca_install returned it")
    return asked


def _refuse_the_issuer(asked: t.Any, current: Generation) -> None:
    """With the name of its issuer, a subordinate could sign CRLs in that name, and no path length counts it (RFC 5280, 4.2.1.9)."""
    issuer = x509.load_der_x509_certificate(current.certificate).subject
    if _folded(asked.subject) == _folded(issuer):
        raise KeywardError(
            "the request was not signed",
            "its subject is that of the CA that should sign it",
            "Have the subordinate made with a subject of its own",
        )


def _folded(name: t.Any) -> t.List[t.Tuple[str, str]]:
    """As names are compared (RFC 5280, 7.1): neither case nor the number of spaces counts."""
    return [(attribute.oid.dotted_string, " ".join(str(attribute.value).split()).casefold()) for attribute in name]


def _refuse_other_extensions(config_file: str, directory: str, ca_section: str, section: str) -> None:
    config = OpensslConfig(config_file, directory)
    if (config.get(ca_section, "copy_extensions") or "").strip() == "copyall":
        raise KeywardError(
            "the request was not signed",
            f"{config_file} says copy_extensions = copyall: what a request asks for would take the place of what [{section}] says",
            "Say copy_extensions = none, or copy, which only adds what the section does not have",
        )
    constraints = (config.get(section, "basicConstraints") or "") if config.has_section(section) else None
    if constraints is None or not re.search(r"CA\s*:\s*TRUE", constraints, re.IGNORECASE):
        others = ", ".join(name for name in config.sections_with("basicConstraints") if name != section) or "none"
        raise KeywardError(
            "the request was not signed",
            f"the configuration {config_file} has no section [{section}] with basicConstraints = CA:TRUE",
            f"Add it, or name another one as extensions; sections with basicConstraints: {others}",
        )


# Beside a certificate, as openssl names it, lies the request that it answers. A run notes that before it has openssl issue the
# certificate: were it killed in between, the next one would have a second certificate issued.
_REQUEST, _NOTED = ".csr", ".csr.new"


def _answered(files: Files, asked: t.Any, generations: t.Sequence[Generation], suffix: str) -> t.Optional[Generation]:
    """The certificate that was issued for this very request before, unless it is revoked or has expired.

    Others may write in that directory, and a number that was noted may have gone to another certificate: what the CA did not issue,
    or for another key, is passed over.
    """
    signers = [x509.load_der_x509_certificate(generation.certificate) for generation in generations]
    key = public_key_sha256(asked.public_key())
    folder, database = t.cast(str, files.new_certificates), t.cast(str, files.database)
    wanted = asked.public_bytes(serialization.Encoding.DER)
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    except OSError as exc:
        raise KeywardError(f"{folder} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc
    for name in reversed(names):
        path = os.path.join(folder, name)
        try:
            if x509.load_pem_x509_csr(read_file(path, "the request", LARGEST_INPUT)).public_bytes(serialization.Encoding.DER) != wanted:
                continue
            found = pem_certificates(read_file(path[: -len(suffix)] + ".pem", "the certificate", LARGEST_INPUT))
            answer = generation_of(found[0])
        except (FileNotFoundError, ValueError, IndexError):
            continue
        parsed = x509.load_der_x509_certificate(answer.certificate)
        if answer.public_key_sha256 != key or not any(_x509.is_issued_by(parsed, signer) for signer in signers):
            continue
        if answer.not_after > now_text() and answer.serial.upper() in serials(database, b"V"):
            return answer
    return None


def _sign(
    which: Selector,
    backend: OpensslBackend,
    files: Files,
    generations: t.Sequence[Generation],
    asked: t.Any,
    request: Request,
    locks: t.Sequence[int],
) -> Generation:
    data = asked.public_bytes(serialization.Encoding.PEM)
    answer = _answered(files, asked, generations, _NOTED)
    noted = None
    with _scratch() as scratch:
        made = os.path.join(scratch, "certificate.pem")
        if answer is None:
            noted = _next_request(files)
            if noted:
                with _writing(f"the request {noted}"):
                    _stage(noted, data)
            given = os.path.join(scratch, "request.pem")
            write_new(given, data, 0o600)
            arguments = ["ca", "-batch", "-notext", "-config", t.cast(str, backend.config_file), "-name", files.section]
            # A policy would bring the subject into its own order: then it would be another CA.
            arguments += ["-preserveDN", "-extensions", request["extensions"], "-in", given, "-out", made]
            if request.get("days") is not None:
                arguments += ["-days", str(request["days"])]
            try:
                run_openssl(arguments, "the request was not signed", backend.directory, which.private_key_passphrase, locks)
            except KeywardError:
                if noted and _answered(files, asked, generations, _NOTED) is None:
                    os.unlink(_beside(noted))
                raise
            answer = generation_of(pem_certificates(read_file(made, "the certificate", LARGEST_INPUT))[0])
        else:
            write_new(made, pem(answer.certificate).encode("ascii"), 0o600)
        issuers = os.path.join(scratch, "issuers.pem")
        write_new(issuers, "".join(pem(generation.certificate) for generation in generations).encode("ascii"), 0o600)
        run_openssl(["verify", "-partial_chain", "-trusted", issuers, made], "the signed certificate is not right")
    if not _x509.is_ca(x509.load_der_x509_certificate(answer.certificate)):
        raise KeywardError(
            "the signed certificate is not right",
            f"the certificate {answer.serial} that was issued is not that of a CA",
            f"Revoke it, and correct the section [{request['extensions']}]",
        )
    kept = os.path.join(t.cast(str, files.new_certificates), answer.serial.upper() + _REQUEST)
    with _writing(f"the request {kept}"):
        if not os.path.exists(_beside(kept)):  # openssl chose another number than the one that was noted
            _stage(kept, data)
            if noted:
                os.unlink(_beside(noted))
        _take_place(kept)
    return answer


def _next_request(files: Files) -> t.Optional[str]:
    """Where the request belongs that the next certificate answers. None where nobody knows its number before."""
    try:
        number = int(read_file(files.serial or "", "the serial number", LARGEST_INPUT), 16)
    except (FileNotFoundError, ValueError):
        return None
    return os.path.join(t.cast(str, files.new_certificates), even_hex(number) + _REQUEST)


# --- files in the place of others ---------------------------------------------------------------------------------


def _beside(path: str) -> str:
    return f"{path}.new"


@contextlib.contextmanager
def _writing(what: str) -> t.Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise KeywardError(f"{what} was not written", os_cause(exc), "Put that right and run the task again") from exc


def _stage(path: str, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_beside(path))
    staged = StagedFile(_beside(path), data, 0o644)
    try:
        staged.commit()
    finally:
        staged.discard()


def _take_place(path: str) -> None:
    os.replace(_beside(path), path)
    sync_directory(os.path.dirname(path))
