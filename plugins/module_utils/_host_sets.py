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

from ansible_collections.keyward.pki.plugins.module_utils._backend import Backend, told
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._manifest import set_manifest_from_json
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
from ansible_collections.keyward.pki.plugins.module_utils._store import SETS, AuthorityDirectory, Store, document, is_name, sequence_of


def state(backend: Backend, order: TellState, check: bool) -> StateTold:
    """The authority, and what its database is. Raises KeywardError."""
    return t.cast(StateTold, told(backend, backend.facts(), StateTold, state=backend.database().state()))


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
    _refuse_elsewhere(commit.directory, commit.name)
    with store.stage() as staged:
        with staged.guarded():
            copied = backend.database().copy(order, staged.path, check)
        manifest = json.loads(commit.manifest)
        manifest["files"] = [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in copied.files]
        manifest["members"] = len(copied.files) if copied.members is None else copied.members
        manifest.update({name: dump(getattr(copied, name)) for name in ("as_of", "left_out", "state") if getattr(copied, name) is not None})
        set_manifest_from_json(manifest)
        with store.locked():
            if store.authority(commit.directory).next_sequence != sequence_of(commit.name):
                raise KeywardError(
                    f"nothing was stored in {store.path}", "another run has stored a set of this authority meanwhile", "Run the task again"
                )
            path = staged.commit(document(manifest), commit.directory, commit.name)
            removed = store.keep(commit.directory, commit.keep, manifest["authority"]["host"])
    store.record(commit.directory, commit.event)
    return replace(copied, stored_at=path, removed=tuple(removed))


def restore(backend: Backend, order: Restore, check: bool) -> Restored:
    """What this host lacks of a set, put back. Raises KeywardError."""
    if not order.host_store:
        return backend.database().restore(order, t.cast(str, order.folder), check)
    directory, name = t.cast(str, order.directory), t.cast(str, order.name)
    _refuse_elsewhere(directory, name)
    store = Store(order.host_store, SETS)
    done = backend.database().restore(order, os.path.join(store.path, directory, name), check)
    if done.changed and order.event and not check:
        store.record(directory, order.event)
    return done


def read(backend: Backend, order: ReadStore, check: bool) -> Held:
    """The sets in a store of this host that can be of an authority. Raises KeywardError."""
    store = Store(order.host_store, SETS)
    if order.to_write:
        store.refuse_if_not_writable()
    held: t.List[HeldSet] = []
    for directory in store.authorities():
        latest = directory.latest
        known = latest.manifest if latest else None
        # One in which no manifest reads takes numbers all the same.
        if known is None or known.authority.host == order.host or known.public_keys & {*order.public_keys}:
            held += _held(directory)
    return Held(tuple(held))


def _held(directory: AuthorityDirectory) -> t.Iterator[HeldSet]:
    sound = False
    for one in directory.all:
        damage = None if sound else one.damage  # every older one may be large, too
        sound = sound or damage is None
        yield HeldSet(directory.name, one.name, one.path, one.manifest_file.decode("utf-8", "replace"), damage)
    for name in directory.faults:
        yield HeldSet(directory.name, name, os.path.join(directory.path, name), "")


def _refuse_elsewhere(directory: str, name: str) -> None:
    if not directory or directory.startswith(".") or "/" in directory or not is_name(name):
        raise KeywardError("nothing was done with the store", "the controller named no set in it", "Report this as a bug")
