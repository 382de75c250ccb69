# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks run in this process; what they sign with and remember lies in a home of each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.signers import make_home


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(make_home(tmp_path / "home")))
    return tmp_path / "home"
