# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the openssl backend share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.openssl_ca import OpensslCa
from support.openssl_reading import MakeCa
from tools import require_tool


@pytest.fixture
def make_ca(tmp_path: Path) -> MakeCa:
    require_tool("openssl")
    return lambda **known: OpensslCa(tmp_path / "ca", **known)


@pytest.fixture(scope="module")
def rsa_ca(tmp_path_factory: pytest.TempPathFactory) -> OpensslCa:
    """To be copied: RSA keys take long to make."""
    require_tool("openssl")
    return OpensslCa(tmp_path_factory.mktemp("rsa") / "ca", algorithm="rsa:2048", relative=True)


@pytest.fixture
def ca(make_ca: MakeCa) -> OpensslCa:
    return make_ca()


@pytest.fixture
def three(ca: OpensslCa) -> OpensslCa:
    """Generations 0 and 1 share a key, 2 has its own and is the current one; kept as renewals keep them."""
    ca.renew_keeping(new_key=False)
    ca.renew_keeping()
    return ca
