# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks where a CA moves to another host, and where a name would hold for several."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible
from support.plays import authorities, tree
from support.roles import a_root, certificates, changed, issue, issued, make_stores, playbook, ran
from tools import require_tool


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


def test_a_ca_moves_to_another_host(ansible: Ansible, tmp_path: Path) -> None:
    """Both inventory hosts are this machine, and the place is the same: what is on one is on the other."""
    ca, stores = tmp_path / "ca", make_stores(ansible, tmp_path)
    hosts: dict[str, Any] = {name: ansible.local(**stores, **a_root(ca)) for name in ("old", "new")}
    playbook(ansible, "install", {"old": hosts["old"]})
    serial = issue(ca, "first")
    playbook(ansible, "database_backup", {"old": hosts["old"]})
    (authority,) = (path.name for path in authorities(tmp_path / "keys"))
    said = {"keyward_authority_id": authority[-16:], "keyward_move": True}

    both = playbook(ansible, "restore", hosts, rc=2, extra_vars=said)
    assert both.stdout.count("A name holds for one host") >= 2 and not ran(both, "ca_key_restore")

    def restore(host: str, rc: int = 0, **more: Any) -> Any:
        return playbook(ansible, "restore", hosts, rc=rc, extra_vars={**said, **more}, arguments=["--limit", host])

    kept_places = (ca, tmp_path / "keys", tmp_path / "databases")
    before = tree(*kept_places)
    kept = restore("new", 2)
    assert "still on its old home old" in kept.failed()["msg"] and "keyward_old_home=stopped" in kept.failed()["msg"]
    assert tree(*kept_places) == before, "nothing was sent, and nothing recorded"
    assert ran(restore("new", keyward_old_home="stopped"), "ca_key_restore") == [True]
    assert changed(restore("new", keyward_old_home="stopped")) == []

    for name in ("key_backup", "database_backup"):
        assert changed(playbook(ansible, name, {"new": hosts["new"]})) == []
        refused = playbook(ansible, name, {"old": hosts["old"]}, rc=2).failed()["msg"]
        assert "is not at home on old" in refused and "lives on new" in refused, name

    # Where nothing is left on the old home, that is said and stops nothing.
    shutil.rmtree(ca)
    back = restore("old")
    assert certificates(ca) and [row[2] for row in issued(ca)] == [serial] and "The old home new was not looked at" in back.stdout
