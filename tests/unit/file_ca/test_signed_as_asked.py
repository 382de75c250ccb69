# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_sign issues what was asked for or nothing, finds that out before anything is issued, and says why in words of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_sign import ActionModule as CaSign
from cryptography import x509
from support.fake_host import FakeHost
from support.lifecycle import crl, ended_well, install, refused, sign, state
from support.openssl_ca import openssl
from tools import require_tool

SECTION = "[ v3_subordinate_ca ]\nbasicConstraints = critical, CA:TRUE, pathlen:0\nkeyUsage = critical, keyCertSign, cRLSign\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    require_tool("openssl")
    install(tmp_path / "root")
    return tmp_path / "root"


def config(root: Path, old: str, new: str) -> None:
    file = root / "openssl.cnf"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def asked(folder: Path, subject: str = "/O=Example/CN=Sub", *extensions: str, mask: str = "utf8only") -> str:
    """A request as other software makes it."""
    folder.mkdir(exist_ok=True)
    text = f"[req]\ndistinguished_name = dn\nstring_mask = {mask}\nreq_extensions = ext\n[dn]\n[ext]\n" + "\n".join(extensions) + "\n"
    (folder / "req.cnf").write_text(text if extensions else text.replace("req_extensions = ext\n", ""))
    new = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", folder / "req.key")
    openssl(*new, "-config", folder / "req.cnf", "-utf8", "-subj", subject, "-out", folder / "req.csr")
    return (folder / "req.csr").read_text()


def would_sign(root: Path, request: str, **more: Any) -> dict[str, Any]:
    """In check mode."""
    return ended_well(
        FakeHost().run(CaSign, {"config_file": str(root / "openssl.cnf"), "request": request, "days": 100, **more}, check=True)
    )


def never_issued(root: Path, request: str, why: str) -> str:
    """Refused in check mode and without it, and nothing of the CA is another for it."""
    before = state(root)
    said = ""
    for call in (would_sign, sign):
        said = refused(lambda call=call: call(root, request))
        assert why in said and state(root) == before
    return said


def codes(result: dict[str, Any]) -> dict[str, str]:
    return {advisory["code"]: advisory["message"] for advisory in result["advisories"]}


