# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the generations of a CA that consists of files, and where their files lie; may change in any release.

Older generations lie beside the current files: C(cacert.0.pem) beside C(cacert.pem). What waits for its place is C(cacert.next.pem).
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT, KeyFile, load_key_file, place_of
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import (
    GONE_KEY,
    KEY_INACCESSIBLE,
    KEY_LOCKED,
    KEY_MISSING,
    Generation,
    generation_of,
)
from ansible_collections.keyward.pki.plugins.module_utils._x509 import first_element, is_certificate, pem_certificates

MOST_CHAIN = 100
_CURRENT, _OLDER = "the CA certificate", "the older certificate"


@dataclass(frozen=True)
class Files:
    """What the options and the configuration name. C(private_key) is None and C(token) its value where the key is no file.

    C(crl_der): the same CRL once more, where it is. C(older_certificates): the list of older ones (PEM, newest first) that the software
    keeps. C(request): where it leaves its own.
    C(more): further files and folders of a set, with their parts. C(subscribers): those with subscribers' keys, which no set holds.
    C(lock): what lies there while the software is at work. C(random_serials): each is drawn, and what C(serial) says means nothing.
    """

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
    crl_der: t.Optional[str] = None
    older_certificates: t.Optional[str] = None
    request: t.Optional[str] = None
    more: t.Tuple[t.Tuple[str, str], ...] = ()
    subscribers: t.Tuple[str, ...] = ()
    lock: t.Optional[str] = None
    random_serials: bool = False


class Found(t.NamedTuple):
    """C(generations): oldest first, the current one last; their private keys by public_key_sha256; C(chain): DER."""

    generations: t.Tuple[Generation, ...]
    private_keys: t.Mapping[str, t.Any]
    chain: t.Tuple[bytes, ...]
    unswitched: bool
    advisories: t.List[Finding]


