# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a set of the database of a CA of files, and what never is."""

from __future__ import annotations

import base64
import gzip
import os
import shutil
import subprocess
import tarfile
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.archive import SetFiles
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.index_txt import read_index
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import CORE, ISSUED
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from support.openssl_ca import OpensslCa
from support.sets import contents_of, details, ended_within, exact, lose_all_but_keys, make, refused, restore
from tools import require_tool


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
    assert restore(ca, tmp_path / "set", manifest, check=True).changed and sorted(ca.directory.iterdir()) == [ca.directory / "private"]
    answer = restore(ca, tmp_path / "set", manifest)
    for name, number in (("serial", b"011001\n"), ("crlnumber", b"010002\n")):  # beyond what may have been given since
        before[name] = (*before[name][:3], details(ca.directory)[name][3], number)
    assert answer.changed and details(ca.directory) == before and exact(ca.directory / "private") == keys
    assert (answer.next_serial, answer.next_crl_number) == ("011001", "010002")
    whole = exact(ca.directory)
    again = restore(ca, tmp_path / "set", manifest)
    assert not again.changed and exact(ca.directory) == whole
    assert [one.code for one in again.advisories] == ["published_not_compared"]
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
    assert [one.path for one in answer.restored] == [str(ca.certificate)] and ca.certificate.read_bytes() == own + above
    assert not restore(ca, tmp_path / "set", manifest).changed
    ca.certificate.write_bytes(above)  # another certificate is never replaced
    assert not restore(ca, tmp_path / "set", manifest).changed and ca.certificate.read_bytes() == above


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
    # Others may write into folders: of a link there the set has the link alone, or nothing.
    del before["certs/first.example.com.pem"]
    assert manifest.state.entries == 1
    (told,) = manifest.left_out
    assert told["path"] == str(ca.directory / "certs" / "first.example.com.pem") and "the link alone" in told["why"]
    whole = exact(ca.directory)
    assert not restore(ca, tmp_path / "set", manifest).changed and exact(ca.directory) == whole, "the links still serve"
    shutil.rmtree(elsewhere)
    ca.directory.unlink()
    answer = restore(ca, tmp_path / "set", manifest)
    assert (answer.next_serial, answer.next_crl_number) == ("011001", "010002")
    before.update({"serial": b"011001\n", "crlnumber": b"010002\n"})
    assert {str(path.relative_to(ca.directory)): path.read_bytes() for path in ca.directory.rglob("*") if path.is_file()} == before
    assert not restore(ca, tmp_path / "set", manifest).changed


def test_what_lies_outside_gets_into_no_set(ca: OpensslCa, tmp_path: Path) -> None:
    """Whoever may write into a folder of a CA plants links there: to files that only root reads, and to folders."""
    secret, crls = tmp_path / "shadow", ca.directory / "crl"
    secret.write_text("root:CANARY:")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "shadow").write_text("root:CANARY:")
    crls.mkdir()
    crls.chmod(0o777)
    ca.config_file.write_text(ca.config_file.read_text().replace("new_certs_dir", "crl_dir = $dir/crl\nnew_certs_dir", 1))
    (ca.directory / "newcerts" / "01.pem").symlink_to(secret)
    (ca.directory / "requests" / "a.csr").symlink_to(secret)
    (crls / "b.crl").symlink_to(secret)
    (crls / "etc").symlink_to(tmp_path / "etc")
    (crls / "own.pem").symlink_to("../cacert.pem")
    (ca.directory / "more.csr").symlink_to(secret)
    manifest = make(ca, tmp_path / "set")
    held = contents_of(tmp_path / "set")
    assert not [name for name, data in held.items() if b"CANARY" in data]
    told = {Path(one["path"]).name: one["why"] for one in manifest.left_out}
    assert all("which others than root" in told[name] for name in ("b.crl", "etc"))
    assert all("the set has the link alone" in told[name] for name in ("01.pem", "a.csr", "more.csr"))
    assert "own.pem" not in told and str(crls / "own.pem").lstrip("/") in held
    ca.directory.chmod(0o777)
    (ca.directory / "serial").rename(tmp_path / "serial")
    (ca.directory / "serial").symlink_to(tmp_path / "serial")
    with pytest.raises(KeywardError, match="serial can't be backed up: it lies behind the link"):
        make(ca, tmp_path / "another")


