# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make quickstart` tells the whole story, and tells it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools import require_tool

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "quickstart" / "run.sh"
ACCOUNT = """\
   generation 0: a certificate and a CRL signed with it, both verified with cacert.pem
   changed=True: 2 generations in
   restorable=True: 2 private keys, AES-256-CBC, PBKDF2-HMAC-SHA256, 300000 iterations
   changed=False, due=False
   openssl can sign nothing any more
   changed=True: cakey.pem, cakey.0.pem
   changed=False: a second run touches nothing
   generation 0: a certificate and a CRL signed with it, both verified with cacert.0.pem
   generation 1: a certificate and a CRL signed with it, both verified with cacert.pem
"""


def test_quickstart(tmp_path: Path) -> None:
    require_tool("openssl")
    fingerprints = []
    for _run in range(2):
        command = ["bash", str(SCRIPT), str(Path(sys.executable).parent)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout.splitlines()
        told = [line for expected in ACCOUNT.splitlines() for line in said if line.startswith(expected)]
        assert [line for line in said if line in told] == told, "in this order"
        assert len(told) == len(ACCOUNT.splitlines()), done.stdout
        fingerprints.append([line for line in said if line.endswith("...")])
        assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]
    assert len(fingerprints[0]) == 2 and not set(fingerprints[0]) & set(fingerprints[1]), "each run makes a CA of its own"
