# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the openssl backend puts what a backup brings back."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from support.openssl_ca import OpensslCa
from support.openssl_reading import MakeCa, read
from support.openssl_shapes import make_pair

# --- places --------------------------------------------------------------------------------------------------------


def paths(placed: dict[str, Generation], generations: tuple[Generation, ...] | list[Generation], base: Path | str) -> list[tuple[str, str]]:
    """(certificate, key) of each generation, seen from `base`."""
    found = []
    for generation in generations:
        one = placed[generation.sha256]
        assert one.certificate_place and one.key_place
        found.append((os.path.relpath(one.certificate_place.path, base), os.path.relpath(one.key_place.path, base)))
    return found


THREE_PATHS = [("cacert.0.pem", "private/cakey.0.pem"), ("cacert.1.pem", "private/cakey.0.pem"), ("cacert.pem", "private/cakey.pem")]


def test_places_on_the_same_host(three: OpensslCa) -> None:
    generations = read(three).generations
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    live = backend.facts()
    placed = backend.places(generations, str(three.directory))
    assert paths(placed, generations, three.directory) == THREE_PATHS
    assert [placed[g.sha256].certificate_place for g in generations] == [g.certificate_place for g in live.generations]
    assert [placed[g.sha256].private_key for g in generations] == ["present"] * 3

    for path in three.private_key.parent.glob("cakey*"):
        path.unlink()
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    backend.facts()
    placed = backend.places(generations, str(three.directory))
    assert paths(placed, generations, three.directory) == THREE_PATHS
    assert [placed[g.sha256].private_key for g in generations] == ["missing"] * 3
    recorded = generations[0].key_place
    assert recorded and placed[generations[0].sha256].key_place == recorded


def test_places_where_nothing_is_left(three: OpensslCa, tmp_path: Path) -> None:
    generations = read(three).generations
    shutil.rmtree(three.directory)
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    with pytest.raises(NothingThere):
        backend.facts()
    assert paths(backend.places(generations, str(three.directory)), generations, three.directory) == THREE_PATHS
    # Another directory of the new host; and one where only the files are stated.
    elsewhere = OpensslBackend(Selector(config_file=str(tmp_path / "new" / "openssl.cnf")))
    assert paths(elsewhere.places(generations, str(three.directory)), generations, tmp_path / "new") == THREE_PATHS
    stated = OpensslBackend(Selector(certificate_file=str(tmp_path / "x/c.crt"), private_key_file=str(tmp_path / "x/k.key")))
    assert paths(stated.places(generations, None), generations, tmp_path / "x")[-1] == ("c.crt", "k.key")
    assert paths(stated.places(generations, None), generations, three.directory)[:2] == THREE_PATHS[:2]


def test_places_where_only_the_configuration_is_left(three: OpensslCa, tmp_path: Path) -> None:
    generations = read(three).generations
    new = tmp_path / "new"
    new.mkdir()
    text = three.config_file.read_text().replace(f"dir = {three.directory}", "dir = .")
    (new / "openssl.cnf").write_text(text.replace("cacert.pem", "certs/authority.crt").replace("cakey.pem", "authority.key"))
    backend = OpensslBackend(Selector(config_file=str(new / "openssl.cnf")))
    assert paths(backend.places(generations, str(three.directory)), generations, new) == [
        *THREE_PATHS[:2],
        ("certs/authority.crt", "private/authority.key"),
    ]


def test_places_of_a_ca_renewed_in_place(ca: OpensslCa) -> None:
    (older,) = read(ca).generations
    ca.renew_in_place(new_key=False)
    (middle,) = read(ca).generations
    ca.renew_in_place()
    (newer,) = read(ca).generations
    backup = [older, replace(middle, index=1), replace(newer, index=2)]
    for present in (True, False):
        if not present:
            shutil.rmtree(ca.directory)
        backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
        if present:
            backend.facts()
        assert paths(backend.places(backup, str(ca.directory)), backup, ca.directory) == THREE_PATHS


