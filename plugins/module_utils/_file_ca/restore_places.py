# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what lies where the members of a set belong, and whether it can be replaced; may change in any release."""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_state import digest_or_none
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.immovable import refuse_immovable
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import refuse_link_of_others
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import Listed, Member


def compared(member: t.Union[Listed, Member], path: str) -> str:
    """What is in the place of a member: missing, same or different."""
    try:
        status = os.lstat(path)
    except OSError:
        return "missing"
    if member.type == "directory":
        return "same" if os.path.isdir(path) else "different"
    if member.type == "link":
        return "same" if stat.S_ISLNK(status.st_mode) and os.readlink(path) == member.target else "different"
    try:
        status = os.stat(path) if stat.S_ISLNK(status.st_mode) else status
    except OSError:
        return "different"
    if not stat.S_ISREG(status.st_mode) or status.st_size != member.size:
        return "different"
    return "same" if digest_or_none(path) == member.sha256 else "different"


def followed(paths: t.Iterable[str], apart: t.Container[str], directory: str, what: str) -> t.Dict[str, str]:
    """Which of the files that are to be written are links, and where each leads: what takes its place takes it there, and it stays.

    C(apart): those that are moved aside first, or are links themselves. Raises KeywardError, before the first step, where one could
    not be written; C(what) fails then. C(directory): the CA's.
    """
    written, found = list(paths), {}
    for path in written:
        if path not in apart and os.path.islink(path):
            found[path] = os.path.realpath(path)
            refuse_link_of_others(path, directory, what)
            if not os.path.exists(path):
                why = f"{path} is a link to {found[path]}, and nothing is there"
                raise KeywardError(what, why, "Mount the medium that it leads to. If that is lost, remove the link")
    refuse_immovable([found.get(path, path) for path in written], what)
    return found
