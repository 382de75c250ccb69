# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home with a signing key and the list that names it, as a first C(ca_store) leaves it: the same key for a whole run of tests.

make_home(path)                     # HOME for runs of a controller
new_home(path, "other")             # of a controller with a key of its own
verify(folder, allowed_signers)     # ssh-keygen -Y verify of every signed file below a folder; their paths
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from ansible_collections.keyward.pki.plugins.module_utils import _sshsig

KEY, ALLOWED = ".config/keyward/signing_key", ".config/keyward/allowed_signers"


@functools.cache
def key_of(name: str) -> tuple[bytes, str]:
    """Private file and line of the list."""
    key = _sshsig.new_private_key()
    return _sshsig.private_bytes(key), f'keyward namespaces="keyward" {_sshsig.line_of(_sshsig.public_blob(key))} {name}\n'


def make_home(path: Path, name: str = "tests") -> Path:
    private, line = key_of(name)
    if not (path / KEY).exists():
        (path / KEY).parent.mkdir(parents=True, exist_ok=True)
        (path / KEY).touch(mode=0o600)
        (path / KEY).write_bytes(private)
        (path / ALLOWED).write_text(line)
    return path


def verify(folder: Path, allowed_signers: Path, *options: str) -> list[Path]:
    """Every C(.sig) below a folder, checked by ssh-keygen; each document has one."""
    documents = sorted(path for path in folder.rglob("*.json") if path.name == "manifest.json" or path.parent.name == "events")
    for document in documents:
        words = ["-f", allowed_signers, "-I", "keyward", "-n", "keyward", "-s", f"{document}.sig", *options]
        done = subprocess.run(
            ["ssh-keygen", "-Y", "verify", *map(str, words)], input=document.read_bytes(), capture_output=True, check=False
        )
        assert done.returncode == 0, f"{document}: {done.stdout!r} {done.stderr!r}"
    return documents
