#!/usr/bin/python
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_key_verify
short_description: Fail unless a key backup is restorable
version_added: 0.1.0
description:
  - Opens a backup with its password and judges it. Every generation must be in it, with its certificate and its private key, and
    each key must prove, with a signature in memory, to be the one that the certificate certifies.
  - With options that name a live CA, the backup must hold all of its generations too.
options:
  verified_by:
    description:
      - The name of a person who vouches for this backup. Where it is restorable, a signed event that names its manifest's digest is
        written into each store that holds it. From then on it counts, whoever signed it.
      - It is the way back after a signing key was stolen, and before a signer is taken out of O(allowed_signers).
    type: str
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._attributes.info_module
  - keyward.pki._authority
  - keyward.pki._backups.stores
  - keyward.pki._backups.signing
  - keyward.pki._backups.memory
  - keyward.pki._backups.backup
  - keyward.pki._backups.password
notes:
  - O(password) is required.
  - Without an option that names the place of a CA, the host is not contacted.
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Prove the newest backup against the live CA
  keyward.pki.ca_key_verify:
    config_file: /etc/pki/CA/openssl.cnf
    stores:
      - /srv/keyward/keys
    password: "{{ keyward_password }}"
  become: true

- name: Prove a PKCS#12 file that was made by hand
  keyward.pki.ca_key_verify:
    backup: /media/safe/root-ca.p12
    password: "{{ keyward_password }}"
  delegate_to: localhost
"""

RETURN = r"""
authority:
  description: The authority, as in RV(keyward.pki.ca_info#module:authority).
  returned: when a backup was judged, V(null) for a PKCS#12 file without a manifest
  type: dict

generations:
  description: Its generations, oldest first, as in RV(keyward.pki.ca_info#module:generations).
  returned: when a backup was judged
  type: list
  elements: dict

backup:
  description: The backup, as in RV(keyward.pki.ca_key_backup#module:backup).
  returned: when a backup was judged
  type: dict

private_keys:
  description: The private keys in the backup, each as SHA-256 of its public key (SubjectPublicKeyInfo, DER).
  returned: when a backup was judged
  type: list
  elements: str
certificates:
  description: The certificates in the backup, those of the chain included.
  returned: when a backup was judged
  type: list
  elements: dict
  contains:
    subject:
      description: Its subject (RFC 4514). V(null) where it can't be parsed.
      type: str
    fingerprints:
      description: The fingerprints C(sha1) and C(sha256) of the certificate, as hex digits.
      type: dict
    public_key_sha256:
      description: SHA-256 of its public key (SubjectPublicKeyInfo, DER), as hex digits.
      type: str
    not_after:
      description: End of its validity (ISO 8601, UTC).
      type: str
encryption:
  description: How the backup is protected. V(null) where it could not be opened.
  returned: when a backup was judged
  type: dict
  contains:
    key:
      description: Algorithms that protect the private keys.
      type: str
      sample: AES-256-CBC, PBKDF2-HMAC-SHA256
    certificates:
      description: Algorithms that protect the certificates.
      type: str
    mac:
      description: Algorithm of the integrity check.
      type: str
    iterations:
      description: The lowest iteration count of all key derivations.
      type: int
    weak:
      description: Whether one of them is weak, so that the password alone must hold.
      type: bool

reasons:
  description:
    - Why it is not restorable, or why the task failed.
    - The codes are V(password_wrong), V(opens_without_password), V(key_missing), V(key_mismatch), V(generation_missing),
      V(not_exportable), V(foreign_authority), V(digest_mismatch), V(malformed), V(unsupported) and V(limit_exceeded).
    - Or V(not_at_home), where a host shows a known authority that lives elsewhere; the message has the command that settles it.
    - Or V(unknown_signer), where nobody in O(allowed_signers) vouches for it, and V(rolled_back), where the stores hold less than
      O(memory) says.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: A stable identifier.
      type: str
    message:
      description: A sentence.
      type: str
    certificate:
      description: SHA-256 fingerprint of the certificate that it is about, or V(null).
      type: str

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(weak_encryption), V(trailing_bytes), V(expired_generation) and V(not_at_home).
  returned: when a backup was judged
  type: list
  elements: dict

restorable:
  description: The verdict; whether every generation comes back from the backup, with the given password.
  returned: when a backup was judged
  type: bool
"""

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_KEY_VERIFY
from ansible_collections.keyward.pki.plugins.module_utils._execute import run


def main() -> None:
    run(CA_KEY_VERIFY)


if __name__ == "__main__":
    main()
