# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: generations of a CA, whose they are, and how they are told; may change in any release.

No files and no Ansible here.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import (
    ca_version,
    even_hex,
    key_algorithm,
    load,
    load_public_key,
    pem,
    public_key_sha256,
)

try:
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the modules say which library is missing
    pass

MOST_PARTS, LONGEST_PART = 20, 8192  # of a place; characters
MOST_HOMES = 100
ID_DIGITS = 16  # of an id, at the end of the name of a directory
_MODE, _NO_NAME = re.compile(r"[0-7]{3,4}\Z"), re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Place:
    """Where a file lies on its host, its format and its protection; for a private key also whether it is encrypted at rest."""

    path: str
    owner: t.Optional[str] = None
    group: t.Optional[str] = None
    mode: t.Optional[str] = None  # octal digits, "0600"; with an ACL its group digit is the mask
    encrypted_at_rest: t.Optional[bool] = None
    encoding: str = "PEM"  # or DER
    container: t.Optional[str] = None  # PKCS#8, PKCS#1 or SEC1; None for a certificate
    acl: t.Optional[str] = None  # as setfacl takes it, by names; None where there is none


def _place_of(shape: t.Mapping[str, t.Any]) -> Place:
    """Raises ValueError, TypeError."""
    for name, value in shape.items():
        if not isinstance(value, (bool, type(None)) if name == "encrypted_at_rest" else (str, type(None))):
            raise ValueError("a place that can't be")
        if isinstance(value, str) and (len(value) > 2 * LONGEST_PART or (name == "mode" and not _MODE.match(value))):
            raise ValueError("a place that can't be")
    told: t.Dict[str, t.Any] = {name: printable(value) if isinstance(value, str) else value for name, value in shape.items()}
    return Place(**told)


@dataclass(frozen=True)
class Generation:
    """One CA certificate together with the key it certifies. Its SHA-256 fingerprint is its identity."""

    index: int
    certificate: bytes  # DER
    subject: str  # RFC 4514
    serial: str  # hex
    not_before: str  # ISO 8601, UTC
    not_after: str
    sha1: str
    sha256: str
    subject_key_identifier: t.Optional[str]
    public_key_sha256: str
    key_algorithm: str
    private_key: str = "missing"  # present, missing, inaccessible
    encrypted_at_rest: t.Optional[bool] = None
    exportable: t.Optional[bool] = None
    certificate_place: t.Optional[Place] = None
    key_place: t.Optional[Place] = None
    key_storage: t.Optional[t.Mapping[str, t.Any]] = None  # on Windows: provider, provider_type, container, key_spec, machine_key

    def as_json(self) -> dict[str, t.Any]:
        """As manifests and the answers of hosts carry it: with its places, the certificate in PEM."""
        shape = self.as_result()
        del shape["covered"]
        for name in ("certificate_place", "key_place"):
            place = getattr(self, name)
            shape[name] = dict(vars(place)) if place else None
        shape["key_storage"] = dict(self.key_storage) if self.key_storage else None
        return shape

    @classmethod
    def from_json(cls, shape: t.Mapping[str, t.Any]) -> Generation:
        """From what C(as_json) gave. All facts are read from the certificate itself. Raises ValueError, KeyError, TypeError."""
        import base64

        body = "".join(line for line in shape["certificate"].splitlines() if not line.startswith("-----"))
        places = {name: _place_of(shape[name]) if shape[name] else None for name in ("certificate_place", "key_place")}
        return generation_of(
            base64.b64decode(body, validate=True),
            int(shape["index"]),
            private_key=str(shape["private_key"]),
            encrypted_at_rest=shape["encrypted_at_rest"],
            exportable=shape["exportable"],
            key_storage=shape.get("key_storage"),
            **places,
        )

    @property
    def public_key(self) -> t.Any:
        """None where the library does not know its kind."""
        return load_public_key(_outline.certificate(self.certificate).public_key)

    @property
    def label(self) -> str:
        return f"generation {self.index} ({printable(self.subject)}, SHA-256 {self.sha256[:16]}…)"

    def as_result(self, covered: t.Optional[str] = None) -> dict[str, t.Any]:
        """The shape that every module returns."""
        return {
            "index": self.index,
            "subject": printable(self.subject),
            "serial": self.serial,
            "not_before": self.not_before,
            "not_after": self.not_after,
            "fingerprints": {"sha1": self.sha1, "sha256": self.sha256},
            "subject_key_identifier": self.subject_key_identifier,
            "public_key_sha256": self.public_key_sha256,
            "key_algorithm": self.key_algorithm,
            "certificate": pem(self.certificate),
            "private_key": self.private_key,
            "encrypted_at_rest": self.encrypted_at_rest,
            "exportable": self.exportable,
            "covered": covered,
        }


