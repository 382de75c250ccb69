# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users install: only the product, and all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = {
    "CHANGELOG.rst",
    "CONTRIBUTING.md",
    "COPYING",
    "README.md",
    "changelogs",
    "docs",
    "meta",
    "playbooks",
    "plugins",
    "requirements.txt",
    "roles",
}


def test_only_the_product_is_installed(collections: Path) -> None:
    installed = collections / "ansible_collections" / "keyward" / "pki"
    assert {path.name for path in installed.iterdir()} - {"FILES.json", "MANIFEST.json"} <= PRODUCT
    files = [entry["name"] for entry in json.loads((installed / "FILES.json").read_text(encoding="utf-8"))["files"]]
    assert len(files) > 40
    assert [name for name in files if "__pycache__" in name or name.endswith((".gz", ".pem", ".p12", ".key"))] == []
    sources = {path.relative_to(ROOT) for path in (ROOT / "plugins").rglob("*") if path.suffix in {".py", ".ps1", ".psm1", ".yml"}}
    assert sources <= {path.relative_to(installed) for path in installed.rglob("*")}


def test_every_module_is_documented_and_in_the_action_group(collections: Path) -> None:
    modules = {path.stem for path in (ROOT / "plugins" / "modules").glob("ca_*.py")}
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    assert set(runtime["action_groups"]["keyward"]) == modules
    names = [f"keyward.pki.{name}" for name in modules]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-doc"), "--json", *names],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "ANSIBLE_COLLECTIONS_PATH": str(collections), "HOME": str(collections.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    documented = json.loads(done.stdout)
    assert all(
        documented[name]["doc"]["short_description"] and documented[name]["return"] and documented[name]["examples"] for name in names
    )
