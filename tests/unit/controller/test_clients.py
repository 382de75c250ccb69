# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients get behind the URLs that certificates name, from a real web server; and what a renewal means for these URLs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from ansible_collections.keyward.pki.plugins.plugin_utils import _fetched
from support.meanwhile import Meanwhile
from support.openssl_ca import OpensslCa, openssl
from support.web import Web, serving

CRL, CERTIFICATE = "/example-root-ca-0.crl", "/example-root-ca-0.crt"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving(tmp_path / "www") as web:
        yield web


def naming(directory: Path, web: Web, **options: Any) -> OpensslCa:
    """A CA whose certificates name what the server publishes, a directory service, and an OCSP responder."""
    ca = OpensslCa(directory, algorithm="ed25519", **options)
    names = f"crlDistributionPoints = URI:{web.url}{CRL}, URI:ldap://ldap.example.com/cn=ca\n"
    names += f"authorityInfoAccess = caIssuers;URI:{web.url}{CERTIFICATE}, OCSP;URI:{web.url}/ocsp\n"
    ca.config_file.write_text(ca.config_file.read_text() + names)
    ca.issue("second.example.com")
    return ca


def told(host: Meanwhile, **options: Any) -> tuple[dict[str, str], list[str]]:
    """The state of each URL by its path, and the codes of what is to be said."""
    result = host.does(CaCrl, fetch=True, **options)
    assert not result.get("failed"), result["msg"]
    states = {one["url"].rpartition("/")[2]: one["state"] for one in result["published"]}
    return states, sorted({one["code"] for one in result["advisories"]})


def gencrl(ca: OpensslCa, path: Path, *options: str) -> bytes:
    openssl("ca", "-config", ca.config_file, "-gencrl", *options, "-out", path, cwd=ca.directory)
    openssl("crl", "-in", path, "-outform", "DER", "-out", path)
    return path.read_bytes()


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y%m%d%H%M%SZ")


def test_what_clients_get_decides(tmp_path: Path, web: Web) -> None:
    ca, www = naming(tmp_path / "ca", web), tmp_path / "www"
    host = Meanwhile(ca.config_file)
    signed = host.does(CaCrl, der_directory=str(www))
    assert signed["changed"] and signed["der_files"] == [str(www / CRL[1:]), str(www / CERTIFICATE[1:])]
    good = {CRL[1:]: "good", CERTIFICATE[1:]: "good", "ocsp": "url_not_looked_at", "cn=ca": "url_not_looked_at"}
    host.sent.clear()
    assert told(host, der_directory=str(www)) == (good, ["url_not_looked_at"])
    assert host.orders() == ["crls"] and not any("ocsp" in path for path in web.asked)

    fresh = (www / CRL[1:]).read_bytes()
    other = OpensslCa(tmp_path / "other", name="Other CA", algorithm="ed25519")
    openssl("x509", "-in", other.certificate, "-outform", "DER", "-out", tmp_path / "other.crt")
    before = ("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate")
    for path, content, code in (
        (CRL, gencrl(ca, tmp_path / "x", *before, "20200102000000Z"), "published_crl_stale"),
        (CRL, gencrl(ca, tmp_path / "x", *before, "20270101000000Z"), "published_crl_stale"),
        (CRL, gencrl(other, tmp_path / "x"), "published_crl_other_key"),
        (CRL, b"<html>", "published_missing"),
        (CRL, Path(signed["crls"][0]["path"]).read_bytes(), "published_not_der"),
        (CERTIFICATE, (tmp_path / "other.crt").read_bytes(), "published_certificate_other"),
        (CERTIFICATE, fresh, "published_missing"),
    ):
        kept = (www / path[1:]).read_bytes()
        (www / path[1:]).write_bytes(content)
        states, codes = told(host)
        assert codes == sorted([code, "url_not_looked_at"]), code
        assert states[path[1:]] == (code if code != "published_not_der" else "good")
        (www / path[1:]).write_bytes(kept)

    # A revocation that clients don't see yet.
    openssl("ca", "-config", ca.config_file, "-revoke", ca.directory / "newcerts" / "1001.pem", cwd=ca.directory)
    assert host.does(CaCrl)["changed"]
    assert told(host)[0][CRL[1:]] == "published_crl_stale"
    assert host.does(CaCrl, der_directory=str(www))["changed"] and told(host)[0] == good

    message = www / CERTIFICATE[1:]
    openssl("crl2pkcs7", "-nocrl", "-certfile", ca.certificate, "-outform", "DER", "-out", message)
    assert told(host)[0] == good, "a certs-only CMS message is as good"
    version = b"\xa0\x03\x02\x01"
    message.write_bytes(message.read_bytes().replace(version + b"\x02", version + b"\x3e"))
    assert told(host)[0][CERTIFICATE[1:]] == "published_missing", "and one with a certificate of no version is none"


