# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores: initialising them, and backups that are complete or not there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import directory_name
from ansible_collections.keyward.pki.plugins.module_utils._signed import Event, document, event_name, event_shape
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import MARKER, initialise, initialise_as_asked, open_store
from ansible_collections.keyward.pki.plugins.module_utils._stored import BACKUPS, read_stored
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import GivenBackup
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import Authorities, next_sequence
from support.authorities import authority, generation, manifest, sealed
from tools import require_tool

BUNDLE = "authority.p12"


class Anybody:
    """Vouches for everything."""

    def doubt(self, _document, _signature, _at):
        return None


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def add(store, *key_names, sequence=1, **known):
    """A backup of these keys' generations in a store; its path."""
    data = sealed(*key_names)
    about = manifest(data, *key_names, sequence=sequence, **known)
    return commit(store, about, data, directory_name(about.authority), f"{sequence:06d}-20260101T00000{sequence}Z")


def commit(store, about, data, directory, name):
    with store.stage() as staged:
        staged.write(BUNDLE, data)
        return staged.commit(document(about.as_json()), None, directory, name)


@pytest.fixture
def store(tmp_path):
    initialise(str(tmp_path / "keys"), "keys")
    return Store(str(tmp_path / "keys"), BACKUPS, None)


@pytest.fixture
def other(tmp_path):
    initialise(str(tmp_path / "other"), "keys")
    return Store(str(tmp_path / "other"), BACKUPS, None)


def test_initialising_twice_changes_nothing(tmp_path):
    path = str(tmp_path / "a" / "keys")
    assert initialise(path, "keys", check=True)["changed"] and not os.path.exists(tmp_path / "a")
    first = initialise(path, "keys")
    assert first["changed"] and mode(path) == 0o700 and mode(f"{path}/{MARKER}") == 0o600
    second = initialise(path, "keys")
    assert not second["changed"] and second["id"] == first["id"]


def test_the_mode_is_mended_and_files_follow_it(tmp_path):
    path = str(tmp_path / "keys")
    initialise(path, "keys")
    assert initialise(path, "keys", 0o2750, check=True)["changed"] and mode(path) == 0o700
    assert initialise(path, "keys", 0o2750)["changed"] and mode(path) == 0o2750
    assert not initialise(path, "keys")["changed"]
    backup = add(Store(path, BACKUPS, None), "a")
    assert mode(backup) == 0o2750 and mode(f"{backup}/{BUNDLE}") == 0o640 and mode(os.path.dirname(backup)) == 0o2750


@pytest.mark.parametrize("wanted", ["0755", "0701", "0707"])
def test_open_to_the_world_is_refused(tmp_path, wanted):
    parameters = {"path": str(tmp_path / "keys"), "kind": "keys", "mode": wanted, "owner": None, "group": None, "share_permissions": None}
    with pytest.raises(KeywardError, match="every user"):
        initialise_as_asked(parameters, False)
    assert not os.path.exists(tmp_path / "keys")


def test_a_store_that_was_opened_to_the_world_is_not_written(store):
    os.chmod(store.path, 0o755)
    with pytest.raises(KeywardError, match="chmod o-rwx"):
        Store(store.path, BACKUPS, None).refuse_if_not_writable()


def test_no_store_inside_another_or_around_one(tmp_path):
    initialise(str(tmp_path / "a" / "keys"), "keys")
    with pytest.raises(KeywardError, match="inside the store"):
        initialise(str(tmp_path / "a" / "keys" / "deep" / "er"), "databases")
    with pytest.raises(KeywardError, match="around the store"):
        initialise(str(tmp_path / "a"), "databases")
    os.symlink(tmp_path / "a" / "keys", tmp_path / "link")
    with pytest.raises(KeywardError, match="inside the store"):
        initialise(str(tmp_path / "link" / "x"), "databases")


def test_a_directory_with_other_files_stays_what_it_is(tmp_path):
    (tmp_path / "srv").mkdir(mode=0o755)
    (tmp_path / "srv" / "website").touch()
    with pytest.raises(KeywardError, match="other files lie in it .website"):
        initialise(str(tmp_path / "srv"), "keys")
    assert os.listdir(tmp_path / "srv") == ["website"] and mode(tmp_path / "srv") == 0o755
    (tmp_path / "share" / "lost+found").mkdir(parents=True)
    assert initialise(str(tmp_path / "share"), "keys")["changed"]


