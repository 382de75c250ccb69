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
  - keyward.pki._backups.stores
  - keyward.pki._backups.password
notes:
  - O(stores) is required.
  - Without an option that names the place of the CA, the backups that name this inventory host are listed, and the host is not
    contacted.
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
  description: The authority.
  returned: success, V(null) where neither the host nor a store tells
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

backups:
  description: Every backup whose files have the recorded digests, newest first, with the keys of RV(newest) and those listed here.
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
  description: The newest backup. V(null) where there is none.
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
due:
  description: Whether a backup is due. V(null) where neither the host nor a store tells of the CA.
  returned: success
  type: bool
age:
  description: Seconds since the newest backup was made. V(null) where there is none.
  returned: success
  type: int

reasons:
  description: Why a backup is due, and why the newest is not restorable.
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
      description: A stable identifier, such as V(digest_mismatch), V(missing_in_store), V(nothing_on_host) or V(authority_unreadable).
      type: str
    message:
      description: A sentence.
      type: str
    certificate:
      description: SHA-256 fingerprint of the certificate that it is about, or V(null).
      type: str

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
