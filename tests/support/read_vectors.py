# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads PKCS #12 files, each in a process of its own, and prints what came of each as a line of JSON.

Usage: read_vectors.py COLLECTIONS FOLDER, which then takes [file, password] as lines of JSON. The parent forks after the imports, so
that a file costs milliseconds. Its seconds are processor time, so that a busy machine changes nothing, and end at CPU_SECONDS; its
memory is the peak of its resident set, Python and libraries included.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
import warnings
from pathlib import Path

CPU_SECONDS = 20


def outcome(errors, reader, data: bytes, password: str) -> dict:
    names = {
        errors.PasswordWrong: "password_wrong",
        errors.Malformed: "malformed",
        errors.Unsupported: "unsupported",
        errors.LimitExceeded: "limit_exceeded",
    }
    try:
        contents = reader.read(data, password)
    except errors.Pkcs12Error as exc:
        return {"verdict": names[type(exc)], "why": str(exc)}
    except Exception:
        return {"verdict": "crashed", "why": traceback.format_exc()}
    return {
        "verdict": "ok",
        "keys": len(contents.private_keys),
        "certs": len(contents.certificates),
        "unreadable": len(contents.unreadable),
        "key_bags": contents.key_bags,
        "unreadable_keys": sum(entry.kind == "private_key" for entry in contents.unreadable),
        "advisories": contents.advisories,
        "opens": reader.opens(data, password),
    }


def main() -> None:
    collections, folder = sys.argv[1:]
    sys.path.insert(0, collections)
    from ansible_collections.keyward.pki.plugins.module_utils import _pkcs12_crypto, _pkcs12_reader

    warnings.simplefilter("ignore")
    for file, password in map(json.loads, sys.stdin):
        data = (Path(folder) / file).read_bytes()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            found = outcome(_pkcs12_crypto, _pkcs12_reader, data, password)
            found["mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(writer, json.dumps(found).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        _pid, status, usage = os.wait4(child, 0)
        found = json.loads(answer) if answer else {"verdict": "died", "why": f"wait status {status}"}
        print(json.dumps({"file": file, "seconds": usage.ru_utime + usage.ru_stime, **found}), flush=True)


if __name__ == "__main__":
    main()
