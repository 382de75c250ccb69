# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles and playbooks on one host: install, backups, renewal and restore, in order, twice and failing. Killed: tests/robustness."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible
from support.guides import DOCS, blocks
from support.openssl_ca import openssl
from support.plays import check, tree
from support.roles import a_root, certificates, changed, covered, entry, issue, issued, make_stores, now, playbook, ran
from tools import require_tool

VARIABLES = Path(__file__).resolve().parents[2] / "roles" / "each_authority" / "vars" / "main.yml"
PUBLISH = """\
- name: Publish
  ansible.builtin.copy:
    content: "{{ (renewal_certificates + renewal_crls) | join('') }}"
    dest: "{{ published }}"
    mode: "0644"

"""
# And as the guide shows it, on a web server of its own.
PUBLISH += re.sub("/srv/www/pki(.*)", r'"{{ published | dirname }}/www\1"', blocks(DOCS / "renewal-day.md", "yaml")[2])


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


def one_host(ansible: Ansible, variables: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"ca": ansible.local(**variables, **more)}


def stores_of(variables: dict[str, Any]) -> tuple[Path, Path]:
    return Path(variables["keyward_key_stores"][0]), Path(variables["keyward_database_stores"][0])


def test_the_life_of_a_ca(ansible: Ansible, tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    stores = make_stores(ansible, tmp_path)
    keys, databases = stores_of(stores)
    variables = {**stores, **a_root(ca), "keyward_reuse_key": False, "keyward_issued_before": "2000-01-01T00:00:00Z"}
    hosts = one_host(ansible, variables)

    predicted = playbook(ansible, "install", hosts, check=True)
    assert ran(predicted, "ca_install") == [True] and not ca.exists() and len(list(keys.iterdir())) == 1
    assert ran(playbook(ansible, "install", hosts), "ca_install") == [True]
    assert covered(keys, ca) == certificates(ca) and len(certificates(ca)) == 1
    before = tree(tmp_path / "ca", keys, databases)
    for name in ("install", "key_backup", "database_backup", "renewal", "restore"):
        assert changed(playbook(ansible, name, hosts)) == [], name
    assert tree(ca, keys, databases) == before

    first = issue(ca, "first")
    assert ran(playbook(ansible, "key_backup", hosts), "ca_key_backup") == [False], "issuing is no reason for a key backup"
    unread = {**variables, "keyward_password": "{{ lookup('ansible.builtin.file', '/nowhere') }}"}
    backed_up = playbook(ansible, "database_backup", one_host(ansible, unread))
    assert ran(backed_up, "ca_database_backup") == [True], "no password is looked up for a database"

    (tmp_path / "publish.yml").write_text(PUBLISH)
    hosts = one_host(
        ansible,
        {
            **variables,
            "keyward_issued_before": now(),
            "keyward_publish_tasks": str(tmp_path / "publish.yml"),
            "keyward_der_directory": str(tmp_path / "der"),
        },
        published=str(tmp_path / "published.pem"),
    )
    predicted = playbook(ansible, "renewal", hosts, check=True)
    assert ran(predicted, "ca_renew") == [True] and len(certificates(ca)) == 1
    renewed = playbook(ansible, "renewal", hosts)
    assert ran(renewed, "ca_key_backup") == [False, True] and ran(renewed, "ca_database_backup") == [False, True]
    assert covered(keys, ca) == certificates(ca) and len(certificates(ca)) == 2
    published = (tmp_path / "published.pem").read_text()
    assert (published.count("BEGIN CERTIFICATE"), published.count("BEGIN X509 CRL")) == (2, 2)
    served = sorted(path.name for path in (tmp_path / "www").iterdir())
    assert served == ["ca.pem"] + [f"example-root-ca-{key}.{kind}" for key in (0, 1) for kind in ("crl", "crt")]
    assert ran(renewed, "ca_crl") == [True, False] and changed(playbook(ansible, "crl", hosts)) == []
    assert changed(playbook(ansible, "renewal", hosts)) == []
    second = issue(ca, "second")
    openssl("verify", "-CAfile", ca / "cacert.0.pem", tmp_path / "ca-first.pem")
    openssl("verify", "-CAfile", ca / "cacert.pem", tmp_path / "ca-second.pem")
    playbook(ansible, "database_backup", hosts)

    listed, files = issued(ca), {path.relative_to(ca): path.read_bytes() for path in ca.rglob("*") if path.is_file()}
    assert [row[2] for row in listed] == [first, second]
    shutil.rmtree(ca)
    for predicted_only in (True, False):
        refused = playbook(ansible, "install", hosts, check=predicted_only, rc=2).failed()["msg"]
        assert "lived in this place" in refused and "keyward.pki.restore" in refused and not ca.exists()
    predicted = playbook(ansible, "restore", hosts, check=True)
    assert ran(predicted, "ca_key_restore") == [True] and not ca.exists()
    playbook(ansible, "restore", hosts)
    assert issued(ca) == listed
    back = {path.relative_to(ca): path.read_bytes() for path in ca.rglob("*") if path.is_file()}
    assert {path for path in files if back.pop(path) != files[path]} == {Path("serial"), Path("crlnumber")} and not back
    assert changed(playbook(ansible, "restore", hosts)) == []
    assert int(issue(ca, "third"), 16) == int(second, 16) + 1 + 65536, "a restored database goes on beyond what nobody saw"


def test_tags_choose_the_backup(ansible: Ansible, tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    stores = make_stores(ansible, tmp_path)
    variables = {**stores, **a_root(ca), "keyward_reuse_key": True, "keyward_issued_before": "2000-01-01T00:00:00Z"}
    hosts = one_host(ansible, variables)
    playbook(ansible, "install", hosts)
    issue(ca, "first")
    for tag, ran_then in (("key_backup", ([False, False], [])), ("database_backup", ([], [True, False]))):
        result = playbook(ansible, "renewal", hosts, arguments=["--tags", tag])
        assert (ran(result, "ca_key_backup"), ran(result, "ca_database_backup")) == ran_then, tag
        assert not ran(result, "ca_renew")


# --- several authorities on one host ---


def test_an_entry_goes_before_the_plain_variables(ansible: Ansible) -> None:
    named = {"backend": "openssl", "directory": "/up", "certificate_file": "ca.pem", "older": [{"certificate_file": "older.pem"}]}
    authority = {"name": "own", "truncate_logs": False, "host_store": "/mnt/sets", "parent": {"host": "up", "days": 5, **named}}
    variables = {
        "keyward_name": "plain",
        "keyward_chain_file": "/plain.pem",
        "keyward_truncate_logs": True,
        "keyward_database_stores": ["/srv/sets"],
        "keyward_parent": {"host": "plain", "config_file": "/plain.cnf"},
        "keyward_authorities": [{}, authority],
    }
    given = ("which", "parent_which", "ca_database_backup")
    tasks: list[dict[str, Any]] = [{"ansible.builtin.include_vars": str(VARIABLES)}]
    for index in range(2):
        told = {name: f"{{{{ each_authority_{name} }}}}" for name in given}
        tasks.append({"name": f"of {index}", "ansible.builtin.debug": {"msg": told}, "vars": {"each_authority_index": index}})
    result = ansible.play(tasks, hosts=one_host(ansible, variables)).ok()
    assert result.task("of 0")["msg"] == {
        "which": {"name": "plain", "chain_file": "/plain.pem"},
        "parent_which": {"config_file": "/plain.cnf"},
        "ca_database_backup": {"stores": ["/srv/sets"], "truncate_logs": True},
    }
    assert result.task("of 1")["msg"] == {
        "which": {"name": "own", "chain_file": "/plain.pem"},
        "parent_which": named,
        "ca_database_backup": {"host_store": "/mnt/sets", "truncate_logs": False},
    }


def test_root_and_issuing_side_by_side(ansible: Ansible, tmp_path: Path) -> None:
    root, issuing = tmp_path / "root", tmp_path / "issuing"
    stores = make_stores(ansible, tmp_path)
    keys, _databases = stores_of(stores)
    parent = {"host": "ca", "config_file": str(root / "openssl.cnf")}
    authorities = [
        entry(a_root(root, reuse_key=True)),
        {**entry(a_root(issuing, "Example Issuing CA", keyward_kind="subordinate")), "reuse_key": False, "parent": parent},
    ]
    old = {"keyward_issued_before": "2000-01-01T00:00:00Z"}
    hosts = one_host(ansible, {**stores, **old, "keyward_authorities": authorities})
    predicted = playbook(ansible, "install", hosts, check=True)
    assert ran(predicted, "ca_install") == [True, True] and not root.exists() and not issuing.exists()
    playbook(ansible, "install", hosts)
    openssl("verify", "-CAfile", root / "cacert.pem", issuing / "cacert.pem")
    assert len(list(keys.iterdir())) == 6, "a marker, the public half, hints, and two authorities"
    predicted = playbook(
        ansible, "renewal", one_host(ansible, {**stores, "keyward_authorities": authorities, "keyward_issued_before": now()}), check=True
    )
    assert ran(predicted, "ca_renew") == [True, True] and len(certificates(issuing)) == 1
    assert changed(playbook(ansible, "renewal", hosts)) == []

    # The first authority fails, the second is served all the same.
    (root / "cacert.pem").rename(root / "cacert.away")
    (issuing / "private" / "cakey.pem").rename(issuing / "private" / "cakey.away")
    failed = playbook(ansible, "key_backup", one_host(ansible, {**stores, "keyward_authorities": authorities}), rc=2)
    message = failed.failed()["msg"]
    assert str(root / "cacert.pem") in message
    (root / "cacert.away").rename(root / "cacert.pem")
    assert ran(playbook(ansible, "restore", hosts), "ca_key_restore") == [False, True]


# --- failures ---


def test_what_fails_on_one_host_of_a_renewal_skips_no_backup(ansible: Ansible, tmp_path: Path) -> None:
    """Three hosts: one has lost its key store, one is not told its password, one can't publish."""
    cas = {name: tmp_path / name for name in ("storeless", "passwordless", "unpublished")}
    kept, lost = make_stores(ansible, tmp_path / "kept"), make_stores(ansible, tmp_path / "lost")
    hosts = {name: {**(lost if name == "storeless" else kept), **a_root(ca, f"Example {name}")} for name, ca in cas.items()}
    keys, _databases = stores_of(kept)
    playbook(ansible, "install", {name: ansible.local(**variables) for name, variables in hosts.items()})
    issue(cas["storeless"], "first")
    shutil.rmtree(stores_of(lost)[0])
    (tmp_path / "publish.yml").write_text("- name: Publish\n  ansible.builtin.fail:\n    msg: the web server is away\n")
    due = {"keyward_issued_before": now(), "keyward_reuse_key": False}
    lacking = {
        "storeless": hosts["storeless"],
        "passwordless": {name: value for name, value in hosts["passwordless"].items() if name != "keyward_password"},
        "unpublished": {**hosts["unpublished"], "keyward_publish_tasks": "publish.yml"},
    }
    # The tasks are seen from the playbook, though the role has a file of that name.
    (tmp_path / "mine.yml").write_text("- hosts: all\n  gather_facts: false\n  roles:\n    - keyward.pki.renewal\n")
    failed = check(
        ansible.play(tmp_path / "mine.yml", hosts={name: ansible.local(**variables, **due) for name, variables in lacking.items()})
    )
    assert failed.rc == 2

    # Without every generation covered nothing is renewed.
    assert "is not a keyward store" in failed.failed("storeless")["msg"]
    assert not ran(failed, "ca_renew", "storeless") and len(certificates(cas["storeless"])) == 1
    assert ran(failed, "ca_database_backup", "storeless") == [True], "the database is backed up all the same"
    storeless = {"storeless": ansible.local(**hosts["storeless"], **due)}
    tagged = playbook(ansible, "renewal", storeless, rc=2, arguments=["--tags", "renewal"])
    assert "is not a keyward store" in tagged.failed()["msg"]
    assert not ran(tagged, "ca_renew") and len(certificates(cas["storeless"])) == 1, "the gate stands whatever the tags"

    # Nothing is due at the gate, so the password is not missed before the renewal. The next run takes the backup.
    ca = cas["passwordless"]
    assert "no password was given" in failed.failed("passwordless")["msg"]
    assert ran(failed, "ca_database_backup", "passwordless")[-1] is True
    assert len(certificates(ca)) == 2 and len(covered(keys, ca)) == 1
    closed = playbook(ansible, "renewal", {"passwordless": ansible.local(**hosts["passwordless"], **due)})
    assert ran(closed, "ca_key_backup") == [True, False] and ran(closed, "ca_renew") == [False]
    assert covered(keys, ca) == certificates(ca) and len(certificates(ca)) == 2

    # A publication that failed is told.
    ca = cas["unpublished"]
    assert "the web server is away" in failed.failed("unpublished")["msg"]
    assert ran(failed, "ca_key_backup", "unpublished") == [False, True]
    assert ran(failed, "ca_database_backup", "unpublished") == [False, True]
    assert covered(keys, ca) == certificates(ca)
