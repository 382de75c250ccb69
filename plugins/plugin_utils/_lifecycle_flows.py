# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what installing, renewing and signing do on the controller; may change in any release."""

from __future__ import annotations

import base64
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._bundle import Authority, generation_from_json, judge
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.plugin_utils._flow import Flow, NothingOnHost, Result
from ansible_collections.keyward.pki.plugins.plugin_utils._flows import BackupFlow, ChosenBackup
from ansible_collections.keyward.pki.plugins.plugin_utils._store import known_authorities

LARGEST_CRL = 256 * 1024 * 1024


def _authority(answer: Result, host: str) -> Result | None:
    return Authority(**{**answer["authority"], "host": host}).as_result() if answer["authority"] else None


def _generations(answer: Result) -> list[Result]:
    return [generation_from_json(shape).as_result() for shape in answer["generations"]]


class LifecycleFlow(Flow):
    """What tasks share that change a CA on its host: the host's answer in the shape of all results."""

    def refusal(self, error: KeywardError) -> Result:
        return {**super().refusal(error), "reasons": [finding.as_result() for finding in error.findings]}

    def _ask(self, request: t.Mapping[str, t.Any]) -> Result:
        answer = self.on_host(request)
        return {
            "changed": answer["changed"],
            "authority": _authority(answer, self._host),
            "generations": _generations(answer),
            "advisories": answer["advisories"],
            "reasons": [],
            **{name: answer[name] for name in self.RETURNED if name in answer},
        }

    RETURNED: t.ClassVar[tuple[str, ...]] = ()


class CaRenew(LifecycleFlow):
    NAME, ARGUMENTS = "ca_renew", _arguments.CA_RENEW
    RETURNED = ("due", "renewed", "pending", "request", "request_file", "reasons")

    def perform(self) -> Result:
        asked = {name: self.options[name] for name in ("reuse_key", "remaining_days", "issued_before", "days", "certificate")}
        if asked["remaining_days"] is None and asked["issued_before"] is None and asked["certificate"] is None:
            raise KeywardError(
                "ca_renew can't run",
                "it was not told when a renewal is due",
                "Give remaining_days or issued_before: a renewal makes both untrue, so that no later run renews again",
            )
        result = self._ask(asked)
        if self._task.diff:
            now = "".join(f"generation {one['index']}: {one['fingerprints']['sha256']}\n" for one in result["generations"])
            what = "renewed\n" if result["renewed"] else "a request is pending\n" if result["pending"] else ""
            result["diff"] = {"before": "" if result["changed"] and not self._check else now, "after": now + (what if self._check else "")}
        return result


class CaSign(LifecycleFlow):
    NAME, ARGUMENTS = "ca_sign", _arguments.CA_SIGN
    RETURNED = ("certificate", "serial", "chain")

    def perform(self) -> Result:
        return self._ask({name: self.options[name] for name in ("request", "days", "extensions")})


class CaCrl(LifecycleFlow):
    NAME, ARGUMENTS = "ca_crl", _arguments.CA_CRL
    RETURNED = ("crls",)

    def perform(self) -> Result:
        path = self.options["published_crl"]
        if path is not None and self.options["scratch"]:
            raise KeywardError("ca_crl can't run", "published_crl and scratch exclude each other", "Give one of them")
        published = None
        if path is not None:
            try:
                published = base64.b64encode(read_file(path, "the published CRL", LARGEST_CRL)).decode("ascii")
            except FileNotFoundError:
                raise KeywardError(
                    f"the published CRL {path} can't be read", "it does not exist", "Give a file on the controller"
                ) from None
        asked = {name: self.options[name] for name in ("scratch", "days", "remaining_days")}
        return self._ask({**asked, "published_crl": published})


class CaInstall(BackupFlow):
    NAME, ARGUMENTS = "ca_install", _arguments.CA_INSTALL

    def perform(self) -> Result:
        self._required("config_file", "Give the path that its openssl.cnf has, or is to have")
        try:
            return self._there(self.on_host({}))
        except NothingOnHost:
            pass
        chosen = self._lost()
        names = ("kind", "subject", "key_type", "key_size", "curve", "days", "path_length", "certificate")
        asked: Result = {"install": {name: self.options[name] for name in names}}
        if chosen is None:
            self._required("subject", "Give the subject of the new CA, such as {commonName: Example Root CA}")
        else:
            asked.update(self._bundles(chosen))
        answer = self.on_host(asked)
        result = {
            **self._outcome(answer),
            "restored": answer["restored"],
            "pending": answer["pending"],
            "request": answer["request"],
            "request_file": answer["request_file"],
        }
        if self._task.diff:
            place = self.options["config_file"]
            result["diff"] = {"before": f"{place}: no CA\n", "after": f"{place}: {'a CA brought back' if chosen else 'a new CA'}\n"}
        return result

    def _outcome(self, answer: Result) -> Result:
        return {
            "changed": answer["changed"],
            "authority": _authority(answer, self._host),
            "generations": _generations(answer),
            "advisories": answer["advisories"],
            "reasons": [],
        }

    def _there(self, answer: Result) -> Result:
        """A CA that is there is never touched."""
        lost = [shape for shape in answer["generations"] if shape["private_key"] == "missing"]
        if lost:
            labels = ", ".join(generation_from_json(shape).label for shape in lost)
            raise KeywardError(
                "nothing was installed",
                f"there is a CA in this place, and private keys of it are missing: {labels}",
                "Put them back (ca_key_restore)",
            )
        return {**self._outcome(answer), "restored": [], "pending": False, "request": None, "request_file": None}

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
