# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the order to put private keys and certificates back, and its answer; may change in any release."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Hex, Most, Name, OneOf, Path
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import LARGEST_FILE, File, Stuck


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

    C(of): SHA-256 of the newest generation that this was decided on, None where there was none; where there is another by now, nothing
    is done. C(directory): where the CA lived when the backup was made. C(files): with the keys that the host seems to lack; a host that
    lacks another one answers which it needs, and changes nothing. C(trial_password): software that keeps keys itself exports what it
    took once more under it, to show whether the next backup can be made.
    """

    NAME: t.ClassVar[str] = "import_keys"

    generations: t.Annotated[t.Tuple[Generation, ...], Most(1000)]
    of: t.Optional[Hex] = None
    directory: t.Optional[Path] = None
    files: t.Annotated[t.Tuple[GivenFile, ...], Most(100)] = ()
    on_conflict: t.Annotated[str, OneOf(("fail", "set_aside"))] = "fail"
    allow_unencrypted_key: bool = False
    trial_password: t.Optional[str] = field(default=None, repr=False)


@dataclass(frozen=True)
class PutBack:
    """A file (kind: certificate or private_key) or store entry that was put back, for the certificate of that SHA-256.

    C(access): its mode, owner, group and ACL, where it has them.
    """

    kind: Hex
    path: Path
    certificate: t.Optional[Hex] = None
    access: t.Optional[str] = None


@dataclass(frozen=True)
class SetAside:
    """What was in the way, and its new path; None in check mode."""

    path: Path
    kept_as: t.Optional[Path] = None


@dataclass(frozen=True)
class Imported:
    """C(needs): the public keys (SHA-256) of all keys that the host lacks, where the order did not bring each; nothing was changed then."""

    changed: bool
    restored: t.Tuple[PutBack, ...] = ()
    set_aside: t.Tuple[SetAside, ...] = ()
    needs: t.Annotated[t.Tuple[str, ...], Most(1000)] = ()
    trial: t.Annotated[t.Tuple[File, ...], Most(100)] = ()
    not_exportable: t.Annotated[t.Tuple[Stuck, ...], Most(1000)] = ()
