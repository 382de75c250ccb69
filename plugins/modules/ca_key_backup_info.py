#!/usr/bin/python
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_key_backup_info
short_description: Report which key backups the stores hold for a CA, and whether one is due
version_added: 0.1.0
description:
  - Lists the key backups of a CA and compares them with the live CA, where its place is given and something of it is there.
  - It never fails because of a bad backup. Damage is reported in RV(advisories), and with O(password) the verdict on the newest
    backup in RV(restorable) and RV(reasons).
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._attributes.info_module
  - keyward.pki._authority
  - keyward.pki._backups.authority_id
  - keyward.pki._backups.stores
  - keyward.pki._backups.signing
  - keyward.pki._backups.memory
  - keyward.pki._backups.password
notes:
  - O(stores) is required.
  - Without an option that names the place of the CA, the backups of the authority that lives on this inventory host are listed.
  - Where the host can't be reached, that is an advisory (V(authority_unreadable)), and the stores alone tell.
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Look at the backups of a CA
  keyward.pki.ca_key_backup_info:
    config_file: /etc/pki/CA/openssl.cnf
    stores:
      - /srv/keyward/keys
  become: true
  register: backups

- name: Fail when one is due
  ansible.builtin.assert:
    that: not backups.due
"""

RETURN = r"""
authority:
  description: The authority, as in RV(keyward.pki.ca_info#module:authority).
  returned: success, V(null) where neither the host nor a store tells
  type: dict

generations:
  description: Its generations, oldest first, as in RV(keyward.pki.ca_info#module:generations).
  returned: success
  type: list
  elements: dict

backups:
  description: Every backup whose files have the recorded digests, newest first. Each is as in RV(newest), and has these.
  returned: success
  type: list
  elements: dict
  contains:
    sequence:
      description: Its place in the order of backups. The newest has the highest.
      type: int
    previous:
      description: The id of its predecessor, or V(null).
      type: str
    made:
      description: When, by which controller, why, with which reference and by which versions it was made.
      type: dict
    generations:
      description: SHA-256 fingerprints of the CA certificates whose generations it holds.
      type: list
      elements: str
    covers_all:
      description: Whether it holds every generation that is known.
      type: bool

newest:
  description: The newest backup, as in RV(keyward.pki.ca_key_backup#module:backup). V(null) where there is none.
  returned: success
  type: dict

superseded:
  description: Ids of the backups that hold nothing that the newest does not hold too.
  returned: success
  type: list
  elements: str
under_previous_password:
  description: Ids of the backups that were made before the password was changed.
  returned: success
  type: list
  elements: str
homes:
  description:
    - Where the authority lives, by its newest backup and what a person said since (O(keyward.pki.ca_key_backup#module:move),
      O(keyward.pki.ca_key_backup#module:twin)).
    - A host is believed where it has this inventory name and this place.
  returned: success
  type: list
  elements: dict
  contains:
    host:
      description: The inventory name of the host.
      type: str
    place:
      description: The software, and the options that say which CA of that host, as far as they are known.
      type: dict
due:
  description:
    - Whether a backup is due, or can't be made since the CA is not at home. V(null) where neither the host nor a store tells of it.
  returned: success
  type: bool
age:
  description:
    - Seconds since the newest backup was made. V(null) where there is none.
    - One whose time has not come counts as older than anything, for a clock was ahead, or somebody changed it.
  returned: success
  type: int

reasons:
  description: Why a backup is due, and why the newest is not restorable, as in RV(keyward.pki.ca_key_verify#module:reasons).
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(digest_mismatch), V(unknown_signer), V(forked), V(rolled_back), V(other_store), V(not_remembered),
      V(missing_in_store), V(nothing_on_host) and V(authority_unreadable).
  returned: success
  type: list
  elements: dict

restorable:
  description: The verdict; whether every generation comes back from the backup, with the given password.
  returned: when O(password) was given and there is a backup
  type: bool
"""

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_KEY_BACKUP_INFO
from ansible_collections.keyward.pki.plugins.module_utils._execute import run


def main() -> None:
    run(CA_KEY_BACKUP_INFO)


if __name__ == "__main__":
    main()
