# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What openssl would refuse is found out in check mode, in words, and before anything of the CA is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_sign import ActionModule as CaSign
from support.fake_host import FakeHost
from support.odd_certificates import CA_TRUE, NAMED, SIGNS, UTF8, extension, make_odd, name, odd_request
from support.openssl_ca import OpensslCa, openssl
from support.plays import tree

MORE = "x509_extensions = usr_cert\n"
ENDED = b"\x17\x0d260101000000Z"
NO_MORE_CAS = extension("2.5.29.19", b"\x30\x06\x01\x01\xff\x02\x01\x00")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> OpensslCa:
    ca = OpensslCa(tmp_path_factory.mktemp("rehearsed") / "ca")
    shutil.copytree(ca.directory, ca.directory.parent / "kept")
    return ca


@pytest.fixture
def ca(template: OpensslCa) -> OpensslCa:
    shutil.rmtree(template.directory)
    shutil.copytree(template.directory.parent / "kept", template.directory)
    return template


def say(ca: OpensslCa, before: str, after: str) -> None:
    text = ca.config_file.read_text()
    assert before in text
    ca.config_file.write_text(text.replace(before, after))


def refused(ca: OpensslCa, task: type, **options: object) -> str:
    """The message, the same in check mode and without."""
    which, before = {"config_file": str(ca.config_file), **options}, tree(ca.directory)
    said = []
    for check in (True, False):
        done = FakeHost().run(task, which, check=check)
        assert done.get("failed"), check
        said.append(str(done["msg"]))
        assert tree(ca.directory) == before, check
    # What signs a CRL says whose it would be.
    assert said[0].partition(":")[2] == said[1].partition(":")[2]
    return said[1]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("default_days = 365\n", "", "Say default_days in [CA_default]"),
        ("default_days = 365\n", "default_days = 9999999\n", "default_days = 9999999"),
        ("default_days = 365\n", "default_enddate = 20200101000000Z\n", "has expired"),
        ("default_days = 365\n", "default_enddate = 2020-01-01\n", "is no time that openssl reads"),
        ("default_md = sha256\n", "", "says no default_md"),
        ("default_md = sha256\n", "default_md = sha257\n", "default_md"),
        ("policy = policy_anything\n", "policy = policy_gone\n", "the section [policy_gone], which the configuration does not have"),
        ("commonName = supplied", "commonName = required", "the policy says required"),
        ("commonName = supplied", "countryName = supplied", "wants countryName in the subject"),
        ("basicConstraints = critical, CA:TRUE", "basicConstraints = critical, CA:FALSE", "no section"),
        ("keyUsage = critical, keyCertSign, cRLSign", "keyUsage = critical, keyCertSing", "the section of the extensions, [v3_ca]"),
    ],
)
def test_a_request_that_openssl_would_not_sign(before: str, after: str, words: str, ca: OpensslCa) -> None:
    request = odd_request(ca.directory / "requests" / "first.example.com.key", name((UTF8, b"Sub")))
    say(ca, before, after)
    assert words in refused(ca, CaSign, request=request, extensions="v3_ca")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("default_crl_days = 30\n", "", "Say default_crl_days in [CA_default]"),
        ("default_crl_days = 30\n", "default_crl_days = 99999999\n", "default_crl_days = 99999999"),
        ("default_md = sha256\n", "", "says no default_md"),
        (MORE, MORE + "crl_extensions = gone\n", "[gone]"),
        (MORE, MORE + "crl_extensions = crl_ext\n[crl_ext]\nissuerAltName = nothing\n", "[crl_ext]"),
        ("crlnumber = $dir/crlnumber\n", "crlnumber = $dir/number-gone\n", "the CRL number (crlnumber) is missing"),
    ],
)
def test_a_crl_that_openssl_would_not_sign(before: str, after: str, words: str, ca: OpensslCa) -> None:
    say(ca, before, after)
    assert words in refused(ca, CaCrl)


def test_what_the_certificate_of_the_ca_does_not_allow_is_never_issued(ca: OpensslCa) -> None:
    request = odd_request(ca.directory / "requests" / "first.example.com.key", name((UTF8, b"Sub")))
    make_odd(ca, extensions=(NO_MORE_CAS, SIGNS, NAMED))
    assert "allows no CA below it" in refused(ca, CaSign, request=request, extensions="v3_ca")
    make_odd(ca, ends=ENDED, extensions=(CA_TRUE, SIGNS, NAMED))
    assert "expired on 2026-01-01T00:00:00Z. Renew the CA first" in refused(ca, CaSign, request=request, extensions="v3_ca")


def test_a_key_that_is_not_here_signs_nothing_in_check_mode_either(ca: OpensslCa) -> None:
    request = odd_request(ca.directory / "requests" / "first.example.com.key", name((UTF8, b"Sub")))
    openssl("pkey", "-in", ca.private_key, "-aes256", "-passout", "pass:geheim", "-out", ca.directory / "encrypted")
    (ca.directory / "encrypted").rename(ca.private_key)
    assert "can't be used" in refused(ca, CaSign, request=request, extensions="v3_ca")
    ca.private_key.unlink()
    assert "Put it back (ca_key_restore)" in refused(ca, CaSign, request=request, extensions="v3_ca")


@pytest.mark.parametrize("said", ["SHA1", "md5", "RSA-SHA1", "ripemd160"])
def test_a_hash_of_the_past_is_replaced(said: str, ca: OpensslCa, tmp_path: Path) -> None:
    say(ca, "default_md = sha256\n", f"default_md = {said}\n")
    done = FakeHost().run(CaCrl, {"config_file": str(ca.config_file)})
    assert "hash_replaced" in [each["code"] for each in done["advisories"]]
    assert "ecdsa-with-SHA256" in openssl("crl", "-in", done["crls"][0]["path"], "-noout", "-text").stdout
