# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: who vouches for what lies in a store: signing keys and allowed signers; may change in any release.

Both are files on the controller, in OpenSSH's own formats. Nothing here starts a process.
"""

from __future__ import annotations

import functools
import getpass
import os
import platform
import re
import socket
import stat
import typing as t
from datetime import datetime, timezone

from ansible_collections.keyward.pki.plugins.module_utils import _sshsig
from ansible_collections.keyward.pki.plugins.module_utils._directories import add_line, make_directories, sync_directory
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file, read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._lock import locked
from ansible_collections.keyward.pki.plugins.module_utils._protection import Protection
from ansible_collections.keyward.pki.plugins.module_utils._signed import SHOW_FINGERPRINTS, NobodyKnown
from ansible_collections.keyward.pki.plugins.module_utils._staged import StagedFile, write_new
from ansible_collections.keyward.pki.plugins.module_utils._time import now_text, parse_time

OF_THE_MACHINE, OF_THE_USER = "/etc/keyward", "~/.config/keyward"
SIGNING_KEY, ALLOWED_SIGNERS = "signing_key", "allowed_signers"
PRINCIPAL = "keyward"  # what ssh-keygen -Y verify -I takes
_LARGEST = 1 << 20  # bytes of a list of signers
_AGENT_TIMEOUT = 60  # seconds: a person may have to touch a security key
# Principals, options, type of the key, key. Lines without options say no namespace.
_LINE = re.compile(r"""("[^"]*"|[^\s"#][^\s"]*)\s+((?:[^\s"]|"[^"]*")+)\s+(\S+)\s+(\S+)""")
_OPTION = re.compile(r"""(?:[^,"]|"[^"]*")+""")
_QUOTED = re.compile(r'"[^"]*"\Z')
_TIME = re.compile(r"([0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?)(Z?)\Z")


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id without a name
        return str(os.geteuid())


def default_folder() -> str:
    return OF_THE_MACHINE if os.path.isdir(OF_THE_MACHINE) else os.path.expanduser(OF_THE_USER)


# --- allowed signers -------------------------------------------------------------------------------------------------


class Allowed(t.NamedTuple):
    """A key whose signatures count for documents from C(after) to C(before), both included."""

    blob: bytes
    after: datetime | None = None
    before: datetime | None = None


def read_allowed_signers(path: str) -> list[Allowed]:
    """The lines that name the namespace. Raises KeywardError where there is none, or others may change the file."""
    what = f"{path} does not say who may sign for the stores"
    way_out = (
        f"Is its volume mounted? Otherwise compare the copy in a store with the paper ({SHOW_FINGERPRINTS}), and give that file as "
        "allowed_signers"
    )
    try:
        data = read_file(path, "the list of allowed signers", _LARGEST)
        status = os.stat(path)
    except FileNotFoundError:
        raise NobodyKnown(what, "it does not exist", way_out) from None
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise NobodyKnown(
            what,
            f"others than root and the user of this run may write it (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})",
            f"Look into it, then make it yours: cp {path} somewhere, or chown root {path}; chmod go-w {path}",
        )
    found = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        try:
            allowed = _allowed(line)
        except _sshsig.Fault as exc:
            raise NobodyKnown(what, f"its line {number} can't be used: {exc}", "Correct it, as man ssh-keygen says") from exc
        if allowed:
            found.append(allowed)
    if not found:
        raise NobodyKnown(what, f'no line of it says namespaces="{_sshsig.NAMESPACE}"', way_out)
    return found


def _allowed(line: str) -> Allowed | None:
    """The signer of a line; None where it does not name our namespace. Raises Fault."""
    match = _LINE.match(line.strip())
    if not match or "namespaces=" not in match.group(2).lower():
        return None
    options: dict[str, str] = {}
    for option in _OPTION.findall(match.group(2)):
        name, equals, value = option.partition("=")
        if name.lower() in options or name.lower() not in ("cert-authority", "namespaces", "valid-after", "valid-before"):
            raise _sshsig.Fault(f"the option {name[:40]} is unknown, or there twice")
        if equals and not _QUOTED.match(value):
            raise _sshsig.Fault(f"the value of {name} has no quotation marks")
        options[name.lower()] = value.strip('"')
    if _sshsig.NAMESPACE not in options["namespaces"].split(",") or "cert-authority" in options:
        return None
    blob = _sshsig.blob_of(f"{match.group(3)} {match.group(4)}")
    _sshsig.public(blob)
    return Allowed(blob, _moment(options.get("valid-after")), _moment(options.get("valid-before")))


