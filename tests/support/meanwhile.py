# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of one CA where something happens between the look of a task and its order."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.fake_host import FakeHost


class Meanwhile(FakeHost):
    """C(act): what happens before an order of this name arrives."""

    def __init__(self, config_file: Path, **which: Any) -> None:
        super().__init__()
        self.which = {"config_file": str(config_file), **which}
        self.act: Callable[[str], Any] = lambda order: None

    def does(self, task: Any, *, check: bool = False, **options: Any) -> dict[str, Any]:
        return self.run(task, {**self.which, **options}, check=check)

    def once(self, act: Callable[[], Any]) -> None:
        """It happens before the next order that is no look."""

        def acting(order: str) -> None:
            if order != "look":
                self.act = lambda order: None
                act()

        self.act = acting

    def _module(self, name: str, arguments: dict[str, Any], check: bool) -> dict[str, Any]:
        self.act(json.loads(base64.b64decode(arguments["controller"]))["order"])
        return super()._module(name, arguments, check)