def test_a_store_keeps_its_kind(store):
    with pytest.raises(KeywardError, match="it is a store for keys"):
        initialise(store.path, "passwords")
    with pytest.raises(KeywardError, match="store for keys, not for databases"):
        open_store(store.path, "databases")


def test_a_directory_without_its_marker_is_an_unmounted_share(store):
    add(store, "a")
    os.unlink(f"{store.path}/{MARKER}")
    with pytest.raises(KeywardError, match="not a keyward store. Is the share mounted"):
        Store(store.path, BACKUPS, None)


@pytest.mark.parametrize("content", ["", "{}", '{"format": "keyward-store", "version": 2, "kind": "keys", "id": "x"}', "[1]"])
def test_a_damaged_marker_is_an_error(store, content):
    with open(f"{store.path}/{MARKER}", "w") as marker:
        marker.write(content)
    with pytest.raises(KeywardError, match="damaged"):
        Store(store.path, BACKUPS, None)
    with pytest.raises(KeywardError, match="damaged"):
        initialise(store.path, "keys")


def test_a_file_system_without_modes_needs_accepting(tmp_path):
    below, mount = tmp_path / "below", tmp_path / "share"
    below.mkdir()
    mount.mkdir()
    # What a CIFS mount shows: every mode is 0777, and chmod is accepted and does nothing.
    share = [require_tool("bindfs"), "--perms=a=rwx", "--chmod-ignore", str(below), str(mount)]
    if subprocess.run(share, capture_output=True, check=False).returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("bindfs can't mount here")
    try:
        with pytest.raises(KeywardError, match="does not hold modes"):
            initialise(str(mount / "keys"), "keys")
        assert not os.path.exists(mount / "keys" / MARKER)
        assert initialise(str(mount / "keys"), "keys", accept_share_permissions=True)["changed"]
        assert not initialise(str(mount / "keys"), "keys")["changed"]
        store = Store(str(mount / "keys"), BACKUPS, None)
        store.refuse_if_not_writable()
        assert read_stored(add(store, "a"), BACKUPS, None).damage is None
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_newest_is_the_highest_sequence_then_the_highest_id(store):
    add(store, "a", "b", sequence=2)
    add(store, "a", sequence=1)
    (known,), _unreadable = Authorities([store]).all
    assert known.newest.manifest.sequence == 2
    assert [backup.manifest.sequence for backup in known.backups] == [2, 1]
    data = sealed("a", "b")
    about = manifest(data, "a", "b", sequence=2, id="f" * 32, created="2000-01-01T00:00:00Z")
    commit(store, about, data, known.name, "000002-20000101T000000Z")
    (known,), _unreadable = Authorities([store]).all
    assert known.newest.manifest.id == "f" * 32


def test_a_damaged_newest_backup_does_not_count_and_keeps_its_number(store):
    add(store, "a")
    newest = add(store, "a", "b", sequence=2)
    with open(f"{newest}/{BUNDLE}", "r+b") as bundle:
        bundle.write(b"\0")
    (known,), _unreadable = Authorities([store]).all
    assert known.newest.manifest.sequence == 1 and next_sequence([store], known.name) == 3
    assert [advisory.code for advisory in known.advisories] == ["digest_mismatch"]
    assert known.covered == {generation("a").sha256}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "keyward.pki key backup", "format_version": 99}', "[" * 100000])
def test_a_damaged_manifest_is_reported_and_hides_nothing_else(store, damage):
    add(store, "a")
    newest = add(store, "a", "b", sequence=2)
    with open(f"{newest}/manifest.json", "w") as file:
        file.write(damage)
    (known,), _unreadable = Authorities([store]).all
    assert known.newest.manifest.sequence == 1
    assert [advisory.code for advisory in known.advisories] == ["malformed"]


@pytest.mark.parametrize("damage", [{"created": "yesterday"}, {"sequence": float("inf")}])
def test_a_manifest_with_values_that_can_not_be_is_damaged(store, damage):
    add(store, "a")
    path = f"{add(store, 'a', 'b', sequence=2)}/manifest.json"
    with open(path) as file:
        manifest = json.load(file)
    with open(path, "w") as file:
        json.dump({**manifest, **damage}, file)
    (known,), _unreadable = Authorities([store]).all
    assert known.newest.manifest.sequence == 1 and [advisory.code for advisory in known.advisories] == ["malformed"]


def test_an_authority_whose_only_backup_is_damaged_is_still_known(store):
    path = add(store, "a")
    os.truncate(f"{path}/{BUNDLE}", 100)
    (known,), _unreadable = Authorities([store]).all
    assert known.newest is None and known.covered == frozenset() and known.id == generation("a").sha256
    assert [advisory.code for advisory in known.advisories] == ["digest_mismatch"]


