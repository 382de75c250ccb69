# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests: what is written is read, and nothing that leads elsewhere."""

from __future__ import annotations

import json

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._manifest import manifest_from_json
from support.authorities import manifest, sealed


def test_manifest_survives_json():
    written = manifest(sealed("a", "b"), "a", "b")
    assert manifest_from_json(json.loads(json.dumps(written.as_json()))) == written


@pytest.mark.parametrize("name", ["../x.p12", "/etc/passwd", ".hidden", "", "a/b", "a\n"])
def test_manifest_names_no_file_outside_its_directory(name):
    shape = manifest(sealed("a"), "a").as_json()
    shape["files"][0]["name"] = name
    with pytest.raises(ValueError):
        manifest_from_json(shape)


def test_what_a_manifest_says_can_be_printed():
    shape = manifest(sealed("a"), "a").as_json()
    shape["authority"] = {**shape["authority"], "name": "x\x1b[2J\n", "place": {"name": "\u202ex"}}
    shape["id"], shape["made"] = "\x9b", {"reason": ["\x07"]}
    shape["generations"][0]["key_place"] = {"path": "/x\x1b"}
    read = manifest_from_json(shape)
    assert (read.authority.name, read.authority.place) == ("x\\x1b[2J\\x0a", {"name": "\\u202ex"})
    assert (read.id, read.made, read.generations[0].key_place.path) == ("\\x9b", {"reason": ["\\x07"]}, "/x\\x1b")
    shape["generations"][0]["key_place"] = {"path": ["/x"]}
    with pytest.raises(ValueError):
        manifest_from_json(shape)


@pytest.mark.parametrize("homes", [[], [{"host": "", "place": {}}], [{"host": "h", "place": {}}] * 101, "h"])
def test_an_authority_lives_somewhere(homes):
    shape = manifest(sealed("a"), "a").as_json()
    with pytest.raises((ValueError, TypeError)):
        manifest_from_json({**shape, "homes": homes})
