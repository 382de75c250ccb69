# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PKCS #12 codec: what is written is read back, each cause of failure has its type, and limits hold before work is done."""

from __future__ import annotations

import hashlib
import random
import time

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import pkcs12 as library
from support import pfx
from support.pfx import PASSWORD

AES = "AES-256-CBC, PBKDF2-HMAC-SHA256"
MAC = "HMAC-SHA256, PKCS12-KDF-SHA256"


@pytest.fixture
def few_iterations(monkeypatch):
    """Bundles that cost nothing to write and to read."""
    monkeypatch.setattr(_pkcs12, "WRITE_ITERATIONS", 10)


@pytest.fixture
def derivations(monkeypatch):
    """Counts the key derivations that run."""
    counts = {"pbkdf2": 0, "pkcs12": 0}
    pbkdf2_hmac, pkcs12_kdf = hashlib.pbkdf2_hmac, _pkcs12._pkcs12_kdf

    def counted_pbkdf2(*arguments):
        counts["pbkdf2"] += 1
        return pbkdf2_hmac(*arguments)

    def counted_pkcs12(*arguments):
        counts["pkcs12"] += 1
        return pkcs12_kdf(*arguments)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted_pbkdf2)
    monkeypatch.setattr(_pkcs12, "_pkcs12_kdf", counted_pkcs12)
    return counts


def three_keys():
    return [pfx.named("rsa-2048", "first"), pfx.named("ec-secp384r1", "second"), pfx.named("ed25519", "third")]


# --- round trips ---


@pytest.mark.parametrize("kinds", [["rsa-2048"], ["ec-secp256r1", "ec-secp521r1"], ["rsa-2048", "ec-secp384r1", "ed25519", "ed448"]])
def test_every_key_comes_back(few_iterations, kinds):
    keys = [pfx.named(kind, f"generation {index}", index) for index, kind in enumerate(kinds)]
    contents = _pkcs12.read(_pkcs12.write(keys, [], PASSWORD), PASSWORD)
    assert [pfx.pkcs8(entry.key) for entry in contents.private_keys] == [pfx.pkcs8(entry.key) for entry in keys]
    assert [entry.friendly_name for entry in contents.private_keys] == [entry.name for entry in keys]
    assert [entry.public_key_sha256 for entry in contents.private_keys] == [_pkcs12.public_key_sha256(entry.key) for entry in keys]
    assert all(entry.encrypted for entry in contents.private_keys)
    assert contents.key_bags == len(kinds)
    assert (contents.unreadable, contents.advisories) == ((), ())


def test_certificates_follow_their_keys_and_one_of_each_key_bears_its_id(few_iterations):
    renewed = pfx.named("rsa-2048", "root")
    older = pfx.certificate(renewed.key, "Test root", 7)
    renewed = _pkcs12.NamedKey(renewed.key, renewed.name, [*renewed.certificates, older])
    other, chain = pfx.named("ec-secp256r1", "other"), pfx.certificate(pfx.key("ed25519"), "Above", 1)
    contents = _pkcs12.read(_pkcs12.write([renewed, other], [chain, older], PASSWORD), PASSWORD)
    key_ids = [bytes.fromhex(_pkcs12.public_key_sha256(entry.key)) for entry in (renewed, other)]
    assert [entry.local_key_id for entry in contents.private_keys] == key_ids
    assert [(entry.der, entry.local_key_id, entry.friendly_name) for entry in contents.certificates] == [
        (renewed.certificates[0], key_ids[0], "root"),
        (other.certificates[0], key_ids[1], "other"),
        (older, None, None),
        (chain, None, None),
    ]


def test_public_key_sha256_is_of_the_subject_public_key_info():
    public = pfx.key("rsa-2048").public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert _pkcs12.public_key_sha256(public) == _pkcs12.public_key_sha256(pfx.key("rsa-2048")) == hashlib.sha256(der).hexdigest()


def test_a_bundle_says_how_it_is_protected():
    contents = _pkcs12.read(_pkcs12.write([pfx.named("ed25519", "one")], [], PASSWORD), PASSWORD)
    assert contents.encryption == _pkcs12.Encryption((AES,), (AES,), MAC, 300_000, False)


def test_keys_and_certificates_share_a_salt_that_no_other_bundle_has(few_iterations):
    def salts_and_ivs(data):
        items = _pkcs12._parsed(data, _pkcs12._Secrets(PASSWORD)).items
        return {item.scheme.kdf.salt for item in items}, {item.scheme.iv for item in items}

    first, second = (salts_and_ivs(_pkcs12.write(three_keys(), [], PASSWORD)) for _bundle in range(2))
    assert len(first[0]) == len(second[0]) == 1
    assert not first[0] & second[0]
    assert len(first[1] | second[1]) == 8


