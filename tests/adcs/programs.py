# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""certutil.exe and reg.exe of the simulated host."""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adcs.machine import CONFIGURATION, MESSAGES, Failure
from adcs.simulation import Host

OPTIONS = {
    **dict.fromkeys(("-f", "-silent", "-v", "-unicode", "-gmt", "-seconds"), 0),
    **dict.fromkeys(("-config", "-p", "-restrict", "-out", "-cert"), 1),
}
HEADINGS = {
    "RequestId": ("Issued Request ID", "Anforderungs-ID"),
    "SerialNumber": ("Serial Number", "Seriennummer"),
    "Disposition": ("Request Disposition", "Anforderungsdisposition"),
    "RevokedWhen": ("Revocation Date", "Sperrdatum"),
    "CRLNumber": ("CRL Number", "Sperrlistennummer"),
}
COLUMNS = (
    *("RequestId", "SerialNumber", "Disposition", "CommonName", "NotAfter", "SubmittedWhen", "RevokedWhen", "RevokedEffectiveWhen"),
    *("RevokedReason", "KeyRecoveryHashes", "CRLNumber", "CRLRowId", "CRLNameId"),
)
MEANINGS = {"Disposition": ("Issued", "Ausgestellt"), "RevokedReason": ("Reason: Key Compromise", "Grund: Schlüsselgefährdung")}


TEMPLATES = {"WebServer": "Web Server -- Auto-Enroll", "SubCA": "Subordinate Certification Authority"}
FLAGS = {"CRLF_REVCHECK_IGNORE_OFFLINE": 8, "CRLF_REVCHECK_IGNORE_NOREVCHECK": 0x20000}


class Usage(Exception):
    """Arguments that certutil refuses with exit code 1."""


# --- certutil ----------------------------------------------------------------------------------------------------------


def certutil(state: str, arguments: Sequence[str]) -> None:
    host = Host(Path(state))
    host.record(program="certutil.exe", arguments=list(arguments))
    verb = ""
    out: list[str] = []
    try:
        verb, options, positionals = _parsed(arguments)
        host.hang(verb)
        with host.locked():
            out = VERBS[verb][0](host, options, positionals)
        if verb == "-renewCert" and host.switches()["renew_hangs_after_work"]:
            time.sleep(3600)
        code = 0
        end = (f"CertUtil: {verb} command completed successfully.", f"CertUtil: {verb}-Befehl wurde erfolgreich ausgeführt.")
    except Usage:
        code, end = 1, ("CertUtil: Too many arguments", "CertUtil: Zu viele Argumente")
    except Failure as failure:
        code, number = failure.code, failure.code - (1 << 32)
        name = MESSAGES.get(code, ("",))[0]
        out = [f"CertUtil: {host.text(failure.text)}"]
        end = (
            f"CertUtil: {verb} command FAILED: 0x{code:08x} ({number} {name})",
            f"CertUtil: {verb}-Befehl ist fehlgeschlagen: 0x{code:08x} ({number} {name})",
        )
    lines = [*out, host.text(end)] if code == 0 else [host.text(end), *out]
    if verb == "-view" and code == 0 and not host.switches()["view_trailer"]:
        lines.pop()
    sys.stdout.buffer.write("".join(f"{line}\r\n" for line in lines).encode("cp850", "replace"))
    sys.stdout.buffer.flush()
    # A process on Linux keeps eight bits; an HRESULT that ends in zeros must not look like success.
    sys.exit(code & 0xFF or min(code, 1))


def _parsed(arguments: Sequence[str]) -> tuple[str, dict[str, str], list[str]]:
    verb, options, rest = "", {}, list(arguments)
    while rest and re.match("[-/][A-Za-z?]+$", rest[0]):
        word = "-" + rest.pop(0)[1:]
        known = next((option for option in OPTIONS if option == word.lower()), None)
        if known:
            if len(rest) < OPTIONS[known]:
                raise Usage
            options[known] = rest.pop(0) if OPTIONS[known] else ""
        else:
            named = next((each for each in VERBS if each.lower() == word.lower()), None)
            if verb or not named:
                raise Usage
            verb = named
    if not verb or len(rest) > VERBS[verb][1]:
        raise Usage
    return verb, options, rest


