# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of the database of openssl ca: free of keys, consistent, byte for byte back, and never a danger unnoticed."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import pwd
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _database_host
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import database_copy
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import LeftOut, prove_archive, read_members
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import parse_index
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._manifest import (
    ARCHIVE,
    MEMBERS,
    SetFile,
    SetManifest,
    State,
    set_manifest_from_json,
)
from ansible_collections.keyward.pki.plugins.module_utils._store import SETS, AuthorityDirectory, digest_of
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from support.killed import killed_at
from support.openssl_ca import OpensslCa, openssl
from tools import require_tool

NOTHING = {"crl_numbers": [], "revocations": [], "issued": [], "compared": False}


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    require_tool("openssl")
    ca = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    ca.sign_crl().unlink()  # a place that the configuration doesn't name
    return ca


def which(ca: OpensslCa | Path) -> Selector:
    return Selector(config_file=str((ca.directory if isinstance(ca, OpensslCa) else ca) / "openssl.cnf"))


def make(ca: OpensslCa, folder: Path) -> SetManifest:
    """A set in a folder; its manifest."""
    folder.mkdir()
    answer = _database_host.back_up_database(which(ca), {"make": str(folder)}, False)
    made = database_copy.MadeSet(
        tuple(SetFile(**shape) for shape in answer["files"]),
        answer["members"],
        State(**answer["state"]),
        answer["as_of"],
        tuple(LeftOut(**one) for one in answer["left_out"]),
        answer["unfinished"],
    )
    authority = replace(Authority(**{**answer["authority"], "id": None}), id="0" * 64)
    generations = [Generation.from_json(shape) for shape in answer["generations"]]
    manifest = _database_host.set_manifest(made, authority, generations, AuthorityDirectory(str(folder / "none"), SETS), {"at": "now"})
    assert set_manifest_from_json(json.loads(json.dumps(manifest.as_json()))) == manifest
    return manifest


def restore(place: OpensslCa | Path, folder: Path, manifest: SetManifest, *, check: bool = False, **options: Any) -> dict[str, Any]:
    request = {"part": "all", "on_conflict": "fail", "advance": None, "published": NOTHING, "controller": "c", **options}
    request.update(folder=str(folder), manifest=manifest.as_json())
    return _database_host.restore_database(which(place), {"restore": request}, check)


def refused(call: Any) -> str:
    with pytest.raises(KeywardError) as caught:
        call()
    return str(caught.value)


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


def lose_all_but_keys(ca: OpensslCa) -> None:
    for path in ca.directory.iterdir():
        if path.name == "private":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# --- what is in a set ---


def test_everything_comes_back_byte_for_byte_and_keys_are_not_touched(ca: OpensslCa, tmp_path: Path) -> None:
    ca.renew_keeping()
    (ca.directory / "newcerts" / "link.pem").symlink_to("1000.pem")
    (ca.directory / "newcerts" / "deep").mkdir(mode=0o710)
    (ca.directory / "newcerts" / "deep" / "1.pem").write_text("something")
    (ca.directory / "newcerts" / "deep" / "1.pem").chmod(0o640)
    if os.geteuid() == 0:
        os.chown(ca.directory / "serial", 1, 1)
    os.utime(ca.directory / "newcerts" / "1000.pem", ns=(10**18 + 123456789, 10**18 + 123456789))
    shutil.rmtree(ca.directory / "requests")  # its .key files are nobody's business here
    before, keys = details(ca.directory), exact(ca.directory / "private")
    manifest = make(ca, tmp_path / "set")
    assert details(ca.directory) == before and exact(ca.directory / "private") == keys
    assert (manifest.state.entries, manifest.state.next_serial, manifest.left_out) == (1, "1001", ())
    lose_all_but_keys(ca)
    assert restore(ca, tmp_path / "set", manifest, check=True)["changed"] and sorted(ca.directory.iterdir()) == [ca.directory / "private"]
    answer = restore(ca, tmp_path / "set", manifest)
    assert answer["changed"] and details(ca.directory) == before and exact(ca.directory / "private") == keys
    assert (answer["next_serial"], answer["next_crl_number"]) == ("1001", "02")
    whole = exact(ca.directory)
    again = restore(ca, tmp_path / "set", manifest)
    assert not again["changed"] and exact(ca.directory) == whole
    assert [one["code"] for one in again["advisories"]] == ["published_not_compared"]
    (ca.directory / "requests").mkdir()
    ca.issue("second.example.com")
    ca.sign_crl()


