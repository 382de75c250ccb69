# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each cause of failure has its type, one unreadable part hides no other, and limits hold before work is done."""

from __future__ import annotations

import random
import time

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _der, _pkcs12_crypto, _pkcs12_reader, _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._x509 import public_key_sha256
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12 as library
from support import pfx
from support.pfx import AES, MAC, PASSWORD, three_keys

# --- failures, each of its type ---


@pytest.mark.parametrize("password", ["another", "", None, PASSWORD + " ", "ungültig\N{KEY}"])
def test_wrong_password(few_iterations, password):
    data = _pkcs12_writer.write(three_keys(), [], PASSWORD)
    with pytest.raises(_pkcs12_crypto.PasswordWrong) as failure:
        _pkcs12_reader.read(data, password)
    assert not password or password not in str(failure.value)
    assert _pkcs12_reader.opens(data, password) is False


def test_a_wrong_mac_under_the_right_password_is_damage(few_iterations):
    data = bytearray(_pkcs12_writer.write(three_keys(), [], PASSWORD))
    data[-30] ^= 1
    with pytest.raises(_pkcs12_crypto.Malformed, match="integrity"):
        _pkcs12_reader.read(bytes(data), PASSWORD)
    with pytest.raises(_pkcs12_crypto.PasswordWrong):
        _pkcs12_reader.read(bytes(data), "another")


@pytest.mark.parametrize("data", [b"", b"0", b"text", b"0\x80", b"0\x84\xff\xff\xff\xff", b"\x31\x00", b"0\x00", b"0\x03\x02\x01\x03"])
def test_what_is_no_pkcs12_is_malformed(data):
    for function in (_pkcs12_reader.read, _pkcs12_reader.opens):
        with pytest.raises(_pkcs12_crypto.Malformed):
            function(data, PASSWORD)


