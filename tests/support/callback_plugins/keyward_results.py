# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells the tests what callbacks see: one JSON line for each task and host, in the file that KEYWARD_TEST_RESULTS names."""

from __future__ import annotations

DOCUMENTATION = r"""
name: keyward_results
type: aggregate
short_description: Writes each task's result as one line of JSON
description: Writes each task's result as one line of JSON to the file that E(KEYWARD_TEST_RESULTS) names.
"""

import json
import os

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "keyward_results"
    CALLBACK_NEEDS_ENABLED = True

    def _write(self, status, result, ignored=False):
        content = result.result if hasattr(result, "result") else result._result
        task = result.task if hasattr(result, "task") else result._task
        host = result.host if hasattr(result, "host") else result._host
        line = {
            "host": host.get_name(),
            "task": task.get_name(),
            "action": task.action,
            "status": status,
            "ignored": ignored,
            "result": content,
        }
        with open(os.environ["KEYWARD_TEST_RESULTS"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result):
        self._write("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._write("failed", result, ignore_errors)

    def v2_runner_on_skipped(self, result):
        self._write("skipped", result)

    def v2_runner_on_unreachable(self, result):
        self._write("unreachable", result)
