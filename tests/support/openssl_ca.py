# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real certificate authority, made and run by the openssl command."""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

CONFIG = """\
[ ca ]
default_ca = {section}

[ {section} ]
dir = {directory}
certs = $dir/certs
new_certs_dir = $dir/newcerts
database = $dir/index.txt
serial = $dir/serial
crlnumber = $dir/crlnumber
certificate = $dir/cacert.pem
private_key = $dir/private/cakey.pem
default_md = sha256
default_days = 365
default_crl_days = 30
unique_subject = no
policy = policy_anything
x509_extensions = usr_cert

[ policy_anything ]
commonName = supplied

[ req ]
distinguished_name = req_distinguished_name
string_mask = utf8only

[ req_distinguished_name ]

[ v3_ca ]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash

[ usr_cert ]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def openssl(
    *arguments: str | Path, cwd: Path | None = None, passphrase: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs openssl; a passphrase reaches it through its standard input (`-passin stdin`, `-passout stdin`)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENSSL_")}
    given = "" if passphrase is None else passphrase + "\n"
    done = subprocess.run(
        ["openssl", *map(str, arguments)], cwd=cwd, env=environment, input=given, capture_output=True, text=True, timeout=120, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"openssl {' '.join(map(str, arguments))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class OpensslCa:
    """A root CA in `directory`: openssl.cnf, cacert.pem, private/cakey.pem, index.txt, serial, crlnumber, one issued certificate.

    algorithm: "rsa:<bits>", an EC curve's name such as "P-256", "ed25519" or "ed448". passphrase: the keys are encrypted at rest with it.
    relative: openssl.cnf says `dir = .`, so that openssl must run in `directory`. All keys and certificates are PEM, keys PKCS #8.

    The first of its kind in a test is a copy of the first in an earlier one, the second of the second, and so on: no two CAs of one test
    share a key.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "Example Root CA",
        algorithm: str = "P-256",
        passphrase: str | None = None,
        section: str = "CA_default",
        relative: bool = False,
    ) -> None:
        self.directory = directory
        self.name = name
        self.subject = f"/O=Example/CN={name}"
        self.algorithm = algorithm
        self.passphrase = passphrase
        self.config_file = directory / "openssl.cnf"
        self.certificate = directory / "cacert.pem"
        self.private_key = directory / "private" / "cakey.pem"
        self.generation = 0
        self._key_since = 0
        directory.mkdir(parents=True, exist_ok=True)
        if _Templates.used is None:
            self._make()
        else:
            kind = (name, algorithm, passphrase)
            _Templates.used[kind] += 1
            for path in _template(kind, _Templates.used[kind]).iterdir():
                if path.is_dir():
                    shutil.copytree(path, directory / path.name, copy_function=shutil.copy)
                else:
                    shutil.copy(path, directory)
        self.config_file.write_text(CONFIG.format(section=section, directory="." if relative else directory))

    def _make(self) -> None:
        for folder in ("certs", "newcerts", "requests"):
            (self.directory / folder).mkdir()
        (self.directory / "private").mkdir(mode=0o700)
        (self.directory / "index.txt").touch()
        (self.directory / "serial").write_text("1000\n")
        (self.directory / "crlnumber").write_text("01\n")
        self.config_file.write_text(CONFIG.format(section="CA_default", directory="."))
        self._make_key()
        self._make_certificate()
        self.issue("first.example.com")

    def renew_in_place(self, new_key: bool = True) -> None:
        """What a person does who knows no better: the new certificate (and key) overwrite the old ones."""
        self.generation += 1
        if new_key:
            self._key_since = self.generation
            self._make_key()
        self._make_certificate()

    def renew_keeping(self, n: int | None = None, new_key: bool = True) -> list[Path]:
        """Renews and keeps the old certificate as cacert.<n>.pem, the old key as cakey.<n>.pem when it is replaced. Returns what was kept.

        n: the index of the one that was current, by default the right one; a key's file is named by the first generation that used it.
        """
        n = self.generation if n is None else n
        kept = [_numbered(self.certificate, n)]
        self.certificate.rename(kept[0])
        if new_key:
            kept.append(_numbered(self.private_key, min(n, self._key_since)))
            self.private_key.rename(kept[1])
        self.renew_in_place(new_key)
        return kept

    def issue(self, name: str, certificate: Path | None = None, private_key: Path | None = None) -> Path:
        """Issues a certificate for `name` by `openssl ca`, from the current key or the given pair; proved by `openssl verify`."""
        request = self.directory / "requests" / f"{name}.csr"
        issued = self.directory / "certs" / f"{name}.pem"
        openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", request.with_suffix(".key")),
            *("-config", self.config_file, "-subj", f"/CN={name}", "-out", request),
            cwd=self.directory,
        )
        self._ca("-notext", "-in", request, "-out", issued, certificate=certificate, private_key=private_key)
        openssl("verify", "-no-CApath", "-partial_chain", "-CAfile", certificate or self.certificate, issued)
        return issued

    def sign_crl(self, certificate: Path | None = None, private_key: Path | None = None) -> Path:
        """Signs a CRL with the current key or the given pair; proved by `openssl crl -CAfile`."""
        crl = self.directory / "crl.pem"
        self._ca("-gencrl", "-out", crl, certificate=certificate, private_key=private_key)
        done = openssl("crl", "-in", crl, "-noout", "-CAfile", certificate or self.certificate)
        assert "verify OK" in done.stdout + done.stderr, done.stderr
        return crl

    def _ca(self, *arguments: str | Path, certificate: Path | None, private_key: Path | None) -> None:
        pair: list[str | Path] = []
        if certificate:
            pair += ["-cert", certificate]
        if private_key:
            pair += ["-keyfile", private_key]
        openssl(
            "ca", "-batch", "-config", self.config_file, *pair, *self._passin(), *arguments, cwd=self.directory, passphrase=self.passphrase
        )

    def _passin(self) -> tuple[str, ...]:
        return () if self.passphrase is None else ("-passin", "stdin")

    def _make_key(self) -> None:
        kind = self.algorithm
        if kind.startswith("rsa:"):
            options: tuple[str, ...] = ("-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{kind[4:]}")
        elif kind.startswith("ed"):
            options = ("-algorithm", kind)
        else:
            options = ("-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{kind}", "-pkeyopt", "ec_param_enc:named_curve")
        encrypted = () if self.passphrase is None else ("-aes256", "-pass", "stdin")
        openssl("genpkey", *options, *encrypted, "-out", self.private_key, passphrase=self.passphrase)
        self.private_key.chmod(0o600)

    def _make_certificate(self) -> None:
        openssl(
            *("req", "-new", "-x509", "-config", self.config_file, "-extensions", "v3_ca", "-days", "3650", "-subj", self.subject),
            *("-key", self.private_key, *self._passin(), "-out", self.certificate),
            cwd=self.directory,
            passphrase=self.passphrase,
        )


class _Templates:
    """How many CAs of each kind this test has made from templates; None: each is made anew."""

    used: collections.Counter[tuple[str, str, str | None]] | None = None


@contextlib.contextmanager
def templates(wanted: bool) -> Iterator[None]:
    """Whether CAs that are made meanwhile are copies; if so, those of a test of their own."""
    before, _Templates.used = _Templates.used, collections.Counter() if wanted else None
    try:
        yield
    finally:
        _Templates.used = before


@functools.cache
def _template(kind: tuple[str, str, str | None], _number: int) -> Path:
    directory = Path(tempfile.mkdtemp(dir=folder_of_templates()))
    name, algorithm, passphrase = kind
    with templates(False):
        OpensslCa(directory, name=name, algorithm=algorithm, passphrase=passphrase)
    return directory


@functools.cache
def folder_of_templates() -> Path:
    path = Path(tempfile.mkdtemp(prefix="ca-templates-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _numbered(path: Path, n: int) -> Path:
    return path.with_name(re.sub(r"(\.[^.]+)$", rf".{n}\1", path.name))
