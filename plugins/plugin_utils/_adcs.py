# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what only AD CS needs, judged on the controller; may change in any release.

No other code reads the field C(own) of a host's answer.
"""

from __future__ import annotations

import functools
import itertools
import re
import typing as t
from dataclasses import dataclass, replace
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils import _der, _outline
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import Known
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import Imported
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import Exported, File
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Draft, Signatures, SignDrafts
from ansible_collections.keyward.pki.plugins.module_utils._reasons import reason
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import is_root
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._stored import Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import now
from ansible_collections.keyward.pki.plugins.module_utils._verdict import Bundle, held_keys, judge, key_storage, open_bundle
from ansible_collections.keyward.pki.plugins.module_utils._whose import whose_crl
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    BUNDLE_NAME,
    ChosenBackup,
    Sealed,
    brings_back,
    refuse_unless_restorable,
)
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


def storage_changed(told: Told, kept: t.Mapping[str, t.Any] | None) -> list[Finding]:
    """Whether the CA keeps its keys in another provider than when its newest backup was made (C(kept): what that recorded)."""
    was, is_now = ((own or {}).get("provider") for own in (kept, told.own))
    if not isinstance(was, str) or not isinstance(is_now, str) or not was or not is_now or was == is_now:
        return []
    text = f"the CA keeps its keys in {is_now}, and kept them in {was} when its newest backup was made"
    return [Finding("key_storage_changed", text)]


def wrong_specification(generations: t.Sequence[Generation], own: t.Mapping[str, t.Any] | None) -> list[Finding]:
    """A renewal with the same key fails where the certificate gives a key of a key storage provider the specification of a CSP's key.

    C(own): what the host says of the certificates' property; a file may say otherwise, where it says anything.
    """
    said = (own or {}).get("key_specs")
    specs: dict[str, t.Any] = said if isinstance(said, dict) else {}
    text = (
        "its key is in a key storage provider, and its certificate says KeySpec {}: a renewal with the same key fails. Repair it before: {}"
    )
    repair = 'certutil -repairstore My <serial> KeyProv.inf (Microsoft, "CA certificate renewal fails with an existing key pair")'
    found = []
    for generation in generations:
        kept = generation.key_storage or {}
        spec = kept.get("key_spec") if specs.get(generation.sha256) is None else specs[generation.sha256]
        if spec and str(kept.get("provider")).endswith("Key Storage Provider"):
            found.append(Finding("key_storage_changed", f"{generation.label}: {text.format(spec, repair)}", generation.sha256))
    return found


def kept_with_keys(told: Told) -> dict[str, t.Any] | None:
    """What the manifest of an AD CS key backup holds in addition."""
    names = ("ca_type", "provider", "provider_type")
    return {name: told.own.get(name) for name in names} if told.own is not None else None


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


# --- key backups: the files as Windows wrote them, never repacked: they must go back into Windows ----------------------


def sealed(
    write: t.Callable[[t.Sequence[str]], Exported],
    told: Told,
    expected: t.Sequence[Generation],
    earlier: t.Sequence[Stored],
    passwords: t.Sequence[str | None],
) -> Sealed:
    """A new backup, proved. C(write): has Windows write its files under the first of the passwords, or one for each of these certificates.

    A generation that they lack is exported on its own. What the host has lost stays in the earlier backup's file, which goes
    into the new backup unchanged. Raises KeywardError.
    """
    written = write(())
    files = _named(written.files)
    bundles = [open_bundle(name, data, passwords[:1]) for name, data in files.items()]
    faults = [finding for finding in judge(bundles, []).reasons if finding.code != "key_missing"] if bundles else []
    if faults:
        raise KeywardError(
            "nothing was stored",
            "Windows wrote a backup that can't be used: " + "; ".join(fault.message for fault in faults),
            "Run the task again; if it happens again, look at what Backup-CARoleService does on that host",
            faults,
        )
    stuck = {one.sha256.lower(): one.code for one in written.not_exportable}
    there = [generation for generation in told.generations if generation.private_key == "present"]
    lacking = [g.sha256 for g in there if not brings_back(bundles, g) and g.sha256 not in stuck]
    if lacking:
        more = write(lacking)
        files.update(_named(more.files, taken=len(files)))
        stuck.update({one.sha256.lower(): one.code for one in more.not_exportable})
        bundles = [open_bundle(name, data, passwords[:1]) for name, data in files.items()]
    opened_by: dict[str, str] = {}
    for name, (bundle, data, opens) in _carried_over(expected, bundles, earlier, passwords).items():
        files[name], opened_by[name] = data, opens
        bundles.append(bundle)
    not_exported = [generation for generation in expected if generation.sha256 in stuck]
    _refuse_stuck(not_exported, stuck, bundles, anything_new=bool(files.keys() - opened_by.keys()))
    storage = key_storage(bundles, _provider_types(told))
    kept = [replace(g, key_storage=storage.get(g.public_key_sha256, g.key_storage)) for g in expected]
    refuse_unless_restorable(bundles, kept)
    text = "can't be exported any more; an earlier backup's file keeps its key"
    found = [Finding("not_exportable", f"{g.label} {text}", g.sha256) for g in not_exported]
    # The manifest says of each generation whether its key still leaves the host.
    kept = [replace(g, exportable=False) if g.sha256 in stuck else g for g in kept]
    return Sealed(files, kept, opened_by, (*found, *wrong_specification(kept, written.own)))


def _named(files: t.Sequence[File], taken: int = 0) -> dict[str, bytes]:
    """Names for the files in a store: Windows names them after the CA, which may have any characters."""
    names = (BUNDLE_NAME if number == 0 else f"authority-{number}.p12" for number in itertools.count(taken))
    return dict(zip(names, (file.content for file in files)))


def _provider_types(told: Told) -> dict[str, int]:
    """What the registry says of the provider of the CA's keys."""
    own = told.own or {}
    name, number = own.get("provider"), own.get("provider_type")
    return {name: number} if isinstance(name, str) and isinstance(number, int) else {}


