# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit: inventory, hosts and stores against each other, without a password."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.keyward.pki.plugins.action.ca_audit import ActionModule as CaAudit
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_verify import ActionModule as CaKeyVerify
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_outside
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import cas_of
from jinja2 import Environment, select_autoescape
from support.fake_host import FakeHost
from support.guides import DOCS, blocks
from support.openssl_ca import OpensslCa, openssl
from support.plays import PASSWORD
from support.pythons import ROOT
from support.returns import check_result


class Estate:
    """A CA on a host, its two stores, and what is said of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.host = path, FakeHost("ca1")
        self.ca = OpensslCa(path / "ca", algorithm="ed25519")
        self.which = {"config_file": str(self.ca.config_file)}
        self.keys, self.databases = str(path / "keys"), str(path / "databases")
        initialise(self.keys, "keys")
        initialise(self.databases, "databases")

    def back_up(self) -> None:
        made = self.host.run(CaKeyBackup, {**self.which, "stores": [self.keys], "password": PASSWORD})
        assert made["changed"], made
        made = self.host.run(CaDatabaseBackup, {**self.which, "stores": [self.databases], "key_stores": [self.keys]})
        assert made["changed"], made

    def prove(self) -> None:
        arguments = {**self.which, "stores": [self.keys], "password": PASSWORD, "verified_by": "Ann Example"}
        assert not self.host.run(CaKeyVerify, arguments).get("failed")

    def entry(self, **more: Any) -> dict[str, Any]:
        stores = {"key_stores": [self.keys], "database_stores": [self.databases]}
        return {"host": "ca1", "label": "The root", "place": self.which, **stores, **more}

    def audit(self, *cas: dict[str, Any], **options: Any) -> dict[str, Any]:
        result = self.host.run(CaAudit, {"cas": list(cas), **options})
        check_result("ca_audit", result, bool(result.get("failed")))
        jsonschema.validate(result["audit"], json.loads((ROOT / "docs" / "audit-schema.json").read_text(encoding="utf-8")))
        return result

    def asked(self, **more: Any) -> dict[str, Any]:
        return self.audit(self.entry(info=self.host.run(CaInfo, self.which), **more))


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path)


def codes(result: dict[str, Any], level: str) -> list[str]:
    found = [*result["audit"]["advisories"], *(finding for one in result["audit"]["authorities"] for finding in one["findings"])]
    return [finding["code"] for finding in found if finding["level"] == level]


def test_a_ca_from_nothing_stored_to_proved(estate: Estate) -> None:
    nothing = estate.asked()
    assert codes(nothing, "red") == ["generation_missing", "database_not_covered"]
    assert nothing["audit"]["counts"] | {"fine": 0} == nothing["audit"]["counts"]
    assert (nothing["audit"]["counts"]["private_keys"], nothing["audit"]["counts"]["lost_today"]) == (1, 1)
    assert "lost today" in nothing["lines"][1] and nothing["audit"]["level"] == "red"

    estate.back_up()
    unproved = estate.asked()
    assert (codes(unproved, "red"), codes(unproved, "warning")) == ([], ["not_proved"])
    (one,) = unproved["audit"]["authorities"]
    (generation,) = one["generations"]
    assert generation["restored_from"] == one["key_backup"]["paths"] and not generation["lost_today"]
    assert one["databases"][0]["entries"] == 1 and one["key_backup"]["signer"].startswith("SHA256:")

    estate.prove()
    fine = estate.asked()
    assert fine["audit"]["level"] == "fine" and len(fine["lines"]) == 1
    assert fine["audit"]["authorities"][0]["key_backup"]["proved"]["by"] == "Ann Example"
    assert all(order in ("look", "ca_key_backup", "export_keys", "database.state", "database.copy") for order in estate.host.orders())


def test_what_no_host_shows_and_what_no_inventory_names(estate: Estate) -> None:
    estate.back_up()
    estate.prove()
    alone = estate.audit(key_stores=[estate.keys], database_stores=[estate.databases])
    assert codes(alone, "warning") == ["not_in_inventory"] and alone["audit"]["authorities"][0]["in_stores"]
    for more, code, level in (
        ({"offline": True}, "host_not_asked", "counted"),
        ({}, "host_not_asked", "counted"),
        ({"failure": "it is on fire"}, "host_not_seen", "red"),
    ):
        result = estate.audit(estate.entry(**more))
        assert codes(result, level) == [code] and result["audit"]["authorities"][0]["id"], "known by its home"
    (told,) = [one["message"] for one in estate.audit(estate.entry(offline=True))["audit"]["authorities"][0]["findings"]]
    assert re.search(r"judged by the key backup 000001-\S+ \(0 days old\) and the set 000001-\S+ \(0 days old\): it is offline", told)
    renamed = estate.audit({**estate.entry(), "host": "other"})
    assert sorted(codes(renamed, "red")) == ["database_not_covered", "generation_missing"] and len(renamed["audit"]["authorities"]) == 2


def test_a_renewal_without_a_backup_is_red_and_a_lost_key_is_named(estate: Estate) -> None:
    estate.back_up()
    estate.prove()
    _renew_by_hand(estate.ca)
    result = estate.asked()
    assert "generation_missing" in codes(result, "red") and result["audit"]["counts"]["lost_today"] == 1
    assert [one["lost_today"] for one in result["audit"]["authorities"][0]["generations"]] == [False, True]


def _renew_by_hand(ca: OpensslCa) -> None:
    """With a new key, over the old files."""
    subject = openssl("x509", "-in", ca.certificate, "-noout", "-subject", "-nameopt", "compat").stdout.strip().partition("=")[2]
    openssl(
        "req", "-x509", "-newkey", "ed25519", "-noenc", "-keyout", ca.private_key, "-out", ca.certificate, "-days", "9", "-subj", subject
    )


def test_stores_that_are_away_damaged_or_lack_a_copy(estate: Estate) -> None:
    estate.back_up()
    estate.prove()
    second = str(estate.path / "second")
    initialise(second, "keys")
    lacking = estate.audit(estate.entry(key_stores=[estate.keys, second]))
    assert codes(lacking, "red") == ["missing_in_store"]
    shutil.rmtree(Path(estate.keys) / "by-host")
    assert codes(estate.asked(), "counted") == ["hints_missing"]
    away = estate.audit(estate.entry(key_stores=[estate.keys, str(estate.path / "away")]))
    assert codes(away, "red") == ["store_unreadable"] and away["audit"]["level"] == "red"
    (bundle,) = Path(estate.keys).glob("*/0*/authority.p12")
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"\0")
    damaged = estate.asked()
    assert {"digest_mismatch", "generation_missing"} <= set(codes(damaged, "red"))
    assert damaged["audit"]["counts"]["lost_today"] == 1
    shutil.rmtree(bundle.parent)
    gone = estate.asked()
    assert "generation_missing" in codes(gone, "red") and gone["audit"]["counts"]["lost_today"] == 1
    (told,) = [one["message"] for one in gone["audit"]["advisories"] if one["code"] == "rolled_back"]
    assert f"{estate.keys} had backups of the authority" in told and "take keys/" in told
    other = str(estate.path / "other")
    initialise(other, "keys")
    assert "remembered_only" in codes(estate.audit(key_stores=[other]), "warning"), "the store that had them is another inventory's"


def test_a_set_that_lags_and_a_crl_that_runs_out(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    estate.back_up()
    estate.prove()
    config = ("-config", str(estate.ca.config_file))
    openssl("ca", *config, "-gencrl", "-crldays", "9", "-out", estate.ca.directory / "crl.pem", cwd=estate.ca.directory)
    at = datetime.now(tz=None) + timedelta(days=3)
    now = "ansible_collections.keyward.pki.plugins.action.ca_audit.now"
    assert codes(estate.asked(), "warning") == []
    monkeypatch.setattr(now, lambda: at.replace(microsecond=0))
    assert codes(estate.asked(), "warning") == ["set_out_of_date"]
    monkeypatch.setattr(now, lambda: (at + timedelta(days=5)).replace(microsecond=0))
    assert (codes(estate.asked(), "red"), codes(estate.asked(), "warning")) == (["crl_runs_out"], ["set_out_of_date"])
    monkeypatch.setattr(now, lambda: (at + timedelta(days=9)).replace(microsecond=0))
    assert "crl_expired" in codes(estate.asked(), "red")
    monkeypatch.setattr(now, lambda: (at + timedelta(days=300)).replace(microsecond=0))
    assert "not_proved" in codes(estate.asked(), "warning")
    monkeypatch.setattr(now, lambda: (at - timedelta(days=300)).replace(microsecond=0))
    future = estate.asked()
    assert future["audit"]["authorities"][0]["key_backup"]["age"] is None and "not_proved" in codes(future, "warning")


def texts(value: Any) -> list[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if isinstance(value, str) else [text for one in inner for text in texts(one)]


def test_what_a_host_says_is_text_and_no_more(estate: Estate) -> None:
    info = estate.host.run(CaInfo, estate.which)
    forged = {**info, "advisories": [{"code": "x", "message": "\x1b[2J{{ 7 * 7 }}", "certificate": None}]}
    (one,) = estate.audit(estate.entry(info=forged))["audit"]["authorities"]
    (told,) = [finding["message"] for finding in one["findings"] if finding["code"] == "x"]
    assert "\x1b" not in told and "{{ 7 * 7 }}" in told
    odd = OpensslCa(estate.path / "odd", name="Odd\x1b[2J\u202e CA", algorithm="ed25519")
    shown = estate.host.run(CaInfo, {"config_file": str(odd.config_file)})
    result = estate.audit(estate.entry(info=shown, place={"config_file": str(odd.config_file)}))
    assert "Odd" in result["lines"][1] and not any(re.search("[\x1b\u202e]", text) for text in texts(result))
    for broken in ({"generations": [{}]}, {**info, "database": {"crls": [{"this_update": 5}]}}, {**info, "advisories": [5]}):
        assert "host_not_seen" in codes(estate.audit(estate.entry(info=broken)), "red")


def test_the_cas_of_an_inventory() -> None:
    variables = {
        "keyward_key_stores": ["/k"],
        "keyward_private_key_passphrase": "secret",
        "keyward_authorities": [{"config_file": "/a.cnf", "offline": True}, {"directory": "/b", "backend": "easyrsa", "label": "B"}],
        "audit_asked": {"1": {"failure": "no"}},
    }
    one, other = cas_of("h", variables)
    assert (one["place"], one["offline"], one["label"]) == ({"config_file": "/a.cnf"}, True, "/a.cnf")
    assert (other["place"], other["failure"], other["key_stores"]) == ({"directory": "/b", "backend": "easyrsa"}, "no", ["/k"])
    assert cas_of("h", variables, 1) == [other]
    assert [cas_of("h", {"keyward_directory": "/b", "keyward_offline": text})[0]["offline"] for text in ("false", "yes")] == [False, True]
    assert "secret" not in str([one, other]) and cas_of("no-ca", {"keyward_key_stores": ["/k"]}) == []


def test_a_weakly_protected_backup_is_named_without_its_password(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    estate.back_up()
    estate.prove()
    assert not codes(estate.asked(), "warning")
    monkeypatch.setattr(_pkcs12_outside, "WEAK_ITERATIONS", 10**9)
    result = estate.asked()
    assert codes(result, "warning") == ["weak_encryption"] and "authority.p12 is weakly protected" in result["lines"][1]


def test_sets_that_went_back_are_red_though_no_host_is_asked(estate: Estate, tmp_path: Path) -> None:
    estate.back_up()
    estate.prove()
    shutil.copytree(estate.databases, tmp_path / "before")
    estate.ca.issue("second.example.com")
    again = {**estate.which, "stores": [estate.databases], "key_stores": [estate.keys]}
    assert estate.host.run(CaDatabaseBackup, again)["changed"]
    assert codes(estate.audit(estate.entry()), "red") == []
    shutil.rmtree(estate.databases)
    (tmp_path / "before").rename(estate.databases)
    assert codes(estate.audit(estate.entry()), "red") == ["rolled_back"]


def test_what_only_digests_show_of_a_set(estate: Estate) -> None:
    """Each night looks at sizes alone."""
    estate.back_up()
    estate.prove()
    estate.ca.issue("second.example.com")
    again = {**estate.which, "stores": [estate.databases], "key_stores": [estate.keys]}
    assert estate.host.run(CaDatabaseBackup, again)["set"]["kind"] == "increment"
    assert estate.asked()["audit"]["level"] == "fine"
    issued = sorted(Path(estate.databases).glob("*/*/0*/issued.tar.gz"))[0]
    issued.write_bytes(issued.read_bytes()[:-1] + b"x")
    assert "digest_mismatch" not in [one["code"] for one in estate.host.run(CaDatabaseBackup, again)["advisories"]]
    assert codes(estate.asked(), "red") == ["digest_mismatch", "set_not_whole"]


def test_no_series_of_the_metrics_is_there_twice(estate: Estate) -> None:
    """The collector of the node exporter takes nothing of a file that has one twice, and nobody would be told of anything."""
    info = estate.host.run(CaInfo, estate.which)
    info["database"]["crls"] = [
        {"path": "/crl", "needed": True, "this_update": "2026-01-01T00:00:00Z", "next_update": "2026-02-01T00:00:00Z"}
    ]
    info["database"]["crls"][0] |= {"public_key_sha256": "0" * 64, "number": "1", "successor_at": None}
    new = [
        {**estate.entry(place={"config_file": "/etc/pki/openssl.cnf", "name": name}), "host": host}
        for host in ("a", "b")
        for name in ("x", "y")
    ]
    estate.back_up()
    twins = [{**estate.entry(info=info), "host": host} for host in ("ca1", "ca2")]
    audit = estate.audit(*new, *twins)["audit"]
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=select_autoescape(default_for_string=False))
    environment.filters |= {"to_datetime": datetime.strptime}
    template = (ROOT / "roles" / "audit" / "templates" / "audit.prom.j2").read_text(encoding="utf-8")
    lines = environment.from_string(template).render(audit=audit).splitlines()
    series = [line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")]
    assert len(series) > 15 and len([one for one in series if one.startswith("keyward_crl")]) == 2
    assert sorted(series) == sorted(set(series))
    # The alerts of the guide, by Python: their operators mean the same there.
    shown = yaml.safe_load(blocks(DOCS / "audit.md", "yaml")[1])["groups"][0]["rules"]
    values = {line.partition("{")[0].split()[0]: int(line.rpartition(" ")[2]) for line in reversed(lines) if line and line[0] != "#"}
    made, _there = values["keyward_audit_timestamp_seconds"], values["keyward_private_keys_lost_today"]
    every = [rule["alert"] for rule in shown]
    for days, lost, expected in ((1, 0, every[2:]), (1, 1, every[1:]), (3, 1, every)):
        names = {**values, "keyward_private_keys_lost_today": lost, "time": lambda days=days: made + days * 86400}
        assert [rule["alert"] for rule in shown if eval(rule["expr"], {"__builtins__": {}}, names)] == expected  # noqa: S307


def test_crls_of_software_that_publishes_them_itself(estate: Estate) -> None:
    """Such as AD CS: an order of their own tells them, and the last third of their time is when they announce their successor."""
    crl = Path(estate.host.run(CaCrl, estate.which)["crls"][0]["path"])
    estate.back_up()
    estate.prove()

    def forged(order: str, answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "abilities": {**answer.get("abilities", {}), "signs_any_crl": False}}

    estate.host.forge = forged
    for number, (announced, expected) in enumerate(((12, []), (-12, ["crl_runs_out"]))):
        at = datetime.now(UTC) + timedelta(hours=announced)
        section = f"[ x{number} ]\n1.3.6.1.4.1.311.21.4 = ASN1:UTC:{at:%y%m%d%H%M%SZ}\n"
        estate.ca.config_file.write_text(f"{estate.ca.config_file.read_text()}\n{section}")
        times = [f"{datetime.now(UTC) + timedelta(days=days):%Y%m%d%H%M%SZ}" for days in (-7, 1)]
        command = ("ca", "-config", estate.ca.config_file, "-gencrl", "-crlexts", f"x{number}", "-out", crl)
        openssl(*command, "-crl_lastupdate", times[0], "-crl_nextupdate", times[1], cwd=estate.ca.directory)
        estate.host.sent.clear()
        info = estate.host.run(CaInfo, estate.which)
        assert estate.host.orders() == ["look", "crls"] and info["database"]["crls"][0]["successor_at"] == f"{at:%Y-%m-%dT%H:%M:%SZ}"
        check_result("ca_info", info, False)
        found = codes(estate.audit(estate.entry(info=info)), "red")
        assert [code for code in found if code.startswith("crl")] == expected


def test_two_cas_of_one_host_are_told_apart_though_nobody_asks_it(estate: Estate) -> None:
    """By what places say on both sides: what one of them leaves out would fit any."""
    estate.back_up()
    flat = OpensslCa(estate.path / "flat", name="Flat CA", algorithm="ed25519")
    place = {"directory": str(flat.directory), "certificate_file": "cacert.pem", "private_key_file": "private/cakey.pem"}
    made = estate.host.run(CaKeyBackup, {**place, "stores": [estate.keys], "password": PASSWORD})
    assert made["changed"], made
    entries = (estate.entry(offline=True), estate.entry(offline=True, place=place, label="Flat"))
    for each in (entries, entries[::-1], entries[:1], entries[1:]):
        found = {one["subject"]: [host["name"] for host in one["hosts"]] for one in estate.audit(*each)["audit"]["authorities"]}
        named = {entry["label"] for entry in each}
        assert found == {
            "CN=Example Root CA,O=Example": ["The root"] if "The root" in named else [],
            "CN=Flat CA,O=Example": ["Flat"] if "Flat" in named else [],
        }
    unknown = estate.audit(estate.entry(offline=True, place={"config_file": "/elsewhere/openssl.cnf"}))
    assert "generation_missing" in codes(unknown, "red")
