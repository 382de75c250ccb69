# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the real ansible-playbook in a scratch directory of its own and collects what each task returned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import yaml
from support.quick import FEW_ITERATIONS
from support.signers import make_home
from support.warm_playbook import WarmPlaybooks
from support.warm_python import WarmPython

SUPPORT = Path(__file__).resolve().parent
SCRUBBED = ("ANSIBLE_", "PYTHON", "PYTEST_", "KEYWARD_")
RESULTS = "results.jsonl"
Playbook = Union[str, Path, Sequence[Mapping[str, Any]]]


class TaskResult(dict):  # type: ignore[type-arg]
    """What a task returned for a host, with its `.task` name, `.action`, `.status` (ok, failed, skipped, unreachable) and `.ignored`."""

    def __init__(self, line: Mapping[str, Any]) -> None:
        super().__init__(line["result"])
        self.task: str = line["task"]
        self.action: str = line["action"]
        self.status: str = line["status"]
        self.ignored: bool = line["ignored"]


@dataclass
class Result:
    """A finished ansible-playbook; `results` maps a host to its tasks' results in the order in which they ran."""

    rc: int
    stdout: str
    stderr: str
    results: dict[str, list[TaskResult]] = field(default_factory=dict)

    def last(self, host: str | None = None) -> TaskResult:
        """The last task's result, of the only host where none is named."""
        return self._of(host)[-1]

    def task(self, name: str, host: str | None = None) -> TaskResult:
        """The result of the last task whose name is `name` (a nameless task's name is its action), one that ran if any did."""
        named = [result for result in self._of(host) if result.task == name]
        found = [result for result in named if result.status != "skipped"] or named
        assert found, f"no task {name!r} ran\n{self}"
        return found[-1]

    def ok(self) -> Result:
        """Itself; fails the test unless ansible-playbook succeeded."""
        assert self.rc == 0, str(self)
        return self

    def failed(self, host: str | None = None) -> TaskResult:
        """The result that made ansible-playbook fail, on any host or on that one; fails the test where nothing did."""
        failures = [
            one
            for name, results in self.results.items()
            for one in results
            if host in (None, name) and one.status in ("failed", "unreachable") and not one.ignored
        ]
        assert self.rc != 0 and failures, str(self)
        return failures[-1]

    def _of(self, host: str | None) -> list[TaskResult]:
        if host is None:
            assert len(self.results) == 1, f"results of {sorted(self.results)}; which host?\n{self}"
            (host,) = self.results
        assert self.results.get(host), f"nothing ran on {host}\n{self}"
        return self.results[host]

    def __str__(self) -> str:
        return f"ansible-playbook ended with {self.rc}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


