# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the CRLs of a CA on Windows, those that it publishes and those that prove its keys; may change in any release."""

from __future__ import annotations

import base64
import functools
import typing as t
from dataclasses import dataclass
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _der
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, crl_result
from ansible_collections.keyward.pki.plugins.module_utils._time import format_time, now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._x509 import load_crl, signed_by

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
except ImportError:  # the modules say which library is missing
    pass

Result = dict[str, t.Any]


def published_crls(found: t.Sequence[Result], generations: t.Sequence[Generation]) -> list[Result]:
    """The newest CRL by the key of each generation, that of the current one last; AD CS publishes one for each key.

    C(found): path and content (base64) of each file. What can't be read, or is by another CA, is no CRL of these generations.
    """
    parsed = []
    for file in found:
        try:
            parsed.append((str(file["path"]), load_crl(base64.b64decode(file["content"]))))
        except (ValueError, TypeError):
            continue
    shown = []
    for generation in generations:
        own = [crl_result(generation, path, crl) for path, crl in parsed if signed_by(crl, generation.certificate)]
        if own:
            shown.append(max(own, key=lambda one: int(one["number"] or "0", 16)))
    return shown


def crls_due(shown: t.Sequence[Result], generations: t.Sequence[Generation], remaining_days: int) -> list[Generation]:
    """The generations that are valid and have no CRL, or one that is valid for fewer days."""
    today = now_text()
    until = format_time(now() + timedelta(days=remaining_days))
    good = {one["certificate"] for one in shown if (one["next_update"] or "") >= until}
    return [generation for generation in generations if generation.not_after >= today and generation.sha256 not in good]


@dataclass(frozen=True)
class CrlDraft:
    """An empty CRL of one day that a generation's key has yet to sign."""

    generation: Generation
    to_sign: bytes  # TBSCertList, DER (RFC 5280, 5.1)
    algorithm: bytes  # AlgorithmIdentifier, DER
    digest: str

    @classmethod
    def of(cls, generation: Generation) -> CrlDraft:
        """Raises KeywardError for a key that is neither RSA nor EC: AD CS has no others here."""
        certificate = x509.load_der_x509_certificate(generation.certificate)
        public_key = certificate.public_key()
        if not isinstance(public_key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
            raise KeywardError(
                f"{generation.label} can't be proved",
                f"its key is of a kind that is not known here ({generation.key_algorithm})",
                "Prove it with certutil -verifykeys on the host",
            )
        digest: t.Any = hashes.SHA256()
        if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.key_size > 256:
            digest = hashes.SHA384() if public_key.curve.key_size <= 384 else hashes.SHA512()
        start = now()
        builder = x509.CertificateRevocationListBuilder(certificate.subject, start, start + timedelta(days=1))
        # The builder signs what it builds; the signature of this key of a moment is thrown away.
        unsigned = builder.sign(_stand_in(public_key.curve.name if isinstance(public_key, ec.EllipticCurvePublicKey) else None), digest)
        body, algorithm, _signature = _der.members(_der.first(unsigned.public_bytes(serialization.Encoding.DER)), 3)
        return cls(generation, body.whole, algorithm.whole, digest.name.upper())

    @property
    def order(self) -> Result:
        """What the host is asked to sign."""
        return {
            "thumbprint": self.generation.sha1.upper(),
            "data": base64.b64encode(self.to_sign).decode("ascii"),
            "digest": self.digest,
        }

    def signed(self, signature: bytes) -> Result:
        """The CRL, verified. C(signature): as .NET gives it, for EC r and s in their fixed length. Raises KeywardError."""
        public_key = x509.load_der_x509_certificate(self.generation.certificate).public_key()
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            half = len(signature) // 2
            signature = utils.encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
        crl = load_crl(_der.tlv(_der.SEQUENCE, self.to_sign, self.algorithm, _der.tlv(_der.BITS, b"\0", signature)))
        if not signed_by(crl, self.generation.certificate):
            raise KeywardError(
                f"{self.generation.label} could not sign a CRL",
                "its certificate does not verify what its key signed",
                "Look at the key of this certificate with certutil -verifykeys, and put the right one back (ca_key_restore)",
            )
        return crl_result(self.generation, None, crl)


@functools.cache
def _stand_in(curve: str | None) -> t.Any:
    if curve is None:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(getattr(ec, curve.upper())())
