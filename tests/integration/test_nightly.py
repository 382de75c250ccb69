# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of every day: stores once, the night of several hosts of which one is broken, and what a person does."""

from __future__ import annotations

from pathlib import Path

from support.ansible_run import Ansible, Result
from support.openssl_ca import OpensslCa
from support.plays import PASSWORD
from support.roles import changed, playbook, ran


def summary(result: Result) -> list[str]:
    """What a playbook says at its end, once for all hosts."""
    (said,) = (
        one for results in result.results.values() for one in results if one.task.endswith("Say what became of all CAs") and "msg" in one
    )
    return list(said["msg"])


def test_a_night_and_what_a_person_does(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    keys, databases = tmp_path / "keys", tmp_path / "databases"
    stores = {"keyward_key_stores": [str(keys)], "keyward_database_stores": [str(databases)], "keyward_password": PASSWORD}
    broken = ansible.local(keyward_config_file=str(tmp_path / "gone" / "openssl.cnf"), **stores)
    sound = ansible.local(keyward_config_file=str(openssl_ca.config_file), keyward_label="The sound one", **stores)
    hosts = {"a": broken, "b": sound}
    playbook(ansible, "stores", hosts)
    assert keys.is_dir() and databases.is_dir() and changed(playbook(ansible, "stores", hosts)) == []

    # One host at a time, and the first one fails: the other is served, and said of both is one line each.
    night = playbook(ansible, "nightly", hosts, rc=2, extra_vars={"keyward_serial": 1})
    assert (ran(night, "ca_key_backup", "b"), ran(night, "ca_database_backup", "b")) == ([True], [True])
    failed = night.failed("a")["msg"]
    assert failed.count("it does not exist") == 1 and "keys failed, database failed" in failed
    said = summary(night)
    assert said[0].startswith("2 CAs on 2 hosts: 1 red") and said[1].startswith("red: ")
    assert "The sound one on b: keys backed up, database backed up (full), 1 of 1 generations covered" in said[2]

    # A key that is gone changes the outcome, though the backup holds it.
    openssl_ca.private_key.rename(tmp_path / "cakey.away")
    red = playbook(ansible, "nightly", {"b": sound}, rc=2)
    assert changed(red) == [] and "is not here" in red.failed("b")["msg"] and "is not here" in red.stderr
    (tmp_path / "cakey.away").rename(openssl_ca.private_key)

    # Offline: no task asks the host, and its age is said.
    unreachable = {"keyward_offline": True, "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    offline = playbook(ansible, "nightly", {"b": {**sound, **unreachable}})
    assert ran(offline, "ca_key_backup") == ran(offline, "ca_crl") == ran(offline, "ca_database_backup") == []
    (_head, said_of_it) = summary(offline)
    assert "what is stored stands for it, 1 of 1 generations covered" in said_of_it and "(0 days old)" in said_of_it

    # What these ask for on a terminal.
    old, new = {"keyward_password": PASSWORD}, {"keyward_password": "another password, 0815 0815"}
    change = playbook(ansible, "password", {"b": sound}, extra_vars={**old, "keyward_new_password": new["keyward_password"]})
    assert ran(change, "ca_key_backup") == [True]
    playbook(ansible, "verify", {"b": sound}, rc=2, extra_vars=old)
    playbook(ansible, "verify", {"b": sound}, extra_vars=new)
