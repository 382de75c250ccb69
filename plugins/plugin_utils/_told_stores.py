# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: stores of hosts, as hosts told them to an audit of many; may change in any release.

A host is believed about its own CAs only: what nobody known signed, or was made of another host, counts for nothing here.
"""

from __future__ import annotations

import functools
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Held
from ansible_collections.keyward.pki.plugins.module_utils._stored import Series, is_name
from ansible_collections.keyward.pki.plugins.plugin_utils._database_sets import HostSeries, HostStore
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers


def store_on(host: str, path: str) -> str:
    """How an audit names a store of a host, since another host may have one at that path."""
    return f"{host}:{path}"


class ToldStore(HostStore):
    """C(told): what the host answered of each of its CAs that has this store."""

    def __init__(self, host: str, path: str, told: t.Sequence[Held], signers: Signers) -> None:
        sets = {(one.directory, one.database, one.name): one for held in told for one in held.sets if is_name(one.name)}
        named = tuple(replace(one, path=store_on(host, one.path)) for one in sets.values())
        super().__init__(host, path, replace(told[0], sets=named), signers)
        self._host, self.path = host, store_on(host, path)
        self.advisories = [replace(one, message=f"{self.path}: {one.message}") for one in self.advisories]
        self.advisories += [advisory for one in self._every if not one.latest for advisory in one.advisories]

    def one(self, name: str) -> Series:
        return next(one for one in self._every if one.name == name)

    def series(self, authorities: t.Iterable[str] | None = None) -> list[Series]:
        return [one for one in self._every if one.latest and self._host in _hosts_of(one)]

    @functools.cached_property
    def _every(self) -> list[Series]:
        sets: dict[str, list[t.Any]] = {}
        for one in self._held.sets:
            sets.setdefault(f"{one.directory}/{one.database}", []).append(one)
        return [HostSeries(f"{self.path}/{name}", sets[name], self._signers) for name in sorted(sets)]


def _hosts_of(series: Series) -> set[str]:
    manifests = [series.latest.manifest] if series.latest else []
    return {home.host for one in manifests for home in (one.made_at, *one.homes)}
