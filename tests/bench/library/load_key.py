# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: load_key
short_description: Load one private key
description: The least that a module which looks at a CA's key does.
author: keyward.pki contributors (@keyward)
options:
  config_file:
    description: The openssl.cnf of the CA; the key is C(private/cakey.pem) beside it.
    type: path
    required: true
  stores:
    description: Not used; the task looks as a task of ca_key_backup does.
    type: list
    elements: path
"""
EXAMPLES = ""
RETURN = ""

import os

from ansible.module_utils.basic import AnsibleModule
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def main() -> None:
    module = AnsibleModule({"config_file": {"type": "path", "required": True}, "stores": {"type": "list", "elements": "path"}})
    with open(os.path.join(os.path.dirname(module.params["config_file"]), "private", "cakey.pem"), "rb") as stream:
        key = load_pem_private_key(stream.read(), None)
    module.exit_json(changed=False, size=key.key_size, imported=x509.__name__)


if __name__ == "__main__":
    main()
