# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a host can use up of the controller by what it sends; may change in any release.

Connection plugins write what they fetch until the host ends it, and gather all that a module prints before anybody may look at it.
Each task is a process of its own, whose limits hold for the programs that it starts, too.
"""

from __future__ import annotations

import contextlib
import resource
import typing as t


def file_size_limited(most: int) -> t.ContextManager[None]:
    """Nothing is written beyond so many bytes of a file: the writer gets EFBIG, or its program is ended."""
    return _limited(resource.RLIMIT_FSIZE, most)


def memory_limited(more: int) -> t.ContextManager[None]:
    """So many bytes of memory more than now, where the system tells how much that is. Raises MemoryError."""
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
