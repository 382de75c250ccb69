# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guides say of Windows names what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml
from ansible_collections.keyward.pki.plugins.plugin_utils._adcs_registry import _OF_THE_HOST
from support.guides import DOCS, ROOT, blocks, guide_blocks
from tools import require_tool


def test_windows_names_what_there_is() -> None:
    """The status, the variables of the roles, and the values of a registry that stay out of an import."""
    text = (DOCS / "windows.md").read_text(encoding="utf-8")
    status = "Windows: preview, not yet proved on a real CA"
    assert status in text and status in (ROOT / "README.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "plugins" / "modules").glob("ca_*.py")}
    known: set[str] = set()
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        known |= set(yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"])
    _plays, variables = guide_blocks("windows.md")
    assert {name for name in variables if name.startswith("keyward_")} <= known
    assert set(re.findall(r"\bkeyward_[a-z_]+\b", text)) - known == set()
    assert set(re.findall(r"`(?:keyward\.pki\.)?(ca_[a-z_]+)`", text)) <= modules
    section = text[text.index("The registry: keep") : text.index("Look for the old host's name")]
    assert {name.lower() for name in re.findall(r"`([A-Za-z]+)`", section)} == _OF_THE_HOST | {"restoreinprogress"}


def test_windows_commands_are_those_of_windows_powershell(tmp_path: Path) -> None:
    script = "".join(blocks(DOCS / "windows.md", "powershell"))
    (tmp_path / "guide.ps1").write_text(script, encoding="ascii")
    command = [require_tool("pwsh"), "-NoProfile", "-File", str(ROOT / "tests" / "lint-powershell.ps1"), "-Path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    table = sections_of_the_facts()["Cmdlets"]
    for cmdlet in ("Backup-CARoleService", "Restore-CARoleService", "Install-AdcsCertificationAuthority", "Import-PfxCertificate"):
        for line in re.findall(rf"^\s*{cmdlet}\b(.*)$", script, re.MULTILINE):
            (row,) = (one for one in table.splitlines() if one.startswith(f"| `{cmdlet}`"))
            assert [name for name in re.findall(r"(?<= )-[A-Z][A-Za-z]+", line) if f"`{name}`" not in row] == []


def sections_of_the_facts() -> dict[str, str]:
    parts = re.split(r"^## (.*)$", (DOCS / "windows-facts.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def windows_code() -> str:
    paths = sorted([*(ROOT / "plugins" / "module_utils").glob("*.psm1"), *(ROOT / "plugins" / "modules").glob("*.ps1")])
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def test_the_facts_name_every_cmdlet_and_its_parameters() -> None:
    code, table = windows_code(), sections_of_the_facts()["Cmdlets"]
    # Named at the call, or in a variable on a line before it.
    called = set(re.findall(r"-Command '([A-Za-z]+-[A-Za-z]+)'", code)) | set(re.findall(r"\$command = '([A-Za-z]+-[A-Za-z]+)'", code))
    calls = re.findall(r"-Command (\S+)", re.sub(r"function Invoke-AdcsCmdlet \{.*?^\}", "", code, flags=re.MULTILINE | re.DOTALL))
    assert set(calls) - {f"'{name}'" for name in called} <= {"$command"}, "a cmdlet that is named in a way this test does not read"
    called |= set(re.findall(r"\b((?:Get|Set|Start|Stop|New|Remove|Restart)-(?:Acl|Service|WindowsFeature|CimInstance|WmiObject))\b", code))
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `([A-Za-z-]+)` \|.*$", table, re.MULTILINE)}
    assert called == set(rows)
    literals = re.findall(r"-Parameters @\{(.*?)\}", code, re.DOTALL)
    literals += re.findall(r"\$parameters = @\{(.*?)\n?\s*\}$", code, re.MULTILINE | re.DOTALL)
    named = {name for literal in literals for name in re.findall(r"(?:^|;|\{|@\{)\s*([A-Z][A-Za-z]+) =", literal, re.MULTILINE)}
    named |= set(re.findall(r"\$[pP]arameters\['([A-Z][A-Za-z]+)'\] =", code)) | set(re.findall(r"@\('([A-Z][A-Za-z]+Directory)'", code))
    # Of script blocks of our own.
    named -= {"Certificate", "Config", "Data", "Digest", "Wanted"}
    assert {"KeyOnly", "KeepLog", "CertificateID", "DatabaseDirectory", "Exportable", "IncludeManagementTools"} <= named
    assert sorted(name for name in named if f"`-{name}`" not in table) == []


def test_the_facts_name_every_certutil_verb_and_code() -> None:
    code, sections = windows_code(), sections_of_the_facts()
    options = {word for word in re.findall(r"'(-[A-Za-z]+)'", code) if word != "-"}
    assert {"-ping", "-view", "-renewCert", "-installCert", "-CRL", "-importCert", "-catemplates"} <= options
    assert sorted(word for word in options if not re.search(rf"{word}\b", sections["certutil and reg"])) == []
    codes_of = {word.upper() for word in re.findall(r"'0x([0-9A-Fa-f]{8})'", code)}
    assert sorted(codes_of - {word.upper() for word in re.findall(r"0x([0-9A-Fa-f]{8})", sections["Codes"])}) == []


def test_the_facts_name_tests_that_exist_and_claim_no_proof() -> None:
    text = (DOCS / "windows-facts.md").read_text(encoding="utf-8")
    for name, test in re.findall(r"`([a-z_/0-9]+\.py)(?:::([a-z_0-9]+))?`", text):
        path = ROOT / name if "/" in name else ROOT / "tests" / "integration" / name
        assert f"def {test}" in path.read_text(encoding="utf-8"), f"{name}::{test}"
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") >= 5]
    rows = [row for row in rows if not row.endswith("proved on a real CA |")]
    assert len(rows) > 80 and {row.split("|")[-2].strip() for row in rows} == {"no"}
