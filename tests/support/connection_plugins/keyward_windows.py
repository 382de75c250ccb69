# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine as a Windows host: modules come as PowerShell, in the environment of a simulated host."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
from pathlib import Path
from typing import Any

from ansible.plugins.connection.local import Connection as LocalConnection

DOCUMENTATION = """
name: keyward_windows
short_description: a simulated Windows host
description: Runs commands on this machine, in the environment of a simulated Windows host. For tests.
author: Contributors to the keyward.pki project
options:
  environment:
    description: Variables for the commands.
    type: dict
    required: true
    vars:
      - name: keyward_windows_environment
  cold:
    description: Whether each module has a PowerShell of its own. One without a server always has.
    type: bool
    default: false
    vars:
      - name: keyward_windows_cold
  meanwhile:
    description: A command that runs on the host before its second module does, as another task would between a look and an order.
    type: str
    vars:
      - name: keyward_windows_meanwhile
extends_documentation_fragment:
  - connection_pipelining
"""

WARM = re.compile(r"/bin/sh -c '\S*pwsh -NoProfile -NonInteractive -EncodedCommand ")


class Connection(LocalConnection):
    """Reached through `ansible_connection: keyward_windows`."""

    transport = "keyward_windows"
    module_implementation_preferences = (".ps1", "")

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        variables: dict[str, Any] = self.get_option("environment")
        path = Path(variables["KEYWARD_ADCS_STATE"]) / "log.jsonl"
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"command": cmd, "module": in_data is not None}) + "\n")
        settings = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
        meanwhile = self.get_option("meanwhile")
        if meanwhile and in_data is not None and path.read_text(encoding="utf-8").count('"module": true') == 2:
            ended, _output, errors = super().exec_command(f"export {settings}; {meanwhile}")
            assert ended == 0, errors
        cold = self.get_option("cold") or "KEYWARD_ADCS_SERVER" not in variables
        if in_data is not None and not cold and WARM.match(cmd):
            return self._warm(cmd, in_data, variables)
        done: tuple[int, bytes, bytes] = super().exec_command(f"export {settings}; {cmd}", in_data=in_data, sudoable=sudoable)
        return done

    def _warm(self, cmd: str, in_data: bytes, variables: dict[str, Any]) -> tuple[int, bytes, bytes]:
        """The same in a PowerShell that runs already (tests/adcs/server.py)."""
        given = {"command": cmd, "input": in_data.decode(), "environment": {**os.environ, **variables}}
        message = b"powershell\0" + json.dumps(given).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(variables["KEYWARD_ADCS_SERVER"])
            connection.sendall(len(message).to_bytes(4, "big") + message)
            answer = json.loads(b"".join(iter(lambda: connection.recv(1 << 20), b"")))
        return answer["rc"], answer["stdout"].encode(), answer["stderr"].encode()
