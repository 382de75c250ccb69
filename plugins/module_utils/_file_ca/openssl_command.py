# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: running the openssl command; may change in any release."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import typing as t
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_causes import translated
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._signature import FORGEABLE
from ansible_collections.keyward.pki.plugins.module_utils._staged import write_new

TIMEOUT = 300  # seconds
_GONE = ("sha", "mdc2", "ripemd", "ripemd160", "rmd160", "whirlpool")  # openssl 3 no longer signs with them
_OF_CRLS = {"3", "4", "8", "11", "12", "15", "16", "33", "36"}  # X509_V_ERR_*, of a CRL that is not accepted


@dataclass(frozen=True)
class OpensslCommand:
    """How C(openssl ca) knows which CA it is. C(directory): where it runs; C(environment): beside the process's own.

    C(names): what messages call its database and the file of its serial number.
    """

    config_file: str
    section: str
    directory: str
    environment: t.Mapping[str, str] = field(default_factory=dict)
    names: t.Mapping[str, str] = field(default_factory=dict)

    def run(self, arguments: t.Sequence[str], what: str, passphrase: t.Optional[str], locks: t.Sequence[int]) -> None:
        """Raises KeywardError where it fails; C(what) says what fails then. C(locks): see C(run_openssl)."""
        which = ["ca", "-config", self.config_file, "-name", self.section]
        names = {"section": self.section, **self.names}
        run_openssl([*which, *arguments], what, self.directory, passphrase, locks, self.environment, names)

    def saying(self, folder: str, name: str, settings: t.Mapping[str, t.Mapping[str, str]]) -> OpensslCommand:
        """The same, by a copy of its configuration in a folder. C(settings): by section; the last ones count. Raises KeywardError."""
        text = read_file(self.config_file, "the configuration", LARGEST_INPUT)
        more = [f"\n[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in said.items()) for section, said in settings.items()]
        path = os.path.join(folder, name)
        write_new(path, text + "\n".join(["", *more]).encode("utf-8", "surrogateescape"), 0o600)
        return replace(self, config_file=path)


def todays_hash(configured: t.Optional[str]) -> t.Tuple[t.List[str], t.List[Finding]]:
    """What C(openssl ca) must be told, and a person, where the configuration says (default_md) a hash that can be forged."""
    said = (configured or "").strip()
    plain = re.sub(r"^(?:rsa|dsa|ssl3)-|with(?:rsa)?encryption$|[^a-z0-9]", "", said.lower())
    if plain not in (*FORGEABLE, *_GONE):
        return [], []
    return ["-md", "sha256"], [hash_replaced(f"the configuration says default_md = {said}, a hash")]


def hash_replaced(why: str) -> Finding:
    return Finding("hash_replaced", f"{why} that can be forged or that clients refuse: what is signed now has one of today")


@contextlib.contextmanager
def scratch_directory() -> t.Iterator[str]:
    """A private directory that is gone afterwards."""
    path = tempfile.mkdtemp(prefix="keyward-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run_openssl(
    arguments: t.Sequence[str],
    what: str,
    cwd: t.Optional[str] = None,
    passphrase: t.Optional[str] = None,
    locks: t.Sequence[int] = (),
    environment: t.Mapping[str, str] = MappingProxyType({}),
    names: t.Mapping[str, str] = MappingProxyType({}),
) -> str:
    """What C(openssl arguments) prints. A passphrase reaches it through a pipe, as C(-passin fd:N).

    C(locks): descriptors of locks that openssl is to hold, too: it goes on to its end where this process is killed.
    Raises KeywardError where it fails; C(what) says what fails then.
    """
    done = _ended(arguments, what, cwd, passphrase, locks, environment)
    if done.returncode != 0:
        raise KeywardError(what, *translated(done.stderr.decode("utf-8", "replace"), arguments[0], names))
    return done.stdout.decode("utf-8", "replace")


def verified_under(trusted: str, certificates: t.Sequence[str]) -> t.Set[str]:
    """Those of the certificates (files) that clients verify under a trusted one (a file), whatever the time is. Raises KeywardError."""
    arguments = ["verify", "-partial_chain", "-no_check_time", "-trusted", trusted, *certificates]
    said = _ended(arguments, "what was issued was not verified").stdout.decode("utf-8", "replace").splitlines()
    return {path for path in certificates if f"{path}: OK" in said}


def crl_faults(trusted: str, crl: str, certificate: str) -> t.List[str]:
    """What a client that checks revocation has against a CRL (files, PEM). That the certificate is revoked is nothing against it."""
    arguments = ["verify", "-partial_chain", "-crl_check", "-CRLfile", crl, "-trusted", trusted, certificate]
    done = _ended(arguments, "the CRL was not proved")
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    found = re.findall(r"error (\d+) at \d+ depth lookup: *(.*)", said)
    return [f"error {number}, {text.strip()}" for number, text in found if number in _OF_CRLS]


@lru_cache(maxsize=1)
def dates_crls() -> bool:
    """Whether this openssl takes the time from which a CRL is valid: release 3 does."""
    done = _ended(["ca", "-help"], "openssl was not asked for its options")
    return b"-crl_lastupdate" in done.stdout + done.stderr


def _ended(
    arguments: t.Sequence[str],
    what: str,
    cwd: t.Optional[str] = None,
    passphrase: t.Optional[str] = None,
    locks: t.Sequence[int] = (),
    environment: t.Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[bytes]:
    """openssl, when it has ended. Raises KeywardError where there is none, or where it does not end."""
    program = shutil.which("openssl")
    if program is None:
        raise KeywardError(what, "there is no openssl command on this host", "Install the package openssl")
    command, readable = [program, *arguments], -1
    try:
        if passphrase is not None:
            readable, writable = os.pipe()
            with os.fdopen(writable, "wb") as stream:
                stream.write(passphrase.encode("utf-8") + b"\n")
            command += ["-passin", f"fd:{readable}"]
        # AnsibleModule.run_command knows no timeout.
        return subprocess.run(  # pylint: disable=ansible-bad-function
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=[descriptor for descriptor in (readable, *locks) if descriptor != -1],
            env={**os.environ, **environment},
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KeywardError(what, f"openssl did not end within {TIMEOUT} seconds", "Run it by hand to see what it waits for") from None
    finally:
        if readable != -1:
            os.close(readable)
