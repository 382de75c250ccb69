# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ca_database_backup
short_description: Back up the database of a CA when that is due
version_added: 0.1.0
description:
  - Makes a set of what C(openssl ca) keeps beside its keys. That is the configuration with the files that it includes;
    C(index.txt), its C(.attr) and C(.old) files; C(serial) and C(crlnumber); the CA certificates; what is below C(new_certs_dir),
    C(certs) and C(crl_dir); the C(crl); requests in directories beside C(new_certs_dir) that are named C(requests), C(csr), C(csrs),
    C(req) or C(reqs), and C(*.csr) and C(*.req) beside the CA certificate.
  - Every file is searched for private keys before it goes in, and the finished archive is searched once more. A file that holds one is
    left out and named. Found are PEM, DER, PKCS#12 and base64 of them, also in other files, in UTF-16 and in JSON; the forms of
    OpenSSH, PuTTY, Windows (PVK, blobs) and Java (JKS, JCEKS); JWK; what C(openssl pkey -text) prints; and the numbers of this CA's own
    keys in any of these and bare. A file that is compressed or encrypted as a whole can't be searched and is left out, too.
  - A store is never in a set, also where it lies in the directory of the CA.
  - The CA may issue meanwhile. Every file is looked at before and after it was copied, and the copy is made again where anything
    has changed.
  - The first set is a full one. Those that follow are increments. They hold configuration, index, numbers, CA certificates and CRLs whole,
    and of what was issued only what was added or changed since the set before. A restore takes the whole chain.
  - What an earlier set holds was searched then, and an increment does not search it again. A full set reads and searches everything. It is
    made where no intact set to build on is in each store; where a key is there that was not before; where a set of the chain is damaged,
    or no known signer vouches for it any more; where two runs made sets apart; where another host or place made the last one; where a chain
    gets long, old or large (O(full_after)); and where a person asks for it (O(full)).
  - A set is due when the database or the configuration has changed since the newest intact one, or when that is older than O(max_age).
    Files that were only touched don't count; they are read to see that.
  - Of a known authority a set is stored only at home, which is an inventory host and place that its newest record names, or where
    O(authority_id) names it. Elsewhere the task fails with V(not_at_home) until a person says what is right. O(move) and O(twin) make a
    set due.
options:
  host_store:
    description:
      - A store of kind V(databases) on the host of the CA, usually a mounted share, in place of O(stores). Nothing travels then.
    type: path
  max_age:
    description:
      - The age at which a set is due though nothing has changed, such as V(12h), V(7d) or V(4w).
    type: str
  full:
    description:
      - Whether the newest set is to be a full one, for which everything is read and searched again. It is made where the newest one is an
        increment, or where one is due. Windows makes full sets only.
    type: bool
    default: false
  full_after:
    description:
      - When the increments of a chain are followed by a full set. The first of these that holds decides.
      - Not for Windows, whose sets are full ones.
    type: dict
    suboptions:
      sets:
        description:
          - After this many increments on one full set, V(0) to V(999). With V(0) each set is a full one. V(30) where it is not given.
        type: int
      days:
        description: This many days after the full set was made. V(35) where it is not given.
        type: int
      share:
        description:
          - When the increments have more bytes than this percentage of the full set.
          - Where it is not given, V(50), and never for less than 16 MiB.
        type: int
  keep_full_sets:
    description:
      - How many intact full sets of this database to keep in each store, with the increments on them. Older ones are removed once a new set
        is stored, the last one never, and none that is younger than O(keep_days). A chain goes as a whole, or stays.
      - A set is removed only where a newer intact one holds all its entries (which may have been revoked or have expired since) and all
        issued files. After a snapshot of the host was brought back, the good sets stay. Damaged sets stay as well.
      - All are kept where it is not given.
    type: int
  keep_days:
    description:
      - How many days a set is kept in any case, where O(keep_full_sets) is given.
    type: int
    default: 35
  truncate_logs:
    description:
      - On Windows, whether the CA may drop the log files that the set holds. Leave it where another product backs up the same database.
      - Ignored elsewhere, where there are no log files.
    type: bool
    default: false
  extra_paths:
    description:
      - Files and directories on the host that the CA needs besides, such as extension files, wrappers or publishing scripts.
      - They go into the set, searched for private keys like every other file, and make one due when they change.
      - Not for Windows, which writes its sets itself.
    type: list
    elements: str
extends_documentation_fragment:
  - keyward.pki._attributes
  - keyward.pki._authority
  - keyward.pki._backups.authority_id
  - keyward.pki._backups.home
  - keyward.pki._backups.records
  - keyward.pki._backups.database_stores
  - keyward.pki._backups.signing
  - keyward.pki._backups.memory
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
      - Decided by what the database and the newest set contain.
notes:
  - On Windows C(Backup-CARoleService) writes the database, and the set is a directory of files with their digests in its manifest. It
    also holds the exported registry, C(CAPolicy.inf), the CA certificates and the list of templates. A set is due when the last request,
    the last revocation or the configuration has changed. That the database holds no private key of the CA is the promise of the API;
    no file of keys is among the set's files. Keys that the CA has archived are in the database.
  - Exactly one of O(stores) and O(host_store) must be given.
  - With O(stores), a CA whose files are not the login user's must be read as root. Another user could not hand the set over.
  - Elsewhere a set is two C(tar) archives with a list of their members and a manifest. C(core.tar.gz) holds configuration, index,
    numbers, CA certificates and CRLs, C(issued.tar.gz) what was issued. Without this collection, C(tar) puts them back, one set of a chain
    after the other.
  - Each time, sets are looked at by their signatures and sizes. Their digests are compared before anything is restored or removed.
  - A set is of a database, not of a key. A database is recognised by the inventory host and the place of its CA, so that two sections
    of one configuration, or a CA and its clone on another host, have sets of their own, also where they share a key.
