# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of a CA's database made and put back in this process, by the same orders as a controller sends, and looks at the files.

manifest, copied = copied(selector, tmp_path / "set")
restored(selector, tmp_path / "set", manifest, advance="auto", published=published(0x1001, revoked=(0x1000,)), check=True)
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _backends
from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._execute import perform
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.member_list import archive_of
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import dump, parse
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Look, Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import (
    Advance,
    Copied,
    Copy,
    IssuedCertificate,
    Published,
    Restore,
    Restored,
    Revocation,
)
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import (
    CORE,
    ISSUED,
    MEMBERS,
    Members,
    SetFile,
    SetManifest,
    set_manifest_from_json,
)
from ansible_collections.keyward.pki.plugins.module_utils._stored import digest_of
from support.openssl_ca import OpensslCa


def contents_of(folder: Path) -> dict[str, bytes]:
    """What tar finds in the archives of a set: names, and the bytes of files."""
    found = {}
    for name in (CORE, ISSUED):
        with tarfile.open(folder / name) as archive:
            for info in archive:
                stream = archive.extractfile(info) if info.isreg() else None
                found[info.name] = stream.read() if stream else b""
    return found


def listed(folder: Path) -> list[dict[str, Any]]:
    """The list of a set's members."""
    with gzip.open(folder / MEMBERS) as lines:
        return [json.loads(line) for line in lines]


def relisted(folder: Path, manifest: SetManifest, members: list[dict[str, Any]]) -> SetManifest:
    """The set with another list, as whoever can write the store would make it: all digests and sums are right."""
    text = b"".join(json.dumps(member).encode() + b"\n" for member in members)
    (folder / MEMBERS).write_bytes(gzip.compress(text))
    size = sum(member["size"] for member in members if isinstance(member["size"], int))
    held = Members(len(members), size, hashlib.sha256(text).hexdigest(), len(members), size)
    return replace(digested(folder, manifest), members=held)


def digested(folder: Path, manifest: SetManifest) -> SetManifest:
    """With the digests and sizes that its files have."""
    found = {file.name: str(folder / file.name) for file in manifest.files}
    return replace(manifest, files=tuple(SetFile(name, digest_of(path), os.path.getsize(path)) for name, path in found.items()))


def forged(folder: Path, manifest: SetManifest, *members: tuple[dict[str, Any], bytes]) -> SetManifest:
    """The set with more members, made like that."""
    shapes, held = {shape["path"]: shape for shape in listed(folder)}, contents_of(folder)
    for more, data in members:
        shape = {"part": "issued", "type": "file", "mode": "0644", "owner": "root", "group": "root", "uid": 0, "gid": 0, "mtime": 0}
        shape.update({"target": None, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more})
        shapes[shape["path"]], held[shape["path"].lstrip("/")] = shape, data
    for name in (CORE, ISSUED):
        with tarfile.open(folder / name, "w:gz") as archive:
            for path, shape in sorted(shapes.items()):
                if archive_of(shape["part"]) == name:
                    info = tarfile.TarInfo(path.lstrip("/"))
                    info.type = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[shape["type"]]
                    info.size, info.linkname = shape["size"], shape["target"] or ""
                    archive.addfile(info, io.BytesIO(held[info.name]))
    return relisted(folder, manifest, [shape for _path, shape in sorted(shapes.items())])


def which(ca: OpensslCa | Path) -> Selector:
    return Selector(config_file=str((ca.directory if isinstance(ca, OpensslCa) else ca) / "openssl.cnf"))


def sent(selector: Selector, order: Any, check: bool = False) -> Any:
    """The answer to an order, both on their way as JSON."""
    answer = perform(_backends.find(selector), parse(type(order), json.loads(json.dumps(dump(order)))), check)
    return parse(type(answer), json.loads(json.dumps(dump(answer))))


def copied(selector: Selector, folder: Path, **options: Any) -> tuple[SetManifest, Copied]:
    """A set in a new folder, and what the host answered."""
    folder.mkdir()
    told: Told = sent(selector, Look())
    answer: Copied = sent(selector, Copy(told.generations[-1].sha256, folder=str(folder), **options))
    assert answer.state and answer.members
    manifest = SetManifest(
        id="0" * 32,
        sequence=1,
        previous=None,
        kind="full",
        database="0" * 32,
        authority=told.authority,
        homes=(replace(told.authority, host="ca1").home,),
        made_at=replace(told.authority, host="ca1").home,
        created=answer.as_of,
        as_of=answer.as_of,
        made={"at": "now"},
        files=tuple(SetFile(file.name, file.sha256, file.size) for file in answer.files),
        members=answer.members,
        state=answer.state,
        left_out=tuple(dict(vars(one)) for one in answer.left_out),
        generations=told.generations,
    )
    assert set_manifest_from_json(json.loads(json.dumps(manifest.as_json()))) == manifest
    return manifest, answer


def restored(
    selector: Selector, folder: Path, manifest: SetManifest, *, check: bool = False, advance: Any = None, **options: Any
) -> Restored:
    """The set in a folder put back. advance: as the option of ca_database_restore."""
    of = None
    with contextlib.suppress(NothingThere):
        of = sent(selector, Look()).generations[-1].sha256
    given = None if advance is None else Advance() if advance == "auto" else Advance(**advance)
    order = Restore(of, json.dumps(manifest.as_json()), folder=str(folder), advance=given, **options)
    answer: Restored = sent(selector, order, check)
    return answer


def published(*serials: int, revoked: tuple[int, ...] = (), number: int = 0, subjects: tuple[str, ...] = ()) -> Published:
    """What is out there: certificates, revocations, a CRL's number."""
    names = subjects or tuple(f"/CN=n{serial}" for serial in serials)
    return Published(
        crl_numbers=(f"{number:X}",) if number else (),
        revocations=tuple(Revocation(f"{serial:X}", "260101000000Z", "keyCompromise") for serial in revoked),
        issued=tuple(IssuedCertificate(f"{n:X}", "270101000000Z", name, f"n{n}.pem") for n, name in zip(serials, names, strict=True)),
        compared=True,
    )


def refused(call: Any) -> str:
    with pytest.raises(KeywardError) as caught:
        call()
    return str(caught.value)


def lose_all_but_keys(ca: OpensslCa) -> None:
    for path in ca.directory.iterdir():
        if path.name == "private":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def details(directory: Path) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content: Any = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        times = None if path.is_dir() else status.st_mtime_ns
        found[str(path.relative_to(directory))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            None if path.is_symlink() else times,
            content,
        )
    return found


def exact(directory: Path) -> dict[str, tuple[int, int, int]]:
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in directory.rglob("*")}


@contextlib.contextmanager
def ended_within(seconds: int) -> Iterator[None]:
    def late(_signal: int, _frame: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make(ca: OpensslCa, folder: Path) -> SetManifest:
    return copied(which(ca), folder)[0]


def restore(place: OpensslCa | Path, folder: Path, manifest: SetManifest, **options: Any) -> Restored:
    return restored(which(place), folder, manifest, **options)
