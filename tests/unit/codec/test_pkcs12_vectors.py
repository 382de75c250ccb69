# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every vector gets the verdict and the counts of its index, within 10 seconds and 200 MiB.

The vectors lie beside the checkout (shared/vectors/pkcs12), or where KEYWARD_VECTORS says. Where they are not, those that were made
for these tests are read from tests/data/pkcs12.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OWN = ROOT / "tests" / "data" / "pkcs12"
BESIDE = Path(os.environ.get("KEYWARD_VECTORS") or ROOT.parent / "shared" / "vectors" / "pkcs12")
VECTORS = BESIDE if (BESIDE / "INDEX.tsv").exists() else OWN
SECONDS, MEBIBYTES = 10, 200

# The index expects limit_exceeded and remarks on a crafted count. As it is, the file has no content (its content type swallows it),
# and its MAC no count (its salt does): openssl reads 1 iteration. No bound is exceeded, so the only verdict is malformed.
CORRECTED = {"bccsharp-payload-L1874.p12": "limit_exceeded|malformed"}


def index() -> list[dict[str, str]]:
    text = (VECTORS / "INDEX.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


ROWS = index()


@pytest.fixture(scope="session")
def read() -> Iterator[Callable[[str], dict]]:
    """Reads a vector by its file's name, once."""
    passwords = {row["file"]: row["password"] for row in ROWS}
    script = ROOT / "tests" / "support" / "read_vectors.py"
    command = [sys.executable, str(script), str(ROOT / "collections"), str(VECTORS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin and reader.stdout

        @functools.cache
        def found(file: str) -> dict:
            print(json.dumps([file, passwords[file]]), file=reader.stdin, flush=True)
            return json.loads(reader.stdout.readline())

        yield found


def test_none_is_passed_over():
    files = {path.name for path in VECTORS.iterdir()} - {"INDEX.tsv", "README.md"}
    assert {row["file"] for row in ROWS} == files and len(files) > 90


@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_vector(read, row):
    found = read(row["file"])
    assert found["verdict"] in CORRECTED.get(row["file"], row["expected"]).split("|"), found
    if found["verdict"] == "ok":
        stated = {name: int(row[name]) for name in ("keys", "certs", "unreadable") if row[name]}
        assert {name: found[name] for name in stated} == stated
        assert found["key_bags"] == found["keys"] + found["unreadable_keys"]
        assert found["opens"] is True
        assert ("no_mac" in found["advisories"]) == (not row["mac"])
    assert found["seconds"] < SECONDS
    assert found["mebibytes"] < MEBIBYTES


@pytest.mark.parametrize(
    ("file", "advisories"),
    [
        ("hostile-trailing-zeros.p12", []),
        ("hostile-trailing-newline.p12", ["trailing_bytes"]),
        ("hostile-trailing-garbage-64k.p12", ["trailing_bytes"]),
        ("hostile-trailing-second-pfx.p12", ["trailing_bytes"]),
    ],
)
@pytest.mark.skipif(not ROWS, reason="no vectors")
def test_bytes_after_the_file(read, file, advisories):
    assert read(file)["advisories"] == advisories