seealso:
  - module: keyward.pki.ca_database_restore
author:
  - keyward.pki contributors (@keyward)
"""

EXAMPLES = r"""
- name: Back up the database of a CA when that is due
  keyward.pki.ca_database_backup:
    config_file: /etc/pki/CA/openssl.cnf
    stores:
      - /srv/keyward/databases
    max_age: 7d
    keep_full_sets: 3
  become: true
"""

RETURN = r"""
authority:
  description: The authority, as in RV(keyward.pki.ca_info#module:authority).
  returned: success
  type: dict

set:
  description: The newest set after the task. V(null) where there is none.
  returned: success
  type: dict
  contains:
    id:
      description: Its id, the same in every store.
      type: str
    kind:
      description: V(full) or V(increment).
      type: str
    full_because:
      description:
        - Why it is a full one. V(asked) (O(full)), V(no_base) (there was no set to build on), V(chain_broken) (one is damaged, or missing
          in a store), V(unvouched) (nobody known vouches for one), V(forked), V(made_elsewhere), V(new_key), V(chain_long), V(chain_old) or
          V(chain_large) (O(full_after)). Else V(null).
      type: str
    links:
      description: The sets that it builds on, the full one first; empty for a full one. A restore needs all of them.
      type: list
      elements: str
    changes:
      description: How many of the members that were issued are C(added), C(changed) and C(removed) in an increment. Else V(null).
      type: dict
    database:
      description: The id of the database that it is of. Its first set fixed it.
      type: str
    paths:
      description: Where it lies, on the controller, or on the host with O(host_store).
      type: list
      elements: str
    created:
      description: When it was made (ISO 8601, UTC).
      type: str
    as_of:
      description: The moment that it is a copy of (ISO 8601, UTC).
      type: str
    files:
      description: Its files.
      type: list
      elements: dict
      contains:
        name:
          description: The file's name in the set's directory.
          type: str
        sha256:
          description: The digest of its bytes.
          type: str
        size:
          description: Its size in bytes.
          type: int
    members:
      description: How many files, directories and symbolic links it holds.
      type: int

due:
  description: Whether a set was due when the task began.
  returned: success
  type: bool

database:
  description: The database.
  returned: success
  type: dict
  contains:
    entries:
      description: How many certificates it has.
      type: int
    next_serial:
      description: The serial number that is issued next, as hex digits. V(null) where the CA has no C(serial).
      type: str
    next_crl_number:
      description: The next CRL number, as hex digits. V(null) where the CA has no C(crlnumber).
      type: str

left_out:
  description: Files that the newest set leaves out, because they hold a private key, can't be searched for one, are sparse,
    larger than 64 GiB or nothing but repetition.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
    why:
      description: What speaks against it.
      type: str
    count:
      description: How many files of a folder these are, where that is expected, as the keys of subscribers are. Else V(null).
      type: int

removed:
  description: The directories of older sets that were removed (O(keep_full_sets)).
  returned: success
  type: list
  elements: str

reasons:
  description:
    - Why a set was due, in the shape of RV(keyward.pki.ca_key_verify#module:reasons).
    - The codes are V(no_set), V(database_changed), V(configuration_changed), V(max_age), V(full_asked) and V(home_changed).
    - Or, where nothing was stored, V(not_at_home), V(foreign_authority) and V(index_refused) (C(openssl ca) could not use C(index.txt)).
    - Or V(rolled_back), where the stores hold less than O(memory) says.
  returned: always
  type: list
  elements: dict

advisories:
  description:
    - What is worth knowing and stops nothing, as in RV(keyward.pki.ca_info#module:advisories).
    - Codes are, among others, V(private_key_left_out) (each time, with a warning), V(digest_mismatch), V(set_not_whole) (a set
      that it builds on is missing or damaged), V(another_ca_at_home),
      V(key_store_not_read), V(unknown_signer), V(forked), V(not_remembered), V(unfinished_issue),
      V(unfinished_finished) (openssl was killed between two renames, and its whole file was put in place),
      V(store_on_the_host), V(other_copy) (the CA has a database on another host), V(older_sets_kept) and, in check mode,
      V(fewer_entries).
    - V(rows_vanished), each time and with a warning, means that the database lacks entries that an earlier set has and whose
      certificates have not expired. That set stays, and it is said until they are back or that set is taken out of the store.
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._arguments import CA_DATABASE_BACKUP
from ansible_collections.keyward.pki.plugins.module_utils._execute import run
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Commit, Copy, ReadStore, TellChanged, TellState

if t.TYPE_CHECKING:  # sent with this module, and loaded by the orders that need it
    from ansible_collections.keyward.pki.plugins.module_utils import _host_sets  # noqa: F401 # pylint: disable=unused-import
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca import database  # noqa: F401 # pylint: disable=unused-import


def main() -> None:
    run(CA_DATABASE_BACKUP, TellState, ReadStore, TellChanged, Copy, Commit)


if __name__ == "__main__":
    main()
