# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other software reads our bundles, and we read theirs.

Passwords reach the tools through files only. Run as a script (`python tests/interop/cross_read.py`) it prints the report of both
directions as Markdown, with the tools that are installed.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    tests = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(tests), str(tests.parent / "collections")]
    importlib.import_module("conftest")  # makes the checkout importable

from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_reader, _pkcs12_writer
from ansible_collections.keyward.pki.plugins.module_utils._x509 import public_key_sha256
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support import pfx

PASSWORD = pfx.PASSWORD
TOOLS = ("openssl", "keytool", "certtool", "pk12util", "pwsh")

# --- our bundles ---


def generations() -> list[_pkcs12_writer.NamedKey]:
    """An authority of three generations on three keys, and a renewal with the last of them."""
    keys = [pfx.key("rsa-3072"), pfx.key("ec-secp384r1"), pfx.key("rsa-4096")]
    certificates = [[pfx.certificate(key, "Interop Root", 10 + index)] for index, key in enumerate(keys)]
    certificates[2].insert(0, pfx.certificate(keys[2], "Interop Root", 13))
    return [_pkcs12_writer.NamedKey(key, f"interop-root generation {index}", certificates[index]) for index, key in enumerate(keys)]


def edwards() -> list[_pkcs12_writer.NamedKey]:
    return [pfx.named("ed25519", "edwards 25519"), pfx.named("ed448", "edwards 448")]


def identities(keys: list[_pkcs12_writer.NamedKey]) -> set[str]:
    return {public_key_sha256(named.key.public_key()) for named in keys}


# --- running tools ---


class Workshop:
    """A folder with the password in the forms that the tools want."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password_file = self.file("password", PASSWORD.encode())
        self.template = self.file("template", f'password = "{PASSWORD}"\n'.encode())

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    def run(self, *command: str | Path) -> str:
        """Standard output. The password is in no argument and in no variable of the tool's environment."""
        assert all(PASSWORD not in str(part) for part in command)
        assert all(PASSWORD not in value for value in os.environ.values())
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout


def pem_blocks(text: str, label: str) -> list[bytes]:
    return [block.encode() for block in re.findall(f"-----BEGIN {label}-----.*?-----END {label}-----", text, re.S)]


def certificate_identity(pem: bytes) -> str:
    return public_key_sha256(x509.load_pem_x509_certificate(pem).public_key())


# --- they read ours: each returns the identities of the keys it found ---


def openssl_reads(shop: Workshop, bundle: Path) -> set[str]:
    text = shop.run("openssl", "pkcs12", "-in", bundle, "-nodes", "-nocerts", "-passin", f"file:{shop.password_file}")
    keys = [serialization.load_pem_private_key(block, None) for block in pem_blocks(text, "PRIVATE KEY")]
    return {public_key_sha256(key.public_key()) for key in keys}


def keytool_reads(shop: Workshop, bundle: Path) -> set[str]:
    text = shop.run("keytool", "-list", "-rfc", "-storetype", "PKCS12", "-keystore", bundle, "-storepass:file", shop.password_file)
    entries = [entry for entry in text.split("Alias name:")[1:] if "Entry type: PrivateKeyEntry" in entry]
    return {certificate_identity(pem_blocks(entry, "CERTIFICATE")[0]) for entry in entries}


def certtool_reads(shop: Workshop, bundle: Path) -> set[str]:
    text = shop.run("certtool", "--p12-info", "--inder", "--infile", bundle, "--template", shop.template)
    shrouded = [serialization.load_pem_private_key(block, PASSWORD.encode()) for block in pem_blocks(text, "ENCRYPTED PRIVATE KEY")]
    certified = {certificate_identity(block) for block in pem_blocks(text, "CERTIFICATE")}
    return {public_key_sha256(key.public_key()) for key in shrouded} & certified


def pk12util_reads(shop: Workshop, bundle: Path) -> set[str]:
    """It names the keys and no more; their names are ours."""
    text = shop.run("pk12util", "-l", bundle, "-w", shop.password_file)
    names = set(re.findall(r"^Key\(shrouded\):\n\s+Friendly Name: (.+)$", text, re.M))
    return {public_key_sha256(named.key.public_key()) for named in generations() + edwards() if named.name in names}


DOTNET = """
$ErrorActionPreference = 'Stop'
$password = [IO.File]::ReadAllText($args[0])
$flags = [System.Security.Cryptography.X509Certificates.X509KeyStorageFlags]::Exportable
$loader = [System.Security.Cryptography.X509Certificates.X509CertificateLoader]
foreach ($bundle in $args[1..($args.Count - 1)]) {
    try {
        $found = foreach ($certificate in $loader::LoadPkcs12CollectionFromFile($bundle, $password, $flags)) {
            if ($certificate.HasPrivateKey) {
                $public = $certificate.PublicKey.ExportSubjectPublicKeyInfo()
                [Convert]::ToHexString([System.Security.Cryptography.SHA256]::HashData($public)).ToLowerInvariant()
            }
        }
        [Console]::WriteLine($found -join ' ')
    } catch {
        [Console]::WriteLine('refused: ' + ($_.Exception.Message -replace '\\s+', ' '))
    }
}
"""


