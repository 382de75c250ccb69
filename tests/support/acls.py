# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ACLs on files, where this machine has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tools import require_tool


def setfacl(path: Path, *arguments: str) -> None:
    require_tool("setfacl")
    done = subprocess.run(["setfacl", *arguments, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no ACLs here: {done.stderr}")
