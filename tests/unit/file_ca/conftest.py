# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of CAs of files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.openssl_ca import OpensslCa
from tools import require_tool


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    require_tool("openssl")
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    ca.sign_crl().unlink()  # a place that the configuration doesn't name
    return ca
