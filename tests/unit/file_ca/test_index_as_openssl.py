# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An index.txt is read as openssl reads it: compared with its library for many odd files, with the command itself for some."""

from __future__ import annotations

import ctypes
import ctypes.util
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import parse_number
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_faults import is_time
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import Index, attribute_in, is_unique_subject, read_index
from support.openssl_ca import OpensslCa, openssl

FILES = 1500
STATES = ("V", "R", "E", "", "X", "r", "Revoked", "\ufeffR", " V")
EXPIRES = (*("270101000000Z",) * 8, "20510101000000Z", "2701010000Z", "270101000000+0100", "270101", "", "270230000000Z", "9" * 30)
REVOKED = (
    *("", "260101000000Z", "260101000000Z,superseded", "260101000000Z,KEYCOMPROMISE", "20260101000000Z", "now", "260101000000Z,"),
    *("260101000000Z,holdInstruction,holdInstructionReject", "260101000000Z,holdInstruction", "260101000000Z,holdInstruction,1.2.3"),
    *("260101000000Z,keyTime,20260101000000Z", "260101000000Z,CAkeyTime,260101000000Z", "260101000000Z,removeFromCRL", ",superseded"),
)
SERIALS = ("01", "0a", "0A", "000A", "10", "11", "12", "13", "14", "", "1", "ABC", "-05", "zz", "00", "0b ", "1000000000000000000000")
SUBJECTS = (
    *("/CN=a", "/CN=b", "/CN=c", "", "CN=d", "/CN=\\xC3\\xBC", "/CN=ü", "/CN=tab\\\tin it", "/CN=end\\", "/CN=cr\r"),
    "/CN=" + "x" * 700,
)
PIECES = (b"\n", b"\t", b"#", b"# " + b"y" * 600, b"\0", b"\r", b"\\\t", b"\xef\xbb\xbf", b"\xff", b" ", b"\n\n", b"", b"\xe2\x80\xa8")


def odd_row(rng: random.Random) -> str:
    state = rng.choice(STATES) if rng.random() < 0.15 else rng.choice("VRE")
    revoked = rng.choice(REVOKED) if rng.random() < 0.15 else REVOKED[2] if state == "R" else ""
    serial = rng.choice(SERIALS) if rng.random() < 0.3 else f"{rng.randrange(1 << 64):016X}"
    expires = rng.choice(EXPIRES) if rng.random() < 0.15 else EXPIRES[0]
    subject = rng.choice(SUBJECTS) if rng.random() < 0.3 else f"/CN=n{rng.randrange(100)}"
    return "\t".join((state, expires, revoked, serial, rng.choice(("unknown", "", "certs/a.pem")), subject))


