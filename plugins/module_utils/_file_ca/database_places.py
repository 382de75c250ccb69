# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: where the files of a CA lie that a set of it may hold; may change in any release."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_copy import REQUESTS, lies_in
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import leads_by, owner_of

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa


class DatabasePlaces:
    """Where the files of a CA lie that a set of it may hold, links in the way followed."""

    def __init__(self, backend: FileCa) -> None:
        files = backend.files()
        beside = os.path.dirname(files.new_certificates or files.database or backend.directory)
        trees = [backend.directory, files.new_certificates, files.certificates, files.crl_directory]
        trees += [os.path.join(beside, name) for name in REQUESTS]
        trees += [path for path, _part in files.more]
        named = [files.certificate, files.database, files.serial, files.crl_number, files.crl, files.crl_der]
        self._trees = {path for tree in trees if tree for path in (_canonical(tree), os.path.realpath(tree))}
        self._exact = {_canonical(path) for path in backend.configuration()}
        self._exact |= {os.path.dirname(_canonical(path)) for path in (files.certificate, files.database) if path}
        # Also cacert.0.pem beside cacert.pem, and index.txt.old.
        self._stems = {os.path.splitext(_canonical(path))[0] + "." for path in named if path}
        self._stems |= {_canonical(path) + "." for path in named if path}
        self._exact |= {_canonical(path) for path in named if path}
        self._requests = os.path.dirname(_canonical(files.certificate))

    def __contains__(self, path: str) -> bool:
        path = _canonical(path)
        folder, name = os.path.split(path)
        return (
            path in self._exact
            or any(path == tree or path.startswith(tree.rstrip("/") + "/") for tree in self._trees)
            or any(path.startswith(stem) and "/" not in path[len(stem) :] for stem in self._stems)
            or (folder == self._requests and name.endswith((".csr", ".req")))
        )

    def hold_all_in(self, folder: str) -> bool:
        """Whether any file belongs there."""
        return lies_in(os.path.realpath(folder), [tree.rstrip("/") for tree in self._trees])


class ExtraPaths:
    """What a person named besides: of a set nothing else of that kind comes back."""

    def __init__(self, paths: t.Sequence[str]) -> None:
        self._named = [path.rstrip("/") for path in paths]
        self._trees = {tree for path in self._named for tree in (_canonical(path), os.path.realpath(path))}

    def names(self, path: str) -> bool:
        return lies_in(path, self._named)

    def __contains__(self, path: str) -> bool:
        """Whether it lies there, links in the way followed."""
        return lies_in(_canonical(path), self._trees)


class BarePlaces:
    """Where the files of a CA may lie of which nothing is left: in its directory, and where the task says that its configuration is."""

    def __init__(self, backend: FileCa) -> None:
        self._tree = backend.directory
        self._config = backend.config_file and _canonical(backend.config_file)

    def __contains__(self, path: str) -> bool:
        path, tree = _canonical(path), os.path.realpath(self._tree)
        return path in (self._config, _canonical(self._tree)) or path == tree or path.startswith(tree.rstrip("/") + "/")

    def hold_all_in(self, folder: str) -> bool:
        return lies_in(os.path.realpath(folder), [os.path.realpath(self._tree).rstrip("/")])


Places = t.Union[BarePlaces, DatabasePlaces]


def places_here(backend: FileCa) -> Places:
    """As the CA's configuration on this host says it; where there is none, its directory, and where its configuration belongs."""
    with contextlib.suppress(KeywardError, FileNotFoundError):
        return DatabasePlaces(backend)
    return BarePlaces(backend)


def refuse_outside(
    path: str, places: Places, extra: ExtraPaths, backend: FileCa, what: str, looked_at: t.Optional[t.Set[str]] = None
) -> None:
    """A set is no more trusted than its store: what belongs to the CA is decided here. Raises KeywardError; C(what) says what fails.

    C(looked_at): the folders that belong to it with all in them, and whose way is known to be free of others' links.
    """
    folder = os.path.dirname(path)
    if looked_at is not None and folder in looked_at:
        return
    if path not in places and path not in extra:
        why = "which is no place of this CA as its configuration on the host describes it"
        remedy = "Find out how it came into the set, or what is wrong with the directory. The archive opens with tar"
        if isinstance(places, BarePlaces):
            why = f"which is outside {backend.directory}, and no configuration is on the host that says that it belongs to the CA"
            remedy = "Put the configuration back first (part: configuration) and look at it, or name that place as one of extra_paths"
        raise KeywardError(what, f"the set holds {path}, {why}", remedy)
    link = leads_by(folder, owner_of(backend.directory))
    if link:
        why = f"{path} would be written through the link {link}, which others than root and the CA's owner can change"
        raise KeywardError(what, why, "Find out who made it; take it away, or take the right to write there from others")
    if looked_at is not None and places.hold_all_in(folder):
        looked_at.add(folder)


def _canonical(path: str) -> str:
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
