# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CA keys and certificates made in memory, for tests of the domain and of stores."""

from __future__ import annotations

import datetime
import functools
from dataclasses import replace
from typing import Any

from ansible_collections.keyward.pki.plugins.module_utils._generation import (
    Authority,
    Generation,
    authority_id,
    generation_of,
)
from ansible_collections.keyward.pki.plugins.module_utils._manifest import BundleFile, Manifest
from ansible_collections.keyward.pki.plugins.module_utils._sealing import seal
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import Members, SetFile, SetManifest, State
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PASSWORD = "correct horse battery staple"


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name, a test run long."""
    return ec.generate_private_key(ec.SECP256R1())


def certificate(key_name: str, subject: str = "Example Root CA", year: int = 2026) -> bytes:
    return _certificate(key_name, subject, year)


@functools.cache
def _certificate(key_name: str, subject: str, year: int) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    start = datetime.datetime(year, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key(key_name).public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(start.replace(year=year + 10))
    return builder.sign(key(key_name), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def generation(key_name: str, index: int = 0, subject: str = "Example Root CA", **known: Any) -> Generation:
    made = generation_of(certificate(key_name, subject, 2026 + index), index, private_key="present", exportable=True)
    return replace(made, **known)


def authority(subject: str = "CN=Example Root CA", **known: Any) -> Authority:
    place = {"config_file": "/etc/pki/CA/openssl.cnf", "directory": "/etc/pki/CA", "name": "CA_default"}
    made = Authority("openssl", "CA_default", "example-root-ca", subject, "/etc/pki/CA", place, "ca.example.com")
    return replace(made, **known)


def sealed(*key_names: str, password: str = PASSWORD) -> bytes:
    generations = [generation(name, index) for index, name in enumerate(key_names)]
    keys = {each.public_key_sha256: key(name) for each, name in zip(generations, key_names, strict=True)}
    return seal(generations, keys, [], password)


def set_manifest(**known: Any) -> SetManifest:
    """Of a set with files of its own software, unless C(files) says otherwise."""
    whose = known.pop("authority", authority())
    made = SetManifest(
        id="1" * 32,
        sequence=1,
        previous=None,
        kind="full",
        database="d" * 32,
        authority=whose,
        homes=(whose.home,),
        made_at=whose.home,
        created="2026-01-01T00:00:00Z",
        as_of="2026-01-01T00:00:00Z",
        made={},
        files=(SetFile("database.json", "x", 1),),
        members=Members(1, 1),
        state=State("d", "c", 1, None, None),
        left_out=(),
        generations=(generation("first"),),
    )
    return replace(made, **known)


def manifest(data: bytes, *key_names: str, sequence: int = 1, **known: Any) -> Manifest:
    import hashlib

    generations = [generation(name, index) for index, name in enumerate(key_names)]
    made = Manifest(
        id=f"{sequence:032x}",
        sequence=sequence,
        previous=f"{sequence - 1:032x}" if sequence > 1 else None,
        authority=authority(id=authority_id(generations)),
        homes=(authority().home,),
        made_at=authority().home,
        created="2026-01-01T00:00:00Z",
        proved_at="2026-01-01T00:00:00Z",
        made={"at": "2026-01-01T00:00:00Z", "controller": "c", "reason": "install", "reference": None, "versions": {}},
        files=(BundleFile("authority.p12", hashlib.sha256(data).hexdigest(), len(data), f"{sequence:032x}"),),
        generations=tuple(generations),
    )
    return replace(made, **known)
