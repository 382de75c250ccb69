# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: POSIX ACLs of files, as they are and in words; may change in any release."""

from __future__ import annotations

import errno
import os
import struct
import typing as t

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
_WORDS = {USER_OBJ: "user", USER: "user", GROUP_OBJ: "group", GROUP: "group", MASK: "mask", OTHER: "other"}

Entry = t.Tuple[int, int, int]  # tag, permissions, number


def recorded_acls(file: t.Union[str, int]) -> t.Dict[str, t.Optional[str]]:
    """The ACLs of a file or directory in the text of C(setfacl), by names, as manifests record them. Raises OSError."""
    return {"acl": acl_text(entries_of(attribute(file, ACCESS))), "default_acl": acl_text(_all_entries(attribute(file, DEFAULT)))}


def acl_text(entries: t.Optional[t.Tuple[Entry, ...]]) -> t.Optional[str]:
    """C(user::rw-,user:bob:r--,group::---,mask::r--,other::---); None for none."""
    import grp
    import pwd

    said = []
    for tag, rights, number in entries or ():
        name = ""
        if tag in (USER, GROUP):
            try:
                name = pwd.getpwuid(number).pw_name if tag == USER else grp.getgrgid(number).gr_name
            except KeyError:
                name = str(number)
            name = str(number) if set(name) & set(":,") else name
        said.append(f"{_WORDS[tag]}:{name}:{_rights(rights)}")
    return ",".join(said) or None


def _rights(rights: int) -> str:
    return "".join(letter if rights & bit else "-" for letter, bit in zip("rwx", (4, 2, 1)))


def entries_of(raw: t.Optional[bytes]) -> t.Tuple[Entry, ...]:
    """Those of an ACL that says more than a mode does."""
    entries = _all_entries(raw)
    return entries if any(tag == MASK for tag, _rights_, _number in entries) else ()


def _all_entries(raw: t.Optional[bytes]) -> t.Tuple[Entry, ...]:
    if not raw or len(raw) < 4 or struct.unpack_from("<I", raw)[0] != 2 or (len(raw) - 4) % 8:
        return ()
    return tuple(t.cast(Entry, struct.unpack_from("<HHI", raw, at)) for at in range(4, len(raw), 8))


def attribute(file: t.Union[str, int], name: str) -> t.Optional[bytes]:
    """An extended attribute; None where there is none, or where there can be none."""
    try:
        return os.getxattr(file, name)
    except AttributeError:  # not Linux
        return None
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
