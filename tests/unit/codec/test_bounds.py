# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files that ask for much: each is refused within 10 s of CPU and 200 MiB, whichever passwords are tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._der import tlv, tlv_integer, tlv_oid

COLLECTIONS = Path(__file__).resolve().parents[3] / "collections"
SHA256, SHA3_512 = "2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.10"
DATA, SHROUDED = "1.2.840.113549.1.7.1", "1.2.840.113549.1.12.10.1.2"
# Opened as ca_key_verify does, with a password and the one before it; prints CPU seconds and MiB above those of an import.
MEASURE = """
import resource, sys
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_reader, _verdict
before = resource.getrusage(resource.RUSAGE_SELF)
found = _verdict.open_bundle("x.p12", sys.stdin.buffer.read(), ["correct horse battery", "correct horse battery staple"])
after = resource.getrusage(resource.RUSAGE_SELF)
seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(found.fault.code if found.fault else "opened", seconds, (after.ru_maxrss - before.ru_maxrss) / 1024)
"""


def info(content: bytes) -> bytes:
    return tlv(0x30, tlv_oid(DATA), tlv(0xA0, content))


def pfx(content: bytes, *mac: bytes) -> bytes:
    return tlv(0x30, tlv_integer(3), info(tlv(4, content)), *mac)


def mac(digest: str, iterations: int, length: int) -> bytes:
    algorithm = tlv(0x30, tlv_oid(digest), tlv(5))
    return tlv(0x30, tlv(0x30, algorithm, tlv(4, bytes(length))), tlv(4, b"s" * 16), tlv_integer(iterations))


def pbes2(iterations: int, function: str = "1.2.840.113549.2.11", salt: bytes = b"") -> bytes:
    kdf_parameters = (tlv(4, salt or os.urandom(16)), tlv_integer(iterations), tlv(0x30, tlv_oid(function), tlv(5)))
    kdf = tlv(0x30, tlv_oid("1.2.840.113549.1.5.12"), tlv(0x30, *kdf_parameters))
    cipher = tlv(0x30, tlv_oid("2.16.840.1.101.3.4.1.42"), tlv(4, bytes(16)))
    return tlv(0x30, tlv_oid("1.2.840.113549.1.5.13"), tlv(0x30, kdf, cipher))


def legacy(iterations: int) -> bytes:
    return tlv(0x30, tlv_oid("1.2.840.113549.1.12.1.3"), tlv(0x30, tlv(4, os.urandom(8)), tlv_integer(iterations)))


def scrypt(n: int, r: int, p: int) -> bytes:
    kdf = tlv(0x30, tlv_oid("1.3.6.1.4.1.11591.4.11"), tlv(0x30, tlv(4, os.urandom(16)), *map(tlv_integer, (n, r, p))))
    cipher = tlv(0x30, tlv_oid("2.16.840.1.101.3.4.1.42"), tlv(4, bytes(16)))
    return tlv(0x30, tlv_oid("1.2.840.113549.1.5.13"), tlv(0x30, kdf, cipher))


def keys(*algorithms: bytes) -> bytes:
    bags = [tlv(0x30, tlv_oid(SHROUDED), tlv(0xA0, tlv(0x30, algorithm, tlv(4, os.urandom(48))))) for algorithm in algorithms]
    return tlv(0x30, info(tlv(4, tlv(0x30, *bags))))


def nested(depth: int, inner: bytes, tag: int = 0x24) -> bytes:
    return bytes((tag, 0x80)) * depth + inner + b"\0\0" * depth


WORST = {
    "a MAC of a slow digest": lambda: pfx(b"\x30\0", mac(SHA3_512, 5_000_000, 64)),
    "a MAC as dear as may be": lambda: pfx(b"\x30\0", mac(SHA256, 4_900_000, 32)),
    "keys of their own salts": lambda: pfx(keys(*[pbes2(5_000_000) for _number in range(4)])),
    "keys as dear as may be": lambda: pfx(keys(*[pbes2(1_740_000) for _number in range(2)])),
    "keys behind a MAC": lambda: pfx(keys(*[legacy(600_000) for _number in range(14)]), mac(SHA256, 2_900_000, 32)),
    "scrypt as dear as may be": lambda: pfx(keys(scrypt(1 << 15, 8, 6))),
    "pieces of pieces": lambda: tlv(0x30, tlv_integer(3), info(tlv(0x24, *[nested(30, b"\x04\0" * 90_000)] * 2))),
    "many pieces of pieces": lambda: tlv(0x30, tlv_integer(3), info(tlv(0x24, *[nested(30, b"\x04\0" * 90_000)] * 40))),
    "sequences of indefinite length in each other": lambda: pfx(nested(31, b"\x05\0" * 99_000, 0x30)),
    "many of them side by side": lambda: pfx(tlv(0x30, *[nested(30, b"\x30\x80\0\0" * 20_000, 0x30)] * 60)),
    "a wide one": lambda: pfx(tlv(0x30, b"\x30\x04\x06\0\x05\0" * 99_000)),
    "eight MiB in each other": lambda: pfx(nested(30, tlv(4, bytes(7_900_000)), 0x30)),
}


@pytest.mark.parametrize("name", WORST)
def test_the_dearest_file_is_bounded(name: str) -> None:
    environment = {"PYTHONPATH": str(COLLECTIONS)}
    done = subprocess.run([sys.executable, "-c", MEASURE], input=WORST[name](), env=environment, capture_output=True, check=True)
    verdict, seconds, mebibytes = done.stdout.decode().split()
    assert verdict in ("limit_exceeded", "password_wrong", "malformed"), verdict
    assert float(seconds) <= 10 and float(mebibytes) <= 200, (name, verdict, seconds, mebibytes)
