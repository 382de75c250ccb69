# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders and answers: what goes out comes back, and what is of another shape or size is refused where it is parsed."""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _orders
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._orders import _typed, authority, key_restore, keys, lifecycle
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Misshapen, Most, OneOf, dump, parse
from support import authorities

assert _orders  # the package is there without a file of its own


@dataclass(frozen=True)
class Inner:
    number: int


@dataclass(frozen=True)
class Sample:
    text: t.Annotated[str, Most(4)]
    flag: bool
    word: t.Annotated[str, OneOf(("yes", "no"))] = "yes"
    content: t.Annotated[bytes, Most(3)] = field(default=b"", repr=False)
    maybe: t.Optional[Inner] = None
    several: t.Annotated[t.Tuple[Inner, ...], Most(2)] = ()
    named: t.Optional[t.Dict[str, t.Any]] = None
    long: t.Optional[t.Dict[str, t.Annotated[t.Any, Most(_typed.MOST_MEMBERS + 1)]]] = None


RIGHT: dict[str, Any] = {"text": "four", "flag": True}


def test_what_goes_out_comes_back() -> None:
    whole = Sample("four", False, "no", b"\x00\xff\x01", Inner(7), (Inner(1), Inner(2)), {"a": [1, None, "b", {"c": True}]})
    assert parse(Sample, json.loads(json.dumps(dump(whole)))) == whole
    assert parse(Sample, RIGHT) == Sample("four", True)
    long = {"a": [1] * (_typed.MOST_MEMBERS + 1)}
    assert parse(Sample, {**RIGHT, "long": long}).long == long


def test_what_ansible_adds_is_passed_over() -> None:
    assert parse(Sample, {**RIGHT, "invocation": {"module_args": {}}, "changed": 1}) == Sample("four", True)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"text": 4}, "text"),
        ({"text": "five!"}, "text"),
        ({"flag": 1}, "flag"),
        ({"flag": None}, "flag"),
        ({"word": "maybe"}, "word"),
        ({"content": "AAECAwQF"}, "content"),
        ({"content": "a"}, "content"),
        ({"content": "\u00e9"}, "content"),
        ({"maybe": []}, "maybe"),
        ({"maybe": {"number": True}}, "maybe.number"),
        ({"maybe": {"number": 1 << 63}}, "maybe.number"),
        ({"maybe": {"number": 1.5}}, "maybe.number"),
        ({"several": {}}, "several"),
        ({"several": [{"number": 1}] * 3}, "several"),
        ({"several": [{"number": 1}, {}]}, "several[1].number"),
        ({"named": {"a": 1.5}}, "named"),
        ({"named": {"a": [[[[[[[[[1]]]]]]]]]}}, "named"),
        ({"named": {"x": "y" * (_typed.MOST_TEXT + 1)}}, "named"),
        ({"named": {"a": [1] * (_typed.MOST_MEMBERS + 1)}}, "named"),
        ({"long": {"a": [1] * (_typed.MOST_MEMBERS + 2)}}, "long"),
        ({"named": dict.fromkeys(map(str, range(_typed.MOST_MEMBERS + 1)))}, "named"),
    ],
)
def test_another_shape_or_size_is_refused_where_it_stands(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(Misshapen) as caught:
        parse(Sample, {**RIGHT, **wrong})
    assert caught.value.where == where


def test_a_missing_field_is_refused_and_what_stood_there_is_never_repeated() -> None:
    with pytest.raises(Misshapen, match="flag: it is missing"):
        parse(Sample, {"text": "four"})
    with pytest.raises(Misshapen) as caught:
        parse(Sample, {**RIGHT, "text": "a secret that is too long"})
    assert "secret" not in str(caught.value)
    with pytest.raises(Misshapen):
        parse(Sample, ["text"])


def test_an_authority_and_its_generations_are_read_not_believed() -> None:
    generation = authorities.generation("a")
    told = authority.Told(authorities.authority(), (generation,), advisories=(Finding("code", "A sentence."),))
    document = json.loads(json.dumps(dump(told)))
    assert parse(authority.Told, document) == told
    document["generations"][0]["fingerprints"]["sha256"] = "0" * 64
    assert parse(authority.Told, document).generations[0].sha256 == generation.sha256
    document["generations"][0]["certificate"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(Misshapen, match=r"generations\[0\]"):
        parse(authority.Told, document)


@pytest.mark.parametrize("kind", [keys.ExportKeys, key_restore.ImportKeys, keys.Exported, keys.File, lifecycle.Install])
def test_no_secret_is_printed_with_an_order(kind: Any) -> None:
    hidden = {"password", "trial_password", "content", "private_key_passphrase"}
    assert all(not each.repr for each in fields(kind) if each.name in hidden)
