# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what is published of a CA, and what of it is newer than a set; may change in any release."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _outline, _x509
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_number, crls_in, load_crl, revoked_in
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known, running_out
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import IssuedCertificate, Published, Revocation
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_CRL
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetManifest
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._time import after, asn1_time, at_most_now, now
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, issued_in, unverified, whose_crl
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex


@dataclass(frozen=True)
class Revoked:
    serial: int
    at: datetime
    reason: str | None  # one of those of _crl

    def as_order(self) -> Revocation:
        return Revocation(even_hex(self.serial), asn1_time(self.at), self.reason)


class Crl(t.NamedTuple):
    number: int | None
    revoked: list[Revoked]
    known: Known | None = None


class Issued(t.NamedTuple):
    """A certificate that is known to be issued. C(subject): in one line. C(where): its file's name. C(content): DER."""

    serial: int
    begins: datetime
    expires: datetime
    subject: str
    where: str
    content: bytes = b""


@dataclass(frozen=True)
class Seen:
    """What the task was given of published CRLs and certificates. C(compared): whether it was given anything."""

    crls: t.Sequence[Crl]
    issued: t.Sequence[Issued]
    compared: bool
    advisories: t.Sequence[Finding] = ()
    generations: t.Sequence[Generation] = ()

    def as_order(self) -> Published:
        revoked = {one.serial: one for crl in self.crls for one in crl.revoked}
        return Published(
            crl_numbers=tuple(even_hex(crl.number) for crl in self.crls if crl.number is not None),
            revocations=tuple(one.as_order() for one in revoked.values()),
            issued=tuple(IssuedCertificate(even_hex(one.serial), asn1_time(one.expires), one.subject, one.where) for one in self.issued),
            compared=self.compared,
        )

    def running_out(self, on_host: t.Sequence[Finding]) -> list[Finding]:
        """C(on_host), with what is to be said of CRLs that expire: of a key whose CRL was shown here, that one tells."""
        keys = {crl.known.generation.public_key_sha256 for crl in self.crls if crl.known}
        shown = {one.sha256 for one in self.generations if one.public_key_sha256 in keys}
        left = [one for one in on_host if one.code != "crl_expires_soon" or one.certificate not in shown]
        return [*running_out(crl.known for crl in self.crls if crl.known), *left]

    @property
    def last_crl_number(self) -> int | None:
        return max((crl.number for crl in self.crls if crl.number is not None), default=None)

    def revoked_beyond(self, known: t.Collection[int]) -> list[Revoked]:
        """Each certificate once. C(known): the serial numbers that are revoked where they are to be entered."""
        return list({one.serial: one for crl in self.crls for one in crl.revoked if one.serial not in known}.values())

    def issued_since(self, manifest: SetManifest, backdated: timedelta) -> list[Issued]:
        """Compare by dates, where the set's rows can't be read here. C(backdated): how far the CA dates certificates back."""
        as_of = at_most_now(manifest.as_of, now())
        return [one for one in self.issued if after(one.begins, backdated) > as_of]

    def newer_than(self, manifest: SetManifest, revoked: t.Collection[int], backdated: timedelta) -> list[Finding]:
        """C(revoked): the serial numbers that the set knows as revoked. C(backdated): see C(issued_since)."""
        following = int(manifest.state.next_crl_number, 16) if manifest.state.next_crl_number else None
        newer = []
        for crl in self.crls:
            later = sum(1 for one in crl.revoked if one.serial not in revoked)
            if later or (crl.number is not None and following is not None and crl.number >= following):
                what = f"CRL number {crl.number:X}" if crl.number is not None else "a CRL"
                text = f"a published CRL is newer than the set: {what}, {later} revocations that it lacks"
                newer.append(Finding("published_crl_newer", text))
        issued = [f"{one.serial:X} ({one.where})" for one in self.issued_since(manifest, backdated)]
        if issued:
            text = f"{len(issued)} certificates were issued after the set was made: {', '.join(issued[:5])}"
            newer.append(Finding("published_certificates_newer", text))
        return newer


def seen(crls: t.Sequence[str] | None, folder: str | None, generations: t.Sequence[Generation]) -> Seen:
    """C(crls): files; C(folder): one with certificates. Raises KeywardError where a CRL is not of this CA, or can't be read."""
    advisories: list[Finding] = []
    read = [crl for path in crls or () for crl in _crls(path, generations, advisories)]
    return Seen(read, _issued(folder, generations, advisories) if folder else [], bool(crls or folder), advisories, generations)


def _crls(path: str, generations: t.Sequence[Generation], advisories: list[Finding]) -> list[Crl]:
    """Those of a file: web servers want the CRLs of all generations in one."""
    what = f"the published CRL {path} can't be "
    try:
        data = read_file(path, "the published CRL", LARGEST_CRL)
        return [_crl(der, path, generations, advisories) for der in list(crls_in(data)) or [b""]]
    except FileNotFoundError:
        raise KeywardError(what + "read", "it does not exist", "Give a file on the controller") from None
    except ValueError:
        raise KeywardError(what + "read", "it is no CRL, neither PEM nor DER", "Give another file") from None


def _crl(der: bytes, path: str, generations: t.Sequence[Generation], advisories: list[Finding]) -> Crl:
    """Raises ValueError where it is none."""
    parsed = load_crl(der)
    signer, whose = among(generations, lambda certificate: whose_crl(der, certificate))
    if signer is None:
        why = f"no generation of this CA signed it, or one in it: that is of {_outline.rfc4514(_outline.crl(der).issuer)}"
        raise KeywardError(f"the published CRL {path} can't be used", why, "Give the CRLs of this CA only")
    if whose is Whose.CANT_TELL:
        advisories.append(unverified(f"the published CRL {path}"))
    number = crl_number(parsed)
    revoked = [Revoked(*one) for one in revoked_in(parsed)]
    return Crl(None if number is None else int(number, 16), revoked, Known(signer, path, der))


def _issued(folder: str, generations: t.Sequence[Generation], advisories: list[Finding]) -> list[Issued]:
    """The certificates of this CA in a folder, its own not among them: what can't be verified counts, what can't be read is named."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as exc:
        raise KeywardError(f"published_certificates {folder} can't be read", os_cause(exc), "Give a directory on the controller") from exc
    found, unread, perhaps = [], [], 0
    for name in names:
        try:
            data = read_file(os.path.join(folder, name), "the certificate")
            one = issued_in(data, generations)
        except (KeywardError, OSError):
            continue
        except ValueError:
            unread.append(name)
            continue
        if one:
            perhaps += one.whose is Whose.CANT_TELL
            found.append(
                Issued(one.outline.serial, one.outline.begins, one.outline.ends, one.subject, name, _x509.first_certificate(data) or b"")
            )
    if perhaps:
        advisories.append(unverified("certificates in published_certificates", perhaps))
    if unread:
        names_said = ", ".join(unread[:5]) + (" and others" if len(unread) > 5 else "")
        text = f"{len(unread)} files in published_certificates say that they are certificates, and can't be read: {names_said}"
        advisories.append(Finding("certificate_unreadable", f"{text}. Look at them: their serial numbers are not taken into account"))
    return found
