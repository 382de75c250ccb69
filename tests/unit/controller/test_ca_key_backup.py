# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_key_backup: what leaves the controller and the host and when, and what is believed of what comes back."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_reader import read
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_writer import iterations_for
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.authorities import generation, sealed
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa, openssl
from support.quick import FEW_ITERATIONS

PASSWORD, NEW_PASSWORD = "correct horse battery staple 1", "Tr0ub4dor and three more words"


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "keys"), "keys")
    return tmp_path / "keys"


class Host(FakeHost):
    """Keeps what it answered; handed_over: how many files each time."""

    def __init__(self, store: Path, name: str = "ca1", **options: Any) -> None:
        super().__init__(name, **options)
        self.store, self.answers = store, list[dict[str, Any]]()

    def back_up(self, ca: OpensslCa, *, check: bool = False, **options: Any) -> dict[str, Any]:
        self.sent.clear()
        self.answers.clear()
        return self.run(CaKeyBackup, {"config_file": str(ca.config_file), "stores": [str(self.store)], **options}, check=check)

    def _module(self, name: str, arguments: dict[str, Any], check: bool) -> dict[str, Any]:
        self.answers.append(super()._module(name, arguments, check))
        return self.answers[-1]

    @property
    def handed_over(self) -> list[int]:
        return [len(answer.get("files", [])) for answer in self.answers]

    @property
    def passwords(self) -> list[str | None]:
        return [document["one_time_password"] for _order, document, _check in self.sent]


def bundles(store: Path) -> list[Path]:
    return sorted(store.rglob("*.p12"))


def public_keys(bundle: Path, password: str = PASSWORD) -> int:
    return len(read(bundle.read_bytes(), password).private_keys)


def test_no_password_and_no_key_travels_where_nothing_is_due(ca: OpensslCa, store: Path) -> None:
    host = Host(store)
    predicted = host.back_up(ca, password=PASSWORD, check=True)
    assert predicted["changed"] and (host.passwords, host.handed_over) == ([None], [0])
    assert host.back_up(ca, password=PASSWORD)["changed"] and host.handed_over == [1]
    (first,) = host.passwords
    assert first and len(base64.urlsafe_b64decode(first + "=")) == 32
    for options in ({"password": PASSWORD}, {}, {"password": PASSWORD, "force": True, "check": True}):
        assert host.back_up(ca, **options)["changed"] is ("force" in options)
        assert host.handed_over == [0], options
        assert PASSWORD not in json.dumps(host.sent)
    ca.renew_in_place()
    assert host.back_up(ca, password=PASSWORD)["changed"] and host.handed_over == [1]
    assert PASSWORD not in json.dumps(host.sent) and host.passwords != [first]
    assert [public_keys(bundle) for bundle in bundles(store)] == [1, 2], "the lost key was carried over"


def test_what_travels_is_for_this_task_alone_and_what_is_stored_for_long(ca: OpensslCa, store: Path) -> None:
    host = Host(store)
    host.back_up(ca, password=PASSWORD)
    (document,) = (document for _order, document, _check in host.sent)
    travelled = read(base64.b64decode(host.answers[0]["files"][0]["content"]), document["one_time_password"])
    (stored,) = bundles(store)
    assert travelled.encryption.iterations == 2048
    encryption = read(stored.read_bytes(), PASSWORD).encryption
    assert encryption.iterations == iterations_for(1) == FEW_ITERATIONS > 2048 and not encryption.weak


