# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the registry of a CA on Windows, as a set has it; may change in any release.

No files and no host: an exported registry is bytes, and what of it may go to another host is decided here.
"""

from __future__ import annotations

import hashlib
import re
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError

REGISTRY = "configuration.reg"
# Values that belong to a host and its installation (Microsoft: "Migrate the Certification Authority", "Restore the registry settings"), or
# that change by themselves. A restored host keeps its own.
_OF_THE_HOST = {
    name.lower()
    for name in (
        "Active",
        "CACertFileName",
        "CAServerName",
        "CAXchgCertHash",
        "ConfigurationDirectory",
        "CRLDeltaNextPublish",
        "CRLNextPublish",
        "DBDirectory",
        "DBLastFullBackup",
        "DBLastIncrementalBackup",
        "DBLastRecovery",
        "DBLogDirectory",
        "DBSystemDirectory",
        "DBTempDirectory",
        "RequestFileName",
        "RequestKeyContainer",
        "RequestKeyIndex",
        "SetupStatus",
    )
}
_CONFIGURATION = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration"
# What decides whom the CA serves and obeys, what it issues, and where SYSTEM writes.
_DECIDING = {
    "auditfilter": "what is logged",
    "cacerthash": "which certificates are the CA's own",
    "cacertpublicationurls": "where the CA writes, and what certificates point to",
    "crlpublicationurls": "where the CA writes, and what certificates point to",
    "editflags": "what requesters may choose",
    "enrollmentagentrights": "who may request for others",
    "interfaceflags": "how requests must be protected",
    "kracerthash": "for whom keys are archived",
    "officerrights": "who may issue what",
    "provider": "which program holds the keys",
    "requestdisposition": "whether somebody must approve",
    "security": "who may manage the CA",
}
_LONGEST_SHOWN = 100
# One line, whatever a reader takes for a line end, and text only.
_ODD = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_TEXT = rf'"((?:[^"\\{_ODD}]|\\[^{_ODD}])*)"'
_VALUE = re.compile(_TEXT + "=")
# Only what reg.exe export writes below its heading: reg.exe import would carry out anything else, too.
_KEY = re.compile(r"\[" + re.escape(_CONFIGURATION) + r"" + rf"(?:\\(?!\.+[\\\]])[^\\\[\]{_ODD}]+)*\]\Z", re.IGNORECASE)
_CONTENT = re.compile(rf"(?:{_TEXT}|@)=(?:{_TEXT}|dword:[0-9a-f]{{8}}|hex(?:\([0-9a-f]+\))?:[0-9a-f, ]*)\Z", re.IGNORECASE)

# What a restored CA is to have as the set has it: what it logs, who manages it, and where its CRLs and certificates lie.
_COMPARED = ("auditfilter", "security", "crlflags", "crlpublicationurls", "cacertpublicationurls", "editflags", "interfaceflags")
# CRLF_REVCHECK_IGNORE_OFFLINE of CRLFlags, with which a person had the CA start.
_IGNORE_OFFLINE = 8


def for_another_host(
    exported: bytes, old_computer: str, new_computer: str, kept_there: t.Collection[str] = ()
) -> tuple[bytes, list[Finding]]:
    """An exported registry (UTF-16 with BOM) without what belongs to the host it came from; what of it hands the CA over where it is
    forged, and what still names the old host.

    C(kept_there): further values that stay as the host has them. Raises KeywardError where it is no such file, or one that reaches
    beyond the configuration of a CA.
    """
    try:
        text = exported.decode("utf-16")
    except UnicodeDecodeError:
        text = ""
    heading, *lines = _logical_lines(text)
    wrong = None
    if heading != "Windows Registry Editor Version 5.00":
        wrong = "is no exported registry"
    elif any(line and not _KEY.match(line) and not _CONTENT.match(line) for line in lines):
        wrong = "says more than the registry of a CA"
    if wrong:
        raise KeywardError("nothing was restored", f"{REGISTRY} of the set {wrong}", "Use another set, or another copy of this one")
    of_the_host = _OF_THE_HOST | {name.lower() for name in kept_there}
    kept = [heading]
    named: list[str] = []
    findings: list[Finding] = []
    left_out = False
    section = ""
    for line in lines:
        if line.startswith("["):
            section = line.strip("[]")
            left_out = section.lower().endswith("\\restoreinprogress")
        value = _VALUE.match(line)
        if left_out or (value and value.group(1).lower() in of_the_host):
            continue
        kept.append(line)
        decides = _DECIDING.get(value.group(1).lower()) if value else None
        if value and decides:
            name = f"{section.rsplit(chr(92), 1)[-1]}\\{value.group(1)}"
            text = f"{name} decides {decides}; the set has {_readable(line[value.end() :])[:_LONGEST_SHOWN]}"
            findings.append(Finding("configuration_decides", f"the registry value {text}"))
        if value and old_computer.lower() != new_computer.lower() and old_computer.lower() in _readable(line[value.end() :]).lower():
            named.append(f"{section.rsplit(chr(92), 1)[-1]}\\{value.group(1)}")
    findings += [
        Finding("names_old_host", f"the registry value {name} still names the host {old_computer}; it was left as it is") for name in named
    ]
    return b"\xff\xfe" + "\r\n".join(kept).encode("utf-16-le"), findings


def _logical_lines(text: str) -> t.Iterator[str]:
    """The lines; those continued by a backslash are joined."""
    waiting = ""
    for line in text.split("\r\n") if "\r\n" in text else text.split("\n"):
        if line.endswith("\\") and (waiting or "=hex" in line):
            waiting += line[:-1].strip() if waiting else line[:-1]
            continue
        yield waiting + (line.strip() if waiting else line)
        waiting = ""


def _readable(data: str) -> str:
    """A value as text, also where it is written as hex."""
    match = re.match(r"hex(\([0-9a-f]+\))?:([0-9a-fA-F, ]*)", data)
    if not match:
        return data
    octets = _octets(match.group(2))
    # "hex:" is binary: compare its length and digest.
    if not match.group(1):
        return f"{len(octets)} bytes, SHA-256 {hashlib.sha256(octets).hexdigest()[:16]}"
    return octets.decode("utf-16-le", "replace").rstrip("\0").replace("\0", " ")


def values(exported: bytes) -> dict[tuple[str, str], str]:
    """The values of an exported registry: by the last part of their key, and their name in lower case, as the export has them."""
    found, section = {}, ""
    for line in _logical_lines(exported.decode("utf-16", "replace")):
        if line.startswith("["):
            section = line.strip("[]").rpartition("\\")[2]
        value = _VALUE.match(line)
        if value:
            found[section, value.group(1).lower()] = line[value.end() :]
    return found


def texts(exported: bytes, name: str) -> list[str]:
    """The strings of a multi-string value, of whatever key."""
    data = next((data for (_section, each), data in values(exported).items() if each == name.lower()), "")
    match = re.match(r"hex\(7\):([0-9a-fA-F, ]*)", data)
    octets = _octets(match.group(1)) if match else b""
    return [each for each in octets.decode("utf-16-le", "replace").split("\0") if each]


def _octets(text: str) -> bytes:
    return bytes(int(octet[-2:], 16) for octet in text.replace(" ", "").split(",") if octet)


def not_as_before(was: bytes, is_now: bytes, started_without_crl: bool) -> list[Finding]:
    """What of a restored CA is not as the set has it. C(started_without_crl): a person had it ignore that a CRL is offline."""
    there, found = values(is_now), []
    for (section, name), data in values(was).items():
        if name not in _COMPARED or there.get((section, name)) == data:
            continue
        if started_without_crl and name == "crlflags" and _number(data) | _IGNORE_OFFLINE == _number(there.get((section, name), "")):
            continue
        shown = _readable(there[section, name])[:_LONGEST_SHOWN] if (section, name) in there else "nothing"
        text = f"after the restore the registry value {section}\\{name} is {shown}, and the set has {_readable(data)[:_LONGEST_SHOWN]}"
        found.append(Finding("configuration_differs", text))
    return found


def _number(data: str) -> int:
    match = re.match(r"dword:([0-9a-fA-F]{8})", data)
    return int(match.group(1), 16) if match else -1
