# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what only AD CS needs of database sets, judged on the controller; may change in any release.

A Windows host tells and does. The controller decides here how its database is compared, whether a set may replace it, and which parts
of an exported registry may go to another host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import typing as t
from dataclasses import dataclass, field, replace
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils._database_policy import Lacks
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Hex, Misshapen, Most, Path, dump, parse
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import MOST_FILES, Own, Restored, StateTold
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import is_root
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetFile, SetManifest, State
from ansible_collections.keyward.pki.plugins.module_utils._stored import Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex
from ansible_collections.keyward.pki.plugins.plugin_utils import _adcs
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs_checklist import Around, checklist, templates_of
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs_registry import for_another_host, not_as_before
from ansible_collections.keyward.pki.plugins.plugin_utils._published import Revoked, Seen

POLICY, CONFIGURATION = "CAPolicy.inf", "configuration.json"
DATABASE = "DataBase/"
# RFC 5280, 5.3.1, as certutil -revoke takes them.
REVOCATION_REASONS = {
    "keyCompromise": 1,
    "CACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
}
_MOST_LATE = 1000
_LARGEST_REGISTRY = 16 * 1024 * 1024  # bytes


# --- what a host tells -----------------------------------------------------------------------------------------------

Names = t.Annotated[t.Tuple[str, ...], Most(MOST_FILES)]


@dataclass(frozen=True)
class _Ca:
    """The CA, beyond what every authority has. C(clock_skew_minutes): by so much it lets certificates begin earlier."""

    ca_type: t.Optional[str]
    provider: str
    provider_type: int
    computer: str
    archived_keys: str  # absent or unknown
    kra_certificates: Names
    log_directory: Path
    clock_skew_minutes: int


@dataclass(frozen=True)
class _Contents:
    """What a database is compared by. C(revocations): request id, reason, effective moment and serial number, with commas between.

    C(unissued): request id and disposition of what is pending, denied or failed: C(certutil -resubmit) issues it under the same id.
    """

    last_request_id: int
    revocations: Names
    unissued: Names
    next_crl_number: t.Optional[int]

    def covers(self, other: _Contents) -> bool:
        """Whether a database has everything that the other one has. A lifted revocation counts as missing."""
        issued_there = {each for each in _ids(self.unissued) - _ids(other.unissued) if each <= other.last_request_id}
        return self.last_request_id >= other.last_request_id and not self.lacks_revocations_of(other) and not issued_there

    @property
    def revoked_serials(self) -> set[int]:
        return {
            int(serial, 16) for serial in (row.rpartition(",")[2] for row in self.revocations) if re.fullmatch("[0-9a-f]{1,64}", serial)
        }

    def lacks_revocations_of(self, other: _Contents) -> int:
        return len(_ids(other.revocations) - _ids(self.revocations))


def _ids(rows: t.Iterable[str]) -> set[int]:
    """Request ids of rows. Raises Misshapen."""
    try:
        return {int(row.split(",", 1)[0]) for row in rows}
    except ValueError:
        raise Misshapen("own_state", "a request has no number") from None


@dataclass(frozen=True)
class _Database(_Contents):
    configuration_sha256: Hex


@dataclass(frozen=True)
class _Failed:
    serial: Hex
    code: t.Optional[Hex]


@dataclass(frozen=True)
class _Done:
    """What a restore answers besides. C(computer): None where no CA is configured yet."""

    computer: t.Optional[str] = None
    database: t.Optional[_Database] = None
    failed_revocations: t.Annotated[t.Tuple[_Failed, ...], Most(MOST_FILES)] = ()
    entered: t.Annotated[t.Tuple[Hex, ...], Most(MOST_FILES)] = ()
    not_entered: t.Annotated[t.Tuple[_Failed, ...], Most(MOST_FILES)] = ()
    reboot_required: bool = False
    around: t.Optional[Around] = None
    registry: t.Annotated[t.Optional[bytes], Most(_LARGEST_REGISTRY)] = field(default=None, repr=False)


def state_of(own_state: Own) -> State:
    """What the host said of its database. Raises Misshapen."""
    database = parse(_Database, own_state, "own_state")
    content = json.dumps([database.last_request_id, sorted(database.revocations), sorted(database.unissued)], separators=(",", ":"))
    number = database.next_crl_number
    return State(
        database=hashlib.sha256(content.encode("utf-8")).hexdigest(),
        configuration=database.configuration_sha256,
        entries=database.last_request_id,
        next_serial=None,  # AD CS draws serial numbers at random
        next_crl_number=None if number is None else even_hex(number),
        revoked=len(database.revocations),
    )


def kept(own: Own, own_state: Own) -> dict[str, t.Any]:
    """What a set's manifest keeps of a CA and its database beyond what every manifest has. Raises Misshapen."""
    return {**dump(parse(_Ca, own, "own")), **dump(parse(_Contents, own_state, "own_state"))}