def test_the_chain_in_the_certificate_file_comes_back(ca: OpensslCa, tmp_path: Path) -> None:
    """A key backup puts back the CA's own certificate alone; the set knows what followed it."""
    own = ca.certificate.read_bytes()
    above = OpensslCa(tmp_path / "above", algorithm="ed25519").certificate.read_bytes()
    ca.certificate.write_bytes(own + above)
    manifest = make(ca, tmp_path / "set")
    ca.certificate.write_bytes(own)
    answer = restore(ca, tmp_path / "set", manifest)
    assert [one["path"] for one in answer["restored"]] == [str(ca.certificate)] and ca.certificate.read_bytes() == own + above
    assert not restore(ca, tmp_path / "set", manifest)["changed"]
    ca.certificate.write_bytes(above)  # another certificate is never replaced
    assert not restore(ca, tmp_path / "set", manifest)["changed"] and ca.certificate.read_bytes() == above


def test_what_a_link_leads_to_is_in_the_set(ca: OpensslCa, tmp_path: Path) -> None:
    shutil.rmtree(ca.directory / "requests")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    linked = ("openssl.cnf", "index.txt", "serial", "crlnumber", "cacert.pem", "newcerts")
    for name in linked:
        (ca.directory / name).rename(elsewhere / name)
        (ca.directory / name).symlink_to(elsewhere / name)
    (elsewhere / "certs").mkdir()
    (ca.directory / "certs" / "first.example.com.pem").rename(elsewhere / "certs" / "first.pem")
    (ca.directory / "certs" / "first.example.com.pem").symlink_to(elsewhere / "certs" / "first.pem")
    ca.directory.rename(elsewhere / "ca")
    ca.directory.symlink_to(elsewhere / "ca")
    shutil.rmtree(ca.directory / "private")
    before = {str(path.relative_to(ca.directory)): path.read_bytes() for path in ca.directory.rglob("*") if path.is_file()}
    before["newcerts/1000.pem"] = (elsewhere / "newcerts" / "1000.pem").read_bytes()
    manifest = make(ca, tmp_path / "set")
    assert (manifest.state.entries, manifest.left_out) == (1, ())
    whole = exact(ca.directory)
    assert not restore(ca, tmp_path / "set", manifest)["changed"] and exact(ca.directory) == whole, "the links still serve"
    shutil.rmtree(elsewhere)
    ca.directory.unlink()
    answer = restore(ca, tmp_path / "set", manifest)
    assert (answer["next_serial"], answer["next_crl_number"]) == ("1001", "02")
    assert {str(path.relative_to(ca.directory)): path.read_bytes() for path in ca.directory.rglob("*") if path.is_file()} == before
    assert not restore(ca, tmp_path / "set", manifest)["changed"]


def test_crls_are_in_a_set_where_no_configuration_names_them(ca: OpensslCa, tmp_path: Path) -> None:
    crl = ca.sign_crl()
    shutil.copy(crl, ca.directory / "crl.0.pem")
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    restore(ca, tmp_path / "set", manifest)
    assert crl.exists() and (ca.directory / "crl.0.pem").read_bytes() == crl.read_bytes()


def test_a_request_that_waits_is_not_in_a_set(ca: OpensslCa, tmp_path: Path) -> None:
    before = make(ca, tmp_path / "before").state
    shutil.copy(ca.directory / "requests" / "first.example.com.csr", ca.directory / "cacert.next.csr")
    manifest = make(ca, tmp_path / "set")
    assert manifest.state == before, "it makes no set due either"
    lose_all_but_keys(ca)
    restore(ca, tmp_path / "set", manifest)
    assert (ca.directory / "requests" / "first.example.com.csr").exists() and not (ca.directory / "cacert.next.csr").exists()