def test_unsupported_names_the_identifier():
    safe = pfx.clear_safe(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519"))))
    gost = pfx.seq(pfx.seq(pfx.seq(pfx.oid("1.2.643.2.2.9")), pfx.octets(b"x" * 32)), pfx.octets(b"salt"))
    signed = pfx.seq(pfx.integer(3), pfx.seq(pfx.oid("1.2.840.113549.1.7.2"), pfx.explicit(pfx.octets(b""))))
    aria = pfx.encrypted_safe(pfx.seq(pfx.oid("1.2.410.200046.1.1.37"), pfx.seq()), b"x" * 16)
    version = pfx.seq(pfx.integer(4), pfx.seq(pfx.oid("1.2.840.113549.1.7.1")))
    for data, identifier in (
        (pfx.pfx(safe, mac=gost), "1.2.643.2.2.9"),
        (signed, "1.2.840.113549.1.7.2"),
        (pfx.pfx(aria, password=PASSWORD), "1.2.410.200046.1.1.37"),
        (version, "version 4"),
    ):
        for function in (_pkcs12_reader.read, _pkcs12_reader.opens):
            with pytest.raises(_pkcs12_crypto.Unsupported) as failure:
                function(data, PASSWORD)
            assert failure.value.oid == identifier
            assert identifier in str(failure.value)


def test_one_unreadable_part_hides_no_other():
    good = pfx.key("ec-secp256r1")
    certificate = pfx.certificate(good, "Test", 1)
    of_unknown_kind = pfx.seq(pfx.integer(0), pfx.seq(pfx.oid("1.2.3.4")), pfx.octets(b"?"))
    under_unknown_cipher = pfx.bag(2, pfx.seq(pfx.seq(pfx.oid("1.2.3.5")), pfx.octets(b"?" * 16)))
    data = pfx.pfx(
        pfx.clear_safe(
            pfx.shrouded(PASSWORD, b"\x30\x00"),
            pfx.shrouded("another", pfx.pkcs8(good)),
            under_unknown_cipher,
            pfx.bag(1, of_unknown_kind),
            pfx.bag(2, pfx.integer(1)),
            pfx.certificate_bag(b"\x30\x03\x02\x01\x00"),
            pfx.bag(5, pfx.seq()),
            pfx.shrouded(PASSWORD, pfx.pkcs8(good)),
            pfx.certificate_bag(certificate),
        ),
        pfx.encrypted_safe(*pfx.pbes2("another", pfx.seq())),
        password=PASSWORD,
    )
    contents = _pkcs12_reader.read(data, PASSWORD)
    assert [entry.public_key_sha256 for entry in contents.private_keys] == [public_key_sha256(good.public_key())]
    assert [entry.der for entry in contents.certificates] == [certificate]
    assert contents.key_bags == 6
    assert sorted((entry.kind, entry.oid) for entry in contents.unreadable if entry.oid) == [
        ("private_key", "1.2.3.4"),
        ("private_key", "1.2.3.5"),
    ]
    assert sorted(entry.kind for entry in contents.unreadable if not entry.oid) == ["certificate", *["private_key"] * 3, "safe"]


def test_an_rsa_key_whose_parts_do_not_fit_is_unreadable():
    numbers = pfx.key("rsa-2048").private_numbers()
    fields = [
        0,
        numbers.public_numbers.n,
        numbers.public_numbers.e,
        numbers.d,
        numbers.p,
        numbers.q,
        numbers.dmp1,
        numbers.dmq1,
        numbers.iqmp,
    ]
    rsa_encryption = pfx.seq(pfx.oid("1.2.840.113549.1.1.1"), b"\x05\x00")
    for index, change in ((None, 0), (3, 2), (4, 2), (6, 2), (7, 2), (8, 2)):
        broken = [field + change if at == index else field for at, field in enumerate(fields)]
        plain = pfx.seq(pfx.integer(0), rsa_encryption, pfx.octets(pfx.seq(*map(pfx.integer, broken))))
        contents = _pkcs12_reader.read(pfx.pfx(pfx.clear_safe(pfx.bag(1, plain))), "")
        assert (len(contents.private_keys), len(contents.unreadable)) == ((1, 0) if index is None else (0, 1)), index


# --- shapes of files that we do not write ---


def test_nothing_encrypted_is_weak_and_its_mac_decides():
    safe = pfx.clear_safe(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519"))))
    data = pfx.pfx(safe, password=PASSWORD)
    contents = _pkcs12_reader.read(data, PASSWORD)
    assert not contents.private_keys[0].encrypted
    assert contents.encryption == _pkcs12_reader.Encryption(("none",), (), MAC, 0, True)
    assert (_pkcs12_reader.opens(data, PASSWORD), _pkcs12_reader.opens(data, "another")) == (True, False)
    with pytest.raises(_pkcs12_crypto.PasswordWrong):
        _pkcs12_reader.read(data, "another")
    unprotected = pfx.pfx(safe)
    assert _pkcs12_reader.read(unprotected, "any").advisories == ("no_mac",)
    assert _pkcs12_reader.opens(unprotected, "any")


def test_without_a_mac_the_encryption_proves_the_password():
    data = pfx.pfx(pfx.clear_safe(pfx.shrouded(PASSWORD, pfx.pkcs8(pfx.key("ed25519")))))
    contents = _pkcs12_reader.read(data, PASSWORD)
    assert (len(contents.private_keys), contents.advisories, contents.encryption.mac) == (1, ("no_mac",), None)
    with pytest.raises(_pkcs12_crypto.PasswordWrong):
        _pkcs12_reader.read(data, "another")


def test_a_key_in_an_encrypted_safe_is_encrypted():
    plain = pfx.seq(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519"))))
    data = pfx.pfx(pfx.encrypted_safe(*pfx.pbes2(PASSWORD, plain)), password=PASSWORD)
    contents = _pkcs12_reader.read(data, PASSWORD)
    assert contents.private_keys[0].encrypted
    assert contents.encryption == _pkcs12_reader.Encryption((AES,), (), MAC, 10, True)
    assert _pkcs12_reader.opens(data, PASSWORD)


@pytest.mark.parametrize(("tail", "advisories"), [(b"\0" * 8, ()), (b"\n", ("trailing_bytes",)), (b"\0x", ("trailing_bytes",))])
def test_what_follows_the_file_is_ignored_and_told(few_iterations, tail, advisories):
    data = _pkcs12_writer.write(three_keys(), [], PASSWORD) + tail
    contents = _pkcs12_reader.read(data, PASSWORD)
    assert (len(contents.private_keys), contents.advisories) == (3, advisories)


def test_indefinite_lengths_and_strings_in_pieces(few_iterations):
    content, mac = pfx.parts(_pkcs12_writer.write(three_keys(), [], PASSWORD))
    pieces = b"".join(pfx.octets(content[at : at + 100]) for at in range(0, len(content), 100))
    string = b"\x24\x80" + pieces + b"\0\0"
    info = b"\x30\x80" + pfx.oid("1.2.840.113549.1.7.1") + b"\xa0\x80" + string + b"\0\0" + b"\0\0"
    data = b"\x30\x80" + pfx.integer(3) + info + mac + b"\0\0"
    contents = _pkcs12_reader.read(data + b"\0" * 8, PASSWORD)
    assert (len(contents.private_keys), contents.advisories) == (3, ())


@pytest.mark.parametrize(
    ("encoded", "tag", "name"),
    [
        ("Wurzel \N{KEY}".encode("utf-16-be"), 0x1E, "Wurzel \N{KEY}"),
        ("../\x1b".encode("utf-16-be"), 0x1E, "../\x1b"),
        ("utf8 ü".encode(), 0x0C, "utf8 ü"),
        (b"\0a\0", 0x1E, None),
        (b"\xd8\x00", 0x1E, None),
        (b"\xff", 0x0C, None),
    ],
)
def test_names_as_found_and_none_where_unreadable(encoded, tag, name):
    attribute = pfx.friendly_name(encoded, tag)
    data = pfx.pfx(pfx.clear_safe(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519")), attribute)))
    assert _pkcs12_reader.read(data, "").private_keys[0].friendly_name == name


def test_pbmac1_as_another_implementation_reads_it(few_iterations):
    content, _mac = pfx.parts(_pkcs12_writer.write([pfx.named("rsa-2048", "one")], [], PASSWORD))
    safes = [value.whole for value in _der.members(_der.first(content))]
    mac = pfx.pbmac1(content, PASSWORD)
    data = pfx.pfx(*safes, mac=mac)
    contents = _pkcs12_reader.read(data, PASSWORD)
    assert len(contents.private_keys) == 1
    assert contents.encryption.mac == "HMAC-SHA256, PBKDF2-HMAC-SHA512"
    with pytest.raises(_pkcs12_crypto.PasswordWrong):
        _pkcs12_reader.read(data, "another")
    with pytest.raises(_pkcs12_crypto.Malformed):
        _pkcs12_reader.read(pfx.pfx(*safes, mac=pfx.pbmac1(content, PASSWORD, key_size=None)), PASSWORD)
    damaged = pfx.pfx(*safes, mac=pfx.pbmac1(content + b"x", PASSWORD))
    with pytest.raises(_pkcs12_crypto.Malformed):
        _pkcs12_reader.read(damaged, PASSWORD)
    try:
        opened = library.load_pkcs12(data, PASSWORD.encode())
    except ValueError:
        import cryptography

        assert int(cryptography.__version__.split(".")[0]) < 45, "cryptography opens PBMAC1 from release 44.0.3 on"
    else:
        assert pfx.pkcs8(opened.key) == pfx.pkcs8(pfx.key("rsa-2048"))


def test_the_empty_password_and_none_are_one():
    plain = pfx.pkcs8(pfx.key("ed25519"))
    data = pfx.pfx(pfx.clear_safe(pfx.shrouded("", plain)), password="")
    assert len(_pkcs12_reader.read(data, None).private_keys) == len(_pkcs12_reader.read(data, "").private_keys) == 1
    assert _pkcs12_reader.opens(data, None)


def test_what_other_software_writes_with_one_key(few_iterations):
    private_key = pfx.key("rsa-2048")
    data = library.serialize_key_and_certificates(b"name", private_key, None, None, serialization.BestAvailableEncryption(b"password"))
    contents = _pkcs12_reader.read(data, "password")
    assert [pfx.pkcs8(entry.key) for entry in contents.private_keys] == [pfx.pkcs8(private_key)]
    opened = library.load_pkcs12(_pkcs12_writer.write([pfx.named("rsa-2048", "name")], [], PASSWORD), PASSWORD.encode())
    assert pfx.pkcs8(opened.key) == pfx.pkcs8(private_key)


# --- limits ---


def key_safe(iterations=10, count=1):
    plain = pfx.pkcs8(pfx.key("ed25519"))
    return pfx.clear_safe(*(pfx.shrouded(PASSWORD, plain, iterations) for _bag in range(count)))


def scrypt_safe(n, r, p):
    derivation = pfx.seq(pfx.oid("1.3.6.1.4.1.11591.4.11"), pfx.seq(pfx.octets(b"salt"), *map(pfx.integer, (n, r, p))))
    cipher = pfx.seq(pfx.oid("2.16.840.1.101.3.4.1.42"), pfx.octets(bytes(16)))
    return pfx.encrypted_safe(pfx.seq(pfx.oid("1.2.840.113549.1.5.13"), pfx.seq(derivation, cipher)), bytes(16))


def legacy_safe(arc, iterations, size):
    algorithm = pfx.seq(pfx.oid(f"1.2.840.113549.1.12.1.{arc}"), pfx.seq(pfx.octets(b"saltsalt"), pfx.integer(iterations)))
    return pfx.encrypted_safe(algorithm, bytes(size))


def nested(depth):
    inner = pfx.seq()
    for _level in range(depth):
        inner = pfx.seq(pfx.bag(6, inner))
    return pfx.seq(pfx.oid("1.2.840.113549.1.7.1"), pfx.explicit(pfx.octets(inner)))


LIMITS = {
    "one": (lambda: pfx.pfx(key_safe(5_000_001)), "iterations of one key derivation"),
    "one, of the MAC": (lambda: pfx.pfx(key_safe(), mac=pfx.pbmac1(b"", PASSWORD, 5_000_001)), "iterations of one"),
    "all": (lambda: pfx.pfx(key_safe(5_000_000, 5)), "iterations of all"),
    "all, with the MAC": (lambda: pfx.pfx(key_safe(5_000_000, 4), mac=pfx.pbmac1(b"", PASSWORD)), "iterations of all"),
    "all, key and IV": (lambda: pfx.pfx(*[legacy_safe(3, 5_000_000, 16)] * 3), "iterations of all"),
    "RC2": (lambda: pfx.pfx(*[legacy_safe(6, 1, 400_000)] * 3), "bytes under RC2"),
    "scrypt memory": (lambda: pfx.pfx(scrypt_safe(2**20, 8, 1)), "memory"),
    "scrypt work": (lambda: pfx.pfx(scrypt_safe(2**14, 8, 16)), "iterations of one"),
    "keys": (lambda: pfx.pfx(pfx.clear_safe(*[pfx.bag(1, pfx.pkcs8(pfx.key("ed25519")))] * 201)), "private keys"),
    "bags": (lambda: pfx.pfx(pfx.clear_safe(*[pfx.certificate_bag(b"")] * 10_001)), "bags"),
    "values": (lambda: pfx.pfx(pfx.clear_safe(*[b"\x05\x00"] * 100_001)), "values"),
    "nested safes": (lambda: pfx.pfx(nested(40)), "nested"),
    "nested values": (lambda: pfx.pfx(b"\x30\x80" * 1000), "nested"),
    "size": (lambda: pfx.pfx(key_safe()) + bytes(8 * 1024 * 1024), "bytes"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_named_and_holds_before_any_derivation(derivations, limit):
    make, name = LIMITS[limit]
    data = make()
    for count in derivations:
        derivations[count] = 0
    for function in (_pkcs12_reader.read, _pkcs12_reader.opens):
        started = time.process_time()
        with pytest.raises(_pkcs12_crypto.LimitExceeded, match=name) as failure:
            function(data, PASSWORD)
        assert failure.value.limit in str(failure.value)
        assert time.process_time() - started < 5
    assert derivations == {"pbkdf2": 0, "pkcs12": 0}


def test_what_an_encrypted_safe_hides_is_checked_before_it_is_derived(derivations):
    hidden = pfx.seq(pfx.shrouded(PASSWORD, pfx.pkcs8(pfx.key("ed25519")), 5_000_001))
    data = pfx.pfx(pfx.encrypted_safe(*pfx.pbes2(PASSWORD, hidden)))
    derivations["pbkdf2"] = 0
    with pytest.raises(_pkcs12_crypto.LimitExceeded, match="iterations of one"):
        _pkcs12_reader.read(data, PASSWORD)
    assert derivations == {"pbkdf2": 1, "pkcs12": 0}


def test_an_empty_password_is_charged_for_both_of_its_encodings():
    with pytest.raises(_pkcs12_crypto.LimitExceeded, match="iterations of all"):
        _pkcs12_reader.read(pfx.pfx(*[legacy_safe(3, 3_000_000, 16)] * 2), "")


@pytest.mark.parametrize("count", [0, -1])
def test_an_impossible_count_condemns_the_file(count):
    with pytest.raises(_pkcs12_crypto.Malformed, match="iteration"):
        _pkcs12_reader.read(pfx.pfx(legacy_safe(3, count, 16), key_safe()), PASSWORD)


# --- hostile bytes ---


def mutations(data, generator, count):
    for _round in range(count):
        mutated = bytearray(data)
        for _change in range(generator.choice((1, 1, 1, 2, 5))):
            action, at = generator.randrange(5), generator.randrange(len(mutated))
            if action == 0:
                mutated[at] ^= 1 << generator.randrange(8)
            elif action == 1:
                mutated[at] = generator.choice((0, 0x30, 0x80, 0x84, 0xA0, 0xFF))
            elif action == 2:
                del mutated[at : at + generator.randrange(1, 20)]
            elif action == 3:
                mutated[at:at] = bytes(generator.randrange(256) for _byte in range(generator.randrange(1, 20)))
            else:
                del mutated[generator.randrange(len(mutated)) + 1 :]
            if not mutated:
                break
        yield bytes(mutated)


def test_mutated_bundles_raise_nothing_but_the_codecs_own_errors(few_iterations):
    written = _pkcs12_writer.write([pfx.named("ec-secp256r1", "one"), pfx.named("ed25519", "two")], [], PASSWORD)
    content, mac = pfx.parts(written)
    in_the_clear = pfx.pfx(pfx.clear_safe(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519")))), key_safe())
    indefinite = (
        b"\x30\x80" + pfx.integer(3) + pfx.seq(pfx.oid("1.2.840.113549.1.7.1"), b"\xa0\x80" + pfx.octets(content) + b"\0\0") + mac + b"\0\0"
    )
    generator = random.Random(20261124)  # noqa: S311 - the same each time
    verdicts = set()
    for data in (written, in_the_clear, indefinite):
        for mutated in mutations(data, generator, 1500):
            for function in (_pkcs12_reader.read, _pkcs12_reader.opens):
                try:
                    function(mutated, PASSWORD)
                    verdicts.add("fine")
                except _pkcs12_crypto.Pkcs12Error as exc:
                    verdicts.add(type(exc).__name__)
                    assert PASSWORD not in str(exc)
    assert verdicts >= {"fine", "PasswordWrong", "Malformed", "Unsupported"}
