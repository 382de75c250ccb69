# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_sign
short_description: Sign the request of a subordinate CA
version_added: 0.1.0
description:
  - Has C(openssl ca) sign the request of a subordinate CA, so that the certificate is entered into the database of this one. With
    O(backend=easyrsa) it is found by C(easyrsa revoke), too.
  - The request is kept beside the certificate as C(<serial>.csr) in the C(new_certs_dir). Asked again, the same request gets the same
    certificate, unless that was revoked or has expired. A run that was killed is finished by the next one.
  - Before anything is issued, C(openssl ca) signs with a key of this moment, in copies of the database, and what it made is held against
    the request. Only a certificate for the subject (byte by byte), the names and the key of the request is issued. Check mode does
    and finds the same. What the section allows beyond the path length, uses and name constraints that the request asks for is left
    out. What the section makes stricter stays, and is shown.
  - Refused are a configuration with C(copy_extensions = copyall), which lets a request choose its own extensions, a request with the
    subject of the signing CA, and a weak key, such as RSA of fewer than 2048 bits.
options:
  request:
    description:
      - The request (PEM), such as M(keyward.pki.ca_renew) and M(keyward.pki.ca_install) return it.
    type: str
    required: true
  days:
    description:
      - For how many days the certificate is valid. The default is C(default_days) of the configuration, or C(EASYRSA_CERT_EXPIRE).
    type: int
  extensions:
    description:
      - The section of the configuration with the extensions of a CA certificate. The default is V(v3_subordinate_ca).
      - With O(backend=easyrsa) a file of its C(x509-types). The default is V(ca).
    type: str
  subject:
    description:
      - The only subject that is signed for, in the form of O(keyward.pki.ca_install#module:subject). The order of its attributes does
        not count.
      - Give it where the request comes from a host, such as in a play. A compromised host asks in the name of another CA.
    type: dict
  requested_by:
    description:
      - The id of the authority that asks, as RV(keyward.pki.ca_key_backup#module:authority) has it, in place of O(subject). Its request is
        signed only for the subject that its newest backup in O(stores) has, and never that of a root.
      - Where the subject of that authority has changed in the past, nothing is signed. Give O(subject), then.
    type: str
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
  - keyward.pki._backups.stores
  - keyward.pki._backups.signing
  - keyward.pki._backups.memory
attributes:
  platform:
    platforms: posix
  check_mode:
    support: full
    details:
      - Reads everything that the task itself would read, and writes nothing.
      - C(openssl ca) issues one with a key of that moment and copies of the database. What it refuses is reported.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - A request is known by its bytes.
notes:
  - O(config_file) is required, except with O(backend=easyrsa). Its policy applies.
  - With C(rand_serial) in the configuration nobody knows a serial number before. There a run that is killed just after C(openssl ca) may
    leave a certificate that answers no request, and the next run gets another one.
  - What C(openssl ca) has issued stays in its database. Back that up (M(keyward.pki.ca_database_backup)).
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Sign the request of the issuing CA
  keyward.pki.ca_sign:
    config_file: /etc/pki/root/openssl.cnf
    request: "{{ issuing.request }}"
    days: 1825
  become: true
"""

RETURN = r"""
authority:
  description: The authority that signs, as in RV(keyward.pki.ca_info#module:authority).
  returned: success
  type: dict

generations:
  description: The generations of the authority that signs, oldest first, as in RV(keyward.pki.ca_info#module:generations).
  returned: success
  type: list
  elements: dict

certificate:
  description: The certificate (PEM). V(null) in check mode where it would be made.
  returned: success
  type: str

serial:
  description: Its serial number, as hex digits. V(null) in check mode where it would be made.
  returned: success
  type: str

chain:
  description: The certificates (PEM) above it, that of the signing CA first.
  returned: success
  type: list
  elements: str

crl:
  description: The CRL (PEM) in the place of the signing CA, for a CA below that can't fetch it. V(null) where none of the CA lies there.
  returned: success
  type: str

reasons:
  description:
    - Why the task failed, where that has a code, as in RV(keyward.pki.ca_key_verify#module:reasons).
    - The code is V(index_refused), where openssl could not use its database.
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(outlives_issuer), V(no_distribution_point), and V(limited_to_request), V(stricter_certificate),
      V(added_by_parent) and V(may_not_sign_crls) where the certificate and the request differ.
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_SIGN
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Sign

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import issuing  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_SIGN, Sign)


if __name__ == "__main__":
    main()
