# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Windows host without AD CS, as far as the collection sees one: registry, certificate stores, keys, switches and messages."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
SERVICE = r"SYSTEM\CurrentControlSet\Services\CertSvc"
CONFIGURATION = SERVICE + r"\Configuration"
CA_TYPES = {"EnterpriseRootCA": 0, "EnterpriseSubordinateCA": 1, "StandaloneRootCA": 3, "StandaloneSubordinateCA": 4}
ROOT_TYPES = (0, 3)
SOFTWARE_KSP = "Microsoft Software Key Storage Provider"
INSTALLED, PENDING = 1, 8

SWITCHES: dict[str, Any] = {
    "feature": "present",
    "feature_restart_needed": False,
    "language": "en",
    "exceptions": "direct",
    "start_error": "shown",
    "key_backup_with_service_stopped": "works",
    "bundle_holds": "all",
    "shared_key_bags": "one",
    "existing_backup_file": "refuses",
    "unprotected_backup": False,
    "pfx_algorithm": "3des",
    "imports_aes": True,
    "import_makes_exportable": True,
    "not_exportable": {},
    "keys_fail": {},
    "hangs": [],
    "renewal_takes_effect": "at_once",
    "same_key_renewal_begins": "as_before",
    "renew_hangs_after_work": False,
    "untrusted_root": "accepted",
    "parent_crl": "reachable",
    "offline_install": "fails",
    "without_distribution_point": "accepted",
    "install_finds": "all",
    "ca_cert_hash": "spaced",
    "view_numbers": "quoted",
    "signed_crl_number": "kept",
    "view_trailer": False,
    "pings_until_ready": 0,
    "directory": "writable",
    "enrolls_at_once": "never",
    "role_separation": False,
    "cluster": False,
    "domain": False,
    "kra": False,
}

# code: name, English, German
MESSAGES: dict[int, tuple[str, str, str]] = {
    0x80070002: (
        "ERROR_FILE_NOT_FOUND",
        "The system cannot find the file specified.",
        "Das System kann die angegebene Datei nicht finden.",
    ),
    0x80070020: (
        "ERROR_SHARING_VIOLATION",
        "The process cannot access the file because it is being used by another process.",
        "Der Prozess kann nicht auf die Datei zugreifen, da sie von einem anderen Prozess verwendet wird.",
    ),
    0x80070050: ("ERROR_FILE_EXISTS", "The file exists.", "Die Datei ist vorhanden."),
    0x80070056: ("ERROR_INVALID_PASSWORD", "The specified network password is not correct.", "Das angegebene Netzwerkkennwort ist falsch."),
    0x80070057: ("ERROR_INVALID_PARAMETER", "The parameter is incorrect.", "Falscher Parameter."),
    0x80070091: ("ERROR_DIR_NOT_EMPTY", "The directory is not empty.", "Das Verzeichnis ist nicht leer."),
    0x800700AA: ("ERROR_BUSY", "The requested resource is in use.", "Die angeforderte Ressource wird bereits verwendet."),
    0x8007010B: ("ERROR_DIRECTORY", "The directory name is invalid.", "Der Verzeichnisname ist ungültig."),
    0x80070422: ("ERROR_SERVICE_DISABLED", "The service cannot be started.", "Der angegebene Dienst kann nicht gestartet werden."),
    0x80070424: (
        "ERROR_SERVICE_DOES_NOT_EXIST",
        "The specified service does not exist as an installed service.",
        "Der angegebene Dienst ist kein installierter Dienst.",
    ),
    0x800706BA: ("RPC_S_SERVER_UNAVAILABLE", "The RPC server is unavailable.", "Der RPC-Server ist nicht verfügbar."),
    0x80072098: (
        "ERROR_DS_INSUFF_ACCESS_RIGHTS",
        "Insufficient access rights to perform the operation.",
        "Es sind nicht genügend Rechte vorhanden, um diesen Vorgang auszuführen.",
    ),
    0x80090003: ("NTE_BAD_KEY", "Bad Key.", "Ungültiger Schlüssel."),
    0x8009000B: ("NTE_BAD_KEY_STATE", "Key not valid for use in specified state.", "Schlüssel ist im angegebenen Status nicht gültig."),
    0x8009000D: ("NTE_NO_KEY", "Key does not exist.", "Schlüssel nicht vorhanden."),
    0x8009000F: ("NTE_EXISTS", "Object already exists.", "Das Objekt ist bereits vorhanden."),
    0x80090010: ("NTE_PERM", "Access denied.", "Zugriff verweigert."),
    0x80090016: ("NTE_BAD_KEYSET", "Keyset does not exist", "Der Schlüsselsatz ist nicht vorhanden."),
    0x80090029: ("NTE_NOT_SUPPORTED", "The requested operation is not supported.", "Der angeforderte Vorgang wird nicht unterstützt."),
    0x80092010: ("CRYPT_E_REVOKED", "The certificate is revoked.", "Das Zertifikat wurde gesperrt."),
    0x80092012: (
        "CRYPT_E_NO_REVOCATION_CHECK",
        "The revocation function was unable to check revocation for the certificate.",
        "Die Sperrfunktion konnte die Sperrung des Zertifikats nicht überprüfen.",
    ),
    0x80092013: (
        "CRYPT_E_REVOCATION_OFFLINE",
        "The revocation function was unable to check revocation because the revocation server was offline.",
        "Die Sperrfunktion konnte die Sperrung nicht überprüfen, da der Sperrserver offline war.",
    ),
    0x80092004: ("CRYPT_E_NOT_FOUND", "Cannot find object or property.", "Das Objekt oder die Eigenschaft wurde nicht gefunden."),
    0x80094008: ("CERTSRV_E_ROLECONFLICT", "The user has multiple roles assigned.", "Dem Benutzer sind mehrere Rollen zugewiesen."),
    0x80094004: ("CERTSRV_E_PROPERTY_EMPTY", "The requested property value is empty.", "Der angeforderte Eigenschaftenwert ist leer."),
    0x800B0109: (
        "CERT_E_UNTRUSTEDROOT",
        "A certificate chain terminated in a root certificate which is not trusted.",
        "Eine Zertifikatkette endete in einem Stammzertifikat, das nicht vertrauenswürdig ist.",
    ),
    0xC8000230: ("ESE -560 JET_errMissingFullBackup", "The database missed a previous full backup.", "Eine vollständige Sicherung fehlt."),
}
INSTALLED_ALREADY = ("The Certification Authority is already installed.", "Die Zertifizierungsstelle ist bereits installiert.")
INCOMPLETE = (
    "The Active Directory Certificate Services installation is incomplete. To complete the installation, use the request file {}.",
    "Die Installation der Active Directory-Zertifikatdienste ist unvollständig. Verwenden Sie die Anforderungsdatei {}.",
)