def test_tar_alone_opens_a_set(ca: OpensslCa, tmp_path: Path) -> None:
    shutil.rmtree(ca.directory / "requests")
    manifest = make(ca, tmp_path / "set")
    (tmp_path / "out").mkdir()
    subprocess.run([require_tool("tar"), "-xzpf", tmp_path / "set" / ARCHIVE, "-C", tmp_path / "out"], check=True)
    out = details(tmp_path / "out" / str(ca.directory).lstrip("/"))
    live = details(ca.directory)
    assert {name: what for name, what in live.items() if not name.startswith("private")}.keys() == out.keys()
    assert {name: what[4] for name, what in out.items()} == {name: live[name][4] for name in out}
    for file in manifest.files:
        done = subprocess.run(["sha256sum", tmp_path / "set" / file.name], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == file.sha256


def test_no_private_key_gets_into_a_set(ca: OpensslCa, tmp_path: Path) -> None:
    key = load_pem_private_key(ca.private_key.read_bytes(), None)
    other = OpensslCa(tmp_path / "other", algorithm="rsa:2048")
    rsa = load_pem_private_key(other.private_key.read_bytes(), None)
    locked = BestAvailableEncryption(b"a password")
    newcerts, certs = ca.directory / "newcerts", ca.directory / "certs"
    planted = {
        newcerts / "plain.pem": ca.private_key.read_bytes(),
        newcerts / "1002.pem": ca.certificate.read_bytes() + ca.private_key.read_bytes(),
        newcerts / ".hidden": rsa.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        newcerts / "locked.crt": rsa.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, locked),
        newcerts / "deep" / "er" / "x": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        certs / "locked.der": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, locked),
        certs / "pkcs1.der": rsa.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        certs / "ca.p12": pkcs12.serialize_key_and_certificates(b"ca", key, None, None, locked),
        certs / "bare.txt": base64.encodebytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
        certs / "seed": b"junk" + key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()),
        ca.directory / "requests" / "odd.csr": b"text\n" + ca.private_key.read_bytes(),
        ca.directory / "serial.old": ca.private_key.read_bytes(),
    }
    for path, data in planted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    os.link(ca.private_key, newcerts / "hard-link.pem")
    (certs / "symbolic.pem").symlink_to(ca.private_key)
    manifest = make(ca, tmp_path / "set")
    left_out = {Path(one["path"]) for one in manifest.left_out}
    assert left_out == {*planted, newcerts / "hard-link.pem", *(ca.directory / "requests").glob("*.key")}
    with tarfile.open(tmp_path / "set" / ARCHIVE) as archive:
        names = set(archive.getnames())
        contents = b"".join(stream.read() for info in archive if (stream := archive.extractfile(info) if info.isreg() else None))
    assert not [path for path in left_out if str(path).lstrip("/") in names]
    assert str(certs / "symbolic.pem").lstrip("/") in names and str(newcerts / "1000.pem").lstrip("/") in names
    for data in (ca.private_key.read_bytes().split(b"\n")[1], key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())):
        assert data not in contents


