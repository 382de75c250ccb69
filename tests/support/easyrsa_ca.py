# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PKI, made and run by a real easyrsa: Debian's (3.1.0), or the newer one that lies beside the checkout (shared/easyrsa)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.openssl_ca import folder_of_templates, openssl

VERSIONS = ("3.1", "3.2")
PASSPHRASE = "passphrase of an easy-rsa key"
_DEBIAN = Path("/usr/share/easy-rsa")
_ROOT = Path(__file__).resolve().parents[2]
_BESIDE = Path(os.environ.get("KEYWARD_EASYRSA") or _ROOT.parent / "shared" / "easyrsa")


class EasyrsaPki:
    """What C(init-pki) makes in `directory`; version: one of VERSIONS. Keys are encrypted at rest where there is a passphrase."""

    def __init__(self, directory: Path, version: str, passphrase: str | None = PASSPHRASE) -> None:
        self.directory, self.version, self.passphrase = directory, version, passphrase
        self.certificate = directory / "ca.crt"
        self.private_key = directory / "private" / "ca.key"
        if not directory.exists():
            shutil.copytree(_template(version, "init-pki", None, ""), directory)

    def easyrsa(self, *arguments: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs easyrsa with a passphrase for each key that it opens or encrypts; variables: EASYRSA_<NAME>."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENSSL_", "EASYRSA"))}
        environment |= {"EASYRSA_PKI": str(self.directory), "EASYRSA_BATCH": "1", "EASYRSA_ALGO": "ec", "EASYRSA_CURVE": "prime256v1"}
        environment |= {f"EASYRSA_{name}": value for name, value in variables.items()}
        home = _home(self.version)
        if self.version != "3.1":
            environment["EASYRSA"] = str(home)
        command = [str(home / "easyrsa")]
        if self.passphrase is not None:
            environment["PASSPHRASE"] = self.passphrase
            command += ["--passin=env:PASSPHRASE", "--passout=env:PASSPHRASE"]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            cwd=self.directory.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"easyrsa {' '.join(map(str, arguments))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def issue(self, name: str, kind: str = "client", *, passphrase: bool = False, **variables: str) -> Path:
        """A subscriber's key and certificate, in private/ and issued/; the key is encrypted where a passphrase is wanted."""
        nopass = () if passphrase else ("nopass",)
        if variables:  # build-*-full of 3.2 forgets them
            self.easyrsa("gen-req", name, *nopass, **variables)
            self.easyrsa("sign-req", kind, name, **variables)
        else:
            self.easyrsa(f"build-{kind}-full", name, *nopass)
        return self.directory / "issued" / f"{name}.crt"

    def sign_crl(self, **variables: str) -> Path:
        self.easyrsa("gen-crl", **variables)
        return self.directory / "crl.pem"

    def older(self, number: int) -> dict[str, str]:
        """What makes easyrsa sign with an older generation: a configuration of its own that names ca.<n>.crt and ca.<n>.key."""
        shipped = self.directory / "openssl-easyrsa.cnf"
        text = (shipped if shipped.exists() else _home(self.version) / "openssl-easyrsa.cnf").read_text()
        assert "/ca.crt" in text and "/ca.key" in text
        keys = [n for n in range(number + 1) if (self.private_key.parent / f"ca.{n}.key").exists()]
        key = f"/ca.{keys[-1]}.key" if keys else "/ca.key"
        configuration = self.directory.parent / f"older-{number}.cnf"
        configuration.write_text(text.replace("/ca.crt", f"/ca.{number}.crt").replace("/ca.key", key))
        return {"SSL_CONF": str(configuration)}

    def index(self) -> list[tuple[str, str, str]]:
        """The rows of index.txt: state, serial number, subject."""
        rows = [line.split("\t") for line in (self.directory / "index.txt").read_text().splitlines()]
        return [(row[0], row[3], row[5]) for row in rows]


class EasyrsaCa(EasyrsaPki):
    """A root CA that C(build-ca) made; with subordinate=True the request of one, reqs/ca.req."""

    def __init__(
        self,
        directory: Path,
        version: str,
        *,
        name: str = "Example Root CA",
        passphrase: str | None = PASSPHRASE,
        subordinate: bool = False,
    ) -> None:
        shutil.copytree(_template(version, "subca" if subordinate else "ca", passphrase, name), directory)
        super().__init__(directory, version, passphrase)

    def answered_by(self, parent: EasyrsaCa, name: str = "below", request: Path | None = None) -> str:
        """The certificate for the request of this subordinate, signed by its parent's C(sign-req ca)."""
        parent.easyrsa("import-req", request or self.directory / "reqs" / "ca.req", name)
        parent.easyrsa("sign-req", "ca", name)
        return openssl("x509", "-in", parent.directory / "issued" / f"{name}.crt").stdout


def assert_verifies(certificate: Path, issuer: Path, *above: Path) -> None:
    """openssl verify accepts a certificate with its issuer and those above it, and no other."""
    more = [option for path in above for option in ("-trusted", path)]
    openssl("verify", "-no-CApath", "-partial_chain", "-trusted", issuer, *more, certificate)


def assert_crl_of(crl: Path, certificate: Path) -> None:
    done = openssl("crl", "-in", crl, "-noout", "-CAfile", certificate)
    assert "verify OK" in done.stdout + done.stderr, done.stderr


@functools.cache
def _home(version: str) -> Path:
    """The folder of an easyrsa; where it isn't there, the test is skipped, and fails in CI."""
    if version == "3.1":
        if not (_DEBIAN / "easyrsa").exists():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("easy-rsa is not installed")
        return _DEBIAN
    if not _BESIDE.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no newer easyrsa lies in {_BESIDE}")
    home = folder_of_templates() / version
    shutil.copytree(_BESIDE, home)
    (home / "easyrsa").chmod(0o755)
    return home


@functools.cache
def _template(version: str, kind: str, passphrase: str | None, name: str) -> Path:
    """Made once, then copied: each start of easyrsa takes its time."""
    folder = Path(tempfile.mkdtemp(dir=folder_of_templates()))
    directory = folder / "pki"
    if kind == "init-pki":
        directory.mkdir()
        EasyrsaPki(directory, version).easyrsa("init-pki")
    else:
        pki = EasyrsaPki(directory, version, passphrase)
        nopass = () if passphrase is not None else ("nopass",)
        pki.easyrsa("build-ca", *(("subca",) if kind == "subca" else ()), *nopass, REQ_CN=name)
    return directory
