# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Python that has imported what every module imports, and forks for each execution. For hosts that are this machine.

Each execution is a process of its own, with the memory, environment, directory and streams that it would have had, and it ends as any
Python does. What it lacks is a start of its own. Nothing of the collection is imported before the fork but what an execution of the same
archive imported from it: what a module forgets to bring is missed.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import gc
import importlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Mapping
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

    def program(self, directory: Path) -> Path:
        """What a host that is reached over SSH calls its Python: a module that is piped to it is executed here."""
        client, program = directory / "client.py", directory / "python"
        directory.mkdir()
        client.write_text(CLIENT)
        program.write_text(f'#!/bin/sh\n[ $# = 0 ] && exec {sys.executable} -E -S {client} {self.address}\nexec {sys.executable} "$@"\n')
        program.chmod(0o755)
        return program


CLIENT = """\
import json, os, socket, sys

module = os.memfd_create("stdin")
os.pwrite(module, sys.stdin.buffer.read(), 0)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect(sys.argv[1])
    request = {"environment": dict(os.environ), "directory": os.getcwd()}
    socket.send_fds(server, [json.dumps(request).encode()], [module, 1, 2])
    sys.exit(int(server.recv(16) or b"1"))
"""


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


Brought = Callable[[int], bytes]  # what a request brings along on its standard input


class Requests:
    """Serves each request in a process of its own: `serve` returns in it, with what was asked.

    What brings the same archive as another before it comes from a process that has imported what that one imported from it: nothing else.
    """

    def __init__(self, brought: Brought = lambda _stream: b"", prepare: Callable[[bytes], None] = lambda _archive: None) -> None:
        self._brought, self._prepare = brought, prepare
        self._children: set[int] = set()
        self._templates: dict[bytes, socket.socket] = {}

    def serve(self, directory: Path) -> dict[str, Any]:
        """Ends with its standard input."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(directory / "new"))
            listener.listen(64)
            (directory / "new").rename(directory / "socket")
            while listener in select.select([listener, 0], [], [])[0]:
                client, _address = listener.accept()
                data, streams, _flags, _sender = socket.recv_fds(client, 1 << 20, 3)
                archive = self._brought(streams[0]) if streams else b""
                if archive and archive not in self._templates:
                    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    if self._fork() == 0:
                        for each in (listener, client, ours, *self._templates.values()):
                            each.close()
                        for stream in streams:
                            os.close(stream)
                        return self._serve_alike(archive, its)
                    its.close()
                    self._templates[archive] = ours
                if archive:
                    socket.send_fds(self._templates[archive], [data], [client.fileno(), *streams])
                elif self._fork() == 0:
                    return _received(client, data, streams)
                client.close()
                for stream in streams:
                    os.close(stream)
        sys.exit()

    def _serve_alike(self, archive: bytes, asked: socket.socket) -> dict[str, Any]:
        self._children = set()
        with contextlib.suppress(Exception):  # each execution meets it
            self._prepare(archive)
        gc.freeze()
        learned, tell = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        while ready := select.select([asked, learned], [], [])[0]:
            if learned in ready:
                for name in learned.recv(1 << 16).decode().split():
                    with contextlib.suppress(Exception):
                        importlib.import_module(name)
                continue
            data, streams, _flags, _sender = socket.recv_fds(asked, 1 << 20, 4)
            if not data:
                break
            if self._fork() == 0:
                atexit.register(_tell, tell, set(sys.modules))
                return _received(socket.socket(fileno=streams[0]), data, streams[1:])
            for stream in streams:
                os.close(stream)
        sys.exit()

    def _fork(self) -> int:
        self._children = {one for one in self._children if os.waitpid(one, os.WNOHANG) == (0, 0)}
        child = os.fork()
        self._children.add(child)
        return child


def _tell(template: socket.socket, known: set[str]) -> None:
    with contextlib.suppress(OSError):
        template.send(" ".join(name for name in sys.modules if name not in known).encode())


def _received(client: socket.socket, data: bytes, streams: list[int]) -> dict[str, Any]:
    """In a child that looks after the process that it starts; returns in that process."""
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


def archive_of(stream: int) -> bytes:
    """The archive and the name of the module in the program that core pipes to a Python; nothing where it is another program."""
    program = os.pread(stream, os.fstat(stream).st_size, 0)
    archive, module = re.search(rb"'([A-Za-z0-9+/=]{1000,})'", program), re.search(rb"'(ansible_collections(?:\.\w+)+)'", program)
    return module[1] + b" " + archive[1] if archive and module else b""


def import_archive(archive: bytes) -> None:
    module, content = archive.split()
    path = os.path.join(tempfile.mkdtemp(dir=sys.argv[1]), "archive.zip")
    Path(path).write_bytes(base64.b64decode(content))
    sys.path[0] = path
    importlib.import_module(module.decode())
    del sys.modules[module.decode()]  # the module itself is run, not imported


if __name__ == "__main__":
    from kept_code import keep_code

    keep_code()
    import_what_modules_import()
    for package in [each for name, each in sys.modules.items() if name.split(".")[0] == "ansible" and hasattr(each, "__path__")]:
        vars(package)["__path__"] = ArchiveFirst(package)
    gc.disable()  # a tenth of the time of what ends soon, and each fork would copy all memory
    gc.freeze()  # also when it collects garbage at its end
    asked = Requests(archive_of, import_archive).serve(Path(sys.argv[1]))
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["directory"])
    sys.argv, sys.path[0] = [""], ""
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True), vars(main))  # noqa: S102, as Python does