def test_a_directory_without_any_readable_manifest_is_reported(store):
    path = add(store, "a")
    os.unlink(f"{path}/manifest.json")
    known, advisories = Authorities([store]).all
    assert known == [] and [advisory.code for advisory in advisories] == ["malformed"]
    assert next_sequence([store], os.path.basename(os.path.dirname(path))) == 2


def test_a_store_that_lacks_a_backup_is_named_with_its_copies(store, other):
    add(store, "a")
    second = add(store, "a", "b", sequence=2)
    (known,), _unreadable = Authorities([store, other]).all
    lacking = known.copies([store, other])
    assert [(backup.manifest.sequence, target.path) for backup, target in lacking] == [(1, other.path), (2, other.path)]
    assert known.covered == {generation("a").sha256, generation("b", 1).sha256}
    assert known.newest.path == second


def test_a_damaged_copy_is_set_aside_and_its_sound_twin_takes_its_place(store, other):
    add(store, "a")
    add(store, "a", "b", sequence=2)
    (known,), _unreadable = Authorities([store, other]).all
    for backup, target in known.copies([store, other]):
        target.copy(backup, known.name)
    folder = f"{other.path}/{directory_name(authority(id=generation('a').sha256))}"
    os.unlink(f"{folder}/000002-20260101T000002Z/{BUNDLE}")
    (known,), _unreadable = Authorities([store, other]).all
    assert known.covered == {generation("a").sha256, generation("b", 1).sha256}
    ((sound, lacking),) = known.copies([store, other])
    assert (sound.manifest.sequence, lacking.path) == (2, other.path)
    other.copy(sound, known.name)
    assert sorted(os.listdir(folder)) == ["000001-20260101T000001Z", "000002-20260101T000002Z", "000002-20260101T000002Z.damaged-1"]
    (known,), _unreadable = Authorities([store, other]).all
    assert known.copies([store, other]) == [] and known.advisories == []


def test_what_is_not_complete_is_not_there(store):
    data = sealed("a")
    store.stage().write(BUNDLE, data)
    assert Authorities([store]).all == ([], [])


def test_a_backup_never_replaces_another(store):
    add(store, "a")
    with pytest.raises(KeywardError, match="exists already"):
        add(store, "a", "b")
    (known,), _unreadable = Authorities([store]).all
    assert known.covered == {generation("a").sha256}


def test_two_runs_at_once_leave_two_whole_backups(store):
    failures = []

    def run(sequence):
        try:
            with store.locked():
                add(store, "a", sequence=sequence)
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(sequence,)) for sequence in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    (known,), _unreadable = Authorities([store]).all
    assert len(known.backups) == 5 and not known.advisories


def test_two_authorities_of_one_name_never_meet(store):
    add(store, "a")
    add(store, "x")
    known, _unreadable = Authorities([store]).all
    assert len(known) == 2 and len(os.listdir(store.path)) == 3


def test_an_event_is_one_file_written_once(store):
    path = add(store, "a")
    directory = os.path.basename(os.path.dirname(path))
    for _attempt in range(2):
        shape = event_shape("restore", manifest(sealed("a"), "a"), "d" * 64, "2026-01-01T00:00:00Z", {"user": "u"}, host="h")
        store.record(directory, Event(event_name(shape), document(shape), b"signature"))
    events = sorted(os.listdir(f"{store.path}/{directory}/events"))
    assert len(events) == 4 and all(name.startswith("000001-20260101T000000Z-restore-") for name in events)
    assert events[1] == events[0] + ".sig"
    assert json.loads(open(f"{store.path}/{directory}/events/{events[0]}").read())["host"] == "h"


def test_given_as_file_directory_or_authority(store):
    add(store, "a")
    newest = add(store, "a", "b", sequence=2)
    for path in (newest, f"{newest}/{BUNDLE}", os.path.dirname(newest)):
        assert GivenBackup([path], Anybody()).stored.manifest.sequence == 2


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_given_what_is_no_backup(tmp_path, path):
    with pytest.raises(KeywardError):
        GivenBackup([str(tmp_path / path)], Anybody())


def test_two_runs_make_one_store(tmp_path):
    path = str(tmp_path / "above" / "keys")
    made = []
    threads = [threading.Thread(target=lambda: made.append(initialise(path, "keys"))) for _number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len({one["id"] for one in made}) == 1 and sum(one["changed"] for one in made) >= 1
