# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords, private keys and bundles stay out of output, results, logs, command lines, environments and files."""

from __future__ import annotations

import base64
import contextlib
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from support.ansible_run import Ansible, Result
from support.canaries import Canaries
from support.host_python import HostPython
from support.openssl_ca import OpensslCa
from support.ssh_server import SshServer
from support.traced import Call, calls, traced_commands, traced_process
from tools import require_tool

CONNECTION_PLUGINS = Path(__file__).resolve().parents[1] / "support" / "connection_plugins"
# What invites a leak: no pipelining, and files that stay on the host.
INVITING_CFG = {"defaults": {"pipelining": False}, "connection": {"pipelining": False}, "ssh_connection": {"pipelining": False}}
INVITING_ENV = {"ANSIBLE_KEEP_REMOTE_FILES": "1"}


def canary() -> str:
    return f"canary-{secrets.token_urlsafe(24)}"


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


# --- all modules, successes and failures ---


class Scene:
    """Two authorities of one host (with and without a passphrase), a store, and all that must stay secret."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "keys"
        self.host_store = directory / "host_keys"
        self.passphrase, self.password, self.next_password, self.wrong = canary(), canary(), canary(), canary()
        self.locked = OpensslCa(directory / "locked", name="Locked CA", passphrase=self.passphrase)
        self.plain = OpensslCa(directory / "plain", name="Plain CA", algorithm="rsa:2048")
        self.older = self.locked.renew_keeping()
        self.canaries = Canaries()
        for name in ("passphrase", "password", "next_password", "wrong"):
            self.canaries.add(name, getattr(self, name))
        for path in (self.locked.private_key, self.older[1]):
            self.canaries.add_private_key("a locked key", path, self.passphrase)
        self.canaries.add_private_key("the plain key", self.plain.private_key)

    def may_hold_secrets(self, path: str) -> bool:
        return path.startswith((f"{self.store}/", f"{self.locked.directory}/private/", f"{self.plain.directory}/private/"))

    @property
    def variables(self) -> dict[str, str]:
        return {
            "store": str(self.store),
            "host_store": str(self.host_store),
            "locked": str(self.locked.config_file),
            "plain": str(self.plain.config_file),
            "passphrase": self.passphrase,
            "password": self.password,
            "next_password": self.next_password,
            "wrong": self.wrong,
        }


LOCKED = {"config_file": "{{ locked }}", "private_key_passphrase": "{{ passphrase }}"}
STORES = {"stores": ["{{ store }}"]}
PASSWORD = {"password": "{{ password }}"}
NEXT = {"password": "{{ next_password }}"}
WRONG = {"password": "{{ wrong }}"}


def task(name: str, module: str, *options: dict[str, Any], fails: bool = False, **keywords: Any) -> dict[str, Any]:
    merged = {option: value for some in options for option, value in some.items()}
    # Every result is registered and printed, as a person does who looks for an error.
    return {"name": name, f"keyward.pki.{module}": merged, "ignore_errors": fails, "register": "answer", **keywords}


def show(*expressions: str) -> dict[str, Any]:
    return {"name": "show", "ansible.builtin.debug": {"msg": [f"{{{{ {expression} }}}}" for expression in expressions]}}


def lose(*paths: Path) -> dict[str, Any]:
    return {"name": "lose", "ansible.builtin.raw": shlex.join(["rm", *map(str, paths)])}


def every_module(scene: Scene) -> list[dict[str, Any]]:
    older = [{"certificate_file": str(scene.older[0]), "private_key_file": str(scene.older[1])}]
    stated = [{**older[0], "private_key_passphrase": "{{ passphrase }}"}]
    return [
        task("init", "ca_store", {"path": "{{ store }}", "kind": "keys"}),
        task("init on the host", "ca_store", {"path": "{{ host_store }}", "kind": "keys", "host": True}),
        task("info, generations stated", "ca_info", LOCKED, {"older": stated}),
        task("info, wrong passphrase", "ca_info", LOCKED, {"private_key_passphrase": "{{ wrong }}"}),
        task("backup, check", "ca_key_backup", LOCKED, STORES, PASSWORD, check_mode=True),
        task("backup, weak password", "ca_key_backup", LOCKED, STORES, {"password": "{{ wrong[:19] }}"}, fails=True),
        task("backup, no passphrase", "ca_key_backup", {"config_file": "{{ locked }}"}, STORES, PASSWORD, fails=True),
        task("backup", "ca_key_backup", LOCKED, STORES, PASSWORD),
        show("answer", "hostvars[inventory_hostname].answer"),
        task("backup, nothing due", "ca_key_backup", LOCKED, STORES, PASSWORD),
        task("backup, wrong password", "ca_key_backup", LOCKED, STORES, WRONG, fails=True),
        show("answer"),
        task("backup, other password", "ca_key_backup", LOCKED, STORES, NEXT, {"previous_password": "{{ password }}"}),
        task("backup info", "ca_key_backup_info", LOCKED, STORES, NEXT),
        task("backup info, wrong password", "ca_key_backup_info", LOCKED, STORES, WRONG),
        show("answer"),
        task("verify", "ca_key_verify", LOCKED, STORES, NEXT),
        task("verify, wrong password", "ca_key_verify", LOCKED, STORES, WRONG, fails=True),
        lose(scene.locked.private_key, scene.older[1]),
        task("restore, wrong password", "ca_key_restore", LOCKED, STORES, WRONG, fails=True),
        task("restore, no passphrase", "ca_key_restore", {"config_file": "{{ locked }}"}, STORES, NEXT, fails=True),
        task("restore, check", "ca_key_restore", LOCKED, STORES, NEXT, check_mode=True),
        task("restore", "ca_key_restore", LOCKED, STORES, NEXT),
        show("answer"),
        # A loop over names: what Ansible prints as the item of a loop is not the collection's to mask.
        task(
            "backup in a loop",
            "ca_key_backup",
            {"config_file": "{{ item }}", "password": "{{ {plain: password}[item] }}"},
            STORES,
            loop=["{{ plain }}"],
            loop_control={"label": "{{ item | basename }}"},
        ),
        show("answer"),
        lose(scene.plain.private_key),
        task("restore a plain key", "ca_key_restore", {"config_file": "{{ plain }}"}, STORES, PASSWORD),
        show("answer"),
        task("misspelt", "ca_key_backup", LOCKED, STORES, {"pasword": "{{ password }}"}, fails=True),
        task("wrong type", "ca_key_backup", LOCKED, STORES, PASSWORD, {"older": "{{ wrong }}"}, fails=True),
        task("wrong type inside", "ca_info", LOCKED, {"older": [{"certificate_file": "x", "passphrase": "{{ wrong }}"}]}, fails=True),
    ]


FAILURES = {
    *("backup, weak password", "backup, no passphrase", "backup, wrong password", "verify, wrong password", "restore, wrong password"),
    *("restore, no passphrase", "misspelt", "wrong type", "wrong type inside"),
}


def as_expected(result: Result, scene: Scene) -> None:
    """The run did what it should: a run that did nothing leaks nothing."""
    (tasks,) = result.ok().results.values()
    assert {one.task for one in tasks if one.status == "failed"} == FAILURES
    assert scene.canaries.add_bundles(scene.store) == 3
    changes = ("backup", "backup, other password", "restore", "restore a plain key")
    assert all(one["changed"] for one in tasks if one.task in changes) and set(changes) <= {one.task for one in tasks}
    assert all(path.exists() for path in (scene.locked.private_key, scene.older[1], scene.plain.private_key))


def leaks_of_output(scene: Scene, result: Result, log: Path) -> list[str]:
    outputs = {"stdout": result.stdout, "stderr": result.stderr, "log": log.read_text(), "results": repr(result.results)}
    return [f"{secret} in {name}" for name, text in outputs.items() for secret in scene.canaries.find(text)]


def leaks_of_processes(scene: Scene, traced: Sequence[Call]) -> list[str]:
    """Secrets on command lines, in environments, and in files other than the bundle and the authority's own key files."""
    own = {str(path) for path in (scene.locked.private_key, scene.older[1], scene.plain.private_key)}
    leaks = []
    for call in traced:
        if call.starts_a_program:
            found = scene.canaries.find(b"\n".join(call.data))
            leaks += [f"{secret} in the command line or environment of {call.data[0]!r}" for secret in found]
        elif call.copies and call.file and (own & set(call.files) or any(path.endswith(".p12") for path in call.files)):
            leaks += [f"a copy of {call.files}"]
        elif call.file and not scene.may_hold_secrets(call.file):
            leaks += [f"{secret} in {call.file}" for secret in scene.canaries.find(b"".join(call.data))]
    return leaks


