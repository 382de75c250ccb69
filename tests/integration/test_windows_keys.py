# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Key backups of simulated Windows hosts: when one is due, what Windows may write, what it may refuse, and what stays secret."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from adcs import windows_pfx
from adcs.machine import CONFIGURATION
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.adcs import AdcsHost, Parent, WindowsAnsible, acting, gaze, on, play_freely
from support.canaries import Canaries
from support.plays import (
    NEW_PASSWORD,
    PASSWORD,
    assert_sound,
    authorities,
    backups,
    codes,
    failure,
    looked,
    manifest,
    new_store,
    step,
)

KEY_STORAGE = "Microsoft Software Key Storage Provider"


def sha256s(host: AdcsHost, *indices: int) -> list[str]:
    chosen = [host.generations[index] for index in indices] or host.generations
    return [_sha256(host.certificate(sha1)) for sha1 in chosen]


def _sha256(certificate: Any) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def written(host: AdcsHost) -> list[str]:
    """The digests of the bundles that Windows wrote, in order."""
    return [line["bundle"] for line in host.log if "bundle" in line]


def restorable(host: AdcsHost, backup: Path, passwords: Sequence[str] = (PASSWORD,)) -> bool:
    """Whether Windows finds every generation of the host, its certificate beside its key, in the files of a backup."""
    found: set[str] = set()
    for file in backup.glob("*.p12"):
        contents = next(filter(None, (windows_pfx.read(file.read_bytes(), password) for password in passwords)), None)
        assert contents, f"{file} does not open"
        keys = {windows_pfx.public(each.key) for each in contents.keys}
        found |= {_sha256(x509.load_der_x509_certificate(der)) for der in contents.certificates if windows_pfx.public_of(der) in keys}
    return set(sha256s(host)) <= found


def nothing_left(host: AdcsHost) -> bool:
    return not list((host.system_root / "Temp").iterdir()) and not (host.state / "remote_tmp").exists()


# --- when a backup is due ----------------------------------------------------------------------------------------------


