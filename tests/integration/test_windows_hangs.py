# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hangs on a simulated Windows host is ended in time, is said, and stops no later run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.adcs import AdcsHost, WindowsAnsible, on, play_freely
from support.plays import PASSWORD, authorities, codes, failure, new_store, play, step
from support.roles import now


@pytest.fixture
def impatient(windows: WindowsAnsible, tmp_path: Path) -> WindowsAnsible:
    """With a copy of the collection in which the limits are seconds instead of minutes."""
    shutil.copytree(windows.collections, tmp_path / "collections")
    (module,) = (tmp_path / "collections").rglob("_adcs_process.psm1")
    text, count = re.subn(r"(Command|Publish) = [0-9]+;", r"\1 = 8;", module.read_text())
    assert count == 2
    module.write_text(text)
    windows.collections = tmp_path / "collections"
    return windows


def test_what_hangs_is_ended(impatient: WindowsAnsible, tmp_path: Path) -> None:
    """A cmdlet, the publication of CRLs, and a renewal that was made, or not, when certutil hung. All hosts wait at once."""
    hangs = {
        "cmdlet": {"hangs": ["Backup-CARoleService"]},
        "publication": {"hangs": ["-CRL"]},
        "renewed": {"renew_hangs_after_work": True},
        "not_renewed": {"hangs": ["-renewCert"]},
    }
    hosts = {name: AdcsHost(tmp_path / name, cold=True) for name in hangs}  # what hangs doesn't keep the process either
    for name, switches in hangs.items():
        hosts[name].install_by_hand()
        hosts[name].switch(**switches)
    for crl in hosts["publication"].state.rglob("*.crl"):
        crl.unlink()
    store, renew = tmp_path / "keys", {"issued_before": now(), "reuse_key": False}
    tasks = [
        *on("cmdlet", new_store(store), step("ca_key_backup", "backup", fails=True, stores=[str(store)], password=PASSWORD)),
        *on("publication", step("ca_crl", "crl", fails=True)),
        *on("renewed", step("ca_renew", "renew", **renew)),
        *on("not_renewed", step("ca_renew", "renew", fails=True, **renew)),
    ]
    result = play_freely(impatient, tasks, {name: host.variables() for name, host in hosts.items()})
    assert "Backup-CARoleService did not end within 8 seconds" in failure(result, "backup", "cmdlet")
    assert "certutil did not end within 8 seconds" in failure(result, "crl", "publication")
    assert "certutil did not end within 8 seconds" in failure(result, "renew", "not_renewed")
    done = result.task("renew", "renewed")
    assert done["changed"] and done["renewed"] and codes(done["advisories"]) == ["certutil_failed"]
    assert authorities(store) == [] and not (hosts["cmdlet"].state / "remote_tmp").exists()
    assert not list((hosts["cmdlet"].system_root / "Temp").iterdir())

    again = {name: hosts[name] for name in ("renewed", "not_renewed")}
    for host in again.values():
        host.switch(renew_hangs_after_work=False, hangs=[])
        host.cold = False
    result = play(impatient, [step("ca_renew", "next run", **renew)], hosts={name: host.variables() for name, host in again.items()})
    for name, host in again.items():
        assert result.task("next run", name)["renewed"] is (name == "not_renewed"), name
        assert len(host.ran("-renewCert")) == (1 if name == "renewed" else 2), name
        assert len(host.generations) == 2 and host.machine()["service"] == "Running", name
    assert not result.task("next run", "renewed")["changed"]
