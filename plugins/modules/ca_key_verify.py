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
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._attributes.info_module
  - keyward.pki._authority
  - keyward.pki._backups.stores
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
  description: The authority.
  returned: when a backup was judged, V(null) for a PKCS#12 file without a manifest
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
  returned: when a backup was judged
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

backup:
  description: The backup.
  returned: when a backup was judged
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
  description: Why it is not restorable, or why the task failed.
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
  returned: when a backup was judged
  type: list
  elements: dict
  contains:
    code:
      description: A stable identifier, such as V(weak_encryption), V(trailing_bytes) or V(expired_generation).
      type: str
    message:
      description: A sentence.
      type: str
    certificate:
      description: SHA-256 fingerprint of the certificate that it is about, or V(null).
      type: str

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
