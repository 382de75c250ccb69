# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a subject in one line, letter for letter as OpenSSL 3 writes it; may change in any release.

openssl ca -revoke compares this text with that of an index.txt. No files and no Ansible here.
"""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _der

_GENERAL_STRING = 0x1B
_X520 = (
    "CN SN serialNumber C L ST street O OU title description searchGuide businessCategory postalAddress postalCode postOfficeBox "
    "physicalDeliveryOfficeName telephoneNumber telexNumber teletexTerminalIdentifier facsimileTelephoneNumber x121Address "
    "internationaliSDNNumber registeredAddress destinationIndicator preferredDeliveryMethod presentationAddress "
    "supportedApplicationContext member owner roleOccupant seeAlso userPassword userCertificate cACertificate authorityRevocationList "
    "certificateRevocationList crossCertificatePair name GN initials generationQualifier x500UniqueIdentifier dnQualifier "
    "enhancedSearchGuide protocolInformation distinguishedName uniqueMember houseIdentifier supportedAlgorithms deltaRevocationList "
    "dmdName"
)
_NAMES = {f"2.5.4.{number}": name for number, name in enumerate(_X520.split(), start=3)}
_NAMES.update({"2.5.4.65": "pseudonym", "2.5.4.72": "role", "2.5.4.97": "organizationIdentifier"})
_NAMES.update({f"1.2.840.113549.1.9.{number}": name for number, name in ((1, "emailAddress"), (2, "unstructuredName"))})
_NAMES.update({"1.2.840.113549.1.9.7": "challengePassword", "1.2.840.113549.1.9.8": "unstructuredAddress"})
_PILOT = "UID textEncodedORAddress mail info favouriteDrink roomNumber photo userClass host manager documentIdentifier documentTitle"
_NAMES.update({f"0.9.2342.19200300.100.1.{number}": name for number, name in enumerate(_PILOT.split(), start=1)})
_NAMES.update({"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.44": "uid"})
_NAMES.update({f"1.3.6.1.4.1.311.60.2.1.{number}": f"jurisdiction{name}" for number, name in ((1, "L"), (2, "ST"), (3, "C"))})
_NAMES.update({"1.2.643.3.131.1.1": "INN", "1.2.643.100.1": "OGRN", "1.2.643.100.3": "SNILS", "1.3.6.1.4.1.311.20.2.3": "msUPN"})


def one_line(name: bytes) -> str:
    """A Name (DER, as it stands in a certificate): C(/C=DE/O=Example/CN=www), other bytes as C(\\xNN). Raises ValueError."""
    parts: t.List[str] = []
    for relative in _der.members(_der.only(name)):
        for number, attribute in enumerate(_der.members(relative, 1, _der.SET)):
            kind, value = _der.members(attribute, 2)[:2]
            dotted = _der.oid(kind)
            parts.append(f"{'+' if number else '/'}{_NAMES.get(dotted, dotted)}={_letters(value)}")
    return "".join(parts)


def _letters(value: _der.Value) -> str:
    data = value.body
    if value.tag == _GENERAL_STRING and len(data) % 4 == 0 and not any(data[i] for i in range(len(data)) if i % 4 != 3):
        data = data[3::4]
    return "".join(_letter(byte) for byte in data)


def _letter(byte: int) -> str:
    if not 0x20 <= byte <= 0x7E:
        return f"\\x{byte:02X}"
    return f"\\{chr(byte)}" if byte in b"/+" else chr(byte)
