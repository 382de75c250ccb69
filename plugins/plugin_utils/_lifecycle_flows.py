# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what installing, renewing and signing do on the controller; may change in any release."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump, parse
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import Imported, ImportKeys
from ansible_collections.keyward.pki.plugins.module_utils._renewal_policy import (
    given_certificates,
    refuse_wrong_answer,
)
from ansible_collections.keyward.pki.plugins.module_utils._verdict import judge
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs import not_as_before
from ansible_collections.keyward.pki.plugins.plugin_utils._flow import Flow, NothingOnHost, Result
from ansible_collections.keyward.pki.plugins.plugin_utils._flows import BackupFlow, ChosenBackup, request_facts
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import known_authorities, one_time_password

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass

LARGEST_CRL = 256 * 1024 * 1024
WINDOWS_CURVES = {"secp256r1": ("P256", 256, "SHA256"), "secp384r1": ("P384", 384, "SHA384"), "secp521r1": ("P521", 521, "SHA512")}
# As CertStrToName names them; anything else goes by its number.
_WINDOWS_ATTRIBUTES = {
    "2.5.4.6": "C",
    "2.5.4.8": "ST",
    "2.5.4.7": "L",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.25": "DC",
}


def _facts(answer: Result, host: str) -> Result:
    """The authority as it is after a task; a CA that waits for its first certificate has no generation, and a predicted one nothing."""
    generations = [Generation.from_json(shape) for shape in answer["generations"]]
    who = answer["authority"]
    if who and who["subject"] is None and generations:  # a Windows host leaves it to us to read certificates
        who = {**who, "subject": generations[-1].subject}
    return {
        "changed": answer["changed"],
        "authority": Authority(**{**who, "host": host}).as_result() if who else None,
        "generations": [generation.as_result() for generation in generations],
        "advisories": answer["advisories"],
        "reasons": [],
    }


def _windows_name(name: x509.Name) -> str:
    """A name as CertStrToName of Windows reads it: it knows quotes, and no escapes of RFC 4514."""
    found = []
    for attribute in reversed(list(name)):
        number, value = attribute.oid.dotted_string, str(attribute.value)
        key = _WINDOWS_ATTRIBUTES.get(number, number)
        plain = value == value.strip() and not re.search(r'[,+="\n<>#;]', value)
        found.append(f"{key}={value}" if plain else '{}="{}"'.format(key, value.replace('"', '""')))
    return ",".join(found)


class LifecycleFlow(Flow):
    """What tasks share that change a CA on its host: the host's answer in the shape of all results."""

    def refusal(self, error: KeywardError) -> Result:
        return {**super().refusal(error), "reasons": [finding.as_result() for finding in error.findings]}

    RETURNED: t.ClassVar[tuple[str, ...]] = ()

    def _ask(self, request: t.Mapping[str, t.Any]) -> Result:
        return self._shaped(self.on_host(request))

    def _shaped(self, answer: Result) -> Result:
        return {**_facts(answer, self._host), **{name: answer[name] for name in self.RETURNED if name in answer}}


