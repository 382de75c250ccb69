# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing a CA of files: what it issues at once, what is in the way, every cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.killed import killed_at
from support.lifecycle import cuts, install, keys_present, refused, state
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


@pytest.mark.parametrize("options", [{"key_type": "RSA", "key_size": 2048}, {"key_type": "EC"}, {"key_type": "Ed25519"}], ids=str)
def test_what_is_installed_issues_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    ca = tmp_path / "a $trange dir#ctory" if options["key_type"] == "EC" else tmp_path / "ca"
    install(ca, **options)
    before = state(ca)
    assert (ca / "private").stat().st_mode & 0o777 == 0o700 and (ca / "private" / "cakey.pem").stat().st_mode & 0o777 == 0o600
    answer = install(ca, **options)
    assert not answer["changed"] and [g["private_key"] for g in answer["generations"]] == ["present"]
    assert state(ca) == before
    openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key")
    openssl("req", "-new", "-key", tmp_path / "key", "-subj", "/CN=www.example.com", "-out", tmp_path / "csr")
    openssl("ca", "-config", ca / "openssl.cnf", "-batch", "-notext", "-in", tmp_path / "csr", "-out", tmp_path / "crt")
    openssl("verify", "-CAfile", ca / "cacert.pem", tmp_path / "crt")
    openssl("ca", "-config", ca / "openssl.cnf", "-gencrl", "-out", tmp_path / "crl")


@pytest.mark.parametrize("name", ["My CA", "ca-1", "ca_1.x"])
def test_a_name_that_openssl_takes(tmp_path: Path, name: str) -> None:
    assert install(tmp_path, name=name)["authority"]["name"] == name
    openssl("ca", "-config", tmp_path / "openssl.cnf", "-gencrl", "-out", tmp_path / "crl.pem")


@pytest.mark.parametrize("name", ["x]y", "ünï", "a\nb", " a", "a#b"])
def test_a_name_that_openssl_does_not_take(tmp_path: Path, name: str) -> None:
    for check in (True, False):
        message = refused(lambda check=check: install(tmp_path / "ca", check=check, name=name))
        assert "can't be that of a section" in message and not (tmp_path / "ca").exists()


def test_an_installation_that_is_killed_anywhere_is_finished_with_the_same_key(tmp_path: Path) -> None:
    reached = 0
    for number, directory in cuts(tmp_path):
        if not killed_at(number, lambda directory=directory: install(directory)):
            break
        reached += 1
        keys = [path.read_bytes() for path in directory.rglob("cakey.pem")]
        install(directory)
        assert keys in ([], [(directory / "private" / "cakey.pem").read_bytes()]) and keys_present(directory) == {"present"}
    assert reached >= 10


def test_where_something_of_a_ca_is_none_is_made(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca")
    ca.certificate.unlink()
    before = state(ca.directory)
    assert "has entries, so there was a CA here" in refused(lambda: install(ca.directory)) and state(ca.directory) == before
    (ca.directory / "index.txt").write_text("")
    ca.private_key.write_text("something")
    assert "can't be used" in refused(lambda: install(ca.directory))
    assert "there is no subject attribute" in refused(lambda: install(tmp_path / "b", subject={"organisation": "x"}))
    assert "can't have the value" in refused(lambda: install(tmp_path / "c", subject={"countryName": "Germany"}))
