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
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa, part
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, absolute
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.shell_settings import settings
from ansible_collections.keyward.pki.plugins.module_utils._files import read_if_there
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, slug
from ansible_collections.keyward.pki.plugins.module_utils._x509 import pem, pem_certificates, short_subject

_CONFIGURATION, _TYPES = "openssl-easyrsa.cnf", "x509-types"
# Where packages install files that a PKI lacks, in the order in which easy-rsa looks.
_SHARED = ("/usr/local/share/easy-rsa", "/usr/share/easy-rsa", "/etc/easy-rsa")
_LARGEST = 1024 * 1024
# The names in the shipped configuration, also for a PKI without one.
_NAMED = {"certificate": "ca.crt", "private_key": "private/ca.key", "database": "index.txt", "serial": "serial"}
_NAMED.update({"new_certs_dir": "certs_by_serial", "crl": "crl.pem"})
_SECTION, _ASKED = "CA_default", "keyward_subordinate"
_BUILT_IN = f"[ca]\ndefault_ca = {_SECTION}\n[{_SECTION}]\n" + "".join(f"{n} = $ENV::EASYRSA_PKI/{path}\n" for n, path in _NAMED.items())
_BUILT_IN += "default_md = $ENV::EASYRSA_DIGEST\nunique_subject = no\npolicy = policy_anything\ncrl_extensions = crl_ext\n"
_BUILT_IN += "[policy_anything]\ncommonName = supplied\n[crl_ext]\nauthorityKeyIdentifier = keyid:always, issuer:always\n"
_BUILT_IN_CA = "basicConstraints = critical, CA:TRUE\nsubjectKeyIdentifier = hash\n"
_BUILT_IN_CA += "authorityKeyIdentifier = keyid:always, issuer:always\nkeyUsage = cRLSign, keyCertSign\n"
_MOVABLE = (
    *("certs_by_serial", "issued", "reqs", "expired"),
    *(f"{folder}/{name}" for folder in ("renewed", "revoked") for name in ("issued", "reqs", "certs_by_serial", "reqs_by_serial")),
)
# The script's own; openssl takes no configuration in which one is undefined.
_DEFAULTS = {
    **{"EASYRSA_CERT_EXPIRE": "825", "EASYRSA_CRL_DAYS": "180", "EASYRSA_DIGEST": "sha256"},
    **{"EASYRSA_KEY_SIZE": "2048", "EASYRSA_DN": "cn_only"},
    **{f"EASYRSA_REQ_{name}": "" for name in ("CN", "COUNTRY", "PROVINCE", "CITY", "ORG", "OU", "EMAIL", "SERIAL")},
}
# By what certificates and CRLs come out otherwise.
_SIGNING = ("EASYRSA_CERT_EXPIRE", "EASYRSA_CRL_DAYS", "EASYRSA_DIGEST", "EASYRSA_RAND_SN", "EASYRSA_SUBCA_LEN")
_PASSPHRASES = ("EASYRSA_PASSIN", "EASYRSA_PASSOUT")
_CONSTRAINTS = re.compile(r"^[ \t]*basicConstraints[ \t]*=[^#\n]*", re.MULTILINE)