def test_backups_follow_the_life_of_a_ca(windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand("Ex'ample CA")
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    one = {"stores": [str(first)], "password": PASSWORD}
    two = {"stores": [str(first), str(second)], "password": PASSWORD}
    changed = {"stores": [str(first), str(second)], "password": NEW_PASSWORD}
    tasks = [
        *map(new_store, (first, second, third)),
        gaze("before", host, first),
        step("ca_key_backup", "check", check=True, **one),
        gaze("after check", host, first),
        step("ca_key_backup", "apply", **one),
        gaze("after apply", host, first),
        step("ca_key_backup", "check again", check=True, **one),
        step("ca_key_backup", "apply again", **one),
        gaze("after all", host, first),
        acting("renewed, new key", "renew_by_hand()"),
        step("ca_key_backup_info", "due", **one),
        step("ca_key_backup", "renewed, check", check=True, **one),
        step("ca_key_backup", "renewed", **one),
        acting("renewed, same key", "renew_by_hand(reuse_key=True)"),
        step("ca_key_backup", "no password", fails=True, stores=[str(first)]),
        step("ca_key_backup", "same key, second store", **two),
        step("ca_key_backup", "wrong password", fails=True, **{**two, "password": "not the password of it"}),
        step("ca_key_backup", "other password", previous_password=PASSWORD, **changed),
        step("ca_key_backup", "other password again", previous_password=PASSWORD, **changed),
        step("ca_key_backup", "third store, no password", stores=[str(first), str(second), str(third)]),
        step("ca_key_verify", "verify", stores=[str(third)], password=NEW_PASSWORD),
        step("ca_key_verify", "verify, old password", fails=True, stores=[str(third)], password=PASSWORD),
        step("ca_key_verify", "verify the live CA", backend="adcs", stores=[str(second)], password=NEW_PASSWORD),
        step("ca_key_backup_info", "info", stores=[str(third)], password=NEW_PASSWORD),
        acting("older keys are stuck", "switch(not_exportable={0: 0x8009000B, 1: 0x80090029, 2: 0x80090029})"),
        acting("renewed once more", "renew_by_hand()"),
        step("ca_key_backup", "older keys stuck", **changed),
        acting("all are stuck", "switch(not_exportable=dict.fromkeys(range(4), 0x8009000B))"),
        step("ca_key_backup", "nothing to protect", fails=True, stores=[str(first)], password=PASSWORD, previous_password=NEW_PASSWORD),
    ]
    result = play_freely(windows, tasks, {"ca01": host.variables()})

    assert looked(result, "before") == looked(result, "after check") and looked(result, "after apply") == looked(result, "after all")
    for name, was in (("check", True), ("apply", True), ("check again", False), ("apply again", False)):
        assert (result.task(name)["changed"], result.task(name)["due"]) == (was, was)
    assert result.task("apply")["restorable"] and result.task("check")["backup"] is None
    generations = sha256s(host)
    for name in ("due", "renewed, check", "renewed"):
        assert result.task(name)["due"] is True
        assert {(each["code"], each["certificate"]) for each in result.task(name)["reasons"]} == {("generation_missing", generations[1])}
    assert "no password was given" in failure(result, "no password")
    second_store = result.task("same key, second store")
    assert [each["certificate"] for each in second_store["reasons"]] == [generations[2]] and second_store["changed"]
    assert "does not open the newest backup" in failure(result, "wrong password")
    assert result.task("wrong password")["reasons"][0]["code"] == "password_wrong"
    assert [result.task(name)["changed"] for name in ("other password", "other password again")] == [True, False]
    assert result.task("third store, no password")["changed"] and not result.task("third store, no password")["due"]
    for name in ("verify", "verify the live CA", "info"):
        assert result.task(name)["restorable"] is True
    assert [each["fingerprints"]["sha256"] for each in result.task("verify the live CA")["generations"]] == generations[:3]
    assert "is not restorable" in failure(result, "verify, old password")
    info = result.task("info")
    assert [each["made"]["reason"] for each in info["backups"]] == ["password_change", "renewal", "renewal", "install"]
    assert len(info["under_previous_password"]) == 3
    # A password that protects no file is none: nothing could tell it from a wrong one.
    assert "nothing to protect with this password" in failure(result, "nothing to protect")
    assert codes(result.task("nothing to protect")["reasons"]) == ["not_exportable"] * 4

    # Each store has what it was given, and each bundle is as Windows wrote it.
    for store in (first, second, third):
        assert_sound(store)
    made = backups(first)
    assert [path.name for path in backups(second)] == [path.name for path in made] and len(made) == 5
    digests = [[file["sha256"] for file in manifest(path)["files"]] for path in made]
    last = written(host)[4:]
    assert [each for (each,) in digests[:4]] == written(host)[:4]
    assert restorable(host, made[4], (NEW_PASSWORD, PASSWORD)) and not restorable(host, made[3], (NEW_PASSWORD,))

    # The last: what Windows still gives, and the earlier file for what it does not.
    stuck = result.task("older keys stuck")
    assert digests[4] == [*last, *digests[3]] and len(last) == 1
    own, earlier = manifest(made[4])["files"]
    assert (own["opened_by"], earlier["opened_by"]) == (manifest(made[4])["id"], manifest(made[3])["id"])
    assert [each["certificate"] for each in stuck["advisories"] if each["code"] == "not_exportable"] == generations[:3]
    # Which keys no longer leave the host stands in the manifest, one by one.
    assert [each["exportable"] for each in manifest(made[4])["generations"]] == [False] * 3 + [None]
    assert [each["exportable"] for each in manifest(made[3])["generations"]] == [None] * 3
    storage = [generation["key_storage"] for generation in manifest(made[4])["generations"]]
    assert [each["container"] for each in storage] == [f"Ex!0027ample CA{number}" for number in ("", "(1)", "(1)", "(3)")]
    for each in storage:
        assert (each["provider"], each["provider_type"], each["key_spec"], each["machine_key"]) == (KEY_STORAGE, 0, 0, True)

    # One execution for each task that needs the host, and one more for each backup, which alone brings it the password; the two
    # verifications from the store need none.
    assert host.executions == len([task for task in tasks if any(".ca_key_" in key for key in task)]) - 2 + 6
    assert len(host.ran("Backup-CARoleService")) == 6 and len(host.ran("Export-PfxCertificate")) == 8
    assert nothing_left(host)


# --- what Windows may write, and may refuse --------------------------------------------------------------------------------

# switches, module executions of the backup, files in it.
WRITTEN: dict[str, tuple[dict[str, Any], int, int]] = {
    "overwrites": ({"existing_backup_file": "overwrites", "ca_cert_hash": "plain"}, 2, 1),
    "stopped": ({"stopped": True, "language": "de"}, 2, 1),
    "stopped-fails": ({"stopped": True, "key_backup_with_service_stopped": "fails", "exceptions": "wrapped", "language": "de"}, 2, 3),
    "stopped-fails-win32": ({"stopped": True, "key_backup_with_service_stopped": "fails", "exceptions": "win32"}, 2, 3),
    "newest": ({"bundle_holds": "newest"}, 3, 3),
    "newest-aes": ({"bundle_holds": "newest", "pfx_algorithm": "aes", "language": "de"}, 3, 3),
    "aes": ({"pfx_algorithm": "aes", "shared_key_bags": "each"}, 2, 1),
}
# switches, reason, generations that it names.
REFUSED: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    "stuck": ({"not_exportable": dict.fromkeys((0, 1, 2), 0x8009000B)}, "not_exportable", (0, 1, 2)),
    "stuck-wrapped": ({"not_exportable": dict.fromkeys((0, 1, 2), 0x80090029), "exceptions": "wrapped"}, "not_exportable", (0, 1, 2)),
    "stuck-win32": (
        {"not_exportable": dict.fromkeys((0, 1, 2), 0x80090010), "exceptions": "win32", "language": "de"},
        "not_exportable",
        (0, 1, 2),
    ),
    "mixed": ({"not_exportable": {2: 0x80090029}, "language": "de"}, "not_exportable", (2,)),
    "mixed-newest": ({"not_exportable": {0: 0x8009000B, 1: 0x8009000B}, "bundle_holds": "newest"}, "not_exportable", (0, 1)),
    "open": ({"unprotected_backup": True}, "opens_without_password", ()),
}


