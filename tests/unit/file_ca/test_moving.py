# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CA in another place than before: its configuration names the new one, and nothing of it is left in, or leads to, the old one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils import _backends
from ansible_collections.keyward.pki.plugins.module_utils._backend import Selector
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.moving import Move, move_of
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import ImportKeys
from support.guides import DOCS, blocks
from support.openssl_ca import OpensslCa, openssl
from support.sets import copied, exact, make, refused, restore, restored, sent, which
from support.signers import ALLOWED, make_home, sign

MOVED = Move([("/etc/pki/CA", "/srv/ca")])
COMMENT = "# Ours; /etc/pki/CA is backed up"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"dir = /etc/pki/CA\t# was /etc/pki/CA\r\n", b"dir = /srv/ca\t# was /etc/pki/CA\r\n"),
        (b'dir="/etc/pki/CA/"\n', b'dir="/srv/ca/"\n'),
        (b".include /etc/pki/CA/common.cnf", b".include /srv/ca/common.cnf"),
        (b"private_key = file:///etc/pki/CA/private/cakey.pem", b"private_key = file:///srv/ca/private/cakey.pem"),
        (b"x = a:/etc/pki/CA, /etc/pki/CA/b;c", b"x = a:/srv/ca, /srv/ca/b;c"),
        (b"set_var EASYRSA_PKI '/etc/pki/CA'", b"set_var EASYRSA_PKI '/srv/ca'"),
        *((line, line) for line in (b"dir = /etc/pki/CA2", b"dir = /etc/pki/CA.old", b"dir = /mnt/etc/pki/CA", b"dir = ${x}/etc/pki/CA")),
        *(
            (line, line)
            for line in (b"x = URI:http://www/etc/pki/CA/crl", b"# dir = /etc/pki/CA", b"dir = /srv/ca/etc", b"x = \xff/etc/pki/CA")
        ),
    ],
)
def test_only_what_names_the_former_place_is_rewritten(before: bytes, after: bytes) -> None:
    assert MOVED.text(before) == after
    assert MOVED.text(after) == after and MOVED.same(before, after)


def test_a_place_below_the_former_one_or_above_it() -> None:
    for old, new in (("/srv/ca", "/srv/ca/new"), ("/srv/ca/old", "/srv/ca")):
        move = Move([(old, new)])
        once = move.text(f"dir = {old}/x\n".encode())
        assert once == f"dir = {new}/x\n".encode() == move.text(once) and move.path(move.path(f"{old}/x")) == f"{new}/x"
    assert not Move([("/srv/ca/", "/srv/ca")]) and not Move([("/", "/srv")])


def test_a_path_that_means_something_else_in_a_configuration_is_refused() -> None:
    with pytest.raises(KeywardError, match="characters that mean something else"):
        Move([("/etc/pki/CA", "/srv/$ca")]).text(b"dir = /etc/pki/CA")
    assert Move([("/etc/pki/CA", "/srv/$ca")]).text(b"dir = .") == b"dir = ."


def test_the_files_of_an_easyrsa_beside_its_pki_move_with_it() -> None:
    ca = _backends.find(Selector(backend="easyrsa", directory="/srv/vpn/pki"))
    generation = Generation(0, b"", "", "", "", "", "", "", None, "", "")
    recorded = Authority("easyrsa", "CA_default", "x", "CN=x", "/etc/openvpn/easy-rsa/pki", {"directory": "/etc/openvpn/easy-rsa/pki"})
    move = move_of(ca, recorded, generation)
    assert (
        move.path("/etc/openvpn/easy-rsa/vars") == "/srv/vpn/vars" and move.path("/etc/openvpn/server.conf") == "/etc/openvpn/server.conf"
    )
    assert move.text(b'set_var EASYRSA_PKI "/etc/openvpn/easy-rsa/pki"') == b'set_var EASYRSA_PKI "/srv/vpn/pki"'


def moved(ca: OpensslCa) -> Path:
    """A CA with an included file, a comment, and a link into itself; then its former place is gone. The new one."""
    (ca.directory / "extra.cnf").write_text(f"[ extra ]\nhere = {ca.directory}/extra\n")
    ca.config_file.write_text(f"{COMMENT}\n.include {ca.directory}/extra.cnf\n{ca.config_file.read_text()}")
    (ca.directory / "newcerts" / "latest.pem").symlink_to(ca.directory / "newcerts" / "1000.pem")
    return ca.directory.parent / "moved"


def test_a_ca_is_whole_in_its_new_place(ca: OpensslCa, tmp_path: Path) -> None:
    new = moved(ca)
    before = ca.config_file.read_text()
    manifest = make(ca, tmp_path / "set")
    shutil.rmtree(ca.directory)
    predicted = restore(new, tmp_path / "set", manifest, part="configuration", check=True)
    answer = restore(new, tmp_path / "set", manifest, part="configuration")
    assert predicted.rewritten == answer.rewritten and not [one for one in answer.advisories if one.code == "moved"]
    lines = [(Path(one.path).name, one.after) for one in answer.rewritten]
    assert lines == [("extra.cnf", f"here = {new}/extra"), ("openssl.cnf", f".include {new}/extra.cnf"), ("openssl.cnf", f"dir = {new}")]
    assert (new / "openssl.cnf").read_text() == before.replace(str(ca.directory), str(new))
    restore(new, tmp_path / "set", manifest)
    assert os.readlink(new / "newcerts" / "latest.pem") == str(new / "newcerts" / "1000.pem") and (new / "index.txt").exists()
    assert not ca.directory.exists()
    whole = exact(new)
    for part in ("configuration", "all"):
        assert not restore(new, tmp_path / "set", manifest, part=part).changed and exact(new) == whole


