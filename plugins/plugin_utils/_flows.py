# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what each task does on the controller; may change in any release."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import itertools
import os
import platform
import secrets
import typing as t
from dataclasses import replace
from importlib.metadata import version

from ansible import __version__ as core_version
from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _pkcs12_crypto, _pkcs12_reader
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import (
    Authority,
    Generation,
    authority_id,
    belongs,
    directory_name,
    generation_advisories,
    generation_of,
    is_backup_of,
    merge_generations,
    same_place,
)
from ansible_collections.keyward.pki.plugins.module_utils._manifest import BundleFile, Manifest
from ansible_collections.keyward.pki.plugins.module_utils._sealing import password_fault, seal
from ansible_collections.keyward.pki.plugins.module_utils._store import BACKUPS, Store, Stored, document
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise_as_asked
from ansible_collections.keyward.pki.plugins.module_utils._time import name_time, now, now_text, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._verdict import (
    Bundle,
    Verdict,
    bundle_generations,
    held_keys,
    judge,
    key_storage,
    open_bundle,
    reason,
    refuse_foreign,
    uncovered,
)
from ansible_collections.keyward.pki.plugins.module_utils._x509 import public_key_sha256
from ansible_collections.keyward.pki.plugins.plugin_utils._flow import Flow, NothingOnHost, Result
from ansible_collections.keyward.pki.plugins.plugin_utils._store import (
    GivenBackup,
    KnownAuthority,
    known_authorities,
    next_sequence,
    store_of,
)

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
except ImportError:  # the modules say which library is missing
    pass

COLLECTION_VERSION = "0.1.0"
BUNDLE_NAME = "authority.p12"


class Live(t.NamedTuple):
    """An authority as its host answered."""

    authority: Authority
    generations: list[Generation]
    advisories: list[Finding]


def live_of(answer: Result, host: str) -> Live:
    """Raises NothingOnHost where the host knows a CA and has none of its certificates."""
    generations = [Generation.from_json(shape) for shape in answer["generations"]]
    who = {**answer["authority"], "host": host}
    if who["subject"] is None:  # a Windows host leaves it to us to read certificates
        if not generations and answer.get("pending_request"):
            raise NothingOnHost(
                f"the CA {who['name']} can't be read", "it waits for its first certificate", "Give ca_install the answer to its request"
            )
        if not generations:
            raise NothingOnHost(
                f"the CA {who['name']} can't be read", "none of its certificates is in the machine store", "Put them back (ca_key_restore)"
            )
        who["subject"] = generations[-1].subject
    return Live(Authority(**who), generations, [Finding(**advisory) for advisory in answer["advisories"]])


def findings(*groups: t.Iterable[Finding]) -> list[Result]:
    return [finding.as_result() for finding in dict.fromkeys(finding for group in groups for finding in group)]


def _backup_result(backup: Stored, paths: t.Sequence[str]) -> Result:
    manifest = backup.manifest
    return {
        "id": manifest.id,
        "paths": list(paths),
        "created": manifest.created,
        "proved_at": manifest.proved_at,
        "files": [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in manifest.files],
    }


def _open_files(backup: Stored, passwords: t.Sequence[str | None]) -> list[Bundle]:
    recorded = {file.name: file.sha256 for file in backup.manifest.files}
    return [open_bundle(name, data, passwords, recorded[name]) for name, data in backup.files().items()]


def _coverage(generations: t.Sequence[Generation], covered: t.Collection[str]) -> str:
    return "".join(f"{generation.label}: {'covered' if generation.sha256 in covered else 'not covered'}\n" for generation in generations)


def _opens(backup: Stored, password: str) -> bool:
    """Whether a password opens all that was sealed with this backup: its digests stand for the MAC, one derivation is enough."""
    files = backup.files()
    own = [file for file in backup.manifest.files if file.opened_by == backup.manifest.id]
    try:
        return all(_pkcs12_reader.opens(files[file.name], password) for file in own)
    except _pkcs12_crypto.Pkcs12Error as exc:
        raise KeywardError(f"the password can't be proved with {backup.path}", str(exc), "Judge this backup with ca_key_verify") from exc


def recorded_place(authority: Authority) -> Result:
    """The options that say which CA, as a manifest tells them, and nothing else that stands there."""
    return {"backend": authority.backend, **{option: value for option, value in authority.place.items() if option in _arguments.PLACE}}


def request_facts(pending: Result | None) -> Result | None:
    """What is said of a pending request; where the host gave it whole (C(request), PEM) it is read here."""
    if pending is None or "request" not in pending:
        return pending
    facts = {"path": pending["path"], "subject": None, "public_key_sha256": None}
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        request = x509.load_pem_x509_csr((pending["request"] or "").encode("utf-8"))
        facts.update(subject=request.subject.rfc4514_string(), public_key_sha256=public_key_sha256(request.public_key()))
    return facts


