# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Odd values in the files of a CA. The seeds are fixed. KEYWARD_ODD_INPUTS=2000 tries so many of each file; a campaign 60."""

from __future__ import annotations

import base64
import os
import random

from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem_content

ROUNDS = int(os.environ.get("KEYWARD_ODD_INPUTS") or ("60" if "KEYWARD_CAMPAIGN" in os.environ else "6"))
# What stands in texts: numbers beyond each bound, times that can't be, other newlines, other character sets.
ODD = [
    *(b"", b"\0", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfc", b"\t" * 9, b" ", b"-1", b"0", b"00", b"7F" * 40),
    b"F" * 70000,
    *(b"99991231235959Z", b"000000000000Z", b"500101000000Z", b"20500101000000Z", b"991332256199Z", b"Z", b"$dir", b"${x", b"$ENV::NONE"),
    *(
        b"[ca]",
        b"[",
        b"]",
        b"=",
        b"#",
        b"\\",
        b'"',
        b".include /nowhere",
        b"-----BEGIN CERTIFICATE-----",
        b"../../etc/passwd",
        b"/dev/zero",
    ),
]


def odd(data: bytes, chance: random.Random) -> bytes:
    """The same with something odd in it: cut, doubled, a bit turned, a field replaced."""
    at, to = sorted(chance.randrange(len(data) + 1) for _number in range(2))
    how = chance.randrange(7)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + data[to:]
    if how == 2:
        return data + data[at:to]
    if how == 3 and data:
        place = chance.randrange(len(data))
        return data[:place] + bytes((data[place] ^ 1 << chance.randrange(8),)) + data[place + 1 :]
    if how == 4:
        return data[:at] + chance.choice(ODD) + data[at:]
    if how == 5:
        return chance.choice(ODD)
    words = data.replace(b"\t", b" ").split(b" ")
    return data.replace(chance.choice(words) or b"\n", chance.choice(ODD), 1)


def odd_pem(data: bytes, chance: random.Random) -> bytes:
    """As C(odd), of what lies inside: the text around it stays, so that what reads it gets to the end."""
    der = pem_content(data)
    changed = odd(der, chance) if chance.randrange(4) else der
    for _time in range(chance.randrange(4)):
        if changed:
            place = chance.randrange(len(changed))
            changed = changed[:place] + bytes((chance.choice((0, 1, 2, 5, 0x17, 0x1F, 0x30, 0x7F, 0x80, 0xFF)),)) + changed[place + 1 :]
    if chance.randrange(3) == 0:
        return changed
    first, last = data.splitlines()[0], data.rstrip().splitlines()[-1]
    return b"\n".join((first, base64.encodebytes(changed).rstrip(), last, b""))
