# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: where the generations of a backup belong on a host whose CA consists of files; may change in any release."""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import older_path
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import refuse_link_of_others
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.moving import Move, pairs_of
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Place

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa


def places(ca: FileCa, generations: t.Sequence[Generation], directory: t.Optional[str]) -> t.Dict[str, Generation]:
    """Where each generation of a backup belongs on this host, by SHA-256 fingerprint; C(private_key) says what is there now.

    The current one goes where this host's configuration says; one that is here already stays; others go where they
    were, seen from the CA's directory. Where two would share a path, the earlier one gets the name of an older generation.
    """
    move = _move(ca, directory, generations[-1])
    certificate, private_key = (move.path(path) for path in _configured(ca))
    facts = ca.known_facts
    newest = generations[-1]
    live = {generation.sha256: generation for generation in facts.generations} if facts else {}
    renewed_since = facts is not None and facts.generations[-1].sha256 != newest.sha256
    live_keys = {g.public_key_sha256: g.key_place for g in live.values() if g.private_key == "present"}
    first_use = {generation.public_key_sha256: generation.index for generation in reversed(generations)}
    number = max(generation.index for generation in generations) + 1
    certificates: t.Dict[str, str] = {}  # path -> fingerprint
    keys: t.Dict[str, str] = {}  # path -> public key
    key_places: t.Dict[str, t.Optional[Place]] = {}
    placed: t.Dict[str, Generation] = {}
    for generation in reversed(generations):
        digest, here = generation.public_key_sha256, live.get(generation.sha256)
        configured = generation is newest
        place = generation.certificate_place or Place("")
        if here and here.certificate_place and (renewed_since or not configured):
            place = here.certificate_place
        elif configured and certificate:
            place = replace(place, path=certificate)
        else:
            place = replace(place, path=move.path(place.path))
        place = _placed(place, generation.sha256, certificates, certificate, generation.index, number)
        certificate = certificate or place.path
        if digest not in key_places:
            recorded = next((g.key_place for g in generations if g.key_place and g.public_key_sha256 == digest), Place(""))
            key_place: t.Optional[Place]
            if digest in live_keys and (renewed_since or not configured or live_keys[digest] is None):
                key_place = live_keys[digest]  # None: it is in a token
            elif configured and private_key:
                key_place = replace(recorded, path=private_key)
            else:
                key_place = replace(recorded, path=move.path(recorded.path))
            if key_place:
                key_place = _placed(key_place, digest, keys, private_key, first_use[digest], number)
                private_key = private_key or key_place.path
            key_places[digest] = key_place
        placed[generation.sha256] = _with_state(ca, replace(generation, certificate_place=place, key_place=key_places[digest]))
    return placed


def refuse_elsewhere(
    ca: FileCa, paths: t.Collection[str], recorded: t.Sequence[Generation], directory: t.Optional[str], check: bool
) -> None:
    """Raise KeywardError unless a file goes where the task names it, into the CA's directory, or where both the host's configuration and
    the backup have it: either alone may be forged. Never to where the CA was before it moved.
    """
    move = _move(ca, directory, recorded[-1])
    known = [place.path for one in recorded for place in (one.certificate_place, one.key_place) if place]
    known += [move.path(path) for path in known]
    configured = [path for path in _configured(ca) if path]
    if paths and not check:
        refuse_former(ca, directory, recorded[-1])
    trees = [ca.directory, *([os.path.dirname(ca.config_file)] if ca.config_file else [])]
    trees += [os.path.dirname(path) for path in configured if path in known or not known]
    for path in paths:
        if path not in ca.stated and not any(path.startswith(tree.rstrip("/") + "/") for tree in trees):
            raise KeywardError(
                "nothing was restored",
                f"{path} is outside the CA's directory {ca.directory}, and configuration and backup don't agree that it belongs there",
                "If it does, name it: private_key_file, certificate_file, or older",
            )
        refuse_link_of_others(path, ca.directory, "nothing was restored", os.path.dirname(path))


def refuse_former(ca: FileCa, directory: t.Optional[str], newest: Generation) -> None:
    """Raise KeywardError where the configuration on this host leads to the place that the CA has left. C(directory): that one."""
    for path in _configured(ca):
        if path and path not in ca.stated:
            _move(ca, directory, newest).refuse_former(path, ca.config_file)


def _configured(ca: FileCa) -> t.Tuple[str, str]:
    """Where the current certificate and its key belong; empty where that isn't told, or where the key belongs into a token."""
    try:
        files = ca.files()
        return files.certificate, files.private_key or ""
    except NothingThere:
        stated = (ca.selector.certificate_file, ca.selector.private_key_file)
        certificate, private_key = (ca.stated_path(path) if path else "" for path in stated)
        return certificate, private_key


def _move(ca: FileCa, directory: t.Optional[str], newest: Generation) -> Move:
    """A path in the CA's former directory, in the present one."""
    return Move(pairs_of(ca, directory, newest) if directory and (ca.selector.directory or ca.config_file) else [])


def _with_state(ca: FileCa, generation: Generation) -> Generation:
    """C(generation) with what is at the place of its key: present, missing or inaccessible."""
    place = generation.key_place
    key_file = ca.key_file(place.path, ca.passphrase(generation)) if place else None
    if key_file is None or key_file.digest not in (None, generation.public_key_sha256):
        return replace(generation, private_key="missing")
    return replace(generation, private_key="present" if key_file.digest else "inaccessible")


def _placed(place: Place, owner: str, taken: t.Dict[str, str], beside: str, index: int, number: int) -> Place:
    """C(place), or the name of an older generation's file where the path is taken; remembers who has it now."""
    path = place.path
    while not path or taken.get(path, owner) != owner:
        if not beside:
            raise KeywardError(
                "nothing was restored",
                "the backup does not say where its keys were, and no configuration says where they belong",
                "Give config_file, or certificate_file and private_key_file",
            )
        path = older_path(beside, index)
        index, number = number, number + 1
    taken[path] = owner
    return replace(place, path=path)
