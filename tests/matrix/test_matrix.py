# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A play and the playbooks on every supported ansible-core and on every target Python, in sensible pairs: each of either at least once."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible, build_and_install
from support.host_python import HostPython
from support.openssl_ca import OpensslCa, openssl
from support.plays import play, step
from support.pythons import find, make_venv
from support.roles import a_root, changed, entry, issue, issued, make_stores, now, playbook, ran
from support.warm_playbook import WarmPlaybooks
from tools import require_tool

ROOT = Path(__file__).resolve().parents[2]
PLAY = Path(__file__).resolve().parent / "e2e.yml"
# ansible-core: the Pythons that it takes as a controller, the preferred one first.
CONTROLLERS = {"2.16": ("3.11", "3.12"), "2.19": ("3.11", "3.12", "3.13"), "2.21": ("3.13", "3.12", "3.14")}
# ansible-core, target Python, its cryptography: the oldest, then what distributions ship, then the newest.
PAIRS = [
    ("2.16", "3.9", "cryptography == 36.0.2"),
    ("2.16", "3.10", "cryptography == 38.0.4"),
    ("2.19", "3.11", "cryptography == 38.0.4"),
    ("2.19", "3.12", "cryptography == 41.0.7"),
    ("2.21", "3.9", "cryptography == 36.0.2"),
    ("2.21", "3.13", "cryptography"),
]


def python(*versions: str) -> Path:
    found = next((program for program in map(find, versions) if program), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"Python {' or '.join(versions)} is not installed")
    return found


