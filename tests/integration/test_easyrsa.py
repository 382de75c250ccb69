# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plays of the quickstart on a CA that easy-rsa runs, used by the real easyrsa in between, its key encrypted throughout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.ansible_run import Ansible
from support.easyrsa_ca import PASSPHRASE, VERSIONS, EasyrsaCa, EasyrsaPki, assert_crl_of, assert_verifies
from support.plays import check
from support.roles import make_stores, newest_manifest, now, playbook, ran

QUICKSTART = Path(__file__).resolve().parents[2] / "docs" / "quickstart"


class Story:
    """One CA in the inventory, and the plays of the quickstart on it."""

    def __init__(self, ansible: Ansible, directory: Path, pki: Path) -> None:
        self.ansible, self.directory = ansible, directory
        (directory / "published").mkdir()
        self.variables: dict[str, Any] = {
            **make_stores(ansible, directory),
            "demo": str(directory),
            "keyward_backend": "easyrsa",
            "keyward_directory": str(pki),
            "keyward_private_key_passphrase": PASSPHRASE,
            "keyward_subject": {"commonName": "Example Root CA"},
            "keyward_key_type": "EC",
            "keyward_reuse_key": False,
            "keyward_issued_before": "2000-01-01T00:00:00Z",
        }

    def tell(self, name: str) -> list[str]:
        """What a play of the quickstart says was done."""
        inventory = {"all": {"children": {"cas": {"hosts": {"ca": self.ansible.local(**self.variables)}}}}}
        result = check(self.ansible.play(QUICKSTART / f"{name}.yml", hosts=inventory)).ok()
        assert PASSPHRASE not in result.stdout
        return [one["msg"] for one in result.task("Say it")["results"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_story_of_the_quickstart(ansible: Ansible, tmp_path: Path, version: str) -> None:
    home = tmp_path / "pki"
    story = Story(ansible, tmp_path, home)
    if version == "3.1":  # easy-rsa made this one, we make the other
        ca: EasyrsaPki = EasyrsaCa(home, version)
        assert story.tell("install")[0] == "CA: changed=False, CN=Example Root CA"
    else:
        assert story.tell("install") == [
            "CA: changed=True, CN=Example Root CA",
            "key backup: changed=True, 1 generation, restorable=True",
            "database backup: changed=True",
        ]
        ca = EasyrsaPki(home, version, PASSPHRASE)

    ca.issue("first")
    ca.issue("second", passphrase=True)
    ca.easyrsa("revoke", "second", "keyCompromise")
    ca.easyrsa("export-p12", "first")
    assert story.tell("backup") == ["key backup: changed=False", "database backup: changed=True, database_changed"]

    story.variables["keyward_issued_before"] = now()
    again = story.variables.copy()
    assert story.tell("renewal") == [
        "CA: renewed=True, 2 generations",
        "key backup: changed=True",
        "CRLs: 2",
        "database backup: changed=True",
    ]
    assert story.tell("renewal")[:1] == ["CA: renewed=False, 2 generations"] and again == story.variables
    for crl in home.glob("crl*.pem"):
        shutil.copy(crl, tmp_path / "published")
    assert_crl_of(home / "crl.pem", home / "ca.crt")
    assert_crl_of(home / "crl.0.pem", home / "ca.0.crt")
    assert "BEGIN ENCRYPTED PRIVATE KEY" in (home / "private" / "ca.0.key").read_text()
    ca.issue("third")
    story.tell("backup")

    rows, kept = ca.index(), {path.name: path.read_bytes() for path in home.glob("ca*.crt")}
    kept |= {path.name: path.read_bytes() for path in (home / "issued").iterdir()}
    shutil.rmtree(home)
    told = story.tell("restore")
    assert told[0] == "keys: changed=True, ca.key, ca.crt, ca.0.key, ca.0.crt"
    assert told[1].startswith("database: changed=True") and told[2] == "proof: 2 generations signed a CRL in a scratch place"
    assert [line.partition(",")[0] for line in story.tell("restore")[:2]] == ["keys: changed=False", "database: changed=False"]
    assert ca.index() == rows and {name: next(home.rglob(name)).read_bytes() for name in kept} == kept
    assert not [path.name for path in (home / "private").iterdir() if not path.name.startswith("ca")], "subscribers' keys are theirs"

    # easy-rsa goes on where it was, with either generation.
    assert "Example Root CA" in ca.easyrsa("show-ca").stdout
    assert_verifies(ca.issue("fourth"), home / "ca.crt")
    ca.easyrsa("revoke", "third")
    assert_crl_of(ca.sign_crl(), home / "ca.crt")
    assert_crl_of(ca.sign_crl(**ca.older(0)), home / "ca.0.crt")
    assert_verifies(ca.issue("fifth", **ca.older(0)), home / "ca.0.crt")
    assert [state for state, _serial, _subject in ca.index()] == ["V", "R", "R", "V", "V"]


def test_a_subordinate_below_a_parent_in_the_inventory(ansible: Ansible, tmp_path: Path) -> None:
    """Both run by easy-rsa: the parent signs, never the subordinate itself, at the installation and at each renewal."""
    stores = make_stores(ansible, tmp_path)
    root, below = (EasyrsaPki(tmp_path / name, "3.1", PASSPHRASE).directory for name in ("root", "below"))
    common = {"backend": "easyrsa", "private_key_passphrase": PASSPHRASE, "key_type": "EC", "reuse_key": False}
    authorities = [
        {**common, "directory": str(root), "subject": {"commonName": "Root"}, "issued_before": "2000-01-01T00:00:00Z"},
        {
            **common,
            "directory": str(below),
            "kind": "subordinate",
            "subject": {"commonName": "Below"},
            "parent": {"host": "ca", **{name: common[name] for name in ("backend", "private_key_passphrase")}, "directory": str(root)},
        },
    ]

    def hosts(**more: Any) -> dict[str, Any]:
        entries = [authorities[0], {**authorities[1], **more}]
        return {"ca": ansible.local(keyward_authorities=entries, **stores)}

    playbook(ansible, "install", hosts())
    pki = EasyrsaPki(below, "3.1", PASSPHRASE)
    assert_verifies(pki.issue("first"), below / "ca.crt")
    assert_verifies(below / "ca.crt", root / "ca.crt")
    renewed = playbook(ansible, "renewal", hosts(issued_before=now()))
    assert ran(renewed, "ca_sign") == [True]
    assert_verifies(below / "ca.crt", root / "ca.crt")
    assert_verifies(pki.issue("second"), below / "ca.crt")
    assert_verifies(below / "ca.0.crt", root / "ca.crt")
    assert [subject for _state, _serial, subject in EasyrsaPki(root, "3.1", PASSPHRASE).index()] == ["/CN=Below", "/CN=Below"]
    assert (
        len(newest_manifest(Path(stores["keyward_key_stores"][0]), 1)["generations"])
        + len(newest_manifest(Path(stores["keyward_key_stores"][0]), 0)["generations"])
        == 3
    )
