# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a restore writes keys and certificates is never decided by stored data alone."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _backends
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._execute import perform
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import leads_by
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import GivenFile, ImportKeys
from ansible_collections.keyward.pki.plugins.module_utils._sealing import seal
from support.openssl_ca import OpensslCa

PASSWORD = "a password of one task"


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca", algorithm="ed25519")


def which(ca: OpensslCa, **options: str) -> Selector:
    return Selector(config_file=str(ca.config_file), **options)


def order_of(facts: Facts) -> ImportKeys:
    content = seal(facts.generations, facts.private_keys, (), PASSWORD, 2048)
    file = GivenFile(PASSWORD, content, "keys.p12", tuple(one.sha256 for one in facts.generations))
    return ImportKeys(facts.generations, of=None, directory=facts.authority.directory, files=(file,))


def restored(selector: Selector, order: ImportKeys) -> Any:
    backend = _backends.find(selector)
    try:
        order = replace(order, of=backend.facts().generations[-1].sha256)
    except NothingThere:
        pass
    return perform(_backends.find(selector), order, False)


def lost(ca: OpensslCa) -> ImportKeys:
    order = order_of(_backends.find(which(ca)).facts())
    ca.private_key.unlink()
    return order


def test_a_configuration_moves_no_key(ca: OpensslCa, tmp_path: Path) -> None:
    order, share = lost(ca), tmp_path / "share"
    share.mkdir()
    text = ca.config_file.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("private_key")]
    at = next(number for number, line in enumerate(lines) if line.startswith("certificate"))
    ca.config_file.write_text("\n".join([*lines[:at], f"private_key = {share}/cakey.pem", *lines[at:]]) + "\n")
    with pytest.raises(KeywardError, match=f"{share}/cakey.pem is outside the CA's directory .* name it"):
        restored(which(ca), order)
    assert list(share.iterdir()) == []
    restored(which(ca, private_key_file=str(share / "cakey.pem")), order)
    assert (share / "cakey.pem").exists()


def test_a_manifest_moves_no_key(ca: OpensslCa, tmp_path: Path) -> None:
    ca.renew_keeping()
    older = next(iter(ca.private_key.parent.glob("*.0.*")))
    order = order_of(_backends.find(which(ca)).facts())
    older.unlink()
    assert order.generations[0].key_place
    place = replace(order.generations[0].key_place, path=str(tmp_path / "www" / "ca.txt"))
    forged = replace(order, generations=(replace(order.generations[0], key_place=place), *order.generations[1:]))
    with pytest.raises(KeywardError, match="www/ca.txt is outside the CA's directory"):
        restored(which(ca), forged)
    assert not (tmp_path / "www").exists()
    restored(which(ca), order)
    assert older.exists()


@pytest.mark.parametrize("mode", ["0666", "4755", "2777"])
def test_no_manifest_opens_a_key(ca: OpensslCa, mode: str) -> None:
    order = lost(ca)
    assert order.generations[0].key_place
    place = replace(order.generations[0].key_place, mode=mode)
    (back,) = restored(which(ca), replace(order, generations=(replace(order.generations[0], key_place=place),))).restored
    assert back.access.split()[0] == f"{stat.S_IMODE(ca.private_key.stat().st_mode):04o}"
    assert stat.S_IMODE(ca.private_key.stat().st_mode) & 0o7007 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_a_link_is_followed_where_only_root_and_the_owner_can_change_it(ca: OpensslCa, tmp_path: Path) -> None:
    order, elsewhere, private = lost(ca), tmp_path / "elsewhere", ca.private_key.parent
    private.rename(elsewhere)
    private.symlink_to(elsewhere)
    os.chown(private, 12345, -1, follow_symlinks=False)
    with pytest.raises(KeywardError, match=f"through the link {private}, which others"):
        restored(which(ca), order)
    os.chown(private, 0, -1, follow_symlinks=False)
    ca.directory.chmod(0o775)
    with pytest.raises(KeywardError, match=f"through the link {private}, which others"):
        restored(which(ca), order)
    assert list(elsewhere.iterdir()) == []
    ca.directory.chmod(0o755)
    restored(which(ca), order)
    assert (elsewhere / ca.private_key.name).exists()


def test_links_on_the_way(tmp_path: Path) -> None:
    mine = {os.geteuid(), 0}
    (tmp_path / "a").mkdir()
    (tmp_path / "to-a").symlink_to("a")
    (tmp_path / "a" / "round").symlink_to("../to-a/round")
    assert leads_by(str(tmp_path / "to-a" / "x" / "y"), mine) is None
    assert leads_by(str(tmp_path / "a" / "round"), mine) is not None
    (tmp_path / "a").chmod(0o777)
    (tmp_path / "a" / "out").symlink_to("/etc")
    assert leads_by(str(tmp_path / "to-a" / "out" / "passwd"), mine) == str(tmp_path / "a" / "out")
    (tmp_path / "a").chmod(0o1777)
    assert leads_by(str(tmp_path / "to-a" / "out" / "passwd"), mine) is None
