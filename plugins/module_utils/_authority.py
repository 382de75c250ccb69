# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what every backend answers about an authority, and finding the backend; may change in any release."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils._bundle import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError


class NothingThere(KeywardError):
    """Nothing tells which authority this is: its configuration or its current certificate does not exist, or the latter is damaged."""


@dataclass(frozen=True)
class Older:
    """A generation that is no longer current, as a user states it. The private key file is None where its key is lost."""

    certificate_file: str
    private_key_file: t.Optional[str] = None
    private_key_passphrase: t.Optional[str] = field(default=None, repr=False)


@dataclass(frozen=True)
class Which:
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
class Reading:
    """All that a backend found. C(generations): oldest first, the current one last; their private keys by public_key_sha256."""

    authority: Authority
    generations: t.Tuple[Generation, ...]
    private_keys: t.Mapping[str, t.Any] = field(repr=False)
    chain: t.Tuple[bytes, ...]
    database: t.Mapping[str, t.Any]
    pending_request: t.Optional[t.Mapping[str, t.Any]]
    advisories: t.Tuple[Finding, ...] = ()


class Backend(t.Protocol):
    """One file in _backends has one of these. It knows its software's files; it knows no store and no bundle."""

    def read(self) -> Reading:
        """The authority as it is on this host. Raises KeywardError where it can't be told."""

    def places(self, generations: t.Sequence[Generation], directory: t.Optional[str]) -> t.Dict[str, Generation]:
        """Where each generation of a backup belongs on this host: by SHA-256 fingerprint, with certificate_place and key_place.

        C(generations): of the backup, oldest first, the current one last, with the places they had there;
        C(directory): the authority's directory then. No two different keys get one path.
        """

    def passphrase(self, generation: Generation) -> t.Optional[str]:
        """The passphrase that the user gave for this generation's key at rest (C(generation) as C(places) returned it)."""


def find_backend(which: Which) -> Backend:
    """The backend that the options name."""
    from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend

    if which.backend in ("auto", "openssl") and (which.config_file or which.directory or which.certificate_file):
        return OpensslBackend(which)
    if which.backend == "adcs":
        raise KeywardError(
            "the authority can't be found",
            "backend is adcs, and this is no Windows host",
            "Run the task on the Windows host of the CA, over winrm, psrp or ssh with its shell type",
        )
    raise KeywardError(
        "the authority can't be found",
        "no place was named: on a POSIX host there is no list of CAs to look in",
        "Give config_file (the openssl.cnf of the CA), or directory with certificate_file and private_key_file",
    )
