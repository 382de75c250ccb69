# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into a new bundle, and what can't."""

from __future__ import annotations

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._sealing import password_fault, seal
from support.authorities import PASSWORD, generation, key


def test_seal_refuses_a_partial_backup():
    with pytest.raises(KeywardError) as caught:
        seal([generation("a"), generation("b", 1)], {generation("a").public_key_sha256: key("a")}, [], PASSWORD)
    assert [finding.code for finding in caught.value.findings] == ["key_missing"]


def test_passwords_that_protect_nothing_are_refused():
    assert password_fault("x" * 19)
    assert password_fault("ä" * 20)
    assert password_fault("x" * 20) is None
