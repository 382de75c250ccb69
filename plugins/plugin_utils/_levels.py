# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what each reason and advisory makes of a run; may change in any release.

docs/outcomes.md has the same table for people; a test holds both and every code that the collection can produce together.
"""

from __future__ import annotations

RED, WARNING, COUNTED = "red", "warning", "counted"
LEVELS = {
    # Something that no good copy holds, or good copies in danger: the run fails each night until that is put right.
    RED: (
        "authority_unreadable",
        "conflict",
        "database_file_missing",
        "database_unreadable",
        "digest_mismatch",
        "foreign_authority",
        "generation_missing",
        "index_refused",
        "key_inaccessible",
        "key_mismatch",
        "key_missing",
        "key_missing_on_host",
        "limit_exceeded",
        "malformed",
        "missing_in_store",
        "not_at_home",
        "nothing_on_host",
        "opens_without_password",
        "other_store",
        "password_wrong",
        "published_certificates_newer",
        "published_crl_newer",
        "revocation_not_reentered",
        "revocations_missing",
        "rolled_back",
        "rows_vanished",
        "serial_used_twice",
        "unsupported",
    ),
    # All is held, and a person must act.
    WARNING: (
        "added_by_parent",
        "another_ca_at_home",
        "archived_keys",
        "certificate_expired",
        "certificate_missing_on_host",
        "certificate_runs_out",
        "certificate_unreadable",
        "certificate_without_row",
        "certutil_failed",
        "configuration_loads_code",
        "crl_number_behind",
        "crl_rejected",
        "database_set_aside",
        "extension_changed",
        "extension_lost",
        "extra_paths_not_restored",
        "fewer_entries",
        "forked",
        "generation_lost_on_host",
        "hash_replaced",
        "ignored_certificate",
        "index_passed_over",
        "issued_not_verified",
        "key_storage_changed",
        "key_store_not_read",
        "key_without_certificate",
        "may_not_sign_crls",
        "moved",
        "names_old_host",
        "needs_older_certificate",
        "no_mac",
        "not_exportable",
        "older_key_inaccessible",
        "older_key_missing_on_host",
        "other_copy",
        "outlives_issuer",
        "passphrase_beside_key",
        "pending_key",
        "private_key_left_out",
        "published_not_compared",
        "reboot_required",
        "signature_not_verified",
        "store_on_the_host",
        "stricter_certificate",
        "unfinished_installation",
        "unfinished_issue",
        "unfinished_renewal",
        "unknown_signer",
        "weak_encryption",
        "wider_certificate",
    ),
    # Expected, or why something was done.
    COUNTED: (
        "answered",
        "certificates_reentered",
        "configuration_changed",
        "crl_names_certificate",
        "database_changed",
        "database_newer",
        "expired_generation",
        "extension_added",
        "home_changed",
        "issued_before",
        "key_in_token",
        "limited_to_request",
        "max_age",
        "no_crl_needed",
        "no_set",
        "not_remembered",
        "numbers_advanced",
        "numbers_newer",
        "older_sets_kept",
        "remaining_days",
        "same_name_other_keys",
        "trailing_bytes",
        "unfinished_finished",
    ),
}
_OF_CODE = {code: level for level, codes in LEVELS.items() for code in codes}


def level_of(code: str) -> str:
    """What nobody knows, such as a code that only a host made up, is for a person to look at."""
    return _OF_CODE.get(code, RED)
