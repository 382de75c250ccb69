# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A renewal that is killed, between two steps or inside one, is finished by the next run: one new generation, and it is backed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible
from support.host_python import HostPython
from support.openssl_ca import openssl
from support.roles import a_root, certificates, changed, covered, issue, make_stores, now, playbook, ran
from tools import require_tool

Hosts = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


def installed(ansible: Ansible, directory: Path, count: int) -> tuple[dict[str, Path], Hosts]:
    """Hosts, each with a CA of its own that is due for a renewal: their CAs' directories, and their variables."""
    stores = make_stores(ansible, directory)
    cas = {f"ca{number}": directory / f"ca{number}" for number in range(count)}
    hosts = {name: ansible.local(**stores, **a_root(ca, f"Example Root {name}")) for name, ca in cas.items()}
    playbook(ansible, "install", hosts)
    due = {"keyward_issued_before": now(), "keyward_reuse_key": False}
    return cas, {name: {**variables, **due} for name, variables in hosts.items()}


def finished(ansible: Ansible, directory: Path, cas: dict[str, Path], hosts: Hosts) -> None:
    """The next run."""
    renewed = playbook(ansible, "renewal", hosts)
    databases = playbook(ansible, "database_backup", hosts)
    for name, ca in cas.items():
        assert len(certificates(ca)) == 2, f"exactly one renewal on {name}\n{renewed}"
        assert covered(directory / "keys", ca) == certificates(ca), name
        assert changed(databases, name) == [], f"the database of {name} is backed up"


# --- between two steps ---

STEPS = [
    "keyward.pki.renewal : Look at the CA",
    "keyward.pki.renewal : Back up its keys before the renewal",
    "keyward.pki.renewal : Back up its database before the renewal",
    "keyward.pki.renewal : Renew the CA when that is due",
    "keyward.pki.renewal : Back up its keys after the renewal",
    "keyward.pki.each_authority : Sign each CRL that is due",
    "keyward.pki.renewal : Back up its database after the renewal",
    "keyward.pki.renewal : See which generations the backups cover",
]


def test_a_renewal_that_is_killed_between_any_two_steps(ansible: Ansible, tmp_path: Path) -> None:
    cas, hosts = installed(ansible, tmp_path, len(STEPS))
    for number, (name, step) in enumerate(zip(cas, STEPS, strict=True)):
        hosts[name]["keyward_reuse_key"] = number % 3 == 2
        cut = ansible.play("keyward.pki.renewal", hosts={name: hosts[name]}, env={"KEYWARD_TEST_CUT": step})
        assert cut.rc == -9, step
        assert len(certificates(cas[name])) == 1 + (number >= STEPS.index("keyward.pki.renewal : Renew the CA when that is due")), step
    finished(ansible, tmp_path, cas, hosts)
    for name, ca in cas.items():  # generations of one key share a CRL
        assert len(list(ca.glob("crl/crl*.pem"))) == (1 if hosts[name]["keyward_reuse_key"] else 2), name


# --- inside the renewal ---

# Before the new key has a name, before its certificate has one, and before each step of the switch.
MOMENTS = [
    ("os.link", "cakey.next.pem"),
    ("os.link", "cacert.next.pem"),
    ("os.link", "cacert.0.pem"),
    ("os.rename", "cakey.next.pem"),
    ("os.rename", "cacert.next.pem"),
]


def test_a_renewal_whose_module_is_killed(ansible: Ansible, tmp_path: Path) -> None:
    cas, hosts = installed(ansible, tmp_path, len(MOMENTS))
    pythons = {name: HostPython(tmp_path / f"python-{name}", moment) for name, moment in zip(cas, MOMENTS, strict=True)}
    stopping = {name: {**hosts[name], **ansible.local(python.program)} for name, python in pythons.items()}
    run = ansible.start("keyward.pki.renewal", hosts=stopping, arguments=["--forks", str(len(MOMENTS))])
    for python in pythons.values():
        python.wait_until_stopped(timeout=240)
    for python in pythons.values():
        python.kill()
    killed = run.finish()
    assert killed.rc == 2, str(killed)
    for name, moment in zip(cas, MOMENTS, strict=True):
        failed = [one.action for one in killed.results[name] if one.status == "failed"]
        assert failed[:1] == ["keyward.pki.ca_renew"], f"{moment}\n{killed}"
        assert ran(killed, "ca_database_backup", name)[1:], f"the rest runs all the same, {moment}\n{killed}"
    finished(ansible, tmp_path, cas, hosts)
    for name, ca in cas.items():
        assert not list(ca.rglob("*next*")), name
        issue(ca, "after")
        openssl("verify", "-CAfile", ca / "cacert.pem", tmp_path / f"{name}-after.pem")
        openssl("ca", "-config", ca / "openssl.cnf", "-gencrl", "-out", tmp_path / "crl.pem", cwd=ca)
        assert "verify OK" in openssl("crl", "-in", tmp_path / "crl.pem", "-CAfile", ca / "cacert.pem", "-noout").stderr
