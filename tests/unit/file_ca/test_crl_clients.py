# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which CRLs a CA needs and what clients make of them: one by each key, no more, at a time that clients take."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _crl_policy
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import crls as crls_of_files
from ansible_collections.keyward.pki.plugins.module_utils._generation import generation_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Crls, DueCrl, Renew, Sign
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.lifecycle import crl, fingerprints, install, refused, renew, state, which, written
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    require_tool("openssl")
    made = OpensslCa(tmp_path / "ca")
    configured(made, "crlnumber = $dir/crlnumber", "crlnumber = $dir/crlnumber\ncrl = $dir/crl.pem")
    return made


def configured(ca: OpensslCa, old: str, new: str) -> None:
    text = ca.config_file.read_text()
    assert old in text
    ca.config_file.write_text(text.replace(old, new))


def naming(ca: OpensslCa) -> None:
    """From now on CRLs name the issuer and serial number of a certificate, as those of easy-rsa do."""
    configured(ca, "crlnumber = $dir/crlnumber", "crlnumber = $dir/crlnumber\ncrl_extensions = naming")
    with ca.config_file.open("a") as file:
        file.write("\n[ naming ]\nauthorityKeyIdentifier = keyid:always, issuer:always\n")


def names(result: dict[str, Any]) -> list[str]:
    return [Path(one["path"]).name for one in result["crls"]]


def codes(result: dict[str, Any]) -> list[str]:
    return [advisory["code"] for advisory in result["advisories"]]


def as_client(ca: OpensslCa, certificate: Path, crl_file: Path, leaf: Path) -> str:
    done = openssl("verify", "-crl_check", "-CRLfile", crl_file, "-CAfile", certificate, leaf, check=False)
    return done.stdout + done.stderr


def parsed(path: Path) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(path.read_bytes())


def utc(moment: Any) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def began(path: Path) -> datetime:
    found = parsed(path)
    return utc(getattr(found, "last_update_utc", None) or found.last_update)


def test_certificates_of_one_key_have_one_crl(ca: OpensslCa) -> None:
    leaf = ca.directory / "newcerts" / "1000.pem"
    crl(ca)
    renew(ca, reuse_key=True)
    assert not crl(ca)["changed"] and names(crl(ca)) == ["crl.pem"]
    for certificate in (ca.certificate, ca.directory / "cacert.0.pem"):
        assert as_client(ca, certificate, ca.directory / "crl.pem", leaf).endswith("OK\n")
    renew(ca)
    result = crl(ca)
    assert result["changed"] and names(result) == ["crl.1.pem", "crl.pem"]
    assert [one["certificate"] for one in result["crls"]] == fingerprints(ca)[1:]
    assert as_client(ca, ca.directory / "cacert.0.pem", ca.directory / "crl.1.pem", leaf).endswith("OK\n")
    before = state(ca.directory)
    assert not crl(ca)["changed"] and state(ca.directory) == before


def test_where_crls_name_a_certificate_each_has_its_own(ca: OpensslCa) -> None:
    naming(ca)
    leaf, old = ca.directory / "newcerts" / "1000.pem", ca.directory / "cacert.0.pem"
    crl(ca)
    renew(ca, reuse_key=True)
    assert crl(ca, check=True)["changed"]
    result = crl(ca)
    assert names(result) == ["crl.0.pem", "crl.pem"] and result["changed"]
    (said,) = [one for one in result["advisories"] if one["code"] == "crl_names_certificate"]
    assert said["certificate"] == fingerprints(ca)[0] and "crl.0.pem" in said["message"]
    assert as_client(ca, ca.certificate, ca.directory / "crl.pem", leaf).endswith("OK\n")
    assert as_client(ca, old, ca.directory / "crl.0.pem", leaf).endswith("OK\n")
    assert not as_client(ca, old, ca.directory / "crl.pem", leaf).endswith("OK\n"), "what makes the second one necessary"
    before = state(ca.directory)
    assert not crl(ca)["changed"] and "crl_names_certificate" in codes(crl(ca)) and state(ca.directory) == before


def test_a_ca_that_may_not_sign_crls_is_said_each_time(ca: OpensslCa) -> None:
    configured(ca, "keyUsage = critical, keyCertSign, cRLSign", "keyUsage = critical, keyCertSign")
    ca.renew_in_place(new_key=False)
    for changed in (True, False):
        result = crl(ca)
        (said,) = [one["message"] for one in result["advisories"] if one["code"] == "crl_rejected"]
        assert result["changed"] is changed and "may not sign CRLs (its keyUsage lacks cRLSign)" in said
    assert "crl_rejected" in codes(crl(ca, scratch=True)), "a proof that a key signs is none that clients take it"
    done = renew(ca, reuse_key=True)
    assert "extension_added" in codes(done)
    result = crl(ca)
    assert "crl_rejected" not in codes(result)
    assert as_client(ca, ca.certificate, ca.directory / "crl.pem", ca.directory / "newcerts" / "1000.pem").endswith("OK\n")


def test_what_clients_have_against_a_crl_is_said(ca: OpensslCa) -> None:
    configured(ca, "crlnumber = $dir/crlnumber", "crlnumber = $dir/crlnumber\ncrl_extensions = odd")
    with ca.config_file.open("a") as file:
        file.write("\n[ odd ]\n1.3.6.1.4.1.99999.1 = critical, DER:0500\n")
    result = crl(ca)
    assert "crl_rejected" in codes(result), result["advisories"]
    assert any("error 36" in one["message"] for one in result["advisories"])


