# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No playbook prints a password, a passphrase, a private key or a piece of a bundle, at any verbosity."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from support.ansible_run import Ansible
from support.canaries import Canaries
from support.roles import a_root, entry, make_stores, now, playbook
from tools import require_tool


def test_no_playbook_prints_a_secret(ansible: Ansible, tmp_path: Path) -> None:
    require_tool("openssl")
    root, issuing = tmp_path / "root", tmp_path / "issuing"
    stores = make_stores(ansible, tmp_path)
    canaries = Canaries()
    hidden = {name: f"canary-{secrets.token_urlsafe(24)}" for name in ("password", "root passphrase", "issuing passphrase", "wrong", "new")}
    for name, secret in hidden.items():
        canaries.add(name, secret)
    parent = {
        "host": "ca",
        "config_file": str(root / "openssl.cnf"),
        "private_key_passphrase": hidden["root passphrase"],
    }
    authorities = [
        {**entry(a_root(root, keyward_key_type="EC")), "private_key_passphrase": hidden["root passphrase"]},
        {
            **entry(a_root(issuing, "Example Issuing CA", keyward_kind="subordinate", keyward_key_type="EC")),
            "private_key_passphrase": hidden["issuing passphrase"],
            "parent": parent,
        },
    ]
    variables = {**stores, "keyward_password": hidden["password"], "keyward_reuse_key": False, "keyward_authorities": authorities}
    said = []

    def run(name: str, rc: int = 0, typed: dict[str, str] | None = None, verbosity: int = 5, **more: str) -> None:
        hosts = {"ca": ansible.local(**{**variables, **more})}
        result = playbook(ansible, name, hosts, rc=rc, verbosity=verbosity, diff=True, extra_vars=typed)
        said.append((name, f"{result.stdout}{result.stderr}{result.results}"))

    run("install")
    for directory, passphrase in ((root, "root passphrase"), (issuing, "issuing passphrase")):
        canaries.add_private_key(f"the key of {directory.name}", directory / "private" / "cakey.pem", hidden[passphrase])
    run("renewal", keyward_issued_before=now())
    for directory, passphrase in ((root, "root passphrase"), (issuing, "issuing passphrase")):
        canaries.add_private_key(f"the new key of {directory.name}", directory / "private" / "cakey.pem", hidden[passphrase])
    for verbosity in (0, 5):  # most is said at 5; of a failure there is a line that only 0 to 2 have
        run("key_backup", rc=2, verbosity=verbosity, keyward_password=hidden["wrong"])
    run("nightly")
    run("verify", typed={"keyward_password": hidden["password"]})
    shutil.rmtree(issuing)
    run("restore")
    run("password", typed={"keyward_password": hidden["password"], "keyward_new_password": hidden["new"]})
    assert canaries.add_bundles(tmp_path / "keys") == 6, "of each authority after its installation, its renewal, and with its new password"
    leaks = [(name, secret) for name, text in said for secret in canaries.find(text)]
    assert not leaks, leaks
    assert not [secret for secret, _path in canaries.find_in_files([tmp_path / "databases"])], "nor does a set hold one"
