# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generations: what is told of them, whose they are, and how they are merged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Home, Place, merge_generations, slug
from support.authorities import authority, generation


def test_a_lost_generation_stays_and_keeps_its_index():
    merged = merge_generations([generation("a")], [generation("b", 0)])
    assert [(each.index, each.private_key) for each in merged] == [(0, "missing"), (1, "present")]
    assert merged[-1].public_key_sha256 == generation("b").public_key_sha256


def test_merging_again_changes_nothing():
    once = merge_generations([generation("a")], [generation("b", 0)])
    assert [each.sha256 for each in merge_generations(once, [generation("b", 0)])] == [each.sha256 for each in once]


def test_a_key_that_the_host_lost_stays_known_as_it_was():
    """Or a key that was encrypted at rest would come back in the clear."""
    place = Place("/ca/private/cakey.pem", "ca", "ca", "0640", encrypted_at_rest=True)
    before = replace(generation("a"), key_place=place, encrypted_at_rest=True, exportable=True)
    now = replace(generation("a"), private_key="missing", key_place=None, encrypted_at_rest=None, exportable=None)
    (kept, _current) = merge_generations([before], [now, generation("b", 1)])
    assert kept == replace(before, private_key="missing")


@pytest.mark.parametrize("place", [7, [1], {"config_file": "x" * 10000}, {str(n): "x" for n in range(30)}])
def test_a_place_that_can_not_be(place):
    shape = authority().as_json()
    assert Authority.from_json(shape) == authority()
    with pytest.raises((ValueError, TypeError)):
        Authority.from_json({**shape, "place": place})


@pytest.mark.parametrize("part", ["name", "subject", "directory", "host", "id"])
def test_a_text_of_any_length(part):
    with pytest.raises(ValueError):
        Authority.from_json({**authority().as_json(), part: "x" * 10000})


def test_homes_are_compared_part_by_part():
    home = authority().home
    assert home == Home("ca.example.com", {"backend": "openssl", **authority().place}) and Home.from_json(home.as_json()) == home

    def at(**parts):
        return Home("ca.example.com", parts)

    for fitting in (at(), at(backend="openssl"), at(config_file="/etc/pki/CA/./openssl.cnf"), at(directory="/etc/pki/CA/")):
        assert home.fits(fitting) and fitting.fits(home)
    for other in (Home("ca", dict(home.place)), at(backend="easyrsa"), at(config_file="openssl.cnf"), at(directory="/etc/pki/CA/x")):
        assert not home.fits(other) and not other.fits(home)
    assert not home.fits(at(name="other")) and home.fits(at(name="other"), section=False)


@pytest.mark.parametrize("shape", [{"host": "", "place": {}}, {"host": "h" * 10000, "place": {}}, {"host": "h"}, {"host": "h", "place": 7}])
def test_a_home_that_can_not_be(shape):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Home.from_json(shape)


def test_facts_are_read_from_the_certificate_not_believed():
    shape = generation("a").as_json()
    shape["fingerprints"]["sha256"] = shape["public_key_sha256"] = "0" * 64
    assert type(generation("a")).from_json(shape) == replace(generation("a"))


def test_slug():
    assert slug("Müller & Söhne — Root CA (2026)") == "muller-sohne-root-ca-2026"
    assert slug("../../etc") == "etc"
    assert slug("日本") == "ca"
