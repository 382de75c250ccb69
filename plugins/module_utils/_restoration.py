# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: putting keys back for what still follows no orders; may change in any release."""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_restore import put_back
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import GivenFile, ImportKeys


def restore_generations(
    ca: FileCa,
    facts: t.Optional[Facts],
    files: t.Sequence[GivenFile],
    generations: t.Sequence[Generation],
    directory: t.Optional[str],
    check: bool,
) -> t.Dict[str, t.Any]:
    done = put_back(ca, facts, ImportKeys(tuple(generations), directory=directory, files=tuple(files)), check)
    return {"changed": done.changed, "restored": [dict(vars(each)) for each in done.restored]}
