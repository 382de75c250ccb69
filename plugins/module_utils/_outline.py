# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what stands in certificates, requests and CRLs, read by our own walk; may change in any release.

No files and no Ansible here. The library refuses what real CAs have issued: names in bytes that are not their character set's, curves
and algorithms that it doesn't know. What such a thing is called, and whose it says that it is, can be read all the same.
"""

from __future__ import annotations

import hashlib
import re
import typing as t
from dataclasses import dataclass
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _der

UTF8, PRINTABLE, T61, IA5, BMP, UNIVERSAL = 0x0C, 0x13, 0x14, 0x16, 0x1E, 0x1C
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_TIME = re.compile(r"([0-9]{12})([0-9]{2})?(?:\.[0-9]+)?(Z|[+-][0-9]{4})\Z")
_EXPLICIT_3 = _der.CONSTRUCTED_0 + 3
_ASKED_EXTENSIONS = ("1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14")  # RFC 2985, 5.4.2; Windows before it
# RFC 4514, 3.
_SHORT = {f"2.5.4.{number}": name for number, name in ((3, "CN"), (6, "C"), (7, "L"), (8, "ST"), (9, "STREET"), (10, "O"), (11, "OU"))}
_SHORT.update({"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID"})
COMMON_NAME = "2.5.4.3"
EC, SM2, RSA, RSA_PSS, DSA = (
    "1.2.840.10045.2.1",
    "1.2.156.10197.1.301",
    "1.2.840.113549.1.1.1",
    "1.2.840.113549.1.1.10",
    "1.2.840.10040.4.1",
)
# Kinds of keys, by what their AlgorithmIdentifier says. One that is not here is called by its number.
_KINDS = {
    RSA: "RSA",
    RSA_PSS: "RSA-PSS",
    DSA: "DSA",
    EC: "EC",
    "1.2.840.113549.1.3.1": "Diffie-Hellman",
    "1.2.840.10046.2.1": "Diffie-Hellman (X9.42)",
    "1.3.101.110": "X25519",
    "1.3.101.111": "X448",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "1.2.643.2.2.19": "GOST R 34.10-2001",
    "1.2.643.7.1.1.1.1": "GOST R 34.10-2012 (256 bits)",
    "1.2.643.7.1.1.1.2": "GOST R 34.10-2012 (512 bits)",
    SM2: "SM2",
    "1.3.6.1.4.1.2.267.12.4.4": "Dilithium (draft)",
    "1.3.9999.3.6": "Falcon-512 (draft)",
    "1.2.840.113549.1.9.16.3.17": "HSS/LMS",
    **{f"2.16.840.1.101.3.4.3.{17 + at}": f"ML-DSA-{name}" for at, name in enumerate(("44", "65", "87"))},
    **{f"2.16.840.1.101.3.4.4.{1 + at}": f"ML-KEM-{name}" for at, name in enumerate(("512", "768", "1024"))},
    **{
        f"2.16.840.1.101.3.4.3.{20 + at}": f"SLH-DSA-{name}"
        for at, name in enumerate(
            f"{digest}-{size}{speed}" for digest in ("SHA2", "SHAKE") for size in ("128", "192", "256") for speed in ("s", "f")
        )
    },
}
_CURVES = {
    "1.2.840.10045.3.1.7": "P-256",
    "1.3.132.0.34": "P-384",
    "1.3.132.0.35": "P-521",
    "1.3.132.0.33": "P-224",
    "1.3.132.0.10": "secp256k1",
    "1.3.132.0.6": "secp112r1",
    "1.3.132.0.7": "secp112r2",
    "1.3.132.0.28": "secp128r1",
    "1.3.132.0.29": "secp128r2",
    "1.3.132.0.8": "secp160r1",
    "1.3.132.0.30": "secp160r2",
    "1.3.132.0.9": "secp160k1",
    "1.3.132.0.31": "secp192k1",
    "1.3.132.0.32": "secp224k1",
    "1.2.840.10045.3.1.1": "prime192v1",
    "1.2.840.10045.3.1.2": "prime192v2",
    "1.2.840.10045.3.1.3": "prime192v3",
    "1.2.840.10045.3.1.4": "prime239v1",
    "1.2.840.10045.3.1.5": "prime239v2",
    "1.2.840.10045.3.1.6": "prime239v3",
    "1.3.132.0.16": "sect283k1",
    "1.3.132.0.17": "sect283r1",
    "1.3.132.0.36": "sect409k1",
    "1.3.132.0.37": "sect409r1",
    "1.3.132.0.38": "sect571k1",
    "1.3.132.0.39": "sect571r1",
    SM2: "SM2",
    **{
        f"1.3.36.3.3.2.8.1.1.{1 + at}": f"brainpoolP{size}{kind}1"
        for at, (size, kind) in enumerate((size, kind) for size in (160, 192, 224, 256, 320, 384, 512) for kind in "rt")
    },
}


# The kinds that every release of the library reads: where it refuses such a key, that is damaged.
READ = ("RSA", "DSA", "Ed25519", "Ed448", *(f"EC {name}" for name in ("P-256", "P-384", "P-521", "P-224", "secp256k1")))


@dataclass(frozen=True)
class Signed:
    """A signed document: who it says signed it, and what was signed. All is DER."""

    issuer: bytes
    body: bytes
    algorithm: bytes
    signature: bytes


@dataclass(frozen=True)
class Outline(Signed):
    """A certificate. Times are UTC, without a time zone. C(extensions): their values, by object identifier."""

    serial: int
    begins: datetime
    ends: datetime
    subject: bytes
    public_key: bytes
    extensions: t.Mapping[str, bytes]

    @property
    def self_issued(self) -> bool:
        return same_name(self.issuer, self.subject)

    @property
    def public_key_sha256(self) -> str:
        return hashlib.sha256(self.public_key).hexdigest()

    @property
    def key_kind(self) -> str:
        return kind_of(_der.members(_der.first(self.public_key), 2)[0])


@dataclass(frozen=True)
class Asked(Signed):
    """A request; it is signed by the key that it names. C(issuer) is its subject. C(extensions): as those of a certificate."""

    public_key: bytes
    extensions: t.Mapping[str, bytes]


def certificate(der: bytes) -> Outline:
    """Raises ValueError where it is none."""
    with _der.one_document():
        body, algorithm, signature = _parts(der)
        fields = _der.members(body, 6)
        if fields[0].tag == _der.CONSTRUCTED_0:
            fields = fields[1:]
        if len(fields) < 6 or fields[0].tag != _der.INTEGER or not 1 <= len(fields[0].body) <= 64:
            raise _der.Damaged("a certificate lacks a part")
        begins, ends = map(_moment, _der.members(fields[3], 2)[:2])
        _der.members(_der.members(fields[5], 2)[0], 1)
        return Outline(
            issuer=_name(fields[2]),
            body=body.whole,
            algorithm=algorithm.whole,
            signature=signature,
            serial=int.from_bytes(fields[0].body, "big", signed=True),
            begins=begins,
            ends=ends,
            subject=_name(fields[4]),
            public_key=fields[5].whole,
            extensions=_extensions(fields[6:]),
        )


def request(der: bytes) -> Asked:
    """Raises ValueError where it is none."""
    with _der.one_document():
        body, algorithm, signature = _parts(der)
        fields = _der.members(body, 3)
        _der.members(_der.members(fields[2], 2)[0], 1)
        return Asked(_name(fields[1]), body.whole, algorithm.whole, signature, fields[2].whole, _asked_extensions(fields[3:]))


def crl(der: bytes) -> Signed:
    """Raises ValueError where it is none. What it lists is the library's to read: a list may be as long as it likes."""
    with _der.one_document():
        body, algorithm, signature = _parts(der)
        fields = _der.members(body, 3)
        return Signed(_name(fields[2 if fields[0].tag == _der.INTEGER else 1]), body.whole, algorithm.whole, signature)


