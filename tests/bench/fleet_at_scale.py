# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many CAs, whose keys lie in one store, without a play having made them: what C(tests/bench/fleet --scale) measures beside 20 hosts.

authorities(folder, store, 1000, home)   # a CA, a signed backup and an entry of the memory for each; hosts and their variables
ten_years(store, home)                   # a backup of each night, of the first of them
"""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.openssl_ca import OpensslCa
from support.signers import ALLOWED, KEY, MEMORY

NIGHTS = 3650


def a_ca(folder: Path, template: OpensslCa, name: str) -> Path:
    """A CA like the template, with a key and a certificate of its own."""
    shutil.copytree(template.directory, folder)
    config = folder / "openssl.cnf"
    config.write_text(config.read_text().replace(str(template.directory), str(folder)))
    key = ec.generate_private_key(ec.SECP256R1())
    begin, subject = datetime(2026, 1, 1), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), begin, begin + timedelta(3650))
    builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "cacert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "private" / "cakey.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder


class Copies:
    """Signed documents after the pattern of one backup that a task made."""

    def __init__(self, store: Path, home: Path) -> None:
        from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers

        self.store, self.home = store, home
        self._signers = Signers({"store_signing_key": str(home / KEY), "allowed_signers": str(home / ALLOWED)})
        (self.pattern,) = store.glob("*-*/0*Z")
        self.manifest = json.loads((self.pattern / "manifest.json").read_text())

    def write(self, path: Path, **changed: Any) -> str:
        """A backup at that path; the digest of its manifest."""
        shutil.copytree(self.pattern, path)
        content = (json.dumps({**self.manifest, **changed}, indent=2) + "\n").encode()
        (path / "manifest.json").write_bytes(content)
        (path / "manifest.json.sig").write_bytes(self._signers.sign(content))
        return hashlib.sha256(content).hexdigest()


def authorities(folder: Path, template: OpensslCa, copies: Copies, count: int) -> dict[str, dict[str, str]]:
    """CAs with a backup each, which the memory knows."""
    from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, directory_name, generation_of
    from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS
    from ansible_collections.keyward.pki.plugins.plugin_utils import _hints
    from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import Store

    store = Store(str(copies.store), BACKUPS, None)
    memory = json.loads((copies.home / MEMORY).read_text())
    ((_name, entry),) = memory["newest"].items()
    hosts, pattern = {}, copies.manifest["generations"][0]
    for number in range(1, count + 1):
        host, ca = f"ca{number:04}", a_ca(folder / f"ca{number:04}", template, f"Example CA {number:04}")
        one = generation_of(x509.load_pem_x509_certificate((ca / "cacert.pem").read_bytes()).public_bytes(Encoding.DER), 0)
        shape = {**pattern, **{name: value for name, value in one.as_json().items() if value is not None and name != "private_key"}}
        place = {"config_file": str(ca / "openssl.cnf"), "directory": str(ca), "name": "CA_default"}
        known = {"host": host, "id": one.sha256, "subject": one.subject, "directory": str(ca), "place": place}
        authority = Authority.from_json({**copies.manifest["authority"], **known, "sanitized_name": f"example-ca-{number:04}"})
        home = authority.home.as_json()
        name = directory_name(authority)
        path = copies.store / name / copies.pattern.name
        said = {"authority": authority.as_json(), "homes": [home], "made_at": home, "generations": [shape]}
        digest = copies.write(path, **said)
        _hints.leave(store, name, [host], [one.public_key_sha256])
        memory["newest"][f"keys/{one.sha256}"] = {**entry, "digest": digest, "public_keys": [one.public_key_sha256]}
        hosts[host] = {"directory": str(ca)}
    (copies.home / MEMORY).write_text(json.dumps(memory, indent=2))
    return hosts


def ten_years(folder: Path, copies: Copies, nights: int = NIGHTS) -> None:
    """As many backups and events of one authority, each after the one before."""
    last = folder / copies.pattern.name
    copies.manifest = json.loads((last / "manifest.json").read_text())
    digest = hashlib.sha256((last / "manifest.json").read_bytes()).hexdigest()
    (folder / "events").mkdir(exist_ok=True)
    for number in range(2, nights + 2):
        path = folder / f"{number:06d}-20260101T000000.{number:06d}Z"
        digest = copies.write(path, sequence=number, id=f"{number:032x}", previous=digest)
        (folder / "events" / f"{number:06d}-20260101T000000Z-restore-{number:08x}.json").write_text("{}")
