# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: private key files, PEM or DER, in the forms that they have at rest; may change in any release."""

from __future__ import annotations

import os
import re
import stat
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.keyward.pki.plugins.module_utils import _der
from ansible_collections.keyward.pki.plugins.module_utils._acl import recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Place
from ansible_collections.keyward.pki.plugins.module_utils._outline import READ, private_key_kind
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem_blocks, pem_content, public_key_sha256

try:
    from cryptography import __version__ as _cryptography
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:  # the modules say which library is missing
    pass

LARGEST_INPUT = 1024 * 1024  # certificate, key, request, serial

_CONTAINERS = {
    "PRIVATE KEY": "PKCS#8",
    "ENCRYPTED PRIVATE KEY": "PKCS#8",
    "RSA PRIVATE KEY": "PKCS#1",
    "EC PRIVATE KEY": "SEC1",
    "DSA PRIVATE KEY": "OpenSSL DSA",
}
# Files that only point to a key: pkcs11-provider, tpm2-openssl, tpm2-tss-engine.
_POINTERS = ("PKCS#11 PROVIDER URI", "TSS2 PRIVATE KEY", "TSS2 KEY BLOB")


_OPENSSH, _PKCS12 = "OPENSSH PRIVATE KEY", "PKCS#12"
_PFX = bytes.fromhex("06092a864886f70d0107")  # what a PKCS #12 file holds is of a type of PKCS #7


@dataclass(frozen=True)
class KeyFile:
    """A private key file. C(key) is None where it can't be read or opened; C(why) says why. C(locked): no passphrase was given for it."""

    path: str
    key: t.Any = field(default=None, repr=False)
    digest: t.Optional[str] = None  # of the public key
    why: t.Optional[str] = None
    remedy: str = ""
    encrypted: t.Optional[bool] = None
    in_token: bool = False
    locked: bool = False
    place: t.Optional[Place] = None


def place_of(path: str, encoding: str, container: t.Optional[str] = None, encrypted: t.Optional[bool] = None) -> t.Optional[Place]:
    import grp
    import pwd

    try:
        status, acl = os.stat(path), recorded_acls(path)["acl"]
    except OSError:
        return None
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return Place(path, owner, group, f"{stat.S_IMODE(status.st_mode):04o}", encrypted, encoding, container, acl)


