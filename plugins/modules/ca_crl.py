# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_crl
short_description: Sign the CRL of each key of a CA
version_added: 0.1.0
description:
  - After a renewal with a new key, what the old key signed still needs its own certificate revocation list (CRL). This module has
    C(openssl ca) sign one with each key. Generations of one key share one. Only where CRLs name the issuer and serial number of a
    certificate (C(authorityKeyIdentifier)), each generation gets its own.
  - The CRL of the current generation lies where the configuration says (C(crl)), those of the others beside it as C(<stem>.<n><suffix>).
  - Each new CRL is proved as a client does it (C(openssl verify -crl_check)), under each certificate of its key. With OpenSSL 3 it is
    valid since some minutes, for clients whose clock is behind.
  - With O(scratch) it proves that each key can sign, and touches nothing of the CA.
  - With O(published_crl) it signs the last published CRL again, with all its entries, for the day when the keys are back, the
    database is not, and the CRL is about to expire.
options:
  sign:
    description:
      - With V(false) nothing is signed. What CRLs lie on the host is looked at, and said where one has expired, runs out, or lacks a
        revocation. No key and no passphrase is needed.
    type: bool
    default: true
  scratch:
    description:
      - Sign in a scratch directory, from a copy of the database, and verify. The CA's own CRLs and CRL number stay as they are.
    type: bool
    default: false
  days:
    description:
      - For how many days the CRLs are valid. The default is that of the configuration, or of O(published_crl).
    type: int
  remaining_days:
    description:
      - Sign a CRL again when it is valid for fewer days than these. The default is before the last third of its time, and by a day earlier,
        for a task that runs every night.
    type: int
  published_crl:
    description:
      - The last published CRL, a file on the controller (PEM or DER).
    type: path
  der_directory:
    description:
      - A directory on the controller for what a web server is to serve, in DER. Each key has one CRL and one certificate in it,
        C(<CA>-<n>.crl) and C(<CA>-<n>.crt). These names stay when the CA is renewed with another key.
      - Two CAs of one name need a directory each, since the files of another key are never replaced.
    type: path
  fetch:
    description:
      - Look at what clients get behind each CDP and AIA URL that a certificate of this CA names, or that its own certificate names of its
        parent. The controller asks, by http and https only.
    type: bool
    default: false
  former_hosts:
    description:
      - Names of hosts where the CA was. Only URLs on these are looked at, and each is reported.
    type: list
    elements: str
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
attributes:
  check_mode:
    support: full
    details:
      - Reads everything that the task itself would read, and writes nothing.
      - Where a CRL is due, C(openssl ca) signs one with a key of that moment and copies of the database. What it refuses is reported.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - A CRL is signed where it is missing, is not its generation's, lacks a revocation of the database, or is about to expire. The task
        fails where one lacks a revocation afterwards.
notes:
  - Nothing is signed where the clock of the host is more than a day off that of the controller, or before the time of the last CRL.
  - A generation that has expired gets no CRL, nor does an older key of which everything that it signed has expired.
    One whose key is in a token is reported and left to the token.
  - On Windows the CA publishes its CRLs itself (C(certutil -CRL)), one for each key. With O(scratch) its keys sign in memory.
    O(published_crl) is signed by the key (C(certutil -sign)), also where no CA is configured, and is published by hand.
    O(fetch) knows the URLs that the CA's own certificates name.
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Prove that every key can sign
  keyward.pki.ca_crl:
    config_file: /etc/pki/CA/openssl.cnf
    scratch: true
  become: true

- name: Sign the CRLs that are missing or about to expire
  keyward.pki.ca_crl:
    config_file: /etc/pki/CA/openssl.cnf
    remaining_days: 7
  become: true

- name: Look at what clients get, and sign nothing
  keyward.pki.ca_crl:
    config_file: /etc/pki/CA/openssl.cnf
    sign: false
    fetch: true
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

crls:
  description: The CRL of each key, that of the current one last. In check mode only those that stay.
  returned: success
  type: list
  elements: dict
  contains:
    certificate:
      description: SHA-256 fingerprint of the CA certificate that verifies it, the newest where several of one key do.
      type: str
    path:
      description: Where it lies on the host. V(null) with O(scratch=true).
      type: str
    crl:
      description: The CRL (PEM).
      type: str
    number:
      description: Its number, as hex digits. V(null) where it has none.
      type: str
    next_update:
      description: When it expires (ISO 8601, UTC).
      type: str

der_files:
  description: The paths of the files in O(der_directory).
  returned: success
  type: list
  elements: str

published:
  description: What the URLs serve that were looked at.
  returned: success
  type: list
  elements: dict
  contains:
    url:
      description: The URL.
      type: str
    kind:
      description: What is to be there; C(ocsp) is not looked at.
      type: str
      choices: [crl, certificate, ocsp]
    issuer:
      description: Whose it is to be.
      type: str
      choices: [own, parent]
    state:
      description: V(good), or the code of the advisory.
      type: str
    next_update:
      description: When the CRL there expires (ISO 8601, UTC). V(null) where that is not known.
      type: str
    message:
      description: What is wrong.
      type: str

reasons:
  description:
    - Why the task failed, where that has a code, as in RV(keyward.pki.ca_key_verify#module:reasons).
    - The codes are V(index_refused) and V(index_passed_over), where openssl could not use its database or would leave revoked
      certificates out.
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(expired_generation), V(key_in_token), V(no_crl_needed), V(crl_names_certificate) where each certificate of
      a key needs a CRL of its own, and V(crl_rejected) where clients reject one.
    - V(crl_needs_passphrase), and V(crl_not_refreshed) once the last third of the CRL's time has begun, say that a key is encrypted and its
      passphrase was not given. Then the task does not fail.
    - With O(sign=false), V(crl_expired), V(crl_runs_out) and V(crl_lacks_revocations).
    - With O(fetch), V(published_crl_stale), V(published_crl_other_key), V(published_missing), V(published_certificate_other),
      V(published_not_der), V(parent_crl_stale), V(one_url_two_keys), V(url_unreachable) and V(url_not_looked_at). With O(former_hosts),
      V(url_of_former_host).
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_CRL
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Crls

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import crls  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_CRL, Crls)


if __name__ == "__main__":
    main()
