# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a CA of files in another place than the one that it was recorded in; may change in any release.

What names the former place in its configuration gets the present one. Everything else stays byte by byte.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import without_comment
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

# Whole paths only: /ca is neither in /old/ca nor in /ca2. A scheme may stand before one (file:///ca).
_BEFORE, _BEHIND = rb"(?:(?<=file://)|(?<![\w.~%+@$})/\x80-\xff-]))", rb"(?![\w.~%+@\x80-\xff-])"
_PLAIN = re.compile(rb"[\w./+@%,:=~\x80-\xff-]+\Z")  # neither openssl nor a shell reads anything else into these
_SECRET = re.compile(rb"passw|passin|passout", re.IGNORECASE)
_MOST_LINES = 1000


class Move:
    """The paths that have another name now. False where nothing has."""

    def __init__(self, pairs: t.Iterable[t.Tuple[str, str]]) -> None:
        named = {old.rstrip("/"): new.rstrip("/") for old, new in pairs if old.rstrip("/") and new.rstrip("/")}
        self._moved = {old: new for old, new in named.items() if old != new}
        # The new place may lie inside the old one, or around it: what names the new place already stays.
        every = {**{new: new for new in self._moved.values()}, **self._moved}
        self._pairs = sorted(every.items(), key=lambda pair: -len(pair[0]))
        names = b"|".join(re.escape(old.encode("utf-8", "surrogateescape")) for old, _new in self._pairs)
        self._named = re.compile(_BEFORE + b"(" + names + b")" + _BEHIND)

    def __bool__(self) -> bool:
        return bool(self._moved)

    def path(self, path: str) -> str:
        for old, new in self._pairs:
            if path == old or path.startswith(old + "/"):
                return new + path[len(old) :]
        return path

    def refuse_former(self, path: t.Optional[str], config_file: t.Optional[str]) -> None:
        """Raise KeywardError where a configuration leads to the place that the CA has left: its halves would be in two places."""
        if path and self.path(path) != path:
            raise KeywardError(
                "nothing was restored",
                f"the configuration {config_file} names {path}, in the directory that the CA had, and not {self.path(path)}",
                "Correct it, or have the set's put back (ca_database_restore, part: configuration): that is rewritten for this place",
            )

    def text(self, data: bytes) -> bytes:
        """A file of the configuration as it is to be here: its comments stay. Raises KeywardError."""
        if not self or b"-----BEGIN" in data:
            return data
        return b"".join(self._line(line) for line in data.splitlines(keepends=True))

    def same(self, one: bytes, other: bytes) -> bool:
        """Whether two configurations are the same but for the place, in their comments, too."""
        return self._everywhere(one) == self._everywhere(other)

    @staticmethod
    def lines(before: bytes, after: bytes) -> t.List[t.Tuple[str, str]]:
        """What was rewritten, for people: no line that may say a secret."""
        pairs = [pair for pair in zip(before.splitlines(), after.splitlines()) if pair[0] != pair[1]]
        shown = [("a line that is not shown",) * 2 if _SECRET.search(old) else (_text(old), _text(new)) for old, new in pairs]
        return shown[:_MOST_LINES]

    def _line(self, line: bytes) -> bytes:
        said = without_comment(line.decode("latin-1")).encode("latin-1")
        return self._everywhere(said) + line[len(said) :]

    def _everywhere(self, data: bytes) -> bytes:
        return self._named.sub(self._present, data)

    def _present(self, match: t.Match[bytes]) -> bytes:
        old = match.group(1).decode("utf-8", "surrogateescape")
        new = dict(self._pairs)[old].encode("utf-8", "surrogateescape")
        if not _PLAIN.match(new.replace(b" ", b"") if " " in old else new):
            why = f"its configuration names {old}, and the path {_text(new)} has characters that mean something else in there"
            raise KeywardError("nothing was restored", why, "Choose a directory of letters, digits and ./+@%,:=~- for it")
        return new


def move_of(ca: FileCa, recorded: Authority, newest: Generation) -> Move:
    """From the place that a set records to that of C(ca). C(newest): the generation that was the current one then."""
    pairs = [*pairs_of(ca, recorded.directory, newest)]
    if recorded.directory and ca.directory:
        pairs += zip(ca.beside(recorded.directory), ca.beside(ca.directory))
    config = recorded.place.get("config_file")
    if config and ca.config_file:
        pairs.append((config, ca.config_file))
    return Move(pairs)


def pairs_of(ca: FileCa, directory: t.Optional[str], newest: Generation) -> t.Iterator[t.Tuple[str, str]]:
    """The CA's directory, which may be that of its configuration alone; and where that was corrected, the one that it names."""
    if directory and ca.directory:
        yield directory, ca.directory
    try:
        files = ca.files()
    except KeywardError:
        return
    was, named = (newest.certificate_place, newest.key_place), (files.certificate, files.private_key)
    found = {_without_common_end(place.path, path) for place, path in zip(was, named) if place and path}
    if len(found) == 1 and all(was) and all(named):
        yield from found


def _without_common_end(one: str, other: str) -> t.Tuple[str, str]:
    ours, theirs = one.split("/"), other.split("/")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return "/".join(ours), "/".join(theirs)


def files_here(files: Files, move: Move) -> Files:
    """Where its files are, once its configuration names this place."""
    named: t.Dict[str, t.Any] = {
        name: move.path(value) for name, value in vars(files).items() if isinstance(value, str) and value.startswith("/")
    }
    return replace(files, **named, subscribers=tuple(map(move.path, files.subscribers)))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()[:500]
