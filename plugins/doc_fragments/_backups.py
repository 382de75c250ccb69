# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the options that say which backups; may change in any release.

Kept in step with STORES, BACKUP, PASSWORD and PREVIOUS_PASSWORD in module_utils/_arguments.py.
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

    BACKUP = r"""
options:
  backup:
    description:
      - One key backup on the controller, in place of O(stores); a PKCS#12 file, a backup's directory, or an authority's directory.
        Of the latter the newest backup is used.
      - Exactly one of O(backup) and O(stores) must be given.
    type: path
"""

    AUTHORITY_ID = r"""
options:
  authority_id:
    description:
      - The id of the authority that is meant, or its first digits, at least 8, where no other authority begins so. A person says it,
        in one task. Never put it into an inventory, where it would be believed every night.
      - Without it a host is believed only where its CA is at home. That is where the newest record has this inventory host and place.
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
      - Without them the newest set tells.
    type: list
    elements: path
"""

    PASSWORD = r"""
options:
  password:
    description:
      - The password of the key backups, in quotes. Keep it apart from the stores.
      - Use C(ansible-vault) or a lookup, never a plain variable.
      - What YAML makes a number, a date or a boolean of is refused, since it would be another
        password than the one on paper.
    type: str
  previous_password:
    description:
      - The password that earlier key backups were made with, where it has been changed.
    type: str
"""
