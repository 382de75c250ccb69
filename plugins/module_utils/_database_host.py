# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: backing up the database of a CA on its host, and putting it back; may change in any release."""

from __future__ import annotations

import contextlib
import os
import secrets
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends import find
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import age_in_seconds, due_reasons, refuse_emptied
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_copy import MadeSet, Survey, hand_over, make_files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_restore import Restoration
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, authority_id, directory_name, same_place
from ansible_collections.keyward.pki.plugins.module_utils._host import Answer, Request, facts
from ansible_collections.keyward.pki.plugins.module_utils._manifest import (
    SetManifest,
    State,
    set_manifest_from_json,
)
from ansible_collections.keyward.pki.plugins.module_utils._store import (
    MANIFEST,
    SETS,
    AuthorityDirectory,
    Store,
    Stored,
    document,
    read_stored,
    recognise,
)
from ansible_collections.keyward.pki.plugins.module_utils._time import name_time, now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._verdict import refuse_foreign


def back_up_database(which: Selector, request: Request, check: bool) -> Answer:
    """The database as it is; with C(request["make"]), a directory, a set's files made in it; with C(request["host_store"]) all of it here.

    C(request): max_age, keep_full_sets, made (for the manifest). Raises KeywardError.
    """
    backend = t.cast(FileCa, find(which))
    reading = backend.facts()
    survey = Survey(backend, reading)
    if request.get("make"):
        try:
            made = make_files(survey, request["make"], reading)
        except OSError as exc:
            why = f"the set could not be written into {request['make']}: {os_cause(exc)}"
            raise KeywardError("the database was not backed up", why, "Make room there, or name another remote_tmp") from exc
        hand_over(request["make"])
        return {**facts(reading), **made.as_answer()}
    state = survey.state(survey.wanted())
    answer = {**facts(reading), "state": dict(vars(state))}
    if request.get("host_store"):
        return {**answer, **_into_host_store(survey, reading, state, request, check)}
    return answer


def set_manifest(
    made: MadeSet,
    authority: Authority,
    generations: t.Iterable[Generation],
    directory: AuthorityDirectory,
    about: Answer,
    adcs: t.Optional[Answer] = None,
) -> SetManifest:
    """The manifest of a new set in an authority's directory."""
    newest = directory.newest
    return SetManifest(
        id=secrets.token_hex(16),
        sequence=directory.next_sequence,
        previous=newest.manifest.id if newest else None,
        kind="full",
        authority=authority,
        created=now_text(),
        as_of=made.as_of,
        made=about,
        files=made.files,
        members=made.members,
        state=made.state,
        left_out=tuple(dict(vars(one)) for one in made.left_out),
        generations=tuple(generations),
        adcs=adcs,
    )


def keep(store: Store, name: str, count: t.Optional[int], host: t.Optional[str]) -> t.List[str]:
    """Remove the sets of a host beyond its newest C(count) intact ones; their paths. The last intact one always stays.

    C(host): its name in the inventory. A host that shows the public certificates of another's CA removes none of that CA's sets.
    """
    if count is None:
        return []
    intact = 0
    removed = []
    for one in store.authority(name).all:
        if one.manifest.authority.host != host:
            continue
        if intact >= max(count, 1):
            removed.append(store.remove(one))
        elif one.damage is None:
            intact += 1
    return removed


def of_place(store: Store, host: t.Optional[str], place: t.Mapping[str, t.Any]) -> t.List[AuthorityDirectory]:
    """Where nothing of a CA is left on the host: those whose newest set names this host and the place that was given."""
    given = {option: value for option, value in place.items() if value is not None}
    found = []
    for one in store.authorities():
        authority = one.latest.manifest.authority if one.latest else None
        if authority and authority.host == host and same_place(given, authority.place):
            found.append(one)
    return found


def given_set(path: str) -> Stored:
    """What the option C(set) names: a set's directory, or an authority's directory (its newest). Raises KeywardError."""
    if os.path.exists(os.path.join(path, MANIFEST)):
        return read_stored(path, SETS)
    newest = AuthorityDirectory(path, SETS).newest
    if newest is None:
        raise KeywardError(
            f"{path} is no set", "no intact set lies in it", "Give a set's directory, or an authority's directory in a store"
        )
    return newest


def set_name(manifest: SetManifest) -> str:
    return f"{manifest.sequence:06d}-{name_time()}"


def set_result(manifest: SetManifest, paths: t.Sequence[str]) -> Answer:
    return {
        "id": manifest.id,
        "paths": list(paths),
        "created": manifest.created,
        "as_of": manifest.as_of,
        "files": [dict(vars(file)) for file in manifest.files],
        "members": manifest.members,
    }


def _known(authority: Authority, reading: Facts, directory: t.Optional[AuthorityDirectory]) -> Authority:
    own = directory.latest.manifest.authority.id if directory and directory.latest else None
    return replace(authority, id=own or authority_id(reading.generations))


