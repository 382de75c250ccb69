# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the CA software that is known, each named in one static import; may change in any release.

Modules are shipped to hosts by their imports: what is not imported here does not arrive there. It is loaded where it is meant.
"""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingNamed, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError

_AUTO, _EASYRSA, _OPENSSL = "auto", "easyrsa", "openssl"


def _meant(selector: Selector) -> t.Iterator[t.Any]:
    if selector.backend == _EASYRSA or (selector.backend == _AUTO and selector.directory):
        from ansible_collections.keyward.pki.plugins.module_utils._backends.easyrsa import EasyrsaBackend

        yield EasyrsaBackend
    if selector.backend in (_AUTO, _OPENSSL):
        from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend

        yield OpensslBackend


def find(selector: Selector) -> t.Any:
    """The backend (C(_backend_protocol)) that the options name. Raises KeywardError, NothingNamed."""
    named = selector.config_file or selector.directory or selector.certificate_file
    for backend in _meant(selector) if named else ():
        if selector.backend != _AUTO or backend.claims(selector):
            return backend(selector)
    if selector.backend not in (_AUTO, _EASYRSA, _OPENSSL):
        raise KeywardError(
            "the authority can't be found",
            f"backend is {selector.backend}, and this is no Windows host",
            "Run the task on the Windows host of the CA, over winrm, psrp or ssh with its shell type",
        )
    raise NothingNamed(
        "the authority can't be found",
        "no place was named: on a POSIX host there is no list of CAs to look in",
        "Give config_file (the openssl.cnf of the CA), or directory with certificate_file and private_key_file",
    )