class CaInfo(Flow):
    NAME, ARGUMENTS = "ca_info", _arguments.CA_INFO

    def perform(self) -> Result:
        answer = self.on_host({})
        live = live_of(answer, self._host)
        return {
            "changed": False,
            "authority": live.authority.as_result(),
            "generations": [generation.as_result() for generation in live.generations],
            "database": answer["database"],
            "pending_request": request_facts(answer["pending_request"]),
            "advisories": findings(live.advisories, generation_advisories(live.generations, now_text())),
        }


class CaStore(Flow):
    NAME, ARGUMENTS = "ca_store", _arguments.CA_STORE

    def perform(self) -> Result:
        outcome = (
            self._execute_module(module_args=dict(self._task.args), task_vars=self._task_vars) if self.options["host"] else self._here()
        )
        if self._task.diff and "before" in outcome:
            outcome["diff"] = {"before": outcome["before"], "after": outcome["after"]}
        # Ansible adds to a module's answer what it finds at its path.
        added = ("uid", "gid", "owner", "group", "mode", "state", "size", "secontext")
        said = ("reasons", "nothing_there", "backend", "abilities")  # of a Windows module's failure
        return {name: value for name, value in outcome.items() if name not in ("before", "after", "invocation", *added, *said)}

    def _here(self) -> Result:
        return initialise_as_asked(self.options, self._check)


class StoresFlow(Flow):
    """What tasks share that look into stores."""

    def refusal(self, error: KeywardError) -> Result:
        return {**super().refusal(error), "reasons": [finding.as_result() for finding in error.findings]}

    @functools.cached_property
    def stores(self) -> list[Store]:
        paths = self._required("stores", "Give the directories on the controller that hold the key backups")
        found = {store.path: store for store in (Store(path, BACKUPS) for path in paths)}
        return list(found.values())

    def _recognise(self, known: t.Sequence[KnownAuthority], live: Live) -> KnownAuthority | None:
        """The known authority that the live one is: by a shared key before the same place."""
        for why in ("key", "place"):
            for candidate in known:
                if belongs(live.authority, live.generations, candidate.authority, candidate.public_keys) == why:
                    return candidate
        return None

    def _same_name(self, known: t.Sequence[KnownAuthority], live: Live) -> list[Finding]:
        return [
            Finding("same_name_other_keys", f"{other.name} has the same subject and other keys: it is another authority")
            for other in known
            if other.authority.subject == live.authority.subject
            and not belongs(live.authority, live.generations, other.authority, other.public_keys)
        ]

    def _named(self, known: t.Sequence[KnownAuthority]) -> KnownAuthority | None:
        """Where nothing of a CA is left on the host: the one whose newest backup names this host and the place that was given."""
        here = [candidate for candidate in known if candidate.authority.host == self._host]
        given = _arguments.stated_place(self.options)
        here = [candidate for candidate in here if same_place(given, candidate.authority.place)]
        if len(here) > 1:
            raise KeywardError(
                f"it can't be told which authority of {self._host} is meant",
                "its stores hold " + " and ".join(sorted(candidate.name for candidate in here)),
                "Name one: give its directory in the store as backup, or its config_file and name",
            )
        return here[0] if here else None

    def _event(self, event: str, manifest: Manifest, **details: t.Any) -> Result:
        """What an authority's events/ keep of a task. No secret in it."""
        return {"event": event, "at": now_text(), "controller": platform.node(), "host": self._host, "backup": manifest.id, **details}

    def _authority_result(self, authority: Authority, known: KnownAuthority | None) -> Result:
        return replace(authority, id=known.id if known else None).as_result()


class Plan(t.NamedTuple):
    """What a key backup has to do."""

    live: Live
    match: KnownAuthority | None
    expected: list[Generation]  # every generation that is or was there
    due_for: list[Generation]  # those that no backup covers
    covered: frozenset[str]
    why: str | None  # install, renewal, password_change or forced; None where nothing is due
    copies: list[tuple[Stored, Store]]


class Sealed(t.NamedTuple):
    """The files of a new backup. C(opened_by): for those of earlier backups, the id of the backup whose password opens them."""

    files: dict[str, bytes]
    opened_by: dict[str, str]
    generations: t.Sequence[Generation]
    advisories: tuple[Finding, ...] = ()


def _brings_back(bundles: t.Sequence[Bundle], generation: Generation) -> bool:
    return judge([bundle for bundle in bundles if not bundle.fault], [replace(generation, exportable=None)]).restorable and bool(bundles)


