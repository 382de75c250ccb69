# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the options that say which backups; may change in any release.

Kept in step with STORES, SIGNERS, BACKUP, PASSWORD and PREVIOUS_PASSWORD in module_utils/_arguments.py.
"""

from __future__ import annotations


class ModuleDocFragment:
    STORES = r"""
options:
  stores:
    description:
      - The stores of kind V(keys) to use. They are directories on the controller that M(keyward.pki.ca_store) initialised.
      - Stored means stored in all of them. One that is named twice is an error, for it would be one copy.
    type: list
    elements: path
"""

    DATABASE_STORES = r"""
options:
  stores:
    description:
      - The stores of kind V(databases) to use. They are directories on the controller that M(keyward.pki.ca_store) initialised.
      - Stored means stored in all of them. One that is named twice is an error, for it would be one copy.
    type: list
    elements: path
"""

    SIGNING = r"""
options:
  store_signing_key:
    description:
      - The private SSH key on the controller that signs what goes into stores (Ed25519, or ECDSA on P-256, without a passphrase).
      - For a key that has a passphrase, or that a security key or an agent holds, give the C(.pub). C(ssh-agent) then signs.
      - The default is C(signing_key) in C(/etc/keyward) where that directory exists, else in C(~/.config/keyward).
    type: path
  allowed_signers:
    description:
      - The file on the controller that says whose signatures count, in the format of C(ssh-keygen). Only lines with
        C(namespaces="keyward") are read. It must be writable by root or the running user alone.
      - What none of these signers signed is ignored and reported.
      - The default is C(allowed_signers) in the same directory.
    type: path
"""

    MEMORY = r"""
options:
  memory:
    description:
      - The file on the controller that remembers the newest of what stores held. Where they hold less, or another store lies at a
        path, the task stops.
      - The default is C(/var/lib/keyward/memory.json) where C(/etc/keyward) exists, else C(~/.local/state/keyward/memory.json).
    type: path
  accept:
    description:
      - The ids of stores or authorities for which what is there now is taken, though it is not what O(memory) remembers.
      - Say it in one task, never in the inventory.
    type: list
    elements: str
"""

    BACKUP = r"""
options:
  backup:
    description:
      - One key backup on the controller, in place of O(stores); its PKCS#12 files, a backup's directory, or an authority's directory.
        Of an authority's directory the newest backup is used.
      - PKCS#12 files need no manifest, and no signature. Their password opens them, and the configuration says where keys belong.
      - Exactly one of O(backup) and O(stores) must be given.
    type: list
    elements: path
"""

    AUTHORITY_ID = r"""
options:
  authority_id:
    description:
      - The id of the authority that is meant, or its first digits, at least 8, where no other authority begins so. A person says it,
        in one task. Never put it into an inventory, where it would hold every night.
      - Without it a host is believed only about a CA that is at home there, which means that its newest record names this inventory host
        and place.
    type: str
"""

    HOME = r"""
options:
  move:
    description:
      - Whether the authority lives in this place from now on, instead of where it lived before. O(authority_id) says which one.
      - It is recorded in every store that is given. The old host is not at home then, and its nightly runs fail.
    type: bool
    default: false
  twin:
    description:
      - Whether the authority lives in this place, too, such as a standby or a clone that is to be backed up. O(authority_id) says
        which one.
    type: bool
    default: false
"""

    RECORDS = r"""
options:
  key_stores:
    description:
      - The stores of kind V(keys) that tell which authority this is and where it lives. They are only read.
      - Without them the newest set decides.
    type: list
    elements: path
"""

    PASSWORD = r"""
options:
  password:
    description:
      - The password of the key backups, in quotes. Keep it apart from the stores.
      - Use C(ansible-vault) or a lookup, never a plain variable.
      - A password that YAML reads as a number, a date or a boolean is refused, since it would differ
        from the one on paper.
    type: str
  previous_password:
    description:
      - The password that earlier key backups were made with, where it has been changed.
    type: str
"""
