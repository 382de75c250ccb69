# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all unit tests share."""

from __future__ import annotations

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer
from support.quick import FEW_ITERATIONS


@pytest.fixture(autouse=True)
def quick_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the codec's own tests, which count the iterations."""
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", FEW_ITERATIONS)
