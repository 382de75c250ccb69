# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit's playbook, and its report: for programs, for Prometheus, and for people in a real browser."""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.keyward.pki.plugins.action.ca_database_backup import ActionModule as CaDatabaseBackup
from ansible_collections.keyward.pki.plugins.action.ca_key_backup import ActionModule as CaKeyBackup
from ansible_collections.keyward.pki.plugins.module_utils._store_directory import initialise
from support.ansible_run import Ansible
from support.fake_host import FakeHost
from support.openssl_ca import OpensslCa
from support.plays import PASSWORD
from support.pythons import ROOT
from support.roles import playbook, ran
from support.signers import make_home
from tools import require_tool

HOSTILE = "</h2><script>document.title='owned'</script> \"&'"
METRIC = re.compile(r'[a-z_]+(\{[a-zA-Z_0-9]+="(?:[^"\\\n]|\\.)*"(,[a-zA-Z_0-9]+="(?:[^"\\\n]|\\.)*")*\})? -?[0-9]+\Z')


@pytest.fixture
def report(ansible: Ansible, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a report on three CAs: one without a backup, one that is fine but unproved, one that no inventory names."""
    home, out = make_home(tmp_path / "home"), tmp_path / "out"
    monkeypatch.setenv("HOME", str(home))
    stores = {kind: str(tmp_path / kind) for kind in ("keys", "databases", "share")}
    for kind, path in stores.items():
        initialise(path, "keys" if kind == "keys" else "databases")
    variables: dict[str, Any] = {
        "keyward_key_stores": [stores["keys"]],
        "keyward_database_stores": [stores["databases"]],
        "keyward_allowed_signers": str(home / ".config" / "keyward" / "allowed_signers"),
        "keyward_audit_directory": str(out),
    }
    hosts = {}
    for name in ("unstored", "stored", "forgotten"):
        ca, host = OpensslCa(tmp_path / name, algorithm="ed25519"), FakeHost(name)
        which = {"config_file": str(ca.config_file)}
        if name != "unstored":
            assert host.run(CaKeyBackup, {**which, "stores": [stores["keys"]], "password": PASSWORD})["changed"]
            where: dict[str, Any] = {"host_store": stores["share"]} if name == "stored" else {"stores": [stores["databases"]]}
            assert host.run(CaDatabaseBackup, {**which, **where, "key_stores": [stores["keys"]]})["changed"]
        if name != "forgotten":
            own = {"keyward_label": HOSTILE, "keyward_host_store": stores["share"]} if name == "stored" else {}
            hosts[name] = ansible.local(keyward_config_file=str(ca.config_file), **own, **variables)
    result = playbook(ansible, "audit", hosts, rc=2)
    assert ran(result, "ca_info") == [False, False] and len(ran(result, "ca_audit")) == 1
    assert "is in no backup: its private key would be lost today" in result.failed("stored")["msg"]
    alone = playbook(
        ansible, "audit", hosts, rc=2, extra_vars={"keyward_ask_hosts": False, "keyward_audit_directory": str(tmp_path / "alone")}
    )
    assert ran(alone, "ca_info") == [] and sorted(os.listdir(tmp_path / "alone")) == sorted(os.listdir(out))
    return out


def test_the_report(report: Path) -> None:
    document = json.loads((report / "audit.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, json.loads((ROOT / "docs" / "audit-schema.json").read_text(encoding="utf-8")))
    assert [one["level"] for one in document["authorities"]] == ["red", "warning", "warning"], "worst first"
    assert document["counts"]["lost_today"] == 1 and [one["in_inventory"] for one in document["authorities"]].count(False) == 1
    (on_a_host,) = (one for one in document["authorities"] if one["hosts"] and one["hosts"][0]["host"] == "stored")
    assert re.match("stored:/.*/share/", on_a_host["databases"][0]["path"]) and on_a_host["databases"][0]["entries"] == 1
    modes = {path.name: path.stat().st_mode & 0o777 for path in report.iterdir()}
    assert modes == {"audit.html": 0o640, "audit.json": 0o640, "keyward.prom": 0o644}
    metrics = (report / "keyward.prom").read_text(encoding="utf-8").splitlines()
    assert [line for line in metrics if not line.startswith("#") and not METRIC.match(line)] == []
    assert "keyward_private_keys_lost_today 1" in metrics and metrics[-1] != ""
    page = (report / "audit.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http" not in re.sub(r"http-equiv", "", page) and "&lt;script&gt;" in page
    _in_a_browser(report)


def test_every_text_of_the_page_is_escaped() -> None:
    template = (ROOT / "roles" / "audit" / "templates" / "audit.html.j2").read_text(encoding="utf-8")
    own = re.compile(r"(day|badge|age)\(|.* \| e\Z|.* \| round\(2\)\Z|'.*'( if | else |\Z)")
    assert [text for text in re.findall(r"\{\{ (.*?) \}\}", template) if not own.match(text)] == []


def _in_a_browser(report: Path) -> None:
    """Light and dark, wide and narrow, and on paper: nothing sticks out, nothing is loaded, and axe finds nothing."""
    chromium = require_tool("chromium")
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        colours = {}
        for scheme, width in (("light", 1200), ("dark", 390)):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
            page = context.new_page()
            loaded: list[str] = []
            page.on("request", lambda request, loaded=loaded: loaded.append(request.url))
            page.goto((report / "audit.html").as_uri())
            assert page.title().startswith("CA audit") and len(loaded) == 1
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            violations = Axe().run(page).response["violations"]
            assert [(one["id"], one["nodes"][0]["html"]) for one in violations] == []
            colours[scheme] = list(_pixels(page.screenshot(path=report / f"{scheme}.png")))
            context.close()
        browser.close()
    light, dark = (sum(sum(pixel) / 3 for pixel in each) / len(each) for each in (colours["light"], colours["dark"]))
    assert light > 180 and dark < 90
    reddish = [pixel for pixel in colours["light"] if pixel[0] > pixel[1] + 60 and pixel[0] > pixel[2] + 60]
    assert len(reddish) > 50, "what is red is seen to be"


def _pixels(png: bytes) -> Iterator[tuple[int, int, int]]:
    """Those of a PNG of 8 bits a colour without interlacing, as browsers write it."""
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert depth == 8 and kind in (2, 6)
    size, position, data = 3 if kind == 2 else 4, 8, b""
    while position < len(png):
        length, name = struct.unpack(">I4s", png[position : position + 8])
        data += png[position + 8 : position + 8 + length] if name == b"IDAT" else b""
        position += 12 + length
    raw, before = zlib.decompress(data), bytearray(width * size)
    for row in range(height):
        begin = row * (width * size + 1)
        line, how = bytearray(raw[begin + 1 : begin + 1 + width * size]), raw[begin]
        for i in range(len(line)):
            left, up = line[i - size] if i >= size else 0, before[i]
            corner = before[i - size] if i >= size else 0
            guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[how]
            line[i] = (line[i] + guess) & 255
        before = line
        if row % 20 == 0:
            yield from (tuple(line[i : i + 3]) for i in range(0, len(line), size * 20))  # type: ignore[misc]


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda one: abs(guess - one))
