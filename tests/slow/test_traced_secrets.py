# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module, its successes and failures, traced: secrets stay out of output, logs, command lines, environments and files."""

from __future__ import annotations

import base64
import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible, Result
from support.canaries import PKCS1, Canaries
from support.host_python import HostPython
from support.leaks import INVITING_CFG, INVITING_ENV, canary, lose, show, task
from support.openssl_ca import OpensslCa
from support.ssh_server import SshServer
from support.traced import Call, calls, traced_commands, traced_process
from tools import require_tool


class Scene:
    """Two authorities of one host (with and without a passphrase), a store, and all that must stay secret."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "keys"
        self.host_store = directory / "host_keys"
        self.passphrase, self.password, self.next_password, self.wrong = canary(), canary(), canary(), canary()
        self.locked = OpensslCa(directory / "locked", name="Locked CA", passphrase=self.passphrase)
        self.plain = OpensslCa(directory / "plain", name="Plain CA", algorithm="rsa:2048")
        self.older = self.locked.renew_keeping()
        self.canaries = Canaries()
        for name in ("passphrase", "password", "next_password", "wrong"):
            self.canaries.add(name, getattr(self, name))
        for path in (self.locked.private_key, self.older[1]):
            self.canaries.add_private_key("a locked key", path, self.passphrase)
        self.canaries.add_private_key("the plain key", self.plain.private_key)

    def may_hold_secrets(self, path: str) -> bool:
        return path.startswith((f"{self.store}/", f"{self.locked.directory}/private/", f"{self.plain.directory}/private/"))

    @property
    def variables(self) -> dict[str, str]:
        return {
            "store": str(self.store),
            "host_store": str(self.host_store),
            "locked": str(self.locked.config_file),
            "plain": str(self.plain.config_file),
            "passphrase": self.passphrase,
            "password": self.password,
            "next_password": self.next_password,
            "wrong": self.wrong,
        }


LOCKED = {"config_file": "{{ locked }}", "private_key_passphrase": "{{ passphrase }}"}
STORES = {"stores": ["{{ store }}"]}
PASSWORD = {"password": "{{ password }}"}
NEXT = {"password": "{{ next_password }}"}
WRONG = {"password": "{{ wrong }}"}


def every_module(scene: Scene) -> list[dict[str, Any]]:
    older = [{"certificate_file": str(scene.older[0]), "private_key_file": str(scene.older[1])}]
    stated = [{**older[0], "private_key_passphrase": "{{ passphrase }}"}]
    return [
        task("init", "ca_store", {"path": "{{ store }}", "kind": "keys"}),
        task("init on the host", "ca_store", {"path": "{{ host_store }}", "kind": "keys", "host": True}),
        task("info, generations stated", "ca_info", LOCKED, {"older": stated}),
        task("info, wrong passphrase", "ca_info", LOCKED, {"private_key_passphrase": "{{ wrong }}"}),
        task("backup, check", "ca_key_backup", LOCKED, STORES, PASSWORD, check_mode=True),
        task("backup, weak password", "ca_key_backup", LOCKED, STORES, {"password": "{{ wrong[:19] }}"}, fails=True),
        task("backup, no passphrase", "ca_key_backup", {"config_file": "{{ locked }}"}, STORES, PASSWORD, fails=True),
        task("backup", "ca_key_backup", LOCKED, STORES, PASSWORD),
        show("answer", "hostvars[inventory_hostname].answer"),
        task("backup, nothing due", "ca_key_backup", LOCKED, STORES, PASSWORD),
        task("backup, wrong password", "ca_key_backup", LOCKED, STORES, WRONG, fails=True),
        show("answer"),
        task("backup, other password", "ca_key_backup", LOCKED, STORES, NEXT, {"previous_password": "{{ password }}"}),
        task("backup info", "ca_key_backup_info", LOCKED, STORES, NEXT),
        task("backup info, wrong password", "ca_key_backup_info", LOCKED, STORES, WRONG),
        show("answer"),
        task("verify", "ca_key_verify", LOCKED, STORES, NEXT),
        task("verify, wrong password", "ca_key_verify", LOCKED, STORES, WRONG, fails=True),
        lose(scene.locked.private_key, scene.older[1]),
        task("restore, wrong password", "ca_key_restore", LOCKED, STORES, WRONG, fails=True),
        task("restore, no passphrase", "ca_key_restore", {"config_file": "{{ locked }}"}, STORES, NEXT, fails=True),
        task("restore, check", "ca_key_restore", LOCKED, STORES, NEXT, check_mode=True),
        task("restore", "ca_key_restore", LOCKED, STORES, NEXT),
        show("answer"),
        # A loop over names: what Ansible prints as the item of a loop is not the collection's to mask.
        task(
            "backup in a loop",
            "ca_key_backup",
            {"config_file": "{{ item }}", "password": "{{ {plain: password}[item] }}"},
            STORES,
            loop=["{{ plain }}"],
            loop_control={"label": "{{ item | basename }}"},
        ),
        show("answer"),
        lose(scene.plain.private_key),
        task("restore a plain key", "ca_key_restore", {"config_file": "{{ plain }}"}, STORES, PASSWORD),
        show("answer"),
        task("misspelt", "ca_key_backup", LOCKED, STORES, {"pasword": "{{ password }}"}, fails=True),
        task("wrong type", "ca_key_backup", LOCKED, STORES, PASSWORD, {"older": "{{ wrong }}"}, fails=True),
        task("wrong type inside", "ca_info", LOCKED, {"older": [{"certificate_file": "x", "passphrase": "{{ wrong }}"}]}, fails=True),
    ]


FAILURES = {
    *("backup, weak password", "backup, no passphrase", "backup, wrong password", "verify, wrong password", "restore, wrong password"),
    *("restore, no passphrase", "misspelt", "wrong type", "wrong type inside"),
}


def as_expected(result: Result, scene: Scene) -> None:
    """The run did what it should: a run that did nothing leaks nothing."""
    (tasks,) = result.ok().results.values()
    assert {one.task for one in tasks if one.status == "failed"} == FAILURES
    assert scene.canaries.add_bundles(scene.store) == 3
    changes = ("backup", "backup, other password", "restore", "restore a plain key")
    assert all(one["changed"] for one in tasks if one.task in changes) and set(changes) <= {one.task for one in tasks}
    assert all(path.exists() for path in (scene.locked.private_key, scene.older[1], scene.plain.private_key))


def leaks_of_output(scene: Scene, result: Result, log: Path) -> list[str]:
    outputs = {"stdout": result.stdout, "stderr": result.stderr, "log": log.read_text(), "results": repr(result.results)}
    return [f"{secret} in {name}" for name, text in outputs.items() for secret in scene.canaries.find(text)]


def add_what_travelled(scene: Scene, traced: Sequence[Call]) -> int:
    """Adds the one-time passwords, and the files under them, as pipes carried them to modules and back; how many passwords."""
    pipes: dict[int, list[bytes]] = {}
    for call in traced:
        if not call.starts_a_program and not call.file:
            pipes.setdefault(call.process, []).extend(call.data)
    known = {scene.password, scene.next_password, scene.wrong}
    passwords, files = set[str](), set[str]()
    for carried in map(b"".join, pipes.values()):
        for order in re.findall(rb"controller[^A-Za-z0-9+/=]{1,12}([A-Za-z0-9+/=]{64,})", carried):
            document = base64.b64decode(order).decode()
            passwords |= {each for each in re.findall(r'"(?:one_time_password|password)": "([^"]+)"', document) if each not in known}
            files |= set(re.findall(r'"content": "([^"]+)"', document))
        files |= {each.decode() for each in re.findall(rb'"content": "([A-Za-z0-9+/=]{64,})"', carried)}
    scene.canaries.add("a one-time password", *passwords)
    scene.canaries.add("what travelled", *map(base64.b64decode, files))
    scene.canaries.allow(PKCS1)
    return len(passwords)


def seen_in_files(scene: Scene, traced: Sequence[Call]) -> set[tuple[str, str]]:
    """(secret, path): what was written where. Most of what is written is written often, such as the archive of a module."""
    found = functools.cache(scene.canaries.find)
    return {(secret, call.file) for call in traced if call.file for secret in found(b"".join(call.data))}


def leaks_of_processes(scene: Scene, traced: Sequence[Call], seen: set[tuple[str, str]]) -> list[str]:
    """Secrets on command lines, in environments, and in files other than the bundle and the authority's own key files."""
    own = {str(path) for path in (scene.locked.private_key, scene.older[1], scene.plain.private_key)}
    leaks = [f"{secret} in {path}" for secret, path in seen if not scene.may_hold_secrets(path)]
    for call in traced:
        if call.starts_a_program:
            found = scene.canaries.find(b"\n".join(call.data))
            leaks += [f"{secret} in the command line or environment of {call.data[0]!r}" for secret in found]
        elif call.copies and call.file and (own & set(call.files) or any(path.endswith(".p12") for path in call.files)):
            leaks += [f"a copy of {call.files}"]
    return leaks


