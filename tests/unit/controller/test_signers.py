# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who vouches: lists of allowed signers are read as ssh-keygen reads them, and keys of every kind sign."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _sshsig
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.plugin_utils import _signers
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers, make_signing_key, read_allowed_signers
from tools import require_tool

DOCUMENT, AT = b"{}\n", "2026-05-05T12:00:00Z"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "signing_key"
    subprocess.run([require_tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def public(key: Path) -> str:
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def signers(folder: Path, lines: str, key: Path | None = None) -> Signers:
    (folder / "allowed_signers").write_text(lines)
    return Signers({"allowed_signers": str(folder / "allowed_signers"), "store_signing_key": str(key or folder / "signing_key")})


def ssh_keygen_takes(folder: Path, signature: bytes, at: str = "20260505120000Z") -> bool:
    (folder / "sig").write_bytes(signature)
    words = ["-f", "allowed_signers", "-I", "keyward", "-n", "keyward", "-s", "sig", f"-Overify-time={at}"]
    done = subprocess.run(["ssh-keygen", "-Y", "verify", *words], input=DOCUMENT, cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ('namespaces="keyward"', True),
        ('namespaces="git,keyward"', True),
        ('NAMESPACES="keyward"', True),
        ('namespaces="keyward",valid-after="20260101Z"', True),
        ('valid-after="20260505120000Z",namespaces="keyward",valid-before="20260505120001Z"', True),
        ('valid-after="20260505115959Z",namespaces="keyward",valid-before="20260505120000Z"', True),
        ('namespaces="keyward",valid-before="20260505115959Z"', False),
        ('namespaces="keyward",valid-after="202605051201Z"', False),
        ('namespaces="file"', False),
    ],
)
def test_a_line_counts_as_ssh_keygen_has_it(tmp_path: Path, key: Path, options: str, counts: bool) -> None:
    lines = f'# a comment\n\nothers namespaces="keyward" {_sshsig.line_of(_sshsig.public_blob(_sshsig.new_private_key()))}\n'
    who = signers(tmp_path, lines + f'keyward namespaces="keyward" {public(key)} mine\n', key)
    signature = who.sign(DOCUMENT)
    who = signers(tmp_path, lines + f"keyward {options} {public(key)} mine\n", key)
    doubt = who.doubt(DOCUMENT, signature, AT)
    assert (doubt is None) == counts == ssh_keygen_takes(tmp_path, signature), doubt
    assert who.doubt(DOCUMENT + b" ", signature, AT) == "its signature does not count: it is not over this document"
    assert who.doubt(DOCUMENT, None, AT) == "it has no signature"


def test_only_lines_that_say_the_namespace_count_and_no_certificate_authority(tmp_path: Path, key: Path) -> None:
    """ssh-keygen takes both of these lines."""
    other = f'x namespaces="keyward" {_sshsig.line_of(_sshsig.public_blob(_sshsig.new_private_key()))}\n'
    signature = signers(tmp_path, f'keyward namespaces="keyward" {public(key)}\n', key).sign(DOCUMENT)
    for options in ("", 'cert-authority,namespaces="keyward" '):
        assert "is unknown to" in str(signers(tmp_path, other + f"keyward {options}{public(key)}\n").doubt(DOCUMENT, signature, AT))


def refused(path: Path) -> str:
    with pytest.raises(KeywardError) as caught:
        read_allowed_signers(str(path))
    return str(caught.value)


def test_a_list_that_says_nothing_is_an_error(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "allowed_signers"
    assert "does not exist. Is its volume mounted?" in refused(path)
    path.write_text("")
    assert "no line of it says" in refused(path)
    path.write_text(f"keyward {public(key)}\n")
    assert "no line of it says" in refused(path)
    path.write_text(f'keyward namespaces="keyward",valid-after="soon" {public(key)}\n')
    assert "its line 1 can't be used: 'soon' is no time" in refused(path)
    path.write_text(f"keyward namespaces=keyward {public(key)}\n")
    assert "the value of namespaces has no quotation marks" in refused(path)
    path.write_text(f'\nkeyward namespaces="keyward" {public(key)[:40]}\n')
    assert "its line 2 can't be used" in refused(path)
    path.write_text(f'keyward namespaces="keyward" {public(key)}\n')
    path.chmod(0o664)
    assert "others than root and the user of this run may write it" in refused(path)
    if os.geteuid() == 0:
        path.chmod(0o644)
        os.chown(path, 12345, 0)
        assert "owner 12345" in refused(path)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    process = subprocess.Popen([require_tool("ssh-agent"), "-D", "-a", str(tmp_path / "socket")], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "socket"))
    yield
    process.terminate()
    process.wait()


@pytest.mark.parametrize("options", [("-t", "ed25519"), ("-t", "ecdsa", "-b", "256"), ("-t", "rsa", "-b", "3072")])
def test_an_agent_signs_with_a_key_that_a_passphrase_protects(tmp_path: Path, agent: None, options: tuple[str, ...]) -> None:
    path = tmp_path / "protected"
    subprocess.run(["ssh-keygen", "-q", *options, "-N", "", "-f", str(path)], check=True)
    who = signers(tmp_path, f'keyward namespaces="keyward" {public(path)}\n', Path(f"{path}.pub"))
    with pytest.raises(KeywardError, match="the agent does not sign with it"):
        who.sign(DOCUMENT)
    subprocess.run(["ssh-add", "-q", str(path)], check=True)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "some words", "-f", str(path)], check=True)
    signature = who.sign(DOCUMENT)
    assert who.doubt(DOCUMENT, signature, AT) is None
    assert ssh_keygen_takes(tmp_path, signature)
    locked = Signers({"allowed_signers": who.allowed_path, "store_signing_key": str(path)})
    with pytest.raises(KeywardError, match=r"protects it\. Load it into an agent|neither an Ed25519"):
        locked.sign(DOCUMENT)


