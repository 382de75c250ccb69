# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_key_backup_info: what the stores hold, and that it never fails because of what it finds there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from support.ansible_run import Ansible
from support.openssl_ca import OpensslCa
from support.plays import NEW_PASSWORD, PASSWORD, backups, codes, failure, fingerprint, look, looked, manifest, new_store, play, run, step
from support.signers import rewrite


def info(name: str, *stores: Path, ca: OpensslCa | None = None, **options: Any) -> dict[str, Any]:
    place = {"config_file": str(ca.config_file)} if ca else {}
    return step("ca_key_backup_info", name, stores=[str(store) for store in stores], **place, **options)


def backup(ca: OpensslCa, *stores: Path, name: str = "back up", password: str | None = PASSWORD, **options: Any) -> dict[str, Any]:
    where = {"config_file": str(ca.config_file), "stores": [str(store) for store in stores]}
    return step("ca_key_backup", name, password=password, **where, **options)


def test_from_an_empty_store_to_a_changed_password(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store, other = openssl_ca, tmp_path / "store", tmp_path / "other"
    result = play(
        ansible,
        [
            new_store(store),
            new_store(other),
            info("empty, no place", store),
            info("empty", store, ca=ca, password=PASSWORD),
            backup(ca, store, reference="CHG-1"),
            info("first", store, ca=ca),
            info("first, in check mode", store, ca=ca, check=True),
            info("no place", store, password=PASSWORD),
            info("wrong password", store, ca=ca, password=NEW_PASSWORD),
            info("one store lacks it", store, other, ca=ca),
            info("one store lacks it, from the other side", other, store, ca=ca),
        ],
    )
    nothing, empty = result.task("empty, no place"), result.task("empty")
    assert (nothing["authority"], nothing["due"], nothing["newest"], nothing["age"], nothing["backups"]) == (None, None, None, None, [])
    assert empty["authority"]["id"] is None and empty["authority"]["subject"] == "CN=Example Root CA,O=Example"
    assert (empty["due"], codes(empty["reasons"]), "restorable" in empty) == (True, ["generation_missing"], False)
    assert [generation["covered"] for generation in empty["generations"]] == ["none"]

    first = result.task("first")
    (folder,) = backups(store)
    stored = manifest(folder)
    assert (first["due"], first["reasons"], "restorable" in first) == (False, [], False)
    assert first["authority"] == {name: value for name, value in stored["authority"].items() if name != "place"}
    assert [generation["covered"] for generation in first["generations"]] == ["backup"] and 0 <= first["age"] < 600
    assert first["newest"] == {name: first["backups"][0][name] for name in first["newest"]}
    assert first["newest"]["paths"] == [str(folder)] and first["newest"]["id"] == stored["id"]
    (listed,) = first["backups"]
    assert (listed["sequence"], listed["previous"], listed["covers_all"]) == (1, None, True)
    assert listed["made"] == stored["made"] and listed["generations"] == [fingerprint(ca.certificate)]
    assert {**result.task("first, in check mode"), "age": 0} == {**first, "age": 0}
    assert result.task("no place")["restorable"] is True and result.task("no place")["newest"] == first["newest"]
    wrong = result.task("wrong password")
    assert (wrong["restorable"], codes(wrong["reasons"]), wrong["due"]) == (False, ["password_wrong"], False)
    for name in ("one store lacks it", "one store lacks it, from the other side"):
        (advisory,) = result.task(name)["advisories"]
        assert advisory["code"] == "missing_in_store" and str(other) in advisory["message"]
        # What is due is a matter of the generations; the next ca_key_backup makes the copy without a password.
        assert result.task(name)["due"] is False

    ca.renew_keeping()
    both = {"password": NEW_PASSWORD, "previous_password": PASSWORD}
    result = play(
        ansible,
        [
            info("renewed", store, ca=ca, password=PASSWORD),
            backup(ca, store),
            info("backed up", store, ca=ca),
            backup(ca, store, password=NEW_PASSWORD, previous_password=PASSWORD),
            look("before", store, ca.directory),
            info("changed", store, ca=ca, **both),
            info("the new password alone", store, ca=ca, password=NEW_PASSWORD),
            info("the old password alone", store, ca=ca, password=PASSWORD),
            look("after", store, ca.directory),
        ],
    )
    renewed = result.task("renewed")
    assert renewed["due"] is True and renewed["backups"][0]["covers_all"] is False and renewed["restorable"] is False
    assert set(codes(renewed["reasons"])) == {"generation_missing"}
    assert {finding["certificate"] for finding in renewed["reasons"]} == {fingerprint(ca.certificate)}
    assert [generation["covered"] for generation in renewed["generations"]] == ["backup", "none"]
    ids = [manifest(path)["id"] for path in backups(store)]
    done, changed = result.task("backed up"), result.task("changed")
    assert (done["due"], done["newest"]["id"], done["superseded"], done["under_previous_password"]) == (False, ids[1], ids[:1], [])
    assert [one["id"] for one in changed["backups"]] == ids[::-1]
    assert [one["covers_all"] for one in changed["backups"]] == [True, True, False]
    assert (sorted(changed["superseded"]), sorted(changed["under_previous_password"])) == (sorted(ids[:2]), sorted(ids[:2]))
    assert changed["restorable"] is True and result.task("the new password alone")["restorable"] is True
    assert codes(result.task("the old password alone")["reasons"]) == ["password_wrong"]
    assert looked(result, "after") == looked(result, "before")


def test_damage_is_told_and_never_fails(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """Of four backups the newest is truncated, the one before has no bundle, the one before that a broken manifest."""
    ca, store = openssl_ca, tmp_path / "store"
    more = [backup(ca, store, name=f"number {number}", force=True) for number in (2, 3, 4)]
    play(ansible, [new_store(store), backup(ca, store), *more])
    first, no_manifest, no_bundle, truncated = backups(store)
    (truncated / "authority.p12").write_bytes((truncated / "authority.p12").read_bytes()[:700])
    (no_bundle / "authority.p12").unlink()
    (no_manifest / "manifest.json").write_text('{"format": "keyward.pki key backup", "format_version": 1')
    (store / "rubbish").mkdir()
    result = play(
        ansible,
        [
            look("before", store),
            info("damaged", store, ca=ca, password=PASSWORD),
            info("damaged, no place", store),
            run("the last sound one", "truncate", "-s", "0", first / "authority.p12"),
            info("none is sound", store, ca=ca, password=PASSWORD),
            info("none is sound, no place", store, password=PASSWORD),
            run("no manifest at all", "sh", "-c", f"rm {store}/*/*/manifest.json"),
            info("no manifest", store, ca=ca, password=PASSWORD),
            info("no manifest, no place", store, password=PASSWORD),
        ],
    )
    for name in ("damaged", "damaged, no place"):
        one = result.task(name)
        assert one["newest"]["paths"] == [str(first)] and len(one["backups"]) == 1
        damaged = (no_manifest, no_bundle, truncated)
        told = {(finding["code"], path) for finding in one["advisories"] for path in damaged if str(path) in finding["message"]}
        assert told == {("malformed", no_manifest), ("digest_mismatch", no_bundle), ("digest_mismatch", truncated)}
    assert result.task("damaged")["restorable"] is True and result.task("damaged")["due"] is False
    none = result.task("none is sound")
    assert (none["newest"], none["backups"], none["due"], "restorable" in none) == (None, [], True, False)
    assert codes(none["reasons"]) == ["generation_missing"] and none["authority"]["id"] == fingerprint(ca.certificate)
    assert result.task("none is sound, no place")["due"] is True
    gone = result.task("no manifest")
    assert (gone["due"], gone["authority"]["id"]) == (True, None) and "malformed" in codes(gone["advisories"])
    blind = result.task("no manifest, no place")
    assert (blind["authority"], blind["due"]) == (None, None) and "malformed" in codes(blind["advisories"])


def test_a_sound_backup_that_holds_another_authority(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """The bytes are those that its manifest records, but they are another CA's: with the password the verdict tells."""
    ca, store, foreign = openssl_ca, tmp_path / "store", OpensslCa(tmp_path / "foreign", name="Foreign CA")
    play(ansible, [new_store(store), backup(ca, store), backup(foreign, store, name="foreign")])
    theirs, mine = sorted(store.glob("*/0*Z"), key=lambda path: manifest(path)["authority"]["sanitized_name"], reverse=True)
    content = manifest(mine)
    shutil.copy(theirs / "authority.p12", mine / "authority.p12")
    content["files"] = manifest(theirs)["files"]
    rewrite(mine / "manifest.json", ansible.scratch / "home", **content)
    result = play(ansible, [info("without", store, ca=ca), info("with", store, ca=ca, password=PASSWORD)])
    assert result.task("without")["due"] is False
    assert result.task("with")["restorable"] is False and codes(result.task("with")["reasons"]) == ["foreign_authority"]
    assert "CN=Foreign CA" in result.task("with")["reasons"][0]["message"]


def test_nothing_on_the_host_and_no_store(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store = openssl_ca, tmp_path / "store"
    result = play(
        ansible,
        [
            new_store(store),
            backup(ca, store),
            run("the configuration breaks", "sh", "-c", f"echo '$nothing = ${{undefined}}' >> {ca.config_file}"),
            info("unreadable", store, ca=ca, password=PASSWORD),
            run("the host is lost", "rm", "-r", ca.directory),
            info("lost", store, ca=ca, password=PASSWORD),
            info("lost, another place", store, config_file="/nowhere/openssl.cnf"),
            info("no stores", ca=ca, fails=True),
            info("unmounted", store, tmp_path / "nowhere", ca=ca, fails=True),
        ],
    )
    assert codes(result.task("unreadable")["advisories"]) == ["authority_unreadable"]
    assert codes(result.task("lost")["advisories"]) == ["nothing_on_host"]
    for name in ("unreadable", "lost"):
        one = result.task(name)
        assert one["restorable"] is True and one["due"] is False and len(one["backups"]) == 1 and one["authority"]["host"] == "testhost"
    assert result.task("lost, another place")["authority"] is None and result.task("lost, another place")["backups"] == []
    assert "no stores was given" in failure(result, "no stores")
    assert "Is the share mounted?" in failure(result, "unmounted")
