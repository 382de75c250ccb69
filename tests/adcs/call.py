# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call of a PowerShell module: a JSON document on standard input, another on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adcs.simulation import Failure, Host

request = json.load(sys.stdin)
host = Host(Path(request["state"]))
answer: dict[str, Any]
try:
    with host.locked():
        answer = {"result": host.call(request["command"], request["parameters"])}
except Failure as failure:
    answer = {"code": failure.code, "message": host.text(failure.text)}
json.dump(answer, sys.stdout)