@pytest.mark.parametrize(("keys", "iterations"), [(1, 300_000), (2, 300_000), (3, 250_000), (4, 200_000), (9, 100_000), (199, 5_000)])
def test_iterations_are_what_dotnet_still_opens(keys, iterations):
    assert _pkcs12.iterations_for(keys) == iterations


def test_writing_and_reading_cost_one_derivation_each(few_iterations, derivations):
    data = _pkcs12.write(three_keys(), [], PASSWORD)
    assert derivations == {"pbkdf2": 1, "pkcs12": 1}
    _pkcs12.read(data, PASSWORD)
    assert derivations == {"pbkdf2": 2, "pkcs12": 2}
    assert _pkcs12.opens(data, PASSWORD)
    assert derivations == {"pbkdf2": 3, "pkcs12": 2}
    assert not _pkcs12.opens(data, "another")
    assert derivations == {"pbkdf2": 4, "pkcs12": 2}


# --- what is not written ---


@pytest.mark.parametrize("password", ["", "pässwörd", "tab\there", "newline\n", "key\N{KEY}"])
def test_a_password_that_readers_encode_differently_is_refused(password):
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        _pkcs12.write([pfx.named("ed25519", "one")], [], password)
    assert not password or password not in str(refused.value)


def test_names_and_keys_are_unique():
    one = pfx.named("ed25519", "one")
    with pytest.raises(ValueError, match="name"):
        _pkcs12.write([one, pfx.named("ec-secp256r1", "ONE")], [], PASSWORD)
    with pytest.raises(ValueError, match="twice"):
        _pkcs12.write([one, _pkcs12.NamedKey(one.key, "two", [])], [], PASSWORD)


def unwritable_keys():
    yield x25519.X25519PrivateKey.generate()
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa

        yield mldsa.MLDSA65PrivateKey.generate()
    except Exception:  # before release 47, or a build whose OpenSSL knows none
        return


def test_a_key_that_pkcs12_readers_would_not_bring_back_is_refused_with_the_reason():
    for private_key in unwritable_keys():
        refusal = _pkcs12.key_refusal(private_key)
        assert refusal
        assert type(private_key).__name__ in refusal
        with pytest.raises(_pkcs12.Unsupported) as refused:
            _pkcs12.write([_pkcs12.NamedKey(private_key, "one", [])], [], PASSWORD)
        assert str(refused.value) == refusal
    assert [_pkcs12.key_refusal(pfx.key(kind)) for kind in ("rsa-2048", "ec-secp256r1", "ed25519", "ed448")] == [None] * 4


# --- failures, each of its type ---


@pytest.mark.parametrize("password", ["another", "", None, PASSWORD + " ", "ungültig\N{KEY}"])
def test_wrong_password(few_iterations, password):
    data = _pkcs12.write(three_keys(), [], PASSWORD)
    with pytest.raises(_pkcs12.PasswordWrong) as failure:
        _pkcs12.read(data, password)
    assert not password or password not in str(failure.value)
    assert _pkcs12.opens(data, password) is False


def test_a_wrong_mac_under_the_right_password_is_damage(few_iterations):
    data = bytearray(_pkcs12.write(three_keys(), [], PASSWORD))
    data[-30] ^= 1
    with pytest.raises(_pkcs12.Malformed, match="integrity"):
        _pkcs12.read(bytes(data), PASSWORD)
    with pytest.raises(_pkcs12.PasswordWrong):
        _pkcs12.read(bytes(data), "another")


@pytest.mark.parametrize("data", [b"", b"0", b"text", b"0\x80", b"0\x84\xff\xff\xff\xff", b"\x31\x00", b"0\x00", b"0\x03\x02\x01\x03"])
def test_what_is_no_pkcs12_is_malformed(data):
    for function in (_pkcs12.read, _pkcs12.opens):
        with pytest.raises(_pkcs12.Malformed):
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
        for function in (_pkcs12.read, _pkcs12.opens):
            with pytest.raises(_pkcs12.Unsupported) as failure:
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
    contents = _pkcs12.read(data, PASSWORD)
    assert [entry.public_key_sha256 for entry in contents.private_keys] == [_pkcs12.public_key_sha256(good)]
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
        contents = _pkcs12.read(pfx.pfx(pfx.clear_safe(pfx.bag(1, plain))), "")
        assert (len(contents.private_keys), len(contents.unreadable)) == ((1, 0) if index is None else (0, 1)), index


# --- shapes of files that we do not write ---


