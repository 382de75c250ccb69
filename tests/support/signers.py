# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home with a signing key and the list that names it, as a first C(ca_store) leaves it: the same key for a whole run of tests.

make_home(path)                     # HOME for runs of a controller
make_home(path, "other")            # of a controller with a key of its own
rewrite(manifest, home, sequence=7) # changes a document as whoever has the key can
verify(folder, allowed_signers)     # ssh-keygen -Y verify of every signed file below a folder; their paths
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KEY, ALLOWED, MEMORY = ".config/keyward/signing_key", ".config/keyward/allowed_signers", ".local/state/keyward/memory.json"


@functools.cache
def key_of(name: str) -> tuple[bytes, str]:
    """Private file and line of the list; the same in every process."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, f'keyward namespaces="keyward" {public} {name}\n'


def make_home(path: Path, name: str = "tests") -> Path:
    private, line = key_of(name)
    if not (path / KEY).exists():
        (path / KEY).parent.mkdir(parents=True, exist_ok=True)
        (path / KEY).touch(mode=0o600)
        (path / KEY).write_bytes(private)
        (path / ALLOWED).write_text(line)
    return path


def sign(path: Path, home: Path) -> None:
    """A document signed anew, with the key of a home."""
    path.with_name(path.name + ".sig").unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(home / KEY), "-n", "keyward", str(path)], check=True)


def rewrite(path: Path, home: Path, **changed: Any) -> None:
    """A document with other contents, as whoever has the key of a home can write it, and one that the home does not remember."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}, indent=2) + "\n")
    sign(path, home)
    (home / MEMORY).unlink(missing_ok=True)


def verify(folder: Path, allowed_signers: Path, *options: str) -> list[Path]:
    """Every C(.sig) below a folder, checked by ssh-keygen; each document has one."""
    documents = sorted(path for path in folder.rglob("*.json") if path.name == "manifest.json" or path.parent.name == "events")
    for path in documents:
        words = ["-f", allowed_signers, "-I", "keyward", "-n", "keyward", "-s", f"{path}.sig", *options]
        done = subprocess.run(["ssh-keygen", "-Y", "verify", *map(str, words)], input=path.read_bytes(), capture_output=True, check=False)
        assert done.returncode == 0, f"{path}: {done.stdout!r} {done.stderr!r}"
    return documents
