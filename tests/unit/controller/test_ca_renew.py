# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ca_renew decides, on what a host tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.module_utils import _lock
from support.meanwhile import Meanwhile
from support.openssl_ca import OpensslCa, openssl

DUE = {"reuse_key": False, "remaining_days": 4000, "days": 5000}


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


def host_of(ca: OpensslCa, **which: Any) -> Meanwhile:
    return Meanwhile(ca.config_file, **which)


def certificates(ca: OpensslCa) -> int:
    return len(list(ca.directory.glob("cacert*.pem")))


def signed(root: OpensslCa, request: str) -> str:
    (root.directory / "request.pem").write_text(request)
    answer = root.directory / "answer.pem"
    command = ("ca", "-batch", "-notext", "-config", root.config_file, "-extensions", "v3_ca", "-preserveDN", "-days", "900")
    openssl(*command, "-in", root.directory / "request.pem", "-out", answer)
    return answer.read_text()


def below(root: OpensslCa, sub: OpensslCa) -> None:
    """Gives a root's key a certificate by another root."""
    made = openssl("x509", "-x509toreq", "-in", sub.certificate, "-key", sub.private_key)
    sub.certificate.write_text(signed(root, made.stdout))


def test_where_nothing_is_due_the_host_is_only_looked_at(ca: OpensslCa) -> None:
    host = host_of(ca)
    result = host.does(CaRenew, reuse_key=False, remaining_days=1)
    assert (result["changed"], result["due"], result["renewed"], result["reasons"]) == (False, False, False, [])
    assert host.orders() == ["look"]


@pytest.mark.parametrize("reuse_key", [True, False], ids=["same-key", "new-key"])
def test_two_renewals_at_the_same_time_renew_once(ca: OpensslCa, reuse_key: bool) -> None:
    """Another run renews after this one has looked: its condition is untrue by now, and it ends well."""
    host, other = host_of(ca), host_of(ca)
    due = {**DUE, "reuse_key": reuse_key}

    renewed: dict[str, Any] = {}
    host.once(lambda: renewed.update(other.does(CaRenew, **due)))
    result = host.does(CaRenew, **due)
    assert renewed["renewed"]
    assert not result.get("failed"), result["msg"]
    assert (result["changed"], result["due"], result["renewed"]) == (False, False, False)
    assert host.orders() == ["look", "renew", "look"]
    assert certificates(ca) == 2 and len(result["generations"]) == 2


def test_a_host_that_changes_each_time_is_not_asked_for_ever(ca: OpensslCa) -> None:
    host = host_of(ca)

    def meanwhile(order: str) -> None:
        if order == "renew":
            number = len(host.sent)
            assert host_of(ca).does(CaRenew, reuse_key=True, remaining_days=4000 + number, days=4001 + number)["renewed"]

    host.act = meanwhile
    result = host.does(CaRenew, reuse_key=False, remaining_days=5000, days=6000)
    assert result["failed"] and "was renewed meanwhile" in result["msg"] and "Run the task again" in result["msg"]
    assert host.orders() == ["look", "renew", "look", "renew"] and certificates(ca) == 3


def test_a_subordinate_is_requested_and_answered_once(tmp_path: Path) -> None:
    root, sub = OpensslCa(tmp_path / "root"), OpensslCa(tmp_path / "sub", name="Example Issuing CA")
    below(root, sub)
    host, other = host_of(sub), host_of(sub)
    result_of_other: dict[str, Any] = {}
    given: dict[str, Any] = dict(DUE)

    host.once(lambda: result_of_other.update(other.does(CaRenew, **given)))
    result = host.does(CaRenew, **given)
    assert result_of_other["changed"] and result_of_other["pending"]
    assert (result["changed"], result["pending"], result["renewed"]) == (False, True, False)
    assert all(result[name] == result_of_other[name] for name in ("request", "request_file"))

    given = {"reuse_key": False, "certificate": signed(root, result["request"])}
    host.once(lambda: result_of_other.update(other.does(CaRenew, **given)))
    host.sent.clear()
    result = host.does(CaRenew, **given)
    assert result_of_other["renewed"] and (result["changed"], result["pending"], result["due"]) == (False, False, False)
    assert host.orders() == ["look", "answer", "look"] and certificates(sub) == 2


def test_a_run_waits_for_another_and_not_for_ever(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lock, "LONGEST_WAIT", 0.2)
    with _lock.locked([str(ca.directory)], "test"):
        result = host_of(ca).does(CaRenew, **DUE)
        assert host_of(ca).does(CaRenew, check=True, **DUE)["renewed"]
    assert result["failed"] and "another run has been at work in" in result["msg"] and certificates(ca) == 1
    assert host_of(ca).does(CaRenew, **DUE)["renewed"]


def test_a_backend_that_is_not_of_this_host_is_refused(ca: OpensslCa) -> None:
    result = host_of(ca, backend="adcs").does(CaRenew, **DUE)
    assert result["failed"] and "backend is adcs, and this is no Windows host" in result["msg"]
    assert certificates(ca) == 1
