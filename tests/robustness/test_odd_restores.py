# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores and installations where odd values lie: on the host, in a set, in what is published and in what a parent answers.

Each answers; what fails has touched nothing, and what was restored is whole.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_database_restore import ActionModule as CaDatabaseRestore
from ansible_collections.keyward.pki.plugins.action.ca_install import ActionModule as CaInstall
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_restore import ActionModule as CaKeyRestore
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.odd_values import ROUNDS, odd, odd_pem
from support.openssl_ca import OpensslCa, openssl
from support.plays import tree
from support.quick import FEW_ITERATIONS
from support.signers import make_home

PASSWORD = "correct horse battery staple"
TEXTS = ("openssl.cnf", "index.txt", "index.txt.attr", "serial", "crlnumber")
OBJECTS = ("cacert.pem", "cacert.0.pem", "private/cakey.pem", "crl.pem", "newcerts/1000.pem")


class Template:
    """A CA of two generations, kept as it is, with a backup and a set of it."""

    def __init__(self, folder: Path) -> None:
        made = OpensslCa(folder / "ca", algorithm="P-256")
        made.renew_keeping()
        made.issue("second.example.com")
        shutil.move(made.sign_crl(), made.directory / "crl.pem")
        (made.directory / "index.txt.attr").write_text("unique_subject = no\n")
        shutil.rmtree(made.directory / "requests")
        self.folder, self.ca, self.kept = folder, made.directory, folder / "kept"
        self.which = {"config_file": str(made.config_file)}
        shutil.copytree(self.ca, self.kept)
        for kind in ("keys", "databases"):
            initialise(str(folder / kind), kind)
        self.keys = {"stores": [str(folder / "keys")], "password": PASSWORD}
        self.databases = {"stores": [str(folder / "databases")]}
        assert FakeHost().run(CaKeyBackup, {**self.which, **self.keys})["changed"]
        assert FakeHost().run(CaDatabaseBackup, {**self.which, **self.databases})["changed"]

    def as_kept(self) -> None:
        shutil.rmtree(self.ca, ignore_errors=True)
        shutil.copytree(self.kept, self.ca)

    def answers(self, about: Any, task: type, options: dict[str, Any]) -> dict[str, Any]:
        """In check mode and for good. Where check mode fails the task does, and neither has changed anything then."""
        before = tree(self.folder)
        rehearsed = FakeHost().run(task, {**self.which, **options}, check=True)
        assert "broke" not in str(rehearsed.get("msg")), (about, rehearsed["msg"])
        assert tree(self.folder) == before, about
        before = tree(self.ca)
        result = FakeHost().run(task, {**self.which, **options})
        assert "broke" not in str(result.get("msg")), (about, result["msg"])
        if result.get("failed"):
            assert tree(self.ca) == before, (about, result["msg"])
        assert bool(rehearsed.get("failed")) <= bool(result.get("failed")), (about, rehearsed["msg"])
        return result


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", FEW_ITERATIONS)
        patch.setenv("HOME", str(make_home(folder / "home")))
        return Template(folder)


@pytest.fixture(autouse=True)
def home(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pkcs12_writer, "WRITE_ITERATIONS", FEW_ITERATIONS)
    monkeypatch.setenv("HOME", str(template.folder / "home"))