class GenerationFiles:
    """The certificates and private keys of a CA, each key file read once.

    C(stated_path): where a path that a user states is, seen from the CA's directory.
    """

    def __init__(self, selector: Selector, stated_path: t.Callable[[str], str]) -> None:
        self._selector, self._stated_path = selector, stated_path
        self._key_files: t.Dict[t.Tuple[str, t.Optional[str]], t.Optional[KeyFile]] = {}

    def read(self, files: Files) -> Found:
        """Raises KeywardError where it can't be told which authority this is, NothingThere where it is gone."""
        certificates, encoding = self._certificates_in(files.certificate, _CURRENT)
        current = self._generation(certificates[0], files.certificate, encoding, _CURRENT)
        advisories: t.List[Finding] = []
        if self.finds_older(files):
            older, candidates = self._found(files, current, advisories)
        else:
            older, candidates = self._stated(files, current, advisories)
        current = replace(current, index=older[-1].index + 1 if older else 0)
        unswitched = self._unswitched(files, current, candidates, advisories)
        generations, private_keys = self._with_keys([*older, *unswitched, current], candidates, advisories)
        return Found(tuple(generations), private_keys, self._chain(certificates[1:]), bool(unswitched), advisories)

    def finds_older(self, files: Files) -> bool:
        """Whether to look for older generations beside the current files.

        Also where C(older) names only such: then it is there for the passphrases of their keys.
        """
        stated = self._selector.older
        beside = {path for _number, path in older_files(files.certificate)}
        return stated is None or (bool(stated) and all(self._stated_path(entry.certificate_file) in beside for entry in stated))

    def _certificates_in(self, path: str, what: str) -> t.Tuple[t.List[bytes], str]:
        """The certificates of a PEM or DER file, at least one, and its encoding."""
        try:
            data = read_file(path, what, LARGEST_INPUT)
        except FileNotFoundError:
            check = "Check the path"
            if self._selector.config_file and not self._selector.directory:
                check = "Check the path: relative ones count from the folder of config_file, unless directory names another"
            raise NothingThere(
                f"{what} {path} can't be read", "it does not exist", f"{check}. If it was lost, ca_key_restore brings it back"
            ) from None
        found = pem_certificates(data)
        if found:
            return found, "PEM"
        if data[:1] == b"\x30":
            return [first_element(data)], "DER"
        raise _unreadable(what)(f"{what} {path} can't be read", "no certificate is in it, neither PEM nor DER", "Give the right file")

    def first_of(self, path: str, index: int = 0) -> Generation:
        certificates, encoding = self._certificates_in(path, _OLDER)
        return self._generation(certificates[0], path, encoding, _OLDER, index)

    def _generation(self, certificate: bytes, path: str, encoding: str, what: str, index: int = 0) -> Generation:
        try:
            return generation_of(certificate, index, certificate_place=place_of(path, encoding))
        except ValueError as exc:
            raise _unreadable(what)(
                f"{what} {path} can't be read", "it is damaged, or of a kind that can't be read here", "Check the file"
            ) from exc

    def _found(
        self, files: Files, current: Generation, advisories: t.List[Finding]
    ) -> t.Tuple[t.List[Generation], t.List[t.Tuple[t.Optional[int], KeyFile]]]:
        """Older generations that lie beside the current files, and all key files: the current one first, then by number."""
        older: t.List[Generation] = []
        seen = {current.sha256}
        beside = [(path, self.first_of(path, number)) for number, path in older_files(files.certificate)]
        for path, generation in [*beside, *self._listed(files)]:
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
                older.append(generation if generation.certificate_place else _numbered(generation, older))
        older.sort(key=lambda generation: generation.index)
        last = older[-1].index + 1 if older else 0
        candidates: t.List[t.Tuple[t.Optional[int], KeyFile]] = []
        if files.token:
            candidates.append((last, KeyFile(files.token, in_token=True)))
        elif files.private_key:
            numbers = older_files(files.private_key)
            known = {number for number, _path in numbers}
            stated = [entry for entry in self._selector.older or () if entry.private_key_file]
            own = {self._stated_path(str(entry.private_key_file)): entry.private_key_passphrase for entry in stated}
            # Where the directory can't be listed, a file in it may still be there.
            numbers += [(one.index, older_path(behind_link(files.private_key), one.index)) for one in older if one.index not in known]
            for number, path in [(last, files.private_key), *sorted(numbers)]:
                key_file = self.key_file(path, own.get(path) or self._selector.private_key_passphrase)
                if key_file:
                    candidates.append((number, key_file))
        return older, candidates

    def _listed(self, files: Files) -> t.List[t.Tuple[str, Generation]]:
        """What the software itself keeps of older generations, oldest first. None has a file of its own."""
        path = files.older_certificates
        if not path or not os.path.exists(path):
            return []
        listed = [self._generation(der, path, "PEM", _OLDER) for der in reversed(self._certificates_in(path, _OLDER)[0])]
        listed.sort(key=lambda generation: generation.not_before)
        return [(path, replace(generation, certificate_place=None)) for generation in listed]

    def _unswitched(
        self,
        files: Files,
        current: Generation,
        candidates: t.List[t.Tuple[t.Optional[int], KeyFile]],
        advisories: t.List[Finding],
    ) -> t.List[Generation]:
        """The generation of a renewal that was killed before its certificate took its place; its key file joins the candidates."""
        key_file = self.key_file(staged_path(files.private_key), self._selector.private_key_passphrase) if files.private_key else None
        try:
            generation = self.first_of(staged_path(files.certificate), current.index + 1)
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
    ) -> t.Tuple[t.List[Generation], t.List[t.Tuple[t.Optional[int], KeyFile]]]:
        """Older generations that the user states, in the order in which they began to be valid, and all key files."""
        stated: t.Dict[str, Generation] = {}
        key_files: t.List[t.Tuple[t.Optional[str], KeyFile]] = []
        for entry in self._selector.older or ():
            path = self._stated_path(entry.certificate_file)
            fingerprint = None
            try:
                generation = self.first_of(path)
                fingerprint = generation.sha256
                if fingerprint != current.sha256:
                    stated.setdefault(fingerprint, generation)
            except NothingThere:
                advisories.append(
                    Finding("certificate_missing_on_host", f"{_OLDER} {path}, which is stated in the option older, does not exist")
                )
            if entry.private_key_file:
                key_file = self.key_file(
                    self._stated_path(entry.private_key_file), entry.private_key_passphrase or self._selector.private_key_passphrase
                )
                if key_file:
                    key_files.append((fingerprint, key_file))
        ordered = sorted(stated.values(), key=lambda generation: (generation.not_before, generation.sha256))
        older = [replace(generation, index=index) for index, generation in enumerate(ordered)]
        indices = {generation.sha256: generation.index for generation in older}
        candidates = [(indices.get(fingerprint or ""), key_file) for fingerprint, key_file in key_files]
        own = KeyFile(files.token, in_token=True) if files.token else None
        if files.private_key:
            own = self.key_file(files.private_key, self._selector.private_key_passphrase)
        return older, [(len(older), own), *candidates] if own else candidates

    def _with_keys(
        self,
        generations: t.Sequence[Generation],
        candidates: t.Sequence[t.Tuple[t.Optional[int], KeyFile]],
        advisories: t.List[Finding],
    ) -> t.Tuple[t.List[Generation], t.Dict[str, t.Any]]:
        """Give each generation its key, by public key; a key that can't be opened only by the number of its file."""
        opened = {key_file.digest: key_file for _number, key_file in reversed(candidates) if key_file.digest}
        unopened: t.Dict[str, KeyFile] = {}
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
                advisories.append(_inaccessible(key_file, "an unknown generation", None, KEY_INACCESSIBLE[1]))
        known: t.List[Generation] = []
        for generation in generations:
            key_file = opened.get(generation.public_key_sha256) or unopened.get(generation.public_key_sha256) or KeyFile("")
            state, exportable = "present", not key_file.in_token
            if not key_file.path:
                state = "missing"
                code = KEY_MISSING[generation is not generations[-1]]
                advisories.append(Finding(code, f"the private key of {generation.label} {GONE_KEY}", generation.sha256))
            elif not (key_file.digest or key_file.in_token):
                state = "inaccessible"
                code = KEY_INACCESSIBLE[generation is not generations[-1]]
                advisories.append(_inaccessible(key_file, generation.label, generation.sha256, code))
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

    def key_file(self, path: str, passphrase: t.Optional[str]) -> t.Optional[KeyFile]:
        """A private key file, read once; None where there is none."""
        known = (path, passphrase)
        if known not in self._key_files:
            self._key_files[known] = load_key_file(path, passphrase)
        return self._key_files[known]

    def _chain(self, beside: t.Sequence[bytes]) -> t.Tuple[bytes, ...]:
        """The certificates of the CAs above: those of chain_file, or what follows the CA's own in its file."""
        if not self._selector.chain_file:
            return tuple(dict.fromkeys(der for der in beside[:MOST_CHAIN] if is_certificate(der)))
        path = self._stated_path(self._selector.chain_file)
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

    def passphrase(self, generation: Generation) -> t.Optional[str]:
        """The passphrase that the user gave for this generation's key at rest."""
        places = [place.path for place in (generation.key_place, generation.certificate_place) if place]
        for entry in self._selector.older or ():
            stated = [self._stated_path(path) for path in (entry.private_key_file, entry.certificate_file) if path]
            if entry.private_key_passphrase and any(path in places for path in stated):
                return entry.private_key_passphrase
        return self._selector.private_key_passphrase


