# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles and playbooks say of CAs, and what they refuse in an inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible import context
from ansible.errors import AnsibleConnectionFailure, AnsibleLookupError
from ansible_collections.keyward.pki.plugins.action.ca_info import ActionModule as CaInfo
from ansible_collections.keyward.pki.plugins.action.ca_key_backup_info import ActionModule as CaKeyBackupInfo
from ansible_collections.keyward.pki.plugins.lookup.ca_hosts import LookupModule
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from ansible_collections.keyward.pki.plugins.plugin_utils._outcome import outcome, summary
from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import faults
from support.fake_host import FakeHost

COVERED = {"generations": [{"covered": "backup"}, {"covered": "none"}]}


def said(*steps: tuple[str, dict[str, Any]], failure: str = "", check: bool = False) -> dict[str, Any]:
    return outcome([{"module": module, "result": result} for module, result in steps], "The CA", "ca1", failure, check)


def advisory(level: str, message: str) -> dict[str, Any]:
    return {"code": message.replace(" ", "_"), "message": message, "level": level}


def test_one_line_says_what_became_of_keys_and_database() -> None:
    done = said(("ca_key_backup", {"changed": True, **COVERED}), ("ca_database_backup", {"changed": False}))
    assert done["line"] == "The CA on ca1: keys backed up, database not due, 1 of 2 generations covered" and done["level"] == "fine"
    would = said(("ca_key_backup", {"changed": True}), ("ca_renew", {"changed": True, "pending": False}), check=True)
    assert would["line"] == "The CA on ca1: keys would be backed up, the CA would be renewed"
    idle = said(("ca_key_backup", {}), ("ca_crl", {"skipped": True, "changed": False}))
    assert (idle["line"], idle["level"]) == ("The CA on ca1: nothing was done", "warning"), "such as by a misspelt tag"
    assert said(("no_database_store", {"changed": False}))["line"] == "The CA on ca1: nothing was done, the database has no store"


def test_a_set_is_said_to_be_full_or_what_is_new() -> None:
    full = {"changed": True, "set": {"kind": "full", "changes": None, "links": []}}
    assert said(("ca_database_backup", full))["line"] == "The CA on ca1: database backed up (full)"
    changes = {"added": 12, "changed": 0, "removed": 1}
    increment = {"changed": True, "set": {"kind": "increment", "changes": changes, "links": ["a", "b"]}}
    done = said(("ca_database_backup", increment))
    assert done["line"] == "The CA on ca1: database backed up (increment: 12 added, 1 removed, on 2 sets)"
    assert done["parts"] == {"database": "database backed up"}, "what summaries count"
    nothing = {"changed": True, "set": {"kind": "increment", "changes": dict.fromkeys(changes, 0), "links": ["a"]}}
    assert said(("ca_database_backup", nothing))["line"].endswith("(increment: no file, on 1 set)")


def test_a_configuration_that_a_restore_put_back_is_no_less_said_after_the_database() -> None:
    first = {"changed": True, "advisories": [advisory("warning", "configuration loads code"), advisory("warning", "not yet")]}
    done = said(("ca_database_restore", first), ("ca_database_restore", {"changed": True, "advisories": []}))
    assert (done["level"], done["line"]) == ("warning", "The CA on ca1: database put back, 1 warning")


def test_the_first_cause_is_told_and_not_its_consequences() -> None:
    renewal = {"failed": True, "msg": "the CA can't be renewed: the passphrase is wrong. Give the right one."}
    crl = {"failed": True, "msg": "no CRL was signed: the private key is inaccessible. Put it back."}
    database = {"failed": True, "msg": "nothing was stored: the disk is full. Make room."}
    done = said(("ca_renew", renewal), ("ca_crl", crl), ("ca_database_backup", database), failure="what was last")
    assert done["level"] == "red" and "what was last" not in done["line"]
    assert done["line"] == (
        "The CA on ca1: the CA was not renewed, CRLs failed, database failed: "
        "the CA can't be renewed: the passphrase is wrong. Give the right one; "
        "no CRL was signed; nothing was stored: the disk is full. Make room"
    )
    assert said(failure="what is no step")["line"].endswith(": what is no step")