def test_the_chain_and_every_key_of_the_host_are_stored(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    above = OpensslCa(tmp_path / "above", name="Above", algorithm="ed25519")
    ca.renew_keeping()
    assert Host(store).back_up(ca, password=PASSWORD, chain_file=str(above.certificate))["restorable"]
    (stored,) = bundles(store)
    contents = read(stored.read_bytes(), PASSWORD)
    assert (len(contents.private_keys), len(contents.certificates)) == (2, 3)


@pytest.mark.parametrize("password", ["short", "ä" * 20])
def test_a_password_that_nothing_is_stored_under_fetches_no_key(ca: OpensslCa, store: Path, password: str) -> None:
    host = Host(store)
    assert "not fit to protect a CA key" in host.back_up(ca, password=password)["msg"]
    assert (host.passwords, host.handed_over) == ([None], [0])


def test_a_moved_ca_with_nothing_due_hands_nothing_over(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    said = {"authority_id": Host(store).back_up(ca, password=PASSWORD)["authority"]["id"], "move": True}
    moved = OpensslCa(tmp_path / "moved", algorithm="ed25519")
    for name in ("cacert.pem", "private/cakey.pem"):
        shutil.copy(ca.directory / name, moved.directory / name)
    other = Host(store, "ca2")
    assert "not_at_home" in str(other.back_up(moved, password=PASSWORD)["reasons"]) and other.handed_over == [0]
    assert other.back_up(moved, password=PASSWORD, **said)["changed"] and other.handed_over == [0]
    assert other.back_up(moved, password=NEW_PASSWORD, previous_password=PASSWORD)["changed"]
    assert other.handed_over == [1] and public_keys(bundles(store)[-1], NEW_PASSWORD) == 1
    second = OpensslCa(tmp_path / "second", name="Second CA", algorithm="ed25519")
    assert Host(store).back_up(second, password=PASSWORD)["changed"], "a second authority on a host with one that is known"


def test_one_execution_finds_an_authority_by_key_or_place(ca: OpensslCa, store: Path, tmp_path: Path) -> None:
    host, second = Host(store), OpensslCa(tmp_path / "second", name="Second CA", algorithm="ed25519")
    for change in (lambda: None, ca.renew_in_place, lambda: ca.renew_in_place(new_key=False), ca.renew_keeping):
        change()
        assert host.back_up(ca, password=PASSWORD)["changed"] and host.orders() == ["export_keys"]
    assert host.back_up(second, password=PASSWORD)["changed"] and host.orders() == ["export_keys"]
    assert not host.back_up(second, password=PASSWORD)["changed"] and not host.back_up(ca, password=PASSWORD)["changed"]
    assert len([path for path in store.iterdir() if path.is_dir() and not path.name.startswith("by-")]) == 2


def test_a_renewal_whose_key_only_a_backup_has_is_covered_from_there(ca: OpensslCa, store: Path) -> None:
    host = Host(store)
    host.back_up(ca, password=PASSWORD)
    ca.renew_in_place(new_key=False)
    ca.private_key.unlink()
    done = host.back_up(ca, password=PASSWORD)
    assert done["changed"] and done["restorable"] and host.handed_over == [0]
    assert len(done["generations"]) == 2 and public_keys(bundles(store)[-1]) == 1


def test_a_key_that_is_nowhere_stops_the_backup_before_any_key_travels(ca: OpensslCa, store: Path) -> None:
    host = Host(store)
    host.back_up(ca, password=PASSWORD)
    old_key = ca.private_key.read_bytes()
    ca.renew_keeping()
    ca.private_key.unlink()
    for check in (True, False):
        refused = host.back_up(ca, password=PASSWORD, check=check)
        assert [reason["code"] for reason in refused["reasons"]] == ["key_missing"] and host.handed_over == [0]
    assert old_key == (ca.directory / "private" / "cakey.0.pem").read_bytes()


# --- what comes back -----------------------------------------------------------------------------------------------


def answering(host: Host, make: Any) -> None:
    """The host answers with what C(make) makes of the one-time password."""

    def forged(_order: str, answer: dict[str, Any]) -> dict[str, Any]:
        for file in answer["files"]:
            file["content"] = base64.b64encode(make(host.passwords[-1])).decode()
        return answer

    host.forge = forged


def by_openssl(ca: OpensslCa, *options: str) -> Any:
    def make(password: str) -> bytes:
        out = ca.directory / "made.p12"
        given = ("-inkey", ca.private_key, "-in", ca.certificate, "-out", out, "-passout", "stdin", *options)
        openssl("pkcs12", "-export", *given, passphrase=password)
        return out.read_bytes()

    return make


WEAKER = {
    "fewer iterations": (("-iter", "1024"), "fewer than 2048 iterations"),
    "other algorithms": (("-legacy",), "other algorithms"),
    "another cipher": (("-keypbe", "AES-128-CBC"), "other algorithms"),
    "certificates in the clear": (("-certpbe", "NONE"), "other algorithms"),
    "another MAC": (("-macalg", "sha512"), "other algorithms"),
    "no MAC": (("-nomac",), "other algorithms"),
    "in the clear": (("-keypbe", "NONE", "-certpbe", "NONE"), "without a password"),
}


@pytest.mark.parametrize("name", WEAKER)
def test_what_is_protected_less_than_asked_is_refused(ca: OpensslCa, store: Path, name: str) -> None:
    options, why = WEAKER[name]
    host = Host(store)
    answering(host, by_openssl(ca, *options))
    refused = host.back_up(ca, password=PASSWORD)
    assert refused["msg"].startswith("nothing was stored: the host ca1 handed its keys over less protected than it was asked to: it ")
    assert why in refused["msg"] and refused["msg"].endswith(".") and not bundles(store)


def test_a_file_that_opens_without_a_password_is_refused(ca: OpensslCa, store: Path) -> None:
    host = Host(store)
    answering(host, lambda _password: by_openssl(ca)(""))
    assert "it opens without a password" in host.back_up(ca, password=PASSWORD)["msg"] and not bundles(store)


def test_what_is_as_strong_as_asked_is_taken_whoever_wrote_it(ca: OpensslCa, store: Path) -> None:
    host = Host(store)
    answering(host, by_openssl(ca))
    assert host.back_up(ca, password=PASSWORD)["restorable"] and public_keys(bundles(store)[0]) == 1


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda password: b"nothing", "malformed"),
        (lambda password: sealed("a", password="another one-time password"), "password_wrong"),
        (lambda password: sealed("a", password=password), "key_missing"),
    ],
    ids=["garbage", "under another password", "another CA"],
)
def test_what_does_not_bring_the_keys_back_is_not_stored(ca: OpensslCa, store: Path, make: Any, code: str) -> None:
    host = Host(store)
    answering(host, make)
    refused = host.back_up(ca, password=PASSWORD)
    assert refused["failed"] and [reason["code"] for reason in refused["reasons"]] == [code] and not bundles(store)


