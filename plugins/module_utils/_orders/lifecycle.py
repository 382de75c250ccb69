# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the orders that make, renew and use a CA, and their answers; may change in any release."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import MUCH_ROOM, Hex, Lines, Most, Name, OneOf, Path
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import Imported, ImportKeys

LARGEST_TEXT = 1024 * 1024  # characters of a request, a certificate and its chain (PEM)
Text = t.Annotated[str, Most(LARGEST_TEXT), Lines()]
MOST_URLS = 100
LARGEST_CRL = 256 * 1024 * 1024  # bytes


@dataclass(frozen=True)
class Attribute:
    """One attribute of a subject, in its order: a dotted object identifier and its value."""

    oid: Name
    value: t.Annotated[str, Most(4096)]


@dataclass(frozen=True)
class Install:
    """Make a CA where none is; for a subordinate the request for its first certificate. C(own): terms that only this backend reads.

    C(keys): bring one back from its backup instead.
    """

    NAME: t.ClassVar[str] = "install"

    kind: t.Annotated[str, OneOf(("root", "subordinate"))]
    subject: t.Annotated[t.Tuple[Attribute, ...], Most(100)]
    key_type: Hex
    key_size: int
    curve: Hex
    days: int
    path_length: t.Optional[int] = None
    keys: t.Optional[ImportKeys] = None
    own: t.Optional[t.Dict[str, t.Any]] = None


@dataclass(frozen=True)
class Renew:
    """Renew the CA certificate, or finish a renewal that was begun.

    C(of): SHA-256 of the newest generation that this was decided on; where there is another by now, nothing is done.
    C(at): the controller's time. C(finish): it was decided on a renewal that was begun; where that is finished by now, nothing is done.
    """

    NAME: t.ClassVar[str] = "renew"

    of: Hex
    reuse_key: bool
    days: t.Optional[int] = None
    finish: bool = False
    at: t.Optional[Name] = None


@dataclass(frozen=True)
class Answer:
    """Put the parent's certificate for the pending request in place (PEM; those of the CAs above may follow). C(of): as in C(Renew).

    C(crls): DER, of the CAs above. C(proved): it is for the key and the subject of the request that waits.
    """

    NAME: t.ClassVar[str] = "answer"

    of: t.Optional[Hex] = None  # None: the CA waits for its first certificate
    certificate: Text = ""
    crls: t.Annotated[t.Tuple[t.Annotated[bytes, Most(LARGEST_TEXT)], ...], Most(100)] = ()
    proved: bool = False


@dataclass(frozen=True)
class Changed:
    """A CA after an order, or as it would be (check). C(authority): None where nothing can be told yet. C(imported): of C(Install.keys)."""

    changed: bool
    authority: t.Optional[Authority] = None
    generations: t.Annotated[t.Tuple[Generation, ...], Most(1000)] = ()
    pending: bool = False
    request: t.Optional[Text] = None
    request_file: t.Optional[Path] = None
    imported: t.Optional[Imported] = None
    reboot_required: bool = False
    advisories: t.Tuple[Finding, ...] = ()
    own: t.Optional[t.Dict[str, t.Any]] = None


@dataclass(frozen=True)
class Sign:
    """Issue the certificate for the request (PEM) of a subordinate CA, unless it was issued before. C(extensions): empty: the usual.

    C(of), C(at): as in C(Renew).
    """

    NAME: t.ClassVar[str] = "sign"

    of: Hex
    request: Text
    days: t.Optional[int] = None
    extensions: t.Annotated[str, Most(255)] = ""
    at: t.Optional[Name] = None


@dataclass(frozen=True)
class Signed:
    """C(certificate) is None where it would be issued (check). C(chain): PEM, the issuer first. C(crl): PEM, the last one of the issuer.

    C(distribution_point): it says where a CRL lies.
    """

    changed: bool
    authority: Authority
    generations: t.Annotated[t.Tuple[Generation, ...], Most(1000)]
    certificate: t.Optional[Text] = None
    serial: t.Optional[Name] = None
    chain: t.Annotated[t.Tuple[Text, ...], Most(101)] = ()
    crl: t.Optional[Text] = None
    distribution_point: bool = True
    advisories: t.Tuple[Finding, ...] = ()


