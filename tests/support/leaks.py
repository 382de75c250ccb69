# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks with secrets in them, for runs that must not leak any."""

from __future__ import annotations

import secrets
import shlex
from pathlib import Path
from typing import Any

# What invites a leak: no pipelining, and files that stay on the host.
INVITING_CFG = {"defaults": {"pipelining": False}, "connection": {"pipelining": False}, "ssh_connection": {"pipelining": False}}
INVITING_ENV = {"ANSIBLE_KEEP_REMOTE_FILES": "1"}


def canary() -> str:
    return f"canary-{secrets.token_urlsafe(24)}"


def task(name: str, module: str, *options: dict[str, Any], fails: bool = False, **keywords: Any) -> dict[str, Any]:
    merged = {option: value for some in options for option, value in some.items()}
    # Every result is registered and printed, as a person does who looks for an error.
    return {"name": name, f"keyward.pki.{module}": merged, "ignore_errors": fails, "register": "answer", **keywords}


def show(*expressions: str) -> dict[str, Any]:
    return {"name": "show", "ansible.builtin.debug": {"msg": [f"{{{{ {expression} }}}}" for expression in expressions]}}


def lose(*paths: Path) -> dict[str, Any]:
    return {"name": "lose", "ansible.builtin.raw": shlex.join(["rm", *map(str, paths)])}
