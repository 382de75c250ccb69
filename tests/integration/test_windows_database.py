# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_database_backup and ca_database_restore against simulated Windows hosts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ansible_collections.keyward.pki.plugins.action.ca_audit import ActionModule as CaAudit
from cryptography.hazmat.primitives.serialization import Encoding
from support.adcs import AdcsHost, WindowsAnsible
from support.ansible_run import Result
from support.fake_host import FakeHost
from support.guides import guide
from support.plays import PASSWORD, codes, failure, new_store, play, sets, step
from support.roles import newest_manifest

POLICY = "[Version]\r\nSignature=$Windows NT$\r\n"


def databases(path: Path) -> dict[str, Any]:
    return step("ca_store", f"store {path.name}", path=str(path), kind="databases")


def backup(title: str, *stores: Path, **options: Any) -> dict[str, Any]:
    return step("ca_database_backup", title, stores=list(map(str, stores)) or None, **options)


def restore(title: str, *stores: Path, **options: Any) -> dict[str, Any]:
    return step("ca_database_restore", title, stores=list(map(str, stores)) or None, **options)


def due(result: Result, title: str) -> list[str]:
    """The reasons of a backup, which also changed something (or would) exactly when there are any."""
    one = result.task(title)
    assert one["changed"] is one["due"] is bool(one["reasons"])
    return codes(one["reasons"])


def files_of(one: Path) -> dict[str, bytes]:
    """The files of a set but its manifest, which has recorded them as they are."""
    recorded = {file["name"]: file["sha256"] for file in json.loads((one / "manifest.json").read_text())["files"]}
    there = {
        str(path.relative_to(one)): path.read_bytes()
        for path in one.rglob("*")
        if path.is_file() and not path.name.startswith("manifest.json")
    }
    assert {name: hashlib.sha256(content).hexdigest() for name, content in there.items()} == recorded
    return there


