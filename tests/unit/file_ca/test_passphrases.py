# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A passphrase that lies beside the key that it protects is said, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.easyrsa import EasyrsaBackend
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from support.easyrsa_ca import EasyrsaCa
from support.openssl_ca import OpensslCa
from tools import require_tool

PASSPHRASE = "open sesame"


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    require_tool("openssl")
    return OpensslCa(tmp_path / "ca", passphrase=PASSPHRASE)


def said(ca: OpensslCa, passphrase: str | None = PASSPHRASE) -> list[str]:
    facts = OpensslBackend(Selector(config_file=str(ca.config_file), private_key_passphrase=passphrase)).facts()
    found = [advisory.message for advisory in facts.advisories if advisory.code == "passphrase_beside_key"]
    assert PASSPHRASE not in "".join(found)
    return found


def test_a_configuration_that_says_it(ca: OpensslCa) -> None:
    assert said(ca) == []
    text = ca.config_file.read_text()
    for name in ("output_password", "input_password"):
        ca.config_file.write_text(text.replace("[ req ]", f"[ req ]\n{name} = {PASSPHRASE}"))
        for passphrase in (PASSPHRASE, None):
            (message,) = said(ca, passphrase)
            assert f"{ca.config_file} says {name} in [req]" in message and "each set of the database holds this file" in message


def test_a_file_beside_the_key(ca: OpensslCa) -> None:
    beside = ca.private_key.parent / "ca.pass"
    for content, found in ((f"{PASSPHRASE}\n", True), (f"{PASSPHRASE}\r\nmore", True), (PASSPHRASE, True), ("another", False), ("", False)):
        beside.write_text(content)
        assert bool(said(ca)) is found, content
    beside.write_text(PASSPHRASE)
    assert str(beside) in said(ca)[0] and said(ca, None) == []
    beside.rename(ca.directory.parent / "away")
    (ca.private_key.parent / "link").symlink_to(ca.directory.parent / "away")
    assert said(ca) == []


def test_a_key_in_the_clear_has_none(tmp_path: Path) -> None:
    require_tool("openssl")
    ca = OpensslCa(tmp_path / "ca")
    ca.config_file.write_text(ca.config_file.read_text().replace("[ req ]", "[ req ]\noutput_password = x"))
    (ca.private_key.parent / "ca.pass").write_text(PASSPHRASE)
    assert said(ca) == []


def test_vars_of_easyrsa(tmp_path: Path) -> None:
    ca = EasyrsaCa(tmp_path / "pki", "3.2")
    (ca.directory / "vars").write_text('set_var EASYRSA_PASSIN "pass:secret"\n')
    selector = Selector(backend="easyrsa", directory=str(ca.directory), private_key_passphrase=ca.passphrase)
    messages = [each.message for each in EasyrsaBackend(selector).facts().advisories if each.code == "passphrase_beside_key"]
    assert f"{ca.directory}/vars says EASYRSA_PASSIN" in messages[0] and "secret" not in messages[0]
