# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Python that has imported what every module imports, and forks for each execution. For hosts that are this machine.

Each execution is a process of its own, with the memory, environment, directory and streams that it would have had, and it ends as any
Python does. What it lacks is a start of its own. Nothing of the collection is imported before the fork: what a module forgets to bring
is missed.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Forking:
    """A program of this kind, from its start to `stop`."""

    def __init__(self, python: str | Path, program: str, environment: Mapping[str, str] | None = None) -> None:
        # Not below pytest's own folder: a socket's path must be short.
        self._directory = Path(tempfile.mkdtemp(prefix="keyward-warm-"))
        self.address = self._directory / "socket"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
        command = [str(python), program, str(self._directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**kept, "LC_ALL": "C.UTF-8", **(environment or {})})
        deadline = time.monotonic() + 60
        while not self.address.exists():
            assert self._process.poll() is None and time.monotonic() < deadline, "the Python that forks does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.communicate(timeout=60)
        shutil.rmtree(self._directory)


class WarmPython(Forking):
    """`variable` is for hosts with the connection plugin keyward_warm."""

    def __init__(self) -> None:
        super().__init__(sys.executable, __file__)
        self.variable = {"program": sys.executable, "socket": str(self.address)}


def import_what_modules_import() -> None:
    import zipfile  # noqa: F401

    import ansible.module_utils._internal._ansiballz._loader
    import ansible.module_utils.basic  # noqa: F401
    import cryptography.hazmat.primitives.asymmetric.ed448
    import cryptography.hazmat.primitives.asymmetric.ed25519
    import cryptography.hazmat.primitives.asymmetric.padding
    import cryptography.hazmat.primitives.ciphers.algorithms
    import cryptography.hazmat.primitives.ciphers.modes
    import cryptography.hazmat.primitives.kdf.pbkdf2
    import cryptography.hazmat.primitives.serialization.pkcs12
    import cryptography.x509  # noqa: F401


class ArchiveFirst:
    """Where a package of ansible looks for what is not imported yet: in the archive, which comes first of all, then in its own folder."""

    def __init__(self, package: types.ModuleType) -> None:
        self._folder, self._own = package.__name__.replace(".", os.sep), list(package.__path__)

    def __iter__(self) -> Iterator[str]:
        return iter([os.path.join(sys.path[0], self._folder), *self._own])


def serve(directory: Path) -> dict[str, Any]:
    """Ends with its standard input. Returns in a fork for each request."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "new"))
        listener.listen(64)
        (directory / "new").rename(directory / "socket")
        children: set[int] = set()
        while listener in select.select([listener, 0], [], [])[0]:
            client, _address = listener.accept()
            child = os.fork()
            if child == 0:
                return _receive(client)
            client.close()
            children = {one for one in {*children, child} if os.waitpid(one, os.WNOHANG) == (0, 0)}
    sys.exit()


def _receive(client: socket.socket) -> dict[str, Any]:
    """In a child that looks after the process that it starts; returns in that process."""
    data, streams, _flags, _sender = socket.recv_fds(client, 1 << 20, 3)
    begun = os.pipe()
    process = os.fork()
    if process:
        os.close(begun[1])
        os.read(begun[0], 1)
        ended = os.pidfd_open(process)
        if client in select.select([ended, client], [], [])[0]:
            os.killpg(process, signal.SIGKILL)  # who asked was killed, and this with it
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            client.send(str(status).encode())
        os._exit(0)
    client.close()
    os.setsid()
    os.close(begun[0])
    os.close(begun[1])
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    request: dict[str, Any] = json.loads(data)
    return request


if __name__ == "__main__":
    from kept_code import keep_code

    keep_code()
    import_what_modules_import()
    for package in [each for name, each in sys.modules.items() if name.split(".")[0] == "ansible" and hasattr(each, "__path__")]:
        vars(package)["__path__"] = ArchiveFirst(package)
    gc.freeze()  # or each fork would copy all memory when it collects garbage at its end
    asked = serve(Path(sys.argv[1]))
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["directory"])
    sys.argv, sys.path[0] = [""], ""
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True), vars(main))  # noqa: S102, as Python does
