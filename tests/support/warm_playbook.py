# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An ansible-playbook that has started already and forks for each run, as warm_python.py does for each module.

Each run is a process in a session of its own, with its command line, environment, directory and streams. It lacks a start: ansible-core is
imported and ansible.cfg is read once, as is the code that the collection's plugins share. So all runs of one program have the same
ansible.cfg, but for `local_tmp`, which is in each run's own directory. Each run finds and loads the collection and its plugins itself.
Nor has each task a process: those that only template have none.
"""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import io
import json
import os
import select
import socket
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.warm_python import Forking, Requests

Configure = Callable[[Path], str]  # the text of ansible.cfg for a run in that directory


class WarmPlaybooks:
    """A program for each ansible-core and each ansible.cfg; `stop` ends them."""

    def __init__(self) -> None:
        self._programs: dict[tuple[Path, str], Forking] = {}
        self._homes = tempfile.TemporaryDirectory()

    def run(
        self, command: Sequence[str], configure: Configure, directory: Path, environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of command[0], which is an ansible-playbook."""
        program = self._program(Path(command[0]).parent, configure)
        streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
                server.connect(str(program.address))
                request = {"environment": dict(environment), "directory": str(directory), "arguments": list(command)}
                socket.send_fds(server, [json.dumps(request).encode()], streams)
                status = server.recv(16) if select.select([server], [], [], timeout)[0] else b""
            stdout, stderr = (os.pread(stream, os.fstat(stream).st_size, 0).decode(errors="replace") for stream in streams[1:])
        finally:
            for stream in streams:
                os.close(stream)
        assert status, f"ansible-playbook was killed, or took longer than {timeout} s\n{stdout}\n{stderr}"
        return int(status), stdout, stderr

    def stop(self) -> None:
        for program in self._programs.values():
            program.stop()
        self._homes.cleanup()

    def _program(self, commands: Path, configure: Configure) -> Forking:
        which = (commands, configure(Path()))
        if which not in self._programs:
            home = Path(self._homes.name, str(len(self._programs)))
            home.mkdir()
            file = home / "ansible.cfg"
            file.write_text(configure(home), encoding="utf-8")
            self._programs[which] = Forking(commands / "python", __file__, {"ANSIBLE_CONFIG": str(file), "HOME": str(home)})
        return self._programs[which]


def read_routing_once() -> None:
    """That of ansible.builtin, which is larger than all else that a run reads."""
    from ansible import release
    from ansible.utils.collection_loader import _collection_finder as finder

    finder._meta_yml_to_dict = functools.cache(finder._meta_yml_to_dict)
    routing = Path(release.__file__).with_name("config") / "ansible_builtin_runtime.yml"
    finder._meta_yml_to_dict(routing.read_bytes(), ("ansible.builtin", "runtime.yml"))


def import_what_runs_import() -> None:
    import ansible.executor.task_executor
    import ansible.parsing.yaml.dumper
    import ansible.playbook.handler_task_include
    import ansible.playbook.included_file
    import ansible.playbook.role_include
    import ansible.plugins.action.normal  # noqa: F401
    import cryptography.hazmat.primitives.asymmetric.ed448
    import cryptography.hazmat.primitives.asymmetric.x448
    import cryptography.x509
    import cryptography.x509.verification  # noqa: F401
    from ansible.plugins import loader

    for kind in ("become", "callback", "connection", "inventory", "shell", "strategy", "vars"):
        list(getattr(loader, f"{kind}_loader").all(class_only=True))


# Tasks of ansible-core that template and answer, and touch no host.
ANSWERED_AT_ONCE = [
    f"ansible.builtin.{name}" for name in ("assert", "debug", "fail", "include_role", "include_tasks", "set_fact", "validate_argument_spec")
]


def answer_at_once() -> None:
    """What a worker does for such a task is done on copies here, without a process of its own: that would be most of the task's time."""
    from ansible.executor.process import worker

    try:
        from ansible._internal._task import TaskContext
    except ImportError:  # before ansible-core 2.19
        return
    in_process = worker.WorkerProcess.start

    def start(self: Any) -> None:
        task = self._task
        if task.resolved_action not in ANSWERED_AT_ONCE or task.loop or task.loop_with or task.delegate_to or task.timeout:
            in_process(self)
            return
        self._task = task.copy(exclude_parent=True, exclude_tasks=True)
        self._task._parent = task._parent
        self._host, self._task_vars, self._play_context = copy.copy(self._host), self._task_vars.copy(), self._play_context.copy()
        worker.sys = types.SimpleNamespace(stdout=io.StringIO(), stderr=io.StringIO())  # where it looks for what was printed
        try:
            if hasattr(TaskContext, "create"):
                context = TaskContext.create(task=self._task, task_vars=self._task_vars, host_name=self._host.name)
            else:
                context = TaskContext(self._task)  # pylint: disable=missing-kwoa # of ansible-core 2.19
            with context:
                self._run()
        finally:
            worker.sys, worker.current_worker = sys, None

    worker.WorkerProcess.start = start


def import_what_plugins_share() -> None:
    """Most of a run's start: each dataclass compiles its methods."""
    from ansible import constants
    from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

    finder = _AnsibleCollectionFinder(constants.COLLECTIONS_PATHS, False)
    finder._install()
    collection = importlib.import_module("ansible_collections.keyward.pki")
    plugins = Path(collection.__path__[0], "plugins")
    for file in (path for folder in ("module_utils", "plugin_utils") for path in (plugins / folder).rglob("*.py")):
        if file.stem != "__init__":
            importlib.import_module(".".join((collection.__name__, "plugins", *file.relative_to(plugins).with_suffix("").parts)))
    finder._remove()
    for name in [name for name in sys.modules if name.startswith("ansible_collections") and name.count(".") < 3]:
        del sys.modules[name]


if __name__ == "__main__":
    import atexit

    from ansible import constants
    from ansible.cli.playbook import main
    from ansible.utils.path import cleanup_tmp_file

    import_what_runs_import()
    read_routing_once()
    import_what_plugins_share()
    answer_at_once()
    gc.disable()  # a tenth of the time of what ends soon, and each fork would copy all memory
    gc.freeze()  # also when it collects garbage at its end
    asked = Requests().serve(Path(sys.argv[1]))
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["directory"])
    atexit.unregister(cleanup_tmp_file)
    local_tmp = os.path.join(asked["directory"], "local_tmp")
    os.makedirs(local_tmp, 0o700, exist_ok=True)
    constants.DEFAULT_LOCAL_TMP = tempfile.mkdtemp(prefix=f"ansible-local-{os.getpid()}", dir=local_tmp)
    atexit.register(cleanup_tmp_file, constants.DEFAULT_LOCAL_TMP, warn=True)
    sys.argv, sys.path[0] = asked["arguments"], os.path.dirname(asked["arguments"][0])
    sys.exit(main())
