# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the orders that copy and restore databases, and their answers; may change in any release.

An order that names a store of the host (C(host_store)) is carried out by it alone: nothing but manifests travels. Otherwise the files of
a set go through a folder of the login user, by the connection's own file transfer.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import MUCH_ROOM, Hex, Lines, Most, Name, OneOf, Path
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import SetAside
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import (
    LARGEST_SET_MANIFEST,
    MOST_LINKS,
    Changes,
    Lacking,
    Members,
    State,
)

MOST_FILES = 10_000_000  # that a database has, or that a restore touches
ManifestText = t.Annotated[str, Most(LARGEST_SET_MANIFEST), Lines()]
# What only the judgement of one backend reads. Its lists may be as long as a database.
Own = t.Optional[t.Dict[str, t.Annotated[t.Any, Most(MOST_FILES)]]]
Numbers = t.Annotated[t.Tuple[Hex, ...], Most(100_000)]
SignerText = t.Annotated[str, Most(16 * 1024)]
SignatureText = t.Annotated[str, Most(32 * 1024), Lines()]
Digests = t.Annotated[t.Tuple[Hex, ...], Most(100_000)]
Paths = t.Annotated[t.Tuple[Path, ...], Most(1000)]


@dataclass(frozen=True)
class TellState:
    """Tell the authority, and what its database is. C(extra_paths): what belongs to its sets besides."""

    NAME: t.ClassVar[str] = "database.state"

    extra_paths: Paths = ()


@dataclass(frozen=True)
class StateTold(Told):
    """C(own_state): of software whose state only its own judgement can tell; then C(state) is None."""

    ROOM: t.ClassVar[int] = MUCH_ROOM

    state: t.Optional[State] = None
    own_state: Own = None


# --- a copy ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignedEvent:
    """A file of an authority's C(events/), and the signature beside it."""

    name: Name
    content: t.Annotated[str, Lines()]
    signature: SignatureText


@dataclass(frozen=True)
class Draft:
    """What a set in a store of the host is to be, but for what only the copy tells: its files, its moment, its state.

    C(counting): the manifests (SHA-256) of that database that the controller has judged; nothing else counts.
    """

    directory: Name  # the authority's
    database: Name  # its directory in that
    manifest: ManifestText
    counting: Digests = ()


@dataclass(frozen=True)
class Copy:
    """Make the files of a set, in a folder or, apart from all others, in a store of the host. C(of): as in C(Renew).

    C(base): for an increment, the lists of the set that it builds on and of all that this one builds on, the full one's first, as paths
    below the folder, or below the database's directory in the store; C(base_list): the SHA-256 of the complete list that they are. Without
    them it is a full set, for which everything is read and searched. C(whole): a full one all the same, for which what they list is read
    and not searched again.
    """

    NAME: t.ClassVar[str] = "database.copy"

    of: Hex
    folder: t.Optional[Path] = None
    host_store: t.Optional[Path] = None
    draft: t.Optional[Draft] = None
    base: t.Annotated[t.Tuple[Path, ...], Most(MOST_LINKS)] = ()
    base_list: t.Optional[Hex] = None
    whole: bool = False
    truncate_logs: bool = False
    extra_paths: Paths = ()


@dataclass(frozen=True)
class TellChanged:
    """Tell whether what was issued has other files or bytes than in a set. Only what was touched since is read.

    C(of), C(base), C(base_list): as in C(Copy); C(directory), C(database): with a store of the host, as in C(Draft).
    """

    NAME: t.ClassVar[str] = "database.changed"

    of: Hex
    base_list: Hex
    base: t.Annotated[t.Tuple[Path, ...], Most(MOST_LINKS)] = ()
    folder: t.Optional[Path] = None
    host_store: t.Optional[Path] = None
    directory: t.Optional[Name] = None
    database: t.Optional[Name] = None
    extra_paths: Paths = ()


@dataclass(frozen=True)
class Changed:
    changed: bool


@dataclass(frozen=True)
class CopiedFile:
    """One file of a set. C(path): where it lies on the host, other than in the folder of the order under its name."""

    name: str
    sha256: Hex
    size: int
    path: t.Optional[Path] = None


