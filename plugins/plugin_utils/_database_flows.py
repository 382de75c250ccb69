# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what backing up and restoring databases do on the controller; may change in any release."""

from __future__ import annotations

import base64
import contextlib
import os
import platform
import re
import secrets
import typing as t
from dataclasses import replace
from importlib.metadata import version

from ansible import __version__ as core_version
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _x509
from ansible_collections.keyward.pki.plugins.module_utils._database_host import (
    given_set,
    keep,
    of_place,
    only_set,
    set_manifest,
    set_name,
    set_result,
)
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import age_in_seconds, due_reasons, refuse_emptied
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import LeftOut, prove_archive, read_members
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_copy import MadeSet
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_restore import issued_in
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import index_time
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, authority_id, directory_name
from ansible_collections.keyward.pki.plugins.module_utils._manifest import (
    ARCHIVE,
    MEMBERS,
    SetFile,
    SetManifest,
    State,
    are_files_of_a_set,
    set_manifest_from_json,
)
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_CRL
from ansible_collections.keyward.pki.plugins.module_utils._store import (
    SETS,
    AuthorityDirectory,
    Staged,
    Store,
    Stored,
    digest_of,
    document,
    recognise,
)
from ansible_collections.keyward.pki.plugins.module_utils._time import now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._verdict import refuse_foreign
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex, load_crl, signed_by
from ansible_collections.keyward.pki.plugins.plugin_utils._flow import Flow, NothingOnHost, Result
from ansible_collections.keyward.pki.plugins.plugin_utils._flows import COLLECTION_VERSION, Live, findings, live_of, recorded_place
from ansible_collections.keyward.pki.plugins.plugin_utils._windows_sets import (
    POLICY,
    REGISTRY,
    REVOCATION_REASONS,
    HostSet,
    HostStore,
    PublishedSince,
    covers,
    facts_of,
    for_another_host,
    published_since,
    state_of,
)

# How openssl ca names the reasons of RFC 5280, 5.3.1; it has no names for the others.
_REASONS = {
    "keyCompromise": "keyCompromise",
    "cACompromise": "CACompromise",
    "affiliationChanged": "affiliationChanged",
    "superseded": "superseded",
    "cessationOfOperation": "cessationOfOperation",
    "certificateHold": "certificateHold",
}


class SetFlow(Flow):
    """What tasks share that look into stores of sets."""

    def refusal(self, error: KeywardError) -> Result:
        return {**super().refusal(error), "reasons": [finding.as_result() for finding in error.findings]}

    def _one_of(self, *names: str) -> None:
        if len([name for name in names if self.options.get(name)]) != 1:
            raise KeywardError(f"{self.NAME} can't run", f"it needs exactly one of {', '.join(names)}", "Give one of them")

    def _stores(self) -> list[Store]:
        found = {store.path: store for store in (Store(path, SETS) for path in self.options["stores"])}
        return list(found.values())

    def _made(self) -> Result:
        versions = {"keyward.pki": COLLECTION_VERSION, "ansible-core": core_version, "python": platform.python_version()}
        return {"at": now_text(), "controller": platform.node(), "versions": {**versions, "cryptography": version("cryptography")}}

    @contextlib.contextmanager
    def _remote_directory(self) -> t.Iterator[str]:
        """A directory of the login user on the host that is gone afterwards."""
        path = str(self._make_tmp_path())
        try:
            yield path
        finally:
            self._remove_tmp_path(path, force=True)

    def _transfer(self, transfer: t.Callable[[str, str], t.Any], source: str, target: str) -> None:
        try:
            transfer(source, target)
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as exc:
            cause = exc.__cause__ or getattr(exc, "orig_exc", None)
            why = os_cause(cause) if isinstance(cause, OSError) else "the connection's file transfer failed"
            raise KeywardError(
                f"{os.path.basename(source)} was not transferred", why, f"Check the room and the permissions of {os.path.dirname(target)}"
            ) from exc

    def _on_host_path(self, folder: str, name: str) -> str:
        return str(self._connection._shell.join_path(folder, name))


