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
  - Refused are a configuration with C(copy_extensions = copyall), which lets a request choose its own extensions, a request with the
    subject of the signing CA, and an RSA key of fewer than 2048 bits.
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
      - The section of O(config_file) with the extensions of a CA certificate. The default is V(v3_subordinate_ca).
      - With O(backend=easyrsa) a file of its C(x509-types). The default is V(ca).
    type: str
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
attributes:
  platform:
    platforms: posix
  check_mode:
    support: full
    details:
      - Reads everything that the task itself would read, and writes nothing.
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
  description: The authority that signs.
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
  description: The generations of the authority that signs, oldest first. The current one is the last.
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
      description: A stable identifier, such as V(outlives_issuer).
      type: str
    message:
      description: A sentence.
      type: str
    certificate:
      description: SHA-256 fingerprint of the certificate that it is about, or V(null).
      type: str
"""

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_SIGN
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Sign


def main() -> None:
    run(CA_SIGN, Sign)


if __name__ == "__main__":
    main()