def dotnet_reads(shop: Workshop, bundles: list[Path]) -> list[set[str] | str]:
    """.NET's X509CertificateLoader with its default limits, started once; for a bundle that it refuses, what it says."""
    script = shop.file("read.ps1", DOTNET.encode())
    lines = shop.run("pwsh", "-NoProfile", "-NonInteractive", "-File", script, shop.password_file, *bundles).splitlines()
    assert len(lines) == len(bundles)
    return [line if line.startswith("refused: ") else set(line.split()) for line in lines]


def pwsh_reads(shop: Workshop, bundle: Path) -> set[str]:
    (found,) = dotnet_reads(shop, [bundle])
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


READERS: dict[str, Callable[[Workshop, Path], set[str]]] = {
    "openssl": openssl_reads,
    "keytool": keytool_reads,
    "certtool": certtool_reads,
    "pk12util": pk12util_reads,
    "pwsh": pwsh_reads,
}

# Readers that do not know Ed25519 and Ed448 keys, in any version that was tried.
NO_EDWARDS = {"pwsh"}


# --- we read theirs: each yields a name, the file, and the identities of the keys that went in ---

Written = Iterator[tuple[str, bytes, set[str]]]


def pem_files(shop: Workshop, named: _pkcs12_writer.NamedKey) -> tuple[Path, Path]:
    pem = named.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate = x509.load_der_x509_certificate(named.certificates[0]).public_bytes(serialization.Encoding.PEM)
    stem = public_key_sha256(named.key.public_key())[:8]
    return shop.file(f"{stem}.key", pem), shop.file(f"{stem}.crt", certificate)


OPENSSL_OPTIONS = [
    "",
    "-iter 600000",
    "-legacy",
    "-nomac",
    "-macalg sha512",
    "-macalg sha1",
    "-macalg sha3-256",
    "-macalg sha512-256",
    "-macalg md5",
    "-keypbe NONE -certpbe NONE",
    "-keypbe AES-128-CBC -certpbe AES-192-CBC",
    "-keypbe camellia-256-cbc -certpbe camellia-128-cbc",
    "-keypbe des-ede3-cbc -certpbe des-ede3-cbc",
    "-legacy -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-2DES",
    "-legacy -keypbe PBE-SHA1-RC2-128 -certpbe PBE-SHA1-RC2-40",
    "-legacy -keypbe PBE-SHA1-RC4-128 -certpbe PBE-SHA1-RC4-40",
    "-legacy -keypbe des-cbc -certpbe seed-cbc",
]


def openssl_writes(shop: Workshop) -> Written:
    def export(named: _pkcs12_writer.NamedKey, options: list[str]) -> bytes:
        key, certificate = pem_files(shop, named)
        out = shop.folder / "openssl.p12"
        password = f"file:{shop.password_file}"
        shop.run("openssl", "pkcs12", "-export", "-inkey", key, "-in", certificate, "-out", out, "-passout", password, *options)
        return out.read_bytes()

    for options in OPENSSL_OPTIONS:
        named = generations()[1]
        yield f"openssl {options or 'defaults'}", export(named, options.split()), identities([named])
    for named in [generations()[0], *edwards()]:
        yield f"openssl, {named.name}", export(named, []), identities([named])


def keytool_writes(shop: Workshop) -> Written:
    ours = shop.file("ours.p12", _pkcs12_writer.write(generations() + edwards(), [], PASSWORD))
    for name, options in (("defaults", []), ("legacy", ["-J-Dkeystore.pkcs12.legacy"])):
        store = shop.folder / f"keytool-{name}.p12"
        passwords = ["-srcstorepass:file", shop.password_file, "-deststorepass:file", shop.password_file]
        shop.run(
            "keytool", "-importkeystore", "-srckeystore", ours, "-destkeystore", store, "-deststoretype", "PKCS12", *passwords, *options
        )
        yield f"keytool {name}, five keys", store.read_bytes(), identities(generations() + edwards())


def certtool_writes(shop: Workshop) -> Written:
    named = generations()[0]
    key, certificate = pem_files(shop, named)
    template = shop.file("to-p12", f'password = "{PASSWORD}"\npkcs12_key_name = "certtool"\n'.encode())
    for cipher in ("aes-256", "aes-128", "3des-pkcs12", "rc2-40", "arcfour"):
        out = shop.folder / "certtool.p12"
        load = ["--load-privkey", key, "--load-certificate", certificate]
        shop.run("certtool", "--to-p12", "--outder", *load, "--outfile", out, "--template", template, "--pkcs-cipher", cipher)
        yield f"certtool {cipher}", out.read_bytes(), identities([named])


