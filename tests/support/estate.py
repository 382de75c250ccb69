# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs, their stores and controllers, in this process.

Estate(path, monkeypatch)  # one CA and two stores of its keys; at(home): a controller
Fleet(path, with_keys)     # two CAs on two hosts, and the sets of their databases
showing(host, a, b)        # a host that shows these certificates as its own
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa

PASSWORD = "correct horse battery staple 1"


class Estate:
    """A CA, two stores, and a controller; C(home) says whose."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch, self.home = folder, monkeypatch, folder / "home"
        self.ca = OpensslCa(folder / "ca", algorithm="ed25519")
        self.stores = [folder / "one", folder / "two"]
        for store in self.stores:
            initialise(str(store), "keys")

    def at(self, home: Path) -> None:
        self.home = home
        self._monkeypatch.setenv("HOME", str(home))

    def run(self, task: type, ca: OpensslCa | None = None, **options: Any) -> dict[str, Any]:
        given = {"config_file": str((ca or self.ca).config_file), "stores": list(map(str, self.stores)), "password": PASSWORD, **options}
        return FakeHost().run(task, {name: value for name, value in given.items() if value is not None})

    def back_up(self, **options: Any) -> dict[str, Any]:
        return self.run(CaKeyBackup, **options)

    def renewed(self, **options: Any) -> dict[str, Any]:
        self.ca.renew_keeping()
        result = self.back_up(**options)
        assert result.get("changed") and result["due"], result
        return result

    def backups(self, store: Path) -> list[Path]:
        return sorted(store.glob("*/0*Z"))


class Fleet:
    """Two CAs with one certificate each that they issued, on ca1 and ca2; their stores. C(stored): whether these hold them already."""

    def __init__(self, directory: Path, with_keys: bool, stored: bool = True) -> None:
        self.directory, self.with_keys = directory, with_keys
        initialise(str(directory / "keys"), "keys")
        initialise(str(directory / "sets"), "databases")
        self.a = OpensslCa(directory / "a", name="Example A", algorithm="ed25519")
        self.b = OpensslCa(directory / "b", name="Example B", algorithm="ed25519")
        self.ids = {}
        for name, host, ca in (("a", "ca1", self.a), ("b", "ca2", self.b)):
            ca.issue("www")
            if with_keys and stored:
                self.keys(host, ca)
            if stored:
                self.ids[name] = self.back_up(host, ca)["authority"]["id"]

    def keys(self, host: str, ca: OpensslCa, **said: Any) -> dict[str, Any]:
        given = {"config_file": str(ca.config_file), "stores": [str(self.directory / "keys")], "password": PASSWORD}
        return FakeHost(host).run(CaKeyBackup, {**given, **said})

    def back_up(self, host: str | FakeHost, ca: OpensslCa, **said: Any) -> dict[str, Any]:
        return self._does(CaDatabaseBackup, host, ca, **said)

    def restore(self, host: str | FakeHost, ca: OpensslCa, **said: Any) -> dict[str, Any]:
        return self._does(CaDatabaseRestore, host, ca, **said)

    def _does(self, task: Any, host: str | FakeHost, ca: OpensslCa, **said: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"config_file": str(ca.config_file), "stores": [str(self.directory / "sets")]}
        if self.with_keys:
            given["key_stores"] = [str(self.directory / "keys")]
        given.update(said)
        one = FakeHost(host) if isinstance(host, str) else host
        return one.run(task, {name: value for name, value in given.items() if value is not None})

    def clone(self, ca: OpensslCa, name: str = "clone") -> OpensslCa:
        copy = OpensslCa(self.directory / name, name=ca.name, algorithm="ed25519")
        shutil.copytree(ca.directory, copy.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("openssl.cnf"))
        return copy

    @property
    def sets(self) -> list[str]:
        return sorted(str(path.relative_to(self.directory)) for path in (self.directory / "sets").rglob("manifest.json"))


def codes(result: dict[str, Any] | list[dict[str, Any]], kind: str = "reasons") -> list[str]:
    return [one["code"] for one in (result[kind] if isinstance(result, dict) else result)]


def said(result: dict[str, Any]) -> str:
    assert result["failed"], result
    return str(result["msg"])


def showing(host: str, *cas: OpensslCa, private_key: str = "present") -> FakeHost:
    """A host that shows these certificates as its own, and says that it has their keys."""
    fake = FakeHost(host)

    def forged(_order: str, answer: dict[str, Any]) -> dict[str, Any]:
        if not answer.get("generations"):
            return answer
        one = {**answer["generations"][0], "private_key": private_key}
        return {**answer, "generations": [{**one, "certificate": ca.certificate.read_text(), "index": n} for n, ca in enumerate(cas)]}

    fake.forge = forged
    return fake
