# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: CRLs in memory; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import typing as t
from datetime import datetime

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import CRL, UNREADABLE, even_hex, loaded, pem_blocks, pem_content

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the modules say which library is missing
    pass


def moment(thing: t.Any, name: str) -> t.Any:
    """A time of a certificate, CRL or entry, UTC without a time zone; None where it has none."""
    found = getattr(thing, f"{name}_utc", None) or getattr(thing, name, None)  # *_utc: cryptography 42
    return found.replace(tzinfo=None) if found else None


def load_crl(data: bytes) -> t.Any:
    """A CRL of PEM or DER bytes, as the library reads it: see C(_readable). Raises ValueError."""
    der = crl_der(data)
    return loaded(x509.load_der_x509_crl, der, "crl", "issuer")


def crl_der(data: bytes) -> bytes:
    """The DER of the first CRL in PEM or DER bytes; empty, which no parser takes, where there is none."""
    return next(crls_in(data), b"")


def crls_in(data: bytes) -> t.Iterator[bytes]:
    """All of them (DER)."""
    if data[:1] == b"\x30" and data[1:2] >= b"\x80":  # DER: what has a name and a signature is longer than 127 bytes
        yield data
    else:  # openssl crl -text writes a line for each entry before the PEM block
        yield from (pem_content(block) for label, block in pem_blocks(data) if label == CRL)


# The reasons of RFC 5280, 5.3.1, as databases and results have them; there are no words for the others.
REASONS = {
    "keyCompromise": "keyCompromise",
    "cACompromise": "CACompromise",
    "affiliationChanged": "affiliationChanged",
    "superseded": "superseded",
    "cessationOfOperation": "cessationOfOperation",
    "certificateHold": "certificateHold",
}


def revoked_in(parsed: t.Any) -> t.Iterator[t.Tuple[int, datetime, t.Optional[str]]]:
    """(serial number, when, one of REASONS) of each certificate of its issuer that a CRL says is revoked.

    An indirect CRL lists those of other CAs as well: an entry that names one counts for what follows, too. A delta CRL names what is
    no more on hold.
    """
    own = True
    for entry in parsed:
        why = None
        try:
            for extension in entry.extensions:
                why = getattr(getattr(extension.value, "reason", None), "value", why)
                if isinstance(extension.value, x509.CertificateIssuer):
                    own = parsed.issuer in extension.value.get_values_for_type(x509.DirectoryName)
        except UNREADABLE:
            pass
        if own and why != "removeFromCRL":
            yield entry.serial_number, moment(entry, "revocation_date"), REASONS.get(why or "")


def is_delta(der: bytes) -> bool:
    """Whether a CRL (DER) lists only what has changed since another one. Raises ValueError where it is none."""
    return "2.5.29.27" in _outline.crl_extensions(der)


def crl_number(parsed: t.Any) -> t.Optional[str]:
    try:
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE:  # another one, of which the number knows nothing
        try:
            there = _outline.crl_extensions(parsed.public_bytes(serialization.Encoding.DER))
            number = _der.integer(_der.only(there["2.5.29.20"]))
        except (KeyError, ValueError):
            return None
    return even_hex(number)


def next_update(parsed: t.Any) -> t.Optional[str]:
    end = moment(parsed, "next_update")
    return format_time(end) if end else None