def _moment(text: str | None) -> datetime | None:
    """UTC without a time zone. As ssh-keygen has it, a time without Z is that of this machine."""
    if text is None:
        return None
    match = _TIME.match(text)
    try:
        if match:
            moment = datetime.strptime(match.group(1).ljust(14, "0"), "%Y%m%d%H%M%S")
            return moment if match.group(2) else moment.astimezone(timezone.utc).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        pass
    raise _sshsig.Fault(f"{text[:40]!r} is no time")


class Signers:
    """Who vouches, for one task. Files are read where they are needed first."""

    def __init__(self, options: t.Mapping[str, t.Any]) -> None:
        self.key_path: str = options.get("store_signing_key") or os.path.join(default_folder(), SIGNING_KEY)
        self.allowed_path: str = options.get("allowed_signers") or os.path.join(default_folder(), ALLOWED_SIGNERS)

    @functools.cached_property
    def allowed(self) -> list[Allowed]:
        return read_allowed_signers(self.allowed_path)

    def doubt(self, document: bytes, signature: bytes | None, at: str) -> str | None:
        """Why nobody known vouches for a document of that time; None where somebody does. Raises KeywardError without a list."""
        self.allowed  # noqa: B018 - missing, it is an error, whatever lies in a store
        if signature is None:
            return "it has no signature"
        try:
            blob, moment = _sshsig.signer_of(document, signature), parse_time(at)
        except (ValueError, TypeError) as exc:
            return f"its signature does not count: {exc}" if isinstance(exc, _sshsig.Fault) else "it does not say when it was made"
        lines = [one for one in self.allowed if one.blob == blob]
        if not lines:
            return f"its signer {_sshsig.fingerprint(blob)} is unknown to {self.allowed_path}"
        if not any((one.after is None or one.after <= moment) and (one.before is None or moment <= one.before) for one in lines):
            return f"at {at} its signer {_sshsig.fingerprint(blob)} was not a valid one ({self.allowed_path})"
        return None

    @staticmethod
    def name_of(document: bytes, signature: bytes | None) -> str | None:
        """The fingerprint of the key that signed, as ssh-keygen shows it; None where that can't be told. It says nothing of trust."""
        try:
            return None if signature is None else _sshsig.fingerprint(_sshsig.signer_of(document, signature))
        except _sshsig.Fault:
            return None

    @functools.cached_property
    def key(self) -> SigningKey:
        """Raises KeywardError where there is none, or nobody would believe it."""
        key = read_signing_key(self.key_path)
        moment = parse_time(now_text())
        lines = [one for one in self.allowed if one.blob == key.blob]
        if not any((one.after is None or one.after <= moment) and (one.before is None or moment <= one.before) for one in lines):
            line = line_of_a_signer(key.blob)
            raise KeywardError(
                "nothing can be signed",
                f"{self.allowed_path} does not name the signing key {self.key_path} ({_sshsig.fingerprint(key.blob)}) as a valid one",
                f"If that key is yours, add this line to it on every controller, and write its fingerprint on the paper: {line}",
            )
        return key

    def sign(self, document: bytes) -> bytes:
        """The file C(.sig) of a document. Raises KeywardError."""
        return _sshsig.armored(self.key.blob, self.key.signature(_sshsig.to_sign(document)))


# --- signing keys ----------------------------------------------------------------------------------------------------


class SigningKey(t.NamedTuple):
    """Public half, and what signs with the private one."""

    blob: bytes
    signature: t.Callable[[bytes], bytes]


def read_signing_key(path: str) -> SigningKey:
    """Of a private file, or of a C(.pub) whose private half an agent has. Raises KeywardError."""
    what = f"the signing key {path} can't be used"
    try:
        data = read_file(path, "the signing key", _sshsig.MOST)
    except FileNotFoundError:
        raise KeywardError(
            what,
            "it does not exist",
            "Is its volume mounted? If it is lost, make a new one (ssh-keygen -t ed25519 -N '' -f "
            f"{path}), and put its line beside the old one into allowed_signers",
        ) from None
    try:
        if path.endswith(".pub"):
            blob = _sshsig.blob_of(data.decode("utf-8", "replace"))
            _sshsig.public(blob)
            return SigningKey(blob, lambda document: _signed_by_agent(path, blob, document))
        if os.stat(path).st_mode & 0o027:
            raise KeywardError(what, "others may read or change it", f"If nobody did, chmod 0600 {path}; otherwise make a new one")
        key = _sshsig.private_key(data)
    except _sshsig.Locked as exc:
        raise KeywardError(
            what, str(exc), f"Load it into an agent (ssh-add {path}), and give {path}.pub as store_signing_key: the agent signs then"
        ) from exc
    except _sshsig.Fault as exc:
        raise KeywardError(what, str(exc), "Give an Ed25519 key of ssh-keygen, or one of ECDSA on P-256") from exc
    return SigningKey(_sshsig.public_blob(key), lambda document: _sshsig.signature_by(key, document))


