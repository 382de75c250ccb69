# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server of this process, such as one that publishes CRLs.

with serving(folder) as web:
    web.url                      # http://127.0.0.1:<port>
    web.answers["/moved"] = (302, {"Location": "file:///etc/passwd"}, b"")
    web.answers["/endless"] = None
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Reply = tuple[int, dict[str, str], bytes] | None  # None: a body without end


@dataclass
class Web:
    folder: Path
    url: str = ""
    answers: dict[str, Reply] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def reply(self, path: str) -> Reply:
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]
        file = self.folder / path.lstrip("/")
        return (200, {}, file.read_bytes()) if file.is_file() else (404, {}, b"")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Web]:
    web = Web(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply = web.reply(self.path)
            status, headers, body = reply or (200, {}, b"")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            with contextlib.suppress(OSError):
                while reply is None:
                    self.wfile.write(bytes(65536))

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
