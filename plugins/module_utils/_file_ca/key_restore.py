# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: putting keys and certificates back on the host of a CA of files; may change in any release.

Everything is planned and every conflict found before anything is touched; all files are written whole beside their places
before the first one takes its place.
"""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils._acl import acl_text
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere
from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directories, move_aside
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.immovable import refuse_immovable
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import key_bytes, refuse_in_the_clear
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.places import refuse_elsewhere
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Place
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import GivenFile, Imported, ImportKeys, PutBack, SetAside
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, recorded_protection
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile
from ansible_collections.keyward.pki.plugins.module_utils._verdict import open_bundle
from ansible_collections.keyward.pki.plugins.module_utils._x509 import first_certificate, pem

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

_FAILED = "nothing was restored"


@dataclass(frozen=True)
class Missing:
    """A file to put back: where it belongs, and whether another file lies there. C(together): key and certificate in one PEM file."""

    kind: str  # certificate or private_key
    generation: Generation
    place: Place
    in_the_way: bool
    passphrase: t.Optional[str] = field(default=None, repr=False)
    clear_allowed: bool = False
    together: bool = False

    def protection(self) -> Protection:
        place, private = self.place, self.kind == "private_key"
        mode = int(place.mode, 8) & 0o775 if place.mode else 0o600 if private else 0o644
        what = f"{place.path} was not restored"
        recorded = recorded_protection(place.path, mode, place.owner, place.group, place.acl, what)
        return recorded.closed_to_others() if private else recorded

    def content(self, keys: t.Mapping[str, t.Any]) -> bytes:
        certificate = self.generation.certificate
        if self.kind == "certificate":
            return certificate if self.place.encoding == "DER" else pem(certificate).encode("ascii")
        key = key_bytes(keys[self.generation.public_key_sha256], self.place, self.passphrase, self.clear_allowed)
        return key + pem(certificate).encode("ascii") if self.together else key


def import_keys(ca: FileCa, order: ImportKeys, check: bool) -> Imported:
    """Carry the order out, under the CA's lock where a CA is there."""
    try:
        alone: t.ContextManager[t.Any] = ca.alone(ca.files(), _FAILED, check)
    except NothingThere:
        alone = contextlib.nullcontext()
    with alone:
        try:
            facts: t.Optional[Facts] = ca.as_decided(order.of, _FAILED)
        except NothingThere:
            if order.of is not None:
                raise
            facts = None
        return put_back(ca, facts, order, check)


def put_back(ca: FileCa, facts: t.Optional[Facts], order: ImportKeys, check: bool) -> Imported:
    """Put back what the host lacks of the order's generations. C(facts): of the CA as it is; None where nothing is left of it."""
    placed = ca.places(order.generations, order.directory)
    wanted = [placed[generation.sha256] for generation in order.generations]
    missing = list(_missing(ca, facts, wanted, order))
    in_the_way = [file for file in missing if file.in_the_way]
    ways = [file.place.path for file in in_the_way]
    dangling = next((path for path in ways if os.path.islink(path) and not os.path.exists(path)), None)
    if dangling and order.on_conflict != "set_aside":
        why = f"{dangling} is a link to {os.path.realpath(dangling)}, and nothing is there"
        raise KeywardError(_FAILED, why, "Mount the medium that it leads to. If that is lost, remove the link")
    if in_the_way and order.on_conflict != "set_aside":
        raise KeywardError(
            _FAILED,
            "another file lies where the backup belongs: " + ", ".join(sorted({file.place.path for file in in_the_way})),
            "Find out what it is; if it is a key that no backup holds, back it up first. With on_conflict: set_aside it is kept "
            "under another name and the backup takes its place",
            [Finding("conflict", f"{file.place.path} holds something else", file.generation.sha256) for file in in_the_way],
        )
    refuse_elsewhere(ca, [file.place.path for file in missing], order.generations, order.directory, check)
    refuse_immovable([file.place.path for file in missing], _FAILED)
    protections = [file.protection() for file in missing]
    restored = tuple(
        PutBack(file.kind, file.place.path, file.generation.sha256, _access(own, file.place)) for file, own in zip(missing, protections)
    )
    if check:
        return Imported(bool(missing), restored, tuple(SetAside(file.place.path) for file in in_the_way))
    keys = _keys_of(order.files)
    lacking = {file.generation.public_key_sha256 for file in missing if file.kind == "private_key"}
    if lacking - keys.keys():
        return Imported(False, needs=tuple(sorted(lacking)))
    return Imported(bool(missing), restored, tuple(_written(missing, protections, keys)))