def crl_extensions(der: bytes) -> t.Dict[str, bytes]:
    """Of a CRL: their values, by object identifier. Raises ValueError where it is none."""
    body, _algorithm, _signature = _parts(der)
    return _extensions(_der.members(body, 3), _der.CONSTRUCTED_0)


def announced(extensions: t.Mapping[str, bytes]) -> t.Optional[datetime]:
    """When the next CRL is published, where this one says so (Microsoft's szOID_CRL_NEXT_PUBLISH), which is shortly before it expires."""
    try:
        return _moment(_der.only(extensions["1.3.6.1.4.1.311.21.4"]))
    except (KeyError, ValueError):
        return None


def authority_key(extensions: t.Mapping[str, bytes]) -> t.Tuple[t.Optional[bytes], t.Optional[int]]:
    """What an authorityKeyIdentifier names: a key identifier, and the serial number of one of its certificates."""
    key, serial = None, None
    try:
        for field in _der.members(_der.only(extensions["2.5.29.35"])):
            key = field.body if field.tag == _der.CONTEXT_0 else key
            serial = int.from_bytes(field.body[:64], "big", signed=True) if field.tag == _der.CONTEXT_0 + 2 else serial
    except (KeyError, ValueError):
        return None, None
    return key, serial


def _parts(der: bytes) -> t.Tuple[_der.Value, _der.Value, bytes]:
    body, algorithm, signature = _der.members(_der.first(der), 3)[:3]
    _der.oid(_der.members(algorithm, 1)[0])
    if signature.tag != _der.BITS or signature.body[:1] != b"\0":
        raise _der.Damaged("a signature is none")
    return body, algorithm, signature.body[1:]


