# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ca_store: a directory becomes a store once, and only where that is safe."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible
from support.plays import failure, look, looked, new_store, play, step


def store(name: str, path: Path, kind: str = "keys", **options: Any) -> dict[str, Any]:
    return step("ca_store", name, path=str(path), kind=kind, **options)


@pytest.mark.parametrize("host", [False, True], ids=["on the controller", "on the host"])
def test_a_store_is_initialised_once(ansible: Ansible, tmp_path: Path, host: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path, link, existing = home / "srv" / "keys", home / "link", home / "existing"
    link.symlink_to(path)
    existing.mkdir(mode=0o750)
    place: dict[str, Any] = {"host": True} if host else {}
    owned: dict[str, Any] = {"owner": "nobody", "group": "54321"} if os.geteuid() == 0 else {}
    result = play(
        ansible,
        [
            look("before", home),
            store("predict", path, check=True, **place),
            look("predicted", home),
            store("make", path, **place),
            look("made", home),
            store("predict again", path, check=True, **place),
            store("again", path, **place),
            store("again, through a link", link, **place),
            look("left alone", home),
            store("other mode", path, mode="2750", **owned, **place),
            store("other mode again", path, mode="2750", **owned, **place),
            store("mode kept", path, **place),
            store("existing directory", existing, "databases", **place),
            store("existing directory again", existing, "databases", **place),
        ],
    )
    names = ("predict", "make", "predict again", "again", "again, through a link", "other mode", "other mode again", "mode kept")
    assert [result.task(name)["changed"] for name in names] == [True, True, False, False, False, True, False, False]
    assert looked(result, "predicted") == looked(result, "before")
    assert looked(result, "left alone") == looked(result, "made")
    made = result.task("make")
    assert (
        result.task("predict")["id"] is None and made["id"] and result.task("again")["id"] == made["id"] == result.task("mode kept")["id"]
    )
    assert (made["path"], result.task("again, through a link")["path"], made["kind"]) == (str(path), str(path), "keys")
    marker = path / "keyward-store.json"
    content = json.loads(marker.read_text())
    assert (content["kind"], content["id"]) == ("keys", made["id"])
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o2750
    if owned:
        assert (path.owner(), status.st_gid) == ("nobody", 54321)
    assert not stat.S_IMODE(marker.stat().st_mode) & 0o007
    assert (
        made["diff"]["before"] != made["diff"]["after"] and result.task("again")["diff"]["before"] == result.task("again")["diff"]["after"]
    )
    assert [result.task(name)["changed"] for name in ("existing directory", "existing directory again")] == [True, False]
    assert stat.S_IMODE(existing.stat().st_mode) == 0o700
    assert result.task("existing directory")["id"] != made["id"]


def test_what_can_not_become_a_store(ansible: Ansible, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    good, damaged, file = home / "good", home / "damaged", home / "file"
    damaged.mkdir()
    (damaged / "keyward-store.json").write_text('{"format": "keyward-store", "version": 2, "kind": "keys", "id": "1"}')
    file.write_text("")
    (home / "link").symlink_to(good)
    (home / "dangling").symlink_to(home / "nowhere")
    tasks: dict[str, tuple[dict[str, Any], str]] = {
        "another kind": (store("another kind", good, "passwords", fails=True), "it is a store for keys"),
        "inside": (store("inside", good / "a" / "b", fails=True), f"it lies inside the store {good}"),
        "inside, through a link": (
            store("inside, through a link", home / "link" / "a", fails=True),
            f"it lies inside the store {good}",
        ),
        "around": (store("around", home, "databases", fails=True), "it lies around the store"),
        "a file": (store("a file", file, fails=True), "it is not a directory"),
        "below a file": (store("below a file", file / "a", fails=True), "a part of the path is not a directory"),
        "a later release's": (store("a later release's", damaged, fails=True), "was written by a later release"),
        "for all": (store("for all", home / "new", mode="0755", fails=True), "lets every user of the machine in"),
        "no octal digits": (store("no octal digits", home / "new", mode="u=rwx", fails=True), "is not understood"),
        "no such user": (
            store("no such user", home / "new", owner="nobody-of-that-name", fails=True),
            "there is no user nobody-of-that-name here",
        ),
        "no such group": (
            store("no such group", home / "new", group="nobody-of-that-name", fails=True),
            "there is no group nobody-of-that-name here",
        ),
    }
    steps = [task for task, _part in tasks.values()]
    predictions = [{**task, "name": f"{task['name']} (check)", "check_mode": True} for task in steps if task["name"] != "below a file"]
    result = play(
        ansible,
        [new_store(good), look("before", home), *steps, *predictions, look("after", home)],
    )
    assert looked(result, "after") == looked(result, "before")
    said = {name: failure(result, name) for name in tasks}
    assert {name: part for name, (_task, part) in tasks.items() if part not in said[name]} == {}, said
    for one in predictions:
        assert failure(result, one["name"]) == said[one["name"].removesuffix(" (check)")]
