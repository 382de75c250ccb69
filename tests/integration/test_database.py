# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_database_backup and ca_database_restore: stores on both sides, when a set is due, what is kept, and what stops them."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from support.ansible_run import Ansible
from support.host_python import HostPython
from support.openssl_ca import OpensslCa
from support.plays import authorities, codes, failure, look, looked, new_store, play, run, small_file_system, step
from support.ssh_server import SshServer


def store(path: Path, **more: Any) -> dict[str, Any]:
    return step("ca_store", f"store {path.name}", path=str(path), kind="databases", **more)


def backup(title: str, ca: OpensslCa, **options: Any) -> dict[str, Any]:
    return step("ca_database_backup", title, config_file=str(ca.config_file), **options)


def restore(title: str, ca: OpensslCa, **options: Any) -> dict[str, Any]:
    return step("ca_database_restore", title, config_file=str(ca.config_file), **options)


def sets(path: Path) -> list[str]:
    return sorted(one.name for one in path.glob("*/*/0*Z"))


def test_a_set_is_stored_when_it_is_due(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca = openssl_ca
    one, two = tmp_path / "one", tmp_path / "two"
    both = {"stores": [str(one), str(two)]}
    result = play(
        ansible,
        [
            store(one),
            store(two),
            look("untouched", one, two, ca.directory),
            backup("predicted", ca, **both, check=True),
            look("after check", one, two, ca.directory),
            backup("first", ca, **both),
            backup("again", ca, **both),
            backup("again, predicted", ca, **both, check=True),
            run("issue", "sh", "-c", f"echo '# mine' >> {ca.config_file}"),
            backup("second", ca, **both, keep_full_sets=1, keep_days=0, full_after={"sets": 0}),
            run("lose a copy", "sh", "-c", f"rm -r {two}/*/*/0*Z"),
            backup("copied", ca, **both),
            backup("copied already", ca, **both),
            run("damage a set", "sh", "-c", f"for f in {one}/*/*/0*/core.tar.gz {two}/*/*/0*/core.tar.gz; do echo x >> $f; done"),
            backup("damaged", ca, **both),
        ],
        env={"KEYWARD_PROGRESS": "0.05"},
        cfg={"defaults": {"log_path": tmp_path / "log"}},
    )
    progress = "[testhost] ca_database_backup: the host copies its database:"
    assert progress in result.stderr and progress not in result.stdout and progress not in (tmp_path / "log").read_text()
    assert looked(result, "untouched") == looked(result, "after check")
    changed = {name: result.task(name)["changed"] for name in ("predicted", "first", "again", "again, predicted", "second", "copied")}
    assert changed == {"predicted": True, "first": True, "again": False, "again, predicted": False, "second": True, "copied": True}
    assert codes(result.task("first")["reasons"]) == ["no_set"] and len(result.task("first")["set"]["paths"]) == 2
    assert result.task("first")["authority"]["id"]
    assert result.task("first")["authority"]["id"] == result.task("again")["authority"]["id"]
    assert result.task("first")["database"]["next_serial"] == "1001"
    left_out = [Path(path["path"]) for path in result.task("first")["left_out"]]
    assert left_out == list((ca.directory / "requests").glob("*.key")) and "private_key_left_out" in codes(
        result.task("first")["advisories"]
    )
    second = result.task("second")
    assert codes(second["reasons"]) == ["configuration_changed"] and len(second["removed"]) == 2
    assert not result.task("copied")["due"] and not result.task("copied already")["changed"]
    damaged = result.task("damaged")
    assert codes(damaged["reasons"]) == ["no_set"] and "digest_mismatch" in codes(damaged["advisories"])
    assert sets(one) == sets(two) and len(sets(one)) == 2, "a damaged set is kept, and does not count"


def test_a_database_that_vanished_never_becomes_the_newest_set(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, here, mounted = openssl_ca, tmp_path / "here", tmp_path / "mounted"
    result = play(
        ansible,
        [
            store(here),
            store(mounted),
            backup("here", ca, stores=[str(here)]),
            backup("on the host", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json")),
            run("lose", "rm", ca.directory / "index.txt"),
            backup("vanished", ca, stores=[str(here)], keep_full_sets=1, fails=True),
            run("empty", "touch", ca.directory / "index.txt"),
            backup("emptied, predicted", ca, stores=[str(here)], keep_full_sets=1, check=True, fails=True),
            backup("emptied on the host", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json"), keep_full_sets=1, fails=True),
            restore("back", ca, stores=[str(here)]),
            backup("as before", ca, stores=[str(here)]),
        ],
    )
    for name in ("vanished", "emptied, predicted", "emptied on the host"):
        assert "has 1 entries of this CA" in failure(result, name), name
    assert result.task("back")["changed"] and not result.task("as before")["changed"]
    assert len(sets(here)) == 1 == len(sets(mounted))


def test_what_stops_it(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, there = openssl_ca, tmp_path / "there"
    with small_file_system(tmp_path / "small", "64k") as small:
        crowded = small / "databases"
        result = play(
            ansible,
            [
                store(there),
                store(crowded),
                new_store(tmp_path / "keys"),
                run("fill", "sh", "-c", f"cat /dev/zero > {small}/filler || true"),
                backup("no space", ca, stores=[str(crowded)], fails=True),
                backup("both", ca, stores=[str(there)], host_store=str(there), fails=True),
                backup("neither", ca, fails=True),
                backup("another kind", ca, stores=[str(tmp_path / "keys")], fails=True),
                backup("no store", ca, stores=[str(tmp_path / "nowhere")], fails=True),
                backup("odd age", ca, stores=[str(there)], max_age="soon", fails=True),
                backup("none to keep", ca, stores=[str(there)], keep_full_sets=0, fails=True),
                restore("nothing stored", ca, stores=[str(there)], fails=True),
                restore("odd advance", ca, stores=[str(there)], advance={"serial": "xyz"}, fails=True),
                restore("no set", ca, set=str(tmp_path), fails=True),
                run("damage", "sh", "-c", f"echo nonsense >> {ca.directory}/index.txt"),
                backup("damaged database", ca, stores=[str(there)], fails=True),
            ],
        )
        assert sets(crowded) == [] and [path.name for path in crowded.iterdir()] == ["keyward-store.json"]
    for name, why in {
        "no space": "0 are free in",
        "both": "exactly one of stores, host_store",
        "neither": "exactly one of stores, host_store",
        "another kind": "it is a store for keys",
        "no store": "Is the share mounted?",
        "odd age": "soon is no age",
        "none to keep": "at least 1",
        "nothing stored": "no intact set of this database",
        "odd advance": "no hexadecimal number",
        "no set": "no intact set lies in it",
        "damaged database": "line 2 has 1 columns",
    }.items():
        assert why in failure(result, name), name
    assert [path.name for path in there.iterdir()] == ["keyward-store.json"]


def test_host_store_and_ssh(ansible: Ansible, sshd: SshServer, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """A store on the host: nothing travels. One on the controller: the set travels through the login user, who may not read the CA."""
    ca, mounted, here = openssl_ca, tmp_path / "mounted", tmp_path / "here"
    ca.directory.chmod(0o700)
    hosts = {"remote": sshd.host(HostPython(tmp_path / "python").program)}
    published = ca.sign_crl()
    lose = run("lose", "sh", "-c", f"rm -r {ca.directory}/index.txt* {ca.directory}/newcerts {ca.config_file} {ca.directory}/cacert.pem")
    result = play(
        ansible,
        [
            store(mounted, host=True),
            {**store(here), "delegate_to": "localhost", "become": False, "vars": {"ansible_connection": "local"}},
            backup("predicted", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json"), check=True),
            backup("into the host's", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json"), max_age="7d"),
            backup("again", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json"), max_age="7d"),
            backup("to here", ca, stores=[str(here)]),
            backup("to here again", ca, stores=[str(here)]),
            lose,
            restore("configuration", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json"), part="configuration"),
            restore("from the host's", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json"), published_crl=[str(published)]),
            restore(
                "from the host's again", ca, host_store=str(mounted), memory=str(tmp_path / "memory.json"), published_crl=[str(published)]
            ),
            lose,
            restore("from here, predicted", ca, stores=[str(here)], check=True),
            restore("from here", ca, stores=[str(here)]),
            restore("from here again", ca, stores=[str(here)]),
            lose,
        ],
        hosts=hosts,
    )
    changes = ["predicted", "into the host's", "to here", "configuration", "from the host's", "from here, predicted", "from here"]
    assert [name for name in changes if not result.task(name)["changed"]] == []
    quiet = ["again", "to here again", "from the host's again", "from here again"]
    assert [name for name in quiet if result.task(name)["changed"]] == []
    assert len(sets(mounted)) == 1 == len(sets(here))
    assert result.task("into the host's")["set"]["paths"][0].startswith(str(mounted))
    assert not list(sshd.home.rglob("*.tar.gz"))
    (authority,) = authorities(here)
    given = play(ansible, [restore("by its path", ca, set=str(authority))])
    assert given.task("by its path")["changed"] and (ca.directory / "newcerts" / "1000.pem").exists()
    assert {path.name.split("-")[2] for path in (authority / "events").iterdir()} == {"set", "restore"}


def test_a_small_host_is_no_reason_to_leave_something_behind(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    ca, here = openssl_ca, tmp_path / "here"
    with small_file_system(tmp_path / "tmp", "64k") as small:
        tight = {"ca": ansible.local(ansible_remote_tmp=str(small / "remote"))}
        (ca.directory / "newcerts" / "2000.pem").write_bytes(os.urandom(90_000))
        failed = play(
            ansible,
            [
                store(here),
                backup("b", ca, stores=[str(here)], fails=True),
            ],
            hosts=tight,
        )
        assert "no space is left" in failure(failed, "b")
        assert not list(small.rglob("*.tar.gz")) and [path.name for path in here.iterdir()] == ["keyward-store.json"]
    shutil.rmtree(here)


def hostile(program: Path, change: str) -> Path:
    """A Python for a host that changes what modules answer: C(change) is Python that has the answer's C(files), where there are any."""
    program.parent.mkdir()
    code = f"""\
import json, sys
for line in sys.stdin:
    if line.startswith("{{"):
        answer = json.loads(line)
        files = answer.get("files")
        if files:
            {change}
        line = json.dumps(answer)
    print(line)
"""
    (program.parent / "change.py").write_text(code)
    program.write_text(f'#!/bin/sh\n{sys.executable} "$@" | {sys.executable} {program.parent}/change.py\n')
    program.chmod(0o755)
    return program


def test_a_hostile_host_names_no_files_of_the_controller(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    here, two, victim = tmp_path / "here", tmp_path / "two", tmp_path / "victim"
    victim.write_text("of the controller\n")
    victim.chmod(0o600)
    named = {"name": str(victim), "sha256": hashlib.sha256(victim.read_bytes()).hexdigest(), "size": 1}
    python = hostile(tmp_path / "host" / "python", f"files.append({named!r})")
    result = play(
        ansible,
        [
            store(here, mode="0770"),
            store(two),
            backup("more files", openssl_ca, stores=[str(here), str(two)], fails=True),
        ],
        hosts={"ca": ansible.local(python)},
    )
    assert "answered with other files" in failure(result, "more files")
    assert oct(victim.stat().st_mode) == "0o100600" and sets(here) == sets(two) == []
