# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a newer set lacks of an older one: entries that are lost, and what keeps the older one from being removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import Lacks
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.set_contents import compared
from ansible_collections.keyward.pki.plugins.module_utils._stored import SETS, Stored
from support.openssl_ca import OpensslCa, openssl
from support.sets import make

GONE = "V\t200101000000Z\t\t0A00\tunknown\t/CN=gone"  # expired


@pytest.fixture
def issued(ca: OpensslCa) -> OpensslCa:
    """Three certificates, the first of them revoked."""
    for number in range(2):
        ca.issue(f"n{number}.example.com")
    openssl("ca", "-config", ca.config_file, "-revoke", ca.directory / "newcerts" / "1000.pem", cwd=ca.directory)
    index = ca.directory / "index.txt"
    index.write_text(index.read_text() + GONE + "\n")
    return ca


def lacks(ca: OpensslCa, tmp_path: Path, change: object) -> Lacks:
    """What a set lacks after a change that the set before it has not seen."""
    found = []
    for name in ("older", "newer"):
        manifest = make(ca, tmp_path / name)
        found.append(Stored(str(tmp_path / name), manifest, SETS))
        if callable(change) and name == "older":
            change()
    return compared(found[1], found[0])


def rewritten(ca: OpensslCa, *changes: tuple[str, str]) -> None:
    index = ca.directory / "index.txt"
    rows = index.read_text()
    for old, new in changes:
        assert old in rows
        rows = rows.replace(old, new)
    index.write_text(rows)


def row(ca: OpensslCa, serial: str) -> str:
    (found,) = [line for line in (ca.directory / "index.txt").read_text().splitlines(True) if f"\t{serial}\t" in line]
    return found


def test_what_a_ca_does_loses_nothing(issued: OpensslCa, tmp_path: Path) -> None:
    def goes_on() -> None:
        issued.issue("later.example.com")
        openssl("ca", "-config", issued.config_file, "-revoke", issued.directory / "newcerts" / "1001.pem", cwd=issued.directory)
        openssl("ca", "-config", issued.config_file, "-updatedb", cwd=issued.directory)
        (issued.directory / "newcerts" / "1002.pem").rename(issued.directory / "newcerts" / "moved.pem")

    assert lacks(issued, tmp_path, goes_on) == Lacks(any=False)


def test_lost_entries_are_counted_and_those_of_revoked_certificates_too(issued: OpensslCa, tmp_path: Path) -> None:
    found = lacks(issued, tmp_path, lambda: rewritten(issued, (row(issued, "1000"), ""), (row(issued, "1001"), "")))
    assert (found.rows, found.revoked, found.any, found.example) == (2, 1, True, "the entry 1000")
    assert found.until > "2027"


def test_a_revocation_that_was_taken_back_is_lost(issued: OpensslCa, tmp_path: Path) -> None:
    fields = row(issued, "1000").split("\t")
    found = lacks(issued, tmp_path, lambda: rewritten(issued, (row(issued, "1000"), "\t".join(["V", fields[1], "", *fields[3:]]))))
    assert (found.rows, found.revoked) == (1, 1)


def test_entries_of_expired_certificates_are_no_loss_and_their_set_stays(issued: OpensslCa, tmp_path: Path) -> None:
    found = lacks(issued, tmp_path, lambda: rewritten(issued, (GONE + "\n", "")))
    assert (found.rows, found.any, found.example) == (0, True, "the entry 0A00")


def test_an_entry_that_says_less_is_no_loss_and_its_set_stays(issued: OpensslCa, tmp_path: Path) -> None:
    """As a restore enters a revocation of which only the CRL tells."""
    found = lacks(issued, tmp_path, lambda: rewritten(issued, (row(issued, "1000").split("\t")[5], "/CN=re-entered\n")))
    assert (found.rows, found.any) == (0, True)


@pytest.mark.parametrize("how", ["removed", "other bytes"])
def test_an_issued_file_that_is_gone_keeps_its_set(issued: OpensslCa, tmp_path: Path, how: str) -> None:
    path = issued.directory / "newcerts" / "1001.pem"
    shutil.rmtree(issued.directory / "certs", ignore_errors=True)  # the same bytes, where they are issued to
    found = lacks(issued, tmp_path, path.unlink if how == "removed" else lambda: path.write_text("other"))
    assert (found.rows, found.any, found.example) == (0, True, str(path))
