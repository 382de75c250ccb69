# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the directory that a store is, its marker and its modes; may change in any release."""

from __future__ import annotations

import json
import os
import secrets
import stat
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directories
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection, owner_numbers, protect_path
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile

MARKER = "keyward-store.json"
KINDS = ("keys", "databases", "passwords")


@dataclass(frozen=True)
class StoreDirectory:
    """A store that was initialised: its path, its id, its kind, and the mode of directories made in it."""

    path: str
    id: str
    kind: str
    mode: int
    share_permissions_accepted: bool = False

    @property
    def directory_mode(self) -> t.Optional[int]:
        """The mode of directories made in it; None where the share decides."""
        return None if self.share_permissions_accepted else self.mode & ~0o007

    @property
    def file_mode(self) -> t.Optional[int]:
        return None if self.share_permissions_accepted else self.mode & 0o660


def _marker(path: str) -> t.Optional[t.Dict[str, t.Any]]:
    """The marker in a directory; None where there is none. Raises KeywardError where there is one that can't be read."""
    marker = os.path.join(path, MARKER)
    try:
        found = json.loads(read_file(marker, "the marker", 65536))
        if found["format"] != "keyward-store" or found["version"] != 1 or found["kind"] not in KINDS or not isinstance(found["id"], str):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise KeywardError(
            f"{path} can't be used as a store",
            f"its marker {MARKER} is damaged, or was written by a later release",
            "Upgrade the collection, or bring the marker back from another copy of this store",
        ) from exc
    return t.cast("t.Dict[str, t.Any]", found)


def open_store(path: str, kind: str) -> StoreDirectory:
    """The store at a path. Raises KeywardError where it is none, or one for another kind of thing."""
    marker = _marker(path)
    if marker is None:
        raise KeywardError(
            f"{path} can't be used as a store",
            "it is not a keyward store",
            "Is the share mounted? If this is a new store, initialise it once (keyward.pki.stores, or ca_store)",
        )
    if marker["kind"] != kind:
        raise KeywardError(
            f"{path} can't be used here",
            f"it is a store for {marker['kind']}, not for {kind}",
            f"Give a store that was initialised with kind={kind}",
        )
    mode = stat.S_IMODE(os.stat(path).st_mode)
    return StoreDirectory(path, marker["id"], kind, mode, marker.get("share_permissions") == "accepted")


def refuse_open_to_the_world(store: StoreDirectory) -> None:
    """Nothing is written into a store that every user of the machine can enter."""
    if store.mode & 0o007 and not store.share_permissions_accepted:
        raise KeywardError(
            f"nothing is written into the store {store.path}",
            f"every user of the machine can enter it (mode {store.mode:04o})",
            f"Take the rights of others away: chmod o-rwx {store.path}",
        )


def _neighbours(path: str) -> t.Optional[t.Tuple[str, str]]:
    """A store around a path, or inside it: ("inside" or "around", the other's path)."""
    parent = os.path.dirname(path)
    while True:
        if os.path.lexists(os.path.join(parent, MARKER)):
            return "inside", parent
        if parent == os.path.dirname(parent):
            break
        parent = os.path.dirname(parent)
    for directory, _directories, files in os.walk(path):
        if directory != path and MARKER in files:
            return "around", directory
    return None


def _others(path: str) -> t.List[str]:
    """What lies in a directory that is no store yet. An empty file system has its lost+found, and another run
    may be making the marker."""
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise KeywardError(f"{path} can't become a store", os_cause(exc), "Check the path and its permissions") from exc
    return [printable(name) for name in names if name not in (MARKER, "lost+found") and not name.startswith(f".{MARKER}.")]


