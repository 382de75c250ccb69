# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller tells a Windows CA, and what it makes of its sets, also of forged ones."""

from __future__ import annotations

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs import directory_name
from ansible_collections.keyward.pki.plugins.plugin_utils._windows_sets import for_another_host
from cryptography import x509

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
    ],
)
def test_a_forged_registry_reaches_nothing_but_the_configuration_of_a_ca(forged: list[str]) -> None:
    with pytest.raises(KeywardError, match="says more than the registry of a CA"):
        for_another_host(exported(EXPORT + forged), "OLD", "NEW")


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