def _access(own: Protection, place: Place) -> str:
    """Mode, owner and ACL, as people write them; they may come from a manifest alone."""
    whose = ":".join(name for name in (place.owner, place.group) if name)
    return " ".join(part for part in (f"{own.mode or 0:04o}", whose, acl_text(own.acl) if own.acl else None) if part)


def _keys_of(files: t.Sequence[GivenFile]) -> t.Dict[str, t.Any]:
    """The private keys of the order, by public_key_sha256."""
    keys: t.Dict[str, t.Any] = {}
    for file in files:
        bundle = open_bundle(file.name, file.content, [file.password])
        if bundle.contents is None:
            raise KeywardError(_FAILED, "the keys did not arrive whole", "Run the task again", [bundle.fault] if bundle.fault else [])
        keys.update({entry.public_key_sha256: entry.key for entry in bundle.contents.private_keys})
    return keys


def _missing(ca: FileCa, facts: t.Optional[Facts], placed: t.Sequence[Generation], order: ImportKeys) -> t.Iterator[Missing]:
    live = {generation.sha256 for generation in facts.generations} if facts else set()
    planned = set()
    for generation in reversed(placed):
        place, key_place, key = generation.certificate_place, generation.key_place, generation.public_key_sha256
        if key_place and generation.private_key == "inaccessible" and order.on_conflict != "set_aside":
            raise KeywardError(
                _FAILED,
                f"the key file {key_place.path} can't be opened, so it can't be told whether it is the right one",
                "Give its private_key_passphrase, or become a user that may read it. With on_conflict: set_aside it is kept under "
                "another name and the backup's key takes its place",
            )
        lacks_certificate = generation.sha256 not in live and not (place and _holds_certificate(place.path, generation))
        lacks_key = generation.private_key != "present" and key not in planned
        together = bool(place and key_place and place.path == key_place.path)
        if key_place and (lacks_key or (lacks_certificate and together)):
            planned.add(key)
            passphrase, clear_allowed = ca.passphrase(generation), order.allow_unencrypted_key
            refuse_in_the_clear(key_place, passphrase, clear_allowed)
            there = os.path.lexists(key_place.path)
            yield Missing("private_key", generation, key_place, there, passphrase, clear_allowed, together)
            lacks_certificate = lacks_certificate and not together
        if place and lacks_certificate:
            yield Missing("certificate", generation, place, os.path.lexists(place.path))


def _holds_certificate(path: str, generation: Generation) -> bool:
    try:
        data = read_file(path, "the certificate")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return first_certificate(data) == generation.certificate


def _written(missing: t.Sequence[Missing], protections: t.Sequence[Protection], keys: t.Mapping[str, t.Any]) -> t.Iterator[SetAside]:
    """Puts all files in their places; what was set aside for them."""
    staged: t.List[StagedFile] = []
    path = ""
    try:
        for file, own in zip(missing, protections):
            path = file.place.path
            folder = Protection(0o700 if file.kind == "private_key" else 0o755, own.owner, own.group)
            make_directories(os.path.dirname(path), folder)
            staged.append(StagedFile(path, file.content(keys), own))
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for file, ready in zip(missing, staged):
            path = file.place.path
            if file.in_the_way:
                yield SetAside(path, move_aside(path, when))
            ready.commit()
    except OSError as exc:
        raise KeywardError(
            f"{path} could not be put back",
            os_cause(exc),
            "Put that right and run the task again: it goes on where it stopped, and what was set aside is still there",
        ) from exc
    finally:
        for ready in staged:
            ready.discard()
