# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_key_restore: what comes back, in which form, and what is never touched."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible
from support.openssl_ca import OpensslCa, openssl
from support.plays import (
    NEW_PASSWORD,
    PASSWORD,
    assert_signs,
    backups,
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
    tree,
)


def backup(ca: OpensslCa, store: Path, name: str = "back up", **options: Any) -> dict[str, Any]:
    return step("ca_key_backup", name, config_file=str(ca.config_file), stores=[str(store)], password=PASSWORD, **options)


def restore(name: str, ca: OpensslCa | None = None, store: Path | None = None, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"password": PASSWORD}
    if ca:
        given["config_file"] = str(ca.config_file)
    if store:
        given["stores"] = [str(store)]
    return step("ca_key_restore", name, **{**given, **options})


def test_what_is_missing_comes_back_and_what_is_right_is_not_touched(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store = openssl_ca, tmp_path / "store"
    old_certificate, old_key = ca.renew_keeping()
    ca.renew_keeping()
    middle_certificate, middle_key = ca.directory / "cacert.1.pem", ca.directory / "private" / "cakey.1.pem"
    ca.private_key.chmod(0o640)
    ca.certificate.chmod(0o444)
    if os.geteuid() == 0:
        shutil.chown(ca.private_key, "nobody", 54321)
        shutil.chown(old_certificate, 54321, "daemon")
    gone = [ca.private_key, ca.certificate, old_key, old_certificate]
    before = {path: (path.read_bytes(), path.stat()) for path in gone}
    kept = [middle_certificate, middle_key, ca.config_file, ca.directory / "index.txt", ca.directory / "serial"]
    kept_before = tree(*kept)
    result = play(
        ansible,
        [
            new_store(store),
            backup(ca, store),
            restore("nothing is missing", ca, store),
            run("destroy", "rm", *gone),
            look("destroyed", ca.directory, store),
            restore("predict", ca, store, check=True),
            restore("wrong password", ca, store, password=NEW_PASSWORD, fails=True),
            restore("no password", ca, store, password=None, fails=True),
            look("predicted", ca.directory, store),
            restore("restore", ca, store),
            look("restored", ca.directory, store),
            restore("predict again", ca, store, check=True),
            restore("restore again", ca, store),
            look("left alone", ca.directory, store),
            backup(ca, store, "nothing is due"),
        ],
    )
    changes = ("nothing is missing", "predict", "restore", "predict again", "restore again", "nothing is due")
    assert [result.task(name)["changed"] for name in changes] == [False, True, True, False, False, False]
    assert looked(result, "predicted") == looked(result, "destroyed")
    assert looked(result, "left alone") == looked(result, "restored")
    assert "the password does not open it" in failure(result, "wrong password")
    assert "no password was given" in failure(result, "no password")
    assert tree(*kept) == kept_before

    predicted, restored = result.task("predict"), result.task("restore")
    assert predicted["restored"] == restored["restored"] and predicted["diff"] == restored["diff"]
    assert {(file["kind"], file["path"]) for file in restored["restored"]} == {
        ("private_key", str(ca.private_key)),
        ("certificate", str(ca.certificate)),
        ("private_key", str(old_key)),
        ("certificate", str(old_certificate)),
    }
    assert all(f"{path}: missing" in restored["diff"]["before"] for path in gone) and "PRIVATE KEY" not in result.stdout
    assert restored["set_aside"] == [] and restored["restorable"] is True and restored["backup"]["paths"] == [str(backups(store)[0])]
    for path, (content, status) in before.items():
        now = path.stat()
        assert path.read_bytes() == content
        assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid), path
    assert_signs(ca, [(old_certificate, old_key), (middle_certificate, middle_key), (ca.certificate, ca.private_key)])
    first, event = events(backups(store)[0].parent)
    assert (first["type"], event["type"], event["follows"]) == ("backup", "restore", digest(backups(store)[0]))
    assert event["host"] == "testhost" and event["restored"] == restored["restored"] and event["set_aside"] == []
    assert not [path for path in ca.directory.rglob("*") if path.name.startswith(".")]


