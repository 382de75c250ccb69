# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: bounded reads; may change in any release."""

from __future__ import annotations

import itertools
import os
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause

LARGEST_FILE = 16 * 1024 * 1024
_PIECE = 64 * 1024


def read_file(path: str, what: str, limit: int = LARGEST_FILE) -> bytes:
    """The bytes of a regular file of at most C(limit) bytes. A FIFO or a device is refused, never waited for.

    Raises KeywardError, FileNotFoundError where there is nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise KeywardError(f"{what} {path} can't be read", os_cause(exc), "Let the user that runs this task read it (become)") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise KeywardError(f"{what} {path} can't be read", "it is not a regular file", "Give the path of a file")
    with os.fdopen(descriptor, "rb") as stream:
        try:
            # In pieces: one read would reserve memory for the whole limit.
            data = b"".join(itertools.islice(iter(lambda: stream.read(_PIECE), b""), limit // _PIECE + 1))
        except OSError as exc:
            raise KeywardError(f"{what} {path} can't be read", os_cause(exc), "Check the file system it is on") from exc
    if len(data) > limit:
        raise KeywardError(f"{what} {path} can't be read", f"it is larger than {limit} bytes", "Check that this is the right file")
    return data


def read_if_there(path: str, what: str, limit: int = LARGEST_FILE) -> t.Optional[bytes]:
    """As C(read_file), None where there is nothing. Raises KeywardError."""
    try:
        return read_file(path, what, limit)
    except FileNotFoundError:
        return None
