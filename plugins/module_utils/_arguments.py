# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the argument specifications that modules and action plugins share; may change in any release.

Kept in step with the doc fragments of the same names. Options that only some tasks need are not required here: the
controller says in a sentence what is missing, before a host is touched.
"""

from __future__ import annotations

import typing as t

Spec = t.Dict[str, t.Any]

CONTROLLER: Spec = {"controller": {"type": "str", "no_log": True}}

WHICH_AUTHORITY: Spec = {
    "backend": {"type": "str", "default": "auto", "choices": ["auto", "openssl", "easyrsa", "adcs"]},
    "config_file": {"type": "path"},
    "directory": {"type": "path"},
    "name": {"type": "str"},
    "private_key_passphrase": {"type": "str", "no_log": True},
    "certificate_file": {"type": "path"},
    "private_key_file": {"type": "path", "no_log": False},
    "chain_file": {"type": "path"},
    "older": {
        "type": "list",
        "elements": "dict",
        "options": {
            "certificate_file": {"type": "path", "required": True},
            "private_key_file": {"type": "path", "no_log": False},
            "private_key_passphrase": {"type": "str", "no_log": True},
        },
    },
}

# The parts of a place, as manifests carry it: the options of those that say which CA and where it lies on its host.
PLACE = ("config_file", "directory", "name", "certificate_file", "private_key_file")
BEGINNING_OF_A_PLACE = ("config_file", "directory", "certificate_file")  # one of them, where a host has no list of its CAs
FOUND_WITHOUT_A_PLACE = ("adcs",)  # software that tells which CA its host has


def stated_place(options: t.Mapping[str, t.Any]) -> t.Dict[str, str]:
    """What a task states of a place, as far as it compares: a relative path means something to a host alone."""
    given = {option: options[option] for option in PLACE if options.get(option) is not None}
    return {option: text for option, text in given.items() if WHICH_AUTHORITY[option]["type"] != "path" or text.startswith("/")}


# Those of them without a secret: they travel as a module's own arguments, the others beside the order.
SELECTING = tuple(name for name in WHICH_AUTHORITY if name not in ("private_key_passphrase", "older"))

AUTHORITY_ID: Spec = {"authority_id": {"type": "str"}}
HOME: Spec = {"move": {"type": "bool", "default": False}, "twin": {"type": "bool", "default": False}}
STORES: Spec = {"stores": {"type": "list", "elements": "path"}}
KEY_STORES: Spec = {"key_stores": {"type": "list", "elements": "path", "no_log": False}}
BACKUP: Spec = {"backup": {"type": "list", "elements": "path"}}
SIGNERS: Spec = {
    "store_signing_key": {"type": "path", "no_log": False},
    "allowed_signers": {"type": "path"},
    "memory": {"type": "path"},
    "accept": {"type": "list", "elements": "str"},
}
PASSWORD: Spec = {"password": {"type": "str", "no_log": True}}
DIRECTORY_ACCOUNT: Spec = {"directory_user": {"type": "str"}, "directory_password": {"type": "str", "no_log": True}}
PREVIOUS_PASSWORD: Spec = {"previous_password": {"type": "str", "no_log": True}}

CA_INFO: Spec = {**WHICH_AUTHORITY, "host_store": {"type": "path"}, **CONTROLLER}
CA_AUDIT: Spec = {
    **KEY_STORES,
    "database_stores": {"type": "list", "elements": "path"},
    "cas": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "host": {"type": "str", "required": True},
            "label": {"type": "str", "required": True},
            "place": {"type": "dict", "required": True},
            "key_stores": {"type": "list", "elements": "path", "default": [], "no_log": False},
            "database_stores": {"type": "list", "elements": "path", "default": []},
            "host_store": {"type": "str"},
            "offline": {"type": "bool", "default": False},
            "info": {"type": "dict"},
            "failure": {"type": "str"},
        },
    },
    **{name: SIGNERS[name] for name in ("allowed_signers", "memory")},
}
CA_STORE: Spec = {
    "path": {"type": "path", "required": True},
    "kind": {"type": "str", "required": True, "choices": ["keys", "databases", "passwords"]},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "str"},
    "share_permissions": {"type": "str", "choices": ["accepted"]},
    "host": {"type": "bool", "default": False},
    **{name: SIGNERS[name] for name in ("store_signing_key", "allowed_signers")},
}
CA_KEY_BACKUP: Spec = {
    **WHICH_AUTHORITY,
    **AUTHORITY_ID,
    **HOME,
    **STORES,
    **SIGNERS,
    **PASSWORD,
    **PREVIOUS_PASSWORD,
    "reference": {"type": "str"},
    "force": {"type": "bool", "default": False},
    **CONTROLLER,
}
CA_KEY_BACKUP_INFO: Spec = {**WHICH_AUTHORITY, **AUTHORITY_ID, **STORES, **SIGNERS, **PASSWORD, **PREVIOUS_PASSWORD, **CONTROLLER}
CA_KEY_VERIFY: Spec = {
    **WHICH_AUTHORITY,
    **STORES,
    **SIGNERS,
    **BACKUP,
    **PASSWORD,
    **PREVIOUS_PASSWORD,
    "verified_by": {"type": "str"},
    **CONTROLLER,
}
CA_KEY_RESTORE: Spec = {
    **WHICH_AUTHORITY,
    **AUTHORITY_ID,
    **HOME,
    **STORES,
    **SIGNERS,
    **BACKUP,
    **PASSWORD,
    **PREVIOUS_PASSWORD,
    "on_conflict": {"type": "str", "default": "fail", "choices": ["fail", "merge", "set_aside"]},
    "allow_unencrypted_key": {"type": "bool", "default": False},
    **CONTROLLER,
}
CA_INSTALL: Spec = {
    **WHICH_AUTHORITY,
    "kind": {"type": "str", "default": "root", "choices": ["root", "subordinate"]},
    "subject": {"type": "dict"},
    "key_type": {"type": "str", "default": "RSA", "choices": ["RSA", "EC", "Ed25519"]},
    "key_size": {"type": "int", "default": 4096, "choices": [2048, 3072, 4096, 8192]},
    "curve": {"type": "str", "default": "secp384r1", "choices": ["secp256r1", "secp384r1", "secp521r1"]},
    "days": {"type": "int", "default": 3650},
    "path_length": {"type": "int"},
    "certificate": {"type": "str"},
    **DIRECTORY_ACCOUNT,
    **AUTHORITY_ID,
    **STORES,
    **SIGNERS,
    **BACKUP,
    **PASSWORD,
    **PREVIOUS_PASSWORD,
    **CONTROLLER,
}
CA_RENEW: Spec = {
    **WHICH_AUTHORITY,
    "reuse_key": {"type": "bool", "required": True},
    "remaining_days": {"type": "int"},
    "issued_before": {"type": "str"},
    "days": {"type": "int"},
    "certificate": {"type": "str"},
    **CONTROLLER,
}
CA_SIGN: Spec = {
    **WHICH_AUTHORITY,
    "request": {"type": "str", "required": True},
    "days": {"type": "int"},
    "extensions": {"type": "str"},
    "subject": {"type": "dict"},
    "requested_by": {"type": "str"},
    **STORES,
    **SIGNERS,
    **CONTROLLER,
}
CA_CRL: Spec = {
    **WHICH_AUTHORITY,
    "sign": {"type": "bool", "default": True},
    "scratch": {"type": "bool", "default": False},
    "days": {"type": "int"},
    "remaining_days": {"type": "int"},
    "published_crl": {"type": "path"},
    "der_directory": {"type": "path"},
    "fetch": {"type": "bool", "default": False},
    "former_hosts": {"type": "list", "elements": "str"},
    **CONTROLLER,
}
CA_DATABASE_BACKUP: Spec = {
    **WHICH_AUTHORITY,
    **AUTHORITY_ID,
    **HOME,
    **KEY_STORES,
    **STORES,
    **SIGNERS,
    "host_store": {"type": "path"},
    "max_age": {"type": "str"},
    "full": {"type": "bool", "default": False},
    "full_after": {"type": "dict", "options": {name: {"type": "int"} for name in ("sets", "days", "share")}},
    "keep_full_sets": {"type": "int"},
    "keep_days": {"type": "int", "default": 35},
    "truncate_logs": {"type": "bool", "default": False},
    "extra_paths": {"type": "list", "elements": "str"},
    **CONTROLLER,
}
CA_DATABASE_RESTORE: Spec = {
    **WHICH_AUTHORITY,
    **AUTHORITY_ID,
    **KEY_STORES,
    **STORES,
    **SIGNERS,
    "host_store": {"type": "path"},
    "set": {"type": "path"},
    "part": {"type": "str", "default": "all", "choices": ["all", "configuration"]},
    "on_conflict": {"type": "str", "default": "fail", "choices": ["fail", "merge", "set_aside"]},
    "published_crl": {"type": "list", "elements": "path"},
    "published_certificates": {"type": "path"},
    "advance": {"type": "raw"},
    "extra_paths": {"type": "list", "elements": "str"},
    "start_without_parent_crl": {"type": "bool", "default": False},
    **DIRECTORY_ACCOUNT,
    **CONTROLLER,
}