class CaKeyBackup(StoresFlow):
    NAME, ARGUMENTS = "ca_key_backup", _arguments.CA_KEY_BACKUP

    def perform(self) -> Result:
        for store in self.stores:
            store.refuse_if_not_writable()
        known, damaged = known_authorities(self.stores)
        here = [candidate for candidate in known if candidate.authority.host == self._host]
        answer = self._ask(here)
        live = live_of(answer, self._host)
        match = self._recognise(known, live)
        if answer.get("unrecognised"):
            answer = self._ask([match] if match else [], certain=True)
            live = live_of(answer, self._host)
        proved = self._prove(match) if match else "password"
        advisories = [*live.advisories, *damaged, *(match.advisories if match else ()), *self._same_name(known, live)]
        return self._carry_out(self._plan(live, match, proved), answer, advisories)

    def _ask(self, known: t.Sequence[KnownAuthority], certain: bool = False) -> Result:
        """One module execution: the authority as it is and, where a backup is due, its keys sealed in a bundle."""
        force = self.options["force"]
        hints = [
            {
                "authority": vars(candidate.authority),
                "public_keys": sorted(candidate.public_keys),
                "fingerprints": sorted(candidate.covered(self.stores)),
                "reseal": force or self._changes_password_of(candidate),
            }
            for candidate in known
        ]
        password = self._secret("password")
        fit = password if password is not None and not password_fault(password) else None  # nothing is sealed with another
        return self.on_host({"known": hints, "certain": certain, "reseal": force, "password": fit})

    def _changes_password_of(self, known: KnownAuthority) -> bool:
        previous, newest = self._secret("previous_password"), known.newest
        if previous is None or newest is None:
            return False
        return not _opens(newest, self._secret("password") or "") and _opens(newest, previous)

    def _prove(self, known: KnownAuthority) -> str:
        """Selector of the passwords opens the newest backup. A wrong one is an error, never a reason to write a new backup."""
        password, previous, newest = self._secret("password"), self._secret("previous_password"), known.newest
        if newest is None or password is None or _opens(newest, password):
            return "password"
        if previous is not None and _opens(newest, previous):
            return "previous_password"
        raise KeywardError(
            "nothing was backed up",
            f"the password does not open the newest backup of this authority, {newest.path}",
            "Give the password that it was made with. To change it, give the new one as password and the old one as previous_password",
            [reason("password_wrong", newest.path)],
        )

    def _plan(self, live: Live, match: KnownAuthority | None, proved: str) -> Plan:
        earlier = match.generations if match else []
        covered = match.covered(self.stores) if match else frozenset()
        expected = merge_generations(earlier, live.generations)
        due_for = uncovered(expected, covered)
        why = None
        if not match:
            why = "install"
        elif due_for:
            why = "renewal"
        elif proved == "previous_password":
            why = "password_change"
        elif self.options["force"]:
            why = "forced"
        copies = match.copies(self.stores) if match else []
        return Plan(live, match, expected, due_for, covered, why, copies)

    def _carry_out(self, plan: Plan, answer: Result, advisories: list[Finding]) -> Result:
        there = {generation.sha256 for generation in plan.live.generations}
        lost = [generation for generation in plan.expected if generation.sha256 not in there]
        result: Result = {
            "changed": bool(plan.why or plan.copies),
            "authority": self._authority_result(plan.live.authority, plan.match),
            "backup": None,
            "due": bool(plan.why),
            "reasons": findings(reason("generation_missing", f"the newest backup, {g.label}", certificate=g.sha256) for g in plan.due_for),
            "advisories": findings(
                advisories,
                (Finding("generation_lost_on_host", f"{g.label} is no longer on the host; the backup keeps it", g.sha256) for g in lost),
                generation_advisories(plan.expected, now_text()),
            ),
        }
        covered = plan.covered
        newest = plan.match.newest if plan.match else None
        if plan.match and newest:
            copied = [os.path.join(store.path, plan.match.name, newest.name) for backup, store in plan.copies if backup is newest]
            result["backup"] = _backup_result(newest, [*plan.match.paths(newest), *copied])
        if plan.why:
            self._refuse_what_can_not_be_sealed(plan)
            password = self._password_to_write_with()
        if not self._check:
            if plan.copies:
                self._copy(plan)
            if plan.why:
                sealed = self._sealed_by_windows(plan, answer, password) if "adcs" in answer else self._sealed_whole(plan, answer, password)
                backup, paths, result["changed"] = self._store(plan, sealed, password)
                result["advisories"] = findings((Finding(**advisory) for advisory in result["advisories"]), sealed.advisories)
                result["backup"] = _backup_result(backup, paths)
                result["restorable"] = True
                result["authority"]["id"] = backup.manifest.authority.id
                covered = backup.manifest.fingerprints
        result["generations"] = [g.as_result("backup" if g.sha256 in covered else "none") for g in plan.expected]
        if self._task.diff:
            after = frozenset(g.sha256 for g in plan.expected) if plan.why else plan.covered
            result["diff"] = {"before": _coverage(plan.expected, plan.covered), "after": _coverage(plan.expected, after)}
        return result

    def _refuse_what_can_not_be_sealed(self, plan: Plan) -> None:
        """Before any secret is asked for: a partial backup is a failure."""
        carried = {generation.public_key_sha256 for generation in plan.match.generations} if plan.match else set()
        faults = []
        for generation in plan.live.generations:
            if generation.public_key_sha256 in carried:
                continue
            if generation.exportable is False:
                faults.append(reason("not_exportable", generation.label, certificate=generation.sha256))
            elif generation.private_key != "present":
                faults.append(reason("key_missing", generation.label, f"on the host it is {generation.private_key}", generation.sha256))
        there = {generation.sha256 for generation in plan.live.generations}
        stated = [advisory for advisory in plan.live.advisories if advisory.code == "certificate_missing_on_host"]
        if len(stated) > len([generation for generation in plan.expected if generation.sha256 not in there]):
            faults += [Finding("generation_missing", advisory.message) for advisory in stated]
        if faults:
            raise KeywardError(
                "nothing was backed up",
                "; ".join(fault.message for fault in faults),
                "A key that is missing: put it back, or state the generation's files (option older). One that is encrypted: give "
                "private_key_passphrase. One in a token or HSM: back it up by the means of that token",
                faults,
            )

    def _password_to_write_with(self) -> str:
        password = self._secret("password")
        if password is None:
            raise KeywardError("nothing was backed up", "a backup is due, and no password was given to protect it", "Give password")
        fault = password_fault(password)
        if fault:
            raise KeywardError(
                "nothing was backed up",
                f"the password is not fit to protect a CA key: {fault}",
                "Give a long random one, and keep it apart",
            )
        return password

    def _sealed_whole(self, plan: Plan, answer: Result, password: str) -> Sealed:
        """One bundle with every expected generation, proved. Lost ones are carried over from earlier backups."""
        sealed = answer.get("bundle")
        data = base64.b64decode(sealed) if sealed else b""
        bundles = [open_bundle(BUNDLE_NAME, data, [password])] if sealed else []
        if not judge(bundles, plan.expected).restorable and plan.match:
            bundles += self._earlier_bundles(plan.match, bundles, plan.expected)
            contents = [bundle.contents for bundle in bundles if bundle.contents]
            keys = {entry.public_key_sha256: entry.key for content in contents for entry in content.private_keys}
            chain = [entry.der for content in contents for entry in content.certificates]
            data = seal(plan.expected, keys, chain, password)
            bundles = [open_bundle(BUNDLE_NAME, data, [password])]
        self._refuse_unless_restorable(bundles, plan.expected)
        return Sealed({BUNDLE_NAME: data}, {}, plan.expected)

    def _refuse_unless_restorable(self, bundles: t.Sequence[Bundle], expected: t.Sequence[Generation]) -> Verdict:
        verdict = judge(bundles, expected)
        if verdict.restorable and bundles:
            return verdict
        raise KeywardError(
            "nothing was stored",
            "the new backup would not bring back every generation: " + "; ".join(fault.message for fault in verdict.reasons),
            "Put that right on the host, or give the password of the earlier backup as previous_password",
            verdict.reasons,
        )

    def _sealed_by_windows(self, plan: Plan, answer: Result, password: str) -> Sealed:
        """The files as Windows wrote them, never repacked: they must go back into Windows.

        A generation that they lack is exported on its own. What the host has lost stays in the earlier backup's file, which goes
        into the new backup unchanged.
        """
        files = self._exported(answer)
        bundles = [open_bundle(name, data, [password]) for name, data in files.items()]
        faults = [finding for finding in judge(bundles, []).reasons if finding.code != "key_missing"] if bundles else []
        if faults:
            raise KeywardError(
                "nothing was stored",
                "Windows wrote a backup that can't be used: " + "; ".join(fault.message for fault in faults),
                "Run the task again; if it happens again, look at what Backup-CARoleService does on that host",
                faults,
            )
        stuck = {one["thumbprint"].lower(): one for one in answer.get("not_exportable", [])}
        there = [generation for generation in plan.live.generations if generation.private_key == "present"]
        lacking = [generation for generation in there if not _brings_back(bundles, generation) and generation.sha1 not in stuck]
        if lacking:
            more = self.on_host({"export": [generation.sha1.upper() for generation in lacking], "password": password})
            files.update(self._exported(more, taken=len(files)))
            stuck.update({one["thumbprint"].lower(): one for one in more.get("not_exportable", [])})
            bundles = [open_bundle(name, data, [password]) for name, data in files.items()]
        opened_by: dict[str, str] = {}
        for name, earlier in self._carried_over(plan, bundles).items():
            files[name], opened_by[name] = earlier[1], earlier[2]
            bundles.append(earlier[0])
        not_exported = [generation for generation in plan.expected if generation.sha1 in stuck]
        unsaved = [
            reason("not_exportable", g.label, f"its provider answers {stuck[g.sha1]['code']}", g.sha256)
            for g in not_exported
            if not _brings_back(bundles, g)
        ]
        if unsaved:
            raise KeywardError(
                "nothing was stored",
                "; ".join(finding.message for finding in unsaved),
                "Back these keys up by the means of their HSM or TPM, and keep that backup as you would this one. The certificates of all "
                "generations are in the database sets (ca_database_backup)",
                unsaved,
            )
        if not files.keys() - opened_by.keys():
            stuck_now = [reason("not_exportable", g.label, certificate=g.sha256) for g in not_exported]
            raise KeywardError(
                "nothing was stored",
                "Windows gives out none of the keys any more, so that there is nothing to protect with this password",
                "Keep the newest backup, and the password that it was made with: it still holds every key",
                stuck_now,
            )
        storage = key_storage(bundles, {answer["adcs"]["provider"]: answer["adcs"]["provider_type"]})
        expected = [replace(g, key_storage=storage.get(g.public_key_sha256, g.key_storage)) for g in plan.expected]
        self._refuse_unless_restorable(bundles, expected)
        kept = (f"{g.label} can't be exported any more; an earlier backup's file keeps its key" for g in not_exported)
        advisories = tuple(Finding("not_exportable", text, g.sha256) for text, g in zip(kept, not_exported, strict=True))
        return Sealed(files, opened_by, expected, advisories)

    def _exported(self, answer: Result, taken: int = 0) -> dict[str, bytes]:
        """Windows names its files after the CA, with whatever characters that has; a store names them itself."""
        names = (BUNDLE_NAME if number == 0 else f"authority-{number}.p12" for number in itertools.count(taken))
        return dict(zip(names, (base64.b64decode(file["content"]) for file in answer.get("files", []))))

    def _carried_over(self, plan: Plan, bundles: t.Sequence[Bundle]) -> dict[str, tuple[Bundle, bytes, str]]:
        """The files of earlier backups that hold what the new ones lack: by their new names, opened, their bytes, and what opens them."""
        found: dict[str, tuple[Bundle, bytes, str]] = {}
        have = list(bundles)
        for backup in plan.match.backups if plan.match else []:
            lost = [g for g in plan.expected if not _brings_back(have, g)]
            if not lost or not any(g.public_key_sha256 in backup.manifest.public_keys for g in lost):
                continue
            files = backup.files()
            for file in backup.manifest.files:
                opened = open_bundle(file.name, files[file.name], self._passwords, file.sha256)
                if opened.fault or any(_brings_back([opened], g) for g in lost):
                    found[f"earlier-{file.sha256[:16]}.p12"] = (opened, files[file.name], file.opened_by)
                    have.append(opened)
        return found

    def _earlier_bundles(self, known: KnownAuthority, opened: t.Sequence[Bundle], expected: t.Sequence[Generation]) -> list[Bundle]:
        """Bundles of earlier backups, newest first, until they hold every key that the host has lost."""
        lost = {generation.public_key_sha256 for generation in expected} - held_keys(opened)
        found: list[Bundle] = []
        for backup in known.backups:
            if lost & backup.manifest.public_keys:
                found += _open_files(backup, self._passwords)
                lost -= held_keys(found)
        return found

    def _store(self, plan: Plan, sealed: Sealed, password: str) -> tuple[Stored, list[str], bool]:
        """Store one backup in every store. Where another run stored one meanwhile that does as well: that one, and False."""
        moment = name_time()
        identity = secrets.token_hex(16)
        known_id = plan.match.id if plan.match else authority_id(plan.expected)
        authority = replace(plan.live.authority, id=known_id)
        directory = plan.match.name if plan.match else directory_name(authority)
        newest = plan.match.newest if plan.match else None
        manifest = Manifest(
            id=identity,
            sequence=next_sequence(self.stores, directory),
            previous=newest.manifest.id if newest else None,
            authority=authority,
            created=now_text(),
            proved_at=now_text(),
            made={
                "at": now_text(),
                "controller": platform.node(),
                "reason": plan.why,
                "reference": self.options["reference"],
                "versions": {
                    "keyward.pki": COLLECTION_VERSION,
                    "ansible-core": core_version,
                    "cryptography": version("cryptography"),
                    "python": platform.python_version(),
                },
            },
            files=tuple(
                BundleFile(name, hashlib.sha256(data).hexdigest(), len(data), sealed.opened_by.get(name, identity))
                for name, data in sealed.files.items()
            ),
            generations=tuple(sealed.generations),
        )
        name = f"{manifest.sequence:06d}-{moment}"
        with contextlib.ExitStack() as stack:
            staged = []
            for store in self.stores:
                staged.append(stack.enter_context(store.stage()))
                for file, data in sealed.files.items():
                    staged[-1].write(file, data)
            for store in sorted(self.stores, key=lambda store: store.path):
                stack.enter_context(store.locked())
            meanwhile = self._stored_meanwhile(known_id, plan, password)
            if meanwhile:
                return *meanwhile, False
            paths = [backup.commit(document(manifest.as_json()), directory, name) for backup in staged]
        for store in self.stores:
            store.record(directory, self._event("backup", manifest, reason=plan.why, reference=self.options["reference"]))
        return Stored(paths[0], manifest, BACKUPS), paths, True

    def _stored_meanwhile(self, identity: str, plan: Plan, password: str) -> tuple[Stored, list[str]] | None:
        now = next((candidate for candidate in known_authorities(self.stores)[0] if candidate.id == identity), None)
        newest = now.newest if now else None
        seen = plan.match.newest if plan.match else None
        if now is None or newest is None or (seen and newest.manifest.id == seen.manifest.id):
            return None
        if uncovered(plan.expected, now.covered(self.stores)) or not _opens(newest, password):
            raise KeywardError(
                "nothing was stored",
                f"another run stored {newest.path} at the same time",
                "Run the task again: it takes that backup into account",
            )
        return newest, now.paths(newest)

    def _copy(self, plan: Plan) -> None:
        """Give each store the backups that it lacks, byte for byte, without a password."""
        for backup, store in plan.copies:
            directory = os.path.basename(os.path.dirname(backup.path))
            store.copy(backup, directory)
            store.record(directory, self._event("copy", backup.manifest, source=backup.path))