def test_a_program_is_in_no_set(ca: OpensslCa, tmp_path: Path) -> None:
    for name, start in (("evil.so", b"\x7fELF\x02"), ("evil.dylib", b"\xcf\xfa\xed\xfe"), ("evil.dll", b"MZ\x90")):
        (ca.directory / "newcerts" / name).write_bytes(start + bytes(range(256)))
    manifest = make(ca, tmp_path / "set")
    told = [one["path"] for one in manifest.left_out if "a program" in one["why"]]
    assert [Path(path).name for path in told] == ["evil.dll", "evil.dylib", "evil.so"]


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
    for name in (ISSUED, CORE):
        subprocess.run([require_tool("tar"), "-xzpf", tmp_path / "set" / name, "-C", tmp_path / "out"], check=True)
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
    unpacked = contents_of(tmp_path / "set")
    names, contents = set(unpacked), b"".join(unpacked.values())
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
    assert (str(odd).lstrip("/") in contents_of(tmp_path / "set")) is (planted not in ("fifo", "sparse", "loop"))
    assert (str(odd) in [one["path"] for one in manifest.left_out]) is (planted in ("fifo", "sparse", "loop"))


def test_what_would_make_a_set_that_nobody_unpacks_is_left_out(ca: OpensslCa, tmp_path: Path) -> None:
    """Whoever may write where certificates lie makes no set that is refused afterwards."""
    newcerts = ca.directory / "newcerts"
    for number in range(3):
        (newcerts / f"small-{number}").write_bytes(bytes(16 * 1024))
        (newcerts / f"large-{number}").write_bytes(bytes(1024 * 1024))
    manifest = make(ca, tmp_path / "set")
    left_out = {Path(one["path"]).name for one in manifest.left_out if "repetition" in one["why"]}
    assert left_out == {f"large-{number}" for number in range(3)}
    shutil.rmtree(newcerts)
    assert restore(ca, tmp_path / "set", manifest).changed and (newcerts / "small-0").exists()


def test_many_files_of_one_folder_are_left_out_in_few_words(ca: OpensslCa, tmp_path: Path) -> None:
    """A manifest stays readable where the keys of all subscribers lie beside their certificates."""
    key = ca.private_key.read_bytes()
    for number in range(130):
        (ca.directory / "newcerts" / f"{number:03d}.key").write_bytes(key)
    (ca.directory / "requests" / "one.key").write_bytes(key)
    left_out = [one for one in make(ca, tmp_path / "set").left_out if "newcerts" in one["path"]]
    assert len(left_out) == 101 and left_out[-1]["path"] == str(ca.directory / "newcerts")
    assert left_out[-1]["why"].startswith("30 further files in it: ") and left_out[-1]["count"] is None


def test_a_set_is_consistent_while_the_ca_never_stops_issuing(ca: OpensslCa, tmp_path: Path) -> None:
    stop = threading.Event()
    issued: list[float] = []

    def issue_on() -> None:
        while not stop.is_set():
            ca.issue(f"n{len(issued)}.example.com")
            issued.append(time.monotonic())

    thread = threading.Thread(target=issue_on)
    thread.start()
    try:
        for number in range(6):
            folder, before = tmp_path / f"set{number}", len(issued)
            manifest = make(ca, folder)
            held = contents_of(folder)
            rows = read_index(held[str(ca.directory / "index.txt").lstrip("/")]).by_number
            assert int(held[str(ca.directory / "serial").lstrip("/")], 16) > max(rows)
            for row in rows.values():
                assert str(ca.directory / "newcerts" / f"{row.serial}.pem").lstrip("/") in held
            assert (manifest.state.entries, int(manifest.state.next_serial or "", 16)) == (len(rows), max(rows) + 1)
            assert len(rows) >= before, "as new as the copy itself"
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("bomb", ["pax", "long name", "global pax"])
def test_an_archive_takes_no_more_memory_than_it_needs(ca: OpensslCa, tmp_path: Path, bomb: str) -> None:
    """Some KB of an archive would become many MB of a header that tarfile reads whole."""
    manifest = make(ca, tmp_path / "set")
    archive = tmp_path / "set" / CORE
    size = 100 * 1024 * 1024
    kinds = {"pax": tarfile.XHDTYPE, "global pax": tarfile.XGLTYPE, "long name": tarfile.GNUTYPE_LONGNAME}
    head = tarfile.TarInfo("x")
    head.type, head.size = kinds[bomb], size
    with gzip.open(archive, "wb", compresslevel=1) as stream:
        stream.write(head.tobuf(tarfile.GNU_FORMAT))
        for _piece in range(size // 1024**2):
            stream.write(bytes(1024**2))
    tracemalloc.start()
    try:
        assert refused(SetFiles(str(tmp_path / "set"), manifest.members).prove)
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()
