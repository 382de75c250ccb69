# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of a CA's life, each with its host in this process (fake_host.py)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action import ca_crl, ca_install, ca_renew, ca_sign
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa

LONGER = itertools.count(100_000, 1000)  # days: each renewal is due, and makes its condition untrue
SUBJECT = {"organizationName": "Example", "commonName": "Example New CA"}
NEW = {"kind": "root", "subject": SUBJECT, "key_type": "Ed25519", "key_size": 4096, "curve": "secp384r1", "days": 3650}


def which(ca: OpensslCa | Path) -> Selector:
    if isinstance(ca, OpensslCa):
        return Selector(config_file=str(ca.config_file), private_key_passphrase=ca.passphrase)
    return Selector(config_file=str(ca / "openssl.cnf"))


def renew(ca: OpensslCa | Path, *, check: bool = False, **request: Any) -> dict[str, Any]:
    days = next(LONGER)
    always = {"remaining_days": None if "certificate" in request else days, "issued_before": None, "days": days + 500, "certificate": None}
    place = {"config_file": which(ca).config_file, "private_key_passphrase": which(ca).private_key_passphrase}
    return ended_well(FakeHost().run(ca_renew.ActionModule, {**place, **always, "reuse_key": False, **request}, check=check))


def ended_well(result: dict[str, Any]) -> dict[str, Any]:
    if result.get("failed"):
        raise Failed(result["msg"])
    return result


class Failed(Exception):
    """A task that failed, with its message."""


def install(directory: Path, *, check: bool = False, **options: Any) -> dict[str, Any]:
    return ended_well(FakeHost().run(ca_install.ActionModule, {"config_file": which(directory).config_file, **NEW, **options}, check=check))


def sign(parent: Path, request: str, **more: Any) -> dict[str, Any]:
    options = {"config_file": which(parent).config_file, "request": request, "days": 100, **more}
    return ended_well(FakeHost().run(ca_sign.ActionModule, options))


def fingerprints(ca: OpensslCa | Path) -> list[str]:
    return [generation.sha256 for generation in OpensslBackend(which(ca)).facts().generations]


def keys_present(ca: OpensslCa | Path) -> set[str]:
    return {generation.private_key for generation in OpensslBackend(which(ca)).facts().generations}


def state(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def refused(call: Any) -> str:
    with pytest.raises((KeywardError, Failed)) as caught:
        call()
    return str(caught.value)


def crl(ca: Path | OpensslCa, check: bool = False, **request: Any) -> dict[str, Any]:
    place = {"config_file": which(ca).config_file, "private_key_passphrase": which(ca).private_key_passphrase}
    return ended_well(FakeHost().run(ca_crl.ActionModule, {**place, **request}, check=check))


def written(directory: Path, published: bytes) -> str:
    """A file on the controller."""
    file = directory / "published.crl"
    file.write_bytes(published)
    return str(file)


def cuts(directory: Path) -> Iterator[tuple[int, Path]]:
    for number in range(1, 60):
        yield number, directory / str(number)
