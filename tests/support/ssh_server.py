# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real OpenSSH server on a loopback port, with a login user of its own who may become root through sudo."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers {user}
MaxStartups 100
PrintMotd no
Subsystem sftp internal-sftp
"""


class SshServer:
    """Started by __init__, ended by `stop()`, which also removes `directory`, the user with its home and the file in /etc/sudoers.d."""

    def __init__(self, sshd: str) -> None:
        assert os.geteuid() == 0, "only root can make a login user and give it sudo"
        # Not below pytest's own folder: the server reads the user's authorized_keys as that user.
        self.directory = directory = Path(tempfile.mkdtemp(prefix="keyward-sshd-"))
        directory.chmod(0o755)
        self.user = f"keyward{os.getpid()}"
        self.log = directory / "sshd.log"
        self._sudoers = Path("/etc/sudoers.d") / self.user
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start(sshd)
        except BaseException:
            self.stop()
            raise

    def _start(self, sshd: str) -> None:
        _run("useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", self.user)
        self.home = Path(pwd.getpwnam(self.user).pw_dir)
        self._sudoers.touch(mode=0o440)
        self._sudoers.write_text(f"{self.user} ALL=(ALL) NOPASSWD: ALL\n")
        for name in ("host_key", "user_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.directory / name))
        shutil.copy(self.directory / "user_key.pub", self.directory / "authorized_keys")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        host_key = " ".join((self.directory / "host_key.pub").read_text().split()[:2])
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        config = self.directory / "sshd_config"
        config.write_text(CONFIG.format(port=self.port, directory=self.directory, user=self.user))
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process = subprocess.Popen(
            [sshd, "-D", "-f", str(config), "-E", str(self.log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"sshd doesn't answer\n{self.log.read_text() if self.log.exists() else ''}")

    def host(self, python: str | Path = sys.executable, **variables: Any) -> dict[str, Any]:
        """Variables of a host that is reached through this server, as the login user who becomes root."""
        options = f"-F none -o UserKnownHostsFile={self.directory / 'known_hosts'} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self.directory / "user_key"),
            "ansible_ssh_common_args": options,
            # Here, for a control socket's path must be short.
            "ansible_control_path_dir": str(self.directory / "cp"),
            "ansible_become": True,
            "ansible_become_method": "ansible.builtin.sudo",
            "ansible_python_interpreter": str(python),
            **variables,
        }

    def stop(self) -> None:
        if self._process is not None:
            for master in (self.directory / "cp").glob("*"):
                subprocess.run(
                    ["ssh", "-F", "none", "-O", "exit", "-o", f"ControlPath={master}", "127.0.0.1"], capture_output=True, check=False
                )
            self._process.terminate()
            self._process.wait(10)
        self._sudoers.unlink(missing_ok=True)
        shutil.rmtree(self.directory)
        # Refused while a session of the user is still ending.
        deadline = time.monotonic() + 5
        while (done := subprocess.run(["userdel", "--remove", self.user], capture_output=True, check=False)).returncode not in (0, 6):
            if time.monotonic() > deadline:
                raise AssertionError(f"the user {self.user} can't be removed: {done.stderr!r}")
            time.sleep(0.1)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
