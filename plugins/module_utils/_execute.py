# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a module on the host of a CA: one order, one backend, one answer; may change in any release.

The action plugin of the same name gives each module one more argument, C(controller): a JSON document in base64 with the order
and the secrets of the task. It is one opaque value, because Ansible cuts every no_log value out of what a module returns: a
passphrase such as C(demo) would turn C(/etc/demoCA) into C(/etc/********CA).
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.keyward.pki.plugins.module_utils import _backends
from ansible_collections.keyward.pki.plugins.module_utils._arguments import SELECTING
from ansible_collections.keyward.pki.plugins.module_utils._backend import (
    NothingNamed,
    NothingThere,
    Older,
    RenewedMeanwhile,
    Selector,
    Waiting,
    told,
)
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, unforeseen
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump, parse
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Look

try:
    import cryptography

    CRYPTOGRAPHY_VERSION = int(cryptography.__version__.split(".", maxsplit=1)[0])
except ImportError:
    CRYPTOGRAPHY_VERSION = 0


def run(argument_spec: t.Dict[str, t.Any], *orders: t.Any) -> None:
    """The whole of a module that carries out C(Look) and these orders: arguments, one order, one answer."""
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    answer = answered(module.params, orders, module.check_mode)
    if answer.get("failed"):
        module.fail_json(**answer)
    module.exit_json(**answer)


def answered(parameters: t.Mapping[str, t.Any], orders: t.Sequence[t.Any], check: bool) -> t.Dict[str, t.Any]:
    """What a module answers. C(parameters): its arguments, validated."""
    failure: t.Dict[str, t.Any] = {}
    try:
        if CRYPTOGRAPHY_VERSION < 36:
            raise KeywardError(
                "the authority can't be read on this host",
                f"its Python, {sys.executable}, has no cryptography package of release 36 or newer",
                "Install it (python3-cryptography), or let ansible_python_interpreter name a Python that has it",
            )
        document = json.loads(base64.b64decode(parameters["controller"])) if parameters["controller"] else {"order": Look.NAME}
        kind = next(each for each in (Look, *orders) if document["order"] == each.NAME)
        backend = _backends.find(_selector(parameters, document))
        failure["abilities"] = dump(backend.ABILITIES)
        try:
            return {"changed": False, **dump(perform(backend, parse(kind, document), check))}
        except OSError as exc:
            raise unforeseen(exc, "on this host") from exc
    except KeywardError as exc:
        failure["reasons"] = [finding.as_result() for finding in exc.findings]
        kinds = {"nothing_there": NothingThere, "nothing_named": NothingNamed, "renewed_meanwhile": RenewedMeanwhile}
        return {**failure, "failed": True, "msg": str(exc), **{name: isinstance(exc, kind) for name, kind in kinds.items()}}


def perform(backend: t.Any, order: t.Any, check: bool) -> t.Any:
    """Have a backend (C(_backend_protocol)) carry an order out. Raises KeywardError."""
    if isinstance(order, Look):
        try:
            facts = backend.facts()
            if order.database:
                database = backend.database()
                found = replace(facts.database, crls=database.crls())
                facts = replace(facts, database=found, advisories=(*facts.advisories, *database.findings()))
            return told(backend, facts)
        except Waiting as exc:
            return told(backend, exc.facts)
    subject, _dot, method = order.NAME.rpartition(".")
    if subject:  # database.copy, host_store.read
        # Not by a statement: Ansible would send it with every module. Those that have such orders name it.
        return getattr(importlib.import_module(f"{__package__}._host_sets"), method)(backend, order, check)
    return getattr(backend, method)(order, check)


def _selector(parameters: t.Mapping[str, t.Any], document: t.Mapping[str, t.Any]) -> Selector:
    """The options that say which CA; those that hold secrets travel beside the order."""
    older = document.get("older")
    return Selector(
        private_key_passphrase=document.get("private_key_passphrase"),
        older=None if older is None else tuple(Older(**entry) for entry in older),
        **{name: parameters[name] for name in SELECTING},
    )
