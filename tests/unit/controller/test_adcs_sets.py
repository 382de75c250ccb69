# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller makes of the sets of a Windows CA, also of forged ones, and what it tells the host."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Misshapen
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import DatabaseFacts
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Restored, Revocation, StateTold
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetFile, SetManifest, State
from ansible_collections.keyward.pki.plugins.module_utils._time import parse_time
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs import directory_name
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs_registry import for_another_host, not_as_before
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs_sets import Restoration, kept, state_of
from ansible_collections.keyward.pki.plugins.plugin_utils._published import Crl, Issued, Revoked, Seen
from cryptography import x509
from support.authorities import authority, generation, set_manifest

ROOT = "[HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\CertSvc\\Configuration"
EXPORT = [
    "Windows Registry Editor Version 5.00",
    "",
    f"{ROOT}]",
    '"Active"="Example CA"',
    '"DBSessionCount"=dword:00000064',
    "",
    f"{ROOT}\\Example CA]",
    '"CommonName"="Example \\"CA\\" \\\\ one"',
    '"CACertHash"=hex(7):61,00,62,00,\\',
    "  00,00,00,00",
    '"Security"=hex:01,00,14,80',
    "@=hex(0):",
    "",
]


def exported(lines: list[str], end: str = "\r\n") -> bytes:
    return b"\xff\xfe" + end.join(lines).encode("utf-16-le")


def test_what_belongs_to_the_host_stays_there() -> None:
    text = for_another_host(exported(EXPORT), "OLD", "NEW")[0].decode("utf-16")
    assert '"Active"' not in text and '"CACertHash"=hex(7):61,00,62,00,00,00,00,00\r\n' in text
    assert '"CommonName"="Example \\"CA\\" \\\\ one"\r\n' in text
    assert "CACertHash" not in for_another_host(exported(EXPORT), "OLD", "NEW", ["CACertHash"])[0].decode("utf-16")


@pytest.mark.parametrize(
    "forged",
    [
        ["[HKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Run]", '"x"="calc.exe"'],
        [" [HKEY_LOCAL_MACHINE\\SOFTWARE\\Run]"],
        [f"{ROOT}Other]"],
        [f"[-{ROOT[1:]}\\Example CA]"],
        ['"CRLFlags"=-'],
        ['"x"="y"\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Run]'],
        ['"x"="y\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Run]\n"'],
        ['"a=hex"="\\', "[HKEY_LOCAL_MACHINE\\SOFTWARE\\Run]"],
        ["; a remark"],
        [f"{ROOT}\\..\\..\\Evil]"],
        [f"{ROOT}\\Example CA][HKEY_LOCAL_MACHINE\\SOFTWARE\\Run]"],
        *([f"{ROOT}\\Example CA{end}[HKEY_LOCAL_MACHINE\\SOFTWARE\\Run]"] for end in "\r\u2028\u2029\x85\x0b\x0c\x1c"),
        *([f'"x"="y{end}[HKEY_LOCAL_MACHINE\\SOFTWARE\\Run]"'] for end in "\r\u2028\x85"),
    ],
)
def test_a_forged_registry_reaches_nothing_but_the_configuration_of_a_ca(forged: list[str]) -> None:
    with pytest.raises(KeywardError, match="says more than the registry of a CA"):
        for_another_host(exported(EXPORT + forged), "OLD", "NEW")


def test_what_a_registry_decides_is_told() -> None:
    more = [f"{ROOT}\\Example CA\\PolicyModules\\X]", '"EditFlags"=dword:0015014e', f"{ROOT}\\Example CA]"]
    more += ['"CRLPublicationURLs"=hex(7):31,00,3a,00,5c,00,00,00,78,00,00,00,00,00']
    told = [one.message for one in for_another_host(exported(EXPORT + more), "OLD", "NEW")[1] if one.code == "configuration_decides"]
    assert [text.split()[3] for text in told] == [
        "Example", "Example", "X\\EditFlags", "Example"
    ]  # fmt: skip
    assert "CA\\CACertHash decides which certificates" in told[0] and "the set has ab" in told[0]
    assert "CA\\Security decides who may manage the CA; the set has 4 bytes, SHA-256 " in told[1]
    assert told[2].endswith("what requesters may choose; the set has dword:0015014e")
    assert told[3].endswith("the set has 1:\\ x")


def test_a_name_as_windows_reads_it() -> None:
    oid = x509.NameOID
    values = {
        oid.COUNTRY_NAME: "DE",
        oid.STATE_OR_PROVINCE_NAME: "Bayern",
        oid.ORGANIZATION_NAME: 'Example "One", Inc.',
        oid.EMAIL_ADDRESS: "a@b",
    }
    name = x509.Name([x509.NameAttribute(key, value) for key, value in values.items()])
    assert directory_name(name) == '1.2.840.113549.1.9.1=a@b,O="Example ""One"", Inc.",ST=Bayern,C=DE'
    assert directory_name(x509.Name([])) == ""


