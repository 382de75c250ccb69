# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit of sets that lie in stores on hosts: each host tells, and signatures say what of that counts."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_audit import ActionModule as CaAudit
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa
from support.returns import check_result

NOW = "ansible_collections.keyward.pki.plugins.action.ca_audit.now"


class Site:
    """A CA whose sets lie in a store on its host."""

    def __init__(self, path: Path, host: str) -> None:
        self.host, self.store = FakeHost(host), str(path / host / "sets")
        self.ca = OpensslCa(path / host / "ca", name=f"CA of {host}", algorithm="ed25519")
        self.which = {"config_file": str(self.ca.config_file)}
        initialise(self.store, "databases")

    def back_up(self, **options: Any) -> dict[str, Any]:
        made = self.host.run(CaDatabaseBackup, {**self.which, "host_store": self.store, **options})
        assert made["changed"], made
        return made

    def info(self) -> dict[str, Any]:
        info = self.host.run(CaInfo, {**self.which, "host_store": self.store})
        check_result("ca_info", info, False)
        return info

    def entry(self, **more: Any) -> dict[str, Any]:
        return {"host": self.host.name, "label": self.host.name, "place": self.which, "host_store": self.store, **more}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "ca1")


@pytest.fixture
def keys(tmp_path: Path) -> str:
    initialise(str(tmp_path / "keys"), "keys")
    return str(tmp_path / "keys")


def audit(keys: str, *cas: dict[str, Any]) -> list[dict[str, Any]]:
    result = FakeHost("controller").run(CaAudit, {"cas": list(cas), "key_stores": [keys]})
    check_result("ca_audit", result, bool(result.get("failed")))
    assert not result.get("failed"), result
    found = [*result["audit"]["advisories"], *(finding for one in result["audit"]["authorities"] for finding in one["findings"])]
    return [finding for finding in found if finding["code"] != "generation_missing"]  # no key is backed up here


def codes(findings: list[dict[str, Any]]) -> list[str]:
    return [finding["code"] for finding in findings]


def test_a_store_on_a_host_is_judged_as_one_here(site: Site, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codes(audit(keys, site.entry(info=site.info()))) == ["database_not_covered"]
    site.back_up()
    site.host.sent.clear()
    info = site.info()
    assert site.host.orders() == ["look", "host_store.read"], "one execution for the CA and one for its store"
    assert codes(audit(keys, site.entry(info=info))) == []
    site.ca.issue("second.example.com")
    later = datetime.now(tz=None).replace(microsecond=0) + timedelta(days=3)
    monkeypatch.setattr(NOW, lambda: later)
    assert codes(audit(keys, site.entry(info=site.info()))) == ["set_out_of_date"]
    site.back_up()
    sets = sorted(path.parent for path in Path(site.store).glob("*/*/0*/manifest.json"))
    before = site.info()
    issued = sets[0] / "issued.tar.gz"
    issued.write_bytes(issued.read_bytes()[:-1] + b"x")
    damaged = audit(keys, site.entry(info=site.info()))
    assert {"digest_mismatch", "set_not_whole"} <= {*codes(damaged)}
    assert any(f"ca1:{sets[0]}" in finding["message"] for finding in damaged), "the host is named"
    shutil.rmtree(sets[1])
    assert "rolled_back" in codes(audit(keys, site.entry(info=site.info())))
    assert "rolled_back" not in codes(audit(keys, site.entry(info=before)))


def test_a_store_on_a_host_that_could_not_be_read(site: Site, keys: str) -> None:
    site.back_up()
    for more, why in (
        ({}, "its host was not asked"),
        ({"offline": True}, "it is offline"),
        ({"failure": "no route"}, "the host was not seen"),
    ):
        (told,) = [one["message"] for one in audit(keys, site.entry(**more)) if one["code"] == "database_not_audited"]
        assert f"ca1:{site.store}, which was not read: {why}" in told
    away = Path(site.store).rename(Path(site.store).with_name("away"))
    unmounted = audit(keys, site.entry(info=site.info()), site.entry(info=site.info(), label="again"))
    assert codes(unmounted) == ["store_unreadable", "database_not_covered", "database_not_covered"], "the cause once"
    assert "Is the share mounted?" in unmounted[0]["message"] and f"mount ca1:{site.store}" in unmounted[1]["message"]
    initialise(site.store, "databases")
    assert "another one than before" in audit(keys, site.entry(info=site.info()))[0]["message"]
    shutil.rmtree(site.store)
    away.rename(site.store)
    assert codes(audit(keys, site.entry(info=site.info()))) == []


def test_a_host_says_nothing_of_the_databases_of_others(site: Site, keys: str, tmp_path: Path) -> None:
    """Were its copies of their sets taken, nobody would see that these are gone."""
    site.back_up()
    other = Site(tmp_path, "ca2")
    other.back_up()
    stolen = other.info()
    stolen["host_store"]["sets"] += site.info()["host_store"]["sets"]
    shutil.rmtree(next(Path(site.store).glob("*/*/0*/manifest.json")).parent)
    found = audit(keys, site.entry(info=site.info()), other.entry(info=stolen))
    assert [one["message"] for one in found if one["code"] == "database_not_covered"] == [
        "the database of ca1 on ca1 is in no store: run keyward.pki.database_backup"
    ]


def test_what_a_host_forged_or_shaped_otherwise_counts_for_nothing(site: Site, keys: str) -> None:
    site.back_up()
    info = site.info()
    (one,) = info["host_store"]["sets"]
    for forged, expected in (
        ({**one, "signature": None}, {"unknown_signer", "database_not_covered"}),
        ({**one, "manifest": one["manifest"].replace('"entries": 1', '"entries": 2')}, {"unknown_signer", "database_not_covered"}),
        ({**one, "manifest": "{"}, {"malformed", "database_not_covered"}),
        ({**one, "manifest": 5}, {"host_not_seen", "database_not_audited"}),
        ({**one, "path": "x" * 10_000}, {"host_not_seen", "database_not_audited"}),
    ):
        told = {**info, "host_store": {**info["host_store"], "sets": [forged]}}
        assert expected <= {*codes(audit(keys, site.entry(info=told)))}, expected


def test_two_cas_of_a_host_share_its_store(site: Site, keys: str) -> None:
    other = OpensslCa(site.ca.directory.with_name("other"), name="Another CA", algorithm="ed25519")
    place = {"config_file": str(other.config_file)}
    site.back_up()
    site.back_up(**place)
    info = site.host.run(CaInfo, {**place, "host_store": site.store})
    assert len(info["host_store"]["sets"]) == 2
    assert codes(audit(keys, site.entry(info=site.info()), site.entry(info=info, place=place, label="other"))) == []


def test_entries_that_are_gone_stay_red_in_the_audit(site: Site, keys: str) -> None:
    serial = site.ca.issue("second.example.com")
    site.back_up()
    index = site.ca.directory / "index.txt"
    index.write_text("".join(line for line in index.read_text().splitlines(True) if "second" not in line))
    site.back_up()
    assert serial and "rows_vanished" in codes(audit(keys, site.entry(info=site.info())))
