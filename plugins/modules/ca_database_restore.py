# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_database_restore
short_description: Put the database of a CA back
version_added: 0.1.0
description:
  - Puts back what the host lacks of a set, byte for byte, with modes, owners and times. Files that are right are not touched, and
    private keys never are.
  - A set goes out only to a home of its authority, which is an inventory host and place that its newest record names, or where
    O(authority_id) or O(set) name it. On a bare host, on which nothing of the CA is left, that place alone tells which one it is.
  - A database that has everything of the set and more stays as it is. One that lacks entries of the set and has others is a conflict.
  - An old database is dangerous. It hands out serial numbers and CRL numbers a second time and forgets revocations. Give what is
    published, and the task refuses to finish where that is newer, unless O(advance) says how to go on.
  - Where the CA lives in another directory than before, its configuration is rewritten. Paths below the former directory become paths below
    the present one, also in included files, in C(vars) of easy-rsa and in links. Comments and everything else stay byte by byte. A
    configuration of the moved CA that is on the host already stays.
  - Where the host has the configuration that the set has, nothing is put back outside the places that it names. Where the
    configuration is lost or set aside, only the set says what belongs to the CA. Then whoever can write the store decides what root
    writes on that host, and what C(openssl ca) loads. Protect a store of sets as you protect the CA itself.
options:
  host_store:
    description:
      - A store of kind V(databases) on the host of the CA, usually a mounted share, in place of O(stores). Nothing travels then.
    type: path
  set:
    description:
      - One set on the controller, in place of O(stores); a set's directory, or a database's, or that of an authority with one database.
      - Of the latter two the newest set is used. What an increment builds on is looked for beside it.
    type: path
  part:
    description:
      - With V(configuration), only the configuration and the files that it includes. On a bare host this comes first, then the
        keys (M(keyward.pki.ca_key_restore)), then the rest.
    type: str
    choices: [all, configuration]
    default: all
  on_conflict:
    description:
      - What to do where the database on the host has entries that the set lacks, or where other files lie in its place.
      - With V(set_aside) they are kept as C(<path>.set-aside-<time>), and the set takes their place.
      - With V(merge), the rows of both are kept, for a CA that went on after a snapshot was brought back. A revocation of either side
        counts, and the numbers go on beyond both. A serial number on two certificates is reported. C(index.txt) holds it once, as openssl
        allows, and the other row as a comment. Not on Windows.
    type: str
    choices: [fail, merge, set_aside]
    default: fail
  published_crl:
    description:
      - The newest published CRLs of all generations, files on the controller (PEM or DER).
    type: list
    elements: path
  published_certificates:
    description:
      - A directory on the controller with certificates that are known to be issued (PEM or DER).
    type: path
  advance:
    description:
      - How to go on where what is published is newer; V(auto), or a dictionary of C(serial) and C(crl_number) (hex digits).
      - With V(auto), the next serial number and CRL number are taken above everything seen. With a dictionary they are the given ones.
      - Without it, too, the numbers of a restored database go on 65536 beyond everything seen, once for each set, unless the host's own
        files show which numbers were used since.
      - Revocations that a published CRL shows and the database lacks are entered again.
    type: raw
  extra_paths:
    description:
      - Which files and directories come back that are in the set by C(extra_paths) of M(keyward.pki.ca_database_backup). Without this
        option none does.
    type: list
    elements: str
  start_without_parent_crl:
    description:
      - On Windows, start a subordinate CA also where no CRL of the CA above can be fetched, since its host is down as well.
      - The CA then ignores that (C(CRLF_REVCHECK_IGNORE_OFFLINE) in C(CRLFlags)) until it is told otherwise. The advisory
        V(revocation_not_checked) has the command.
    type: bool
    default: false
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
  - keyward.pki._authority.directory_account
  - keyward.pki._backups.authority_id
  - keyward.pki._backups.records
  - keyward.pki._backups.database_stores
  - keyward.pki._backups.signing
  - keyward.pki._backups.memory
attributes:
  check_mode:
    support: full
    details:
      - The set is brought into a temporary directory of the host, and nothing else is written.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - What is right is not touched, also after O(advance).
