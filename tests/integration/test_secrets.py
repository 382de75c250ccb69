# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords, private keys and bundles stay out of output and results, wherever they come from and whatever a host prints.

What a run writes, starts and logs besides: tests/slow/test_traced_secrets.py.
"""

from __future__ import annotations

import base64
import secrets
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from support.ansible_run import Ansible
from support.canaries import Canaries
from support.host_python import HostPython
from support.leaks import canary, show, task
from support.openssl_ca import OpensslCa

# --- the detector ---


def test_pieces_of_a_secret_are_recognised_in_every_disguise(openssl_ca: OpensslCa, tmp_path: Path) -> None:
    secret, bundle = canary(), secrets.token_bytes(600).replace(b"\\", b"/")
    found = Canaries()
    found.add("password", secret)
    found.add("bundle", bundle)
    found.add_private_key("key", openssl_ca.private_key)
    document = base64.b64encode(f'{{"password": "{secret}"}}'.encode()).decode()
    for text in (f"x{secret}", f"x{secret[3:25]}y", secret.encode().hex(), document, "x" + document, base64.b64encode(document.encode())):
        assert found.find(text) == {"password"}, text
    pem = openssl_ca.private_key.read_text()
    for text in (pem, repr(pem), pem.replace("\n", "\\\\n"), pem.splitlines()[2], base64.b64encode(b"x" + pem.encode())):
        assert found.find(text) == {"key"}, text
    for start in range(0, 90, 7):
        piece = bundle[start : start + 24]
        nested = base64.b64encode(b'{"content": "' + base64.b64encode(bundle[start : start + 300]) + b'"}')
        for data in (piece, repr(piece), base64.b64encode(b"--" + piece), base64.encodebytes(bundle[start:]), nested):
            assert found.find(data) == {"bundle"}, data
    assert not found.find(openssl_ca.certificate.read_bytes())
    assert not found.find(secrets.token_bytes(5000))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "deep").write_text(secret)
    assert found.find_in_files([tmp_path / "files"]) == {("password", str(tmp_path / "files" / "deep"))}


# --- where secrets come from ---


def test_a_password_may_come_from_a_vault_a_file_or_a_loop_over_names(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    vaulted, looked_up = canary(), canary()
    canaries = Canaries()
    canaries.add("the vaulted password", vaulted)
    canaries.add("the looked up password", looked_up)
    (tmp_path / "password").write_text(looked_up + "\n")
    (tmp_path / "vault").write_text("opens the vault")
    text = VaultLib().encrypt(vaulted, VaultSecret(b"opens the vault")).decode()
    (tmp_path / "vars.yml").write_text("vaulted: !vault |\n" + "".join(f"  {line}\n" for line in text.splitlines()))
    stores = [tmp_path / "one", tmp_path / "two"]
    config_file = str(openssl_ca.config_file)
    lookup = "{{ lookup('ansible.builtin.file', '" + str(tmp_path / "password") + "') }}"
    result = ansible.play(
        [
            task("init", "ca_store", {"path": "{{ item }}", "kind": "keys"}, loop=[str(store) for store in stores]),
            task(
                "backup",
                "ca_key_backup",
                {"config_file": config_file, "stores": ["{{ item }}"], "memory": "{{ item }}.memory", "password": "{{ passwords[item] }}"},
                loop=[str(store) for store in stores],
                loop_control={"label": "{{ item | basename }}"},
                vars={"passwords": {str(stores[0]): "{{ vaulted }}", str(stores[1]): lookup}},
            ),
            show("answer"),
            task("verify", "ca_key_verify", {"stores": [str(stores[0])], "config_file": config_file, "password": "{{ vaulted }}"}),
            task("swapped", "ca_key_verify", {"stores": [str(stores[0])], "config_file": config_file, "password": lookup}, fails=True),
            task("other", "ca_key_verify", {"stores": [str(stores[1])], "config_file": config_file, "password": lookup}),
        ],
        verbosity=5,
        arguments=["-e", f"@{tmp_path / 'vars.yml'}", "--vault-password-file", str(tmp_path / "vault")],
    ).ok()
    assert result.task("swapped").status == "failed"
    assert not canaries.find(f"{result}{result.results}")


def test_a_secret_that_is_part_of_a_path_does_not_mangle_the_answer(ansible: Ansible, tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "demoCA", passphrase="demo")
    options = {"config_file": str(ca.config_file), "private_key_passphrase": "demo"}
    stated = {"older": [{"certificate_file": str(path), "private_key_passphrase": "demo"} for path in ca.renew_keeping()[:1]]}
    result = ansible.play([task("info", "ca_info", options), task("stated", "ca_info", options, stated)]).ok()
    for name in ("info", "stated"):
        assert result.task(name)["authority"]["directory"] == str(ca.directory)
    assert "***" not in repr(result.results)


# --- what can't be guarded is refused ---


@pytest.mark.parametrize(
    ("variables", "keywords", "why"),
    [
        ({}, {"async": 60, "poll": 1}, "does not support async"),
        ({"ansible_connection": "keyward_unpipelined"}, {}, "the connection keyward_unpipelined can't pipeline"),
        ({"ansible_become": True, "ansible_become_method": "ansible.builtin.su"}, {}, "can't pipeline"),
    ],
    ids=["async", "connection", "become"],
)
def test_a_way_that_can_not_be_guarded_is_refused_before_anything_is_sent(
    variables: dict[str, Any], keywords: dict[str, Any], why: str, ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path
) -> None:
    python = HostPython(tmp_path / "host")
    own = {"private_key_passphrase": canary()}
    stores = {"stores": [str(tmp_path / "keys")], "password": canary()}
    place = {"config_file": str(openssl_ca.config_file)}
    modules: dict[str, list[dict[str, Any]]] = {
        "ca_info": [place, own],
        "ca_key_backup": [place, own, stores],
        "ca_key_backup_info": [place, own, stores],
        "ca_key_verify": [place, own, stores],
        "ca_key_restore": [place, own, stores],
    }
    result = ansible.play(
        [
            task("init", "ca_store", {"path": str(tmp_path / "keys"), "kind": "keys"}, delegate_to="localhost", become=False),
            *(task(module, module, *options, fails=True, **keywords) for module, options in modules.items()),
        ],
        hosts={"ca": {**ansible.local(python.program), **variables}, "localhost": ansible.local()},
        arguments=["--limit", "ca"],
        verbosity=3,
    ).ok()
    said = {
        one.task: one.get("msg", "") + "".join(advisory["message"] for advisory in one.get("advisories", []))
        for one in result.results["ca"]
        if one.task in modules
    }
    assert all(why in said[module] for module in modules), said
    assert not python.starts, "a module was executed on the host"
    assert not list(ansible.remote_tmp.rglob("*")), "something was put on the host"


# --- a host whose Python misbehaves ---


@pytest.mark.parametrize(
    "program",
    [
        "cat; exit 1",
        "cat >&2; exit 1",
        "cat",
        'tee "$0.in" | {python}; cat "$0.in"',
        'tee "$0.in" | {python}; cat "$0.in" >&2',
        'cat > "$0.in"; cat "$0.in"; {python} < "$0.in"',
    ],
    ids=["echo", "echo as errors", "echo and succeed", "echo behind", "errors behind", "echo before"],
)
def test_what_a_broken_python_prints_is_not_passed_on(program: str, ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n" + program.format(python=sys.executable) + "\n")
    python.chmod(0o755)
    canaries = Canaries()
    password, passphrase = canary(), canary()
    canaries.add("password", password)
    canaries.add("passphrase", passphrase)
    options = {"config_file": str(openssl_ca.config_file), "private_key_passphrase": "{{ passphrase }}"}
    result = ansible.play(
        [
            task("init", "ca_store", {"path": str(tmp_path / "keys"), "kind": "keys"}, delegate_to="localhost"),
            task("info", "ca_info", options, fails=True),
            task("backup", "ca_key_backup", options, {"stores": [str(tmp_path / "keys")], "password": "{{ password }}"}, fails=True),
            show("answer"),
        ],
        hosts={"ca": ansible.local(python), "localhost": ansible.local()},
        arguments=["--limit", "ca"],
        extra_vars={"password": password, "passphrase": passphrase},
        verbosity=5,
    ).ok()
    assert not canaries.find(f"{result}{result.results}")
    (backup,) = [one for one in result.results["ca"] if one.task == "backup"]
    assert backup.status == "failed" or list((tmp_path / "keys").rglob("*.p12"))
