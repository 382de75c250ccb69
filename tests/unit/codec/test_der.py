# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DER is read as it is written."""

from __future__ import annotations

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _der


@pytest.mark.parametrize("dotted", ["1.2.840.113549.1.12.10.1.2", "2.999.1", "0.9.2342", "2.5.4.3", "1.3.6.1.4.1.4294967296.0"])
def test_object_identifiers(dotted):
    assert _der.oid(_der.first(_der.tlv_oid(dotted))) == dotted


@pytest.mark.parametrize("number", [0, 1, 127, 128, -1, -128, -129, 1 << 160, -(1 << 160)])
def test_integers(number):
    """Serial numbers are negative where software forgot the leading zero."""
    assert _der.integer(_der.only(_der.tlv_integer(number))) == number
