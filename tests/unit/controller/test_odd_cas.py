# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs as they are found: names that the library can't decode, keys that it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import load_key_file
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa, openssl

PASSWORD = "correct horse battery staple"
LATIN_1 = "[req]\nprompt = no\ndistinguished_name = dn\nstring_mask = MASK:0x4\n[dn]\nCN = M\xfcller CA\n"


def with_latin_1_name(ca: OpensslCa) -> None:
    """A name in Latin-1 that is no valid text in its own type, as firewalls and old scripts have written them."""
    config = ca.directory / "named.cnf"
    config.write_bytes(LATIN_1.encode("latin-1"))
    extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    openssl("req", "-x509", "-new", "-config", config, "-key", ca.private_key, "-days", "300", *extensions, "-out", ca.certificate)
    config.unlink()


def test_a_ca_with_a_name_that_cannot_be_decoded_gets_its_backup(tmp_path: Path) -> None:
    ca, host = OpensslCa(tmp_path / "ca"), FakeHost()
    with_latin_1_name(ca)
    initialise(str(tmp_path / "keys"), "keys")
    which = {"config_file": str(ca.config_file)}
    given: dict[str, Any] = {**which, "stores": [str(tmp_path / "keys")], "password": PASSWORD}
    told = host.run(CaInfo, which)
    assert not told.get("failed") and told["authority"]["subject"] == "CN=M\xfcller CA" == told["generations"][0]["subject"]
    stored = host.run(CaKeyBackup, given)
    assert stored["changed"] and stored["restorable"], stored.get("msg")
    assert host.run(CaKeyVerify, given)["restorable"]
    key = ca.private_key.read_bytes()
    ca.private_key.unlink()
    assert host.run(CaKeyRestore, given)["changed"] and ca.private_key.read_bytes() == key
    signed = host.run(CaCrl, which)
    assert signed["changed"] and len(signed["crls"]) == 1, signed.get("msg")
    again = host.run(CaCrl, {**which, "published_crl": signed["crls"][0]["path"]})
    assert again["changed"] and openssl("crl", "-in", signed["crls"][0]["path"], "-CAfile", ca.certificate, "-noout").returncode == 0
    renewed = host.run(CaRenew, {**which, "reuse_key": True, "remaining_days": 4000, "days": 5000})
    assert renewed["failed"] and "broke" not in renewed["msg"] and "Make the new certificate with the tool" in renewed["msg"]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"], "EC with explicit parameters"),
        (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime239v1"], "EC prime239v1"),
        (["-algorithm", "SM2"], "SM2"),
        (["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"], None),
    ],
)
@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_a_key_of_an_unsupported_kind_is_called_by_its_name(arguments: list[str], kind: str | None, form: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    openssl("genpkey", *arguments, "-outform", form, "-out", path)
    found = load_key_file(str(path), None)
    assert found is not None
    if found.key is None:
        assert kind is not None and f"of the kind {kind}, which the cryptography package" in str(found.why)
        assert "no bundle can hold it" in found.remedy
    else:
        assert kind is None or "explicit" in kind  # this release of the library reads it


def test_a_damaged_key_is_not_called_an_unsupported_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER", "-out", path)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(bytes(data))
    found = load_key_file(str(path), None)
    assert found is not None and found.key is None and "damaged" in str(found.why)