# --- a set in the place of a database ----------------------------------------------------------------------------------

OWN = {
    "ca_type": "StandaloneRootCA",
    "provider": "x",
    "provider_type": 0,
    "computer": "CA01",
    "archived_keys": "unknown",
    "kra_certificates": ["5D0C"],
    "log_directory": "D:\\log",
    "clock_skew_minutes": 10,
}
AS_OF = parse_time("2026-06-01T00:00:00Z")
NAMES = ("configuration.reg", "CAPolicy.inf", "DataBase/ca.edb")


def database(last: int = 5, *revocations: str, crl: int | None = 7, unissued: tuple[str, ...] = ()) -> dict[str, Any]:
    rows = {"revocations": list(revocations), "unissued": list(unissued)}
    return {"last_request_id": last, **rows, "next_crl_number": crl, "configuration_sha256": "c"}


def manifest(**known: Any) -> SetManifest:
    made = set_manifest(
        authority=authority(backend="adcs", directory="D:\\db"),
        created="2026-06-01T00:00:01Z",
        as_of="2026-06-01T00:00:00Z",
        files=tuple(SetFile(name, "x", 1) for name in NAMES),
        state=state_of(database(5, "3,x")),
        own=kept(OWN, database(5, "3,x")),
    )
    return replace(made, **known)


def told(own_state: dict[str, Any] | None, exists: bool = True, **own: Any) -> StateTold:
    generations = (generation("first"), generation("second", 1))
    return StateTold(authority(), generations, database=DatabaseFacts("D:\\db", exists), own={**OWN, **own}, own_state=own_state)


def restoration(there: StateTold | None, seen: Seen | None = None, known: SetManifest | None = None, **options: Any) -> Restoration:
    given = {"part": "all", "on_conflict": "fail", "advance": None, "start_without_parent_crl": False, **options}
    return Restoration(there, known or manifest(), seen or Seen([], [], False), given)


def test_what_a_state_is_compared_by() -> None:
    assert state_of(database(5, "3,x")) == replace(state_of(database(5, "3,x")), entries=5, next_serial=None, next_crl_number="07")
    assert state_of(database(5, "3,x", "4,y")).database == state_of(database(5, "4,y", "3,x")).database
    different = (database(5), database(6), database(5, "3,x"), database(5, unissued=("4,9",)), database(5, unissued=("4,31",)))
    assert len({state_of(each).database for each in different}) == 5
    assert state_of({**database(5), "configuration_sha256": "d"}) == State(state_of(database(5)).database, "d", 5, None, "07", 0)
    with pytest.raises(Misshapen):
        state_of(None)


@pytest.mark.parametrize(
    ("there", "takes", "with_aside"),
    [
        (None, True, True),
        (told(database(9, "3,x"), exists=False), True, True),
        (told(database(9, "3,x"), restore_in_progress=True), True, True),
        (told(database(4)), True, True),
        (told(database(5, "3,x")), False, False),
        (told(database(6, "3,x")), False, True),
        (told(database(6)), None, True),
        (told(database(4, "3,x", "1,z")), None, True),
        (told(database(5, "3,y")), False, False),
        (told(database(5, "3,x", unissued=("2,9",))), True, True),
        (told(database(6, "3,x", unissued=("6,9",))), False, True),
        (told(None), None, True),
    ],
    ids=[
        "bare",
        "no database",
        "begun",
        "older",
        "the same",
        "newer",
        "lifted",
        "both",
        "for another reason",
        "not issued yet",
        "one that waits",
        "silent",
    ],
)
def test_whether_a_set_takes_the_place(there: StateTold | None, takes: bool | None, with_aside: bool) -> None:
    assert restoration(there, on_conflict="set_aside").takes_the_place is with_aside
    assert not restoration(there, part="configuration").takes_the_place
    if takes is None:
        with pytest.raises(KeywardError) as caught:
            restoration(there)
        assert [finding.code for finding in caught.value.findings] == ["conflict"]
    else:
        assert restoration(there).takes_the_place is takes