def made(result: dict[str, Any]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(result["certificate"].encode())


def test_a_subject_that_would_be_another_is_not_signed(root: Path, tmp_path: Path) -> None:
    config(root, "policy = policy_any", "policy = policy_any\nemail_in_dn = no")
    request = asked(tmp_path / "sub", "/CN=Sub/emailAddress=ca@example.com")
    said = never_issued(root, request, "it would be issued for CN=Sub, and the request says")
    assert "Say email_in_dn = yes in [CA_default]" in said
    config(root, "email_in_dn = no", "email_in_dn = yes")
    assert made(sign(root, request)).subject == x509.load_pem_x509_csr(request.encode()).subject
    assert sign(root, asked(tmp_path / "plain"))["changed"], "no emailAddress, and nothing is taken out"


def test_names_that_were_not_asked_for_are_not_signed(root: Path, tmp_path: Path) -> None:
    config(root, SECTION, SECTION + "subjectAltName = DNS:www.example.com\n")
    never_issued(root, asked(tmp_path / "sub"), "it would be issued for names that were not asked for")
    request = asked(tmp_path / "other", "/CN=Other", "subjectAltName = DNS:www.example.com, DNS:example.com")
    assert sign(root, request)["changed"]


@pytest.mark.parametrize(
    ("section", "extensions", "length", "used"),
    [
        ("basicConstraints = CA:TRUE", ("basicConstraints = critical, CA:TRUE, pathlen:1",), 1, None),
        ("basicConstraints = CA:TRUE, pathlen:3", ("basicConstraints = CA:TRUE, pathlen:1",), 1, None),
        ("basicConstraints = CA:TRUE, pathlen:0", ("basicConstraints = CA:TRUE, pathlen:1",), 0, None),
        ("basicConstraints = CA:TRUE", ("keyUsage = keyCertSign, cRLSign",), None, {"key_cert_sign", "crl_sign"}),
        (
            "basicConstraints = CA:TRUE\nkeyUsage = digitalSignature, keyCertSign, cRLSign",
            ("keyUsage = keyCertSign, cRLSign",),
            None,
            {"key_cert_sign", "crl_sign"},
        ),
        ("basicConstraints = CA:TRUE\nkeyUsage = digitalSignature, keyCertSign", (), None, {"key_cert_sign", "digital_signature"}),
    ],
)
def test_no_more_than_was_asked_for_and_no_less_strict_than_the_section(
    root: Path, tmp_path: Path, section: str, extensions: tuple[str, ...], length: int | None, used: set[str] | None
) -> None:
    config(root, SECTION, f"[ v3_subordinate_ca ]\n{section}\n")
    request = asked(tmp_path / "sub", "/CN=Sub", *extensions)
    foreseen, before = codes(would_sign(root, request)), (root / "openssl.cnf").read_text()
    result = sign(root, request)
    certificate = made(result)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == length
    usage = next((each.value for each in certificate.extensions if isinstance(each.value, x509.KeyUsage)), None)
    allowed = ("digital_signature", "key_cert_sign", "crl_sign", "key_encipherment")
    assert (usage and {name for name in allowed if getattr(usage, name)}) == used
    limited = "limited_to_request" in codes(result)
    assert limited is (used == {"key_cert_sign", "crl_sign"} or length == 1) and ("limited_to_request" in foreseen) is limited
    assert (root / "openssl.cnf").read_text() == before and codes(sign(root, request)).keys() <= codes(result).keys()


def test_extended_uses_and_constraints_stay_as_asked(root: Path, tmp_path: Path) -> None:
    request = asked(tmp_path / "sub", "/CN=Sub", "extendedKeyUsage = clientAuth", "nameConstraints = permitted;DNS:example.com")
    config(root, SECTION, SECTION + "extendedKeyUsage = clientAuth, serverAuth\n")
    certificate = made(sign(root, request))
    assert [use.dotted_string for use in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value] == [
        "1.3.6.1.5.5.7.3.2"
    ]
    permitted = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    assert [name.value for name in permitted or ()] == ["example.com"]


def test_what_the_policy_makes_stricter_is_kept_and_shown(root: Path, tmp_path: Path) -> None:
    more = "nameConstraints = critical, permitted;DNS:example.com\ncrlDistributionPoints = URI:http://example.com/crl\n"
    config(root, SECTION, SECTION + more)
    request = install(tmp_path / "sub", kind="subordinate", subject={"commonName": "Sub"})["request"]
    for result in (would_sign(root, request), sign(root, request), sign(root, request)):
        said = codes(result)
        assert said["stricter_certificate"].endswith("path length 0, name constraints")
        assert said["added_by_parent"].endswith("what was not asked for: CRL distribution points")
        assert "limited_to_request" not in said


def test_a_ca_whose_key_cannot_be_used_is_foreseen_too(root: Path, tmp_path: Path) -> None:
    """The rehearsal needs no key of the CA: what it finds, it finds in check mode."""
    (root / "private" / "cakey.pem").write_text("nothing")
    config(root, SECTION, "[ v3_subordinate_ca ]\nbasicConstraints = CA:TRUE\nsubjectAltName = email:copy, DNS:x.example.com\n")
    assert "names that were not asked for" in refused(lambda: would_sign(root, asked(tmp_path / "sub")))


# --- why openssl refuses ---


def test_what_openssl_says_is_translated(root: Path, tmp_path: Path) -> None:
    config(root, "organizationName = optional", "organizationName = match")
    said = never_issued(
        root, asked(tmp_path / "a", "/O=Other/CN=Sub"), "wants the organizationName of the subject to match its own, Example"
    )
    assert "the request says Other. " in said
    same = asked(tmp_path / "b", mask="nombstr")
    assert "in another string type" in never_issued(root, same, "the organizationName is the same text as the CA's")
    never_issued(root, asked(tmp_path / "c", "/CN=Sub"), "the policy of the CA wants organizationName in the subject")
    config(root, "organizationName = match", "organizationName = supplied")
    never_issued(root, asked(tmp_path / "c", "/CN=Sub"), "the policy of the CA wants organizationName in the subject")

    first = (root / "serial").read_text()
    sign(root, asked(tmp_path / "d", "/O=Example/CN=One"))
    (root / "serial").write_text(first)
    two = asked(tmp_path / "e", "/O=Example/CN=Two")
    said = never_issued(root, two, f"the serial number {first.strip()} was issued already: {root / 'serial'} has gone back")
    assert str(root / "index.txt") in said
    (root / "serial").write_text("no number\n")
    never_issued(root, two, f"{root / 'serial'} can't be read: it holds no hexadecimal number")
    (root / "serial").write_text("7000000000000000\n")
    config(root, "default_md = default", "default_md = sha99")
    never_issued(root, two, "its digest (default_md) is one that openssl does not know")


def test_a_subject_that_may_not_be_issued_twice_names_the_file_that_says_so(root: Path, tmp_path: Path) -> None:
    request = asked(tmp_path / "sub")
    sign(root, request)
    (root / "index.txt.attr").write_text("unique_subject = yes\n")
    again = asked(tmp_path / "again")
    assert f"in {root}/index.txt.attr" in never_issued(root, again, "unique_subject allows only one")


def test_a_crl_without_a_term_says_where_it_belongs(root: Path) -> None:
    text = (root / "openssl.cnf").read_text()
    (root / "openssl.cnf").write_text(re.sub("default_crl_days.*", "", text))
    assert "nothing says for how long its CRL is valid. Say default_crl_days in [CA_default], or give days" in refused(lambda: crl(root))
    assert crl(root, days=5)["changed"]


def test_a_request_for_a_weak_key_is_not_signed(root: Path, tmp_path: Path) -> None:
    curve, files = "ec_paramgen_curve:prime192v1", ("-keyout", tmp_path / "weak.key", "-out", tmp_path / "weak.csr")
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", curve, "-noenc", "-subj", "/CN=Weak", *files)
    never_issued(root, (tmp_path / "weak.csr").read_text(), "its elliptic curve, secp192r1, has 192 bits")


def test_who_checks_its_own_certificate_is_told_before_it_is_signed(root: Path, tmp_path: Path) -> None:
    """A request of AD CS (its CA version) for a certificate that names no CRL; and the CRL comes along, whoever can't fetch it."""
    plain, windows = asked(tmp_path / "plain"), asked(tmp_path / "windows", "/O=Example/CN=Win", "1.3.6.1.4.1.311.21.1=DER:020100")
    assert "no_distribution_point" not in codes(would_sign(root, plain))
    assert "may deny every request" in codes(would_sign(root, windows))["no_distribution_point"]
    config(root, SECTION, SECTION + "crlDistributionPoints = URI:http://pki.example.com/root.crl\n")
    assert "no_distribution_point" not in codes(would_sign(root, windows))
    crl(root)
    result = sign(root, windows)
    assert x509.load_pem_x509_crl(result["crl"].encode()).issuer == made(result).issuer
