# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the order to hand private keys over, and its answer; may change in any release.

No host with keys in hand (Abilities) sees the password of a backup: keys travel in a PKCS #12 file under a password of that one task,
which is in the order. Software that writes its files itself gets the real one, and only where something is due.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Hex, Most, Name
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


# The one order by which a host decides something, so that a key backup costs one execution: "encrypt what these fingerprints don't cover".
@dataclass(frozen=True)
class ExportKeys:
    """Tell the authority and, where a generation is there that C(covered) lacks, hand over all its keys.

    With keys in hand, in one file under C(one_time_password); None: tell only. C(covered): SHA-256 of generations that backups cover.
    C(carried): public keys (SHA-256) that backups hold: keys that are lost on the host are taken from there.
    Software that writes its files itself tells only, unless it is given the backup's own C(password): then it writes its files of all
    keys, or, of the generations in C(only) (SHA-256), one each.
    """

    NAME: t.ClassVar[str] = "export_keys"

    covered: t.Annotated[t.Tuple[str, ...], Most(100_000)] = ()
    carried: t.Annotated[t.Tuple[str, ...], Most(100_000)] = ()
    one_time_password: t.Optional[str] = field(default=None, repr=False)
    password: t.Optional[str] = field(default=None, repr=False)
    only: t.Annotated[t.Tuple[str, ...], Most(1000)] = ()


@dataclass(frozen=True)
class Exported(Told):
    """C(files): none where nothing was due. C(not_exportable): keys that stay where they are."""

    files: t.Annotated[t.Tuple[File, ...], Most(100)] = ()
    not_exportable: t.Annotated[t.Tuple[Stuck, ...], Most(1000)] = ()
