# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: making a CA whose keys and certificates are files; may change in any release.

A run that was killed leaves a part of it; the next one completes that, with the key that is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _ca_certificate
from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, RenewedMeanwhile
from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.chain import put_chain
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, request_path
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.immovable import refuse_immovable
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT, key_bytes, load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.places import refuse_former
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Place
from ansible_collections.keyward.pki.plugins.module_utils._lock import locked
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import ImportKeys
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Answer, Changed, Install
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import (
    answer_among,
    asked_of_parent,
    given_certificates,
    in_order,
    refuse_wrong_answer,
)
from ansible_collections.keyward.pki.plugins.module_utils._staged import put_new
from ansible_collections.keyward.pki.plugins.module_utils._x509 import REQUEST, pem

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

_WHAT = "the CA can't be installed"


def install(ca: FileCa, order: Install, check: bool) -> Changed:
    """Raises KeywardError; RenewedMeanwhile where another run has made the CA."""
    _refuse_remains(ca, order)
    if order.keys:
        refuse_former(ca, order.keys.directory, order.keys.generations[-1])
    else:
        _try(order)
    refuse_immovable([os.path.join(ca.directory, "new")], _WHAT)
    changed = ca.lay_out(order, check=True)
    if not check:
        make_directory(ca.directory, ca.MODE)
        with locked([ca.directory], _WHAT):
            changed = ca.lay_out(order, check=False)
    try:
        files = ca.files()
    except NothingThere:  # check mode: no configuration is there yet that says where they would be
        return Changed(True, pending=order.kind == "subordinate" and not order.keys)
    if order.keys:
        return _bring_back(ca, order.keys, changed, check)
    with ca.alone(files, _WHAT, check):
        _refuse_another(ca)
        _refuse_remains(ca, order)
        return _make(ca, files, order, changed, check)


def answer_first(ca: FileCa, order: Answer, check: bool) -> Changed:
    """The certificate for the request of a CA that has none yet, in its place. Raises KeywardError."""
    files, what = ca.files(), "the certificate was not put in place"
    with ca.alone(files, what, check):
        _refuse_another(ca)
        waiting = read_if_there(request_path(files.certificate), "the request", LARGEST_INPUT)
        key = load_key_file(files.private_key or "", ca.selector.private_key_passphrase)
        certificates = given_certificates(order.certificate)
        new = answer_among(certificates, key.digest if key else None)
        if waiting is None or new is None or key is None or new.public_key_sha256 != key.digest:
            raise KeywardError(what, "it is for another key than the one that waits", "Run the task again: it says which request waits")
        refuse_wrong_answer(new, new.public_key_sha256, asked_of_parent(waiting.decode("ascii", "replace")))
        certificates = in_order(new, certificates)
        if check:
            return Changed(True)
        if ca.selector.chain_file and certificates[1:]:
            put_chain(ca.stated_path(ca.selector.chain_file), certificates[1:])
            certificates = certificates[:1]
        return _put_certificate(ca, files, "".join(map(pem, certificates)).encode("ascii"))


def lay_out(files: Files, check: bool) -> bool:
    """The directories and the empty database that the configuration names; whether something was missing."""
    above = [os.path.dirname(path) for path in (files.certificate, files.database, files.serial, files.crl_number) if path]
    folders = [files.new_certificates, files.certificates, files.crl_directory, _requests(files)]
    missing = [path for path in [*above, *folders] if path and not os.path.isdir(path)]
    new = [(files.database, ""), (files.serial, _first_serial()), (files.crl_number, "01\n")]
    if files.database:
        new.append((files.database + ".attr", "unique_subject = no\n"))
    absent = [(path, text) for path, text in new if path and not os.path.lexists(path)]
    made = [path for path in (files.certificate, files.private_key) if path and not os.path.lexists(path)]
    refuse_immovable([*made, *missing, *(path for path, _text in absent)], _WHAT)
    if not check:
        if files.private_key:
            make_directory(os.path.dirname(files.private_key), 0o700)
        for path in missing:
            make_directory(path, 0o755)
        for path, text in absent:
            put_new(path, text.encode("ascii"), 0o644)
    return bool(missing or absent)


def _requests(files: Files) -> str:
    if files.request:
        return os.path.dirname(files.request)
    return os.path.join(os.path.dirname(files.new_certificates or files.certificate), "requests")


def _first_serial() -> str:
    """Starts at a random 63-bit number: two CAs made by mistake won't collide. Then they count up, so that a restored database shows
    which serials it lacks."""
    return f"{secrets.randbits(62) | 1 << 62:016X}\n"