def test_a_set_is_due_when_the_database_or_the_configuration_changed(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand()
    serial = host.issue("www.example.com")
    one, two = tmp_path / "one", tmp_path / "two"
    tasks = [
        databases(one),
        databases(two),
        backup("predicted", one, check=True),
        host.task("nothing stored", f"assert not [path for path in Path({str(one)!r}).iterdir() if path.is_dir()]"),
        backup("first", one),
        backup("nothing, predicted", one, check=True),
        backup("nothing", one),
        host.task(
            "what changes by itself",
            "from adcs.machine import CONFIGURATION",
            "host.registry.set(CONFIGURATION, DBLastFullBackup=b'12345678')",
            "host.configure(CRLNextPublish=b'12345678', CRLDeltaNextPublish=b'12345678', CAXchgCertHash=['00 11'])",
        ),
        backup("still nothing", one),
        host.task("a request", "host.issue('new.example.com')"),
        backup("by request", one),
        host.task("a request that waits", "host.submit('later.example.com')", "host.submit('denied.example.com', 31)"),
        backup("by waiting request", one),
        host.task("it is issued", "host.resubmit(3)"),
        backup("by issuing alone", one),
        host.task("a hold", f"host.revoke({serial!r}, 6)"),
        backup("by revocation", one),
        host.task("a revocation for another reason", f"host.revoke({serial!r}, 1)"),
        backup("by reason", one, check=True),
        host.task("a setting", "host.configure(ValidityPeriodUnits=7)"),
        backup("by both", one),
        host.task("a policy", f"(host.system_root / 'CAPolicy.inf').write_text({POLICY!r})"),
        backup("by policy", one),
        host.task(
            "long ago",
            "from support.signers import rewrite",
            f"path = max(Path({str(one)!r}).glob('*/*/0*/manifest.json'))",
            f"rewrite(path, Path({str(windows.scratch / 'home')!r}), created='2026-01-01T00:00:00Z')",
        ),
        backup("by age", one, max_age="7d", keep_full_sets=2, keep_days=0),
        backup("into a second store", one, two),
        backup("in both", one, two),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    assert due(result, "predicted") == due(result, "first") == ["no_set"]
    assert result.task("predicted")["set"] is None
    for nothing in ("nothing, predicted", "nothing", "still nothing", "in both"):
        assert due(result, nothing) == []
    assert due(result, "by request") == due(result, "by revocation") == due(result, "by reason") == ["database_changed"]
    assert due(result, "by waiting request") == due(result, "by issuing alone") == ["database_changed"]
    assert due(result, "by both") == ["database_changed", "configuration_changed"]
    assert due(result, "by policy") == ["configuration_changed"]
    assert due(result, "by age") == ["max_age"]
    assert result.task("by age")["database"] == {"entries": 4, "next_serial": None, "next_crl_number": "02"}

    copied = result.task("into a second store")
    assert copied["changed"] and not copied["due"]
    assert [Path(path).parents[2] for path in copied["set"]["paths"]] == [one, two]
    kept = sets(one)
    assert len(kept) == 2 and len(result.task("by age")["removed"]) == 6
    (copy,) = sets(two)
    assert copy.name == kept[-1].name and files_of(copy) == files_of(kept[-1])
    assert due(result, "in both") == []


def test_a_set_is_complete_and_holds_no_key(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand("Example Issuing CA", "EnterpriseRootCA")
    host.renew_by_hand()
    host.issue("www.example.com")
    host.revoke(host.issue("gone.example.com"), 1)
    (host.system_root / "CAPolicy.inf").write_bytes(POLICY.encode())
    store = tmp_path / "store"
    views = [{"view_numbers": shape, "view_trailer": shape != "hex"} for shape in ("plain", "hex", "quoted_hex")]
    tasks = [databases(store), backup("made", store)]
    for number, view in enumerate(views):
        tasks += [host.task(f"view {number}", f"host.switches(**{view!r})"), backup(f"read {number}", store)]
    tasks += [
        host.task("a request", "host.issue('new.example.com')"),
        backup("truncated", store, truncate_logs=True, keep_full_sets=5),
        host.task("stop", "host.stop()"),
        backup("stopped", store, fails=True),
    ]
    result = play(windows, tasks, hosts={"ca": host.variables()})
    assert [due(result, f"read {number}") for number in range(3)] == [[], [], []]

    one, other = sets(store)
    files = files_of(one)
    fixed = {"configuration.reg", "CAPolicy.inf", "configuration.json", "database.json", "DataBase/certbkxp.dat"}
    assert fixed <= set(files) and files["CAPolicy.inf"] == POLICY.encode()
    assert f"DataBase/{host.active}.edb" in files and any(name.startswith("DataBase/") and name.endswith(".log") for name in files)
    certificates = {content for name, content in files.items() if name.startswith("certificates/")}
    assert certificates == {host.certificate(sha1).public_bytes(Encoding.DER) for sha1 in host.generations} and len(certificates) == 2
    assert not [name for name, content in files.items() if b"PRIVATE KEY" in content]
    exported = files["configuration.reg"].decode("utf-16")
    assert exported.startswith("Windows Registry Editor") and f"Configuration\\{host.active}]" in exported
    recorded = json.loads(files["configuration.json"])
    assert recorded["ca_type"] == "EnterpriseRootCA" and recorded["computer"] == "CA01"
    assert recorded["templates"] == ["WebServer", "SubCA"]
    assert recorded["csp"]["Provider"] == "Microsoft Software Key Storage Provider"
    state = json.loads(files["database.json"])
    assert (state["last_request_id"], len(state["revocations"])) == (2, 1)
    manifest = newest_manifest(store)
    assert manifest["own"]["last_request_id"] == 3 and manifest["state"]["entries"] == 3

    kept, truncated = [call["parameters"] for call in host.ran("Backup-CARoleService")]
    assert kept.get("KeepLog") and "KeepLog" not in truncated and kept["DatabaseOnly"]
    assert "the service CertSvc does not run" in failure(result, "stopped")
    assert len(host.ran("Backup-CARoleService")) == 2 and other.name.startswith("000002-")


def test_a_german_host_tells_the_same(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    """What certutil prints is localized, and so are the times; a set is due by what they mean."""
    host.install_by_hand()
    host.revoke(host.issue("gone.example.com"), 1)
    store = tmp_path / "store"
    english = host.variables()
    play(windows, [databases(store), backup("made", store)], hosts={"ca": english})
    host.switch(language="de", view_trailer=True, exceptions="wrapped")
    german = {**english, "keyward_windows_environment": {**host.environment, "LC_ALL": "de_DE.UTF-8"}}
    tasks = [backup("german", store), host.task("a request", "host.issue('new.example.com')"), backup("due", store)]
    result = play(windows, tasks, hosts={"ca": german})
    assert due(result, "german") == [] and due(result, "due") == ["database_changed"]


def test_a_store_on_the_host(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    """Made, judged, kept, and on a bare host restored from there: nothing but manifests travels."""
    host.install_by_hand()
    host.issue("www.example.com")
    share, keys = tmp_path / "share", tmp_path / "keys"
    there = {"host_store": str(share)}
    (shown,) = guide("windows.md")[0]
    (initialise,) = shown["tasks"]
    first = [
        step("ca_store", "on the host", **{**initialise["keyward.pki.ca_store"], "path": str(share)}),
        new_store(keys),
        step("ca_key_backup", "keys", stores=[str(keys)], password=PASSWORD),
        backup("predicted", **there, check=True),
        backup("first", **there),
        backup("nothing, predicted", **there, check=True),
        backup("nothing", **there),
        host.task("a request", "host.issue('new.example.com')"),
        backup("by request", **there, keep_full_sets=1, keep_days=0),
        step("ca_info", "what it holds", **there),
        host.task("lost marker", f"Path({str(share / 'keyward-store.json')!r}).rename({str(tmp_path / 'marker')!r})"),
        backup("no store", **there, fails=True),
        restore("no store to restore from", **there, fails=True),
        host.task("mounted again", f"Path({str(tmp_path / 'marker')!r}).rename({str(share / 'keyward-store.json')!r})"),
    ]
    result = play(windows, first, hosts={"ca": host.variables()})
    assert due(result, "predicted") == due(result, "first") == ["no_set"]
    assert due(result, "nothing, predicted") == due(result, "nothing") == []
    assert due(result, "by request") == ["database_changed"]
    (kept,) = sets(share)
    assert result.task("by request")["set"]["paths"] == [str(kept)] and kept.name.startswith("000002-")
    assert len(result.task("by request")["removed"]) == 1
    assert {f"DataBase/{host.active}.edb", "configuration.reg"} <= set(files_of(kept))
    assert not [path for path in share.iterdir() if path.name.startswith(".")]
    for lost in ("no store", "no store to restore from"):
        assert "Is the share mounted?" in failure(result, lost)
    advisories = codes(result.task("first")["advisories"])
    assert "store_on_the_host" in advisories
    assert [line.split()[:2] for line in (share / "allowed_signers").read_text().splitlines()] == [["keyward", 'namespaces="keyward"']]

    seen = {
        "host": "ca",
        "label": "CA",
        "place": {"backend": "adcs"},
        "key_stores": [str(keys)],
        **there,
        "info": result.task("what it holds"),
    }
    signers = {"allowed_signers": str(share / "allowed_signers"), "memory": str(tmp_path / "memory.json")}
    report = FakeHost("controller").run(CaAudit, {"cas": [seen], **signers})["audit"]
    (authority,) = report["authorities"]
    assert [one["path"] for one in authority["databases"]] == [f"ca:{kept}"] and codes(report["advisories"]) == ["store_on_the_host"]
    assert not {"database_not_covered", "database_not_audited", "unknown_signer"} & {*codes(authority["findings"])}

    before, rows = host.generations, host.database()["requests"]
    host.lose()
    then = [
        step("ca_key_restore", "keys", stores=[str(keys)], password=PASSWORD),
        restore("restored, predicted", **there, check=True),
        restore("restored", **there),
        restore("nothing", **there),
        backup("backed up as it is", **there),
    ]
    result = play(windows, then, hosts={"ca": host.variables()})
    assert [result.task(title)["changed"] for title in ("restored, predicted", "restored", "nothing")] == [True, True, False]
    assert host.generations == before and host.database()["requests"] == rows
    assert due(result, "backed up as it is") == []
