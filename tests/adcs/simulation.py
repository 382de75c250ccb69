# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Windows host with AD CS, as far as the collection sees one. All its state lies in one directory; see README.md."""

from __future__ import annotations

import base64
import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
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
    "renew_hangs_after_work": False,
    "install_finds": "all",
    "ca_cert_hash": "spaced",
    "view_numbers": "quoted",
    "view_trailer": False,
    "pings_until_ready": 0,
    "cluster": False,
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
    0x80090003: ("NTE_BAD_KEY", "Bad Key.", "Ungültiger Schlüssel."),
    0x8009000B: ("NTE_BAD_KEY_STATE", "Key not valid for use in specified state.", "Schlüssel ist im angegebenen Status nicht gültig."),
    0x8009000D: ("NTE_NO_KEY", "Key does not exist.", "Schlüssel nicht vorhanden."),
    0x8009000F: ("NTE_EXISTS", "Object already exists.", "Das Objekt ist bereits vorhanden."),
    0x80090010: ("NTE_PERM", "Access denied.", "Zugriff verweigert."),
    0x80090016: ("NTE_BAD_KEYSET", "Keyset does not exist", "Der Schlüsselsatz ist nicht vorhanden."),
    0x80090029: ("NTE_NOT_SUPPORTED", "The requested operation is not supported.", "Der angeforderte Vorgang wird nicht unterstützt."),
    0x80092004: ("CRYPT_E_NOT_FOUND", "Cannot find object or property.", "Das Objekt oder die Eigenschaft wurde nicht gefunden."),
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


