# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks' own; may change in any release."""

from __future__ import annotations

import typing as t

DOCUMENTATION = r"""
name: ca_summary
short_description: What a play says of all CAs
version_added: 0.1.0
author:
  - keyward.pki contributors (@keyward)
description:
  - Private to the playbooks of this collection; it may change in any release.
options:
  _input:
    description: For each host the list of outcomes of its CAs, or nothing where it was not served.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what became of all CAs
  ansible.builtin.debug:
    msg: "{{ outcomes | keyward.pki.ca_summary }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: Lines that fit a screen.
  type: list
  elements: str
"""

from ansible_collections.keyward.pki.plugins.plugin_utils._outcome import summary


class FilterModule:
    def filters(self) -> dict[str, t.Any]:
        return {"ca_summary": summary}