def test_no_ca_takes_the_place_of_another_where_both_are_published(tmp_path: Path) -> None:
    """A host tells the subject of its CA, and the names of the files are made of it."""
    one, other = (OpensslCa(tmp_path / name, algorithm="ed25519") for name in ("one", "other"))
    www = tmp_path / "www"
    assert Meanwhile(one.config_file).does(CaCrl, der_directory=str(www))["der_files"]
    before = {path.name: path.read_bytes() for path in www.iterdir()}
    for check in (True, False):
        refused = Meanwhile(other.config_file).does(CaCrl, der_directory=str(www), check=check)
        assert refused["failed"] and "is the certificate of another key" in refused["msg"]
    assert {path.name: path.read_bytes() for path in www.iterdir()} == before
    one.renew_in_place(new_key=False)
    assert Meanwhile(one.config_file).does(CaCrl, der_directory=str(www))["changed"]


def test_a_look_signs_nothing_and_says_what_runs_out(tmp_path: Path, web: Web) -> None:
    """The nightly run of whoever publishes by other means: no key is needed for it."""
    ca, www = naming(tmp_path / "ca", web), tmp_path / "www"
    host = Meanwhile(ca.config_file)
    assert told(host, sign=False)[1] == ["published_missing", "url_not_looked_at"]
    signed = host.does(CaCrl, der_directory=str(www))
    crl, good = Path(signed["crls"][0]["path"]), (www / CRL[1:]).read_bytes()
    ca.private_key.unlink()
    before = crl.read_bytes()
    states, codes = told(host, sign=False)
    assert (states[CRL[1:]], codes) == ("good", ["key_missing_on_host", "url_not_looked_at"])
    assert crl.read_bytes() == before and (www / CRL[1:]).read_bytes() == good
    index = (ca.directory / "index.txt").read_text()
    first, rest = index.split("\n", 1)
    fields = first.split("\t")
    (ca.directory / "index.txt").write_text("\t".join(["R", fields[1], "250101000000Z", *fields[3:]]) + "\n" + rest)
    assert "crl_lacks_revocations" in told(host, sign=False)[1]
    for option in ({"scratch": True}, {"published_crl": str(www / CRL[1:])}):
        refused = host.does(CaCrl, sign=False, **option)
        assert refused["failed"] and "sign: false exclude each other" in refused["msg"]


def test_an_old_crl_on_the_host_is_no_matter_while_clients_get_a_newer_one(tmp_path: Path, web: Web) -> None:
    ca, www = naming(tmp_path / "ca", web), tmp_path / "www"
    host = Meanwhile(ca.config_file)
    crl = Path(host.does(CaCrl, der_directory=str(www))["crls"][0]["path"])
    gencrl(ca, crl, "-crl_lastupdate", days_ago(9), "-crl_nextupdate", days_ago(1))
    assert told(host, sign=False)[1] == ["url_not_looked_at"]
    (www / CRL[1:]).unlink()
    assert {"crl_expired", "published_missing"} <= {*told(host, sign=False)[1]}


