# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what the certificates that a CA of files has issued need of it: URLs, and keys of their own that hang on a key
of the CA; may change in any release."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils import _outline, _x509
from ansible_collections.keyward.pki.plugins.module_utils._ca_certificate import extension
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.generations import Files
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.key_files import LARGEST_INPUT
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._named_urls import urls_of
from ansible_collections.keyward.pki.plugins.module_utils._orders.lifecycle import MOST_URLS, NamedUrl
from ansible_collections.keyward.pki.plugins.module_utils._signature import Whose
from ansible_collections.keyward.pki.plugins.module_utils._time import now
from ansible_collections.keyward.pki.plugins.module_utils._whose import whose_certificate

try:
    from cryptography import x509
except ImportError:  # the modules say which library is missing
    pass

MOST_LOOKED_AT = 2000  # certificates, the newest
_SAID = re.compile(r"(?:https?|ldaps?)://[^\s,;'\"]+", re.IGNORECASE)


class Needed(t.NamedTuple):
    """C(urls): that certificates name which have not expired. C(hanging): of which another key is needed: (what, subject, serial, public
    key (SHA-256) of the CA)."""

    urls: t.Tuple[NamedUrl, ...]
    hanging: t.Tuple[t.Tuple[str, str, str, str], ...]


def needed(files: Files, generations: t.Sequence[Generation]) -> Needed:
    newest = {generation.public_key_sha256: generation for generation in generations}  # of each key the newest certificate
    signers: t.Dict[t.Tuple[str, str], t.Dict[str, str]] = {}  # by kind and URL: fingerprint -> an example
    judged: t.Dict[t.Tuple[t.Any, ...], t.Optional[Generation]] = {}
    hanging = []
    for der, certificate in _issued(files.new_certificates):
        named, what = tuple(urls_of(certificate)), _hangs(certificate)
        if not named and not what:
            continue
        # Certificates of one kind are signed by one key: one signature is enough to tell which.
        kind = (_outline.authority_key(_outline.certificate(der).extensions)[0], certificate.issuer.public_bytes(), named)
        if what or kind not in judged:
            judged[kind] = _signer(der, newest.values())
        signer = judged[kind]
        if signer is None:
            continue
        serial = _x509.even_hex(certificate.serial_number)
        for one in named:
            signers.setdefault(one, {}).setdefault(signer.sha256, serial)
        if what:
            hanging.append((what, certificate.subject.rfc4514_string(), serial, signer.public_key_sha256))
    urls = [NamedUrl(url, kind, tuple(sorted(found)), next(iter(found.values()))) for (kind, url), found in signers.items()]
    return Needed(tuple(sorted(urls, key=lambda one: (one.kind, one.url))[:MOST_URLS]), tuple(hanging))


def two_keys(found: Needed, said: t.Collection[str], current: Generation) -> t.List[Finding]:
    """What a person must do before and after a renewal with a new key. C(said): the URLs in the configuration."""
    told = []
    for one in found.urls:
        if one.kind != "ocsp" and one.url in said:
            text = (
                f"{one.url} is named by certificates of the key that there is, such as {one.example}, and the configuration has the next "
                "key's name it, too. A URL serves the CRL or certificate of one key (RFC 5280): name another one before anything is issued"
            )
            told.append(Finding("one_url_two_keys", text, current.sha256))
    responders, below = (_names(found, what, current) for what in ("ocsp", "ca"))
    if responders:
        text = f"OCSP signers hang on the key that is replaced: {responders}. They go on for what that key signed, with its CA certificate"
        told.append(Finding("older_ocsp_signer", f"{text}; issue others for what the new key signs", current.sha256))
    if below:
        text = f"subordinate CAs hang on the key that is replaced: {below}. They need its certificate and its CRL until they are renewed"
        told.append(Finding("older_subordinate", text, current.sha256))
    return told


def _names(found: Needed, what: str, current: Generation) -> str:
    names = [f"{subject} ({serial})" for kind, subject, serial, key in found.hanging if (kind, key) == (what, current.public_key_sha256)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def urls_in(text: str) -> t.Set[str]:
    return set(_SAID.findall(text))


def _hangs(certificate: x509.Certificate) -> t.Optional[str]:
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes is not None and x509.oid.ExtendedKeyUsageOID.OCSP_SIGNING in purposes:
        return "ocsp"
    constraints = extension(certificate, x509.BasicConstraints)
    return "ca" if constraints is not None and constraints.ca else None


def _signer(der: bytes, generations: t.Iterable[Generation]) -> t.Optional[Generation]:
    return next((each for each in generations if each.certificate != der and whose_certificate(der, each.certificate) is Whose.OURS), None)


def _issued(folder: t.Optional[str]) -> t.Iterator[t.Tuple[bytes, x509.Certificate]]:
    """The unexpired certificates among the newest files. Unreadable files are skipped: others may write there."""
    try:
        with os.scandir(folder or "") as entries:
            found = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.name.endswith((".pem", ".crt")) and entry.is_file()]
    except OSError:
        return
    for _when, path in sorted(found, reverse=True)[:MOST_LOOKED_AT]:
        try:
            der = _x509.first_certificate(read_file(path, "the certificate", LARGEST_INPUT)) or b""
            if _outline.certificate(der).ends > now():
                yield der, _x509.load(der)
        except (FileNotFoundError, KeywardError, ValueError, TypeError):
            continue