def _refuse_another(ca: FileCa) -> None:
    with contextlib.suppress(NothingThere):
        ca.again().facts()
        raise RenewedMeanwhile("nothing was installed", "another run has made this CA meanwhile", "Run the task again")


def _refuse_remains(ca: FileCa, order: Install) -> None:
    """Refuse where certificates were issued: a new CA here would issue their serial numbers again."""
    try:
        files = ca.files()
    except NothingThere:
        return
    if files.private_key is None:
        why = f"its configuration says that its key is in a token: {files.token}"
        raise KeywardError(_WHAT, why, "Install it with the tools of the token")
    if os.path.lexists(files.certificate):
        _refuse_another(ca)
        why = f"{files.certificate} is there and is no certificate that can be read"
        raise KeywardError(_WHAT, why, "Find out what it is and move it away")
    if not order.keys and files.database and os.path.exists(files.database) and os.path.getsize(files.database):
        raise KeywardError(
            _WHAT,
            f"its database {files.database} has entries, so there was a CA here",
            "Bring that CA back (the playbook keyward.pki.restore). If this is to be another one, choose another directory",
        )


def _make(ca: FileCa, files: Files, order: Install, changed: bool, check: bool) -> Changed:
    private_key, passphrase = t.cast(str, files.private_key), ca.selector.private_key_passphrase
    there = load_key_file(private_key, passphrase)
    if there and not there.key:
        raise KeywardError(_WHAT, f"its private key {private_key} can't be used: {there.why}", there.remedy)
    root, path = order.kind == "root", request_path(files.certificate)
    waiting = None if root else read_if_there(path, "the request", LARGEST_INPUT)
    if check:
        text = waiting.decode("ascii", "replace") if waiting else None
        return Changed(changed or not waiting, pending=not root, request=text, request_file=path if waiting else None)
    if there:
        key = there.key
    else:
        key = _ca_certificate.new_key(order.key_type, order.key_size, order.curve)
        place = Place(private_key, mode="0600", encrypted_at_rest=bool(passphrase))
        put_new(private_key, key_bytes(key, place, passphrase, False), 0o600)
    if root:
        return _put_certificate(ca, files, _made(order, key))
    if waiting is None:
        waiting = _made(order, key)
        put_new(path, waiting, 0o644)
        changed = True
    facts = ca.again().waiting(files)
    if facts is None:
        raise KeywardError(_WHAT, f"{path} is there and is no request that can be read", "Find out what it is and move it away")
    return Changed(changed, facts.authority, pending=True, request=waiting.decode("ascii", "replace"), request_file=path)


def _made(order: Install, key: t.Any) -> bytes:
    """The certificate of a root, or the request of a subordinate (PEM)."""
    subject = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(one.oid), one.value) for one in order.subject])
    if order.kind == "root":
        certificate = _ca_certificate.root_certificate(key, subject, order.days, order.path_length)
        return certificate.public_bytes(serialization.Encoding.PEM)
    return pem(_ca_certificate.ca_request(key, subject, order.path_length), REQUEST).encode("ascii")


def _try(order: Install) -> None:
    """Raise KeywardError where no such certificate or request can be made, before anything is."""
    if order.path_length is not None and order.path_length < 0:
        why = f"path_length is {order.path_length}, and a certificate says 0 or more"
        raise KeywardError(_WHAT, why, "Give the number of CAs that may follow below it, or leave it out")
    try:
        kind = "EC" if order.key_type == "RSA" else order.key_type  # an RSA key takes its time
        _made(order, _ca_certificate.new_key(kind, order.key_size, order.curve))
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm) as exc:
        why = "the cryptography package of this host makes no certificate with that subject, curve and time"
        raise KeywardError(_WHAT, why, "Give another subject, curve or number of days, or install a newer release of it") from exc


def _put_certificate(ca: FileCa, files: Files, text: bytes) -> Changed:
    put_new(files.certificate, text, 0o644)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(request_path(files.certificate))
    facts = ca.again().facts()
    return Changed(True, facts.authority, facts.generations, advisories=facts.advisories)


def _bring_back(ca: FileCa, keys: ImportKeys, changed: bool, check: bool) -> Changed:
    done = ca.again().import_keys(keys, check)
    changed = changed or done.changed
    if check:
        return Changed(changed, imported=done)
    facts = ca.again().facts()
    return Changed(changed, facts.authority, facts.generations, imported=done, advisories=facts.advisories)
