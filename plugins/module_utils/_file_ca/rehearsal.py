# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what C(openssl ca) would do, tried with a key of this moment and copies of the database; may change in any
release. Nothing of the CA is touched."""

from __future__ import annotations

import os
import secrets
import shutil
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import stand_in_key
from ansible_collections.keyward.pki.plugins.module_utils._directories import writing
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import run_openssl
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._staged import write_new
from ansible_collections.keyward.pki.plugins.module_utils._successor_policy import path_length
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time, now, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import load, pem

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa


def random_serial() -> bytes:
    return f"{secrets.randbits(126) | 1 << 126:032X}\n".encode("ascii")


def copies(ca: FileCa, files: Files, scratch: str) -> t.Dict[str, str]:
    """What a configuration must say to work on copies in a directory."""
    settings = {"database": os.path.join(scratch, "index.txt"), "serial": os.path.join(scratch, "serial")}
    settings["new_certs_dir"] = os.path.join(scratch, "issued")
    os.mkdir(settings["new_certs_dir"], 0o700)
    wanted = [(files.database, settings["database"]), (f"{files.database}.attr", f"{settings['database']}.attr")]
    if files.random_serials:
        write_new(settings["serial"], random_serial(), 0o600)
    elif files.serial:
        wanted.append((files.serial, settings["serial"]))
    if files.crl_number:
        settings["crlnumber"] = os.path.join(scratch, "crlnumber")
        wanted.append((files.crl_number, settings["crlnumber"]))
    database = DatabaseFiles(ca, files)
    for source, copy in wanted:
        if source and os.path.exists(database.place_of(source)):
            with writing("a copy of the database"):
                shutil.copyfile(database.place_of(source), copy)
    return settings


def stand_in(generation: Generation, scratch: str, what: str) -> t.Tuple[str, t.List[str]]:
    """The certificate of a generation for another key, which is in the same directory, and what C(openssl ca) must be told."""
    given, own, key = (os.path.join(scratch, name) for name in ("own.pem", "ca.pem", "key.pem"))
    write_new(given, pem(generation.certificate).encode("ascii"), 0o600)
    write_new(key, stand_in_key(), 0o600)
    run_openssl(["x509", "-in", given, "-signkey", key, "-days", "3650", "-out", own], what)
    return own, ["-cert", own, "-keyfile", key, "-keyform", "PEM"]


def refuse_as_issuer(generation: Generation, what: str) -> None:
    """Raise KeywardError for what a key of this moment does not show: the CA's own key is gone or closed, or its certificate does not
    allow a CA below it.

    One of a kind that only the library does not know is openssl's to use.
    """
    why = None
    if generation.exportable is not False and generation.private_key == "missing":
        why = (f"the private key of {generation.label} is not here", "Put it back (ca_key_restore)")
    elif generation.private_key == "inaccessible" and generation.encrypted_at_rest is not False:
        remedy = "Give the right private_key_passphrase, or let the user that runs this task read the key (become)"
        why = (f"the private key of {generation.label} can't be used", remedy)
    elif parse_time(generation.not_after) <= now():
        why = (f"{generation.label} expired on {generation.not_after}", "Renew the CA first (ca_renew)")
    elif path_length(load(generation.certificate)) == 0:
        why = (
            f"{generation.label} allows no CA below it (path length 0)",
            "Have the CA above sign it, or renew this one without that limit",
        )
    if why:
        raise KeywardError(what, *why)


def refuse_days(ca: FileCa, setting: str, given: t.Optional[int], what: str) -> None:
    """Raise KeywardError where the configuration says so many days that no certificate or CRL can: openssl says nothing of it."""
    said = (ca.setting(setting) or "").strip()
    if given is None and said.isdigit() and int(said) > (parse_time("9999-12-31T23:59:59Z") - now()).days:
        why = f"the configuration says {setting} = {said[:20]}: from today ({asn1_time(now())}) that is a time which can't be written"
        raise KeywardError(what, why, "Correct it there, or give days")