def _numbered(generation: Generation, others: t.Sequence[Generation]) -> Generation:
    """A generation whose place tells no number gets the first that is free after those that began to be valid before it."""
    taken = {other.index for other in others}
    index = max((other.index for other in others if other.not_before < generation.not_before), default=-1) + 1
    while index in taken:
        index += 1
    return replace(generation, index=index)


def _unreadable(what: str) -> t.Type[KeywardError]:
    """Without its current certificate nothing tells which CA this is; a restore can still put it back."""
    return NothingThere if what == _CURRENT else KeywardError


def _inaccessible(key_file: KeyFile, about: str, certificate: t.Optional[str], code: str) -> Finding:
    code = KEY_LOCKED if key_file.locked else code
    return Finding(code, f"the private key {key_file.path} of {about} can't be used: {key_file.why}. {key_file.remedy}", certificate)


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


def behind_link(path: str) -> str:
    """Where a file itself lies. What takes its place takes it there, and a link to it stays: a key on a medium stays on the medium."""
    return os.path.realpath(path) if os.path.islink(path) else path


def staged_path(path: str) -> str:
    """Where a file of the next generation lies until it takes its place: C(cacert.pem) becomes C(cacert.next.pem)."""
    stem, suffix = os.path.splitext(behind_link(path))
    return f"{stem}.next{suffix}"


def request_path(certificate: str) -> str:
    """Where the request for a certificate lies until it is answered: C(cacert.next.csr)."""
    return f"{os.path.splitext(certificate)[0]}.next.csr"


def crl_path(files: Files, directory: str) -> str:
    """Where the CRL of the current generation lies, also where the configuration does not say it."""
    return files.crl or os.path.join(files.crl_directory or directory, "crl.pem")


def older_files(path: str) -> t.List[t.Tuple[int, str]]:
    """The files that C(older_path) names, by number, also beside the file that a link leads to; none where that can't be listed."""
    return sorted({found for place in dict.fromkeys((path, behind_link(path))) for found in _older_beside(place)})


def _older_beside(path: str) -> t.List[t.Tuple[int, str]]:
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    found = []
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    for entry in names:
        number = entry[len(stem) + 1 : len(entry) - len(suffix)]
        if number.isascii() and number.isdigit() and len(number) <= 6 and entry == f"{stem}.{int(number)}{suffix}":
            found.append((int(number), os.path.join(folder, entry)))
    return found
