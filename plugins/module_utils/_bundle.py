# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: generations, bundles and the one verdict about them; may change in any release.

No files and no Ansible here. Every answer to "is this restorable", "is this covered" and "is a backup due"
in the collection comes from this file.
"""

from __future__ import annotations

import hashlib
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import (
    crl_number,
    even_hex,
    key_algorithm,
    next_update,
    pem,
    proves,
    public_key_sha256,
    short_subject,
    validity,
)

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_reader import Contents

# What a bundle may be protected by is bounded where it is written, never where it is read.
PASSWORD_LENGTH = 20

ID_RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")  # DER

REASONS = {
    "password_wrong": "the password does not open it",
    "opens_without_password": "it opens without a password",
    "key_missing": "the private key is not in it",
    "key_mismatch": "the private key in it is not the one that the certificate certifies",
    "generation_missing": "the CA certificate is not in it",
    "not_exportable": "the private key can't leave the place where it is kept",
    "foreign_authority": "it holds the keys of another authority",
    "digest_mismatch": "the bytes are not those that were recorded",
    "malformed": "it is damaged, or no PKCS #12 file",
    "unsupported": "it uses an algorithm that can't be read here",
    "limit_exceeded": "it asks for more work or memory than any honest file does",
}


def reason(code: str, about: str, detail: str = "", certificate: t.Optional[str] = None) -> Finding:
    """A reason with its fixed sentence; C(about) names the file or generation, C(detail) adds what is known beyond it."""
    sentence = f"{about}: {REASONS[code]}"
    return Finding(code, f"{sentence} ({detail})" if detail else sentence, certificate)


@dataclass(frozen=True)
class Place:
    """Where a file lies on its host, and as what. For a private key also how it is kept at rest."""

    path: str
    owner: t.Optional[str] = None
    group: t.Optional[str] = None
    mode: t.Optional[str] = None  # octal digits, "0600"
    encrypted_at_rest: t.Optional[bool] = None
    encoding: str = "PEM"  # or DER
    container: t.Optional[str] = None  # PKCS#8, PKCS#1 or SEC1; None for a certificate


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
        """With its places, as manifests and the answers of hosts carry it. The certificate is PEM."""
        shape = self.as_result()
        del shape["covered"]
        for name in ("certificate_place", "key_place"):
            place = getattr(self, name)
            shape[name] = dict(vars(place)) if place else None
        shape["key_storage"] = dict(self.key_storage) if self.key_storage else None
        return shape

    @classmethod
    def from_json(cls, shape: t.Mapping[str, t.Any]) -> Generation:
        """The other way. The facts are read from the certificate, not believed. Raises ValueError, KeyError, TypeError."""
        import base64

        body = "".join(line for line in shape["certificate"].splitlines() if not line.startswith("-----"))
        places = {name: Place(**shape[name]) if shape[name] else None for name in ("certificate_place", "key_place")}
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
    def label(self) -> str:
        return f"generation {self.index} ({self.subject}, SHA-256 {self.sha256[:16]}…)"

    def as_result(self, covered: t.Optional[str] = None) -> dict[str, t.Any]:
        """The shape that every module returns."""
        return {
            "index": self.index,
            "subject": self.subject,
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
    """The generation that a DER certificate begins; C(known) are further fields. Raises ValueError where it is no certificate."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        public_key = parsed.public_key()
        subject = parsed.subject.rfc4514_string()
        try:
            identifier = parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
        except (x509.ExtensionNotFound, ValueError):
            identifier = None
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise ValueError("it is no X.509 certificate that can be read here") from exc
    start, end = validity(parsed)
    return Generation(
        index=index,
        certificate=certificate,
        subject=subject,
        serial=even_hex(parsed.serial_number).lower(),
        not_before=format_time(start),
        not_after=format_time(end),
        sha1=hashlib.sha1(certificate, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(certificate).hexdigest(),
        subject_key_identifier=identifier,
        public_key_sha256=public_key_sha256(public_key),
        key_algorithm=key_algorithm(public_key),
        **known,
    )


@dataclass(frozen=True)
class Authority:
    """What is said of an authority in results and manifests. C(id) is None until its first backup is stored."""

    backend: str
    name: str
    sanitized_name: str
    subject: str
    directory: str
    config_file: t.Optional[str] = None
    host: t.Optional[str] = None
    id: t.Optional[str] = None

    @classmethod
    def from_json(cls, shape: t.Mapping[str, t.Any]) -> Authority:
        """Of a manifest or an answer; a host that leaves it to others to read certificates gives no subject. Raises KeyError, TypeError."""
        who: t.Dict[str, t.Any] = {name: shape.get(name) for name in cls.__dataclass_fields__}
        texts = {name: str(who[name] or "") for name in ("backend", "name", "sanitized_name", "subject", "directory")}
        return cls(**{**who, **texts})

    def as_json(self) -> dict[str, t.Any]:
        return dict(vars(self))

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


def crl_result(generation: Generation, path: t.Optional[str], parsed: t.Any) -> t.Dict[str, t.Any]:
    """What is returned of a CRL that a generation verifies."""
    return {
        "certificate": generation.sha256,
        "path": path,
        "crl": parsed.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        "number": crl_number(parsed),
        "next_update": next_update(parsed),
    }


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and single dashes, at most 40: a name for a directory that people recognise."""
    import unicodedata

    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:40].strip("-") or "ca"


def directory_name(authority: Authority) -> str:
    """Lower-case ASCII slug and 16 hex digits of the id: two CAs of one name never meet."""
    return f"{slug(authority.sanitized_name)}-{(authority.id or '')[:16]}"


def belongs(authority: Authority, generations: t.Iterable[Generation], known: Authority, known_keys: t.Collection[str]) -> t.Optional[str]:
    """Why a live CA is the known authority: C(key), a shared CA public key; C(place), renewed by hand in place; None, it is another."""
    if any(generation.public_key_sha256 in known_keys for generation in generations):
        return "key"
    same_place = (authority.host, authority.directory, authority.name) == (known.host, known.directory, known.name)
    if same_place and authority.backend == known.backend and authority.subject == known.subject:
        return "place"
    return None


def is_backup_of(
    live: Authority, live_generations: t.Sequence[Generation], known: t.Optional[Authority], generations: t.Sequence[Generation]
) -> bool:
    """Whether a backup (of C(known), where a manifest says so, with C(generations)) is the live authority's."""
    keys = {generation.public_key_sha256 for generation in generations}
    why = belongs(live, live_generations, known or live, keys)
    return why == "key" or (known is not None and why == "place")


def refuse_foreign(
    live: Authority, live_generations: t.Sequence[Generation], known: t.Optional[Authority], generations: t.Sequence[Generation]
) -> None:
    """Raise KeywardError unless the backup (of C(known), with C(generations)) is the live authority's."""
    if is_backup_of(live, live_generations, known, generations):
        return
    whose = known.subject if known else generations[-1].subject
    raise KeywardError(
        "nothing was restored",
        f"the backup is of another authority ({whose}); the one on this host is {live.subject} and shares no key with it",
        "Give this authority's own backup, or name the place of the authority that the backup belongs to",
        [reason("foreign_authority", f"the backup of {whose}")],
    )


# --- bundles -----------------------------------------------------------------------------------------------------


def password_fault(password: str) -> t.Optional[str]:
    """Why no bundle is written under this password, None where it may be. Reading takes any password."""
    if any(not " " <= character <= "~" for character in password):
        return "it has characters other than printable ASCII, which Java, Windows and openssl encode differently"
    if len(password) < PASSWORD_LENGTH:
        return f"it has fewer than {PASSWORD_LENGTH} characters"
    return None


@dataclass(frozen=True)
class Bundle:
    """One PKCS #12 file that was read: its contents, or the reason why it could not be."""

    name: str
    contents: t.Optional[Contents] = None
    fault: t.Optional[Finding] = None
    password_used: t.Optional[str] = field(default=None, repr=False)


def open_bundle(name: str, data: bytes, passwords: t.Sequence[t.Optional[str]], sha256: t.Optional[str] = None) -> Bundle:
    """Read one file with the first password that opens it; C(sha256) is the recorded digest, where there is one. Never raises."""
    from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_reader
    from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_crypto import (
        LimitExceeded,
        Malformed,
        PasswordWrong,
        Pkcs12Error,
        Unsupported,
    )

    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        return Bundle(name, fault=reason("digest_mismatch", name))
    for password in passwords:
        try:
            return Bundle(name, _pkcs12_reader.read(data, password), password_used=password)
        except PasswordWrong:
            continue
        except Unsupported as exc:
            return Bundle(name, fault=reason("unsupported", name, str(exc)))
        except LimitExceeded as exc:
            return Bundle(name, fault=reason("limit_exceeded", name, str(exc)))
        except Malformed as exc:
            return Bundle(name, fault=reason("malformed", name, str(exc)))
    # Windows has written backups under no password at all where one was asked for: say that, it is worse than a wrong one.
    if any(passwords):
        try:
            return Bundle(name, _pkcs12_reader.read(data, ""), password_used="")
        except Pkcs12Error:
            pass
    return Bundle(name, fault=reason("password_wrong", name))


@dataclass(frozen=True)
class Verdict:
    """Whether every expected generation comes back from the bundles, and if not, why."""

    reasons: t.Tuple[Finding, ...]
    advisories: t.Tuple[Finding, ...]

    @property
    def restorable(self) -> bool:
        return not self.reasons


def key_storage(bundles: t.Iterable[Bundle], provider_types: t.Mapping[str, int]) -> t.Dict[str, t.Dict[str, t.Any]]:
    """How Windows keeps each key of the files that it wrote, by public_key_sha256. C(provider_types): by provider, as far as known.

    key_spec: 0 for a key storage provider, 1 (AT_KEYEXCHANGE) or 2 (AT_SIGNATURE) for a cryptographic service provider.
    """
    return {
        entry.public_key_sha256: {
            "provider": entry.provider,
            "provider_type": provider_types.get(entry.provider),
            "container": entry.friendly_name,
            "key_spec": {0x10: 1, 0x80: 2}.get(entry.key_usage or 0, 0),
            "machine_key": entry.machine_key,
        }
        for bundle in bundles
        if bundle.contents
        for entry in bundle.contents.private_keys
        if entry.provider is not None
    }


def held_keys(bundles: t.Iterable[Bundle]) -> t.Set[str]:
    """The public_key_sha256 of every private key that the opened bundles hold, together."""
    return {entry.public_key_sha256 for bundle in bundles if bundle.contents for entry in bundle.contents.private_keys}


def bundle_generations(bundles: t.Iterable[Bundle]) -> t.List[Generation]:
    """The generations that PKCS #12 files without a manifest hold: each certificate whose key is there, oldest first."""
    opened = [bundle.contents for bundle in bundles if bundle.contents]
    present = {entry.public_key_sha256 for contents in opened for entry in contents.private_keys}
    found: t.Dict[str, Generation] = {}
    for contents in opened:
        for entry in contents.certificates:
            try:
                generation = generation_of(entry.der)
            except ValueError:
                continue
            if generation.public_key_sha256 in present:
                found[generation.sha256] = generation
    ordered = sorted(found.values(), key=lambda generation: (generation.not_before, generation.sha256))
    return [replace(generation, index=index, private_key="present") for index, generation in enumerate(ordered)]


def judge(bundles: t.Sequence[Bundle], expected: t.Sequence[Generation]) -> Verdict:
    """The one verdict: do these bundles bring back every expected generation, its certificate and its key?

    C(expected) is what must be there: the generations of the live authority, of the manifest, or of both.
    """
    reasons: t.List[Finding] = [bundle.fault for bundle in bundles if bundle.fault]
    advisories: t.List[Finding] = []
    keys: t.Dict[str, t.Any] = {}
    certificates: t.Set[str] = set()
    certified: t.Set[str] = set()
    for bundle in bundles:
        if bundle.contents is None:
            continue
        contents = bundle.contents
        if not bundle.password_used or any(not entry.encrypted for entry in contents.private_keys):
            reasons.append(reason("opens_without_password", bundle.name))
        for unreadable in contents.unreadable:
            code = "unsupported" if unreadable.oid else "malformed"
            kind = unreadable.kind.replace("_", " ")
            finding = reason(code, f"a {kind} in {bundle.name}", unreadable.why)
            (advisories if unreadable.kind == "certificate" else reasons).append(finding)
        for entry in contents.private_keys:
            keys[entry.public_key_sha256] = entry.key
        for certificate in contents.certificates:
            certificates.add(hashlib.sha256(certificate.der).hexdigest())
            try:
                certified.add(generation_of(certificate.der).public_key_sha256)
            except ValueError:
                pass
        advisories.extend(_bundle_advisories(bundle.name, contents))
    readable = [bundle for bundle in bundles if bundle.contents]
    if (
        readable
        and (keys or certificates)
        and expected
        and not any(g.sha256 in certificates or g.public_key_sha256 in keys for g in expected)
    ):
        about = ", ".join(bundle.name for bundle in readable)
        others = sorted({g.subject for g in bundle_generations(readable)})
        return Verdict((*reasons, reason("foreign_authority", about, "; ".join(others))), tuple(advisories))
    strangers = [key for key in keys if key not in certified]
    if not expected and readable and not keys:
        reasons.append(reason("key_missing", ", ".join(bundle.name for bundle in readable), "no private key at all"))
    elif not expected and strangers:
        reasons.append(reason("key_mismatch", ", ".join(bundle.name for bundle in readable), "no certificate in it fits the key"))
    for generation in expected if readable or not bundles else ():
        if generation.exportable is False:
            reasons.append(reason("not_exportable", generation.label, certificate=generation.sha256))
        elif generation.public_key_sha256 in keys:
            if generation.sha256 not in certificates:
                reasons.append(reason("generation_missing", generation.label, certificate=generation.sha256))
            elif not proves(keys[generation.public_key_sha256], x509.load_der_x509_certificate(generation.certificate).public_key()):
                reasons.append(reason("key_mismatch", generation.label, certificate=generation.sha256))
        elif generation.sha256 not in certificates:
            reasons.append(reason("generation_missing", generation.label, certificate=generation.sha256))
        else:
            reasons.append(reason("key_mismatch" if strangers else "key_missing", generation.label, certificate=generation.sha256))
    return Verdict(tuple(reasons), tuple(advisories))


def _bundle_advisories(name: str, contents: Contents) -> t.Iterator[Finding]:
    if contents.encryption.weak:
        yield Finding("weak_encryption", f"{name} is protected by weak algorithms or few iterations: its password alone must hold")
    if "trailing_bytes" in contents.advisories:
        yield Finding("trailing_bytes", f"{name} has bytes after its end that do not belong to it; they were ignored")
    if "no_mac" in contents.advisories:
        yield Finding("no_mac", f"{name} has no integrity check (MAC)")


def generation_advisories(generations: t.Iterable[Generation], now: str) -> t.List[Finding]:
    """What is worth saying of generations themselves; C(now) is ISO 8601, UTC."""
    return [
        Finding("expired_generation", f"{generation.label} expired on {generation.not_after}", generation.sha256)
        for generation in generations
        if generation.not_after < now
    ]


def seal(generations: t.Sequence[Generation], private_keys: t.Mapping[str, t.Any], chain: t.Sequence[bytes], password: str) -> bytes:
    """One PKCS #12 file with every generation; C(private_keys) by their public_key_sha256.

    Raises KeywardError where a key is missing or can't go into PKCS #12.
    """
    from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer

    refuse_unsealable(generations, private_keys)
    own = {generation.sha256 for generation in generations}
    named_keys = []
    for digest, sharing in _by_key(generations):
        name = f"{slug(short_subject(sharing[-1].certificate))} generation {sharing[0].index}"
        named_keys.append(_pkcs12_writer.NamedKey(private_keys[digest], name, [generation.certificate for generation in reversed(sharing)]))
    others = [certificate for certificate in dict.fromkeys(chain) if hashlib.sha256(certificate).hexdigest() not in own]
    return _pkcs12_writer.write(named_keys, others, password)


def _by_key(generations: t.Iterable[Generation]) -> t.List[t.Tuple[str, t.List[Generation]]]:
    """The generations that share a key, oldest first, by the key's public_key_sha256."""
    sharing: t.Dict[str, t.List[Generation]] = {}
    for generation in sorted(generations, key=lambda generation: generation.index):
        sharing.setdefault(generation.public_key_sha256, []).append(generation)
    return list(sharing.items())


def refuse_unsealable(generations: t.Iterable[Generation], private_keys: t.Mapping[str, t.Any]) -> None:
    """Raise KeywardError where a generation's key is missing or can't go into PKCS #12."""
    from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer

    for digest, sharing in _by_key(generations):
        newest = sharing[-1]
        if digest not in private_keys:
            raise KeywardError(
                f"the private key of {newest.label} can't be backed up",
                "it is neither on the host nor in an earlier backup that opens",
                "Bring the key back (ca_key_restore), or give its passphrase, and run the task again",
                [reason("key_missing", newest.label, certificate=newest.sha256)],
            )
        refusal = _pkcs12_writer.key_refusal(private_keys[digest]) or _pss_refusal(newest)
        if refusal:
            raise KeywardError(
                f"the private key of {newest.label} can't be backed up",
                refusal,
                "Keep a copy of this key by the means of the tool that made it; PKCS #12 readers of today could not bring it back",
                [reason("unsupported", newest.label, refusal, newest.sha256)],
            )


def _pss_refusal(generation: Generation) -> t.Optional[str]:
    """cryptography forgets that a key is bound to RSASSA-PSS: what it writes is a plain RSA key, which fits the certificate no more."""
    public_key = x509.load_der_x509_certificate(generation.certificate).public_key()
    if not isinstance(public_key, rsa.RSAPublicKey):
        return None
    plain = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if plain in generation.certificate or ID_RSASSA_PSS not in generation.certificate:
        return None
    return "its certificate binds it to RSASSA-PSS (1.2.840.113549.1.1.10), and it would come back as a plain RSA key"


# --- coverage ----------------------------------------------------------------------------------------------------


def uncovered(generations: t.Iterable[Generation], covered_fingerprints: t.Collection[str]) -> t.List[Generation]:
    """The generations for which a backup is due: those that the backup does not cover, renewed with a new key or with the same."""
    return [generation for generation in generations if generation.sha256 not in covered_fingerprints]


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


def authority_id(generations: t.Sequence[Generation]) -> str:
    """The id that an authority gets with its first backup: the SHA-256 of its oldest CA certificate."""
    return min(generations, key=lambda generation: (generation.not_before, generation.index, generation.sha256)).sha256


# --- manifest ----------------------------------------------------------------------------------------------------

FORMAT, FORMAT_VERSION = "keyward.pki key backup", 1
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


@dataclass(frozen=True)
class BundleFile:
    """A bundle as a manifest records it. C(opened_by): the id of the backup whose password opens it."""

    name: str
    sha256: str
    size: int
    opened_by: str


@dataclass(frozen=True)
class Manifest:
    """What lies beside the bundles of one backup. No secret in it."""

    id: str
    sequence: int
    previous: t.Optional[str]
    authority: Authority
    created: str
    proved_at: str
    made: t.Mapping[str, t.Any]
    files: t.Tuple[BundleFile, ...]
    generations: t.Tuple[Generation, ...]

    @property
    def fingerprints(self) -> t.FrozenSet[str]:
        return frozenset(generation.sha256 for generation in self.generations)

    @property
    def public_keys(self) -> t.FrozenSet[str]:
        return frozenset(generation.public_key_sha256 for generation in self.generations)

    def as_json(self) -> t.Dict[str, t.Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "sequence": self.sequence,
            "previous": self.previous,
            "authority": {**self.authority.as_result(), "config_file": self.authority.config_file},
            "created": self.created,
            "proved_at": self.proved_at,
            "made": dict(self.made),
            "files": [dict(vars(file)) for file in self.files],
            "generations": [generation.as_json() for generation in self.generations],
        }


def manifest_from_json(shape: t.Mapping[str, t.Any]) -> Manifest:
    """A manifest from its JSON. Raises ValueError, KeyError, TypeError or OverflowError where it is damaged or of a later release."""
    if shape["format"] != FORMAT or shape["format_version"] != FORMAT_VERSION:
        raise ValueError("another format")
    files = tuple(BundleFile(str(f["name"]), str(f["sha256"]), int(f["size"]), str(f["opened_by"])) for f in shape["files"])
    if not files or any(not FILE_NAME.match(file.name) for file in files):
        raise ValueError("a file name that can't be")
    parse_time(shape["created"])
    who = shape["authority"]
    authority = Authority(**{name: who[name] for name in (*Authority.__dataclass_fields__,)})
    return Manifest(
        id=str(shape["id"]),
        sequence=int(shape["sequence"]),
        previous=shape["previous"],
        authority=authority,
        created=str(shape["created"]),
        proved_at=str(shape["proved_at"]),
        made=dict(shape["made"]),
        files=files,
        generations=tuple(Generation.from_json(generation) for generation in shape["generations"]),
    )
