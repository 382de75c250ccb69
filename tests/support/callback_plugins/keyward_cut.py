# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills ansible-playbook with all its workers when the task that KEYWARD_TEST_CUT names has ended."""

from __future__ import annotations

DOCUMENTATION = r"""
name: keyward_cut
type: aggregate
short_description: Kills ansible-playbook after a task
description: Kills ansible-playbook with all its workers after the task that E(KEYWARD_TEST_CUT) names, if it names one.
"""

import os
import signal

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "keyward_cut"
    CALLBACK_NEEDS_ENABLED = True

    def _ended(self, result):
        task = result.task if hasattr(result, "task") else result._task
        if task.get_name() == os.environ.get("KEYWARD_TEST_CUT"):
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def v2_runner_on_ok(self, result):
        self._ended(result)

    def v2_runner_on_skipped(self, result):
        self._ended(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._ended(result)
