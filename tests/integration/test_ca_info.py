# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_info: what it tells of a CA is what openssl tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.ansible_run import Ansible
from support.openssl_ca import OpensslCa, openssl
from support.plays import codes, failure, fingerprint, look, looked, play, public_key, step


def info(title: str, ca: OpensslCa | None = None, /, **options: Any) -> dict[str, Any]:
    place = {"config_file": str(ca.config_file)} if ca else {}
    return step("ca_info", title, **place, **options)


def told(certificate: Path, option: str) -> str:
    return openssl("x509", "-in", certificate, "-noout", option).stdout.strip().partition("=")[2]


def test_two_generations_as_openssl_sees_them(ansible: Ansible, tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm="rsa:2048")
    old_certificate, old_key = ca.renew_keeping()
    result = play(
        ansible,
        [look("before", ca.directory), info("look", ca), info("in check mode", ca, check=True), look("after", ca.directory)],
    )
    assert looked(result, "after") == looked(result, "before")
    one = result.task("look")
    assert dict(result.task("in check mode")) == dict(one)
    assert one["changed"] is False and one["advisories"] == one["reasons"] == [] and one["pending_request"] is None
    assert one["authority"] == {
        "id": None,
        "backend": "openssl",
        "name": "CA_default",
        "sanitized_name": "example-root-ca",
        "subject": "CN=Example Root CA,O=Example",
        "host": "testhost",
        "directory": str(ca.directory),
    }
    for index, (certificate, key) in enumerate(((old_certificate, old_key), (ca.certificate, ca.private_key))):
        generation = one["generations"][index]
        assert generation["index"] == index and generation["certificate"] == openssl("x509", "-in", certificate).stdout
        assert generation["fingerprints"]["sha256"] == fingerprint(certificate)
        sha1 = openssl("x509", "-in", certificate, "-noout", "-fingerprint", "-sha1").stdout.strip().partition("=")[2]
        assert generation["fingerprints"]["sha1"] == sha1.replace(":", "").lower()
        assert generation["serial"] == told(certificate, "-serial").lower()
        assert generation["public_key_sha256"] == public_key(certificate) == public_key(key)
        identifier = openssl("x509", "-in", certificate, "-noout", "-ext", "subjectKeyIdentifier").stdout.splitlines()[1].strip()
        assert generation["subject_key_identifier"] == identifier.replace(":", "").lower()
        dates = openssl("x509", "-in", certificate, "-noout", "-dates", "-dateopt", "iso_8601").stdout.replace(" ", "T").splitlines()
        assert [f"notBefore={generation['not_before']}", f"notAfter={generation['not_after']}"] == dates
        assert generation["key_algorithm"] == "RSA-2048"
        state = ("private_key", "encrypted_at_rest", "exportable", "covered")
        assert tuple(generation[name] for name in state) == ("present", False, True, None)
    assert one["database"] == {
        "path": str(ca.directory / "index.txt"),
        "exists": True,
        "entries": 1,
        "serial": "1001",
        "crl_number": "01",
        "crls": [],
    }


