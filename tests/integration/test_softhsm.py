# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CA whose key lives in a PKCS #11 token: openssl signs with it, and the reading says that it can't leave."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from support.openssl_ca import openssl
from tools import require_tool

PIN = "tokenpin1234"
CONFIG = """\
openssl_conf = modules
[ modules ]
engines = engines
[ engines ]
pkcs11 = token
[ token ]
engine_id = pkcs11
MODULE_PATH = {module}
PIN = {pin}
init = 0
[ ca ]
default_ca = in_token
[ in_token ]
certificate = cacert.pem
private_key = {private_key}
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 30
[ req ]
distinguished_name = req_dn
[ req_dn ]
"""


def _softhsm_module() -> Path:
    found = [path for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib") for path in Path(folder).rglob("softhsm/libsofthsm2.so")]
    if not found:
        require_tool("libsofthsm2.so")
    return found[0]


@dataclass(frozen=True)
class Token:
    directory: Path
    module: Path

    def config(self, private_key: str) -> Path:
        """A configuration that finds the key by itself, through the engine that it loads."""
        path = self.directory / "openssl.cnf"
        path.write_text(CONFIG.format(module=self.module, pin=PIN, private_key=private_key))
        return path

    def sign_crl(self, config: Path, *arguments: str) -> None:
        openssl("ca", "-gencrl", "-config", config, *arguments, "-out", "crl.pem", cwd=self.directory)
        done = openssl("crl", "-in", "crl.pem", "-noout", "-CAfile", "cacert.pem", cwd=self.directory)
        assert "verify OK" in done.stdout + done.stderr
        (self.directory / "crl.pem").unlink()


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    """A fresh SoftHSM token with one EC key, `root`, that is sensitive and never extractable."""
    for tool in ("openssl", "softhsm2-util", "pkcs11-tool"):
        require_tool(tool)
    engines = Path(subprocess.run(["openssl", "version", "-e"], capture_output=True, text=True, check=True).stdout.split('"')[1])
    if not (engines / "pkcs11.so").exists():
        require_tool("pkcs11.so")
    module = _softhsm_module()
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("PKCS11_MODULE_PATH", str(module))
    for command in (
        ("softhsm2-util", "--init-token", "--free", "--label", "ca", "--pin", PIN, "--so-pin", PIN),
        (
            *("pkcs11-tool", "--module", str(module), "--token-label", "ca", "--login", "--pin", PIN),
            *("--keypairgen", "--key-type", "EC:prime256v1", "--label", "root", "--id", "01", "--sensitive"),
        ),
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    made = Token(tmp_path / "ca", module)
    made.directory.mkdir()
    (made.directory / "index.txt").touch()
    (made.directory / "crlnumber").write_text("01\n")
    uri = "org.openssl.engine:pkcs11:pkcs11:token=ca;object=root;type=private"
    openssl(
        "req",
        "-new",
        "-x509",
        "-config",
        made.config("unused"),
        "-key",
        uri,
        "-subj",
        "/CN=Token CA",
        "-out",
        made.directory / "cacert.pem",
    )
    return made


@pytest.mark.parametrize(
    ("private_key", "engine_of_the_command"),
    [
        ("org.openssl.engine:pkcs11:pkcs11:token=ca;object=root;type=private", False),
        (f"pkcs11:token=ca;object=root;type=private;pin-value={PIN}", True),
        ("label_root", True),
    ],
)
def test_a_key_in_a_token_is_there_and_can_not_leave(token: Token, private_key: str, engine_of_the_command: bool) -> None:
    config = token.config(private_key)
    if engine_of_the_command:  # then the configuration must not load it too
        config.write_text(config.read_text().replace("openssl_conf = modules", ""))
        token.sign_crl(config, "-engine", "pkcs11", "-keyform", "engine", "-passin", f"pass:{PIN}")
    else:
        token.sign_crl(config)

    reading = OpensslBackend(Selector(config_file=str(config))).facts()
    (generation,) = reading.generations
    assert (generation.private_key, generation.exportable) == ("present", False)
    assert (generation.key_place, generation.encrypted_at_rest) == (None, None)
    assert dict(reading.private_keys) == {}
    assert reading.advisories == ()
    assert PIN not in repr(reading)


def test_the_same_ca_with_a_key_file_beside_is_exportable(token: Token) -> None:
    """The other way round: what makes the difference is the configuration's private_key, not that a token is about."""
    certificate, private_key = token.directory / "cacert.pem", token.directory / "cakey.pem"
    openssl(
        *("req", "-new", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", "/CN=Token CA"),
        *("-keyout", private_key, "-out", certificate),
    )
    config = token.config("cakey.pem")
    token.sign_crl(config)
    (generation,) = OpensslBackend(Selector(config_file=str(config))).facts().generations
    assert (generation.private_key, generation.exportable) == ("present", True)
