# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of a file of settings is what a shell gets from it, or it is named as not read. The shell is the judge."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.shell_settings import settings

NAMES = ("DAYS", "HASH")
PLAIN = [
    'set_var DAYS "30"',
    "set_var DAYS\t31 # a month",
    "  set_var HASH 'sha512'",
    "set_var HASH sha384; set_var DAYS 32",
    "set_var DAYS \\\n 33",
    "set_var DAYS 3'4'",
    'set_var DAYS ""',
    "DAYS=35",
    'export HASH="sha224" DAYS=36',
    "force_set_var DAYS 37",
    'set_var OTHER "$(touch ran)"',
    'set_var OTHER "$HOME/x" # set_var DAYS 1',
    "#set_var DAYS 38",
    "set_var HASH sha\\#1#2",
    "DAYS=39 true",
    "echo set_var DAYS 40 DAYS > /dev/null",
    'if [ -z "$CALLER" ]; then\n  echo "run it by its tool"\n  return 1\nfi',
    'case "$CALLER" in\n  x) : ;;\nesac',
    "f() {\n  :\n}",
    "if [ $(( 1 + 1 )) = 2 ]; then :; fi",
    "true && set_var OTHER 1 || :",
    "set_var HASH 'sha\n256'",
]
# Each names DAYS, and only a shell can tell it.
OPEN = [
    "set_var DAYS $((2*30))",
    'set_var DAYS "$OTHER"',
    "set_var DAYS `echo 41`",
    "DAYS=$OTHER",
    "if true; then set_var DAYS 42; fi",
    "if true\nthen\n  DAYS=43\nfi",
    "false && set_var DAYS 44",
    "true &&\n\nset_var DAYS 45",
    "( a=1\nDAYS=46 )",
    "set_var DAYS 47 | cat",
    ": ${DAYS:=48}",
    "unset DAYS",
    "read DAYS < /dev/null",
    "f() { DAYS=49; }; f",
    "case x in\n x) DAYS=50 ;;\nesac",
    "for DAYS in 1 2; do :; done",
    "eval DAYS=51",
    ". ./other",
    "true | { DAYS=52; }",
    "cat > /dev/null << END\nset_var DAYS 53\nEND",
]
SHELL = r"""
set_var() { var=$1; shift; value="$*"; eval "export $var=\"\${$var-$value}\""; }
force_set_var() { unset "$1"; set_var "$@"; }
CALLER=1
for file; do ( . "./$file"; printf '%s\n.%s.\n.%s.\n\0' "$file" "${DAYS-unset}" "${HASH-unset}" ); done
"""


def by_shell(texts: list[str], folder: Path) -> list[tuple[str, str]]:
    """The two variables after each text, as a shell has them."""
    for number, text in enumerate(texts):
        (folder / str(number)).write_text(text)
    (folder / "other").write_text("DAYS=60\n")
    shell = ["sh", "-c", SHELL, "sh", *map(str, range(len(texts)))]
    said = subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=True).stdout.split("\0")
    found = []
    for number, answer in enumerate(said[:-1]):
        assert answer.startswith(f"{number}\n.")
        days, hash_ = answer[len(f"{number}\n.") : -len(".\n")].split(".\n.")
        found.append((days, hash_))
    return found


def test_a_shell_gets_the_same_or_it_is_not_read(tmp_path: Path) -> None:
    chosen = random.Random(20)  # noqa: S311
    texts = [*PLAIN, *OPEN, *("\n".join(chosen.choices(2 * PLAIN + OPEN, k=chosen.randint(2, 5))) for _text in range(400))]
    read = 0
    for text, expected in zip(texts, by_shell(texts, tmp_path)):
        values, unread = settings(text, {}, NAMES)
        for name, value in zip(NAMES, expected):
            if name not in unread:
                assert values.get(name, "unset") == value, f"{name} after:\n{text}"
                read += 1
    assert read > 500


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_plain_is_read(text: str) -> None:
    assert settings(text, {}, NAMES)[1] == {}


@pytest.mark.parametrize("text", OPEN)
def test_what_only_a_shell_can_tell_is_named_with_its_line(text: str) -> None:
    values, unread = settings(f"set_var HASH sha1\n\n{text}\n", {}, NAMES)
    assert "DAYS" not in values and 3 <= unread["DAYS"] <= 3 + text.count("\n") and values["HASH"] == "sha1"


def test_what_is_set_before_is_kept_but_for_what_assigns() -> None:
    given = {"DAYS": "7", "HASH": "sha1"}
    values, unread = settings("set_var DAYS $((2*30))\nset_var DAYS 8\nHASH=sha256\nset_var HASH sha512", given, NAMES)
    assert (values, unread) == ({"DAYS": "7", "HASH": "sha256"}, {})
    assert settings("return 0\nDAYS=1", given, NAMES) == (given, {})
    assert settings("DAYS=$X\nset_var DAYS 8", given, NAMES)[1] == {"DAYS": 1}
    assert settings("DAYS=$X\nDAYS=8", given, NAMES)[0]["DAYS"] == "8"


def test_a_quote_that_is_never_closed_leaves_all_open() -> None:
    assert settings("set_var DAYS 8\nset_var HASH 'sha1\n", {}, NAMES)[1] == {"DAYS": 2, "HASH": 2}