def test_whatever_windows_does_the_backup_is_whole_or_there_is_none(windows: WindowsAnsible, tmp_path: Path) -> None:
    hosts = {}
    for name in (*WRITTEN, *REFUSED):
        host = hosts[name] = AdcsHost(tmp_path / name)
        host.install_by_hand()
        host.renew_by_hand(reuse_key=True)
        host.renew_by_hand()
        switches = dict((WRITTEN.get(name) or REFUSED[name])[0])
        if switches.pop("stopped", False):
            host.stop()
        host.switch(**switches)
    stored = {"stores": ["{{ store }}"], "password": PASSWORD}
    result = play_freely(
        windows,
        [step("ca_store", "init", path="{{ store }}", kind="keys"), step("ca_key_backup", "backup", fails=True, **stored)],
        {name: host.variables(store=str(tmp_path / "stores" / name)) for name, host in hosts.items()},
    )
    for name, (_switches, executions, files) in WRITTEN.items():
        host, done = hosts[name], result.task("backup", name)
        assert done.status == "ok", f"{name}: {done.get('msg')}"
        (backup,) = backups(tmp_path / "stores" / name)
        # The same bytes; of a bundle of the newest alone and of those exported on their own too.
        assert [file["sha256"] for file in manifest(backup)["files"]] == written(host), name
        assert (host.executions, len(done["backup"]["files"])) == (executions, files), name
        assert restorable(host, backup) and all(file.read_bytes().endswith(bytes(8)) for file in backup.glob("*.p12")), name
    for name, (_switches, reason, named) in REFUSED.items():
        host, done = hosts[name], result.task("backup", name)
        message = failure(result, "backup", name)
        assert message.startswith("nothing was stored: "), f"{name}: {message}"
        assert set(codes(done["reasons"])) == {reason}, name
        assert [each["certificate"] for each in done["reasons"] if named] == sha256s(host, *named)[: len(named)], name
        assert all(f"generation {index} (" in message for index in named), message
        assert authorities(tmp_path / "stores" / name) == [] and host.executions == (3 if "newest" in name else 2), name
    assert "its provider answers 0x80090010" in failure(result, "backup", "stuck-win32")
    for name, host in hosts.items():
        assert nothing_left(host) and len(host.ran("Backup-CARoleService")) == 1, name


# --- states, names, CRLs, stores on the host -----------------------------------------------------------------------------------