def test_a_different_live_key_is_untouched_unless_set_aside(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, store = openssl_ca, tmp_path / "store"
    old_certificate, old_key = ca.renew_keeping()
    play(ansible, [new_store(store), backup(ca, store)])
    other = {}
    for path in (ca.private_key, old_key):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
        other[path] = path.read_bytes()
    old_certificate.unlink()
    result = play(
        ansible,
        [
            look("before", ca.directory, store),
            restore("refuse", ca, store, fails=True),
            restore("refuse, in check mode", ca, store, fails=True, check=True),
            restore("predict", ca, store, on_conflict="set_aside", check=True),
            look("untouched", ca.directory, store),
            restore("restore", ca, store, on_conflict="set_aside"),
            restore("restore again", ca, store, on_conflict="set_aside"),
            restore("no conflict is left", ca, store),
        ],
    )
    assert looked(result, "untouched") == looked(result, "before")
    for name in ("refuse", "refuse, in check mode"):
        assert str(ca.private_key) in failure(result, name) and str(old_key) in failure(result, name)
        assert "on_conflict: set_aside" in failure(result, name)
        assert set(codes(result.task(name)["reasons"])) == {"conflict"}
    assert [result.task(name)["changed"] for name in ("predict", "restore", "restore again", "no conflict is left")] == [
        True,
        True,
        False,
        False,
    ]
    predicted, restored = result.task("predict"), result.task("restore")
    assert {file["path"]: file["kept_as"] for file in predicted["set_aside"]} == {str(ca.private_key): None, str(old_key): None}
    assert {file["path"] for file in restored["restored"]} == {str(ca.private_key), str(old_key), str(old_certificate)}
    kept = {Path(file["path"]): Path(file["kept_as"]) for file in restored["set_aside"]}
    assert kept.keys() == other.keys()
    for path, aside in kept.items():
        assert aside.parent == path.parent and aside.name.startswith(f"{path.name}.set-aside-")
        assert aside.read_bytes() == other[path] and stat.S_IMODE(aside.stat().st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert_signs(ca, [(old_certificate, old_key), (ca.certificate, ca.private_key)])
    assert events(backups(store)[0].parent)[-1]["set_aside"] == restored["set_aside"]


def test_a_key_that_was_encrypted_at_rest_comes_back_encrypted(ansible: Ansible, tmp_path: Path) -> None:
    """Passphrases so short that they occur in every path: what Ansible's masking would do to results must not happen."""
    home = tmp_path / "demo"
    home.mkdir()
    cas = [OpensslCa(home / "democa", passphrase="demo"), OpensslCa(home / "ca", name="Other CA", passphrase="ca", algorithm="rsa:2048")]
    # The form that openssl wrote before 1.0: encrypted by the PEM itself.
    old = cas[1].private_key
    clear = openssl("rsa", "-in", old, "-passin", "stdin", "-traditional", passphrase="ca").stdout
    (tmp_path / "clear").write_text(clear)
    openssl("rsa", "-in", tmp_path / "clear", "-traditional", "-aes256", "-passout", "stdin", "-out", old, passphrase="ca")
    assert "Proc-Type: 4,ENCRYPTED" in old.read_text()
    store = tmp_path / "store"
    tasks = [new_store(store)]
    for number, ca in enumerate(cas):
        passphrase = {"private_key_passphrase": ca.passphrase}
        tasks += [
            backup(ca, store, f"back up {number}", **passphrase),
            run("destroy", "rm", ca.private_key, ca.certificate),
            look(f"before {number}", ca.directory),
            restore(f"no passphrase {number}", ca, store, fails=True),
            restore(f"no passphrase, in check mode {number}", ca, store, fails=True, check=True),
            look(f"untouched {number}", ca.directory),
            restore(f"encrypted {number}", ca, store, **passphrase),
            restore(f"again {number}", ca, store, **passphrase),
            run("keep the result", "cp", ca.private_key, tmp_path / f"encrypted.{number}"),
            run("destroy", "rm", ca.private_key),
            restore(f"allowed {number}", ca, store, allow_unencrypted_key=True),
        ]
    result = play(ansible, tasks)
    for number, ca in enumerate(cas):
        assert looked(result, f"untouched {number}") == looked(result, f"before {number}")
        for name in (f"no passphrase {number}", f"no passphrase, in check mode {number}"):
            assert "was encrypted at rest" in failure(result, name) and "allow_unencrypted_key" in failure(result, name)
        key, certificate = ca.private_key, ca.certificate
        for task in (result.task(f"encrypted {number}"), result.task(f"allowed {number}")):
            assert task["changed"] and task["authority"]["directory"] == str(ca.directory)
            assert {file["path"] for file in task["restored"]} <= {str(key), str(certificate)}
            assert str(key) in {file["path"] for file in task["restored"]}
        assert not result.task(f"again {number}")["changed"]
        encrypted = tmp_path / f"encrypted.{number}"
        header = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED")[number]
        assert encrypted.read_text().startswith(header)
        assert public_key(encrypted, ca.passphrase) == public_key(certificate)
        assert openssl("pkey", "-in", encrypted, "-noout", "-passin", "stdin", passphrase="another", check=False).returncode != 0
        assert "ENCRYPTED" not in key.read_text() and public_key(key) == public_key(certificate)
        assert "********" not in str(result.task(f"back up {number}")) and "VALUE_SPECIFIED" not in str(result.task(f"encrypted {number}"))
        stored = Path(result.task(f"back up {number}")["backup"]["paths"][0])
        place = manifest(stored)["generations"][0]["key_place"]
        assert (place["path"], place["encrypted_at_rest"]) == (str(key), True)
        assert manifest(stored)["authority"]["place"]["config_file"] == str(ca.config_file)


FORMS = {
    "PKCS#8 in DER": ("P-256", ("pkcs8", "-topk8", "-nocrypt", "-outform", "DER"), ("PKCS#8", "DER")),
    "PKCS#1": ("rsa:2048", ("rsa", "-traditional"), ("PKCS#1", "PEM")),
    "PKCS#1 in DER": ("rsa:2048", ("rsa", "-traditional", "-outform", "DER"), ("PKCS#1", "DER")),
    "SEC1": ("P-256", ("ec",), ("SEC1", "PEM")),
    "SEC1 in DER": ("P-384", ("ec", "-outform", "DER"), ("SEC1", "DER")),
    "Ed25519": ("ed25519", ("pkey",), ("PKCS#8", "PEM")),
}


def test_each_form_of_key_comes_back_in_its_form(ansible: Ansible, tmp_path: Path) -> None:
    store, before = tmp_path / "store", {}
    tasks = [new_store(store)]
    for number, (form, (algorithm, convert, _shape)) in enumerate(FORMS.items()):
        ca = OpensslCa(tmp_path / f"ca{number}", name=form, algorithm=algorithm)
        source = ca.private_key.rename(tmp_path / f"key{number}.pem")
        openssl(*convert, "-in", source, "-out", ca.private_key)
        if "DER" in form:
            openssl("x509", "-in", ca.certificate, "-outform", "DER", "-out", ca.certificate)
        before[form] = (ca, ca.private_key.read_bytes(), ca.certificate.read_bytes())
        tasks += [backup(ca, store, form), run("destroy", "rm", ca.private_key, ca.certificate), restore(f"restore {form}", ca, store)]
    result = play(ansible, tasks)
    for form, (ca, key, certificate) in before.items():
        (path,) = result.task(form)["backup"]["paths"]
        place = manifest(Path(path))["generations"][0]["key_place"]
        assert (place["container"], place["encoding"]) == FORMS[form][2]
        assert ca.private_key.read_bytes() == key, form
        assert ca.certificate.read_bytes() == certificate, form


def test_a_backup_of_another_authority_is_refused_and_named(ansible: Ansible, tmp_path: Path) -> None:
    mine, foreign = OpensslCa(tmp_path / "mine"), OpensslCa(tmp_path / "foreign", name="Foreign CA")
    namesake, store = OpensslCa(tmp_path / "namesake"), tmp_path / "store"
    plain = tmp_path / "foreign.p12"
    openssl(
        "pkcs12", "-export", "-inkey", foreign.private_key, "-in", foreign.certificate, "-out", plain, "-passout", "stdin", passphrase="ca"
    )
    play(ansible, [new_store(store), *(backup(ca, store, ca.directory.name) for ca in (mine, foreign, namesake))])
    folders = {manifest(path)["authority"]["directory"]: path for path in store.glob("*/0*Z")}
    mine.private_key.unlink()
    theirs = {ca.directory.name: str(folders[str(ca.directory)]) for ca in (foreign, namesake)}
    result = play(
        ansible,
        [
            look("before", mine.directory, store),
            restore("foreign", mine, backup=theirs["foreign"], fails=True),
            restore("foreign authority's directory", mine, backup=str(Path(theirs["foreign"]).parent), on_conflict="set_aside", fails=True),
            restore("foreign file", mine, backup=str(plain), password="ca", fails=True),
            restore("namesake", mine, backup=theirs["namesake"], fails=True),
            restore("namesake, in check mode", mine, backup=theirs["namesake"], check=True, fails=True),
            look("untouched", mine.directory, store),
            restore("the right one", mine, store),
        ],
    )
    assert looked(result, "untouched") == looked(result, "before")
    for name in ("foreign", "foreign authority's directory", "foreign file", "namesake", "namesake, in check mode"):
        subject = "CN=Foreign CA,O=Example" if "foreign" in name else "CN=Example Root CA,O=Example"
        assert f"the backup is of another authority ({subject})" in failure(result, name)
        assert codes(result.task(name)["reasons"]) == ["foreign_authority"]
    assert result.task("the right one")["changed"] and public_key(mine.private_key) == public_key(mine.certificate)
    assert [one["type"] for one in events(Path(theirs["foreign"]).parent)] == ["backup"]


def test_a_bare_host(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """Nothing of the CA is left, not even its configuration: by the stores alone, by a place, by a backup, on another host."""
    ca, store = openssl_ca, tmp_path / "store"
    ca.renew_keeping()
    files = [ca.certificate, ca.private_key, ca.directory / "cacert.0.pem", ca.directory / "private" / "cakey.0.pem"]
    before = {path: (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in files}
    vanish = run("the host is lost", "rm", "-r", ca.directory)
    hosts = {"testhost": ansible.local()}
    play(ansible, [new_store(store), backup(ca, store)], hosts=hosts)
    (folder,) = backups(store)
    result = play(
        ansible,
        [
            vanish,
            look("before", store),
            restore("predict", store=store, check=True),
            restore("another place", store=store, config_file="/nowhere/openssl.cnf", fails=True),
            look("untouched", store),
            {"name": "is it there", "ansible.builtin.stat": {"path": str(ca.directory)}},
            restore("by the stores alone", store=store),
            vanish,
            restore("by its place", ca, store),
            vanish,
            restore("by an authority's directory", backup=str(folder.parent)),
            restore("and again", store=store),
        ],
        hosts=hosts,
    )
    assert looked(result, "untouched") == looked(result, "before") and not result.task("is it there")["stat"]["exists"]
    assert "the stores hold none of an authority that lives on testhost" in failure(result, "another place")
    for name in ("predict", "by the stores alone", "by its place", "by an authority's directory"):
        assert result.task(name)["changed"] and {file["path"] for file in result.task(name)["restored"]} == set(map(str, files))
    assert not result.task("and again")["changed"]
    assert {path: (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in files} == before
    assert stat.S_IMODE((ca.directory / "private").stat().st_mode) == 0o700

    shutil.rmtree(ca.directory)
    result = play(
        ansible,
        [
            restore("by the stores alone", store=store, fails=True),
            restore("by a backup", backup=str(folder)),
        ],
        hosts={"replacement": ansible.local()},
    )
    assert "no backup was found" in failure(result, "by the stores alone") and folder.parent.name in failure(result, "by the stores alone")
    assert {path: (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in files} == before
    # In no order: names of the same second end at random.
    assert sorted(event["host"] for event in events(folder.parent) if event["type"] == "restore") == ["replacement", *["testhost"] * 3]


def test_a_bare_host_of_two_authorities(ansible: Ansible, tmp_path: Path) -> None:
    one, two, store = OpensslCa(tmp_path / "one"), OpensslCa(tmp_path / "two"), tmp_path / "store"
    play(ansible, [new_store(store), backup(one, store, "one"), backup(two, store, "two")])
    keys = {ca.directory.name: public_key(ca.private_key) for ca in (one, two)}
    for ca in (one, two):
        shutil.rmtree(ca.directory)
    result = play(
        ansible,
        [restore("which", store=store, fails=True), restore("one", one, store), restore("two", two, store)],
    )
    assert "it can't be told which authority of testhost is meant" in failure(result, "which")
    assert {ca.directory.name: public_key(ca.private_key) for ca in (one, two)} == keys


def test_a_file_that_openssl_made(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, p12, nothing = openssl_ca, tmp_path / "by-hand.p12", tmp_path / "certificates.p12"
    pair = ("-inkey", ca.private_key, "-in", ca.certificate)
    openssl("pkcs12", "-export", *pair, "-out", p12, "-passout", "stdin", passphrase="demo")
    openssl("pkcs12", "-export", "-nokeys", "-in", ca.certificate, "-out", nothing, "-passout", "stdin", passphrase="demo")
    key, certificate = public_key(ca.private_key), fingerprint(ca.certificate)
    ca.private_key.unlink()
    ca.certificate.unlink()
    (tmp_path / "elsewhere").mkdir()
    elsewhere = {"directory": str(tmp_path / "elsewhere"), "certificate_file": "ca.crt", "private_key_file": "ca.key"}
    given = {"backup": str(p12), "password": "demo"}
    result = play(
        ansible,
        [
            look("before", ca.directory, tmp_path / "elsewhere"),
            restore("wrong password", ca, backup=str(p12), password="ca", fails=True),
            restore("where to", **given, fails=True),
            restore("no key in it", ca, backup=str(nothing), password="demo", fails=True),
            restore("predict", ca, **given, check=True),
            look("untouched", ca.directory, tmp_path / "elsewhere"),
            restore("restore", ca, **given),
            restore("restore again", ca, **given),
            restore("to a stated place", **given, **elsewhere),
            restore("to a stated place again", **given, **elsewhere),
        ],
    )
    assert looked(result, "untouched") == looked(result, "before")
    assert "the password does not open it" in failure(result, "wrong password")
    assert "does not say where its CA lives" in failure(result, "where to")
    assert "the private key is not in it" in failure(result, "no key in it")
    names = ("predict", "restore", "restore again", "to a stated place", "to a stated place again")
    assert [result.task(name)["changed"] for name in names] == [True, True, False, True, False]
    assert result.task("restore")["authority"] is None or result.task("restore")["authority"]["directory"] == str(ca.directory)
    assert result.task("restore")["backup"]["id"] is None and result.task("restore")["backup"]["paths"] == [str(p12)]
    for one, cert in ((ca.private_key, ca.certificate), (tmp_path / "elsewhere" / "ca.key", tmp_path / "elsewhere" / "ca.crt")):
        assert (public_key(one), fingerprint(cert), stat.S_IMODE(one.stat().st_mode)) == (key, certificate, 0o600)
    assert_signs(ca, [(ca.certificate, ca.private_key)])


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "no manifest", "no bundle"])
def test_a_damaged_backup_restores_nothing(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path, damage: str) -> None:
    ca, store = openssl_ca, tmp_path / "store"
    play(ansible, [new_store(store), backup(ca, store)])
    (folder,) = backups(store)
    bundle = folder / "authority.p12"
    data = bundle.read_bytes()
    if damage == "truncated":
        bundle.write_bytes(data[:-50])
    elif damage == "other bytes":
        bundle.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        bundle.unlink()
    ca.private_key.unlink()
    steps = [
        look("before", ca.directory, store),
        restore("from the store", ca, store, fails=True),
        restore("from the backup", ca, backup=str(folder), fails=True),
        look("untouched", ca.directory, store),
    ]
    if damage == "no manifest":
        steps.append(restore("from the file", ca, backup=str(bundle)))
    result = play(ansible, steps)
    assert looked(result, "untouched") == looked(result, "before")
    failure(result, "from the store"), failure(result, "from the backup")
    if damage == "no manifest":
        assert result.task("from the file")["changed"] and public_key(ca.private_key) == public_key(ca.certificate)


def test_no_space_left_on_the_host(ansible: Ansible, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with small_file_system(tmp_path / "small") as small:
        ca = OpensslCa(small / "ca")
        play(ansible, [new_store(store), backup(ca, store)])
        ca.private_key.unlink()
        ca.certificate.unlink()
        filler = fill(small)
        result = play(
            ansible,
            [
                look("before", ca.directory / "private", ca.certificate.parent / "certs"),
                restore("full", ca, store, fails=True),
                look("untouched", ca.directory / "private", ca.certificate.parent / "certs"),
                run("make space", "rm", filler),
                restore("restore", ca, store),
            ],
        )
        assert "no space is left on the device" in failure(result, "full")
        assert [line.split(" t")[0] for line in looked(result, "untouched")] == [line.split(" t")[0] for line in looked(result, "before")]
        assert not [path for path in ca.directory.rglob("*") if path.name.endswith(".new")]
        assert_signs(ca, [(ca.certificate, ca.private_key)])
        assert [one["type"] for one in events(backups(store)[0].parent)] == ["backup", "restore"]
