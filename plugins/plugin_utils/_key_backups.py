# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what stores hold of an authority, whose backup is meant and what it covers; may change in any release."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _pkcs12_crypto, _pkcs12_reader
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._home import HomeChange, is_of, shared
from ansible_collections.keyward.pki.plugins.module_utils._manifest import FILE_NAME
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import GivenFile
from ansible_collections.keyward.pki.plugins.module_utils._sealing import ONE_TIME_ITERATIONS, seal
from ansible_collections.keyward.pki.plugins.module_utils._signed import WAY_OUT
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS, MANIFEST, Series, Stored
from ansible_collections.keyward.pki.plugins.module_utils._verdict import Bundle, Verdict, bundle_generations, held_keys, judge, open_bundle
from ansible_collections.keyward.pki.plugins.plugin_utils import _hints
from ansible_collections.keyward.pki.plugins.plugin_utils._homes import HomeTask
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import Authorities, Found, KnownAuthority
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers
from ansible_collections.keyward.pki.plugins.plugin_utils._store_task import judged
from ansible_collections.keyward.pki.plugins.plugin_utils._stores import named_stores
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result

BUNDLE_NAME = "authority.p12"

# --- what is stored --------------------------------------------------------------------------------------------------


class GivenBackup:
    """What the option C(backup) names: PKCS #12 files, a backup's directory, or an authority's directory (newest first)."""

    def __init__(self, paths: t.Sequence[str], signers: Signers) -> None:
        self.paths, path = list(paths), paths[0]
        self.stored: Stored | None = None
        if len({os.path.basename(each) for each in paths}) != len(paths) or (len(paths) > 1 and any(map(os.path.isdir, paths))):
            raise KeywardError(
                "the backup can't be read",
                "several paths were given, and they are not PKCS #12 files of different names",
                "Give the files of one backup, or one directory",
            )
        if os.path.isdir(path):
            authority = Series(path, BACKUPS, signers)
            if os.path.exists(os.path.join(path, MANIFEST)):
                self.stored = judged(path, BACKUPS, signers)
            elif authority.newest:
                self.stored = authority.newest
            elif authority.advisories:
                raise KeywardError(f"{path} has no backup that can be used", authority.advisories[0].message, "Give another store's copy")
            else:
                raise KeywardError(
                    f"{path} is no backup", "no backup lies in it", "Give a PKCS #12 file, a backup's directory or an authority's directory"
                )
            self.files = self.stored.files()
        else:
            self.files = {}
            for path in paths:
                try:
                    self.files[os.path.basename(path)] = read_file(path, "the backup")
                except FileNotFoundError:
                    raise KeywardError(f"the backup {path} can't be read", "it does not exist", "Is the share mounted?") from None
            beside = os.path.join(os.path.dirname(os.path.abspath(path)), MANIFEST)
            if FILE_NAME.match(os.path.basename(path)) and os.path.exists(beside):
                # No list of signers, or an unknown signer: judge the file by itself.
                with contextlib.suppress(KeywardError):
                    stored = judged(os.path.dirname(beside), BACKUPS, signers)
                    if not stored.doubt and [file.name for file in stored.manifest.files] == list(self.files):
                        self.stored = stored


def store_of(path: str, signers: Signers) -> tuple[Store, str] | None:
    """The store that a backup directory lies in, and its authority's directory name there; None where it lies elsewhere."""
    authority_directory = os.path.dirname(os.path.realpath(path))
    try:
        return Store(os.path.dirname(authority_directory), BACKUPS, signers), os.path.basename(authority_directory)
    except KeywardError:
        return None


def backup_result(backup: Stored, paths: t.Sequence[str]) -> Result:
    manifest = backup.manifest
    return {
        "id": manifest.id,
        "paths": list(paths),
        "created": manifest.created,
        "proved_at": manifest.proved_at,
        "files": [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in manifest.files],
    }


# --- which authority, which backup -----------------------------------------------------------------------------------


def same_name(known: t.Sequence[KnownAuthority], match: KnownAuthority | None, told: Told) -> list[Finding]:
    return [
        Finding("same_name_other_keys", f"{other.name} has the same subject and other keys: it is another authority")
        for other in known
        if other is not match and other.subject == told.authority.subject and not shared(told.generations, other.public_keys)
    ]


