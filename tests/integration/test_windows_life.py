# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles and playbooks against a simulated Windows host: the same tasks, variables and results as for POSIX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from support.adcs import AdcsHost, WindowsAnsible, acting
from support.plays import PASSWORD, new_store, play, step
from support.pythons import ROOT
from support.roles import changed, make_stores, newest_manifest, now, playbook, ran

PLAYS = ROOT / "tests" / "windows"


def covered(store: Path) -> set[str]:
    return {generation["fingerprints"]["sha1"].upper() for generation in newest_manifest(store)["generations"]}


def thumbprints(host: AdcsHost) -> set[str]:
    return {"".join(text.split()).upper() for text in host.value("CACertHash")}


def test_the_life_of_a_ca(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    """What the workflow "Windows" runs against real CAs (tests/windows), with its own comparisons."""
    host.switch(feature="absent", ca_cert_hash="plain", view_numbers="hex")
    keys, databases, record = (tmp_path / name for name in ("keys", "databases", "record"))
    record.mkdir()
    variables: dict[str, Any] = {
        **yaml.safe_load((PLAYS / "ca.yml").read_text(encoding="utf-8")),
        **make_stores(windows, tmp_path),
        "keyward_test_record": str(record),
        "keyward_test_settle": 1,
        "keyward_test_policy": str(host.system_root / "CAPolicy.inf"),
    }

    def run(name: str) -> list[list[str]]:
        """What was changed until the first comparison, between that and the next, and so on."""
        result = play(windows, PLAYS / name, hosts={"ca": host.variables(**variables)}, timeout=900)
        parts: list[list[str]] = [[]]
        for one in result.results["ca"]:
            parts[-1] += [one.task] * bool(one.get("changed"))
            parts += [[]] * (one.task == "Compare")
        return parts

    predicted = playbook(windows, "install", {"ca": host.variables(**variables)}, check=True)
    assert ran(predicted, "ca_install") == [True] and not host.active and not host.ran("Install-WindowsFeature")
    first, again, *_rest = run("install.yml")
    assert first and again == []
    assert covered(keys) == thumbprints(host) and len(thumbprints(host)) == 1

    host.revoke(host.issue("www.example.com"), 1)
    due, renewed, again, *_rest = run("renewal.yml")
    assert due and renewed and again == []
    assert covered(keys) == thumbprints(host) and len(thumbprints(host)) == 3
    assert changed(playbook(windows, "database_backup", {"ca": host.variables(**variables)})) == []

    before, rows = host.generations, host.database()["requests"]
    host.lose()
    restored, again, *_rest = run("restore.yml")
    assert restored and again == []
    assert (host.generations, host.database()["requests"]) == (before, rows)
    assert newest_manifest(databases)["own"]["last_request_id"] == len(rows)


def test_each_module_in_a_process_of_its_own(windows: WindowsAnsible, tmp_path: Path) -> None:
    """A short life, in which a module has a process of its own once; what leads from one to the next is warm. So have those that handle
    the keys and the CRLs in test_windows_keys.py, where no secret leaves its place."""
    host = AdcsHost(tmp_path / "ca01")
    host.switch(feature="absent")
    keys, databases, share = (tmp_path / name for name in ("keys", "databases", "share"))
    kept, sets = {"stores": [str(keys)], "password": PASSWORD}, {"stores": [str(databases)]}
    subject = {"countryName": "DE", "organizationName": "Example", "commonName": "Example Root CA"}
    tasks = [
        new_store(keys),
        step("ca_store", "databases", path=str(databases), kind="databases"),
        *host.alone(
            step("ca_store", "on the host", path=str(share), kind="databases", host=True),
            step("ca_install", "install", kind="root", subject=subject, key_type="EC", curve="secp256r1"),
        ),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    assert result.task("on the host")["changed"] and result.task("install")["changed"]
    host.revoke(host.issue("gone.example.com"), 1)
    tasks = [
        *host.alone(step("ca_renew", "renew", issued_before=now(), reuse_key=False)),
        step("ca_key_backup", "key backup", **kept),
        *host.alone(step("ca_database_backup", "database backup", **sets), step("ca_info", "before")),
        acting("lost", "lose()"),
        step("ca_key_restore", "key restore", **kept),
        *host.alone(step("ca_database_restore", "database restore", **sets)),
        step("ca_key_verify", "verify", backend="adcs", **kept),
        step("ca_info", "after"),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    for name in ("renew", "key backup", "database backup", "key restore", "database restore"):
        assert result.task(name)["changed"], name
    before, after = result.task("before"), result.task("after")
    assert after["generations"] == before["generations"] and len(after["generations"]) == 2
    assert [each["private_key"] for each in after["generations"]] == ["present"] * 2
    assert result.task("verify")["restorable"] and [row["Disposition"] for row in host.database()["requests"]] == [21]