def test_nothing_encrypted_is_weak_and_its_mac_decides():
    safe = pfx.clear_safe(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519"))))
    data = pfx.pfx(safe, password=PASSWORD)
    contents = _pkcs12.read(data, PASSWORD)
    assert not contents.private_keys[0].encrypted
    assert contents.encryption == _pkcs12.Encryption(("none",), (), MAC, 0, True)
    assert (_pkcs12.opens(data, PASSWORD), _pkcs12.opens(data, "another")) == (True, False)
    with pytest.raises(_pkcs12.PasswordWrong):
        _pkcs12.read(data, "another")
    unprotected = pfx.pfx(safe)
    assert _pkcs12.read(unprotected, "any").advisories == ("no_mac",)
    assert _pkcs12.opens(unprotected, "any")


def test_without_a_mac_the_encryption_proves_the_password():
    data = pfx.pfx(pfx.clear_safe(pfx.shrouded(PASSWORD, pfx.pkcs8(pfx.key("ed25519")))))
    contents = _pkcs12.read(data, PASSWORD)
    assert (len(contents.private_keys), contents.advisories, contents.encryption.mac) == (1, ("no_mac",), None)
    with pytest.raises(_pkcs12.PasswordWrong):
        _pkcs12.read(data, "another")


def test_a_key_in_an_encrypted_safe_is_encrypted():
    plain = pfx.seq(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519"))))
    data = pfx.pfx(pfx.encrypted_safe(*pfx.pbes2(PASSWORD, plain)), password=PASSWORD)
    contents = _pkcs12.read(data, PASSWORD)
    assert contents.private_keys[0].encrypted
    assert contents.encryption == _pkcs12.Encryption((AES,), (), MAC, 10, True)
    assert _pkcs12.opens(data, PASSWORD)


@pytest.mark.parametrize(("tail", "advisories"), [(b"\0" * 8, ()), (b"\n", ("trailing_bytes",)), (b"\0x", ("trailing_bytes",))])
def test_what_follows_the_file_is_ignored_and_told(few_iterations, tail, advisories):
    data = _pkcs12.write(three_keys(), [], PASSWORD) + tail
    contents = _pkcs12.read(data, PASSWORD)
    assert (len(contents.private_keys), contents.advisories) == (3, advisories)


def test_indefinite_lengths_and_strings_in_pieces(few_iterations):
    content, mac = pfx.parts(_pkcs12.write(three_keys(), [], PASSWORD))
    pieces = b"".join(pfx.octets(content[at : at + 100]) for at in range(0, len(content), 100))
    string = b"\x24\x80" + pieces + b"\0\0"
    info = b"\x30\x80" + pfx.oid("1.2.840.113549.1.7.1") + b"\xa0\x80" + string + b"\0\0" + b"\0\0"
    data = b"\x30\x80" + pfx.integer(3) + info + mac + b"\0\0"
    contents = _pkcs12.read(data + b"\0" * 8, PASSWORD)
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
    assert _pkcs12.read(data, "").private_keys[0].friendly_name == name


def test_pbmac1_as_another_implementation_reads_it(few_iterations):
    content, _mac = pfx.parts(_pkcs12.write([pfx.named("rsa-2048", "one")], [], PASSWORD))
    safes = [value.whole for value in _pkcs12._members(_pkcs12._first(content))]
    mac = pfx.pbmac1(content, PASSWORD)
    data = pfx.pfx(*safes, mac=mac)
    contents = _pkcs12.read(data, PASSWORD)
    assert len(contents.private_keys) == 1
    assert contents.encryption.mac == "HMAC-SHA256, PBKDF2-HMAC-SHA512"
    with pytest.raises(_pkcs12.PasswordWrong):
        _pkcs12.read(data, "another")
    with pytest.raises(_pkcs12.Malformed):
        _pkcs12.read(pfx.pfx(*safes, mac=pfx.pbmac1(content, PASSWORD, key_size=None)), PASSWORD)
    damaged = pfx.pfx(*safes, mac=pfx.pbmac1(content + b"x", PASSWORD))
    with pytest.raises(_pkcs12.Malformed):
        _pkcs12.read(damaged, PASSWORD)
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
    assert len(_pkcs12.read(data, None).private_keys) == len(_pkcs12.read(data, "").private_keys) == 1
    assert _pkcs12.opens(data, None)


def test_what_other_software_writes_with_one_key(few_iterations):
    private_key = pfx.key("rsa-2048")
    data = library.serialize_key_and_certificates(b"name", private_key, None, None, serialization.BestAvailableEncryption(b"password"))
    contents = _pkcs12.read(data, "password")
    assert [pfx.pkcs8(entry.key) for entry in contents.private_keys] == [pfx.pkcs8(private_key)]
    opened = library.load_pkcs12(_pkcs12.write([pfx.named("rsa-2048", "name")], [], PASSWORD), PASSWORD.encode())
    assert pfx.pkcs8(opened.key) == pfx.pkcs8(private_key)


# --- primitives, against published values ---


@pytest.mark.parametrize(
    ("password", "salt", "iterations", "purpose", "expected"),
    [  # the values of Peter Gutmann's test set, used by several implementations
        ("smeg", "0A58CF64530D823F", 1, 1, "8AAAE6297B6CB04642AB5B077851284EB7128F1A2A7FBCA3"),
        ("smeg", "0A58CF64530D823F", 1, 2, "79993DFE048D3B76"),
        ("queeg", "05DEC959ACFF72F7", 1000, 1, "ED2034E36328830FF09DF1E1A07DD357185DAC0D4F9EB3D4"),
        ("queeg", "05DEC959ACFF72F7", 1000, 2, "11DEDAD7758D4860"),
    ],
)
def test_pkcs12_key_derivation(password, salt, iterations, purpose, expected):
    wanted = bytes.fromhex(expected)
    encoded = password.encode("utf-16-be") + b"\0\0"
    assert _pkcs12._pkcs12_kdf("sha1", encoded, bytes.fromhex(salt), iterations, purpose, len(wanted)) == wanted


@pytest.mark.parametrize(
    ("key", "plain", "sealed"),
    [  # RFC 2268 section 5, those whose effective bits are those of the key
        ("ffffffffffffffff", "ffffffffffffffff", "278b27e42e2f0d49"),
        ("3000000000000000", "1000000000000001", "30649edf9be7d2c2"),
        ("88bca90e90875a7f0f79c384627bafb2", "0000000000000000", "2269552ab0f85ca6"),
    ],
)
def test_rc2(key, plain, sealed):
    assert _pkcs12._rc2_cbc(bytes.fromhex(key), bytes(8), bytes.fromhex(sealed)) == bytes.fromhex(plain)


@pytest.mark.parametrize("dotted", ["1.2.840.113549.1.12.10.1.2", "2.999.1", "0.9.2342", "2.5.4.3", "1.3.6.1.4.1.4294967296.0"])
def test_object_identifiers(dotted):
    assert _pkcs12._oid(_pkcs12._first(_pkcs12._der_oid(dotted))) == dotted


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
    for function in (_pkcs12.read, _pkcs12.opens):
        started = time.process_time()
        with pytest.raises(_pkcs12.LimitExceeded, match=name) as failure:
            function(data, PASSWORD)
        assert failure.value.limit in str(failure.value)
        assert time.process_time() - started < 5
    assert derivations == {"pbkdf2": 0, "pkcs12": 0}


def test_what_an_encrypted_safe_hides_is_checked_before_it_is_derived(derivations):
    hidden = pfx.seq(pfx.shrouded(PASSWORD, pfx.pkcs8(pfx.key("ed25519")), 5_000_001))
    data = pfx.pfx(pfx.encrypted_safe(*pfx.pbes2(PASSWORD, hidden)))
    derivations["pbkdf2"] = 0
    with pytest.raises(_pkcs12.LimitExceeded, match="iterations of one"):
        _pkcs12.read(data, PASSWORD)
    assert derivations == {"pbkdf2": 1, "pkcs12": 0}


def test_an_empty_password_is_charged_for_both_of_its_encodings():
    with pytest.raises(_pkcs12.LimitExceeded, match="iterations of all"):
        _pkcs12.read(pfx.pfx(*[legacy_safe(3, 3_000_000, 16)] * 2), "")


@pytest.mark.parametrize("count", [0, -1])
def test_an_impossible_count_condemns_the_file(count):
    with pytest.raises(_pkcs12.Malformed, match="iteration"):
        _pkcs12.read(pfx.pfx(legacy_safe(3, count, 16), key_safe()), PASSWORD)


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
    written = _pkcs12.write([pfx.named("ec-secp256r1", "one"), pfx.named("ed25519", "two")], [], PASSWORD)
    content, mac = pfx.parts(written)
    in_the_clear = pfx.pfx(pfx.clear_safe(pfx.bag(1, pfx.pkcs8(pfx.key("ed25519")))), key_safe())
    indefinite = (
        b"\x30\x80" + pfx.integer(3) + pfx.seq(pfx.oid("1.2.840.113549.1.7.1"), b"\xa0\x80" + pfx.octets(content) + b"\0\0") + mac + b"\0\0"
    )
    generator = random.Random(20261124)  # noqa: S311 - the same each time
    verdicts = set()
    for data in (written, in_the_clear, indefinite):
        for mutated in mutations(data, generator, 1500):
            for function in (_pkcs12.read, _pkcs12.opens):
                try:
                    function(mutated, PASSWORD)
                    verdicts.add("fine")
                except _pkcs12.Pkcs12Error as exc:
                    verdicts.add(type(exc).__name__)
                    assert PASSWORD not in str(exc)
    assert verdicts >= {"fine", "PasswordWrong", "Malformed", "Unsupported"}