@pytest.mark.parametrize(("lasts", "code"), [((100, -1), "crl_expired"), ((100, 10), "crl_runs_out"), ((1, 100), None)])
def test_a_look_tells_the_age_of_a_crl(tmp_path: Path, lasts: tuple[float, float], code: str | None) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    host = Meanwhile(ca.config_file)
    crl = Path(host.does(CaCrl)["crls"][0]["path"])
    begun, ends = lasts
    gencrl(ca, crl, "-crl_lastupdate", days_ago(begun), "-crl_nextupdate", days_ago(-ends))
    result = host.does(CaCrl, sign=False)
    assert not result["changed"] and [one["code"] for one in result["advisories"]] == ([code] if code else [])


def test_a_crl_that_announces_its_successor_is_late_when_that_is(tmp_path: Path) -> None:
    """AD CS publishes weekly, a few hours before the last one expires: that is no week with two red days."""
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    host = Meanwhile(ca.config_file)
    crl = Path(host.does(CaCrl)["crls"][0]["path"])
    for announced, codes in ((-0.5, []), (1, ["crl_runs_out"])):
        ca.config_file.write_text(
            f"{ca.config_file.read_text()}\n[ at{announced} ]\n1.3.6.1.4.1.311.21.4 = ASN1:UTC:{days_ago(announced)[2:]}\n"
        )
        gencrl(ca, crl, "-crlexts", f"at{announced}", "-crl_lastupdate", days_ago(7), "-crl_nextupdate", days_ago(-1))
        assert [one["code"] for one in host.does(CaCrl, sign=False)["advisories"]] == codes


def test_a_look_at_a_ca_without_a_database(tmp_path: Path) -> None:
    """Two files, as many tutorials make them: there is no CRL, and nothing is wrong with that."""
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    files = {"certificate_file": str(ca.certificate), "private_key_file": str(ca.private_key), "directory": str(tmp_path)}
    host = Meanwhile(ca.config_file)
    result = host.does(CaCrl, sign=False, fetch=True, config_file=None, **files)
    assert not result.get("failed"), result["msg"]
    assert (result["crls"], result["published"], result["advisories"]) == ([], [], [])
    assert host.does(CaCrl, fetch=True, config_file=None, **files)["failed"]


