# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: who may read a file: owner, group, mode, POSIX ACL and SELinux label; may change in any release.

With an ACL the group bits of a mode are its mask: a file that is given the mode alone opens to a group that the ACL keeps out, and
loses readers that only the ACL names. So a file that takes another's place gets all of it, or is not written.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyward.pki.plugins.module_utils._acl import (
    ACCESS,
    DEFAULT,
    GROUP,
    GROUP_OBJ,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    Entry,
    acl_text,
    attribute,
    entries_of,
)
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

_LABEL = "security.selinux"
_NOBODY = 0xFFFFFFFF  # the number in an entry that names none
_ENTRY = re.compile(r"(user|group|mask|other):([^:,]*):([r-])([w-])([x-])\Z")
_REFUSED = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
LONGEST_ACL = 16 * 1024  # characters


@dataclass(frozen=True)
class Protection:
    """Of a file or directory. C(mode) None and C(acl) None: what its share or directory gives it; an empty C(acl): none; -1: the writer.

    C(default_acl): what a directory gives to files in it. C(label): None leaves the one that it was born with.
    """

    mode: t.Optional[int]
    owner: int = -1
    group: int = -1
    acl: t.Optional[t.Tuple[Entry, ...]] = None
    default_acl: t.Optional[t.Tuple[Entry, ...]] = None
    label: t.Optional[bytes] = None

    def not_written_by_others(self) -> Protection:
        """The same, but that those whom neither owner, group nor ACL names can't write."""
        acl = self.acl and tuple((tag, rights & ~2 if tag == OTHER else rights, number) for tag, rights, number in self.acl)
        return replace(self, mode=None if self.mode is None else self.mode & ~0o002, acl=acl)

    def closed_to_others(self) -> Protection:
        """The same, without access for those whom neither owner, group nor ACL names."""
        acl = self.acl and tuple((tag, 0 if tag == OTHER else rights, number) for tag, rights, number in self.acl)
        return replace(self, mode=None if self.mode is None else self.mode & ~0o007, acl=acl)


def protection_of(path: str) -> Protection:
    """That of a file which lies there; of what it leads to, where it is a link. Raises OSError."""
    status = os.stat(path)
    entries, label = entries_of(attribute(path, ACCESS)), attribute(path, _LABEL)
    return Protection(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, entries, label=label)


def recorded_protection(
    path: str, mode: int, owner: t.Optional[str], group: t.Optional[str], acl: t.Optional[str], what: str
) -> Protection:
    """That of a file as a manifest records it, by names, for a file that is to lie at C(path). Raises KeywardError; C(what) fails then."""
    uid, gid = owner_numbers(owner, group, what)
    return Protection(mode, uid, gid, acl_from_text(acl, what, mode), label=expected_label(path, stat.S_IFREG | mode))


def owner_numbers(owner: t.Optional[str], group: t.Optional[str], what: str) -> t.Tuple[int, int]:
    """The numbers of a user and a group, given as name or number; -1 for None, which keeps what is.

    Raises KeywardError where there is none; C(what) says what fails then.
    """
    import grp
    import pwd

    try:
        uid = -1 if owner is None else int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise KeywardError(what, f"there is no user {owner} here", "Create the user, or give another owner") from None
    try:
        gid = -1 if group is None else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise KeywardError(what, f"there is no group {group} here", "Create the group, or give another one") from None
    return uid, gid


def expected_label(path: str, mode: int) -> t.Optional[bytes]:
    """The SELinux label that C(restorecon) would give to a file at this path; None where there is no SELinux, or no rule."""
    try:
        from ansible.module_utils.compat import selinux
    except ImportError:
        return None
    if not selinux.is_selinux_enabled():
        return None
    code, label = selinux.matchpathcon(path, mode)
    return str(label).encode("utf-8") + b"\0" if code == 0 and label else None


# --- giving it ---


