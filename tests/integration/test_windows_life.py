# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles and playbooks against a simulated Windows host: the same tasks, variables and results as for POSIX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.adcs import AdcsHost, WindowsAnsible, acting
from support.plays import PASSWORD, new_store, play, step
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
