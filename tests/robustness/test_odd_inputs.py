# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each file of a CA with odd values in it: every task answers, nothing escapes, and check mode touches nothing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_install import ActionModule as CaInstall
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.action.ca_sign import ActionModule as CaSign
from ansible_collections.keyward.pki.plugins.module_utils._generation import generation_of
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.module_utils._whose import issued_in
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem_certificates, pem_content
from support.fake_host import FakeHost
from support.odd_values import ROUNDS, odd, odd_pem
from support.openssl_ca import OpensslCa, openssl
from support.plays import tree
from support.signers import make_home

PASSWORD = "correct horse battery staple"
FILES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "openssl.cnf": odd,
    "index.txt": odd,
    "index.txt.attr": odd,
    "serial": odd,
    "crlnumber": odd,
    "cacert.pem": odd_pem,
    "cacert.0.pem": odd_pem,
    "private/cakey.pem": odd_pem,
    "crl.pem": odd_pem,
    "cacert.next.csr": odd_pem,
    "newcerts/1000.pem": odd_pem,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(make_home(tmp_path / "home")))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> OpensslCa:
    folder = tmp_path_factory.mktemp("odd")
    ca = OpensslCa(folder / "ca", algorithm="P-256")
    ca.renew_keeping()
    shutil.move(ca.sign_crl(), ca.directory / "crl.pem")
    (ca.directory / "index.txt.attr").write_text("unique_subject = no\n")
    request = ca.directory / "cacert.next.csr"
    openssl("req", "-new", "-key", ca.private_key, "-subj", ca.subject, "-out", request)
    shutil.copytree(ca.directory, folder / "kept")
    for kind in ("keys", "databases"):
        initialise(str(folder / kind), kind)
    return ca


@pytest.mark.parametrize("name", FILES)
def test_odd_values_in_a_file_of_a_ca(name: str, template: OpensslCa) -> None:
    ca, kept = template.directory, template.directory.parent / "kept"
    which = {"config_file": str(template.config_file)}
    tasks: list[tuple[type, dict[str, Any]]] = [
        (CaInfo, {}),
        (CaDatabaseBackup, {"stores": [str(ca.parent / "databases")]}),
        (CaKeyBackup, {"stores": [str(ca.parent / "keys")], "password": PASSWORD}),
        (CaRenew, {"reuse_key": True, "remaining_days": 9000, "days": 9900}),
        (CaCrl, {"remaining_days": 400}),
        (CaSign, {"request": (kept / "cacert.next.csr").read_text(), "extensions": "v3_ca"}),
    ]
    original = (kept / name).read_bytes()
    for number in range(ROUNDS):
        chance = random.Random(f"{name} {number}")  # noqa: S311
        shutil.rmtree(ca)
        shutil.copytree(kept, ca)
        data = FILES[name](original, chance)
        (ca / name).write_bytes(data)
        before = tree(ca)
        for task, options in tasks:
            result = FakeHost().run(task, {**which, **options}, check=True)
            assert "broke" not in str(result.get("msg")), (number, task.NAME, result["msg"])  # type: ignore[attr-defined]
            assert tree(ca) == before, (number, task.NAME)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(4))
def test_odd_certificates_requests_and_crls_that_are_given(seed: int, template: OpensslCa) -> None:
    kept = template.directory.parent / "kept"
    chance = random.Random(seed)  # noqa: S311
    certificates = pem_certificates((kept / "cacert.pem").read_bytes())
    generations = [generation_of(certificates[0])]
    for _number in range(ROUNDS * 20):
        data = odd_pem((kept / "newcerts" / "1000.pem").read_bytes(), chance)
        try:
            issued_in(data, generations)
            generation_of(pem_content(data) if b"-----BEGIN" in data else data)
        except ValueError:
            pass
    shutil.rmtree(template.directory)
    shutil.copytree(kept, template.directory)
    (template.directory / "cacert.next.csr").unlink()
    which = {"config_file": str(template.config_file)}
    for number in range(ROUNDS // 2):
        request = odd_pem((kept / "cacert.next.csr").read_bytes(), chance).decode("latin-1")
        result = FakeHost().run(CaSign, {**which, "request": request, "extensions": "v3_ca"}, check=True)
        assert "broke" not in str(result.get("msg")), (number, result["msg"])
        published = template.directory.parent / "published.crl"
        published.write_bytes(odd_pem((kept / "crl.pem").read_bytes(), chance))
        result = FakeHost().run(CaCrl, {**which, "published_crl": str(published)}, check=True)
        assert "broke" not in str(result.get("msg")), (number, result["msg"])


@pytest.mark.parametrize("days", [0, -1, 10**7, 10**12, 10**30])
def test_days_that_no_certificate_can_say(days: int, template: OpensslCa, tmp_path: Path) -> None:
    which, before = {"config_file": str(template.config_file)}, tree(template.directory)
    new = {"config_file": str(tmp_path / "new" / "openssl.cnf"), "subject": {"commonName": "New"}}
    request = (template.directory.parent / "kept" / "cacert.next.csr").read_text()
    for task, options in (
        (CaRenew, {**which, "reuse_key": True, "remaining_days": 10, "days": days}),
        (CaCrl, {**which, "days": days}),
        (CaSign, {**which, "request": request, "days": days}),
        (CaInstall, {**new, "days": days}),
    ):
        for check in (True, False):
            result = FakeHost().run(task, options, check=check)
            assert result["failed"] and "can be: no certificate says a time" in result["msg"], result["msg"]
    assert tree(template.directory) == before and not (tmp_path / "new").exists()
