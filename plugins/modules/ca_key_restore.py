#!/usr/bin/python
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_key_restore
short_description: Put the private keys and certificates of a CA back that its host lacks
version_added: 0.1.0
description:
  - Puts back what is missing, with the path, owner, group and mode that the backup recorded. What is right is not touched.
  - A backup of another authority is refused, and a different key in the place is never overwritten. With O(on_conflict=set_aside)
    it is renamed first.
  - Keys go out only to a home of the authority, which is an inventory host and place that its newest record names, or where
    O(authority_id) or O(backup) name it. On a bare host, on which nothing of the CA is left, that place alone tells which one it is.
  - A CA that is put back elsewhere is a copy. With O(move) it lives there from now on, with O(twin) there too.
  - Only keys that the host lacks leave the controller, encrypted under a password that is made for this one task; none in check mode. On
    Windows the files of the backup that hold them go as they are, with O(password).
  - The database of the CA is not touched. Restore it by itself, before the CA issues anything.
options:
  on_conflict:
    description:
      - What to do where another key or certificate lies in the place of one that is to be put back.
      - With V(set_aside) that file is renamed to C(<path>.set-aside-<time>), never deleted. V(merge), of databases, is as V(fail) here.
    type: str
    choices: [fail, merge, set_aside]
    default: fail
  allow_unencrypted_key:
    description:
      - Allow that a key that was encrypted at rest comes back as a clear file, where O(private_key_passphrase) is not given.
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
  - keyward.pki._backups.backup
  - keyward.pki._backups.password
attributes:
  check_mode:
    support: full
    details:
      - Reads everything that the task itself would read, and writes nothing.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - A second run finds everything in its place.
notes:
  - O(password) is required.
  - On Windows the files are imported into the machine store, exportable. Each key is then exported once more, under a password of that
    moment, to see that it can be and that it is kept as before. A path in RV(restored) is then one of the certificate drive.
seealso:
  - module: keyward.pki.ca_key_backup
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Bring the keys of a CA back
  keyward.pki.ca_key_restore:
    config_file: /etc/pki/CA/openssl.cnf
    stores:
      - /srv/keyward/keys
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
  description: The backup that was used, as in RV(keyward.pki.ca_key_backup#module:backup).
  returned: success
  type: dict

homes:
  description: Where it lives after the task, as in RV(keyward.pki.ca_key_backup_info#module:homes). Empty where no store tells.
  returned: success
  type: list
  elements: dict

restored:
  description: The files that were put back, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: What it is.
      type: str
      choices: [certificate, private_key]
    path:
      description: Where it lies on the host.
      type: str
    certificate:
      description: SHA-256 fingerprint of the generation's certificate.
      type: str
    access:
      description: Its mode, owner, group and ACL; V(null) on Windows.
      type: str
set_aside:
  description: The files that lay in the way.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Where it lay on the host.
      type: str
    kept_as:
      description: Where it lies now. V(null) in check mode.
      type: str

reasons:
  description:
    - Why the task failed, as in RV(keyward.pki.ca_key_verify#module:reasons).
    - Or V(conflict), where another file lies in the place of one that is to be put back.
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(weak_encryption), V(trailing_bytes) and V(expired_generation).
  returned: success
  type: list
  elements: dict

restorable:
  description: The verdict; whether every generation comes back from the backup, with the given password.
  returned: success
  type: bool
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_KEY_RESTORE
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import ImportKeys

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import key_restore  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_KEY_RESTORE, ImportKeys)


if __name__ == "__main__":
    main()
