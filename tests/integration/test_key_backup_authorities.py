# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_key_backup: which authority a backup is of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from support.ansible_run import Ansible
from support.openssl_ca import OpensslCa
from support.plays import (
    PASSWORD,
    assert_sound,
    authorities,
    backups,
    bundle_keys,
    codes,
    fingerprint,
    manifest,
    new_store,
    play,
    public_key,
    step,
    tree,
)


def backup(ca: OpensslCa, *stores: Path, name: str, password: str | None = PASSWORD, **options: Any) -> dict[str, Any]:
    where = {"config_file": str(ca.config_file), "stores": [str(store) for store in stores]}
    return step("ca_key_backup", name, password=password, **where, **options)


def test_authorities_of_one_name_never_meet(ansible: Ansible, tmp_path: Path) -> None:
    """Two on one host and one on another, all of the same subject: the first backup of each is its own."""
    first, second, third = (OpensslCa(tmp_path / name) for name in ("first", "second", "third"))
    store = tmp_path / "store"
    hosts = {
        "alpha": ansible.local(configs=[str(first.config_file), str(second.config_file)]),
        "beta": ansible.local(configs=[str(third.config_file)]),
    }
    one = {
        "name": "back up",
        "keyward.pki.ca_key_backup": {"config_file": "{{ item }}", "stores": [str(store)], "password": PASSWORD},
        "loop": "{{ configs }}",
    }
    result = play(ansible, [{**new_store(store), "run_once": True}, one, {**one, "name": "again"}], hosts=hosts)
    back_up = {host: result.task("back up", host)["results"] for host in hosts}
    assert all(each["changed"] for host in hosts for each in back_up[host])
    assert not any(each["changed"] for host in hosts for each in result.task("again", host)["results"])
    assert set(codes(back_up["alpha"][1]["advisories"])) == {"same_name_other_keys"}
    assert len(authorities(store)) == 3
    answers = [back_up["alpha"][0], back_up["alpha"][1], back_up["beta"][0]]
    for ca, answer in zip((first, second, third), answers, strict=True):
        (path,) = answer["backup"]["paths"]
        content = manifest(Path(path))
        assert content["authority"]["directory"] == str(ca.directory) == answer["authority"]["directory"]
        assert content["authority"]["id"] == fingerprint(ca.certificate) == answer["authority"]["id"]
        assert bundle_keys(Path(path) / "authority.p12", PASSWORD) == {public_key(ca.private_key)}
    assert_sound(store)


def test_another_authority_in_a_place_of_another_host(ansible: Ansible, tmp_path: Path) -> None:
    """Same subject, same directory, same section: on another inventory host, without a shared key, it is another authority."""
    store, place = tmp_path / "store", tmp_path / "ca"
    old = OpensslCa(place)
    play(ansible, [new_store(store), backup(old, store, name="first")], hosts={"alpha": ansible.local()})
    place.rename(tmp_path / "elsewhere")
    new = OpensslCa(place)
    result = play(ansible, [backup(new, store, name="second")], hosts={"beta": ansible.local()})
    assert result.last()["changed"] and codes(result.last()["advisories"]) == ["same_name_other_keys"]
    assert len(result.last()["generations"]) == 1 and len(authorities(store)) == 2
    (path,) = result.last()["backup"]["paths"]
    assert bundle_keys(Path(path) / "authority.p12", PASSWORD) == {public_key(new.private_key)}


def test_a_moved_authority_is_served_where_a_person_says_that_it_lives(ansible: Ansible, tmp_path: Path) -> None:
    """Another inventory host, another directory: nothing is stored before, and nothing is due after."""
    ca, store = OpensslCa(tmp_path / "ca", relative=True), tmp_path / "store"
    first = play(ansible, [new_store(store), backup(ca, store, name="first")], hosts={"alpha": ansible.local()}).last()
    moved = tmp_path / "moved"
    ca.directory.rename(moved)
    for name in ("directory", "config_file", "certificate", "private_key"):
        setattr(ca, name, moved / getattr(ca, name).relative_to(tmp_path / "ca"))
    before = tree(store)
    hosts = {"beta": ansible.local()}
    said: dict[str, Any] = {"authority_id": first["authority"]["id"][:16], "move": True}
    steps = [backup(ca, store, name="not yet", fails=True), backup(ca, store, name="told in advance", check=True, **said)]
    result = play(ansible, steps, hosts=hosts)
    assert codes(result.task("not yet")["reasons"]) == ["not_at_home"] and result.task("told in advance")["changed"]
    assert tree(store) == before
    steps = [backup(ca, store, name="said", **said)]
    steps += [backup(ca, store, name="moved", password=None), backup(ca, store, name="moved, with the password")]
    result = play(ansible, steps, hosts=hosts)
    assert result.task("said")["changed"] and len(backups(store)) == 1
    before = tree(store)
    for name in ("moved", "moved, with the password"):
        assert not result.task(name)["changed"] and not result.task(name)["due"]
        assert result.task(name)["authority"]["id"] == first["authority"]["id"]
        assert (result.task(name)["authority"]["host"], result.task(name)["authority"]["directory"]) == ("beta", str(moved))
    assert tree(store) == before


def test_files_that_no_configuration_tells_are_stated(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store, elsewhere = openssl_ca, tmp_path / "store", tmp_path / "elsewhere"
    old_certificate, old_key = ca.renew_keeping()
    elsewhere.mkdir()
    shutil.move(old_certificate, elsewhere / "ca-2019.crt")
    shutil.move(old_key, elsewhere / "ca-2019.key")
    stated = {
        "directory": str(ca.directory),
        "certificate_file": "cacert.pem",
        "private_key_file": "private/cakey.pem",
        "stores": [str(store)],
        "password": PASSWORD,
        "older": [{"certificate_file": str(elsewhere / "ca-2019.crt"), "private_key_file": str(elsewhere / "ca-2019.key")}],
    }
    result = play(ansible, [new_store(store), *(step("ca_key_backup", name, **stated) for name in ("back up", "again"))])
    assert [result.task(name)["changed"] for name in ("back up", "again")] == [True, False]
    (folder,) = backups(store)
    assert bundle_keys(folder / "authority.p12", PASSWORD) == {public_key(elsewhere / "ca-2019.key"), public_key(ca.private_key)}
    assert manifest(folder)["generations"][0]["key_place"]["path"] == str(elsewhere / "ca-2019.key")
    assert manifest(folder)["authority"]["place"] == {
        "directory": str(ca.directory),
        "certificate_file": str(ca.certificate),
        "private_key_file": str(ca.private_key),
    }
