# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' own; may change in any release."""

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: ca_option_faults
short_description: Which options of CAs in an inventory nobody knows
version_added: 0.1.0
author:
  - keyward.pki contributors (@keyward)
description:
  - Private to the roles of this collection; it may change in any release.
positional: variables, parent, hosts
options:
  _input:
    description: The list of CAs of a host, or nothing.
    type: raw
    required: true
  variables:
    description: The names of the variables of the host that begin with C(keyward_).
    type: list
    elements: str
    required: true
  parent:
    description: The CA above, as C(keyward_parent) says it.
    type: raw
  hosts:
    description: The hosts of the inventory.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Refuse what is misspelt
  ansible.builtin.assert:
    that: keyward_authorities | default(none) | keyward.pki.ca_option_faults(query('ansible.builtin.varnames', '^keyward_')) | length == 0
"""

RETURN = r"""
_value:
  description: A sentence for each; none where all is known.
  type: list
  elements: str
"""

from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import faults


class FilterModule:
    def filters(self) -> dict[str, t.Any]:
        return {"ca_option_faults": faults}