def test_what_is_newer_is_told_by_serial_and_by_the_number() -> None:
    late = Revoked(0x1F, AS_OF + timedelta(minutes=1), "CACompromise")
    early = replace(late, serial=0x20, at=AS_OF - timedelta(days=9))
    known = manifest(own=kept(OWN, database(5, "3,1,2026-05-01T10:00Z,20")))
    late_one = Issued(0x21, AS_OF - timedelta(minutes=9), datetime(2027, 1, 1), "/CN=x", "x.cer")
    in_time = late_one._replace(serial=0x22, begins=AS_OF - timedelta(minutes=10))
    for crls, issued, code in (
        ([Crl(6, [late])], [], "published_crl_newer"),
        ([Crl(7, [])], [], "published_crl_newer"),
        ([], [late_one], "published_certificates_newer"),
    ):
        seen = Seen(crls, issued, True)
        with pytest.raises(KeywardError) as caught:
            restoration(None, seen)
        assert [finding.code for finding in caught.value.findings] == [code]
        assert restoration(None, seen, advance="auto").takes_the_place and not restoration(None, seen, part="configuration").takes_the_place
    assert restoration(None, Seen([Crl(6, [early])], [in_time], True), known).takes_the_place
    with pytest.raises(KeywardError, match="1 revocations that it lacks"):
        restoration(None, Seen([Crl(6, [early])], [], True))  # whenever it was revoked
    advanced = restoration(None, Seen([Crl(9, [early, late])], [late_one._replace(content=b"x"), in_time], True), known, advance="auto")
    assert advanced.terms(exported(EXPORT))["revoke"] == [{"serial": "1F", "reason": 2, "at": "2026-06-01T00:01:00Z"}]
    assert advanced.terms(exported(EXPORT))["crl_beyond"] == 9
    assert advanced.terms(exported(EXPORT))["issued"] == [{"serial": "21", "content": "eA=="}]
    # The set is in its place, and what was to follow was not done.
    there = told(database(5, "3,1,2026-05-01T10:00Z,20"))
    again = restoration(there, Seen([Crl(9, [early, late])], [], True), known, advance="auto")
    assert again.terms(b"")["crl_beyond"] == 9
    assert not again.takes_the_place and [one["serial"] for one in again.terms(b"")["revoke"]] == ["1F"]
    done = Restored(True, reentered=(Revocation("1F"),), own={"computer": "NEW", "database": database(5), "reboot_required": False})
    judged = advanced.judged(done, exported(EXPORT))
    assert judged.reentered == (Revocation("1F", "260601000100Z", "CACompromise"),) and judged.next_crl_number == "07"
    others = [one.code for one in judged.advisories if one.code != "configuration_decides"]
    assert others == ["published_crl_newer", "published_certificates_newer", "crl_number_behind", "archived_keys"]
    (said,) = [one for one in restoration(None).judged(done, exported(EXPORT)).advisories if one.code == "published_not_compared"]
    assert "the next CRL has the number 7" in said.message and manifest().as_of in said.message, "AD CS counts its CRLs itself"


def test_what_the_host_is_told() -> None:
    renewed = restoration(told(database(4)))
    terms = renewed.terms(exported(EXPORT))
    assert (terms["certificate_id"], terms["database_directory"], terms["log_directory"]) == (
        generation("first").sha1.upper(),
        "D:\\db",
        "D:\\log",
    )
    assert (terms["restore_database"], terms["last_request_id"], terms["revoke"]) == (True, 5, [])
    assert terms["crl_beyond"] is None, "nobody said how to go on"
    assert "CACertHash" not in base64.b64decode(terms["registry"]).decode("utf-16"), "the CA was renewed since, and must not forget it"
    assert "CACertHash" in base64.b64decode(restoration(None).terms(exported(EXPORT))["registry"]).decode("utf-16")
    assert [file.name for file in renewed.files(with_database=True)] == ["CAPolicy.inf", "DataBase/ca.edb"]
    assert [file.name for file in renewed.files(with_database=False)] == ["CAPolicy.inf"]
    nothing = restoration(told(database(5, "3,x")))
    assert (nothing.terms(b"")["registry"], nothing.terms(b"")["restore_database"]) == (None, False)
    assert [file.name for file in nothing.files(with_database=True)] == ["CAPolicy.inf"]


def test_what_became_of_it() -> None:
    done = Restored(True, own={"failed_revocations": [{"serial": "1F", "code": "0x1"}], "reboot_required": True})
    judged = restoration(told(database(5, "3,x"))).judged(done, b"")
    assert [one.code for one in judged.advisories] == ["revocation_not_reentered", "reboot_required"] and judged.next_crl_number is None
    with pytest.raises(Misshapen):
        restoration(None).judged(Restored(True, own={"computer": 7}), exported(EXPORT))


@pytest.mark.parametrize("own", [None, {}, {**kept(OWN, database()), "kra_certificates": "x"}])
def test_a_damaged_set_is_no_set_of_this_software(own: dict[str, Any] | None) -> None:
    with pytest.raises(KeywardError, match="manifest is damaged"):
        restoration(None, known=manifest(own=own))


