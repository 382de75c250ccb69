# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the order to tell an authority as it is, and what a host tells; may change in any release."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Lines, Most


@dataclass(frozen=True)
class Look:
    """Tell the authority as it is. Nothing is changed. C(database): also what is wrong with its database."""

    NAME: t.ClassVar[str] = "look"

    database: bool = False


@dataclass(frozen=True)
class Abilities:
    """What the software of a CA can do. The controller follows these, and never asks who answered.

    keys_in_hand: it hands a key over as bytes, and takes one back; otherwise the software writes and reads PKCS #12 files itself.
    takes_days: what it signs for itself is valid for as long as an order says; otherwise that is known once it is there.
    renewal_keeps_start: a root that is renewed with its own key begins to be valid when the certificate before did.
    checks_its_certificate: it starts and issues only where the revocation of its own certificate can be checked.
    signs_requests: of CAs below it, when an order says so.
    signs_any_crl: a scratch one, and a published one again by its order; otherwise what its database says, and what its keys are given.
    sets_are_archives: a set of its database is an archive and the list of its members; otherwise files as the software wrote them.
    takes_numbers: its next serial and CRL number can be given.
    """

    keys_in_hand: bool = True
    takes_days: bool = True
    renewal_keeps_start: bool = False
    checks_its_certificate: bool = False
    signs_requests: bool = True
    signs_any_crl: bool = True
    sets_are_archives: bool = True
    takes_numbers: bool = True


@dataclass(frozen=True)
class CrlFacts:
    """A CRL of the CA on its host. C(needed): its key has signed certificates that haven't expired. Times are ISO 8601, UTC."""

    path: str
    public_key_sha256: str
    number: t.Optional[str]
    this_update: str
    next_update: t.Optional[str]
    needed: bool


@dataclass(frozen=True)
class DatabaseFacts:
    """What is issued, in short. Numbers are hex text; None where it can't be told without opening the database.

    C(crls): told where an order asks for the database, of software that keeps them in files.
    """

    path: t.Optional[str]
    exists: bool
    entries: t.Optional[int] = None
    serial: t.Optional[str] = None
    crl_number: t.Optional[str] = None
    crls: t.Annotated[t.Tuple[CrlFacts, ...], Most(1000)] = ()


@dataclass(frozen=True)
class PendingRequest:
    """A request that waits for a parent's answer. C(request): PEM; a host may leave it to the controller to read it.

    C(answerable): an order C(Answer) takes the certificate for it; otherwise it was made by other means. C(lacks_key): where its
    private key belongs, if it is not there.
    """

    path: t.Optional[str]
    subject: t.Optional[str] = None
    public_key_sha256: t.Optional[str] = None
    request: t.Annotated[t.Optional[str], Most(1024 * 1024), Lines()] = None
    answerable: bool = True
    lacks_key: t.Optional[str] = None


@dataclass(frozen=True)
class Told:
    """The authority of a host. C(generations): oldest first, the current one last, a complete one that waits for its place included.

    C(unfinished): a renewal was begun and has not taken its place. C(own): what only the judgement of this backend reads.
    """

    authority: Authority
    generations: t.Annotated[t.Tuple[Generation, ...], Most(1000)]
    abilities: Abilities = Abilities()
    database: DatabaseFacts = DatabaseFacts(None, False)
    pending_request: t.Optional[PendingRequest] = None
    unfinished: bool = False
    advisories: t.Tuple[Finding, ...] = ()
    own: t.Optional[t.Dict[str, t.Any]] = None


@dataclass(frozen=True)
class Failure:
    """Why an order was not carried out, composed on the host in three parts. C(nothing_there): there is no such CA.

    C(nothing_named): the options name no CA, and the host has no list of its CAs.
    C(renewed_meanwhile): its newest generation is no longer the one that the order was decided on. Nothing was changed.
    """

    msg: str
    nothing_there: bool
    renewed_meanwhile: bool = False
    reasons: t.Tuple[Finding, ...] = ()
    abilities: Abilities = Abilities()
    nothing_named: bool = False
