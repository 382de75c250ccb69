# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renewing a CA of files: every algorithm, every cut, every answer that is wrong."""

from __future__ import annotations

import errno
import itertools
import os
import time
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._acl import recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from support.acls import setfacl
from support.killed import killed_at
from support.lifecycle import SUBJECT, crl, cuts, fingerprints, install, keys_present, refused, renew, sign, state, which
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


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
    kept = ca.renew_keeping()
    kept[0].rename(tmp_path / "elsewhere.pem")
    older = [{"certificate_file": str(tmp_path / "elsewhere.pem"), "private_key_file": str(kept[1])}]
    before = state(ca.directory)
    assert not renew(ca, older=older, remaining_days=1)["changed"]
    for check in (True, False):
        message = refused(lambda check=check: renew(ca, check=check, older=older))
        assert "leave the option older out" in message and state(ca.directory) == before


def test_an_older_key_may_have_a_passphrase_of_its_own(tmp_path: Path) -> None:
    """Stated where it lies, it gives its passphrase, and what the renewal makes an older generation is found beside it."""
    ca = OpensslCa(tmp_path / "ca", passphrase="today's")
    certificate, key = ca.renew_keeping()
    openssl("pkey", "-in", key, "-passin", "pass:today's", "-aes256", "-passout", "pass:another", "-out", tmp_path / "own.pem")
    key.write_bytes((tmp_path / "own.pem").read_bytes())
    older = [{"certificate_file": str(certificate), "private_key_file": str(key), "private_key_passphrase": "another"}]
    assert renew(ca, check=True, older=older)["changed"] and renew(ca, older=older)["renewed"]
    result = crl(ca, older=older)
    assert [Path(one["path"]).name for one in result["crls"]] == ["crl.0.pem", "crl.1.pem", "crl.pem"]
    assert [one["private_key"] for one in result["generations"]] == ["present"] * 3
    assert "older_key_inaccessible" in {one["code"] for one in renew(ca, remaining_days=1)["advisories"]}
    assert renew(ca, older=older)["renewed"]


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


def test_a_renewed_key_and_certificate_have_the_readers_of_the_old_ones(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    kept_out = "user::rw-,user:daemon:r--,group::---,mask::r--,other::---"
    for path in (ca.private_key, ca.certificate):
        setfacl(path, "--set", kept_out)
    setfacl(ca.private_key.parent, "-d", "-m", "g:daemon:rw")
    renew(ca, reuse_key=False)
    for path in (ca.private_key, ca.certificate, ca.private_key.with_name("cakey.0.pem"), ca.certificate.with_name("cacert.0.pem")):
        assert recorded_acls(str(path))["acl"] == kept_out, path


def test_where_an_acl_can_not_be_kept_nothing_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    setfacl(ca.private_key, "-m", "u:daemon:r")
    before = state(ca.directory)

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    assert "its file system can't hold one" in refused(lambda: renew(ca, reuse_key=False))
    assert state(ca.directory) == before
