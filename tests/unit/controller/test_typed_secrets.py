# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A secret is the text that was typed: what YAML made of it is refused, and an empty one is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_install import ActionModule as CaInstall
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.plugin_utils import _secrets
from support.authorities import sealed
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa, openssl

COERCED = {
    "0123456701234567012345670": "a number",
    "1234_5678_9012_3456_7890": "a number",
    "0xdeadbeefdeadbeefdead": "a number",
    "1234567890123456789.00": "a number",
    "12e45": None,  # YAML 1.1 wants a sign
    "1.2e+45": "a number",
    "0b10101010101010101010": "a number",
    "12:30:45": "a number",
    "2026-01-01": "a date",
    "2026-01-01 12:30:00": "a date",
    "yes": "true or false",
    "Off": "true or false",
    "[a, b]": "a list or a dictionary",
    "!!binary c2VjcmV0": "binary data",
    "correct horse": None,
    "~x": None,
}


@pytest.mark.parametrize(("typed", "kind"), COERCED.items())
@pytest.mark.parametrize("option", ["password", "previous_password", "private_key_passphrase", "older"])
def test_what_yaml_made_of_a_secret_is_refused(typed: str, kind: str | None, option: str) -> None:
    value = yaml.safe_load(typed)
    given = {option: value} if option != "older" else {"older": [{"certificate_file": "x"}, {"private_key_passphrase": value}]}
    if kind is None:
        assert value == typed
        _secrets.refuse_other_than_text("ca_info", given, {}, {})
        return
    with pytest.raises(KeywardError) as caught:
        _secrets.refuse_other_than_text("ca_info", given, {}, {})
    name = "older[1].private_key_passphrase" if option == "older" else option
    said = str(caught.value)
    assert f"its {name} is no text: YAML made {kind} of it" in said and "in quotes" in said and typed not in said and str(value) not in said


def test_no_host_and_no_store_is_touched_before(tmp_path: Path) -> None:
    host = FakeHost()
    for task, option in ((CaKeyBackup, "password"), (CaKeyVerify, "previous_password"), (CaInfo, "private_key_passphrase")):
        result = host.run(task, {"config_file": "/nowhere", option: 1234567890, **({} if task is CaInfo else {"stores": ["/nowhere"]})})
        assert result["failed"] and f"its {option} is no text" in result["msg"]
    assert not host.sent


@pytest.mark.parametrize(
    ("before", "variables", "kind"),
    [
        ({"password": "{{ paper }}"}, {"paper": 123}, "a number"),
        ({"password": "{{ paper | default(omit) }}"}, {"paper": "{{ other }}", "other": True}, "true or false"),
        ({}, {"keyward_password": "{{ vault_password }}", "vault_password": 123}, "a number"),
        ({}, {"keyward_authorities": [{"name": "one", "password": 123}]}, "a number"),
        ({"password": "{{ paper }}"}, {"paper": "123", "keyward_authorities": [{}]}, None),
        ({"password": "{{ loop }}"}, {"loop": "{{ loop }}"}, None),
        ({"password": "{{ lookup('file', 'pw') }}"}, {}, None),
    ],
)
def test_before_core_2_19_the_variable_tells(
    before: dict[str, Any], variables: dict[str, Any], kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a template makes text of everything, before a task sees it."""
    monkeypatch.setattr(_secrets, "core_version", "2.16.14")
    if kind is None:
        _secrets.refuse_other_than_text("ca_key_backup", {"password": "123"}, before, variables)
    else:
        with pytest.raises(KeywardError, match=f"its password is no text: YAML made {kind} of it"):
            _secrets.refuse_other_than_text("ca_key_backup", {"password": "123"}, before, variables)


def test_a_newline_at_the_end_is_said(tmp_path: Path) -> None:
    bundle = tmp_path / "a.p12"
    bundle.write_bytes(sealed("a", password="correct horse battery staple"))
    right = {"backup": str(bundle), "password": "correct horse battery staple"}
    assert FakeHost().run(CaKeyVerify, right)["restorable"]
    wrong = FakeHost().run(CaKeyVerify, {**right, "password": right["password"] + "\n"})
    assert wrong["failed"] and "password ends in a newline" in wrong["msg"] and "|-" in wrong["msg"] and "horse" not in wrong["msg"]
    made = FakeHost().run(CaInstall, {"config_file": str(tmp_path / "ca" / "openssl.cnf"), "private_key_passphrase": "a passphrase\n"})
    assert "its private_key_passphrase ends in a newline" in made["msg"] and not (tmp_path / "ca").exists()


@pytest.fixture
def open_bundle(tmp_path: Path) -> tuple[OpensslCa, Path]:
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    path = tmp_path / "open.p12"
    openssl("pkcs12", "-export", "-inkey", ca.private_key, "-in", ca.certificate, "-out", path, "-passout", "pass:")
    return ca, path


def test_an_empty_password_judges_the_file(open_bundle: tuple[OpensslCa, Path], tmp_path: Path) -> None:
    _ca, path = open_bundle
    for password in ("", "another password than that"):
        result = FakeHost().run(CaKeyVerify, {"backup": str(path), "password": password})
        assert [one["code"] for one in result["reasons"]] == ["opens_without_password"] and result["restorable"] is False
        assert "password: ''" in result["msg"] and "renew the CA with a new key" in result["msg"]
    protected = tmp_path / "a.p12"
    protected.write_bytes(sealed("a", password="correct horse battery staple"))
    result = FakeHost().run(CaKeyVerify, {"backup": str(protected), "password": ""})
    assert [one["code"] for one in result["reasons"]] == ["password_wrong"]


def test_an_unprotected_bundle_is_restored_from_when_a_person_says_so(open_bundle: tuple[OpensslCa, Path]) -> None:
    ca, path = open_bundle
    key = ca.private_key.read_bytes()
    ca.private_key.unlink()
    given = {"config_file": str(ca.config_file), "backup": str(path)}
    refused = FakeHost().run(CaKeyRestore, {**given, "password": "correct horse battery staple"})
    assert refused["failed"] and "password: ''" in refused["msg"] and not ca.private_key.exists()
    done = FakeHost().run(CaKeyRestore, {**given, "password": ""})
    assert done["changed"] and done["restorable"] is False and ca.private_key.read_bytes() == key
    assert "opens_without_password" in {one["code"] for one in done["advisories"]}
