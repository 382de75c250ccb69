# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: renewing a CA whose keys and certificates are files; may change in any release.

A renewal completes the new key and certificate beside the old ones, as C(cakey.next.pem) and C(cacert.next.pem), and then
switches, in steps of which each leaves every generation readable. Whatever step a run was killed after, the next one goes on.
"""

from __future__ import annotations

import contextlib
import os
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _ca_certificate, _outline
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, RenewedMeanwhile
from ansible_collections.keyward.pki.plugins.module_utils._directories import sync_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.chain import chain_like, put_chain
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import (
    Files,
    behind_link,
    older_path,
    request_path,
    staged_path,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.immovable import why_it_stays
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.issued import judge_by_issued
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT, key_bytes, load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import refuse_link_of_others
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.named_urls import needed, two_keys
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Place, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Answer, Changed, Renew
from ansible_collections.keyward.pki.plugins.module_utils._protection import protection_of
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import (
    answer_among,
    asked_of_parent,
    given_certificates,
    in_order,
    is_root,
    lost_key,
    refuse_unusable_key,
    refuse_weak_key,
    refuse_wrong_answer,
)
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile, put_new
from ansible_collections.keyward.pki.plugins.module_utils._successor_policy import Asked, fault
from ansible_collections.keyward.pki.plugins.module_utils._x509 import REQUEST, pem, pem_certificates, request_der, spki_sha256

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa


def renew(ca: FileCa, order: Renew, check: bool) -> Changed:
    """A new generation, or for a subordinate the request for one; a renewal that was begun goes on. Raises KeywardError."""
    files = ca.files()
    with ca.alone(files, "the CA was not renewed", check):
        facts = ca.as_decided(order.of, "the CA was not renewed", order.at)
        return _told_of_new_key(ca, files, facts, _Renewal(ca, files, facts, check).renew(order), not order.reuse_key)


def answer(ca: FileCa, order: Answer, check: bool) -> Changed:
    """The certificate that answers the pending request, in its place. Raises KeywardError."""
    files = ca.files()
    with ca.alone(files, "the certificate was not put in place", check):
        facts = ca.as_decided(order.of, "the certificate was not put in place")
        return _told_of_new_key(ca, files, facts, _Renewal(ca, files, facts, check).answer(order), False)


def _told_of_new_key(ca: FileCa, files: Files, facts: Facts, done: Changed, asked: bool) -> Changed:
    """Add the findings about a change of key, made or asked for (C(asked))."""
    current = facts.generations[-1]
    if not done.changed or not (asked or (done.generations and done.generations[-1].public_key_sha256 != current.public_key_sha256)):
        return done
    return replace(done, advisories=(*done.advisories, *two_keys(needed(files, facts.generations), ca.urls_said(), current)))


class _Renewal:
    """A renewal of a CA that was read under its lock."""

    def __init__(self, ca: FileCa, files: Files, facts: Facts, check: bool) -> None:
        self._ca, self._files, self._facts, self._check = ca, files, facts, check
        self._current = facts.generations[-1]
        refuse_unusable_key(self._current)
        # A link stays, and what it leads to is renewed where it lies.
        self._certificate, self._private_key = (behind_link(t.cast(str, path)) for path in (files.certificate, files.private_key))
        if os.path.realpath(self._certificate) == os.path.realpath(self._private_key):
            raise self._refusal(
                "certificate and private key are in one file", "Put them into files of their own, and name these in the configuration"
            )
        self._next_certificate, self._next_private_key = staged_path(self._certificate), staged_path(self._private_key)
        self._request = request_path(files.certificate)
        self._next_key = load_key_file(self._next_private_key, ca.selector.private_key_passphrase)
        self._passphrase = ca.passphrase(self._current)

    def renew(self, order: Renew) -> Changed:
        if self._unswitched():
            return self._finish()
        if order.finish:
            why = "the renewal that was begun is no longer there"
            raise RenewedMeanwhile("the CA was not renewed", why, "Run the task again: it decides by what is there now")
        self._refuse_what_is_in_the_way()
        self._refuse_stated()
        self._refuse_immovable(self._next_key is not None or not order.reuse_key)
        if is_root(self._facts.generations):
            return self._renew_root(order)
        return self._request_certificate(order)

    def answer(self, order: Answer) -> Changed:
        if self._unswitched():
            return self._finish()
        self._refuse_what_is_in_the_way()
        self._refuse_stated()
        self._refuse_immovable(self._next_key is not None)
        certificates = given_certificates(order.certificate)
        expected = (self._next_key.digest if self._next_key else None) or self._current.public_key_sha256
        there = {generation.sha256 for generation in self._facts.generations}
        new = answer_among(certificates, expected, there)
        waiting = read_if_there(self._request, "the request", LARGEST_INPUT)
        if new is None or waiting is None or new.public_key_sha256 != expected:
            raise KeywardError(
                "the certificate was not put in place",
                "it is for another key than the one that waits",
                "Run the task again: it says which request waits",
            )
        asked = asked_of_parent(waiting.decode("ascii", "replace"), self._current)
        refuse_wrong_answer(new, expected, asked)
        found = self._judged(new, asked, root=False)
        if not self._check:
            chain = self._place_chain(in_order(new, certificates)[1:])
            self._write_certificate(new.certificate, chain)
            self._switch()
        return self._changed(True, found)

    def _place_chain(self, given: t.Sequence[bytes]) -> t.List[bytes]:
        """Puts a parent's chain where the chain belongs; returns what belongs behind the certificate.

        Where chain_file is stated, it is there.
        """
        there = self._chain_in_place()
        if not given:
            return there
        if self._ca.selector.chain_file:
            put_chain(self._ca.stated_path(self._ca.selector.chain_file), given)
        return chain_like(there, given)

    def _changed(self, changed: bool, found: t.Sequence[Finding] = (), **more: t.Any) -> Changed:
        facts = self._ca.again().facts() if changed and not self._check else self._facts
        return Changed(changed, facts.authority, facts.generations, advisories=(*facts.advisories, *found), **more)

    def _refusal(self, why: str, remedy: str) -> KeywardError:
        return KeywardError(f"the CA {self._current.subject} can't be renewed", why, remedy)

    def _unswitched(self) -> t.Optional[Generation]:
        places = ((generation, generation.certificate_place) for generation in self._facts.generations)
        return next((generation for generation, place in places if place and place.path == self._next_certificate), None)

    def _refuse_what_is_in_the_way(self) -> None:
        at_place = t.cast(Place, self._current.key_place).path
        if os.path.realpath(at_place) != os.path.realpath(self._private_key):
            raise self._refusal(
                f"{self._private_key} holds another key than that of its certificate, which is in {at_place}",
                "Find out which certificate that key belongs to: it may be one that is not here",
            )
        if os.path.lexists(self._next_certificate):
            raise self._refusal(
                f"{self._next_certificate} is there and is no certificate of this CA", "Find out what it is and move it away"
            )
        if self._next_key and not self._next_key.key:
            raise self._refusal(
                f"a private key waits in {self._next_private_key}, and it can't be used: {self._next_key.why}",
                f"{self._next_key.remedy}. If it is a leftover, move it away",
            )

    def _refuse_stated(self) -> None:
        """Where older generations are stated that lie elsewhere, the renewed one would not be among them, and nothing would look for it."""
        if not self._ca.finds_older(self._files):
            raise self._refusal(
                "its older generations are stated (option older), and the renewed one would not be among them",
                f"Move them beside the current files, as {older_path(self._certificate, 0)}, {older_path(self._private_key, 0)} "
                "and so on, and leave the option older out",
            )

    def _finish(self) -> Changed:
        """Switch to the pair that an earlier run completed."""
        self._refuse_immovable(self._next_key is not None)
        digest = t.cast(Generation, self._unswitched()).public_key_sha256
        fitting = {self._current.public_key_sha256, self._next_key.digest if self._next_key else None}
        at_place = load_key_file(self._private_key, self._passphrase)
        if digest not in fitting and not (at_place and at_place.digest == digest):
            raise self._refusal(
                f"no private key here fits {self._next_certificate}",
                f"Put it back as {self._next_private_key}, or move that certificate away",
            )
        if not self._check:
            self._switch()
        return self._changed(True)

    def _renew_root(self, order: Renew) -> Changed:
        key = self._new_key(order.reuse_key)
        der, added = _ca_certificate.renewed_root(self._current.certificate, key, order.days)
        found = self._judged(generation_of(der), Asked(self._current.certificate), root=True)
        if added:
            text = f"the new certificate says what the old one did not, and that of a CA must: {'; '.join(added)}"
            found.append(Finding("extension_added", text))
        if not self._check:
            self._keep_new_key(key)
            self._write_certificate(der, [])
            self._switch()
        return self._changed(True, found)

    def _judged(self, new: Generation, asked: Asked, root: bool) -> t.List[Finding]:
        """What must be said of a certificate that can do the work of the old one. Raises KeywardError for any other."""
        why = fault(new.certificate, asked, root)
        if why:
            raise self._refusal(
                f"the new certificate can't do the work of the old one: {why}", "Make it with the tool that made the old one"
            )
        what = f"the CA {self._current.subject} can't be renewed"
        return judge_by_issued(self._files, self._facts.generations, new, asked, what)

    def _request_certificate(self, order: Renew) -> Changed:
        waiting = read_if_there(self._request, "the request", LARGEST_INPUT)
        if waiting:
            self._refuse_lost_key(waiting)
            return self._changed(False, pending=True, request=waiting.decode("ascii", "replace"), request_file=self._request)
        key = self._new_key(order.reuse_key)
        data = pem(_ca_certificate.ca_request(key, None, None, self._current.certificate), REQUEST).encode("ascii")
        if not self._check:
            self._keep_new_key(key)
            self._put(self._request, data, 0o644, self._current.certificate_place)
        return self._changed(True, pending=True, request=data.decode("ascii"), request_file=self._request)

    def _refuse_lost_key(self, waiting: bytes) -> None:
        try:
            digest = spki_sha256(_outline.request(request_der(waiting)).public_key)
        except ValueError:
            digest = ""
        if digest not in (self._current.public_key_sha256, self._next_key.digest if self._next_key else None):
            raise lost_key(self._current.subject, self._request, self._next_private_key)

    def _chain_in_place(self) -> t.List[bytes]:
        return pem_certificates(read_file(self._certificate, "the CA certificate", LARGEST_INPUT))[1:]

    def _new_key(self, reuse: bool) -> t.Any:
        """The key of the next generation: the same, the one that waits already, or a new one, which no file has yet.

        In check mode an RSA key is not made, which takes long: what is made with the present one is the same but for the key.
        """
        present = self._facts.private_keys[self._current.public_key_sha256]
        weak = _ca_certificate.weakness(self._current.public_key)
        same = not self._next_key and (reuse or (self._check and self._current.key_algorithm.startswith("RSA") and not weak))
        key = self._next_key.key if self._next_key else present if same else _ca_certificate.key_like(self._current.public_key)
        refuse_weak_key(self._current, key.public_key(), same, self._next_private_key)
        return key

    def _keep_new_key(self, key: t.Any) -> None:
        """Put a new key beside the present one, where it waits for its certificate."""
        if self._next_key or key is self._facts.private_keys[self._current.public_key_sha256]:
            return
        place = t.cast(Place, self._current.key_place)
        self._put(self._next_private_key, key_bytes(key, place, self._passphrase), 0o600, place)
        self._next_key = load_key_file(self._next_private_key, self._ca.selector.private_key_passphrase)

    def _write_certificate(self, certificate: bytes, chain: t.Sequence[bytes]) -> None:
        place = t.cast(Place, self._current.certificate_place)
        text = certificate if place.encoding == "DER" else "".join(map(pem, [certificate, *chain])).encode("ascii")
        self._put(self._next_certificate, text, 0o644, place)

    def _put(self, path: str, data: bytes, mode: int, like: t.Optional[Place]) -> None:
        put_new(path, data, mode, like.path if like else None)

    def _refuse_immovable(self, new_key: bool) -> None:
        """Refuse to begin where a file couldn't be put in place at the end."""
        for path in (self._files.certificate, t.cast(str, self._files.private_key)):
            refuse_link_of_others(path, self._ca.directory, f"the CA {self._current.subject} can't be renewed")
        for path in (self._certificate, self._private_key) if new_key else (self._certificate,):
            hindrance = why_it_stays(path)
            if hindrance:
                raise self._refusal(*hindrance)

    def _switch(self) -> None:
        """Each step leaves every generation readable, and is left out where an earlier run took it.

        What can't be taken to its end is taken back: the CA goes on with the pair that it had, and the complete one waits.
        """
        path = self._certificate
        try:
            with contextlib.ExitStack() as undo:
                _keep(path, self._current.index, undo)
                if os.path.lexists(self._next_private_key):
                    users = [g.index for g in self._facts.generations if g.public_key_sha256 == self._current.public_key_sha256]
                    path = self._private_key
                    kept = _keep(path, min(users), undo)
                    os.replace(self._next_private_key, path)
                    undo.callback(_change_back, kept, path, self._next_private_key)
                    sync_directory(os.path.dirname(path))
                path = self._request
                waiting = read_if_there(path, "the request", LARGEST_INPUT)
                if waiting is not None:
                    os.unlink(path)
                    undo.callback(put_new, path, waiting, 0o644, self._certificate)
                path = self._certificate
                os.replace(self._next_certificate, path)
                undo.pop_all()
            sync_directory(os.path.dirname(path))
        except OSError as exc:
            raise KeywardError(
                f"the renewed certificate could not take its place: {path}",
                os_cause(exc),
                "Put that right and run the task again: the complete pair waits, and no generation is lost",
            ) from exc


def _keep(path: str, number: int, undo: contextlib.ExitStack) -> str:
    """Give a file that is about to be replaced the name of an older generation, too. It keeps its inode, owner and mode."""
    while True:
        kept = older_path(path, number)
        try:
            _same_file(path, kept)
        except FileExistsError:
            if _same(path, kept):
                break
            number += 1
        else:
            undo.callback(os.unlink, kept)
            break
    sync_directory(os.path.dirname(path))
    return kept


def _same_file(path: str, name: str) -> None:
    """A new name for a file, or a copy where the file system has no hard links. Raises OSError, FileExistsError where there is one."""
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:
        with StagedFile(name, read_file(path, "the file"), protection_of(path)) as staged:
            staged.commit()


def _change_back(kept: str, path: str, waited: str) -> None:
    """Undo the steps taken: the new files wait again, and the old ones are back in place."""
    _same_file(path, waited)
    with StagedFile(path, read_file(kept, "the file"), protection_of(kept)) as staged:
        staged.replace()


def _same(one: str, other: str) -> bool:
    return os.path.samefile(one, other) or read_file(one, "the file") == read_file(other, "the file")
