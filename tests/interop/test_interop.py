# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cross-reads: each tool finds every key of our bundles, and we find every key of theirs. cross_read.py prints the same as a report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tools import require_tool

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cross_read
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_reader, _pkcs12_writer
from support import pfx


@pytest.fixture
def shop(tmp_path):
    return cross_read.Workshop(tmp_path)


@pytest.fixture
def tool(request):
    require_tool(request.param)
    return request.param


@pytest.mark.parametrize("tool", cross_read.READERS, indirect=True)
def test_a_tool_finds_every_key_of_three_generations(shop, tool):
    keys = cross_read.generations()
    bundle = shop.file("three.p12", _pkcs12_writer.write(keys, [pfx.certificate(pfx.key("ec-secp256r1"), "Above", 1)], cross_read.PASSWORD))
    assert len(keys) == 3
    assert cross_read.READERS[tool](shop, bundle) == cross_read.identities(keys)


@pytest.mark.parametrize("tool", sorted(set(cross_read.READERS) - cross_read.NO_EDWARDS), indirect=True)
def test_a_tool_finds_edwards_keys(shop, tool):
    keys = cross_read.edwards()
    bundle = shop.file("edwards.p12", _pkcs12_writer.write(keys, [], cross_read.PASSWORD))
    assert cross_read.READERS[tool](shop, bundle) == cross_read.identities(keys)


@pytest.mark.parametrize("tool", cross_read.WRITERS, indirect=True)
def test_every_key_that_a_tool_writes_is_read(shop, tool):
    count = 0
    for name, data, expected in cross_read.WRITERS[tool](shop):
        found, contents = cross_read.read_ours(data)
        assert found == expected, name
        assert not contents.unreadable, name
        assert contents.certificates, name
        assert _pkcs12_reader.opens(data, cross_read.PASSWORD), name
        if 0 < contents.encryption.iterations < 100_000:
            assert not _pkcs12_reader.opens(data, "another"), name
        count += 1
    assert count


COUNTS = [1, 2, 3, 4, 5, 9]


@pytest.fixture(scope="module")
def dotnet(tmp_path_factory):
    """What .NET says of bundles of so many keys with the iterations that we write, and with one more."""
    require_tool("pwsh")
    shop = cross_read.Workshop(tmp_path_factory.mktemp("dotnet"))
    bundles = []
    with pytest.MonkeyPatch.context() as patch:
        for more in (0, 1):
            patch.setattr(
                _pkcs12_writer, "iterations_for", lambda count, really=_pkcs12_writer.iterations_for, more=more: really(count) + more
            )
            for count in COUNTS:
                bundles.append(shop.file(f"{count}-{more}.p12", _pkcs12_writer.write(keys_of(count), [], cross_read.PASSWORD)))
    found = cross_read.dotnet_reads(shop, bundles)
    return dict(zip(COUNTS, zip(found, found[len(COUNTS) :])))


def keys_of(count):
    return [pfx.named("ec-secp256r1", f"generation {number}", number) for number in range(count)]


@pytest.mark.parametrize("count", COUNTS)
def test_dotnet_opens_what_is_written_and_not_one_iteration_more(dotnet, count):
    as_written, one_more = dotnet[count]
    assert as_written == cross_read.identities(keys_of(count))
    assert "IterationLimit" in one_more