# --- software that writes its files itself -------------------------------------------------------------------------


def windows(store: Path, file: bytes | None = None) -> Host:
    host = Host(store, windows=True)
    told = {
        "authority": {"backend": "adcs", "name": "Example Root CA", "sanitized_name": "Example Root CA", "directory": "C:\\CertLog"},
        "generations": [generation("a").as_json()],
        "abilities": {"keys_in_hand": False},
        "own": {"provider": "Microsoft Software Key Storage Provider", "provider_type": 0},
    }

    def answer(_order: str, document: dict[str, Any]) -> dict[str, Any]:
        name = {"name": "Example.p12", "content": base64.b64encode(file or sealed("a", password=PASSWORD)).decode()}
        return {**told, "files": [name] if document["password"] else []}

    host.answer = answer
    return host


def test_software_that_writes_its_files_gets_the_password_only_where_it_is_due(store: Path) -> None:
    host = windows(store)
    arguments = {"stores": [str(store)], "password": PASSWORD}
    assert host.run(CaKeyBackup, arguments, check=True)["changed"]
    assert PASSWORD not in json.dumps(host.sent) and host.orders() == ["export_keys"]
    host.sent.clear()
    assert host.run(CaKeyBackup, arguments)["changed"]
    assert [document["password"] for _order, document, _check in host.sent] == [None, PASSWORD]
    (stored,) = bundles(store)
    assert stored.read_bytes() == base64.b64decode(host.answers[-1]["files"][0]["content"]), "never repacked"
    host.sent.clear()
    assert not host.run(CaKeyBackup, arguments)["changed"] and not host.run(CaKeyBackup, {"stores": [str(store)]})["changed"]
    assert PASSWORD not in json.dumps(host.sent) and host.orders() == ["export_keys"] * 2


def test_own_facts_of_another_shape_are_passed_over(store: Path) -> None:
    host = windows(store)
    sound = host.answer
    assert sound
    host.answer = lambda order, document: {**sound(order, document), "own": {"provider": ["x"], "provider_type": "y"}}
    assert host.run(CaKeyBackup, {"stores": [str(store)], "password": PASSWORD})["changed"]


def test_keys_that_are_kept_elsewhere_now_are_backed_up_once_more(ca: OpensslCa, store: Path) -> None:
    """As software tells that keeps its keys itself: a restore brings them back where the backup says."""
    host, provider = Host(store), "A Provider"
    host.forge = lambda _order, answer: {**answer, "own": {"provider": provider}}
    assert host.back_up(ca, password=PASSWORD)["changed"] and not host.back_up(ca, password=PASSWORD)["due"]
    provider = "Another Provider"
    assert "keeps its keys in Another Provider, and kept them in A Provider" in host.back_up(ca)["msg"], "no password was given"
    moved = host.back_up(ca, password=PASSWORD)
    assert moved["due"] and [one["code"] for one in moved["advisories"]] == ["key_storage_changed"]
    assert not host.back_up(ca, password=PASSWORD)["due"]
