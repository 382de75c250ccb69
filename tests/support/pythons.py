# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the Pythons of this machine and makes virtual environments of them, cached below .cache/venvs.

python pythons.py path                                    the folders of every working Python 3.9 to 3.14, joined as in PATH
python pythons.py venv NAME 3.13,3.12 REQUIREMENT...      the venv NAME of the first of these versions that works; prints its folder
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENVS = ROOT / ".cache" / "venvs"
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


@cache
def find(version: str) -> Path | None:
    """The real program of Python `version`; None where there is none that works and can make virtual environments."""
    for candidate in _candidates(version):
        done = subprocess.run(
            [str(candidate), "-c", "import ensurepip, ssl, venv, sys; print('%d.%d' % sys.version_info[:2], sys.executable)"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and done.stdout.split(" ", 1)[0] == version:
            program = Path(done.stdout.strip().split(" ", 1)[1])
            return program.with_name(f"python{version}") if program.with_name(f"python{version}").exists() else program
    return None


def _candidates(version: str) -> Iterator[Path]:
    """A distribution's first: it is built with the optimisations that pyenv leaves out."""
    for folder in ("/usr/bin", *os.environ.get("PATH", os.defpath).split(os.pathsep)):
        if shutil.which(f"python{version}", path=folder):
            yield Path(folder) / f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def make_venv(name: str, python: Path, requirements: Sequence[str], folder: Path = VENVS) -> Path:
    """The folder of the virtual environment `name`; made anew when `python` or `requirements` (arguments of pip install) changed."""
    venv = folder / name
    wanted = "\n".join((str(python), *requirements, *map(_content, requirements)))
    stamp = venv / "requirements"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            _run(str(python), "-m", "venv", "--clear", str(venv))
            _run(str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
            stamp.write_text(wanted, encoding="utf-8")
    return venv


def _content(requirement: str) -> str:
    path = Path(requirement)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}")


def main(arguments: Sequence[str]) -> str:
    if arguments == ["path"]:
        return os.pathsep.join(str(program.parent) for program in map(find, VERSIONS) if program)
    if len(arguments) > 3 and arguments[0] == "venv":
        name, versions, *requirements = arguments[1:]
        python = next((found for found in map(find, versions.split(",")) if found), None)
        if python is None:
            sys.exit(
                f"No virtual environment for {name}: none of Python {versions} is on this machine, or it lacks its venv module. "
                f"Install one (Debian: apt-get install python3-venv) and run the command again."
            )
        return str(make_venv(name, python, requirements))
    sys.exit(__doc__)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
