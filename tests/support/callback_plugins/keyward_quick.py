# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PKCS #12 files that take no time: half of the time of most plays would go into their 300 000 iterations."""

from __future__ import annotations

DOCUMENTATION = r"""
name: keyward_quick
type: aggregate
short_description: Writes PKCS #12 files with few iterations
description: The controller writes PKCS #12 files with as many iterations as E(KEYWARD_TEST_ITERATIONS) says; empty means its own.
"""

import importlib
import os

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "keyward_quick"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        if os.environ["KEYWARD_TEST_ITERATIONS"]:
            writer = importlib.import_module("ansible_collections.keyward.pki.plugins.module_utils._pkcs12_writer")
            writer.WRITE_ITERATIONS = int(os.environ["KEYWARD_TEST_ITERATIONS"])
