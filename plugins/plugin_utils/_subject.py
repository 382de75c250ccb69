# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the subject that a task asks for, as an X.509 name; may change in any release."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

try:
    from cryptography import x509
    from cryptography.x509.oid import NameOID
except ImportError:  # the modules say which library is missing
    pass


def subject_name(subject: t.Mapping[str, t.Any]) -> x509.Name:
    """An X.509 name of attributes such as C(commonName), or dotted object identifiers, in their order. A list gives one attribute each."""
    known = {_camel_case(name): oid for name, oid in vars(NameOID).items() if isinstance(oid, x509.ObjectIdentifier)}
    attributes = []
    for name, given in subject.items():
        oid = known.get(name) or (x509.ObjectIdentifier(name) if re.match(r"[0-2](\.[0-9]+)+\Z", name) else None)
        if oid is None:
            raise KeywardError(
                "the CA can't be installed",
                f"there is no subject attribute {name}",
                "Use names such as commonName, organizationName, organizationalUnitName, countryName, or a dotted object identifier",
            )
        for value in given if isinstance(given, list) else [given]:
            try:
                attributes.append(x509.NameAttribute(oid, str(value)))
            except (ValueError, TypeError) as exc:
                raise KeywardError(
                    "the CA can't be installed",
                    f"the subject attribute {name} can't have the value {value!r}",
                    "It must not be empty nor too long (a commonName has at most 64 characters), and a countryName has two letters",
                ) from exc
    if not attributes:
        raise KeywardError("the CA can't be installed", "its subject is empty", "Give subject, with a commonName at least")
    return x509.Name(attributes)


def _camel_case(constant: str) -> str:
    first, *others = constant.lower().split("_")
    return first + "".join(word.capitalize() for word in others)
