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

# Names that hold a path of code, or code's name; openssl takes a name with a number behind it (module.1), too.
_CODE = re.compile(
    rb"^[ \t]*(?:[\w ]*::)?(dynamic_path|so_path|engine_id|engines?|module|path|\.include|providers?)(?:\.[\w.]*)?[ \t=]+([^\r\n#]*)",
    re.IGNORECASE | re.MULTILINE,
)
_MOST, _LONGEST = 20, 200


def loaded_by(data: bytes, directory: str) -> t.List[str]:
    """What it loads or includes, as clauses. C(directory): including files from there is normal and not reported."""
    found = []
    for match in _CODE.finditer(data.replace(b"\\\n", b"").replace(b"\\\r\n", b"")):
        name, value = (part.decode("utf-8", "replace").strip().strip("\"'")[:_LONGEST] for part in match.groups())
        inside = os.path.normpath(os.path.join(directory, value)).startswith(directory.rstrip("/") + "/")
        if name.lower() == ".include" and inside and "$" not in value:
            continue
        if name.lower() in ("providers", "provider", "engines") and "/" not in value:
            continue  # the name of a section, whose own lines are looked at
        found.append(f"{name} = {value}")
    return list(dict.fromkeys(found))[:_MOST]
