# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what goes into a new bundle, and what can't; may change in any release. No files and no Ansible here."""

from __future__ import annotations

import hashlib
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, slug
from ansible_collections.keyward.pki.plugins.module_utils._reasons import reason
from ansible_collections.keyward.pki.plugins.module_utils._x509 import short_subject

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
except ImportError:  # the modules say which library is missing
    pass


# What a bundle may be protected by is bounded where it is written, never where it is read.
PASSWORD_LENGTH = 20
ID_RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")  # DER


def password_fault(password: str) -> t.Optional[str]:
    """Why no bundle is written under this password, None where it may be. Reading takes any password."""
    if any(not " " <= character <= "~" for character in password):
        return "it has characters other than printable ASCII, which Java, Windows and openssl encode differently"
    if len(password) < PASSWORD_LENGTH:
        return f"it has fewer than {PASSWORD_LENGTH} characters"
    return None


# Under 32 random bytes the count makes no difference; this is the default of openssl pkcs12.
ONE_TIME_ITERATIONS = 2048


def seal(
    generations: t.Sequence[Generation],
    private_keys: t.Mapping[str, t.Any],
    chain: t.Sequence[bytes],
    password: str,
    iterations: t.Optional[int] = None,
) -> bytes:
    """One PKCS #12 file with every generation; C(private_keys) by their public_key_sha256.

    C(iterations): ONE_TIME_ITERATIONS for a one-time password, otherwise as many as readers take.
    Raises KeywardError where a key is missing or can't go into PKCS #12.
    """
    refuse_unsealable(generations, private_keys)
    own = {generation.sha256 for generation in generations}
    named_keys = []
    for digest, sharing in _by_key(generations):
        name = f"{slug(short_subject(sharing[-1].certificate))} generation {sharing[0].index}"
        named_keys.append(_pkcs12_writer.NamedKey(private_keys[digest], name, [generation.certificate for generation in reversed(sharing)]))
    others = [certificate for certificate in dict.fromkeys(chain) if hashlib.sha256(certificate).hexdigest() not in own]
    return _pkcs12_writer.write(named_keys, others, password, iterations)


def refuse_unsealable(generations: t.Iterable[Generation], private_keys: t.Mapping[str, t.Any]) -> None:
    """Raise KeywardError where a generation's key is missing or can't go into PKCS #12."""
    for digest, sharing in _by_key(generations):
        newest = sharing[-1]
        if digest not in private_keys:
            raise KeywardError(
                f"the private key of {newest.label} can't be backed up",
                "it is neither on the host nor in an earlier backup that opens",
                "Bring the key back (ca_key_restore), or give its passphrase, and run the task again",
                [reason("key_missing", newest.label, certificate=newest.sha256)],
            )
        refusal = _pkcs12_writer.key_refusal(private_keys[digest]) or _pss_refusal(newest)
        if refusal:
            raise KeywardError(
                f"the private key of {newest.label} can't be backed up",
                refusal,
                "Keep a copy of this key by the means of the tool that made it; PKCS #12 readers of today could not bring it back",
                [reason("unsupported", newest.label, refusal, newest.sha256)],
            )


def _by_key(generations: t.Iterable[Generation]) -> t.List[t.Tuple[str, t.List[Generation]]]:
    """The generations that share a key, oldest first, by the key's public_key_sha256."""
    sharing: t.Dict[str, t.List[Generation]] = {}
    for generation in sorted(generations, key=lambda generation: generation.index):
        sharing.setdefault(generation.public_key_sha256, []).append(generation)
    return list(sharing.items())


def _pss_refusal(generation: Generation) -> t.Optional[str]:
    """cryptography forgets that a key is bound to RSASSA-PSS: what it writes is a plain RSA key, which fits the certificate no more."""
    public_key = generation.public_key
    if not isinstance(public_key, rsa.RSAPublicKey):
        return None
    plain = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if plain in generation.certificate or ID_RSASSA_PSS not in generation.certificate:
        return None
    return "its certificate binds it to RSASSA-PSS (1.2.840.113549.1.1.10), and it would come back as a plain RSA key"