def _signed_by_agent(path: str, blob: bytes, data: bytes) -> bytes:
    """By the private half that ssh-agent has (draft-miller-ssh-agent, 4.5). Raises KeywardError."""
    what, address = f"the signing key of {path} can't be used", os.environ.get("SSH_AUTH_SOCK")
    if not address:
        raise KeywardError(what, "no agent runs here (SSH_AUTH_SOCK is not set)", "Start ssh-agent, and load the private key (ssh-add)")
    flags = _sshsig.AGENT_RSA_SHA512 if _sshsig.public(blob).kind == _sshsig.RSA else 0
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(_AGENT_TIMEOUT)
            agent.connect(address)
            agent.sendall(_sshsig.pack(b"\x0d" + _sshsig.pack(blob, data) + flags.to_bytes(4, "big")))
            with agent.makefile("rb") as stream:
                answer = stream.read(min(int.from_bytes(stream.read(4), "big"), 4 * _sshsig.MOST))
        reader = _sshsig.Reader(answer)
        if reader.take(1) == b"\x0e":
            return reader.string()
    except OSError as exc:
        raise KeywardError(what, f"the agent does not answer: {os_cause(exc)}", "Start ssh-agent again, and ssh-add the key") from exc
    except _sshsig.Fault:
        pass
    raise KeywardError(what, "the agent does not sign with it", "Load its private half (ssh-add), and allow its use where the agent asks")


# --- a new key -------------------------------------------------------------------------------------------------------


def line_of_a_signer(blob: bytes) -> str:
    """The line for a list of allowed signers."""
    return f'{PRINCIPAL} namespaces="{_sshsig.NAMESPACE}" {_sshsig.line_of(blob)}'


def in_a_container() -> bool:
    """Whether this is a container, whose files are gone after the run unless mounted. /.dockerenv proves nothing: machines have it, too."""
    if os.environ.get("container") or os.path.exists("/run/.containerenv"):  # noqa: SIM112 - podman writes it so
        return True
    mounts = (read_if_there("/proc/self/mounts", "the list of mounts") or b"").decode("utf-8", "replace")
    return any(line.split()[1:3] in (["/", "overlay"], ["/", "fuse.fuse-overlayfs"]) for line in mounts.splitlines())


def make_signing_key(signers: Signers, given: bool) -> bytes | None:
    """Make key and list where neither is there; the new public key, None where nothing was made. C(given): the path was.

    Raises KeywardError.
    """
    if os.path.lexists(signers.key_path) or signers.key_path.endswith(".pub"):
        return None
    begun = f"{signers.key_path}.new"  # until everything else lies beside it: a run that is killed is finished by the next one
    if not os.path.lexists(begun) and (read_if_there(signers.allowed_path, "the list of allowed signers", _LARGEST) or b"").strip():
        return None  # somebody signs already: on another controller, or with a key that was lost
    if not given and in_a_container():
        raise KeywardError(
            "no signing key was made",
            f"this runs in a container, and {signers.key_path} would be gone with it",
            "Mount a volume, and say where the key is to lie (store_signing_key, allowed_signers, memory)",
        )
    try:
        for path in (signers.key_path, signers.allowed_path):
            make_directories(os.path.dirname(os.path.abspath(path)), Protection(0o700))
        with locked([os.path.dirname(os.path.abspath(signers.key_path))], "no signing key was made"):
            if os.path.lexists(signers.key_path):
                return None  # another run made it meanwhile
            if not os.path.lexists(begun):
                with StagedFile(begun, _sshsig.private_bytes(_sshsig.new_private_key()), Protection(0o600)) as staged:
                    staged.commit()
            blob = read_signing_key(begun).blob
            comment = f"{user_name()}@{platform.node()}, {now_text()[:10]}"
            if not os.path.lexists(signers.key_path + ".pub"):
                write_new(signers.key_path + ".pub", f"{_sshsig.line_of(blob)} {comment}\n".encode(), 0o644)
            add_line(signers.allowed_path, f"{line_of_a_signer(blob)} {comment}", 0o644)
            os.rename(begun, signers.key_path)
            sync_directory(os.path.dirname(os.path.abspath(signers.key_path)))
    except OSError as exc:
        raise KeywardError(
            "no signing key was made", os_cause(exc), f"Check {os.path.dirname(signers.key_path)} and the space left"
        ) from exc
    return blob
