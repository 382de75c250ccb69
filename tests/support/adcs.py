# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated Windows hosts with AD CS for plays and tests; what is simulated: tests/adcs/README.md.

host = AdcsHost(tmp_path / "ca01", cache)
host.install_by_hand()                                    # a root CA of one generation, running
host.renew_by_hand(); host.renew_by_hand(reuse_key=True)  # generations 1 and 2
serial = host.issue("www.example.com"); host.revoke(serial, 1)
host.switch(language="de", not_exportable={0: 0x8009000B})
ansible = windows_ansible(tmp_path, collections)
ansible.play(tasks, hosts={"ca01": host.variables(), "ca1": ansible.local()})
acting("renewed by hand", "renew_by_hand()")              # a task that does that on the play's host
host.log                                                  # what ran, in order
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import datetime
import functools
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from adcs.machine import TESTS, atomic
from adcs.simulation import Host
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.ansible_run import Ansible, Playbook, Result
from support.plays import look, play
from support.pythons import ROOT, find, make_venv
from support.warm_playbook import WarmPlaybooks
from tools import require_tool

CACHE = ROOT / ".cache" / "adcs"


class WindowsAnsible(Ansible):
    """An Ansible that reaches simulated hosts; POSIX hosts may be in the same play (`local()`)."""

    def play(self, tasks_or_playbook: Playbook, *, timeout: float = 1200, **options: Any) -> Result:
        """Each task starts a PowerShell, which takes its time on a busy machine."""
        return super().play(tasks_or_playbook, timeout=timeout, **options)

    def _config(self, directory: Path, added: Mapping[str, Mapping[str, Any]]) -> str:
        return super()._config(directory, {**added, "defaults": {"module_utils": compiler(self.commands), **added.get("defaults", {})}})


@functools.cache
def compiler(commands: Path) -> Path:
    """A folder with the module util of that ansible-core that compiles C#. It keeps what it has compiled (tests/adcs/compiler.ps1)."""
    (core,) = commands.parent.glob("lib/python3*/site-packages/ansible/module_utils/powershell/Ansible.ModuleUtils.AddType.psm1")
    text, keeping = core.read_text(), (TESTS / "adcs" / "compiler.ps1").read_text()
    loads = "$compiled_assembly = [System.Runtime.Loader.AssemblyLoadContext]::Default.LoadFromStream($code_ms)"
    keeps = '[IO.File]::WriteAllBytes("$kept.$PID", $code_ms.ToArray()); [IO.File]::Move("$kept.$PID", $kept, $true)'
    for found, put in ((loads, f"{keeps}\n{loads}"), ("Export-ModuleMember", f"{keeping}\nExport-ModuleMember")):
        assert text.count(found) == 1, found
        text = text.replace(found, put)
    folder = CACHE / f"compiler-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    atomic(folder / core.name, text.encode())
    return folder


def windows_ansible(
    scratch: Path, collections: Path, modules: Path | None = None, playbooks: WarmPlaybooks | None = None
) -> WindowsAnsible:
    """On ansible-core 2.21, which runs PowerShell modules on POSIX hosts; skips (in CI fails) where pwsh or a Python for it is missing."""
    require_tool("pwsh")
    python = find("3.13") or find("3.12") or find("3.14")
    if python is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Python 3.12 or newer is installed, which ansible-core 2.21 needs")
    venv = make_venv("core-2.21", python, ["ansible-core == 2.21.*", "cryptography"])
    return WindowsAnsible(scratch / "ansible-windows", collections, venv / "bin", modules=modules, playbooks=playbooks)


@functools.cache
def warm() -> str:
    """The socket of this process's server (tests/adcs/server.py), which ends when this process does, however it ends."""
    place = Path(tempfile.mkdtemp(prefix="keyward-"))
    with (place / "log").open("wb") as log:
        command = [sys.executable, TESTS / "adcs" / "server.py", place]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    atexit.register(server.stdin.close)
    while not (place / "socket").exists():
        assert server.poll() is None, (place / "log").read_text()
        time.sleep(0.02)
    return str(place / "socket")


