# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: a CA that the openssl command runs, described by an openssl.cnf or by its files; may change in any release."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.base import FileCa, part
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files, absolute
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig

_URI = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:", re.IGNORECASE)
# How libp11's engine names a key without a URI: "slot_0-id_01", "label_root", "0:01".
_ENGINE_KEY = re.compile(r"(?:slot_[^/]+-)?(?:id|label)_[^/]+\Z|[0-9]+:[0-9a-f]+\Z", re.IGNORECASE)

# The characters that openssl allows in the name of a section (CONF, conf_def.h).
_SECTION = re.compile(r"[A-Za-z0-9_!.%&*+,/;?@^~|-]+( +[A-Za-z0-9_!.%&*+,/;?@^~|-]+)*\Z")


class OpensslBackend(FileCa):
    """A CA run by C(openssl ca)."""

    NAME = "openssl"

    def __init__(self, selector: Selector) -> None:
        super().__init__(selector)
        self._read: t.Optional[OpensslConfig] = None

    @classmethod
    def claims(cls, selector: Selector) -> bool:
        return bool(selector.config_file or selector.directory or selector.certificate_file)

    def _config(self) -> OpensslConfig:
        """Raises as OpensslConfig. A look asks for it many times."""
        if self._read is None or not self._read.is_current():
            self._read = OpensslConfig(t.cast(str, self.config_file), self.directory)
        return self._read

    def files(self) -> Files:
        """What the options and the configuration name. Raises KeywardError, NothingThere where the configuration does not exist."""
        selector = self.selector
        if self.config_file is None:
            return self._files_stated()
        try:
            config = self._config()
        except FileNotFoundError:
            raise NothingThere(
                f"the configuration {self.config_file} can't be read",
                "it does not exist",
                "Check config_file; if the CA's host was lost, bring its configuration back first",
            ) from None
        section = self._section(config)
        paths = {}
        for name, stated, option in (
            ("certificate", selector.certificate_file, "certificate_file"),
            ("private_key", selector.private_key_file, "private_key_file"),
        ):
            value = stated or config.get(section, name)
            if not value:
                raise KeywardError(
                    f"the configuration {self.config_file} can't be used",
                    f"its CA section [{section}] names no {name}",
                    f"Name it there, or give {option}",
                )
            paths[name] = value

        def named(name: str) -> t.Optional[str]:
            value = config.get(section, name)
            return absolute(self.directory, value) if value else None

        random_serials = config.get(section, "rand_serial") is not None  # whatever it holds
        return replace(
            self._files_named(section, paths["certificate"], paths["private_key"]),
            database=named("database"),
            serial=None if random_serials else named("serial"),
            crl_number=named("crlnumber"),
            new_certificates=named("new_certs_dir"),
            certificates=named("certs"),
            crl_directory=named("crl_dir"),
            crl=named("crl"),
            random_serials=random_serials,
        )

    def configuration(self) -> t.List[str]:
        return self._config().files if self.config_file else []

    def setting(self, name: str) -> t.Optional[str]:
        return self._config().get(self.files().section, name) if self.config_file else None

    def urls_said(self) -> t.Set[str]:
        return t.cast("t.Set[str]", part("named_urls").urls_in("\n".join(self._config().values()))) if self.config_file else set()

    def passphrases_said(self) -> t.List[t.Tuple[str, str]]:
        if not self.config_file:
            return []
        config = self._config()
        names = ("output_password", "input_password")
        return [(config.path, f"{name} in [{section}]") for name in names for section in config.sections_with(name)]

    def signing(self, files: Files, scratch: str) -> t.Any:
        return part("openssl_command").OpensslCommand(self.config_file, files.section, self.directory) if self.config_file else None

    def subordinate(self, files: Files, extensions: str) -> t.List[str]:
        extensions = extensions or "v3_subordinate_ca"
        config = self._config()
        if (config.get(files.section, "copy_extensions") or "").strip() == "copyall":
            raise KeywardError(
                "the request was not signed",
                f"{config.path} says copy_extensions = copyall: what a request asks for would take the place of what [{extensions}] says",
                "Say copy_extensions = none, or copy, which only adds what the section does not have",
            )
        constraints = (config.get(extensions, "basicConstraints") or "") if config.has_section(extensions) else None
        if constraints is None or not re.search(r"CA\s*:\s*TRUE", constraints, re.IGNORECASE):
            others = ", ".join(name for name in config.sections_with("basicConstraints") if name != extensions) or "none"
            raise KeywardError(
                "the request was not signed",
                f"the configuration {config.path} has no section [{extensions}] with basicConstraints = CA:TRUE",
                f"Add it, or name another one as extensions; sections with basicConstraints: {others}",
            )
        return ["-extensions", extensions]

    def lay_out(self, order: t.Any, check: bool) -> bool:
        if self.config_file is None:
            raise KeywardError("the CA can't be installed", "no config_file was given", "Give the path that its openssl.cnf is to have")
        name = self.selector.name
        if name and not _SECTION.match(name):
            raise KeywardError(
                "the CA can't be installed",
                f"its name, {name!r}, can't be that of a section in its openssl.cnf",
                "Give a name of ASCII letters, digits, '-', '_' and '.'",
            )
        if os.path.exists(self.config_file):
            return super().lay_out(order, check)
        if not check:
            part("openssl_template").put_configuration(self.config_file, self.directory, name or "CA_default", order.key_type)
            super().lay_out(order, check)
        return True

    def _files_stated(self) -> Files:
        selector = self.selector
        for name in ("certificate_file", "private_key_file"):
            if not getattr(selector, name):
                raise KeywardError(
                    "the authority can't be found",
                    f"neither config_file nor {name} is given",
                    "Give config_file (the openssl.cnf of the CA), or certificate_file and private_key_file. Where other software runs "
                    "it, let directory be the folder in which that keeps its database",
                )
        certificate, private_key = str(selector.certificate_file), str(selector.private_key_file)
        # Without a configuration, the certificate's file tells two CAs of one directory apart.
        name = selector.name or os.path.relpath(self.stated_path(certificate), self.directory)
        return self._files_named(name, certificate, private_key)

    def _files_named(self, section: str, certificate: str, private_key: str) -> Files:
        path = self.stated_path(_without_scheme(private_key))
        in_token = (_URI.match(private_key) or _ENGINE_KEY.match(private_key)) and not os.path.lexists(path)
        return Files(
            section,
            self.stated_path(_without_scheme(certificate)),
            None if in_token else path,
            private_key if in_token else None,
        )

    def _section(self, config: OpensslConfig) -> str:
        section = self.selector.name or config.get("ca", "default_ca")
        sections = ", ".join(config.sections_with("private_key")) or "none"
        if not section:
            raise KeywardError(
                f"the configuration {config.path} can't be used",
                "it has no default_ca in its section [ca]",
                f"Give the CA's section as name; sections with a private_key: {sections}",
            )
        if not config.has_section(section):
            raise KeywardError(
                f"the configuration {config.path} can't be used",
                f"it has no section [{section}], which {'name' if self.selector.name else 'default_ca in [ca]'} says is the CA's",
                f"Correct that; sections with a private_key: {sections}",
            )
        return section


def _without_scheme(path: str) -> str:
    """OpenSSL 3 takes C(file:/path) and C(file:///path) for a path too."""
    match = re.match(r"file:(?://(?:localhost)?)?(?=/)", path, re.IGNORECASE)
    return path[match.end() :] if match else path