@pytest.fixture(params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def observed_host(
    transport: str, python: HostPython, ansible: Ansible, request: pytest.FixtureRequest, traces: Path
) -> Iterator[dict[str, Any]]:
    """Variables of a host, all of whose processes are traced: here as children of ansible-playbook, over SSH as those of the server."""
    if transport == "local":
        yield ansible.local(python.program)
        return
    sshd: SshServer = request.getfixturevalue("sshd")
    assert sshd._process
    # One connection for each execution: the server's side of a kept one would go on after the trace.
    options = {"ansible_ssh_args": "-o ControlMaster=no -o ControlPath=none"}
    with traced_process(require_tool("strace"), sshd._process.pid, traces / "sshd"):
        yield sshd.host(python.program, **options)


def test_no_secret_leaves_its_place(
    transport: str, ansible: Ansible, collections: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    scene = Scene(tmp_path / "scene")
    python = HostPython(tmp_path / "host")
    traces = tmp_path / "traces"
    commands = traced_commands(require_tool("strace"), ansible.commands, traces)
    log = tmp_path / "ansible.log"
    with observed_host(transport, python, ansible, request, traces) as variables:
        traced_ansible = Ansible(tmp_path / "traced", collections, commands, modules=ansible.modules, playbooks=ansible.playbooks)
        result = traced_ansible.play(  # by an ansible-playbook of its own: it has an ansible.cfg of its own
            every_module(scene),
            hosts={"ca": variables},
            extra_vars=scene.variables,
            diff=True,
            verbosity=5,
            env={**INVITING_ENV, "ANSIBLE_LOG_PATH": str(log)},
            cfg=INVITING_CFG,
        )
    traced = [call for trace in traces.iterdir() if trace.is_file() for call in calls(trace)]
    one_time_passwords = add_what_travelled(scene, traced)
    as_expected(result, scene)
    assert one_time_passwords > 2, "each backup and each restore has its own"
    seen = seen_in_files(scene, traced)
    leaks = leaks_of_output(scene, result, log) + leaks_of_processes(scene, traced, seen)
    leaks += [f"{secret} in syslog" for line in python.syslog for secret in scene.canaries.find(line)]
    assert not leaks, "\n".join(sorted(set(leaks)))

    # The eyes were open: what must not be elsewhere was seen where it belongs.
    started = [call for call in traced if call.starts_a_program and call.data[0] == str(python.program).encode()]
    assert len(python.starts) == len(started) > 10
    assert any("bundle" in secret for secret, path in seen if path.startswith(f"{scene.store}/")), seen
    assert ("the plain key", True) in {(secret, path.startswith(f"{scene.plain.private_key.parent}/")) for secret, path in seen}, seen
    invocations = [line for line in python.syslog if "controller=" in line]
    assert len(invocations) > 10 and all("controller=NOT_LOGGING_PARAMETER" in line for line in invocations), python.syslog
