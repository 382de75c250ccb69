# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each module of POSIX hosts by itself: check mode touches nothing and tells what comes, which comes once.

pytest-ansible runs the modules, without a playbook and from the tree. Its end of life is announced: only this file and the injection
in tests/conftest.py need it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible import context
from ansible.plugins.loader import connection_loader
from ansible.utils.context_objects import CLIArgs
from support.ansible_run import SUPPORT, Ansible
from support.openssl_ca import OpensslCa, openssl
from support.plays import PASSWORD, tree
from support.returns import check_result
from support.roles import now
from support.signers import make_home

pytestmark = pytest.mark.filterwarnings(
    "ignore:Host management is deprecated:DeprecationWarning", "ignore:AnsibleCollectionFinder has already been configured:UserWarning"
)
MODULES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "plugins" / "modules").glob("ca_*.py"))
Options = dict[str, Any]


class Host:
    """A local host with a CA, and stores for it."""

    def __init__(self, ansible_adhoc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, directory: Path, variables: Options) -> None:
        self.ca = OpensslCa(directory / "ca")
        self.directory = directory
        self.config = {"config_file": str(self.ca.config_file)}
        self.keys = {"stores": [str(directory / "keys")], "password": PASSWORD}
        self.databases = {"stores": [str(directory / "databases")]}
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("HOME", str(make_home(directory.parent / "home")))
        inventory = directory.parent / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": {"host": variables}}}))
        self._hosts = ansible_adhoc(inventory=str(inventory), host_pattern="host")

    def run(self, module: str, *given: Options, check: bool = False, **options: Any) -> dict[str, Any]:
        """The module's result, which is as documented and no failure."""

        def remember(arguments: Any) -> None:  # pytest-ansible hands no check mode on, and core remembers the first arguments for good
            context.CLIARGS = CLIArgs({**vars(arguments), "check": check})

        self._monkeypatch.setattr(context, "_init_global_context", remember)
        merged = {name: value for some in (*given, options) for name, value in some.items()}
        result: dict[str, Any] = dict(getattr(self._hosts["host"], f"keyward.pki.{module}")(**merged).contacted["host"])
        assert not result.get("failed"), result
        check_result(module, result, False)
        return result

    def store(self, kind: str) -> None:
        self.run("ca_store", path=str(self.directory / kind), kind=kind)

    def backed_up(self) -> None:
        self.store("keys")
        self.run("ca_key_backup", self.config, self.keys)


@pytest.fixture
def host(ansible_adhoc: Callable[..., Any], ansible: Ansible, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    """Takes back what ansible-core does to this process: signal handlers, and standard streams that programs don't inherit."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    connection_loader.add_directory(str(SUPPORT / "connection_plugins"))
    yield Host(ansible_adhoc, monkeypatch, tmp_path / "host", ansible.local())
    for each, handler in handlers.items():
        signal.signal(each, handler)
    for stream in range(3):
        os.set_inheritable(stream, True)


# --- what each module is given, once the host was made ready for it ---


def ca_audit(host: Host) -> Options:
    host.backed_up()
    return {"key_stores": host.keys["stores"]}


def ca_crl(host: Host) -> Options:
    return host.config


def ca_database_backup(host: Host) -> Options:
    host.store("databases")
    return host.config | host.databases


def ca_database_restore(host: Host) -> Options:
    given = ca_database_backup(host)
    host.run("ca_database_backup", given)
    (host.ca.directory / "index.txt").unlink()
    return given


def ca_info(host: Host) -> Options:
    return host.config


def ca_install(host: Host) -> Options:
    subject = {"organizationName": "Example", "commonName": "New Root CA"}
    return {"config_file": str(host.directory / "new" / "openssl.cnf"), "subject": subject, "key_type": "Ed25519"}


def ca_key_backup(host: Host) -> Options:
    host.store("keys")
    return host.config | host.keys


def ca_key_backup_info(host: Host) -> Options:
    host.backed_up()
    return host.config | host.keys


def ca_key_restore(host: Host) -> Options:
    host.backed_up()
    host.ca.private_key.unlink()
    return host.config | host.keys


def ca_key_verify(host: Host) -> Options:
    host.backed_up()
    return host.config | host.keys


def ca_renew(host: Host) -> Options:
    return {**host.config, "reuse_key": False, "issued_before": now()}


def ca_sign(host: Host) -> Options:
    request = host.directory / "issuing.csr"
    openssl(*("req", "-new", "-newkey", "ed25519", "-noenc", "-keyout", request.with_suffix(".key"), "-out", request, "-subj", "/CN=Below"))
    return {**host.config, "request": request.read_text(), "extensions": "v3_ca"}


def ca_store(host: Host) -> Options:
    return {"path": str(host.directory / "keys"), "kind": "keys"}


NEVER_CHANGE = {"ca_audit", "ca_info", "ca_key_backup_info", "ca_key_verify"}


@pytest.mark.parametrize("module", MODULES)
def test_what_check_mode_tells_happens_once(host: Host, module: str) -> None:
    given = globals()[module](host)
    expected = [False, False] if module in NEVER_CHANGE else [True, True, False, False]
    seen = []
    for check in (True, False, True, False)[: len(expected)]:
        before = tree(host.directory)
        seen.append(host.run(module, given, check=check)["changed"])
        assert (tree(host.directory) != before) == (seen[-1] and not check), f"{module}, check mode: {check}"
    assert seen == expected