def _extensions(fields: t.Sequence[_der.Value], tag: int = _EXPLICIT_3) -> t.Dict[str, bytes]:
    """None where they are not what they should be: all else is readable."""
    found: t.Dict[str, bytes] = {}
    try:
        for outer in (field for field in fields if field.tag == tag):
            for each in _der.members(_der.only(outer.body)):
                oid, *_critical, value = _der.members(each, 2)
                found.setdefault(_der.oid(oid), value.body)
    except ValueError:
        return {}
    return found


def _asked_extensions(attributes: t.Sequence[_der.Value]) -> t.Dict[str, bytes]:
    """Those of a request. None where they are not what they should be."""
    found: t.Dict[str, bytes] = {}
    try:
        for each in _der.values(attributes[0].body) if attributes else ():
            oid, values = _der.members(each, 2)[:2]
            if _der.oid(oid) in _ASKED_EXTENSIONS:
                for one in _der.members(_der.only(values.body)):
                    name, *_critical, value = _der.members(one, 2)
                    found.setdefault(_der.oid(name), value.body)
    except ValueError:
        return {}
    return found


def _moment(value: _der.Value) -> datetime:
    """A UTCTime or GeneralizedTime, also as X.509 before RFC 5280 had it: without seconds, with a part of one, or of another zone."""
    text = value.body.decode("ascii", "replace")
    if value.tag == _UTC_TIME and len(text) > 2:
        text = ("19" if text[:2] >= "50" else "20") + text
    found = _TIME.match(text)
    if value.tag not in (_UTC_TIME, _GENERALIZED_TIME) or not found:
        raise _der.Damaged("a time is none")
    digits, zone = found.group(1) + (found.group(2) or "00"), found.group(3).replace("Z", "+0000")
    parts = [int(digits[place : place + 2]) for place in range(4, len(digits), 2)]
    try:
        moment = datetime(int(digits[:4]), *parts)  # type: ignore[arg-type]
        return moment - timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:]))
    except OverflowError:
        raise _der.Damaged("a time is none") from None


# --- names -----------------------------------------------------------------------------------------------------------


def _name(value: _der.Value) -> bytes:
    _attributes(value.whole)
    return value.whole


def _attributes(name: bytes) -> t.List[t.List[t.Tuple[str, _der.Value]]]:
    """The relative distinguished names of a name, each with its attributes. Raises ValueError."""
    found = []
    for relative in _der.members(_der.first(name)):
        pairs = [_der.members(each, 2) for each in _der.members(relative, 1, _der.SET)]
        found.append([(_der.oid(pair[0]), pair[1]) for pair in pairs])
    return found


