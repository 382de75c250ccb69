# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ca_crl decides, on what a host tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from support.meanwhile import Meanwhile
from support.openssl_ca import OpensslCa


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


def numbers(result: dict[str, Any]) -> list[str]:
    return [crl["number"] for crl in result["crls"]]


def test_where_nothing_is_due_the_host_is_asked_once(ca: OpensslCa) -> None:
    host = Meanwhile(ca.config_file)
    assert host.does(CaCrl)["changed"] and host.orders() == ["crls", "crls"]
    host.sent.clear()
    assert not host.does(CaCrl)["changed"] and host.orders() == ["crls"]
    host.sent.clear()
    assert host.does(CaCrl, remaining_days=31, check=True)["changed"] and host.orders() == ["crls", "crls"]  # a rehearsal


def test_of_two_runs_at_the_same_time_one_signs(ca: OpensslCa) -> None:
    host, other = Meanwhile(ca.config_file), Meanwhile(ca.config_file)
    told = False

    def meanwhile(order: str) -> None:
        nonlocal told
        if told:
            assert other.does(CaCrl)["changed"]
        told = True

    host.act = meanwhile
    result = host.does(CaCrl)
    assert not result["changed"] and numbers(result) == ["01"]
    assert (ca.directory / "crlnumber").read_text() == "02\n"


def test_a_ca_that_was_renewed_meanwhile_is_looked_at_again(ca: OpensslCa) -> None:
    host, other = Meanwhile(ca.config_file), Meanwhile(ca.config_file)
    orders = 0

    def meanwhile(order: str) -> None:
        nonlocal orders
        orders += 1
        if orders == 2:
            assert other.does(CaRenew, reuse_key=False, remaining_days=4000, days=5000)["renewed"]

    host.act = meanwhile
    result = host.does(CaCrl)
    assert result["changed"] and len(result["crls"]) == 2
    assert [crl["certificate"] for crl in result["crls"]] == [one["fingerprints"]["sha256"] for one in result["generations"]]


def test_a_delta_crl_is_no_crl_to_go_on_with(ca: OpensslCa) -> None:
    """It lists only what is new: where it alone is served, what was revoked before is valid again."""
    text, host = ca.config_file.read_text(), Meanwhile(ca.config_file)
    delta = text.replace("unique_subject", "crl_extensions = delta\nunique_subject") + "[ delta ]\n2.5.29.27 = critical,DER:020101\n"
    ca.config_file.write_text(delta)
    ca.sign_crl()
    ca.config_file.write_text(text)
    assert host.does(CaCrl)["changed"] and not host.does(CaCrl)["changed"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_key_that_only_the_library_cannot_read_signs_its_crl(damaged: bool, tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm="prime239v1")
    if damaged:
        ca.private_key.write_bytes(ca.private_key.read_bytes().replace(b"\nM", b"\nN", 1))
    host, number = Meanwhile(ca.config_file), ca.directory / "crlnumber"
    foretold = host.does(CaCrl, check=True)
    assert number.read_text() == "01\n"
    signed = host.does(CaCrl)
    for told in (foretold, signed):
        assert told["failed"] and "can't be used: it is" in told["msg"] if damaged else told["changed"]
    if not damaged:
        assert "EC prime239v1" in signed["advisories"][0]["message"] and not host.does(CaCrl)["changed"]


def test_a_revocation_that_no_crl_can_say_is_named(ca: OpensslCa) -> None:
    index = ca.directory / "index.txt"
    fields = index.read_text().split("\t")
    index.write_text("\t".join(("R", fields[1], "260101000000Z,removeFromCRL", *fields[3:])))
    told = Meanwhile(ca.config_file).does(CaCrl)
    assert told["failed"] and "lacks 1 certificates that the database says are revoked" in told["msg"] and "ca_info" in told["msg"]
    (found,) = Meanwhile(ca.config_file).does(CaInfo)["advisories"]
    assert found["code"] == "index_passed_over" and "line 1" in found["message"] and "removeFromCRL" in found["message"]
