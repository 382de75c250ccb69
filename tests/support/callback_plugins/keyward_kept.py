# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps for the next ansible-playbook what this one makes: the archives of modules, and the compiled code of the collection's plugins."""

from __future__ import annotations

DOCUMENTATION = r"""
name: keyward_kept
type: aggregate
short_description: Keeps what every run would make anew
description:
  - Keeps the archives that modules travel in, in the directory that E(KEYWARD_TEST_MODULES) names.
  - Keeps the compiled code of the collection's plugins beside them, as Python does for its own.
"""

import os
from importlib.machinery import SourceFileLoader

from ansible import constants
from ansible.plugins.callback import CallbackBase
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionPkgLoaderBase as Loader

compiled_anew = Loader.get_code


def get_code(self, fullname):
    path = self.get_filename(fullname)
    if self._compiled_code is None and path and os.path.isfile(path):
        self._compiled_code = SourceFileLoader(fullname, path).get_code(fullname)
    return compiled_anew(self, fullname)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "keyward_kept"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        os.symlink(os.environ["KEYWARD_TEST_MODULES"], os.path.join(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache"))
        Loader.get_code = get_code
