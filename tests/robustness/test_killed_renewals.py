# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A renewal that is killed, between two steps or inside one, is finished by the next run: one new generation, and it is backed up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_install import ActionModule as CaInstall
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer
from support.ansible_run import Ansible
from support.fake_host import FakeHost
from support.host_python import HostPython
from support.lifecycle import ended_well
from support.openssl_ca import openssl
from support.plays import PASSWORD, tree
from support.quick import FEW_ITERATIONS
from support.roles import a_root, certificates, covered, entry, issue, make_stores, now, playbook, ran
from support.signers import make_home
from tools import require_tool

Hosts = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _home(ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks in this process have the home of the plays."""
    require_tool("openssl")
    monkeypatch.setenv("HOME", str(make_home(ansible.scratch / "home")))
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", FEW_ITERATIONS)


def does(name: str, task: type, ca: Path, **options: Any) -> dict[str, Any]:
    return ended_well(FakeHost(name).run(task, {"config_file": str(ca / "openssl.cnf"), **options}))


def backed_up(directory: Path, name: str, ca: Path) -> list[bool]:
    """Backs up keys and database; whether each was due."""
    keys = does(name, CaKeyBackup, ca, stores=[str(directory / "keys")], password=PASSWORD)
    return [keys["changed"], does(name, CaDatabaseBackup, ca, stores=[str(directory / "databases")])["changed"]]


def installed(ansible: Ansible, directory: Path, count: int) -> tuple[dict[str, Path], Hosts]:
    """Hosts, each with a CA of its own that is backed up and due for a renewal: their CAs' directories, and their variables."""
    stores = make_stores(ansible, directory)
    cas = {f"ca{number}": directory / f"ca{number}" for number in range(count)}
    roots = {name: a_root(ca, f"Example Root {name}") for name, ca in cas.items()}
    for name, ca in cas.items():
        does(name, CaInstall, ca, **entry(roots[name]))
        assert backed_up(directory, name, ca) == [True, True]
    due = {"keyward_issued_before": now(), "keyward_reuse_key": False}
    return cas, {name: ansible.local(**stores, **root, **due) for name, root in roots.items()}


def finished(ansible: Ansible, directory: Path, cas: dict[str, Path], hosts: Hosts) -> None:
    """The next run."""
    renewed = playbook(ansible, "renewal", hosts)
    for name, ca in cas.items():
        assert len(certificates(ca)) == 2, f"exactly one renewal on {name}\n{renewed}"
        assert covered(directory / "keys", ca) == certificates(ca), name
        assert backed_up(directory, name, ca) == [False, False], name


# --- between two steps ---

# Until the first of them has ended, nothing is changed where all was backed up: killed after the look or after the gate is the same. So is
# killed after the last, which only looks (ca_key_backup_info, see tests/slow/test_idempotence_by_module.py).
STEPS = [
    "keyward.pki.renewal : Back up its database before the renewal",
    "keyward.pki.renewal : Renew the CA when that is due",
    "keyward.pki.renewal : Back up its keys after the renewal",
    "keyward.pki.each_authority : Sign each CRL that is due",
    "keyward.pki.renewal : Back up its database after the renewal",
]


def test_a_renewal_that_is_killed_between_any_two_steps(ansible: Ansible, tmp_path: Path) -> None:
    cas, hosts = installed(ansible, tmp_path, len(STEPS))
    for number, (name, step) in enumerate(zip(cas, STEPS, strict=True)):
        hosts[name]["keyward_reuse_key"] = number % 3 == 2
        kept = [cas[name], tmp_path / "keys", tmp_path / "databases"]
        before = tree(*kept)
        cut = ansible.play("keyward.pki.renewal", hosts={name: hosts[name]}, env={"KEYWARD_TEST_CUT": step})
        assert cut.rc == -9, step
        assert len(certificates(cas[name])) == 1 + (number > 0), step
        assert (tree(*kept) == before) is (number == 0), step
        if number == 0:
            assert ran(cut, "ca_info") == ran(cut, "ca_key_backup") == [False], cut
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


def goes_on(directory: Path, name: str, ca: Path) -> None:
    assert not list(ca.rglob("*next*")), name
    issue(ca, "after")
    openssl("verify", "-CAfile", ca / "cacert.pem", directory / f"{name}-after.pem")
    openssl("ca", "-config", ca / "openssl.cnf", "-gencrl", "-out", directory / "crl.pem", cwd=ca)
    assert "verify OK" in openssl("crl", "-in", directory / "crl.pem", "-CAfile", ca / "cacert.pem", "-noout").stderr


def killed_at(moment: tuple[str, str], call: Callable[[], object]) -> bool:
    """Runs a call in a child that kills itself at a moment; whether that came."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == moment[0] and moment[1] in str(arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        with contextlib.suppress(BaseException):
            call()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_backups_after_a_renewal_that_is_killed_at_any_moment(ansible: Ansible, tmp_path: Path) -> None:
    cas, hosts = installed(ansible, tmp_path, len(MOMENTS))
    for (name, ca), moment in zip(cas.items(), MOMENTS, strict=True):
        due = {"reuse_key": False, "issued_before": hosts[name]["keyward_issued_before"]}
        assert killed_at(moment, lambda name=name, ca=ca, due=due: does(name, CaRenew, ca, **due)), moment
        backed_up(tmp_path, name, ca)
        between = covered(tmp_path / "keys", ca)
        does(name, CaRenew, ca, **due)
        assert len(certificates(ca)) == 2 and between <= certificates(ca), moment
        backed_up(tmp_path, name, ca)
        assert covered(tmp_path / "keys", ca) == certificates(ca), moment
        assert backed_up(tmp_path, name, ca) == [False, False], moment
        assert not does(name, CaRenew, ca, **due)["changed"], moment
        goes_on(tmp_path, name, ca)


def test_a_renewal_whose_module_is_killed(ansible: Ansible, tmp_path: Path) -> None:
    """Before the switch and in its middle: the play goes on with what it can, and the next one ends well."""
    moments = (MOMENTS[1], MOMENTS[4])
    cas, hosts = installed(ansible, tmp_path, len(moments))
    pythons = {name: HostPython(tmp_path / f"python-{name}", moment) for name, moment in zip(cas, moments, strict=True)}
    stopping = {name: {**hosts[name], **ansible.local(python.program)} for name, python in pythons.items()}
    run = ansible.start("keyward.pki.renewal", hosts=stopping, arguments=["--forks", str(len(moments))])
    for python in pythons.values():
        python.wait_until_stopped(timeout=240)
    for python in pythons.values():
        python.kill()
    killed = run.finish()
    assert killed.rc == 2, str(killed)
    for name, moment in zip(cas, moments, strict=True):
        failed = [one.action for one in killed.results[name] if one.status == "failed"]
        assert failed[:1] == ["keyward.pki.ca_renew"], f"{moment}\n{killed}"
        assert ran(killed, "ca_database_backup", name)[1:], f"the rest runs all the same, {moment}\n{killed}"
    finished(ansible, tmp_path, cas, hosts)
    for name, ca in cas.items():
        goes_on(tmp_path, name, ca)
