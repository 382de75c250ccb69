# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the roles and playbooks share."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.ansible_run import Ansible, Result, TaskResult
from support.openssl_ca import openssl
from support.plays import PASSWORD, authorities, check, fingerprint, new_store, play, step


def now() -> str:
    """A time after that of every certificate made before (their times are whole seconds)."""
    time.sleep(1.01 - datetime.datetime.now().microsecond / 1e6)
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_stores(ansible: Ansible, directory: Path) -> dict[str, Any]:
    """Two stores below a directory, and the variables that name them."""
    keys, databases = directory / "keys", directory / "databases"
    play(ansible, [new_store(keys), step("ca_store", "databases", path=str(databases), kind="databases")])
    return {"keyward_key_stores": [str(keys)], "keyward_database_stores": [str(databases)], "keyward_password": PASSWORD}


def a_root(directory: Path, name: str = "Example Root CA", **variables: Any) -> dict[str, Any]:
    """The variables of a root CA with an Ed25519 key."""
    return {
        "keyward_config_file": str(directory / "openssl.cnf"),
        "keyward_kind": "root",
        "keyward_subject": {"organizationName": "Example", "commonName": name},
        "keyward_key_type": "Ed25519",
        "keyward_days": 3650,
        **variables,
    }


def entry(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The same as an entry of keyward_authorities."""
    return {name.removeprefix("keyward_"): value for name, value in variables.items()}


def playbook(ansible: Ansible, name: str, hosts: Mapping[str, Any], *, rc: int = 0, **options: Any) -> Result:
    """Runs keyward.pki.<name>, which must end with rc; every result is checked."""
    result = check(ansible.play(f"keyward.pki.{name}", hosts=hosts, **options))
    assert result.rc == rc, str(result)
    return result


def changed(result: Result, host: str | None = None) -> list[str]:
    """The names of the tasks that changed something, on all hosts or on one."""
    return [one.task for one in _on(result, host) if one.get("changed")]


def ran(result: Result, module: str, host: str | None = None) -> list[bool]:
    """Whether each task of a module changed something, in their order, on all hosts or on one."""
    of_module = [one for one in _on(result, host) if one.action == f"keyward.pki.{module}"]
    return [one["changed"] for one in of_module if one.status != "skipped"]


def _on(result: Result, host: str | None) -> list[TaskResult]:
    return [one for name, results in result.results.items() if host in (None, name) for one in results]


def issue(directory: Path, name: str) -> str:
    """openssl issues a certificate with what the CA's own configuration names; its serial number in hex."""
    key, request, certificate = (directory.parent / f"{directory.name}-{name}.{suffix}" for suffix in ("key", "csr", "pem"))
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("req", "-new", "-key", key, "-subj", f"/CN={name}.example.com", "-out", request)
    openssl("ca", "-config", directory / "openssl.cnf", "-batch", "-notext", "-in", request, "-out", certificate, cwd=directory)
    return openssl("x509", "-in", certificate, "-noout", "-serial").stdout.strip().partition("=")[2]


def issued(directory: Path) -> list[tuple[str, ...]]:
    """The rows of index.txt: state, revocation, serial, subject."""
    rows = [line.split("\t") for line in (directory / "index.txt").read_text().splitlines()]
    return [(row[0], row[2], row[3], row[5]) for row in rows]


def newest_manifest(store: Path, number: int = 0) -> dict[str, Any]:
    """The newest manifest of the n-th authority in a store."""
    newest = max((path.parent for path in authorities(store)[number].rglob("manifest.json")), key=lambda path: path.name)
    content: dict[str, Any] = json.loads((newest / "manifest.json").read_text())
    return content


def covered(store: Path, directory: Path) -> set[str]:
    """The certificates that the newest backup of the CA in a directory covers."""
    newest = [newest_manifest(store, number) for number in range(len(authorities(store)))]
    (of_it,) = [manifest for manifest in newest if manifest["authority"]["directory"] == str(directory)]
    return {generation["fingerprints"]["sha256"] for generation in of_it["generations"]}


def certificates(directory: Path) -> set[str]:
    """Those that a CA has, each in its file."""
    return {fingerprint(path) for path in directory.glob("cacert*.pem")}