class EasyrsaBackend(FileCa):
    """A CA run by C(easyrsa), 3.0 and later. C(directory): its PKI directory, EASYRSA_PKI."""

    NAME, FIXED, MODE = "easyrsa", True, 0o700

    def __init__(self, selector: Selector) -> None:
        if not selector.directory:
            raise KeywardError("the authority can't be found", "backend is easyrsa, and no directory is given", "Give its PKI directory")
        super().__init__(selector)
        # The directory above may be easy-rsa's own: what make-cadir makes, or a clone of the project.
        self._above = os.path.dirname(self.directory)
        self._at_home = any(os.path.lexists(os.path.join(self._above, name)) for name in ("easyrsa", _CONFIGURATION, _TYPES))
        self._folders = [self.directory, *([self._above] if self._at_home else []), *_SHARED]
        self.environment, self._unread = self._environment()
        self._extensions = ""

    @classmethod
    def claims(cls, selector: Selector) -> bool:
        """Whether nothing but a directory is named, and it has what C(easyrsa) itself calls a PKI."""
        named = selector.directory if not (selector.config_file or selector.certificate_file) else None
        return bool(named) and all(os.path.isdir(os.path.join(str(named), name)) for name in ("private", "reqs"))

    def files(self) -> Files:
        get, stated = self._get(), {"certificate": self.selector.certificate_file, "private_key": self.selector.private_key_file}
        section = get("ca", "default_ca") or _SECTION
        if self.selector.name not in (None, section):
            why = f"name is {self.selector.name}, and the CA of the PKI {self.directory} is {section}"
            raise KeywardError("the authority can't be found", why, "Leave name out")
        paths = {name: absolute(self.directory, stated.get(name) or get(section, name) or path) for name, path in _NAMED.items()}
        crl_number = get(section, "crlnumber")
        return Files(
            section=section,
            certificate=paths["certificate"],
            private_key=paths["private_key"],
            database=paths["database"],
            serial=paths["serial"],
            crl_number=absolute(self.directory, crl_number) if crl_number else None,
            new_certificates=paths["new_certs_dir"],
            certificates=self._below("issued"),
            crl=paths["crl"],
            crl_der=self._below("crl.der"),
            older_certificates=self._below("expired-ca.list"),
            request=self._below("reqs/ca.req"),
            more=tuple(self._more()),
            subscribers=tuple(self._subscribers()),
            lock=self._below("lock.file"),
            random_serials=self.environment.get("EASYRSA_RAND_SN") != "no",
        )

    def setting(self, name: str) -> t.Optional[str]:
        return self._get()(self.files().section, name)

    def runs(self, path: str) -> t.List[str]:
        return ["easy-rsa runs it as a shell script"] if os.path.basename(path) == "vars" else []

    def urls_said(self) -> t.Set[str]:
        types = self._find(_TYPES)
        paths = [
            self._find(_CONFIGURATION),
            self._find("vars"),
            *(sorted(glob.glob(os.path.join(glob.escape(types), "*"))) if types else ()),
        ]
        return t.cast("t.Set[str]", part("named_urls").urls_in("\n".join(map(_text_of, paths))))

    def beside(self, directory: str) -> t.List[str]:
        return [os.path.join(os.path.dirname(directory.rstrip("/")), name) for name in ("vars", _CONFIGURATION, _TYPES)]

    def lay_out(self, order: t.Any, check: bool) -> bool:
        """Lay out what init-pki and build-ca make, with the shipped configuration: 3.1 does nothing in a PKI without one."""
        changed, shipped = super().lay_out(order, check), self._find(_CONFIGURATION)
        if shipped in (None, self._below(_CONFIGURATION)):
            return changed
        if not check:
            from ansible_collections.keyward.pki.plugins.module_utils._staged import put_new

            put_new(self._below(_CONFIGURATION), _text_of(shipped).encode("utf-8", "surrogateescape"), 0o600)
        return True

    def passphrases_said(self) -> t.List[t.Tuple[str, str]]:
        found = []
        for path, text in self._vars():
            said, unread = settings(text, {}, _PASSPHRASES)
            found += [(path, name) for name in _PASSPHRASES if name in text and (name in said or name in unread)]
        return found

    def settings_not_read(self) -> t.List[str]:
        return list(self._unread)

    def signing(self, files: Files, scratch: str) -> t.Any:
        """easy-rsa's configuration, with what easy-rsa says on the command line."""
        if self._unread:
            remedy = 'Write plain values there, such as: set_var EASYRSA_CRL_DAYS "180"'
            raise KeywardError("nothing is signed", f"{'; '.join(self._unread)}, and easy-rsa would sign by that", remedy)
        from ansible_collections.keyward.pki.plugins.module_utils._staged import write_new

        path = os.path.join(scratch, _CONFIGURATION)
        text = _text_of(self.config_file or self._find(_CONFIGURATION)) or _BUILT_IN
        text += f"\n[{files.section}]\ndefault_days = $ENV::EASYRSA_CERT_EXPIRE\ndefault_crl_days = $ENV::EASYRSA_CRL_DAYS\n"
        write_new(path, f"{text}[{_ASKED}]\n{self._extensions}".encode("utf-8", "surrogateescape"), 0o600)
        return part("openssl_command").OpensslCommand(path, files.section, self.directory, self.environment)

    def subordinate(self, files: Files, extensions: str) -> t.List[str]:
        """The extensions of C(sign-req ca): its file of x509-types, and the one that all kinds share."""
        kind = os.path.basename(extensions) or "ca"
        own = _text_of(self._find(f"{_TYPES}/{kind}")) or (_BUILT_IN_CA if kind == "ca" else "")
        constraints = _CONSTRAINTS.findall(own)
        if not constraints or not re.search(r"CA\s*:\s*TRUE", constraints[-1], re.IGNORECASE):
            why = f"the PKI {self.directory} has no {_TYPES}/{kind} with basicConstraints = CA:TRUE"
            raise KeywardError("the request was not signed", why, "Add it, or name another one as extensions")
        length = self.environment.get("EASYRSA_SUBCA_LEN")
        longer = f"{constraints[-1]}, pathlen:{length}" if length else ""
        self._extensions = "\n".join((own, _text_of(self._find(f"{_TYPES}/COMMON")), longer, ""))
        return ["-extensions", _ASKED]

    def file_issued(self, issued: Generation) -> None:
        """Put it where C(easyrsa revoke) looks, by the subject's name; another certificate of that name stays."""
        from ansible_collections.keyward.pki.plugins.module_utils._staged import put_new

        name = slug(short_subject(issued.certificate))
        for path in (self._below(f"issued/{name}.crt"), self._below(f"issued/{name}-{issued.serial}.crt")):
            there = read_if_there(path, "the certificate", _LARGEST)
            if there is None:
                put_new(path, pem(issued.certificate).encode("ascii"), 0o600)
            if there is None or pem_certificates(there)[:1] == [issued.certificate]:
                break

    # --- what lies where ---

    def _below(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _find(self, name: str) -> t.Optional[str]:
        """A file that easy-rsa takes from the PKI, from its own directory, or from where its package put it."""
        return next((path for path in (os.path.join(folder, name) for folder in self._folders) if os.path.exists(path)), None)

    def _more(self) -> t.Iterator[t.Tuple[str, str]]:
        """What belongs to a set besides. Certificates and requests have the names of subscribers, and easy-rsa moves them about."""
        for folder in (self.directory, self._above):
            for name in ("vars", _CONFIGURATION, _TYPES):
                path = os.path.join(folder, name)
                if folder == self.directory or name != "vars" or self._at_home or not os.path.lexists(path):
                    yield path, "configuration"
        yield self._below("dh.pem"), "configuration"
        yield self._below("expired-ca.list"), "certificate"
        yield from ((self._below(name), "movable") for name in _MOVABLE)

    def _subscribers(self) -> t.Iterator[str]:
        """Where subscribers' private keys lie, in all releases: C(--inline) of 3.1 writes them into the PKI directory itself."""
        for name in ("private", "inline", "renewed/private", "renewed/private_by_serial", "revoked/private_by_serial"):
            yield self._below(name)
        yield from sorted(glob.glob(os.path.join(glob.escape(self.directory), "*.creds")))

    # --- what configures it ---

    def _get(self) -> t.Callable[[str, str], t.Optional[str]]:
        """A value of a section of the configuration; without a configuration file, of the one inside the script."""
        path = self.config_file or self._find(_CONFIGURATION)
        if path is None:
            return lambda _section, name: {"unique_subject": "no"}.get(name)
        try:
            return OpensslConfig(path, self.directory, self.environment).get
        except FileNotFoundError:
            remedy = "Check config_file, or leave it out: easy-rsa needs none"
            raise NothingThere(f"the configuration {path} can't be read", "it does not exist", remedy) from None

    def _vars(self) -> t.Iterator[t.Tuple[str, str]]:
        for folder in self._folders[: 1 + self._at_home]:
            path = os.path.join(folder, "vars")
            text = _text_of(path)
            if text:
                yield path, text

    def _environment(self) -> t.Tuple[t.Dict[str, str], t.List[str]]:
        """The variables that easy-rsa exports: from the environment, C(vars) (never run), its defaults. And what C(vars) leaves open."""
        given = {name: value for name, value in os.environ.items() if name.startswith("EASYRSA_")}
        path, text = next(self._vars(), ("", ""))
        said, unread = settings(text, given, _SIGNING)
        said = {name: value for name, value in said.items() if name.startswith("EASYRSA_")}
        left_open = [f"only a shell can tell {name} (line {line} of {path})" for name, line in unread.items()]
        return {**_DEFAULTS, **said, "EASYRSA_PKI": self.directory}, left_open


def _text_of(path: t.Optional[str]) -> str:
    return (read_if_there(path, "the file", _LARGEST) or b"").decode("utf-8", "surrogateescape") if path else ""
