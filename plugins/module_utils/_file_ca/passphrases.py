# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: passphrases that lie beside the keys that they protect; may change in any release."""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation

_MOST_FILES, _LARGEST = 500, 4096


def said_in(path: str, name: str) -> Finding:
    """A passphrase in a file. C(name): the setting that holds it."""
    text = f"{path} says {name}: a passphrase lies with the CA, and each set of the database holds this file. Take it out of there"
    return Finding("passphrase_beside_key", text)


def files_beside(generations: t.Sequence[Generation], passphrase: t.Optional[str]) -> t.List[Finding]:
    """Files in the directory of an encrypted key that hold its passphrase, as far as it is known."""
    places = [generation.key_place for generation in generations if generation.encrypted_at_rest]
    folders = sorted({os.path.dirname(place.path) for place in places if place})
    if not passphrase:
        return []
    return [
        Finding(
            "passphrase_beside_key", f"{path} holds the passphrase of the keys beside it: who can read one can read the other. Move it away"
        )
        for folder in folders
        for path in _small_files(folder)
        if _first_line(path) == passphrase.encode("utf-8")
    ]


def _small_files(folder: str) -> t.Iterator[str]:
    try:
        names = sorted(os.listdir(folder))[:_MOST_FILES]
    except OSError:
        return
    for path in (os.path.join(folder, name) for name in names):
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST:
            yield path


def _first_line(path: str) -> t.Optional[bytes]:
    try:
        return read_file(path, "the file", _LARGEST).split(b"\n", 1)[0].rstrip(b"\r")
    except (FileNotFoundError, KeywardError):
        return None