def test_a_server_can_do_nothing_but_fail(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetched, "MOST_BYTES", 1 << 20)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "there").write_bytes(b"a CRL")
    web.answers = {
        "/away": (302, {"Location": "/there"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/ftp": (301, {"Location": "ftp://127.0.0.1/x"}, b""),
        "/nowhere": (302, {}, b""),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/broken": (500, {}, b"a secret of the server"),
        "/endless": None,
    }
    closed, no_url = web.url.rpartition(":")[0] + ":1/x", "http://[::1"
    got = _fetched.fetched(
        [*(web.url + path for path in ("/there", "/gone", *web.answers)), closed, "file:///etc/passwd", "ldap://x/y", no_url]
    )
    states = {url.rpartition("/")[2]: one.state for url, one in got.items()}
    assert states == {
        **dict.fromkeys(("there", "away"), "served"),
        **dict.fromkeys(("file", "ftp", "nowhere", "loop", "broken", "endless", "x"), "unreachable"),
        **{"gone": "missing", "passwd": "not asked", "y": "not asked", "[::1": "not asked"},
    }
    assert all(one.why and not one.content and "secret" not in one.why for one in got.values() if one.state != "served")


def test_a_server_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetched, "DEADLINE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (one,) = _fetched.fetched([f"http://127.0.0.1:{silent.getsockname()[1]}/x"]).values()
    assert one.state == "unreachable" and "0.3 seconds" in one.why


def test_a_new_key_needs_urls_of_its_own(tmp_path: Path, web: Web) -> None:
    ca, www = naming(tmp_path / "ca", web), tmp_path / "www"
    ca.config_file.write_text(ca.config_file.read_text() + "[ ocsp ]\nextendedKeyUsage = OCSPSigning\n")
    for name, section in (("ocsp.example.com", "ocsp"), ("Example Issuing CA", "v3_ca")):
        request = tmp_path / "request"
        openssl("req", "-new", "-newkey", "ed25519", "-noenc", "-keyout", tmp_path / "key", "-subj", f"/CN={name}", "-out", request)
        ca._ca("-notext", "-extensions", section, "-in", request, "-out", tmp_path / "x", certificate=None, private_key=None)
    host = Meanwhile(ca.config_file)
    due = {"reuse_key": False, "remaining_days": 4000, "days": 5000}
    codes = {"one_url_two_keys", "older_ocsp_signer", "older_subordinate"}
    assert not {one["code"] for one in host.does(CaRenew, **{**due, "reuse_key": True}, check=True)["advisories"]} & codes
    predicted = host.does(CaRenew, **due, check=True)
    done = host.does(CaRenew, **due)
    for result in (predicted, done):
        said = [one for one in result["advisories"] if one["code"] in codes]
        assert [one["code"] for one in said] == [*["one_url_two_keys"] * 3, "older_ocsp_signer", "older_subordinate"]
        assert "CN=ocsp.example.com" in said[3]["message"] and "CN=Example Issuing CA" in said[4]["message"]
        assert {one["level"] for one in said} == {"warning"}

    # One CRL and one certificate of each key; and while all name one URL, that is said.
    files = [Path(path).name for path in host.does(CaCrl, der_directory=str(www))["der_files"]]
    assert files == [f"example-root-ca-{key}.{kind}" for key in (0, 1) for kind in ("crl", "crt")]
    assert told(host)[0][CRL[1:]] == "good"
    ca.issue("third.example.com")
    states, said_now = told(host)
    assert states[CRL[1:]] == "good" and "one_url_two_keys" in said_now


def test_an_encrypted_key_is_asked_for_days_before(tmp_path: Path) -> None:
    """Its passphrase belongs into no inventory: each night goes on without it, and says early that a person is needed."""
    ca = OpensslCa(tmp_path / "ca", passphrase="a passphrase", algorithm="P-256")
    host, known = Meanwhile(ca.config_file), Meanwhile(ca.config_file, private_key_passphrase="a passphrase")

    def said() -> list[str]:
        result = host.does(CaCrl)
        assert not result.get("failed") and not result["changed"]
        return [one["code"] for one in result["advisories"] if one["code"].startswith("crl_")]

    assert said() == ["crl_not_refreshed"]
    assert known.does(CaCrl)["changed"] and said() == []
    for days, code in ((19.5, "crl_needs_passphrase"), (25, "crl_not_refreshed")):
        options = ("-crl_lastupdate", days_ago(days), "-crl_nextupdate", days_ago(days - 30))
        ca._ca("-gencrl", *options, "-out", ca.directory / "crl.pem", certificate=None, private_key=None)
        assert said() == [code]
    assert known.does(CaCrl)["changed"] and said() == []


def test_urls_on_a_host_where_the_ca_was(tmp_path: Path, web: Web) -> None:
    ca, www = naming(tmp_path / "ca", web), tmp_path / "www"
    host = Meanwhile(ca.config_file)
    host.does(CaCrl, der_directory=str(www))
    assert host.does(CaCrl, scratch=True, former_hosts=["elsewhere"])["published"] == []
    (www / CRL[1:]).unlink()
    result = host.does(CaCrl, scratch=True, former_hosts=["127.0.0.1"])
    assert [one["url"] for one in result["published"]] == [f"{web.url}{path}" for path in (CERTIFICATE, CRL, "/ocsp")]
    said = [one["message"] for one in result["advisories"] if one["code"] == "url_of_former_host"]
    assert len(said) == 3 and "serves what it should" in said[0] and "serves nothing" in said[1]
    assert {one["level"] for one in result["advisories"]} == {"warning"}
