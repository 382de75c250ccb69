# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For whom a parent signs that is driven by a play: for the CA that asks, and in no other name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.fake_host import FakeHost
from support.lifecycle import Failed, install, refused, renew, sign
from support.openssl_ca import openssl
from tools import require_tool

X = {"organizationName": "Example", "commonName": "Subordinate X"}
Y = {"organizationName": "Example", "commonName": "Subordinate Y"}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_tool("openssl")
    install(tmp_path / "root")
    initialise(str(tmp_path / "keys"), "keys")
    yield tmp_path / "root"


def asks(directory: Path, subject: dict[str, Any]) -> str:
    request: str = install(directory, kind="subordinate", subject=subject)["request"]
    return request


def issued(root: Path) -> list[str]:
    return [line.split("\t")[5] for line in (root / "index.txt").read_text().splitlines()]


def backed_up(directory: Path, host: str = "x", **options: Any) -> dict[str, Any]:
    """The store of an authority, and its id, as a role gives them."""
    store = directory.parent / "keys"
    given = {"config_file": str(directory / "openssl.cnf"), "stores": [str(store)], "password": "correct horse battery staple 1", **options}
    done = FakeHost(host).run(CaKeyBackup, given)
    assert done.get("backup"), done
    return {"requested_by": done["authority"]["id"], "stores": [str(store)]}


def test_at_install_only_the_subject_of_the_options_is_signed(root: Path, tmp_path: Path) -> None:
    own, other = asks(tmp_path / "x", X), asks(tmp_path / "y", Y)
    assert "it asks for the subject CN=Subordinate Y,O=Example" in refused(lambda: sign(root, other, subject=X))
    assert "is empty" in refused(lambda: sign(root, own, subject={})) and issued(root) == []
    for subject in (X, dict(reversed(X.items())), {**X, "commonName": "subordinate  x"}):
        assert sign(root, own, subject=subject)["certificate"]
    assert len(issued(root)) == 1 and sign(root, other)["certificate"], "a person signs what is given"


def test_a_root_never_asks(root: Path, tmp_path: Path) -> None:
    asks(tmp_path / "x", X)
    assert "kind is root" in refused(lambda: install(tmp_path / "x", kind="root", subject=X))
    own = asks(tmp_path / "y", Y)
    assert "it signs its own certificate" in refused(lambda: sign(root, own, **backed_up(root, "r"))) and issued(root) == []


def test_at_a_renewal_only_the_subject_of_the_newest_backup_is_signed(root: Path, tmp_path: Path) -> None:
    x = tmp_path / "x"
    install(x, kind="subordinate", subject=X, certificate=sign(root, asks(x, X), subject=X)["certificate"])
    of_x = backed_up(x)
    request = renew(x)["request"]
    assert "it asks for the subject" in refused(lambda: sign(root, asks(tmp_path / "y", Y), **of_x)) and len(issued(root)) == 1
    assert "exclude each other" in refused(lambda: sign(root, request, subject=X, **of_x))
    for wrong in ("", "0" * 64, "x"):
        with pytest.raises(Failed, match="can't be told"):
            sign(root, request, **{**of_x, "requested_by": wrong})
    assert sign(root, request, **of_x)["certificate"] and len(issued(root)) == 2


def test_an_older_state_of_the_backups_tells_no_name(root: Path, tmp_path: Path) -> None:
    x = tmp_path / "x"
    install(x, kind="subordinate", subject=X, certificate=sign(root, asks(x, X), subject=X)["certificate"])
    of_x = backed_up(x)
    shutil.copytree(tmp_path / "keys", tmp_path / "before")
    backed_up(x, force=True)
    request = renew(x)["request"]
    shutil.rmtree(tmp_path / "keys")
    shutil.copytree(tmp_path / "before", tmp_path / "keys")
    assert "they hold less than before" in refused(lambda: sign(root, request, **of_x)) and len(issued(root)) == 1


def test_a_name_that_came_into_the_backups_is_not_signed(root: Path, tmp_path: Path) -> None:
    """The host made a certificate in another name for its own key, and shows it as the newest."""
    x = tmp_path / "x"
    install(x, kind="subordinate", subject=X, certificate=sign(root, asks(x, X), subject=X)["certificate"])
    backed_up(x)
    (x / "cacert.pem").rename(x / "cacert.0.pem")
    openssl("req", "-new", "-x509", "-key", x / "private" / "cakey.pem", "-subj", "/O=Example/CN=Subordinate Y", "-out", x / "cacert.pem")
    of_x = backed_up(x)
    for subject in (X, Y):
        request = asks(tmp_path / str(subject["commonName"])[-1:].lower() / "again", subject)
        assert "the subject of subordinate-x-" in refused(lambda request=request: sign(root, request, **of_x))
    assert len(issued(root)) == 1
