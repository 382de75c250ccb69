# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' own; may change in any release."""

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: ca_outcome
short_description: What became of one CA in a role
version_added: 0.1.0
author:
  - keyward.pki contributors (@keyward)
description:
  - Private to the roles of this collection; it may change in any release.
positional: label, host, failure, check
options:
  _input:
    description: The tasks that ran for the CA, in their order, each a dictionary of C(module) and C(result).
    type: list
    elements: dict
    required: true
  label:
    description: What the CA is called.
    type: str
    required: true
  host:
    description: Its host.
    type: str
    required: true
  failure:
    description: What failed beside these tasks.
    type: str
  check:
    description: Whether this is check mode.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Say what became of a CA
  ansible.builtin.debug:
    msg: "{{ ([{'module': 'ca_key_backup', 'result': backup}] | keyward.pki.ca_outcome('Example CA', inventory_hostname)).line }}"
"""

RETURN = r"""
_value:
  description: Its level, its line with and without the reasons, and the parts of the line.
  type: dict
"""

from ansible_collections.keyward.pki.plugins.plugin_utils._outcome import outcome


def ca_outcome(steps: t.Any, label: str, host: str, failure: str | None = None, check: bool = False) -> dict[str, t.Any]:
    return outcome(steps, str(label), str(host), str(failure) if failure else None, bool(check))


class FilterModule:
    def filters(self) -> dict[str, t.Any]:
        return {"ca_outcome": ca_outcome}
