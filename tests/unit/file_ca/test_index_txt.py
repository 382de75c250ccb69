# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of an index.txt, what is said of its lines, and how it is written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import PlainRows, Row, RowsByNumber, index_text, read_index
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.numbers import Numbers

VALID = "V\t270101000000Z\t\t1000\tunknown\t/CN=a\n"
REVOKED = "R\t270101000000Z\t260101000000Z,superseded\t1001\tunknown\t/CN=b\n"


def test_rows_and_what_becomes_of_them() -> None:
    index = read_index((VALID + REVOKED).encode())
    rows = index.by_number
    assert "".join(f"{row.text}\n" for row in index.rows) == VALID + REVOKED and not index.faults
    assert isinstance(index.rows, PlainRows) and len(index.rows) == 2 and index.counts == (2, 1) and read_index(b"").counts == (0, 0)
    revoked = replace(rows[0x1000], state="R", revoked="260202000000Z")
    assert revoked.covers(rows[0x1000]) and not rows[0x1000].covers(revoked) and rows[0x1001].covers(rows[0x1001])
    assert not replace(rows[0x1001], revoked="x").covers(rows[0x1001])
    assert replace(rows[0x1000], serial="00001000").covers(rows[0x1000]), "the same number"
    assert not Numbers(rows, 0x1002, 1).has_rows_of(Numbers({**rows, 0x1000: revoked}, 0x1002, 1))
    assert Numbers({**rows, 0x1000: revoked}, None, None).has_rows_of(Numbers(rows, 0x1002, None))
    odd = replace(rows[0x1000], state="X")
    assert odd.covers(odd) and not rows[0x1000].covers(odd)
    assert Row("V", "e", "", "01", "unknown", "/CN=x").text.count("\t") == 5


def test_rows_that_are_made_when_they_are_asked_for_are_the_same_rows() -> None:
    line = "V\t330101000000Z\t\t{}\tunknown\t/CN={}\n"
    text = "".join(line.format(number, name) for number, name in (("1000", "a"), ("1001", "b"), ("F" * 40, "c")))
    rows = read_index(text.encode()).by_number
    assert isinstance(rows, RowsByNumber) and [row.subject for row in rows.values()] == ["/CN=a", "/CN=b", "/CN=c"]
    assert rows == dict(rows) and dict(rows) == rows and rows == read_index(text.encode()).by_number
    assert rows.get(7) is None and 0x1001 in rows and 7 not in rows and not read_index(b"").by_number
    reversed_text = "".join(reversed(text.splitlines(keepends=True)))
    assert rows == read_index(reversed_text.encode()).by_number, "the order of the rows says nothing"
    for other in (text.replace("CN=b", "CN=x"), text.replace("1001", "1002"), text[: text.rindex("V")]):
        assert rows != read_index(other.encode()).by_number


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        (VALID + "\n" + REVOKED, 2, "is empty"),
        (VALID + "V\tx\n", 2, "has 2 columns"),
        (VALID.replace("/CN=a", "/CN=a\tb"), 1, "has 7 columns"),
        (REVOKED + REVOKED, 2, "has the serial number of line 1 again"),
        ("\ufeff" + REVOKED, 1, "its state, '\\ufeffR', is not R"),
        (VALID + VALID.replace("\t1000\t", "\t1009\t"), 2, "second valid certificate of one subject (line 1)"),
        (VALID.replace("\t\t", "\t260101000000Z\t"), 1, "is not R"),
        (REVOKED.replace("superseded", "whim"), 1, "a reason of revocation"),
        (VALID.replace("\t1000\t", "\t100\t"), 1, "no even number of digits"),
        (VALID.replace("\t1000\t", "\t10zz\t"), 1, "not hexadecimal"),
        (VALID.replace("270101000000Z", "270132000000Z"), 1, "no date of expiry"),
    ],
)
def test_what_openssl_refuses_is_named_with_its_line(data: str, line: int, said: str) -> None:
    index = read_index(data.encode(), unique_subject=True)
    assert isinstance(index.rows, tuple), "each row is looked at"
    (finding,) = [each for each in index.findings("/ca/index.txt") if each.code == "index_refused"]
    assert f"refuses /ca/index.txt: line {line} " in finding.message and said in finding.message
    with pytest.raises(KeywardError) as refused:
        index.refuse("nothing was done", "/ca/index.txt")
    assert f"line {line} " in str(refused.value)


@pytest.mark.parametrize(
    ("data", "line", "said", "unread"),
    [
        (VALID + REVOKED[:-1], 2, "no newline at its end", {0x1001}),
        (VALID + "#" + REVOKED, 2, "begins with #", set()),
        (VALID + "r" + VALID[1:].replace("\t1000\t", "\t1001\t"), 2, "neither valid nor revoked", {0x1001}),
        ("\ufeff" + VALID, 1, "byte order mark", set()),
        (VALID.replace("\t1000\t", "\t0a\t"), 1, "openssl compares letters", set()),
        (VALID.replace("\t1000\t", "\t0A\t") + REVOKED.replace("\t1001\t", "\t0a\t"), 2, "in other letters", set()),
        (VALID.replace("\n", "\r\n"), 1, "ends with a carriage return", set()),
        (VALID.replace("/CN=a", "CN=a"), 1, "not as openssl writes it", set()),
        (VALID.replace("/CN=a", "/CN=ä"), 1, "not as openssl writes it", set()),
        (VALID + "\0\n" + REVOKED, 2, "holds a NUL byte", set()),
    ],
)
def test_what_openssl_takes_for_something_else_is_named(data: str, line: int, said: str, unread: set[int]) -> None:
    index = read_index(data.encode(), unique_subject=True)
    assert any(f"line {line} of /ca/index.txt" in each.message and said in each.message for each in index.findings("/ca/index.txt"))
    assert {each.code for each in index.findings("/ca/index.txt")} == {"index_passed_over"}
    assert index.revoked_unread == unread
    index.refuse("nothing was done", "/ca/index.txt")


def test_one_number_in_two_spellings_is_one_certificate_and_revoked() -> None:
    index = read_index((REVOKED.replace("\t1001\t", "\t0a\t") + VALID.replace("\t1000\t", "\t0A\t")).encode())
    assert index.by_number[10].kind == "R" and index.revoked == {10}


def test_faults_beyond_number_are_counted() -> None:
    found = read_index(b"x\n" * 1000).findings("index.txt")
    assert len(found) == 21 and "980 further lines" in found[-1].message


def test_what_is_not_changed_is_written_as_it_was() -> None:
    source = f"# a note\n{VALID}{REVOKED}".encode()
    base = read_index(source).by_number
    revoked = replace(base[0x1000], state="R", revoked="260202000000Z")
    added = replace(base[0x1000], serial="1002", subject="/CN=tab\tin it")
    result = {**base, 0x1000: revoked, 0x1002: added}
    twice = replace(base[0x1001], state="V", revoked="", subject="/CN=other")
    text = index_text(source, base, result, {0x1001: twice})
    assert text.decode() == f"# a note\n{revoked.text}\n{REVOKED}{added.text}\n#{twice.text}\n"
    assert read_index(text).by_number == result
    assert index_text(text, result, result, {0x1001: twice}) == text
