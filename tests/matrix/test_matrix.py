# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end-to-end play on every supported ansible-core and on every target Python, in sensible pairs: each of either at least once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.ansible_run import Ansible, build_and_install
from support.openssl_ca import OpensslCa
from support.pythons import find, make_venv
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


@pytest.mark.parametrize(
    ("core", "version", "cryptography"), PAIRS, ids=[f"core{core}-target{version}" for core, version, _cryptography in PAIRS]
)
def test_backup_to_restore(core: str, version: str, cryptography: str, tmp_path: Path) -> None:
    require_tool("openssl")
    controller = make_venv(f"core-{core}", python(*CONTROLLERS[core]), [f"ansible-core == {core}.*", "cryptography"])
    target = make_venv(f"target-{version}", python(version), [cryptography])
    ca = OpensslCa(tmp_path / "ca")
    old_certificate, old_key = ca.renew_keeping()
    before = {path: path.read_bytes() for path in (ca.private_key, old_key)}

    ansible = Ansible(tmp_path / "ansible", build_and_install(ROOT, tmp_path, controller / "bin"), controller / "bin")
    result = ansible.play(
        PLAY,
        hosts={"ca1": ansible.local(target / "bin" / "python")},
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