def _into_host_store(survey: Survey, reading: Facts, state: State, request: Request, check: bool) -> Answer:
    store = Store(request["host_store"], SETS)
    store.refuse_if_not_writable()
    live = replace(reading.authority, host=request.get("host"))
    directory = recognise(store.authorities(), live, reading.generations)
    newest = directory.newest if directory else None
    refuse_emptied(state, reading.generations, newest.manifest if newest else None)
    age = age_in_seconds(request["max_age"]) if request.get("max_age") else None
    reasons = due_reasons(state, newest.manifest if newest else None, age, now())
    answer: Answer = {
        "reasons": [reason.as_result() for reason in reasons],
        "set": set_result(newest.manifest, [newest.path]) if newest else None,
        "left_out": [],
        "removed": [],
        "store_advisories": [advisory.as_result() for advisory in (directory.advisories if directory else [])],
        "id": _known(live, reading, directory).id if directory else None,
    }
    if not reasons or check:
        return answer
    authority = _known(live, reading, directory)
    with store.stage() as staged:
        with staged.guarded():
            made = make_files(survey, staged.path, reading)
        with store.locked():
            directory = store.authority(directory.name if directory else directory_name(authority))
            about = {**request["made"], "reason": reasons[0].code}
            manifest = set_manifest(made, authority, reading.generations, directory, about)
            path = staged.commit(document(manifest.as_json()), directory.name, set_name(manifest))
            removed = keep(store, directory.name, request.get("keep_full_sets"), manifest.authority.host)
    event = {"event": "set", "at": now_text(), "controller": request["made"]["controller"], "host": request.get("host"), "set": manifest.id}
    store.record(directory.name, event)
    return {
        **answer,
        **made.as_answer(),
        "set": set_result(manifest, [path]),
        "removed": removed,
        "id": authority.id,
    }


# --- restore -----------------------------------------------------------------------------------------------------


def restore_database(which: Selector, request: Request, check: bool) -> Answer:
    """Put back what the host lacks of a set; without C(request["restore"]) only look, at the CA or at C(request["host_store"]).

    C(request["restore"]): manifest and either folder (of the set's files) or host_store; part, on_conflict, published, advance.
    Raises KeywardError, NothingThere.
    """
    backend = t.cast(FileCa, find(which))
    if "restore" not in request and not request.get("host_store"):
        return facts(backend.facts())
    reading: t.Optional[Facts] = None
    with contextlib.suppress(NothingThere):
        reading = backend.facts()
    if "restore" not in request:
        stored = _of_host_store(Store(request["host_store"], SETS), which, reading, request.get("host"))
        return {"changed": False, "manifest": stored.manifest.as_json()}
    options: t.Mapping[str, t.Any] = request["restore"]
    if options.get("host_store"):
        stored = _of_host_store(Store(options["host_store"], SETS), which, reading, request.get("host"))
    else:
        stored = Stored(options["folder"], set_manifest_from_json(options["manifest"]), SETS)
    if stored.damage:
        raise KeywardError(
            "nothing was restored", f"the set can't be used: {stored.damage}", "Use another set, or another copy of this one"
        )
    if reading:
        live = replace(reading.authority, host=request.get("host"))
        refuse_foreign(live, reading.generations, stored.manifest.authority, stored.manifest.generations)
    answer = Restoration(which, backend, stored, options, check).carry_out()
    if options.get("host_store") and answer["changed"] and not check:
        event = {
            "event": "restore",
            "at": now_text(),
            "controller": options["controller"],
            "host": request.get("host"),
            "set": stored.manifest.id,
        }
        Store(options["host_store"], SETS).record(os.path.basename(os.path.dirname(stored.path)), event)
    return {**answer, "set": set_result(stored.manifest, [stored.path]), "manifest": stored.manifest.as_json()}


def _of_host_store(store: Store, which: Selector, reading: t.Optional[Facts], host: t.Optional[str]) -> Stored:
    if reading:
        found = recognise(store.authorities(), replace(reading.authority, host=host), reading.generations)
        directories = [found] if found else []
    else:
        directories = of_place(store, host, {"config_file": which.config_file, "directory": which.directory, "name": which.name})
    newest = only_set(directories, host)
    return newest


def only_set(directories: t.Sequence[AuthorityDirectory], host: t.Optional[str]) -> Stored:
    """The newest intact set of the only authority. Raises KeywardError."""
    if len(directories) > 1:
        raise KeywardError(
            "nothing was restored",
            f"it can't be told which authority of {host} is meant: " + " or ".join(sorted(one.name for one in directories)),
            "Name one: give its directory in the store as set, or its config_file and name",
        )
    newest = directories[0].newest if directories else None
    if newest is None:
        raise KeywardError(
            "nothing was restored", f"no intact set of this authority on {host} is stored", "Mount the right store, or name a set (set)"
        )
    return newest
