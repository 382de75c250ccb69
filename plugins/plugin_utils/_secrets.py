# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: secrets are the text that was typed, or they are refused; may change in any release.

YAML reads 0123, 1_000, 12e4, 2026-01-01 and yes as numbers, a date and a boolean. Turned back into text they differ from the password on
paper, and nobody could open the backup.
"""

from __future__ import annotations

import re
import typing as t
from datetime import date

from ansible import __version__ as core_version
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

Options = t.Mapping[str, t.Any]

SECRETS = ("password", "previous_password", "private_key_passphrase", "directory_password")
_LISTS = ("older", "keyward_authorities")
_ONE_VARIABLE = re.compile(r"\s*\{\{\s*(\w+)\b[^{}]*\}\}\s*\Z")
_NEWLINES = ("\n", "\r")
_WRITE = "Write it in quotes, as it was typed"
_WITHOUT_NEWLINE = "In YAML write |- in place of |, or one line in quotes; from a file, use the lookup without rstrip=false"


def refuse_other_than_text(task: str, given: Options, before: Options, variables: Options) -> None:
    """Raises KeywardError where a secret is no text. C(before): the arguments as they stand in the play, templates in them."""
    for name, value in _secrets_in(given):
        kind = _kind(value)
        if kind is None and isinstance(value, str) and "passphrase" in name and value.endswith(_NEWLINES):
            raise KeywardError(f"{task} can't run", f"its {name} ends in a newline, which no tool of a CA takes", _WITHOUT_NEWLINE)
        if kind is None and tuple(map(int, core_version.split(".")[:2])) < (2, 19):
            kind = _kind_in_the_play(name, before, variables)
        if kind:
            why = f"its {name} is no text: YAML made {kind} of it, because it was not in quotes, and that is another secret than was typed"
            raise KeywardError(f"{task} can't run", why, f"{_WRITE}: {name.rpartition('.')[2]}: '...'")


def newline_at_the_end(given: Options) -> str | None:
    """A hint for a failed task whose password ends in a newline, which few real passwords do."""
    named = [name for name, value in _secrets_in(given) if isinstance(value, str) and value.endswith(_NEWLINES)]
    return f"{named[0]} ends in a newline: is that so on paper? {_WITHOUT_NEWLINE}." if named else None


def _secrets_in(given: Options) -> t.Iterator[tuple[str, t.Any]]:
    for name in SECRETS:
        yield name, given.get(name)
    for name in _LISTS:
        entries = given.get(name)
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, dict):
                yield from ((f"{name}[{number}].{inner}", value) for inner, value in _secrets_in(entry))


def _kind(value: t.Any) -> str | None:
    """What a value is that is no text, in words; None for text. Vault-encrypted text has a class of its own."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, date):
        return "a date"
    if isinstance(value, (list, tuple, dict, set)):
        return "a list or a dictionary"
    if isinstance(value, bytes):
        return "binary data"
    return None


def _kind_in_the_play(name: str, before: Options, variables: Options) -> str | None:
    """Before core 2.19 a template made text of everything: what the variable held that it names; in a role, keyward_<name>."""
    value = before.get(name, f"{{{{ keyward_{name} }}}}")
    for _step in range(20):
        match = _ONE_VARIABLE.match(value) if isinstance(value, str) else None
        if match is None:
            break
        value = variables.get(match[1])
    kinds = [_kind(value), *(_kind(entry) for _name, entry in _secrets_in({"keyward_authorities": variables.get("keyward_authorities")}))]
    return next((kind for kind in kinds if kind), None)