def test_a_revoked_certificate_is_nothing_against_a_crl(ca: OpensslCa) -> None:
    openssl("ca", "-config", ca.config_file, "-revoke", ca.directory / "newcerts" / "1000.pem")
    assert "crl_rejected" not in codes(crl(ca))
    assert "revoked" in as_client(ca, ca.certificate, ca.directory / "crl.pem", ca.directory / "newcerts" / "1000.pem")


# --- times ---


def test_a_crl_is_valid_since_some_minutes_and_never_before_the_last_one(ca: OpensslCa) -> None:
    now = datetime.now(timezone.utc)
    openssl("ca", "-config", ca.config_file, "-gencrl", "-out", ca.directory / "crl.pem")
    own = began(ca.directory / "crl.pem")
    crl(ca, remaining_days=31)
    assert began(ca.directory / "crl.pem") == own, "the last one was of this minute"
    (ca.directory / "crl.pem").unlink()
    crl(ca)
    assert timedelta(minutes=4) < now - began(ca.directory / "crl.pem") < timedelta(minutes=6)


def test_a_clock_that_has_gone_back_signs_no_crl(ca: OpensslCa) -> None:
    def in_future() -> None:
        openssl("ca", "-config", ca.config_file, "-gencrl", "-crl_lastupdate", "20400101000000Z", "-crldays", "9999", "-out", crl_file)

    crl_file = ca.directory / "crl.pem"
    in_future()
    published = crl_file.read_bytes()
    before = state(ca.directory)
    for check in (True, False):
        assert "its last CRL was signed on 2040-01-01T00:00:00Z" in refused(lambda check=check: crl(ca, check=check))
    assert "Set the clock of this host" in refused(lambda: crl(ca, published_crl=written(ca.directory.parent, published)))
    assert state(ca.directory) == before


@pytest.mark.parametrize("at", ["2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
def test_a_host_whose_clock_is_a_day_off_signs_nothing(ca: OpensslCa, tmp_path: Path, at: str) -> None:
    backend, (newest,) = OpensslBackend(which(ca)), fingerprints(ca)
    request = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    before = state(ca.directory)
    for call in (
        lambda: backend.crls(Crls(newest, (DueCrl(newest),), at=at), False),
        lambda: backend.renew(Renew(newest, True, at=at), False),
        lambda: backend.sign(Sign(newest, request, 100, "v3_ca", at=at), False),
    ):
        assert f"and that of the controller {at}" in refused(call)
    assert state(ca.directory) == before


# --- numbers that may be absent ---


def test_a_published_crl_without_a_number_is_signed_again_once(ca: OpensslCa) -> None:
    configured(ca, "crlnumber = $dir/crlnumber\n", "")
    for made in ("published", "again"):
        openssl("ca", "-config", ca.config_file, "-gencrl", "-out", ca.directory / made)
    published = written(ca.directory.parent, (ca.directory / "published").read_bytes())
    result = crl(ca, published_crl=published)
    assert result["changed"] and result["crls"][0]["number"] is None
    before = state(ca.directory)
    assert not crl(ca, published_crl=published)["changed"] and state(ca.directory) == before
    (ca.directory / "crl.pem").write_bytes((ca.directory / "published").read_bytes())
    assert crl(ca, published_crl=published)["changed"], "the published one itself is no successor"
    assert not crl(ca)["changed"] and not crl(ca)["changed"]


def test_of_two_crls_without_numbers_the_later_one_is_newer(ca: OpensslCa) -> None:
    generation = generation_of(x509.load_pem_x509_certificate(ca.certificate.read_bytes()).public_bytes(serialization.Encoding.DER))
    configured(ca, "crlnumber = $dir/crlnumber\n", "")
    made = []
    for begin in ("20250101000000Z", "20250601000000Z"):
        openssl("ca", "-config", ca.config_file, "-gencrl", "-crl_lastupdate", begin, "-crldays", "9999", "-out", ca.directory / begin)
        made.append(_crl_policy.known_crl(crls_of_files.whose_crl, generation, (ca.directory / begin).read_bytes(), None, False))
    assert made[0] and made[1] and made[0].age < made[1].age
    assert _crl_policy.is_successor(
        crls_of_files.whose_crl, (ca.directory / "20250601000000Z").read_bytes(), made[0].der, generation, "crl.pem"
    )
    assert not _crl_policy.is_successor(
        crls_of_files.whose_crl, (ca.directory / "20250101000000Z").read_bytes(), made[1].der, generation, "crl.pem"
    )


# --- keys that need none any more ---


def test_an_older_key_needs_a_crl_while_something_that_it_signed_is_valid(ca: OpensslCa) -> None:
    renew(ca)
    crl(ca)
    assert names(crl(ca)) == ["crl.0.pem", "crl.pem"]
    index = ca.directory / "index.txt"
    row = index.read_text()
    index.write_text(re.sub(r"^V\t\d+Z", "V\t200101000000Z", row))
    (ca.directory / "crl.0.pem").unlink()
    result = crl(ca)
    assert names(result) == ["crl.pem"] and "no_crl_needed" in codes(result) and not result["changed"]
    index.write_text(row)
    assert names(crl(ca)) == ["crl.0.pem", "crl.pem"]
    (ca.directory / "crl.0.pem").unlink()
    (ca.directory / "newcerts" / "1000.pem").unlink()
    assert names(crl(ca)) == ["crl.0.pem", "crl.pem"], "whose it is can't be told"


def test_a_revocation_that_no_crl_lists_fails_the_task(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl("ca", "-config", ca.config_file, "-revoke", ca.directory / "newcerts" / "1000.pem")
    monkeypatch.setattr(crls_of_files, "_lacking", lambda data, revoked: len(revoked))
    assert "lacks 1 certificates that the database says are revoked" in refused(lambda: crl(ca))