def load_key_file(path: str, passphrase: t.Optional[str]) -> t.Optional[KeyFile]:
    """The private key of a PEM or DER file, or why it can't be had; None where the file does not exist."""
    try:
        data = read_file(path, "the private key", LARGEST_INPUT)
    except FileNotFoundError:
        return None
    except KeywardError as exc:
        cause = exc.__cause__
        if isinstance(cause, NotADirectoryError):
            return None
        if isinstance(cause, OSError):
            return KeyFile(path, why=os_cause(cause), remedy="Let the user that runs this task read it (become)")
        return KeyFile(path, why=f"it is no regular file of at most {LARGEST_INPUT} bytes", remedy="Put the key into a file, and name that")
    encoding, container, encrypted = "PEM", None, False
    for label, block in pem_blocks(data):
        if label in _POINTERS:
            return KeyFile(path, in_token=True)
        if label.endswith("PRIVATE KEY"):
            data, container = block, _CONTAINERS.get(label, label)
            encrypted = label.startswith("ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block
            break
    else:
        encoding = "DER"
        container, encrypted = _der_container(data)
    if container == _OPENSSH:
        remedy = "Write a copy of it as PKCS #8 (ssh-keygen -p -m PKCS8 -f the copy), which takes its place"
        return KeyFile(path, why="it is a key in the format of OpenSSH, which openssl can't read", remedy=remedy)
    if container == _PKCS12:
        remedy = f"Write the key into a file of its own (openssl pkcs12 -in {path} -nocerts -out that file), and name that one"
        return KeyFile(path, why="it is a PKCS #12 file, not a key file", remedy=remedy)
    if container is None:
        return KeyFile(path, why="it holds no private key, neither PEM nor DER", remedy="Check that this is the right file")
    known = KeyFile(path, encrypted=encrypted, place=place_of(path, encoding, container, encrypted))
    if encrypted and not passphrase:
        return replace(known, locked=True, why="it is encrypted at rest", remedy="Give private_key_passphrase")
    load = serialization.load_pem_private_key if encoding == "PEM" else serialization.load_der_private_key
    try:
        key = load(data, passphrase.encode("utf-8") if encrypted and passphrase else None, **_without_prime_tests())
        if isinstance(key, rsa.RSAPrivateKey) and not _consistent(key):
            raise ValueError
        return replace(known, key=key, digest=public_key_sha256(key.public_key()))
    except (ValueError, TypeError, ZeroDivisionError, UnsupportedAlgorithm, NotImplementedError) as exc:
        if encrypted and "password" in str(exc).lower():
            return replace(known, why="the passphrase does not open it", remedy="Give the right private_key_passphrase")
        if encrypted and "unknown" in str(exc).lower():
            how = re.search(rb"DEK-Info: *([\w-]{1,40})", data) or re.search(rb"[0-9]+(?:\.[0-9]+){3,20}", str(exc).encode("utf-8"))
            said = f" ({how.group(how.lastindex or 0).decode('ascii')})" if how else ""
            why = f"it is encrypted in a way that the cryptography package of this host can't open{said}"
            remedy = f"Encrypt it in another one: openssl pkey -in {path} -aes256 -out a new file, which takes its place"
            return replace(known, why=why, remedy=remedy)
        kind = None if encrypted else private_key_kind(pem_content(data) if encoding == "PEM" else data)
        if kind and kind not in READ:
            why = f"it is a key of the kind {kind}, which the cryptography package of this host can't read"
            remedy = "Keep a copy of it by the means of the tool that made it: no bundle can hold it"
            return replace(known, why=why, remedy=remedy)
        why = "it is damaged, or of a kind that can't be read here, such as an elliptic curve with explicit parameters"
        return replace(known, why=f"with this passphrase {why}" if encrypted else why, remedy="Check it with openssl pkey -check")


def _der_container(data: bytes) -> t.Tuple[t.Optional[str], bool]:
    """(container, encrypted) of a DER private key; (None, False) where it is none."""
    try:
        parts = _der.members(_der.first(data), 2)
    except ValueError:
        return None, False
    first, second = parts[0].tag, parts[1].tag
    if (first, second) == (0x30, 0x04):
        return "PKCS#8", True
    if parts[1].body.startswith(_PFX):
        return _PKCS12, False
    return {(0x02, 0x30): "PKCS#8", (0x02, 0x02): "PKCS#1", (0x02, 0x04): "SEC1"}.get((first, second)), False


def _without_prime_tests() -> t.Dict[str, t.Any]:
    """cryptography tests the primes of an RSA key that it loads: 0.3 s for 4096 bits, at each run. Damage shows in _consistent."""
    return {"unsafe_skip_rsa_key_validation": True} if int(_cryptography.split(".", 1)[0]) >= 39 else {}


def _consistent(key: rsa.RSAPrivateKey) -> bool:
    """Whether the numbers of an RSA key belong together (RFC 8017, 3.2)."""
    numbers = key.private_numbers()
    p, q, d, e = numbers.p, numbers.q, numbers.d, numbers.public_numbers.e
    return (
        p * q == numbers.public_numbers.n
        and (d * e) % (p - 1) == 1
        and (d * e) % (q - 1) == 1
        and (numbers.dmp1, numbers.dmq1) == (d % (p - 1), d % (q - 1))
        and (numbers.iqmp * q) % p == 1
    )


def refuse_in_the_clear(place: Place, passphrase: t.Optional[str], allowed: bool) -> None:
    """A key that was encrypted at rest never comes back clear unless that is allowed. Raises KeywardError."""
    if place.encrypted_at_rest and not passphrase and not allowed:
        raise KeywardError(
            "nothing was restored",
            f"the key {place.path} was encrypted at rest, and no passphrase was given to encrypt it again",
            "Give private_key_passphrase, or allow_unencrypted_key: true if a clear file is what you want",
        )


def key_bytes(key: t.Any, place: Place, passphrase: t.Optional[str], clear_allowed: bool = False) -> bytes:
    """The key file's bytes in the form that it had."""
    refuse_in_the_clear(place, passphrase, clear_allowed)
    container = serialization.PrivateFormat.PKCS8 if place.container in (None, "PKCS#8") else serialization.PrivateFormat.TraditionalOpenSSL
    encoding = serialization.Encoding.DER if place.encoding == "DER" else serialization.Encoding.PEM
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if place.encrypted_at_rest and passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode("utf-8"))
    return t.cast(bytes, key.private_bytes(encoding, container, encryption))
