# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what stands around a CA on Windows and is in no backup, as a list of what is left to do after a restore; may
change in any release.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import Most
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs_registry import texts, values

_MOST_TEMPLATES = 10_000
_ANSWERS_OCSP = 32  # CSURL_ADDTOCERTOCSP of CACertPublicationURLs


@dataclass(frozen=True)
class Around:
    """What a host tells of it. C(templates): None where they can't be told. C(nt_auth): its newest certificate is among those that log
    people on. C(ndes): its registration service is on this host."""

    templates: t.Annotated[t.Optional[t.Tuple[str, ...]], Most(_MOST_TEMPLATES)]
    nt_auth: bool
    ndes: bool


def templates_of(configuration: bytes) -> list[str]:
    """The templates that the CA of a set issued by (C(configuration.json)); they become parts of commands."""
    try:
        names = json.loads(configuration.decode("utf-8-sig"))["templates"] if configuration else []
    except (ValueError, KeyError, TypeError):
        names = []
    return [name for name in names or () if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name)]


def checklist(
    ca_type: str | None, exported: bytes, templates: t.Sequence[str], around: Around | None, new_computer: str | None
) -> list[dict[str, t.Any]]:
    """What was found of each, what was done, what is left, and the commands for that. C(exported): the registry of the set.

    C(around): None where nothing was put back yet (check). C(new_computer): where it is another than the set was made on.
    """
    if new_computer and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", new_computer):
        new_computer = "<this computer>"  # the host says it, and it becomes part of commands
    enterprise, root = (ca_type or "").startswith("Enterprise"), (ca_type or "").endswith("RootCA")
    places = [*texts(exported, "CACertPublicationURLs"), *texts(exported, "CRLPublicationURLs")]
    in_directory = [place.partition(":")[2] for place in places if place.partition(":")[2].lower().startswith("ldap:")]
    return [
        _templates(enterprise, templates, around),
        _publication(in_directory, "RootCA" if root else "SubCA", new_computer),
        _nt_auth(enterprise, around),
        _rights(enterprise or bool(in_directory), exported, new_computer),
        _ocsp(texts(exported, "CACertPublicationURLs")),
        _ndes(around, new_computer),
    ]


def _entry(item: str, found: str, left: str | None = None, *commands: str, done: str | None = None) -> dict[str, t.Any]:
    return {"item": item, "found": found, "done": done, "left": left, "commands": list(commands) if left else []}


def _templates(enterprise: bool, names: t.Sequence[str], around: Around | None) -> dict[str, t.Any]:
    if not enterprise:
        return _entry("templates", "a standalone CA issues by none")
    there = set(around.templates or ()) if around else set()
    missing = [name for name in names if name not in there]
    found = f"the set has {', '.join(names) or 'none'}; the CA has {', '.join(sorted(there)) or 'none'}"
    if not missing:
        return _entry("templates", found)
    return _entry("templates", found, "set those that are missing", f"certutil -setcatemplates {','.join(f'+{one}' for one in missing)}")


def _publication(in_directory: t.Sequence[str], kind: str, new_computer: str | None) -> dict[str, t.Any]:
    if not in_directory:
        return _entry("publication", "nothing is published in Active Directory")
    left = "publish certificates and CRLs there again"
    if new_computer:
        left += ", into the containers of the former computer, which the locations in the registry name"
    return _entry(
        "publication", f"published in {'; '.join(in_directory)}", left, f"certutil -f -dspublish <certificate file> {kind}", "certutil -CRL"
    )


def _nt_auth(enterprise: bool, around: Around | None) -> dict[str, t.Any]:
    if not enterprise:
        return _entry("nt_auth", "a standalone CA needs none")
    if around and around.nt_auth:
        return _entry("nt_auth", "the newest certificate is in it, as this host knows it")
    left = "publish the certificate there as a member of Enterprise Admins, and have hosts fetch it"
    return _entry(
        "nt_auth",
        "this host does not know the newest certificate in it",
        left,
        "certutil -f -dspublish <certificate file> NTAuthCA",
        "gpupdate /force",
    )


def _rights(in_directory: bool, exported: bytes, new_computer: str | None) -> dict[str, t.Any]:
    if not in_directory or not new_computer:
        return _entry("object_rights", "the computer is the same" if in_directory else "no object in Active Directory belongs to the CA")
    data = next((data for (_section, name), data in values(exported).items() if name == "dsconfigdn"), "")
    match = re.fullmatch(r'"([A-Za-z0-9=,. _-]{1,1024})"', data)
    services = f"CN=Public Key Services,CN=Services,{match.group(1) if match else '<configuration partition>'}"
    objects = (f"CN=<CA>,CN=Enrollment Services,{services}", f"CN=<CA>,CN=AIA,{services}", f"CN=<former computer>,CN=CDP,{services}")
    left = f"give {new_computer}$ full control of the objects of the CA, and make it a member of Cert Publishers"
    commands = [f'dsacls "{one}" /I:T /G "<domain>\\{new_computer}$:GA"' for one in objects]
    return _entry("object_rights", f"the CA is on another computer now: {new_computer}", left, *commands)


def _ocsp(places: t.Sequence[str]) -> dict[str, t.Any]:
    urls = [url for flags, _colon, url in (place.partition(":") for place in places) if flags.isdigit() and int(flags) & _ANSWERS_OCSP]
    if not urls:
        return _entry("ocsp_responders", "its certificates name none")
    left = "see that they answer by the CRLs that are published now, and that their signing certificates are valid"
    return _entry("ocsp_responders", "; ".join(urls), left, "certutil -verify -urlfetch <certificate of this CA>")


def _ndes(around: Around | None, new_computer: str | None) -> dict[str, t.Any]:
    asking = "reg query HKLM\\SOFTWARE\\Microsoft\\Cryptography\\MSCEP\\CAInfo"
    if around and around.ndes:
        left = "see that its registration authority's certificates are in My with their keys: they are in no backup"
        return _entry("ndes", "it is on this host", left, "certutil -store My", asking)
    if new_computer:
        return _entry("ndes", "not on this host", "a host that has it names the former computer: name this one there", asking)
    return _entry("ndes", "not on this host")