def test_keys_that_are_encrypted_missing_or_damaged_and_a_pending_request(ansible: Ansible, tmp_path: Path) -> None:
    encrypted, keyless = OpensslCa(tmp_path / "encrypted", passphrase="ca"), OpensslCa(tmp_path / "keyless")
    damaged, renewing = OpensslCa(tmp_path / "damaged"), OpensslCa(tmp_path / "renewing", relative=True, section="second")
    keyless.private_key.unlink()
    damaged.private_key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    request = renewing.directory / "cacert.csr"
    openssl(
        *("req", "-new", "-newkey", "rsa:2048", "-noenc", "-keyout", tmp_path / "new.key", "-out", request, "-subj", renewing.subject),
        *("-config", renewing.config_file),
        cwd=renewing.directory,
    )
    (renewing.directory / "index.txt").unlink()
    result = play(
        ansible,
        [
            info("encrypted", encrypted),
            info("wrong passphrase", encrypted, private_key_passphrase="demo"),
            info("opened", encrypted, private_key_passphrase="ca"),
            info("keyless", keyless),
            info("damaged", damaged),
            info("renewing", renewing),
            info("by its section", renewing, name="second"),
            info("by its files", directory=str(renewing.directory), certificate_file="cacert.pem", private_key_file="private/cakey.pem"),
        ],
    )
    states = {
        "encrypted": ("inaccessible", True, None),
        "wrong passphrase": ("inaccessible", True, None),
        "opened": ("present", True, True),
        "keyless": ("missing", None, None),
        "damaged": ("inaccessible", False, None),
        "renewing": ("present", False, True),
    }
    for name, state in states.items():
        (generation,) = result.task(name)["generations"]
        assert (name, *(generation[key] for key in ("private_key", "encrypted_at_rest", "exportable"))) == (name, *state)
    assert codes(result.task("encrypted")["advisories"]) == ["key_needs_passphrase"]
    assert codes(result.task("wrong passphrase")["advisories"]) == ["key_inaccessible"]
    assert "encrypted at rest" in result.task("encrypted")["advisories"][0]["message"]
    assert "passphrase does not open it" in result.task("wrong passphrase")["advisories"][0]["message"]
    assert result.task("opened")["authority"]["directory"] == str(encrypted.directory) and "********" not in str(result.task("opened"))
    assert codes(result.task("keyless")["advisories"]) == ["key_missing_on_host"]
    assert codes(result.task("damaged")["advisories"]) == ["key_inaccessible"]
    assert result.task("renewing")["pending_request"] == {
        "path": str(request),
        "subject": "CN=Example Root CA,O=Example",
        "public_key_sha256": public_key(tmp_path / "new.key"),
    }
    assert result.task("renewing")["database"]["exists"] is False and result.task("renewing")["database"]["entries"] is None
    assert result.task("by its section")["generations"] == result.task("renewing")["generations"]
    stated = result.task("by its files")
    assert stated["generations"] == result.task("renewing")["generations"] and stated["database"]["path"] is None
    assert (stated["authority"]["name"], stated["authority"]["directory"]) == ("cacert.pem", str(renewing.directory))


def test_where_no_ca_can_be_told(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca = openssl_ca
    other = OpensslCa(tmp_path / "other", section="root_ca")
    (tmp_path / "folder").mkdir()
    broken = tmp_path / "broken.cnf"
    broken.write_text(ca.config_file.read_text().replace("$dir/serial", "${missing}/serial"))
    empty = OpensslCa(tmp_path / "empty")
    empty.certificate.write_text("")
    result = play(
        ansible,
        [
            info("no place", fails=True),
            info("no such file", config_file="/nowhere/openssl.cnf", fails=True),
            info("a directory", config_file=str(tmp_path / "folder"), fails=True),
            info("no such section", ca, name="root_ca", fails=True),
            info("no such section, others named", other, name="CA_default", fails=True),
            info("an undefined variable", config_file=str(broken), fails=True),
            info("half stated", directory=str(ca.directory), certificate_file="cacert.pem", fails=True),
            info("empty certificate", empty, fails=True),
            info("not for users", ca, controller="e30=", fails=True),
        ],
    )
    expected = {
        "no place": "no place was named",
        "no such file": "it does not exist",
        "a directory": "it is not a regular file",
        "no such section": "it has no section [root_ca]",
        "no such section, others named": "root_ca",
        "an undefined variable": "missing",
        "half stated": "neither config_file nor private_key_file is given",
        "empty certificate": "no certificate is in it",
        "not for users": "the option controller can't be set",
    }
    said = {name: failure(result, name) for name in expected}
    assert {name: part for name, part in expected.items() if part not in said[name]} == {}, said
    assert [result.task(name)["reasons"] for name in expected] == [[]] * len(expected)