@pytest.mark.parametrize("planted", ["fifo", "sparse", "link to a device", "link to memory", "loop", "nowhere", "link to a directory"])
def test_nobody_else_stops_a_backup(ca: OpensslCa, tmp_path: Path, planted: str) -> None:
    """A directory of CRLs is often writable for others, such as the user of a web server."""
    crls = ca.directory / "crl"
    crls.mkdir()
    ca.config_file.write_text(ca.config_file.read_text().replace("new_certs_dir", "crl_dir = $dir/crl\nnew_certs_dir", 1))
    odd = crls / "odd"
    if planted == "fifo":
        os.mkfifo(odd)
    elif planted == "sparse":
        with odd.open("wb") as stream:
            stream.truncate(1 << 42)
    else:
        places = {"link to a device": "/dev/zero", "link to memory": "/proc/kcore", "loop": "odd", "link to a directory": "/"}
        odd.symlink_to(places.get(planted, planted))
    with ended_within(20):
        manifest = make(ca, tmp_path / "set")
        first = manifest.state.database
        (crls / "crl.pem").write_bytes(b"another CRL")
        assert make(ca, tmp_path / "second").state.database != first
    with tarfile.open(tmp_path / "set" / ARCHIVE) as archive:
        assert (str(odd).lstrip("/") in archive.getnames()) is (planted not in ("fifo", "sparse"))
    assert (str(odd) in [one["path"] for one in manifest.left_out]) is (planted == "sparse")


def test_a_set_is_consistent_while_the_ca_issues(ca: OpensslCa, tmp_path: Path) -> None:
    stop = threading.Event()

    def issue_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            ca.issue(f"n{number}.example.com")
            time.sleep(0.4)

    thread = threading.Thread(target=issue_on)
    thread.start()
    made = 0
    try:
        for number in range(6):
            folder = tmp_path / f"set{number}"
            try:
                make(ca, folder)
            except KeywardError as exc:
                assert "changed it each of" in str(exc)
                continue
            made += 1
            with tarfile.open(folder / ARCHIVE) as archive:
                index = archive.extractfile(str(ca.directory / "index.txt").lstrip("/"))
                serial = archive.extractfile(str(ca.directory / "serial").lstrip("/"))
                assert index and serial
                rows = parse_index(index.read().decode(), "index.txt")
                names = archive.getnames()
                assert int(serial.read(), 16) > max(rows)
            for row in rows.values():
                assert str(ca.directory / "newcerts" / f"{row.serial}.pem").lstrip("/") in names
    finally:
        stop.set()
        thread.join()
    assert made, "at least one copy was possible"


def test_a_damaged_set_is_found_before_anything_is_touched(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    archive, members = tmp_path / "set" / ARCHIVE, tmp_path / "set" / MEMBERS
    whole, listed = archive.read_bytes(), json.loads(members.read_text())

    def with_digests() -> SetManifest:
        return replace(manifest, files=tuple(replace(f, sha256=digest_of(str(tmp_path / "set" / f.name))) for f in manifest.files))

    archive.write_bytes(whole[:-100])
    assert "does not have the digest" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    assert "damaged or cut off" in refused(lambda: restore(ca, tmp_path / "set", with_digests()))
    archive.write_bytes(whole)
    for damaged, why in (
        (listed[:-1], "is not what the list of members says"),
        ([*listed, {**listed[0], "path": "/etc/other"}], "is missing in the archive"),
        ([{**listed[0], "sha256": "0" * 64}, *listed[1:]], "does not have the digest"),
        ([{**listed[0], "path": "/a/../b"}, *listed[1:]], "is damaged"),
        ([{**listed[0], "path": str(ca.private_key)}, *listed[1:]], "not what the list"),
    ):
        members.write_text(json.dumps(damaged))
        assert why in refused(lambda: restore(ca, tmp_path / "set", with_digests()))
    archive.unlink()
    os.mkfifo(archive)
    with ended_within(20):
        assert "it is not a regular file" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    assert sorted(ca.directory.iterdir()) == [ca.directory / "private"], "nothing was touched"


def forged(folder: Path, manifest: SetManifest, *members: tuple[dict[str, Any], bytes]) -> SetManifest:
    """The set with more members, as whoever can write the store would make it: all its digests are right."""
    archive, listed = folder / ARCHIVE, json.loads((folder / MEMBERS).read_text())
    with tarfile.open(archive) as old, tarfile.open(folder / "forged", "w:gz") as new:
        for info in old:
            new.addfile(info, old.extractfile(info) if info.isreg() else None)
        for more, data in members:
            shape = {"part": "issued", "type": "file", "mode": "0644", "owner": "root", "group": "root", "uid": 0, "gid": 0, "mtime": 0}
            shape.update({"target": None, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more})
            info = tarfile.TarInfo(str(shape["path"]).lstrip("/"))
            info.type = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE}[shape["type"]]
            info.size, info.linkname = len(data), shape["target"] or ""
            new.addfile(info, io.BytesIO(data))
            listed.append(shape)
    os.replace(folder / "forged", archive)
    (folder / MEMBERS).write_text(json.dumps(listed))
    files = tuple(replace(file, sha256=digest_of(str(folder / file.name))) for file in manifest.files)
    return replace(manifest, files=files)