class Host:
    """One simulated Windows host; every method leaves the state directory as the next process needs it."""

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
        self.machine(computer=computer, service="Stopped", restart_pending=False, pings=0)

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

    # --- the CA's configuration ------------------------------------------------------------------------------------

    @property
    def active(self) -> str | None:
        """The sanitized name of the CA."""
        return self.registry.get(CONFIGURATION, "Active")

    def value(self, name: str, below: str = "", default: Any = None) -> Any:
        return self.registry.get(f"{CONFIGURATION}\\{self.active}{below}", name, default)

    def configure(self, below: str = "", **values: Any) -> None:
        self.registry.set(f"{CONFIGURATION}\\{self.active}{below}", **values)

    @property
    def generations(self) -> list[str]:
        return [re.sub("[^0-9A-F]", "", text.upper()) for text in self.value("CACertHash", default=[])]

    def set_generations(self, sha1s: Sequence[str]) -> None:
        spaced = self.switches()["ca_cert_hash"] == "spaced"
        self.configure(CACertHash=[re.sub("(..)(?=.)", r"\1 ", sha1.lower()) if spaced else sha1.upper() for sha1 in sha1s])

    @property
    def common_name(self) -> str:
        name: str = self.value("CommonName")
        return name

    @property
    def database_directory(self) -> Path:
        return Path(self.registry.get(CONFIGURATION, "DBDirectory"))

    @property
    def log_directory(self) -> Path:
        return Path(self.registry.get(CONFIGURATION, "DBLogDirectory"))

    # --- the service -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.switches()["feature"] != "present":
            raise Failure(0x80070424)
        if self.machine()["restart_pending"]:
            raise Failure(0x80070422)
        if self.machine()["service"] == "Running":
            return
        renewed = self.state / "renewed.json"
        if renewed.exists():
            self.set_generations([*self.generations, json.loads(renewed.read_text())])
            renewed.unlink()
        if not self.active or not self.generations:
            raise Failure(0x80070002)
        if not all(self.certificate(sha1) and self.has_key(sha1) for sha1 in self.generations):
            raise Failure(0x80090016)
        if self.registry.key(CONFIGURATION + r"\RestoreInProgress"):
            self.registry.delete(CONFIGURATION + r"\RestoreInProgress")
            self.registry.set(CONFIGURATION, DBLastRecovery=_filetime())
        self.machine(service="Running", pings=self.switches()["pings_until_ready"])

    def stop(self) -> None:
        if self.switches()["feature"] != "present":
            raise Failure(0x80070424)
        self.machine(service="Stopped")

    def ping(self) -> None:
        """Fails unless the service answers: it runs, its database is there, and it has had its time."""
        machine = self.machine()
        if machine["service"] != "Running" or not self.database_file.exists():
            raise Failure(0x800706BA)
        if machine["pings"]:
            self.machine(pings=machine["pings"] - 1)
            raise Failure(0x800706BA)

    # --- the database ----------------------------------------------------------------------------------------------

    @property
    def database_file(self) -> Path:
        return self.database_directory / f"{self.active}.edb"

    def database(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.database_file.read_bytes())
        return content

    def save_database(self, content: dict[str, Any]) -> None:
        atomic(self.database_file, json.dumps(content, indent=1).encode())
        logs = sorted(self.log_directory.glob("edb?????.log"))
        number = int(logs[-1].stem[3:], 16) + 1 if logs else 1
        atomic(self.log_directory / f"edb{number:05x}.log", f"log {number}\n".encode() * 64)
        atomic(self.log_directory / "edb.chk", b"checkpoint\n" * 16)

    def create_database(self) -> None:
        for directory in (self.database_directory, self.log_directory, self.cert_enroll):
            directory.mkdir(parents=True, exist_ok=True)
        self.save_database({"requests": [], "crls": []})

    def backup_database(self, path: Path, force: bool, incremental: bool, keep_log: bool) -> None:
        self.ping()
        target = path / "DataBase"
        if target.exists() and any(target.iterdir()):
            if not force:
                raise Failure(0x80070091)
            shutil.rmtree(target)
        if incremental and not self.registry.get(CONFIGURATION, "DBLastFullBackup"):
            raise Failure(0xC8000230)
        target.mkdir(parents=True, exist_ok=True)
        logs = sorted(self.log_directory.glob("edb?????.log"))
        for source in [*logs, *([] if incremental else [self.database_file])]:
            shutil.copyfile(source, target / source.name)
        (target / "certbkxp.dat").write_bytes(f"{self.database_directory}\0{self.log_directory}\0".encode("utf-16-le"))
        if not keep_log and not incremental:
            for log in logs[:-1]:
                log.unlink()
        self.registry.set(CONFIGURATION, **{"DBLastIncrementalBackup" if incremental else "DBLastFullBackup": _filetime()})

    def restore_database(self, path: Path, force: bool) -> None:
        if self.machine()["service"] == "Running":
            raise Failure(0x80070020)
        sources = [each for each in path.glob("*") if each.name.casefold() == "database" and each.is_dir()]
        if not sources:
            raise Failure(0x8007010B if (path / "certbkxp.dat").exists() else 0x80070002)
        files = list(sources[0].iterdir())
        if not (sources[0] / "certbkxp.dat").exists():
            raise Failure(0x80070002)
        if {".edb", ".log"} - {each.suffix for each in files}:
            raise Failure(0x8007010B)
        if not force and any(self.database_directory.iterdir()):
            raise Failure(0x80070091)
        for directory in (self.database_directory, self.log_directory):
            directory.mkdir(parents=True, exist_ok=True)
            for each in directory.glob("*"):
                if each.suffix in (".edb", ".log", ".chk"):
                    each.unlink()
        for each in files:
            if each.suffix in (".edb", ".log"):
                shutil.copyfile(each, (self.database_directory if each.suffix == ".edb" else self.log_directory) / each.name)
        self.registry.set(CONFIGURATION + r"\RestoreInProgress", DatabaseRestored=1)

    # --- the keys' way out and in ----------------------------------------------------------------------------------

    def _refuse_export(self, sha1: str) -> None:
        switch = self.switches()["not_exportable"]
        if sha1 in self.generations and str(self.generations.index(sha1)) in switch:
            raise Failure(int(str(switch[str(self.generations.index(sha1))]), 0) & 0xFFFFFFFF)
        container = self.container(sha1)
        if container is None or not self.has_key(sha1):
            raise Failure(0x80090016)
        if not self.key_facts(container)["exportable"]:
            raise Failure(0x8009000B)

    def bundle(self, sha1s: Sequence[str], password: str, chain: bool, algorithm: str | None = None) -> bytes:
        """The PKCS #12 file of these certificates with their keys, in the order given."""
        from adcs import windows_pfx

        entries, others = [], []
        for sha1 in sha1s:
            self._refuse_export(sha1)
            container = self.container(sha1)
            assert container
            facts = self.key_facts(container)
            certificate = self.certificate(sha1)
            entries.append(windows_pfx.Entry(_der(certificate), self.key(container), container, facts["provider"], facts["spec"]))
            if chain:
                others += [der for der in self._issuers(certificate) if der not in others]
        switches = self.switches()
        data = windows_pfx.write(entries, others, password, algorithm or switches["pfx_algorithm"], switches["shared_key_bags"] == "each")
        self.record(bundle=hashlib.sha256(data).hexdigest())
        return data

    def _issuers(self, certificate: Any) -> list[bytes]:
        found: list[bytes] = []
        while certificate.issuer != certificate.subject:
            for store in ("Root", "CA"):
                issuers = [self.certificate(sha1, store) for sha1 in self.thumbprints(store)]
                certificate_of = next((each for each in issuers if each.subject == certificate.issuer), None)
                if certificate_of:
                    break
            else:
                break
            certificate = certificate_of
            found.append(_der(certificate))
        return found

    def backup_key(self, path: Path, password: str, force: bool) -> None:
        switches = self.switches()
        if switches["key_backup_with_service_stopped"] == "fails" and self.machine()["service"] != "Running":
            raise Failure(0x800706BA)
        if not self.active:
            raise Failure(0x80070002)
        target = path / f"{self.active}.p12"
        if target.exists() and not force and switches["existing_backup_file"] == "refuses":
            raise Failure(0x80070050)
        wanted = self.generations if switches["bundle_holds"] == "all" else self.generations[-1:]
        data = self.bundle(wanted, "" if switches["unprotected_backup"] else password, chain=True)
        path.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def import_bundle(self, data: bytes, password: str, exportable: bool) -> list[str]:
        from adcs import windows_pfx

        switches = self.switches()
        contents = windows_pfx.read(data, password)
        if contents is None or (contents.aes and not switches["imports_aes"]):
            raise Failure(0x80070056)
        exportable = exportable and switches["import_makes_exportable"]
        containers: dict[bytes, str] = {}
        for key in contents.keys:
            public = windows_pfx.public(key.key)
            container = key.container
            taken = container is not None and (self.state / "keys" / f"{container}.pem").exists()
            if container is None or (taken and windows_pfx.public(self.key(container)) != public):
                container = f"{{{uuid.uuid4()}}}".upper()
            self.add_key(container, key.key, key.provider or SOFTWARE_KSP, key.spec, exportable)
            containers[public] = container
        return [self.add_certificate(der, containers.get(windows_pfx.public_of(der))) for der in contents.certificates]

    # --- the CA's life ---------------------------------------------------------------------------------------------

    def install(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Install-AdcsCertificationAuthority: its parameters by name; what it returns."""
        from adcs import authority

        if self.switches()["feature"] != "present":
            raise Failure(0x80070424)
        if self.machine()["restart_pending"]:
            raise Failure(0x80070422)
        if self.active:
            raise Failure(0, INSTALLED_ALREADY)
        return authority.install(self, parameters)

    def renew(self, reuse_key: bool, ignore_outstanding: bool = False) -> None:
        from adcs import authority

        authority.renew(self, reuse_key, ignore_outstanding)

    def install_certificate(self, data: bytes, force: bool = False) -> None:
        from adcs import authority

        authority.install_certificate(self, data, force)

    def issue(self, common_name: str) -> str:
        from adcs import authority

        return authority.issue(self, common_name)

    def revoke(self, serial: str, reason: int = 0) -> None:
        self.ping()
        content = self.database()
        rows = [row for row in content["requests"] if row["SerialNumber"].lstrip("0") == serial.lower().replace(" ", "").lstrip("0")]
        if not rows:
            raise Failure(0x80094004)
        rows[0].update(Disposition=21 if reason != -1 else 20, RevokedWhen=_now() if reason != -1 else None, RevokedReason=reason)
        self.save_database(content)

    def publish_crls(self) -> None:
        from adcs import authority

        authority.publish_crls(self)

    # --- cmdlets, as the PowerShell modules ask for them -----------------------------------------------------------

    def call(self, command: str, given: dict[str, Any]) -> Any:
        path = Path(given.get("Path") or "/")
        password, force = given.get("Password") or "", bool(given.get("Force"))
        if command == "Backup-CARoleService":
            if not given.get("DatabaseOnly"):
                self.backup_key(path, password, force)
            if not given.get("KeyOnly"):
                self.backup_database(path, force, bool(given.get("Incremental")), bool(given.get("KeepLog")))
        elif command == "Restore-CARoleService":
            if not given.get("DatabaseOnly"):
                self._restore_key(path, password, force)
            if not given.get("KeyOnly"):
                self.restore_database(path, force)
        elif command == "Export-PfxCertificate":
            chain = given.get("ChainOption") != "EndEntityCertOnly"
            algorithm = {"AES256_SHA256": "aes", "TripleDES_SHA1": "3des"}.get(given.get("CryptoAlgorithmOption") or "")
            return base64.b64encode(self.bundle(given["Thumbprints"], password, chain, algorithm)).decode()
        elif command == "Import-PfxCertificate":
            return self.import_bundle(base64.b64decode(given["Content"]), password, bool(given.get("Exportable")))
        elif command == "Install-AdcsCertificationAuthority":
            return self.install(given)
        elif command == "Install-WindowsFeature":
            restart = self.switches()["feature_restart_needed"] and self.switches()["feature"] != "present"
            self.machine(restart_pending=self.machine()["restart_pending"] or restart)
            self.switches(feature="present")
            return {"RestartNeeded": restart}
        elif command == "Start-Service":
            self.start()
        elif command == "Stop-Service":
            self.stop()
        else:
            raise AssertionError(command)
        return None

    def _restore_key(self, path: Path, password: str, force: bool) -> None:
        files = [path] if path.is_file() else sorted(path.glob("*.p12"))
        if not files:
            raise Failure(0x80070002)
        if not force and any(self.has_key(sha1) for sha1 in self.generations):
            raise Failure(0x80070091)
        self.import_bundle(files[0].read_bytes(), password, True)


def _der(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    der: bytes = certificate.public_bytes(Encoding.DER)
    return der


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _filetime() -> bytes:
    return int((time.time() + 11644473600) * 10_000_000).to_bytes(8, "little")