def _carried_over(
    expected: t.Sequence[Generation], bundles: t.Sequence[Bundle], earlier: t.Sequence[Stored], passwords: t.Sequence[str | None]
) -> dict[str, tuple[Bundle, bytes, str]]:
    """The files of earlier backups that hold what the new ones lack: by their new names, opened, their bytes, and what opens them."""
    found: dict[str, tuple[Bundle, bytes, str]] = {}
    have = list(bundles)
    for backup in earlier:
        lost = [g for g in expected if not brings_back(have, g)]
        if not lost or not any(g.public_key_sha256 in backup.manifest.public_keys for g in lost):
            continue
        files = backup.files()
        for file in backup.manifest.files:
            bundle = open_bundle(file.name, files[file.name], passwords, file.sha256)
            if bundle.fault or any(brings_back([bundle], g) for g in lost):
                found[f"earlier-{file.sha256[:16]}.p12"] = (bundle, files[file.name], file.opened_by)
                have.append(bundle)
    return found


def _refuse_stuck(
    not_exported: t.Sequence[Generation], codes: t.Mapping[str, str], bundles: t.Sequence[Bundle], anything_new: bool
) -> None:
    """The findings for keys that can't leave their provider and are in no file."""
    unsaved = [
        reason("not_exportable", g.label, f"its provider answers {codes[g.sha256]}", g.sha256)
        for g in not_exported
        if not brings_back(bundles, g)
    ]
    if unsaved:
        raise KeywardError(
            "nothing was stored",
            "; ".join(finding.message for finding in unsaved),
            "Back these keys up by the means of their HSM or TPM, and keep that backup as you would this one. The certificates of all "
            "generations are in the database sets (ca_database_backup)",
            unsaved,
        )
    if not anything_new:
        raise KeywardError(
            "nothing was stored",
            "Windows gives out none of the keys any more, so that there is nothing to protect with this password",
            "Keep the newest backup, and the password that it was made with: it still holds every key",
            [reason("not_exportable", g.label, certificate=g.sha256) for g in not_exported],
        )


# --- restores ----------------------------------------------------------------------------------------------------------


def not_as_before(chosen: ChosenBackup, done: Imported, password: str | None) -> list[Finding]:
    """What the trial export shows of keys that Windows took: can the next backup be made, and are they kept as they were?"""
    trial = [open_bundle(file.name, file.content, [password]) for file in done.trial]
    recorded = {g.public_key_sha256: g.key_storage for g in chosen.generations if g.key_storage}
    before: dict[str, t.Mapping[str, t.Any]] = {**key_storage(chosen.bundles, {}), **recorded}
    after = key_storage(trial, {})
    found = []
    for generation in chosen.generations if done.trial or done.not_exportable else ():
        key = generation.public_key_sha256
        if key not in held_keys(trial):
            text = f"{generation.label} is back, and its private key can't be exported: the next key backup will fail"
            found.append(Finding("not_exportable", text, generation.sha256))
            continue
        was, is_now = before.get(key, {}), after.get(key, {})
        differ = [name for name in ("provider", "key_spec", "machine_key") if name in was and was[name] != is_now.get(name)]
        if differ:
            text = ", ".join(f"{name} is {is_now.get(name)} and was {was[name]}" for name in differ)
            text = f"{generation.label} is not kept as before: {text}. Repair it before the next renewal (certutil -repairstore)"
            found.append(Finding("key_storage_changed", text, generation.sha256))
    return found
