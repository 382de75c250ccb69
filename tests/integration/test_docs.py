# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guides, the README and the modules' examples say is run as it stands there; only paths and passwords are put in."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import pwd
import re
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_writer import iterations_for
from ansible_collections.keyward.pki.plugins.module_utils._reasons import REASONS
from support.ansible_run import Ansible, Result
from support.guides import DOCS, ROOT, blocks, guide, guide_blocks
from support.openssl_ca import OpensslCa, openssl
from support.plays import authorities, fingerprint
from support.quick import AS_WRITTEN
from tools import require_tool

PASSWORD = "a password of some length, 4711"
PASSPHRASE = "the CA's own passphrase"


def cas(ansible: Ansible, name: str = "ca.example.com") -> dict[str, Any]:
    """An inventory with the group of the guides; this machine, as the user that runs the tests."""
    return {"all": {"children": {"cas": {"hosts": {name: ansible.local(ansible_become=False)}}}}}


def tasks_of(result: Result, name: str) -> list[dict[str, Any]]:
    (results,) = result.results.values()
    return [dict(one) for one in results if one.task == name]


def on_a_terminal(command: list[str], answers: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """Run a command on a terminal of its own and type an answer at each prompt that matches; its status and what the terminal showed."""
    main, terminal = os.openpty()
    started = subprocess.Popen(
        [require_tool("setsid"), "--ctty", "--wait", *command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=cwd,
        start_new_session=True,
    )
    os.close(terminal)
    shown, answered = "", 0
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if select.select([main], [], [], 0.2)[0]:
                try:
                    data = os.read(main, 65536)
                except OSError:  # the last one left the terminal
                    break
                shown += data.decode("utf-8", "replace")
            prompt = next((text for text in answers if re.search(text + r"[^\n]*:\s*\Z", shown[answered:])), None)
            if prompt:
                answered = len(shown)
                os.write(main, answers[prompt].encode() + b"\n")
        return started.wait(max(0.1, deadline - time.monotonic())), shown
    except subprocess.TimeoutExpired:
        started.kill()
        raise AssertionError(f"{command} did not end\n{shown}") from None
    finally:
        os.close(main)


# --- restore-without-it.md ---


def script_of_the_guide(scratch: Path, store: Path, backup: Path, directory: Path, database_set: Path) -> Path:
    script = "".join(blocks(DOCS / "restore-without-it.md", "sh"))
    signers = store / "allowed_signers"
    for name, value in (("STORE", store), ("BACKUP", backup), ("CA", directory), ("SET", database_set), ("SIGNERS", signers)):
        script, found = re.subn(rf"^{name}=\S+$", f"{name}={value}", script, flags=re.MULTILINE)
        assert found == 1, f"the guide sets {name} once"
    path = scratch / "guide.sh"
    path.write_text(f'set -eu\n{script}echo "the keys lay in $WORK"\n', encoding="utf-8")
    return path


def test_restore_without_it(ansible: Ansible, tmp_path: Path) -> None:
    """Four generations on three keys, one of them encrypted, one overwritten by hand; all come back by bare commands."""
    for tool in ("openssl", "sh", "awk"):
        require_tool(tool)
    ca = OpensslCa(tmp_path / "ca", passphrase=PASSPHRASE)
    ca.renew_keeping()
    ca.renew_keeping(new_key=False)
    clear = ca.directory / "private" / "cakey.0.pem"
    openssl("pkey", "-in", clear, "-passin", "stdin", "-out", tmp_path / "clear.key", passphrase=PASSPHRASE)
    shutil.copy(tmp_path / "clear.key", clear)
    clear.chmod(0o640)
    above = OpensslCa(tmp_path / "above", name="Example Super CA").certificate
    store = tmp_path / "keys"
    backup = {
        "keyward.pki.ca_key_backup": {
            "config_file": str(ca.config_file),
            "chain_file": str(above),
            "private_key_passphrase": PASSPHRASE,
            "stores": [str(store)],
            "password": PASSWORD,
        }
    }
    ansible.play([{"keyward.pki.ca_store": {"path": str(store), "kind": "keys"}}, backup]).ok()
    ca.renew_in_place()
    if os.geteuid() == 0:
        daemon = pwd.getpwnam("daemon")
        os.chown(ca.private_key, daemon.pw_uid, daemon.pw_gid)
    stored = Path(ansible.play([backup], env=AS_WRITTEN).ok().last()["backup"]["paths"][0])
    assert_the_format_is_described(stored / "manifest.json", ansible.play([_verify(stored)]).ok().last())

    databases = tmp_path / "databases"
    place = {"config_file": str(ca.config_file), "private_key_passphrase": PASSPHRASE, "stores": [str(databases)]}
    kept = ansible.play(
        [{"keyward.pki.ca_store": {"path": str(databases), "kind": "databases"}}, {"keyward.pki.ca_database_backup": place}]
    ).ok()
    database_set = Path(kept.last()["set"]["paths"][0])
    database = {path: path.read_bytes() for path in (ca.directory / "index.txt", ca.directory / "newcerts" / "1000.pem")}
    for path in database:
        path.unlink()
    files = [ca.certificate, ca.private_key, clear, *ca.directory.glob("cacert.[0-9].pem")]
    before = {path: _metadata(path) for path in files}
    for path in files:
        path.unlink()
    (ca.directory / "private").rmdir()
    clear_only = {name: value for name, value in backup["keyward.pki.ca_key_backup"].items() if name != "private_key_passphrase"}
    refused = ansible.play([{"keyward.pki.ca_key_restore": clear_only}]).failed()["msg"]
    assert re.search("nothing was restored: the key .* was encrypted at rest.*Give private_key_passphrase", refused)
    assert "broke" not in refused and not any(path.exists() for path in files)

    script = script_of_the_guide(tmp_path, store, stored, ca.directory, database_set)
    answers = {"Import Password": PASSWORD, "(?i)pass ?phrase": PASSPHRASE}
    status, shown = on_a_terminal(["sh", str(script)], answers, tmp_path)
    assert status == 0, shown
    assert "The bundle is intact" in shown and [shown.count(text) for text in ("unpacked: ", "DAMAGED")] == [2, 0]
    assert {path: path.read_bytes() for path in database} == database
    assert [shown.count(text) for text in ("verify OK", "FAILED", "has no key here")] == [4, 0, 1], shown
    assert [shown.count(text) for text in ("put back:", "not touched", "right:", "WRONG")] == [7, 0, 7, 0], shown
    assert {path: _metadata(path) for path in files} == before
    assert sorted(path.name for path in (ca.directory / "private").iterdir()) == ["cakey.0.pem", "cakey.1.pem", "cakey.pem"]
    assert sorted(path.name for path in ca.directory.glob("cacert*")) == ["cacert.0.pem", "cacert.1.pem", "cacert.2.pem", "cacert.pem"]
    (work,) = re.findall(r"^the keys lay in (\S+)\r$", shown, re.MULTILINE)
    assert work.startswith("/") and not Path(work).exists(), "clear keys are left"

    # The product agrees: nothing is left to restore, and every generation is as it was.
    answer = ansible.play([{"keyward.pki.ca_key_restore": {**backup["keyward.pki.ca_key_backup"]}}]).ok().last()
    assert (answer["changed"], answer["restored"]) == (False, [])
    info = {"config_file": str(ca.config_file), "private_key_passphrase": PASSPHRASE}
    generations = ansible.play([{"keyward.pki.ca_info": info}]).ok().last()["generations"]
    assert [g["private_key"] for g in generations] == ["present"] * 4
    assert [g["encrypted_at_rest"] for g in generations] == [False, True, True, True]
    ca.sign_crl()

    # Again, over another key: nothing is overwritten, and the guide says what is wrong.
    openssl("genpkey", "-algorithm", "ED25519", "-out", clear)
    other = clear.read_bytes()
    status, shown = on_a_terminal(["sh", str(script)], answers, tmp_path)
    assert status == 0, shown
    assert [shown.count(text) for text in ("put back:", "not touched", "right:", "WRONG")] == [0, 7, 6, 1], shown
    assert clear.read_bytes() == other


def _verify(backup: Path) -> dict[str, Any]:
    return {"keyward.pki.ca_key_verify": {"backup": str(backup), "password": PASSWORD}}


def _metadata(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mode, status.st_uid, status.st_gid


def assert_the_format_is_described(manifest: Path, proof: Mapping[str, Any]) -> None:
    """bundle-format.md names every field of a manifest, the algorithms and the iterations."""
    text = (DOCS / "bundle-format.md").read_text(encoding="utf-8")

    def fields(shape: Any) -> set[str]:
        if isinstance(shape, list):
            return set().union(*map(fields, shape))
        return set().union(shape, *map(fields, shape.values())) if isinstance(shape, dict) else set()

    content = json.loads(manifest.read_text(encoding="utf-8"))
    versions = set(content["made"]["versions"])
    assert [name for name in sorted(fields(content) - versions) if f"`{name}`" not in text] == []
    assert proof["encryption"]["key"] == proof["encryption"]["certificates"] == "AES-256-CBC, PBKDF2-HMAC-SHA256"
    assert "AES-256-CBC, key by PBKDF2-HMAC-SHA256" in text
    assert proof["encryption"]["iterations"] == iterations_for(3) == 250_000
    assert [iterations_for(number) for number in (1, 2, 9)] == [300_000, 300_000, 100_000]
    assert "One or two keys get 300 000, three 250 000, nine 100 000." in text


# --- the other guides ---


def test_first_backup(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    plays, variables = guide("first-backup.md")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "vault-password").write_text("of the vault")
    vault = {"ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "vault-password")}
    path = f"{ansible.commands}{os.pathsep}{os.environ['PATH']}"
    (block,) = blocks(DOCS / "first-backup.md", "sh")
    subprocess.run(["sh", "-euc", block], cwd=work, env={**os.environ, **vault, "PATH": path}, check=True, capture_output=True)
    assert (work / "keyward-password.yml").read_text().startswith("$ANSIBLE_VAULT;")

    mine = {
        "keyward_config_file": str(openssl_ca.config_file),
        "keyward_key_stores": [str(tmp_path / "keys"), str(tmp_path / "vault2" / "keys")],
        "keyward_database_stores": [str(tmp_path / "databases")],
    }
    assert {*mine, "ansible_become"} == set(variables)
    backup = plays[1]
    result = ansible.play(
        [plays[0], backup, *plays[1:], backup],
        hosts=cas(ansible),
        extra_vars={**mine, "keyward_new_password": PASSWORD},
        env=vault,
        arguments=["-e", f"@{work / 'keyward-password.yml'}"],
    )
    # The last play gives the old password again, after it was changed.
    assert "does not open the newest backup" in result.failed()["msg"]
    (stores,) = tasks_of(result, "Initialise each store")
    assert [one["kind"] for one in stores["results"]] == ["keys", "keys"]
    runs = tasks_of(result, "Back up every key when that is due")
    assert [run["changed"] for run in runs[:2]] == [True, False]
    assert len(runs[0]["backup"]["paths"]) == 2
    assert result.task("Say what was proved")["msg"].startswith("1 private keys in ")
    assert "All assertions passed" in str(result.task("Fail when one is due, or when something is wrong with one"))
    changed = result.task("Back up every key under the new password")
    assert changed["changed"] and "000002-" in changed["backup"]["paths"][0]


def test_restore(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    plays, variables = guide("restore.md")
    look, restore, elsewhere, set_aside = plays
    store = tmp_path / "keys"
    mine = {"keyward_config_file": str(openssl_ca.config_file), "keyward_key_stores": [str(store)], "keyward_password": PASSWORD}
    mine["keyward_database_stores"] = [str(tmp_path / "databases")]
    lost = openssl_ca.private_key.read_bytes()
    (other := tmp_path / "other.key").write_bytes(OpensslCa(tmp_path / "other").private_key.read_bytes())
    key = str(openssl_ca.private_key)
    prepare = guide("first-backup.md")[0][:2]
    lose = {"hosts": "cas", "gather_facts": False, "tasks": [{"ansible.builtin.file": {"path": key, "state": "absent"}}]}
    replace = {"hosts": "cas", "gather_facts": False, "tasks": [{"ansible.builtin.copy": {"src": str(other), "dest": key, "mode": "0600"}}]}
    refused = {**restore, "name": "Restore over another key", "ignore_errors": True}
    story = [*prepare, lose, look, restore, restore, replace, refused, set_aside]
    result = ansible.play(story, hosts=cas(ansible), extra_vars=mine).ok()
    seen = result.task("Say it")["msg"]
    assert (seen["restorable"], seen["private_keys_on_the_host"], seen["reasons"]) == (True, {"0": "missing"}, [])
    *runs, refusal = tasks_of(result, "Put back what is missing")
    assert [run["changed"] for run in runs] == [True, False]
    assert f"another file lies where the backup belongs: {key}" in refusal["msg"]
    (aside,) = result.task("Say what was renamed")["msg"]
    assert Path(aside["kept_as"]).read_bytes() == other.read_bytes()
    assert openssl_ca.private_key.read_bytes() == lost

    # Another host, another directory: nothing but openssl.cnf is there.
    assert set(variables) == {"keyward_backup"}
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "openssl.cnf").write_text(openssl_ca.config_file.read_text().replace(str(openssl_ca.directory), str(moved)))
    (authority,) = authorities(store)
    assert re.fullmatch(r"example-root-ca-[0-9a-f]{16}", authority.name)
    mine |= {"keyward_config_file": str(moved / "openssl.cnf"), "keyward_backup": str(authority)}
    ansible.play([elsewhere], hosts=cas(ansible, "new.example.com"), extra_vars=mine).ok()
    assert (moved / "private" / "cakey.pem").read_bytes() == lost
    assert (moved / "cacert.pem").read_bytes() == openssl_ca.certificate.read_bytes()


def test_the_crl_is_about_to_expire(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    plays, variables = guide("crl-about-to-expire.md")
    assert set(variables) == {"keyward_last_crl"}
    published = tmp_path / "published.pem"
    shutil.copy(openssl_ca.sign_crl(), published)
    number = openssl("crl", "-in", published, "-noout", "-crlnumber").stdout.strip().partition("=")[2]
    for name in ("index.txt", "serial", "crlnumber", "crl.pem"):
        (openssl_ca.directory / name).unlink()
    mine = {"keyward_config_file": str(openssl_ca.config_file), "keyward_last_crl": str(published)}
    result = ansible.play(plays, hosts=cas(ansible), extra_vars=mine).ok()
    said = result.task("Say where it is")["msg"]
    assert f"number {int(number, 16) + 1:02X}" in said
    text = openssl("crl", "-in", said.split(",")[0], "-noout", "-CAfile", openssl_ca.certificate)
    assert "verify OK" in text.stdout + text.stderr


def test_renewal_day_names_variables_that_the_role_has() -> None:
    _plays, variables = guide_blocks("renewal-day.md")
    specification = yaml.safe_load((ROOT / "roles" / "renewal" / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    known = set(specification["argument_specs"]["main"]["options"]) | {"ansible_become"}
    text = (DOCS / "renewal-day.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bkeyward_[a-z_]+\b", text)) - {"keyward_serial", "keyward_hosts", "keyward_"}
    assert variables <= known and named <= known


def test_restore_explains_every_reason() -> None:
    assert set(REASONS) <= set(re.findall(r"`([a-z_]+)`", (DOCS / "restore.md").read_text(encoding="utf-8")))


# --- README.md and the examples of the modules ---


def with_paths(content: Any, paths: Mapping[str, str]) -> Any:
    """A YAML value with the paths of the documentation replaced; one that is not known fails."""
    if isinstance(content, list):
        return [with_paths(one, paths) for one in content]
    if isinstance(content, dict):
        return {name: with_paths(one, paths) for name, one in content.items()}
    if isinstance(content, str) and (content.startswith("/") or content in paths):
        return paths[content]
    return content


def examples(module: str) -> list[dict[str, Any]]:
    path = ROOT / "plugins" / "modules" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{module}", path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    tasks: list[dict[str, Any]] = yaml.safe_load(loaded.EXAMPLES)
    return tasks


def test_readme_and_examples(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    by_hand = tmp_path / "root-ca.p12"
    openssl(
        *("pkcs12", "-export", "-inkey", openssl_ca.private_key, "-in", openssl_ca.certificate, "-out", by_hand, "-passout", "stdin"),
        passphrase=PASSWORD,
    )
    paths = {
        "/etc/pki/CA/openssl.cnf": str(openssl_ca.config_file),
        "/srv/keyward/keys": str(tmp_path / "keys"),
        "/mnt/vault2/keys": str(tmp_path / "vault2"),
        "/srv/keyward/databases": str(tmp_path / "databases"),
        "/media/safe/root-ca.p12": str(by_hand),
        "/etc/pki/new/openssl.cnf": str(tmp_path / "new" / "openssl.cnf"),
        "/etc/pki/root/openssl.cnf": str(tmp_path / "new" / "openssl.cnf"),
        "0123456789abcdef": fingerprint(openssl_ca.certificate)[:16],
        "/srv/published/crl.pem": str(openssl_ca.sign_crl()),
    }
    (readme,) = blocks(ROOT / "README.md", "yaml")
    modules = ("ca_store", "ca_info", "ca_key_backup", "ca_key_backup_info", "ca_key_verify", "ca_key_restore")
    modules += ("ca_install", "ca_sign", "ca_crl", "ca_renew", "ca_database_backup", "ca_database_restore", "ca_audit")
    asked = tmp_path / "sub.csr"
    openssl("req", "-new", "-newkey", "ed25519", "-noenc", "-keyout", tmp_path / "sub.key", "-subj", "/CN=Sub CA", "-out", asked)
    assert set(modules) == {path.stem for path in (ROOT / "plugins" / "modules").glob("ca_*.py")}
    shown_tasks = [*yaml.safe_load(readme), *(task for module in modules for task in examples(module))]
    tasks: list[dict[str, Any]] = [{"keyward.pki.ca_store": {"path": paths["/mnt/vault2/keys"], "kind": "keys"}}]
    passwords = {"keyward_password": PASSWORD}
    for task in with_paths(shown_tasks, paths):
        if task["name"] == "Change the password of the backups":
            passwords = {"keyward_password": "another password, 0815 0815", "keyward_previous_password": PASSWORD}
        by_hand_only = task.get("keyward.pki.ca_key_verify", {}).get("backup") == str(by_hand)
        store = task.get("keyward.pki.ca_store", {})
        if "group" in store:
            store["group"] = str(os.getegid())
        variables = {"keyward_password": PASSWORD} if by_hand_only else passwords
        tasks.append({**task, "vars": {**variables, "issuing": {"request": asked.read_text()}}})
    result = ansible.play(tasks, hosts={"ca.example.com": ansible.local(ansible_become=False)}).ok()
    assert result.task("Back up every key of the CA when that is due")["changed"]
    assert result.task("Say when its certificate expires")["msg"].startswith("CN=Example Root CA,O=Example expires on 20")
    assert result.task("Back up the keys of a CA when that is due")["changed"], "the second store gets its copy"
    assert result.task("Change the password of the backups")["changed"]
    proofs = [one for one in result.results["ca.example.com"] if one.action == "keyward.pki.ca_key_verify"]
    assert [(one["restorable"], len(one["private_keys"])) for one in proofs] == [(True, 1), (True, 1)]
    assert not result.task("Bring the keys of a CA back")["changed"]
    assert result.task("Install a root CA")["changed"] and result.task("Sign the request of the issuing CA")["changed"]
    assert result.task("Back up the database of a CA when that is due")["changed"]
    assert not result.task("Put the database of a CA back, and go on beyond what is published")["changed"]

    (stored,) = (tmp_path / "keys").glob("*/000001-*")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (openssl .*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) == 2
    shown = ""
    for command in commands:
        status, output = on_a_terminal(["sh", "-c", command], {"Import Password": PASSWORD}, stored)
        assert status == 0, output
        shown += output
    assert [shown.count(f"BEGIN {kind}") for kind in ("PRIVATE KEY", "CERTIFICATE")] == [1, 1]
    (generated,) = re.findall(r"`(openssl rand .*?)`", text)
    password = subprocess.run(generated.split(), capture_output=True, text=True, check=True).stdout.strip()
    assert len(base64.b64decode(password)) == 30 and len(password) >= 20


HOSTED = re.escape(yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["repository"])


def test_links_lead_somewhere() -> None:
    broken = []
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        beside = [document.parent / target for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
        hosted = [ROOT / target for target in re.findall(rf"\]\({HOSTED}/(?:blob|tree)/main/([^)#]+)(?:#[^)]*)?\)", text)]
        broken += [f"{document.name}: {target}" for target in beside + hosted if not target.exists()]
        # Galaxy shows the README apart from the files beside it.
        assert document.name != "README.md" or not beside
    assert broken == []


def test_the_shown_ansible_playbook_options_are_right(ansible: Ansible) -> None:
    """The command lines that the guides show apart from the plays."""
    done = subprocess.run([str(ansible.commands / "ansible-playbook"), "--help"], capture_output=True, text=True, check=True)
    for document in DOCS.glob("*.md"):
        for line in re.findall(r"^    ansible-playbook (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE):
            assert [option for option in re.findall(r"(--[a-z-]+|-[a-z])\b", f" {line}") if option not in done.stdout] == []


@pytest.mark.parametrize("document", sorted(path.name for path in DOCS.glob("*.md")))
def test_shell_is_clean(document: str, tmp_path: Path) -> None:
    script = "".join(blocks(DOCS / document, "sh"))
    if not script:
        return
    path = tmp_path / "script.sh"
    path.write_text(f"#!/bin/sh\nset -e\n{script}", encoding="utf-8")
    done = subprocess.run([require_tool("shellcheck"), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
