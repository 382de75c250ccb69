# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a CA that easy-rsa runs, known by its PKI directory; may change in any release.

easy-rsa is a shell script around C(openssl ca). All its releases name the same files below the PKI directory; since 3.2 a PKI need
not have a configuration of its own. What is configurable comes from the environment, which the script fills from a file C(vars).
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, absolute
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file

CONFIGURATION = "openssl-easyrsa.cnf"
SECTION = "CA_default"
# Where packages put what a PKI does not bring along, in the order in which easy-rsa looks.
_SHARED = ("/usr/local/share/easy-rsa", "/usr/share/easy-rsa", "/etc/easy-rsa")
_LARGEST_VARS = 1024 * 1024
# The names in the shipped configuration, also for a PKI without one.
_NAMED = {
    "certificate": "ca.crt",
    "private_key": "private/ca.key",
    "database": "index.txt",
    "serial": "serial",
    "new_certs_dir": "certs_by_serial",
    "crl": "crl.pem",
}
_MOVABLE = (
    "certs_by_serial",
    "issued",
    "reqs",
    "expired",
    *(f"{folder}/{name}" for folder in ("renewed", "revoked") for name in ("issued", "reqs", "certs_by_serial", "reqs_by_serial")),
)
# The script's own; openssl takes no configuration in which one is undefined.
_DEFAULTS = {
    "EASYRSA_CERT_EXPIRE": "825",
    "EASYRSA_CRL_DAYS": "180",
    "EASYRSA_DIGEST": "sha256",
    "EASYRSA_KEY_SIZE": "2048",
    "EASYRSA_DN": "cn_only",
    **{f"EASYRSA_REQ_{name}": "" for name in ("CN", "COUNTRY", "PROVINCE", "CITY", "ORG", "OU", "EMAIL", "SERIAL")},
}
_SET_VAR = re.compile(r"^[ \t]*(?:force_)?set_var[ \t]+(EASYRSA_[A-Z0-9_]+)[ \t]+(.+)$", re.MULTILINE)


