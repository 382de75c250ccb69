# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the openssl backend reads of a CA, for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from support.openssl_ca import OpensslCa, openssl

MakeCa = Callable[..., OpensslCa]


def read(ca: OpensslCa, **known: object) -> Facts:
    return OpensslBackend(Selector(config_file=str(ca.config_file), **known)).facts()  # type: ignore[arg-type]


def codes(reading: Facts) -> list[str]:
    return [advisory.code for advisory in reading.advisories]


def key_names(reading: Facts) -> list[str | None]:
    return [generation.key_place and os.path.basename(generation.key_place.path) for generation in reading.generations]


def public_key(path: Path, passphrase: str | None = None) -> str:
    given = () if passphrase is None else ("-passin", "stdin")
    pem = openssl("pkey", "-in", path, "-pubout", *given, passphrase=passphrase).stdout
    der = path.with_name("spki.der")
    (path.with_name("spki.pem")).write_text(pem)
    openssl("pkey", "-pubin", "-in", path.with_name("spki.pem"), "-outform", "DER", "-pubout", "-out", der)
    digest = openssl("dgst", "-sha256", "-r", der).stdout.split()[0]
    der.unlink()
    path.with_name("spki.pem").unlink()
    return digest


def request(ca: OpensslCa, folder: Path, private_key: Path | None = None, subject: str | None = None) -> Path:
    path = folder / "request.csr"
    openssl("req", "-new", "-key", private_key or ca.private_key, "-config", ca.config_file, "-subj", subject or ca.subject, "-out", path)
    return path
