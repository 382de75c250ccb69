# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CRLs of a CA of files: no number twice, no revocation forgotten, whatever stops a run."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._acl import recorded_acls
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from support.acls import setfacl
from support.killed import killed_at
from support.lifecycle import SUBJECT, crl, install, refused, renew, sign, state, written
from support.openssl_ca import openssl
from tools import require_tool


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


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
    again = crl(ca, published_crl=written(tmp_path, published))
    assert again["changed"] and int(again["crls"][0]["number"], 16) == number + 1
    text = openssl("crl", "-in", ca / "crl" / "crl.pem", "-CAfile", ca / "cacert.pem", "-noout", "-text")
    assert serial in text.stdout and "verify OK" in text.stderr
    assert not crl(ca, published_crl=written(tmp_path, published))["changed"]
    install(tmp_path / "other", subject={"commonName": "Other"})
    assert "no generation of this CA signed" in refused(lambda: crl(tmp_path / "other", published_crl=written(tmp_path, published)))
    (ca / "private" / "cakey.0.pem").unlink()
    assert "generation 0" in refused(lambda: crl(ca, scratch=True))


def numbers_in_place(ca: Path) -> dict[str, bytes]:
    """CRL number -> CRL, of those that are in their places; each verified by the generation that signed it."""
    return {read_by_openssl(ca, path)[0]: path.read_bytes() for path in (ca / "crl").glob("crl*.pem")}


def read_by_openssl(ca: Path, path: Path) -> tuple[str, str]:
    """A CRL's number and its text."""
    return _read_by_openssl(path.read_text(), (ca / path.name.replace("crl", "cacert")).read_text(), ca.parent)


@functools.cache
def _read_by_openssl(crl: str, certificate: str, scratch: Path) -> tuple[str, str]:
    for name, content in (("one-crl.pem", crl), ("its-signer.pem", certificate)):
        (scratch / name).write_text(content)
    read = openssl("crl", "-in", scratch / "one-crl.pem", "-CAfile", scratch / "its-signer.pem", "-noout", "-crlnumber", "-text")
    assert "verify OK" in read.stderr
    number, text = read.stdout.split("\n", 1)
    assert number.startswith("crlNumber=")
    return number, text


def revoke_one(ca: Path, number: int) -> str:
    """As `openssl ca -revoke` notes it."""
    serial = f"{0xABCDEF00 + number:X}"
    with (ca / "index.txt").open("a") as index:
        index.write(f"R\t350101000000Z\t260101000000Z\t{serial}\tunknown\t/CN=Revoked {number}\n")
    return serial


def test_crls_whose_signing_is_killed_anywhere_never_share_a_number(tmp_path: Path) -> None:
    ca, reached = tmp_path / "ca", 0
    install(ca)
    renew(ca)
    seen: dict[str, bytes] = {}
    for number in range(1, 60):
        serial = revoke_one(ca, number)
        killed = killed_at(number, lambda: crl(ca))
        for make in (lambda: None, lambda: crl(ca)):
            make()
            for one, data in numbers_in_place(ca).items():
                assert seen.setdefault(one, data) == data, f"cut {number}: {one} is the number of two CRLs"
        for path in ("crl.0.pem", "crl.pem"):
            assert serial in read_by_openssl(ca, ca / "crl" / path)[1], (number, path)
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
        request = {"published_crl": written(tmp_path, published[1])}
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


def test_a_crl_has_the_readers_of_the_one_before(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    install(ca)
    crl(ca)
    path = ca / "crl" / "crl.pem"
    setfacl(path, "--set", "user::rw-,user:daemon:r--,group::---,mask::r--,other::---")
    before = path.read_bytes()
    crl(ca, days=9, remaining_days=400)
    assert path.read_bytes() != before and recorded_acls(str(path))["acl"] == "user::rw-,user:daemon:r--,group::---,mask::r--,other::---"


def test_a_delta_crl_is_not_signed_again_as_if_it_were_complete(tmp_path: Path) -> None:
    install(tmp_path / "ca")
    certificate = x509.load_pem_x509_certificate((tmp_path / "ca" / "cacert.pem").read_bytes())
    key = serialization.load_pem_private_key((tmp_path / "ca" / "private" / "cakey.pem").read_bytes(), None)
    since = datetime(2026, 1, 1)
    builder = x509.CertificateRevocationListBuilder(certificate.subject, since, since + timedelta(days=7))
    builder = builder.add_extension(x509.CRLNumber(4), False).add_extension(x509.DeltaCRLIndicator(3), True)
    made = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())  # type: ignore[arg-type]
    published = written(tmp_path, made.public_bytes(serialization.Encoding.DER))
    before = state(tmp_path / "ca")
    for check in (True, False):
        assert "is a delta CRL" in refused(lambda check=check: crl(tmp_path / "ca", check=check, published_crl=published))
        assert state(tmp_path / "ca") == before
    crl(tmp_path / "ca")
    twice = (tmp_path / "ca" / "crl" / "crl.pem").read_bytes() * 2
    assert "holds several CRLs" in refused(lambda: crl(tmp_path / "ca", published_crl=written(tmp_path, twice)))
