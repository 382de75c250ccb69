# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs for a simulated host, in a process of its own (python run.py KIND FIELD…) or in a child of server.py.

call                          a call of a PowerShell module: JSON on standard input, JSON on standard output
program NAME STATE ARGUMENT…  certutil or reg
task STATE CODE               Python (base64) in which `host` is the AdcsHost
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from adcs import programs
from adcs.machine import Failure
from adcs.simulation import Host


def call(request: dict[str, Any]) -> dict[str, Any]:
    host = Host(Path(request["state"]))
    try:
        with host.locked():
            return {"result": host.call(request["command"], request["parameters"])}
    except Failure as failure:
        return {"code": failure.code, "message": host.text(failure.text)}
    except Exception:
        return {"broken": traceback.format_exc()}


def run(kind: str, fields: Sequence[str]) -> int:
    """The exit code."""
    try:
        if kind == "call":
            json.dump(call(json.load(sys.stdin)), sys.stdout)
        elif kind == "program":
            name, state, *arguments = fields
            {"certutil": programs.certutil, "reg": programs.reg}[name](state, arguments)
        else:
            from support.adcs import AdcsHost

            state, source = fields
            host = AdcsHost(Path(state))
            exec(compile(base64.b64decode(source), "<task>", "exec"), {"host": host, "Path": Path})  # noqa: S102
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
