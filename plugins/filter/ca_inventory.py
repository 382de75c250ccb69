# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' own; may change in any release."""

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: ca_inventory
short_description: The CAs that an inventory names
version_added: 0.1.0
author:
  - keyward.pki contributors (@keyward)
description:
  - Private to the roles of this collection; it may change in any release.
positional: hosts, number
options:
  _input:
    description: The variables of all hosts (C(hostvars)).
    type: dict
    required: true
  hosts:
    description: The hosts to look at.
    type: list
    elements: str
    required: true
  number:
    description: Only this CA of each host, counted from 0.
    type: int
"""

EXAMPLES = r"""
- name: Look at the stores, and what the inventory says of them
  keyward.pki.ca_audit:
    cas: "{{ hostvars | keyward.pki.ca_inventory(groups['all']) }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
_value:
  description: The CAs, as the option C(cas) of M(keyward.pki.ca_audit) takes them.
  type: list
  elements: dict
"""

from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import cas_of


def ca_inventory(variables: t.Any, hosts: t.Iterable[str], number: int | None = None) -> list[dict[str, t.Any]]:
    return [ca for host in hosts for ca in cas_of(str(host), variables[host], number)]


class FilterModule:
    def filters(self) -> dict[str, t.Any]:
        return {"ca_inventory": ca_inventory}
