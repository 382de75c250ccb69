# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CA of files does with the orders to hand keys over and to take keys back, whoever gives them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._acl import recorded_acls
from ansible_collections.keyward.pki.plugins.module_utils._backend import NothingThere, RenewedMeanwhile, Selector
from ansible_collections.keyward.pki.plugins.module_utils._backends.openssl import OpensslBackend
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import GivenFile, ImportKeys
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import ExportKeys
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_reader import read
from support.acls import setfacl
from support.openssl_ca import OpensslCa
from support.plays import public_key, tree

ONE_TIME = "a password that is used once, here"


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    made = OpensslCa(tmp_path / "ca", algorithm="ed25519")
    made.renew_keeping()
    return made


def backend(ca: OpensslCa, **options: str) -> OpensslBackend:
    return OpensslBackend(Selector(config_file=str(ca.config_file), **options))


def test_keys_are_handed_over_only_where_a_generation_is_not_covered(ca: OpensslCa) -> None:
    older, current = (generation.sha256 for generation in backend(ca).facts().generations)

    def handed_over(check: bool = False, **order: object) -> int:
        files = backend(ca).export_keys(ExportKeys(**{"one_time_password": ONE_TIME, **order}), check).files  # type: ignore[arg-type]
        return sum(len(read(file.content, ONE_TIME).private_keys) for file in files)

    assert handed_over() == handed_over(covered=(older,)) == handed_over(covered=(current,)) == 2
    assert handed_over(covered=(current, older)) == 0
    assert handed_over(check=True) == handed_over(one_time_password=None) == 0
    key = public_key(ca.private_key)
    ca.private_key.unlink()
    assert handed_over() == handed_over(covered=(older,)) == 0, "the current key is nowhere"
    assert handed_over(covered=(current,)) == handed_over(carried=(key,)) == 1


def test_a_key_that_no_bundle_can_hold_is_said_before_a_password_is_there(ca: OpensslCa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ansible_collections.keyward.pki.plugins.module_utils._pkcs12_writer.key_refusal", lambda _key: "it is of another kind"
    )
    for check in (True, False):
        with pytest.raises(KeywardError, match="it is of another kind"):
            backend(ca).export_keys(ExportKeys(), check)


def test_the_chain_goes_along(ca: OpensslCa, tmp_path: Path) -> None:
    above = OpensslCa(tmp_path / "above", name="Above", algorithm="ed25519")
    exported = backend(ca, chain_file=str(above.certificate)).export_keys(ExportKeys(one_time_password=ONE_TIME), False)
    assert len(read(exported.files[0].content, ONE_TIME).certificates) == 3


def test_keys_are_taken_back_whole_or_not_at_all(ca: OpensslCa) -> None:
    generations = backend(ca).facts().generations
    (file,) = backend(ca).export_keys(ExportKeys(one_time_password=ONE_TIME), False).files
    given = GivenFile(ONE_TIME, file.content, file.name, ())
    order = ImportKeys(generations, of=generations[-1].sha256, files=(given,))
    key = public_key(ca.private_key)
    ca.private_key.unlink()
    before = tree(ca.directory)
    for content, password in ((file.content[:-9], ONE_TIME), (b"nothing", ONE_TIME), (file.content, "another password")):
        with pytest.raises(KeywardError, match="the keys did not arrive whole"):
            backend(ca).import_keys(replace(order, files=(replace(given, content=content, password=password),)), False)
    assert backend(ca).import_keys(replace(order, files=()), False).needs == (key,)
    predicted = backend(ca).import_keys(replace(order, files=()), True)
    assert predicted.changed and predicted.needs == () and tree(ca.directory) == before
    done = backend(ca).import_keys(order, False)
    assert done.restored == predicted.restored and public_key(ca.private_key) == key
    assert not backend(ca).import_keys(replace(order, files=()), False).changed


def test_what_was_decided_on_another_certificate_is_not_done(ca: OpensslCa) -> None:
    generations = backend(ca).facts().generations
    order = ImportKeys(generations, of=generations[-1].sha256)
    os.unlink(ca.directory / "private" / "cakey.0.pem")
    before = tree(ca.directory)
    for of in (generations[0].sha256, None):
        with pytest.raises(RenewedMeanwhile, match="was renewed meanwhile"):
            backend(ca).import_keys(replace(order, of=of), False)
    assert tree(ca.directory) == before
    ca.certificate.unlink()
    with pytest.raises(NothingThere):
        backend(ca).import_keys(order, False)
    assert len(backend(ca).import_keys(replace(order, of=None), False).needs) == 1


KEPT_OUT = "user::rw-,user:daemon:r--,group::---,mask::r--,other::---"


@pytest.mark.parametrize("default", [False, True], ids=["", "in a directory with a default ACL"])
def test_a_key_comes_back_to_its_readers_and_to_nobody_else(ca: OpensslCa, default: bool) -> None:
    """With an ACL the group bits of the mode are its mask: the mode alone would let the owning group in."""
    setfacl(ca.private_key, "--set", KEPT_OUT)
    generations = backend(ca).facts().generations
    assert generations[-1].key_place and generations[-1].key_place.acl == KEPT_OUT and generations[-1].key_place.mode == "0640"
    assert Generation.from_json(generations[-1].as_json()) == generations[-1], "a manifest carries it"
    (file,) = backend(ca).export_keys(ExportKeys(one_time_password=ONE_TIME), False).files
    order = ImportKeys(generations, of=generations[-1].sha256, files=(GivenFile(ONE_TIME, file.content, file.name, ()),))
    older = Path(str(generations[0].key_place and generations[0].key_place.path))
    for path in (ca.private_key, older):
        path.unlink()
    if default:
        setfacl(ca.private_key.parent, "-d", "-m", "u:daemon:rw,g:daemon:r")
    assert backend(ca).import_keys(order, False).changed
    assert recorded_acls(str(ca.private_key))["acl"] == KEPT_OUT and recorded_acls(str(older))["acl"] is None
    ca.private_key.unlink()
    gone = replace(generations[-1], key_place=replace(generations[-1].key_place, acl=KEPT_OUT.replace("daemon", "nobody-here")))
    before = tree(ca.directory)
    for check in (True, False):
        with pytest.raises(KeywardError, match="was not restored: there is no user nobody-here here"):
            backend(ca).import_keys(replace(order, generations=(generations[0], gone)), check)
    assert tree(ca.directory) == before


def test_a_key_never_comes_back_to_everybody(ca: OpensslCa) -> None:
    setfacl(ca.private_key, "--set", KEPT_OUT.replace("other::---", "other::r--"))
    generations = backend(ca).facts().generations
    (file,) = backend(ca).export_keys(ExportKeys(one_time_password=ONE_TIME), False).files
    ca.private_key.unlink()
    order = ImportKeys(generations, of=generations[-1].sha256, files=(GivenFile(ONE_TIME, file.content, file.name, ()),))
    assert backend(ca).import_keys(order, False).changed
    assert recorded_acls(str(ca.private_key))["acl"] == KEPT_OUT
