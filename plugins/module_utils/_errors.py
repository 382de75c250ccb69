# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: findings and errors that tell what to do next; may change in any release."""

from __future__ import annotations

import errno
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._printable import printable

_CAUSES = {
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.ENOENT: "it does not exist",
    errno.EEXIST: "it exists already",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.EISDIR: "it is a directory",
    errno.ENXIO: "it is not a regular file",
    errno.ENOTEMPTY: "it exists already",
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the device reports an input/output error",
    errno.ESTALE: "the share has gone away",
    errno.ELOOP: "it is a symbolic link, or links lead in a circle",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EBUSY: "it is in use",
    errno.ENOLCK: "the file system can't lock files",
    errno.ENOTSUP: "the file system can't do that",
}


@dataclass(frozen=True)
class Finding:
    """One reason or advisory: a stable identifier, its sentence, and the SHA-256 fingerprint of the certificate it is about."""

    code: str
    message: str
    certificate: t.Optional[str] = None

    def as_result(self) -> dict[str, t.Any]:
        return {
            "code": printable(self.code),
            "message": printable(self.message),
            "certificate": None if self.certificate is None else printable(self.certificate),
        }


class KeywardError(Exception):
    """An error in three parts: what failed, why, and what to do next. Holds no secret and no library's raw text."""

    def __init__(self, what: str, why: str, remedy: str, findings: t.Sequence[Finding] = ()) -> None:
        super().__init__(printable(f"{what}: {why}. {remedy}" + ("" if remedy.endswith((".", "?")) else ".")))
        self.findings = tuple(findings)

    @classmethod
    def quoted(cls, message: str, findings: t.Sequence[Finding] = ()) -> KeywardError:
        """An error whose three parts were put together on the host: its text is passed on unchanged."""
        error = cls.__new__(cls)
        Exception.__init__(error, printable(message))
        error.findings = tuple(findings)
        return error


def unforeseen(exc: OSError, where: str) -> KeywardError:
    """An error for what the operating system refused, where the step has no message of its own. Raises C(exc) for any other cause."""
    if exc.errno is None:
        raise exc
    file = f"{exc.filename}: " if isinstance(exc.filename, str) else ""
    return KeywardError(
        f"the task was not finished {where}",
        file + os_cause(exc),
        "Put that right and run the task again: it goes on where this one stopped",
    )


def os_cause(exc: OSError) -> str:
    """An operating system's error as a clause, without its raw text."""
    name = errno.errorcode.get(exc.errno or 0, "unknown error")
    return _CAUSES.get(exc.errno or 0, f"the system answers {name}")
