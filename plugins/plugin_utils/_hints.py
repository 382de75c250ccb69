# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: hints in a store, which say where to look for an authority; may change in any release.

An empty file C(by-key/<public key>/<authority>) or C(by-host/<host>/<authority>) names the directory of an authority that may have that
key, or may live on that host. Whoever may write into a store can plant one or remove one: it says where to look, never what is true.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._generation import ID_DIGITS, slug
from ansible_collections.keyward.pki.plugins.module_utils._store import BY_HOST, BY_KEY, Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import folders

MOST = 1000  # the most that are followed for one key or host
_KEY = re.compile(r"[0-9a-f]{64}\Z")
_AUTHORITY = re.compile(rf"[a-z0-9-]{{1,40}}-[0-9a-f]{{{ID_DIGITS}}}\Z")


def hinted(stores: t.Iterable[Store], hosts: t.Iterable[str], keys: t.Iterable[str]) -> set[str]:
    """The directories of authorities that hints in any of the stores name. Unreadable hints are ignored."""
    found, places = set[str](), _places(hosts, keys)
    for store in stores:
        for place in places:
            with contextlib.suppress(OSError), os.scandir(os.path.join(store.path, place)) as entries:
                found.update(entry.name for entry in itertools.islice(entries, MOST) if _AUTHORITY.match(entry.name))
    return found


def with_id(stores: t.Iterable[Store], beginning: str) -> set[str]:
    """The directories of authorities whose id begins so: their names end with it. The manifests in them decide."""
    wanted = beginning[:ID_DIGITS]
    return {name for store in stores for name in folders(store.path) if name.rpartition("-")[2].startswith(wanted)}


def leave(store: Store, authority: str, hosts: t.Iterable[str], keys: t.Iterable[str]) -> None:
    """Write the missing hints. Where that fails, looking takes longer, nothing else."""
    for place in _places(hosts, keys):
        path = os.path.join(store.path, place, authority)
        if os.path.lexists(path):
            continue
        with contextlib.suppress(OSError):
            store.own_directory(os.path.join(store.path, os.path.dirname(place)))
            store.own_directory(os.path.dirname(path))
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            if store.directory.file_mode is not None:
                os.chmod(path, store.directory.file_mode)


def are_there(store: Store, authority: str, hosts: t.Iterable[str], keys: t.Iterable[str]) -> bool:
    return all(os.path.lexists(os.path.join(store.path, place, authority)) for place in _places(hosts, keys))


def _places(hosts: t.Iterable[str], keys: t.Iterable[str]) -> list[str]:
    return [f"{BY_HOST}/{of_host(host)}" for host in hosts] + [f"{BY_KEY}/{key}" for key in keys if _KEY.match(key)]


def of_host(host: str) -> str:
    """A name of any inventory host that every file system takes: for people its beginning, and digits that tell it from all others."""
    return f"{slug(host)}-{hashlib.sha256(host.encode('utf-8', 'surrogatepass')).hexdigest()[:ID_DIGITS]}"