def lacks(own: t.Any, older: SetManifest) -> Lacks:
    """What a database, or a newer set (C(own): what the host or a manifest says of it), lacks that an older set has. Raises Misshapen.

    Request ids only grow. That a revocation is gone alone is no loss: it may have been lifted.
    """
    ours, theirs = parse(_Contents, own, "own"), parse(_Contents, older.own, "own")
    rows = max(0, theirs.last_request_id - ours.last_request_id)
    revoked = ours.lacks_revocations_of(theirs)
    held = ours.covers(theirs)
    return Lacks(rows, revoked if rows else 0, any=not held, example="" if held else f"{rows} requests and {revoked} revocations")


def compared(newer: Stored, older: Stored) -> Lacks:
    """What one set lacks that an older one has. Raises KeywardError."""
    try:
        return lacks(newer.manifest.own, older.manifest)
    except Misshapen as exc:
        raise KeywardError("the sets can't be compared", f"the manifest of one is damaged ({exc})", "Nothing: both stay") from exc


# --- a set in the place of a database ----------------------------------------------------------------------------------


def no_numbers() -> KeywardError:
    return KeywardError(
        "ca_database_restore can't run",
        "AD CS chooses serial and CRL numbers itself: advance can't set them on Windows",
        "Give advance: auto; revocations that the set lacks are entered again",
    )


