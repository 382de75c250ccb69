# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CA has issued, by the hundred thousand: certificates as `openssl ca` writes them, their text in front.

One is real. The others are copies of it with a serial number, a modulus, a subject, a key identifier and a signature of their own, in
text and DER: copies with equal halves would be half the work for whatever compresses them. None of their signatures is right.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator

from support.openssl_ca import OpensslCa, openssl

MODULUS, SERIAL, IDENTIFIER = 256, 20, 20  # bytes
NAME = "host-{:09}.example.com"


def _colons(data: bytes, per_line: int, indent: int) -> str:
    text = [f"{octet:02x}" for octet in data]
    lines = [":".join(text[at : at + per_line]) for at in range(0, len(text), per_line)]
    return ":\n".join(" " * indent + line for line in lines)


class Template:
    """The one real certificate, cut where the others differ."""

    def __init__(self, ca: OpensslCa) -> None:
        request, name = ca.directory.parent / "template.csr", NAME.format(0)
        key = ("-newkey", "rsa:2048", "-noenc", "-keyout", request.with_suffix(".key"))
        openssl("req", "-new", *key, "-config", ca.config_file, "-subj", f"/CN={name}", "-out", request)
        serial = ca.directory / "serial"
        following = serial.read_text()
        serial.write_text("5A" * SERIAL + "\n")
        issued = request.with_suffix(".pem")
        openssl("ca", "-batch", "-config", ca.config_file, "-in", request, "-out", issued, cwd=ca.directory)
        serial.write_text(following)
        text, _begin, pem = issued.read_text(encoding="ascii").partition("-----BEGIN CERTIFICATE-----\n")
        self._text, self._der = text, base64.b64decode(pem.partition("-----END")[0])
        self._row = (ca.directory / "index.txt").read_text(encoding="ascii").splitlines()[-1]
        modulus = re.search(r"Modulus:\n((?: +[0-9a-f:]+\n)+)", text)
        signature = re.search(r"Signature Value:\n((?: +[0-9a-f:]+\n)+)", text) or re.search(r"((?: {9}[0-9a-f:]+\n)+)\Z", text)
        identifier = re.search(r"Subject Key Identifier: *\n +([0-9A-F:]+)\n", text)
        assert modulus and signature and identifier
        self._old_modulus, self._old_signature, self._old_identifier = modulus.group(1), signature.group(1), identifier.group(1)
        self._signature_indent = len(self._old_signature) - len(self._old_signature.lstrip())
        self._values = [
            bytes.fromhex(re.sub(r"[ :\n]", "", found)) for found in (self._old_modulus, self._old_signature, self._old_identifier)
        ]

    def certificate(self, number: int, draw: random.Random) -> tuple[str, str, str]:
        """Serial (hex), content of its file, row of the index."""
        name = NAME.format(number)
        serial = bytes([draw.randrange(1, 0x80)]) + draw.randbytes(SERIAL - 1)
        modulus = bytes([0, draw.randrange(0x80, 0x100)]) + draw.randbytes(MODULUS - 2) + bytes([draw.randrange(256) | 1])
        signature, identifier = draw.randbytes(len(self._values[1])), draw.randbytes(IDENTIFIER)
        der = self._der.replace(b"\x5a" * SERIAL, serial).replace(NAME.format(0).encode(), name.encode())
        for old, new in zip(self._values, (modulus, signature, identifier)):
            der = der.replace(old, new)
        text = self._text.replace(self._old_modulus, _colons(modulus, 15, 20) + "\n")
        text = text.replace(self._old_signature, _colons(signature, 18, self._signature_indent) + "\n")
        text = text.replace(self._old_identifier, identifier.hex(":").upper()).replace("5a:" * (SERIAL - 1) + "5a", serial.hex(":"))
        text = text.replace(NAME.format(0), name)
        lines = base64.b64encode(der).decode("ascii")
        pem = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
        row = self._row.replace("5A" * SERIAL, serial.hex().upper()).replace(NAME.format(0), name)
        return serial.hex().upper(), f"{text}-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n", row

    def issue(self, ca: OpensslCa, numbers: range) -> None:
        """As many more, in its index too."""
        with (ca.directory / "index.txt").open("a", encoding="ascii") as index:
            for serial, content, row in self._many(numbers):
                (ca.directory / "newcerts" / f"{serial}.pem").write_text(content, encoding="ascii")
                index.write(row + "\n")

    def _many(self, numbers: range) -> Iterator[tuple[str, str, str]]:
        draw = random.Random(numbers.start)  # noqa: S311 - the same tree each time
        for number in numbers:
            yield self.certificate(number, draw)
