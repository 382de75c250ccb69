# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases of Windows hosts that are not as usual: on a cluster, or not closed. See test_adcs_modules.py."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from support.adcs import AdcsHost, run


@pytest.fixture
def host(tmp_path: Path) -> AdcsHost:
    return AdcsHost(tmp_path / "ca01")


def test_a_clustered_ca_is_copied_where_it_runs(host: AdcsHost, tmp_path: Path) -> None:
    """With its logs: the other nodes' backups may rest on them."""
    host.install_by_hand()
    host.switch(cluster=True)
    (tmp_path / "folder").mkdir()
    script = f"""
        $session = [PSCustomObject]@{{ Parameters = @{{ name = $null }}; Request = @{{}} }}
        $facts = Get-AdcsAuthority -Parameters $session.Parameters
        $of = Get-AdcsDigest (ConvertFrom-AdcsPem -Text $facts['generations'][0]['certificate'] -What 'x').RawData
        foreach ($truncate in $true, $false) {{
            $session.Request = @{{ order = 'database.copy'; folder = '{tmp_path / "folder"}'; of = $of; truncate_logs = $truncate }}
            try {{
                $made = (Backup-AdcsDatabase -Session $session)["files"]
                @($made | Where-Object {{ $_["name"] -like "*.edb" }}).Count
            }}
            catch {{ $_.Exception.Message }}
        }}
        Stop-Service CertSvc
        try {{ Backup-AdcsDatabase -Session $session }} catch {{ $_.Exception.Message }}"""
    truncated, copied, elsewhere = run(host, tmp_path, "_adcs_database_backup", script)
    assert "(truncate_logs): the CA is a resource of a failover cluster" in truncated and copied == 1
    assert "does not run on this node. Run the task on the node that the CA runs on" in elsewhere
    (call,) = host.ran("Backup-CARoleService")
    assert call["parameters"]["KeepLog"]


def test_a_database_that_was_not_closed_is_recognised(host: AdcsHost, tmp_path: Path) -> None:
    """A raw copy of a running one: Windows says no more than that the service does not answer."""
    host.install_by_hand()
    host.stop()
    script = f"""
        [string](Test-AdcsNotClosed -Directory '{host.database_directory}')
        (New-StartError -What 'x').Data['Code']
        $session = [PSCustomObject]@{{ Parameters = @{{ name = $null }}; Request = @{{ order = 'look' }} }}
        $told = & (Get-Module _adcs_database_restore) {{ param($session) Restore-AdcsDatabase -Session $session }} $session
        [string]$told['advisories'].Count
        $told['advisories'] | ForEach-Object {{ $_['code'] + ': ' + $_['message'] }}"""
    found = []
    for state in (3, 2):  # JET_dbstateCleanShutdown, JET_dbstateDirtyShutdown
        host.database_file.write_bytes(struct.pack("<II44xI", 0x12345678, 0x89ABCDEF, state) + b"\0" * 4096)
        found.append(run(host, tmp_path, "_adcs_service", script))
    clean, (dirty, code, count, told) = found
    assert clean == ["False", "", "0"] and (dirty, code, count) == ("True", "0xC8000226", "1")
    assert told.startswith("database_not_closed: the database in ") and "esentutl /r edb" in told and "esentutl /p" in told


def test_crls_are_published_beyond_the_last_that_clients_have(host: AdcsHost, tmp_path: Path) -> None:
    """Unless a revocation is missing, which a CRL with a higher number would take back; or where too many would be needed."""
    host.install_by_hand()
    script = """
        $session = [PSCustomObject]@{ Parameters = @{ name = $null } }
        foreach ($case in @(4, 1), @(4, 0), @(900, 0), @(1, 0), @($null, 0)) {
            $result = @{ changed = $false; state = 1; failed_revocations = @(1..9 | Select-Object -First $case[1]); not_entered = @() }
            Publish-AdcsBeyond -Session $session -Wanted @{ crl_beyond = $case[0] } -Result $result -What 'x'
            (Get-AdcsDatabaseState -Facts (Get-AdcsAuthority -Parameters $session.Parameters) -What 'x')['next_crl_number']
        }"""
    assert run(host, tmp_path, "_adcs_late", script) == [2, 6, 6, 6, 6]
