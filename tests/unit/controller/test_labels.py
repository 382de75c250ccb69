# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SELinux labels of a CA's files, as the kernel keeps them: what takes a file's place has the file's label."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.action.ca_crl import ActionModule as CaCrl
from ansible_collections.keyward.pki.plugins.action.ca_renew import ActionModule as CaRenew
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa

NAME = "security.selinux"


def label(path: Path) -> bytes:
    return b"system_u:object_r:of_" + path.name.split(".")[0].encode("ascii") + b"_t:s0"


def put_labels(*paths: Path) -> None:
    try:
        for path in paths:
            os.setxattr(path, NAME, label(path))
    except OSError:
        pytest.skip("this kernel, or this user, keeps no such labels")


def test_a_renewal_and_a_crl_keep_the_labels_of_what_they_replace(tmp_path: Path) -> None:
    ca, host = OpensslCa(tmp_path / "ca"), FakeHost()
    crl = ca.sign_crl()
    put_labels(ca.certificate, ca.private_key, crl)
    which = {"config_file": str(ca.config_file)}
    assert host.run(CaRenew, {**which, "reuse_key": False, "remaining_days": 4000, "days": 5000})["changed"]
    assert host.run(CaCrl, {**which, "remaining_days": 29})["changed"]
    kept = [ca.certificate.with_name("cacert.0.pem"), ca.private_key.with_name("cakey.0.pem")]
    signed = [ca.certificate, ca.private_key, *kept]
    assert {path.name: os.getxattr(path, NAME) for path in signed} == {path.name: label(path) for path in signed}
    assert b"of_crl_t" in os.getxattr(crl, NAME)
