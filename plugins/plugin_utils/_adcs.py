# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what only AD CS needs, judged on the controller; may change in any release.

Nothing but the files C(_adcs*) reads the field C(own) of a host's answer.
"""

from __future__ import annotations

import functools
import re
import typing as t
from dataclasses import dataclass
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Draft, Signatures, SignDrafts
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import is_root
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._time import now
from ansible_collections.keyward.pki.plugins.module_utils._whose import whose_crl
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import ChosenBackup
from ansible_collections.keyward.pki.plugins.plugin_utils._subject import subject_name

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.plugin_utils._task import Task


def backdated(told: Told) -> timedelta:
    """How far the CA dates the start of its certificates back."""
    return timedelta(minutes=int((told.own or {}).get("clock_skew_minutes") or 0))


def no_days() -> KeywardError:
    return KeywardError(
        "the CA can't be renewed",
        "on Windows days can't be given: the CA takes the validity of its renewed certificate from CAPolicy.inf",
        "Set RenewalValidityPeriod and RenewalValidityPeriodUnits there, and leave days out",
    )


def no_issued_before() -> KeywardError:
    """Microsoft, "Renew root CA certificate": with the same key, ValidFrom stays that of the original."""
    return KeywardError(
        "the CA can't be renewed",
        "on Windows a root that is renewed with its own key begins to be valid when its first certificate did, so that issued_before "
        "stays true: each run would renew it again",
        "Give remaining_days instead of issued_before, or renew with a new key (reuse_key: false)",
    )


def refuse_endless(still: t.Sequence[Finding]) -> None:
    """Report a renewal that left its condition true: AD CS alone chooses the validity, so this shows only afterwards."""
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


# --- installation ---


def directory_account(task: str, options: t.Mapping[str, t.Any]) -> dict[str, str] | None:
    """The account that sets up the role in Active Directory (-Credential), where one is given. Raises KeywardError."""
    user, password = options["directory_user"], options["directory_password"]
    if user is None and password is None:
        return None
    if not user or not password:
        lacks = "directory_password" if user else "directory_user"
        raise KeywardError(
            f"{task} can't run", f"directory_user and directory_password belong together, and {lacks} is missing", f"Give {lacks}"
        )
    return {"user": str(user), "password": str(password)}


def refuse_directory_account(task: str, options: t.Mapping[str, t.Any]) -> None:
    """Of software that knows no Active Directory."""
    if options["directory_user"] is not None or options["directory_password"] is not None:
        why = "an account of Active Directory was given, and this host is not Windows"
        raise KeywardError(f"{task} can't run", why, "Leave directory_user and directory_password out")


_CURVES = {"secp256r1": ("P256", 256, "SHA256"), "secp384r1": ("P384", 384, "SHA384"), "secp521r1": ("P521", 521, "SHA512")}
_CA_TYPES = ("EnterpriseRootCA", "EnterpriseSubordinateCA", "StandaloneRootCA", "StandaloneSubordinateCA")
# The names that CertStrToName knows; any other attribute is written by its object identifier.
_ATTRIBUTES = {
    "2.5.4.6": "C",
    "2.5.4.8": "ST",
    "2.5.4.7": "L",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.25": "DC",
}


def directory_name(name: x509.Name) -> str:
    """A name as CertStrToName of Windows reads it: it knows quotes, and no escapes of RFC 4514."""
    found = []
    for attribute in reversed(list(name)):
        number, value = attribute.oid.dotted_string, str(attribute.value)
        key = _ATTRIBUTES.get(number, number)
        plain = value == value.strip() and not re.search(r'[,+="\n<>#;]', value)
        found.append(f"{key}={value}" if plain else '{}="{}"'.format(key, value.replace('"', '""')))
    return ",".join(found)


def terms_of_installation(asked: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The CA that the task asks for, as parameters of Install-AdcsCertificationAuthority."""
    provider = {"RSA": "RSA", "EC": "ECDSA_" + _CURVES[asked["curve"]][0]}.get(asked["key_type"])
    why = None
    if provider is None:
        why = f"AD CS knows no {asked['key_type']} keys"
    elif asked["path_length"] is not None:
        why = "AD CS takes the path length of a CA from CAPolicy.inf"
    if why:
        raise KeywardError("the CA can't be installed", why, "Use key_type RSA or EC, and write a path length into CAPolicy.inf")
    subject = subject_name(asked["subject"])
    names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if len(names) != 1:
        raise KeywardError("the CA can't be installed", "its subject has not exactly one commonName", "Give subject with one")
    others = x509.Name([attribute for attribute in subject if attribute.oid != x509.NameOID.COMMON_NAME])
    rsa = asked["key_type"] == "RSA"
    return {
        "kind": asked["kind"],
        "common_name": str(names[0].value),
        "subject_suffix": directory_name(others),
        "provider": f"{provider}#Microsoft Software Key Storage Provider",
        "key_length": asked["key_size"] if rsa else _CURVES[asked["curve"]][1],
        "hash": "SHA256" if rsa else _CURVES[asked["curve"]][2],
        "days": asked["days"],
    }