def lost_on_host(expected: t.Sequence[Generation], told: Told) -> list[Finding]:
    there = {generation.sha256 for generation in told.generations}
    lost = [generation for generation in expected if generation.sha256 not in there]
    return [Finding("generation_lost_on_host", f"{g.label} is no longer on the host; the backup keeps it", g.sha256) for g in lost]


def recorded_place(authority: Authority) -> Result:
    """The options that say which CA, as a manifest tells them, and nothing else that stands there."""
    return {"backend": authority.backend, **{option: value for option, value in authority.place.items() if option in _arguments.PLACE}}


def one_time_password() -> str:
    """A one-time password for keys on their way: the backup's own password stays on the controller."""
    return secrets.token_urlsafe(32)


# --- what opens ------------------------------------------------------------------------------------------------------


def opened(backup: Stored, passwords: t.Sequence[str | None], intact: bool = False) -> list[Bundle]:
    recorded = {file.name: file.sha256 for file in backup.manifest.files}
    return [open_bundle(name, data, passwords, recorded[name], intact) for name, data in backup.files().items()]


def hollow(backup: Stored, password: str) -> frozenset[str] | None:
    """The generations that a backup covers by its manifest and, opened, does not hold; None where the password does not open it.

    One derivation is enough: its digests stand for the MAC. Raises KeywardError.
    """
    own = {file.name for file in backup.manifest.files if file.opened_by == backup.manifest.id}
    bundles = opened(backup, [password], intact=True)
    for bundle in bundles:
        if bundle.fault and bundle.name in own:
            if bundle.fault.code in ("password_wrong", "opens_without_password"):
                return None
            raise KeywardError(
                f"the password can't be proved with {backup.path}", bundle.fault.message, "Judge this backup with ca_key_verify"
            )
    if any(bundle.fault for bundle in bundles):
        return frozenset()  # some files open with the password of an earlier backup
    expected = [replace(generation, exportable=None) for generation in backup.manifest.generations]
    return frozenset(fault.certificate for fault in judge(bundles, expected).reasons if fault.certificate)


def opens(backup: Stored, password: str) -> bool:
    """Whether a password opens every file encrypted with this backup. The digests were checked, so one key derivation is enough."""
    files = backup.files()
    own = [file for file in backup.manifest.files if file.opened_by == backup.manifest.id]
    try:
        return all(_pkcs12_reader.opens(files[file.name], password) for file in own)
    except _pkcs12_crypto.Pkcs12Error as exc:
        raise KeywardError(f"the password can't be proved with {backup.path}", str(exc), "Judge this backup with ca_key_verify") from exc


def bundles_with(known: KnownAuthority, keys: t.Collection[str], passwords: t.Sequence[str | None]) -> list[Bundle]:
    """Bundles of its backups, opened, newest first, until they hold all of these keys, as far as they do."""
    lost, found = set(keys), list[Bundle]()
    for backup in known.backups:
        if lost & backup.manifest.public_keys:
            found += opened(backup, passwords)
            lost -= held_keys(found)
    return found


def brings_back(bundles: t.Sequence[Bundle], generation: Generation) -> bool:
    """Whether the files that open hold a generation's certificate and key."""
    return bool(bundles) and judge([each for each in bundles if not each.fault], [replace(generation, exportable=None)]).restorable


class Sealed(t.NamedTuple):
    """The files of a new backup. C(opened_by): for those of earlier backups, the id of the backup whose password opens them."""

    files: dict[str, bytes]
    generations: t.Sequence[Generation]
    opened_by: t.Mapping[str, str] = {}
    advisories: tuple[Finding, ...] = ()


def refuse_unless_restorable(bundles: t.Sequence[Bundle], expected: t.Sequence[Generation]) -> None:
    """The verdict about a new backup. Raises KeywardError."""
    verdict = judge(bundles, expected)
    if not bundles or not verdict.restorable:
        raise KeywardError(
            "nothing was stored",
            "the new backup would not bring back every generation: " + "; ".join(fault.message for fault in verdict.reasons),
            "Put that right on the host, or give the password of the earlier backup as previous_password",
            verdict.reasons,
        )


FROM_AN_OPEN_ONE = (
    "Find out who could read it. To restore from it all the same, give the empty password (password: ''); then renew the CA with a new key"
)


