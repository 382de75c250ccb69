# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The openssl backend opens the files that `openssl ca` opens, and reads in a configuration what OpenSSL reads in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig
from support.openssl_shapes import SHAPES, Built, build, random_config
from tools import require_tool

_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_audit)


@pytest.fixture(params=SHAPES)
def built(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    require_tool("openssl")
    made = build(SHAPES[request.param], tmp_path / "root")
    for name in [name for name in os.environ if name.startswith("OPENSSL_")]:
        monkeypatch.delenv(name)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def _files_below(root: Path, directory: Path, paths: Iterator[str]) -> list[str]:
    """The regular files among `paths`, seen from `directory`, that lie below `root`: each once, in order."""
    seen = [os.path.normpath(directory / path) for path in paths]
    return [path for path in dict.fromkeys(seen) if path.startswith(f"{root}/") and os.path.isfile(path)]


def _openssl_opens(built: Built) -> list[str]:
    """What `openssl ca -gencrl` opens; it must succeed."""
    trace = built.root / "trace"
    name = ("-name", built.shape.section) if built.shape.section else ()
    done = subprocess.run(
        [
            *(require_tool("strace"), "-f", "-qq", "-s", "4096", "-e", "trace=open,openat", "-o", str(trace)),
            *("openssl", "ca", "-gencrl", "-config", str(built.config), *name, "-out", "/dev/null"),
        ],
        cwd=built.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = re.findall(r'open(?:at)?\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)*)", [^)]*\) += [0-9]', trace.read_text())
    trace.unlink()
    paths = (call.encode().decode("unicode_escape").encode("latin-1").decode() for call in calls)
    return _files_below(built.root, built.directory, paths)


def _we_open(built: Built) -> list[str]:
    global _opened  # noqa: PLW0603
    directory = None if built.shape.directory is None else str(built.directory)
    _opened = []
    try:
        reading = OpensslBackend(Selector(config_file=str(built.config), directory=directory, name=built.shape.section)).facts()
        paths = iter(_opened)
    finally:
        _opened = None
    assert reading.authority.name == built.shape.ca_section
    assert reading.database.crl_number == "20"  # counted by openssl
    return _files_below(built.root, Path("/"), paths)


def test_opens_the_same_files(built: Built) -> None:
    theirs, ours = _openssl_opens(built), _we_open(built)

    named = {built.path(name) for name in ("certificate", "private_key", "database", "crl_number")}
    assert named < set(theirs)
    attributes = built.path("database") + ".attr"
    assert set(theirs) - set(ours) == {attributes}
    # Beyond them only a request that may be pending.
    assert {os.path.basename(path) for path in set(ours) - set(theirs)} <= {"careq.pem"}
    # Selector file of a folder comes first decides between two that say different things.
    configurations = [path for path in theirs if path not in named | {attributes}]
    assert [path for path in ours if path in configurations] == configurations


def _installed() -> Path:
    done = subprocess.run([require_tool("openssl"), "version", "-d"], capture_output=True, text=True, check=True)
    return Path(done.stdout.split('"')[1])


def test_the_installed_default_configuration(tmp_path: Path) -> None:
    built = build(SHAPES["debian"], tmp_path)
    shutil.copy(_installed() / "openssl.cnf", built.config)
    assert set(_openssl_opens(built)) - set(_we_open(built)) == {built.path("database") + ".attr"}


def test_a_ca_that_ca_pl_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CA.pl uses the installed configuration, in whose demoCA it works wherever it is called."""
    for name in [name for name in os.environ if name.startswith("OPENSSL")]:
        monkeypatch.delenv(name)
    installed = _installed()
    script = installed / "misc" / "CA.pl"
    if not script.exists():
        require_tool("CA.pl")
    subprocess.run(
        [require_tool("perl"), str(script), "-newca", "-extra-req", "-noenc -subj /C=DE/ST=Bayern/O=Example/CN=Demo"],
        cwd=tmp_path,
        input=b"\n",
        capture_output=True,
        check=True,
        timeout=120,
    )
    reading = OpensslBackend(Selector(config_file=str(installed / "openssl.cnf"), directory=str(tmp_path))).facts()
    (generation,) = reading.generations
    assert (generation.subject, generation.private_key) == ("CN=Demo,O=Example,ST=Bayern,C=DE", "present")
    assert generation.key_place and generation.key_place.path == str(tmp_path / "demoCA/private/cakey.pem")
    assert reading.database.entries == 1
    assert (tmp_path / "demoCA" / "careq.pem").exists()
    assert reading.pending_request is None  # the request that became the certificate


# --- values ------------------------------------------------------------------------------------------------------


def _as_openssl_reads(config: Path, section: str, name: str) -> bytes | None:
    """A value as OpenSSL has it: put into an OCTET STRING by `openssl asn1parse -genconf`. None where it refuses the file."""
    probe = config.with_name("probe.cnf")
    asked = f"\n\n.pragma dollarid:off\n[default]\nasn1 = FORMAT:ASCII,OCT:<${{{section}::{name}}}>\n"
    probe.write_bytes(config.read_bytes() + asked.encode())
    done = subprocess.run(
        ["openssl", "asn1parse", "-genconf", probe.name, "-noout", "-out", "value.der"],
        cwd=config.parent,
        capture_output=True,
        timeout=20,
        check=False,
    )
    if done.returncode:
        return None
    der = (config.parent / "value.der").read_bytes()
    return der[2 + (der[1] & 0x7F if der[1] & 0x80 else 0) :]


def _as_we_read(config: Path) -> bytes | None:
    try:
        value = OpensslConfig(str(config.with_name("probe.cnf")), str(config.parent)).get("default", "asn1")
    except KeywardError:
        return None
    return None if value is None else os.fsencode(value).partition(b"OCT:")[2]


def test_random_configurations_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool("openssl")
    monkeypatch.delenv("OPENSSL_CONF_INCLUDE", raising=False)
    monkeypatch.setenv("A_ENV", "from the environment")
    monkeypatch.setenv("B_ENV", "b")
    different, defined = [], 0
    for seed in range(300):
        root = tmp_path / str(seed)
        root.mkdir()
        config = random_config(seed, root)
        section, name = (("s", "a"), ("default", "b"), ("t", "b"), ("default", "c"), ("ENV", "A_ENV"), ("s", "dir"))[seed % 6]
        theirs, ours = _as_openssl_reads(config, section, name), _as_we_read(config)
        defined += theirs is not None
        if theirs != ours:
            different.append((seed, theirs, ours))
        else:
            shutil.rmtree(root)
    assert not different
    assert 80 < defined < 290, "the generator no longer makes both good and bad configurations"


@pytest.mark.parametrize(
    "line", ["a = x\0" + "z" * 600, "a = " + "y" * 505 + "\rb = 2", "a = " + "y" * 506 + "\\" + "z" * 9, "\0\na = gone"]
)
def test_lines_arrive_in_pieces(tmp_path: Path, line: str) -> None:
    require_tool("openssl")
    config = tmp_path / "odd.cnf"
    config.write_text(f"a = before\n{line}\n")
    theirs = _as_openssl_reads(config, "default", "a")
    assert _as_we_read(config) == theirs
    assert (theirs is None) == line.startswith("\0")
