# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: orders on databases, and where a set lies on its host; may change in any release.

A set lies in a folder of the login user, or in a store of the host. A backend knows neither: it fills or reads one folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _databases
from ansible_collections.keyward.pki.plugins.module_utils._backend import told
from ansible_collections.keyward.pki.plugins.module_utils._chains import BASE_DAMAGED, Chains, list_fault
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import (
    ChainLink,
    Changed,
    Commit,
    Committed,
    Copied,
    Copy,
    Draft,
    Held,
    HeldSet,
    ReadStore,
    Restore,
    Restored,
    SignedEvent,
    StateTold,
    TellChanged,
    TellState,
)
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import SetManifest, members_of, set_manifest_from_json
from ansible_collections.keyward.pki.plugins.module_utils._signed import Event, Named
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import SETS, Series, Stored, is_name

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._backend_protocol import Backend


def state(backend: Backend, order: TellState, check: bool) -> StateTold:
    """The authority and its database, as they are. Raises KeywardError."""
    facts, database = backend.facts(), backend.database()
    state_now, advisories = database.look(order)
    found = replace(facts, advisories=(*facts.advisories, *advisories))
    return t.cast(StateTold, told(backend, found, StateTold, state=state_now))


def copy(backend: Backend, order: Copy, check: bool) -> Copied:
    """The files of a set, in a folder of the login user or in a store of this host. Raises KeywardError."""
    if order.host_store:
        return _into_store(backend, order, order.host_store, t.cast(Draft, order.draft), check)
    folder = t.cast(str, order.folder)
    try:
        copied = backend.database().copy(replace(order, base=_below(folder, order.base)), folder, check)
    except OSError as exc:
        why = f"the set could not be written into {folder}: {os_cause(exc)}"
        raise KeywardError("the database was not backed up", why, "Make room there, or name another remote_tmp") from exc
    _hand_over(folder, copied)
    return copied


def changed(backend: Backend, order: TellChanged, check: bool) -> Changed:
    """Whether what was issued is otherwise than in a set. Raises KeywardError."""
    folder = t.cast(str, order.folder)
    if order.host_store:
        folder = os.path.join(Store(order.host_store, SETS, None).path, _series(order.directory, order.database))
    return Changed(backend.database().changed(replace(order, base=_below(folder, order.base))))


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


def _into_store(backend: Backend, order: Copy, path: str, draft: Draft, check: bool) -> Copied:
    store = Store(path, SETS, Named(draft.counting))
    store.refuse_if_not_writable()
    store.remove_left()
    name, compare = _series(draft.directory, draft.database), backend.database().compare
    sets = Chains([store.one(name)])
    links = _links_of(sets, order.base)
    order = replace(order, base=_below(os.path.join(store.path, name), order.base))
    with store.stage() as staged:
        with staged.guarded():
            copied = backend.database().copy(order, staged.path, check)
        manifest = json.loads(draft.manifest)
        manifest["files"] = [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in copied.files]
        members = copied.members or members_of(copied.files)
        manifest.update({name: dump(getattr(copied, name)) for name in ("as_of", "left_out", "state") if getattr(copied, name) is not None})
        manifest["members"] = dump(members)
        made = Stored(staged.path, set_manifest_from_json(manifest), SETS)
        if links and not order.whole:  # its manifest names the base only once the controller has seen what changed
            made.links = links
        lacking = _databases.lacking_of(sets, lambda older: compare(made, older, files=False))
        return replace(copied, staged=staged.leave(), lacking=lacking)


def _links_of(sets: Chains, lists: t.Sequence[str]) -> t.Tuple[Stored, ...]:
    """The sets of these lists. Raises KeywardError."""
    names = [os.path.basename(os.path.dirname(path)) for path in lists]
    by_name = {one.name: one for one in sets.signed}
    if not all(name in by_name for name in names):
        raise KeywardError("the database was not backed up", "the controller names sets that are not in the store", "Run the task again")
    links = tuple(by_name[name] for name in names)
    damaged = [fault for fault in (list_fault(one) for one in links) if fault]
    if damaged:
        raise KeywardError(
            "the database was not backed up", damaged[0], "Make a full set (full: true)", [Finding(BASE_DAMAGED, damaged[0])]
        )
    return links


def _below(folder: str, paths: t.Sequence[str]) -> t.Tuple[str, ...]:
    """Files that the controller names in a folder. Raises KeywardError."""
    if any(path.startswith("/") or ".." in path.split("/") for path in paths):
        raise KeywardError("nothing was done with the set", "the controller named a file that lies elsewhere", "Report this as a bug")
    return tuple(os.path.join(folder, path) for path in paths)


