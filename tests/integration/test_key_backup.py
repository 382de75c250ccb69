# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_key_backup: what makes a backup due, what a backup holds, and what a store looks like afterwards."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._lock import locked
from support.ansible_run import Ansible, Result
from support.openssl_ca import OpensslCa
from support.plays import (
    NEW_PASSWORD,
    PASSWORD,
    assert_signs,
    assert_sound,
    backups,
    bundle_certificates,
    bundle_keys,
    check,
    codes,
    digest,
    events,
    failure,
    fill,
    fingerprint,
    look,
    looked,
    manifest,
    new_store,
    play,
    public_key,
    run,
    small_file_system,
    step,
)


def backup(ca: OpensslCa, *stores: Path, name: str, password: str | None = PASSWORD, **options: Any) -> dict[str, Any]:
    where = {"config_file": str(ca.config_file), "stores": [str(store) for store in stores]}
    return step("ca_key_backup", name, password=password, **where, **options)


def test_first_backup_of_two_generations(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store = openssl_ca, tmp_path / "store"
    time.sleep(1)  # certificates tell seconds, and the oldest one names the authority
    old_certificate, old_key = ca.renew_keeping()
    result = play(
        ansible,
        [
            new_store(store),
            look("before", store, ca.directory),
            backup(ca, store, name="predict", check=True),
            look("predicted", store, ca.directory),
            backup(ca, store, name="back up", reference="CHG-2026-0042"),
            look("stored", store, ca.directory),
            backup(ca, store, name="predict again", check=True),
            backup(ca, store, name="again", reference="CHG-2026-0043"),
            backup(ca, store, name="without a password", password=None),
            backup(ca, store, name="wrong", password=NEW_PASSWORD, fails=True),
            backup(ca, store, name="both wrong", password=NEW_PASSWORD, previous_password="never used by anyone", fails=True),
            look("left alone", store, ca.directory),
        ],
    )
    changes = {name: result.task(name)["changed"] for name in ("predict", "back up", "predict again", "again", "without a password")}
    assert changes == {"predict": True, "back up": True, "predict again": False, "again": False, "without a password": False}
    assert looked(result, "predicted") == looked(result, "before")
    assert looked(result, "left alone") == looked(result, "stored")

    predicted, stored = result.task("predict"), result.task("back up")
    assert predicted["due"] and stored["due"] and not result.task("again")["due"]
    assert codes(predicted["reasons"]) == codes(stored["reasons"]) == ["generation_missing", "generation_missing"]
    assert predicted["diff"] == stored["diff"]
    assert stored["diff"]["before"].count("not covered") == 2 and stored["diff"]["after"].count(": covered") == 2
    assert "PRIVATE KEY" not in result.stdout and PASSWORD not in result.stdout and result.task("again")["diff"]["before"].count("not") == 0
    assert predicted["authority"]["id"] is None and predicted["backup"] is None and "restorable" not in predicted
    assert stored["restorable"] is True and "restorable" not in result.task("again")
    assert [generation["covered"] for generation in stored["generations"]] == ["backup", "backup"]
    for name in ("wrong", "both wrong"):
        assert "the password does not open the newest backup" in failure(result, name) and "previous_password" in failure(result, name)
        assert codes(result.task(name)["reasons"]) == ["password_wrong"]

    (folder,) = backups(store)
    bundle = folder / "authority.p12"
    fingerprints = [fingerprint(old_certificate), fingerprint(ca.certificate)]
    assert bundle_keys(bundle, PASSWORD) == {public_key(old_key), public_key(ca.private_key)}
    assert bundle_certificates(bundle, PASSWORD) == set(fingerprints)
    content = manifest(folder)
    assert content["id"] == stored["backup"]["id"] == result.task("without a password")["backup"]["id"]
    assert stored["backup"]["paths"] == [str(folder)]
    place = {"config_file": str(ca.config_file), "directory": str(ca.directory), "name": stored["authority"]["name"]}
    assert content["authority"] == {**stored["authority"], "place": place}
    assert content["authority"]["id"] == fingerprints[0] and content["authority"]["host"] == "testhost"
    assert folder.parent.name == f"example-root-ca-{fingerprints[0][:16]}"
    assert {name: content["made"][name] for name in ("controller", "reason", "reference")} == {
        "controller": os.uname().nodename,
        "reason": "install",
        "reference": "CHG-2026-0042",
    }
    assert {"keyward.pki", "ansible-core", "cryptography", "python"} <= content["made"]["versions"].keys()
    assert [generation["fingerprints"]["sha256"] for generation in content["generations"]] == fingerprints
    places = [(generation["certificate_place"]["path"], generation["key_place"]["path"]) for generation in content["generations"]]
    assert places == [(str(old_certificate), str(old_key)), (str(ca.certificate), str(ca.private_key))]
    assert content["generations"][0]["key_place"] == {
        "path": str(old_key),
        "owner": old_key.owner(),
        "group": old_key.group(),
        "mode": "0600",
        "encrypted_at_rest": False,
        "encoding": "PEM",
        "container": "PKCS#8",
        "acl": None,
    }
    (event,) = events(folder.parent)
    assert {name: event[name] for name in ("type", "host", "follows", "reason", "reference")} == {
        "type": "backup",
        "host": "testhost",
        "follows": digest(folder),
        "reason": "install",
        "reference": "CHG-2026-0042",
    }
    everything = list(store.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in everything if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in everything if path.is_dir()} == {0o700}
    assert_sound(store)


@pytest.mark.parametrize("new_key", [True, False], ids=["with a new key", "with the same key"])
def test_renewed_by_hand_in_place(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path, new_key: bool) -> None:
    """cacert.pem and cakey.pem were overwritten: the next backup holds both generations, a restore brings the lost one back."""
    ca, store = openssl_ca, tmp_path / "store"
    play(ansible, [new_store(store), backup(ca, store, name="first")])
    lost = {"certificate": fingerprint(ca.certificate), "key": public_key(ca.private_key)}
    ca.renew_in_place(new_key)
    which = {"config_file": str(ca.config_file), "stores": [str(store)], "password": PASSWORD}
    result = play(
        ansible,
        [
            look("before", store, ca.directory),
            backup(ca, store, name="without a password", password=None, fails=True),
            backup(ca, store, name="wrong", password=NEW_PASSWORD, fails=True),
            backup(ca, store, name="predict", check=True),
            look("predicted", store, ca.directory),
            backup(ca, store, name="back up"),
            look("stored", store, ca.directory),
            backup(ca, store, name="predict again", check=True, password=None),
            backup(ca, store, name="again"),
            look("left alone", store, ca.directory),
            *(step("ca_key_restore", name, check=name == "foresee", **which) for name in ("foresee", "restore", "restore again")),
            backup(ca, store, name="after the restore", password=None),
        ],
    )
    assert [result.task(name)["changed"] for name in ("predict", "back up", "predict again", "again")] == [True, True, False, False]
    assert looked(result, "predicted") == looked(result, "before")
    assert looked(result, "left alone") == looked(result, "stored")
    assert "no password was given" in failure(result, "without a password")
    assert "does not open the newest backup" in failure(result, "wrong")
    for name in ("predict", "back up", "again"):
        advisories = {advisory["code"]: advisory["certificate"] for advisory in result.task(name)["advisories"]}
        assert advisories["generation_lost_on_host"] == lost["certificate"]

    first, second = backups(store)
    now = {"certificate": fingerprint(ca.certificate), "key": public_key(ca.private_key)}
    assert bundle_keys(second / "authority.p12", PASSWORD) == {lost["key"], now["key"]}
    assert bundle_certificates(second / "authority.p12", PASSWORD) == {lost["certificate"], now["certificate"]}
    content = manifest(second)
    assert [generation["fingerprints"]["sha256"] for generation in content["generations"]] == [lost["certificate"], now["certificate"]]
    assert (content["made"]["reason"], content["sequence"], content["previous"]) == ("renewal", 2, digest(first))
    assert content["authority"]["id"] == lost["certificate"] and second.parent == first.parent

    old_certificate, old_key = ca.directory / "cacert.0.pem", ca.directory / "private" / "cakey.0.pem"
    assert [result.task(name)["changed"] for name in ("foresee", "restore", "restore again")] == [True, True, False]
    put_back = {str(old_certificate)} | ({str(old_key)} if new_key else set())
    assert {file["path"] for file in result.task("foresee")["restored"]} == put_back
    assert {file["path"] for file in result.task("restore")["restored"]} == put_back
    assert fingerprint(old_certificate) == lost["certificate"]
    if new_key:
        assert stat.S_IMODE(old_key.stat().st_mode) == 0o600
        assert_signs(ca, [(old_certificate, old_key), (ca.certificate, ca.private_key)])
    else:
        assert not old_key.exists()
        assert_signs(ca, [(old_certificate, ca.private_key), (ca.certificate, ca.private_key)])
    assert not result.task("after the restore")["changed"]
    assert "generation_lost_on_host" not in codes(result.task("after the restore")["advisories"])
    assert_sound(store)


def test_the_password_is_changed_by_giving_both(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store, other = openssl_ca, tmp_path / "store", tmp_path / "other"
    both = {"password": NEW_PASSWORD, "previous_password": PASSWORD}
    result = play(
        ansible,
        [
            new_store(store),
            new_store(other),
            backup(ca, store, other, name="first"),
            backup(ca, store, other, name="forced", force=True, reference="CHG-7"),
            look("before", store, ca.directory),
            backup(ca, store, other, name="predict", check=True, **both),
            backup(ca, store, other, name="too weak", password="short", previous_password=PASSWORD, fails=True),
            look("predicted", store, ca.directory),
            backup(ca, store, other, name="change", **both),
            look("changed", store, ca.directory),
            backup(ca, store, other, name="predict again", check=True, **both),
            backup(ca, store, other, name="change again", **both),
            backup(ca, store, other, name="new one alone", password=NEW_PASSWORD),
            backup(ca, store, other, name="old one alone", fails=True),
            backup(ca, store, other, name="predict force", check=True, force=True, password=NEW_PASSWORD),
            look("left alone", store, ca.directory),
            step("ca_key_backup_info", "info", config_file=str(ca.config_file), stores=[str(store)], **both),
        ],
    )
    changes = [result.task(name)["changed"] for name in ("predict", "change", "predict again", "change again", "new one alone")]
    assert changes == [True, True, False, False, False]
    assert looked(result, "predicted") == looked(result, "before")
    assert looked(result, "left alone") == looked(result, "changed")
    assert set(looked(result, "before")) - set(looked(result, "changed")) <= {line for line in looked(result, "before") if " d i" in line}
    assert "does not open the newest backup" in failure(result, "old one alone")
    assert "fewer than 20 characters" in failure(result, "too weak")
    assert result.task("predict force")["changed"] and result.task("forced")["changed"]
    assert result.task("change")["generations"] == result.task("new one alone")["generations"]

    first, forced, changed = backups(store)
    made = [manifest(folder)["made"] for folder in (first, forced, changed)]
    assert [one["reason"] for one in made] == ["install", "forced", "password_change"]
    assert [one["reference"] for one in made] == [None, "CHG-7", None]
    keys = {public_key(ca.private_key)}
    assert bundle_keys(first / "authority.p12", PASSWORD) == bundle_keys(forced / "authority.p12", PASSWORD) == keys
    assert bundle_keys(changed / "authority.p12", NEW_PASSWORD) == keys
    info, ids = result.task("info"), [manifest(folder)["id"] for folder in (first, forced, changed)]
    assert info["newest"]["id"] == ids[2] and info["restorable"] is True
    assert sorted(info["under_previous_password"]) == sorted(info["superseded"]) == sorted(ids[:2])
    assert [one["type"] for one in events(first.parent)] == ["backup"] * 3
    for one in (store, other):
        assert_sound(one)


def test_a_second_store_gets_copies_without_a_password(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store, other = openssl_ca, tmp_path / "store", tmp_path / "other"
    wiped = ["find", str(other), "-mindepth", "1", "-delete"]
    result = play(
        ansible,
        [
            new_store(store),
            new_store(other),
            backup(ca, store, name="first"),
            backup(ca, store, name="second", force=True),
            look("before", store, other, ca.directory),
            backup(ca, store, other, name="predict", password=None, check=True),
            look("predicted", store, other, ca.directory),
            backup(ca, store, other, name="copy", password=None),
            look("copied", store, other, ca.directory),
            backup(ca, other, store, name="copy again", password=None),
            look("left alone", store, other, ca.directory),
            run("the share vanishes", *wiped),
            look("vanished", store, other, ca.directory),
            backup(ca, store, other, name="unmounted", fails=True),
            backup(ca, store, other, name="unmounted, in check mode", fails=True, check=True),
            look("still vanished", store, other, ca.directory),
            {**new_store(other), "register": "made"},
            backup(ca, store, other, name="another one", fails=True),
            backup(ca, store, other, name="copy anew", accept="{{ made.id }}"),
        ],
    )
    assert [result.task(name)["changed"] for name in ("predict", "copy", "copy again", "copy anew")] == [True, True, False, True]
    assert not any(result.task(name)["due"] for name in ("predict", "copy", "copy again", "copy anew"))
    assert looked(result, "predicted") == looked(result, "before")
    assert looked(result, "left alone") == looked(result, "copied")
    assert looked(result, "still vanished") == looked(result, "vanished")
    assert "it is another one than before" in failure(result, "another one")
    for name in ("unmounted", "unmounted, in check mode"):
        assert "it is not a keyward store. Is the share mounted?" in failure(result, name)
    here, there = backups(store), backups(other)
    assert [path.name for path in here] == [path.name for path in there] and here[0].parent.name == there[0].parent.name
    for mine, copy in zip(here, there, strict=True):
        assert {path.name: path.read_bytes() for path in mine.iterdir()} == {path.name: path.read_bytes() for path in copy.iterdir()}
    assert sorted(result.task("copy")["backup"]["paths"]) == sorted(map(str, (here[-1], there[-1])))
    assert [one["type"] for one in events(there[0].parent)] == ["copy", "copy"]
    for one in (store, other):
        assert_sound(one)


def test_a_damaged_copy_is_set_aside_and_its_sound_twin_takes_its_place(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store, other = openssl_ca, tmp_path / "store", tmp_path / "other"
    play(ansible, [new_store(store), new_store(other), backup(ca, store, other, name="first")])
    (damaged,) = backups(other)
    bundle = damaged / "authority.p12"
    bundle.write_bytes(bundle.read_bytes()[:-100])
    result = play(
        ansible,
        [
            look("before", store, other, ca.directory),
            backup(ca, store, other, name="predict", check=True),
            look("predicted", store, other, ca.directory),
            backup(ca, store, other, name="back up", password=None),
            backup(ca, store, other, name="again", password=None),
            backup(ca, other, name="alone", password=None),
        ],
    )
    assert looked(result, "predicted") == looked(result, "before")
    assert [result.task(name)["changed"] for name in ("predict", "back up", "again", "alone")] == [True, True, False, False]
    assert "digest_mismatch" in codes(result.task("back up")["advisories"])
    aside = damaged.with_name(f"{damaged.name}.damaged-1") / "authority.p12"
    assert aside.stat().st_size == bundle.stat().st_size - 100, "it stays as it was"
    assert manifest(damaged) == manifest(backups(store)[0]) and bundle_keys(bundle, PASSWORD) == {public_key(ca.private_key)}


def test_what_can_not_be_backed_up_is_refused_and_nothing_is_written(ansible: Ansible, tmp_path: Path) -> None:
    plain, encrypted = OpensslCa(tmp_path / "plain"), OpensslCa(tmp_path / "encrypted", passphrase="open sesame")
    keyless, unreadable = OpensslCa(tmp_path / "keyless"), OpensslCa(tmp_path / "unreadable")
    keyless.renew_keeping()[1].unlink()
    unreadable.private_key.unlink()
    unreadable.private_key.mkdir()
    store, databases, world, marked = (tmp_path / name for name in ("store", "databases", "world", "marked"))
    for path in (world, marked):
        path.mkdir(mode=0o700)
    marker = marked / "keyward-store.json"
    marker.write_text("{")
    loop = tmp_path / "loop.cnf"
    loop.symlink_to(loop)
    passphrase = {"private_key_passphrase": "open sesame"}
    result = play(
        ansible,
        [
            new_store(store),
            step("ca_store", "another kind", path=str(databases), kind="databases"),
            new_store(world),
            run("open to the world", "chmod", "0755", world),
            look("before", tmp_path / "plain", tmp_path / "encrypted", keyless.directory, store, databases, world, marked),
            backup(plain, store, name="weak", password="nineteen characters", fails=True),
            backup(plain, store, name="weak, in check mode", password="nineteen characters", fails=True, check=True),
            backup(plain, store, name="not ASCII", password="Passwörter mit Umlauten sind lang", fails=True),
            backup(plain, store, name="no password", password=None, fails=True),
            backup(plain, store, name="no password, in check mode", password=None, fails=True, check=True),
            backup(plain, name="no stores", fails=True),
            backup(plain, store, tmp_path / "nowhere", name="no such store", fails=True),
            backup(plain, store, databases, name="another kind of store", fails=True),
            backup(plain, store, world, name="a store open to the world", fails=True),
            backup(plain, store, marked, name="a damaged marker", fails=True),
            backup(encrypted, store, name="encrypted", fails=True),
            backup(encrypted, store, name="encrypted, in check mode", fails=True, check=True),
            backup(encrypted, store, name="another passphrase", private_key_passphrase="open barley", fails=True),
            backup(keyless, store, name="a key is missing", fails=True),
            backup(unreadable, store, name="a key that can't be read", fails=True),
            step("ca_key_backup", "no such CA", config_file=str(tmp_path / "no.cnf"), stores=[str(store)], password=PASSWORD, fails=True),
            step("ca_key_backup", "a loop", config_file=str(loop), stores=[str(store)], password=PASSWORD, fails=True),
            step("ca_key_backup", "no place", stores=[str(store)], password=PASSWORD, fails=True),
            look("after", tmp_path / "plain", tmp_path / "encrypted", keyless.directory, store, databases, world, marked),
            backup(encrypted, store, name="with its passphrase", **passphrase),
            backup(encrypted, store, name="nothing due, without its passphrase"),
        ],
    )
    assert looked(result, "after") == looked(result, "before")
    expected = {
        "weak": "fewer than 20 characters",
        "weak, in check mode": "fewer than 20 characters",
        "not ASCII": "other than printable ASCII",
        "no password": "no password was given",
        "no password, in check mode": "no password was given",
        "no stores": "no stores was given",
        "no such store": "Is the share mounted?",
        "another kind of store": "it is a store for databases, not for keys",
        "a store open to the world": "every user of the machine can enter it",
        "a damaged marker": "its marker keyward-store.json is damaged",
        "encrypted": "it is encrypted at rest",
        "encrypted, in check mode": "it is encrypted at rest",
        "another passphrase": "the passphrase does not open it",
        "a key is missing": "on the host it is missing",
        "a key that can't be read": "it is no regular file",
        "no such CA": "it does not exist",
        "a loop": "links lead in a circle",
        "no place": "no place was named",
    }
    said = {name: failure(result, name) for name in expected}
    assert {name: part for name, part in expected.items() if part not in said[name]} == {}, said
    for name in ("encrypted", "another passphrase", "a key is missing", "a key that can't be read"):
        assert codes(result.task(name)["reasons"]) == ["key_missing"]
    assert "private_key_passphrase" in said["encrypted"] and "generation 0" in said["a key is missing"]
    assert result.task("with its passphrase")["changed"] and not result.task("nothing due, without its passphrase")["changed"]
    assert bundle_keys(backups(store)[0] / "authority.p12", PASSWORD) == {public_key(encrypted.private_key, "open sesame")}


def test_no_space_left(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """The full store's neighbour gets nothing either: stored means stored in all of them."""
    ca, store = openssl_ca, tmp_path / "store"
    with small_file_system(tmp_path / "small") as small:
        play(ansible, [new_store(store), new_store(small)])
        filler = fill(small)
        result = play(
            ansible,
            [
                backup(ca, store, small, name="full", fails=True),
                run("make space", "rm", filler),
                look("after", store, small),
                backup(ca, store, small, name="back up"),
            ],
        )
        assert "no space is left on the device" in failure(result, "full") and str(small) in failure(result, "full")
        assert len([line for line in looked(result, "after") if " f i" in line]) == 2  # the two markers
        assert [path.name for path in backups(store)] == [path.name for path in backups(small)]
        for one in (store, small):
            assert_sound(one)


def _start_together(
    ansible: Ansible, tasks: list[dict[str, Any]], store: Path, passwords: Sequence[str] = (PASSWORD, PASSWORD)
) -> list[Result]:
    """Two controllers run the tasks; neither may store before both have written their backup apart."""
    with locked([str(store)], "this test waits"):
        runs = [ansible.start(tasks, extra_vars={"own_password": password}) for password in passwords]
        deadline = time.monotonic() + 60
        while len(list(store.glob(".*.new/authority.p12"))) < 2:
            assert time.monotonic() < deadline and all(one.process.poll() is None for one in runs), [one.finish() for one in runs]
            time.sleep(0.05)
    return [check(one.finish()) for one in runs]


def test_two_controllers_at_once(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store = openssl_ca, tmp_path / "store"
    tasks = [backup(ca, store, name="back up")]
    play(ansible, [new_store(store)])
    for number in (1, 2):
        first, second = _start_together(ansible, tasks, store)
        first.ok(), second.ok()
        assert sorted(one.last()["changed"] for one in (first, second)) == [False, True]
        assert first.last()["backup"]["id"] == second.last()["backup"]["id"] == manifest(backups(store)[-1])["id"]
        assert first.last()["authority"] == second.last()["authority"]
        assert len(backups(store)) == number
        assert_sound(store)
        if number == 1:
            ca.renew_keeping()
    last = backups(store)[-1] / "authority.p12"
    assert bundle_keys(last, PASSWORD) == {public_key(ca.private_key), public_key(ca.private_key.with_name("cakey.0.pem"))}
    assert not play(ansible, tasks).last()["changed"]


def test_two_controllers_with_different_passwords(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """The one that comes second says so; it neither stores nor claims that its password is proved."""
    ca, store = openssl_ca, tmp_path / "store"
    play(ansible, [new_store(store)])
    task = backup(ca, store, name="back up", password="{{ own_password }}")
    results = _start_together(ansible, [task], store, (PASSWORD, NEW_PASSWORD))
    assert sorted(one.rc == 0 for one in results) == [False, True]
    (loser,) = (one for one in results if one.rc != 0)
    assert "another run stored" in loser.failed()["msg"] and "Run the task again" in loser.failed()["msg"]
    assert len(backups(store)) == 1
    assert_sound(store)
