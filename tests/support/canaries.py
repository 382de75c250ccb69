# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognises secrets, or pieces of them, in whatever a run left behind, also escaped, as hex or as (nested) base64."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

# A window of every secret at every offset is known, and data is looked at window by window: every piece of at least
# 2 * WINDOW - 1 bytes is found, wherever it begins. A line of PEM splits a P-256 key's 32 secret bytes into 12 and 20.
WINDOW = 10
NESTED = 3
# How the identifiers of a bundle's friendlyName and localKeyId begin (DER), and that of the extensions in every certificate request.
PKCS9 = bytes.fromhex("06092a864886f70d0109")
# How the algorithms of PKCS #1 begin, in every RSA certificate too.
PKCS1 = bytes.fromhex("300d06092a864886f70d01")

ESCAPE = re.compile(rb"\\+(?:x([0-9a-fA-F]{2})|u00([0-9a-fA-F]{2})|([nrt\"'/]))|\\(\\)")
BLANKS = re.compile(rb"(?:[\s,|]|b?'|\")+")
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
HEX = re.compile(rb"(?:[0-9a-fA-F]{2}:?){12,}")
TO_STANDARD = bytes.maketrans(b"-_", b"+/")


class Canaries:
    """Named secrets; `find(data)` tells which of them `data` holds."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}

    def add(self, name: str, *secrets: str | bytes) -> None:
        for secret in secrets:
            for data in (secret,) if isinstance(secret, bytes) else (secret.encode(), secret.encode("utf-16-be")):
                assert len(data) >= 2 * WINDOW - 1, f"{name} is too short to be recognised"
                for start in range(len(data) - WINDOW + 1):
                    self._names[data[start : start + WINDOW]] = name

    def allow(self, *values: bytes) -> None:
        """What may be shown although it is part of a secret, such as the digests that a bundle has as localKeyId."""
        for value in values:
            for start in range(len(value) - WINDOW + 1):
                self._names.pop(value[start : start + WINDOW], None)

    def add_private_key(self, name: str, path: Path, passphrase: str | None = None) -> None:
        """Only what is private: the public half of a key file is in the certificate too. An encrypted file is a secret as a whole."""
        data = path.read_bytes()
        key = serialization.load_pem_private_key(data, passphrase.encode() if passphrase else None)
        self.add(name, *private_numbers(key))
        if passphrase:
            self.add(f"{name}, encrypted", base64.b64decode(b"".join(data.splitlines()[1:-1]))[-64:])

    def add_bundles(self, store: Path) -> int:
        """All bundles of a store, but for the digests in them, which manifests and results tell too; how many there are."""
        bundles = list(store.rglob("*.p12"))
        for bundle in bundles:
            self.add(f"the bundle {bundle.parent.name}", bundle.read_bytes())
            manifest = bundle.with_name("manifest.json").read_text()
            self.allow(PKCS9, PKCS1, *(bytes.fromhex(digest) for digest in re.findall(r'"([0-9a-f]{40,64})"', manifest)))
        return len(bundles)

    def find(self, data: bytes | str) -> set[str]:
        return set(self._found(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data, NESTED))

    def find_in_files(self, directories: Iterable[Path]) -> set[tuple[str, str]]:
        """(secret, path) of all regular files below the directories; their names are looked at too."""
        found = set()
        for directory in directories:
            for path in (directory, *directory.rglob("*")):
                data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                found |= {(name, str(path)) for name in self.find(data) | self.find(str(path))}
        return found

    def _found(self, data: bytes, depth: int) -> Iterator[str]:
        names = self._names
        for start in range(0, len(data) - WINDOW + 1, WINDOW):
            name = names.get(data[start : start + WINDOW])
            if name is not None:
                yield name
        if depth:
            plain = _unescaped(data)
            for text in dict.fromkeys((plain, BLANKS.sub(b"", plain))):
                if text != data:
                    yield from self._found(text, 0)
                for decoded in _decoded(text):
                    yield from self._found(decoded, depth - 1)


def private_numbers(key: object) -> list[bytes]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return [key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")]
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    return [
        number.to_bytes((number.bit_length() + 7) // 8, "big")
        for number in (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    ]


def _unescaped(data: bytes) -> bytes:
    def replaced(match: re.Match[bytes]) -> bytes:
        code = match[1] or match[2]
        character = match[3] or match[4]
        return bytes.fromhex(code.decode()) if code else {b"n": b"\n", b"r": b"\r", b"t": b"\t"}.get(character, character)

    return ESCAPE.sub(replaced, data)


def _decoded(text: bytes) -> Iterator[bytes]:
    for match in BASE64.finditer(text):
        run = match[0].translate(TO_STANDARD)
        for skipped in range(4):
            part = run[skipped:]
            yield base64.b64decode(part[: len(part) // 4 * 4])
    for match in HEX.finditer(text):
        digits = match[0].replace(b":", b"").decode()
        for skipped in range(2):
            part = digits[skipped:]
            yield bytes.fromhex(part[: len(part) // 2 * 2])
