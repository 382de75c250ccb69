# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What imitates a file has its readers, no more and no fewer, or is not written."""

from __future__ import annotations

import errno
import os
import stat
import sys
import types
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _protection
from ansible_collections.keyward.pki.plugins.module_utils._acl import acl_text, recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._protection import (
    Protection,
    acl_from_text,
    expected_label,
    protection_of,
    recorded_protection,
)
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile, put, put_new
from support.acls import setfacl

KEPT_OUT = "user::rw-,user:daemon:r--,group::---,mask::r--,other::---"


def acls(path: Path) -> str:
    return str(recorded_acls(str(path))["acl"])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "cakey.pem"
    path.write_text("the key")
    setfacl(path, "--set", KEPT_OUT)
    return path


def test_what_is_written_like_a_file_has_its_acl(key: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o640, "the mode alone seems to let the group in"
    put_new(str(tmp_path / "cakey.next.pem"), b"another", 0o600, like=str(key))
    put(str(key), b"a third", 0o600, like=str(key))
    assert acls(key) == acls(tmp_path / "cakey.next.pem") == KEPT_OUT and key.read_bytes() == b"a third"


def test_it_has_the_mode_that_was_asked_for_where_there_is_nothing_to_imitate(tmp_path: Path) -> None:
    put(str(tmp_path / "crl.pem"), b"a CRL", 0o644, like=str(tmp_path / "crl.pem"))
    assert stat.S_IMODE((tmp_path / "crl.pem").stat().st_mode) == 0o644


@pytest.mark.parametrize("nameless", [True, False])
def test_a_default_acl_opens_nothing(tmp_path: Path, nameless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not nameless:
        monkeypatch.setattr("ansible_collections.keyward.pki.plugins.module_utils._staged._nameless", lambda _directory: None)
    plain = tmp_path / "cakey.pem"
    plain.write_text("the key")
    plain.chmod(0o640)
    private = tmp_path / "private"
    private.mkdir()
    setfacl(private, "-d", "-m", "u:daemon:rw")
    put_new(str(private / "imitated.pem"), b"x", 0o600, like=str(plain))
    recorded = recorded_protection(str(private / "restored.pem"), 0o640, None, None, None, "the key was not restored")
    with StagedFile(str(private / "restored.pem"), b"x", recorded) as staged:
        staged.commit()
    for name in ("imitated.pem", "restored.pem"):
        assert acls(private / name) == "None" and stat.S_IMODE((private / name).stat().st_mode) == 0o640


def test_a_file_system_without_acls_gets_no_such_file(key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refused)
    with pytest.raises(KeywardError, match=r"its file system can't hold one.*user:daemon:r--"):
        put_new(str(tmp_path / "cakey.next.pem"), b"x", 0o600, like=str(key))
    assert list(tmp_path.iterdir()) == [key]


@pytest.mark.parametrize("acl", [KEPT_OUT, None])
def test_a_file_system_that_shows_more_than_was_set_gets_no_such_file(
    acl: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and some shares: a chmod ends well and changes nothing; here it opens."""
    real = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda descriptor, _mode: real(descriptor, 0o755))
    monkeypatch.setattr(os, "setxattr", lambda *_arguments: None)
    recorded = recorded_protection(str(tmp_path / "k"), 0o640, None, None, acl, "the key was not restored")
    with pytest.raises(KeywardError, match="it shows 0755 where 0640 was set|shows another ACL"):
        StagedFile(str(tmp_path / "k"), b"x", recorded)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shown", "taken"), [(0o600, True), (0o700, True), (0o644, False)])
def test_a_file_system_that_refuses_modes_is_judged_by_what_it_shows(
    shown: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT on a stick answers a chmod with an error; its mount options may keep others out all the same."""

    def refused(descriptor: int, _mode: int) -> None:
        os.chmod(descriptor, shown)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refused)
    if taken:
        put_new(str(tmp_path / "k"), b"x", 0o640)
        assert (tmp_path / "k").read_bytes() == b"x"
        return
    with pytest.raises(KeywardError, match="does not hold modes: it shows 0644 where 0640"):
        put_new(str(tmp_path / "k"), b"x", 0o640)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_given_to_its_owner_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that makes nobody of root. Where the owner is right already, nothing is asked of it."""

    def refused(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    here = tmp_path / "here"
    here.write_bytes(b"x")
    put(str(here), b"y", 0o600, like=str(here))
    given = Protection(0o600, owner=os.geteuid() + 1)
    with pytest.raises(KeywardError, match="can't be given to them. Run the task as that user"):
        StagedFile(str(tmp_path / "k"), b"x", given)
    assert list(tmp_path.iterdir()) == [here] and here.read_bytes() == b"y"


def test_acls_are_recorded_by_name_and_read_back(key: Path) -> None:
    here = protection_of(str(key))
    assert acl_text(here.acl) == KEPT_OUT and acl_from_text(KEPT_OUT, "", 0o640) == here.acl
    unknown = "user::rw-,user:4294967000:r--,group::---,group:4294967001:rw-,mask::rw-,other::r--"
    assert acl_text(acl_from_text(unknown, "", 0o664)) == unknown
    assert acl_from_text(None, "") == () and acl_text(()) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("user::rw-,user:nobody-of-that-name:r--,group::---,mask::r--,other::---", "there is no user nobody-of-that-name"),
        ("user::rw-,group:no-such-group:r--,group::---,mask::r--,other::---", "there is no group no-such-group"),
        ("user::rw-,group::r--,mask::rw-,other::---", "does not fit the mode"),  # 0640
        ("user::rw-,user:daemon:r--,group::---,mask::r--,other::r--", "does not fit the mode"),
        ("user::rw-,user:daemon:r--,group::---,other::---", "does not fit"),
        ("user::rw-,mask:x:r--,group::---,other::---", "does not fit"),
        ("nonsense", "does not fit"),
        ("user::rw-,group::r--,other::---" * 1000, "does not fit"),
        (["user::rw-"], "does not fit"),
    ],
)
def test_an_acl_that_cannot_be_given_is_said(text: str, why: str) -> None:
    with pytest.raises(KeywardError, match=why):
        acl_from_text(text, "the key was not restored", 0o640)


def test_closed_to_others() -> None:
    opened = "user::rw-,user:daemon:r--,group::---,mask::r--,other::r--"
    closed = Protection(0o644, acl=acl_from_text(opened, "", 0o644)).closed_to_others()
    assert closed.mode == 0o640 and acl_text(closed.acl) == KEPT_OUT


def test_the_selinux_label_of_what_lies_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"cakey.pem": b"system_u:object_r:cert_t:s0\0"}
    given: list[bytes] = []
    real_get, real_set = os.getxattr, os.setxattr

    def get(file: str | int, name: str) -> bytes:
        if name == "security.selinux":
            return labels.get(os.path.basename(str(file)), b"unconfined_u:object_r:etc_t:s0\0")
        return real_get(file, name)

    def put_label(file: str | int, name: str, value: bytes) -> None:
        if name == "security.selinux":
            given.append(value)
        else:
            real_set(file, name, value)

    monkeypatch.setattr(os, "getxattr", get)
    monkeypatch.setattr(os, "setxattr", put_label)
    (tmp_path / "cakey.pem").write_text("the key")
    put_new(str(tmp_path / "cakey.next.pem"), b"another", 0o600, like=str(tmp_path / "cakey.pem"))
    assert given == [labels["cakey.pem"]]


def test_what_is_restored_gets_the_label_that_restorecon_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("selinux")
    library.is_selinux_enabled = lambda: 1  # type: ignore[attr-defined]
    library.matchpathcon = lambda path, mode: [0, f"system_u:object_r:{'cert' if stat.S_ISREG(mode) else 'etc'}_t:s0"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ansible.module_utils.compat.selinux", library)
    monkeypatch.setattr("ansible.module_utils.compat.selinux", library, raising=False)
    assert expected_label("/etc/pki/CA/cakey.pem", stat.S_IFREG | 0o600) == b"system_u:object_r:cert_t:s0\0"
    library.is_selinux_enabled = lambda: 0  # type: ignore[attr-defined]
    assert expected_label("/etc/pki/CA/cakey.pem", stat.S_IFREG | 0o600) is None
    assert _protection.expected_label("/x", stat.S_IFREG) is None
