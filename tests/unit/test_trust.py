# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sentence of docs/trust.md has a test. A new or changed one fails here until it is told which one holds it."""

from __future__ import annotations

import re
from pathlib import Path

from support.guides import DOCS, ROOT

# How a sentence begins: the tests without which it would be only words.
PROOFS = {
    "Only what a known signer": "test_what_is_planted_counts_for_nothing",
    "This page says": "test_every_sentence_has_a_test",
    # Who vouches
    "Manifests and events": "test_ssh_keygen_checks_every_file_of_every_store",
    "`ca_store` makes it": "test_the_first_store_makes_the_key",
    "`allowed_signers` says": "test_a_line_counts_as_ssh_keygen_has_it",
    "Only lines with": "test_only_lines_that_say_the_namespace_count_and_no_certificate_authority",
    "A line's `valid-after`": "test_a_line_counts_as_ssh_keygen_has_it",
    "Without that file": "test_where_the_signers_are_not_mounted test_a_list_that_says_nothing_is_an_error",
    "Both lie in": "test_cron_as_root_a_person_and_an_execution_environment_on_the_same_stores",
    "What a controller remembers": "test_cron_as_root_a_person_and_an_execution_environment_on_the_same_stores",
    "Several controllers": "test_cron_as_root_a_person_and_an_execution_environment_on_the_same_stores",
    "In a container": "test_a_key_is_made_once_and_never_in_a_container_unless_its_path_was_given",
    "A store keeps": "test_ssh_keygen_checks_every_file_of_every_store test_one_flow_wherever_the_store_is",
    "Believe it once": "test_a_controller_with_a_key_of_its_own_makes_no_first_backup",
    "`ssh-keygen` checks": "test_ssh_keygen_checks_every_file_of_every_store test_quickstart",
    # Who may read
    "The keys store has": "test_what_may_be_read_in_stores",
    "Sets are not": "test_what_may_be_read_in_stores test_tar_alone_opens_a_set",
    "They hold names": "test_what_may_be_read_in_stores test_no_private_key_gets_into_a_set",
    "A reader can't": "test_a_reader_stops_no_store test_one_at_a_time_and_who_holds_it_is_said",
    # Who may write
    "What no known signer signed": "test_what_is_planted_counts_for_nothing test_what_is_planted_among_sets_counts_for_nothing",
    "Each run reports": "test_what_is_planted_counts_for_nothing",
    "It can't make an authority": "test_a_controller_with_a_key_of_its_own_makes_no_first_backup",
    "It stops no other": "test_what_is_wrong_with_one_authority_stops_no_other test_what_is_planted_counts_for_nothing",
    "It can't lead": "test_nothing_is_written_through_a_link",
    "It gains nothing": "test_whoever_changes_them_wins_nothing",
    "They only say": "test_a_first_one_is_one_only_where_all_of_them_were_looked_at",
    "Missing hints": "test_each_task_leaves_them_and_mends_them",
    "It can delete": "test_whoever_may_write_can_delete",
    "A store that lacks": "test_whoever_may_write_can_delete test_a_damaged_copy_is_set_aside_and_its_sound_twin_takes_its_place",
    "Each night looks": "test_a_damaged_older_one_is_found_in_its_turn_and_told_until_it_is_mended",
    "It can put back": "test_stores_that_were_rolled_back",
    "A controller that remembers": "test_stores_that_were_rolled_back test_a_store_that_was_emptied_or_replaced",
    "One without memory": "test_without_memory_what_is_signed_is_taken_and_that_is_said",
    "A CA that a person": "test_a_ca_that_moved_does_not_go_back_in_silence",
    "The same goes": "test_another_store_of_the_host_is_seen test_key_stores_that_hold_less_than_before_decide_nothing_in_silence",
    "Nothing in a keys store": "test_nothing_in_a_store_of_keys_is_written_again",
    "What a stolen key signed": "test_a_stolen_key_is_taken_out_and_a_person_vouches",
    "Where two controllers": "test_two_controllers_that_write_apart",
    "A time in": "test_a_controller_whose_clock_is_ahead test_a_time_that_has_not_come_is_infinitely_old",
    # Who has a host
    "Its own CA's": "test_a_host_can_lie_about_its_own_ca",
    "It gets no key": "test_a_host_that_shows_the_certificates_of_another_ca_gets_and_stores_nothing "
    "test_a_host_that_shows_another_ca_stores_and_gets_no_set_of_it",
    "`install` restores": "test_a_ca_whose_keys_are_in_a_store_is_brought_back_where_a_person_names_it",
    "Its parent signs": "test_at_a_renewal_only_the_subject_of_the_newest_backup_is_signed",
    "A POSIX host": "test_what_travels_is_for_this_task_alone_and_what_is_stored_for_long "
    "test_only_the_missing_key_travels_and_under_a_password_of_its_own",
    "A Windows host": "test_software_that_writes_its_files_gets_the_password_only_where_it_is_due",
    "What it answers": "test_another_shape_or_size_is_refused_where_it_stands test_text_from_a_host_can_be_printed",
    "What it sends": "test_a_host_that_sends_another_file_than_it_said test_a_host_that_answers_without_end_is_cut",
    "Only the task's": "test_a_slow_host_is_ended_by_the_timeout_of_its_task",
    "A store on it": "test_a_store_of_the_host_is_no_second_copy",
    "Nothing secret": "test_nothing_is_sent_while_core_prints_what_it_sends "
    "test_a_way_that_can_not_be_guarded_is_refused_before_anything_is_sent",
    # Who may write into folders of a CA
    "A web server": "test_nobody_else_stops_a_backup",
    "No set takes": "test_what_lies_outside_gets_into_no_set test_a_link_in_the_place_of_a_folder_that_was_looked_at",
    "Pipes, devices": "test_nobody_else_stops_a_backup test_what_would_make_a_set_that_nobody_unpacks_is_left_out",
    "What a set leaves out": "test_what_is_left_out_is_said_each_time",
    # What a restore does
    "Files go only": "test_a_forged_set_reaches_nothing_but_the_ca test_nothing_is_written_through_a_link_of_others "
    "test_a_forged_set_makes_no_program_of_root",
    "A key gets": "test_no_manifest_opens_a_key test_a_manifest_moves_no_key",
    "Without a signature": "test_the_worst_day_with_a_file_its_password_and_the_paper",
    "A restore reports": "test_the_code_that_a_configuration_loads_stands_in_the_diff test_what_a_registry_decides_is_told",
    # Lost or stolen
    "*Lost*": "test_a_backup_says_each_night_that_it_can_not_sign test_ssh_keygen_checks_every_file_of_every_store",
    "*Stolen*": "test_a_stolen_key_is_taken_out_and_a_person_vouches",
    "Prove each": "test_a_stolen_key_is_taken_out_and_a_person_vouches",
    "Sets can't be": "test_a_signer_who_was_removed_makes_the_next_set_a_full_one",
    # The worst day
    "A PKCS #12 file": "test_the_worst_day_with_a_file_its_password_and_the_paper",
    "It needs no": "test_the_worst_day_with_a_file_its_password_and_the_paper",
    "With the paper": "test_the_worst_day_with_a_copy_that_nobody_can_write",
    # What does not hold
    "Who owns": "test_whoever_has_the_controller_decides_what_counts",
    "Any signer": "test_any_signer_speaks_for_every_authority",
    "Give each": "test_any_signer_speaks_for_every_authority",
    "Where nothing remembers": "test_all_stores_rolled_back_where_nothing_remembers",
    "Published CRLs": "test_all_stores_rolled_back_where_nothing_remembers",
    "Who may write": "test_whoever_may_write_can_delete",
    "Keep one": "test_nothing_in_a_store_of_keys_is_written_again test_whoever_may_write_can_delete",
    "Without `key_stores`": "test_without_backups_of_keys_a_host_can_claim_a_ca_that_has_no_set_yet",
    "It can claim": "test_without_backups_of_keys_a_host_can_claim_a_ca_that_has_no_set_yet",
    "The controller asks": "test_a_server_can_do_nothing_but_fail",
    "It learns": "test_a_server_can_do_nothing_but_fail",
}


def sentences(text: str) -> list[str]:
    """Without headings and shell."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            found += re.split(r"(?<=[.?!:])\s+(?=[A-Z`*])", line.removeprefix("- ").replace("*: ", "*:", 1))
    return [one for one in found if one.strip(".: ")]


def test_every_sentence_has_a_test() -> None:
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    told = sentences((DOCS / "trust.md").read_text(encoding="utf-8"))
    for one in told:
        assert len([begins for begins in PROOFS if one.startswith(begins)]) == 1, f"which test holds this? {one}"
    unused = [begins for begins in PROOFS if not any(one.startswith(begins) for one in told)]
    gone = {name for names in PROOFS.values() for name in names.split()} - there
    assert (unused, gone) == ([], set())


def test_it_is_one_page() -> None:
    text = Path(DOCS / "trust.md").read_text(encoding="utf-8")
    assert len(text.split()) < 1150 and len(sentences(text)) == len(PROOFS)