@dataclass(frozen=True)
class LeftOut:
    """A file that is in no set; or so many of them in a folder (C(count)), as is to be expected."""

    path: Path
    why: str
    count: t.Optional[int] = None


@dataclass(frozen=True)
class Copied:
    """C(members): of archives, what is in them; C(changes): beside the base.

    C(staged), C(lacking): where it waits for C(Commit) in the store of the host.
    """

    ROOM: t.ClassVar[int] = MUCH_ROOM

    files: t.Annotated[t.Tuple[CopiedFile, ...], Most(100_000)]
    as_of: Name
    members: t.Optional[Members] = None
    changes: t.Optional[Changes] = None
    state: t.Optional[State] = None
    own_state: Own = None
    left_out: t.Annotated[t.Tuple[LeftOut, ...], Most(MOST_FILES)] = ()
    advisories: t.Tuple[Finding, ...] = ()
    staged: t.Optional[Name] = None
    lacking: t.Annotated[t.Tuple[Lacking, ...], Most(100_000)] = ()


@dataclass(frozen=True)
class Commit:
    """Give what a copy left in a store of the host its manifest, signed on the controller, and its place.

    C(keep): how many intact sets of this database stay in any case. C(may_go): which others are old enough to go. C(counting): as in
    C(Draft), with this one.
    """

    NAME: t.ClassVar[str] = "host_store.commit"

    host_store: Path
    staged: Name
    directory: Name  # the authority's
    database: Name  # its directory in that
    name: Name
    manifest: ManifestText
    signature: SignatureText
    event: SignedEvent
    signer: SignerText
    counting: Digests
    keep: t.Optional[int] = None
    may_go: t.Annotated[t.Tuple[Name, ...], Most(100_000)] = ()


@dataclass(frozen=True)
class Committed:
    ROOM: t.ClassVar[int] = MUCH_ROOM

    stored_at: Path  # Ansible adds a state of its own to what has a path
    removed: t.Annotated[t.Tuple[Path, ...], Most(100_000)] = ()
    advisories: t.Tuple[Finding, ...] = ()


# --- stores of the host ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadStore:
    """Tell the sets that can be of an authority: those that name this inventory host, or one of these keys (SHA-256).

    Which are of it is decided by who asks. C(to_write): a set is to be stored. C(authority): the beginning of the id of one that is told
    as well. C(digests): a set is to be restored, so that sizes alone don't do.
    """

    NAME: t.ClassVar[str] = "host_store.read"

    host_store: Path
    host: str
    public_keys: Numbers
    to_write: bool = False
    authority: t.Optional[Hex] = None
    digests: bool = False


@dataclass(frozen=True)
class HeldSet:
    """A set in a store of the host. C(damage): what is wrong with its files, as far as was looked.

    C(manifest): empty where none can be read. C(signature): what lies beside it; the host does not judge that.
    """

    directory: Name  # the authority's
    database: Name  # its directory in that
    name: Name
    path: Path
    manifest: ManifestText
    damage: t.Optional[str] = None
    signature: t.Optional[SignatureText] = None


@dataclass(frozen=True)
class Held:
    """C(id): of the store. C(local_disk): what destroys the host destroys the store, too."""

    ROOM: t.ClassVar[int] = MUCH_ROOM

    id: Hex
    sets: t.Annotated[t.Tuple[HeldSet, ...], Most(100_000)]
    local_disk: bool = False


@dataclass(frozen=True)
class ReadFile:
    """Tell one small file of a set in a store of the host."""

    NAME: t.ClassVar[str] = "host_store.file"

    host_store: Path
    directory: Name
    database: Name
    name: Name
    file: Name


@dataclass(frozen=True)
class FileTold:
    content: t.Annotated[bytes, Most(LARGEST_SET_MANIFEST)]


