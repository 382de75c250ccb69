# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: limits on the disk space and memory that a host's data takes on the controller; may change in any release.

Connection plugins fetch a file for as long as the host sends, and collect everything that a module prints. Each task is a process of its
own, so limits of the process stop that; they hold for the programs that it starts as well.
"""

from __future__ import annotations

import contextlib
import resource
import typing as t


def file_size_limited(most: int) -> t.ContextManager[None]:
    """Limit the size of files: whoever writes more gets EFBIG, or its program is ended."""
    return _limited(resource.RLIMIT_FSIZE, most)


def memory_limited(more: int) -> t.ContextManager[None]:
    """Limit memory to so many bytes more than now, where the system tells how much is in use. Raises MemoryError."""
    used = _in_use()
    return contextlib.nullcontext() if used is None else _limited(resource.RLIMIT_DATA, used + more)


@contextlib.contextmanager
def _limited(what: int, most: int) -> t.Iterator[None]:
    soft, hard = resource.getrlimit(what)
    known = [limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(what, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def _in_use() -> int | None:
    """Bytes of data that this process has (Linux)."""
    with contextlib.suppress(OSError, StopIteration, ValueError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        line = next(line for line in status if line.startswith("VmData:"))
        return int(line.split()[1]) * 1024
    return None