class CaDatabaseBackup(SetFlow):
    NAME, ARGUMENTS = "ca_database_backup", _arguments.CA_DATABASE_BACKUP

    def perform(self) -> Result:
        self._one_of("stores", "host_store")
        self._age = age_in_seconds(self.options["max_age"]) if self.options["max_age"] else None
        if self.options["keep_full_sets"] is not None and self.options["keep_full_sets"] < 1:
            raise KeywardError(
                "ca_database_backup can't run", "keep_full_sets is less than 1", "Give the number of sets to keep, at least 1"
            )
        return self._here() if self.options["stores"] else self._there()

    def _there(self) -> Result:
        """All of it on the host: nothing travels."""
        names = ("host_store", "max_age", "keep_full_sets")
        answer = self.on_host({**{name: self.options[name] for name in names}, "made": self._made()})
        if "adcs" in answer:
            return self._in_store_of_windows(answer)
        live = live_of(answer, self._host)
        reasons = [Finding(**reason) for reason in answer["reasons"]]
        store_advisories = [Finding(**advisory) for advisory in answer["store_advisories"]]
        left_out = [LeftOut(**one) for one in answer["left_out"]]
        return self._result(
            live, answer["id"], State(**answer["state"]), reasons, answer["set"], left_out, answer["removed"], store_advisories
        )

    def _in_store_of_windows(self, look: Result) -> Result:
        """The host told what its store holds. Whether a set is due is decided here; made and stored it is there."""
        live, state, store = live_of(look, self._host), state_of(look["state"]), HostStore(look["store"])
        directory = store.recognise(live.authority, live.generations)
        newest = store.newest(directory) if directory else None
        identity = next((one.manifest.authority.id for one in store.sets if one.directory == directory), None)
        refuse_emptied(state, live.generations, newest.manifest if newest else None)
        reasons = due_reasons(state, newest.manifest if newest else None, self._age, now())
        shown = set_result(newest.manifest, [newest.path(self.options["host_store"])]) if newest else None
        removed: list[str] = []
        if reasons and not self._check:
            authority = replace(live.authority, id=identity or authority_id(live.generations))
            manifest = SetManifest(
                id=secrets.token_hex(16),
                sequence=store.next_sequence(directory) if directory else 1,
                previous=newest.manifest.id if newest else None,
                kind="full",
                authority=authority,
                created=now_text(),
                as_of=now_text(),
                made={**self._made(), "reason": reasons[0].code},
                files=(),
                members=0,
                state=state,
                left_out=(),
                generations=tuple(live.generations),
                adcs=facts_of(look),
            )
            commit = {
                "directory": directory or directory_name(authority),
                "name": set_name(manifest),
                "manifest": manifest.as_json(),
                "keep": self.options["keep_full_sets"],
                "event": self._event(manifest),
            }
            done = self.on_host({**self._order, "make": None, "host_store": self.options["host_store"], "commit": commit})
            files = tuple(SetFile(one["name"], one["sha256"], one["size"]) for one in done["files"])
            manifest = replace(manifest, files=files, members=len(files), as_of=done["as_of"])
            shown, removed, identity = set_result(manifest, [done["path"]]), done["removed"], authority.id
        return self._result(live, identity, state, reasons, shown, [], removed, store.advisories)

    @property
    def _order(self) -> Result:
        return {"truncate_logs": self.options["truncate_logs"]}

    def _event(self, manifest: SetManifest) -> Result:
        return {"event": "set", "at": now_text(), "controller": platform.node(), "host": self._host, "set": manifest.id}

    def _here(self) -> Result:
        stores = self._stores()
        for store in stores:
            store.refuse_if_not_writable()
        answer = self.on_host({})
        live = live_of(answer, self._host)
        state = state_of(answer["state"]) if "adcs" in answer else State(**answer["state"])
        known = {store.path: recognise(store.authorities(), live.authority, live.generations) for store in stores}
        directories = [directory for directory in known.values() if directory]
        newest = max((directory.newest for directory in directories if directory.newest), key=lambda one: one.rank, default=None)
        advisories = [advisory for directory in directories for advisory in directory.advisories]
        refuse_emptied(state, live.generations, newest.manifest if newest else None)
        reasons = due_reasons(state, newest.manifest if newest else None, self._age, now())
        identity = next((one.latest.manifest.authority.id for one in directories if one.latest), None)
        paths = [os.path.join(d.path, newest.name) for d in directories if newest and any(one.name == newest.name for one in d.all)]
        shown = set_result(newest.manifest, paths) if newest else None
        lacking = [store for store in stores if newest and not reasons and not self._has(known[store.path], newest)]
        left_out: list[LeftOut] = []
        removed: list[str] = []
        if reasons and not self._check:
            authority = replace(live.authority, id=identity or authority_id(live.generations))
            name = directories[0].name if directories else directory_name(authority)
            manifest, paths, removed, made = self._store(stores, authority, live, name, reasons, answer)
            shown, state, left_out, identity = set_result(manifest, paths), made.state, list(made.left_out), authority.id
            if made.unfinished:
                text = "openssl ca was stopped while it issued, or still does: files that end in .new, or a lock, lie beside the database"
                advisories.append(Finding("unfinished_issue", text))
        elif lacking and newest and shown and not self._check:
            shown["paths"] += [store.copy(newest, directories[0].name) for store in lacking]
        return self._result(live, identity, state, reasons, shown, left_out, removed, advisories, bool(lacking))

    def _has(self, directory: AuthorityDirectory | None, one: Stored) -> bool:
        return bool(directory and any(other.name == one.name and other.damage is None for other in directory.all))

    def _store(
        self, stores: t.Sequence[Store], authority: Authority, live: Live, name: str, reasons: t.Sequence[Finding], look: Result
    ) -> tuple[SetManifest, list[str], list[str], MadeSet]:
        first, *others = stores
        with first.stage() as staged:
            made, adcs = self._fetched(staged, look)
            if adcs is None:
                prove_archive(os.path.join(staged.path, ARCHIVE), read_members(os.path.join(staged.path, MEMBERS)))
            with first.locked():
                directory = first.authority(name)
                taken = [store.authority(name).next_sequence for store in stores]
                about = {**self._made(), "reason": reasons[0].code}
                manifest = set_manifest(made, authority, live.generations, directory, about, adcs)
                manifest = replace(manifest, sequence=max(taken))
                paths = [staged.commit(document(manifest.as_json()), name, set_name(manifest))]
        stored = Stored(paths[0], manifest, SETS)
        paths += [store.copy(stored, name) for store in others]
        removed = []
        for store in stores:
            removed += keep(store, name, self.options["keep_full_sets"], self._host)
            store.record(name, self._event(manifest))
        return manifest, paths, removed, made

    def _fetched(self, staged: Staged, look: Result) -> tuple[MadeSet, Result | None]:
        """A set made on the host and moved by the connection's own file transfer, digests compared; and what is Windows' own of it."""
        on_windows = "adcs" in look
        with self._remote_directory() as folder:
            answer = self.on_host({"make": folder, **(self._order if on_windows else {})})
            files = tuple(SetFile(shape["name"], shape["sha256"], shape["size"]) for shape in answer["files"])
            if not are_files_of_a_set([file.name for file in files], on_windows):  # they become paths here
                raise KeywardError(
                    "nothing was stored",
                    f"the host {self._host} answered with other files than those of a set",
                    "Look into that host: no release of the collection answers so",
                )
            for file, shape in zip(files, answer["files"], strict=True):
                staged.write(file.name, b"")
                local = staged.place_of(file.name)
                self._transfer(self._connection.fetch_file, shape.get("path") or self._on_host_path(folder, file.name), local)
                if digest_of(local) != file.sha256:
                    raise KeywardError(
                        "nothing was stored",
                        f"{file.name} did not arrive as it was made on the host",
                        "Check the connection and the disks",
                    )
        if on_windows:
            made = MadeSet(files, len(files), state_of(answer["state"]), answer["as_of"], (), False)
            return made, facts_of({**look, "state": answer["state"]})
        left_out = tuple(LeftOut(**one) for one in answer["left_out"])
        return MadeSet(files, answer["members"], State(**answer["state"]), answer["as_of"], left_out, answer["unfinished"]), None

    def _result(
        self,
        live: Live,
        identity: str | None,
        state: State,
        reasons: t.Sequence[Finding],
        stored: Result | None,
        left_out: t.Sequence[LeftOut],
        removed: t.Sequence[str],
        advisories: t.Sequence[Finding],
        copied: bool = False,
    ) -> Result:
        found = [Finding("private_key_left_out", f"{one.path} was left out: {one.why}") for one in left_out if one.count is None]
        result: Result = {
            "changed": bool(reasons) or copied,
            "authority": replace(live.authority, id=identity).as_result(),
            "set": stored,
            "due": bool(reasons),
            "database": {name: getattr(state, name) for name in ("entries", "next_serial", "next_crl_number")},
            "left_out": [dict(vars(one)) for one in left_out],
            "removed": list(removed),
            "reasons": findings(reasons),
            "advisories": findings(live.advisories, advisories, found),
        }
        if self._task.diff:
            after = f"{state.entries} entries, next serial {state.next_serial}, next CRL number {state.next_crl_number}\n"
            result["diff"] = {"before": "" if reasons else after, "after": after}
        return result