class EasyrsaBackend(FileCa):
    """A CA run by C(easyrsa), 3.0 and later. C(directory): its PKI directory, EASYRSA_PKI."""

    NAME = "easyrsa"

    def __init__(self, selector: Selector) -> None:
        if not selector.directory:
            raise KeywardError("the authority can't be found", "backend is easyrsa, and no directory is given", "Give its PKI directory")
        super().__init__(selector)
        self._shared = [folder for folder in (self.directory, self._home(), *_SHARED) if folder]
        self.environment = self._environment()

    @classmethod
    def claims(cls, selector: Selector) -> bool:
        """Whether nothing but a directory is named, and it has what C(easyrsa) itself calls a PKI."""
        if not selector.directory or selector.config_file or selector.certificate_file:
            return False
        return all(os.path.isdir(os.path.join(selector.directory, name)) for name in ("private", "reqs"))

    def files(self) -> Files:
        config = self._configuration()
        section = self.selector.name or (config.get("ca", "default_ca") if config else None) or SECTION
        if self.selector.name and not (config and config.has_section(section)):
            raise KeywardError(
                "the authority can't be found",
                f"name is {section}, and the configuration of the PKI {self.directory} has no such section",
                "Leave name out: easy-rsa gives it none",
            )
        named = {name: (config.get(section, name) if config else None) or path for name, path in _NAMED.items()}
        paths = {name: absolute(self.directory, path) for name, path in named.items()}
        crl_number = config.get(section, "crlnumber") if config else None
        return Files(
            section=section,
            certificate=paths["certificate"],
            private_key=paths["private_key"],
            database=paths["database"],
            serial=paths["serial"],
            crl_number=absolute(self.directory, crl_number) if crl_number else None,
            new_certificates=paths["new_certs_dir"],
            crl=paths["crl"],
            older_certificates=self._below("expired-ca.list"),
            request=self._below("reqs/ca.req"),
            more=tuple(self._more()),
            subscribers=tuple(self._subscribers()),
            lock=self._below("lock.file"),
            random_serials=self.environment.get("EASYRSA_RAND_SN") != "no",
        )

    def place_of(self, files: Files) -> t.Dict[str, str]:
        """Its directory leads to it; without a configuration there is no section to name."""
        place = {"config_file": self.config_file, "directory": self.directory, "name": self.selector.name}
        return {option: value for option, value in place.items() if value}

    def setting(self, name: str) -> t.Optional[str]:
        config = self._configuration()
        return config.get(self.files().section, name) if config else {"unique_subject": "no"}.get(name)

    def _more(self) -> t.Iterator[t.Tuple[str, str]]:
        """What belongs to a set besides. Certificates and requests have the names of subscribers, and easy-rsa moves them about."""
        above = os.path.dirname(self.directory)
        for folder in (self.directory, above):
            for name in ("vars", CONFIGURATION, "x509-types"):
                path = os.path.join(folder, name)
                if folder == self.directory or name != "vars" or self._home() or not os.path.lexists(path):
                    yield path, "configuration"
        yield self._below("dh.pem"), "configuration"
        yield self._below("expired-ca.list"), "certificate"
        yield self._below("crl.der"), "crl"
        for name in _MOVABLE:
            yield self._below(name), "movable"

    def _subscribers(self) -> t.Iterator[str]:
        """Where subscribers' private keys lie, in all releases: C(--inline) of 3.1 writes them into the PKI directory itself."""
        for name in ("private", "inline", "renewed/private", "renewed/private_by_serial", "revoked/private_by_serial"):
            yield self._below(name)
        yield from sorted(glob.glob(os.path.join(glob.escape(self.directory), "*.creds")))

    def _below(self, name: str) -> str:
        return os.path.join(self.directory, name)

    # --- what configures it ---

    def _home(self) -> t.Optional[str]:
        """The directory above, where it is easy-rsa's own: what C(make-cadir) makes, or a clone of the project."""
        above = os.path.dirname(self.directory)
        return above if any(os.path.lexists(os.path.join(above, name)) for name in ("easyrsa", CONFIGURATION, "x509-types")) else None

    def _find(self, name: str) -> t.Optional[str]:
        """A file or folder that easy-rsa takes from the PKI, from its own directory, or from where its package put it."""
        found = (os.path.join(folder, name) for folder in self._shared)
        return next((path for path in found if os.path.exists(path)), None)

    def _configuration(self) -> t.Optional[OpensslConfig]:
        """The configuration that openssl is to read, or None where only the script has one, in its own text."""
        path = self.config_file or self._find(CONFIGURATION)
        if path is None:
            return None
        try:
            return OpensslConfig(path, self.directory, self.environment)
        except FileNotFoundError:
            raise NothingThere(
                f"the configuration {path} can't be read", "it does not exist", "Check config_file, or leave it out: easy-rsa needs none"
            ) from None

    def _environment(self) -> t.Dict[str, str]:
        """What easy-rsa exports: its environment comes before C(vars), and that before its defaults. C(vars) is never run, but read."""
        variables = dict(_DEFAULTS)
        for folder in self._shared[: 2 if self._home() else 1]:
            try:
                text = read_file(os.path.join(folder, "vars"), "the variables", _LARGEST_VARS).decode("utf-8", "surrogateescape")
            except FileNotFoundError:
                continue
            for name, value in _SET_VAR.findall(text):
                if "$" not in value and "`" not in value:
                    variables[name] = _first_word(value)
            break
        variables.update({name: value for name, value in os.environ.items() if name.startswith("EASYRSA_")})
        return {**variables, "EASYRSA_PKI": self.directory}


def _first_word(text: str) -> str:
    """The first word of a line of shell without variables."""
    try:
        return (shlex.split(text, comments=True) or [""])[0]
    except ValueError:
        return ""
