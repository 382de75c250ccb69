# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a module does on the host of a CA; may change in any release.

The action plugin of the same name gives each module one more argument, C(controller): a JSON document in base64 with the
secrets of the task and what the stores hold. It is one opaque value, because Ansible cuts every no_log value out of what a
module returns: a passphrase such as C(demo) would turn C(/etc/demoCA) into C(/etc/********CA).
"""

from __future__ import annotations

import base64
import json
import sys
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.keyward.pki.plugins.module_utils._backend import Facts, NothingThere, Older, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import PendingRequest

try:
    import cryptography

    CRYPTOGRAPHY_VERSION = int(cryptography.__version__.split(".", maxsplit=1)[0])
except ImportError:
    CRYPTOGRAPHY_VERSION = 0

Request = t.Mapping[str, t.Any]
Answer = t.Dict[str, t.Any]


def run(argument_spec: t.Dict[str, t.Any], work: t.Callable[[Selector, Request, bool], Answer]) -> None:
    """The whole of a module: arguments, one call, one result."""
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    request: Request = json.loads(base64.b64decode(module.params["controller"])) if module.params["controller"] else {}
    try:
        if CRYPTOGRAPHY_VERSION < 36:
            raise KeywardError(
                "the authority can't be read on this host",
                f"its Python, {sys.executable}, has no cryptography package of release 36 or newer",
                "Install it (python3-cryptography), or let ansible_python_interpreter name a Python that has it",
            )
        answer = work(which_authority(module.params, request), request, module.check_mode)
    except KeywardError as exc:
        reasons = [finding.as_result() for finding in exc.findings]
        module.fail_json(msg=str(exc), reasons=reasons, nothing_there=isinstance(exc, NothingThere))
    module.exit_json(**answer)


def which_authority(parameters: t.Mapping[str, t.Any], request: Request) -> Selector:
    """The options that say which CA; those that hold secrets travel in the request."""
    older = request.get("older")
    return Selector(
        private_key_passphrase=request.get("private_key_passphrase"),
        older=None if older is None else tuple(Older(**entry) for entry in older),
        **{
            name: parameters[name]
            for name in ("backend", "config_file", "directory", "name", "certificate_file", "private_key_file", "chain_file")
        },
    )


def facts(reading: Facts) -> Answer:
    """What every task answers about the authority."""
    return {
        "changed": False,
        "authority": reading.authority.as_json(),
        "generations": [generation.as_json() for generation in reading.generations],
        "database": dump(reading.database),
        "pending_request": _shown(reading.pending_request),
        "advisories": [advisory.as_result() for advisory in reading.advisories],
    }


def _shown(pending: t.Optional[PendingRequest]) -> t.Optional[Answer]:
    return {name: getattr(pending, name) for name in ("path", "subject", "public_key_sha256")} if pending else None
