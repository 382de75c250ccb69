# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_key_restore: which keys leave the controller, and what a host may ask for."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_reader import read
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.authorities import generation, sealed
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa
from support.plays import public_key, tree
from support.signers import rewrite

PASSWORD = "correct horse battery staple 1"


class Host(FakeHost):
    """The host of a CA of two generations, backed up; something may happen there before an order arrives."""

    def __init__(self, ca: OpensslCa, store: Path) -> None:
        super().__init__()
        self.ca, self.store = ca, store
        self.meanwhile: Callable[[str], None] = lambda order: None

    def back_up(self) -> None:
        assert self.run(CaKeyBackup, self.which)["changed"]

    @property
    def which(self) -> dict[str, Any]:
        return {"config_file": str(self.ca.config_file), "stores": [str(self.store)], "password": PASSWORD}

    def restore(self, *, check: bool = False, **options: Any) -> dict[str, Any]:
        self.sent.clear()
        given = {name: value for name, value in {**self.which, **options}.items() if value is not None}
        return self.run(CaKeyRestore, given, check=check)

    def _module(self, name: str, arguments: dict[str, Any], check: bool) -> dict[str, Any]:
        self.meanwhile(json.loads(base64.b64decode(arguments["controller"]))["order"])
        return super()._module(name, arguments, check)

    def travelled(self) -> list[list[int]]:
        """For each import: how many keys each of its files holds."""
        imports = [document for order, document, _check in self.sent if order == "import_keys"]
        assert PASSWORD not in json.dumps(self.sent)
        return [
            [len(read(base64.b64decode(file["content"]), file["password"]).private_keys) for file in document["files"]]
            for document in imports
        ]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    initialise(str(tmp_path / "keys"), "keys")
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    ca.renew_keeping()
    host = Host(ca, tmp_path / "keys")
    host.back_up()
    return host


def test_nothing_leaves_for_a_host_that_lacks_nothing(host: Host) -> None:
    for check in (True, False):
        assert not host.restore(check=check)["changed"]
        assert host.orders() == ["look", "import_keys"] and host.travelled() == [[]]


def test_only_the_missing_key_travels_and_under_a_password_of_its_own(host: Host) -> None:
    ca, passwords = host.ca, set()
    older = ca.directory / "private" / "cakey.0.pem"
    for path in (older, ca.private_key):
        content = path.read_bytes()
        path.unlink()
        predicted = host.restore(check=True)
        assert host.travelled() == [[]] and not path.exists()
        done = host.restore()
        assert host.orders() == ["look", "import_keys"] and host.travelled() == [[1]]
        assert predicted["restored"] == done["restored"] and [each["path"] for each in done["restored"]] == [str(path)]
        assert path.read_bytes() == content
        passwords |= {file["password"] for _order, document, _check in host.sent for file in document.get("files", [])}
    assert len(passwords) == 2


def test_a_host_that_can_tell_nothing_says_what_it_needs(host: Host) -> None:
    """The current certificate is gone: no look shows which keys are there, and one still is."""
    host.ca.certificate.unlink()
    host.ca.private_key.unlink()
    predicted = host.restore(check=True)
    assert host.travelled() == [[]]
    done = host.restore()
    assert host.orders() == ["look", "import_keys", "import_keys"] and host.travelled() == [[], [1]]
    assert predicted["restored"] == done["restored"] and len(done["restored"]) == 2
    assert public_key(host.ca.private_key) == public_key(host.ca.certificate)
    shutil.rmtree(host.ca.directory / "private")
    host.ca.certificate.unlink()
    assert host.restore()["changed"] and host.travelled() == [[], [2]]


def test_a_key_that_vanishes_after_the_look_is_asked_for_with_the_others(host: Host) -> None:
    older = host.ca.directory / "private" / "cakey.0.pem"
    host.ca.private_key.unlink()
    host.meanwhile = lambda order: older.unlink(missing_ok=True) if order == "import_keys" else None
    done = host.restore()
    assert host.travelled() == [[1], [2]] and len(done["restored"]) == 2 and older.exists()


def test_what_a_host_asks_for_without_end_or_of_others_is_refused(host: Host) -> None:
    for needs in (["0" * 64], [generation("a").public_key_sha256]):
        host.forge = lambda order, answer, needs=needs: {**answer, "needs": needs} if order == "import_keys" else answer
        refused = host.restore()
        assert "asks for keys that the backup does not have" in refused["msg"] and host.travelled() == [[], []]


def test_a_ca_that_was_renewed_after_the_look_is_left_alone(host: Host) -> None:
    (host.ca.directory / "private" / "cakey.0.pem").unlink()
    seen = []

    def renew(order: str) -> None:
        if order == "import_keys":
            host.ca.renew_in_place()
            seen.append(tree(host.ca.directory))

    host.meanwhile = renew
    refused = host.restore()
    assert refused["failed"] and "renewed meanwhile" in refused["msg"] and "Run the task again" in refused["msg"]
    assert tree(host.ca.directory) == seen[0]


