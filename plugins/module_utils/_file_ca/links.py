# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whose symbolic links are in the way to a file of a CA; may change in any release.

A web server or a registration authority may write into some folders of a CA. Where a link there is followed, it decides what root
reads or writes.
"""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

_MOST_LINKS = 40  # the kernel's limit


def owner_of(directory: str) -> t.Set[int]:
    """The users whose links are followed: root, and the owner of the CA's directory."""
    try:
        return {0, os.stat(directory).st_uid}
    except OSError:
        return {0}


def leads_by(path: str, owners: t.Collection[int]) -> t.Optional[str]:
    """The first link on the way to a path, itself included, that others than these users can change; None where there is none.

    Links above, such as that of a mount point, count, too: it does not matter where on the way one is that others can change.
    """
    waiting, there, links = path.strip("/").split("/"), "/", 0
    while waiting:
        name = waiting.pop(0)
        if name == "..":
            there = os.path.dirname(there)
            continue
        if name in ("", "."):
            continue
        here = os.path.join(there, name)
        try:
            status = os.lstat(here)
        except OSError:
            return None  # nothing is there that could lead elsewhere
        if not stat.S_ISLNK(status.st_mode):
            there = here
            continue
        links += 1
        if links > _MOST_LINKS or not _only_theirs(status, os.stat(there), owners):
            return here
        target = os.readlink(here)
        if target.startswith("/"):
            there = "/"
        waiting = target.strip("/").split("/") + waiting
    return None


def refuse_link_of_others(path: str, directory: str, what: str, way: t.Optional[str] = None) -> None:
    """Raise KeywardError where others than root and the owner of a CA's directory decide where a file of it is written.

    C(way): what of the path is followed, where that is not all of it.
    """
    link = leads_by(way or path, owner_of(directory))
    if link:
        why = f"{path} would be written through the link {link}, which others than root and the CA's owner can change"
        raise KeywardError(what, why, "Find out who made it; take it away, or take the right to write there from others")


def refuse_links_that_go(paths: t.Iterable[t.Optional[str]], what: str) -> None:
    """Raise KeywardError for a link among the files that C(openssl ca) replaces: it would go, and what it leads to stay as it is now."""
    for path in paths:
        if path and os.path.islink(path):
            why = f"{path} is a link to {os.path.realpath(path)}: openssl ca would put a file in the place of the link, and leave that one"
            raise KeywardError(what, why, f"Name {os.path.realpath(path)} itself in the configuration, or put the file where the link is")


def _only_theirs(link: os.stat_result, directory: os.stat_result, owners: t.Collection[int]) -> bool:
    """Whether one of these users made this link, and nobody else can replace it."""
    others = directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not directory.st_mode & stat.S_ISVTX
    return link.st_uid in owners and directory.st_uid in owners and not others