def test_a_configuration_that_was_brought_along_is_corrected_in_the_same_run(ca: OpensslCa, tmp_path: Path) -> None:
    new = moved(ca)
    manifest = make(ca, tmp_path / "set")
    new.mkdir()
    shutil.copy(ca.config_file, new)
    shutil.rmtree(ca.directory)
    restore(new, tmp_path / "set", manifest)
    assert (new / "index.txt").exists() and f"dir = {new}\n" in (new / "openssl.cnf").read_text() and not ca.directory.exists()


def test_a_configuration_of_the_new_place_stays_and_says_where_the_database_belongs(ca: OpensslCa, tmp_path: Path) -> None:
    new = moved(ca)
    manifest = make(ca, tmp_path / "set")
    new.mkdir()
    own = ca.config_file.read_text().replace(str(ca.directory), str(new)).replace("$dir/index.txt", "$dir/db/list") + "# ours\n"
    (new / "openssl.cnf").write_text(own)
    shutil.rmtree(ca.directory)
    answer = restore(new, tmp_path / "set", manifest)
    assert (new / "openssl.cnf").read_text() == own and (new / "db" / "list").exists() and not (new / "index.txt").exists()
    assert "configuration_differs" in {one.code for one in answer.advisories}
    assert not restore(new, tmp_path / "set", manifest).changed


def test_the_directory_that_a_corrected_configuration_names(ca: OpensslCa, tmp_path: Path) -> None:
    """The configuration lies elsewhere, in the same place as before: only what it names is another directory now."""
    config, new = tmp_path / "etc" / "ca.cnf", tmp_path / "srv"
    config.parent.mkdir()
    ca.config_file.rename(config)
    selector = Selector(config_file=str(config))
    told = _backends.find(selector).facts()
    manifest, _answer = copied(selector, tmp_path / "set")
    config.write_text(config.read_text().replace(str(ca.directory), str(new)))
    ca.directory.rename(tmp_path / "gone")
    restored(selector, tmp_path / "set", manifest)
    order = ImportKeys(told.generations, told.generations[-1].sha256, directory=str(config.parent))
    assert {one.path for one in sent(selector, order, check=True).restored} == {str(new / "private" / "cakey.pem")}
    assert (new / "index.txt").read_bytes() == (tmp_path / "gone" / "index.txt").read_bytes() and not ca.directory.exists()
    assert not restored(selector, tmp_path / "set", manifest).changed


def test_no_half_of_a_ca_goes_to_its_former_place(ca: OpensslCa, tmp_path: Path) -> None:
    """What no line of a configuration names can't be rewritten: then nothing goes there."""
    told = _backends.find(which(ca)).facts()
    manifest = make(ca, tmp_path / "set")
    new = ca.directory.parent / "moved"
    new.mkdir()
    text = ca.config_file.read_text().replace(f"dir = {ca.directory}", f"up = {ca.directory.parent}\ndir = $up/{ca.directory.name}")
    (new / "openssl.cnf").write_text(text)
    shutil.rmtree(ca.directory)
    assert "in the directory that the CA had" in refused(lambda: restore(new, tmp_path / "set", manifest))
    order = ImportKeys(told.generations, None, directory=str(ca.directory))
    assert "in the directory that the CA had" in refused(lambda: sent(which(new), order))
    assert not ca.directory.exists() and [path.name for path in new.iterdir()] == ["openssl.cnf"]


def test_the_guide_puts_a_set_to_another_place_by_bare_commands(ca: OpensslCa, tmp_path: Path) -> None:
    new = moved(ca)
    before = ca.config_file.read_text()
    manifest = make(ca, tmp_path / "set")
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest.as_json(), indent=2))
    home = make_home(tmp_path / "home")
    sign(tmp_path / "set" / "manifest.json", home)
    shutil.rmtree(ca.directory)
    script = "".join(blocks(DOCS / "restore-without-it.md", "sh"))
    script = re.sub(r"^SET=\S+$", f"SET={tmp_path / 'set'}", script[script.index("SET=") :], flags=re.MULTILINE)
    done = subprocess.run(["sh", "-euc", f"CA={new}\nSIGNERS={home / ALLOWED}\n{script}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"> dir = {new}" in done.stdout, done.stdout + done.stderr
    assert (new / "openssl.cnf").read_text() == before.replace(str(ca.directory), str(new))
    assert os.readlink(new / "newcerts" / "latest.pem") == str(new / "newcerts" / "1000.pem") and not ca.directory.exists()
    assert "Valid" in openssl("ca", "-config", new / "openssl.cnf", "-status", "1000", check=False).stderr
