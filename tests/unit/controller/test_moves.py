# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CA that moves to another host and another directory, by the tasks of the role restore, and what goes on there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.action.ca_install import ActionModule as CaInstall
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa, openssl
from support.plays import PASSWORD


def test_every_part_of_a_ca_moves(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "old", algorithm="ed25519")
    ca.renew_keeping()
    ca.renew_keeping()
    stores = {}
    for kind in ("keys", "databases"):
        stores[kind] = {"stores": [str(tmp_path / kind)]}
        initialise(str(tmp_path / kind), kind)

    def of(directory: Path, name: str) -> Any:
        host = FakeHost(name)

        def run(task: Any, *, diff: bool = False, **options: Any) -> dict[str, Any]:
            result = host.run(task, {"config_file": str(directory / "openssl.cnf"), **options}, diff=diff)
            assert not result.get("failed"), result["msg"]
            return result

        return run

    old, new = of(ca.directory, "old"), of(tmp_path / "new", "new")
    identity = old(CaKeyBackup, password=PASSWORD, **stores["keys"])["authority"]["id"]
    before = old(CaDatabaseBackup, **stores["databases"], key_stores=stores["keys"]["stores"])["set"]
    issued = (ca.directory / "index.txt").read_text()
    shutil.rmtree(ca.directory)

    named = {"authority_id": identity[:8]}
    database = {**named, **stores["databases"], "key_stores": stores["keys"]["stores"]}
    shown = new(CaDatabaseRestore, part="configuration", diff=True, **database)
    assert f"dir = {ca.directory}" in shown["diff"]["before"] and f"dir = {tmp_path / 'new'}" in shown["diff"]["after"]
    keys = new(CaKeyRestore, password=PASSWORD, move=True, **named, **stores["keys"])
    assert [home["host"] for home in keys["homes"]] == ["new"] and len(keys["restored"]) == 6
    new(CaDatabaseRestore, **database)
    assert (tmp_path / "new" / "index.txt").read_text() == issued and not ca.directory.exists()
    proved = {crl["certificate"] for crl in new(CaCrl, scratch=True)["crls"]}
    assert proved == {one["fingerprints"]["sha256"] for one in keys["generations"]} and len(proved) == 3

    # The same database goes on, without naming anything: the CA is at home here.
    for options in ({"move": True, **named}, {}):
        after = new(CaDatabaseBackup, **stores["databases"], key_stores=stores["keys"]["stores"], **options)["set"]
        assert after["database"] == before["database"]
    assert not new(CaKeyBackup, password=PASSWORD, **stores["keys"])["changed"]
    openssl("ca", "-config", tmp_path / "new" / "openssl.cnf", "-gencrl", "-out", tmp_path / "crl")


def test_a_ca_that_is_installed_from_its_backup_is_whole_where_it_is_installed(tmp_path: Path) -> None:
    """Its former place is on that host, too, and its configuration was brought along: nothing goes there."""
    ca = OpensslCa(tmp_path / "old", algorithm="ed25519")
    ca.renew_keeping()
    initialise(str(tmp_path / "keys"), "keys")
    which, kept = {"config_file": str(ca.config_file)}, {"stores": [str(tmp_path / "keys")], "password": PASSWORD}
    identity = FakeHost("old").run(CaKeyBackup, {**which, **kept})["authority"]["id"]
    (tmp_path / "new").mkdir()
    shutil.copy(ca.config_file, tmp_path / "new")
    shutil.rmtree(ca.directory)
    there = {"config_file": str(tmp_path / "new" / "openssl.cnf"), "authority_id": identity, "kind": "root", **kept}
    refused = FakeHost("new").run(CaInstall, there)
    assert refused["failed"] and not (tmp_path / "new" / "private").exists() and not (ca.directory / "private" / "cakey.pem").exists()
    (tmp_path / "new" / "openssl.cnf").unlink()
    done = FakeHost("new").run(CaInstall, there)
    assert not done.get("failed") and len(done["generations"]) == 2, done.get("msg")
    assert sorted(path.name for path in (tmp_path / "new" / "private").iterdir()) == ["cakey.0.pem", "cakey.pem"]
    assert not (ca.directory / "private").exists()
