# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what is published of a CA, and what of it is newer than a set; may change in any release."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import subject_bytes
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._one_line import one_line
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import IssuedCertificate, Published, Revocation
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_CRL
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetManifest
from ansible_collections.keyward.pki.plugins.module_utils._time import asn1_time, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex


@dataclass(frozen=True)
class Revoked:
    serial: int
    at: datetime
    reason: str | None  # one of _x509.REASONS

    def as_order(self) -> Revocation:
        return Revocation(even_hex(self.serial), asn1_time(self.at), self.reason)


class Crl(t.NamedTuple):
    number: int | None
    revoked: list[Revoked]


class Issued(t.NamedTuple):
    """A certificate that is known to be issued. C(subject): in one line. C(where): its file's name."""

    serial: int
    begins: datetime
    expires: datetime
    subject: str
    where: str


@dataclass(frozen=True)
class Seen:
    """What is out there, as far as a task was shown it. C(compared): whether it was shown anything."""

    crls: t.Sequence[Crl]
    issued: t.Sequence[Issued]
    compared: bool

    def as_order(self) -> Published:
        revoked = {one.serial: one for crl in self.crls for one in crl.revoked}
        return Published(
            crl_numbers=tuple(even_hex(crl.number) for crl in self.crls if crl.number is not None),
            revocations=tuple(one.as_order() for one in revoked.values()),
            issued=tuple(IssuedCertificate(even_hex(one.serial), asn1_time(one.expires), one.subject, one.where) for one in self.issued),
            compared=self.compared,
        )

    @property
    def last_crl_number(self) -> int | None:
        return max((crl.number for crl in self.crls if crl.number is not None), default=None)

    def revoked_since(self, manifest: SetManifest) -> list[Revoked]:
        """Each certificate once."""
        as_of = parse_time(manifest.as_of)
        return list({one.serial: one for crl in self.crls for one in crl.revoked if one.at > as_of}.values())

    def newer_than(self, manifest: SetManifest, backdated: timedelta) -> list[Finding]:
        """By dates, for a database that can't be looked into. C(backdated): by so much the CA lets certificates begin earlier."""
        as_of = parse_time(manifest.as_of)
        following = int(manifest.state.next_crl_number, 16) if manifest.state.next_crl_number else None
        newer = []
        for crl in self.crls:
            later = sum(1 for one in crl.revoked if one.at > as_of)
            if later or (crl.number is not None and following is not None and crl.number >= following):
                what = f"CRL number {crl.number:X}" if crl.number is not None else "a CRL"
                text = f"a published CRL is newer than the set: {what}, {later} revocations after it"
                newer.append(Finding("published_crl_newer", text))
        issued = [f"{one.serial:X} ({one.where})" for one in self.issued if one.begins > as_of - backdated]
        if issued:
            text = f"{len(issued)} certificates were issued after the set was made: {', '.join(issued[:5])}"
            newer.append(Finding("published_certificates_newer", text))
        return newer


def seen(crls: t.Sequence[str] | None, folder: str | None, generations: t.Sequence[Generation]) -> Seen:
    """C(crls): files; C(folder): one with certificates. Raises KeywardError where a CRL is not of this CA, or can't be read."""
    return Seen([_crl(path, generations) for path in crls or ()], _issued(folder, generations) if folder else [], bool(crls or folder))


def _crl(path: str, generations: t.Sequence[Generation]) -> Crl:
    what = f"the published CRL {path} can't be "
    try:
        parsed = _x509.load_crl(read_file(path, "the published CRL", LARGEST_CRL))
    except FileNotFoundError:
        raise KeywardError(what + "read", "it does not exist", "Give a file on the controller") from None
    except ValueError:
        raise KeywardError(what + "read", "it is no CRL, neither PEM nor DER", "Give another file") from None
    if not any(_x509.signed_by(parsed, generation.certificate) for generation in generations):
        raise KeywardError(what + "used", "no generation of this CA signed it", "Give the CRLs of this CA only")
    number = next((e.value.crl_number for e in parsed.extensions if hasattr(e.value, "crl_number")), None)
    return Crl(number, [Revoked(*one) for one in _x509.revoked_in(parsed)])


def _issued(folder: str, generations: t.Sequence[Generation]) -> list[Issued]:
    """The certificates of this CA in a folder, its own not among them."""
    signers = [_x509.load(generation.certificate) for generation in generations]
    try:
        names = sorted(os.listdir(folder))
    except OSError as exc:
        raise KeywardError(f"published_certificates {folder} can't be read", os_cause(exc), "Give a directory on the controller") from exc
    found = []
    for name in names:
        try:
            parsed = _x509.load(read_file(os.path.join(folder, name), "the certificate"))
        except (KeywardError, ValueError, OSError):
            continue
        if not _x509.is_self_signed(parsed) and any(_x509.is_issued_by(parsed, signer) for signer in signers):
            found.append(Issued(parsed.serial_number, *_x509.validity(parsed), one_line(subject_bytes(parsed)), name))
    return found