def powershell(host: AdcsHost, script: str) -> Any:
    """What a script puts out on a host, as JSON."""
    require_tool("pwsh")
    script = f"$ErrorActionPreference = 'Stop'; & {{ {script} }} | ConvertTo-Json -Depth 4 -Compress"
    environment = {**os.environ, **host.environment}
    if host.cold:
        command = ["pwsh", "-NoProfile", "-NonInteractive", "-Command", script]
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        code, stdout, stderr = done.returncode, done.stdout, done.stderr
    else:
        encoded = base64.b64encode(script.encode("utf-16-le")).decode()
        command = f"/bin/sh -c 'pwsh -NoProfile -NonInteractive -EncodedCommand {encoded}'"
        message = b"powershell\0" + json.dumps({"command": command, "input": "", "environment": environment}).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(warm())
            connection.sendall(len(message).to_bytes(4, "big") + message)
            answer = json.loads(b"".join(iter(lambda: connection.recv(1 << 20), b"")))
        code, stdout, stderr = answer["rc"], answer["stdout"], answer["stderr"]
    assert code == 0, stdout + stderr
    return json.loads(stdout or "null")


def run(host: AdcsHost, tmp_path: Path, module: str, script: str) -> Any:
    """What a script puts out, as JSON, that runs inside a module."""
    loaded = []
    for source in (ROOT / "plugins" / "module_utils").glob("*.psm1"):
        # Core's class for modules is not there.
        text = source.read_text().replace("[Ansible.Basic.AnsibleModule]::FromJson(", "(ConvertFrom-Json -AsHashtable ")
        path = tmp_path / source.name
        path.write_text(text)
        loaded.append(f"Import-Module '{path}' -DisableNameChecking")
    start = f"""
        $null = Get-Service -Name CertSvc -ErrorAction SilentlyContinue
        {"; ".join(loaded)}
        & (Get-Module {module}) {{ {script} }}"""
    found = powershell(host, start)
    return found if isinstance(found, list) else [found]


def _task(name: str, state: str, code: str) -> dict[str, Any]:
    encoded = base64.b64encode(code.encode()).decode()
    command = [f"KEYWARD_ADCS_SERVER={warm()}", sys.executable, "-IS", str(TESTS / "adcs" / "client.py"), "task", state, encoded]
    return {"name": name, "ansible.builtin.raw": shlex.join(command), "changed_when": False, "check_mode": False}


def acting(name: str, call: str) -> dict[str, Any]:
    """A task that calls a method of the simulated host between two steps of a play; `host` in the call is the host itself."""
    return _task(name, "", f"host.{call}")