def test_states_and_names(windows: WindowsAnsible, tmp_path: Path) -> None:
    names = ("restoring", "pending", "cluster", "named", "bare", "another")
    hosts = {name: AdcsHost(tmp_path / name) for name in names}
    for name in ("restoring", "cluster", "named", "another"):
        hosts[name].install_by_hand("Ex'ample CA")
    hosts["restoring"].registry.set(CONFIGURATION + r"\RestoreInProgress", DatabaseRestored=1)
    hosts["cluster"].switch(cluster=True)
    for crl in hosts["cluster"].state.rglob("*.crl"):
        crl.unlink()
    pending = hosts["pending"]
    pending.install_by_hand("Sub CA", "StandaloneSubordinateCA")
    pending.certify(Parent())
    pending.renew_by_hand()
    hosts["bare"].switch(feature="absent", language="de")

    kept = {"stores": ["{{ store }}"], "password": PASSWORD}
    no_ca = [step("ca_info", "info", fails=True), step("ca_key_backup", "backup", fails=True, **kept)]
    tasks = [
        step("ca_store", "init", path="{{ store }}", kind="keys"),
        *on("restoring", *no_ca, step("ca_crl", "crl", fails=True), step("ca_key_restore", "restore", fails=True, **kept)),
        *on("pending", step("ca_info", "info"), step("ca_key_backup", "backup", **kept)),
        *on(
            "cluster",
            step("ca_key_backup", "backup", **kept),
            step("ca_key_restore", "restore", fails=True, **kept),
            step("ca_crl", "crl", fails=True),
        ),
        *on(
            "named",
            step("ca_info", "common", name="Ex'ample CA"),
            step("ca_info", "sanitized", name="Ex!0027ample CA"),
            step("ca_info", "adcs", backend="adcs"),
            step("ca_info", "unknown", fails=True, name="Other CA"),
            step("ca_info", "openssl", fails=True, backend="openssl"),
            step("ca_info", "config_file", fails=True, config_file="/etc/ssl/openssl.cnf"),
            step("ca_info", "passphrase", fails=True, private_key_passphrase="some passphrase"),
            step("ca_sign", "sign", fails=True, request="PEM", days=1),
        ),
        *on("posix", step("ca_info", "adcs", fails=True, backend="adcs")),
        *on("bare", *no_ca, step("ca_key_backup_info", "look", **kept)),
        # The host's next CA is another authority: its keys were not among those that the host was told of.
        *on(
            "another",
            step("ca_key_backup", "backup", **kept),
            acting("made anew", "lose() or host.switch(feature='present') or host.install_by_hand('Next CA')"),
            step("ca_key_backup", "next", **kept),
            step("ca_key_backup", "next again", **kept),
        ),
    ]
    inventory = {name: host.variables(store=str(tmp_path / "stores" / name)) for name, host in hosts.items()}
    inventory["posix"] = windows.local(store=str(tmp_path / "stores" / "posix"))
    result = play_freely(windows, tasks, inventory)

    for name in ("info", "backup", "crl", "restore"):
        assert "a database restore was begun and not finished" in failure(result, name, "restoring")
    request = result.task("info", "pending")["pending_request"]
    assert request["path"] == pending.value("RequestFileName") and request["subject"] == "CN=Sub CA,O=Example,C=DE"
    assert pending.value("SetupStatus") == 9 and result.task("backup", "pending")["changed"]
    assert manifest(backups(tmp_path / "stores" / "pending")[0])["generations"][0]["fingerprints"]["sha256"] == sha256s(pending)[0]
    assert result.task("backup", "cluster")["changed"]
    for name in ("restore", "crl"):
        assert "the CA is a resource of a failover cluster" in failure(result, name, "cluster")
    assert not hosts["cluster"].ran("Import-PfxCertificate") and not hosts["cluster"].ran("-CRL")
    for name in ("common", "sanitized", "adcs"):
        authority = result.task(name, "named")["authority"]
        assert (authority["name"], authority["sanitized_name"]) == ("Ex'ample CA", "Ex!0027ample CA")
    assert "the CA of this host is Ex'ample CA, not Other CA" in failure(result, "unknown", "named")
    assert "backend is openssl, and this is a Windows host" in failure(result, "openssl", "named")
    assert "config_file names an openssl CA" in failure(result, "config_file", "named")
    assert "private_key_passphrase names an openssl CA" in failure(result, "passphrase", "named")
    assert "certreq" in failure(result, "sign", "named")
    assert "backend is adcs, and this is no Windows host" in failure(result, "adcs", "posix")
    for name in ("info", "backup"):
        assert "no CA is configured on this host" in failure(result, name, "bare")
    look_at_nothing = result.task("look", "bare")
    assert look_at_nothing["backups"] == [] and codes(look_at_nothing["advisories"]) == ["nothing_on_host"]
    assert [result.task(name, "another")["changed"] for name in ("backup", "next", "next again")] == [True, True, False]
    assert len(authorities(tmp_path / "stores" / "another")) == 2 and hosts["another"].executions == 5


