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
  - On a bare host, on which nothing of the CA is left, the newest backup that names this inventory host and place is used, or the
    one that O(backup) names.
  - Only keys that the host lacks leave the controller, encrypted under a password that is made for this one task; none in check mode. On
    Windows the files of the backup that hold them go as they are, with O(password).
  - The database of the CA is not touched. Restore it by itself, before the CA issues anything.
options:
  on_conflict:
    description:
      - What to do where another key or certificate lies in the place of one that is to be put back.
      - With V(set_aside) that file is renamed to C(<path>.set-aside-<time>), never deleted.
    type: str
    choices: [fail, set_aside]
    default: fail
  allow_unencrypted_key:
    description:
      - Allow that a key that was encrypted at rest comes back as a clear file, where O(private_key_passphrase) is not given.
    type: bool
    default: false
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
  - keyward.pki._backups.stores
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

backup:
  description: The backup that was used.
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
  description: Why the task failed.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description:
        - A stable identifier.
        - One of V(password_wrong), V(opens_without_password), V(key_missing), V(key_mismatch), V(generation_missing),
          V(not_exportable), V(foreign_authority), V(digest_mismatch), V(malformed), V(unsupported), V(limit_exceeded).
        - Or V(conflict), where another file lies in the place of one that is to be put back.
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
  returned: success
  type: bool
"""

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_KEY_RESTORE
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import ImportKeys


def main() -> None:
    run(CA_KEY_RESTORE, ImportKeys)


if __name__ == "__main__":
    main()
