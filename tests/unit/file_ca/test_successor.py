# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A renewed certificate does the work of the old one: what was issued goes on to verify, and what is different is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support.lifecycle import SUBJECT, fingerprints, install, refused, renew, sign, state
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool

SUB = {"kind": "subordinate", "subject": {**SUBJECT, "commonName": "Example Issuing CA"}}
ANSWERS = ("basicConstraints = critical, CA:TRUE", "keyUsage = critical, keyCertSign, cRLSign")


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require_tool("openssl")


def codes(result: dict[str, Any]) -> set[str]:
    return {advisory["code"] for advisory in result["advisories"]}


def message(result: dict[str, Any], code: str) -> str:
    return next(str(advisory["message"]) for advisory in result["advisories"] if advisory["code"] == code)


def certificate(ca: OpensslCa | Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((ca.certificate if isinstance(ca, OpensslCa) else ca / "cacert.pem").read_bytes())


def certified(ca: OpensslCa, *extensions: str, bits: str | None = None) -> OpensslCa:
    """With a certificate of its own that has these extensions; none: one of X.509 version 1."""
    if bits:
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}", "-out", ca.private_key)
    if extensions:
        config = ca.directory / "own.cnf"
        config.write_text("[req]\ndistinguished_name = dn\nstring_mask = utf8only\n[dn]\n[own]\n" + "\n".join(extensions) + "\n")
        openssl(
            *("req", "-new", "-x509", "-config", config, "-extensions", "own", "-days", "3650", "-subj", ca.subject),
            *("-key", ca.private_key, "-out", ca.certificate),
        )
    else:
        request = ca.directory / "own.csr"
        openssl("req", "-new", "-config", ca.config_file, "-subj", ca.subject, "-key", ca.private_key, "-out", request)
        openssl("x509", "-req", "-in", request, "-signkey", ca.private_key, "-days", "3650", "-out", ca.certificate)
    return ca


def issuing(ca: OpensslCa, *extensions: str) -> Path:
    """What the CA issues from now on has these extensions; the first of them."""
    text = ca.config_file.read_text()
    ca.config_file.write_text(text[: text.index("[ usr_cert ]")] + "[ usr_cert ]\n" + "\n".join(extensions) + "\n")
    return ca.issue("leaning.example.com")


@pytest.mark.parametrize("reuse_key", [True, False], ids=["same-key", "new-key"])
def test_a_root_without_extensions_gets_those_of_a_ca(tmp_path: Path, reuse_key: bool) -> None:
    ca = certified(OpensslCa(tmp_path / "ca"))
    leaf = issuing(ca, "basicConstraints = CA:FALSE", "authorityKeyIdentifier = none")
    assert certificate(ca).version == x509.Version.v1
    done = renew(ca, reuse_key=reuse_key)
    assert "basicConstraints CA:TRUE; keyUsage keyCertSign, cRLSign" in message(done, "extension_added")
    openssl("verify", "-CAfile", ca.certificate if reuse_key else ca.directory / "cacert.0.pem", leaf)
    openssl("verify", "-CAfile", ca.certificate, ca.issue("second.example.com"))
    assert "extension_added" not in codes(renew(ca, reuse_key=reuse_key))


@pytest.mark.parametrize(
    ("usage", "added"), [("keyCertSign", "keyUsage cRLSign"), ("cRLSign, digitalSignature", "keyUsage keyCertSign"), (None, None)]
)
def test_what_a_root_may_not_do_its_successor_may(tmp_path: Path, usage: str | None, added: str | None) -> None:
    extensions = ["basicConstraints = CA:TRUE", *([f"keyUsage = {usage}"] if usage else [])]
    ca = certified(OpensslCa(tmp_path / "ca"), *extensions)
    done = renew(ca, reuse_key=True)
    assert ("extension_added" in codes(done)) is bool(added)
    if added:
        assert message(done, "extension_added").endswith(added)
        used = certificate(ca).extensions.get_extension_for_class(x509.KeyUsage).value
        assert used.key_cert_sign and used.crl_sign and used.digital_signature == ("digital" in str(usage))


def test_a_root_that_says_that_it_is_no_ca_is_not_renewed(tmp_path: Path) -> None:
    ca = certified(OpensslCa(tmp_path / "ca"), "basicConstraints = CA:FALSE")
    before = state(ca.directory)
    for check in (True, False):
        assert "it is no CA certificate" in refused(lambda check=check: renew(ca, check=check)) and state(ca.directory) == before