notes:
  - On Windows, where no CA is configured, it is configured with the certificate in the machine store, so that the keys come first
    (M(keyward.pki.ca_key_restore)). The registry of the set comes back without what belongs to the host that it came from. The set is
    compared with O(published_crl) and O(published_certificates) by their dates. Of O(advance) only V(auto) is possible. Where every
    revocation was entered, CRLs are published until their number is beyond the last one, up to a hundred.
  - Exactly one of O(stores), O(host_store) and O(set) must be given.
seealso:
  - module: keyward.pki.ca_key_restore
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Put the database of a CA back, and go on beyond what is published
  keyward.pki.ca_database_restore:
    config_file: /etc/pki/CA/openssl.cnf
    stores:
      - /srv/keyward/databases
    published_crl:
      - /srv/published/crl.pem
    advance: auto
  become: true
"""

RETURN = r"""
authority:
  description: The authority, as in RV(keyward.pki.ca_info#module:authority).
  returned: success
  type: dict

set:
  description: The set that was put back, as in RV(keyward.pki.ca_database_backup#module:set).
  returned: success
  type: dict

as_of:
  description: The moment that the set is a copy of (ISO 8601, UTC).
  returned: success
  type: str

restored:
  description: What was put back, or would be.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Where it lies on the host.
      type: str
    count:
      description: How many files, where more than 1000 issued ones come back into the folder C(path). V(null) of a file.
      type: int
    part:
      description: What it belongs to.
      type: str
      choices: [configuration, database, issued, request, crl, certificate, directory, extra]

set_aside:
  description: What was in the way and was kept under another name, as in RV(keyward.pki.ca_key_restore#module:set_aside).
  returned: success
  type: list
  elements: dict

next_serial:
  description: The serial number that is issued next, as hex digits. V(null) where the CA has no C(serial).
  returned: success
  type: str

next_crl_number:
  description: The next CRL number, as hex digits. V(null) where the CA has no C(crlnumber).
  returned: success
  type: str

advanced:
  description: The numbers that were advanced. V(null) where none was.
  returned: success
  type: dict
  contains:
    serial:
      description: The next serial number now, or V(null).
      type: str
    crl_number:
      description: The next CRL number now, or V(null).
      type: str

rewritten:
  description: The lines of the configuration that named the place where the CA was, and now name this one.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
    before:
      description: The line in the set, or here.
      type: str
    after:
      description: The line now.
      type: str

reentered:
  description: The revocations that were entered again.
  returned: success
  type: list
  elements: dict
  contains:
    serial:
      description: The serial number of the certificate, as hex digits.
      type: str
    revoked_at:
      description: When it was revoked, as an C(index.txt) has it (YYMMDDHHMMSSZ).
      type: str
    reason:
      description: Why, as openssl names it. V(null) where that is not told.
      type: str

checklist:
  description:
    - What stands around a CA on Windows and is in no backup, once the set has taken the place of its database. Empty elsewhere.
  returned: success
  type: list
  elements: dict
  contains:
    item:
      description: What it is about.
      type: str
      choices: [templates, publication, nt_auth, object_rights, ocsp_responders, ndes]
    found:
      description: What the set and the host show of it.
      type: str
    done:
      description: What the task did about it, or V(null).
      type: str
    left:
      description: What a person has to do, or V(null).
      type: str
    commands:
      description: The commands for that. What stands in angle brackets is to be filled in.
      type: list
      elements: str

reasons:
  description:
    - Why the task failed, in the shape of RV(keyward.pki.ca_key_verify#module:reasons).
    - The codes are V(conflict), V(foreign_authority), V(not_at_home), V(published_crl_newer), V(published_certificates_newer),
      V(rolled_back), V(set_not_whole) (a set that the newest one builds on is missing or damaged) and V(index_refused).
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(crl_expires_soon), V(configuration_differs), V(database_newer), V(numbers_advanced),
      V(serial_used_twice), V(published_not_compared), V(moved), V(revocation_not_checked), V(extra_paths_not_restored) and
      V(digest_mismatch) (the newest set is damaged, and the one before it was taken).
    - V(configuration_loads_code) and V(configuration_decides) say what a configuration from the set has the CA load or allow. They are
      in the diff, too.
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_DATABASE_RESTORE
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import ReadStore, Restore

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils import _host_sets  # noqa: F401 # pylint: disable=unused-import
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import database  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_DATABASE_RESTORE, ReadStore, Restore)


if __name__ == "__main__":
    main()
