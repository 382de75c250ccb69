# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What forks, a Python and an ansible-playbook, does what a start does: these tests vouch for all others that run on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from support.ansible_run import Ansible, Result, TaskResult
from support.openssl_ca import OpensslCa

UNLIKE = ("start", "end", "delta")


def test_a_fork_answers_as_a_start_does(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    home = {"chdir": str(tmp_path), "argv": ["sh", "-c", "pwd; env | grep -v -e ^_= -e ^OLDPWD= | sort; umask; cat; echo >&2 told; exit 3"]}
    result = ansible.play(
        [
            {"name": "answer", "keyward.pki.ca_info": {"config_file": str(openssl_ca.config_file)}},
            {"name": "refusal", "keyward.pki.ca_info": {"config_file": str(tmp_path / "nowhere")}, "ignore_errors": True},
            {"name": "surroundings", "ansible.builtin.command": home, "ignore_errors": True},
        ],
        hosts={"warm": ansible.local(), "cold": ansible.local(cold=True)},
        cfg={"defaults": {"pipelining": True}},
        env={"KEYWARD_TEST_SAID": "to the module"},
    ).ok()
    for name in ("answer", "refusal", "surroundings"):
        warm, cold = ({key: value for key, value in result.task(name, host).items() if key not in UNLIKE} for host in ("warm", "cold"))
        assert str(warm).replace("'warm'", "'cold'") == str(cold), name
    assert (
        result.task("surroundings", "warm")["rc"] == 3
        and "KEYWARD_TEST_SAID=to the module" in result.task("surroundings", "warm")["stdout"]
    )


def test_each_execution_is_a_process_of_its_own(ansible: Ansible, tmp_path: Path) -> None:
    """What one does to its own memory, environment and directory, no other sees; one that dies is told; and it is really forked."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "mark.py").write_text(MARK)
    ansible.modules = None  # the archive of a module that is this test's alone
    result = ansible.play(
        [{"name": f"{how} {number}", "mark": {"how": how}, "ignore_errors": True} for how in ("stay", "die") for number in (1, 2)],
        env={"ANSIBLE_LIBRARY": str(tmp_path / "library")},
    ).ok()
    first, second = (result.task(f"stay {number}") for number in (1, 2))
    assert first["marked"] == second["marked"] == [False, None] and first["pid"] != second["pid"]
    assert "warm_python" in first["command"]
    for number in (1, 2):
        assert result.task(f"die {number}")["rc"] == -9


MARK = """\
import os, signal
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule({"how": {"type": "str"}})
if module.params["how"] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
marked = [hasattr(os, "keyward_mark"), os.environ.get("KEYWARD_MARK")]
os.keyward_mark = True
os.environ["KEYWARD_MARK"] = "left behind"
os.chdir("/")
with open("/proc/self/cmdline") as stream:
    command = stream.read()
module.exit_json(marked=marked, pid=os.getpid(), command=command)
"""


ASKED = "pwd; env | grep -v -e ^_= -e RESULTS= -e ^OLDPWD= | sort; umask; cat; echo >&2 told; tr '\\0' ' ' < /proc/$PPID/cmdline"


def test_a_run_that_forks_is_as_one_that_starts(ansible: Ansible, openssl_ca: OpensslCa, tmp_path: Path) -> None:
    """And each has a memory, an environment and temporary files of its own."""
    (tmp_path / "filter_plugins").mkdir()
    (tmp_path / "filter_plugins" / "mark.py").write_text(MARKING)
    tasks = [
        {"name": "answer", "keyward.pki.ca_info": {"config_file": str(openssl_ca.config_file)}},
        {"name": "surroundings", "ansible.builtin.debug": {"msg": "{{ lookup('ansible.builtin.pipe', command) }}"}},
        {"name": "marked", "ansible.builtin.debug": {"msg": "{{ 'x' | mark }}"}, "delegate_to": "localhost"},
        {"name": "fails", "keyward.pki.ca_info": {"config_file": str(tmp_path / "nowhere")}},
    ]
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    given: dict[str, Any] = {"extra_vars": {"command": ASKED}, "env": {"KEYWARD_TEST_SAID": "to the run"}, "diff": True}
    forked, again = (ansible.play(play, **given) for _number in range(2))
    started = ansible.start(play, **given).finish()
    broken = ansible.play("keyward.pki.nowhere", **given)
    own = r"/run[0-9]|[^\s'\"]*/bin/python[^'\"\n]*(warm_playbook\.py|ansible-playbook)[^'\"\n]*"

    def told(result: Result) -> list[str]:
        texts = [result.stdout, result.stderr, *(str(result.task(str(task["name"]))) for task in tasks)]
        return [re.sub(own, "", text) for text in texts]

    assert told(forked) == told(again) == told(started) and forked.rc == again.rc == started.rc == 2
    said = [str(result.task("surroundings")["msg"]) for result in (forked, again, started)]
    assert ["warm_playbook" in text for text in said] == [True, True, False] and all("SAID=to the run" in text for text in said)
    assert broken.rc == 1 and "could not be found" in broken.stderr, str(broken)
    assert not list(tmp_path.glob("ansible/run*/local_tmp/*")), "nothing stays"


MARKING = """\
import os

def mark(text):
    marked = hasattr(os, "keyward_mark") or "KEYWARD_MARK" in os.environ
    os.keyward_mark, os.environ["KEYWARD_MARK"] = True, "left behind"
    return marked

class FilterModule:
    def filters(self):
        return {"mark": mark}
"""


def test_what_is_answered_at_once_is_as_a_worker_answers(ansible: Ansible, tmp_path: Path) -> None:
    """Tasks without a process of their own tell, keep and lose the same: in blocks, roles, loops, failures and check mode, on two hosts."""
    (tmp_path / "more.yml").write_text(json.dumps(INCLUDED))
    role = tmp_path / "roles" / "own"
    for folder, content in (("meta", ROLE), ("tasks", INCLUDED), ("defaults", {"own": "of the role"})):
        (role / folder).mkdir(parents=True)
        (role / folder / ("argument_specs.yml" if folder == "meta" else "main.yml")).write_text(json.dumps(content))
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": ANSWERED}]))
    hosts = {name: ansible.local(own=f"of {name}") for name in ("one", "two")}
    runs: list[dict[str, Any]] = [{}, {"check": True, "diff": True, "arguments": ["--limit", "two"]}]
    for options in runs:
        at_once, by_workers = ansible.play(play, hosts=hosts, **options), ansible.start(play, hosts=hosts, **options).finish()
        results = [{host: told(each[host]) for host in each} for each in (at_once.results, by_workers.results)]
        assert results[0] == results[1] and at_once.rc == by_workers.rc == 2
        said = [(each.stdout + each.stderr).replace(" for two, one", " for one, two") for each in (at_once, by_workers)]  # as they end
        plain = [re.sub(r'/run[0-9]|"[0-9]{2,}"', "", each).splitlines() for each in said]
        assert sorted(plain[0]) == sorted(plain[1])
    processes = [{one["msg"] for one in each.results["two"] if one.task == "process"} for each in (at_once, by_workers)]
    assert [len(each) for each in processes] == [1, 2]


def told(results: list[TaskResult]) -> list[tuple[Any, ...]]:
    """In the order in which they ended; but for a task whose answers differ."""
    return [(one.task, one.status, one.ignored, {} if one.task == "process" else dict(one)) for one in results]


def debug(name: str, msg: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "ansible.builtin.debug": {"msg": msg}, **more}


ROLE = {"argument_specs": {"main": {"options": {"own": {"type": "str", "choices": ["of the role", "of one", "of the include"]}}}}}
INCLUDED = [
    debug("in it", "{{ own }} {{ given | default('none') }}", register="kept"),
    {"name": "fact", "ansible.builtin.set_fact": {"fact": "{{ fact | default([]) + [own] }}", "cacheable": True}},
    debug("skipped", "never", when="fact | length > 5"),
]
ANSWERED: list[dict[str, Any]] = [
    debug("process", "{{ lookup('ansible.builtin.pipe', 'echo $PPID') }}"),
    debug("process", "{{ lookup('ansible.builtin.pipe', 'echo $PPID') }}", when="fact is undefined"),
    {"name": "include", "ansible.builtin.include_tasks": {"file": "more.yml"}, "vars": {"given": "{{ own | upper }}"}},
    {"name": "loop", "ansible.builtin.include_tasks": "more.yml", "loop": ["a", "b"], "loop_control": {"loop_var": "given"}},
    {"name": "role", "ansible.builtin.include_role": {"name": "own"}, "vars": {"own": "of the include"}},
    debug("hidden", "{{ own }}", no_log=True, register="hidden"),
    debug("of another", "{{ hostvars['one'].own }} {{ hostvars['one'].fact | default('none') }} {{ hidden.msg }}"),
    debug("of a file", "{{ 1 }}", vars={"own": "of the task"}, changed_when="own == 'of the task'", register="of_a_file"),
    {"name": "true", "ansible.builtin.assert": {"that": ["of_a_file is changed", "kept.msg is search('of the include')"]}},
    {
        "block": [
            {"name": "false", "ansible.builtin.assert": {"that": "own == 'another'", "fail_msg": "is {{ own }}"}, "ignore_errors": True},
            debug("undefined", "{{ nowhere }}", ignore_errors=True),
            debug("failed when", "{{ own }}", failed_when="own == 'of two'"),
            {"name": "role of another", "ansible.builtin.include_role": {"name": "own"}},
            {"name": "fail", "ansible.builtin.fail": {"msg": "of {{ inventory_hostname }}"}, "when": "inventory_hostname == 'one'"},
        ],
        "rescue": [debug("rescue", "{{ ansible_failed_task.name }}: {{ ansible_failed_result.msg | default('no message') }}")],
        "always": [debug("always", "{{ fact }}")],
    },
    {"name": "role of two", "ansible.builtin.include_role": {"name": "own"}, "when": "inventory_hostname == 'two'"},
    debug("the other", "{{ fact }}"),
]