class Failure(Exception):
    """What a Windows call fails with: an HRESULT, or, with code 0, an error of the cmdlet's own that has only a text."""

    def __init__(self, code: int, text: tuple[str, str] | None = None) -> None:
        super().__init__(hex(code))
        self.code = code
        self.text = text or MESSAGES.get(code, ("", hex(code), hex(code)))[1:]


def sanitized(name: str) -> str:
    return re.sub(r"""[^ -z]|[!"#%&'()*,/:;<>?\[\]\\^`{|}+=]""", lambda found: f"!{ord(found.group()):04x}", name)


def atomic(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + f".{os.getpid()}.new")
    new.write_bytes(data)
    new.replace(path)


class Registry:
    """HKEY_LOCAL_MACHINE as {key: {value name: [type, data]}}; keys and names are found in any case."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, dict[str, list[Any]]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def save(self, content: dict[str, dict[str, list[Any]]]) -> None:
        atomic(self.path, json.dumps(content, indent=1).encode())

    def key(self, key: str, content: dict[str, Any] | None = None) -> str | None:
        """How a key is spelt."""
        return next((each for each in (self.load() if content is None else content) if each.casefold() == key.casefold()), None)

    def get(self, key: str, name: str, default: Any = None) -> Any:
        content = self.load()
        values = content.get(self.key(key, content) or "", {})
        return next((data for each, (_kind, data) in values.items() if each.casefold() == name.casefold()), default)

    def set(self, key: str, **values: Any) -> None:
        """A str, int, list or bytes makes REG_SZ, REG_DWORD, REG_MULTI_SZ or REG_BINARY; None removes."""
        content = self.load()
        parts = key.split("\\")
        for count in range(1, len(parts) + 1):
            parent = "\\".join(parts[:count])
            if self.key(parent, content) is None:
                content[parent] = {}
        there = content[self.key(key, content) or key]
        for name, value in values.items():
            for each in [each for each in there if each.casefold() == name.casefold()]:
                del there[each]
            if isinstance(value, bytes):
                there[name] = ["REG_BINARY", value.hex()]
            elif value is not None:
                there[name] = [{str: "REG_SZ", int: "REG_DWORD", list: "REG_MULTI_SZ"}[type(value)], value]
        self.save(content)

    def delete(self, key: str) -> None:
        prefix = key.casefold()
        self.save({each: values for each, values in self.load().items() if not (each.casefold() + "\\").startswith(prefix + "\\")})


class Machine:
    """A simulated Windows host; every method leaves the state directory as the next process needs it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.system_root = state / "Windows"
        self.cert_enroll = self.system_root / "System32" / "CertSrv" / "CertEnroll"
        self.registry = Registry(state / "registry.json")

    # --- the machine -----------------------------------------------------------------------------------------------

    def create(self, computer: str) -> None:
        """A bare Windows, with the role's feature when the switch says so."""
        for path in (self.system_root / "System32", self.system_root / "Temp", self.state / "ProgramData", self.state / "keys"):
            path.mkdir(parents=True)
        for program in ("certutil", "reg"):
            path = self.system_root / "System32" / f"{program}.exe"
            path.write_text(
                f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(TESTS / 'adcs')!r})\n"
                f"from client import main\nmain(['program', {program!r}, {str(self.state)!r}, *sys.argv[1:]])\n"
            )
            path.chmod(0o755)
        self.machine(computer=computer, service="Stopped", restart_pending=False, pings=0, exit_code=0)

    def machine(self, **changes: Any) -> dict[str, Any]:
        path = self.state / "machine.json"
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if changes:
            content.update(changes)
            atomic(path, json.dumps(content).encode())
        return content

    def switches(self, **changes: Any) -> dict[str, Any]:
        path = self.state / "switches.json"
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        unknown = sorted(set(changes) - set(SWITCHES))
        assert not unknown, f"no switch {unknown}; there are {sorted(SWITCHES)}"
        if changes:
            content.update(changes)
            atomic(path, json.dumps(content, default=str).encode())
        if "cluster" in changes:
            resource = r"Cluster\Resources\7d9a8a4e-6f0b-4f0a-9f5c-0b6c9d1f2a33"
            self.registry.delete("Cluster")
            if changes["cluster"]:
                self.registry.set(resource, Name="Certificate Services", Type="Generic Service")
                self.registry.set(resource + r"\Parameters", ServiceName="CertSvc", StartupParameters="")
        return {**SWITCHES, **content}

    def text(self, pair: tuple[str, str]) -> str:
        return pair[1 if self.switches()["language"] == "de" else 0]

    def record(self, **line: Any) -> None:
        with (self.state / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def hang(self, name: str) -> None:
        if name.casefold() in (each.casefold() for each in self.switches()["hangs"]):
            time.sleep(3600)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with (self.state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # --- the machine's certificates and keys -----------------------------------------------------------------------

    def certificate(self, sha1: str, store: str = "My") -> Any:
        """The certificate, or None."""
        from cryptography import x509

        path = self.state / "store" / store / f"{sha1.upper()}.crt"
        return x509.load_der_x509_certificate(path.read_bytes()) if path.exists() else None

    def thumbprints(self, store: str = "My") -> list[str]:
        return sorted(path.stem for path in (self.state / "store" / store).glob("*.crt"))

    def add_certificate(self, der: bytes, container: str | None = None, store: str = "My") -> str:
        sha1 = hashlib.sha1(der).hexdigest().upper()  # noqa: S324
        path = self.state / "store" / store / f"{sha1}.crt"
        atomic(path, der)
        if container is not None:
            atomic(path.with_suffix(".json"), json.dumps({"container": container}).encode())
        return sha1

    def remove_certificate(self, sha1: str, key_too: bool = False) -> None:
        container = self.container(sha1)
        if key_too and container:
            self.remove_key(container)
        for suffix in (".crt", ".json"):
            (self.state / "store" / "My" / f"{sha1.upper()}{suffix}").unlink(missing_ok=True)

    def add_crl(self, der: bytes) -> None:
        """Into the store CA."""
        atomic(self.state / "store" / "CA" / f"{hashlib.sha1(der).hexdigest().upper()}.crl", der)  # noqa: S324

    def crl_issuers(self) -> list[Any]:
        """Whose CRLs lie in the store CA."""
        from cryptography import x509

        return [x509.load_der_x509_crl(path.read_bytes()).issuer for path in (self.state / "store" / "CA").glob("*.crl")]

    def container(self, sha1: str) -> str | None:
        """The key container that a certificate's property names, whether it is there or not."""
        path = self.state / "store" / "My" / f"{sha1.upper()}.json"
        return json.loads(path.read_text())["container"] if path.exists() else None

    def key_facts(self, container: str) -> dict[str, Any]:
        return json.loads((self.state / "keys" / f"{container}.json").read_text())

    def has_key(self, sha1: str) -> bool:
        container = self.container(sha1)
        return container is not None and (self.state / "keys" / f"{container}.pem").exists()

    def key(self, container: str) -> Any:
        from cryptography.hazmat.primitives import serialization

        path = self.state / "keys" / f"{container}.pem"
        if not path.exists():
            raise Failure(0x80090016)
        return serialization.load_pem_private_key(path.read_bytes(), None)

    def add_key(self, container: str, key: Any, provider: str, spec: int, exportable: bool) -> None:
        from cryptography.hazmat.primitives import serialization as s

        pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        atomic(self.state / "keys" / f"{container}.pem", pem)
        facts = {"provider": provider, "spec": spec, "exportable": exportable}
        atomic(self.state / "keys" / f"{container}.json", json.dumps(facts).encode())

    def remove_key(self, container: str) -> None:
        for suffix in (".pem", ".json"):
            (self.state / "keys" / f"{container}{suffix}").unlink(missing_ok=True)