def test_extensions_stay_byte_by_byte(tmp_path: Path) -> None:
    odd = ("1.3.6.1.4.1.99999.1 = DER:0c:03:61:62:63", "nameConstraints = critical, permitted;DNS:example.com", "nsComment = kept")
    ca = certified(
        OpensslCa(tmp_path / "ca"), ANSWERS[0], "subjectKeyIdentifier = hash", "authorityKeyIdentifier = keyid,issuer:always", *odd
    )
    old = certificate(ca)
    done = renew(ca, reuse_key=True)
    new = certificate(ca)
    same = [extension for extension in old.extensions if extension.oid != x509.ExtensionOID.AUTHORITY_KEY_IDENTIFIER]
    assert [(e.oid, e.critical, e.value) for e in new.extensions if e in same] == [(e.oid, e.critical, e.value) for e in same]
    named = new.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.authority_cert_serial_number is None and not codes(done) & {"extension_lost", "extension_changed"}


def test_no_renewal_makes_or_keeps_a_weak_key(tmp_path: Path) -> None:
    ca = certified(OpensslCa(tmp_path / "ca"), *ANSWERS, bits="1024")
    before = state(ca.directory)
    for check in (True, False):
        why = refused(lambda check=check: renew(ca, check=check, reuse_key=True))
        assert "its RSA key has 1024 bits, fewer than 2048. Renew it with a new key (reuse_key: false)" in why
        assert state(ca.directory) == before
    waiting = ca.directory / "private" / "cakey.next.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1536", "-out", waiting)
    assert "has 1536 bits" in (why := refused(lambda: renew(ca))) and f"Move {waiting} away" in why
    waiting.unlink()
    assert renew(ca, check=True)["changed"] and state(ca.directory) == before
    renew(ca)
    assert certificate(ca).public_key().key_size == 2048  # type: ignore[union-attr]


