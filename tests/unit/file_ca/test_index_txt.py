# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of an index.txt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Numbers, Row, parse_index


def test_rows() -> None:
    text = "V\t270101000000Z\t\t1000\tunknown\t/CN=a\nR\t270101000000Z\t260101000000Z,superseded\t1001\tunknown\t/CN=b\n"
    rows = parse_index(text, "index.txt")
    assert "".join(f"{row.text}\n" for row in rows.values()) == text
    revoked = replace(rows[0x1000], state="R", revoked="260202000000Z")
    assert revoked.covers(rows[0x1000]) and not rows[0x1000].covers(revoked) and rows[0x1001].covers(rows[0x1001])
    assert not replace(rows[0x1001], revoked="x").covers(rows[0x1001])
    assert not Numbers(rows, 0x1002, 1).covers(Numbers({**rows, 0x1000: revoked}, 0x1002, 1))
    assert Numbers({**rows, 0x1000: revoked}, 0x1003, 1).covers(Numbers(rows, 0x1002, None))
    for damaged in ("V\tx", "X\t1\t\t1\tu\ts\n", "V\t1\t\tzz\tu\ts\n"):
        with pytest.raises(KeywardError) as refused:
            parse_index(damaged, "index.txt")
        assert "its line 1" in str(refused.value)
    assert Row("V", "e", "", "01", "unknown", "/CN=x").text.count("\t") == 5