def test_what_needs_a_person_changes_the_level_and_only_the_last_run_of_a_module_counts() -> None:
    before = ("ca_key_backup", {"changed": True, "advisories": [advisory("red", "a copy is damaged")]})
    after = ("ca_key_backup", {"changed": False, "advisories": [advisory("warning", "old"), advisory("counted", "expected")]})
    done = said(before, after)
    assert (done["level"], done["line"]) == ("warning", "The CA on ca1: keys backed up, 1 warning, 1 note")
    red = said(after, before)
    assert red["level"] == "red" and red["line"].endswith(": a copy is damaged") and red["short"].endswith(", a_copy_is_damaged")
    pending = {"changed": True, "pending": True, "request_file": "/ca/new.csr"}
    assert "a request waits for its parent's answer (/ca/new.csr)" in said(("ca_renew", pending))["line"]
    assert said(("ca_renew", pending), ("ca_renew", {"changed": True, "pending": False}))["line"] == "The CA on ca1: the CA renewed"


def test_a_play_over_many_fits_a_screen() -> None:
    fine = said(("ca_key_backup", {"changed": True, **COVERED}))
    red = said(("ca_key_backup", {"failed": True, "msg": "nothing was backed up: why. What to do."}))
    lines = summary({**{f"h{number}": [fine, fine] for number in range(100)}, "bad": [red], "lost": []})
    assert lines == [
        "201 CAs on 102 hosts: 1 red, 0 with warnings, 200 fine; 200 x keys backed up; 1 x keys failed",
        "red: The CA on ca1: keys failed",
        "red: nothing was done for lost, see what failed there",
    ]
    assert len(summary({f"h{number}": [red] for number in range(200)})) == 31
    assert fine["line"] in summary({"h": [fine]})


def test_what_is_stored_stands_for_an_offline_ca() -> None:
    findings = [advisory("warning", "never proved"), advisory("counted", "expected")]
    findings.append({"code": "host_not_asked", "level": "counted", "message": "it is offline, and its backup 9 days old"})
    one = {"in_inventory": True, **COVERED, "findings": findings}
    other = {"in_inventory": False, "generations": [], "findings": [advisory("red", "of another CA")]}
    audit = {"audit": {"authorities": [other, one], "advisories": []}}
    done = said(("stored", audit), ("ca_key_backup", {"skipped": True}))
    assert done["level"] == "warning" and done["line"] == (
        "The CA on ca1: what is stored stands for it, 1 of 2 generations covered, 1 warning, 2 notes: "
        "never proved; it is offline, and its backup 9 days old"
    )
    lost = said(("stored", {"audit": {"authorities": [other], "advisories": [advisory("red", "a store is not there")]}}))
    assert lost["level"] == "red" and "a store is not there" in lost["line"] and "don't say where it lives" in lost["line"]


# --- the inventory ---