def test_a_weak_curve_is_replaced(tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca", algorithm="prime192v1")
    assert "its elliptic curve, secp192r1, has 192 bits" in refused(lambda: renew(ca, reuse_key=True))
    renew(ca)
    assert certificate(ca).public_key().curve.name == "secp256r1"  # type: ignore[union-attr]


@pytest.mark.parametrize("reuse_key", [True, False], ids=["same-key", "new-key"])
def test_what_names_a_serial_number_is_said_to_need_the_older_certificate(tmp_path: Path, reuse_key: bool) -> None:
    ca = OpensslCa(tmp_path / "ca")
    (first,) = fingerprints(ca)
    leaf = issuing(ca, "authorityKeyIdentifier = keyid, issuer:always")
    assert "needs_older_certificate" in codes(renew(ca, check=True, reuse_key=reuse_key))
    done = renew(ca, reuse_key=reuse_key)
    advisory = next(one for one in done["advisories"] if one["code"] == "needs_older_certificate")
    assert advisory["certificate"] == first and "1 of 2 certificates" in advisory["message"]
    assert openssl("verify", "-CAfile", ca.certificate, leaf, check=False).returncode != 0
    both = ca.directory / "both.pem"
    both.write_bytes(ca.certificate.read_bytes() + (ca.directory / "cacert.0.pem").read_bytes())
    openssl("verify", "-CAfile", both, leaf)


def test_expired_and_foreign_certificates_say_nothing(tmp_path: Path) -> None:
    ca, other = OpensslCa(tmp_path / "ca"), OpensslCa(tmp_path / "other")
    foreign = issuing(other, "authorityKeyIdentifier = keyid, issuer:always")
    (ca.directory / "newcerts" / "FFFF.pem").write_bytes(foreign.read_bytes())
    (ca.directory / "newcerts" / "broken.pem").write_text("nothing")
    assert "needs_older_certificate" not in codes(renew(ca, reuse_key=True))


# --- answers of parents ---


def asked(tmp_path: Path, reuse_key: bool = True) -> tuple[Path, Path, str]:
    """A root, a subordinate whose file holds its own certificate alone, and the pending request of its renewal."""
    root, sub = tmp_path / "root", tmp_path / "sub"
    install(root)
    install(sub, **SUB, certificate=sign(root, install(sub, **SUB)["request"])["certificate"])
    return root, sub, renew(sub, reuse_key=reuse_key)["request"]


def answered(root: Path, request: str, *extensions: str, subject: str | None = None) -> str:
    """What a parent signs whose policy is this."""
    config, made, given = (root / name for name in ("answers.cnf", "answer.pem", "asked.pem"))
    given.write_text(request)
    text = (root / "openssl.cnf").read_text()
    config.write_text(text + "\n[answers]\nsubjectKeyIdentifier = hash\n" + "\n".join(extensions) + "\n")
    named = ("-subj", subject) if subject else ()
    openssl("ca", "-batch", "-notext", "-config", config, "-preserveDN", "-extensions", "answers", *named, "-in", given, "-out", made)
    return made.read_text()


@pytest.mark.parametrize(
    ("extensions", "subject", "why"),
    [
        (("basicConstraints = CA:FALSE", ANSWERS[1]), None, "it is no CA certificate"),
        ((ANSWERS[0], "keyUsage = cRLSign"), None, "its keyUsage lacks keyCertSign"),
        ((ANSWERS[0], "keyUsage = keyCertSign"), None, "it may not sign CRLs (its keyUsage lacks cRLSign), and the old one may"),
        (ANSWERS, "/O=Example/CN=EXAMPLE ISSUING CA", "its subject is CN=EXAMPLE ISSUING CA"),
        (ANSWERS, "/CN=Example Issuing CA/O=Example", "its subject is"),
    ],
)
def test_an_answer_that_cannot_do_the_work_is_refused(tmp_path: Path, extensions: tuple[str, ...], subject: str | None, why: str) -> None:
    root, sub, request = asked(tmp_path)
    answer = answered(root, request, *extensions, subject=subject)
    before = state(sub)
    for text in (answer, (root / "cacert.pem").read_text() + answer):
        for check in (True, False):
            assert why in refused(lambda text=text, check=check: renew(sub, check=check, certificate=text))
            assert state(sub) == before


def test_a_subject_in_other_bytes_is_refused(tmp_path: Path) -> None:
    root, sub, _request = asked(tmp_path)
    config = root / "openssl.cnf"
    config.write_text(config.read_text().replace("string_mask = utf8only", "string_mask = nombstr"))
    subject = "/O=Example/CN=Example Issuing CA"
    (root / "req.cnf").write_text("[req]\ndistinguished_name = dn\nstring_mask = nombstr\n[dn]\n")
    made = root / "printable.csr"
    openssl("req", "-new", "-config", root / "req.cnf", "-key", sub / "private" / "cakey.pem", "-subj", subject, "-out", made)
    answer = answered(root, made.read_text(), *ANSWERS)
    before = state(sub)
    assert "is encoded in other bytes" in refused(lambda: renew(sub, certificate=answer)) and state(sub) == before


def test_an_answer_is_found_wherever_it_stands_and_stands_alone_where_the_old_one_did(tmp_path: Path) -> None:
    root, sub, request = asked(tmp_path)
    old = (sub / "cacert.pem").read_text()
    answer = sign(root, request)["certificate"]
    text = (root / "cacert.pem").read_text() + old + answer
    done = renew(sub, certificate=text)
    assert done["renewed"] and (sub / "cacert.pem").read_text() == answer
    assert not renew(sub, certificate=text)["changed"]


def test_a_chain_follows_where_one_followed(tmp_path: Path) -> None:
    root, sub, request = asked(tmp_path)
    with (sub / "cacert.pem").open("a") as file:
        file.write((root / "cacert.pem").read_text())
    signed = sign(root, request)
    renew(sub, certificate=signed["certificate"] + "".join(signed["chain"]))
    assert (sub / "cacert.pem").read_text() == signed["certificate"] + (root / "cacert.pem").read_text()


def test_a_chain_goes_into_the_chain_file(tmp_path: Path) -> None:
    root, sub, request = asked(tmp_path)
    chain = sub / "chain.pem"
    old = OpensslCa(tmp_path / "old").certificate.read_text()
    chain.write_text(old)
    signed = sign(root, request)
    text = signed["certificate"] + "".join(signed["chain"])
    assert renew(sub, check=True, certificate=text, chain_file=str(chain))["changed"] and chain.read_text() == old
    renew(sub, certificate=text, chain_file=str(chain))
    assert (sub / "cacert.pem").read_text() == signed["certificate"]
    assert chain.read_text() == (root / "cacert.pem").read_text() + old
    first = tmp_path / "first"
    signed = sign(root, install(first, **{**SUB, "subject": {"commonName": "First"}})["request"])
    text = signed["certificate"] + "".join(signed["chain"])
    install(first, **SUB, certificate=text, chain_file=str(first / "chain.pem"))
    assert (first / "cacert.pem").read_text() == signed["certificate"]
    assert (first / "chain.pem").read_text() == (root / "cacert.pem").read_text()


def test_what_a_parent_makes_stricter_or_leaves_out_is_shown(tmp_path: Path) -> None:
    root, sub = tmp_path / "root", tmp_path / "sub"
    install(root)
    request = install(sub, **SUB)["request"]
    places = ("crlDistributionPoints = URI:http://example.com/crl", "authorityInfoAccess = caIssuers;URI:http://example.com/ca")
    strict = ("basicConstraints = critical, CA:TRUE, pathlen:0", "nameConstraints = critical, permitted;DNS:example.com")
    done = install(sub, **SUB, certificate=answered(root, request, *ANSWERS[1:], *strict, *places))
    assert message(done, "stricter_certificate").endswith("path length 0, name constraints")
    request = renew(sub)["request"]
    answer = answered(root, request, *ANSWERS, "authorityInfoAccess = caIssuers;URI:http://example.org/ca")
    assert codes(renew(sub, check=True, certificate=answer)) >= {"extension_lost", "extension_changed", "wider_certificate"}
    done = renew(sub, certificate=answer)
    assert message(done, "extension_lost").endswith("no CRL distribution points, name constraints, which the old certificate has")
    assert "authority information access" in message(done, "extension_changed")
    assert "no limit of the path length, and it was path length 0" in message(done, "wider_certificate")
    assert "stricter_certificate" not in codes(done)


def leaf(sub: Path, *extensions: str) -> Path:
    """Issued by a subordinate, with these extensions."""
    config = sub / "leaf.cnf"
    config.write_text((sub / "openssl.cnf").read_text() + "\n[leaf]\n" + "\n".join(extensions) + "\n")
    request = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", sub / "leaf.key")
    openssl(*request, "-config", config, "-subj", "/CN=www.example.org", "-out", sub / "leaf.csr")
    openssl("ca", "-batch", "-notext", "-config", config, "-extensions", "leaf", "-in", sub / "leaf.csr", "-out", sub / "leaf.pem")
    return sub / "leaf.pem"


def test_an_answer_under_which_nothing_verifies_is_refused_and_a_stricter_one_is_a_judgement(tmp_path: Path) -> None:
    root, sub, request = asked(tmp_path)
    leaf(sub, "authorityKeyIdentifier = keyid", "subjectAltName = DNS:www.example.org")
    before = state(sub)
    other = answered(root, request, *ANSWERS, "subjectKeyIdentifier = 01:02:03")
    why = refused(lambda: renew(sub, certificate=other))
    assert "its subject key identifier is 010203, and what its key issued names" in why and state(sub) == before
    (root / "index.txt.attr").write_text("unique_subject = no\n")
    strict = answered(root, request, *ANSWERS, "nameConstraints = permitted;DNS:example.com")
    done = renew(sub, certificate=strict)
    assert done["renewed"] and "1 of 1 certificates that were looked at" in message(done, "issued_not_verified")


def test_a_self_issued_certificate_is_no_root(tmp_path: Path) -> None:
    """Subject and issuer are equal, and another key signed it: what signs itself must show it."""
    ca, other = OpensslCa(tmp_path / "ca"), OpensslCa(tmp_path / "other")
    request = ca.directory / "own.csr"
    openssl("req", "-new", "-config", ca.config_file, "-subj", ca.subject, "-key", ca.private_key, "-out", request)
    extensions = ca.directory / "extensions"
    extensions.write_text("\n".join(ANSWERS) + "\n")
    signer = ("-CA", other.certificate, "-CAkey", other.private_key, "-CAcreateserial", "-days", "300")
    openssl("x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", ca.certificate)
    assert certificate(ca).issuer == certificate(ca).subject
    done = renew(ca, reuse_key=True)
    assert done["pending"] and not done["renewed"]
