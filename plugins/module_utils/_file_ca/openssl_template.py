# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the openssl.cnf of a new CA; may change in any release."""

from __future__ import annotations

import os

from ansible_collections.keyward.pki.plugins.module_utils._directories import make_directory
from ansible_collections.keyward.pki.plugins.module_utils._staged import put_new

_CONFIGURATION = """\
# The configuration of a CA that "openssl ca" runs. It is yours: keyward.pki wrote it once and never changes it.

[ ca ]
default_ca = {section}

[ {section} ]
dir = {directory}
certificate = $dir/cacert.pem
private_key = $dir/private/cakey.pem
database = $dir/index.txt
serial = $dir/serial
new_certs_dir = $dir/newcerts
certs = $dir/certs
crlnumber = $dir/crlnumber
crl_dir = $dir/crl
crl = $dir/crl/crl.pem
# Ed25519 and Ed448 have a digest of their own; "default" serves them too.
default_md = {digest}
default_days = 397
default_crl_days = 30
policy = policy_any
x509_extensions = end_entity
crl_extensions = crl_extensions
# One subject may have several valid certificates: before one expires, the next is issued.
unique_subject = no
# What a request asks for is not believed.
copy_extensions = none

[ policy_any ]
countryName = optional
stateOrProvinceName = optional
localityName = optional
organizationName = optional
organizationalUnitName = optional
commonName = supplied
emailAddress = optional

[ req ]
distinguished_name = req_distinguished_name
string_mask = utf8only

[ req_distinguished_name ]

# What the CA issues unless "openssl ca -extensions" says otherwise.
[ end_entity ]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid

# A CA below this one.
[ v3_subordinate_ca ]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid

[ crl_extensions ]
authorityKeyIdentifier = keyid
"""


def put_configuration(path: str, directory: str, section: str, key_type: str) -> None:
    """The openssl.cnf of a CA in C(directory), an absolute path. Raises KeywardError."""
    make_directory(os.path.dirname(path), 0o755)
    put_new(path, _text(directory, section, key_type).encode("utf-8"), 0o644)


def _text(directory: str, section: str, key_type: str) -> str:
    # In a value, openssl takes these for its own.
    escaped = "".join("\\" + character if character in "\\$#'\"`" else character for character in directory)
    return _CONFIGURATION.format(section=section, directory=escaped, digest="default" if key_type == "Ed25519" else "sha256")
