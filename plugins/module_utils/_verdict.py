# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the one verdict about bundles; may change in any release. No files and no Ansible here.

Every answer to "is this restorable" and "whose is it" in the collection comes from this file; what is covered, C(_generation) tells.
"""

from __future__ import annotations

import hashlib
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, generation_of, oldest_first
from ansible_collections.keyward.pki.plugins.module_utils._reasons import reason
from ansible_collections.keyward.pki.plugins.module_utils._x509 import proves

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_reader import Contents


def foreign(live: Authority, known: t.Optional[Authority], generations: t.Sequence[Generation]) -> KeywardError:
    """The error where a backup or set (of C(known), with C(generations)) is not the live authority's."""
    whose = known.subject if known else generations[-1].subject
    return KeywardError(
        "nothing was restored",
        f"the backup is of another authority ({whose}); the one on this host is {live.subject} and shares no key with it",
        "Give this authority's own backup, or name the place of the authority that the backup belongs to",
        [reason("foreign_authority", f"the backup of {whose}")],
    )


@dataclass(frozen=True)
class Bundle:
    """One PKCS #12 file that was read: its contents, or the reason why it could not be."""

    name: str
    contents: t.Optional[Contents] = None
    fault: t.Optional[Finding] = None
    password_used: t.Optional[str] = field(default=None, repr=False)


def open_bundle(
    name: str, data: bytes, passwords: t.Sequence[t.Optional[str]], sha256: t.Optional[str] = None, intact: bool = False
) -> Bundle:
    """Read one file with the first password that opens it; C(sha256) is the recorded digest, where there is one. Never raises.

    C(intact): somebody vouches for that digest, and it stands for the MAC.
    """
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
            return Bundle(name, _pkcs12_reader.read(data, password, intact), password_used=password)
        except PasswordWrong:
            continue
        except Unsupported as exc:
            return Bundle(name, fault=reason("unsupported", name, str(exc)))
        except LimitExceeded as exc:
            return Bundle(name, fault=reason("limit_exceeded", name, str(exc)))
        except Malformed as exc:
            return Bundle(name, fault=reason("malformed", name, str(exc)))
    # Windows has written backups under no password though one was asked for. That is worse than a wrong password: say it.
    if any(passwords):
        try:
            return Bundle(name, _pkcs12_reader.read(data, ""), password_used="")
        except Pkcs12Error:
            pass
    return Bundle(name, fault=reason("password_wrong", name))


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
    return [replace(generation, index=index, private_key="present") for index, generation in enumerate(oldest_first(found.values()))]


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


@dataclass(frozen=True)
class Verdict:
    """Whether every expected generation comes back from the bundles, and if not, why."""

    reasons: t.Tuple[Finding, ...]
    advisories: t.Tuple[Finding, ...]

    @property
    def restorable(self) -> bool:
        return not self.reasons


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
            elif not proves(keys[generation.public_key_sha256], generation.public_key):
                reasons.append(reason("key_mismatch", generation.label, certificate=generation.sha256))
        elif generation.sha256 not in certificates:
            reasons.append(reason("generation_missing", generation.label, certificate=generation.sha256))
        else:
            reasons.append(reason("key_mismatch" if strangers else "key_missing", generation.label, certificate=generation.sha256))
    return Verdict(tuple(reasons), tuple(advisories))


# The protection of every file that this collection writes, on controller and host.
_WRITTEN = ("AES-256-CBC, PBKDF2-HMAC-SHA256", "HMAC-SHA256, PKCS12-KDF-SHA256")


def weaker_than_asked(bundle: Bundle, iterations: int) -> t.Optional[str]:
    """Why a file is protected less than we asked the host to protect it; None where it isn't."""
    if bundle.contents is None:
        return None  # the verdict says why
    encryption = bundle.contents.encryption
    if not bundle.password_used or any(not entry.encrypted for entry in bundle.contents.private_keys):
        return "it opens without a password"
    other = {*encryption.key, *encryption.certificates, encryption.mac or "none"} - {*_WRITTEN}
    if other:
        return "it is protected by other algorithms"
    return f"it has fewer than {iterations} iterations" if encryption.iterations < iterations else None


def _bundle_advisories(name: str, contents: Contents) -> t.Iterator[Finding]:
    if contents.encryption.weak:
        yield Finding("weak_encryption", f"{name} is protected by weak algorithms or few iterations: its password alone must hold")
    if "trailing_bytes" in contents.advisories:
        yield Finding("trailing_bytes", f"{name} has bytes after its end that do not belong to it; they were ignored")
    if "no_mac" in contents.advisories:
        yield Finding("no_mac", f"{name} has no integrity check (MAC)")
