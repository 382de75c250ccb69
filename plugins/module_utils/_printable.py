# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: text from hosts and stores, as a terminal, a log or a report may show it; may change in any release."""

from __future__ import annotations

import re
import typing as t

# What moves a cursor, starts an escape sequence, hides, or turns text around (bidi); and bytes that are no text.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_IN_LINES = re.compile("[^\t\n\r]+")


def printable(text: str, lines: bool = False) -> str:
    """Text from elsewhere, as a terminal, a log or a report may show it: what could mislead there is spelt out (C(\\x1b)).

    C(lines): it is a document, whose line ends and tabs stay.
    """
    if lines:
        return _IN_LINES.sub(lambda part: printable(part.group()), text)
    return _UNPRINTABLE.sub(_spelt_out, text)


def _spelt_out(found: t.Match[str]) -> str:
    number = ord(found.group())
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def printable_in(value: t.Any) -> t.Any:
    """What a JSON document holds, each text in it printable; documents in it, such as PEM, keep their lines."""
    if isinstance(value, str):
        return printable(value, lines=True)
    if isinstance(value, dict):
        return {printable_in(name): printable_in(each) for name, each in value.items()}
    return [printable_in(each) for each in value] if isinstance(value, list) else value
