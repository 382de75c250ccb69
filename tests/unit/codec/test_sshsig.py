# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures are those of OpenSSH: ssh-keygen checks ours, and ours are checked as it does."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _sshsig
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tools import require_tool

DOCUMENT = b'{"format": "a manifest"}\n'


def ssh_keygen(*arguments: str | Path, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([require_tool("ssh-keygen"), *map(str, arguments)], input=given, capture_output=True, check=False)


def new_key(folder: Path, *options: str, passphrase: str = "") -> Path:
    path = folder / "key"
    done = ssh_keygen("-q", "-N", passphrase, "-C", "keyward", "-f", path, *options)
    assert done.returncode == 0, done.stderr
    return path


def signed(key: Path, document: bytes = DOCUMENT, namespace: str = "keyward") -> bytes:
    done = ssh_keygen("-Y", "sign", "-f", key, "-n", namespace, given=document)
    assert done.returncode == 0, done.stderr
    return done.stdout


def accepted(folder: Path, blob: bytes, signature: bytes) -> bool:
    """Whether `ssh-keygen -Y verify` takes it."""
    (folder / "allowed_signers").write_text(f'someone namespaces="keyward" {_sshsig.line_of(blob)}\n')
    (folder / "document.sig").write_bytes(signature)
    names = ("-f", folder / "allowed_signers", "-I", "someone", "-n", "keyward", "-s", folder / "document.sig")
    return ssh_keygen("-Y", "verify", *names, given=DOCUMENT).returncode == 0


@pytest.mark.parametrize("options", [("-t", "ed25519"), ("-t", "ecdsa", "-b", "256")])
def test_ssh_keygen_takes_what_we_sign(tmp_path: Path, options: tuple[str, ...]) -> None:
    key = _sshsig.private_key(new_key(tmp_path, *options).read_bytes())
    blob = _sshsig.public_blob(key)
    assert _sshsig.line_of(blob) == (tmp_path / "key.pub").read_text().rsplit(" ", 1)[0]
    assert _sshsig.fingerprint(blob) in ssh_keygen("-l", "-f", tmp_path / "key.pub").stdout.decode()
    for _try in range(20):  # numbers of ECDSA have different lengths
        signature = _sshsig.armored(blob, _sshsig.signature_by(key, _sshsig.to_sign(DOCUMENT)))
        assert _sshsig.signer_of(DOCUMENT, signature) == blob
    assert accepted(tmp_path, blob, signature)


def test_a_key_of_ours_is_one_of_ssh_keygen(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(_sshsig.private_bytes(_sshsig.new_private_key()))
    assert _sshsig.signer_of(DOCUMENT, signed(path)) == _sshsig.public_blob(_sshsig.private_key(path.read_bytes()))


@pytest.mark.parametrize("options", [("-t", "ed25519"), ("-t", "ecdsa", "-b", "256"), ("-t", "rsa", "-b", "3072")])
def test_what_ssh_keygen_signs_is_taken(tmp_path: Path, options: tuple[str, ...]) -> None:
    key = new_key(tmp_path, *options)
    assert _sshsig.line_of(_sshsig.signer_of(DOCUMENT, signed(key))) == (tmp_path / "key.pub").read_text().rsplit(" ", 1)[0]


@pytest.mark.parametrize("kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
def test_a_security_key_counts(tmp_path: Path, kind: str) -> None:
    """Built as a security key answers: over its application, flags and counter, too."""
    flags = b"\x01\x00\x00\x00\x07"
    data = hashlib.sha256(b"ssh:").digest() + flags + hashlib.sha256(_sshsig.to_sign(DOCUMENT)).digest()
    if "ed25519" in kind:
        edwards = ed25519.Ed25519PrivateKey.generate()
        raw = edwards.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        blob, proof = _sshsig.pack(kind.encode(), raw, b"ssh:"), edwards.sign(data)
    else:
        curve = ec.generate_private_key(ec.SECP256R1())
        point = curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        numbers = decode_dss_signature(curve.sign(data, ec.ECDSA(hashes.SHA256())))
        blob = _sshsig.pack(kind.encode(), b"nistp256", point, b"ssh:")
        proof = b"".join(_sshsig.pack(number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in numbers)
    signature = _sshsig.armored(blob, _sshsig.pack(kind.encode(), proof) + flags)
    assert accepted(tmp_path, blob, signature)
    assert _sshsig.signer_of(DOCUMENT, signature) == blob
    other = _sshsig.armored(blob, _sshsig.pack(kind.encode(), proof) + b"\x01\x00\x00\x00\x08")
    with pytest.raises(_sshsig.Fault, match="not over this document"):
        _sshsig.signer_of(DOCUMENT, other)


def refused(document: bytes, signature: bytes) -> str:
    with pytest.raises(_sshsig.Fault) as caught:
        _sshsig.signer_of(document, signature)
    return str(caught.value)


def test_what_does_not_count(tmp_path: Path) -> None:
    key = new_key(tmp_path, "-t", "ed25519")
    signature = signed(key)
    assert refused(DOCUMENT + b" ", signature) == "it is not over this document"
    assert refused(DOCUMENT, signed(key, namespace="file")) == "it was made for another purpose"
    assert refused(DOCUMENT, b"") == refused(DOCUMENT, b"x" * 100_000) == refused(DOCUMENT, DOCUMENT) == "it is no SSH signature"
    lines = signature.splitlines()
    cut = b"\n".join([lines[0], lines[1][:40], lines[-1]])
    assert refused(DOCUMENT, cut) == "it is cut off"
    for weak in (("-t", "rsa", "-b", "2048"), ("-t", "ecdsa", "-b", "384")):
        (tmp_path / weak[-1]).mkdir()
        assert "count" in refused(DOCUMENT, signed(new_key(tmp_path / weak[-1], *weak)))


def test_each_flipped_bit_is_seen(tmp_path: Path) -> None:
    key = _sshsig.new_private_key()
    blob, proof = _sshsig.public_blob(key), _sshsig.signature_by(key, _sshsig.to_sign(DOCUMENT))
    for name, length in (("blob", len(blob)), ("proof", len(proof))):
        for at in range(length):
            parts = {"blob": bytearray(blob), "proof": bytearray(proof)}
            parts[name][at] ^= 1
            refused(DOCUMENT, _sshsig.armored(bytes(parts["blob"]), bytes(parts["proof"])))


def test_what_is_no_key_to_sign_with(tmp_path: Path) -> None:
    with pytest.raises(_sshsig.Locked):
        _sshsig.private_key(new_key(tmp_path, "-t", "ed25519", passphrase="secret words").read_bytes())
    (tmp_path / "rsa").mkdir()
    for data in (b"", b"-----BEGIN PRIVATE KEY-----\n", new_key(tmp_path / "rsa", "-t", "rsa", "-b", "3072").read_bytes()):
        with pytest.raises(_sshsig.Fault):
            _sshsig.private_key(data)


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 ?", "ssh-ed25519 AAAA", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIA==", "x " * 9])
def test_what_is_no_public_key(line: str) -> None:
    with pytest.raises(_sshsig.Fault):
        _sshsig.blob_of(line)
