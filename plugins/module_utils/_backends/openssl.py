# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a CA that the openssl command runs, described by an openssl.cnf or by its files; may change in any release."""

from __future__ import annotations

import os
import re
import stat
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils import _der
from ansible_collections.keyward.pki.plugins.module_utils._authority import NothingThere, Reading, Which
from ansible_collections.keyward.pki.plugins.module_utils._backends._openssl_config import OpensslConfig
from ansible_collections.keyward.pki.plugins.module_utils._bundle import Authority, Generation, Place, generation_of, slug
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._x509 import (
    first_element,
    is_certificate,
    pem_blocks,
    pem_certificates,
    pem_content,
    public_key_sha256,
    short_subject,
)

try:
    from cryptography import __version__ as _cryptography
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:  # the modules say which library is missing
    pass

LARGEST_INPUT = 1024 * 1024  # certificate, key, request, serial
MOST_CHAIN = 100

_CURRENT, _OLDER = "the CA certificate", "the older certificate"
_REQUESTS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
_CONTAINERS = {
    "PRIVATE KEY": "PKCS#8",
    "ENCRYPTED PRIVATE KEY": "PKCS#8",
    "RSA PRIVATE KEY": "PKCS#1",
    "EC PRIVATE KEY": "SEC1",
    "DSA PRIVATE KEY": "OpenSSL DSA",
}
# Files that only point to a key: pkcs11-provider, tpm2-openssl, tpm2-tss-engine.
_POINTERS = ("PKCS#11 PROVIDER URI", "TSS2 PRIVATE KEY", "TSS2 KEY BLOB")
_URI = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:", re.IGNORECASE)
# How libp11's engine names a key without a URI: "slot_0-id_01", "label_root", "0:01".
_ENGINE_KEY = re.compile(r"(?:slot_[^/]+-)?(?:id|label)_[^/]+\Z|[0-9]+:[0-9a-f]+\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Files:
    """What the options and the configuration name. C(private_key) is None and C(token) its value where the key is no file."""

    section: str
    certificate: str
    private_key: t.Optional[str]
    token: t.Optional[str] = None
    database: t.Optional[str] = None
    serial: t.Optional[str] = None
    crl_number: t.Optional[str] = None
    new_certificates: t.Optional[str] = None
    certificates: t.Optional[str] = None
    crl_directory: t.Optional[str] = None
    crl: t.Optional[str] = None


@dataclass(frozen=True)
class _KeyFile:
    """One file of a private key. C(key) is None where it can't be had, and C(why) says why not."""

    path: str
    key: t.Any = field(default=None, repr=False)
    digest: t.Optional[str] = None  # of the public key
    why: t.Optional[str] = None
    remedy: str = ""
    encrypted: t.Optional[bool] = None
    in_token: bool = False
    place: t.Optional[Place] = None


class OpensslBackend:
    """A CA run by C(openssl ca). Nothing is ever written."""

    def __init__(self, which: Which) -> None:
        self._which = which
        self._config_file: t.Optional[str] = None
        if which.config_file is not None:
            self._config_file = absolute(which.directory or "", which.config_file)
            base = which.directory or os.path.dirname(self._config_file)
        else:
            base = which.directory or os.path.dirname(which.certificate_file or "")
        self._directory = absolute("", base)
        self._stated_from = self._directory if which.directory or self._config_file else os.getcwd()
        self._key_files: t.Dict[t.Tuple[str, t.Optional[str]], t.Optional[_KeyFile]] = {}
        self._read: t.Optional[Reading] = None

    # --- reading -----------------------------------------------------------------------------------------------

    def read(self) -> Reading:
        """The authority as it is on this host. Raises KeywardError where it can't be told, NothingThere where it is gone."""
        files = self.files()
        certificates, encoding = self._certificates_in(files.certificate, _CURRENT)
        current = self._generation(certificates[0], files.certificate, encoding, _CURRENT)
        advisories: t.List[Finding] = []
        if self._which.older is None:
            older, candidates = self._found(files, current, advisories)
        else:
            older, candidates = self._stated(files, current, advisories)
        current = replace(current, index=older[-1].index + 1 if older else 0)
        unswitched = self._unswitched(files, current, candidates, advisories)
        generations, private_keys = self._with_keys([*older, *unswitched, current], candidates, advisories)
        self._read = Reading(
            authority=Authority(
                backend="openssl",
                name=files.section,
                sanitized_name=slug(short_subject(current.certificate)),
                subject=current.subject,
                directory=self._directory,
                config_file=self._config_file,
            ),
            generations=tuple(generations),
            private_keys=private_keys,
            chain=self._chain(certificates[1:]),
            database=_database(files),
            pending_request=self._pending_request(files.certificate, generations),
            advisories=tuple(advisories),
        )
        return self._read

    def _stated_path(self, path: str) -> str:
        return absolute(self._stated_from, path)

    @property
    def directory(self) -> str:
        return self._directory

    @property
    def config_file(self) -> t.Optional[str]:
        return self._config_file

    def files(self) -> Files:
        """What the options and the configuration name. Raises KeywardError, NothingThere where the configuration does not exist."""
        which = self._which
        if self._config_file is None:
            return self._files_stated()
        try:
            config = OpensslConfig(self._config_file, self._directory)
        except FileNotFoundError:
            raise NothingThere(
                f"the configuration {self._config_file} can't be read",
                "it does not exist",
                "Check config_file; if the CA's host was lost, bring its configuration back first",
            ) from None
        section = self._section(config)
        paths = {}
        for name, stated, option in (
            ("certificate", which.certificate_file, "certificate_file"),
            ("private_key", which.private_key_file, "private_key_file"),
        ):
            value = stated or config.get(section, name)
            if not value:
                raise KeywardError(
                    f"the configuration {self._config_file} can't be used",
                    f"its CA section [{section}] names no {name}",
                    f"Name it there, or give {option}",
                )
            paths[name] = value
        others = [config.get(section, name) for name in ("database", "serial", "crlnumber", "new_certs_dir", "certs", "crl_dir", "crl")]
        named = [absolute(self._directory, value) if value else None for value in others]
        return self._files_named(section, paths["certificate"], paths["private_key"], *named)

    def _files_stated(self) -> Files:
        which = self._which
        for name in ("certificate_file", "private_key_file"):
            if not getattr(which, name):
                raise KeywardError(
                    "the authority can't be found",
                    f"neither config_file nor {name} is given",
                    "Give config_file (the openssl.cnf of the CA), or certificate_file and private_key_file",
                )
        certificate, private_key = str(which.certificate_file), str(which.private_key_file)
        # Two CAs of one directory, without a configuration, differ in their certificate's file.
        name = which.name or os.path.relpath(self._stated_path(certificate), self._directory)
        return self._files_named(name, certificate, private_key)

    def _files_named(self, section: str, certificate: str, private_key: str, *others: t.Optional[str]) -> Files:
        path = self._stated_path(_without_scheme(private_key))
        in_token = (_URI.match(private_key) or _ENGINE_KEY.match(private_key)) and not os.path.lexists(path)
        return Files(
            section,
            self._stated_path(_without_scheme(certificate)),
            None if in_token else path,
            private_key if in_token else None,
            *others,
        )

    def _section(self, config: OpensslConfig) -> str:
        section = self._which.name or config.get("ca", "default_ca")
        sections = ", ".join(config.sections_with("private_key")) or "none"
        if not section:
            raise KeywardError(
                f"the configuration {config.path} can't be used",
                "it has no default_ca in its section [ca]",
                f"Give the CA's section as name; sections with a private_key: {sections}",
            )
        if not config.has_section(section):
            raise KeywardError(
                f"the configuration {config.path} can't be used",
                f"it has no section [{section}], which {'name' if self._which.name else 'default_ca in [ca]'} says is the CA's",
                f"Correct that; sections with a private_key: {sections}",
            )
        return section

    def _certificates_in(self, path: str, what: str) -> t.Tuple[t.List[bytes], str]:
        """The certificates of a PEM or DER file, at least one, and its encoding."""
        try:
            data = read_file(path, what, LARGEST_INPUT)
        except FileNotFoundError:
            raise NothingThere(
                f"{what} {path} can't be read", "it does not exist", "Check the path; if it was lost, ca_key_restore brings it back"
            ) from None
        found = pem_certificates(data)
        if found:
            return found, "PEM"
        if data[:1] == b"\x30":
            return [first_element(data)], "DER"
        raise _unreadable(what)(f"{what} {path} can't be read", "no certificate is in it, neither PEM nor DER", "Give the right file")

    def _first_of(self, path: str, index: int = 0) -> Generation:
        certificates, encoding = self._certificates_in(path, _OLDER)
        return self._generation(certificates[0], path, encoding, _OLDER, index)

    def _generation(self, certificate: bytes, path: str, encoding: str, what: str, index: int = 0) -> Generation:
        try:
            return generation_of(certificate, index, certificate_place=_place(path, encoding))
        except ValueError as exc:
            raise _unreadable(what)(
                f"{what} {path} can't be read", "it is damaged, or of a kind that can't be read here", "Check the file"
            ) from exc

    def _found(
        self, files: Files, current: Generation, advisories: t.List[Finding]
    ) -> t.Tuple[t.List[Generation], t.List[t.Tuple[t.Optional[int], _KeyFile]]]:
        """Older generations that lie beside the current files, and all key files: the current one first, then by number."""
        older: t.List[Generation] = []
        seen = {current.sha256}
        for number, path in older_files(files.certificate):
            generation = self._first_of(path, number)
            if generation.subject != current.subject:
                advisories.append(
                    Finding(
                        "ignored_certificate",
                        f"{path} is named as an older certificate of {current.subject}, but is {generation.subject}'s: it was left out. "
                        "If it belongs to this CA, state it in the option older",
                        generation.sha256,
                    )
                )
            elif generation.sha256 not in seen:
                seen.add(generation.sha256)
                older.append(generation)
        last = older[-1].index + 1 if older else 0
        candidates: t.List[t.Tuple[t.Optional[int], _KeyFile]] = []
        if files.token:
            candidates.append((last, _KeyFile(files.token, in_token=True)))
        elif files.private_key:
            numbers = dict(older_files(files.private_key))
            for generation in older:
                # Where the directory can't be listed, a file in it may still be there.
                numbers.setdefault(generation.index, older_path(files.private_key, generation.index))
            for number, path in [(last, files.private_key), *sorted(numbers.items())]:
                key_file = self._key_file(path, self._which.private_key_passphrase)
                if key_file:
                    candidates.append((number, key_file))
        return older, candidates

    def _unswitched(
        self,
        files: Files,
        current: Generation,
        candidates: t.List[t.Tuple[t.Optional[int], _KeyFile]],
        advisories: t.List[Finding],
    ) -> t.List[Generation]:
        """The generation of a renewal that was killed before its certificate took its place; its key file joins the candidates."""
        key_file = self._key_file(staged_path(files.private_key), self._which.private_key_passphrase) if files.private_key else None
        try:
            generation = self._first_of(staged_path(files.certificate), current.index + 1)
        except NothingThere:
            if key_file and key_file.place:  # one that can't even be looked at need not be there
                advisories.append(
                    Finding("pending_key", f"the private key {key_file.path} waits for its certificate: no backup can hold it before")
                )
            return []
        if key_file:
            candidates.append((generation.index, key_file))
        if generation.subject != current.subject or generation.sha256 == current.sha256:
            return []
        advisories.append(
            Finding("unfinished_renewal", f"{generation.label} has not taken its place yet: ca_renew finishes that", generation.sha256)
        )
        return [generation]

    def _stated(
        self, files: Files, current: Generation, advisories: t.List[Finding]
    ) -> t.Tuple[t.List[Generation], t.List[t.Tuple[t.Optional[int], _KeyFile]]]:
        """Older generations that the user states, in the order in which they began to be valid, and all key files."""
        stated: t.Dict[str, Generation] = {}
        key_files: t.List[t.Tuple[t.Optional[str], _KeyFile]] = []
        for entry in self._which.older or ():
            path = self._stated_path(entry.certificate_file)
            fingerprint = None
            try:
                generation = self._first_of(path)
                fingerprint = generation.sha256
                if fingerprint != current.sha256:
                    stated.setdefault(fingerprint, generation)
            except NothingThere:
                advisories.append(
                    Finding("certificate_missing_on_host", f"{_OLDER} {path}, which is stated in the option older, does not exist")
                )
            if entry.private_key_file:
                key_file = self._key_file(
                    self._stated_path(entry.private_key_file), entry.private_key_passphrase or self._which.private_key_passphrase
                )
                if key_file:
                    key_files.append((fingerprint, key_file))
        ordered = sorted(stated.values(), key=lambda generation: (generation.not_before, generation.sha256))
        older = [replace(generation, index=index) for index, generation in enumerate(ordered)]
        indices = {generation.sha256: generation.index for generation in older}
        candidates = [(indices.get(fingerprint or ""), key_file) for fingerprint, key_file in key_files]
        own = _KeyFile(files.token, in_token=True) if files.token else None
        if files.private_key:
            own = self._key_file(files.private_key, self._which.private_key_passphrase)
        return older, [(len(older), own), *candidates] if own else candidates

    def _with_keys(
        self,
        generations: t.Sequence[Generation],
        candidates: t.Sequence[t.Tuple[t.Optional[int], _KeyFile]],
        advisories: t.List[Finding],
    ) -> t.Tuple[t.List[Generation], t.Dict[str, t.Any]]:
        """Give each generation its key, by public key; a key that can't be opened only by the number of its file."""
        opened = {key_file.digest: key_file for _number, key_file in reversed(candidates) if key_file.digest}
        unopened: t.Dict[str, _KeyFile] = {}
        for number, key_file in candidates:
            owner = next((generation for generation in generations if generation.index == number), None)
            if key_file.digest:
                if all(generation.public_key_sha256 != key_file.digest for generation in generations):
                    advisories.append(
                        Finding("key_without_certificate", f"the private key {key_file.path} fits no certificate of this CA that is here")
                    )
            elif owner and owner.public_key_sha256 not in opened:
                unopened.setdefault(owner.public_key_sha256, key_file)
            elif not key_file.in_token:
                advisories.append(_inaccessible(key_file, "an unknown generation", None))
        known: t.List[Generation] = []
        for generation in generations:
            key_file = opened.get(generation.public_key_sha256) or unopened.get(generation.public_key_sha256) or _KeyFile("")
            state, exportable = "present", not key_file.in_token
            if not key_file.path:
                state = "missing"
                advisories.append(Finding("key_missing_on_host", f"the private key of {generation.label} is not here", generation.sha256))
            elif not (key_file.digest or key_file.in_token):
                state = "inaccessible"
                advisories.append(_inaccessible(key_file, generation.label, generation.sha256))
            known.append(
                replace(
                    generation,
                    private_key=state,
                    exportable=exportable if state == "present" else None,
                    encrypted_at_rest=key_file.encrypted,
                    key_place=key_file.place,
                )
            )
        return known, {digest: key_file.key for digest, key_file in opened.items()}

    def _key_file(self, path: str, passphrase: t.Optional[str]) -> t.Optional[_KeyFile]:
        """A private key file, read once; None where there is none."""
        known = (path, passphrase)
        if known not in self._key_files:
            self._key_files[known] = load_key_file(path, passphrase)
        return self._key_files[known]

    def _chain(self, beside: t.Sequence[bytes]) -> t.Tuple[bytes, ...]:
        """The certificates of the CAs above: those of chain_file, or what follows the CA's own in its file."""
        if not self._which.chain_file:
            return tuple(dict.fromkeys(der for der in beside[:MOST_CHAIN] if is_certificate(der)))
        path = self._stated_path(self._which.chain_file)
        try:
            found, _encoding = self._certificates_in(path, "the chain")
        except NothingThere:
            raise KeywardError(f"the chain {path} can't be read", "it does not exist", "Check chain_file, or leave it out") from None
        if len(found) > MOST_CHAIN or not all(map(is_certificate, found)):
            raise KeywardError(
                f"the chain {path} can't be read",
                f"it has more than {MOST_CHAIN} certificates, or one that is damaged",
                "Correct the file, or give another as chain_file",
            )
        return tuple(dict.fromkeys(found))

    def _pending_request(self, certificate: str, generations: t.Sequence[Generation]) -> t.Optional[t.Dict[str, t.Any]]:
        stem = os.path.splitext(certificate)[0]
        for path in (request_path(certificate), f"{stem}.csr", f"{stem}.req", os.path.join(os.path.dirname(certificate), "careq.pem")):
            try:
                data = read_file(path, "the request", LARGEST_INPUT)
                blocks = [pem_content(block) for label, block in pem_blocks(data) if label in _REQUESTS]
                request = x509.load_der_x509_csr(blocks[0] if blocks else data)
                subject, digest = request.subject.rfc4514_string(), public_key_sha256(request.public_key())
            except (FileNotFoundError, KeywardError, ValueError, TypeError, UnsupportedAlgorithm):
                continue
            unanswered = path == request_path(certificate) or all(digest != generation.public_key_sha256 for generation in generations)
            if subject == generations[-1].subject and unanswered:
                return {"path": path, "subject": subject, "public_key_sha256": digest}
        return None

    # --- places ------------------------------------------------------------------------------------------------

    def places(self, generations: t.Sequence[Generation], directory: t.Optional[str]) -> t.Dict[str, Generation]:
        """Where each generation of a backup belongs on this host, by SHA-256 fingerprint; C(private_key) says what is there now.

        The current one goes where this host's configuration says; one that is here already stays; others go where they
        were, seen from the CA's directory. Where two would share a path, the earlier one gets the name of an older generation.
        """
        certificate, private_key = self._configured()
        newest = generations[-1]
        live = {generation.sha256: generation for generation in self._read.generations} if self._read else {}
        renewed_since = self._read is not None and self._read.generations[-1].sha256 != newest.sha256
        live_keys = {g.public_key_sha256: g.key_place for g in live.values() if g.private_key == "present"}
        first_use = {generation.public_key_sha256: generation.index for generation in reversed(generations)}
        number = max(generation.index for generation in generations) + 1
        certificates: t.Dict[str, str] = {}  # path -> fingerprint
        keys: t.Dict[str, str] = {}  # path -> public key
        key_places: t.Dict[str, t.Optional[Place]] = {}
        placed: t.Dict[str, Generation] = {}
        for generation in reversed(generations):
            digest, here = generation.public_key_sha256, live.get(generation.sha256)
            configured = generation is newest
            place = generation.certificate_place or Place("")
            if here and here.certificate_place and (renewed_since or not configured):
                place = here.certificate_place
            elif configured and certificate:
                place = replace(place, path=certificate)
            else:
                place = replace(place, path=self._moved(place.path, directory))
            place = _placed(place, generation.sha256, certificates, certificate, generation.index, number)
            certificate = certificate or place.path
            if digest not in key_places:
                recorded = next((g.key_place for g in generations if g.key_place and g.public_key_sha256 == digest), Place(""))
                key_place: t.Optional[Place]
                if digest in live_keys and (renewed_since or not configured or live_keys[digest] is None):
                    key_place = live_keys[digest]  # None: it is in a token
                elif configured and private_key:
                    key_place = replace(recorded, path=private_key)
                else:
                    key_place = replace(recorded, path=self._moved(recorded.path, directory))
                if key_place:
                    key_place = _placed(key_place, digest, keys, private_key, first_use[digest], number)
                    private_key = private_key or key_place.path
                key_places[digest] = key_place
            placed[generation.sha256] = self._with_state(replace(generation, certificate_place=place, key_place=key_places[digest]))
        return placed

    def _configured(self) -> t.Tuple[str, str]:
        """Where the current certificate and its key belong; empty where that isn't told, or where the key belongs into a token."""
        try:
            files = self.files()
            return files.certificate, files.private_key or ""
        except NothingThere:
            stated = (self._which.certificate_file, self._which.private_key_file)
            certificate, private_key = (self._stated_path(path) if path else "" for path in stated)
            return certificate, private_key

    def _moved(self, path: str, directory: t.Optional[str]) -> str:
        """A path below the CA's former directory, below its present one."""
        if path and directory and (self._which.directory or self._config_file):
            old = directory.rstrip("/") + "/"
            if path.startswith(old):
                return os.path.join(self._directory, path[len(old) :])
        return path

    def _with_state(self, generation: Generation) -> Generation:
        """C(generation) with what is at the place of its key: present, missing or inaccessible."""
        place = generation.key_place
        key_file = self._key_file(place.path, self.passphrase(generation)) if place else None
        if key_file is None or key_file.digest not in (None, generation.public_key_sha256):
            return replace(generation, private_key="missing")
        return replace(generation, private_key="present" if key_file.digest else "inaccessible")

    def passphrase(self, generation: Generation) -> t.Optional[str]:
        """The passphrase that the user gave for this generation's key at rest."""
        places = [place.path for place in (generation.key_place, generation.certificate_place) if place]
        for entry in self._which.older or ():
            stated = [self._stated_path(path) for path in (entry.private_key_file, entry.certificate_file) if path]
            if entry.private_key_passphrase and any(path in places for path in stated):
                return entry.private_key_passphrase
        return self._which.private_key_passphrase


def _placed(place: Place, owner: str, taken: t.Dict[str, str], beside: str, index: int, number: int) -> Place:
    """C(place), or where another owner has taken its path the name of an older generation's file; notes the owner."""
    path = place.path
    while not path or taken.get(path, owner) != owner:
        if not beside:
            raise KeywardError(
                "nothing was restored",
                "the backup does not say where its keys were, and no configuration says where they belong",
                "Give config_file, or certificate_file and private_key_file",
            )
        path = older_path(beside, index)
        index, number = number, number + 1
    taken[path] = owner
    return replace(place, path=path)


def _unreadable(what: str) -> t.Type[KeywardError]:
    """Without its current certificate nothing tells which CA this is; a restore can still put it back."""
    return NothingThere if what == _CURRENT else KeywardError


def _inaccessible(key_file: _KeyFile, about: str, certificate: t.Optional[str]) -> Finding:
    return Finding(
        "key_inaccessible", f"the private key {key_file.path} of {about} can't be used: {key_file.why}. {key_file.remedy}", certificate
    )


def _database(files: Files) -> t.Dict[str, t.Any]:
    return {
        "path": files.database,
        "exists": bool(files.database and os.path.exists(files.database)),
        "entries": _lines_in(files.database),
        "serial": _hex_in(files.serial),
        "crl_number": _hex_in(files.crl_number),
    }


def _lines_in(path: t.Optional[str]) -> t.Optional[int]:
    if not path:
        return None
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
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


# --- paths -------------------------------------------------------------------------------------------------------


def absolute(directory: str, path: str) -> str:
    """C(path) seen from C(directory), without C(.) and needless C(..); symbolic links stay as they are."""
    joined = os.path.join(os.getcwd(), directory, path)
    plain = os.path.normpath(joined)
    plain = plain[1:] if plain.startswith("//") else plain
    if ".." in joined.split("/") and os.path.realpath(plain) != os.path.realpath(joined):
        return joined
    return plain


def older_path(path: str, number: int) -> str:
    """Where an older generation's file lies: C(cacert.pem) becomes C(cacert.0.pem)."""
    stem, suffix = os.path.splitext(path)
    return f"{stem}.{number}{suffix}"


def staged_path(path: str) -> str:
    """Where a file of the next generation lies until it takes its place: C(cacert.pem) becomes C(cacert.next.pem)."""
    stem, suffix = os.path.splitext(path)
    return f"{stem}.next{suffix}"


def request_path(certificate: str) -> str:
    """Where the request for a certificate lies until it is answered: C(cacert.next.csr)."""
    return f"{os.path.splitext(certificate)[0]}.next.csr"


def crl_path(files: Files, directory: str) -> str:
    """Where the CRL of the current generation lies, also where the configuration does not say it."""
    return files.crl or os.path.join(files.crl_directory or directory, "crl.pem")


def older_files(path: str) -> t.List[t.Tuple[int, str]]:
    """The files that C(older_path) names, by number; none where the directory can't be listed."""
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    pattern = re.compile(re.escape(stem) + r"\.(0|[1-9][0-9]{0,5})" + re.escape(suffix) + r"\Z")
    try:
        matches = [pattern.match(entry) for entry in os.listdir(folder)]
    except OSError:
        return []
    return sorted((int(match.group(1)), os.path.join(folder, match.string)) for match in matches if match)


def _without_scheme(path: str) -> str:
    """OpenSSL 3 takes C(file:/path) and C(file:///path) for a path too."""
    match = re.match(r"file:(?://(?:localhost)?)?(?=/)", path, re.IGNORECASE)
    return path[match.end() :] if match else path


def _place(path: str, encoding: str, container: t.Optional[str] = None, encrypted: t.Optional[bool] = None) -> t.Optional[Place]:
    import grp
    import pwd

    try:
        status = os.stat(path)
    except OSError:
        return None
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return Place(path, owner, group, f"{stat.S_IMODE(status.st_mode):04o}", encrypted, encoding, container)


# --- contents ----------------------------------------------------------------------------------------------------


def _der_container(data: bytes) -> t.Tuple[t.Optional[str], bool]:
    """(container, encrypted) of a DER private key; (None, False) where it is none."""
    try:
        first, second = (value.tag for value in _der.members(_der.first(data), 2)[:2])
    except ValueError:
        return None, False
    if (first, second) == (_der.SEQUENCE, _der.OCTETS):
        return "PKCS#8", True
    kinds = {_der.SEQUENCE: "PKCS#8", _der.INTEGER: "PKCS#1", _der.OCTETS: "SEC1"}
    return kinds.get(second) if first == _der.INTEGER else None, False


def _without_prime_tests() -> t.Dict[str, t.Any]:
    """cryptography tests the primes of an RSA key that it loads: 0.3 s for 4096 bits, at each run. Damage shows in _consistent."""
    return {"unsafe_skip_rsa_key_validation": True} if int(_cryptography.split(".", 1)[0]) >= 39 else {}


def _consistent(key: rsa.RSAPrivateKey) -> bool:
    """Whether the numbers of an RSA key belong together (RFC 8017, 3.2)."""
    numbers = key.private_numbers()
    p, q, d, e = numbers.p, numbers.q, numbers.d, numbers.public_numbers.e
    return (
        p * q == numbers.public_numbers.n
        and (d * e) % (p - 1) == 1
        and (d * e) % (q - 1) == 1
        and (numbers.dmp1, numbers.dmq1) == (d % (p - 1), d % (q - 1))
        and (numbers.iqmp * q) % p == 1
    )


def load_key_file(path: str, passphrase: t.Optional[str]) -> t.Optional[_KeyFile]:
    """The private key of a PEM or DER file, or why it can't be had; None where the file does not exist."""
    try:
        data = read_file(path, "the private key", LARGEST_INPUT)
    except FileNotFoundError:
        return None
    except KeywardError as exc:
        cause = exc.__cause__
        if isinstance(cause, NotADirectoryError):
            return None
        why = os_cause(cause) if isinstance(cause, OSError) else f"it is no regular file of at most {LARGEST_INPUT} bytes"
        return _KeyFile(path, why=why, remedy="Let the user that runs this task read it (become)")
    encoding, container, encrypted = "PEM", None, False
    for label, block in pem_blocks(data):
        if label in _POINTERS:
            return _KeyFile(path, in_token=True)
        if label.endswith("PRIVATE KEY"):
            data, container = block, _CONTAINERS.get(label, label)
            encrypted = label.startswith("ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block
            break
    else:
        encoding = "DER"
        container, encrypted = _der_container(data)
    if container is None:
        return _KeyFile(path, why="it holds no private key, neither PEM nor DER", remedy="Check that this is the right file")
    known = _KeyFile(path, encrypted=encrypted, place=_place(path, encoding, container, encrypted))
    if encrypted and not passphrase:
        return replace(known, why="it is encrypted at rest", remedy="Give private_key_passphrase")
    load = serialization.load_pem_private_key if encoding == "PEM" else serialization.load_der_private_key
    try:
        key = load(data, passphrase.encode("utf-8") if encrypted and passphrase else None, **_without_prime_tests())
        if isinstance(key, rsa.RSAPrivateKey) and not _consistent(key):
            raise ValueError
        return replace(known, key=key, digest=public_key_sha256(key.public_key()))
    except (ValueError, TypeError, ZeroDivisionError, UnsupportedAlgorithm, NotImplementedError) as exc:
        if encrypted and "password" in str(exc).lower():
            return replace(known, why="the passphrase does not open it", remedy="Give the right private_key_passphrase")
        why = "it is damaged, or of a kind that can't be read here, such as an elliptic curve with explicit parameters"
        return replace(known, why=f"with this passphrase {why}" if encrypted else why, remedy="Check it with openssl pkey -check")
