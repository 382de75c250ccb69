# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing and renewing a CA of files: every algorithm, every cut, every answer that is wrong."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action import ca_crl, ca_renew, ca_sign
from ansible_collections.keyward.pki.plugins.module_utils import _lifecycle
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._x509 import ca_request, subject_name
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.fake_host import FakeHost
from support.killed import killed_at
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool

LONGER = itertools.count(100_000, 1000)  # days: each renewal is due, and makes its condition untrue
SUBJECT = {"organizationName": "Example", "commonName": "Example New CA"}
NEW = {"kind": "root", "subject": SUBJECT, "key_type": "Ed25519", "key_size": 4096, "curve": "secp384r1", "days": 3650}


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


def which(ca: OpensslCa | Path) -> Selector:
    if isinstance(ca, OpensslCa):
        return Selector(config_file=str(ca.config_file), private_key_passphrase=ca.passphrase)
    return Selector(config_file=str(ca / "openssl.cnf"))


def renew(ca: OpensslCa | Path, *, check: bool = False, **request: Any) -> dict[str, Any]:
    days = next(LONGER)
    always = {"remaining_days": None if "certificate" in request else days, "issued_before": None, "days": days + 500, "certificate": None}
    place = {"config_file": which(ca).config_file, "private_key_passphrase": which(ca).private_key_passphrase}
    return ended_well(FakeHost().run(ca_renew.ActionModule, {**place, **always, "reuse_key": False, **request}, check=check))


def ended_well(result: dict[str, Any]) -> dict[str, Any]:
    if result.get("failed"):
        raise Failed(result["msg"])
    return result


class Failed(Exception):
    """A task that failed, with its message."""


def install(directory: Path, *, check: bool = False, **options: Any) -> dict[str, Any]:
    return _lifecycle.install(which(directory), {"install": {**NEW, **options}}, check)


def sign(parent: Path, request: str, **more: Any) -> dict[str, Any]:
    options = {"config_file": which(parent).config_file, "request": request, "days": 100, **more}
    return ended_well(FakeHost().run(ca_sign.ActionModule, options))


def fingerprints(ca: OpensslCa | Path) -> list[str]:
    return [generation.sha256 for generation in OpensslBackend(which(ca)).facts().generations]


def keys_present(ca: OpensslCa | Path) -> set[str]:
    return {generation.private_key for generation in OpensslBackend(which(ca)).facts().generations}


def state(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def refused(call: Any) -> str:
    with pytest.raises((KeywardError, Failed)) as caught:
        call()
    return str(caught.value)


# --- roots ---


@pytest.mark.parametrize(("algorithm", "passphrase"), [("rsa:2048", None), ("P-256", "a passphrase"), ("ed25519", None), ("ed448", None)])
@pytest.mark.parametrize("reuse_key", [True, False], ids=["same-key", "new-key"])
def test_a_root_is_renewed_and_keeps_every_generation(tmp_path: Path, algorithm: str, passphrase: str | None, reuse_key: bool) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm=algorithm, passphrase=passphrase)
    (first,) = fingerprints(ca)
    old, mode = x509.load_pem_x509_certificate(ca.certificate.read_bytes()), ca.private_key.stat().st_mode
    key = ca.private_key.read_bytes()
    before = state(ca.directory)
    assert renew(ca, check=True, reuse_key=reuse_key)["changed"] and state(ca.directory) == before
    assert not renew(ca, reuse_key=reuse_key, remaining_days=1)["due"] and state(ca.directory) == before
    answer = renew(ca, reuse_key=reuse_key)
    assert (answer["changed"], answer["renewed"], answer["pending"]) == (True, True, False)
    new = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    assert fingerprints(ca) == [first, new.fingerprint(hashes.SHA256()).hex()] and keys_present(ca) == {"present"}
    assert (ca.directory / "cacert.0.pem").read_bytes() == before[str(ca.certificate)][2]
    assert new.subject.public_bytes() == old.subject.public_bytes() and new.serial_number != old.serial_number
    assert [e.oid for e in new.extensions] == [e.oid for e in old.extensions]
    assert (ca.private_key.read_bytes() == key) is reuse_key and ca.private_key.stat().st_mode == mode
    assert (ca.directory / "private" / "cakey.0.pem").exists() is not reuse_key
    assert (passphrase is not None) is (b"ENCRYPTED" in ca.private_key.read_bytes())
    openssl("verify", "-CAfile", ca.directory / "cacert.0.pem", ca.directory / "newcerts" / "1000.pem")
    ca.issue("second.example.com")
    ca.sign_crl(ca.directory / "cacert.0.pem", ca.private_key if reuse_key else ca.directory / "private" / "cakey.0.pem")
    proof = crl(ca, scratch=True)
    assert [one["certificate"] for one in proof["crls"]] == fingerprints(ca)


