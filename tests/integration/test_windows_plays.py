# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the workflow "Windows" runs against real CAs (tests/windows), against a simulated one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from support.adcs import AdcsHost, WindowsAnsible
from support.plays import PASSWORD, play
from support.pythons import ROOT

PLAYS = ROOT / "tests" / "windows"


def test_the_plays_for_real_cas(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.switch(feature="absent", ca_cert_hash="plain", view_numbers="hex")
    (tmp_path / "record").mkdir()
    variables: dict[str, Any] = {
        **yaml.safe_load((PLAYS / "ca.yml").read_text(encoding="utf-8")),
        "keyward_key_stores": [str(tmp_path / "keys")],
        "keyward_database_stores": [str(tmp_path / "databases")],
        "keyward_password": PASSWORD,
        "keyward_test_record": str(tmp_path / "record"),
        "keyward_test_settle": 2,
        "keyward_test_policy": str(host.system_root / "CAPolicy.inf"),
    }

    def run(name: str) -> None:
        # That a second run changes nothing is shown by test_windows_life.py.
        play(windows, PLAYS / name, hosts={"ca": host.variables(**variables)}, arguments=["--skip-tags", "again"], timeout=900)

    run("install.yml")
    host.revoke(host.issue("www.example.com"), 1)
    run("renewal.yml")
    before = host.generations, host.database()["requests"]
    host.lose()
    run("restore.yml")
    assert (host.generations, host.database()["requests"]) == before