@pytest.mark.parametrize("name", [*TEXTS, *OBJECTS])
@pytest.mark.parametrize("on_conflict", ["fail", "set_aside", "merge"])
def test_restores_beside_an_odd_file(name: str, on_conflict: str, template: Template) -> None:
    original = (template.kept / name).read_bytes()
    lost = [template.ca / each for each in (*TEXTS[1:], *OBJECTS) if each != name]
    for number in range(max(1, ROUNDS // 6)):
        about = (name, on_conflict, number)
        chance = random.Random(str(about))  # noqa: S311
        template.as_kept()
        (template.ca / name).write_bytes((odd if name in TEXTS else odd_pem)(original, chance))
        for path in lost:
            if not chance.randrange(3):
                path.unlink()
        template.answers(about, CaDatabaseRestore, {**template.databases, "on_conflict": on_conflict, "advance": "auto"})
        if on_conflict != "merge":
            template.answers(about, CaKeyRestore, {**template.keys, "on_conflict": on_conflict})


@pytest.mark.parametrize("name", [*TEXTS, "crl.pem", "newcerts/1000.pem"])
def test_a_set_with_an_odd_file_comes_back_as_it_was(name: str, template: Template, tmp_path: Path) -> None:
    original = (template.kept / name).read_bytes()
    for number in range(max(1, ROUNDS // 6)):
        chance = random.Random(f"{name} of a set {number}")  # noqa: S311
        template.as_kept()
        data = (odd if name in TEXTS else odd_pem)(original, chance)
        (template.ca / name).write_bytes(data)
        initialise(str(tmp_path / str(number)), "databases")
        store = {"stores": [str(tmp_path / str(number))]}
        if FakeHost().run(CaDatabaseBackup, {**template.which, **store}).get("failed"):
            continue
        (template.ca / name).unlink()
        restored = template.answers((name, number), CaDatabaseRestore, {**store, "advance": "auto"})
        if not restored.get("failed") and name not in ("index.txt", "serial", "crlnumber"):
            assert (template.ca / name).read_bytes() == data, (name, number)


def test_odd_crls_and_certificates_that_were_published(template: Template) -> None:
    published, folder = template.folder / "published.crl", template.folder / "issued"
    for number in range(ROUNDS):
        chance = random.Random(f"published {number}")  # noqa: S311
        template.as_kept()
        (template.ca / "index.txt").unlink()
        published.write_bytes(odd_pem((template.kept / "crl.pem").read_bytes(), chance))
        folder.mkdir(exist_ok=True)
        (folder / "one.pem").write_bytes(odd_pem((template.kept / "newcerts" / "1000.pem").read_bytes(), chance))
        out_there: dict[str, Any] = {"published_crl": [str(published)], "published_certificates": str(folder)}
        template.answers(number, CaDatabaseRestore, {**template.databases, **out_there, "advance": "auto"})


SUBJECTS: list[Any] = [
    {"commonName": "\0"},
    {"commonName": "a\nb"},
    {"commonName": "\ud800"},
    {"commonName": "x" * 65},
    {"commonName": "\U0001f600" * 64},
    {"commonName": ["a", "b"], "organizationName": []},
    {"commonName": {"a": 1}},
    {"commonName": None},
    {"commonName": 10**400},
    {"countryName": "\xfc\xfc", "commonName": "x"},
    {"countryName": "NOR"},
    {"countryName": False},
    {"2.5.4.45": "unique", "2.5.4.3": "x"},
    {"2.999999999999999999999.1": "x"},
    {"9.9": "x"},
    {"emailAddress": "\xfc@example.com"},
    {"serialNumber": "1" * 65},
    {"dnQualifier": "*", "commonName": "x"},
    {"jurisdictionCountryName": "DE", "commonName": "x"},
    {"": "x"},
    {"\ud800": "x"},
]


@pytest.mark.parametrize("subject", SUBJECTS, ids=[str(number) for number in range(len(SUBJECTS))])
@pytest.mark.parametrize("kind", ["root", "subordinate"])
def test_subjects_that_few_certificates_can_have(subject: Any, kind: str, template: Template, tmp_path: Path) -> None:
    options = {"config_file": str(tmp_path / "new" / "openssl.cnf"), "kind": kind, "subject": subject, "key_type": "Ed25519"}
    rehearsed = FakeHost().run(CaInstall, options, check=True)
    assert not (tmp_path / "new").exists()
    done = FakeHost().run(CaInstall, options)
    for result in (rehearsed, done):
        assert "broke" not in str(result.get("msg")), result["msg"]
    assert bool(rehearsed.get("failed")) == bool(done.get("failed")), (rehearsed.get("msg"), done.get("msg"))
    if done.get("failed"):
        assert not (tmp_path / "new").exists(), done["msg"]


@pytest.mark.parametrize("name", ["openssl.cnf", "private/cakey.pem", "serial", "cacert.next.csr", "cacert.pem"])
@pytest.mark.parametrize("kind", ["root", "subordinate"])
def test_installations_where_an_odd_file_lies(name: str, kind: str, template: Template) -> None:
    request = template.folder / "waiting.csr"
    openssl("req", "-new", "-key", template.kept / "private" / "cakey.pem", "-subj", "/CN=New", "-out", request)
    original = (request if name == "cacert.next.csr" else template.kept / name).read_bytes()
    for number in range(max(1, ROUNDS // 6)):
        about = (name, kind, number)
        chance = random.Random(str(about))  # noqa: S311
        template.as_kept()
        for gone in ("cacert.pem", "cacert.0.pem", "index.txt", "crl.pem"):
            (template.ca / gone).unlink()
        if name != "private/cakey.pem" and chance.randrange(2):
            (template.ca / "private" / "cakey.pem").unlink()
        (template.ca / name).write_bytes((odd if name in TEXTS else odd_pem)(original, chance))
        before = tree(template.folder)
        options = {**template.which, "kind": kind, "subject": {"commonName": "New"}, "key_type": "EC"}
        for check in (True, False):
            result = FakeHost().run(CaInstall, options, check=check)
            assert "broke" not in str(result.get("msg")), (about, result["msg"])
            assert not check or tree(template.folder) == before, about


def test_odd_answers_of_a_parent(template: Template, tmp_path: Path) -> None:
    which = {"config_file": str(tmp_path / "new" / "openssl.cnf"), "kind": "subordinate"}
    made = FakeHost().run(CaInstall, {**which, "subject": {"commonName": "Sub"}, "key_type": "EC", "curve": "secp256r1"})
    asked = tmp_path / "asked.csr"
    asked.write_text(made["request"])
    extensions = ["-extensions", "v3_ca", "-extfile", template.kept / "openssl.cnf"]
    signer = ["-CA", template.kept / "cacert.pem", "-CAkey", template.kept / "private" / "cakey.pem", "-set_serial", "77"]
    openssl("x509", "-req", "-in", asked, *signer, *extensions, "-out", tmp_path / "answer.pem")
    answer, before = (tmp_path / "answer.pem").read_bytes(), tree(tmp_path / "new")
    for number in range(ROUNDS * 3):
        data = odd_pem(answer, random.Random(f"answer {number}"))  # noqa: S311
        result = FakeHost().run(CaInstall, {**which, "certificate": data.decode("latin-1")}, check=True)
        assert "broke" not in str(result.get("msg")), (number, result["msg"])
        assert tree(tmp_path / "new") == before, number
