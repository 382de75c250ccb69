# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_install
short_description: Install a CA, or bring one back from a backup
version_added: 0.1.0
description:
  - Makes a CA for C(openssl ca) where none is. That is its C(openssl.cnf), private key, certificate, and an empty database.
  - A root signs its own certificate. For a subordinate CA a request is made, and the task ends well with
    RV(pending=true). Given its answer as O(certificate), the task puts that in place.
  - A CA that is there is never touched. A run that was killed is finished by the next one, with the same key.
  - Where O(stores) hold the keys of a CA that lived in this place, the task fails and names the restore. A host is not believed
    when it says that a CA is gone. Where O(authority_id) or O(backup) name the CA, it is brought back.
  - No CA is made either where a database with entries lies without a CA certificate.
options:
  kind:
    description:
      - A root CA, or one whose certificate another CA signs.
    type: str
    choices: [root, subordinate]
    default: root
  subject:
    description:
      - The subject of the CA, its attributes in their order, such as C(organizationName) and C(commonName). A list gives several of a kind.
      - Required to make a CA.
    type: dict
  key_type:
    description:
      - The algorithm of the private key.
    type: str
    choices: [RSA, EC, Ed25519]
    default: RSA
  key_size:
    description:
      - The size of an RSA key in bits.
    type: int
    choices: [2048, 3072, 4096, 8192]
    default: 4096
  curve:
    description:
      - The curve of an EC key.
    type: str
    choices: [secp256r1, secp384r1, secp521r1]
    default: secp384r1
  days:
    description:
      - For how many days the certificate of a root is valid.
    type: int
    default: 3650
  path_length:
    description:
      - How many CAs may follow below this one. The default is any number.
    type: int
  certificate:
    description:
      - The certificate (PEM) that answers the pending request of a subordinate CA. It may stand among those of the CAs above it, which
        are put into O(chain_file), where it is given, and otherwise behind it.
      - On Windows the CRLs (PEM) of these CAs may follow, where the host can't fetch them (RV(keyward.pki.ca_sign#module:crl)).
      - It is held against the request. It must be a CA certificate for this key, with this subject byte by byte. What the parent has made
        stricter is shown.
    type: str
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
  - keyward.pki._authority.directory_account
  - keyward.pki._backups.authority_id
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
      - A CA that is there is never touched, whatever the options say.
notes:
  - Without a Windows host, O(config_file) is required. An C(openssl.cnf) that is there is used as it is, and never changed.
  - With O(backend=easyrsa), O(directory) is required instead. The PKI is laid out as C(init-pki) and C(build-ca) do, and nothing of
    easy-rsa is run. Where easy-rsa is installed, its C(openssl-easyrsa.cnf) is copied into the PKI.
  - On Windows the feature C(ADCS-Cert-Authority) is added where it is absent, and a standalone CA is configured. Where a backup of
    the CA is named, its keys are imported and the CA is configured on top of them; its database comes back with
    M(keyward.pki.ca_database_restore), which also brings back enterprise CAs. A path length is written into C(CAPolicy.inf) by its
    owner. Ed25519 is not to be had.
  - With O(private_key_passphrase) the private key is encrypted at rest.
  - An installation makes a key backup due. The role P(keyward.pki.install#role) takes it.
seealso:
  - module: keyward.pki.ca_key_backup
  - module: keyward.pki.ca_sign
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Install a root CA
  keyward.pki.ca_install:
    config_file: /etc/pki/new/openssl.cnf
    subject:
      organizationName: Example
      commonName: Example New Root CA
  become: true
"""

RETURN = r"""
authority:
  description: The authority, as in RV(keyward.pki.ca_info#module:authority). V(null) in check mode where it would be made.
  returned: success
  type: dict

generations:
  description: Its generations, oldest first, as in RV(keyward.pki.ca_info#module:generations).
  returned: success
  type: list
  elements: dict

pending:
  description: Whether a request waits for its answer. That is a state, not an error.
  returned: success
  type: bool

request:
  description: The pending request (PEM). V(null) where there is none.
  returned: success
  type: str

request_file:
  description: Where it lies on the host. V(null) where there is none.
  returned: success
  type: str

reboot_required:
  description: Whether Windows must be restarted before the CA can be configured. It is never restarted by this module.
  returned: success
  type: bool

restored:
  description: What was put back from a backup, or would be, as in RV(keyward.pki.ca_key_restore#module:restored).
  returned: success
  type: list
  elements: dict

reasons:
  description: Why the task failed, as in RV(keyward.pki.ca_key_verify#module:reasons).
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(pending_key), and of an answer V(stricter_certificate), V(added_by_parent) and
      V(may_not_sign_crls).
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_INSTALL
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Answer, Install

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import installing, key_restore, openssl_template, switch  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_INSTALL, Install, Answer)


if __name__ == "__main__":
    main()