class CaKeyBackupInfo(StoresFlow):
    NAME, ARGUMENTS = "ca_key_backup_info", _arguments.CA_KEY_BACKUP_INFO

    def perform(self) -> Result:
        known, damaged = known_authorities(self.stores)
        live, unreadable = self._look()
        match = self._recognise(known, live) if live else self._named(known)
        earlier = match.generations if match else []
        covered = match.covered(self.stores) if match else frozenset()
        expected = merge_generations(earlier, live.generations if live else [])
        there = {generation.sha256 for generation in live.generations} if live else set()
        lost = [generation for generation in earlier if live and generation.sha256 not in there]
        due_for = uncovered(expected, covered)
        authority = live.authority if live else match.authority if match else None
        newest = match.newest if match else None
        verdict = judge(_open_files(newest, self._passwords), expected) if newest and self._passwords else None
        result: Result = {
            "changed": False,
            "authority": self._authority_result(authority, match) if authority else None,
            "generations": [g.as_result("backup" if g.sha256 in covered else "none") for g in expected],
            "backups": [self._listed(match, backup, expected) for backup in match.backups] if match else [],
            "newest": _backup_result(newest, match.paths(newest)) if match and newest else None,
            "superseded": self._superseded(match) if match else [],
            "under_previous_password": self._under_previous_password(match) if match else [],
            "due": bool(due_for or not newest) if live or match else None,
            "age": self._age(newest) if newest else None,
            "reasons": findings(
                (reason("generation_missing", f"the newest backup, {g.label}", certificate=g.sha256) for g in due_for),
                verdict.reasons if verdict else (),
            ),
            "advisories": findings(
                unreadable,
                live.advisories if live else (),
                damaged,
                match.advisories if match else (),
                self._same_name(known, live) if live else (),
                (Finding("generation_lost_on_host", f"{g.label} is no longer on the host; the backup keeps it", g.sha256) for g in lost),
                (
                    Finding("missing_in_store", f"{store.path} lacks {backup.name}")
                    for backup, store in (match.copies(self.stores) if match else [])
                ),
                generation_advisories(expected, now_text()),
                verdict.advisories if verdict else (),
            ),
        }
        if verdict:
            result["restorable"] = verdict.restorable
        return result

    def _look(self) -> tuple[Live | None, list[Finding]]:
        if not self._has_an_authority:
            return None, []
        try:
            return live_of(self.on_host({}), self._host), []
        except NothingOnHost as exc:
            return None, [Finding("nothing_on_host", str(exc))]
        except KeywardError as exc:
            return None, [Finding("authority_unreadable", str(exc))]

    def _listed(self, known: KnownAuthority, backup: Stored, expected: t.Sequence[Generation]) -> Result:
        return {
            **_backup_result(backup, known.paths(backup)),
            "sequence": backup.manifest.sequence,
            "previous": backup.manifest.previous,
            "made": dict(backup.manifest.made),
            "generations": [generation.sha256 for generation in backup.manifest.generations],
            "covers_all": not uncovered(expected, backup.manifest.fingerprints),
        }

    def _superseded(self, known: KnownAuthority) -> list[str]:
        older = known.backups[1:]
        return [b.manifest.id for b in older if b.manifest.fingerprints <= known.backups[0].manifest.fingerprints]

    def _under_previous_password(self, known: KnownAuthority) -> list[str]:
        changed = max((b.manifest.sequence for b in known.backups if b.manifest.made["reason"] == "password_change"), default=0)
        return [backup.manifest.id for backup in known.backups if backup.manifest.sequence < changed]

    def _age(self, backup: Stored) -> int:
        return int((now() - parse_time(backup.manifest.created)).total_seconds())