def test_places_never_give_two_keys_one_path(three: OpensslCa) -> None:
    """An older generation took the name that the collision would take."""
    zero, one, two = read(three).generations
    assert zero.certificate_place and zero.key_place and two.certificate_place and two.key_place
    clash = replace(zero, certificate_place=two.certificate_place, key_place=two.key_place, index=0)
    squatter = replace(
        one,
        certificate_place=zero.certificate_place,
        key_place=zero.key_place,
        public_key_sha256="f" * 64,  # a key of its own
    )
    backup = [clash, squatter, two]
    placed = OpensslBackend(Selector(config_file="/nowhere/openssl.cnf")).places(backup, None)
    assert paths(placed, backup, three.directory) == [
        ("cacert.3.pem", "private/cakey.3.pem"),
        ("cacert.0.pem", "private/cakey.0.pem"),
        ("cacert.pem", "private/cakey.pem"),
    ]


def test_places_when_the_host_was_renewed_since(ca: OpensslCa) -> None:
    """What is here already stays where it is; only what is not goes where it was."""
    backup = read(ca).generations
    ca.renew_keeping()
    backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
    backend.facts()
    placed = backend.places(backup, str(ca.directory))
    assert paths(placed, backup, ca.directory) == [("cacert.0.pem", "private/cakey.0.pem")]
    assert placed[backup[0].sha256].private_key == "present"


def test_places_when_the_current_key_lies_elsewhere(ca: OpensslCa) -> None:
    """The configuration names one file for the current key: a copy of it elsewhere is no help."""
    backup = read(ca).generations
    ca.private_key.rename(ca.private_key.with_name("cakey.0.pem"))
    backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
    assert [g.private_key for g in backend.facts().generations] == ["present"]
    placed = backend.places(backup, str(ca.directory))
    assert paths(placed, backup, ca.directory) == [("cacert.pem", "private/cakey.pem")]
    assert placed[backup[0].sha256].private_key == "missing"


def test_places_keep_how_a_file_was(make_ca: MakeCa, tmp_path: Path) -> None:
    ca = make_ca(passphrase="at rest")
    ca.private_key.chmod(0o640)
    (generation,) = read(ca, private_key_passphrase="at rest").generations
    recorded = replace(generation, key_place=replace(generation.key_place, owner="nobody"))  # type: ignore[type-var]
    backend = OpensslBackend(Selector(config_file=str(tmp_path / "new/openssl.cnf")))
    place = backend.places([recorded], str(ca.directory))[generation.sha256].key_place
    assert place and place == replace(recorded.key_place, path=str(tmp_path / "new/private/cakey.pem"))  # type: ignore[type-var]
    assert (place.owner, place.mode, place.encrypted_at_rest) == ("nobody", "0640", True)


def test_places_of_a_backup_that_knows_none(three: OpensslCa) -> None:
    bare = [replace(g, certificate_place=None, key_place=None) for g in read(three).generations]
    shutil.rmtree(three.private_key.parent)
    for path in three.directory.glob("cacert*"):
        path.unlink()
    backend = OpensslBackend(Selector(config_file=str(three.config_file)))
    assert paths(backend.places(bare, None), bare, three.directory) == THREE_PATHS
    with pytest.raises(KeywardError, match="the backup does not say where its keys were"):
        OpensslBackend(Selector(config_file="/nowhere/openssl.cnf")).places(bare, None)


def test_places_say_what_lies_there(make_ca: MakeCa, tmp_path: Path) -> None:
    """Even where the certificate is gone, and the authority as a whole can't be read."""
    ca = make_ca(passphrase="at rest")
    backup = read(ca, private_key_passphrase="at rest").generations
    ca.certificate.unlink()
    for passphrase, state in (("at rest", "present"), (None, "inaccessible"), ("wrong", "inaccessible")):
        backend = OpensslBackend(Selector(config_file=str(ca.config_file), private_key_passphrase=passphrase))
        assert backend.places(backup, str(ca.directory))[backup[0].sha256].private_key == state
    make_pair(tmp_path / "x.pem", ca.private_key)
    assert backend.places(backup, str(ca.directory))[backup[0].sha256].private_key == "inaccessible"  # read once
    backend = OpensslBackend(Selector(config_file=str(ca.config_file)))
    assert backend.places(backup, str(ca.directory))[backup[0].sha256].private_key == "missing"
    assert stat.S_IMODE(os.stat(ca.private_key).st_mode) == 0o600
