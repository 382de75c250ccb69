# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as ansible_collections.keyward.pki, and has the fixtures of the tests that run plays.

Plays run against the built and installed tarball, never against the tree.

ansible      the real ansible-playbook (see support/ansible_run.py):
                 result = ansible.play([{"keyward.pki.ca_info": {"config_file": str(ca.config_file)}}])
                 result.ok().last()["generations"]          # the last task's result, a dict with .task, .status, .ignored
                 result.task("back the keys up")["changed"]   # the result of the task of that name
                 result.failed()["msg"]                     # the result that made the play fail
                 result.rc, result.stdout, result.stderr, result.results[host]
             play(tasks | plays | YAML text | Path or name of a playbook, hosts={name: variables}, extra_vars={…}, check=, diff=,
             verbosity=, env={…}, cfg={section: {option: value}}, arguments=[…], timeout=). Default host: `testhost`, this machine.
             Variables of another local host: ansible.local(python=…, x=…). start(…) returns a Run with .process, .kill() and .finish().
             Modules of local hosts are executed by a Python that has started already (see support/warm_python.py), unless a host has
             another one or is cold: ansible.local(cold=True).
             Files of a run: ansible.scratch/run<n>/; modules arrive in ansible.remote_tmp (local hosts).
make_ansible make_ansible(commands) -> the same with the ansible-core whose commands lie in that directory.
openssl_ca   a fresh CA (see support/openssl_ca.py): .directory .config_file .certificate .private_key; .renew_in_place(new_key=True),
             .renew_keeping(new_key=True), .issue(name), .sign_crl(certificate, private_key); the last two fail unless openssl verifies
             the outcome. More of them: OpensslCa(tmp_path / "other", name="Other CA", algorithm="rsa:2048", passphrase="…", relative=True)
windows      like ansible, on ansible-core 2.21 and with simulated Windows hosts (see support/adcs.py)
host         a simulated Windows host without a CA: host.install_by_hand(), hosts={"ca01": host.variables()}
sshd         a running OpenSSH server (see support/ssh_server.py): hosts={"remote": sshd.host()} logs in as sshd.user and becomes root;
             sshd.host(ansible_become=False) doesn't.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from pytest_ansible.units import inject

ROOT = Path(__file__).resolve().parent.parent
MEMORY, ROOM = Path("/dev/shm"), 2 << 30  # noqa: S108, several times what a whole run writes
# pytest-ansible does it by itself, but after conftest.py files are imported, and what these import needs it.
inject(ROOT)

from support.adcs import AdcsHost, WindowsAnsible, windows_ansible
from support.ansible_run import Ansible, build_and_install
from support.openssl_ca import OpensslCa, templates
from support.ssh_server import SshServer
from support.warm_playbook import WarmPlaybooks
from support.warm_python import WarmPython
from tools import require_tool


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Programs that tests start look for collections where they are told to. Tests' folders lie in memory, where there is room.

    On a disk they would wait for it much of their time: all that is stored is synced.
    """
    os.environ.pop("ANSIBLE_COLLECTIONS_PATH", None)
    memory = os.statvfs(MEMORY) if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
    if memory and memory.f_bavail * memory.f_frsize > ROOM and not memory.f_flag & os.ST_NOEXEC:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each of pytest's workers begins with its share of the longest tests, so that none is left alone with one at the end.

    A worker is given one piece of the list, and takes from the end of another's when it is done. Simulated Windows hosts are all the first
    one's: their PowerShell becomes fast with use. Unit tests stay together, as they share what their modules make.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    windows = [item for item in items if "windows" in getattr(item, "fixturenames", ())]
    quick = [item for item in items if item.nodeid.startswith("tests/unit/") and item not in windows]
    others = [item for item in items if not item.nodeid.startswith("tests/unit/") and item not in windows]
    pieces = [windows, *(others[number :: workers - 1] for number in range(workers - 1))] if workers > 1 else [[*windows, *others]]
    found: list[pytest.Item] = []
    for number, piece in enumerate(pieces):
        room = max(0, (len(items) - len(found)) // (workers - number) - len(piece))
        found += [*piece, *quick[:room]]
        del quick[:room]
    items[:] = [*found, *quick]


def pytest_collection_finish() -> None:
    """What was imported and collected is looked at no more: it lives to the end, and children that tests fork would copy it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    with templates(True):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """What outlives a test shares no key with what a later one makes."""
    with contextlib.nullcontext() if fixturedef.scope == "function" else templates(False):
        return (yield)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def collections(shared: Path) -> Path:
    """The path below which the tarball of the tree, and nothing else, is installed."""
    scratch = shared / "tarball"
    with (shared / "tarball.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (scratch / "done").exists():
            scratch.mkdir()
            build_and_install(ROOT, scratch)
            (scratch / "done").touch()
    return scratch / "collections"


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    python = WarmPython()
    yield python
    python.stop()


@pytest.fixture(scope="session")
def warm_playbooks() -> Iterator[WarmPlaybooks]:
    playbooks = WarmPlaybooks()
    yield playbooks
    playbooks.stop()


@pytest.fixture
def make_ansible(tmp_path: Path, collections: Path) -> Callable[[Path], Ansible]:
    return lambda commands: Ansible(tmp_path / f"ansible-{commands.parent.name}", collections, commands)


@pytest.fixture
def ansible(tmp_path: Path, shared: Path, collections: Path, warm_python: WarmPython, warm_playbooks: WarmPlaybooks) -> Ansible:
    (shared / "modules").mkdir(exist_ok=True)
    return Ansible(tmp_path / "ansible", collections, warm=warm_python, modules=shared / "modules", playbooks=warm_playbooks)


@pytest.fixture
def windows(tmp_path: Path, shared: Path, collections: Path, warm_playbooks: WarmPlaybooks) -> WindowsAnsible:
    (shared / "modules-windows").mkdir(exist_ok=True)
    return windows_ansible(tmp_path, collections, shared / "modules-windows", warm_playbooks)


@pytest.fixture
def host(tmp_path: Path) -> AdcsHost:
    return AdcsHost(tmp_path / "ca01")


@pytest.fixture
def openssl_ca(tmp_path: Path) -> OpensslCa:
    require_tool("openssl")
    return OpensslCa(tmp_path / "ca")


@pytest.fixture(scope="session")
def sshd() -> Iterator[SshServer]:
    for tool in ("ssh", "ssh-keygen", "sudo", "useradd"):
        require_tool(tool)
    program = require_tool("sshd")
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a login user with sudo can only be made by root")
    server = SshServer(program)
    yield server
    server.stop()
