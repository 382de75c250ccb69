# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CAs whose files are not as most are: key and certificate in one file, a key that PKCS #12 would change."""

from __future__ import annotations

import subprocess

import pytest
from tools import require_tool

PASSWORD = "correct horse battery staple"


def openssl(*arguments, cwd):
    subprocess.run([require_tool("openssl"), *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def store(ansible, tmp_path):
    ansible.play([{"keyward.pki.ca_store": {"path": str(tmp_path / "keys"), "kind": "keys"}}]).ok()
    return tmp_path / "keys"


@pytest.mark.parametrize("check", [True, False])
def test_a_key_bound_to_pss_is_refused(ansible, store, tmp_path, check):
    kind = ["-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes"]
    openssl("req", "-x509", *kind, "-subj", "/CN=PSS Root", "-keyout", "key.pem", "-out", "ca.pem", cwd=tmp_path)
    which = {"directory": str(tmp_path), "certificate_file": "ca.pem", "private_key_file": "key.pem"}
    failed = ansible.play([{"keyward.pki.ca_key_backup": {**which, "stores": [str(store)], "password": PASSWORD}}], check=check).failed()
    assert [reason["code"] for reason in failed["reasons"]] == ["unsupported"] and "RSASSA-PSS" in failed["msg"]
    assert [path.name for path in store.iterdir()] == ["keyward-store.json"]


def test_a_plain_rsa_key_in_a_certificate_signed_with_pss_is_not(ansible, store, tmp_path):
    kind = ["-newkey", "rsa:2048", "-sigopt", "rsa_padding_mode:pss", "-nodes"]
    openssl("req", "-x509", *kind, "-subj", "/CN=PSS signed", "-keyout", "key.pem", "-out", "ca.pem", cwd=tmp_path)
    which = {"directory": str(tmp_path), "certificate_file": "ca.pem", "private_key_file": "key.pem"}
    ansible.play([{"keyward.pki.ca_key_backup": {**which, "stores": [str(store)], "password": PASSWORD}}]).ok()


def test_key_and_certificate_in_one_file(ansible, store, tmp_path):
    openssl(*["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=One", "-keyout", "both.pem", "-out", "ca.pem"], cwd=tmp_path)
    both = tmp_path / "both.pem"
    both.write_text(both.read_text() + (tmp_path / "ca.pem").read_text())
    which = {"directory": str(tmp_path), "certificate_file": "both.pem", "private_key_file": "both.pem"}
    given = {**which, "stores": [str(store)], "password": PASSWORD}
    ansible.play([{"keyward.pki.ca_key_backup": given}]).ok()
    both.unlink()
    assert ansible.play([{"keyward.pki.ca_key_restore": given}]).ok().last()["changed"]
    assert both.stat().st_mode & 0o777 == 0o600
    openssl(*["x509", "-in", "both.pem", "-noout"], cwd=tmp_path)
    openssl(*["pkey", "-in", "both.pem", "-noout"], cwd=tmp_path)
    assert not ansible.play([{"keyward.pki.ca_key_restore": given}]).ok().last()["changed"]


def test_damaged_files_are_set_aside_and_put_back(ansible, store, openssl_ca):
    given = {"config_file": str(openssl_ca.config_file), "stores": [str(store)], "password": PASSWORD}
    ansible.play([{"keyward.pki.ca_key_backup": given}]).ok()
    for path in (openssl_ca.certificate, openssl_ca.private_key):
        path.write_bytes(path.read_bytes()[:100])
    failed = ansible.play([{"keyward.pki.ca_key_restore": given}]).failed()
    assert "set_aside" in failed["msg"] and openssl_ca.private_key.stat().st_size == 100
    restored = ansible.play([{"keyward.pki.ca_key_restore": {**given, "on_conflict": "set_aside"}}]).ok().last()
    assert len(restored["set_aside"]) == 2
    openssl_ca.sign_crl(openssl_ca.certificate, openssl_ca.private_key)
    assert not ansible.play([{"keyward.pki.ca_key_restore": given}]).ok().last()["changed"]
