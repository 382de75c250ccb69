# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever goes wrong at whatever step: what is stored is whole, no key is lost, and the next run ends well.

`make test` tries some steps of each task; `make campaign` all of them, with every error.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.action.ca_install import ActionModule as CaInstall
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.action.ca_store import ActionModule as CaStore
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS, SETS, read_stored
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from support.fake_host import FakeHost
from support.injured import KILL, at_once, injured
from support.openssl_ca import OpensslCa
from support.signers import make_home
from tools import require_tool

CAMPAIGN = bool(os.environ.get("KEYWARD_CAMPAIGN"))
ERRORS = [KILL, errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS] if CAMPAIGN else [KILL, errno.ENOSPC]
TRIED = 1 if CAMPAIGN else 7  # of so many steps one; every error another one
PASSWORD = "correct horse battery staple 1"


class Scene:
    """A CA of two generations, its stores, and the tasks of one night."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.ca = directory, OpensslCa(directory / "ca", algorithm="ed25519")
        self.keys, self.sets = directory / "keys", directory / "sets"
        self.more = directory / "more"
        make_home(directory / "home")
        initialise(str(self.keys), "keys")
        initialise(str(self.more), "keys")
        initialise(str(self.sets), "databases")
        self.ca.renew_keeping()
        self.ca.sign_crl()

    def _does(self, task: Any, **options: Any) -> dict[str, Any]:
        return FakeHost().run(task, {"config_file": str(self.ca.config_file), **options})

    def key_backup(self) -> dict[str, Any]:
        return self._does(CaKeyBackup, stores=[str(self.keys), str(self.more)], password=PASSWORD)

    def key_restore(self) -> dict[str, Any]:
        return self._does(CaKeyRestore, stores=[str(self.keys)], password=PASSWORD)

    def database_backup(self) -> dict[str, Any]:
        return self._does(CaDatabaseBackup, stores=[str(self.sets)])

    def database_restore(self) -> dict[str, Any]:
        return self._does(CaDatabaseRestore, stores=[str(self.sets)])

    def renew(self) -> dict[str, Any]:
        return self._does(CaRenew, reuse_key=False, remaining_days=9000, days=9500)

    def crl(self) -> dict[str, Any]:
        return self._does(CaCrl, remaining_days=20, days=30)

    def install(self) -> dict[str, Any]:
        terms = {"config_file": str(self.directory / "new" / "openssl.cnf"), "subject": {"commonName": "New CA"}, "key_type": "Ed25519"}
        return FakeHost().run(CaInstall, terms)

    def store(self) -> dict[str, Any]:
        """The first one: who signs is made with it."""
        return FakeHost().run(CaStore, {"path": str(self.directory / "first"), "kind": "keys", **self._signs})

    @property
    def _signs(self) -> dict[str, str]:
        return {name: str(self.directory / "signs" / name) for name in ("store_signing_key", "allowed_signers")}

    # --- what there must be before a task, so that it has something to do ---

    def ready_for(self, task: str) -> None:
        if task in ("key_restore", "database_restore"):
            assert not self.key_backup().get("failed") and not self.database_backup().get("failed")
        if task == "key_restore":
            shutil.rmtree(self.ca.private_key.parent)
        if task == "database_restore":
            for name in ("index.txt", "serial", "crlnumber", "newcerts"):
                path = self.ca.directory / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    # --- what always holds ---

    def pairs(self) -> set[str]:
        """The public keys of the certificates on the host whose private key is there, too."""
        public = {_digest(load_pem_private_key(path.read_bytes(), None).public_key()) for path in self.ca.directory.glob("private/*.pem")}
        certificates = [x509.load_pem_x509_certificate(path.read_bytes()) for path in self.ca.directory.glob("cacert*.pem")]
        return {_digest(certificate.public_key()) for certificate in certificates} & public

    def is_made(self, task: str) -> bool:
        """What a task makes, whole and once."""
        if task == "renew":
            return len(list(self.ca.directory.glob("cacert*.pem"))) == 3
        if task == "key_restore":
            return len(self.pairs()) == 2
        if task == "install":
            again = self.install()
            return not again["changed"] and [one["private_key"] for one in again["generations"]] == ["present"]
        if task == "store":
            return not self.store()["changed"] and len(Signers(self._signs).allowed) == 1 and bool(Signers(self._signs).key)
        return True

    def stored(self) -> set[str]:
        """Those in the backups; all that is visible in a store is whole."""
        found: set[str] = set()
        for store, kind in ((self.keys, BACKUPS), (self.more, BACKUPS), (self.sets, SETS)):
            for path in itertools.chain(store.glob("*/0*Z"), store.glob("*/*/0*Z")):
                one = read_stored(str(path), kind, None)
                assert one.damage is None and one.signature, path
                found |= one.manifest.public_keys if kind is BACKUPS else set()
        return found


def _digest(public_key: Any) -> str:
    import hashlib

    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "scene" / "home"))
    require_tool("openssl")
    monkeypatch.setattr(_pkcs12_writer, "iterations_for", lambda _keys: 2048)


@pytest.fixture
def scenes(tmp_path: Path) -> Iterator[Callable[[str], Scene]]:
    """As often as wanted the same beginning, at the same place."""
    made: dict[str, Scene] = {}

    def ready(task: str) -> Scene:
        place, kept = tmp_path / "scene", tmp_path / f"kept-{task}"
        shutil.rmtree(place, ignore_errors=True)
        if task not in made:
            place.mkdir()
            made[task] = Scene(place)
            made[task].ready_for(task)
            shutil.copytree(place, kept, symlinks=True)
        else:
            shutil.copytree(kept, place, symlinks=True)
        return made[task]

    yield ready


TASKS = ("key_backup", "key_restore", "database_backup", "database_restore", "renew", "crl", "install", "store")


@pytest.mark.parametrize("task", TASKS)
def test_every_step_of(task: str, scenes: Callable[[str], Scene]) -> None:
    scene = scenes(task)
    outcome, steps = injured(getattr(scene, task), 0, 0)
    assert outcome == "done" and steps > 3
    for shift, error in enumerate(ERRORS):
        for step in range(1 + shift % TRIED, steps + 1, TRIED):
            at = f"{task}, step {step} of {steps}, {'killed' if error == KILL else os.strerror(error)}"
            scene = scenes(task)
            known = scene.pairs() | scene.stored()
            outcome, _steps = injured(getattr(scene, task), step, error)
            assert not outcome.startswith("broke"), f"{at}: {outcome}"
            if outcome.startswith("said"):
                assert len(outcome.split(". ")) >= 2, f"{at}: an error has three parts: {outcome}"
            assert known <= scene.pairs() | scene.stored(), f"{at}: a key is lost"
            again = getattr(scene, task)()
            assert not again.get("failed"), f"{at}: the next run: {again['msg']}"
            assert known <= scene.pairs() | scene.stored(), f"{at}, after the next run: a key is lost"
            assert scene.is_made(task), f"{at}: made once, and no remains"


@pytest.mark.parametrize("task", TASKS)
def test_two_at_once_of(task: str, scenes: Callable[[str], Scene]) -> None:
    for _turn in range(10 if CAMPAIGN else 1):
        scene = scenes(task)
        known = scene.pairs() | scene.stored()
        outcomes = at_once(*[getattr(scene, task)] * 3)
        assert not [one for one in outcomes if one.startswith("broke")] and "done" in outcomes, outcomes
        assert known <= scene.pairs() | scene.stored()
        assert not getattr(scene, task)().get("failed")
        assert scene.is_made(task), "made once"


@pytest.mark.parametrize("task", TASKS)
def test_a_full_disk_in_the_middle_of(task: str, scenes: Callable[[str], Scene]) -> None:
    """Every file ends at so many bytes."""
    for most in (0, 1, 60, 500, 1500, 5000) if CAMPAIGN else (60, 1500):
        scene = scenes(task)
        known = scene.pairs() | scene.stored()

        def crowded(scene: Scene = scene, most: int = most) -> dict[str, Any]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
            result: dict[str, Any] = getattr(scene, task)()
            return result

        outcome, _steps = injured(crowded, 0, 0)
        assert not outcome.startswith("broke"), f"{task}, {most} bytes: {outcome}"
        assert known <= scene.pairs() | scene.stored(), f"{task}, {most} bytes: a key is lost"
        again = getattr(scene, task)()
        assert not again.get("failed"), f"{task}, {most} bytes, the next run: {again['msg']}"
