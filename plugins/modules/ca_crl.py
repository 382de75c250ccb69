# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_crl
short_description: Sign the CRL of each generation of a CA
version_added: 0.1.0
description:
  - After a renewal with a new key, what the old key signed still needs its own certificate revocation list (CRL). This module has
    C(openssl ca) sign one with the key of each generation.
  - The CRL of the current generation lies where the configuration says (C(crl)), those of the others beside it as C(<stem>.<n><suffix>).
  - With O(scratch) it proves that each key can sign, and touches nothing of the CA.
  - With O(published_crl) it signs the last published CRL again, with all its entries, for the day when the keys are back, the
    database is not, and the CRL is about to expire.
options:
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
      - Sign a CRL again when it is valid for fewer days than these.
    type: int
    default: 0
  published_crl:
    description:
      - The last published CRL, a file on the controller (PEM or DER).
    type: path
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
attributes:
  check_mode:
    support: full
    details:
      - Reads everything that the task itself would read, and writes nothing.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - A CRL is signed where it is missing, is not its generation's, lacks a revocation of the database, or is about to expire.
notes:
  - A generation that has expired gets no CRL. One whose key is in a token is reported and left to the token.
  - On Windows the CA publishes its CRLs itself (C(certutil -CRL)), one for each key. With O(scratch) its keys sign in memory. O(days) and
    O(published_crl) can not be given there.
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
"""

RETURN = r"""
authority:
  description: The authority.
  returned: success
  type: dict
  contains:
    id:
      description:
        - SHA-256 fingerprint of its oldest CA certificate when its first backup was stored.
        - V(null) before that, and where no store was looked into.
      type: str
    backend:
      description: The software that runs it.
      type: str
      sample: openssl
    name:
      description: The section of its configuration, or an empty string where it has none.
      type: str
      sample: CA_default
    sanitized_name:
      description: The common name of its current certificate, in lower-case ASCII letters, digits and dashes.
      type: str
      sample: example-root-ca
    subject:
      description: The subject of its current certificate (RFC 4514).
      type: str
      sample: CN=Example Root CA,O=Example
    host:
      description: Its inventory host.
      type: str
      sample: ca.example.com
    directory:
      description: The directory on the host where it lives.
      type: str
      sample: /etc/pki/CA

generations:
  description: Its generations, oldest first. The current one is the last.
  returned: success
  type: list
  elements: dict
  contains:
    index:
      description: Informs only; the SHA-256 fingerprint is a generation's identity.
      type: int
      sample: 0
    subject:
      description: The subject of the certificate (RFC 4514).
      type: str
    serial:
      description: The serial number of the certificate, as hex digits.
      type: str
    not_before:
      description: Start of its validity (ISO 8601, UTC).
      type: str
      sample: "2026-01-01T00:00:00Z"
    not_after:
      description: End of its validity (ISO 8601, UTC).
      type: str
      sample: "2036-01-01T00:00:00Z"
    fingerprints:
      description: The fingerprints C(sha1) and C(sha256) of the certificate, as hex digits.
      type: dict
    subject_key_identifier:
      description: As hex digits. V(null) where the certificate has none.
      type: str
    public_key_sha256:
      description: SHA-256 of the public key (SubjectPublicKeyInfo, DER), as hex digits.
      type: str
    key_algorithm:
      description: The algorithm and size of the key.
      type: str
      sample: RSA-4096
    certificate:
      description: The certificate (PEM).
      type: str
    private_key:
      description:
        - Whether the private key is on the host. One that can't be opened is V(inaccessible).
        - For a generation that only a backup knows, V(missing), or as it was then.
      type: str
      choices: [present, missing, inaccessible]
    encrypted_at_rest:
      description: Whether the key file is encrypted. V(null) where that is not known.
      type: bool
    exportable:
      description: Whether the key can leave the place where it is kept. V(null) where that is not known.
      type: bool
    covered:
      description: V(backup) where a backup holds it, V(none) where none does, V(null) where no store was looked into.
      type: str

crls:
  description: The CRL of each generation, that of the current one last. In check mode only those that stay.
  returned: success
  type: list
  elements: dict
  contains:
    certificate:
      description: SHA-256 fingerprint of the CA certificate that verifies it.
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

reasons:
  description: Empty.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description:
        - A stable identifier.
        - One of V(password_wrong), V(opens_without_password), V(key_missing), V(key_mismatch), V(generation_missing),
          V(not_exportable), V(foreign_authority), V(digest_mismatch), V(malformed), V(unsupported), V(limit_exceeded).
      type: str
    message:
      description: A sentence.
      type: str
    certificate:
      description: SHA-256 fingerprint of the certificate that it is about, or V(null).
      type: str

advisories:
  description: What is worth knowing and stops nothing.
  returned: success
  type: list
  elements: dict
  contains:
    code:
      description: A stable identifier, such as V(expired_generation) or V(key_in_token).
      type: str
    message:
      description: A sentence.
      type: str
    certificate:
      description: SHA-256 fingerprint of the certificate that it is about, or V(null).
      type: str
"""

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_CRL
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Crls


def main() -> None:
    run(CA_CRL, Crls)


if __name__ == "__main__":
    main()
