# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the stores on the controller that a task names; may change in any release."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import Kind
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers


def named_stores(paths: t.Sequence[str], kind: Kind, signers: Signers) -> list[Store]:
    """The stores at these paths. Raises KeywardError where two are one: that would be one copy, and count as two."""
    found: list[Store] = []
    for path in paths:
        store = Store(path, kind, signers)
        for earlier, other in zip(paths, found, strict=False):
            if os.path.samefile(store.path, other.path):
                raise _twice(earlier, path, "they are the same directory")
            if store.directory.id == other.directory.id:
                raise _twice(earlier, path, f"both have the id {store.directory.id}: one share mounted twice, or a copy made by hand")
        found.append(store)
    return found


def _twice(one: str, other: str, why: str) -> KeywardError:
    return KeywardError(
        f"{one} and {other} are no two stores", why, "Name each store once. For a second copy, initialise a store of its own (ca_store)"
    )
