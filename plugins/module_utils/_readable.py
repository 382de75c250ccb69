# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: certificates, requests and CRLs that the library refuses, put as it reads them; may change in any release.

No files and no Ansible here. Old software wrote what DER forbids: C(*) and C(@) into a PrintableString, times without seconds, version 2,
defaults that are said. openssl reads all that. What is made here is only to be read: its bytes are others than those that were signed,
so that whose a thing is, and what it is called byte by byte, is C(_outline)'s to say.
"""

from __future__ import annotations

import typing as t
from datetime import datetime

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline

_VERSION_3 = _der.tlv(_der.CONSTRUCTED_0, _der.tlv_integer(2))
_EXTENSIONS = _der.CONSTRUCTED_0 + 3


def certificate(der: bytes, only: t.Optional[str] = None) -> bytes:
    """C(only): the one extension that is wanted, where another can't be read. Raises ValueError where it is no certificate."""
    found = _outline.certificate(der)
    body, *signature = _der.members(_der.first(der), 3)
    fields = _der.members(body, 6)
    rest = fields[7:] if fields[0].tag == _der.CONSTRUCTED_0 else fields[6:]
    return _der.tlv(
        _der.SEQUENCE,
        _der.tlv(
            _der.SEQUENCE,
            _VERSION_3,
            _der.tlv_integer(found.serial),
            signature[0].whole,
            _name(found.issuer),
            _der.tlv(_der.SEQUENCE, time(found.begins), time(found.ends)),
            _name(found.subject),
            found.public_key,
            *(_extensions(field, only) if field.tag == _EXTENSIONS else field.whole for field in rest),
        ),
        *(part.whole for part in signature),
    )


def request(der: bytes) -> bytes:
    """Raises ValueError where it is none."""
    found = _outline.request(der)
    body, *signature = _der.members(_der.first(der), 3)
    version, _subject, key, *attributes = _der.members(body, 3)
    parts = (version.whole, _name(found.issuer), key.whole, *(each.whole for each in attributes))
    return _der.tlv(_der.SEQUENCE, _der.tlv(_der.SEQUENCE, *parts), *(part.whole for part in signature))


def crl(der: bytes) -> bytes:
    """Raises ValueError where it is none."""
    body, *signature = _der.members(_der.first(der), 3)
    fields = [field.whole for field in _der.members(body, 3)]
    fields[2 if fields[0][:1] == bytes((_der.INTEGER,)) else 1] = _name(_outline.crl(der).issuer)
    return _der.tlv(_der.SEQUENCE, _der.tlv(_der.SEQUENCE, *fields), *(part.whole for part in signature))


def _name(name: bytes) -> bytes:
    relatives = []
    for relative in _outline.texts(name):
        said = ((oid, _der.tlv(_outline.UTF8, text.encode("utf-8", "replace"))) for oid, text in relative)
        pairs = (_der.tlv(_der.SEQUENCE, _der.tlv_oid(oid), value) for oid, value in said)
        relatives.append(_der.tlv(_der.SET, *pairs))
    return _der.tlv(_der.SEQUENCE, *relatives)


def time(moment: datetime) -> bytes:
    """RFC 5280, 4.1.2.5: UTCTime from 1950 through 2049."""
    if 1950 <= moment.year < 2050:
        return _der.tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return _der.tlv(0x18, f"{moment.year:04d}{moment:%m%d%H%M%SZ}".encode("ascii"))


def _extensions(outer: _der.Value, only: t.Optional[str]) -> bytes:
    """Without a C(critical) that says its default. What can't be read stays as it is."""
    plain: t.List[bytes] = []
    try:
        for each in _der.members(_der.only(outer.body)):
            oid, *critical, value = _der.members(each, 2)
            if only in (None, _der.oid(oid)):
                said = [b"\x01\x01\xff" for flag in critical if flag.body.strip(b"\0")]
                plain.append(_der.tlv(_der.SEQUENCE, oid.whole, *said, value.whole))
    except ValueError:
        return outer.whole
    return _der.tlv(_EXTENSIONS, _der.tlv(_der.SEQUENCE, *plain)) if plain else b""