@pytest.fixture(scope="session")
def installed_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The path below which the ansible-galaxy beside it has built and installed the tarball, once."""
    return functools.cache(lambda commands: build_and_install(ROOT, tmp_path_factory.mktemp(commands.parent.name), commands))


@pytest.fixture(params=PAIRS, ids=[f"core{core}-target{version}" for core, version, _cryptography in PAIRS])
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, installed_by: Callable[[Path], Path], warm_playbooks: WarmPlaybooks
) -> tuple[Ansible, Path]:
    """An ansible-core with the collection, and the Python of its host."""
    require_tool("openssl")
    core, version, cryptography = request.param
    controller = make_venv(f"core-{core}", python(*CONTROLLERS[core]), [f"ansible-core == {core}.*", "cryptography"])
    target = make_venv(f"target-{version}", python(version), [cryptography])
    commands = controller / "bin"
    host_python = HostPython(tmp_path / "python", python=target / "bin" / "python")
    return Ansible(tmp_path / "ansible", installed_by(commands), commands, playbooks=warm_playbooks), host_python.program


def test_backup_to_restore(pair: tuple[Ansible, Path], tmp_path: Path) -> None:
    ansible, target = pair
    ca = OpensslCa(tmp_path / "ca")
    old_certificate, old_key = ca.renew_keeping()
    before = {path: path.read_bytes() for path in (ca.private_key, old_key)}

    result = ansible.play(
        PLAY,
        hosts={"ca1": ansible.local(target)},
        extra_vars={
            "config_file": str(ca.config_file),
            "store": str(tmp_path / "store"),
            "password": "correct horse battery staple",
            "private_key_files": [str(path) for path in before],
        },
    ).ok()

    changed = {one.task: one["changed"] for one in result.results["ca1"]}
    assert changed == {
        "Make the store": True,
        "Look at the CA": False,
        "Back the keys up": True,
        "Back the keys up again": False,
        "See what the store holds": False,
        "Prove the backup": False,
        "Lose every private key": True,
        "Predict the restore": True,
        "Restore the keys": True,
        "Restore them again": False,
    }
    assert len(result.task("Look at the CA")["generations"]) == len(before)
    assert result.task("Back the keys up again")["due"] is False
    assert result.task("Prove the backup")["restorable"] is True
    assert len(set(result.task("Prove the backup")["private_keys"])) == len(before)
    assert {path.stat().st_mode & 0o777 for path in before} == {0o600}
    ca.sign_crl()
    ca.issue("after.example.com")
    ca.sign_crl(old_certificate, old_key)
    ca.issue("before.example.com", old_certificate, old_key)


def contents(*directories: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for directory in directories for path in directory.rglob("*") if path.is_file()}


def assert_signs_for(directory: Path, number: str, name: str) -> None:
    """openssl ca signs a CRL with that generation, and with it verifies a certificate that the generation issued."""
    certificate, crl = directory / f"cacert{number}.pem", directory.parent / f"{directory.name}{number}-crl.pem"
    pair = ("-cert", certificate, "-keyfile", directory / "private" / f"cakey{number}.pem")
    openssl("ca", "-config", directory / "openssl.cnf", "-batch", *pair, "-gencrl", "-out", crl, cwd=directory)
    issued_by_it = directory.parent / f"{directory.name}-{name}.pem"
    openssl("verify", "-partial_chain", "-crl_check", "-CRLfile", crl, "-trusted", certificate, issued_by_it)


def test_install_to_restore(pair: tuple[Ansible, Path], tmp_path: Path) -> None:
    """The whole life of a root and its issuing CA on one host, by the playbooks."""
    ansible, target = pair
    root, issuing = tmp_path / "root", tmp_path / "issuing"
    parent = {"host": "ca", "config_file": str(root / "openssl.cnf")}
    subordinate = a_root(issuing, "Example Issuing CA", keyward_kind="subordinate", keyward_key_type="EC")
    common = {
        **make_stores(ansible, tmp_path),
        "keyward_reuse_key": False,
        "keyward_authorities": [entry(a_root(root)), {**entry(subordinate), "parent": parent}],
    }

    def hosts(issued_before: str) -> dict[str, Any]:
        return {"ca": ansible.local(target, **common, keyward_issued_before=issued_before)}

    old = hosts("2000-01-01T00:00:00Z")
    predicted = playbook(ansible, "install", old, check=True)
    assert (ran(predicted, "ca_install"), root.exists(), issuing.exists()) == ([True, True], False, False)
    installed = playbook(ansible, "install", old)
    # The issuing CA: its request, then what the root answers.
    assert (ran(installed, "ca_install"), ran(installed, "ca_sign")) == ([True, True, True], [True])
    assert (ran(installed, "ca_key_backup"), ran(installed, "ca_database_backup")) == ([True, True], [True, True, True])
    openssl("verify", "-CAfile", root / "cacert.pem", issuing / "cacert.pem")
    assert changed(playbook(ansible, "install", old)) == []

    first = issue(issuing, "first")
    assert ran(playbook(ansible, "database_backup", old), "ca_database_backup") == [False, True]

    due = hosts(now())
    before = contents(root, issuing)
    assert ran(playbook(ansible, "renewal", due, check=True), "ca_renew") == [True, True]
    assert contents(root, issuing) == before
    renewed = playbook(ansible, "renewal", due)
    assert (ran(renewed, "ca_renew"), ran(renewed, "ca_sign")) == ([True, True, True], [True])
    assert ran(renewed, "ca_key_backup") == [False, True, False, True]
    assert ran(renewed, "ca_database_backup") == [False, True, False, True, True]
    assert ran(renewed, "ca_crl") == [True, False, True, False], "signed, then looked at as clients do"
    assert changed(playbook(ansible, "renewal", due)) == []
    second = issue(issuing, "second")
    assert ran(playbook(ansible, "database_backup", due), "ca_database_backup") == [False, True]

    there, listed = contents(root, issuing), issued(issuing)
    assert [row[2] for row in listed] == [first, second]
    shutil.rmtree(root)
    shutil.rmtree(issuing)
    restored = playbook(ansible, "restore", due)
    # The configuration, the keys, the rest of the database.
    assert (ran(restored, "ca_database_restore"), ran(restored, "ca_key_restore")) == ([True] * 4, [True] * 2)
    back = contents(root, issuing)
    assert {path.name for path in there if back.pop(path) != there[path]} == {"serial", "crlnumber"} and not back
    assert issued(issuing) == listed
    assert changed(playbook(ansible, "restore", due)) == []

    openssl("verify", "-CAfile", root / "cacert.0.pem", "-untrusted", issuing / "cacert.0.pem", tmp_path / "issuing-first.pem")
    openssl("verify", "-CAfile", root / "cacert.pem", "-untrusted", issuing / "cacert.pem", tmp_path / "issuing-second.pem")
    assert int(issue(issuing, "third"), 16) == int(second, 16) + 1 + 65536, "a restored database goes on beyond what nobody saw"
    for number, name in ((".0", "first"), ("", "second"), ("", "third")):
        assert_signs_for(issuing, number, name)

    # The database is lost, the CRL that was published is not.
    for directory in (root, issuing):
        published = shutil.copy(directory / "crl" / "crl.pem", tmp_path / f"{directory.name}-published.pem")
        given = {"config_file": str(directory / "openssl.cnf"), "published_crl": str(published)}
        signing = [step("ca_crl", name, **given) for name in ("sign", "sign again")]
        signed = play(ansible, signing, hosts=due)
        assert (signed.task("sign")["changed"], signed.task("sign again")["changed"]) == (True, False)
        verified = openssl("crl", "-in", directory / "crl" / "crl.pem", "-noout", "-CAfile", directory / "cacert.pem")
        assert "verify OK" in verified.stdout + verified.stderr
