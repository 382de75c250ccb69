# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what tasks share that look into stores: signers, memory, events; may change in any release."""

from __future__ import annotations

import functools
import os
import platform
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Home, authority_id, directory_name
from ansible_collections.keyward.pki.plugins.module_utils._home import lives
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._signed import WAY_OUT, Event, document, event_name, event_shape
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import Kind, Series, Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.plugin_utils._memory import Memory, Remembered
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers, line_of_a_signer, user_name
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Task


class StoreTask(Task):
    @functools.cached_property
    def signers(self) -> Signers:
        return Signers(self.options)

    @functools.cached_property
    def memory(self) -> Memory:
        return Memory(self.options.get("memory"), self.options.get("accept") or ())

    def remember_or_warn(
        self, stores: t.Iterable[Remembered], kind: str, newest: Stored, database: str = "", said_of_homes: int | None = None
    ) -> list[Finding]:
        """What to say where nothing was remembered so far; the memory need not be writable."""
        said = self.memory.unknown(kind, newest.manifest.authority.id or "", database)
        try:
            if not self._check:
                self.memory.remember(stores, kind, newest, database, said=said_of_homes)
        except KeywardError as exc:
            self._display.warning(f"{self.NAME}: {exc}")
        return said

    # --- events ---

    def event(self, kind: str, about: Stored, **details: t.Any) -> Event:
        """Signed. No secret in it. Raises KeywardError."""
        who = {"user": user_name(), "controller": platform.node()}
        follows = details.pop("follows", about.digest)
        shape = event_shape(kind, about.manifest, follows, now_text(), who, host=self._host, **details)
        content = document(shape)
        return Event(event_name(shape), content, self.signers.sign(content))

    def record_or_warn(self, kind: str, about: Stored, places: t.Iterable[tuple[Store, str]], **details: t.Any) -> None:
        """Record an event where that is possible; otherwise warn: it needs a key and a writable store. C(places): (store, directory)."""
        try:
            event = self.event(kind, about, **details)
            for store, directory in places:
                store.record(directory, event)
        except KeywardError as exc:
            self._display.warning(f"{self.NAME}: what it did is done, and in no store's events: {exc}")

    def leave_public_half(self, stores: t.Iterable[Store]) -> None:
        """In stores on the controller. Raises KeywardError."""
        for store in stores:
            store.keep_signer(line_of_a_signer(self.signers.key.blob))


def judged(path: str, kind: Kind, signers: Signers) -> Stored:
    """One backup or set by its path, with what is beside it. Raises KeywardError where its manifest is missing or damaged."""
    folder, name = os.path.split(os.path.abspath(path))
    one = Series(folder, kind, signers).stored(name)
    if isinstance(one, KeywardError):
        raise one
    return one


def refuse_unvouched(series: t.Iterable[Series], told: Told, what: str) -> None:
    """Raise KeywardError where an authority that nobody knows yet occurs in what nobody known signed: a first one would hide that."""
    keys = {generation.public_key_sha256 for generation in told.generations}
    own = directory_name(replace(told.authority, id=authority_id(told.generations)))
    for each in series:
        for one in each.doubtful:
            if keys & one.manifest.public_keys or _lived(one, told.authority.home) or each.authority == own:
                raise _unvouched(what, one)


def refuse_unvouched_at(home: Home, series: t.Iterable[Series], what: str) -> None:
    """Same as C(refuse_unvouched), where nothing of a CA is left in its place."""
    for one in (one for each in series for one in each.doubtful):
        if _lived(one, home):
            raise _unvouched(what, one)


def _lived(one: Stored, home: Home) -> bool:
    return lives((*one.manifest.homes, one.manifest.made_at), home)


def _unvouched(what: str, one: Stored) -> KeywardError:
    return KeywardError(what, f"this authority is in {one.path}, for which nobody known vouches: {one.doubt}", WAY_OUT)