class CaInstall(BackupFlow):
    NAME, ARGUMENTS = "ca_install", _arguments.CA_INSTALL

    def perform(self) -> Result:
        if self.options["backend"] != "adcs" and not self._is_windows:
            self._required("config_file", "Give the path that its openssl.cnf has, or is to have")
        try:
            return self._there(self.on_host({}))
        except NothingOnHost as exc:
            on_windows = exc.backend == "adcs"
        chosen = self._lost()
        names = ("kind", "subject", "key_type", "key_size", "curve", "days", "path_length", "certificate")
        asked: Result = {"install": {name: self.options[name] for name in names}}
        if chosen is None:
            self._required("subject", "Give the subject of the new CA, such as {commonName: Example Root CA}")
        if chosen:
            answer = self._recreated(chosen) if on_windows else self.on_host({**asked, **self._bundles(chosen)})
        elif on_windows:
            answer = self.on_host({"install": self._windows_terms(asked["install"]), "directory": self.options["directory"]})
        else:
            answer = self.on_host(asked)
        result = {
            **_facts(answer, self._host),
            "restored": answer.get("restored", []),
            "pending": answer["pending"],
            "request": answer["request"],
            "request_file": answer["request_file"],
            "reboot_required": answer.get("reboot_required", False),
        }
        if self._task.diff:
            place = self.options["config_file"] or self._host
            result["diff"] = {"before": f"{place}: no CA\n", "after": f"{place}: {'a CA brought back' if chosen else 'a new CA'}\n"}
        return result

    def _windows_terms(self, asked: Result) -> Result:
        """The same CA in the words of Install-AdcsCertificationAuthority."""
        provider = {"RSA": "RSA", "EC": "ECDSA_" + WINDOWS_CURVES[asked["curve"]][0]}.get(asked["key_type"])
        why = None
        if provider is None:
            why = f"AD CS knows no {asked['key_type']} keys"
        elif asked["path_length"] is not None:
            why = "AD CS takes the path length of a CA from CAPolicy.inf"
        if why:
            raise KeywardError("the CA can't be installed", why, "Use key_type RSA or EC, and write a path length into CAPolicy.inf")
        subject = _x509.subject_name(asked["subject"])
        names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        if len(names) != 1:
            raise KeywardError("the CA can't be installed", "its subject has not exactly one commonName", "Give subject with one")
        others = x509.Name([attribute for attribute in subject if attribute.oid != x509.NameOID.COMMON_NAME])
        rsa = asked["key_type"] == "RSA"
        return {
            "kind": asked["kind"],
            "common_name": str(names[0].value),
            "subject_suffix": _windows_name(others),
            "provider": f"{provider}#Microsoft Software Key Storage Provider",
            "key_length": asked["key_size"] if rsa else WINDOWS_CURVES[asked["curve"]][1],
            "hash": "SHA256" if rsa else WINDOWS_CURVES[asked["curve"]][2],
            "days": asked["days"],
            "certificate": asked["certificate"],
        }

    def _recreated(self, chosen: ChosenBackup) -> Result:
        """First the keys and certificates, then the role on top of them."""
        password, keys = one_time_password(), {generation.public_key_sha256 for generation in chosen.generations}
        order = ImportKeys(
            tuple(chosen.generations), files=() if self._check else chosen.given(keys, in_hand=False), trial_password=password
        )
        restored = parse(Imported, self.on_host({"restore": True, **dump(order)}))
        current = chosen.generations[-1]
        root = _x509.is_self_signed(_x509.load(current.certificate))
        kind = "StandaloneRootCA" if root else "StandaloneSubordinateCA"
        recreate = {"certificate_id": current.sha1.upper(), "ca_type": kind}
        answer = self.on_host({"recreate": recreate, "directory": self.options["directory"]})
        trial = not_as_before(chosen, restored, password)
        return {
            **answer,
            "restored": [dict(vars(each)) for each in restored.restored],
            "advisories": [*answer["advisories"], *(finding.as_result() for finding in trial)],
        }

    def _there(self, answer: Result) -> Result:
        """A CA that is there is never touched."""
        lost = [shape for shape in answer["generations"] if shape["private_key"] == "missing"]
        if lost:
            labels = ", ".join(Generation.from_json(shape).label for shape in lost)
            raise KeywardError(
                "nothing was installed",
                f"there is a CA in this place, and private keys of it are missing: {labels}",
                "Put them back (ca_key_restore)",
            )
        answer = {**answer, "changed": False}
        if answer.get("pending_request") and "request" in answer["pending_request"] and self.options["certificate"] is not None:
            answer = self._answered(answer)
        waiting = answer.get("pending_request") if "adcs" in answer and not answer["generations"] else None
        return {
            **_facts(answer, self._host),
            "restored": [],
            "pending": bool(waiting),
            "request": waiting["request"] if waiting else None,
            "request_file": waiting["path"] if waiting else None,
            "reboot_required": False,
        }

    def _answered(self, answer: Result) -> Result:
        """On Windows, a subordinate CA that waits for its first certificate is there already."""
        if answer["generations"]:
            return answer
        facts = request_facts(answer["pending_request"]) or {}
        given = generation_of(given_certificates(self.options["certificate"])[0])
        refuse_wrong_answer(given, facts["public_key_sha256"] or given.public_key_sha256, facts["subject"] or given.subject)
        if self._check:
            return {**answer, "changed": True, "pending_request": None}
        # It had no generation when this was decided.
        return self.on_host({"install": {"certificate": self.options["certificate"], "of": None}})

    def _lost(self) -> ChosenBackup | None:
        """The backup of the CA that was in this place, where there is one: it is brought back, and no new one is made."""
        nothing_known = not self.options.get("stores") or self._named(known_authorities(self.stores)[0]) is None
        if self.options.get("backup") is None and nothing_known:
            return None
        self._required("password", "A backup of the CA that was here exists. Give its password, and the CA is brought back from it")
        chosen = self._choose(None)
        verdict = judge(chosen.bundles, chosen.generations)
        if not verdict.restorable:
            raise KeywardError(
                "nothing was installed",
                f"{chosen.paths[0]} is not restorable: " + "; ".join(fault.message for fault in verdict.reasons),
                "Give another backup (ca_key_backup_info lists them), or the right password",
                verdict.reasons,
            )
        return chosen
