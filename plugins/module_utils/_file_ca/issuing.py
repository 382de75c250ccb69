# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: certificates of subordinate CAs, issued by C(openssl ca), each request once; may change in any release."""

from __future__ import annotations

import os
import secrets
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _x509
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import serials
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_command import run_openssl, scratch_directory
from ansible_collections.keyward.pki.plugins.module_utils._files import beside, read_file, take_place, writing
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, generation_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import Sign, Signed
from ansible_collections.keyward.pki.plugins.module_utils._staged import put, write_new
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text
from ansible_collections.keyward.pki.plugins.module_utils._x509 import even_hex, pem, pem_certificates, public_key_sha256

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the modules say which library is missing
    pass

if t.TYPE_CHECKING:
    from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa

_WHAT = "the request was not signed"
# Beside a certificate, as openssl names it, lies the request that it answers. A run notes that before it has openssl issue the
# certificate: were it killed in between, the next one would have a second certificate issued.
_REQUEST, _NOTED = ".csr", ".csr.new"


def sign(ca: FileCa, order: Sign, check: bool) -> Signed:
    """Raises KeywardError."""
    files = ca.files()
    with ca.alone(files, _WHAT, check) as locks:
        facts = ca.as_decided(order.of, _WHAT)
        if not files.database or not files.new_certificates:
            raise KeywardError(
                _WHAT,
                "the configuration of the CA that should sign it names no database and no new_certs_dir",
                "Give config_file, and name them there",
            )
        issuing = _Issuing(ca, files, facts.generations, order)
        extensions = ca.subordinate(files, order.extensions)
        earlier = issuing.answered(_REQUEST)
        issued = earlier or (None if check else issuing.issue(extensions, locks))
        if issued and not check:
            ca.file_issued(issued)
    return Signed(
        changed=earlier is None,
        authority=facts.authority,
        generations=facts.generations,
        certificate=pem(issued.certificate) if issued else None,
        serial=issued.serial if issued else None,
        chain=tuple(pem(der) for der in (facts.generations[-1].certificate, *facts.chain)),
        advisories=facts.advisories,
    )


class _Issuing:
    def __init__(self, ca: FileCa, files: Files, generations: t.Sequence[Generation], order: Sign) -> None:
        self._ca, self._files, self._generations, self._order = ca, files, generations, order
        self._asked = x509.load_pem_x509_csr(order.request.encode("utf-8"))
        self._folder, self._database = t.cast(str, files.new_certificates), t.cast(str, files.database)

    def answered(self, suffix: str) -> t.Optional[Generation]:
        """The certificate that was issued for this very request before, unless it is revoked or has expired.

        Others may write in that directory, and a number that was noted may have gone to another certificate: what the CA did not
        issue, or for another key, is passed over.
        """
        signers = [x509.load_der_x509_certificate(generation.certificate) for generation in self._generations]
        key = public_key_sha256(self._asked.public_key())
        wanted = self._asked.public_bytes(serialization.Encoding.DER)
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(suffix))
        except OSError as exc:
            remedy = "Let the user that runs this task read it (become)"
            raise KeywardError(f"{self._folder} can't be read", os_cause(exc), remedy) from exc
        for name in reversed(names):
            path = os.path.join(self._folder, name)
            try:
                request = x509.load_pem_x509_csr(read_file(path, "the request", LARGEST_INPUT))
                if request.public_bytes(serialization.Encoding.DER) != wanted:
                    continue
                found = pem_certificates(read_file(path[: -len(suffix)] + ".pem", "the certificate", LARGEST_INPUT))
                answer = generation_of(found[0])
            except (FileNotFoundError, ValueError, IndexError):
                continue
            parsed = x509.load_der_x509_certificate(answer.certificate)
            if answer.public_key_sha256 != key or not any(_x509.is_issued_by(parsed, signer) for signer in signers):
                continue
            if answer.not_after > now_text() and answer.serial.upper() in serials(self._database, b"V"):
                return answer
        return None

    def issue(self, extensions: t.Sequence[str], locks: t.Sequence[int]) -> Generation:
        data = self._asked.public_bytes(serialization.Encoding.PEM)
        answer = self.answered(_NOTED)
        noted = None
        with scratch_directory() as scratch:
            made = os.path.join(scratch, "certificate.pem")
            if answer is None:
                noted = self._next_request()
                if noted:
                    put(beside(noted), data, 0o644)
                try:
                    self._have_issued(data, made, extensions, scratch, locks)
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
        if not _x509.is_ca(x509.load_der_x509_certificate(answer.certificate)):
            raise KeywardError(
                "the signed certificate is not right",
                f"the certificate {answer.serial} that was issued is not that of a CA",
                "Revoke it, and correct the extensions that subordinate CAs are given",
            )
        kept = os.path.join(self._folder, answer.serial.upper() + _REQUEST)
        with writing(f"the request {kept}"):
            if not os.path.exists(beside(kept)):  # openssl chose another number than the one that was noted
                put(beside(kept), data, 0o644)
                if noted:
                    os.unlink(beside(noted))
            take_place(kept)
        return answer

    def _have_issued(self, request: bytes, made: str, extensions: t.Sequence[str], scratch: str, locks: t.Sequence[int]) -> None:
        given = os.path.join(scratch, "request.pem")
        write_new(given, request, 0o600)
        command = self._ca.signing(self._files, scratch)
        if command is None:
            raise KeywardError(_WHAT, "nothing says how this CA signs", "Give config_file")
        # A policy would bring the subject into its own order: then it would be another CA.
        arguments = ["-batch", "-notext", "-preserveDN", *extensions, "-in", given, "-out", made]
        if self._order.days is not None:
            arguments += ["-days", str(self._order.days)]
        command.run(arguments, _WHAT, self._ca.selector.private_key_passphrase, locks)

    def _next_request(self) -> t.Optional[str]:
        """Where the request belongs that the next certificate answers. None where nobody knows its number before."""
        if self._files.random_serials and self._files.serial:
            chosen = f"{secrets.randbits(126) | 1 << 126:032X}\n".encode("ascii")
            put(self._files.serial, chosen, 0o600, like=self._files.serial)
        try:
            number = int(read_file(self._files.serial or "", "the serial number", LARGEST_INPUT), 16)
        except (FileNotFoundError, ValueError):
            return None
        return os.path.join(self._folder, even_hex(number) + _REQUEST)
