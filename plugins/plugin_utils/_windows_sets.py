# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what the controller judges of the database of a Windows CA and of its sets; may change in any release.

A Windows host says what there is, and does what it is told. Here stands whether a set is due, whether it is older than what was
published, and what of an exported registry another host may have.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import typing as t
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, belongs
from ansible_collections.keyward.pki.plugins.module_utils._manifest import SetManifest, State, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._time import parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex

Result = dict[str, t.Any]

REGISTRY, POLICY = "configuration.reg", "CAPolicy.inf"
# RFC 5280, 5.3.1, as certutil -revoke takes them.
REVOCATION_REASONS = {
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
}
# What belongs to a host and its installation (Microsoft: "Migrate the Certification Authority", "Restore the registry settings"), and what
# changes by itself. On the host that is restored its own values stay.
_OF_THE_HOST = {
    name.lower()
    for name in (
        "Active",
        "CACertFileName",
        "CAServerName",
        "CAXchgCertHash",
        "ConfigurationDirectory",
        "CRLDeltaNextPublish",
        "CRLNextPublish",
        "DBDirectory",
        "DBLastFullBackup",
        "DBLastIncrementalBackup",
        "DBLastRecovery",
        "DBLogDirectory",
        "DBSystemDirectory",
        "DBTempDirectory",
        "RequestFileName",
        "RequestKeyContainer",
        "RequestKeyIndex",
        "SetupStatus",
    )
}
_CONFIGURATION = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration"
_TEXT = r'"((?:[^"\\\r\n\0]|\\[^\r\n\0])*)"'
_VALUE = re.compile(_TEXT + "=")
# What reg.exe export writes below its heading, and nothing else: whatever else a file says, reg.exe would carry out.
_KEY = re.compile(r"\[" + re.escape(_CONFIGURATION) + r"(?:\\[^\r\n\0]+)?\]\Z", re.IGNORECASE)
_CONTENT = re.compile(rf"(?:{_TEXT}|@)=(?:{_TEXT}|dword:[0-9a-f]{{8}}|hex(?:\([0-9a-f]+\))?:[0-9a-f, ]*)\Z", re.IGNORECASE)


# --- the database ------------------------------------------------------------------------------------------------


def state_of(shape: Result) -> State:
    """What the host said of its database, as sets are compared by: its last request and its revocations."""
    content = json.dumps([shape["last_request_id"], sorted(shape["revocations"])], separators=(",", ":"))
    number = shape["next_crl_number"]
    return State(
        database=hashlib.sha256(content.encode("utf-8")).hexdigest(),
        configuration=shape["configuration_sha256"],
        entries=shape["last_request_id"] or 0,
        next_serial=None,  # AD CS draws serial numbers at random
        next_crl_number=None if number is None else even_hex(number),
    )


def facts_of(answer: Result) -> Result:
    """What a set's manifest keeps of the CA beyond what every manifest has."""
    kept = (
        "ca_type",
        "provider",
        "provider_type",
        "computer",
        "archived_keys",
        "kra_certificates",
        "log_directory",
        "clock_skew_minutes",
    )
    state = answer["state"]
    return {
        **{name: answer["adcs"][name] for name in kept},
        **{name: state[name] for name in ("last_request_id", "revocations", "next_crl_number")},
    }


def covers(one: t.Mapping[str, t.Any], other: t.Mapping[str, t.Any]) -> bool:
    """Whether a database has all that the other has. A revocation that was lifted counts as one that is lacking."""
    return (one["last_request_id"] or 0) >= (other["last_request_id"] or 0) and set(other["revocations"]) <= set(one["revocations"])


# --- what is published ---------------------------------------------------------------------------------------------


class PublishedSince(t.NamedTuple):
    """What is out there and later than a set. C(revocations): serial number in hex, the moment, the reason."""

    newer: list[Finding]
    revocations: list[tuple[str, datetime, str | None]]
    last_crl_number: int | None


def published_since(manifest: SetManifest, crls: t.Sequence[t.Any], folder: str | None) -> PublishedSince:
    """C(crls): parsed, each by a generation of this CA; C(folder): certificates that are known to be issued."""
    as_of = parse_time(manifest.as_of)
    following = int(manifest.state.next_crl_number, 16) if manifest.state.next_crl_number else None
    newer, revocations = [], {}
    last = None
    for crl in crls:
        number = next((e.value.crl_number for e in crl.extensions if hasattr(e.value, "crl_number")), None)
        last = max(last or 0, number) if number is not None else last
        later = [
            (even_hex(entry.serial_number), _x509.moment(entry, "revocation_date"), _reason(entry))
            for entry in crl
            if _x509.moment(entry, "revocation_date") > as_of
        ]
        revocations.update({one[0]: one for one in later})
        if (number is not None and following is not None and number >= following) or later:
            what = f"CRL number {number:X}" if number is not None else "a CRL"
            text = f"a published CRL is newer than the set: {what}, {len(later)} revocations after it"
            newer.append(Finding("published_crl_newer", text))
    skew = timedelta(minutes=(manifest.adcs or {})["clock_skew_minutes"])
    issued = _issued_since(as_of - skew, manifest.generations, folder) if folder else []
    if issued:
        where = ", ".join(issued[:5])
        text = f"{len(issued)} certificates were issued after the set was made: {where}"
        newer.append(Finding("published_certificates_newer", text))
    return PublishedSince(newer, list(revocations.values()), last)


def _reason(entry: t.Any) -> str | None:
    return next((e.value.reason.value for e in entry.extensions if hasattr(e.value, "reason")), None)