def test_a_signing_key_that_nobody_would_believe_signs_nothing(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    other = _sshsig.line_of(_sshsig.public_blob(_sshsig.new_private_key()))
    with pytest.raises(KeywardError, match="does not name the signing key"):
        signers(tmp_path, f'keyward namespaces="keyward" {other}\n', key).sign(DOCUMENT)
    line = f'keyward namespaces="keyward" {public(key)}\n'
    with pytest.raises(KeywardError, match="no agent runs here"):
        signers(tmp_path, line, Path(f"{key}.pub")).sign(DOCUMENT)
    with pytest.raises(KeywardError, match=r"it does not exist\. Is its volume mounted\? If it is lost"):
        signers(tmp_path, line, tmp_path / "nothing").sign(DOCUMENT)
    key.chmod(0o604)
    with pytest.raises(KeywardError, match="others may read"):
        signers(tmp_path, line, key).sign(DOCUMENT)


def test_a_key_is_made_once_and_never_in_a_container_unless_its_path_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_signers, "OF_THE_MACHINE", str(tmp_path / "etc"))
    monkeypatch.setenv("container", "podman")
    who = Signers({})
    assert who.key_path == str(tmp_path / ".config/keyward/signing_key")
    with pytest.raises(KeywardError, match="this runs in a container"):
        make_signing_key(who, given=False)
    assert not (tmp_path / ".config").exists()
    blob = make_signing_key(who, given=True)
    assert blob and who.doubt(DOCUMENT, Signers({}).sign(DOCUMENT), AT) is None
    folder = tmp_path / ".config/keyward"
    modes = {path.name: f"{path.stat().st_mode & 0o777:o}" for path in folder.iterdir()}
    assert modes == {"signing_key": "600", "signing_key.pub": "644", "allowed_signers": "644"}
    assert make_signing_key(who, given=True) is None
    (folder / "signing_key").unlink()
    assert make_signing_key(who, given=True) is None, "where somebody signs already, a lost key is not replaced in silence"
    (tmp_path / "etc").mkdir()
    assert Signers({}).key_path == str(tmp_path / "etc/signing_key")
