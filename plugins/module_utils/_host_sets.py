# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: orders on databases, and where a set goes on its host or comes from; may change in any release.

That is a folder of the login user, or a store of the host. A backend knows neither: it fills one folder, or reads one.
"""

from __future__ import annotations

import json
import os
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _databases
from ansible_collections.keyward.pki.plugins.module_utils._backend import Backend, told
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import (
    Commit,
    Copied,
    Copy,
    Held,
    HeldSet,
    ReadStore,
    Restore,
    Restored,
    StateTold,
    TellState,
)
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import Members, SetManifest, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._store import SETS, Series, Store, Stored, document, is_name, sequence_of


def state(backend: Backend, order: TellState, check: bool) -> StateTold:
    """The authority, and what its database is. Raises KeywardError."""
    facts, database = backend.facts(), backend.database()
    found = replace(facts, advisories=(*facts.advisories, *database.findings()))
    return t.cast(StateTold, told(backend, found, StateTold, state=database.state(order)))


def copy(backend: Backend, order: Copy, check: bool) -> Copied:
    """The files of a set, in a folder of the login user or in a store of this host. Raises KeywardError."""
    if order.host_store:
        return _into_store(backend, order, t.cast(Commit, order.commit), check)
    folder = t.cast(str, order.folder)
    try:
        copied = backend.database().copy(order, folder, check)
    except OSError as exc:
        why = f"the set could not be written into {folder}: {os_cause(exc)}"
        raise KeywardError("the database was not backed up", why, "Make room there, or name another remote_tmp") from exc
    _hand_over(folder, copied)
    return copied


def _hand_over(folder: str, copied: Copied) -> None:
    """The login user, whose directory this is, fetches the files."""
    status = os.stat(folder)
    if status.st_uid == os.geteuid():
        return
    try:
        for file in copied.files:
            os.chown(os.path.join(folder, file.name), status.st_uid, status.st_gid, follow_symlinks=False)
    except OSError as exc:
        raise KeywardError(
            "the set can't be fetched", os_cause(exc), "Become root, or log in as the CA's own user, or use host_store"
        ) from exc


def _into_store(backend: Backend, order: Copy, commit: Commit, check: bool) -> Copied:
    store = Store(t.cast(str, order.host_store), SETS)
    store.refuse_if_not_writable()
    name = _series(commit.directory, commit.database, commit.name)
    compare = backend.database().compare
    with store.stage() as staged:
        with staged.guarded():
            copied = backend.database().copy(order, staged.path, check)
        manifest = json.loads(commit.manifest)
        manifest["files"] = [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in copied.files]
        members = copied.members or Members(len(copied.files), sum(file.size for file in copied.files))
        manifest.update({name: dump(getattr(copied, name)) for name in ("as_of", "left_out", "state") if getattr(copied, name) is not None})
        manifest["members"] = dump(members)
        made = Stored(staged.path, set_manifest_from_json(manifest), SETS)
        lacking = _databases.lacking_of(store.one(name), lambda older: compare(made, older))
        manifest["lacking"] = dump(lacking)
        with store.locked():
            _databases.refuse_second(store, name, sequence_of(commit.name), made.manifest.made_at)
            path = staged.commit(document(manifest), name, commit.name)
            pruned = _databases.prune(store, name, commit.keep, lambda one: one.name in commit.may_go, compare)
    store.record(commit.directory, commit.event)
    advisories = (*copied.advisories, *pruned.advisories)
    return replace(copied, stored_at=path, removed=tuple(pruned.removed), lacking=lacking, advisories=advisories)


def restore(backend: Backend, order: Restore, check: bool) -> Restored:
    """What this host lacks of a set, put back. Raises KeywardError."""
    if not order.host_store:
        return backend.database().restore(order, t.cast(str, order.folder), check)
    name = _series(order.directory, order.database, order.name)
    store = Store(order.host_store, SETS)
    done = backend.database().restore(order, os.path.join(store.path, name, t.cast(str, order.name)), check)
    if done.changed and order.event and not check:
        store.record(t.cast(str, order.directory), order.event)
    return done


def read(backend: Backend, order: ReadStore, check: bool) -> Held:
    """The sets in a store of this host that can be of an authority. Raises KeywardError."""
    store = Store(order.host_store, SETS)
    if order.to_write:
        store.refuse_if_not_writable()
    held: t.List[HeldSet] = []
    for series in store.series():
        latest = series.latest
        # One in which no manifest reads takes numbers all the same.
        if latest is None or _can_be_meant(latest.manifest, order):
            held += _held(series)
    return Held(tuple(held))


def _can_be_meant(known: SetManifest, order: ReadStore) -> bool:
    named = order.authority is not None and str(known.authority.id).startswith(order.authority)
    hosts = {known.made_at.host, *(home.host for home in known.homes)}
    return named or order.host in hosts or bool({g.public_key_sha256 for g in known.generations} & {*order.public_keys})


def _held(series: Series) -> t.Iterator[HeldSet]:
    sound = False
    directory, database = series.name.split("/")
    for one in series.all:
        damage = None if sound else one.damage  # every older one may be large, too
        sound = sound or damage is None
        yield HeldSet(directory, database, one.name, one.path, one.manifest_file.decode("utf-8", "replace"), damage)
    for name in series.faults:
        yield HeldSet(directory, database, name, os.path.join(series.path, name), "")


def _series(directory: t.Optional[str], database: t.Optional[str], name: t.Optional[str]) -> str:
    """The name of a database below a store. Raises KeywardError."""
    folders = [directory or "", database or ""]
    if any(not folder or folder.startswith(".") or "/" in folder for folder in folders) or not is_name(name or ""):
        raise KeywardError("nothing was done with the store", "the controller named no set in it", "Report this as a bug")
    return "/".join(folders)