def unprotected(verdict: Verdict) -> bool:
    """Whether the only fault of a backup is that it opens without a password."""
    return bool(verdict.reasons) and all(fault.code == "opens_without_password" for fault in verdict.reasons)


class ChosenBackup(t.NamedTuple):
    """The backup that a task is about, opened and with what it must bring back."""

    stored: Stored | None  # None for a PKCS #12 file without a manifest
    paths: list[str]
    files: dict[str, bytes]
    bundles: list[Bundle]
    generations: list[Generation]
    known: KnownAuthority | None = None  # all that the stores hold of it
    elsewhere: Finding | None = None  # why the host is not its home
    open_accepted: bool = False  # the password that was given is the empty one

    def is_of(self, told: Told, moving: bool = False) -> bool:
        """Whether a host shows the authority that it is of."""
        known = self.known or (KnownAuthority(self.stored) if self.stored else None)
        if known is None:
            return bool(shared(told.generations, {generation.public_key_sha256 for generation in self.generations}))
        return is_of(known, told.authority.home, told.generations, moving)

    @property
    def authority(self) -> Authority | None:
        """Whose it is, where its manifest says so."""
        return self.stored.manifest.authority if self.stored else None

    def refuse_unless_restorable(self, what: str) -> tuple[Finding, ...]:
        """The advisories of its verdict. C(what) says what fails. Raises KeywardError."""
        verdict = judge(self.bundles, self.generations)
        if verdict.restorable:
            return verdict.advisories
        if self.open_accepted and unprotected(verdict):
            return (*verdict.advisories, *verdict.reasons)
        raise KeywardError(
            what,
            f"{self.paths[0]} is not restorable: " + "; ".join(fault.message for fault in verdict.reasons),
            FROM_AN_OPEN_ONE if unprotected(verdict) else "Give another backup (ca_key_backup_info lists them), or the right password",
            verdict.reasons,
        )

    def given(self, keys: t.Collection[str], in_hand: bool) -> tuple[GivenFile, ...]:
        """The files that bring a host these keys: one under a one-time password, or unchanged those that its software reads itself."""
        wanted = [generation for generation in self.generations if generation.public_key_sha256 in keys]
        if in_hand and wanted:
            private = {e.public_key_sha256: e.key for bundle in self.bundles if bundle.contents for e in bundle.contents.private_keys}
            password = one_time_password()
            content = seal(wanted, private, [], password, ONE_TIME_ITERATIONS)
            return (GivenFile(password, content, "keys.p12", tuple(generation.sha256 for generation in wanted)),)
        found = []
        for bundle in self.bundles:
            held = held_keys([bundle])
            if held.intersection(keys):
                holds = tuple(generation.sha256 for generation in self.generations if generation.public_key_sha256 in held)
                found.append(GivenFile(bundle.password_used or "", self.files[bundle.name], bundle.name, holds))
        return tuple(found)

    def as_result(self) -> Result:
        if self.stored:
            return backup_result(self.stored, self.paths)
        files = [{"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in self.files.items()]
        return {"id": None, "paths": self.paths, "created": None, "proved_at": None, "files": files}


class BackupTask(HomeTask):
    """What tasks share that look into stores of key backups. C(PROVES_UNVOUCHED): also what nobody known vouches for."""

    PROVES_UNVOUCHED: t.ClassVar[bool] = False

    ROLE = "key_backup"

    @functools.cached_property
    def stores(self) -> list[Store]:
        return named_stores(
            self._required("stores", "Give the directories on the controller that hold the key backups"), BACKUPS, self.signers
        )

    @functools.cached_property
    def authorities(self) -> Authorities:
        return Authorities(self.stores)

    def known(self, told: Told | None) -> Found:
        """The authorities of the stores, as far as what the host tells is about them."""
        return self.authorities.of(self._host, told.generations if told else None, self.options.get("authority_id"))

    def _names_one(self) -> bool:
        return super()._names_one() or self.options.get("backup") is not None

    def choose(self, told: Told | None, to_send: bool = True) -> ChosenBackup:
        """The one backup that is meant, opened: the one that is given, or in the stores the newest of the host's authority.

        C(to_send): something of it is to go out to the host, which then must be its home.
        """
        given, stores = self.options.get("backup"), self.options.get("stores")
        if (given is None) == (not stores):
            raise KeywardError(
                f"{self.NAME} can't run", "it needs either backup or stores", "Give the backup's path, or the stores to look in"
            )
        if given is not None:
            one, said = GivenBackup(given, self.signers), self.options.get("authority_id")
            if said is not None and one.stored and not str(one.stored.manifest.authority.id).startswith(said):
                why = f"authority_id names {said}, and the backup is of {one.stored.manifest.authority.id}"
                raise KeywardError("nothing was restored", why, "Give one of them, or those that fit")
            if one.stored and one.stored.doubt and not self.PROVES_UNVOUCHED:
                raise KeywardError(
                    f"the backup {given[0]} is not used",
                    f"nobody known vouches for it: {one.stored.doubt}",
                    f"With its password, its PKCS #12 files alone are enough: give them as backup. {WAY_OUT}",
                    [Finding("unknown_signer", one.stored.doubt)],
                )
            place = store_of(one.stored.path, self.signers) if one.stored else None
            match = next(iter(Authorities([place[0]]).read([place[1]]).known), None) if place else None
            return self._opened(one.stored, one.paths, one.files, match)
        self.memory.refuse_other_stores(self.stores)
        known, damaged = self.known(told) if told else self.authorities.all
        if told:
            found = self.stand(known, told)
            if found.known:
                self.refuse_rolled_back(found.known)
            if to_send:
                self.refuse_elsewhere("nothing was restored", found, told)
            match, elsewhere = found.known, self.not_at_home(found, told) if found.elsewhere else None
        else:
            match, elsewhere = self.lost(known, "backup"), None
        if match is None:
            whose = f"{told.authority.subject} on {self._host}" if told else f"an authority that lives on {self._host}"
            names = ", ".join(sorted(candidate.name for candidate in known)) or "none"
            raise KeywardError(
                "no backup was found",
                "; ".join([f"the stores hold none of {whose}", *(advisory.message for advisory in damaged)]),
                f"They hold: {names}. Give the id of the right one as authority_id, or mount the right store",
            )
        if not told:
            self.refuse_rolled_back(match)
        if len(match.ends) > 1:
            raise KeywardError(
                f"it can't be told which backup of {match.name} is meant",
                "two runs made backups apart, and each covers something else: " + " and ".join(one.path for one in match.ends),
                "Name one: give its directory as backup",
            )
        newest = match.newest
        if newest is None:
            raise KeywardError(
                f"no backup of {match.name} can be used",
                "; ".join(advisory.message for advisory in match.advisories),
                "Mount another copy of the store, or give a PKCS #12 file of this authority as backup",
                match.advisories,
            )
        return self._opened(newest, match.paths(newest), newest.files(), match)._replace(elsewhere=elsewhere)

    def _opened(
        self, stored: Stored | None, paths: list[str], files: dict[str, bytes], known: KnownAuthority | None = None
    ) -> ChosenBackup:
        self._required("password", "Give the password of the backup")
        recorded = {file.name: file.sha256 for file in stored.manifest.files} if stored else {}
        bundles = [open_bundle(name, data, self._passwords, recorded.get(name)) for name, data in files.items()]
        generations = list(stored.manifest.generations) if stored else bundle_generations(bundles)
        accepted = self._secret("password") == ""
        return ChosenBackup(stored, paths, files, bundles, generations, known, open_accepted=accepted)

    def refuse_rolled_back(self, known: KnownAuthority) -> None:
        """Raise KeywardError where the stores hold less of it than before."""
        error = self.memory.rolled_back(BACKUPS.name, known.id, known.signed, said=known.said)
        if error:
            raise error

    def say_home(self, stores: t.Sequence[Store], known: KnownAuthority, change: HomeChange) -> None:
        """Record in each store what a person said of the homes. Raises KeywardError."""
        event = self.event(change.kind, known.latest, **change.as_json())
        for store in stores:
            if os.path.isdir(os.path.join(store.path, known.name)):
                store.record(known.name, event)
                _hints.leave(store, known.name, [home.host for home in change.homes], ())

    @staticmethod
    def authority_result(authority: Authority, known: KnownAuthority | None) -> Result:
        return replace(authority, id=known.id if known else None).as_result()
