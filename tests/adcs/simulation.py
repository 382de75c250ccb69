# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Windows host with AD CS, as far as the collection sees one. All its state lies in one directory; see README.md."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adcs.machine import (
    CONFIGURATION,
    INSTALLED_ALREADY,
    SOFTWARE_KSP,
    Failure,
    Machine,
    atomic,
)


class Host(Machine):
    """One with AD CS."""

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

    def policy(self) -> dict[str, str]:
        """What CAPolicy.inf says, whatever the section."""
        path = self.system_root / "CAPolicy.inf"
        text = path.read_text(encoding="ascii") if path.exists() else ""
        return dict(re.findall(r"^(\w+) *= *(\w+)", text, re.MULTILINE))

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
        try:
            self._start()
        except Failure as failure:
            self.machine(exit_code=failure.code)
            raise
        self.machine(exit_code=0)

    def chain_status(self) -> int:
        """What the CA finds when it verifies its newest certificate; 0: nothing wrong."""
        from adcs.authority import distribution_points

        newest, switches = self.certificate(self.generations[-1]), self.switches()
        if newest.issuer == newest.subject:
            return 0
        if not distribution_points(newest):
            return 0x80092012 if switches["without_distribution_point"] == "denied" else 0
        return 0x80092013 if switches["parent_crl"] == "offline" and newest.issuer not in self.crl_issuers() else 0

    def _start(self) -> None:
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
        if self.switches()["untrusted_root"] == "refused" and self._untrusted():
            raise Failure(0x800B0109)
        # CRLF_REVCHECK_IGNORE_OFFLINE
        if self.chain_status() == 0x80092013 and not self.value("CRLFlags", default=0) & 8:
            raise Failure(0x80092013)
        if self.registry.key(CONFIGURATION + r"\RestoreInProgress"):
            self.registry.delete(CONFIGURATION + r"\RestoreInProgress")
            self.registry.set(CONFIGURATION, DBLastRecovery=_filetime())
        self.machine(service="Running", pings=self.switches()["pings_until_ready"])

    def _untrusted(self) -> bool:
        own = {sha1: self.certificate(sha1) for sha1 in self.generations}
        return any(each.issuer == each.subject and self.certificate(sha1, "Root") is None for sha1, each in own.items())

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
        places = f"{self.database_directory}\0{self.log_directory}\0".encode("utf-16-le")
        if (sources[0] / "certbkxp.dat").read_bytes() != places:
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
        if self.switches()["directory"] == "denied" and "Enterprise" in parameters.get("CAType", "") and not parameters.get("Credential"):
            raise Failure(0x80072098)
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

    def import_certificate(self, der: bytes) -> None:
        from adcs import authority

        authority.import_certificate(self, der)

    def submit(self, common_name: str, disposition: int = 9) -> int:
        """A request that waits for an officer (9), was denied (31) or failed (30); its number."""
        content = self.database()
        row = {"RequestId": len(content["requests"]) + 1, "Disposition": disposition, "CommonName": common_name, "SubmittedWhen": _now()}
        empty = ("SerialNumber", "NotAfter", "RevokedWhen", "RevokedEffectiveWhen", "RevokedReason", "KeyRecoveryHashes")
        content["requests"].append({**dict.fromkeys(empty), **row})
        self.save_database(content)
        return len(content["requests"])

    def resubmit(self, request_id: int) -> str:
        """What certutil -resubmit does: the certificate is issued under the same number."""
        from adcs import authority

        content = self.database()
        row = content["requests"].pop(request_id - 1)
        self.save_database(content)
        serial = authority.issue(self, row["CommonName"])
        content = self.database()
        content["requests"].insert(request_id - 1, {**content["requests"].pop(), "RequestId": request_id})
        self.save_database(content)
        return serial

    def revoke(self, serial: str, reason: int = 0, at: str | None = None) -> None:
        self.ping()
        content = self.database()
        rows = [
            row for row in content["requests"] if (row["SerialNumber"] or "").lstrip("0") == serial.lower().replace(" ", "").lstrip("0")
        ]
        if not rows:
            raise Failure(0x80094004)
        when = (at or _now()) if reason != -1 else None
        rows[0].update(Disposition=21 if when else 20, RevokedWhen=when, RevokedEffectiveWhen=when, RevokedReason=reason if when else None)
        self.save_database(content)

    def publish_crls(self, days: int | None = None) -> None:
        from adcs import authority

        authority.publish_crls(self, days)

    # --- cmdlets, as the PowerShell modules ask for them -----------------------------------------------------------

    def call(self, command: str, given: dict[str, Any]) -> Any:
        path = Path(given.get("Path") or "/")
        password, force = given.get("Password") or "", bool(given.get("Force"))
        if command == "Backup-CARoleService":
            if self.switches()["role_separation"]:
                raise Failure(0x80094008)
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
        elif command == "New-Object":
            self.revoke(given["Serial"], given["Reason"], given["At"])
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
