# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: certificates of subordinate CAs, issued by C(openssl ca), each request once; may change in any release."""

from __future__ import annotations

import functools
import os
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils import _outline, _x509
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import LIMITS, extension
from ansible_collections.keyward.pki.plugins.module_utils._crl import crl_der
from ansible_collections.keyward.pki.plugins.module_utils._directories import beside, take_place, writing
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_files import DatabaseFiles, attributes_of
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.database_findings import refuse_to_overwrite
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, crl_path
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.immovable import refuse_immovable
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.links import refuse_links_that_go
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import (
    OpensslCommand,
    run_openssl,
    scratch_directory,
    todays_hash,
)
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.rehearsal import (
    copies,
    random_serial,
    refuse_as_issuer,
    refuse_days,
    stand_in,
)
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import LARGEST_TEXT, Sign, Signed
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._staged import put, write_new
from ansible_collections.keyward.pki.plugins.module_utils._successor_policy import (
    Asked,
    differences,
    fault,
    more_than_asked,
    names_not_asked,
)
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._whose import among, whose_certificate, whose_crl
from ansible_collections.keyward.pki.plugins.module_utils._x509 import CRL, even_hex, pem, pem_certificates, request_der, spki_sha256

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

_WHAT = "the request was not signed"
# Each certificate has the request that it answers beside it, under the number that openssl will use. It is written before openssl
# issues the certificate: otherwise a run that is killed in between would make the next one issue a second certificate.
_REQUEST, _NOTED = ".csr", ".csr.new"


def sign(ca: FileCa, order: Sign, check: bool) -> Signed:
    """Raises KeywardError."""
    files = ca.files()
    with ca.alone(files, _WHAT, check) as locks:
        facts = ca.as_decided(order.of, _WHAT, order.at)
        if not files.database or not files.new_certificates:
            raise KeywardError(
                _WHAT,
                "the configuration of the CA that should sign it names no database and no new_certs_dir",
                "Give config_file, and name them there",
            )
        database, finished = DatabaseFiles(ca, files), []
        issuing = _Issuing(ca, files, facts.generations, order)
        extensions = ca.subordinate(files, order.extensions)
        earlier = issued = issuing.answered(_REQUEST)
        if earlier is None:
            finished = [] if check else database.finish(_WHAT)
            database.index.refuse(_WHAT, database.path)
            refuse_to_overwrite(database, files, facts.generations, _WHAT)
            issued_into = os.path.join(files.new_certificates, "new")
            replaced = (files.serial, files.database, attributes_of(files.database), issued_into)
            refuse_links_that_go(replaced, _WHAT)
            refuse_immovable([path for path in replaced if path], _WHAT)
            refuse_days(ca, "default_days", order.days, _WHAT)
            rehearsed = issuing.rehearse(extensions)
            refuse_as_issuer(facts.generations[-1], _WHAT)
            issued = None if check else issuing.issue(extensions, locks)
            shown = issued or rehearsed
        else:
            shown = earlier
        found = [*issuing.narrowed, *issuing.rehashed, *differences(shown, Asked(request=issuing.der))]
        if issued is None:
            found = [replace(each, certificate=None) for each in found]
        elif not check:
            ca.file_issued(issued)
    return Signed(
        changed=earlier is None,
        authority=facts.authority,
        generations=facts.generations,
        certificate=pem(issued.certificate) if issued else None,
        serial=issued.serial if issued else None,
        chain=tuple(pem(der) for der in (facts.generations[-1].certificate, *facts.chain)),
        crl=_last_crl(ca, files, facts.generations[-1]),
        distribution_point=extension(_x509.load(shown.certificate), x509.CRLDistributionPoints) is not None,
        advisories=(*facts.advisories, *finished, *found),
    )