@dataclass(frozen=True)
class DueCrl:
    """The generation (SHA-256) whose CRL is due, and the CRL (SHA-256 of its file) that this was decided on."""

    certificate: Hex
    seen: t.Optional[Hex] = None


@dataclass(frozen=True)
class Crls:
    """Tell the CRL of each generation, having signed those in C(sign). C(of), C(at): as in C(Renew).

    C(days): None for what the configuration says. C(published): sign this last published CRL again instead, with the next number.
    C(scratch): one by each key, for no place; nothing of the CA is changed. C(urls): tell those that issued certificates name.
    C(look): nothing is to be signed whatever is told, so that a CA without a database is none too few.
    """

    NAME: t.ClassVar[str] = "crls"

    of: t.Optional[Hex] = None
    sign: t.Annotated[t.Tuple[DueCrl, ...], Most(1000)] = ()
    scratch: bool = False
    days: t.Optional[int] = None
    published: t.Annotated[t.Optional[bytes], Most(LARGEST_CRL)] = field(default=None, repr=False)
    urls: bool = False
    look: bool = False
    at: t.Optional[Name] = None


@dataclass(frozen=True)
class NamedUrl:
    """A URL that certificates name which have not expired. C(signers): the generations (SHA-256), of each key the newest, whose keys signed
    them. C(example): the serial number of one."""

    url: t.Annotated[str, Most(2048)]
    kind: t.Annotated[str, OneOf(("crl", "certificate", "ocsp"))]
    signers: t.Annotated[t.Tuple[Hex, ...], Most(1000)]
    example: Hex


@dataclass(frozen=True)
class Crl:
    """A CRL on the host, or a scratch one. C(certificate): of its generation, where the host can tell. C(lacks): how many revocations
    it lacks."""

    content: t.Annotated[bytes, Most(LARGEST_CRL)] = field(repr=False)
    path: t.Optional[Path] = None
    certificate: t.Optional[Hex] = None
    lacks: int = 0


@dataclass(frozen=True)
class Crled(Told):
    """C(crls): in no order. C(idle): generations (SHA-256) whose key has signed only what has expired. C(named): see C(Crls.urls)."""

    ROOM: t.ClassVar[int] = MUCH_ROOM

    changed: bool = False
    crls: t.Annotated[t.Tuple[Crl, ...], Most(1000)] = ()
    idle: t.Annotated[t.Tuple[Hex, ...], Most(1000)] = ()
    named: t.Annotated[t.Tuple[NamedUrl, ...], Most(MOST_URLS)] = ()


@dataclass(frozen=True)
class Draft:
    """A CRL without its signature (TBSCertList, DER), for the key of the certificate with this SHA-1 thumbprint."""

    thumbprint: Hex
    data: bytes
    digest: Hex


@dataclass(frozen=True)
class SignDrafts:
    """Sign each in memory: this proves the keys of software that signs only its own CRLs."""

    NAME: t.ClassVar[str] = "sign_drafts"

    drafts: t.Annotated[t.Tuple[Draft, ...], Most(1000)]


@dataclass(frozen=True)
class SignAgain:
    """Sign a published CRL (DER) again with the key of this certificate (SHA-256), for so many days; without one, tell the generations
    whose keys are at hand, which no database and no service has to be. The answer is C(Crled). Nothing of the CA is changed."""

    NAME: t.ClassVar[str] = "sign_again"

    published: t.Annotated[bytes, Most(LARGEST_CRL)] = field(repr=False)
    certificate: t.Optional[Hex] = None
    days: t.Optional[int] = None


@dataclass(frozen=True)
class Signature:
    thumbprint: Hex
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class Signatures:
    signatures: t.Annotated[t.Tuple[Signature, ...], Most(1000)] = ()
