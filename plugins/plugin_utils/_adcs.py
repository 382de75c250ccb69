# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what only AD CS needs, judged on the controller; may change in any release.

Nothing else reads C(own) of what a host tells.
"""

from __future__ import annotations

import functools
import typing as t
from dataclasses import dataclass
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _der
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Draft, Signatures, SignDrafts
from ansible_collections.keyward.pki.plugins.module_utils._time import now
from ansible_collections.keyward.pki.plugins.module_utils._x509 import load_crl, signed_by

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.plugin_utils._task import Task


def backdated(told: Told) -> timedelta:
    """By how much the CA lets its certificates begin before the moment when they are made."""
    return timedelta(minutes=int((told.own or {}).get("clock_skew_minutes") or 0))


def no_days() -> KeywardError:
    return KeywardError(
        "the CA can't be renewed",
        "on Windows days can't be given: the CA takes the validity of its renewed certificate from CAPolicy.inf",
        "Set RenewalValidityPeriod and RenewalValidityPeriodUnits there, and leave days out",
    )


def refuse_endless(still: t.Sequence[Finding]) -> None:
    """The CA alone decides for how long its certificate is valid: that it left the condition true is seen only afterwards."""
    if still:
        raise KeywardError(
            "the CA was renewed, and would be again by the next run",
            "; ".join(reason.message for reason in still),
            "Before that, give fewer remaining_days, or set RenewalValidityPeriod in CAPolicy.inf",
            still,
        )


def no_requests() -> KeywardError:
    return KeywardError(
        "nothing was signed",
        "a CA on Windows takes requests itself, as its policy and its officers decide",
        "Submit the request there (certreq -submit), and have it issued",
    )


def no_terms_of_crls() -> KeywardError:
    return KeywardError(
        "no CRL was signed",
        "on Windows days and published_crl can't be given: the CA signs what its database says, for the time it is set to",
        "Set that with certutil -setreg CA\\CRLPeriodUnits; to sign a CRL again by hand, use certutil -sign",
    )


# --- proofs of keys: AD CS signs no CRL but its own, so these are made here and signed by its keys in memory ---


def proofs(task: Task, generations: t.Sequence[Generation]) -> list[Known]:
    """A CRL by the key of each generation. Raises KeywardError."""
    drafts = [CrlDraft.of(generation) for generation in generations]
    answer = task.send(SignDrafts(tuple(draft.order for draft in drafts)), Signatures)
    signatures = {one.thumbprint.lower(): one.signature for one in answer.signatures}
    return [draft.signed(signatures.get(draft.generation.sha1, b"")) for draft in drafts]


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
    def order(self) -> Draft:
        return Draft(self.generation.sha1.upper(), self.to_sign, self.digest)

    def signed(self, signature: bytes) -> Known:
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
        return Known(self.generation, None, crl)


@functools.cache
def _stand_in(curve: str | None) -> t.Any:
    if curve is None:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(getattr(ec, curve.upper())())