def _last_crl(ca: FileCa, files: Files, signer: Generation) -> t.Optional[str]:
    """The present CRL, for a CA below that can't fetch it; None if it is large."""
    try:
        der = crl_der(read_file(crl_path(files, ca.directory), "the CRL", LARGEST_TEXT // 2))
        ours = whose_crl(der, signer.certificate) is Whose.OURS
    except (OSError, ValueError, KeywardError):
        return None
    return pem(der, CRL) if ours else None


class _Issuing:
    def __init__(self, ca: FileCa, files: Files, generations: t.Sequence[Generation], order: Sign) -> None:
        self._ca, self._files, self._generations, self._order = ca, files, generations, order
        self.der = request_der(order.request.encode("utf-8"))
        self._asked, self._outline = _x509.load_request(self.der), _outline.request(self.der)
        self._key = spki_sha256(self._outline.public_key)
        self.narrowed: t.List[Finding] = []
        self.rehashed: t.List[Finding] = []
        self._settings: t.Dict[str, t.Dict[str, str]] = {}
        self._folder, self._database = t.cast(str, files.new_certificates), t.cast(str, files.database)

    def answered(self, suffix: str) -> t.Optional[Generation]:
        """The certificate that was issued for this very request before, unless it is revoked or has expired.

        Others may write in that directory, and a number that was noted may have gone to another certificate: what the CA did not
        issue, or for another key, is passed over.
        """
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(suffix))
        except OSError as exc:
            remedy = "Let the user that runs this task read it (become)"
            raise KeywardError(f"{self._folder} can't be read", os_cause(exc), remedy) from exc
        for name in reversed(names):
            path = os.path.join(self._folder, name)
            try:
                if request_der(read_file(path, "the request", LARGEST_INPUT)) != self.der:
                    continue
                found = pem_certificates(read_file(path[: -len(suffix)] + ".pem", "the certificate", LARGEST_INPUT))
                answer = generation_of(found[0])
            except (FileNotFoundError, ValueError, IndexError):
                continue
            signer, _whose = among(self._generations, functools.partial(whose_certificate, answer.certificate))
            if answer.public_key_sha256 != self._key or signer is None:
                continue
            if answer.not_after > now_text() and self._is_valid(int(answer.serial, 16)):
                return answer
        return None

    def _is_valid(self, number: int) -> bool:
        row = DatabaseFiles(self._ca, self._files).index.of_numbers({number}).get(number)
        return row is not None and row.kind == "V"

    def rehearse(self, extensions: t.Sequence[str]) -> Generation:
        """What would be issued: openssl signs with a key of this moment, in copies of the database. Nothing of the CA is touched.

        Raises KeywardError where it would not be what was asked for. What the CA's extensions allow beyond that is left out.
        """
        made = self._rehearsed(extensions)
        limits = more_than_asked(_x509.load(made.certificate), self._asked)
        if limits:
            self._settings = {extensions[-1]: {LIMITS[limit.oid.dotted_string]: _in_conf(limit) for limit in limits}}
            what = ", ".join(LIMITS[limit.oid.dotted_string] for limit in limits)
            text = f"[{extensions[-1]}] allows more than was asked for; the certificate is limited to what the request says: {what}"
            self.narrowed = [Finding("limited_to_request", text)]
            made = self._rehearsed(extensions)
        self._refuse_other_than_asked(made, "would be", "Correct the configuration of the CA that should sign it")
        return made

    def _rehearsed(self, extensions: t.Sequence[str]) -> Generation:
        with scratch_directory() as scratch:
            settings = copies(self._ca, self._files, scratch)
            own, with_key = stand_in(self._generations[-1], scratch, _WHAT)
            made = os.path.join(scratch, "certificate.pem")
            self._have_issued(made, [*extensions, *with_key], scratch, (), {self._files.section: settings})
            run_openssl(["verify", "-partial_chain", "-trusted", own, made], _WHAT)
            return generation_of(pem_certificates(read_file(made, "the certificate", LARGEST_INPUT))[0])

    def _refuse_other_than_asked(self, made: Generation, when: str, remedy: str) -> None:
        parsed = _x509.load(made.certificate)
        why = fault(made.certificate, Asked(request=self.der), root=False)
        names = names_not_asked(parsed, self._asked)
        left = more_than_asked(parsed, self._asked)
        if _outline.certificate(made.certificate).subject != self._outline.issuer:
            why = f"it {when} issued for {made.subject}, and the request says {_outline.rfc4514(self._outline.issuer)}"
            if (self._ca.setting("email_in_dn") or "").strip() == "no":
                remedy = f"Say email_in_dn = yes in [{self._files.section}]: with no, openssl takes the emailAddress out"
        elif made.public_key_sha256 != self._key:
            why = f"it {when} issued for another key than that of the request"
        elif names:
            why = f"it {when} issued for names that were not asked for: {', '.join(names[:5])}"
        elif left:
            why = f"it {when} issued for more than was asked for: {', '.join(LIMITS[limit.oid.dotted_string] for limit in left)}"
        if why:
            raise KeywardError(_WHAT if when == "would be" else "the signed certificate is not right", why, remedy)

    def issue(self, extensions: t.Sequence[str], locks: t.Sequence[int]) -> Generation:
        data = _x509.pem(self.der, _x509.REQUEST).encode("ascii")
        answer = self.answered(_NOTED)
        noted = None
        with scratch_directory() as scratch:
            made = os.path.join(scratch, "certificate.pem")
            if answer is None:
                noted = self._next_request()
                if noted:
                    put(beside(noted), data, 0o644)
                try:
                    self._have_issued(made, extensions, scratch, locks, self._settings)
                except KeywardError:
                    if noted and self.answered(_NOTED) is None:
                        os.unlink(beside(noted))
                    raise
                answer = generation_of(pem_certificates(read_file(made, "the certificate", LARGEST_INPUT))[0])
            else:
                write_new(made, pem(answer.certificate).encode("ascii"), 0o600)
            issuers = os.path.join(scratch, "issuers.pem")
            write_new(issuers, "".join(pem(generation.certificate) for generation in self._generations).encode("ascii"), 0o600)
            run_openssl(["verify", "-partial_chain", "-trusted", issuers, made], "the signed certificate is not right")
        remedy = "Revoke it, and correct the extensions that subordinate CAs are given"
        self._refuse_other_than_asked(answer, f"(number {answer.serial}) was", remedy)
        kept = os.path.join(self._folder, answer.serial.upper() + _REQUEST)
        with writing(f"the request {kept}"):
            if not os.path.exists(beside(kept)):  # openssl used another number than the one that we noted
                put(beside(kept), data, 0o644)
                if noted:
                    os.unlink(beside(noted))
            take_place(kept)
        return answer

    def _have_issued(
        self,
        made: str,
        arguments: t.Sequence[str],
        scratch: str,
        locks: t.Sequence[int],
        settings: t.Mapping[str, t.Mapping[str, str]],
    ) -> None:
        given = os.path.join(scratch, "request.pem")
        write_new(given, _x509.pem(self.der, _x509.REQUEST).encode("ascii"), 0o600)
        command: t.Optional[OpensslCommand] = self._ca.signing(self._files, scratch)
        if command is None:
            raise KeywardError(_WHAT, "nothing says how this CA signs", "Give config_file")
        command = replace(command, names={"database": self._database, "serial": self._files.serial or "its serial file"})
        if settings or self._settings:
            command = command.saying(scratch, "asked.cnf", {**self._settings, **settings})
        # Without preserving the order, the policy would reorder the subject: another CA's name.
        arguments = ["-batch", "-notext", "-preserveDN", *arguments, "-in", given, "-out", made]
        if self._order.days is not None:
            arguments += ["-days", str(self._order.days)]
        hash_, self.rehashed = todays_hash(self._ca.setting("default_md"))
        arguments += hash_
        passphrase = None if "-keyfile" in arguments else self._ca.selector.private_key_passphrase
        command.run(arguments, _WHAT, passphrase, locks)

    def _next_request(self) -> t.Optional[str]:
        """Where to note the request that the next certificate answers; None where the number isn't known before."""
        if self._files.random_serials and self._files.serial:
            chosen = random_serial()
            put(self._files.serial, chosen, 0o600, like=self._files.serial)
        try:
            number = int(read_file(self._files.serial or "", "the serial number", LARGEST_INPUT), 16)
        except (FileNotFoundError, ValueError):
            return None
        return os.path.join(self._folder, even_hex(number) + _REQUEST)


def _in_conf(value: x509.ExtensionType) -> str:
    """An extension as a line of an openssl configuration."""
    critical = "" if isinstance(value, x509.ExtendedKeyUsage) else "critical,"
    return f"{critical}DER:{value.public_bytes().hex()}"