class Restoration:
    """Whether a set may take the place of a database, and what the host is told then. C(told): None where no CA is left.

    Raises KeywardError where it may not, Misshapen where what was told can't be read.
    """

    def __init__(self, told: StateTold | None, manifest: SetManifest, published: Seen, options: t.Mapping[str, t.Any]) -> None:
        self._told, self._manifest, self._published = told, manifest, published
        self._aside, self._without_parent_crl = options["on_conflict"] == "set_aside", bool(options["start_without_parent_crl"])
        try:
            self._ca, self._contents = parse(_Ca, manifest.own), parse(_Contents, manifest.own)
        except Misshapen as exc:
            raise KeywardError(
                "nothing was restored", "the set's manifest is damaged, or was written by a later release", "Use another set"
            ) from exc
        whole = options["part"] == "all"
        self._backdated = timedelta(minutes=self._ca.clock_skew_minutes)
        self._newer = published.newer_than(manifest, self._contents.revoked_serials, self._backdated)
        if whole and self._newer and options["advance"] is None:
            raise KeywardError(
                "nothing was restored",
                "; ".join(finding.message for finding in self._newer),
                "Find a newer set, or give advance: auto: revocations are entered again, and you publish CRLs beyond the last number",
                self._newer,
            )
        self.takes_the_place = whole and self._is_wanted()
        self._enters = whole and options["advance"] is not None

    def _is_wanted(self) -> bool:
        told = self._told
        if told is None or not told.database.exists or (told.own or {}).get("restore_in_progress"):
            return True
        why = None
        if told.own_state is None:
            why = "the CA does not answer, so it can't be told what its database holds"
            why = next((one.message for one in told.advisories if one.code == "database_not_closed"), why)
        else:
            there = parse(_Contents, told.own_state, "own_state")
            if there.covers(self._contents):
                return self._aside and not self._contents.covers(there)
            if not self._contents.covers(there):
                why = "the database on the host has entries or revocations that the set lacks"
        if why and not self._aside:
            raise KeywardError(
                "nothing was restored",
                why,
                "Start the CA, or use a newer set. With on_conflict: set_aside the database is kept beside its place, and the set takes it",
                [Finding("conflict", why)],
            )
        return True

    @property
    def loses_templates(self) -> bool:
        """What an enterprise CA issues by is in no set; one that is configured keeps it."""
        return self.has_templates and self._told is None

    @property
    def has_templates(self) -> bool:
        return self.takes_the_place and (self._ca.ca_type or "").startswith("Enterprise")

    def files(self, with_database: bool) -> list[SetFile]:
        """The files that the host needs."""
        whole = with_database and self.takes_the_place
        return [file for file in self._manifest.files if file.name == POLICY or (whole and file.name.startswith(DATABASE))]

    def terms(self, exported: bytes) -> dict[str, t.Any]:
        """What the order says besides. C(exported): the registry of the set, where the set takes the place."""
        generations = self._manifest.generations
        # The CA was renewed after the set was made: keep the values that name its present generations.
        known = {generation.sha256 for generation in generations}
        grown = self._told is not None and any(generation.sha256 not in known for generation in self._told.generations)
        registry = for_another_host(exported, "", "", ["CACertHash"] if grown else [])[0] if self.takes_the_place else None
        late = self._published.issued_since(self._manifest, self._backdated) if self._enters else []
        if len(late) > _MOST_LATE:
            raise KeywardError(
                "nothing was restored",
                f"{len(late)} certificates were issued after the set was made, and at most {_MOST_LATE} are entered again one by one",
                "Find a newer set",
            )
        return {
            "registry": base64.b64encode(registry).decode("ascii") if registry is not None else None,
            "ca_type": _adcs.known_type(self._ca.ca_type),
            "root": is_root(generations),
            "certificate_id": generations[-1].sha1.upper(),
            "database_directory": self._manifest.authority.directory,
            "log_directory": self._ca.log_directory,
            "start_without_parent_crl": self._without_parent_crl,
            "restore_database": self.takes_the_place,
            "last_request_id": self._contents.last_request_id,
            "crl_beyond": self._crl_beyond,
            "issued": [{"serial": even_hex(one.serial), "content": base64.b64encode(one.content).decode("ascii")} for one in late],
            "revoke": [
                {"serial": even_hex(one.serial), "reason": REVOCATION_REASONS.get(one.reason or "", 0), "at": format_time(one.at)}
                for one in self._revoked
            ],
        }

    @property
    def _crl_beyond(self) -> int | None:
        """The number that the CRLs of the restored CA are to exceed; None for one that no Windows has counted to."""
        answers = self.takes_the_place or (self._told is not None and self._told.own_state is not None)
        last = self._published.last_crl_number if self._enters and answers else None
        return last if last is not None and last < 1 << 62 else None

    @property
    def _revoked(self) -> list[Revoked]:
        """What is to be revoked in the database, as it will be."""
        own_state = self._told.own_state if self._told else None
        if not self._enters or (own_state is None and not self.takes_the_place):
            return []
        there = self._contents if self.takes_the_place else parse(_Contents, own_state, "own_state")
        return self._published.revoked_beyond(there.revoked_serials)

    def judged(self, done: Restored, exported: bytes, configuration: bytes = b"") -> Restored:
        """What the host answered, and what it means. C(configuration): the file of the set. Raises Misshapen."""
        own = parse(_Done, done.own or {}, "own")
        following = own.database.next_crl_number if own.database else None
        advisories = list(done.advisories)
        if self.takes_the_place:
            advisories += self._newer
            advisories += for_another_host(exported, self._ca.computer, own.computer or self._ca.computer)[1]
            advisories += _templates_to_set(configuration) if self.loses_templates else []
            without = any(one.code == "revocation_not_checked" for one in done.advisories)
            advisories += not_as_before(exported, own.registry, without) if own.registry else []
            last = self._published.last_crl_number
            if last is not None and (following or 0) <= last:
                text = f"the next CRL has the number {following or 0:X}, and {last:X} is published"
                advisories.append(Finding("crl_number_behind", text + ": publish CRLs (certutil -CRL) until theirs is higher"))
            if not self._published.compared:
                text = (
                    f"nothing published was compared: what was issued or revoked after {self._manifest.as_of} may be missing, and the next "
                )
                text += f"CRL has the number {following or 0:X}: publish CRLs (certutil -CRL) until it is beyond the last that clients have"
                advisories.append(Finding("published_not_compared", text))
            if self._ca.archived_keys in ("unknown", "present"):
                text = "the database may hold archived keys: to recover them, the KRA certificates' keys are needed: "
                advisories.append(Finding("archived_keys", text + ", ".join(self._ca.kra_certificates)))
        for failed in own.failed_revocations:
            text = f"certificate {failed.serial} could not be revoked again ({failed.code}): revoke it by hand"
            advisories.append(Finding("revocation_not_reentered", text))
        if own.reboot_required:
            text = "Windows wants to be restarted before the CA can be configured; run this again afterwards"
            advisories.append(Finding("reboot_required", text))
        if own.entered:
            text = f"certificates that were issued after the set was made are in the database again: {', '.join(own.entered[:5])}"
            advisories.append(Finding("certificates_reentered", text))
        for failed in own.not_entered:
            text = f"certificate {failed.serial} could not be entered again ({failed.code}): certutil -importCert"
            advisories.append(Finding("certificate_without_row", text))
        revoked = {even_hex(one.serial): one.as_order() for one in self._revoked}
        return replace(
            done,
            next_crl_number=even_hex(following) if following is not None else None,
            reentered=tuple(revoked.get(one.serial, one) for one in done.reentered),
            advisories=tuple(advisories),
        )

    def checklist(self, done: Restored, exported: bytes, configuration: bytes) -> list[dict[str, t.Any]]:
        """What stands around the CA, and what of it is left to do; nothing where no database was put back. Raises Misshapen."""
        if not self.takes_the_place:
            return []
        own = parse(_Done, done.own or {}, "own")
        moved = own.computer is not None and own.computer.lower() != self._ca.computer.lower()
        return checklist(self._ca.ca_type, exported, templates_of(configuration), own.around, own.computer if moved else None)


def _templates_to_set(configuration: bytes) -> list[Finding]:
    """What the CA issued by, where it is an enterprise CA: it comes back without templates."""
    names = templates_of(configuration)
    command = f"certutil -setcatemplates {','.join(f'+{name}' for name in names)}"
    return [Finding("templates_to_set", f"the CA issues by no template until they are set again: {command}")] if names else []
