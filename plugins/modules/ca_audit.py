#!/usr/bin/python
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_audit
short_description: Report every CA key that was ever used, where it can be restored from, and which would be lost today
version_added: 0.1.0
description:
  - Holds what the inventory names, what the hosts showed (M(keyward.pki.ca_info)) and what the stores hold against each other, in both
    directions. It needs no password.
  - It runs on the controller and asks no host. The role P(keyward.pki.audit#role) asks them, and writes the report.
  - It never fails because of what it finds. The level of the whole is in RV(audit).
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._attributes.info_module
options:
  key_stores:
    description:
      - The stores of kind V(keys) to use. They are only read. Those that O(cas) names are read, too.
    type: list
    elements: path
  database_stores:
    description:
      - The stores of kind V(databases) to use. Those that O(cas) names are read, too.
    type: list
    elements: path
  cas:
    description:
      - The CAs that the inventory names. Without them the stores alone are looked at.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The inventory name of its host.
        type: str
        required: true
      label:
        description: What people call it.
        type: str
        required: true
      place:
        description: The options that say which CA of that host, such as C(config_file), and C(backend) where it is known.
        type: dict
        required: true
      key_stores:
        description: The stores that should have its key backups.
        type: list
        elements: path
        default: []
      database_stores:
        description: The stores that should have the sets of its database.
        type: list
        elements: path
        default: []
      host_store:
        description:
          - The store on its host that has the sets of its database, in place of O(cas[].database_stores).
          - What it holds, O(cas[].info) tells.
        type: str
      offline:
        description: Whether its host is never to be asked, so that what is stored last stands for it.
        type: bool
        default: false
      info:
        description: What M(keyward.pki.ca_info) returned, where its host was asked.
        type: dict
      failure:
        description: Why its host did not answer.
        type: str
  allowed_signers:
    description:
      - The file on the controller that says whose signatures count, in the format of C(ssh-keygen). As for
        M(keyward.pki.ca_key_backup_info).
    type: path
  memory:
    description:
      - The file on the controller that remembers the newest of what stores held. As for M(keyward.pki.ca_key_backup_info).
    type: path
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Look at the stores alone
  keyward.pki.ca_audit:
    key_stores:
      - /srv/keyward/keys
    database_stores:
      - /srv/keyward/databases
  delegate_to: localhost
  run_once: true
  register: found

- name: Fail where a key would be lost today
  ansible.builtin.assert:
    that: found.audit.counts.lost_today == 0
  run_once: true
"""

RETURN = r"""
audit:
  description:
    - Every authority, worst first, with its generations, backups, sets, and what is wrong. The guide I(The audit) has its JSON schema.
  returned: success
  type: dict
lines:
  description: The counts, and a line for each authority that needs a person.
  returned: success
  type: list
  elements: str
reasons:
  description: Why the task failed, as in RV(keyward.pki.ca_info#module:reasons).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_AUDIT
from ansible_collections.keyward.pki.plugins.module_utils._execute import run


def main() -> None:
    run(CA_AUDIT)


if __name__ == "__main__":
    main()