@dataclass
class Run:
    """A started ansible-playbook."""

    process: subprocess.Popen[str]
    results_file: Path

    def finish(self, timeout: float = 300) -> Result:
        try:
            stdout, stderr = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            stdout, stderr = self.process.communicate()
            raise AssertionError(f"ansible-playbook took longer than {timeout} s\n{stdout}\n{stderr}") from None
        return Result(self.process.returncode, stdout, stderr, _results(self.results_file))

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Signals ansible-playbook with all its workers."""
        os.killpg(self.process.pid, how)


class Ansible:
    """The ansible-core whose commands lie in `commands` (default: beside this Python), with the collections below `collections` only.

    warm: where modules of local hosts with this Python are executed, unless a host is `cold`.
    modules: a directory for the archives that modules travel in, for all runs of this ansible-core on these collections.
    playbooks: what makes runs that need no ansible.cfg of their own. PKCS #12 files are then written with few iterations, unless the
    environment AS_WRITTEN is given (quick.py).
    """

    def __init__(
        self,
        scratch: Path,
        collections: Path,
        commands: Path | None = None,
        warm: WarmPython | None = None,
        modules: Path | None = None,
        playbooks: WarmPlaybooks | None = None,
    ) -> None:
        self.scratch = scratch
        self.collections = collections
        self.commands = commands or Path(sys.executable).parent
        self.remote_tmp = scratch / "remote_tmp"
        self.warm = warm
        self.modules = modules
        self.playbooks = playbooks
        self._count = 0

    def local(self, python: str | Path = sys.executable, *, cold: bool = False, **variables: Any) -> dict[str, Any]:
        """Variables of a host that is this machine; `python` must have cryptography. cold: that Python is started for each module."""
        warm = self.warm is not None and not cold and str(python) == sys.executable
        return {
            "ansible_connection": "keyward_warm" if warm else "local",
            "ansible_python_interpreter": str(python),
            "ansible_remote_tmp": str(self.remote_tmp),
            **({"keyward_warm_python": self.warm.variable} if self.warm and warm else {}),
            **variables,
        }

    def play(self, tasks_or_playbook: Playbook, *, timeout: float = 300, **options: Any) -> Result:
        """Runs to the end, by an ansible-playbook that has started already where that can be. See `start` for the arguments."""
        if self.playbooks is None or options.get("cfg") or any(name.startswith(SCRUBBED[:2]) for name in options.get("env") or ()):
            return self.start(tasks_or_playbook, **options).finish(timeout)
        command, directory, environment = self._prepared(tasks_or_playbook, **options)
        done = self.playbooks.run(command, lambda directory: self._config(directory, {}), directory, environment, timeout)
        return Result(*done, _results(directory / RESULTS))

    def start(self, tasks_or_playbook: Playbook, **options: Any) -> Run:
        """Starts ansible-playbook and returns at once.

        tasks_or_playbook: a list of tasks (run on all hosts without facts) or of plays; YAML text of either; a playbook's path or name.
        hosts: {name: variables}, or a whole inventory {"all": …}; default: the one host `testhost`, which is this machine.
        extra_vars: given in a file, never on the command line.
        env: added to an environment that holds nothing of the caller's ANSIBLE_* and PYTHON*.
        cfg: {section: {option: value}} added to ansible.cfg.
        """
        command, directory, environment = self._prepared(tasks_or_playbook, **options)
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        return Run(process, directory / RESULTS)

    def _prepared(
        self,
        tasks_or_playbook: Playbook,
        *,
        hosts: Mapping[str, Any] | None = None,
        extra_vars: Mapping[str, Any] | None = None,
        check: bool = False,
        diff: bool = False,
        verbosity: int = 0,
        env: Mapping[str, str] | None = None,
        cfg: Mapping[str, Mapping[str, Any]] | None = None,
        arguments: Sequence[str] = (),
    ) -> tuple[list[str], Path, dict[str, str]]:
        """The command line, the directory with all its files, and the environment of a run."""
        self._count += 1
        directory = self.scratch / f"run{self._count}"
        directory.mkdir(parents=True)
        if hosts is None:
            hosts = {"testhost": self.local()}
        inventory = hosts if "all" in hosts else {"all": {"hosts": dict(hosts)}}
        command = [str(self.commands / "ansible-playbook"), "-i", str(_private(directory / "inventory.yml", yaml.safe_dump(inventory)))]
        if extra_vars:
            command += ["-e", f"@{_private(directory / 'extra_vars.json', json.dumps(dict(extra_vars)))}"]
        command += [flag for flag, wanted in (("--check", check), ("--diff", diff), ("-" + "v" * verbosity, verbosity > 0)) if wanted]
        command += [*arguments, _playbook(tasks_or_playbook, directory)]
        config = _private(directory / "ansible.cfg", self._config(directory, cfg or {}))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}
        environment.update(
            ANSIBLE_CONFIG=str(config),
            KEYWARD_TEST_RESULTS=str(directory / RESULTS),
            PATH=f"{self.commands}{os.pathsep}{os.environ['PATH']}",
            LC_ALL="C.UTF-8",
            HOME=str(make_home(self.scratch / "home")),
        )
        if self.modules:
            environment["KEYWARD_TEST_MODULES"] = str(self.modules)
        if self.playbooks:
            environment["KEYWARD_TEST_ITERATIONS"] = str(FEW_ITERATIONS)
        environment.update(env or {})
        return command, directory, environment

    def _config(self, directory: Path, added: Mapping[str, Mapping[str, Any]]) -> str:
        sections: dict[str, dict[str, Any]] = {
            "defaults": {
                "collections_path": self.collections,
                "collections_scan_sys_path": False,
                "callback_plugins": SUPPORT / "callback_plugins",
                "connection_plugins": SUPPORT / "connection_plugins",
                "callbacks_enabled": ",".join(name for name, wanted in CALLBACKS.items() if wanted(self)),
                "local_tmp": directory / "local_tmp",
                "internal_poll_interval": 0.005,  # so that little time goes into asking whether a task has ended
                "retry_files_enabled": False,
                "nocows": True,
                **({"pipelining": True} if self.warm else {}),
            },
        }
        for name, options in added.items():
            sections.setdefault(name, {}).update(options)
        return "".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items()) for name, options in sections.items()
        )


CALLBACKS: dict[str, Callable[[Ansible], object]] = {
    "keyward_results": lambda _ansible: True,
    "keyward_cut": lambda _ansible: True,
    "keyward_kept": lambda ansible: ansible.modules,
    "keyward_quick": lambda ansible: ansible.playbooks,
}


def _results(file: Path) -> dict[str, list[TaskResult]]:
    found: dict[str, list[TaskResult]] = {}
    for content in map(json.loads, file.read_text(encoding="utf-8").splitlines() if file.exists() else ()):
        found.setdefault(content["host"], []).append(TaskResult(content))
    return found


def build_and_install(root: Path, scratch: Path, commands: Path | None = None) -> Path:
    """Builds the collection's tarball from the tree at `root`, installs it alone below scratch/collections and returns that path."""
    galaxy = str((commands or Path(sys.executable).parent) / "ansible-galaxy")
    collections = scratch / "collections"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}
    environment.update(
        ANSIBLE_COLLECTIONS_PATH=str(collections), ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="false", ANSIBLE_HOME=str(scratch / "home")
    )

    def run(*arguments: str) -> None:
        done = subprocess.run([galaxy, "collection", *arguments], env=environment, cwd=scratch, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout}\n{done.stderr}"

    run("build", str(root), "--output-path", str(scratch / "build"))
    (tarball,) = (scratch / "build").glob("*.tar.gz")
    run("install", str(tarball), "--offline", "-p", str(collections))
    return collections


def _private(path: Path, content: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")
    return path


def _playbook(given: Playbook, directory: Path) -> str:
    if isinstance(given, Path) or (isinstance(given, str) and "\n" not in given):
        return str(given)
    content = yaml.safe_load(given) if isinstance(given, str) else [dict(one) for one in given]
    if not any("hosts" in one or "ansible.builtin.import_playbook" in one for one in content):
        content = [{"hosts": "all", "gather_facts": False, "tasks": content}]
    return str(_private(directory / "play.yml", yaml.safe_dump(content, sort_keys=False)))
