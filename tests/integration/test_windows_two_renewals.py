# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_renew against simulated Windows hosts, and another task that is quicker."""

from __future__ import annotations

from pathlib import Path

from support.adcs import AdcsHost, Parent, WindowsAnsible, acting
from support.plays import play, step
from support.roles import now


def test_what_another_did_since_the_look_is_not_done_again(windows: WindowsAnsible, tmp_path: Path) -> None:
    record = "(host.system_root / 'System32' / 'CertSrv' / 'keyward-renewal.txt')"
    meanwhile = {
        "renewed": "renew_by_hand()",
        "asked": "renew(False)",
        "finished": f"stop(); host.start(); {record}.unlink()",
    }
    hosts = {name: AdcsHost(tmp_path / name, name.upper()) for name in meanwhile}
    hosts["renewed"].install_by_hand()
    hosts["asked"].install_by_hand(ca_type="StandaloneSubordinateCA")
    hosts["asked"].certify(Parent())
    begun = hosts["finished"]
    begun.install_by_hand()
    (begun.system_root / "System32" / "CertSrv" / "keyward-renewal.txt").write_text(f"{begun.generations[0]}\n")
    moment = now()
    begun.renew(False)
    commands = {name: acting(name, call)["ansible.builtin.raw"] for name, call in meanwhile.items()}
    result = play(
        windows,
        [step("ca_renew", "renew", issued_before=moment, reuse_key=False)],
        hosts={name: host.variables(keyward_windows_meanwhile=commands[name]) for name, host in hosts.items()},
    )
    for name, host in hosts.items():
        done = result.task("renew", name)
        assert (done["changed"], done["renewed"], done["pending"]) == (False, False, name == "asked"), name
        assert not host.ran("-renewCert") and len(host.generations) == (1 if name == "asked" else 2), name
        # Its look, its order, and where that was refused another look.
        assert host.executions == (2 if name == "asked" else 3), name