def test_a_forged_set_makes_no_program_of_root(ca: OpensslCa, tmp_path: Path) -> None:
    path = ca.directory / "newcerts" / "shell"
    manifest = forged(tmp_path / "set", make(ca, tmp_path / "set"), ({"path": str(path), "mode": "6755"}, b"#!/bin/sh"))
    restore(ca, tmp_path / "set", manifest)
    assert path.exists() and oct(path.stat().st_mode) == "0o100755"


def test_what_is_swapped_while_it_is_restored_changes_nothing_else(ca: OpensslCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of issued certificates may belong to another user than root, who restores."""
    manifest, victim = make(ca, tmp_path / "set"), tmp_path / "victim"
    issued = ca.directory / "newcerts" / "1000.pem"
    issued.unlink()
    victim.write_text("of root")
    victim.chmod(0o600)
    real = pwd.getpwnam

    def swapped(name: str) -> Any:
        for staged in issued.parent.glob(".*.new"):
            staged.unlink()
            os.link(victim, staged)
        return real(name)

    monkeypatch.setattr(pwd, "getpwnam", swapped)
    with pytest.raises(KeywardError):
        restore(ca, tmp_path / "set", manifest)
    assert oct(victim.stat().st_mode) == "0o100600" and not issued.exists()


def test_a_forged_set_reaches_nothing_but_the_ca(ca: OpensslCa, tmp_path: Path) -> None:
    """As far as the configuration on the host says what belongs to the CA."""
    outside, newcerts = tmp_path / "etc", ca.directory / "newcerts"
    outside.mkdir()
    evil = outside / "evil"
    manifest = make(ca, tmp_path / "honest")
    (ca.directory / "index.txt").unlink()
    (newcerts / "planted").symlink_to(outside)  # by whoever may write there
    for number, (members, why) in enumerate(
        (
            ([{"path": str(evil)}], "is no place of this CA"),
            ([{"path": str(evil), "part": "configuration"}], "is no place of this CA"),
            ([{"path": str(evil), "part": "crl", "type": "link", "target": "x"}], "is no place of this CA"),
            ([{"path": str(newcerts / "planted" / "evil")}], "is no place of this CA"),
            (
                [{"path": str(newcerts / "a"), "type": "link", "target": str(outside)}, {"path": str(newcerts / "a" / "evil")}],
                "is no place",
            ),
        )
    ):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "honest", folder)
        made = forged(folder, manifest, *((shape, b"" if "target" in shape else b"evil") for shape in members))
        assert why in refused(lambda folder=folder, made=made: restore(ca, folder, made))
        assert not list(outside.iterdir())
    restore(ca, tmp_path / "honest", manifest)
    assert (ca.directory / "index.txt").exists()


@pytest.mark.parametrize(
    "change",
    [{"uid": "0"}, {"mode": "99999"}, {"mode": "-644"}, {"mtime": 1 << 80}, {"size": -1}, {"owner": 7}, {"path": 7}, {"gid": 1 << 40}],
)
def test_a_list_of_members_that_is_no_list(ca: OpensslCa, tmp_path: Path, change: dict[str, Any]) -> None:
    manifest, listed = make(ca, tmp_path / "set"), tmp_path / "set" / MEMBERS
    (ca.directory / "index.txt").unlink()
    members = json.loads(listed.read_text())
    listed.write_text(json.dumps([{**one, **change} if one["part"] == "index" else one for one in members]))
    files = tuple(replace(file, sha256=digest_of(str(tmp_path / "set" / file.name))) for file in manifest.files)
    assert "its list of members" in refused(lambda: restore(ca, tmp_path / "set", replace(manifest, files=files)))


@pytest.mark.parametrize("bomb", ["pax", "long name", "global pax"])
def test_an_archive_takes_no_more_memory_than_it_needs(ca: OpensslCa, tmp_path: Path, bomb: str) -> None:
    """Some KB of an archive would become many MB of a header that tarfile reads whole."""
    make(ca, tmp_path / "set")
    archive = tmp_path / "set" / ARCHIVE
    size = 100 * 1024 * 1024
    kinds = {"pax": tarfile.XHDTYPE, "global pax": tarfile.XGLTYPE, "long name": tarfile.GNUTYPE_LONGNAME}
    head = tarfile.TarInfo("x")
    head.type, head.size = kinds[bomb], size
    with gzip.open(archive, "wb", compresslevel=1) as stream:
        stream.write(head.tobuf(tarfile.GNU_FORMAT))
        for _piece in range(size // 1024**2):
            stream.write(bytes(1024**2))
    members = read_members(str(tmp_path / "set" / MEMBERS))
    tracemalloc.start()
    try:
        assert refused(lambda: prove_archive(str(archive), members))
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


# --- old databases ---


def revoke(ca: OpensslCa, serial: str, reason: str = "keyCompromise") -> None:
    certificate = ca.directory / "newcerts" / f"{serial}.pem"
    openssl("ca", "-config", ca.config_file, "-revoke", certificate, "-crl_reason", reason, cwd=ca.directory)


def published(ca: OpensslCa, *serials: int, revoked: tuple[int, ...] = (), number: int = 0) -> dict[str, Any]:
    return {
        "crl_numbers": [f"{number:X}"] if number else [],
        "revocations": [[f"{one:X}", "260101000000Z", "keyCompromise"] for one in revoked],
        "issued": [[f"{one:X}", "270101000000Z", f"/CN=n{one}", f"n{one}.pem"] for one in serials],
        "compared": True,
    }


def test_an_old_database_is_refused_until_it_is_told_how_to_go_on(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    for out_there, code in (
        (published(ca, 0x1001), "published_certificates_newer"),
        (published(ca, number=2), "published_crl_newer"),
        (published(ca, revoked=(0x1000,)), "published_crl_newer"),
    ):
        with pytest.raises(KeywardError) as caught:
            restore(ca, tmp_path / "set", manifest, published=out_there)
        assert [finding.code for finding in caught.value.findings] == [code]
        assert sorted(ca.directory.iterdir()) == [ca.directory / "private"], "nothing was touched"
    out_there = published(ca, 0x1001, 0x1004, revoked=(0x1000, 0x1004, 0x1005), number=7)
    behind = {"serial": "1003", "crl_number": "08"}
    assert "is not beyond what was issued" in refused(lambda: restore(ca, tmp_path / "set", manifest, published=out_there, advance=behind))
    answer = restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")
    assert (answer["next_serial"], answer["next_crl_number"]) == ("1006", "08")
    assert answer["advanced"] == {"serial": "1006", "crl_number": "08"}
    assert [one["serial"] for one in answer["reentered"]] == ["1000", "1004", "1005"]
    rows = parse_index((ca.directory / "index.txt").read_text(), "")
    assert [(rows[n].state, rows[n].subject) for n in sorted(rows)] == [
        ("R", "/CN=first.example.com"),
        ("V", "/CN=n4097"),
        ("R", "/CN=n4100"),
        ("R", "/CN=re-entered from the published CRL"),
    ]
    assert rows[0x1000].revoked == "260101000000Z,keyCompromise"
    whole = exact(ca.directory)
    for advance in ("auto", None, {"serial": "1006"}):
        assert not restore(ca, tmp_path / "set", manifest, published=out_there, advance=advance)["changed"] and exact(ca.directory) == whole
    ca.issue("later.example.com")
    assert (ca.directory / "newcerts" / "1006.pem").exists()
    text = openssl("crl", "-in", ca.sign_crl(), "-noout", "-text").stdout
    assert all(f"{number:04X}" in text for number in (0x1000, 0x1004, 0x1005)) and "Key Compromise" in text


@pytest.mark.parametrize("unique", ["yes", "no"])
def test_certificates_of_one_subject_are_entered_as_openssl_can_read_them(ca: OpensslCa, tmp_path: Path, unique: str) -> None:
    (ca.directory / "index.txt.attr").write_text(f"unique_subject = {unique}\n")
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    out_there = published(ca, 0x1001, 0x1002, 0x1003)
    subjects = ("/CN=first.example.com", "/CN=second.example.com", "/CN=second.example.com")
    for issued, subject in zip(out_there["issued"], subjects):
        issued[2] = subject
    for _run in range(2):
        answer = restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")
        assert answer["next_serial"] == "1004"
    rows = parse_index((ca.directory / "index.txt").read_text(), "")
    assert sorted(rows) == ([0x1000, 0x1003] if unique == "yes" else [0x1000, 0x1001, 0x1002, 0x1003])
    ca.issue("third.example.com")


def test_a_newer_database_stays_and_another_one_is_a_conflict(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    ca.issue("second.example.com")
    revoke(ca, "1000")
    ca.sign_crl()
    (ca.directory / "newcerts" / "1000.pem").unlink()
    answer = restore(ca, tmp_path / "set", manifest)
    assert [one["path"] for one in answer["restored"]] == [str(ca.directory / "newcerts" / "1000.pem")]
    assert "database_newer" in {one["code"] for one in answer["advisories"]}
    assert parse_index((ca.directory / "index.txt").read_text(), "")[0x1000].state == "R"

    lines = (ca.directory / "index.txt").read_text().splitlines(keepends=True)
    (ca.directory / "index.txt").write_text("".join(lines[1:]))
    whole = exact(ca.directory)
    assert "has entries that the set lacks, and lacks some" in refused(lambda: restore(ca, tmp_path / "set", manifest))
    (ca.config_file).write_text(ca.config_file.read_text() + "# changed\n")
    assert str(ca.config_file) in refused(lambda: restore(ca, tmp_path / "set", manifest, part="configuration"))
    (ca.config_file).write_text(ca.config_file.read_text().replace("# changed\n", ""))
    assert {path: what for path, what in exact(ca.directory).items() if "openssl" not in path} == {
        path: what for path, what in whole.items() if "openssl" not in path
    }
    # 1001 is out there: the host itself shows it, and the set's serial would hand it out again.
    message = refused(lambda: restore(ca, tmp_path / "set", manifest, on_conflict="set_aside"))
    assert "were issued that the database lacks: 1001" in message
    answer = restore(ca, tmp_path / "set", manifest, on_conflict="set_aside", advance="auto")
    kept = {Path(one["path"]).name: Path(one["kept_as"]) for one in answer["set_aside"]}
    assert "index.txt" in kept and kept["index.txt"].read_text() == "".join(lines[1:])
    assert answer["next_serial"] == "1002"
    ca.issue("third.example.com")
    assert (ca.directory / "newcerts" / "1002.pem").exists()


def test_an_older_database_is_brought_up_to_the_set(ca: OpensslCa, tmp_path: Path) -> None:
    older = {name: (ca.directory / name).read_bytes() for name in ("index.txt", "serial", "crlnumber")}
    ca.issue("second.example.com")
    revoke(ca, "1000")
    manifest = make(ca, tmp_path / "set")
    newer = {name: (ca.directory / name).read_bytes() for name in older}
    for name, data in older.items():
        (ca.directory / name).write_bytes(data)
    assert restore(ca, tmp_path / "set", manifest)["changed"]
    assert {name: (ca.directory / name).read_bytes() for name in older} == newer


@pytest.mark.parametrize("emptied", [False, True])
def test_numbers_that_are_still_there_never_go_back(ca: OpensslCa, tmp_path: Path, emptied: bool) -> None:
    manifest = make(ca, tmp_path / "set")
    if emptied:
        (ca.directory / "index.txt").write_text("")
    else:
        (ca.directory / "index.txt").unlink()
    (ca.directory / "serial").write_text("1009\n")
    (ca.directory / "crlnumber").write_text("07\n")
    numbers = {name: exact(ca.directory)[str(ca.directory / name)] for name in ("serial", "crlnumber")}
    for check in (True, False):
        answer = restore(ca, tmp_path / "set", manifest, check=check)
        assert [Path(one["path"]).name for one in answer["restored"]] == ["index.txt"]
        assert (answer["next_serial"], answer["next_crl_number"]) == ("1009", "07")
        assert "numbers_newer" in {one["code"] for one in answer["advisories"]}
    assert {name: exact(ca.directory)[str(ca.directory / name)] for name in numbers} == numbers
    assert not restore(ca, tmp_path / "set", manifest)["changed"]
    (ca.directory / "index.txt").unlink()
    answer = restore(ca, tmp_path / "set", manifest, published=published(ca, 0x1010, number=3), advance="auto")
    assert (answer["next_serial"], answer["next_crl_number"]) == ("1011", "07")
    assert [(ca.directory / name).read_text() for name in numbers] == ["1011\n", "07\n"]


def test_a_restore_that_is_killed_anywhere_is_finished(ca: OpensslCa, tmp_path: Path) -> None:
    ca.issue("second.example.com")
    shutil.rmtree(ca.directory / "requests")
    shutil.rmtree(ca.directory / "certs")
    manifest = make(ca, tmp_path / "set")
    complete = {name: what[4] for name, what in details(ca.directory).items()}
    out_there = published(ca, revoked=(0x1000,))
    reached = 0
    for number in range(1, 80, 3):
        lose_all_but_keys(ca)
        if not killed_at(number, lambda: restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")):
            break
        reached += 1
        restore(ca, tmp_path / "set", manifest, published=out_there, advance="auto")
        now = {name: what[4] for name, what in details(ca.directory).items() if ".new" not in name}
        assert parse_index(now.pop("index.txt").decode(), "")[0x1000].state == "R", number
        assert now == {name: what for name, what in complete.items() if name != "index.txt"}, number
    assert reached >= 8


def test_another_place(ca: OpensslCa, tmp_path: Path) -> None:
    shutil.rmtree(ca.directory / "requests")
    manifest = make(ca, tmp_path / "set")
    moved = tmp_path / "moved"
    answer = restore(moved, tmp_path / "set", manifest, part="configuration")
    assert [one["path"] for one in answer["restored"]] == [str(moved / "openssl.cnf")]
    assert "moved" in {one["code"] for one in answer["advisories"]}
    (moved / "openssl.cnf").write_text((moved / "openssl.cnf").read_text().replace(str(ca.directory), str(moved)))
    assert "openssl.cnf" in refused(lambda: restore(moved, tmp_path / "set", manifest))
    answer = restore(moved, tmp_path / "set", manifest, on_conflict="set_aside")
    assert (moved / "newcerts" / "1000.pem").read_bytes() == (ca.directory / "newcerts" / "1000.pem").read_bytes()
    other = OpensslCa(tmp_path / "other", name="Another CA")
    assert "another authority" in refused(lambda: restore(other, tmp_path / "set", manifest))


def test_the_backend_reads_what_was_restored(ca: OpensslCa, tmp_path: Path) -> None:
    manifest = make(ca, tmp_path / "set")
    lose_all_but_keys(ca)
    restore(ca, tmp_path / "set", manifest, part="configuration")
    restore(ca, tmp_path / "set", manifest)
    assert OpensslBackend(which(ca)).facts().generations[0].private_key == "present"
