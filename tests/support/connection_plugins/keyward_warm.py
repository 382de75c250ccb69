# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine; a module that is piped to its Python goes to one that has started already (support/warm_python.py)."""

from __future__ import annotations

import json
import os
import shlex
import socket

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local
from ansible.utils.display import Display

DOCUMENTATION = r"""
name: keyward_warm
short_description: this machine, with a Python that has started already
description: Runs commands on this machine; what is piped to its Python goes to one that has started already. For tests.
author: Contributors to the keyward.pki project
options:
  python:
    description: That Python; C(program) is what hosts call it, C(socket) is where it listens.
    type: dict
    required: true
    vars:
      - name: keyward_warm_python
extends_documentation_fragment:
  - connection_pipelining
"""

display = Display()


class Connection(Local):
    """All else is done as on any local host, and told so at -vvv."""

    transport = "local"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        python = self.get_option("python")
        # How core pipes a module to its Python, without become and without an environment.
        if in_data is None or cmd != f"/bin/sh -c {shlex.quote(python['program'] + ' && sleep 0')}":
            done: tuple[int, bytes, bytes] = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
            return done
        self._connect()
        display.vvv(f"EXEC {cmd}", host=self._play_context.remote_addr)
        streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        try:
            os.pwrite(streams[0], in_data, 0)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
                server.connect(python["socket"])
                request = {"environment": dict(os.environ), "directory": os.fsdecode(self.cwd or os.getcwd())}
                socket.send_fds(server, [json.dumps(request).encode()], streams)
                status = server.recv(16)
            if not status:
                raise AnsibleConnectionFailure("the Python that forks does not say how the module ended")
            return int(status), *(os.pread(stream, os.fstat(stream).st_size, 0) for stream in streams[1:])
        finally:
            for stream in streams:
                os.close(stream)
