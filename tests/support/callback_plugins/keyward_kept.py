# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps for the next ansible-playbook what this one makes: archives of modules, the code of plugins and templates, what YAML files hold."""

from __future__ import annotations

DOCUMENTATION = r"""
name: keyward_kept
type: aggregate
short_description: Keeps what every run would make anew
description:
  - Keeps the archives that modules travel in, in the directory that E(KEYWARD_TEST_MODULES) names.
  - Keeps the code that Jinja compiles from templates, and what is read from the collection's YAML files, beside them.
  - Keeps the compiled code of the collection's plugins beside them, as Python does for its own.
"""

import hashlib
import marshal
import os
import pickle
from importlib.machinery import SourceFileLoader
from pathlib import Path

from ansible import constants
from ansible._internal._templating._jinja_bits import AnsibleEnvironment, _TemplateCompileContext
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.callback import CallbackBase
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionPkgLoaderBase as Loader

compiled_anew, read_anew, plugin_anew = AnsibleEnvironment.compile, DataLoader.load_from_file, Loader.get_code
SETTINGS = (
    *(f"{what}_{end}_string" for what in ("block", "variable", "comment") for end in ("start", "end")),
    *("line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline"),
)


def kept(key, make, dumps, loads):
    """What `make` returns, or returned in an earlier run or process for this key."""
    path = Path(os.environ["KEYWARD_TEST_MODULES"], f"kept-{hashlib.sha256(repr(key).encode()).hexdigest()}")
    try:
        return loads(path.read_bytes())
    except FileNotFoundError:
        made = make()
        born = path.with_suffix(f".{os.getpid()}")
        born.write_bytes(dumps(made))
        born.rename(path)
        return made


def compiled(self, source, name=None, filename=None, raw=False, defer_init=False):
    def make():
        return compiled_anew(self, source, name, filename, raw, defer_init)

    if raw or not isinstance(source, str):
        return make()
    settings = [getattr(self, setting) for setting in SETTINGS]
    context = _TemplateCompileContext.current(optional=True)
    key = (source, name, filename, defer_init, context and context.escape_backslashes, settings)
    return kept(key, make, marshal.dumps, marshal.loads)


def read(self, file_name, *arguments, **options):
    def make():
        return read_anew(self, file_name, *arguments, **options)

    if not (str(file_name).startswith(tuple(constants.COLLECTIONS_PATHS)) and os.path.isfile(file_name)):
        return make()
    changed = os.stat(file_name).st_mtime_ns
    return kept((str(file_name), changed, arguments, options), make, pickle.dumps, pickle.loads)


def plugin(self, fullname):
    path = self.get_filename(fullname)
    if self._compiled_code is None and path and os.path.isfile(path):
        self._compiled_code = SourceFileLoader(fullname, path).get_code(fullname)
    return plugin_anew(self, fullname)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "keyward_kept"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        os.symlink(os.environ["KEYWARD_TEST_MODULES"], os.path.join(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache"))
        AnsibleEnvironment.compile, DataLoader.load_from_file, Loader.get_code = compiled, read, plugin
