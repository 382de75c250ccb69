# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CA of files signs for those below it: each request once, whatever stops a run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import ca_request
from ansible_collections.keyward.pki.plugins.module_utils._x509 import REQUEST, pem
from ansible_collections.keyward.pki.plugins.plugin_utils._subject import subject_name
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from support.killed import killed_at
from support.lifecycle import SUBJECT, crl, install, refused, sign, state
from support.openssl_ca import openssl
from tools import require_tool


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


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
            request = pem(ca_request(key, subject_name(subject or {"commonName": "Weak"}), 5), REQUEST)
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
    key = ed25519.Ed25519PrivateKey.generate()
    for number in range(1, 60):
        asked = pem(ca_request(key, subject_name({"commonName": f"Sub {number}"}), None), REQUEST)
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


def killed_by_openssl(directory: Path, root: Path, call: Any) -> bool:
    """Runs a call in a child that is killed while openssl works on the CA's own files, which goes on after a while."""
    directory.mkdir()
    own = f'case "$*" in *"-config {root}/openssl.cnf"*) kill -9 $PPID; sleep 0.5 ;; esac'
    (directory / "openssl").write_text(f'#!/bin/sh\n{own}\nexec {require_tool("openssl")} "$@"\n')
    (directory / "openssl").chmod(0o755)

    def found_first() -> None:
        os.environ["PATH"] = f"{directory}{os.pathsep}{os.environ['PATH']}"
        call()

    return killed_at(0, found_first)


def test_an_openssl_that_outlives_its_killed_run_is_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(root)
    asked = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    assert killed_by_openssl(tmp_path / "sign", root, lambda: sign(root, asked)) and not rows(root)
    answer = sign(root, asked)
    assert killed_by_openssl(tmp_path / "crl", root, lambda: crl(root)) and (root / "crlnumber").read_text() == "01\n"
    assert crl(root)["crls"][0]["number"] == "02" and (root / "crlnumber").read_text() == "03\n"
    assert [(row[0], row[3].lower()) for row in rows(root)] == [("V", answer["serial"])]
