# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -IS client.py KIND FIELD…: what run.py does with the same arguments, done by the host's server.py on this process's streams.

It ends when this process does. Without a server this process becomes run.py. It starts in 10 ms, and imports nothing to stay so quick.
"""

import _socket
import os
import sys

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.py")


def main(fields: "list[str]") -> None:
    if fields[0] == "task" and not fields[1]:
        fields[1] = os.environ["KEYWARD_ADCS_STATE"]
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(os.environ.get("KEYWARD_ADCS_SERVER", ""))
    except OSError:
        os.execv(sys.executable, [sys.executable, RUN, *fields])  # noqa: S606
    data = b"\0".join(map(os.fsencode, fields))
    streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
    connection.sendmsg([len(data).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    connection.sendall(data)
    code = connection.recv(1)
    sys.exit(code[0] if code else 70)


if __name__ == "__main__":
    main(sys.argv[1:])