class CaDatabaseRestore(SetFlow):
    NAME, ARGUMENTS = "ca_database_restore", _arguments.CA_DATABASE_RESTORE

    def perform(self) -> Result:
        self._one_of("stores", "host_store", "set")
        options: Result = {name: self.options[name] for name in ("part", "on_conflict")}
        options.update(advance=self._advance(), controller=platform.node())
        answer = self._from_host_store(options) if self.options["host_store"] else self._from_here(options)
        manifest = answer["manifest"] if isinstance(answer["manifest"], SetManifest) else set_manifest_from_json(answer["manifest"])
        result: Result = {
            "changed": answer["changed"],
            "authority": replace(manifest.authority, host=self._host).as_result(),
            "set": answer["set"],
            "as_of": manifest.as_of,
            **{
                name: answer[name]
                for name in ("restored", "set_aside", "next_serial", "next_crl_number", "advanced", "reentered", "advisories")
            },
            "reasons": [],
        }
        if self._task.diff:
            result["diff"] = {
                "before": "".join(f"{one['path']}\n" for one in result["set_aside"]),
                "after": "".join(f"{one['path']}: {one['part']}\n" for one in result["restored"]),
            }
        return result

    def _advance(self) -> t.Any:
        given = self.options["advance"]
        if given in (None, "auto"):
            return given
        if not isinstance(given, dict) or set(given) - {"serial", "crl_number"} or not given:
            raise KeywardError(
                "ca_database_restore can't run", "advance is neither auto nor a dictionary of serial and crl_number", "Correct it"
            )
        for name, number in given.items():
            if not re.match(r"[0-9A-Fa-f]+\Z", str(number)):
                raise KeywardError(
                    "ca_database_restore can't run", f"advance.{name} is no hexadecimal number", "Give hex digits, in quotes"
                )
        return {name: str(number) for name, number in given.items()}

    def _from_host_store(self, options: Result) -> Result:
        look = self.on_host({"host_store": self.options["host_store"]})
        if "store" in look:
            return self._restored_by_windows(look, None)
        generations = set_manifest_from_json(look["manifest"]).generations
        options.update(host_store=self.options["host_store"], published=self._published(generations))
        return self.on_host({"restore": options})

    def _from_here(self, options: Result) -> Result:
        chosen = given_set(self.options["set"]) if self.options["set"] else None
        if chosen:
            self._refuse_other_system(chosen.manifest)
        place = None
        if chosen and not self._has_an_authority:
            recorded = chosen.manifest.authority
            place = recorded_place(recorded)
        look: Result = {}
        try:
            look = self.on_host({}, place)
            live = live_of(look, self._host)
        except NothingOnHost as exc:
            live = None
            look = look or ({"adcs": None} if exc.backend == "adcs" else {})
        chosen = chosen or self._of_stores(live)
        if chosen.damage:
            raise KeywardError(
                "nothing was restored", f"{chosen.path} can't be used: {chosen.damage}", "Use another set, or another copy of it"
            )
        manifest = chosen.manifest
        if live:
            refuse_foreign(live.authority, live.generations, manifest.authority, manifest.generations)
        if "adcs" in look:
            return self._restored_by_windows(look, chosen)
        options.update(manifest=manifest.as_json(), published=self._published(manifest.generations))
        with self._remote_directory() as folder:
            sent = []
            for name in (ARCHIVE, MEMBERS):
                sent.append(self._on_host_path(folder, name))
                self._transfer(self._connection.put_file, os.path.join(chosen.path, name), sent[-1])
            self._fixup_perms2([folder, *sent])
            answer = self.on_host({"restore": {**options, "folder": folder}}, place)
        answer["set"]["paths"] = [chosen.path]
        if answer["changed"] and not self._check:
            self._record(chosen)
        return answer

    def _refuse_other_system(self, manifest: SetManifest) -> None:
        if (manifest.adcs is not None) is not self._is_windows:
            there, here = ("openssl", "a Windows host") if self._is_windows else ("Windows", "no Windows host")
            raise KeywardError("nothing was restored", f"the set is of a CA that ran on {there}, and this is {here}", "Name another set")

    def _restored_by_windows(self, look: Result, chosen: Stored | None) -> Result:
        """Decided here: which set, whether it is older than what is out there, whether the database is in the way. Done on the host."""
        if isinstance(self._advance(), dict):
            raise KeywardError(
                "ca_database_restore can't run",
                "AD CS draws its serial numbers at random and counts its CRLs itself: on Windows no number can be given",
                "Give advance: auto; revocations that the set lacks are entered again",
            )
        live = live_of(look, self._host) if look.get("generations") else None
        in_store = None if chosen else self._of_windows_store(HostStore(look["store"]), live)
        manifest = chosen.manifest if chosen else t.cast(HostSet, in_store).manifest
        self._refuse_other_system(manifest)
        recorded = t.cast(t.Mapping[str, t.Any], manifest.adcs)
        if live:
            refuse_foreign(live.authority, live.generations, manifest.authority, manifest.generations)
        whole = self.options["part"] == "all"
        crls = [self._crl(path, manifest.generations) for path in self.options["published_crl"] or ()]
        published = published_since(manifest, crls, self.options["published_certificates"])
        if whole and published.newer and self._advance() is None:
            raise KeywardError(
                "nothing was restored",
                "; ".join(finding.message for finding in published.newer),
                "Find a newer set, or give advance: auto: revocations are entered again, and you publish CRLs beyond the last number",
                published.newer,
            )
        wanted = whole and self._is_wanted(look, recorded)
        # A CA that was renewed since the set was made must not forget the generation that it has now.
        known = {generation.sha256 for generation in manifest.generations}
        grown = live is not None and any(generation.sha256 not in known for generation in live.generations)
        exported = self._exported_registry(chosen, in_store) if wanted else b""
        order: Result = {
            "part": self.options["part"],
            "folder": None,
            "files": [],
            "set_path": in_store.path(self.options["host_store"]) if in_store else None,
            "registry": base64.b64encode(for_another_host(exported, "", "", ["CACertHash"] if grown else [])[0]).decode("ascii")
            if wanted
            else None,
            "ca_type": recorded["ca_type"],
            "certificate_id": manifest.generations[-1].sha1.upper(),
            "database_directory": manifest.authority.directory,
            "log_directory": recorded["log_directory"],
            "restore_database": wanted,
            "write_capolicy": any(file.name == POLICY for file in manifest.files),
            "set_aside_capolicy": self.options["on_conflict"] == "set_aside",
            "revoke": [
                {"serial": serial, "reason": REVOCATION_REASONS.get(why or "", 0)} for serial, _when, why in published.revocations if wanted
            ],
            "expected": {"last_request_id": recorded["last_request_id"]},
        }
        place = {"backend": "adcs", "name": manifest.authority.name}
        answer = self._sent(chosen, order, wanted, place) if chosen else self._told(order, manifest, wanted, place)
        if chosen and answer["changed"] and not self._check:
            self._record(chosen)
        return self._restored_result(answer, manifest, published, exported, chosen.path if chosen else order["set_path"])

    def _of_windows_store(self, store: HostStore, live: Live | None) -> HostSet:
        found = store.recognise(live.authority, live.generations) if live else None
        directories = [found] if found else [] if live else store.of_host(self._host, self.options["name"])
        if len(directories) > 1:
            raise KeywardError(
                "nothing was restored",
                f"it can't be told which authority of {self._host} is meant: " + " or ".join(sorted(directories)),
                "Give its name",
            )
        newest = store.newest(directories[0]) if directories else None
        if newest is None:
            raise KeywardError(
                "nothing was restored", f"no intact set of this authority on {self._host} is stored", "Mount the right store, or name a set"
            )
        return newest

    def _is_wanted(self, look: Result, recorded: t.Mapping[str, t.Any]) -> bool:
        """Whether the set's database is to take the place of what is there."""
        there, aside = look.get("state"), self.options["on_conflict"] == "set_aside"
        facts = look.get("adcs")
        if not facts or not look["database"]["exists"] or facts["restore_in_progress"]:
            return True
        why = None
        if there is None:
            why = "the CA does not answer, so it can't be told what its database holds"
        elif covers(there, recorded):
            return aside and not covers(recorded, there)
        elif not covers(recorded, there):
            why = "the database on the host has entries or revocations that the set lacks"
        if why and not aside:
            raise KeywardError(
                "nothing was restored",
                why,
                "Start the CA, or use a newer set. With on_conflict: set_aside the database is kept beside its place, and the set takes it",
                [Finding("conflict", why)],
            )
        return True

    def _exported_registry(self, chosen: Stored | None, in_store: HostSet | None) -> bytes:
        if chosen:
            return read_file(os.path.join(chosen.path, REGISTRY), "the exported registry")
        path = f"{t.cast(HostSet, in_store).directory}/{t.cast(HostSet, in_store).name}/{REGISTRY}"
        told = self.on_host({"host_store": self.options["host_store"], "read": path})
        return base64.b64decode(told["content"])

    def _sent(self, chosen: Stored, order: Result, whole: bool, place: Result) -> Result:
        """In check mode the database stays where it is: whether it would be restored is known already."""
        with self._remote_directory() as folder:
            sent = []
            for number, file in enumerate(chosen.manifest.files):
                if file.name == POLICY or (whole and not self._check and file.name.startswith("DataBase/")):
                    sent.append({**vars(file), "sent_as": f"file-{number}"})
                    target = self._on_host_path(folder, f"file-{number}")
                    self._transfer(self._connection.put_file, os.path.join(chosen.path, file.name), target)
            self._fixup_perms2([folder, *(self._on_host_path(folder, file["sent_as"]) for file in sent)])
            return self.on_host({"restore": {**order, "folder": folder, "files": sent}}, place)

    def _told(self, order: Result, manifest: SetManifest, whole: bool, place: Result) -> Result:
        wanted = [file for file in manifest.files if file.name == POLICY or (whole and file.name.startswith("DataBase/"))]
        files = [{**vars(file), "sent_as": file.name} for file in wanted]
        return self.on_host({"restore": {**order, "files": files}}, place)

    def _restored_result(self, answer: Result, manifest: SetManifest, published: PublishedSince, exported: bytes, path: str) -> Result:
        advisories = [Finding(**advisory) for advisory in answer["advisories"]]
        state = answer.get("state")
        following = state["next_crl_number"] if state else None
        if exported:
            advisories += published.newer
            facts = manifest.adcs or {}
            advisories += for_another_host(exported, facts["computer"], (answer.get("adcs") or {}).get("computer") or facts["computer"])[1]
            if published.last_crl_number is not None and (following or 0) <= published.last_crl_number:
                text = f"the next CRL has the number {following or 0:X}, and {published.last_crl_number:X} is published"
                advisories.append(Finding("crl_number_behind", text + ": publish CRLs (certutil -CRL) until theirs is higher"))
            if (manifest.adcs or {}).get("archived_keys") in ("unknown", "present"):
                text = "the database may hold archived keys: to recover them, the KRA certificates' keys are needed: "
                advisories.append(Finding("archived_keys", text + ", ".join((manifest.adcs or {})["kra_certificates"])))
        for failed in answer["failed_revocations"]:
            text = f"certificate {failed['serial']} could not be revoked again ({failed['code']}): revoke it by hand"
            advisories.append(Finding("revocation_not_reentered", text))
        if answer["reboot_required"]:
            text = "Windows wants to be restarted before the CA can be configured; run this again afterwards"
            advisories.append(Finding("reboot_required", text))
        entered = {serial: (index_time(when), _REASONS.get(why or "")) for serial, when, why in published.revocations}
        return {
            "changed": answer["changed"],
            "manifest": manifest,
            "set": set_result(manifest, [path]),
            "restored": answer["restored"],
            "set_aside": answer["set_aside"],
            "next_serial": None,
            "next_crl_number": even_hex(following) if following is not None else None,
            "advanced": {"serial": None, "crl_number": None},
            "reentered": [
                {"serial": serial, "revoked_at": entered[serial][0], "reason": entered[serial][1]} for serial in answer["reentered"]
            ],
            "advisories": findings(advisories),
        }

    def _of_stores(self, live: Live | None) -> Stored:
        found: list[Stored] = []
        for store in self._stores():
            if live:
                directory = recognise(store.authorities(), live.authority, live.generations)
                directories = [directory] if directory else []
            else:
                directories = of_place(store, self._host, self.options)
            if directories and (len(directories) > 1 or directories[0].newest):
                found.append(only_set(directories, self._host))
        return max(found, key=lambda one: one.rank) if found else only_set([], self._host)

    def _record(self, chosen: Stored) -> None:
        folder = os.path.dirname(os.path.realpath(chosen.path))
        try:
            store = Store(os.path.dirname(folder), SETS)
        except KeywardError:
            return  # a set that lies in no store
        event = {"event": "restore", "at": now_text(), "controller": platform.node(), "host": self._host, "set": chosen.manifest.id}
        store.record(os.path.basename(folder), event)

    def _published(self, generations: t.Sequence[Generation]) -> Result:
        """What is out there, as numbers: the newest of the CRLs, which a generation signed, and the certificates that one issued."""
        numbers, revocations = [], {}
        for path in self.options["published_crl"] or ():
            parsed = self._crl(path, generations)
            number = next((e.value.crl_number for e in parsed.extensions if hasattr(e.value, "crl_number")), None)
            if number is not None:
                numbers.append(even_hex(number))
            for entry in parsed:
                moment = _x509.moment(entry, "revocation_date")
                why = next((e.value.reason.value for e in entry.extensions if hasattr(e.value, "reason")), None)
                revocations[entry.serial_number] = [even_hex(entry.serial_number), index_time(moment), _REASONS.get(why or "")]
        issued = []
        folder = self.options["published_certificates"]
        if folder:
            signers = [_x509.load(generation.certificate) for generation in generations]
            try:
                names = sorted(os.listdir(folder))
            except OSError as exc:
                raise KeywardError(
                    f"published_certificates {folder} can't be read", os_cause(exc), "Give a directory on the controller"
                ) from exc
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    issued += [[even_hex(one.serial), one.expires, one.subject, one.where] for one in issued_in(path, signers)]
        compared = bool(self.options["published_crl"] or folder)
        return {"crl_numbers": numbers, "revocations": list(revocations.values()), "issued": issued, "compared": compared}

    def _crl(self, path: str, generations: t.Sequence[Generation]) -> t.Any:
        try:
            parsed = load_crl(read_file(path, "the published CRL", LARGEST_CRL))
        except FileNotFoundError:
            raise KeywardError(f"the published CRL {path} can't be read", "it does not exist", "Give a file on the controller") from None
        except ValueError:
            raise KeywardError(
                f"the published CRL {path} can't be read", "it is no CRL, neither PEM nor DER", "Give another file"
            ) from None
        if not any(signed_by(parsed, generation.certificate) for generation in generations):
            raise KeywardError(
                f"the published CRL {path} can't be used", "no generation of this CA signed it", "Give the CRLs of this CA only"
            )
        return parsed
