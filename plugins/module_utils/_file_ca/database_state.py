# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the state of a database, by which a task sees that it has changed since its last set; may change in any release.

It is taken in two steps: what is small is read at once; what was issued is looked at, and not read, when it is asked for.
"""

from __future__ import annotations

import array
import hashlib
import os
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive_reading import LARGEST_MEMBER, status_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import ISSUED_PARTS, Stamp
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import State
from ansible_collections.keyward.pki.plugins.module_utils._stored import digest_of
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex

_WHOLE = ("index", "serial", "crl_number", "attributes", "certificate")
_BITS = (1 << 64) - 1
_NO_FILE = (_BITS, _BITS, _BITS, _BITS)  # as no file is


class DatabaseState:
    def __init__(self, database: DatabaseFiles, wanted: t.Mapping[str, str], held: t.Mapping[str, bytes]) -> None:
        """C(wanted): path -> part. C(held): what was read of them before. Raises KeywardError where something can't be read."""
        self._database = database
        self._contents, self._configuration, self._stamps = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        for path in sorted(path for path, part in wanted.items() if part not in ISSUED_PARTS):
            part = wanted[path]
            told = self._contents if part == "crl" or part in _WHOLE else self._configuration
            if part == "crl" or (part == "extra" and not os.path.isdir(path)):
                now = _state_of(path)
            elif part == "configuration" or (part in _WHOLE and not os.path.isdir(path)):
                now = hashlib.sha256(held[path]).hexdigest() if path in held else digest_or_none(path)
            else:
                continue
            told.update(f"{path} {now}\n".encode("utf-8", "surrogateescape"))

    def look(self, issued: t.Sequence[str]) -> t.Iterator[Stamp]:
        """How these files lie there now, in this order: for as long as they stay so, nobody has touched them."""
        stamps = array.array("Q")  # there may be a million
        for path in issued:
            status = status_of(path, follow=False)
            if status and not stat.S_ISDIR(status.st_mode):
                size, mtime, ctime, inode = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
                self._contents.update(b"%s %d\n" % (os.fsencode(path), size))
                self._stamps.update(b"%d %d %d\n" % (mtime, ctime, inode))
            is_file = status and stat.S_ISREG(status.st_mode)
            # A time before 1970 becomes one that no list has: then the file is read again.
            stamps.extend((size, mtime & _BITS, ctime & _BITS, inode) if is_file else _NO_FILE)
        return t.cast(t.Iterator[Stamp], zip(*[iter(stamps)] * 4))

    @property
    def told(self) -> State:
        """Once it was looked at what was issued. Raises KeywardError where a number can't be read."""
        entries, revoked = self._database.index.counts
        return State(
            self._contents.hexdigest(),
            self._configuration.hexdigest(),
            entries,
            hex_or_none(self._database.next_serial),
            hex_or_none(self._database.next_crl_number),
            revoked,
            self._stamps.hexdigest(),
        )


def hex_or_none(number: t.Optional[int]) -> t.Optional[str]:
    return None if number is None else even_hex(number)


def _state_of(path: str) -> t.Optional[str]:
    """Of a CRL, say: others, such as a web server, may write where it lies. No link is followed, and nothing is read without end."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_MEMBER:
        return f"{status.st_mode:o} {status.st_size}"
    return digest_or_none(path)


def digest_or_none(path: str) -> t.Optional[str]:
    try:
        return digest_of(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise KeywardError(f"{path} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc
