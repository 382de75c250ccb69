# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks of the product for plays of several steps, and looks at what they left behind.

Every task's result is compared with the module's documentation: run plays with `play`, not with Ansible.play.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible, Result
from support.openssl_ca import OpensslCa, openssl
from support.returns import check_result

PASSWORD = "correct horse battery staple 1"
NEW_PASSWORD = "Tr0ub4dor and three more words"
BACKUP_NAME = re.compile(r"[0-9]{6}-[0-9]{8}T[0-9]{6}\.[0-9]{6}Z\Z")
# Of a directory not the times: a lock comes and goes in it.
_SHOWN = ["(", "-type", "d", "-printf", "%p d i%i m%m %U:%G\\n", ")", "-o", "-printf", "%p %y i%i m%m %U:%G s%s t%T@ c%C@ %l\\n"]


def play(ansible: Ansible, tasks: Sequence[dict[str, Any]] | Path, **options: Any) -> Result:
    """Ansible.play that must run to its end (failures only where a step expects them), with every result checked."""
    return check(ansible.play(tasks, **options)).ok()


def check(result: Result) -> Result:
    """Compares every result of the collection's modules with its documentation."""
    for results in result.results.values():
        for one in results:
            collection, _dot, module = one.action.rpartition(".")
            if collection == "keyward.pki" and one.status != "skipped":
                for each in one.get("results", [one]):  # of a loop
                    check_result(module, each, one.status == "failed")
    return result


def step(module: str, title: str, /, *, check: bool | None = None, fails: bool = False, **options: Any) -> dict[str, Any]:
    """One task. check: check mode; fails: the play goes on, and `failure` reads what it said. Diff mode is always on."""
    one: dict[str, Any] = {"name": title, f"keyward.pki.{module}": {key: value for key, value in options.items() if value is not None}}
    one["diff"] = True
    if check is not None:
        one["check_mode"] = check
    if fails:
        one["ignore_errors"] = True
    return one


def failure(result: Result, name: str, host: str | None = None) -> str:
    """The message of a step that had to fail."""
    one = result.task(name, host)
    assert one.status == "failed", f"{name!r} did not fail\n{result}"
    return str(one["msg"])


def new_store(path: Path) -> dict[str, Any]:
    return step("ca_store", f"store {path.name}", path=str(path), kind="keys")


def look(name: str, *paths: Path) -> dict[str, Any]:
    """A task that notes every file below paths, with inode, mode, owner, size, times of content and of inode; see `looked`."""
    command = ["find", *map(str, paths), *_SHOWN]
    return {"name": name, "ansible.builtin.command": {"argv": command}, "changed_when": False, "check_mode": False}


def looked(result: Result, name: str, host: str | None = None) -> list[str]:
    return sorted(result.task(name, host)["stdout_lines"])


