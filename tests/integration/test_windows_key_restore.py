# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that come back to simulated Windows hosts, in part or as a whole, and what is refused."""

from __future__ import annotations

from pathlib import Path

from support.adcs import AdcsHost, WindowsAnsible, acting, gaze, on, play_freely
from support.plays import PASSWORD, backups, codes, failure, looked, manifest, step


def test_lost_keys_come_back(windows: WindowsAnsible, tmp_path: Path) -> None:
    hosts = {name: AdcsHost(tmp_path / name) for name in ("lost", "bare", "stuck", "spec")}
    lost, bare, stuck, spec = hosts.values()
    for host in (lost, bare, stuck):
        host.install_by_hand("Ex'ample CA")
        host.renew_by_hand(reuse_key=True)
        host.renew_by_hand()
    lost.switch(bundle_holds="newest")  # one file of three brings back what is lost
    bare.switch(language="de", exceptions="wrapped", pfx_algorithm="aes")
    stuck.switch(import_makes_exportable=False)
    spec.install_by_hand(CryptoProviderName="Microsoft Strong Cryptographic Provider", KeyLength=2048)
    before = {name: host.generations for name, host in hosts.items()}

    kept = {"stores": ["{{ store }}"], "password": PASSWORD}
    lose = acting("lost", "remove_certificate(host.generations[0], key_too=True)")
    restore = step("ca_key_restore", "restore", **kept)
    tasks = [
        step("ca_store", "init", path="{{ store }}", kind="keys"),
        step("ca_key_backup", "backup", **kept),
        *on(
            "lost",
            lose,
            gaze("before", lost, tmp_path / "stores" / "lost"),
            step("ca_info", "info"),
            step("ca_key_restore", "check", check=True, **kept),
            gaze("after check", lost, tmp_path / "stores" / "lost"),
            restore,
            gaze("after restore", lost, tmp_path / "stores" / "lost"),
            step("ca_key_restore", "check again", check=True, **kept),
            step("ca_key_restore", "restore again", **kept),
            gaze("after all", lost, tmp_path / "stores" / "lost"),
        ),
        *on("bare", acting("lost", "lose()"), restore, step("ca_key_restore", "restore again", **kept)),
        *on("stuck", lose, restore),
        *on("spec", lose, restore),
    ]
    result = play_freely(windows, tasks, {name: host.variables(store=str(tmp_path / "stores" / name)) for name, host in hosts.items()})

    (backup,) = backups(tmp_path / "stores" / "lost")
    digests = [generation["fingerprints"]["sha256"] for generation in manifest(backup)["generations"]]
    assert looked(result, "before", "lost") == looked(result, "after check", "lost")
    assert looked(result, "after restore", "lost") == looked(result, "after all", "lost")
    info = result.task("info", "lost")
    assert [(each["index"], each["private_key"]) for each in info["generations"]] == [(1, "missing"), (2, "present")]
    assert (
        codes(info["advisories"]) == ["certificate_missing_on_host", "older_key_missing_on_host"]
        and before["lost"][0] in info["advisories"][0]["message"]
    )
    for name, was in (("check", True), ("restore", True), ("check again", False), ("restore again", False)):
        one = result.task(name, "lost")
        assert one["changed"] is was, name
        restored = [("certificate", digests[0]), ("private_key", digests[0]), ("private_key", digests[1])] if was else []
        assert [(each["kind"], each["certificate"]) for each in one["restored"]] == restored, name
        assert not {"not_exportable", "key_storage_changed"} & set(codes(one["advisories"]))
    # Two executions of ca_info: the CA, then its CRLs. Two of a restore: who is there, then what is missing. One of three files has it all.
    assert lost.executions == 3 + 2 + 4 * 2 and len(lost.ran("Import-PfxCertificate")) == 1
    assert all(call["parameters"]["Exportable"] is True for call in lost.ran("Import-PfxCertificate"))
    for name, host in hosts.items():
        assert result.task("restore", name)["changed"] and result.task("restore", name)["restorable"], name
        assert all(host.certificate(sha1) and host.has_key(sha1) for sha1 in before[name]), name
        assert not list((host.system_root / "Temp").iterdir()), name
    assert result.task("restore again", "bare")["changed"] is False and bare.active is None
    assert len(bare.ran("Import-PfxCertificate")) == 1

    # The file that was imported also has a key that was still there: it may no longer leave either.
    advised = [each for each in result.task("restore", "stuck")["advisories"] if each["code"] == "not_exportable"]
    generations = result.task("restore", "stuck")["generations"]
    assert [each["certificate"] for each in advised] == [each["fingerprints"]["sha256"] for each in generations]
    assert "the next key backup will fail" in advised[0]["message"]
    (moved,) = (each for each in result.task("restore", "spec")["advisories"] if each["code"] == "key_storage_changed")
    assert "key_spec is 1 and was 2" in moved["message"]
    (backup,) = backups(tmp_path / "stores" / "spec")
    assert manifest(backup)["generations"][0]["key_storage"]["key_spec"] == 2


def test_what_is_not_restored(windows: WindowsAnsible, tmp_path: Path) -> None:
    hosts = {name: AdcsHost(tmp_path / name) for name in ("foreign", "truncated", "wrong", "old", "file")}
    files = {}
    for name, host in hosts.items():
        host.install_by_hand()
        host.renew_by_hand()
        host.switch(pfx_algorithm="aes", imports_aes=name != "old")
        host.backup_key(host.state / "by-hand", PASSWORD, force=False)
        (files[name],) = (host.state / "by-hand").glob("*.p12")
        if name != "foreign":
            host.remove_certificate(host.generations[0], key_too=True)
    other = AdcsHost(tmp_path / "other")
    other.install_by_hand("Other CA")
    other.backup_key(other.state / "by-hand", PASSWORD, force=False)
    (files["foreign"],) = (other.state / "by-hand").glob("*.p12")
    files["truncated"].write_bytes(files["truncated"].read_bytes()[:-200])
    password = {"wrong": "not the password of it"}
    result = play_freely(
        windows,
        [step("ca_key_restore", "restore", fails=True, backup="{{ file }}", password="{{ password }}")],
        {name: host.variables(file=str(files[name]), password=password.get(name, PASSWORD)) for name, host in hosts.items()},
    )
    for name, reason in (("foreign", "foreign_authority"), ("truncated", "malformed"), ("wrong", "password_wrong")):
        message = failure(result, "restore", name)
        assert message.startswith("nothing was restored: "), message
        assert codes(result.task("restore", name)["reasons"]) == [reason], message
        # Nothing of the bundle went to the host.
        assert hosts[name].executions == 1 and not hosts[name].ran("Import-PfxCertificate"), name
    assert "it is damaged" in failure(result, "restore", "truncated") and "CN=Other CA" in failure(result, "restore", "foreign")
    assert "this version of Windows can not read its encryption" in failure(result, "restore", "old")
    assert not hosts["old"].has_key(hosts["old"].generations[0])
    # A file that was made by hand, without a manifest, brings the key back as well.
    done = result.task("restore", "file")
    assert done["changed"] and done["backup"]["id"] is None
    assert all(hosts["file"].has_key(sha1) for sha1 in hosts["file"].generations)
    for name, host in hosts.items():
        assert not list((host.system_root / "Temp").iterdir()), name
