# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a CA signs, certificates of subordinate CAs and CRLs, by the openssl command; may change in any release."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import typing as t
from dataclasses import dataclass
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, crl_path, older_path
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import serials
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import run_openssl
from ansible_collections.keyward.pki.plugins.module_utils._files import StagedFile, read_file, sync_directory, write_new
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Place, crl_result, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._host import Answer, Request, facts
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._x509 import (
    crl_number,
    even_hex,
    load_crl,
    moment,
    next_update,
    pem,
    pem_certificates,
    public_key_sha256,
    signed_by,
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
            earlier = _sign(which, backend, files, reading.generations, asked, request, lock)
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
    lock: t.Optional[int],
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
                run_openssl(arguments, "the request was not signed", backend.directory, which.private_key_passphrase, lock)
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


# --- CRLs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Crl:
    """One CRL of a generation: where it belongs (None for a scratch one), and its bytes."""

    generation: Generation
    path: t.Optional[str]
    data: bytes

    def as_result(self) -> t.Dict[str, t.Any]:
        return crl_result(self.generation, self.path, load_crl(self.data))


def crl(which: Selector, request: Request, check: bool) -> Answer:
    """A CRL by the key of each generation. C(request): scratch, days, remaining_days, published_crl (base64). Raises KeywardError."""
    backend = OpensslBackend(which)
    reading = backend.facts()
    files = backend.files()
    signing = _Signing(which, backend, reading, files)
    if request.get("published_crl"):
        made, changed = signing.resign(base64.b64decode(request["published_crl"]), request.get("days"), check)
    elif request["scratch"]:
        made, changed = signing.prove(), False
    else:
        made, changed = signing.renew(request.get("days"), request["remaining_days"], check)
    return {**facts(reading), "changed": changed, "crls": [one.as_result() for one in made], "advisories": signing.advisories}


class _Signing:
    def __init__(self, which: Selector, backend: OpensslBackend, reading: Facts, files: Files) -> None:
        self._which, self._backend, self._reading, self._files = which, backend, reading, files
        self._found = list(reading.advisories)
        self._lock: t.Optional[int] = None

    @property
    def advisories(self) -> t.List[t.Dict[str, t.Any]]:
        return [advisory.as_result() for advisory in self._found]

    def prove(self) -> t.List[_Crl]:
        """A CRL by each generation, in a scratch place. Nothing of the CA is touched."""
        with _scratch() as scratch:
            database = os.path.join(scratch, "index.txt")
            if self._files.database and os.path.exists(self._files.database):
                shutil.copyfile(self._files.database, database)
            else:
                write_new(database, b"", 0o600)
            config = os.path.join(scratch, "scratch.cnf")
            text = f"[ca]\ndefault_ca = proof\n[proof]\ndatabase = {database}\nunique_subject = no\ndefault_md = default\n"
            text += "default_crl_days = 1\n"
            write_new(config, text.encode("utf-8"), 0o600)
            return [self._signed(generation, config, "proof", None, scratch) for generation in self._able(expired=True)]

    def renew(self, days: t.Optional[int], remaining_days: int, check: bool) -> t.Tuple[t.List[_Crl], bool]:
        """The CRL of each generation that is valid, signed again where it is missing, wrong, lacks a revocation or is about to expire."""
        files, config = self._files, self._backend.config_file
        if not config or not files.database:
            raise KeywardError(
                "no CRL was signed", "the CA has no configuration that names its database", "Give config_file, and name it there"
            )
        revoked = serials(files.database, b"R")
        crls, changed = [], False
        with _alone(os.path.dirname(files.database)) if not check else contextlib.nullcontext() as self._lock:
            for generation in self._able(expired=False):
                path = self._path_of(generation)
                there = self._current(generation, path, revoked, remaining_days)
                if there:
                    crls.append(there)
                    continue
                changed = True
                if not check:
                    with _scratch() as scratch:
                        made = self._signed(generation, config, files.section, path, scratch, days)
                    _replace(path, made.data)
                    crls.append(made)
        return crls, changed

    def resign(self, published: bytes, days: t.Optional[int], check: bool) -> t.Tuple[t.List[_Crl], bool]:
        """The last published CRL with all its entries, the next number and new dates: for the day when there are keys and no database."""
        try:
            last = load_crl(published)
        except (ValueError, TypeError):
            raise KeywardError(
                "no CRL was signed", "the published CRL can't be read, neither as PEM nor as DER", "Give the last one"
            ) from None
        signer = next((g for g in self._reading.generations if signed_by(last, g.certificate)), None)
        if signer is None:
            raise KeywardError("no CRL was signed", "no generation of this CA signed the published CRL", "Give a CRL of this CA")
        key = self._reading.private_keys.get(signer.public_key_sha256)
        if key is None:
            raise KeywardError(
                "no CRL was signed", f"the private key of {signer.label} is not here, or can't be used", "Put it back (ca_key_restore)"
            )
        path = self._path_of(signer)
        there = self._current(signer, path, {even_hex(entry.serial_number) for entry in last}, 0)
        if there and int(there.as_result()["number"] or "0", 16) > int(crl_number(last) or "0", 16):
            return [there], False
        start = now()
        before, after = moment(last, "last_update"), moment(last, "next_update")
        span = timedelta(days=days) if days else (after - before if after else timedelta(days=7))
        builder = x509.CertificateRevocationListBuilder(last.issuer, start, start + span)
        for extension in last.extensions:
            value: t.Any = extension.value
            if isinstance(value, x509.CRLNumber):
                value = x509.CRLNumber(value.crl_number + 1)
            builder = builder.add_extension(value, extension.critical)
        for entry in last:
            builder = builder.add_revoked_certificate(entry)
        made = builder.sign(key, last.signature_hash_algorithm)
        data = made.public_bytes(serialization.Encoding.PEM)
        if not check:
            _replace(path, data)
        return [_Crl(signer, path, data)], True

    def _able(self, expired: bool) -> t.List[Generation]:
        """The generations to sign with, the current one last. Raises KeywardError where a key is missing."""
        able = []
        today = now_text()
        for generation in self._reading.generations:
            if generation.exportable is False:
                text = f"{generation.label}: its key is in a token, which signs its CRL by its own means"
                self._found.append(Finding("key_in_token", text, generation.sha256))
            elif not expired and generation.not_after < today:
                text = f"{generation.label} has expired: no CRL is signed for it"
                self._found.append(Finding("expired_generation", text, generation.sha256))
            elif generation.public_key_sha256 not in self._reading.private_keys:
                raise KeywardError(
                    "no CRL was signed",
                    f"the private key of {generation.label} is {generation.private_key}",
                    "Put it back (ca_key_restore), or give its passphrase",
                )
            else:
                able.append(generation)
        return able

    def _signed(
        self, generation: Generation, config: str, section: str, path: t.Optional[str], scratch: str, days: t.Optional[int] = None
    ) -> _Crl:
        certificate, made = (os.path.join(scratch, f"{generation.sha256[:16]}.{suffix}") for suffix in ("pem", "crl"))
        write_new(certificate, pem(generation.certificate).encode("ascii"), 0o600)
        key_place = t.cast(Place, generation.key_place)
        arguments = ["ca", "-gencrl", "-config", config, "-name", section, "-cert", certificate, "-keyfile", key_place.path, "-out", made]
        if key_place.encoding == "DER":
            arguments += ["-keyform", "DER"]
        if days is not None:
            arguments += ["-crldays", str(days)]
        passphrase = self._backend.passphrase(generation) if key_place.encrypted_at_rest else None
        run_openssl(arguments, f"{generation.label} could not sign a CRL", self._backend.directory, passphrase, self._lock)
        data = read_file(made, "the CRL", LARGEST_CRL)
        if not signed_by(load_crl(data), generation.certificate):
            raise KeywardError(
                f"{generation.label} could not sign a CRL",
                "its certificate does not verify what its key signed",
                "Compare both with ca_info",
            )
        return _Crl(generation, path, data)

    def _path_of(self, generation: Generation) -> str:
        path = crl_path(self._files, self._backend.directory)
        current = generation.sha256 == self._reading.generations[-1].sha256
        return path if current else older_path(path, generation.index)

    def _current(self, generation: Generation, path: str, revoked: t.Set[str], remaining_days: int) -> t.Optional[_Crl]:
        """The CRL at a path where it needs no successor."""
        try:
            data = read_file(path, "the CRL", LARGEST_CRL)
            parsed = load_crl(data)
        except (FileNotFoundError, ValueError):
            return None
        if parsed.issuer != x509.load_der_x509_certificate(generation.certificate).subject:
            raise KeywardError(
                "no CRL was signed",
                f"{path} holds a CRL of another CA, {parsed.issuer.rfc4514_string()}",
                "Give each CA a place of its own: crl, or crl_dir, in its section of the configuration",
            )
        until = format_time(now() + timedelta(days=remaining_days))
        if not signed_by(parsed, generation.certificate) or (next_update(parsed) or "") < until:
            return None
        listed = {even_hex(entry.serial_number) for entry in parsed}
        return _Crl(generation, path, data) if revoked <= listed else None


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


def _replace(path: str, data: bytes) -> None:
    """A CRL takes the place of its predecessor in one step: what serves it never sees half of one."""
    with _writing(f"the CRL {path}"):
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        _stage(path, data)
        _take_place(path)
