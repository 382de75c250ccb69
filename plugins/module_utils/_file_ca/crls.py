# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the CRLs of a CA that consists of files, one by each of its keys; may change in any release."""

from __future__ import annotations

import hashlib
import os
import shutil
import typing as t
from dataclasses import replace
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, told
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der, is_delta, load_crl, moment, revoked_in
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import is_successor
from ansible_collections.keyward.pki.plugins.module_utils._directories import writing
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.crl_proofs import client_findings, idle_generations
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_findings import findings
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, behind_link, crl_path, older_path
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.immovable import refuse_immovable
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import refuse_link_of_others, refuse_links_that_go
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.named_urls import needed
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import not_in_crl
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import (
    OpensslCommand,
    dates_crls,
    hash_replaced,
    scratch_directory,
    todays_hash,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.rehearsal import copies, refuse_days, stand_in
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Place, why_inaccessible
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_CRL, Crl, Crled, Crls
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, crl_again
from ansible_collections.keyward.pki.plugins.module_utils._staged import put, write_new
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time, format_time, now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, unverified, whose_crl
from ansible_collections.keyward.pki.plugins.module_utils._x509 import CRL, pem

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

BACKDATED = timedelta(minutes=5)
_WHAT = "no CRL was signed"


def crls(ca: FileCa, order: Crls, check: bool) -> Crled:
    """Raises KeywardError."""
    files = ca.files()
    changes = bool(order.sign) or order.published is not None
    with ca.alone(files, _WHAT, check or not changes) as locks:
        facts = ca.as_decided(order.of, _WHAT, order.at) if changes else ca.facts()
        signing = _Signing(ca, files, facts, locks)
        idle: t.List[str] = []
        changed, advisories = False, list(facts.advisories)
        if order.scratch:
            made = signing.prove()
        elif order.published is not None:
            made, changed = signing.sign_again(order.published, order.days, check)
        elif order.look and not files.database:
            made = []
        else:
            if not files.database:
                why = "the CA has no configuration that names its database"
                raise KeywardError(_WHAT, why, "Give config_file, and name it there")
            database = DatabaseFiles(ca, files)
            if order.sign and not check:
                advisories += database.finish(_WHAT)
            database.refuse_unread(_WHAT)
            advisories += findings(database, files, facts.generations)
            seen = {due.certificate: due.seen for due in order.sign}
            if order.sign and check:
                signing.rehearse(seen, order.days)
            elif order.sign:
                changed = signing.sign(seen, order.days)
                database = DatabaseFiles(ca, files)
            made = list(signing.tell(database.index.revoked))
            idle = idle_generations(database.index, files, facts.generations)
    advisories = list(dict.fromkeys([*advisories, *signing.found]))
    named = needed(files, facts.generations).urls if order.urls else ()
    shown = replace(facts, advisories=tuple(advisories))
    answer: Crled = told(ca, shown, Crled, changed=changed, crls=tuple(made), idle=tuple(idle), named=named)
    return answer


class _Signing:
    def __init__(self, ca: FileCa, files: Files, facts: Facts, locks: t.Sequence[int]) -> None:
        self._ca, self._files, self._facts, self._locks = ca, files, facts, locks
        self.found: t.List[Finding] = []

    def tell(self, revoked: t.Set[int]) -> t.Iterator[Crl]:
        """The CRL of each generation that lies on the host, and how many revocations it lacks."""
        for generation in self._facts.generations:
            path = self._path_of(generation)
            data = read_if_there(path, "the CRL", LARGEST_CRL)
            if data is not None:
                yield Crl(data, path, generation.sha256, _lacking(data, revoked))

    def prove(self) -> t.List[Crl]:
        """Sign a CRL with each key that is here, in a scratch place. Nothing of the CA is touched."""
        with scratch_directory() as scratch:
            database = os.path.join(scratch, "index.txt")
            if self._files.database and os.path.exists(self._files.database):
                shutil.copyfile(self._files.database, database)
            else:
                write_new(database, b"", 0o600)
            config = os.path.join(scratch, "scratch.cnf")
            text = f"[ca]\ndefault_ca = proof\n[proof]\ndatabase = {database}\nunique_subject = no\ndefault_md = default\n"
            text += "default_crl_days = 1\n"
            write_new(config, text.encode("utf-8"), 0o600)
            command = OpensslCommand(config, "proof", self._ca.directory)
            return [
                Crl(self._signed(generation, command, scratch), None, generation.sha256)
                for generation in self._facts.generations
                if generation.public_key_sha256 in self._facts.private_keys or _is_unread(generation)
            ]

    def rehearse(self, due: t.Mapping[str, t.Optional[str]], days: t.Optional[int]) -> None:
        """Raises KeywardError where C(openssl ca) would sign none. Nothing of the CA is touched."""
        signers = [generation for generation, _path, _begins in self._still_due(due)]
        refuse_days(self._ca, "default_crl_days", days, _WHAT)
        with scratch_directory() as scratch:
            command = self._command(scratch)
            command = command.saying(scratch, "rehearsal.cnf", {self._files.section: copies(self._ca, self._files, scratch)})
            _own, with_key = stand_in(self._facts.generations[-1], scratch, _WHAT)
            arguments = ["-gencrl", *with_key, "-out", os.path.join(scratch, "crl.pem"), *self._terms(days, None)]
            command.run(arguments, _WHAT, None, ())
            for generation in filter(_is_unread, signers):
                self._signed(generation, command, scratch, days)

    def _command(self, scratch: str) -> OpensslCommand:
        command: t.Optional[OpensslCommand] = self._ca.signing(self._files, scratch)
        if command is None:
            raise KeywardError(_WHAT, "the CA has no configuration that names its database", "Give config_file, and name it there")
        return replace(command, names={"database": t.cast(str, self._files.database)})

    def _terms(self, days: t.Optional[int], begins: t.Optional[datetime]) -> t.List[str]:
        arguments = [] if days is None else ["-crldays", str(days)]
        if begins and dates_crls():
            arguments += ["-crl_lastupdate", asn1_time(begins)]
        hash_, replaced = todays_hash(self._ca.setting("default_md"))
        self.found += replaced
        return arguments + hash_

    def sign(self, due: t.Mapping[str, t.Optional[str]], days: t.Optional[int]) -> bool:
        """Sign the CRLs that are due (generation: the CRL that was seen). One that another run has signed since then stays."""
        changed = False
        for generation, path, begins in self._still_due(due):
            with scratch_directory() as scratch:
                refuse_days(self._ca, "default_crl_days", days, _WHAT)
                data = self._signed(generation, self._command(scratch), scratch, days, begins)
                same = [one for one in self._facts.generations if one.public_key_sha256 == generation.public_key_sha256]
                self.found += client_findings(self._files, same, data)
                self._put(path, data)
            changed = True
        return changed

    def _still_due(self, due: t.Mapping[str, t.Optional[str]]) -> t.Iterator[t.Tuple[Generation, str, datetime]]:
        """Which generation signs a CRL, where it goes, and from when it is valid. Raises KeywardError where it can't take its place."""
        for generation in self._facts.generations:
            path = self._path_of(generation)
            there = read_if_there(path, "the CRL", LARGEST_CRL)
            if generation.sha256 in due and due[generation.sha256] == _digest(there):
                self._refuse_immovable(path, self._files.crl_number)
                yield generation, path, _begin_after(generation, there)

    def sign_again(self, published: bytes, days: t.Optional[int], check: bool) -> t.Tuple[t.List[Crl], bool]:
        """The last published CRL with all its entries, the next number and new dates: for the day when there are keys and no database."""
        last = load_crl(published)
        if is_delta(crl_der(published)):
            why = "the published CRL is a delta CRL: it lists only what has changed since the last complete one"
            raise KeywardError(_WHAT, why, "Give the newest complete CRL")
        signer, whose = among(self._facts.generations, lambda certificate: whose_crl(published, certificate))
        if signer is None:
            raise KeywardError(_WHAT, "no generation of this CA signed the published CRL", "Give a CRL of this CA")
        if whose is Whose.CANT_TELL:
            self.found.append(unverified("the published CRL"))
        key = self._facts.private_keys.get(signer.public_key_sha256)
        if key is None:
            raise KeywardError(_WHAT, f"the private key of {signer.label} is not here, or can't be used", "Put it back (ca_key_restore)")
        path = self._path_of(signer)
        there = read_if_there(path, "the CRL", LARGEST_CRL)
        if there is not None and is_successor(whose_crl, there, published, signer, path):
            return [Crl(there, path, signer.sha256)], False
        try:
            before, after = moment(last, "last_update"), moment(last, "next_update")
            span = timedelta(days=days) if days else (after - before if after else timedelta(days=7))
            made, rehashed = crl_again(crl_der(published), key, _begin_after(signer, published), now() + span)
            load_crl(made)
            data = pem(made, CRL).encode("ascii")
        except (ValueError, OverflowError) as exc:
            why = "the published CRL can't be signed again: its extensions can't be read, or its new dates can't be written"
            raise KeywardError(_WHAT, why, "Give a smaller number of days, or another copy of that CRL") from exc
        if rehashed:
            self.found.append(hash_replaced("the published CRL was signed with a hash"))
        self._refuse_immovable(path)
        if not check:
            self._put(path, data)
        return [Crl(data, path, signer.sha256)], True

    def _signed(
        self,
        generation: Generation,
        command: OpensslCommand,
        scratch: str,
        days: t.Optional[int] = None,
        begins: t.Optional[datetime] = None,
    ) -> bytes:
        unread = generation.public_key_sha256 not in self._facts.private_keys
        if unread and not _is_unread(generation):
            why = f"the private key of {generation.label} is {generation.private_key}"
            raise KeywardError(_WHAT, why, "Put it back (ca_key_restore), or give its passphrase")
        certificate, made = (os.path.join(scratch, f"{generation.sha256[:16]}.{suffix}") for suffix in ("pem", "crl"))
        write_new(certificate, pem(generation.certificate).encode("ascii"), 0o600)
        place = t.cast(Place, generation.key_place)
        arguments = ["-gencrl", "-cert", certificate, "-keyfile", place.path, "-out", made]
        if place.encoding == "DER":
            arguments += ["-keyform", "DER"]
        arguments += self._terms(days, begins)
        what = f"{generation.label} could not sign a CRL"
        try:
            command.run(arguments, what, self._ca.passphrase(generation) if place.encrypted_at_rest else None, self._locks)
        except KeywardError as exc:
            cause = why_inaccessible(generation, self._facts.advisories) if unread else None
            if cause is None:
                raise
            raise KeywardError(_WHAT, cause, "Then run the task again") from exc
        data = read_file(made, "the CRL", LARGEST_CRL)
        whose = whose_crl(data, generation.certificate)
        if whose is Whose.NOT_OURS:
            raise KeywardError(what, "its certificate does not verify what its key signed", "Compare both with ca_info")
        if whose is Whose.CANT_TELL:
            self.found.append(unverified(f"the CRL of {generation.label}"))
        return data

    def _refuse_immovable(self, path: str, number: t.Optional[str] = None) -> None:
        """Refuse before signing where the CRL, or the file of its number, couldn't be put in place, so that no number is used up."""
        place = behind_link(path)
        if os.path.islink(path):
            refuse_link_of_others(path, self._ca.directory, _WHAT)
            if not os.path.isdir(os.path.dirname(place)):
                raise KeywardError(_WHAT, f"{path} is a link to {place}, and its directory is not there", "Mount it, or remove the link")
        refuse_links_that_go([number], _WHAT)
        refuse_immovable([place, number] if number else [place], _WHAT)

    def _put(self, path: str, data: bytes) -> None:
        """A CRL takes the place of its predecessor in one step: what serves it never sees half of one. A link to it stays."""
        places, der = [(path, data)], self._files.crl_der
        if der and os.path.exists(der) and path == crl_path(self._files, self._ca.directory):
            places.insert(0, (der, crl_der(data)))
        for place, content in [(behind_link(place), content) for place, content in places]:
            with writing(f"the CRL {place}"):
                os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
                put(place, content, 0o644, like=place)

    def _path_of(self, generation: Generation) -> str:
        path = crl_path(self._files, self._ca.directory)
        current = generation.sha256 == self._facts.generations[-1].sha256
        return path if current else older_path(path, generation.index)


def _is_unread(generation: Generation) -> bool:
    """Whether its key is there, unencrypted, and only the library can't read it: openssl may."""
    place = generation.key_place
    return generation.private_key == "inaccessible" and place is not None and place.encrypted_at_rest is False


def _begin_after(generation: Generation, last: t.Optional[bytes]) -> datetime:
    """From when the next CRL is valid: some minutes ago, for clients whose clock is behind, and not before the last one by this key.

    Raises KeywardError where that one lies in the future: the clock of this host has gone back, and the next one would be the older.
    """
    begins, before = now() - BACKDATED, None
    try:
        ours = whose_crl(last or b"", generation.certificate) is not Whose.NOT_OURS
        before = moment(load_crl(last or b""), "last_update") if ours else None
    except (ValueError, TypeError):
        pass
    if before and before > now():
        why = f"its last CRL was signed on {format_time(before)}, and the clock of this host says {now_text()}"
        raise KeywardError(f"{generation.label} signed no CRL", why, "Set the clock of this host")
    return max(begins, before or begins)


def _lacking(data: bytes, revoked: t.Set[int]) -> int:
    try:
        return len(not_in_crl(revoked, (number for number, _at, _why in revoked_in(load_crl(data)))))
    except (ValueError, TypeError):
        return 0


def _digest(data: t.Optional[bytes]) -> t.Optional[str]:
    return None if data is None else hashlib.sha256(data).hexdigest()
