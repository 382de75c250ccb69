# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the options that say which CA; may change in any release.

Kept in step with WHICH_AUTHORITY, CONTROLLER and DIRECTORY_ACCOUNT in module_utils/_arguments.py.
"""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  backend:
    description:
      - The software that runs the CA. V(openssl) is C(openssl ca), V(easyrsa) is easy-rsa 3, and V(adcs) is Active Directory
        Certificate Services, on a Windows host.
      - With V(auto) it is found out from the host and from what the other options name.
    type: str
    choices: [auto, openssl, easyrsa, adcs]
    default: auto
  config_file:
    description:
      - The C(openssl.cnf) of the CA on the host. It is read exactly as C(openssl ca) reads it when it runs in O(directory).
      - With O(backend=easyrsa) it is not needed. Give it where C(EASYRSA_SSL_CONF) names one in an unusual place.
    type: path
  directory:
    description:
      - The directory on the host where the CA lives, and from which the relative paths of the configuration count.
      - The default is the directory of O(config_file). Without O(config_file), O(certificate_file) and O(private_key_file) must be
        given.
      - With O(backend=easyrsa) it is the PKI directory (C(EASYRSA_PKI)), and required.
      - On Windows, the directory of the database of a CA that is to be installed.
    type: path
  name:
    description:
      - The section of the configuration that describes the CA, as for C(openssl ca -name).
      - The default is what C(default_ca) names.
      - On Windows, the common name or the sanitized name of the CA. The default is the active CA of the host.
    type: str
  private_key_passphrase:
    description:
      - The passphrase of the CA's private keys, where they are encrypted at rest.
    type: str
  certificate_file:
    description:
      - The current CA certificate, where the configuration does not tell it.
    type: path
  private_key_file:
    description:
      - The private key of the current CA certificate, where the configuration does not tell it.
    type: path
  chain_file:
    description:
      - PEM certificates of the CAs above this one. They go into each bundle.
      - The default is what follows the CA's own certificate in its file.
    type: path
  older:
    description:
      - The older generations, where they do not lie beside the current files as C(<stem>.<n><suffix>),
        such as C(cacert.0.pem).
      - When it is given, no other older generation is looked for, unless each of them lies there. Then it gives the passphrases of
        keys that have others than O(private_key_passphrase).
    type: list
    elements: dict
    suboptions:
      certificate_file:
        description: The CA certificate of the generation.
        type: path
        required: true
      private_key_file:
        description: Its private key. Leave it out where another generation's file holds the same key.
        type: path
      private_key_passphrase:
        description: The passphrase of this key, where it is encrypted at rest. The default is O(private_key_passphrase).
        type: str
  controller:
    description:
      - Filled in by the action plugin, never by a user. It carries the secrets of the task and what the stores hold, as one
        value, so that Ansible's masking can not cut a short passphrase out of the paths that a host returns.
    type: str
"""

    DIRECTORY_ACCOUNT = r"""
options:
  directory_user:
    description:
      - On Windows, the account that sets up the role where that writes to Active Directory.
      - It is a member of Enterprise Admins, such as C(EXAMPLE\pki-admin). The default is the account of the session.
    type: str
  directory_password:
    description:
      - The password of O(directory_user).
      - It goes to the host.
    type: str
"""
