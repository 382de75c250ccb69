# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks' own; may change in any release."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ca_hosts
short_description: The pattern of a play, which must match a host
version_added: 0.1.0
author:
  - keyward.pki contributors (@keyward)
description:
  - Private to the playbooks of this collection; it may change in any release.
  - Ansible skips a play whose pattern matches no host, and ends well. A nightly run must not.
options:
  _terms:
    description: The pattern, or a list of patterns.
    required: true
"""

EXAMPLES = r"""
- name: Back up what is there
  hosts: "{{ lookup('keyward.pki.ca_hosts', keyward_hosts | default('all')) }}"
  roles:
    - role: keyward.pki.key_backup
"""

RETURN = r"""
_raw:
  description: The pattern as it was given.
  type: list
  elements: raw
"""

import os
import typing as t

from ansible import context
from ansible.errors import AnsibleLookupError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.lookup import LookupBase
from ansible_collections.keyward.pki.plugins.plugin_utils._role_options import nearest


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: t.Sequence[t.Any], variables: t.Mapping[str, t.Any] | None = None, **_options: t.Any) -> list[t.Any]:
        (pattern,) = terms
        if context.CLIARGS.get("syntax"):  # without an inventory
            return [pattern]
        groups = (variables or {}).get("groups", {})
        matched = set(_matching(groups, pattern))
        limit = (variables or {}).get("ansible_limit")
        shown = ", ".join(pattern) if isinstance(pattern, list) else str(pattern)
        if not matched:
            names = {*groups, *groups.get("all", ())} - {"ungrouped"}
            raise AnsibleLookupError(
                f"no CA was looked at: no host of the inventory matches {shown}{nearest(shown, names)}. "
                "Correct keyward_hosts, or give the inventory (-i)."
            )
        if limit and not str(limit).startswith("@") and not matched & set(_matching(groups, str(limit))):
            raise AnsibleLookupError(f"no CA was looked at: no host of {shown} is in --limit {limit}. Correct one of them.")
        return [pattern]


def _matching(groups: t.Mapping[str, t.Sequence[str]], pattern: t.Any) -> list[str]:
    """The hosts of an inventory that match a pattern, as Ansible matches it."""
    manager = InventoryManager(DataLoader(), sources=[os.devnull], parse=False)
    for group, hosts in groups.items():
        manager.add_group(group)
        for host in hosts:
            manager.add_host(host, group=group)
    return [host.name for host in manager.list_hosts(pattern=split_host_pattern(pattern) if isinstance(pattern, str) else pattern)]
