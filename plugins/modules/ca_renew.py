# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_renew
short_description: Renew the certificate of a CA when that is due
version_added: 0.1.0
description:
  - Renews the certificate of a CA with the same key or with a new one, and keeps every older generation. The old certificate
    stays beside the new one as C(<stem>.<n><suffix>), such as C(cacert.0.pem), the old key likewise.
  - A root signs its new certificate itself, after the template of the old one. Subject and extensions stay as they are, byte by byte.
    What that of a CA must say, and the old one does not, is added and shown.
  - For a subordinate CA a request is made, and the task ends well with RV(pending=true). Given its answer as O(certificate), the task
    puts that in place.
  - Before it takes its place, a new certificate is held against the old one and, where a parent signed it, against the request. It must
    be that of a CA that may sign certificates and the CRLs that the old one may sign, for this subject byte by byte and for a key that
    is not weak, and what the CA has issued must verify under it. What is stricter or missing, and is a judgement, is shown.
  - The new key and certificate are completed beside the old ones, as C(cakey.next.pem) and C(cacert.next.pem), and then take
    their places. A run that was killed is finished by the next one, with the same pair, whatever the conditions say then.
  - Where the key or the certificate is a link, what it leads to is renewed where that lies, and the older file stays beside it. A key on
    a medium stays on the medium. A file that no other can replace (mounted by itself, immutable, on a read-only file system) is refused
    before anything is made. What fails on the way is taken back, and the complete pair waits for the next run.
  - A renewal makes a key backup due. The role P(keyward.pki.renewal#role) takes it.
options:
  reuse_key:
    description:
      - Whether the new certificate is for the same key (there is no default). A weak key gets no new certificate. A new key is of the same
        kind and size, and RSA of at least 2048 bits.
    type: bool
    required: true
  remaining_days:
    description:
      - Renew when the certificate is valid for fewer days than these.
    type: int
  issued_before:
    description:
      - Renew when the certificate began to be valid before this time, such as V(2026-11-01T00:00:00Z) (ISO 8601, UTC).
    type: str
  days:
    description:
      - For how many days the new certificate of a root is valid. The default is the time for which the old one was.
    type: int
  certificate:
    description:
      - The certificate (PEM) that answers the pending request of a subordinate CA. It may stand among those of the CAs above it.
      - On Windows the CRLs (PEM) of these CAs may follow, where the host can't fetch them (RV(keyward.pki.ca_sign#module:crl)).
      - These are put into O(chain_file), where it is given. Behind the certificate they stand only where some stand behind the present
        one. Where none are given, those stay.
    type: str
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
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
      - A renewal makes O(remaining_days) and O(issued_before) untrue. One that would not is refused.
notes:
  - At least one of O(remaining_days), O(issued_before) and O(certificate) must be given. There is no way to force a renewal, because a
    run that is repeated must never renew again.
  - Where O(older) states files that lie elsewhere than beside the current ones, nothing is renewed. The current generation would not be
    among those that are stated.
  - A private key that waits for its certificate is no generation yet. No run replaces or deletes it, and no backup holds it.
  - On Windows C(certutil -renewCert) renews, and the CA is restarted. O(days) can not be given there; C(CAPolicy.inf) says it.
seealso:
  - module: keyward.pki.ca_key_backup
  - module: keyward.pki.ca_sign
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Renew a root CA with a new key when it is valid for less than two years
  keyward.pki.ca_renew:
    config_file: /etc/pki/CA/openssl.cnf
    reuse_key: false
    remaining_days: 730
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

due:
  description: Whether a renewal was due, or had been begun, when the task began.
  returned: success
  type: bool

renewed:
  description: Whether a new generation has taken its place.
  returned: success
  type: bool

pending:
  description: Whether a request waits for its answer. That is a state, not an error.
  returned: success
  type: bool

request:
  description: The pending request (PEM). In check mode, one like the request that would be made. V(null) where there is none.
  returned: success
  type: str

request_file:
  description: Where it lies on the host. V(null) where there is none.
  returned: success
  type: str

reasons:
  description:
    - Why the CA was renewed, in the shape of RV(keyward.pki.ca_key_verify#module:reasons).
    - The codes are V(remaining_days), V(issued_before), V(unfinished_renewal) and V(answered).
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(pending_key) and V(unfinished_renewal).
    - Of the new certificate, held against the old one and its request, V(extension_added), V(extension_lost), V(extension_changed),
      V(stricter_certificate), V(wider_certificate), V(may_not_sign_crls), V(issued_not_verified), and V(needs_older_certificate) where
      issued certificates name the serial number of the older one.
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_RENEW
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Answer, Renew

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import installing, switch  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_RENEW, Renew, Answer)


if __name__ == "__main__":
    main()
