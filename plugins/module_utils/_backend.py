# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: which CA is meant, and what a backend finds; may change in any release."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import DatabaseFacts, PendingRequest, Told


class NothingThere(KeywardError):
    """Nothing tells which authority this is: its configuration or its current certificate does not exist, or the latter is damaged."""


class Waiting(NothingThere):
    """The CA has a key and a request, and no certificate yet. C(facts): what is there of it, without a generation."""

    def __init__(self, facts: Facts) -> None:
        what = f"the CA {facts.authority.subject} can't be read"
        super().__init__(what, "it waits for its first certificate", "Give ca_install the answer to its request")
        self.facts = facts


class NothingNamed(KeywardError):
    """The options name no CA, and this host has no list of its CAs to look in."""


class RenewedMeanwhile(KeywardError):
    """The newest generation is another than the one that an order was decided on. Nothing was changed."""


@dataclass(frozen=True)
class Older:
    """An older generation, as a user states it. The private key file is None where its key is lost."""

    certificate_file: str
    private_key_file: t.Optional[str] = None
    private_key_passphrase: t.Optional[str] = field(default=None, repr=False)


@dataclass(frozen=True)
class Selector:
    """Which CA on this host: the options of that name, as given. Paths may be relative; C(~) is not expanded."""

    backend: str = "auto"
    config_file: t.Optional[str] = None
    directory: t.Optional[str] = None
    name: t.Optional[str] = None
    private_key_passphrase: t.Optional[str] = field(default=None, repr=False)
    certificate_file: t.Optional[str] = None
    private_key_file: t.Optional[str] = None
    chain_file: t.Optional[str] = None
    older: t.Optional[t.Tuple[Older, ...]] = None


@dataclass(frozen=True)
class Facts:
    """All that a backend found. C(generations): oldest first, the current one last; their private keys by public_key_sha256.

    C(unfinished): a complete renewal waits to take its place, or one was begun. C(chain): certificates (DER) of the CAs above.
    """

    authority: Authority
    generations: t.Tuple[Generation, ...]
    private_keys: t.Mapping[str, t.Any] = field(repr=False)
    chain: t.Tuple[bytes, ...]
    database: DatabaseFacts
    pending_request: t.Optional[PendingRequest]
    unfinished: bool = False
    advisories: t.Tuple[Finding, ...] = ()


def told(backend: t.Any, facts: Facts, kind: t.Any = Told, **more: t.Any) -> t.Any:
    """What a backend found, as an answer that tells it."""
    names = ("authority", "generations", "database", "pending_request", "unfinished", "advisories")
    return kind(abilities=backend.ABILITIES, **{name: getattr(facts, name) for name in names}, **more)
