# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: whose a signed document is, by the library, and where that refuses by openssl; may change in any release.

The library verifies no MD5, and no release of it every curve. Where the machine's policy forbids a hash (RHEL 9: SHA-1), neither the
library nor openssl verifies it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import textwrap
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _outline
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._one_line import one_line
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose, by_library, claims, scheme
from ansible_collections.keyward.pki.plugins.module_utils._x509 import first_certificate

_TIMEOUT = 60  # seconds
_REFUSED: t.Set[t.Tuple[bytes, bytes]] = set()  # (algorithm, public key) that openssl failed on: it is not asked again for each certificate


def whose_crl(data: bytes, certificate: bytes) -> Whose:
    """Whether the key of a certificate (DER) signed a CRL (PEM or DER). Raises ValueError where it is no CRL."""
    return _whose(_outline.crl(crl_der(data)), _issuer(certificate))


def whose_certificate(certificate: bytes, issuer: bytes) -> Whose:
    """Whether the key of C(issuer) signed a certificate (both DER). Raises ValueError where one of them is none."""
    return _whose(_outline.certificate(certificate), _issuer(issuer))


def whose_request(data: bytes) -> Whose:
    """Whether the key in a request (DER) signed it. Raises ValueError where it is none."""
    asked = _outline.request(data)
    found = by_library(asked, asked.public_key)
    return by_openssl(asked, asked.public_key) if found is Whose.CANT_TELL else found


@functools.lru_cache(maxsize=64)
def _issuer(certificate: bytes) -> _outline.Outline:
    return _outline.certificate(certificate)


def _whose(signed: _outline.Signed, issuer: _outline.Outline) -> Whose:
    if not claims(signed, issuer):
        return Whose.NOT_OURS
    found = by_library(signed, issuer.public_key)
    refused = (signed.algorithm, issuer.public_key)
    if found is Whose.CANT_TELL and refused not in _REFUSED:
        found = by_openssl(signed, issuer.public_key)
        if found is Whose.CANT_TELL:
            _REFUSED.add(refused)
    return found


def among(generations: t.Iterable[Generation], judge: t.Callable[[bytes], Whose]) -> t.Tuple[t.Optional[Generation], Whose]:
    """The generation that signed, or which may have. C(judge) is given a certificate (DER)."""
    perhaps = None
    for generation in generations:
        found = judge(generation.certificate)
        if found is Whose.OURS:
            return generation, found
        if found is Whose.CANT_TELL and perhaps is None:
            perhaps = generation
    return perhaps, Whose.CANT_TELL if perhaps else Whose.NOT_OURS


def by_openssl(signed: _outline.Signed, public_key: bytes) -> Whose:
    """The same answer by C(openssl dgst -verify). Nothing that is secret is written."""
    how, program = scheme(signed.algorithm), shutil.which("openssl")
    if program is None or how is None or how.digest is None:
        return Whose.CANT_TELL
    options: t.List[str] = []
    if how.salt is not None:
        options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{how.salt}", "-sigopt", f"rsa_mgf1_md:{how.mask}"]
    elif how.digest == "sm3":
        options = ["-sigopt", "distid:1234567812345678"]
    folder = tempfile.mkdtemp(prefix="keyward-")
    try:
        key, signature = os.path.join(folder, "key.pem"), os.path.join(folder, "signature")
        with open(key, "w", encoding="ascii") as stream:
            body = "\n".join(textwrap.wrap(base64.b64encode(public_key).decode("ascii"), 64))
            stream.write(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
        with open(signature, "wb") as raw:
            raw.write(signed.signature)
        command = [program, "dgst", f"-{how.digest}", "-verify", key, *options, "-signature", signature]
        # AnsibleModule.run_command takes no bytes and knows no timeout.
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            command, input=signed.body, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return Whose.CANT_TELL
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    said = done.stdout.lower()
    return Whose.OURS if b"verified ok" in said else Whose.NOT_OURS if b"verification failure" in said else Whose.CANT_TELL


# --- what was issued -------------------------------------------------------------------------------------------------


class Issued(t.NamedTuple):
    """A certificate that a CA issued, or may have. C(subject): in one line, as databases have it."""

    outline: _outline.Outline
    whose: Whose
    sha256: str  # its fingerprint

    @property
    def subject(self) -> str:
        return one_line(self.outline.subject)


def issued_in(data: bytes, generations: t.Sequence[Generation]) -> t.Optional[Issued]:
    """The certificate of a PEM or DER file, if this CA issued it or may have; None for another CA's, and for the CA's own.

    Raises ValueError where the file claims to hold a certificate and it can't be read.
    """
    der = first_certificate(data)
    if der is None:
        return None
    try:
        outline = _outline.certificate(der)
    except ValueError:
        if b"-----BEGIN" in data:
            raise
        return None  # a CRL, a request, a key
    if outline.self_issued and _whose(outline, outline) is not Whose.NOT_OURS:
        return None
    _signer, found = among(generations, lambda issuer: _whose(outline, _issuer(issuer)))
    return None if found is Whose.NOT_OURS else Issued(outline, found, hashlib.sha256(der).hexdigest())


def unverified(what: str, count: int = 1, passed_over: str = "") -> Finding:
    """What is to be said where nothing at hand can verify a signature. C(passed_over): what to do, where it does not count."""
    are = f"{what} bears" if count == 1 else f"{count} {what} bear"
    end = f"it counts for nothing. {passed_over}" if passed_over else "taken as the CA's own"
    text = f"{are} the name of this CA, and neither cryptography nor openssl can verify the signature here: {end}"
    return Finding("signature_not_verified", text)