def test_no_key_travels_for_another_authority(host: Host, tmp_path: Path) -> None:
    other = Host(OpensslCa(tmp_path / "other", name="Other CA", algorithm="ed25519"), host.store)
    other.name = "ca2"
    other.back_up()
    (theirs,) = (path for path in host.store.iterdir() if path.name.startswith("other-ca"))
    host.ca.private_key.unlink()
    refused = host.restore(stores=None, backup=str(theirs))
    assert "the backup is of another authority (CN=Other CA,O=Example)" in refused["msg"] and host.orders() == ["look"]


def test_the_manifest_says_which_ca_where_the_task_does_not(host: Host, home: Path) -> None:
    """Its options of a place, and nothing else that somebody wrote there."""
    (manifest,) = host.store.rglob("manifest.json")
    shape = json.loads(manifest.read_text())
    shape["authority"]["place"].update(controller="x", _ansible_tmpdir="/x", private_key_passphrase="x", chain_file="/x")
    rewrite(manifest, home, **shape)
    host.ca.private_key.unlink()
    seen: list[dict[str, Any]] = []
    module = host._module

    def noted(name: str, arguments: dict[str, Any], check: bool) -> Any:
        seen.append(arguments)
        return module(name, arguments, check)

    host._module = noted  # type: ignore[method-assign]
    assert host.restore(config_file=None)["changed"]
    assert set(seen.pop(0)) == {"controller"}, "the host is asked first whether it knows its CA"
    assert {frozenset(arguments) for arguments in seen} == {frozenset({"backend", "config_file", "directory", "name", "controller"})}
    other = host.run(CaKeyRestore, {"stores": [str(host.store)], "password": PASSWORD, "directory": "/elsewhere"})
    assert "no backup was found" in other["msg"] or "can't be found" in other["msg"]


def test_two_authorities_of_a_host_are_told_apart_by_their_place(host: Host, tmp_path: Path) -> None:
    second = Host(OpensslCa(tmp_path / "second", name="Second CA", algorithm="ed25519"), host.store)
    second.back_up()
    assert "it can't be told which authority of ca1 is meant" in host.restore(config_file=None)["msg"]
    assert host.orders() == ["look"], "no order but the question whether the host knows its CA"
    for each in (host, second):
        shutil.rmtree(each.ca.directory / "private")
        each.ca.certificate.unlink()
        assert each.restore()["changed"]
        assert public_key(each.ca.private_key) == public_key(each.ca.certificate)


# --- software that reads its files itself --------------------------------------------------------------------------


def test_software_that_reads_its_files_gets_them_only_where_something_is_missing(tmp_path: Path) -> None:
    initialise(str(tmp_path / "keys"), "keys")
    host, state = FakeHost(windows=True), {"private_key": "present"}
    file = sealed("a", password=PASSWORD)

    def answer(order: str, document: dict[str, Any]) -> dict[str, Any]:
        told = {
            "authority": {"backend": "adcs", "name": "Example Root CA", "sanitized_name": "Example Root CA", "directory": "C:\\CertLog"},
            "generations": [{**generation("a").as_json(), **state}],
            "abilities": {"keys_in_hand": False},
        }
        if order == "export_keys":
            return {**told, "files": [{"name": "x.p12", "content": base64.b64encode(file).decode()}] if document["password"] else []}
        return told if order == "look" else {"changed": state["private_key"] == "missing"}

    host.answer = answer
    arguments = {"stores": [str(tmp_path / "keys")], "password": PASSWORD}
    assert host.run(CaKeyBackup, arguments)["changed"]

    def sent(check: bool = False) -> list[Any]:
        host.sent.clear()
        assert host.run(CaKeyRestore, arguments, check=check)["restorable"]
        return [document["files"] for order, document, _check in host.sent if order == "import_keys"]

    assert sent() == [[]]
    state["private_key"] = "missing"
    assert sent(check=True) == [[]]
    ((given,),) = sent()
    assert base64.b64decode(given["content"]) == file and given["password"] == PASSWORD and given["holds"] == [generation("a").sha256]


def test_another_key_in_the_place_stops_a_restore_that_merges_databases(host: Host) -> None:
    key = host.ca.private_key
    key.write_bytes(OpensslCa(host.store.parent / "other", algorithm="ed25519").private_key.read_bytes())
    before = key.read_bytes()
    for on_conflict in ("fail", "merge"):
        result = host.restore(on_conflict=on_conflict)
        assert result.get("failed") and key.read_bytes() == before