def generation_of(certificate: bytes, index: int = 0, **known: t.Any) -> Generation:
    """The generation that a DER certificate begins; C(known) are further fields. Raises ValueError where it is no certificate.

    A name or a key that the library can't decode is reported as it stands: such a CA has generations, too.
    """
    try:
        outline, parsed = _outline.certificate(certificate), load(certificate)
    except ValueError as exc:
        raise ValueError("it is no X.509 certificate that can be read here") from exc
    digest, kind = outline.public_key_sha256, outline.key_kind
    public_key = load_public_key(outline.public_key)
    if public_key is not None:
        digest, kind = public_key_sha256(public_key), key_algorithm(public_key)
    as_it_stands = parsed.public_bytes(serialization.Encoding.DER) == certificate
    subject = parsed.subject.rfc4514_string() if as_it_stands else _outline.rfc4514(outline.subject)
    return Generation(
        index=index,
        certificate=certificate,
        subject=subject,
        serial=even_hex(outline.serial).lower(),
        not_before=format_time(outline.begins),
        not_after=format_time(outline.ends),
        sha1=hashlib.sha1(certificate, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(certificate).hexdigest(),
        subject_key_identifier=_key_identifier(outline),
        public_key_sha256=digest,
        key_algorithm=kind,
        **known,
    )


def _key_identifier(outline: _outline.Outline) -> t.Optional[str]:
    try:
        return _der.octets(_der.only(outline.extensions["2.5.29.14"])).hex()
    except (KeyError, ValueError):
        return None


def generation_advisories(generations: t.Sequence[Generation], now: str) -> t.List[Finding]:
    """What is worth saying of generations themselves; C(now) is ISO 8601, UTC. The last one is the current one."""
    found = []
    for generation in generations:
        current, ended = generation is generations[-1], generation.not_after < now
        if ended:
            code = "certificate_expired" if current else "expired_generation"
            found.append(Finding(code, f"{generation.label} expired on {generation.not_after}", generation.sha256))
        elif current and _in_its_last_tenth(generation, now):
            text = f"{generation.label} is valid until {generation.not_after} only: renew it"
            found.append(Finding("certificate_runs_out", text, generation.sha256))
    return found


def _in_its_last_tenth(generation: Generation, now: str) -> bool:
    """Such as the last of ten years."""
    start, end = parse_time(generation.not_before), parse_time(generation.not_after)
    return parse_time(now) > end - (end - start) / 10


# The codes for a key that the host can't use: of the newest generation, and of an older one.
KEY_MISSING = ("key_missing_on_host", "older_key_missing_on_host")
GONE_KEY = "is not here: find out why, and put it back (ca_key_restore)"
KEY_INACCESSIBLE = ("key_inaccessible", "older_key_inaccessible")
KEY_LOCKED = "key_needs_passphrase"  # of either: encrypted, and no passphrase was given, as in each run that is no person's


def keys_not_in_hand(generations: t.Sequence[Generation], told: t.Iterable[Finding]) -> t.List[Finding]:
    """Findings for keys that are missing or unusable on the host; those in C(told) are not repeated."""
    known = {advisory.certificate for advisory in told if advisory.code in (*KEY_MISSING, *KEY_INACCESSIBLE, KEY_LOCKED)}
    found = []
    for generation in generations:
        if generation.private_key != "present" and generation.sha256 not in known:
            codes = KEY_MISSING if generation.private_key == "missing" else KEY_INACCESSIBLE
            what = GONE_KEY if codes is KEY_MISSING else "can't be used here"
            code = KEY_LOCKED if generation.encrypted_at_rest else codes[generation is not generations[-1]]
            found.append(Finding(code, f"the private key of {generation.label} {what}", generation.sha256))
    return found


def oldest_first(generations: t.Iterable[Generation]) -> t.List[Generation]:
    """By the number that Windows writes into CA certificates, where each has another; else by validity.

    Windows renews a root with its own key without a new beginning. A parent that isn't AD CS drops the number.
    """
    by_validity = sorted(generations, key=lambda generation: (generation.not_before, generation.not_after, generation.sha256))
    numbers = {generation.sha256: ca_version(generation.certificate) for generation in by_validity}
    if None in numbers.values() or len(set(numbers.values())) < len(numbers):
        return by_validity
    return sorted(by_validity, key=lambda generation: t.cast(int, numbers[generation.sha256]))


def why_inaccessible(generation: Generation, told: t.Iterable[Finding]) -> t.Optional[str]:
    """What the host C(told) of a key that it has but can't use; the message ends with what to do."""
    found = (one.message for one in told if one.code in (*KEY_INACCESSIBLE, KEY_LOCKED) and one.certificate == generation.sha256)
    return next(found, None)


def merge_generations(earlier: t.Sequence[Generation], live: t.Sequence[Generation]) -> t.List[Generation]:
    """Every generation that is or was there, each once: indices of earlier ones stay, new ones follow, the current one is last."""
    merged = {generation.sha256: replace(generation, private_key="missing") for generation in earlier}
    following = max((generation.index for generation in earlier), default=-1) + 1
    for generation in live:
        known = merged.get(generation.sha256)
        kept: t.Dict[str, t.Any] = {}
        if known is None:
            index = max(following, generation.index) if not earlier else following
            following = index + 1
        else:
            index = known.index
            if generation.private_key == "missing":  # a restore brings the key back as it was
                kept = {name: getattr(known, name) for name in ("key_place", "encrypted_at_rest", "exportable")}
            if generation.key_storage is None:  # only a bundle tells it
                kept["key_storage"] = known.key_storage
        merged[generation.sha256] = replace(generation, index=index, **kept)
    current = live[-1].sha256 if live else None
    return sorted(merged.values(), key=lambda generation: (generation.sha256 == current, generation.index))


def uncovered(generations: t.Iterable[Generation], covered_fingerprints: t.Collection[str]) -> t.List[Generation]:
    """The generations for which a backup is due: those that the backup does not cover, renewed with a new key or with the same."""
    return [generation for generation in generations if generation.sha256 not in covered_fingerprints]


# --- authorities -----------------------------------------------------------------------------------------------------


def _place_from_json(shape: t.Any) -> t.Dict[str, str]:
    """Raises ValueError, TypeError."""
    place = {printable(str(part)): printable(str(value)) for part, value in dict(shape or {}).items() if value is not None}
    if len(place) > MOST_PARTS or any(len(text) > LONGEST_PART for part in place.items() for text in part):
        raise ValueError("a place that can't be")
    return place


@dataclass(frozen=True)
class Home:
    """An inventory host and a place there where an authority lives. C(place): its software (C(backend)), and the parts of its place."""

    host: str
    place: t.Mapping[str, str]

    @classmethod
    def from_json(cls, shape: t.Mapping[str, t.Any]) -> Home:
        """Raises ValueError, KeyError, TypeError."""
        host = printable(str(shape["host"]))
        if not host or len(host) > LONGEST_PART:
            raise ValueError("a host that can't be")
        return cls(host, _place_from_json(shape["place"]))

    def as_json(self) -> dict[str, t.Any]:
        return {"host": self.host, "place": dict(self.place)}

    def fits(self, other: Home, section: bool = True) -> bool:
        """Whether both can be one home. C(section): whether the section must fit, too; it tells authorities apart only where keys don't."""
        one, two = ({part: value for part, value in home.place.items() if section or part != "name"} for home in (self, other))
        return self.host == other.host and same_place(one, two)


def homes_from_json(shape: t.Any) -> t.Tuple[Home, ...]:
    """Where an authority lives: one place at least. Raises ValueError, KeyError, TypeError."""
    if not 0 < len(shape) <= MOST_HOMES:
        raise ValueError("so many homes can't be")
    return tuple(Home.from_json(home) for home in shape)


@dataclass(frozen=True)
class Authority:
    """What is said of an authority in results and manifests. C(id) is None until its first backup is stored.

    C(place): the options that say which CA it is on its host, as its backend took them; only that backend reads them.
    """

    backend: str
    name: str
    sanitized_name: str
    subject: str
    directory: str
    place: t.Mapping[str, str] = field(default_factory=dict)
    host: t.Optional[str] = None
    id: t.Optional[str] = None

    @classmethod
    def from_json(cls, shape: t.Mapping[str, t.Any]) -> Authority:
        """Of a manifest or an answer; a host that leaves it to others to read certificates gives no subject. Raises ValueError, TypeError
        and the like."""
        texts = {name: printable(str(shape.get(name) or "")) for name in ("backend", "name", "sanitized_name", "subject", "directory")}
        found: t.Dict[str, t.Any] = {name: None if shape.get(name) is None else printable(str(shape[name])) for name in ("host", "id")}
        if any(text and len(text) > LONGEST_PART for text in (*texts.values(), *found.values())):
            raise ValueError("an authority that can't be")
        return cls(**texts, place=_place_from_json(shape.get("place")), **found)

    @property
    def home(self) -> Home:
        """The home where it was seen; its host must be known."""
        return Home(self.host or "", {"backend": self.backend, **self.place})

    def as_json(self) -> dict[str, t.Any]:
        """With its place, as manifests, orders and answers carry it."""
        return {**self.as_result(), "place": dict(self.place)}

    def as_result(self) -> dict[str, t.Any]:
        return {
            "id": self.id,
            "backend": self.backend,
            "name": self.name,
            "sanitized_name": self.sanitized_name,
            "subject": self.subject,
            "host": self.host,
            "directory": self.directory,
        }


def authority_id(generations: t.Sequence[Generation]) -> str:
    """The id that an authority gets with its first backup: the SHA-256 of its oldest CA certificate."""
    return min(generations, key=lambda generation: (generation.not_before, generation.index, generation.sha256)).sha256


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and single dashes, at most 40: a name for a directory that people recognise."""
    import unicodedata

    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return _NO_NAME.sub("-", ascii_text).strip("-")[:40].strip("-") or "ca"


def directory_name(authority: Authority) -> str:
    """The directory name: the slug and 16 hex digits of the id, so that two CAs of one name have two directories."""
    return f"{slug(authority.sanitized_name)}-{(authority.id or '')[:ID_DIGITS]}"


def same_place(one: t.Mapping[str, str], other: t.Mapping[str, str]) -> bool:
    """Whether two places can be the same, compared part by part. A part that one of them lacks fits; links in paths are not resolved."""
    return all(_plain(other.get(part, value)) == _plain(value) for part, value in one.items())


def _plain(part: str) -> str:
    return posixpath.normpath(part) if part.startswith("/") else part