def _issued_since(moment: datetime, generations: t.Sequence[Generation], folder: str) -> list[str]:
    signers = [_x509.load(generation.certificate) for generation in generations]
    try:
        names = sorted(os.listdir(folder))
    except OSError as exc:
        raise KeywardError(f"published_certificates {folder} can't be read", os_cause(exc), "Give a directory on the controller") from exc
    found = []
    for name in names:
        path = os.path.join(folder, name)
        try:
            parsed = _x509.load(read_file(path, "the certificate"))
        except (KeywardError, ValueError, OSError):
            continue
        start = _x509.validity(parsed)[0]
        own = not _x509.is_self_signed(parsed) and any(_x509.is_issued_by(parsed, signer) for signer in signers)
        if own and start > moment:
            found.append(f"{parsed.serial_number:X} ({name})")
    return found


# --- the registry --------------------------------------------------------------------------------------------------


def for_another_host(
    exported: bytes, old_computer: str, new_computer: str, kept_there: t.Collection[str] = ()
) -> tuple[bytes, list[Finding]]:
    """An exported registry (UTF-16 with BOM) without what belongs to the host it came from, and what still names that host.

    C(kept_there): further values that stay as the host has them. Raises KeywardError where it is no such file, or one that reaches
    beyond the configuration of a CA.
    """
    try:
        text = exported.decode("utf-16")
    except UnicodeDecodeError:
        text = ""
    heading, *lines = _logical_lines(text)
    wrong = None
    if heading != "Windows Registry Editor Version 5.00":
        wrong = "is no exported registry"
    elif any(line and not _KEY.match(line) and not _CONTENT.match(line) for line in lines):
        wrong = "says more than the registry of a CA"
    if wrong:
        raise KeywardError("nothing was restored", f"{REGISTRY} of the set {wrong}", "Use another set, or another copy of this one")
    of_the_host = _OF_THE_HOST | {name.lower() for name in kept_there}
    kept = [heading]
    named: list[str] = []
    left_out = False
    section = ""
    for line in lines:
        if line.startswith("["):
            section = line.strip("[]")
            left_out = section.lower().endswith("\\restoreinprogress")
        value = _VALUE.match(line)
        if left_out or (value and value.group(1).lower() in of_the_host):
            continue
        kept.append(line)
        if value and old_computer.lower() != new_computer.lower() and old_computer.lower() in _readable(line[value.end() :]).lower():
            named.append(f"{section.rsplit(chr(92), 1)[-1]}\\{value.group(1)}")
    findings = [
        Finding("names_old_host", f"the registry value {name} still names the host {old_computer}; it was left as it is") for name in named
    ]
    return b"\xff\xfe" + "\r\n".join(kept).encode("utf-16-le"), findings


def _logical_lines(text: str) -> t.Iterator[str]:
    """Lines, those that a backslash continues as one."""
    waiting = ""
    for line in text.split("\r\n") if "\r\n" in text else text.split("\n"):
        if line.endswith("\\") and (waiting or "=hex" in line):
            waiting += line[:-1].strip() if waiting else line[:-1]
            continue
        yield waiting + (line.strip() if waiting else line)
        waiting = ""


def _readable(data: str) -> str:
    """The text of a value, also of one that is written as hex."""
    match = re.match(r"hex(?:\([0-9a-f]+\))?:([0-9a-fA-F, ]*)", data)
    if not match:
        return data
    return bytes(int(octet, 16) for octet in match.group(1).replace(" ", "").split(",") if octet).decode("utf-16-le", "replace")


# --- stores on the host ----------------------------------------------------------------------------------------------


class HostSet(t.NamedTuple):
    """A set in a store on a Windows host."""

    directory: str
    name: str
    manifest: SetManifest
    damage: str | None

    def path(self, store: str) -> str:
        separator = "\\" if "\\" in store else "/"
        return separator.join((store.rstrip("\\/"), self.directory, self.name))


class HostStore:
    """A store of kind C(databases) on a Windows host, as the host told it."""

    def __init__(self, told: Result) -> None:
        self.advisories: list[Finding] = []
        self.sets: list[HostSet] = []
        for one in told["manifests"]:
            try:
                manifest = set_manifest_from_json(json.loads(one["text"]))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                text = f"{one['directory']}/{one['name']}: its manifest is damaged, or was written by a later release"
                self.advisories.append(Finding("malformed", text))
                continue
            self.sets.append(HostSet(one["directory"], one["name"], manifest, one["damage"]))
            if one["damage"]:
                self.advisories.append(Finding("digest_mismatch", f"{one['directory']}/{one['name']}: {one['damage']}"))
        self.sets.sort(key=lambda one: one.manifest.rank, reverse=True)
        if told["local_disk"]:
            text = "the store is on a disk of the CA host itself: what destroys the host destroys it too"
            self.advisories.append(Finding("store_on_the_host", text))

    def recognise(self, authority: Authority, generations: t.Sequence[Generation]) -> str | None:
        """The directory of the authority: by a shared CA key before the same place."""
        newest: dict[str, HostSet] = {}
        for one in self.sets:
            newest.setdefault(one.directory, one)
        for why in ("key", "place"):
            for directory, one in newest.items():
                if belongs(authority, generations, one.manifest.authority, one.manifest.public_keys) == why:
                    return directory
        return None

    def of_host(self, host: str, name: str | None) -> list[str]:
        """Where nothing of a CA is left on the host: the directories whose newest set names this host."""
        found = {one.directory: one.manifest.authority for one in reversed(self.sets)}
        return [directory for directory, who in found.items() if who.host == host and name in (None, who.name, who.sanitized_name)]

    def newest(self, directory: str) -> HostSet | None:
        """The newest intact set."""
        return next((one for one in self.sets if one.directory == directory and one.damage is None), None)

    def next_sequence(self, directory: str) -> int:
        return max((one.manifest.sequence for one in self.sets if one.directory == directory), default=0) + 1