def _ping(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    host.ping()
    return [
        f"Connecting to {host.machine()['computer']}\\{host.common_name} ...",
        f'Server "{host.common_name}" ICertRequest2 interface is alive',
    ]


def _crl(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    validity = re.fullmatch(r"([0-9]+):([0-9]+)", positionals[0]) if positionals else None
    if positionals and not validity:
        raise Failure(0x80070057)
    host.publish_crls(int(validity[1]) if validity else None)
    return []


def _sign(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    from adcs.authority import sign_again

    validity = re.fullmatch(r"now\+([0-9]+):([0-9]+)", positionals[2]) if len(positionals) == 3 else None
    if validity is None or Path(positionals[1]).exists():
        raise Failure(0x80070057)
    sha1 = options.get("-cert", "").upper()
    if not host.has_key(sha1):
        raise Failure(0x80090011)
    Path(positionals[1]).write_bytes(sign_again(host, Path(positionals[0]).read_bytes(), sha1, int(validity[1])))
    return []


def _get_crl(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    from adcs.authority import version

    host.ping()
    index = int(positionals[1]) if len(positionals) > 1 else len(host.generations) - 1
    made = host.state / f"published-{version(host.certificate(host.generations[index]))[1]}.crl"
    if not made.exists():
        raise Failure(0x80070002)
    Path(positionals[0]).write_bytes(made.read_bytes())
    return []


def _view(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    host.ping()
    words = [word for word in positionals if word.lower() != "csv"]
    if len(words) == len(positionals):
        raise AssertionError("only the csv form of -view is simulated")
    table = words[0].lower() if words else ""
    rows = host.database()["crls" if table == "crl" else "requests"]
    if table not in ("", "crl", "log"):
        raise AssertionError(f"-view of {table} is not simulated")
    for condition in filter(None, options.get("-restrict", "").split(",")):
        match = re.fullmatch(r"\s*([\w.]+)\s*(==|=|<=|>=|<|>|!=)\s*(.*?)\s*", condition)
        if not match:
            raise Failure(0x80070057)
        rows = _restricted(rows, _column(match[1]), match[2], match[3].strip('"'))
    columns = [_column(name) for name in (options.get("-out") or "RequestId,SerialNumber,Disposition").split(",")]
    if not set(columns) <= set(COLUMNS):
        raise Failure(0x80070057)
    lines = [",".join(f'"{host.text(HEADINGS.get(column, (column, column)))}"' for column in columns)]
    return lines + [",".join(_field(host, row.get(column), MEANINGS.get(column)) for column in columns) for row in rows]


def _column(name: str) -> str:
    plain = name.strip().rpartition(".")[2].lower()
    return next((each for each in COLUMNS if each.lower() == plain), plain)


def _restricted(rows: list[dict[str, Any]], column: str, operator: str, value: str) -> list[dict[str, Any]]:
    if value == "$":
        return sorted(rows, key=lambda row: row[column])[-1:]
    compare: dict[str, Callable[[Any, Any], bool]] = {
        "=": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    }
    found = []
    for row in rows:
        there = row.get(column)
        wanted: Any = int(value, 0) if isinstance(there, int) else value.lower()
        if there is not None and compare[operator.replace("==", "=")](there, wanted):
            found.append(row)
    return found


def _field(host: Host, value: Any, meaning: tuple[str, str] | None = None) -> str:
    """C(meaning): what may stand behind a number. Always the same here: it is never read."""
    switches = host.switches()
    if value is None:
        return "EMPTY" if switches["language"] == "en" else "LEER"
    if isinstance(value, int):
        hexadecimal, more = f"0x{value:x} ({value})", f" -- {host.text(meaning)}" if meaning else ""
        shapes = {
            "plain": f"{value}{more}",
            "quoted": f'"{value}{more}"',
            "hex": hexadecimal + more,
            "quoted_hex": f'"{hexadecimal}{more}"',
        }
        return shapes[switches["view_numbers"]]
    if re.fullmatch(r"\d{4}-\d\d-\d\dT.*", value):
        when = datetime.datetime.fromisoformat(value)
        return when.strftime('"%d.%m.%Y %H:%M"' if switches["language"] == "de" else '"%m/%d/%Y %I:%M %p"')
    return f'"{value}"'


def _verify_keys(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    from adcs.windows_pfx import public

    for sha1 in host.generations:
        certificate, container = host.certificate(sha1), host.container(sha1)
        if certificate is None or container is None or public(host.key(container)) != public(_WithPublicKey(certificate)):
            raise Failure(0x80090016)
    return []


class _WithPublicKey:
    def __init__(self, certificate: Any) -> None:
        self.public_key = certificate.public_key


def _renew(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    if any(word.lower() != "reusekeys" for word in positionals[:1]):
        raise Failure(0x80070057)
    host.renew(reuse_key=bool(positionals), ignore_outstanding="-f" in options)
    return []


def _install_certificate(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    path = Path(positionals[0]) if positionals else Path("/")
    if not path.is_file():
        raise Failure(0x80070002)
    host.install_certificate(path.read_bytes(), "-f" in options)
    return []


def _revoke(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    if not positionals or (len(positionals) > 1 and not re.fullmatch("-?[0-9]+", positionals[1])):
        raise Failure(0x80070057)
    host.revoke(positionals[0], int(positionals[1]) if len(positionals) > 1 else 0)
    return [f'Revoking "{positionals[0]}"']


def _import_certificate(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    if not positionals:
        raise Failure(0x80070057)
    host.import_certificate(Path(positionals[0]).read_bytes())
    return []


def _place(host: Host, name: str) -> tuple[str, str]:
    *parts, value = name.split("\\")
    below = "\\".join(parts[1:])
    root = f"{CONFIGURATION}\\{host.active}" if parts and parts[0].lower() == "ca" else CONFIGURATION
    return root + (f"\\{below}" if below else ""), value


def _getreg(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    key, name = _place(host, positionals[0] if positionals else "Active")
    values = host.registry.load().get(host.registry.key(key) or "", {})
    wanted = [(each, *values[each]) for each in values if name in ("*", each) or each.lower() == name.lower()]
    if not wanted:
        raise Failure(0x80070002)
    return [f"HKEY_LOCAL_MACHINE\\{key}:", "", *(f"  {each} {kind} = {data}" for each, kind, data in wanted)]


def _setreg(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    if len(positionals) != 2:
        raise Failure(0x80070057)
    key, name = _place(host, positionals[0])
    text = positionals[1]
    if text[1:] in FLAGS:
        there = host.registry.get(key, name, 0)
        host.registry.set(key, **{name: there | FLAGS[text[1:]] if text[0] == "+" else there & ~FLAGS[text[1:]]})
        return []
    host.registry.set(key, **{name: int(text, 0) if re.fullmatch("0x[0-9a-fA-F]+|[0-9]+", text) else text})
    return []


def _add_to_store(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    from cryptography import x509

    if len(positionals) != 2 or positionals[0] not in ("CA", "Root"):
        raise Failure(0x80070057)
    data = Path(positionals[1]).read_bytes()
    try:
        x509.load_der_x509_crl(data)
        host.add_crl(data)
    except ValueError:
        host.add_certificate(data, store=positionals[0])
    return [f'{positionals[0]} "Intermediate Certification Authorities"']


def _store(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    sha1 = positionals[1].upper() if len(positionals) > 1 else ""
    if positionals[:1] != ["My"] or host.certificate(sha1) is None:
        raise Failure(0x80090011)
    container = host.container(sha1)
    if container is None or "-v" not in options:
        return []
    facts = host.key_facts(container)
    names = {0: "XCN_AT_NONE", 1: "AT_KEYEXCHANGE", 2: "AT_SIGNATURE"}
    label, provider = host.text(("Key Container", "Schlüsselcontainer")), host.text(("Provider", "Anbieter"))
    lines = [
        "  CERT_KEY_PROV_INFO_PROP_ID(2):",
        f"    {label} = {container}",
        f"    {provider} = {facts['provider']}",
    ]
    return [*lines, "    ProviderType = 0", f"    KeySpec = {facts['spec']} -- {names[facts['spec']]}"]


def _templates(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    if host.value("CAType") in (3, 4):
        raise Failure(0x80070002)
    host.ping()
    return [f"{name}: {TEMPLATES[name]} -- Access is denied." for name in host.machine()["templates"]]


def _ca_info(host: Host, options: dict[str, str], positionals: list[str]) -> list[str]:
    host.ping()
    if positionals[:1] == ["certstatuscode"]:
        code = host.chain_status()
        shown = f"0x{code:08x} ({code - (1 << 32)} {MESSAGES[code][0]})" if code else "0"
        return [f"CA cert verify status[{positionals[1]}]: {shown}"]
    return [f"CA name: {host.common_name}", f"Sanitized CA short name (DS name): {host.active}", f"CA cert count: {len(host.generations)}"]


# The most positionals that each takes.
VERBS: dict[str, tuple[Callable[[Host, dict[str, str], list[str]], list[str]], int]] = {
    "-ping": (_ping, 1),
    "-pingadmin": (_ping, 1),
    "-CRL": (_crl, 2),
    "-getcrl": (_get_crl, 2),
    "-view": (_view, 2),
    "-verifykeys": (_verify_keys, 2),
    "-renewCert": (_renew, 2),
    "-installCert": (_install_certificate, 1),
    "-revoke": (_revoke, 2),
    "-importCert": (_import_certificate, 2),
    "-getreg": (_getreg, 1),
    "-setreg": (_setreg, 2),
    "-addstore": (_add_to_store, 2),
    "-store": (_store, 2),
    "-sign": (_sign, 3),
    "-catemplates": (_templates, 1),
    "-CAInfo": (_ca_info, 2),
}


# --- reg ---------------------------------------------------------------------------------------------------------------


def reg(state: str, arguments: Sequence[str]) -> None:
    host = Host(Path(state))
    host.record(program="reg.exe", arguments=list(arguments))
    host.hang("reg.exe")
    verb, *rest = arguments or [""]
    done = False
    with host.locked():
        if verb.lower() == "export" and 2 <= len(rest) <= 3:
            done = _export(host, rest[0], Path(rest[1]), [flag.lower() for flag in rest[2:]] == ["/y"])
        elif verb.lower() == "import" and len(rest) == 1:
            done = _import(host, Path(rest[0]))
    good = ("The operation completed successfully.", "Der Vorgang wurde erfolgreich beendet.")
    bad = ("ERROR: The system was unable to find the specified registry key or value.", "FEHLER: Der Vorgang ist fehlgeschlagen.")
    (sys.stdout if done else sys.stderr).buffer.write((host.text(good if done else bad) + "\r\n").encode("cp850"))
    sys.exit(0 if done else 1)


def _export(host: Host, key: str, path: Path, overwrite: bool) -> bool:
    key = re.sub(r"^(HKLM|HKEY_LOCAL_MACHINE)\\", "", key, flags=re.IGNORECASE)
    content = host.registry.load()
    # Without /y reg.exe asks before it overwrites, and nobody answers.
    if host.registry.key(key, content) is None or (path.exists() and not overwrite):
        return False
    lines = ["Windows Registry Editor Version 5.00", ""]
    for each in sorted(content, key=lambda name: name.casefold().split("\\")):
        if (each.casefold() + "\\").startswith(key.casefold() + "\\"):
            lines.append(f"[HKEY_LOCAL_MACHINE\\{each}]")
            lines += [_written(name, kind, data) for name, (kind, data) in content[each].items()] + [""]
    path.write_bytes(b"\xff\xfe" + "".join(f"{line}\r\n" for line in lines).encode("utf-16-le"))
    return True


def _written(name: str, kind: str, data: Any) -> str:
    start = ("@" if not name else '"' + _escaped(name) + '"') + "="
    if kind == "REG_SZ":
        return f'{start}"{_escaped(data)}"'
    if kind == "REG_DWORD":
        return f"{start}dword:{data & 0xFFFFFFFF:08x}"
    prefix = {"REG_BINARY": "hex:", "REG_EXPAND_SZ": "hex(2):", "REG_MULTI_SZ": "hex(7):", "REG_QWORD": "hex(b):"}[kind]
    raw = {
        "REG_BINARY": lambda: bytes.fromhex(data),
        "REG_EXPAND_SZ": lambda: f"{data}\0".encode("utf-16-le"),
        "REG_MULTI_SZ": lambda: "".join(f"{each}\0" for each in [*data, ""]).encode("utf-16-le"),
        "REG_QWORD": lambda: data.to_bytes(8, "little"),
    }[kind]()
    line, lines = start + prefix, []
    for number, octet in enumerate(raw):
        line += f"{octet:02x}" + ("," if number + 1 < len(raw) else "")
        if len(line) > 76 and number + 1 < len(raw):
            lines.append(line + "\\")
            line = "  "
    return "\r\n".join([*lines, line])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _import(host: Host, path: Path) -> bool:
    data = path.read_bytes() if path.is_file() else b""
    if not data.startswith(b"\xff\xfe"):
        return False
    text = re.sub(r"\\\r?\n\s*", "", data[2:].decode("utf-16-le"))
    lines = text.splitlines()
    if lines[:1] != ["Windows Registry Editor Version 5.00"]:
        return False
    key = ""
    for line in filter(None, lines[1:]):
        section = re.fullmatch(r"\[(-?)HKEY_LOCAL_MACHINE\\(.*)\]", line)
        value = re.fullmatch(r'(?:@|"((?:[^"\\]|\\.)*)")=(.*)', line)
        if section:
            key = section[2]
            if section[1]:
                host.registry.delete(key)
            else:
                host.registry.set(key)
        elif value and key:
            _set(host, key, re.sub(r"\\(.)", r"\1", value[1] or ""), value[2])
        elif not line.startswith(";"):
            return False
    return True


def _set(host: Host, key: str, name: str, text: str) -> None:
    content = host.registry.load()
    there = content[host.registry.key(key, content) or key]
    for each in [each for each in there if each.casefold() == name.casefold()]:
        del there[each]
    if text.startswith('"'):
        there[name] = ["REG_SZ", re.sub(r"\\(.)", r"\1", text[1:-1])]
    elif text.startswith("dword:"):
        there[name] = ["REG_DWORD", int(text[6:], 16)]
    elif text != "-":
        kind, _colon, octets = text.partition(":")
        raw = bytes.fromhex(octets.replace(",", ""))
        there[name] = {
            "hex": lambda: ["REG_BINARY", raw.hex()],
            "hex(2)": lambda: ["REG_EXPAND_SZ", raw.decode("utf-16-le").rstrip("\0")],
            "hex(7)": lambda: ["REG_MULTI_SZ", [each for each in raw.decode("utf-16-le").split("\0") if each]],
            "hex(b)": lambda: ["REG_QWORD", int.from_bytes(raw, "little")],
        }[kind]()
    host.registry.save(content)