def _chain_below(folder: str, chain: t.Sequence[ChainLink]) -> t.Tuple[ChainLink, ...]:
    return tuple(replace(link, issued=_below(folder, [link.issued])[0], members=_below(folder, [link.members])[0]) for link in chain)


def commit(backend: Backend, order: Commit, check: bool) -> Committed:
    """Commit a copy that waits in a store of this host: with its signed manifest, in its place. Raises KeywardError."""
    store = Store(order.host_store, SETS, Named(order.counting))
    with store.stage(order.staged) as staged, store.locked():
        name = _series(order.directory, order.database, order.name)
        manifest = set_manifest_from_json(json.loads(order.manifest))
        # Another run stored a set meanwhile: the controller has not judged it.
        _databases.refuse_second(Store(order.host_store, SETS, None), name, manifest.sequence, manifest.made_at)
        path = staged.commit(order.manifest.encode("utf-8"), order.signature.encode("utf-8"), name, order.name)
        pruned = _databases.prune(store, name, order.keep, lambda one: one.name in order.may_go, backend.database().compare)
    store.record(order.directory, _event(order.event))
    store.keep_signer(order.signer)
    return Committed(path, tuple(pruned.removed), tuple(pruned.advisories))


def _event(event: SignedEvent) -> Event:
    if "/" in event.name or event.name.startswith("."):
        raise KeywardError("nothing was recorded in the store", "the controller named no event", "Report this as a bug")
    return Event(event.name, event.content.encode("utf-8"), event.signature.encode("utf-8"))


def restore(backend: Backend, order: Restore, check: bool) -> Restored:
    """Put back what this host lacks of a set. Raises KeywardError."""
    if not order.host_store:
        folder = t.cast(str, order.folder)
        return backend.database().restore(replace(order, chain=_chain_below(folder, order.chain)), folder, check)
    name = _series(order.directory, order.database, order.name)
    store = Store(order.host_store, SETS, None)
    folder = os.path.join(store.path, name)
    order = replace(order, chain=_chain_below(folder, order.chain))
    done = backend.database().restore(order, os.path.join(folder, t.cast(str, order.name)), check)
    if done.changed and order.event and not check:
        store.record(t.cast(str, order.directory), _event(order.event))
    return done


def read(backend: Backend, order: ReadStore, check: bool) -> Held:
    """The sets in a store of this host that can be of an authority. Raises KeywardError."""
    store = Store(order.host_store, SETS, None)
    if order.to_write:
        store.refuse_if_not_writable()
    held: t.List[HeldSet] = []
    for series in store.series():
        latest = series.latest
        # Sets without a readable manifest take numbers as well.
        if latest is None or _can_be_meant(latest.manifest, order):
            held += _held(series, order.digests)
    return Held(store.id, tuple(held))


def _can_be_meant(known: SetManifest, order: ReadStore) -> bool:
    named = order.authority is not None and str(known.authority.id).startswith(order.authority)
    hosts = {known.made_at.host, *(home.host for home in known.homes)}
    return named or order.host in hosts or bool({g.public_key_sha256 for g in known.generations} & {*order.public_keys})


def _held(series: Series, digests: bool) -> t.Iterator[HeldSet]:
    """The state of a series. C(digests): also compare the digests of the files, from the newest whole set downwards."""
    directory, database = series.name.split("/")
    looked: t.Set[str] = set()
    sets = Chains([series], thorough=True)
    for one in sets.signed if digests else ():
        looked |= {one.digest, *(link.sha256 for link in one.manifest.links)}
        with contextlib.suppress(KeywardError):
            sets.whole(one)
            break
    for one in series.all:
        damage = one.damage if one.digest in looked else one.flaw
        signature = None if one.signature is None else one.signature.decode("utf-8", "replace")
        yield HeldSet(directory, database, one.name, one.path, one.document.decode("utf-8", "replace"), damage, signature)
    for name in series.faults:
        yield HeldSet(directory, database, name, os.path.join(series.path, name), "")


def _series(directory: t.Optional[str], database: t.Optional[str], name: t.Optional[str] = None) -> str:
    """The name of a database below a store. C(name): of a set in it. Raises KeywardError."""
    folders = [directory or "", database or ""]
    if any(not folder or folder.startswith(".") or "/" in folder for folder in folders) or (name is not None and not is_name(name)):
        raise KeywardError("nothing was done with the store", "the controller named no set in it", "Report this as a bug")
    return "/".join(folders)
