# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the orders that move private keys, and their answers; may change in any release.

No POSIX host sees the password of a backup. Keys travel in PKCS #12 files under a password of that one task, inside the order or the
answer. Software that writes its files itself gets the real one, and only where something is due.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Hex, Most, Name, OneOf, Path
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told

LARGEST_FILE = 16 * 1024 * 1024  # bytes of one PKCS #12 file


@dataclass(frozen=True)
class File:
    """One PKCS #12 file."""

    name: Name
    content: t.Annotated[bytes, Most(LARGEST_FILE)] = field(repr=False)


@dataclass(frozen=True)
class Stuck:
    """A key that can't leave its place, and the code that its software answers."""

    sha256: Hex  # of the generation's certificate
    code: Hex


# The one order that decides on the host: so that a key backup costs one execution, "encrypt what these fingerprints don't cover".
@dataclass(frozen=True)
class ExportKeys:
    """Tell the authority and, where a generation is there that C(covered) lacks, hand over all its keys.

    C(covered): SHA-256 of the generations that the backups of this home cover. C(carried): public keys (SHA-256) that earlier backups
    hold, for generations whose key is lost on the host. C(password): None where only an answer is wanted. C(only): SHA-256 of
    generations to be exported each on its own.
    """

    NAME: t.ClassVar[str] = "export_keys"

    covered: t.Annotated[t.Tuple[str, ...], Most(100_000)] = ()
    carried: t.Annotated[t.Tuple[str, ...], Most(100_000)] = ()
    password: t.Optional[str] = field(default=None, repr=False)
    only: t.Tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported(Told):
    """C(files): empty where nothing was due. C(not_exportable): keys that stay where they are."""

    files: t.Annotated[t.Tuple[File, ...], Most(100)] = ()
    not_exportable: t.Annotated[t.Tuple[Stuck, ...], Most(1000)] = ()


@dataclass(frozen=True)
class GivenFile:
    """A PKCS #12 file to restore from, its password, and the generations (SHA-256) whose keys it holds."""

    password: str = field(repr=False)
    content: t.Annotated[bytes, Most(LARGEST_FILE)] = field(repr=False)
    name: Name
    holds: t.Annotated[t.Tuple[str, ...], Most(1000)]


@dataclass(frozen=True)
class ImportKeys:
    """Put back what is missing. C(generations): those of the backup, oldest first, with the places that they had.

    C(of): whose backup it is, as its manifest says. C(files): none where the controller believes that no key is missing; a host that
    lacks one answers which (C(needs)), and changes nothing. C(trial_password): software that keeps keys itself exports what it took
    once more under it, to show whether the next backup can be made.
    """

    NAME: t.ClassVar[str] = "import_keys"

    generations: t.Annotated[t.Tuple[Generation, ...], Most(1000)]
    of: t.Optional[Authority] = None
    files: t.Annotated[t.Tuple[GivenFile, ...], Most(100)] = ()
    on_conflict: t.Annotated[str, OneOf(("fail", "set_aside"))] = "fail"
    allow_unencrypted_key: bool = False
    trial_password: t.Optional[str] = field(default=None, repr=False)


@dataclass(frozen=True)
class PutBack:
    """A file (kind: certificate or private_key) or store entry that was put back, for the certificate of that SHA-256."""

    kind: Hex
    path: Path
    certificate: t.Optional[Hex] = None


@dataclass(frozen=True)
class SetAside:
    """What was in the way, and its new path; None in check mode."""

    path: Path
    kept_as: t.Optional[Path] = None


@dataclass(frozen=True)
class Imported:
    """C(needs): public keys (SHA-256) that the order did not bring and the host lacks; nothing was changed then."""

    changed: bool
    restored: t.Tuple[PutBack, ...] = ()
    set_aside: t.Tuple[SetAside, ...] = ()
    needs: t.Tuple[str, ...] = ()
    trial: t.Annotated[t.Tuple[File, ...], Most(100)] = ()
    not_exportable: t.Annotated[t.Tuple[Stuck, ...], Most(1000)] = ()
