# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the files of a CA's database as they lie there, also where openssl was killed; may change in any release.

openssl writes what is to be beside a file (.new), then renames the file to .old and the .new to its name: serial first, then the index
and its attributes; crlnumber after a CRL was written. Killed in between, it leaves a name without a file, or a whole .new that waits.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._directories import sync_directory, writing
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import (
    Index,
    attribute_in,
    is_unique_subject,
    read_index,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import Numbers
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

LARGEST_INDEX = 1024 * 1024 * 1024
LARGEST_NUMBER = 65536
# Between two renames openssl is for microseconds; while it signs a large CRL, crlnumber.new may wait for longer.
SETTLED, PAUSE = 5.0, 0.25  # seconds
OLD_ENOUGH = 60  # seconds since a .new was written


class DatabaseFiles:
    """What lies there now. Where openssl left a whole .new behind, that is read."""

    def __init__(self, ca: FileCa, files: Files, held: t.Optional[t.Mapping[str, bytes]] = None) -> None:
        """C(held): what was read of them in one moment."""
        self._ca, self.files, self._held = ca, files, held or {}
        self.path, self.directory = files.database or "", ca.directory
        self.waiting = [] if held else self._waiting()
        self._index: t.Optional[Index] = None

    # --- what they say ---

    @property
    def index(self) -> Index:
        """Raises KeywardError where it can't be read; one that does not exist has no rows."""
        if self._index is None:
            path = self.place_of(self.path)
            data = self._held.get(path) or read_if_there(path, "the database", LARGEST_INDEX) or b""
            self._index = read_index(data, self.unique_subject)
        return self._index

    @property
    def unique_subject(self) -> bool:
        """Whether openssl ca allows only one valid certificate of a subject."""
        configured = None
        with contextlib.suppress(KeywardError, FileNotFoundError):
            configured = self._ca.setting("unique_subject")
        said = attribute_in(self.place_of(attributes_of(self.path)), self.directory)
        return is_unique_subject(said, configured)

    @property
    def next_serial(self) -> t.Optional[int]:
        """None where the CA has no such file, or draws each number. Raises KeywardError."""
        return None if self.files.random_serials else self._number(self.files.serial)

    @property
    def next_crl_number(self) -> t.Optional[int]:
        """Raises KeywardError."""
        return self._number(self.files.crl_number)

    def numbers(self, what: str) -> Numbers:
        """Raises KeywardError where openssl could not use them; C(what) says what fails then."""
        self.index.refuse(what, self.path)
        return Numbers(self.index.by_number, self.next_serial, self.next_crl_number)

    def refuse_unread(self, what: str) -> None:
        """Raises KeywardError where openssl could not use the index, or would leave a revoked certificate out of a CRL."""
        index = self.index
        index.refuse(what, self.path)
        if index.revoked_unread:
            found = index.findings(self.path)
            listed = ", ".join(f"{number:X}" for number in sorted(index.revoked_unread)[:5])
            why = f"openssl would leave revoked certificates out ({listed}): " + "; ".join(one.message for one in found[:3])
            raise KeywardError(what, why, "Correct these lines: each row begins with V, R or E, and ends with a newline", found)

    def missing(self) -> t.List[str]:
        """Files that are gone, while what came before them is there."""
        paths = (self.path, self.files.serial, self.files.crl_number)
        gone = [path for path in paths if path and path not in self.waiting and not os.path.lexists(path)]
        return [path for path in gone if os.path.lexists(path + ".old")]

    def used(self) -> Numbers:
        """Beyond which numbers something was given, as the .old of a number that is gone shows."""
        found: t.List[t.Optional[int]] = []
        for path in (None if self.files.random_serials else self.files.serial, self.files.crl_number):
            given = None
            if path and path in self.missing():
                with contextlib.suppress(KeywardError):
                    given = _number_in(path + ".old")
            found.append(None if given is None else given + 1)
        return Numbers({}, *found)

    def _number(self, path: t.Optional[str]) -> t.Optional[int]:
        if path and self.place_of(path) in self._held:
            return parse_number(self._held[self.place_of(path)], path)
        return _number_in(self.place_of(path)) if path else None

    def place_of(self, path: str) -> str:
        """Where a file of the database is that openssl would find under this name, had it not been stopped."""
        return path + ".new" if path in self.waiting and os.path.lexists(path + ".new") else path

    # --- what openssl left undone ---

    def _waiting(self) -> t.List[str]:
        """The files whose .new is whole and is what they ought to be, in the order in which openssl would put them in place."""
        waiting = []
        for path in (self.files.serial, self.files.crl_number):
            if path and not (path == self.files.serial and self.files.random_serials) and _goes_on(path):
                waiting.append(path)
        if self.path and self._index_goes_on():
            waiting.append(self.path)
        attributes = attributes_of(self.path)
        if (
            self.path
            and (not os.path.lexists(attributes) or self.path in waiting)
            and _whole(attributes + ".new", "the attributes", LARGEST_NUMBER)
        ):
            waiting.append(attributes)
        return waiting

    def _index_goes_on(self) -> bool:
        """Whether its .new has all rows of what it follows, and shows no certificate that was never written."""
        path = self.path
        new = _whole_index(path + ".new")
        if new is None:
            return False
        there = os.path.lexists(path)
        before = read_index(read_if_there(path if there else path + ".old", "the database", LARGEST_INDEX) or b"")
        rows, earlier = new.by_number, before.by_number
        if not Numbers(rows, None, None).has_rows_of(Numbers(earlier, None, None)):
            return False
        added = [number for number in rows if number not in earlier]
        return not there or (rows != earlier and all(self._is_written(number) for number in added))

    def _is_written(self, number: int) -> bool:
        folder = self.files.new_certificates
        return folder is None or os.path.lexists(os.path.join(folder, even_hex(number) + ".pem"))

    def finish(self, what: str) -> t.List[Finding]:
        """Put in place what waits, once it is sure that no openssl is at work. Under the CA's lock. Raises KeywardError."""
        deadline = time.monotonic() + SETTLED
        while self.waiting and not all(_is_old(path + ".new") for path in self.waiting) and time.monotonic() < deadline:
            time.sleep(PAUSE)
            self._index, self.waiting = None, self._waiting()
        done = []
        for path in self.waiting:
            with writing(path):
                os.replace(path + ".new", path)
                sync_directory(os.path.dirname(path))
            done.append(Finding("unfinished_finished", f"openssl was killed before it put {path} in place: its whole {path}.new was"))
        self._index, self.waiting = None, self._waiting()
        return done


def attributes_of(index: str) -> str:
    return index + ".attr"


def parse_number(data: bytes, path: str) -> int:
    """As openssl reads it: the digits at the beginning, in pairs; the rest means nothing. Raises KeywardError."""
    text = t.cast(t.Match[bytes], re.match(rb"[0-9A-Fa-f]*", data)).group()
    if not text or len(text) % 2:
        why = "it holds no hexadecimal number" + (" of an even number of digits, as openssl needs it" if text else "")
        raise KeywardError(f"{path} can't be read", why, "Find out what became of it")
    return int(text, 16)


def _number_in(path: str) -> t.Optional[int]:
    data = read_if_there(path, "the number", LARGEST_NUMBER)
    return None if data is None else parse_number(data, path)


def _goes_on(path: str) -> bool:
    """Whether beside a number lies a whole .new that goes on from it."""
    try:
        data = _whole(path + ".new", "the number", LARGEST_NUMBER)
        if data is None:
            return False
        before = _number_in(path if os.path.lexists(path) else path + ".old")
        return before is None or parse_number(data, path) > before
    except KeywardError:
        return False


def _whole_index(path: str) -> t.Optional[Index]:
    data = _whole(path, "the database", LARGEST_INDEX)
    if data is None:
        return None
    index = read_index(data)
    return None if any(fault.refused for fault in index.faults) else index


def _whole(path: str, what: str, largest: int) -> t.Optional[bytes]:
    """What openssl wrote to its end; it never makes a link. Raises KeywardError."""
    data = None if os.path.islink(path) else read_if_there(path, what, largest)
    return data if data is not None and data.endswith(b"\n") else None


def _is_old(path: str) -> bool:
    try:
        return time.time() - os.stat(path).st_mtime > OLD_ENOUGH
    except OSError:
        return False