def test_three_renewals_name_keys_by_their_first_generation(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca")
    for reuse_key in (False, True, False):
        renew(ca, reuse_key=reuse_key)
    assert len(fingerprints(ca)) == 4 and keys_present(ca) == {"present"}
    assert sorted(path.name for path in ca.private_key.parent.iterdir()) == ["cakey.0.pem", "cakey.1.pem", "cakey.pem"]
    assert sorted(path.name for path in ca.directory.glob("cacert*")) == ["cacert.0.pem", "cacert.1.pem", "cacert.2.pem", "cacert.pem"]


def test_what_is_due(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca")
    time.sleep(1.01)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    due = [(None, "2000-01-01", False), (None, now, True), (1, None, False), (1, now, True), (3651, None, True)]
    for days, before, expected in due:
        answer = renew(ca, check=True, remaining_days=days, issued_before=before)
        assert (answer["due"], answer["changed"]) == (expected, expected), (days, before)
    assert "no time that can be read" in refused(lambda: renew(ca, issued_before="yesterday"))
    assert "this is a root" in refused(lambda: renew(ca, certificate="x"))
    ca.private_key.unlink()
    assert "its private key is missing" in refused(lambda: renew(ca))


def test_a_renewal_that_leaves_its_condition_true_is_refused(tmp_path: Path) -> None:
    ca, sub = OpensslCa(tmp_path / "ca"), tmp_path / "sub"
    before = state(ca.directory)
    future = f"{time.gmtime().tm_year + 1}-01-01T00:00:00Z"
    endless = [
        {"remaining_days": 4000, "days": None},
        {"remaining_days": 4000, "days": 4000},
        {"remaining_days": None, "issued_before": future},
    ]
    for request, check in itertools.product(endless, (True, False)):
        message = refused(lambda request=request, check=check: renew(ca, check=check, **request))
        assert "each run would renew it again" in message and state(ca.directory) == before
    root = tmp_path / "root"
    install(root)
    subordinate = {"kind": "subordinate", "subject": {**SUBJECT, "commonName": "Example Issuing CA"}}
    signed = sign(root, install(sub, **subordinate)["request"])
    install(sub, **subordinate, certificate=signed["certificate"])
    assert "would be due again" in refused(lambda: renew(sub, remaining_days=None, issued_before=future))
    signed = sign(root, renew(sub, remaining_days=400)["request"])  # for 100 days
    before = state(sub)
    message = refused(lambda: renew(sub, remaining_days=400, certificate=signed["certificate"]))
    assert "each run would renew the CA again" in message and state(sub) == before
    assert renew(sub, remaining_days=50, certificate=signed["certificate"])["renewed"]


def test_where_older_generations_are_stated_nothing_is_renewed(tmp_path: Path) -> None:
    """The current one would not be among them afterwards: no key backup and no CRL would know it."""
    ca = OpensslCa(tmp_path / "ca")
    older = [{"certificate_file": str(path)} for path in ca.renew_keeping()[:1]]
    before = state(ca.directory)
    assert not renew(ca, older=older, remaining_days=1)["changed"]
    for check in (True, False):
        message = refused(lambda check=check: renew(ca, check=check, older=older))
        assert "leave the option older out" in message and state(ca.directory) == before


def test_a_file_in_the_way_is_never_replaced(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca")
    other = OpensslCa(tmp_path / "other")
    (ca.directory / "cacert.0.pem").write_bytes(other.certificate.read_bytes())
    (ca.directory / "cacert.next.pem").write_text("something")
    before = state(ca.directory)
    assert "cacert.next.pem" in refused(lambda: renew(ca)) and state(ca.directory) == before
    (ca.directory / "cacert.next.pem").unlink()
    (ca.private_key.parent / "cakey.next.pem").write_text("something")
    assert "cakey.next.pem" in refused(lambda: renew(ca))
    (ca.private_key.parent / "cakey.next.pem").unlink()
    renew(ca)
    assert (ca.directory / "cacert.0.pem").read_bytes() == other.certificate.read_bytes()
    assert (ca.directory / "cacert.1.pem").read_bytes() == before[str(ca.certificate)][2]


# --- cuts ---


def cuts(directory: Path) -> Iterator[tuple[int, Path]]:
    for number in range(1, 60):
        yield number, directory / str(number)


@pytest.mark.parametrize("reuse_key", [True, False], ids=["same-key", "new-key"])
def test_a_renewal_that_is_killed_anywhere_is_finished_and_never_repeated(tmp_path: Path, reuse_key: bool) -> None:
    reached = 0
    for number, directory in cuts(tmp_path):
        ca = OpensslCa(directory, algorithm="ed25519")
        (first,) = fingerprints(ca)
        due = {"reuse_key": reuse_key, "remaining_days": 4000, "days": 5000}
        if not killed_at(number, lambda ca=ca, due=due: renew(ca, **due)):
            break
        reached += 1
        between = fingerprints(ca)
        assert first in between and keys_present(ca) == {"present"}, f"cut {number}: {between}"
        answer = renew(ca, **due)
        after = fingerprints(ca)
        assert answer["renewed"] or len(between) == 2, number
        assert len(after) == 2 and set(between) <= set(after) and after[0] == first, f"cut {number}: {between} {after}"
        assert not list(directory.rglob("*next*")), number
        assert not renew(ca, **due)["changed"]
    assert reached >= (6 if reuse_key else 10)


# --- subordinates ---


def test_a_subordinate_is_installed_and_renewed_through_requests(tmp_path: Path) -> None:
    root, sub = tmp_path / "root", tmp_path / "sub"
    assert install(root, check=True)["changed"] and not root.exists()
    assert install(root)["changed"]
    subordinate = {"kind": "subordinate", "subject": {**SUBJECT, "commonName": "Example Issuing CA"}}
    asked = install(sub, **subordinate)
    assert (asked["changed"], asked["pending"], asked["request_file"]) == (True, True, str(sub / "cacert.next.csr"))
    before = state(sub)
    again = install(sub, **subordinate)
    assert (again["changed"], again["pending"], again["request"]) == (False, True, asked["request"]) and state(sub) == before
    predicted = install(sub, check=True, **subordinate)
    assert (predicted["changed"], predicted["request"], predicted["request_file"]) == (False, asked["request"], asked["request_file"])

    signed = sign(root, asked["request"])
    assert signed["changed"] and not sign(root, asked["request"])["changed"]
    answer = signed["certificate"] + "".join(signed["chain"])
    for wrong, why in ((signed["chain"][0], "another key"), ("no certificate", "holds no certificate")):
        assert why in refused(lambda wrong=wrong: install(sub, **subordinate, certificate=wrong))
    assert state(sub) == before
    assert install(sub, **subordinate, certificate=answer)["generations"][0]["private_key"] == "present"
    openssl("verify", "-CAfile", root / "cacert.pem", sub / "cacert.pem")

    for reuse_key in (True, False):
        due = {"reuse_key": reuse_key}
        known = fingerprints(sub)
        asked = renew(sub, **due)
        assert (asked["renewed"], asked["pending"]) == (False, True) and fingerprints(sub) == known
        before = state(sub)
        again = renew(sub, **due)
        assert (again["changed"], again["request"]) == (False, asked["request"]) and state(sub) == before
        assert OpensslBackend(which(sub)).facts().pending_request
        signed = sign(root, asked["request"])
        assert signed["changed"], "each request is another, though the key is the same"
        assert renew(sub, **due, certificate=answer)["pending"], "the old certificate is no answer"
        answer = signed["certificate"] + "".join(signed["chain"])
        done = renew(sub, **due, certificate=answer)
        assert (done["renewed"], done["pending"]) == (True, False)
        before = state(sub)
        assert not renew(sub, **due, certificate=answer)["changed"] and state(sub) == before
        openssl("verify", "-CAfile", root / "cacert.pem", sub / "cacert.pem")
        assert len(fingerprints(sub)) == len(known) + 1 and keys_present(sub) == {"present"}
    assert "no pending request" in refused(lambda: renew(sub, certificate=(root / "cacert.pem").read_text()))


def test_a_request_without_its_key_is_not_pending_for_ever(tmp_path: Path) -> None:
    root, sub = tmp_path / "root", tmp_path / "sub"
    install(root)
    subordinate = {"kind": "subordinate", "subject": {**SUBJECT, "commonName": "Example Issuing CA"}}
    install(sub, **subordinate, certificate=sign(root, install(sub, **subordinate)["request"])["certificate"])
    renew(sub)
    key = sub / "private" / "cakey.next.pem"
    key.rename(tmp_path / "key")
    message = refused(lambda: renew(sub))
    assert "cacert.next.csr waits for its answer, and its private key is not in" in message
    (tmp_path / "key").rename(key)
    assert renew(sub)["pending"]
    key.unlink()
    (sub / "cacert.next.csr").unlink()
    assert renew(sub)["changed"] and key.exists()


def test_an_answered_subordinate_that_is_killed_is_finished(tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(root)
    subordinate = {"kind": "subordinate", "subject": {**SUBJECT, "commonName": "Example Issuing CA"}}
    reached = 0
    for number, directory in cuts(tmp_path / "subs"):
        directory.parent.mkdir(exist_ok=True)
        signed = sign(root, install(directory, **subordinate)["request"])
        install(directory, **subordinate, certificate=signed["certificate"])
        signed = sign(root, renew(directory)["request"])
        if not killed_at(number, lambda directory=directory, signed=signed: renew(directory, certificate=signed["certificate"])):
            break
        reached += 1
        assert keys_present(directory) == {"present"}
        renew(directory, certificate=signed["certificate"], remaining_days=None)
        assert len(fingerprints(directory)) == 2 and not list(directory.rglob("*next*")), number
    assert reached >= 8


# --- installation ---


@pytest.mark.parametrize("options", [{"key_type": "RSA", "key_size": 2048}, {"key_type": "EC"}, {"key_type": "Ed25519"}], ids=str)
def test_what_is_installed_issues_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    ca = tmp_path / "a $trange dir#ctory" if options["key_type"] == "EC" else tmp_path / "ca"
    install(ca, **options)
    before = state(ca)
    assert (ca / "private").stat().st_mode & 0o777 == 0o700 and (ca / "private" / "cakey.pem").stat().st_mode & 0o777 == 0o600
    answer = _lifecycle.install(which(ca), {}, False)
    assert not answer["changed"] and [g["private_key"] for g in answer["generations"]] == ["present"]
    assert state(ca) == before
    openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key")
    openssl("req", "-new", "-key", tmp_path / "key", "-subj", "/CN=www.example.com", "-out", tmp_path / "csr")
    openssl("ca", "-config", ca / "openssl.cnf", "-batch", "-notext", "-in", tmp_path / "csr", "-out", tmp_path / "crt")
    openssl("verify", "-CAfile", ca / "cacert.pem", tmp_path / "crt")
    openssl("ca", "-config", ca / "openssl.cnf", "-gencrl", "-out", tmp_path / "crl")


@pytest.mark.parametrize("name", ["My CA", "ca-1", "ca_1.x"])
def test_a_name_that_openssl_takes(tmp_path: Path, name: str) -> None:
    made = Selector(config_file=str(tmp_path / "openssl.cnf"), name=name)
    assert _lifecycle.install(made, {"install": NEW}, False)["authority"]["name"] == name
    openssl("ca", "-config", tmp_path / "openssl.cnf", "-gencrl", "-out", tmp_path / "crl.pem")


@pytest.mark.parametrize("name", ["x]y", "ünï", "a\nb", " a", "a#b"])
def test_a_name_that_openssl_does_not_take(tmp_path: Path, name: str) -> None:
    made = Selector(config_file=str(tmp_path / "ca" / "openssl.cnf"), name=name)
    for check in (True, False):
        message = refused(lambda check=check: _lifecycle.install(made, {"install": NEW}, check))
        assert "can't be that of a section" in message and not (tmp_path / "ca").exists()


def test_an_installation_that_is_killed_anywhere_is_finished_with_the_same_key(tmp_path: Path) -> None:
    reached = 0
    for number, directory in cuts(tmp_path):
        if not killed_at(number, lambda directory=directory: install(directory)):
            break
        reached += 1
        keys = [path.read_bytes() for path in directory.rglob("cakey.pem")]
        with contextlib.suppress(KeywardError):
            _lifecycle.install(which(directory), {}, False)
        if not (directory / "cacert.pem").exists():
            install(directory)
        assert keys in ([], [(directory / "private" / "cakey.pem").read_bytes()]) and keys_present(directory) == {"present"}
    assert reached >= 10


def test_where_something_of_a_ca_is_none_is_made(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca")
    ca.certificate.unlink()
    before = state(ca.directory)
    assert "has entries, so there was a CA here" in refused(lambda: install(ca.directory)) and state(ca.directory) == before
    (ca.directory / "index.txt").write_text("")
    ca.private_key.write_text("something")
    assert "can't be used" in refused(lambda: install(ca.directory))
    assert "there is no subject attribute" in refused(lambda: install(tmp_path / "b", subject={"organisation": "x"}))
    assert "can't have the value" in refused(lambda: install(tmp_path / "c", subject={"countryName": "Germany"}))


# --- what a CA signs ---


def test_requests_that_are_not_signed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(root)
    asked = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    damaged = x509.load_pem_x509_csr(asked.encode()).public_bytes(serialization.Encoding.PEM).decode().replace("A", "B", 3)
    for request, more, why in (
        ("nothing", {}, "no certificate request"),
        (damaged, {}, "request"),
        (asked, {"extensions": "end_entity"}, "no section [end_entity] with basicConstraints = CA:TRUE"),
        (asked, {"extensions": "none_such"}, "sections with basicConstraints: end_entity"),
    ):
        before = state(root)
        assert why in refused(lambda request=request, more=more: sign(root, request, **more))
        assert state(root) == before
    first = sign(root, asked)
    again = install(tmp_path / "again", kind="subordinate", subject={"commonName": "Sub"})["request"]
    (root / "index.txt.attr").write_text("unique_subject = yes\n")
    assert "unique_subject allows only one" in refused(lambda: sign(root, again))
    openssl("ca", "-config", root / "openssl.cnf", "-revoke", root / "newcerts" / f"{first['serial'].upper()}.pem")
    assert sign(root, asked)["serial"] != first["serial"], "what was revoked answers nothing"
    assert "outlives_issuer" in {
        advisory["code"]
        for advisory in sign(root, install(tmp_path / "b", kind="subordinate", subject={"commonName": "B"})["request"], days=9999)[
            "advisories"
        ]
    }


def test_a_request_gets_no_more_than_the_section_says(tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(root)
    config = root / "openssl.cnf"
    text = config.read_text()
    asked = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"}, path_length=5)["request"]
    same = {**SUBJECT, "commonName": " example  NEW ca"}
    for subject, weak, changed, why in (
        (None, None, "copyall", "copy_extensions = copyall"),
        (SUBJECT, None, "none", "its subject is that of the CA"),
        (same, None, "none", "its subject is that of the CA"),
        (None, 1024, "copy", "its RSA key has 1024 bits"),
    ):
        config.write_text(text.replace("copy_extensions = none", f"copy_extensions = {changed}"))
        request = asked
        if subject or weak:
            key = rsa.generate_private_key(65537, weak or 2048)
            request = ca_request(key, subject_name(subject or {"commonName": "Weak"}), 5).public_bytes(serialization.Encoding.PEM).decode()
        before = state(root)
        assert why in refused(lambda request=request: sign(root, request))
        assert state(root) == before
    config.write_text(text.replace("copy_extensions = none", "copy_extensions = copy"))
    signed = x509.load_pem_x509_certificate(sign(root, asked)["certificate"].encode())
    assert signed.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_planted_certificate_answers_no_request(tmp_path: Path) -> None:
    """Others may write where certificates lie."""
    root, other = tmp_path / "root", tmp_path / "other"
    install(root)
    install(other)
    asked = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    stranger = install(tmp_path / "stranger", kind="subordinate", subject={"commonName": "Sub"})["request"]
    for planted in (sign(other, asked), sign(root, stranger)):
        (root / "newcerts" / "FF.csr").write_text(asked)
        (root / "newcerts" / "FF.pem").write_text(planted["certificate"])
        mine = sign(root, asked)
        assert mine["certificate"] != planted["certificate"]
        again = sign(root, asked)
        assert again["certificate"] == mine["certificate"] and not again["changed"]


def rows(ca: Path) -> list[list[str]]:
    return [line.split("\t") for line in (ca / "index.txt").read_text().splitlines()]


def test_a_request_whose_signing_is_killed_anywhere_gets_one_certificate(tmp_path: Path) -> None:
    root, reached = tmp_path / "root", 0
    install(root)
    for number, directory in cuts(tmp_path):
        asked = install(directory, kind="subordinate", subject={"commonName": f"Sub {number}"})["request"]
        killed = killed_at(number, lambda asked=asked: sign(root, asked))
        answer = sign(root, asked)
        again = sign(root, asked)
        assert not again["changed"] and again["certificate"] == answer["certificate"], number
        own = [row for row in rows(root) if row[5] == f"/CN=Sub {number}"]
        assert [(row[0], row[3].lower()) for row in own] == [("V", answer["serial"])], f"cut {number}: {own}"
        if not killed:
            break
        reached += 1
    serials = [int(row[3], 16) for row in rows(root)]
    assert len(set(serials)) == len(serials) and int((root / "serial").read_text(), 16) == max(serials) + 1
    issued = sorted(path.name for path in (root / "newcerts").iterdir())
    assert issued == sorted(f"{row[3]}.{suffix}" for row in rows(root) for suffix in ("csr", "pem"))
    assert reached >= 8


def test_a_note_of_a_request_does_not_stay(tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(root)
    asked = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    config = (root / "openssl.cnf").read_text()
    (root / "openssl.cnf").write_text(config.replace("commonName = supplied", "serialNumber = supplied"))
    before = state(root / "newcerts")
    assert "was not signed" in refused(lambda: sign(root, asked)) and state(root / "newcerts") == before
    (root / "openssl.cnf").write_text(re.sub("^serial *=", "rand_serial = yes\nserial =", config, flags=re.MULTILINE))
    answer = sign(root, asked)
    assert answer["changed"] and not sign(root, asked)["changed"]
    serial = answer["serial"].upper()
    assert {path.name for path in (root / "newcerts").iterdir()} == {f"{serial}.csr", f"{serial}.pem"}
    assert serial != f"{int((root / 'serial').read_text(), 16):X}"


def killed_by_openssl(directory: Path, call: Any) -> bool:
    """Runs a call in a child that is killed while openssl runs, which goes on after a while."""
    directory.mkdir()
    (directory / "openssl").write_text(f'#!/bin/sh\nkill -9 $PPID\nsleep 0.5\nexec {require_tool("openssl")} "$@"\n')
    (directory / "openssl").chmod(0o755)

    def found_first() -> None:
        os.environ["PATH"] = f"{directory}{os.pathsep}{os.environ['PATH']}"
        call()

    return killed_at(0, found_first)


def test_an_openssl_that_outlives_its_killed_run_is_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(root)
    asked = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    assert killed_by_openssl(tmp_path / "sign", lambda: sign(root, asked)) and not rows(root)
    answer = sign(root, asked)
    assert killed_by_openssl(tmp_path / "crl", lambda: crl(root)) and (root / "crlnumber").read_text() == "01\n"
    assert crl(root)["crls"][0]["number"] == "02" and (root / "crlnumber").read_text() == "03\n"
    assert [(row[0], row[3].lower()) for row in rows(root)] == [("V", answer["serial"])]


def written(published: bytes) -> str:
    """A file on the controller."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(published)
    return file.name


def crl(ca: Path | OpensslCa, check: bool = False, **request: Any) -> dict[str, Any]:
    place = {"config_file": which(ca).config_file, "private_key_passphrase": which(ca).private_key_passphrase}
    return ended_well(FakeHost().run(ca_crl.ActionModule, {**place, **request}, check=check))


def test_crls(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    install(ca)
    renew(ca)
    before = state(ca)
    assert crl(ca, check=True)["changed"] and len(crl(ca, scratch=True)["crls"]) == 2 and state(ca) == before
    made = crl(ca)
    assert made["changed"] and [Path(one["path"]).name for one in made["crls"]] == ["crl.0.pem", "crl.pem"]
    for name, certificate in (("crl.0.pem", "cacert.0.pem"), ("crl.pem", "cacert.pem")):
        assert "verify OK" in openssl("crl", "-in", ca / "crl" / name, "-CAfile", ca / certificate, "-noout").stderr
    before = state(ca)
    assert not crl(ca)["changed"] and state(ca) == before
    assert crl(ca, check=True, remaining_days=31)["changed"]
    (ca / "crlnumber").rename(ca / "away")
    assert "the CRL number (crlnumber) is missing" in refused(lambda: crl(ca, remaining_days=31))
    (ca / "away").rename(ca / "crlnumber")
    asked = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    serial = sign(ca, asked)["serial"].upper()
    openssl("ca", "-config", ca / "openssl.cnf", "-revoke", ca / "newcerts" / f"{serial}.pem")
    assert crl(ca)["changed"]
    assert serial in openssl("crl", "-in", ca / "crl" / "crl.pem", "-noout", "-text").stdout

    other = tmp_path / "beside"
    install(other, subject={**SUBJECT, "commonName": "Another CA"})
    (other / "crl" / "crl.pem").write_bytes((ca / "crl" / "crl.pem").read_bytes())
    assert "holds a CRL of another CA, CN=Example New CA,O=Example" in refused(lambda: crl(other))
    assert (other / "crl" / "crl.pem").read_bytes() == (ca / "crl" / "crl.pem").read_bytes()

    # Keys only: the last published CRL is signed again with its entries and the next number.
    published = (ca / "crl" / "crl.pem").read_bytes()
    number = int(crl(ca)["crls"][-1]["number"], 16)
    for name in ("index.txt", "crlnumber", "serial", "crl/crl.pem", "crl/crl.0.pem"):
        (ca / name).unlink()
    again = crl(ca, published_crl=written(published))
    assert again["changed"] and int(again["crls"][0]["number"], 16) == number + 1
    text = openssl("crl", "-in", ca / "crl" / "crl.pem", "-CAfile", ca / "cacert.pem", "-noout", "-text")
    assert serial in text.stdout and "verify OK" in text.stderr
    assert not crl(ca, published_crl=written(published))["changed"]
    install(tmp_path / "other", subject={"commonName": "Other"})
    assert "no generation of this CA signed" in refused(lambda: crl(tmp_path / "other", published_crl=written(published)))
    (ca / "private" / "cakey.0.pem").unlink()
    assert "generation 0" in refused(lambda: crl(ca, scratch=True))


def numbers_in_place(ca: Path) -> dict[str, bytes]:
    """CRL number -> CRL, of those that are in their places; each verified by the generation that signed it."""
    found = {}
    for path in (ca / "crl").glob("crl*.pem"):
        certificate = ca / path.name.replace("crl", "cacert")
        assert "verify OK" in openssl("crl", "-in", path, "-CAfile", certificate, "-noout").stderr
        found[openssl("crl", "-in", path, "-noout", "-crlnumber").stdout] = path.read_bytes()
    return found


def revoke_one(ca: Path, name: str) -> str:
    serial = str(sign(ca, install(ca.parent / name, kind="subordinate", subject={"commonName": name})["request"])["serial"]).upper()
    openssl("ca", "-config", ca / "openssl.cnf", "-revoke", ca / "newcerts" / f"{serial}.pem")
    return serial


def test_crls_whose_signing_is_killed_anywhere_never_share_a_number(tmp_path: Path) -> None:
    ca, reached = tmp_path / "ca", 0
    install(ca)
    renew(ca)
    seen: dict[str, bytes] = {}
    for number in range(1, 60):
        serial = revoke_one(ca, f"sub{number}")
        killed = killed_at(number, lambda: crl(ca))
        for make in (lambda: None, lambda: crl(ca)):
            make()
            for one, data in numbers_in_place(ca).items():
                assert seen.setdefault(one, data) == data, f"cut {number}: {one} is the number of two CRLs"
        for path in ("crl.0.pem", "crl.pem"):
            assert serial in openssl("crl", "-in", ca / "crl" / path, "-noout", "-text").stdout, (number, path)
        before = state(ca)
        assert not crl(ca)["changed"] and state(ca) == before
        assert sorted(path.name for path in (ca / "crl").iterdir()) == ["crl.0.pem", "crl.pem"], number
        if not killed:
            break
        reached += 1
    assert reached >= 14


def test_a_published_crl_whose_signing_again_is_killed_anywhere_gets_one_successor(tmp_path: Path) -> None:
    ca, reached = tmp_path / "ca", 0
    install(ca)
    crl(ca)
    for name in ("index.txt", "crlnumber", "serial"):
        (ca / name).unlink()
    for number in range(1, 60):
        (published,) = list(numbers_in_place(ca).items())
        request = {"published_crl": written(published[1])}
        (ca / "crl" / "crl.pem").unlink()
        killed = killed_at(number, lambda request=request: crl(ca, **request))
        between = numbers_in_place(ca)
        crl(ca, **request)
        (after,) = list(numbers_in_place(ca).items())
        assert between in ({}, dict([after])), number
        assert int(after[0].split("=0x")[1], 16) == int(published[0].split("=0x")[1], 16) + 1
        assert not crl(ca, **request)["changed"]
        if not killed:
            break
        reached += 1
    assert reached >= 4
