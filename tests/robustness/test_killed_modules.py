# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed in the middle of a module leaves no secret behind, and the next one does what it was to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.ansible_run import Ansible
from support.canaries import Canaries
from support.host_python import HostPython
from support.leaks import INVITING_CFG, INVITING_ENV, canary, lose, task
from support.openssl_ca import OpensslCa
from support.signers import make_home


@pytest.mark.parametrize(
    ("module", "moment", "killed"),
    [
        ("ca_key_backup", ("open", "private/cakey.pem"), "both"),
        ("ca_key_backup", ("open", "private/cakey.pem"), "ansible-playbook"),
        ("ca_key_restore", ("os.link", "cakey.pem"), "both"),
        ("ca_key_restore", ("os.link", "cakey.pem"), "module"),
    ],
)
def test_a_killed_run_leaves_no_secret_behind(
    module: str, moment: tuple[str, str], killed: str, ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path
) -> None:
    python = HostPython(tmp_path / "host", moment)
    password, keys, inputs, host_tmp = canary(), tmp_path / "keys", tmp_path / "inputs", tmp_path / "tmp"
    canaries = Canaries()
    canaries.add("password", password)
    canaries.add_private_key("the private key", openssl_ca.private_key)
    for directory in (inputs, host_tmp):
        directory.mkdir()
    # YAML takes JSON; not the extra_vars of the run, which lie in its scratch directory.
    (inputs / "vars.yml").write_text(f'{{"password": "{password}"}}')
    options = {"config_file": str(openssl_ca.config_file), "stores": [str(keys)], "password": "{{ password }}"}
    whole = {"arguments": ["-e", f"@{inputs / 'vars.yml'}"]}
    first = [task("init", "ca_store", {"path": str(keys), "kind": "keys"})]
    if module == "ca_key_restore":
        first += [task("backup", "ca_key_backup", options), lose(openssl_ca.private_key)]
    ansible.play(first, **whole).ok()
    run = ansible.start(
        [task("killed", module, options)],
        hosts={"testhost": ansible.local(python.program)},
        env={**INVITING_ENV, "TMPDIR": str(host_tmp), "HOME": str(make_home(host_tmp / "home"))},
        cfg=INVITING_CFG,
        verbosity=5,
        **whole,
    )
    python.wait_until_stopped()
    during = canaries.find_in_files(_but(tmp_path, keys, inputs, openssl_ca.directory))
    if killed != "module":
        run.kill()
    python.kill()
    result = run.finish()
    assert result.rc != 0
    assert canaries.add_bundles(keys) == (module == "ca_key_restore")
    after = canaries.find_in_files(_but(tmp_path, keys, inputs, openssl_ca.directory))
    assert not during and not after and not canaries.find(str(result))
    # The authority's own directory holds its key file or nothing, and the next run does what the killed one was to do.
    own = {str(openssl_ca.private_key)}
    assert {path for _secret, path in canaries.find_in_files([openssl_ca.directory])} == (own if module == "ca_key_backup" else set())
    assert ansible.play([task("again", module, options)], **whole).ok().last()["changed"]
    assert {path for _secret, path in canaries.find_in_files([openssl_ca.directory])} == own


def _but(directory: Path, *excluded: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path not in excluded]