def test_crls_and_stores_on_the_host(windows: WindowsAnsible, host: AdcsHost) -> None:
    host.install_by_hand()
    host.renew_by_hand(reuse_key=True)
    host.renew_by_hand()
    (host.cert_enroll / "Example Root CA.crl").unlink()
    store, other = host.state / "D" / "databases", host.state / "D" / "other"
    other.mkdir(parents=True)
    (other / "file").write_text("content")
    published = str(host.cert_enroll / "Example Root CA(2).crl")
    signed_by = list(zip(host.generations, sha256s(host)))
    on_host = {"path": str(store), "kind": "databases", "host": True}
    result = play_freely(
        windows,
        [
            gaze("before", host),
            step("ca_crl", "check", check=True),
            step("ca_store", "store, check", check=True, **on_host),
            gaze("after check", host),
            step("ca_crl", "apply"),
            step("ca_store", "store", **on_host),
            gaze("after apply", host),
            step("ca_crl", "check again", check=True),
            step("ca_crl", "apply again"),
            step("ca_crl", "scratch", scratch=True),
            gaze("after all", host),
            # A long one before a migration; and what the keys alone can sign, without the database, and without the role.
            step("ca_crl", "long", remaining_days=30, days=90),
            acting("the database is gone", "database_file.unlink()"),
            step("ca_crl", "emergency, check", check=True, published_crl=published),
            step("ca_crl", "emergency", published_crl=published, days=99),
            acting("the role is gone", f"registry.delete({CONFIGURATION!r})"),
            step("ca_crl", "bare", published_crl=published, days=120),
            step("ca_crl", "delta", fails=True, published_crl=published.replace(").crl", ")+.crl")),
            acting("its number would be lower", "switch(signed_crl_number='lower')"),
            step("ca_crl", "lower", fails=True, published_crl=published, days=120),
            step("ca_store", "other content", fails=True, **{**on_host, "path": str(other)}),
            step("ca_store", "mode", fails=True, mode="0700", **on_host),
            step("ca_store", "kind", fails=True, **{**on_host, "kind": "keys"}),
        ],
        {"ca01": host.variables()},
    )
    assert looked(result, "before") == looked(result, "after check") and looked(result, "after apply") == looked(result, "after all")
    for name, was in (("check", True), ("apply", True), ("check again", False), ("apply again", False), ("scratch", False)):
        assert result.task(name)["changed"] is was, name
    assert [line["arguments"] for line in host.ran("-CRL")] == [["-CRL"], ["-CRL", "90:00"]]
    for name in ("apply", "apply again", "scratch"):
        crls = result.task(name)["crls"]
        signers = signed_by
        if name != "scratch":  # generations of one key share one
            spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            last = {host.certificate(sha1).public_key().public_bytes(*spki): (sha1, sha256) for sha1, sha256 in signers}
            signers = [signer for signer in signers if signer in last.values()]
        assert [each["certificate"] for each in crls] == [sha256 for _sha1, sha256 in signers], name
        for each, (sha1, _sha256) in zip(crls, signers):
            parsed = x509.load_pem_x509_crl(each["crl"].encode())
            assert parsed.is_signature_valid(host.certificate(sha1).public_key())
            assert (each["path"] is None) is (name == "scratch")
    days = {}
    for name in ("long", "emergency", "bare"):
        parsed = x509.load_pem_x509_crl(result.task(name)["crls"][-1]["crl"].encode())
        assert parsed.is_signature_valid(host.certificate(sha1).public_key())
        days[name] = (parsed.next_update_utc - parsed.last_update_utc).days
    assert days == {"long": 90, "emergency": 99, "bare": 120} and len(result.task("long")["crls"]) == 2
    assert result.task("emergency, check")["crls"] == [] and not result.task("bare")["changed"]
    assert "does not succeed the published CRL" in failure(result, "lower") and "is a delta CRL" in failure(result, "delta")
    assert [result.task(name)["changed"] for name in ("store, check", "store")] == [True, True]
    assert json.loads((store / "keyward-store.json").read_text())["id"] == result.task("store")["id"]
    assert "it has other content" in failure(result, "other content")
    assert "mode is for hosts that are not Windows" in failure(result, "mode")
    assert "it is a store for databases" in failure(result, "kind")


