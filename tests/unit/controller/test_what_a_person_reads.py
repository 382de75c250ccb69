# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages, diffs and refusals: the first cause, once, and what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import MARKER, initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa, openssl

PASSWORD = "correct horse battery staple 1"


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "keys"), "keys")
    initialise(str(tmp_path / "databases"), "databases")
    return tmp_path


def back_up(ca: OpensslCa, *stores: Path, **options: Any) -> dict[str, Any]:
    return FakeHost().run(CaKeyBackup, {"config_file": str(ca.config_file), "stores": list(map(str, stores)), **options})


def test_one_store_that_is_named_twice_is_no_second_copy(ca: OpensslCa, stores: Path) -> None:
    keys, link, copied = stores / "keys", stores / "link", stores / "copied"
    link.symlink_to(keys)
    copied.mkdir(mode=0o700)
    (copied / MARKER).write_bytes((keys / MARKER).read_bytes())
    for other, why in ((f"{keys}/", "the same directory"), (link, "the same directory"), (copied, "both have the id")):
        refused = back_up(ca, keys, Path(other), password=PASSWORD)
        assert refused["failed"] and why in refused["msg"], other
    arguments = {"config_file": str(ca.config_file), "stores": [str(stores / "databases")] * 2}
    assert "the same directory" in FakeHost().run(CaDatabaseBackup, arguments)["msg"]
    assert os.listdir(keys) == [MARKER]


def test_a_backup_that_is_due_without_a_password_says_why(ca: OpensslCa, stores: Path) -> None:
    assert "(the stores hold no backup of this CA)" in back_up(ca, stores / "keys")["msg"]
    assert back_up(ca, stores / "keys", password=PASSWORD)["changed"]
    (bundle,) = stores.glob("keys/*/0*/authority.p12")
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"X")
    due = back_up(ca, stores / "keys")
    assert "no password was given" in due["msg"] and f"{bundle.parent}: authority.p12 does not have the digest" in due["msg"]
    assert "does not hold" not in due["msg"], "that is the consequence"


def test_a_key_without_its_passphrase_is_named_with_that_remedy_alone(ca: OpensslCa, stores: Path) -> None:
    key = ca.directory / "private" / "cakey.pem"
    content = openssl("pkey", "-in", key, "-aes256", "-passout", "pass:abcdefgh").stdout
    key.write_text(content)
    message = back_up(ca, stores / "keys", password=PASSWORD)["msg"]
    assert f"{key} of generation 0" in message and "it is encrypted at rest. Give private_key_passphrase" in message
    assert "HSM" not in message and "older" not in message
    renewal = {"config_file": str(ca.config_file), "reuse_key": True, "remaining_days": 40000, "private_key_passphrase": "another"}
    for action, options in ((CaRenew, renewal), (CaCrl, {"config_file": str(ca.config_file), "private_key_passphrase": "another"})):
        told = FakeHost().run(action, options)["msg"]
        assert f"{key} of generation 0" in told and "the passphrase does not open it. Give the right private_key_passphrase" in told


def test_an_encrypted_key_that_a_backup_holds_needs_no_person_each_night(ca: OpensslCa, stores: Path) -> None:
    key = ca.directory / "private" / "cakey.pem"
    key.write_text(openssl("pkey", "-in", key, "-aes256", "-passout", "pass:abcdefgh").stdout)
    assert back_up(ca, stores / "keys", password=PASSWORD, private_key_passphrase="abcdefgh")["changed"]
    for result in (back_up(ca, stores / "keys"), FakeHost().run(CaCrl, {"config_file": str(ca.config_file), "sign": False})):
        assert not result.get("failed") and not result["changed"]
        assert {one["code"]: one["level"] for one in result["advisories"]} == {"key_needs_passphrase": "counted"}


def test_a_diff_shows_what_was_before(ca: OpensslCa, stores: Path) -> None:
    arguments = {"config_file": str(ca.config_file), "stores": [str(stores / "databases")]}
    assert FakeHost().run(CaDatabaseBackup, arguments, diff=True)["diff"]["before"] == ""
    ca.issue("leaf")
    diff = FakeHost().run(CaDatabaseBackup, arguments, diff=True)["diff"]
    assert diff["before"].startswith("1 entries, ") and diff["after"].startswith("2 entries, ")
    due = {"config_file": str(ca.config_file), "reuse_key": True, "remaining_days": 40000, "days": 50000}
    diff = FakeHost().run(CaRenew, due, check=True, diff=True)["diff"]
    assert diff["before"].startswith("generation 0: ") and diff["after"] == f"{diff['before']}a new generation\n"


def test_what_a_person_must_act_on_is_a_warning_at_any_verbosity(ca: OpensslCa, stores: Path) -> None:
    ca.renew_keeping()
    assert "warnings" not in back_up(ca, stores / "keys", password=PASSWORD)
    for name, level in (("cakey.0.pem", "warning"), ("cakey.pem", "red")):
        (ca.directory / "private" / name).unlink()
        told = back_up(ca, stores / "keys", password=PASSWORD)
        assert not told["changed"] and not told.get("failed"), "the backup holds it"
        assert told["advisories"][-1]["level"] == level
        assert "is not here" in told["warnings"][-1] and " on ca1: " in told["warnings"][-1]
    assert [advisory["code"] for advisory in told["advisories"]] == ["older_key_missing_on_host", "key_missing_on_host"]
    back = {"config_file": str(ca.config_file), "stores": [str(stores / "keys")], "password": PASSWORD}
    restored = FakeHost().run(CaKeyRestore, back)
    assert restored["changed"] and restored["advisories"] == [], "it is put back"