def terms_of_bringing_back(chosen: ChosenBackup) -> dict[str, t.Any]:
    """The role on top of keys and certificates that are back. C(ca_type): None where the backup does not say; then the host decides."""
    current = chosen.generations[-1]
    own = (chosen.stored.manifest.own if chosen.stored else None) or {}
    return {"certificate_id": current.sha1.upper(), "ca_type": known_type(own.get("ca_type")), "root": is_root(chosen.generations)}


def known_type(ca_type: object) -> str | None:
    return ca_type if isinstance(ca_type, str) and ca_type in _CA_TYPES else None


# --- proofs of keys: AD CS signs no CRL but its own, so these are made here and signed by its keys in memory ---


def proofs(task: Task, generations: t.Sequence[Generation]) -> tuple[list[Known], list[Finding]]:
    """A CRL by the key of each generation, and of which keys nothing here can tell. Raises KeywardError."""
    drafts = [draft for draft in map(CrlDraft.of, generations) if draft]
    answer = task.send(SignDrafts(tuple(draft.order for draft in drafts)), Signatures)
    signatures = {one.thumbprint.lower(): one.signature for one in answer.signatures}
    tried = {draft.generation.sha256 for draft in drafts}
    made = [draft.signed(signatures.get(draft.generation.sha1, b"")) for draft in drafts]
    unproved = [one for one in generations if one.sha256 not in tried]
    text = "its key ({}) can't be proved here; certutil -verifystore My {} tests it"
    return made, [
        Finding("key_not_proved", f"{one.label}: {text.format(one.key_algorithm, one.sha1.upper())}", one.sha256) for one in unproved
    ]


@dataclass(frozen=True)
class CrlDraft:
    """An empty CRL of one day that a generation's key has yet to sign."""

    generation: Generation
    to_sign: bytes  # TBSCertList, DER (RFC 5280, 5.1)
    algorithm: bytes  # AlgorithmIdentifier, DER
    digest: str

    @classmethod
    def of(cls, generation: Generation) -> CrlDraft | None:
        """None for a key that is neither RSA nor EC on a curve that is known here."""
        public_key = generation.public_key
        if not isinstance(public_key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
            return None
        digest: t.Any = hashes.SHA256()
        if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.key_size > 256:
            digest = hashes.SHA384() if public_key.curve.key_size <= 384 else hashes.SHA512()
        start = now()
        builder = x509.CertificateRevocationListBuilder(x509.Name([]), start, start + timedelta(days=1))
        # The builder can't leave out the signature: sign with a throwaway key and drop that signature.
        unsigned = builder.sign(_stand_in(public_key.curve.name if isinstance(public_key, ec.EllipticCurvePublicKey) else None), digest)
        body, algorithm, _signature = _der.members(_der.first(unsigned.public_bytes(serialization.Encoding.DER)), 3)
        version, how, _nobody, *rest = (field.whole for field in _der.members(body, 3))
        issuer = _outline.certificate(generation.certificate).subject  # byte by byte: some names the library can't write
        return cls(generation, _der.tlv(_der.SEQUENCE, version, how, issuer, *rest), algorithm.whole, digest.name.upper())

    @property
    def order(self) -> Draft:
        return Draft(self.generation.sha1.upper(), self.to_sign, self.digest)

    def signed(self, signature: bytes) -> Known:
        """The CRL, verified. C(signature): as .NET gives it, for EC r and s in their fixed length. Raises KeywardError."""
        if isinstance(self.generation.public_key, ec.EllipticCurvePublicKey):
            half = len(signature) // 2
            signature = utils.encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
        made = _der.tlv(_der.SEQUENCE, self.to_sign, self.algorithm, _der.tlv(_der.BITS, b"\0", signature))
        whose = whose_crl(made, self.generation.certificate)
        if whose is Whose.NOT_OURS:
            raise KeywardError(
                f"{self.generation.label} could not sign a CRL",
                "its certificate does not verify what its key signed",
                "Look at the key of this certificate with certutil -verifystore My, and put the right one back (ca_key_restore)",
            )
        return Known(self.generation, None, made, proved=whose is Whose.OURS)


@functools.cache
def _stand_in(curve: str | None) -> t.Any:
    if curve is None:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(getattr(ec, curve.upper())())
