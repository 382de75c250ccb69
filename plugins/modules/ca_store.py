#!/usr/bin/python
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_store
short_description: Initialise a store for key backups, database sets or passwords
version_added: 0.1.0
description:
  - Makes a directory a store. All other tasks refuse a directory that is none, so that a share that is not mounted is an error
    and never an empty store.
  - Run it once, when the store is made, and not in the play that takes backups; on an unmounted share it would make a
    new store in the mount point.
  - Keep stores for keys and stores for passwords on different machines. Who has both has the CA.
  - Together with the first store it makes the SSH key that signs what goes into stores (O(store_signing_key)), and the list that
    names it (O(allowed_signers)). In a container it does so only where both paths are given. Write RV(signer.fingerprint) on the
    paper that holds the password.
options:
  path:
    description:
      - The directory. It is made where it is missing. One with other files in it never becomes a store.
      - No store may lie inside another.
    type: path
    required: true
  kind:
    description: What the store is for. It holds nothing else, and never changes its kind.
    type: str
    choices: [keys, databases, passwords]
    required: true
  owner:
    description: The user that it belongs to, as name or number. The default is the user that makes it.
    type: str
  group:
    description: The group that it belongs to, as name or number. The default is the group of the user that makes it.
    type: str
  mode:
    description:
      - Its mode, as octal digits in quotes. A mode with rights for others is refused.
      - Files that are made in it later follow it; V(0750) gives files of mode C(0640).
      - The default is V(0700) for a new store, and the mode that it has for an existing one.
    type: str
  share_permissions:
    description:
      - Say V(accepted) for a share that can not hold modes, such as CIFS, when access is restricted on the share itself.
      - Such a share need not be able to lock files either; then two runs at once are kept apart by names alone.
    type: str
    choices: [accepted]
  host:
    description:
      - Initialise a store on the host, such as a share that is mounted there, and not one on the controller.
    type: bool
    default: false
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._backups.signing
attributes:
  check_mode:
    support: full
    details:
      - Whether the file system holds modes is found out only when the store is made.
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - Without O(host=true) it works as the user that runs Ansible on the controller; C(become) has no effect there.
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Initialise a store for key backups on the controller
  keyward.pki.ca_store:
    path: /srv/keyward/keys
    kind: keys
  run_once: true

- name: Initialise one that a group may read
  keyward.pki.ca_store:
    path: /srv/keyward/databases
    kind: databases
    group: pki
    mode: "2750"
  run_once: true
"""

RETURN = r"""
id:
  description: The id of the store. V(null) in check mode where the store would be made.
  returned: success
  type: str
path:
  description: The directory, without symbolic links.
  returned: success
  type: str
kind:
  description: What it is for.
  returned: success
  type: str
signer:
  description: Who signs here for what goes into stores. V(null) where there is no key, or it can't be read.
  returned: success
  type: dict
  contains:
    public_key:
      description: The public half, as in a C(.pub).
      type: str
    fingerprint:
      description: As C(ssh-keygen -lf) shows it, for the paper.
      type: str
    path:
      description: Where the key lies on the controller.
      type: str
    made:
      description: Whether it was made now, with the first store.
      type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_STORE
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise_as_asked


def main() -> None:
    module = AnsibleModule(argument_spec=CA_STORE, supports_check_mode=True)
    try:
        outcome = initialise_as_asked(module.params, module.check_mode)
    except KeywardError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
