# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: putting keys and certificates back on the host of a CA; may change in any release.

Everything is planned and every conflict found before anything is touched; all files are written whole beside their places
before the first one takes its place.
"""

from __future__ import annotations

import base64
import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends import find
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa
from ansible_collections.keyward.pki.plugins.module_utils._files import StagedFile, make_directories, move_aside, owner_numbers, read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, Place
from ansible_collections.keyward.pki.plugins.module_utils._host import Answer, Request, read_authority
from ansible_collections.keyward.pki.plugins.module_utils._verdict import Bundle, judge, open_bundle, refuse_foreign
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the modules say which library is missing
    pass


@dataclass(frozen=True)
class Missing:
    """A file to put back: where it belongs, what it holds, and whether another file lies there."""

    kind: str  # certificate or private_key
    generation: Generation
    place: Place
    content: bytes
    in_the_way: bool

    def as_result(self) -> t.Dict[str, t.Any]:
        return {"kind": self.kind, "path": self.place.path, "certificate": self.generation.sha256}


def restore(which: Selector, request: Request, check: bool) -> Answer:
    """Put back the keys and certificates of the bundles that the authority on this host lacks."""
    if "bundles" not in request:
        return read_authority(which, request, check)
    backend = t.cast(FileCa, find(which))
    reading: t.Optional[Facts]
    try:
        reading = backend.facts()
    except NothingThere:
        reading = None
    bundles = [
        open_bundle(file["name"], base64.b64decode(file["content"]), [file["password"]], file["sha256"]) for file in request["bundles"]
    ]
    generations = [Generation.from_json(shape) for shape in request["generations"]]
    outcome = restore_generations(
        backend,
        reading,
        bundles,
        generations,
        known=Authority(**request["authority"]) if request.get("authority") else None,
        host=request.get("host"),
        set_conflicts_aside=request["on_conflict"] == "set_aside",
        allow_unencrypted_key=request["allow_unencrypted_key"],
        check=check,
    )
    return outcome


def restore_generations(
    backend: FileCa,
    reading: t.Optional[Facts],
    bundles: t.Sequence[Bundle],
    generations: t.Sequence[Generation],
    known: t.Optional[Authority],
    host: t.Optional[str],
    set_conflicts_aside: bool,
    allow_unencrypted_key: bool,
    check: bool,
) -> t.Dict[str, t.Any]:
    """Put back what the host lacks of C(generations); C(known) is the authority that the backup names, where it names one.

    Returns changed, restored [{kind, path, certificate}] and set_aside [{path, kept_as}]. Raises KeywardError.
    """
    verdict = judge(bundles, generations)
    if not verdict.restorable:
        raise KeywardError(
            "nothing was restored",
            "; ".join(finding.message for finding in verdict.reasons),
            "Give another backup: ca_key_backup_info lists them",
            verdict.reasons,
        )
    if reading:
        refuse_foreign(Authority(**{**vars(reading.authority), "host": host}), reading.generations, known, generations)
    placed = backend.places(generations, known.directory if known else None)
    wanted = [placed[generation.sha256] for generation in generations]
    missing = list(_missing(backend, reading, bundles, wanted, set_conflicts_aside, allow_unencrypted_key))
    in_the_way = [file for file in missing if file.in_the_way]
    if in_the_way and not set_conflicts_aside:
        raise KeywardError(
            "nothing was restored",
            "another file lies where the backup belongs: " + ", ".join(sorted({file.place.path for file in in_the_way})),
            "Find out what it is; if it is a key that no backup holds, back it up first. With on_conflict: set_aside it is kept "
            "under another name and the backup takes its place",
            [Finding("conflict", f"{file.place.path} holds something else", file.generation.sha256) for file in in_the_way],
        )
    set_aside = [] if check else _put_back(missing)
    if check:
        set_aside = [{"path": file.place.path, "kept_as": None} for file in in_the_way]
    return {"changed": bool(missing), "restored": [file.as_result() for file in missing], "set_aside": set_aside}


def _missing(
    backend: FileCa,
    reading: t.Optional[Facts],
    bundles: t.Sequence[Bundle],
    placed: t.Sequence[Generation],
    set_conflicts_aside: bool,
    allow_unencrypted_key: bool,
) -> t.Iterator[Missing]:
    keys = {entry.public_key_sha256: entry.key for bundle in bundles if bundle.contents for entry in bundle.contents.private_keys}
    live = {generation.sha256 for generation in reading.generations} if reading else set()
    planned = set()
    for generation in reversed(placed):
        place, key_place, key = generation.certificate_place, generation.key_place, generation.public_key_sha256
        if key_place and generation.private_key == "inaccessible" and not set_conflicts_aside:
            raise KeywardError(
                "nothing was restored",
                f"the key file {key_place.path} can't be opened, so it can't be told whether it is the right one",
                "Give its private_key_passphrase, or become a user that may read it. With on_conflict: set_aside it is kept under "
                "another name and the backup's key takes its place",
            )
        lacks_certificate = generation.sha256 not in live and not (place and _holds_certificate(place.path, generation))
        lacks_key = generation.private_key != "present" and key not in planned
        content = generation.certificate if place and place.encoding == "DER" else pem(generation.certificate).encode("ascii")
        if key_place and (lacks_key or (lacks_certificate and place and place.path == key_place.path)):
            planned.add(key)
            key_content = key_bytes(keys[key], key_place, backend.passphrase(generation), allow_unencrypted_key)
            if place and place.path == key_place.path:  # both in one PEM file
                key_content, lacks_certificate = key_content + content, False
            yield Missing("private_key", generation, key_place, key_content, os.path.lexists(key_place.path))
        if place and lacks_certificate:
            yield Missing("certificate", generation, place, content, os.path.lexists(place.path))


def _holds_certificate(path: str, generation: Generation) -> bool:
    try:
        data = read_file(path, "the certificate")
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        parsed = x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
    except ValueError:
        return False
    return parsed.public_bytes(serialization.Encoding.DER) == generation.certificate


def key_bytes(key: t.Any, place: Place, passphrase: t.Optional[str], allow_unencrypted_key: bool) -> bytes:
    """The key file's bytes in the form that it had. A key that was encrypted at rest never comes back clear unless that is allowed."""
    container = serialization.PrivateFormat.PKCS8 if place.container in (None, "PKCS#8") else serialization.PrivateFormat.TraditionalOpenSSL
    encoding = serialization.Encoding.DER if place.encoding == "DER" else serialization.Encoding.PEM
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if place.encrypted_at_rest:
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase.encode("utf-8"))
        elif not allow_unencrypted_key:
            raise KeywardError(
                "nothing was restored",
                f"the key {place.path} was encrypted at rest, and no passphrase was given to encrypt it again",
                "Give private_key_passphrase, or allow_unencrypted_key: true if a clear file is what you want",
            )
    return t.cast(bytes, key.private_bytes(encoding, container, encryption))


def _put_back(missing: t.Sequence[Missing]) -> t.List[t.Dict[str, t.Any]]:
    owners = {file.place.path: owner_numbers(file.place.owner, file.place.group, f"{file.place.path} was not restored") for file in missing}
    staged: t.List[StagedFile] = []
    set_aside: t.List[t.Dict[str, t.Any]] = []
    path = ""
    try:
        for file in missing:
            path = file.place.path
            uid, gid = owners[path]
            make_directories(os.path.dirname(path), 0o700 if file.kind == "private_key" else 0o755, uid, gid)
            mode = int(file.place.mode, 8) if file.place.mode else 0o600 if file.kind == "private_key" else 0o644
            staged.append(StagedFile(path, file.content, mode, uid, gid))
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for file, ready in zip(missing, staged):
            path = file.place.path
            if file.in_the_way:
                set_aside.append({"path": path, "kept_as": move_aside(path, when)})
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
    return set_aside