def protect_path(path: str, wanted: Protection, kind: int = 0) -> None:
    """C(protect) of a file, or with O_DIRECTORY of a directory; never through a link that took its place meanwhile. Raises as it does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind)
    try:
        protect(descriptor, wanted, path)
    finally:
        os.close(descriptor)


def protect(descriptor: int, wanted: Protection, path: str) -> None:
    """Give an open file, which nobody but its writer may read so far, its protection; then look whether that is what it has.

    A default ACL of the directory would open what a chmod unmasks: it goes first. Raises OSError, and KeywardError where the file
    would have readers that it must not have, or lack some.
    """
    if wanted.acl is not None and attribute(descriptor, ACCESS) is not None:
        os.removexattr(descriptor, ACCESS)
    held = os.fstat(descriptor)
    if wanted.owner not in (-1, held.st_uid) or wanted.group not in (-1, held.st_gid):
        _give_owner(descriptor, wanted, path)
    if wanted.acl:
        _set_acl(descriptor, ACCESS, wanted.acl, path)
    if wanted.mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != wanted.mode:
        give_mode(descriptor, wanted.mode, path)
    if wanted.default_acl:
        _set_acl(descriptor, DEFAULT, wanted.default_acl, path)
    if wanted.label is not None:
        label = attribute(descriptor, _LABEL)
        try:
            if label != wanted.label:
                os.setxattr(descriptor, _LABEL, wanted.label)
        except OSError:
            if label is not None:
                raise  # without SELinux nothing is born with one
    _refuse_otherwise(descriptor, wanted, path)


def _give_owner(descriptor: int, wanted: Protection, path: str) -> None:
    try:
        os.fchown(descriptor, wanted.owner, wanted.group)
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise
        held = os.fstat(descriptor)
        numbers = [str(new if new != -1 else old) for new, old in ((wanted.owner, held.st_uid), (wanted.group, held.st_gid))]
        raise KeywardError(
            f"{path} was not written",
            f"it is to belong to user {numbers[0]} and group {numbers[1]}, and can't be given to them",
            "Run the task as that user, or as root (become); a share must let root give files away (no_root_squash)",
        ) from exc


def give_mode(file: t.Union[str, int], mode: int, path: t.Optional[str] = None) -> None:
    """chmod. FAT, NTFS and some shares refuse it: there the mount options decide, and what they leave closed to others is enough.

    C(path): what an error calls it. Raises OSError, and KeywardError where others could read it.
    """
    try:
        if isinstance(file, int):
            os.fchmod(file, mode)
        else:
            os.chmod(file, mode)
    except OSError as exc:
        status = os.stat(file)
        if exc.errno not in _REFUSED or os.geteuid() not in (0, status.st_uid) or mode & ~status.st_mode & 0o600:
            raise
    _refuse_more_open(file, mode, path or str(file))


def gives_no_acl(directory: int) -> bool:
    """Whether what is born in an open directory has no ACL: its default one is taken away."""
    if attribute(directory, DEFAULT) is not None:
        os.removexattr(directory, DEFAULT)
    return attribute(directory, DEFAULT) is None


def is_born_so(descriptor: int, wanted: Protection) -> bool:
    """Whether an open file without an ACL is protected as it is to be, so that nothing has to be set."""
    status = os.fstat(descriptor)
    return (
        not wanted.acl
        and not wanted.default_acl
        and wanted.label is None
        and stat.S_IMODE(status.st_mode) == wanted.mode
        and wanted.owner in (-1, status.st_uid)
        and wanted.group in (-1, status.st_gid)
    )


def _set_acl(descriptor: int, name: str, entries: t.Tuple[Entry, ...], path: str) -> None:
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(descriptor, name, raw)
    except (AttributeError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        raise KeywardError(
            f"{path} was not written",
            "it is to have an ACL, and its file system can't hold one: others could read it, or some no more",
            f"Mount that file system with ACLs. The ACL is {acl_text(entries)}",
        ) from exc


def _refuse_more_open(file: t.Union[str, int], mode: int, path: str) -> None:
    held = stat.S_IMODE(os.stat(file).st_mode)
    if held & ~mode & 0o077:
        raise KeywardError(
            f"{path} was not written",
            f"its file system does not hold modes: it shows {held:04o} where {mode:04o} was set, so others could read it",
            "Use a file system that does, or restrict that one by its mount options",
        )


def _refuse_otherwise(descriptor: int, wanted: Protection, path: str) -> None:
    if wanted.mode is not None:
        _refuse_more_open(descriptor, wanted.mode, path)
    if wanted.acl is not None and set(entries_of(attribute(descriptor, ACCESS)) or ()) != set(wanted.acl):
        raise KeywardError(
            f"{path} was not written",
            "its file system shows another ACL than the one that was set, so others could read it",
            "Look at the directory with getfacl, and at how its file system is mounted",
        )


def acl_from_text(text: t.Optional[str], what: str, mode: t.Optional[int] = None) -> t.Tuple[Entry, ...]:
    """The other way. C(mode): that of the same file, which says the same. Raises KeywardError where it does not, or names nobody here."""
    if text is None:
        return ()
    entries: t.List[Entry] = []
    for part in text.split(",") if isinstance(text, str) and len(text) <= LONGEST_ACL else [""]:
        match = _ENTRY.match(part)
        if match is None:
            raise _misrecorded(what)
        word, name, *letters = match.groups()
        rights = sum(bit for letter, bit in zip(letters, (4, 2, 1)) if letter != "-")
        if not name:
            entries.append(({"user": USER_OBJ, "group": GROUP_OBJ, "mask": MASK, "other": OTHER}[word], rights, _NOBODY))
        elif word in ("user", "group"):
            user, group = owner_numbers(name if word == "user" else None, name if word == "group" else None, what)
            entries.append((USER, rights, user) if word == "user" else (GROUP, rights, group))
        else:
            raise _misrecorded(what)
    entries.sort()
    tags = [tag for tag, _rights_, _number in entries]
    bits = {tag: rights for tag, rights, number in entries if number == _NOBODY}
    whole = all(tags.count(tag) == 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)) and tags.count(MASK) == (len(tags) > 3)
    if not whole or (mode is not None and mode & 0o777 != bits[USER_OBJ] << 6 | bits.get(MASK, 0) << 3 | bits[OTHER]):
        raise _misrecorded(what)
    return tuple(entries)


def _misrecorded(what: str) -> KeywardError:
    why = "the ACL that was recorded is none, or does not fit the mode that was recorded with it"
    return KeywardError(what, why, "Use another backup or set, and find out how that came into this one")
