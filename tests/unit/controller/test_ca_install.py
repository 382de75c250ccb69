# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ca_install decides, on what a host tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_install import ActionModule as CaInstall
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.module_utils import _ca_certificate
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.meanwhile import Meanwhile
from support.signers import ALLOWED, MEMORY, make_home

ROOT = {"subject": {"commonName": "Example Root CA"}, "key_type": "Ed25519"}
SUB = {**ROOT, "kind": "subordinate", "subject": {"commonName": "Example Issuing CA"}}


@pytest.fixture
def host(tmp_path: Path) -> Meanwhile:
    return Meanwhile(tmp_path / "ca" / "openssl.cnf")


def test_of_two_installations_at_the_same_time_one_makes_the_ca(host: Meanwhile, tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    host.once(lambda: made.update(Meanwhile(tmp_path / "ca" / "openssl.cnf").does(CaInstall, **ROOT)))
    result = host.does(CaInstall, **ROOT)
    assert made["changed"] and not result["changed"] and result["generations"] == made["generations"]
    assert host.orders() == ["look", "install", "look"]


def test_of_two_requests_at_the_same_time_there_is_one(host: Meanwhile, tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    host.once(lambda: made.update(Meanwhile(tmp_path / "ca" / "openssl.cnf").does(CaInstall, **SUB)))
    result = host.does(CaInstall, **SUB)
    assert made["changed"] and not result["changed"] and result["pending"] and result["request"] == made["request"]


def test_a_ca_that_waits_is_looked_at_and_says_so(host: Meanwhile, tmp_path: Path) -> None:
    asked = host.does(CaInstall, **SUB)
    host.sent.clear()
    again = host.does(CaInstall, **SUB)
    assert host.orders() == ["look"] and again["authority"] == asked["authority"]
    assert {name: again[name] for name in ("changed", "pending", "request")} == {
        **dict.fromkeys(["pending"], True),
        "changed": False,
        "request": asked["request"],
    }
    info = host.does(CaInfo)
    assert info["failed"] and "CN=Example Issuing CA can't be read: it waits for its first certificate" in info["msg"]
    (tmp_path / "ca" / "private" / "cakey.pem").unlink()
    lost = host.does(CaInstall, **SUB)
    assert lost["failed"] and "its private key is not in" in lost["msg"] and not list((tmp_path / "ca" / "private").iterdir())


@pytest.mark.parametrize(("terms", "why"), [(ROOT, "it signs its own"), (SUB, "no request of a CA waits")])
def test_a_certificate_that_answers_nothing_makes_nothing(host: Meanwhile, tmp_path: Path, terms: dict[str, Any], why: str) -> None:
    result = host.does(CaInstall, **terms, certificate="-----BEGIN CERTIFICATE-----")
    assert result["failed"] and why in result["msg"] and not (tmp_path / "ca").exists()


def test_a_ca_whose_keys_are_in_a_store_is_brought_back_where_a_person_names_it(host: Meanwhile, tmp_path: Path) -> None:
    initialise(str(tmp_path / "keys"), "keys")
    password = "correct horse battery staple 1"
    kept = {"stores": [str(tmp_path / "keys")], "password": password}
    made = host.does(CaInstall, **ROOT)
    assert host.does(CaRenew, reuse_key=False, remaining_days=4000, days=5000)["renewed"] and host.does(CaKeyBackup, **kept)["changed"]
    lost = tmp_path / "lost"
    (tmp_path / "ca").rename(lost)
    host.sent.clear()
    refused = host.does(CaInstall, **ROOT, **kept)
    assert "nothing was installed" in refused["msg"] and "keyward.pki.restore" in refused["msg"] and host.orders() == ["look"]
    kept["authority_id"] = next(path.name for path in (tmp_path / "keys").iterdir() if path.name.startswith("example"))[-16:]
    assert kept["authority_id"] in refused["msg"]
    assert "Give its password" in host.does(CaInstall, **{**ROOT, **kept, "password": None})["msg"]
    assert host.does(CaInstall, check=True, **ROOT, **kept)["changed"] and not (tmp_path / "ca").exists()
    back = host.does(CaInstall, **ROOT, **kept)
    assert back["changed"] and [one["kind"] for one in back["restored"]].count("private_key") == 2
    assert back["authority"]["subject"] == made["authority"]["subject"] and password not in json.dumps(host.sent)
    for name in ("cacert.0.pem", "cacert.pem", "private/cakey.0.pem", "private/cakey.pem"):
        assert (tmp_path / "ca" / name).read_bytes() == (lost / name).read_bytes()
    again = host.does(CaInstall, **ROOT, **kept)
    assert not again["changed"] and again["restored"] == [] and again["generations"] == back["generations"]


def test_no_new_ca_takes_the_place_of_one_that_the_stores_hide(host: Meanwhile, tmp_path: Path) -> None:
    """They were emptied, replaced, or are signed by somebody who is unknown here."""
    keys = tmp_path / "keys"
    initialise(str(keys), "keys")
    kept = {"stores": [str(keys)], "password": "correct horse battery staple 1"}
    assert host.does(CaInstall, **ROOT)["changed"] and host.does(CaKeyBackup, **kept)["changed"]
    (tmp_path / "ca").rename(tmp_path / "lost")
    other = make_home(tmp_path / "other", "other")
    (authority,) = keys.glob("example-root*")
    for act, why in (
        (lambda: None, "for which nobody known vouches"),
        (lambda: authority.rename(tmp_path / "away"), "they hold less than before"),
        (lambda: (shutil.rmtree(keys), initialise(str(keys), "keys")), "it is another one than before"),
    ):
        act()
        strange = {"allowed_signers": str(other / ALLOWED)} if authority.exists() else {}
        refused = host.does(CaInstall, **ROOT, **kept, **strange)
        assert refused["failed"] and why in refused["msg"] and not (tmp_path / "ca").exists(), refused["msg"]
    elsewhere = {"config_file": str(tmp_path / "second" / "openssl.cnf")}
    (tmp_path / "home" / MEMORY).unlink()
    assert host.does(CaInstall, **ROOT, **kept, **elsewhere)["changed"], "another place is another CA"


def test_a_known_ca_whose_database_is_gone_is_restored_not_begun_anew(host: Meanwhile, tmp_path: Path) -> None:
    initialise(str(tmp_path / "keys"), "keys")
    kept = {"stores": [str(tmp_path / "keys")]}
    host.does(CaInstall, **ROOT)
    index = tmp_path / "ca" / "index.txt"
    content = index.read_bytes()
    index.unlink()
    assert not host.does(CaInstall, **ROOT, **kept).get("failed"), "nobody knows it yet"
    index.write_bytes(content)
    assert host.does(CaKeyBackup, **kept, password="correct horse battery staple 1")["changed"]
    assert not host.does(CaInstall, **ROOT, **kept)["changed"]
    index.unlink()
    refused = host.does(CaInstall, **ROOT, **kept)["msg"]
    assert "index.txt is missing" in refused and "Restore it (keyward.pki.restore" in refused and not index.exists()


@pytest.mark.parametrize("terms", [ROOT, SUB])
@pytest.mark.parametrize("check", [True, False])
def test_what_no_certificate_can_say_is_refused_before_anything_is_made(
    check: bool, terms: dict[str, Any], host: Meanwhile, tmp_path: Path
) -> None:
    for more, why in (
        ({"path_length": -1}, "path_length is -1"),
        ({"subject": {"commonName": "L" * 65}}, "at most 64 characters"),
        ({"subject": {"countryName": "USA"}}, "a countryName has two letters"),
        ({"directory_user": "EXAMPLE\\pki-admin", "directory_password": "x"}, "this host is not Windows"),
    ):
        done = host.does(CaInstall, **{**terms, **more}, check=check)
        assert done["failed"] and why in done["msg"]
        assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize("check", [True, False])
def test_what_the_library_of_the_host_refuses_is_found_out_first(
    check: bool, host: Meanwhile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: object) -> None:
        raise ValueError

    monkeypatch.setattr(_ca_certificate, "root_certificate", refuse)
    done = host.does(CaInstall, **ROOT, check=check)
    assert done["failed"] and "makes no certificate with that subject" in done["msg"] and not (tmp_path / "ca").exists()
