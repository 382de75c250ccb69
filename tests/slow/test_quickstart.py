# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make quickstart` tells the whole story, whatever an earlier run has left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ansible_run import SCRUBBED, SUPPORT
from support.host_python import HostPython
from support.quick import FEW_ITERATIONS
from support.warm_python import WarmPython
from tools import require_tool

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "quickstart" / "run.sh"
ACCOUNT = """\
   CA: changed=True, CN=Quickstart Root CA,O=Quickstart
   key backup: changed=True, 1 generation, restorable=True
   database backup: changed=True
   second.example.com: revoked
   key backup: changed=False
   database backup: changed=True, database_changed
   CA: renewed=True, 2 generations
   key backup: changed=True
   CRLs: 2
   CA: renewed=False, 2 generations
   database backup: changed=False
   2 certificates issued so far, and nothing left that could revoke one
   keys: changed=True, cakey.pem, cacert.pem, cakey.0.pem, cacert.0.pem
   database: changed=True, next serial
   proof: 2 generations signed a CRL in a scratch place
   the list of issued certificates is the same as before
   keys: changed=False, nothing
   database: changed=False, next serial
   third.example.com: serial
   a CRL of generation 0, verified with cacert.0.pem
   1 authority: 0 red, 1 with warnings, 0 fine; 2 private keys, 0 would be lost today
   the page:
"""


# Modules of the others are executed by a Python that has started already.
COLD = ("stores", "install", "backup")


def commands(directory: Path, warm: WarmPython) -> Path:
    """A folder with ansible-playbook and ansible-galaxy."""
    directory.mkdir()
    real = Path(sys.executable).parent
    (directory / "ansible-galaxy").symlink_to(real / "ansible-galaxy")
    variables = {"ansible_connection": "keyward_warm", "ansible_python_interpreter": sys.executable, "keyward_warm_python": warm.variable}
    (directory / "variables.json").write_text(json.dumps(variables))
    cold = "|".join(f"*/{name}.yml" for name in COLD)
    program = directory / "ansible-playbook"
    program.write_text(
        f'#!/bin/sh\ncase $1 in {cold}) ;; *) set -- "$@" -e @{directory}/variables.json ;; esac\nexec {real}/ansible-playbook "$@"\n'
    )
    program.chmod(0o755)
    return directory


def test_quickstart(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, shared: Path, warm_python: WarmPython) -> None:
    require_tool("openssl")
    left_by_an_earlier_run = tmp_path / "quickstart" / "ca" / "cacert.pem"
    left_by_an_earlier_run.parent.mkdir(parents=True)
    left_by_an_earlier_run.write_text("none")
    command = ["bash", str(SCRIPT), str(commands(tmp_path_factory.mktemp("bin") / "commands", warm_python))]
    (shared / "modules").mkdir(exist_ok=True)
    kept = {  # what each run would make anew and each module compile anew
        "ANSIBLE_CALLBACKS_ENABLED": "keyward_kept,keyward_quick",
        "ANSIBLE_CALLBACK_PLUGINS": str(SUPPORT / "callback_plugins"),
        "ANSIBLE_CONNECTION_PLUGINS": str(SUPPORT / "connection_plugins"),
        "KEYWARD_TEST_MODULES": str(shared / "modules"),
        "KEYWARD_TEST_ITERATIONS": str(FEW_ITERATIONS),
        "PYTHONPATH": str(HostPython(tmp_path_factory.mktemp("python")).hooks),
    }
    own = {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}
    done = subprocess.run(command, cwd=tmp_path, env={**own, **kept}, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    rest = iter(said)
    missing = [expected for expected in ACCOUNT.splitlines() if not any(line.startswith(expected) for line in rest)]
    assert not missing, f"not told, or not in this order: {missing}\n{done.stdout}"
    fingerprints = [line for line in said if line.endswith("...")]
    assert len(set(fingerprints)) == 2, "two generations"
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]
