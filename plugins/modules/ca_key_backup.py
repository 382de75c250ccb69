#!/usr/bin/python
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_key_backup
short_description: Back up every private key of a CA when a backup is due
version_added: 0.1.0
description:
  - A backup is due in exactly two cases, after the installation of a CA and after any renewal of its certificate, with a new key
    or with the same. At every other time this task changes nothing.
  - When it is due, all generations of the CA, each certificate with its private key, are written into one PKCS#12 file,
    which is opened again and judged on the controller before it is stored in every store.
  - Of a known authority a backup is made only at home, which is an inventory host and place that its newest record names, or where
    O(authority_id) names it. Elsewhere, such as on a clone, the task fails with V(not_at_home) until a person says what is right.
  - Generations that earlier backups hold and the host has lost are carried into the new backup.
  - A key that no earlier backup holds and that is missing, does not open, or can not leave its token makes the task fail. There is
    no partial backup.
  - Whether a backup is due is decided without its password. When O(password) is given it is proved all the same; a wrong one
    is an error, never a reason to write a new backup.
  - The private keys leave the host only when a backup is due, encrypted under a password that is made for this one task. O(password) stays
    on the controller, which writes the PKCS#12 file. A file that is protected less than it was asked for is refused.
  - On Windows C(Backup-CARoleService) writes the PKCS#12 file under O(password), and its bytes are stored unchanged. They must open
    with the password and not without one. A generation that it left out is exported from the machine store on its own, so that a
    backup may hold several files.
options:
  reference:
    description: A change ticket or other reference that the manifest records.
    type: str
  force:
    description:
      - Make a backup though none is due.
    type: bool
    default: false
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
  - keyward.pki._backups.authority_id
  - keyward.pki._backups.home
  - keyward.pki._backups.stores
  - keyward.pki._backups.signing
  - keyward.pki._backups.memory
  - keyward.pki._backups.password
attributes:
  check_mode:
    support: full
    details:
      - Reads everything that the task itself would read, and writes nothing.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - Not idempotent with O(force=true).
notes:
  - O(stores) is required. O(password) is required when a backup is due; it must then have at least 20 printable ASCII
    characters.
  - To change the password, give the new one as O(password) and the old one as O(previous_password).
  - Only its password protects a bundle. Generate it, do not think it up.
  - In an execution environment the file system is gone when the job ends; give stores that are mounted into it.
seealso:
  - module: keyward.pki.ca_key_verify
  - module: keyward.pki.ca_key_restore
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Back up the keys of a CA when that is due
  keyward.pki.ca_key_backup:
    config_file: /etc/pki/CA/openssl.cnf
    stores:
      - /srv/keyward/keys
      - /mnt/vault2/keys
    password: "{{ keyward_password }}"
    reference: CHG-2026-0042
  become: true

- name: Change the password of the backups
  keyward.pki.ca_key_backup:
    config_file: /etc/pki/CA/openssl.cnf
    stores:
      - /srv/keyward/keys
      - /mnt/vault2/keys
    password: "{{ keyward_password }}"
    previous_password: "{{ keyward_previous_password }}"
  become: true

- name: Say once that a CA lives on this host from now on
  keyward.pki.ca_key_backup:
    config_file: /etc/pki/CA/openssl.cnf
    authority_id: 0123456789abcdef
    move: true
    stores:
      - /srv/keyward/keys
      - /mnt/vault2/keys
    password: "{{ keyward_password }}"
  become: true
"""

RETURN = r"""
authority:
  description: The authority, as in RV(keyward.pki.ca_info#module:authority).
  returned: success
  type: dict

generations:
  description: Its generations, oldest first, as in RV(keyward.pki.ca_info#module:generations).
  returned: success
  type: list
  elements: dict

backup:
  description: The newest backup after the task. V(null) where there is none.
  returned: success
  type: dict
  contains:
    id:
      description: Its id, the same in every store. V(null) for a PKCS#12 file without a manifest.
      type: str
    paths:
      description: Where it lies on the controller.
      type: list
      elements: str
    created:
      description: When it was made (ISO 8601, UTC).
      type: str
    proved_at:
      description: When its bytes were last opened and judged before they were stored (ISO 8601, UTC).
      type: str
    files:
      description: Its PKCS#12 files.
      type: list
      elements: dict
      contains:
        name:
          description: The file's name in the backup's directory.
          type: str
        sha256:
          description: The digest of its bytes.
          type: str
        size:
          description: Its size in bytes.
          type: int

due:
  description: Whether a backup was due when the task began.
  returned: success
  type: bool

reasons:
  description: Why a backup was due, or why the task failed, as in RV(keyward.pki.ca_key_verify#module:reasons).
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(another_ca_at_home), V(generation_lost_on_host), V(expired_generation), V(digest_mismatch),
      V(unknown_signer), V(forked), V(not_remembered) and V(same_name_other_keys).
  returned: success
  type: list
  elements: dict

restorable:
  description: The verdict; whether every generation comes back from the backup, with the given password.
  returned: when a backup was stored
  type: bool
"""

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_KEY_BACKUP
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import ExportKeys


def main() -> None:
    run(CA_KEY_BACKUP, ExportKeys)


if __name__ == "__main__":
    main()