def tree(*paths: Path) -> list[str]:
    """What a `look` notes, now."""
    done = subprocess.run(["find", *map(str, paths), *_SHOWN], capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def run(name: str, *argv: str | Path) -> dict[str, Any]:
    """A task that runs a command between two steps."""
    return {"name": name, "ansible.builtin.command": {"argv": [str(word) for word in argv]}, "changed_when": False}


def codes(findings: Sequence[dict[str, Any]]) -> list[str]:
    return [finding["code"] for finding in findings]


# --- stores ------------------------------------------------------------------------------------------------------


def authorities(store: Path) -> list[Path]:
    return sorted(path for path in store.iterdir() if path.is_dir() and not path.name.startswith("by-"))


def sets(store: Path) -> list[Path]:
    """The sets of the only database in a store, oldest first. Nothing half-written lies beside."""
    (authority,) = authorities(store)
    (database,) = [path for path in authority.iterdir() if path.name != "events"]
    found = sorted(database.iterdir())
    assert all(BACKUP_NAME.match(path.name) for path in found), found
    return found


def backups(store: Path, authority: str | None = None) -> list[Path]:
    """The backups of the only authority in a store, or of the one of that name, oldest first. Nothing half-written lies beside."""
    folders = [path for path in authorities(store) if authority in (None, path.name)]
    assert len(folders) == 1, f"authorities in the store: {[path.name for path in authorities(store)]}"
    found = sorted(path for path in folders[0].iterdir() if path.name != "events")
    assert all(BACKUP_NAME.match(path.name) for path in found), found
    return found


def manifest(backup: Path) -> dict[str, Any]:
    """A backup's manifest. Fails unless the directory holds exactly the files that it says, with their digests."""
    content: dict[str, Any] = json.loads((backup / "manifest.json").read_text(encoding="ascii"))
    recorded = {file["name"]: (file["sha256"], file["size"]) for file in content["files"]}
    there = {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in backup.iterdir()
        if path.name not in ("manifest.json", "manifest.json.sig")
    }
    assert there == recorded
    return content


def digest(backup: Path) -> str:
    """By which events and successors name it."""
    return hashlib.sha256((backup / "manifest.json").read_bytes()).hexdigest()


def events(authority: Path) -> list[dict[str, Any]]:
    """The authority's events, in the order of their files' names."""
    return [json.loads(path.read_text(encoding="ascii")) for path in sorted((authority / "events").glob("*.json"))]


def assert_sound(store: Path) -> None:
    """The store holds nothing but whole backups, events and its marker, and each chain of backups is unbroken."""
    assert {path.name for path in store.iterdir() if not path.is_dir()} == {"keyward-store.json", "allowed_signers"}
    for authority in authorities(store):
        assert not authority.name.startswith("."), f"{authority} was left behind"
        previous = None
        for number, backup in enumerate(backups(store, authority.name), start=1):
            content = manifest(backup)
            assert (content["sequence"], content["previous"]) == (number, previous)
            previous = digest(backup)


# --- openssl as the second opinion -------------------------------------------------------------------------------


def public_key(file: Path, passphrase: str | None = None) -> str:
    """SHA-256 of the SubjectPublicKeyInfo of a private key file or of a certificate, as openssl tells it."""
    data = file.read_bytes()
    if b"CERTIFICATE" in data:
        pem = openssl("x509", "-in", file, "-noout", "-pubkey").stdout
    else:
        pem = openssl("pkey", "-in", file, "-pubout", "-passin", "stdin", passphrase=passphrase or "").stdout
    return _digest(pem)


def bundle_keys(bundle: Path, password: str) -> set[str]:
    """The public keys (SHA-256) of all private keys that `openssl pkcs12` reads from a bundle."""
    text = _pkcs12(bundle, password, "-nocerts", "-noenc")
    keys = re.findall(r"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n", text, re.DOTALL)
    return {_digest(_openssl_on(key, "pkey", "-pubout")) for key in keys}


def bundle_certificates(bundle: Path, password: str) -> set[str]:
    """The SHA-256 fingerprints of all certificates that `openssl pkcs12` reads from a bundle."""
    return fingerprints_in(_pkcs12(bundle, password, "-nokeys"))


def fingerprint(certificate: Path) -> str:
    (one,) = fingerprints_in(openssl("x509", "-in", certificate).stdout)
    return one


def fingerprints_in(text: str) -> set[str]:
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", text, re.DOTALL)
    printed = [_openssl_on(block, "x509", "-noout", "-fingerprint", "-sha256") for block in blocks]
    return {line.strip().partition("=")[2].replace(":", "").lower() for line in printed}


def _pkcs12(bundle: Path, password: str, *options: str) -> str:
    return openssl("pkcs12", "-in", bundle, "-passin", "stdin", *options, passphrase=password).stdout


def _openssl_on(text: str, *arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True, check=True).stdout


def _digest(public_pem: str) -> str:
    command = ["openssl", "pkey", "-pubin", "-outform", "DER"]
    return hashlib.sha256(subprocess.run(command, input=public_pem.encode(), capture_output=True, check=True).stdout).hexdigest()


def assert_signs(ca: OpensslCa, pairs: Collection[tuple[Path, Path]]) -> None:
    """openssl signs a CRL with each pair of certificate and private key, and verifies it."""
    for certificate, private_key in pairs:
        ca.sign_crl(certificate, private_key)


# --- file systems ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_file_system(path: Path, size: str = "256k") -> Iterator[Path]:
    """A file system of that size at a path; outside CI the test is skipped where none can be mounted."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)], capture_output=True, check=False)
    if done.returncode != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a small file system can only be mounted by root")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> Path:
    """Takes all the space that a file system has left; returns the file to remove."""
    filler = path / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * 4096)
    return filler
