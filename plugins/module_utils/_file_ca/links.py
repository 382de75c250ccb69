# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whose symbolic links are in the way to a file of a CA; may change in any release.

A web server or a registration authority may write into some folders of a CA. Where a link there is followed, it decides what root
reads or writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

_MOST_LINKS = 40  # the kernel's limit
_MOST_OPEN = 64  # directories
# What may be searched need not be readable.
_ENTER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def owner_of(directory: str) -> t.Set[int]:
    """The users whose links are followed: root, and the owner of the CA's directory."""
    try:
        return {0, os.stat(directory).st_uid}
    except OSError:
        return {0}


class LinkOfOthers(Exception):
    """C(link): a link on the way to a file, which others than root and the CA's owner can change."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link


class _Place(t.NamedTuple):
    """A name in a directory that is open: what takes the place of a directory on the way is no longer followed."""

    folder: int
    name: str


@contextlib.contextmanager
def _reached(path: str, owners: t.Collection[int]) -> t.Iterator[_Place]:
    """Where a path leads, by no link that others than these users can change. Raises LinkOfOthers, OSError.

    Links above, such as that of a mount point, count, too: it does not matter where on the way one is that others can change.
    """
    waiting, there, links, name = path.strip("/").split("/"), "/", 0, "."
    folder = os.open("/", _ENTER)
    try:
        while waiting:
            name = waiting.pop(0) or "."
            if name == ".":
                continue
            status = None if name == ".." else os.stat(name, dir_fd=folder, follow_symlinks=False)
            if status and stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MOST_LINKS or not _only_theirs(status, os.fstat(folder), owners):
                    raise LinkOfOthers(os.path.join(there, name))
                target = os.readlink(name, dir_fd=folder)
                if target.startswith("/"):
                    folder, there = _step(folder, "/"), "/"
                waiting, name = target.strip("/").split("/") + waiting, "."
            elif waiting:
                folder, there = _step(folder, name), os.path.dirname(there) if name == ".." else os.path.join(there, name)
                name = "."
        yield _Place(folder, name)
    finally:
        os.close(folder)


def _step(folder: int, name: str) -> int:
    further = os.open(name, _ENTER, dir_fd=folder)
    os.close(folder)
    return further


def leads_by(path: str, owners: t.Collection[int]) -> t.Optional[str]:
    """The first link on the way to a path, itself included, that others than these users can change; None where there is none."""
    try:
        with _reached(path, owners):
            return None
    except LinkOfOthers as exc:
        return exc.link
    except OSError:
        return None  # nothing is there that could lead elsewhere


def enter(folder: str, owners: t.Collection[int]) -> int:
    """A descriptor of a directory, to look at what is in it and to open that. Raises LinkOfOthers, OSError."""
    with _reached(folder, owners) as place:
        return os.open(place.name, _ENTER, dir_fd=place.folder)


class Folders:
    """The directories of a CA, entered once: what is put in their place afterwards is neither looked at nor read."""

    def __init__(self, owners: t.Collection[int]) -> None:
        self._owners = owners
        self._entered: t.Dict[str, t.Union[int, LinkOfOthers]] = {}

    def _enter(self, folder: str) -> int:
        found = self._entered.pop(folder, None)
        if found is None:
            while len(self._entered) >= _MOST_OPEN:
                self._leave(next(iter(self._entered)))
            try:
                found = enter(folder, self._owners)
            except LinkOfOthers as exc:
                found = exc
        self._entered[folder] = found
        if isinstance(found, LinkOfOthers):
            raise LinkOfOthers(found.link)
        return found

    def _leave(self, folder: str) -> None:
        entered = self._entered.pop(folder)
        if isinstance(entered, int):
            os.close(entered)

    def status(self, path: str) -> os.stat_result:
        """Of a link, not of what it leads to. Raises LinkOfOthers, OSError."""
        folder, name = os.path.split(path)
        return os.stat(name, dir_fd=self._enter(folder), follow_symlinks=False)

    def open(self, path: str) -> int:
        """To read. Raises LinkOfOthers, OSError."""
        folder, name = os.path.split(path)
        try:
            return os.open(name, _READ, dir_fd=self._enter(folder))
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.EMLINK):  # FreeBSD says EMLINK of a link
                raise
        with _reached(path, self._owners) as place:
            return os.open(place.name, _READ, dir_fd=place.folder)

    def close(self) -> None:
        for folder in list(self._entered):
            self._leave(folder)


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