def test_what_is_misspelt_is_refused_with_the_nearest_name() -> None:
    assert faults(None, ["keyward_config_file", "keyward_serial", "keyward_building"]) == []
    assert "empty" in faults([], [])[0]
    (one,) = faults([{"config_file": "/a.cnf"}, {"config_file": "/b.cnf", "reusekey": True}], [])
    assert one == "entry 2 of keyward_authorities (/b.cnf) has no option reusekey (did you mean reuse_key?)"
    (one,) = faults([{"parent": {"host": "up", "extension": "v3_ca"}}], [])
    assert "the parent in entry 1" in one and "did you mean extensions?" in one
    (one,) = faults(None, ["keyward_keep_fullsets"])
    assert one.startswith("no role has a variable keyward_keep_fullsets (did you mean keyward_keep_full_sets?)")
    for name in ("stores", "db_stores", "databases", "config", "dir", "passphrase", "reuse", "publish", "authority"):
        assert len(faults(None, [f"keyward_{name}"])) == 1, name
    assert "keyward_key_stores or" in faults(None, ["keyward_stores"])[0]
    assert "no list" in faults({"config_file": "/a.cnf"}, [])[0]
    (one,) = faults([{"config_file": "/a.cnf"}, {"name": "b"}, {"config_file": "/a.cnf", "label": "again"}], [])
    assert one.startswith("entries 1 and 3 of keyward_authorities say the same of where their CA lives")
    (one,) = faults([{"config_file": "/a.cnf", "label": "CA"}, {"config_file": "/b.cnf", "label": "CA"}], [])
    assert "entries 1 and 2" in one and "one label" in one
    said = outcome([], "every CA", "ca1", "Nothing was done on ca1: it is misspelt.", False)
    assert (
        said["line"] == "every CA on ca1: Nothing was done on ca1: it is misspelt" and said["short"] == "every CA on ca1: nothing was done"
    )
    for parent, why in (
        ("root1", "is no dictionary"),
        ({"config_file": "/a.cnf"}, "names no host"),
        ({"host": "rot1"}, "is on rot1, which the inventory does not have (did you mean root1?)"),
        ({"host": "root1", "day": 3}, "has no option day (did you mean days?)"),
    ):
        (one,) = faults(None, [], parent, ["root1"])
        assert one.startswith("keyward_parent ") and why in one
        (one,) = faults([{"config_file": "/a.cnf", "parent": parent}], [], None, ["root1"])
        assert one.startswith("the parent in entry 1") and why in one
    assert "no dictionary" in faults(["ca"], [])[0]


@pytest.mark.parametrize(
    ("pattern", "limit", "refused"),
    [
        ("cas", None, ""),
        ("all", "ca1", ""),
        (["cas", "!ca2"], None, ""),
        ("typo", None, "matches typo"),
        ("csa", None, "did you mean cas?"),
        ("cas", "web", "no host of cas is in --limit web"),
        ("cas", "@again.retry", ""),
    ],
)
def test_a_play_over_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, pattern: Any, limit: str | None, refused: str) -> None:
    monkeypatch.setattr(context, "CLIARGS", {"syntax": False})
    groups = {"all": ["ca1", "ca2", "web"], "ungrouped": ["web"], "cas": ["ca1", "ca2"]}
    variables = {"groups": groups, **({"ansible_limit": limit} if limit else {})}
    if refused:
        with pytest.raises(AnsibleLookupError, match=refused.replace("?", r"\?")):
            LookupModule().run([pattern], variables)
    else:
        assert LookupModule().run([pattern], variables) == [pattern]
    monkeypatch.setattr(context, "CLIARGS", {"syntax": True})
    assert LookupModule().run([pattern], {}) == [pattern]


def test_a_host_that_is_away_fails_a_task_so_that_a_play_can_go_on() -> None:
    def away(*_arguments: Any) -> Any:
        raise AnsibleConnectionFailure("Failed to connect to the host via ssh: No route to host")

    host = FakeHost()
    host._module = away  # type: ignore[method-assign]
    told = host.run(CaInfo, {"config_file": "/ca/openssl.cnf"})
    assert told["failed"] and "unreachable" not in told
    assert told["msg"].startswith("the host ca1 can't be reached: ") and "No route to host. Try ansible ca1 -m ping" in told["msg"]


def test_backups_are_told_where_the_host_is_gone(tmp_path: Path) -> None:
    initialise(str(tmp_path / "keys"), "keys")

    def away(*_arguments: Any) -> Any:
        raise AnsibleConnectionFailure("No route to host")

    host = FakeHost()
    host._module = away  # type: ignore[method-assign]
    told = host.run(CaKeyBackupInfo, {"stores": [str(tmp_path / "keys")]})
    assert not told.get("failed") and [one["code"] for one in told["advisories"]] == ["authority_unreadable"]
