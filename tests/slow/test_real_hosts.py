# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three authorities on two hosts, one of them over SSH with an unprivileged login: the parent signs what its child asks for."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.ansible_run import Ansible
from support.openssl_ca import openssl
from support.plays import authorities, tree
from support.roles import a_root, changed, entry, issue, issued, make_stores, now, playbook, ran
from support.ssh_server import SshServer
from support.warm_python import WarmPython


def test_a_hierarchy_over_ssh(ansible: Ansible, sshd: SshServer, warm_python: WarmPython, tmp_path: Path) -> None:
    root, issuing, lab = tmp_path / "root", tmp_path / "issuing", tmp_path / "lab"
    stores = make_stores(ansible, tmp_path)
    keys, databases = tmp_path / "keys", tmp_path / "databases"
    login = sshd.host(warm_python.program(tmp_path / "python"))
    parent = {"host": "root.example.com", "config_file": str(root / "openssl.cnf"), "days": 1000}
    issuing_ca = a_root(issuing, "Example Issuing CA", keyward_kind="subordinate", keyward_parent=parent)

    def hosts(issued_before: str) -> dict[str, object]:
        common = {**stores, "keyward_reuse_key": False}
        return {
            "root.example.com": {**login, **common, **a_root(root), "keyward_issued_before": "2000-01-01T00:00:00Z"},
            "issuing.example.com": ansible.local(
                **common,
                keyward_authorities=[
                    {**entry(issuing_ca), "issued_before": issued_before},
                    {**entry(a_root(lab, "Lab Root CA", keyward_issued_before="2000-01-01T00:00:00Z"))},
                ],
            ),
        }

    quiet = hosts("2000-01-01T00:00:00Z")
    playbook(ansible, "install", quiet)
    assert [len(authorities(store)) for store in (keys, databases)] == [3, 3]
    openssl("verify", "-CAfile", root / "cacert.pem", issuing / "cacert.pem")
    before = tree(root, issuing, lab, keys, databases)
    for name in ("install", "renewal"):
        assert changed(playbook(ansible, name, quiet)) == [], name
    assert tree(root, issuing, lab, keys, databases) == before
    issue(root, "first")
    issue(issuing, "second")

    # The parent is not in the limit, and signs all the same.
    renewed = playbook(ansible, "renewal", hosts(now()), arguments=["--limit", "issuing.example.com"])
    assert ran(renewed, "ca_sign") == [True] and sorted(path.name for path in issuing.glob("cacert*")) == ["cacert.0.pem", "cacert.pem"]
    for certificate in ("cacert.0.pem", "cacert.pem"):
        openssl("verify", "-CAfile", root / "cacert.pem", issuing / certificate)
    openssl("verify", "-no-CApath", "-partial_chain", "-CAfile", issuing / "cacert.0.pem", tmp_path / "issuing-second.pem")
    assert changed(playbook(ansible, "database_backup", quiet)) == [], "the renewal backed up the parent's database too"

    lists = {directory: issued(directory) for directory in (root, issuing, lab)}
    kept = {directory: (directory / "private" / "cakey.pem").read_bytes() for directory in lists}
    assert len(lists[root]) == 3
    for directory in lists:
        shutil.rmtree(directory)
    playbook(ansible, "restore", quiet)
    assert {directory: issued(directory) for directory in lists} == lists
    assert {directory: (directory / "private" / "cakey.pem").read_bytes() for directory in lists} == kept
    assert changed(playbook(ansible, "restore", quiet)) == []
    assert not list(sshd.home.rglob("*.tar.gz")), "no set stays on a host"
