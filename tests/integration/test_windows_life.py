# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles and playbooks against a simulated Windows host: the same tasks, variables and results as for POSIX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.adcs import AdcsHost, WindowsAnsible
from support.roles import changed, make_stores, newest_manifest, now, playbook, ran


def covered(store: Path) -> set[str]:
    return {generation["fingerprints"]["sha1"].upper() for generation in newest_manifest(store)["generations"]}


def thumbprints(host: AdcsHost) -> set[str]:
    return {"".join(text.split()).upper() for text in host.value("CACertHash")}


def test_the_life_of_a_ca(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.switch(feature="absent")
    stores = make_stores(windows, tmp_path)
    keys, databases = Path(stores["keyward_key_stores"][0]), Path(stores["keyward_database_stores"][0])
    variables: dict[str, Any] = {
        **stores,
        "keyward_kind": "root",
        "keyward_subject": {"countryName": "DE", "organizationName": "Example", "commonName": "Example Root CA"},
        "keyward_key_type": "EC",
        "keyward_curve": "secp256r1",
        "keyward_reuse_key": False,
        "keyward_issued_before": "2000-01-01T00:00:00Z",
    }

    def run(name: str, **more: Any) -> Any:
        options = {option: more.pop(option) for option in ("check", "rc") if option in more}
        return playbook(windows, name, {"ca": host.variables(**{**variables, **more})}, **options)

    assert ran(run("install", check=True), "ca_install") == [True]
    assert not host.active and not host.ran("Install-WindowsFeature")
    assert ran(run("install"), "ca_install") == [True]
    assert covered(keys) == thumbprints(host) and len(thumbprints(host)) == 1
    assert changed(run("install")) == []

    host.issue("www.example.com")
    assert ran(run("database_backup"), "ca_database_backup") == [True]
    assert changed(run("database_backup")) == changed(run("key_backup")) == []

    moment = now()
    run("renewal", keyward_issued_before=moment)
    assert len(thumbprints(host)) == 2 and covered(keys) == thumbprints(host)
    assert changed(run("renewal", keyward_issued_before=moment)) == []
    serial = host.issue("after.example.com")
    host.revoke(serial, 1)
    assert ran(run("database_backup"), "ca_database_backup") == [True]

    before, rows = thumbprints(host), host.database()["requests"]
    host.lose()
    run("restore")
    assert thumbprints(host) == before and host.database()["requests"] == rows
    assert changed(run("restore")) == []
    assert newest_manifest(databases)["adcs"]["last_request_id"] == len(rows)