# --- secrets -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verbosity", [0, 5])
def test_no_secret_leaves_its_place(verbosity: int, windows: WindowsAnsible, host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand()
    host.renew_by_hand(reuse_key=True)
    host.switch(bundle_holds="newest")
    store, log = tmp_path / "keys", tmp_path / "ansible.log"
    secret = {name: f"canary-{secrets.token_urlsafe(24)}" for name in ("password", "following", "wrong")}
    canaries = Canaries()
    for name, value in secret.items():
        canaries.add(name, value)
    for key in (host.state / "keys").glob("*.pem"):
        canaries.add_private_key(f"the key {key.stem}", key)
    kept, following = {"stores": [str(store)], "password": "{{ password }}"}, {"stores": [str(store)], "password": "{{ following }}"}
    wrong = {"stores": [str(store)], "password": "{{ wrong }}"}
    # A process of its own may show what a warm one does not: once for what goes in, what comes out, and what fails.
    alone = host.alone if verbosity else lambda *steps: list(steps)
    tasks = [
        new_store(store),
        *alone(step("ca_key_backup", "backup", **kept)),
        step("ca_key_backup", "wrong password", fails=True, **wrong),
        step("ca_key_backup", "misspelt", fails=True, pasword="{{ password }}", **wrong),
        step("ca_key_backup", "other password", previous_password="{{ password }}", **following),
        step("ca_key_verify", "verify", backend="adcs", **following),
        acting("a key is lost", "remove_certificate(host.generations[0], key_too=True)"),
        step("ca_key_restore", "restore, wrong password", fails=True, **wrong),
        *alone(step("ca_key_restore", "restore", **following), step("ca_crl", "scratch", scratch=True)),
        acting("an export fails", "switch(unprotected_backup=True)"),
        *alone(step("ca_key_backup", "unprotected", fails=True, force=True, **following)),
    ]
    tasks = [{**task, "register": "answer"} for task in tasks] + [{"ansible.builtin.debug": {"var": "answer"}}]
    result = windows.play(
        tasks,
        hosts={"ca01": host.variables()},
        extra_vars=secret,
        diff=True,
        timeout=900,
        verbosity=verbosity,
        env={"ANSIBLE_KEEP_REMOTE_FILES": "1", "ANSIBLE_LOG_PATH": str(log)},
        cfg={"defaults": {"pipelining": False}, "connection": {"pipelining": False}},
    ).ok()
    # The run did what it should: a run that did nothing leaks nothing.
    assert [result.task(name)["changed"] for name in ("backup", "other password", "restore")] == [True, True, True]
    assert [one.task for one in result.results["ca01"] if one.status == "failed"] == [
        "wrong password",
        "misspelt",
        "restore, wrong password",
        "unprotected",
    ]
    assert canaries.add_bundles(store) == 4
    outputs = {"stdout": result.stdout, "stderr": result.stderr, "log": log.read_text(), "results": repr(result.results)}
    leaks = {(secret, name) for name, text in outputs.items() for secret in canaries.find(text)}
    (run,) = (path for path in windows.scratch.iterdir() if path.name != "home")
    places = [path for place in (host.state, run) for path in place.iterdir() if path.name not in ("keys", "extra_vars.json")]
    leaks |= canaries.find_in_files(places)
    assert not leaks
    # The eyes were open: these are where they belong, and the log, which has the command lines, was read.
    assert canaries.find_in_files([host.state / "keys", store, run / "extra_vars.json"])
    assert host.executions == 15 and host.state / "log.jsonl" in places
    assert nothing_left(host)
