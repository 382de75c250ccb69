# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a member of a set on its way to its place on the host; may change in any release."""

from __future__ import annotations

import contextlib
import os
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import Contents
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import Member
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, acl_from_text, expected_label, protection_of
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem_certificates

_CHUNK = 1024 * 1024


def staged_member(path: str, stream: t.Optional[Contents], member: Member, recorded: Protection, data: t.Optional[bytes]) -> StagedFile:
    """A file whole on the file system of its place: C(data), or what the set holds; protected as what lies there, else as recorded."""
    protection = protection_of(path) if os.path.exists(path) else recorded
    if data is not None or stream is None:
        return StagedFile(path, data or b"", protection)
    return StagedFile(path, iter(lambda: stream.read(_CHUNK), b""), protection, member.sha256, member.mtime)


def recorded_protection(member: Member, path: str) -> Protection:
    """As the set records it, for a place on this host. Raises KeywardError where an ACL names somebody who is not here."""
    what, mode = f"{path} was not restored", int(member.mode, 8) & (0o2777 if member.type == "directory" else 0o777)
    owner = owner_of(member) if os.geteuid() == 0 else (-1, -1)
    acl, default = acl_from_text(member.acl, what, mode), acl_from_text(member.default_acl, what)
    kind = stat.S_IFDIR if member.type == "directory" else stat.S_IFREG
    return Protection(mode, *owner, acl, default, expected_label(path, kind | mode)).not_written_by_others()


def owner_of(member: Member) -> t.Tuple[int, int]:
    import grp
    import pwd

    uid, gid = member.uid, member.gid
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(member.owner).pw_uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(member.group).gr_gid
    return uid, gid


def lacks_chain(path: str, whole: bytes) -> bool:
    """Whether a file holds the set's CA certificate without those of the CAs above it: a restored key brings only its own."""
    certificates = pem_certificates(whole)
    return len(certificates) > 1 and pem_certificates(read_file(path, "the CA certificate", LARGEST_INPUT)) == certificates[:1]