def pk12util_writes(shop: Workshop) -> Written:
    """An NSS database keeps certificates of one subject under one nickname, and so exports all their keys."""
    subject = [_pkcs12_writer.NamedKey(named.key, "all", named.certificates[:1]) for named in generations()]
    database = f"sql:{shop.folder / 'nss'}"
    (shop.folder / "nss").mkdir(exist_ok=True)
    shop.run("certutil", "-N", "-d", database, "--empty-password")
    for number, named in enumerate(subject):
        ours = shop.file(f"nss-{number}.p12", _pkcs12_writer.write([named], [], PASSWORD))
        shop.run("pk12util", "-i", ours, "-d", database, "-w", shop.password_file)
    for cipher in ("AES-256-CBC", "PKCS #12 V2 PBE With SHA-1 And 3KEY Triple DES-CBC"):
        out = shop.folder / "nss.p12"
        shop.run("pk12util", "-o", out, "-d", database, "-n", "all", "-w", shop.password_file, "-c", cipher, "-C", cipher)
        yield f"pk12util {cipher}, three keys", out.read_bytes(), identities(subject)


DOTNET_WRITES = """
$ErrorActionPreference = 'Stop'
$password = [IO.File]::ReadAllText($args[0])
$flags = [System.Security.Cryptography.X509Certificates.X509KeyStorageFlags]::Exportable
$loader = [System.Security.Cryptography.X509Certificates.X509CertificateLoader]
$collection = $loader::LoadPkcs12CollectionFromFile($args[1], $password, $flags)
[IO.File]::WriteAllBytes($args[2], $collection.Export('Pkcs12', $password))
"""


def pwsh_writes(shop: Workshop) -> Written:
    keys = [_pkcs12_writer.NamedKey(named.key, named.name, named.certificates[:1]) for named in generations()]
    ours = shop.file("dotnet-in.p12", _pkcs12_writer.write(keys, [], PASSWORD))
    out = shop.folder / "dotnet-out.p12"
    script = shop.file("write.ps1", DOTNET_WRITES.encode())
    shop.run("pwsh", "-NoProfile", "-NonInteractive", "-File", script, shop.password_file, ours, out)
    yield ".NET X509Certificate2Collection.Export, three keys", out.read_bytes(), identities(keys)


WRITERS: dict[str, Callable[[Workshop], Written]] = {
    "openssl": openssl_writes,
    "keytool": keytool_writes,
    "certtool": certtool_writes,
    "pk12util": pk12util_writes,
    "pwsh": pwsh_writes,
}


def read_ours(data: bytes) -> tuple[set[str], _pkcs12_reader.Contents]:
    contents = _pkcs12_reader.read(data, PASSWORD)
    return {entry.public_key_sha256 for entry in contents.private_keys}, contents


# --- the report ---


def version(shop: Workshop, tool: str) -> str:
    command: dict[str, list[Any]] = {
        "openssl": ["openssl", "version"],
        "keytool": ["keytool", "-J-version"],
        "certtool": ["certtool", "--version"],
        "pwsh": ["pwsh", "-NoProfile", "-Command", "[Console]::WriteLine('.NET ' + [Environment]::Version)"],
    }
    try:
        return shop.run(*command[tool]).splitlines()[0] if tool in command else tool
    except (RuntimeError, IndexError):
        return tool


def report(shop: Workshop) -> str:
    lines = [
        "# Cross-reads of PKCS #12 files",
        "",
        "## Our bundles, read by others",
        "",
        "| reader | three generations | Ed25519, Ed448 |",
        "|---|---|---|",
    ]
    three = shop.file("three.p12", _pkcs12_writer.write(generations(), [pfx.certificate(pfx.key("ec-secp256r1"), "Above", 1)], PASSWORD))
    two = shop.file("edwards.p12", _pkcs12_writer.write(edwards(), [], PASSWORD))
    tools = [tool for tool in TOOLS if shutil.which(tool)]

    def found(tool: str, bundle: Path, keys: list[_pkcs12_writer.NamedKey]) -> str:
        try:
            return f"{len(READERS[tool](shop, bundle) & identities(keys))} of {len(keys)} keys"
        except RuntimeError:
            return "refused"

    for tool in tools:
        lines.append(f"| {version(shop, tool)} | {found(tool, three, generations())} | {found(tool, two, edwards())} |")
    lines += [
        "",
        "## Files of others, read by us",
        "",
        "| writer | keys | encryption of keys; certificates; MAC; iterations |",
        "|---|---|---|",
    ]
    for tool in tools:
        for name, data, expected in WRITERS[tool](shop):
            keys, contents = read_ours(data)
            used = contents.encryption
            shown = "; ".join((" + ".join(used.key), " + ".join(used.certificates), used.mac or "none", str(used.iterations)))
            lines.append(f"| {name} | {len(keys & expected)} of {len(expected)} | {shown} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        print(report(Workshop(Path(temporary))))