class ChosenBackup(t.NamedTuple):
    """The backup that a task is about, opened and with what it must bring back."""

    stored: Stored | None  # None for a PKCS #12 file without a manifest
    paths: list[str]
    files: dict[str, bytes]
    bundles: list[Bundle]
    generations: list[Generation]


class BackupFlow(StoresFlow):
    """What verify and restore share: the one backup that is meant."""

    def _choose(self, live: Live | None) -> ChosenBackup:
        given, stores = self.options.get("backup"), self.options.get("stores")
        if (given is None) == (not stores):
            raise KeywardError(
                f"{self.NAME} can't run", "it needs either backup or stores", "Give the backup's path, or the stores to look in"
            )
        if given is not None:
            found = GivenBackup(given)
            return self._opened(found.stored, [found.path], found.files)
        known, _damaged = known_authorities(self.stores)
        match = self._recognise(known, live) if live else self._named(known)
        if match is None:
            whose = f"{live.authority.subject} on {self._host}" if live else f"an authority on {self._host}"
            names = ", ".join(sorted(candidate.name for candidate in known)) or "none"
            raise KeywardError(
                "no backup was found",
                f"the stores hold none of {whose}",
                f"They hold: {names}. Give the right one's directory as backup, or mount the right store",
            )
        newest = match.newest
        if newest is None:
            raise KeywardError(
                f"no backup of {match.name} can be used",
                "; ".join(advisory.message for advisory in match.advisories),
                "Mount another copy of the store, or give a PKCS #12 file of this authority as backup",
                match.advisories,
            )
        return self._opened(newest, match.paths(newest), newest.files())

    def _opened(self, stored: Stored | None, paths: list[str], files: dict[str, bytes]) -> ChosenBackup:
        self._required("password", "Give the password of the backup")
        recorded = {file.name: file.sha256 for file in stored.manifest.files} if stored else {}
        bundles = [open_bundle(name, data, self._passwords, recorded.get(name)) for name, data in files.items()]
        generations = list(stored.manifest.generations) if stored else bundle_generations(bundles)
        return ChosenBackup(stored, paths, files, bundles, generations)

    def _bundles(self, chosen: ChosenBackup) -> Result:
        """What the host needs to put a backup's keys and certificates back."""
        opened = {bundle.name: bundle for bundle in chosen.bundles}
        return {
            "restore": True,
            "bundles": [
                {
                    "name": name,
                    "content": base64.b64encode(data).decode("ascii"),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "password": opened[name].password_used,
                    "holds": [g.sha1.upper() for g in chosen.generations if g.public_key_sha256 in held_keys([opened[name]])],
                }
                for name, data in chosen.files.items()
            ],
            "generations": [
                {**generation.as_json(), "sha1": generation.sha1.upper(), "sha256": generation.sha256} for generation in chosen.generations
            ],
            "authority": vars(chosen.stored.manifest.authority) if chosen.stored else None,
            # What was imported into Windows is exported once more, under a password of this moment, to see whether it can be.
            "trial_password": secrets.token_urlsafe(24),
        }

    def _trial(self, chosen: ChosenBackup, answer: Result, password: str) -> list[Finding]:
        """What the trial export shows of keys that were imported into Windows: can the next backup be made, and are they kept as before?"""
        trial = [open_bundle(file["name"], base64.b64decode(file["content"]), [password]) for file in answer.get("trial", [])]
        recorded = {g.public_key_sha256: g.key_storage for g in chosen.generations if g.key_storage}
        before = {**key_storage(chosen.bundles, {}), **recorded}
        after = key_storage(trial, {})
        found = []
        for generation in chosen.generations if answer.get("trial") or answer.get("not_exportable") else ():
            key = generation.public_key_sha256
            if key not in held_keys(trial):
                text = f"{generation.label} is back, and its private key can't be exported: the next key backup will fail"
                found.append(Finding("not_exportable", text, generation.sha256))
                continue
            was, is_now = before.get(key, {}), after.get(key, {})
            differ = [name for name in ("provider", "key_spec", "machine_key") if name in was and was[name] != is_now.get(name)]
            if differ:
                text = ", ".join(f"{name} is {is_now.get(name)} and was {was[name]}" for name in differ)
                text = f"{generation.label} is not kept as before: {text}. Repair it before the next renewal (certutil -repairstore)"
                found.append(Finding("key_storage_changed", text, generation.sha256))
        return found

    def _backup_result(self, chosen: ChosenBackup) -> Result:
        if chosen.stored:
            return _backup_result(chosen.stored, chosen.paths)
        files = [{"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in chosen.files.items()]
        return {"id": None, "paths": chosen.paths, "created": None, "proved_at": None, "files": files}


class CaKeyVerify(BackupFlow):
    NAME, ARGUMENTS = "ca_key_verify", _arguments.CA_KEY_VERIFY

    def perform(self) -> Result:
        live = live_of(self.on_host({}), self._host) if self._names_an_authority else None
        chosen = self._choose(live)
        manifest = chosen.stored.manifest if chosen.stored else None
        expected = chosen.generations
        if live:
            own = is_backup_of(live.authority, live.generations, manifest.authority if manifest else None, chosen.generations)
            expected = merge_generations(chosen.generations if own else [], live.generations)
        verdict = judge(chosen.bundles, expected)
        contents = [bundle.contents for bundle in chosen.bundles if bundle.contents]
        result: Result = {
            "changed": False,
            "restorable": verdict.restorable,
            "authority": live.authority.as_result() if live else manifest.authority.as_result() if manifest else None,
            "generations": [g.as_result() for g in expected],
            "backup": self._backup_result(chosen),
            "private_keys": sorted({entry.public_key_sha256 for content in contents for entry in content.private_keys}),
            "certificates": [
                _certificate_result(der) for der in dict.fromkeys(e.der for content in contents for e in content.certificates)
            ],
            "encryption": _encryption_result(contents),
            "reasons": findings(verdict.reasons),
            "advisories": findings(live.advisories if live else (), verdict.advisories, generation_advisories(expected, now_text())),
        }
        if not verdict.restorable:
            error = KeywardError(
                f"{chosen.paths[0]} is not restorable",
                "; ".join(fault.message for fault in verdict.reasons),
                "Give the password that it was made with; where it has been changed, the old one as previous_password"
                if all(fault.code == "password_wrong" for fault in verdict.reasons)
                else "Make a new backup while the CA's keys are still there (ca_key_backup), or find another one (ca_key_backup_info)",
            )
            result.update(failed=True, msg=str(error))
        return result


def _certificate_result(der: bytes) -> Result:
    try:
        generation = generation_of(der)
    except ValueError:
        return {
            "subject": None,
            "fingerprints": {"sha1": None, "sha256": hashlib.sha256(der).hexdigest()},
            "public_key_sha256": None,
            "not_after": None,
        }
    shape = generation.as_result()
    return {name: shape[name] for name in ("subject", "fingerprints", "public_key_sha256", "not_after")}


def _encryption_result(contents: t.Sequence[_pkcs12_reader.Contents]) -> Result | None:
    """One statement for all files of a backup: the weakest of them counts."""
    if not contents:
        return None
    all_of = [content.encryption for content in contents]
    return {
        "key": "; ".join(dict.fromkeys(name for encryption in all_of for name in encryption.key)),
        "certificates": "; ".join(dict.fromkeys(name for encryption in all_of for name in encryption.certificates)),
        "mac": "; ".join(dict.fromkeys(encryption.mac or "none" for encryption in all_of)),
        "iterations": min(encryption.iterations for encryption in all_of),
        "weak": any(encryption.weak for encryption in all_of),
    }


def _recorded_place(chosen: ChosenBackup) -> Result:
    """Selector CA, as the backup's manifest tells it."""
    if not chosen.stored:
        raise KeywardError(
            "nothing was restored", "a PKCS #12 file does not say where its CA lives", "Give config_file, or directory and the files"
        )
    return recorded_place(chosen.stored.manifest.authority)


class CaKeyRestore(BackupFlow):
    NAME, ARGUMENTS = "ca_key_restore", _arguments.CA_KEY_RESTORE

    def perform(self) -> Result:
        self._required("password", "Give the password of the backup")
        chosen = None if self._has_an_authority else self._choose(None)
        place = _recorded_place(chosen) if chosen else None
        try:
            live = live_of(self.on_host({}, place), self._host)
        except NothingOnHost:
            live = None
        chosen = chosen or self._choose(live)
        verdict = judge(chosen.bundles, chosen.generations)
        if not verdict.restorable:
            raise KeywardError(
                "nothing was restored",
                f"{chosen.paths[0]} is not restorable: " + "; ".join(fault.message for fault in verdict.reasons),
                "Give another backup (ca_key_backup_info lists them), or the right password",
                verdict.reasons,
            )
        manifest = chosen.stored.manifest if chosen.stored else None
        if live:  # before any byte of the bundle travels
            refuse_foreign(live.authority, live.generations, manifest.authority if manifest else None, chosen.generations)
        outcome, trial = self._put_back(chosen, place)
        result: Result = {
            "changed": outcome["changed"],
            "restorable": True,
            "authority": self._authority(live, manifest),
            "generations": [g.as_result("backup") for g in chosen.generations],
            "backup": self._backup_result(chosen),
            "restored": outcome["restored"],
            "set_aside": outcome["set_aside"],
            "reasons": [],
            "advisories": findings(
                live.advisories if live else (), verdict.advisories, trial, generation_advisories(chosen.generations, now_text())
            ),
        }
        if outcome["changed"] and not self._check:
            self._record(chosen, outcome)
        if self._task.diff:
            result["diff"] = {
                "before": "".join(f"{file['path']}: missing\n" for file in outcome["restored"]),
                "after": "".join(f"{file['path']}: {file['kind']}\n" for file in outcome["restored"]),
            }
        return result

    def _put_back(self, chosen: ChosenBackup, place: Result | None) -> tuple[Result, list[Finding]]:
        conflicts = {name: self.options[name] for name in ("on_conflict", "allow_unencrypted_key")}
        request = {**self._bundles(chosen), **conflicts}
        outcome = self.on_host(request, place)
        return outcome, self._trial(chosen, outcome, request["trial_password"])

    def _authority(self, live: Live | None, manifest: Manifest | None) -> Result | None:
        authority = live.authority if live else manifest.authority if manifest else None
        return replace(authority, id=manifest.authority.id if manifest else None).as_result() if authority else None

    def _record(self, chosen: ChosenBackup, outcome: Result) -> None:
        if not chosen.stored:
            return
        details = {"restored": outcome["restored"], "set_aside": outcome["set_aside"]}
        for path in chosen.paths if self.options.get("stores") else [chosen.stored.path]:
            place = store_of(Stored(path, chosen.stored.manifest, BACKUPS))
            if place:
                place[0].record(place[1], self._event("restore", chosen.stored.manifest, **details))
