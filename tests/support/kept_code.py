# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the compiled code of what is imported from archives, such as those that Ansible's modules travel in, by its source.

Python keeps none: it would compile a module and all that it brings at each execution, which is most of an execution's time.
"""

from __future__ import annotations

import gc
import hashlib
import marshal
import os
import sys
import types
import zipimport
from pathlib import Path

CODE = Path(__file__).resolve().parents[2] / ".cache" / "code"


def keep_code() -> None:
    """From now on this Python imports from archives in that way. It ends soon, and collects little garbage until then."""
    gc.set_threshold(100_000, 50, 50)
    CODE.mkdir(parents=True, exist_ok=True)
    sys.path_hooks.insert(0, Archive)
    sys.path_importer_cache.clear()


class Archive(zipimport.zipimporter):
    def get_filename(self, fullname: str) -> str:
        """Asked when a module is looked for; Python's own compiles it to tell."""
        file = "{}/__init__.py" if self.is_package(fullname) else "{}.py"
        return os.path.join(self.archive, self.prefix, file.format(fullname.rpartition(".")[2]))

    def get_code(self, fullname: str) -> types.CodeType:
        source = self.get_source(fullname) or ""
        kept = CODE / hashlib.sha256(f"{sys.version}\n{fullname}\n{source}".encode()).hexdigest()
        try:
            code: types.CodeType = marshal.loads(kept.read_bytes())  # noqa: S302, its own
        except FileNotFoundError:
            code = compile(source, self.get_filename(fullname), "exec", dont_inherit=True)
            born = kept.with_suffix(f".{os.getpid()}")
            born.write_bytes(marshal.dumps(code))
            born.rename(kept)
        return code