def initialise(
    path: str,
    kind: str,
    mode: t.Optional[int] = None,
    owner: t.Optional[str] = None,
    group: t.Optional[str] = None,
    accept_share_permissions: bool = False,
    check: bool = False,
    attempts: int = 20,
) -> t.Dict[str, t.Any]:
    """Make a directory a store, or bring an existing store to the wanted owner and mode.

    Returns changed, id (None where check mode would make one), path, before and after (what differs, for a diff).
    """
    path = os.path.realpath(path)
    uid, gid = owner_numbers(owner, group, f"{path} can't become a store")
    if mode is not None and mode & 0o007:
        raise KeywardError(
            f"{path} can't become a store",
            f"the mode {mode:04o} lets every user of the machine in",
            "Give a mode whose last digit is 0, such as 0700 or 0750",
        )
    if os.path.lexists(path) and not os.path.isdir(path):
        raise KeywardError(f"{path} can't become a store", "it is not a directory", "Give the path of a directory, or of one to be made")
    marker = _marker(path)
    if marker is not None and marker["kind"] != kind:
        raise KeywardError(
            f"{path} can't become a store for {kind}",
            f"it is a store for {marker['kind']}",
            "Give another path: a store holds one kind of thing",
        )
    neighbour = _neighbours(path)
    if neighbour:
        raise KeywardError(
            f"{path} can't become a store", f"it lies {neighbour[0]} the store {neighbour[1]}", "Give a path apart from every other store"
        )

    others = [] if marker else _others(path)
    if others:
        raise KeywardError(
            f"{path} can't become a store",
            f"other files lie in it ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})",
            "Give an empty directory, or one to be made",
        )

    existing = os.stat(path) if os.path.isdir(path) else None
    wanted = mode if mode is not None else stat.S_IMODE(existing.st_mode) if marker is not None and existing else 0o700
    before: t.Dict[str, t.Any] = {"path": path, "state": "absent"}
    if existing:
        before = {"path": path, "state": "store" if marker else "directory", "mode": f"{stat.S_IMODE(existing.st_mode):04o}"}
        before.update(owner=existing.st_uid, group=existing.st_gid)
    after: t.Dict[str, t.Any] = {"path": path, "state": "store", "mode": f"{wanted:04o}"}
    after["owner"] = uid if uid != -1 else existing.st_uid if existing else os.geteuid()
    after["group"] = gid if gid != -1 else existing.st_gid if existing else os.getegid()
    accepted = accept_share_permissions or bool(marker and marker.get("share_permissions") == "accepted")
    compared = ("state", "owner", "group") if accepted else ("state", "mode", "owner", "group")
    changed = any(before.get(name) != after[name] for name in compared)
    identity = marker["id"] if marker else None
    if changed and not check:
        try:
            protection = Protection(None if accepted else wanted, uid, gid)
            make_directories(path, protection)
            protect_path(path, protection, os.O_DIRECTORY)
            held = stat.S_IMODE(os.stat(path).st_mode)
            if held & ~wanted & 0o777 and not accepted:
                raise KeywardError(
                    f"{path} can't become a store",
                    f"its file system does not hold modes: it shows {held:04o} where {wanted:04o} was set",
                    "Restrict the share itself (its mount options and its server's permissions), then say share_permissions: accepted",
                )
            if marker is None:
                identity = secrets.token_hex(16)
                content = {"format": "keyward-store", "version": 1, "kind": kind, "id": identity}
                if accept_share_permissions:
                    content["share_permissions"] = "accepted"
                text = json.dumps(content, indent=2).encode() + b"\n"
                own = replace(protection, mode=None if accepted else wanted & 0o660)
                with StagedFile(os.path.join(path, MARKER), text, own) as staged:
                    staged.commit()
        except FileExistsError as exc:  # another run is making it at this moment
            if not attempts:
                raise KeywardError(
                    f"{path} can't become a store", "others make something in its place all the time", "Run the task again"
                ) from exc
            return initialise(path, kind, mode, owner, group, accept_share_permissions, check, attempts - 1)
        except OSError as exc:
            raise KeywardError(
                f"{path} can't become a store", os_cause(exc), "Check the path, its parent's permissions and the space left"
            ) from exc
    return {"changed": changed, "id": identity, "path": path, "kind": kind, "before": before, "after": after}


def initialise_as_asked(parameters: t.Mapping[str, t.Any], check: bool) -> t.Dict[str, t.Any]:
    """C(initialise) with the options of C(ca_store), on whichever side it runs."""
    mode = parameters["mode"]
    if mode is not None and not (mode.strip("01234567") == "" and 3 <= len(mode) <= 4):
        raise KeywardError(
            f"{parameters['path']} can't become a store",
            f"the mode {mode!r} is not understood",
            "Give it as octal digits in quotes, such as '0750'",
        )
    return initialise(
        os.path.abspath(parameters["path"]),
        parameters["kind"],
        int(mode, 8) if mode else None,
        parameters["owner"],
        parameters["group"],
        parameters["share_permissions"] == "accepted",
        check,
    )
