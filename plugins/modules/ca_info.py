#!/usr/bin/python
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_info
short_description: Report which generations a CA has and whether their private keys are there
version_added: 0.1.0
description:
  - Reads a CA on its host; its generations with their certificates, whether each private key is there and opens, its database
    and a pending certificate request.
  - No private key is returned.
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._attributes.info_module
  - keyward.pki._authority
options:
  host_store:
    description:
      - A store of kind V(databases) on the host, of which M(keyward.pki.ca_audit) is to know what it holds of the CA's database.
    type: path
seealso:
  - module: keyward.pki.ca_key_backup_info
    description: Says in addition what the stores hold for the CA.
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Look at a CA
  keyward.pki.ca_info:
    config_file: /etc/pki/CA/openssl.cnf
  register: ca

- name: Say when its certificate expires
  ansible.builtin.debug:
    msg: "{{ ca.authority.subject }} expires on {{ ca.generations[-1].not_after }}"
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

database:
  description: The database of issued certificates.
  returned: success
  type: dict
  contains:
    path:
      description: The C(index.txt). V(null) where the configuration names none.
      type: str
    exists:
      description: Whether it is there.
      type: bool
    entries:
      description: The number of certificates in it, or V(null).
      type: int
    serial:
      description: The next serial number, as hex digits, or V(null).
      type: str
    crl_number:
      description: The next CRL number, as hex digits, or V(null).
      type: str
    crls:
      description: The CRLs of the CA that lie on its host.
      type: list
      elements: dict
      contains:
        path:
          description: The file.
          type: str
        public_key_sha256:
          description: The key that signed it.
          type: str
        number:
          description: Its number, as hex digits, or V(null).
          type: str
        this_update:
          description: The time from which it is valid (ISO 8601, UTC).
          type: str
        next_update:
          description: The time until which clients take it (ISO 8601, UTC), or V(null).
          type: str
        needed:
          description: Whether something that its key signed is unexpired.
          type: bool
        successor_at:
          description: When it says that its successor is published, as CRLs of AD CS do (ISO 8601, UTC). V(null) where it doesn't.
          type: str
host_store:
  description:
    - What the store on the host holds, as the host says it. M(keyward.pki.ca_audit) looks whose signatures count.
    - V(null) where O(host_store) was not given.
  returned: success
  type: dict
  contains:
    path:
      description: The store.
      type: str
    failure:
      description: Why it was not read, or V(null).
      type: str
    id:
      description: Its id.
      type: str
    local_disk:
      description: Whether it lies on a disk of the host itself.
      type: bool
    sets:
      description: The sets that name this host or a key of the CA.
      type: list
      elements: dict
      contains:
        directory:
          description: The directory of its authority in the store.
          type: str
        database:
          description: The directory of its database in that.
          type: str
        name:
          description: Its own directory in that.
          type: str
        path:
          description: Where it lies.
          type: str
        manifest:
          description: Its manifest (JSON).
          type: str
        damage:
          description: What is wrong with its files, or V(null).
          type: str
        signature:
          description: The signature of its manifest, or V(null).
          type: str
pending_request:
  description: >-
    A certificate request beside the CA certificate, with the CA's subject, that waits for its answer.
    V(null) where there is none.
  returned: success
  type: dict
  contains:
    path:
      description: The request.
      type: str
    subject:
      description: Its subject (RFC 4514).
      type: str
    public_key_sha256:
      description: SHA-256 of its public key (SubjectPublicKeyInfo, DER), as hex digits.
      type: str

reasons:
  description: Why the task failed, where that has a code, as in RV(keyward.pki.ca_key_verify#module:reasons).
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing.
    - Of a database that openssl keeps, the codes are V(index_refused) (a line with which C(openssl ca) uses no C(index.txt)),
      V(index_passed_over) (a line that it reads otherwise than it looks), V(unfinished_issue) (it was stopped before it put a file in
      place), V(database_file_missing), V(certificate_without_row), V(revocations_missing) (a CRL at hand lists certificates that the
      database does not call revoked), V(crl_number_behind) and V(database_unreadable).
  returned: success
  type: list
  elements: dict
  contains:
    code:
      description:
        - A stable identifier, such as V(key_inaccessible), V(key_missing_on_host) or V(expired_generation).
        - V(passphrase_beside_key) where the passphrase of an encrypted key lies with it, in a configuration (and so in each set of the
          database) or in a file beside the key.
      type: str
    level:
      description:
        - What it makes of a run. V(red), the roles fail; V(warning), all is held and a person must act; V(counted), it is expected.
        - The first two are Ansible warnings, too. The guide I(What a run says) has the level of each code.
      type: str
    message:
      description: A sentence.
      type: str
    certificate:
      description: SHA-256 fingerprint of the certificate that it is about, or V(null).
      type: str
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_INFO
from ansible_collections.keyward.pki.plugins.module_utils._execute import run

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import database  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_INFO)


if __name__ == "__main__":
    main()