def _text(value: _der.Value) -> str:
    """What a string says, also where its bytes are not of its type: software that knew only Latin-1 wrote that into all of them."""
    if value.tag in (BMP, UNIVERSAL):
        return value.body.decode("utf-16-be" if value.tag == BMP else "utf-32-be", "replace")
    if value.tag not in (UTF8, PRINTABLE, T61, IA5, 0x12, 0x1A, 0x1B):
        return "#" + value.whole.hex()
    try:
        return value.body.decode("latin-1" if value.tag == T61 else "utf-8")
    except UnicodeDecodeError:
        return value.body.decode("latin-1")


def texts(name: bytes) -> t.List[t.List[t.Tuple[str, str]]]:
    """Each relative distinguished name: its attributes and what they say. Raises ValueError."""
    return [[(oid, _text(value)) for oid, value in relative] for relative in _attributes(name)]


def rfc4514(name: bytes) -> str:
    """A name as results have it: the last part first. Raises ValueError where it is none."""
    parts = []
    for relative in reversed(_attributes(name)):
        said = []
        for oid, value in relative:
            text = re.sub(r'([,+"\\<>;])', r"\\\1", _text(value)).replace("\0", r"\00")
            text = "\\" + text if text[:1] in ("#", " ") and not text.startswith("#30") else text
            text = text[:-1] + "\\ " if text.endswith(" ") and len(text) > 1 else text
            said.append(f"{_SHORT.get(oid, oid)}={text}")
        parts.append("+".join(said))
    return ",".join(parts)


def short_name(name: bytes) -> str:
    """The common name, or the last attribute where it has none."""
    attributes = [pair for relative in _attributes(name) for pair in relative]
    named = [pair for pair in attributes if pair[0] == COMMON_NAME] or attributes[-1:]
    return _text(named[-1][1]) if named else ""


def same_name(one: bytes, other: bytes) -> bool:
    """Whether two names are one to a verifier (RFC 5280, 7.1): neither types of strings, letter case nor further blanks count."""
    return one == other or _compared(one) == _compared(other)


def _compared(name: bytes) -> t.List[t.List[t.Tuple[str, str]]]:
    return [sorted((oid, " ".join(_lower(text).split())) for oid, text in relative) for relative in texts(name)]


def _lower(text: str) -> str:
    return "".join(character.lower() if character.isascii() else character for character in text)


# --- keys ------------------------------------------------------------------------------------------------------------


def kind_of(algorithm: _der.Value) -> str:
    """What an AlgorithmIdentifier says of a key, in the words of people who have such keys. Raises ValueError."""
    parts = _der.members(algorithm, 1)
    oid = _der.oid(parts[0])
    if oid != EC:
        return _KINDS.get(oid, oid)
    if len(parts) < 2 or parts[1].tag != _der.OID:
        return "EC with explicit parameters"
    curve = _der.oid(parts[1])
    return _KINDS[SM2] if curve == SM2 else f"EC {_CURVES.get(curve, curve)}"


def private_key_kind(der: bytes) -> t.Optional[str]:
    """The kind of a private key in PKCS #8, PKCS #1 or SEC1 that is not encrypted; None where that can't be read."""
    try:
        version, *parts = _der.members(_der.first(der), 2)
        if version.tag == _der.INTEGER and parts[0].tag == _der.SEQUENCE:
            kind = kind_of(parts[0])
            return private_key_kind(parts[1].body) if kind == "RSA" and parts[1:] else kind
        if parts[0].tag == _der.OCTETS:
            curve = next((_der.only(part.body) for part in parts if part.tag == _der.CONSTRUCTED_0), None)
            if curve is None:
                return None
            name = _der.oid(curve) if curve.tag == _der.OID else ""
            if not name:
                return "EC with explicit parameters"
            return _KINDS[SM2] if name == SM2 else f"EC {_CURVES.get(name, name)}"
        return {9: "RSA", 10: "RSA with more than two primes", 6: "DSA"}.get(len(parts) + 1)
    except ValueError:
        return None
