# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warm processes for simulated hosts: python server.py DIRECTORY serves DIRECTORY/socket until its standard input ends.

Each request has a child of this process, which has everything imported. A request is its length (4 bytes) and fields between
NUL bytes; the first says what it is:

call JSON        a call of a PowerShell module; the answer is JSON
program …, task …  as run.py has them, on the streams (file descriptors) that come with the request; the answer is the exit code, one byte
powershell JSON  {command, input, environment} for one of the warm PowerShells (warm.cs); the answer is {rc, stdout, stderr}
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gc
import hashlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(TESTS)

import support.adcs  # noqa: F401  what a task needs  # pylint: disable=unused-import

from adcs.run import call, run

# A processor for each, also where several of pytest's workers have a server.
POWERSHELLS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
COMMAND = re.compile(r"/bin/sh -c '(\S*pwsh) -NoProfile -NonInteractive -EncodedCommand ([A-Za-z0-9+/=]+)'")
# What core parses anew in each process, a process that serves many parses once.
PARSER = re.compile(r"\[(System\.Management\.Automation\.Language\.)?Parser\]::ParseInput\(")


def serve(directory: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "socket"))
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    gc.disable()  # children are short-lived, and each would copy all memory that it goes through
    gc.freeze()
    life = os.pipe()  # whoever reads the other end knows when this process is gone
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _address = listener.accept()
        if os.fork() == 0:
            os.close(life[1])
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                answer(connection, directory, life[0])
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        connection.close()


def answer(connection: socket.socket, directory: Path, life: int) -> None:
    kind, *fields = request(connection)
    if kind == "call":
        connection.sendall(json.dumps(call(json.loads(fields[0]))).encode())
        return
    # Whoever asks may be killed: what runs for it ends with it, as it would in a process of its own.

    def watch() -> None:
        if not connection.recv(1):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if kind == "powershell":
        connection.sendall(json.dumps(powershell(directory, life, json.loads(fields[0]))).encode())
        return
    connection.sendall(bytes((run(kind, fields),)))


def request(connection: socket.socket) -> list[str]:
    """The fields of a request. Descriptors that come with it become this process's own streams."""
    data, streams, _flags, _address = socket.recv_fds(connection, 65536, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        more = connection.recv(1 << 20)
        if not more:
            os._exit(1)
        data += more
    return [field.decode() for field in data[4:].split(b"\0")]


# --- PowerShell --------------------------------------------------------------------------------------------------------


def powershell(directory: Path, life: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a command of Ansible's in the first warm PowerShell that is free."""
    found = COMMAND.fullmatch(given["command"])
    assert found, "this is no command for a warm PowerShell"
    script = base64.b64decode(found[2]).decode("utf-16-le")
    # What .NET reads once, at its start, is the same for all that a process serves.
    kind = re.sub(r"\W", "", given["environment"].get("LC_ALL", ""))
    while True:
        for number in range(POWERSHELLS):
            with (directory / f"{kind}{number}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                stream = _connected(directory / f"{kind}{number}", found[1], given["environment"], life)
                # PowerShell looks at every file of PATH for each name that it does not know: thousands here, and few on Windows.
                environment = {**given["environment"], "PATH": f"{given['environment']['SystemRoot']}/System32"}
                message = {**_prepared(script, given["input"]), "environment": environment}
                return _asked(stream, message, directory / f"{kind}{number}")
        time.sleep(0.02)


def _connected(path: Path, program: str, environment: Mapping[str, str], life: int) -> socket.socket:
    with contextlib.suppress(OSError):
        return _connect(path)
    path.unlink(missing_ok=True)
    command = [program, "-NoProfile", "-NonInteractive", "-File", str(TESTS / "adcs" / "warm.ps1"), str(path)]
    with path.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdin=life, stdout=log, stderr=log, start_new_session=True)
    while process.poll() is None:
        with contextlib.suppress(OSError):
            return _connect(path)
        time.sleep(0.02)
    raise AssertionError(f"the warm PowerShell does not start: {path.with_suffix('.log').read_text()}")


def _connect(path: Path) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(path))
    return stream


def _asked(stream: socket.socket, message: Mapping[str, Any], path: Path) -> dict[str, Any]:
    data = json.dumps(message).encode()
    stream.sendall(len(data).to_bytes(4, "big") + data)
    content = b"".join(iter(lambda: stream.recv(1 << 20), b""))
    if not content:
        return {"rc": 1, "stdout": "", "stderr": f"the warm PowerShell ended: {path.with_suffix('.log').read_text()}"}
    done: dict[str, Any] = json.loads(content)
    if done.pop("ends"):
        path.unlink()
    return done


def _prepared(command: str, given: str) -> dict[str, Any]:
    """A command and its input, in which each script is only named; what the names mean is in `texts`."""
    texts: dict[str, str] = {}

    def named(text: str) -> str:
        text = PARSER.sub("[Keyward.Adcs.Warm]::Parse(", text)
        name = hashlib.sha256(text.encode()).hexdigest()
        texts[name] = text
        return name

    start, mark, manifest = given.partition("\n\0\0\0\0\n")
    if mark:
        wrapper, content = json.loads(start), json.loads(manifest)
        wrapper["script"] = named(wrapper["script"])
        for script in content["scripts"].values():
            text = base64.b64decode(script["script"]).decode()
            script["script"] = base64.b64encode(named(text).encode()).decode()
        given = json.dumps(wrapper) + mark + json.dumps(content)
    return {"script": PARSER.sub("[Keyward.Adcs.Warm]::Parse(", command), "input": given, "texts": texts}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    try:
        serve(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