@pytest.fixture(params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def observed_host(
    transport: str, python: HostPython, ansible: Ansible, request: pytest.FixtureRequest, traces: Path
) -> Iterator[dict[str, Any]]:
    """Variables of a host, all of whose processes are traced: here as children of ansible-playbook, over SSH as those of the server."""
    if transport == "local":
        yield ansible.local(python.program)
        return
    sshd: SshServer = request.getfixturevalue("sshd")
    assert sshd._process
    # One connection for each execution: the server's side of a kept one would go on after the trace.
    options = {"ansible_ssh_args": "-o ControlMaster=no -o ControlPath=none"}
    with traced_process(require_tool("strace"), sshd._process.pid, traces / "sshd"):
        yield sshd.host(python.program, **options)


def test_no_secret_leaves_its_place(
    transport: str, ansible: Ansible, collections: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    scene = Scene(tmp_path / "scene")
    python = HostPython(tmp_path / "host")
    traces = tmp_path / "traces"
    commands = traced_commands(require_tool("strace"), ansible.commands, traces)
    log = tmp_path / "ansible.log"
    with observed_host(transport, python, ansible, request, traces) as variables:
        result = Ansible(tmp_path / "traced", collections, commands).play(
            every_module(scene),
            hosts={"ca": variables},
            extra_vars=scene.variables,
            diff=True,
            verbosity=5,
            env={**INVITING_ENV, "ANSIBLE_LOG_PATH": str(log)},
            cfg=INVITING_CFG,
        )
    as_expected(result, scene)
    traced = [call for trace in traces.iterdir() if trace.is_file() for call in calls(trace)]
    leaks = leaks_of_output(scene, result, log) + leaks_of_processes(scene, traced)
    leaks += [f"{secret} in syslog" for line in python.syslog for secret in scene.canaries.find(line)]
    assert not leaks, "\n".join(sorted(set(leaks)))

    # The eyes were open: what must not be elsewhere was seen where it belongs.
    started = [call for call in traced if call.starts_a_program and call.data[0] == str(python.program).encode()]
    assert len(python.starts) == len(started) > 10
    seen = {(secret, call.file) for call in traced if call.file for secret in scene.canaries.find(b"".join(call.data))}
    assert any("bundle" in secret for secret, path in seen if path.startswith(f"{scene.store}/")), seen
    assert ("the plain key", True) in {(secret, path.startswith(f"{scene.plain.private_key.parent}/")) for secret, path in seen}, seen
    invocations = [line for line in python.syslog if "controller=" in line]
    assert len(invocations) > 10 and all("controller=NOT_LOGGING_PARAMETER" in line for line in invocations), python.syslog


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
                {"config_file": config_file, "stores": ["{{ item }}"], "password": "{{ passwords[item] }}"},
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
        env={"ANSIBLE_CONNECTION_PLUGINS": str(CONNECTION_PLUGINS)},
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


# --- a run that is killed ---


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
        hosts={"ca": ansible.local(python.program)},
        env={**INVITING_ENV, "TMPDIR": str(host_tmp), "HOME": str(host_tmp)},
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
