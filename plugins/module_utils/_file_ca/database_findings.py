# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a person must know of the database of a CA of files; may change in any release."""

from __future__ import annotations

import functools
import os
import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_number, crls_in, load_crl, revoked_in
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, older_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Row
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_CRL
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time, now
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, issued_in, unverified, whose_crl

_CERTIFICATE = re.compile(r"([0-9A-Fa-f]+)\.pem\Z")
_SHOWN = 10


def findings(database: DatabaseFiles, files: Files, generations: t.Sequence[Generation]) -> t.List[Finding]:
    """What is wrong with a database, what openssl left undone, and where CRLs and certificates on the host show more than it has."""
    found = database.index.findings(database.path)
    if any(one.code == "index_refused" for one in found):
        return found  # what else it says is not known
    for path in database.waiting:
        text = f"openssl was stopped before it put {path}.new in place: ca_crl and ca_sign do that before they sign, and each new set"
        found.append(Finding("unfinished_issue", text))
    for path in database.missing():
        text = f"{path} is gone; {path}.old is what came before it, and its numbers were given. Put it back (ca_database_restore)"
        found.append(Finding("database_file_missing", text))
    return [*found, *_without_row(database, files, generations), *_crls_say_more(database, files, generations)]


def refuse_to_overwrite(database: DatabaseFiles, files: Files, generations: t.Sequence[Generation], what: str) -> None:
    """Raises KeywardError where the next certificate would take the number, and the file, of one without a row."""
    following = database.next_serial
    for path, number in unlisted(files.new_certificates, database.index.numbers, generations):
        if number == following:
            why = f"the next serial number is that of {path}, which has no row in {database.path}: openssl was stopped while it issued it"
            raise KeywardError(what, why, f"Enter it (openssl ca -valid {path}), and set {files.serial} beyond it")


def _without_row(database: DatabaseFiles, files: Files, generations: t.Sequence[Generation]) -> t.List[Finding]:
    found: t.List[Finding] = []
    following = None
    try:
        following = database.next_serial
    except KeywardError as exc:
        found.append(Finding("database_unreadable", str(exc)))
    for path, number in unlisted(files.new_certificates, database.index.listed, generations):
        text = f"{path} has no row in {database.path}: "
        if number == following:
            text += "the next certificate would get its number and its place. "
        text += f"Enter it (openssl ca -valid {path}), and see that {files.serial or 'the next number'} is beyond it"
        found.append(Finding("certificate_without_row", text))
    if found[_SHOWN:]:
        text = f"{len(found) - _SHOWN} further certificates have no row in {database.path}"
        found[_SHOWN:] = [Finding("certificate_without_row", text)]
    return found


def unlisted(
    folder: t.Optional[str], rows: t.Container[t.Optional[int]], generations: t.Sequence[Generation]
) -> t.Iterator[t.Tuple[str, int]]:
    """The unexpired certificates of this CA in a folder, named by their numbers, whose number has no row; its own not among them.

    One that can't be read counts by the number that its file has.
    """
    try:
        names = sorted(os.listdir(folder)) if folder else []
    except OSError:
        return
    own = {generation.sha256 for generation in generations}
    for name in names:
        match = _CERTIFICATE.match(name)
        if not match or int(match.group(1), 16) in rows:
            continue
        path = os.path.join(str(folder), name)
        try:
            data = read_if_there(path, "the certificate") or b""
            one = issued_in(data, generations)
        except (KeywardError, OSError):
            continue
        except ValueError:
            yield path, int(match.group(1), 16)
            continue
        if one and one.outline.ends >= now() and one.outline.serial not in rows and one.sha256 not in own:
            yield path, one.outline.serial


def own_crls(files: Files, directory: str, generations: t.Sequence[Generation]) -> t.Iterator[t.Tuple[str, t.Any, Whose, Generation]]:
    """The CRLs of this CA that lie on the host, of older keys too, and such as nothing here can verify."""
    named = [path for path in (files.crl, files.crl_der) if path]
    folder = files.crl_directory or (None if files.crl else directory)
    paths = [*named, *(path for one in named for _number, path in older_files(one))]
    if folder:
        try:
            paths += [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith((".pem", ".crl", ".der"))]
        except OSError:
            pass
    seen: t.Set[bytes] = set()
    for path in dict.fromkeys(paths):
        try:
            held = list(crls_in(read_if_there(path, "the CRL", LARGEST_CRL) or b""))
        except KeywardError:
            continue
        for der in held:
            try:
                parsed = load_crl(der)
                signer, whose = among(generations, functools.partial(whose_crl, der))
            except (ValueError, TypeError):
                continue
            if der not in seen and signer:
                seen.add(der)
                yield path, parsed, whose, signer


def _crls_say_more(database: DatabaseFiles, files: Files, generations: t.Sequence[Generation]) -> t.Iterator[Finding]:
    """What CRLs that lie here show, and the database does not know any more."""
    following = None
    try:
        following = database.next_crl_number
    except KeywardError as exc:
        yield Finding("database_unreadable", str(exc))
    told, listed = [], set()
    for path, parsed, whose, _signer in own_crls(files, database.directory, generations):
        told.append((path, whose, int(crl_number(parsed) or "0", 16)))
        listed.update(_revoked(parsed))
    rows = database.index.of_numbers(listed)
    unknown = {number for number in listed if not _is_known(rows.get(number))}
    lost_in: t.Dict[str, t.Set[int]] = {}  # a file may hold several CRLs
    for path, parsed, _whose, _signer in own_crls(files, database.directory, generations) if unknown else ():
        lost_in.setdefault(path, set()).update(unknown & _revoked(parsed))
    for path, whose, number in told:
        if whose is Whose.CANT_TELL:
            yield unverified(path)
        lost = sorted(lost_in.pop(path, ()))
        if lost:
            some = ", ".join(_x509.even_hex(each) for each in lost[:_SHOWN])
            text = f"{path} lists {len(lost)} certificates that {database.path} does not call revoked: {some}"
            yield Finding("revocations_missing", text + ". The next CRL would let them be valid again")
        if following is not None and number >= following:
            text = f"{path} has number {number:X}, and {files.crl_number} would give the next one {following:X}: clients keep the later"
            yield Finding("crl_number_behind", text)


def _revoked(crl: t.Any) -> t.Set[int]:
    return {number for number, _at, _why in revoked_in(crl)}


def _is_known(row: t.Optional[Row]) -> bool:
    """Whether a certificate that a CRL lists is revoked in the database, or has expired."""
    if row is None:
        return False
    expired = row.kind == "E" or _moment(row.expires) < _moment(asn1_time(now()))
    return row.kind == "R" or expired


def _moment(text: str) -> str:
    """A time of an index.txt in one form, to be compared; the years of two digits are those from 1950 on."""
    return text if len(text) > 13 else ("20" if text[:2] < "50" else "19") + text
