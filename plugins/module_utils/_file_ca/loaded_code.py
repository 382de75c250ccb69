# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a configuration has openssl load; may change in any release.

Whoever can write a configuration can make the CA run any code. So a restore reports what the set's configuration loads.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import lines_of

# Names that hold a path of code, or code's name. openssl takes them behind a section (prov::module) and behind anything with a dot
# (1.module), sections of them with one behind it (engines.1), and for .include what only begins so.
_CODE = re.compile(
    r"\s*(?:(?:(?:\\.|[^=\s\\])*(?:::|\.))?(dynamic_path|so_path|engine_id|engines?|module|path|providers?)(?:\.[^=\s]*)?|(\.include)[^=\s]*)"
    r"[ \t=]+([^#]*)",
    re.IGNORECASE | re.ASCII,
)
_MOST, _LONGEST = 20, 200


def loaded_by(data: bytes, directory: str) -> t.List[str]:
    """What it loads or includes, as clauses. C(directory): including files from there is normal and not reported."""
    found = []
    for match in filter(None, map(_CODE.match, lines_of(data))):
        name = match.group(1) or match.group(2)
        value = os.fsdecode(match.group(3).encode("latin-1")).strip().strip("\"'")[:_LONGEST]
        inside = os.path.normpath(os.path.join(directory, value)).startswith(directory.rstrip("/") + "/")
        if name.lower() == ".include" and inside and "$" not in value:
            continue
        if name.lower() in ("providers", "provider", "engines") and "/" not in value:
            continue  # the name of a section, whose own lines are looked at
        found.append(f"{name} = {value}")
    found = list(dict.fromkeys(found))
    more = [f"{len(found) - _MOST} more, which are not shown: look at all of it"] if found[_MOST:] else []
    return found[:_MOST] + more