def test_the_templates_of_an_enterprise_ca_are_told() -> None:
    known = manifest(own={**kept(OWN, database()), "ca_type": "EnterpriseRootCA"})
    lost, there = restoration(None, known=known), restoration(told(database()), known=known)
    assert lost.loses_templates and not there.loses_templates and not restoration(None).loses_templates

    def said(configuration: bytes) -> dict[str, str]:
        registry = exported(["Windows Registry Editor Version 5.00", ""])
        return {one.code: one.message for one in lost.judged(Restored(changed=True), registry, configuration).advisories}

    (message,) = (text for code, text in said(b'{"templates": ["WebServer", "Web;calc", "SubCA"]}').items() if code == "templates_to_set")
    assert message.endswith(": certutil -setcatemplates +WebServer,+SubCA")
    assert "templates_to_set" not in said(b'{"templates": null}')


def multi(*texts: str) -> str:
    octets = "".join(f"{text}\0" for text in (*texts, "")).encode("utf-16-le")
    return "hex(7):" + ",".join(f"{octet:02x}" for octet in octets)


ENTERPRISE = {**kept(OWN, database()), "ca_type": "EnterpriseSubordinateCA"}


def test_what_is_left_to_do_around_a_restored_ca_is_a_list() -> None:
    """Of an enterprise CA on another computer everything; of a standalone one nothing that it hasn't."""
    urls = multi("2:ldap:///CN=%7,CN=AIA,%6%11", "32:http://ocsp.example.com")
    registry = exported(
        [*EXPORT, f"{ROOT}\\Example CA]", f'"CACertPublicationURLs"={urls}', '"DSConfigDN"="CN=Configuration,DC=example,DC=com"']
    )
    around = {"templates": ["SubCA"], "nt_auth": False, "ndes": False}
    done = Restored(True, own={"computer": "NEW", "around": around})
    made = restoration(None, known=manifest(own=ENTERPRISE)).checklist(done, registry, b'{"templates": ["WebServer", "SubCA"]}')
    assert [one["item"] for one in made] == ["templates", "publication", "nt_auth", "object_rights", "ocsp_responders", "ndes"]
    assert all(one["left"] and one["commands"] for one in made)
    commands = {one["item"]: one["commands"] for one in made}
    assert commands["templates"] == ["certutil -setcatemplates +WebServer"]
    assert commands["publication"][0].endswith(" SubCA") and commands["nt_auth"][0].endswith(" NTAuthCA")
    assert "CN=Services,CN=Configuration,DC=example,DC=com" in commands["object_rights"][0] and "\\NEW$:GA" in commands["object_rights"][0]
    assert "http://ocsp.example.com" in made[4]["found"]
    liar = Restored(True, own={"computer": '" & calc & "', "around": around})
    assert "calc" not in str(restoration(None, known=manifest(own=ENTERPRISE)).checklist(liar, registry, b""))
    plain = restoration(None).checklist(Restored(True, own={"computer": "CA01"}), exported(EXPORT), b"")
    assert [one["item"] for one in plain if one["left"]] == [] and [one["commands"] for one in plain] == [[]] * 6
    here = {"templates": ["SubCA"], "nt_auth": True, "ndes": True}
    (left,) = (
        one
        for one in restoration(None, known=manifest(own=ENTERPRISE)).checklist(
            Restored(True, own={"computer": "CA01", "around": here}), exported(EXPORT), b'{"templates": ["SubCA"]}'
        )
        if one["left"]
    )
    assert left["item"] == "ndes" and restoration(told(database(5, "3,x"))).checklist(done, b"", b"") == []


def test_what_is_not_as_in_the_set_after_a_restore_is_told() -> None:
    section = f"{ROOT}\\Example CA]"
    set_has = exported([*EXPORT, section, '"AuditFilter"=dword:0000007f', '"CRLFlags"=dword:00000002', '"CommonName"="A"'])
    changed = exported(["Windows Registry Editor Version 5.00", "", section, '"Security"=hex:01,00', '"CRLFlags"=dword:0000000a'])
    told_of = [one.message for one in not_as_before(set_has, changed, False)]
    assert [text.split(" is ")[0].rpartition("\\")[2] for text in told_of] == ["security", "auditfilter", "crlflags"]
    assert "auditfilter is nothing, and the set has dword:0000007f" in told_of[1]
    assert len(not_as_before(set_has, changed, True)) == 2, "that the CRL above is offline was ignored by intent"
    assert not_as_before(set_has, set_has, False) == []
    own = {"registry": base64.b64encode(changed).decode(), "computer": "CA01"}
    judged = restoration(None).judged(Restored(True, own=own), set_has)
    assert [one.code for one in judged.advisories].count("configuration_differs") == 3