def odd_file(rng: random.Random) -> bytes:
    data = b"".join(odd_row(rng).encode() + b"\n" for _row in range(rng.randrange(6)))
    for _piece in range(rng.choice((0, 0, 0, 1, 1, 2))):
        at = rng.choice((0, len(data), rng.randrange(len(data) + 1), data.find(b"\n") + 1))
        data = data[:at] + rng.choice(PIECES) + data[at + rng.randrange(2) :]
    return data[:-1] if rng.random() < 0.1 else data


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
    for name in ("BIO_new_file", "BIO_new", "BIO_s_mem", "TXT_DB_read", "ASN1_STRING_new", "ASN1_UTCTIME_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    lib.BIO_ctrl.restype = ctypes.c_long
    return lib


@pytest.fixture
def read_by_openssl(library: ctypes.CDLL, tmp_path: Path) -> Callable[[bytes], bytes | None]:
    """What its text database would write back of a file; None where it can't read it."""
    path = tmp_path / "index.txt"

    def read(data: bytes) -> bytes | None:
        path.write_bytes(data)
        stream = ctypes.c_void_p(library.BIO_new_file(str(path).encode(), b"r"))
        database = library.TXT_DB_read(stream, 6)
        library.BIO_free(stream)
        if not database:
            return None
        memory, found = ctypes.c_void_p(library.BIO_new(ctypes.c_void_p(library.BIO_s_mem()))), ctypes.c_char_p()
        library.TXT_DB_write(memory, ctypes.c_void_p(database))
        length = library.BIO_ctrl(memory, 3, ctypes.c_long(0), ctypes.byref(found))  # BIO_CTRL_INFO
        written = ctypes.string_at(found, length) if length else b""
        library.BIO_free(memory)
        library.TXT_DB_free(ctypes.c_void_p(database))
        return written

    return read


def written(index: Index) -> bytes:
    return "".join(f"{row.text}\n" for row in index.rows).encode("utf-8", "surrogateescape")


def in_columns(index: Index) -> bool:
    return not any("columns" in fault.text or fault.text == "is empty" for fault in index.faults)


def test_odd_files_are_read_as_by_the_text_database(read_by_openssl: Callable[[bytes], bytes | None]) -> None:
    rng = random.Random(20261128)  # noqa: S311 - the same each time
    outcomes = {True: 0, False: 0}
    for _file in range(FILES):
        data = odd_file(rng)
        theirs, ours = read_by_openssl(data), read_index(data)
        assert in_columns(ours) == (theirs is not None), data
        assert theirs is None or written(ours) == theirs, data
        outcomes[theirs is None] += 1
        if theirs is not None and theirs != data:
            assert ours.faults or data.count(b"\t") > theirs.count(b"\t"), f"{data!r}: nothing is said, and openssl writes {theirs!r}"
    assert min(outcomes.values()) > FILES / 20


def odd_times(rng: random.Random) -> Iterator[str]:
    for _time in range(6000):
        digits = f"{rng.randrange(10000):04d}"[rng.randrange(3) :]
        digits += "".join(f"{rng.randrange(limit):02d}" for limit in (14, 33, 25, 61, 61)[: rng.choice((3, 4, 5, 5, 5))])
        digits += rng.choice(("", "", "", ".5", ".", " "))
        yield digits + rng.choice(("Z", "Z", "Z", "", "z", "+0100", "-1300", "+0060", "+1200", "+01", "Z "))


def test_times_are_judged_as_by_openssl(library: ctypes.CDLL) -> None:
    accepted, rng = 0, random.Random(1)  # noqa: S311
    for text in (*odd_times(rng), "000229000000Z", "21000229000000Z", "20000229000000Z", ""):
        assert is_time(text, "utc") == bool(library.ASN1_UTCTIME_set_string(None, text.encode())), text
        assert is_time(text, "generalized") == bool(library.ASN1_GENERALIZEDTIME_set_string(None, text.encode())), text
        accepted += is_time(text, "utc") or is_time(text, "generalized")
    assert accepted > 100


@pytest.mark.parametrize("unique", [True, False])
def test_the_command_refuses_what_is_said_to_be_refused_and_revokes_the_same(tmp_path: Path, unique: bool) -> None:
    ca = OpensslCa(tmp_path / "ca")
    (ca.directory / "index.txt.attr").write_text(f"unique_subject = {'yes' if unique else 'no'}\n")
    rng, outcomes = random.Random(7 + unique), {True: 0, False: 0}  # noqa: S311
    for number in range(50):
        data = odd_file(rng) if number % 2 else b"".join(odd_row(rng).encode() + b"\n" for _row in range(2))
        (ca.directory / "index.txt").write_bytes(data)
        made = openssl("ca", "-config", ca.config_file, "-gencrl", "-out", tmp_path / "crl", cwd=ca.directory, check=False)
        index = read_index(data, unique)
        refused = any(fault.refused for fault in index.faults)
        assert refused == (made.returncode != 0), f"{data!r}: {index.faults}: {made.stderr}"
        if not refused:
            shown = openssl("crl", "-in", tmp_path / "crl", "-noout", "-text").stdout
            assert index.revoked == {int(one, 16) for one in re.findall(r"Serial Number: (-?[0-9A-F]+)", shown)}, data
        outcomes[refused] += 1
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize(
    ("attributes", "configured", "allowed"),
    [
        (None, "no", True),
        (None, "yes", False),
        (None, None, False),
        ("unique_subject = no\n", "yes", True),
        ("unique_subject = yes\n", "no", False),
        ("unique_subject = maybe\n", "no", False),
        ("# empty\n", "no", True),
        ("no equal sign\n", "no", True),
        ("[ other ]\nunique_subject = yes\n", "no", True),
        ("x = no\nunique_subject = $x\n", "yes", True),
    ],
)
def test_who_says_whether_subjects_are_unique(tmp_path: Path, attributes: str | None, configured: str | None, allowed: bool) -> None:
    ca, path = OpensslCa(tmp_path / "ca"), tmp_path / "ca" / "index.txt.attr"
    path.unlink(missing_ok=True)
    if attributes is not None:
        path.write_text(attributes)
    text = ca.config_file.read_text().replace("unique_subject = no\n", f"unique_subject = {configured}\n" if configured else "")
    ca.config_file.write_text(text)
    row = "V\t990101000000Z\t\t{}\tunknown\t/CN=one\n"
    (ca.directory / "index.txt").write_text(row.format("01") + row.format("02"))
    made = openssl("ca", "-config", ca.config_file, "-gencrl", "-out", tmp_path / "crl", cwd=ca.directory, check=False)
    assert is_unique_subject(attribute_in(str(path), str(ca.directory)), configured) is not allowed
    assert (made.returncode == 0) is allowed


@pytest.mark.parametrize("said", ["1001", "1001\n1002\n", "10ab\r\n", "1001 junk", "00", "101", "1", "", " 1001", "0x10", "-01"])
def test_numbers_are_read_as_openssl_reads_them(said: str, tmp_path: Path) -> None:
    ca = OpensslCa(tmp_path / "ca")
    path = ca.directory / "crlnumber"
    path.write_text(said)
    made = openssl("ca", "-config", ca.config_file, "-gencrl", "-out", tmp_path / "crl", cwd=ca.directory, check=False)
    try:
        number: int | None = parse_number(said.encode("ascii"), str(path))
    except KeywardError:
        number = None
    assert (made.returncode == 0) is (number is not None)
    assert number is None or int(path.read_text(), 16) == number + 1
