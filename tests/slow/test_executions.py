# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup costs its host one module execution and one connection."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible
from support.host_python import HostPython
from support.openssl_ca import OpensslCa
from support.ssh_server import SshServer

PASSWORD = "correct horse battery staple 1"


@pytest.fixture
def store(ansible: Ansible, tmp_path: Path) -> Path:
    ansible.play([{"keyward.pki.ca_store": {"path": str(tmp_path / "keys"), "kind": "keys"}}]).ok()
    return tmp_path / "keys"


def backup(ca: OpensslCa, store: Path, **options: Any) -> dict[str, Any]:
    given = {"config_file": str(ca.config_file), "stores": [str(store)], "password": PASSWORD, **options}
    return {"name": f"back up {ca.name}", "keyward.pki.ca_key_backup": given}


def test_module_executions_of_a_host(ansible: Ansible, store: Path, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    python = HostPython(tmp_path / "host")
    elsewhere = HostPython(tmp_path / "elsewhere")

    def run(ca: OpensslCa, host: str = "ca", on: HostPython = python, **options: Any) -> tuple[int, bool]:
        before = len(on.starts)
        # What could bring more: files to transfer, a temporary directory, a check of the interpreter.
        result = ansible.play([backup(ca, store, **options)], hosts={host: ansible.local(on.program, ansible_pipelining=False)})
        return len(on.starts) - before, result.ok().last(host)["changed"]

    assert run(openssl_ca) == (1, True), "first"
    assert run(openssl_ca) == (1, False), "nothing due"
    assert run(openssl_ca, password=None) == (1, False), "nothing due, no password"
    openssl_ca.renew_keeping()
    assert run(openssl_ca) == (1, True), "renewed"
    openssl_ca.renew_in_place(new_key=False)
    assert run(openssl_ca) == (1, True), "renewed in place with the same key"
    for kept in openssl_ca.directory.rglob("*.0.pem"):
        kept.unlink()
    openssl_ca.renew_in_place()
    assert run(openssl_ca) == (1, True), "renewed in place with a new key, no older one is there"
    assert run(openssl_ca) == (1, False), "nothing due after that"

    second = OpensslCa(tmp_path / "second", name="Second CA")
    assert run(second) == (1, True), "a second authority on a host with one that is known"
    assert run(second) == (1, False), "nothing due for the second"
    assert run(openssl_ca) == (1, False), "nothing due for the first, beside the second"

    moved = OpensslCa(tmp_path / "moved", name="Example Root CA")
    for name in ("cacert.pem", "private/cakey.pem"):
        shutil.copy(openssl_ca.directory / name, moved.directory / name)
    named = {"authority_id": min(store.glob("example-root-ca-*")).name.rpartition("-")[2], "move": True}
    for host, on in (("ca", python), ("other", elsewhere)):
        assert run(moved, host, on, **named) == (1, True), "moved to another directory, and to another host"
        assert run(moved, host, on) == (1, False), "nothing due where it lives now"


def test_connections_over_ssh(ansible: Ansible, store: Path, openssl_ca: OpensslCa, sshd: SshServer, tmp_path: Path) -> None:
    python = HostPython(tmp_path / "host")
    # Nothing is kept between two commands, so that each command is a connection.
    host = sshd.host(python.program, ansible_ssh_args="-o ControlMaster=no -o ControlPath=none", ansible_pipelining=False)

    def run() -> tuple[int, int, bool]:
        executions, connections = len(python.starts), sshd.log.read_text().count("Accepted publickey")
        result = ansible.play([backup(openssl_ca, store)], hosts={"ca": host}).ok()
        return (
            len(python.starts) - executions,
            sshd.log.read_text().count("Accepted publickey") - connections,
            result.last()["changed"],
        )

    assert run() == (1, 1, True)
    assert run() == (1, 1, False)
    openssl_ca.renew_in_place()
    assert run() == (1, 1, True)