def on(host: str, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Tasks for one host of a play."""
    return [{**task, "when": f"inventory_hostname == '{host}'"} for task in tasks]


def play_freely(ansible: Ansible, tasks: Sequence[dict[str, Any]], hosts: Mapping[str, Mapping[str, Any]]) -> Result:
    """`play`, in which no host waits for another: the time goes into starts of pwsh."""
    free = {"hosts": "all", "gather_facts": False, "strategy": "ansible.builtin.free", "tasks": list(tasks)}
    return play(ansible, [free], hosts=hosts, timeout=1200)


def gaze(name: str, host: AdcsHost, *paths: Path) -> dict[str, Any]:
    """A `look` at all of a host but its log, and at more paths."""
    argv = look(name, host.state, *paths)["ansible.builtin.command"]["argv"]
    command = shlex.join([*argv[:-2], "!", "-name", "log.jsonl", *argv[-2:]])
    return {"name": name, "ansible.builtin.raw": command, "changed_when": False, "check_mode": False}


class AdcsHost(Host):
    """A simulated host. state: its directory, made where it isn't there; cold: each module and each program of it has a process of its own,
    from its start to its end, as on Windows; else they run in processes that run already (warm)."""

    def __init__(self, state: Path, computer: str = "CA01", cold: bool = False) -> None:
        super().__init__(state)
        self.cold = cold
        if not state.exists():
            self.create(computer)
        self.computer: str = self.machine()["computer"]

    @property
    def environment(self) -> dict[str, str]:
        """What a process on the host finds in its environment."""
        return {
            "COMPUTERNAME": self.computer,
            "ProgramData": str(self.state / "ProgramData"),
            "SystemRoot": str(self.system_root),
            "PSModulePath": str(TESTS / "adcs" / "modules"),
            "KEYWARD_ADCS_STATE": str(self.state),
            "KEYWARD_ADCS_CACHE": str(CACHE),
            # .NET counts nothing to compile busy code once more and writes compiled code where it runs, and PowerShell reports nothing:
            # a fifth of its time.
            "DOTNET_TieredPGO": "0",
            "DOTNET_EnableWriteXorExecute": "0",
            "POWERSHELL_TELEMETRY_OPTOUT": "1",
            **({"KEYWARD_ADCS_PYTHON": sys.executable} if self.cold else {"KEYWARD_ADCS_SERVER": warm()}),
        }

    def variables(self, **more: Any) -> dict[str, Any]:
        """Those of a host in an inventory."""
        return {
            "ansible_connection": "keyward_windows",
            "ansible_remote_tmp": str(self.state / "remote_tmp"),
            "keyward_windows_environment": self.environment,
            **more,
        }

    def alone(self, *steps: dict[str, Any]) -> list[dict[str, Any]]:
        """Tasks whose modules are cold on a host that is warm."""
        return [{**each, "vars": {"keyward_windows_cold": True}} for each in steps]

    @property
    def log(self) -> list[dict[str, Any]]:
        """In order: every cmdlet ({"cmdlet", "parameters"}, secrets left out), every program ({"program", "arguments"}), every PKCS #12
        file that Windows wrote ({"bundle": its SHA-256}), every command that Ansible sent ({"command", "module": whether with one})."""
        path = self.state / "log.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def ran(self, name: str) -> list[dict[str, Any]]:
        """The calls of a cmdlet, or of a certutil verb."""
        return [line for line in self.log if line.get("cmdlet") == name or name in line.get("arguments", ())]

    @property
    def executions(self) -> int:
        """How many modules Ansible ran."""
        return sum(bool(line.get("module")) for line in self.log)

    def switch(self, **changes: Any) -> None:
        """Sets switches (README.md). Numbers of generations may be integers."""
        self.switches(**{name: {str(k): v for k, v in each.items()} if isinstance(each, dict) else each for name, each in changes.items()})

    def install_by_hand(self, common_name: str = "Example Root CA", ca_type: str = "StandaloneRootCA", **parameters: Any) -> dict[str, Any]:
        """Install-AdcsCertificationAuthority with these parameters; a P-256 key unless they say otherwise, which is quick."""
        given = {
            "CAType": ca_type,
            "CACommonName": common_name,
            "CADistinguishedNameSuffix": "O=Example,C=DE",
            "CryptoProviderName": "ECDSA_P256#Microsoft Software Key Storage Provider",
            "KeyLength": 256,
        }
        return self.install({**given, **parameters})

    def renew_by_hand(self, reuse_key: bool = False, parent: Parent | None = None) -> None:
        """Renews and restarts the service; a subordinate CA by a parent, or, without one, leaves the request pending."""
        self.renew(reuse_key)
        if parent is not None:
            self.certify(parent)
        if self.machine()["service"] == "Running":
            self.stop()
            self.start()
            self.publish_crls()

    def certify(self, parent: Parent, distribution_point: bool = False) -> None:
        """Lets a parent sign the pending request, installs what it signed and starts the service."""
        self.trust(parent.certificate)
        self.install_certificate(parent.sign(Path(self.value("RequestFileName")).read_bytes(), distribution_point))
        self.start()

    def trust(self, certificate: bytes) -> None:
        """Puts a root certificate (DER or PEM) into the Root store."""
        loaded = x509.load_pem_x509_certificate(certificate) if b"-----" in certificate else x509.load_der_x509_certificate(certificate)
        self.add_certificate(loaded.public_bytes(serialization.Encoding.DER), store="Root")

    def reboot(self) -> None:
        self.machine(restart_pending=False, service="Stopped")
        if self.active:
            self.start()

    def task(self, title: str, *statements: str) -> dict[str, Any]:
        """A task between two others that does something to the host: Python, in which `host` is this host."""
        return _task(title, str(self.state), "\n".join(statements))

    def kill(self) -> None:
        """Ends every process that runs on the host at once, as a power failure would."""
        wanted = f"KEYWARD_ADCS_STATE={self.state}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def lose(self) -> None:
        """Everything is gone but the switches and the log: a bare host of the same name, without the role."""
        for path in self.state.iterdir():
            if path.name not in ("switches.json", "log.jsonl"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.create(self.computer)
        self.switch(feature="absent", not_exportable={}, keys_fail={})


class Parent:
    """A root CA elsewhere, which signs requests of subordinate CAs."""

    def __init__(self, common_name: str = "Example Parent CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        builder = self._builder(self.name, self.key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
        self.certificate = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        start = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - datetime.timedelta(minutes=10)
        builder = x509.CertificateBuilder(self.name, subject, key, x509.random_serial_number())
        return builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=3650))

    def crl(self) -> bytes:
        """An empty one, PEM."""
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        builder = x509.CertificateRevocationListBuilder(self.name, now, now + datetime.timedelta(days=30))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(self, request: bytes, distribution_point: bool = False) -> bytes:
        """The certificate, PEM, with the extensions that the request asks for, and a CRL distribution point."""
        loaded = x509.load_pem_x509_csr(request)
        builder = self._builder(loaded.subject, loaded.public_key())
        for extension in loaded.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        if distribution_point:
            place = x509.DistributionPoint([x509.UniformResourceIdentifier("http://pki.example.com/parent.crl")], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([place]), False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
