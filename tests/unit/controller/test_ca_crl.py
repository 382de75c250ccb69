# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ca_crl decides, on what a host tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
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
