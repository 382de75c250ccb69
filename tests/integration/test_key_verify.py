# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_key_verify: fails unless every generation comes back from the backup."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from support.ansible_run import Ansible
from support.openssl_ca import OpensslCa, openssl
from support.plays import (
    NEW_PASSWORD,
    PASSWORD,
    backups,
    codes,
    failure,
    fingerprint,
    look,
    looked,
    manifest,
    new_store,
    play,
    public_key,
    run,
    step,
)
from support.quick import AS_WRITTEN


def verify(name: str, **options: Any) -> dict[str, Any]:
    return step("ca_key_verify", name, **{"password": PASSWORD, **options})


def backup(ca: OpensslCa, store: Path, name: str = "back up", **options: Any) -> dict[str, Any]:
    return step("ca_key_backup", name, config_file=str(ca.config_file), stores=[str(store)], **{"password": PASSWORD, **options})


def test_a_backup_named_in_each_way(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store = openssl_ca, tmp_path / "store"
    old_certificate, old_key = ca.renew_keeping()
    play(ansible, [new_store(store), backup(ca, store)], env=AS_WRITTEN)
    (folder,) = backups(store)
    live = {"config_file": str(ca.config_file)}
    ways: dict[str, dict[str, Any]] = {
        "file": {"backup": str(folder / "authority.p12")},
        "backup directory": {"backup": str(folder)},
        "authority directory": {"backup": str(folder.parent)},
        "stores": {"stores": [str(store)]},
        "stores, live": {"stores": [str(store)], **live},
        "backup directory, live": {"backup": str(folder), **live},
        "old password beside": {"backup": str(folder), "password": NEW_PASSWORD, "previous_password": PASSWORD},
    }
    result = play(
        ansible,
        [
            look("before", store, ca.directory),
            *(verify(name, **way) for name, way in ways.items()),
            verify("in check mode", backup=str(folder), check=True),
            look("after", store, ca.directory),
        ],
    )
    assert looked(result, "after") == looked(result, "before")
    stored = manifest(folder)
    for name in (*ways, "in check mode"):
        one = result.task(name)
        assert (one["changed"], one["restorable"], one["reasons"]) == (False, True, [])
        assert set(one["private_keys"]) == {public_key(old_key), public_key(ca.private_key)} and len(one["private_keys"]) == 2
        fingerprints = [fingerprint(old_certificate), fingerprint(ca.certificate)]
        assert {certificate["fingerprints"]["sha256"] for certificate in one["certificates"]} == set(fingerprints)
        assert [generation["fingerprints"]["sha256"] for generation in one["generations"]] == fingerprints
        assert one["encryption"]["weak"] is False and one["encryption"]["iterations"] >= 100_000
        assert (
            "AES-256" in one["encryption"]["key"]
            and "AES-256" in one["encryption"]["certificates"]
            and "SHA256" in one["encryption"]["mac"].replace("-", "").upper()
        )
        assert one["backup"]["id"] == stored["id"] and one["authority"]["subject"] == "CN=Example Root CA,O=Example"


def test_what_makes_it_fail(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store, foreign = openssl_ca, tmp_path / "store", OpensslCa(tmp_path / "foreign", name="Foreign CA")
    play(ansible, [new_store(store), backup(ca, store)])
    (folder,) = backups(store)
    truncated, junk, trailing = tmp_path / "truncated", tmp_path / "junk.p12", tmp_path / "trailing.p12"
    shutil.copytree(folder, truncated)
    data = (folder / "authority.p12").read_bytes()
    (truncated / "authority.p12").write_bytes(data[: len(data) // 2])
    (tmp_path / "half.p12").write_bytes(data[: len(data) // 2])
    junk.write_bytes(b"-----BEGIN NOTHING-----\n")
    trailing.write_bytes(data + b"more")
    old_certificate, _old_key = ca.renew_keeping()
    pair = ("-inkey", ca.private_key, "-in", ca.certificate)
    files = {
        "keyless": (("-nokeys", "-in", ca.certificate), PASSWORD),
        "no password": (pair, ""),
        "weak": ((*pair, "-iter", "1", "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"), PASSWORD),
        "foreign": (("-inkey", foreign.private_key, "-in", foreign.certificate), PASSWORD),
    }
    for name, (options, password) in files.items():
        openssl("pkcs12", "-export", *options, "-out", tmp_path / f"{name}.p12", "-passout", "stdin", passphrase=password)
    live = {"config_file": str(ca.config_file)}
    given: dict[str, tuple[dict[str, Any], list[str]]] = {
        "wrong password": ({"backup": str(folder), "password": NEW_PASSWORD}, ["password_wrong"]),
        "two wrong passwords": ({"backup": str(folder), "password": NEW_PASSWORD, "previous_password": "x"}, ["password_wrong"]),
        "truncated": ({"backup": str(truncated)}, ["digest_mismatch"]),
        "truncated file": ({"backup": str(tmp_path / "half.p12")}, ["malformed"]),
        "junk": ({"backup": str(junk)}, ["malformed"]),
        "keyless": ({"backup": str(tmp_path / "keyless.p12")}, ["key_missing"]),
        "no password at all": ({"backup": str(tmp_path / "no password.p12")}, ["opens_without_password"]),
        "renewed since": ({"backup": str(folder), **live}, ["generation_missing"]),
        "renewed since, from the stores": ({"stores": [str(store)], **live}, ["generation_missing"]),
        "one generation of two": ({"backup": str(tmp_path / "weak.p12"), **live}, ["generation_missing"]),
        "foreign": ({"backup": str(tmp_path / "foreign.p12"), **live}, ["foreign_authority"]),
    }
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "no password given": ({"backup": str(folder), "password": None}, "no password was given"),
        "neither": ({}, "it needs either backup or stores"),
        "both": ({"backup": str(folder), "stores": [str(store)]}, "it needs either backup or stores"),
        "no such file": ({"backup": str(tmp_path / "no.p12")}, "Is the share mounted?"),
        "no backup in it": ({"backup": str(tmp_path)}, "no backup lies in it"),
        "no store": ({"stores": [str(tmp_path)]}, "Is the share mounted?"),
        "nothing of it in the store": ({"stores": [str(store)], "config_file": str(foreign.config_file)}, "the stores hold none of"),
        "no such CA": ({"backup": str(folder), "config_file": "/nowhere/openssl.cnf"}, "it does not exist"),
    }
    result = play(
        ansible,
        [
            look("before", store, ca.directory, truncated),
            *(verify(name, fails=True, **options) for name, (options, _codes) in given.items()),
            *(verify(name, fails=True, **options) for name, (options, _part) in refused.items()),
            look("after", store, ca.directory, truncated),
            verify("weak, but it holds what it should", backup=str(tmp_path / "weak.p12")),
            verify("trailing bytes", backup=str(trailing)),
            verify("a file of another authority by itself", backup=str(tmp_path / "foreign.p12")),
        ],
    )
    assert looked(result, "after") == looked(result, "before")
    for name, (_options, expected) in given.items():
        message = failure(result, name)
        one = result.task(name)
        assert (name, codes(one["reasons"]), one["restorable"]) == (name, expected, False)
        assert "is not restorable" in message and all(reason["message"] in message for reason in one["reasons"])
        opened = not {"password_wrong", "digest_mismatch", "malformed"} & set(expected)
        assert (one["encryption"] is not None) == opened, name
    assert result.task("renewed since")["reasons"][0]["certificate"] == fingerprint(ca.certificate)
    assert result.task("one generation of two")["reasons"][0]["certificate"] == fingerprint(old_certificate)
    assert "CN=Foreign CA" in failure(result, "foreign")
    said = {name: failure(result, name) for name in refused}
    assert {name: part for name, (_options, part) in refused.items() if part not in said[name]} == {}, said
    weak = result.task("weak, but it holds what it should")
    assert weak["encryption"]["weak"] and weak["encryption"]["iterations"] == 1 and codes(weak["advisories"]) == ["weak_encryption"]
    assert (
        weak["authority"] is None
        and weak["backup"]["id"] is None
        and weak["generations"][0]["fingerprints"]["sha256"] == fingerprint(ca.certificate)
    )
    assert codes(result.task("trailing bytes")["advisories"]) == ["trailing_bytes"]
    assert result.task("a file of another authority by itself")["restorable"] is True


def test_the_newest_of_an_authority_is_judged(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """Nothing older stands in for it silently, and a damaged newest one gives way to the one before it."""
    ca, store = openssl_ca, tmp_path / "store"
    play(ansible, [new_store(store), backup(ca, store), backup(ca, store, "change", password=NEW_PASSWORD, previous_password=PASSWORD)])
    first, second = backups(store)
    result = play(
        ansible,
        [
            verify("the old password", backup=str(first.parent), fails=True),
            verify("the new password", backup=str(first.parent), password=NEW_PASSWORD),
            verify("the older one", backup=str(first)),
            run("damage", "truncate", "-s", "100", second / "authority.p12"),
            verify("damaged", backup=str(first.parent)),
        ],
    )
    assert codes(result.task("the old password")["reasons"]) == ["password_wrong"]
    assert result.task("the new password")["backup"]["id"] != result.task("the older one")["backup"]["id"]
    assert result.task("damaged")["backup"]["id"] == manifest(first)["id"]