# --- a restore ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Revocation:
    """A certificate that is revoked. C(at): as X.509 writes it (YYMMDDHHMMSSZ)."""

    serial: Hex
    at: t.Optional[Hex] = None
    reason: t.Optional[Hex] = None


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate that is known to be issued. C(subject): C(/C=DE/O=Example/CN=www). C(where): the file that shows it."""

    serial: Hex
    expires: Hex
    subject: str
    where: str


@dataclass(frozen=True)
class Published:
    """What is out there. C(compared): whether anything was looked at."""

    crl_numbers: Numbers = ()
    revocations: t.Annotated[t.Tuple[Revocation, ...], Most(MOST_FILES)] = ()
    issued: t.Annotated[t.Tuple[IssuedCertificate, ...], Most(MOST_FILES)] = ()
    compared: bool = False


@dataclass(frozen=True)
class Advance:
    """How to go on where what is published is newer: beyond everything seen, or with numbers that were given."""

    serial: t.Optional[Hex] = None
    crl_number: t.Optional[Hex] = None


@dataclass(frozen=True)
class SentFile:
    """A file of a set as it lies in the folder of the order."""

    name: str
    sent_as: Name
    sha256: Hex


@dataclass(frozen=True)
class ChainLink:
    """A set that another one builds on. C(issued), C(members): where these files of it lie, below the folder of the order, or below the
    database's directory in the store of the host."""

    manifest: ManifestText
    issued: Path
    members: Path


@dataclass(frozen=True)
class Restore:
    """Put back what the host lacks of a set, from a folder, or from a store of the host (C(directory), C(database), C(name)).

    C(of): as in C(Renew); None where nothing of a CA was left. C(advance): None to refuse where what is published is newer.
    C(files): those that were sent, where not all are needed. C(chain): what an increment builds on, the full set first.
    C(extra_paths): what may come back besides the CA's own files.
    C(event): what a store of the host records.
    """

    NAME: t.ClassVar[str] = "database.restore"

    of: t.Optional[Hex]
    manifest: ManifestText
    part: t.Annotated[str, OneOf(("all", "configuration"))] = "all"
    on_conflict: t.Annotated[str, OneOf(("fail", "merge", "set_aside"))] = "fail"
    published: Published = Published()
    advance: t.Optional[Advance] = None
    folder: t.Optional[Path] = None
    files: t.Annotated[t.Tuple[SentFile, ...], Most(100_000)] = ()
    chain: t.Annotated[t.Tuple[ChainLink, ...], Most(MOST_LINKS)] = ()
    host_store: t.Optional[Path] = None
    directory: t.Optional[Name] = None
    database: t.Optional[Name] = None
    name: t.Optional[Name] = None
    event: t.Optional[SignedEvent] = None
    extra_paths: Paths = ()
    own: Own = None


@dataclass(frozen=True)
class BroughtBack:
    """C(part): what it belongs to. C(count): so many files in a folder, where they are too many to name."""

    path: Path
    part: Hex
    count: t.Optional[int] = None


@dataclass(frozen=True)
class Rewritten:
    """A line of a configuration that named the place where the CA was."""

    path: Path
    before: t.Annotated[str, Most(1000)]
    after: t.Annotated[str, Most(1000)]


@dataclass(frozen=True)
class Restored:
    """A database after a restore, or as it would be (check). Numbers are hex text; None where there is no such number.

    C(advanced): those that went beyond what the set had.
    """

    ROOM: t.ClassVar[int] = MUCH_ROOM

    changed: bool
    restored: t.Annotated[t.Tuple[BroughtBack, ...], Most(MOST_FILES)] = ()
    set_aside: t.Annotated[t.Tuple[SetAside, ...], Most(MOST_FILES)] = ()
    next_serial: t.Optional[Hex] = None
    next_crl_number: t.Optional[Hex] = None
    advanced: t.Optional[Advance] = None
    rewritten: t.Annotated[t.Tuple[Rewritten, ...], Most(100_000)] = ()
    reentered: t.Annotated[t.Tuple[Revocation, ...], Most(MOST_FILES)] = ()
    advisories: t.Annotated[t.Tuple[Finding, ...], Most(MOST_FILES)] = ()
    own: Own = None
