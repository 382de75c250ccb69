# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What takes long on a Windows host, what never answers, and keys that are not what others expect. See test_adcs_modules.py."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from adcs.machine import SOFTWARE_KSP
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from support.adcs import AdcsHost, run


@pytest.fixture
def host(tmp_path: Path) -> AdcsHost:
    return AdcsHost(tmp_path / "ca01")


def test_bounds_grow_with_the_database(host: AdcsHost, tmp_path: Path) -> None:
    """Of what copies it, asks it, and waits while its logs are replayed."""
    host.install_by_hand()
    for path, size in ((host.database_file, 6 << 20), (host.log_directory / "edb00009.log", 2 << 20)):
        with path.open("ab") as stream:
            stream.truncate(size)
    script = """
        function Invoke-AdcsCertutil {
            param($ArgumentList, $Limit, $Bytes, $What, [switch]$AllowFailure)
            throw "$Limit $([long]$Bytes -ge 8MB)"
        }
        try { Get-ViewRow -ArgumentList '-out', 'RequestId' -What 'x' } catch { $_.Exception.Message }
        Get-AdcsBound -Limit View -Bytes 0
        Get-AdcsBound -Limit Answer -Bytes (Get-AdcsDatabaseSize)"""
    view, plain, answer = run(host, tmp_path, "_adcs_database", script)
    assert view == "View True" and plain == 600 and 124 <= answer <= 130


def test_what_hangs_in_the_compatibility_session_is_ended_there(host: AdcsHost, tmp_path: Path) -> None:
    """Its powershell.exe alone, and none that was there before."""
    script = """
        $script:asked, $script:ended = @(), @()
        function Get-CimInstance {
            param([string]$ClassName, [string]$Filter)
            $script:asked += "$ClassName $Filter"
            foreach ($pair in @(11, -60), @(12, 5)) {
                [PSCustomObject]@{ ProcessId = $pair[0]; CreationDate = [DateTime]::Now.AddSeconds($pair[1]) }
            }
        }
        function Stop-Process { param([int]$Id, [switch]$Force) $script:ended += $Id }
        $limits.Quick = 1
        try { Invoke-AdcsCmdlet -ScriptBlock { while ($true) { Start-Sleep -Milliseconds 50 } } -Limit Quick -What 'it was tried' }
        catch { $_.Exception.Message }
        $limits.Quick = 60
        $script:ended; $script:asked -replace '=[0-9]+', '=N'"""
    said, ended, asked = run(host, tmp_path, "_adcs_process", script)
    assert said.startswith("it was tried: the provider of the key did not end within 1 seconds.")
    assert ended == 12 and asked == "Win32_Process ParentProcessId=N and Name='powershell.exe'"


def test_an_hsm_that_does_not_answer_costs_its_own_key_alone(host: AdcsHost, tmp_path: Path) -> None:
    host.install_by_hand()
    host.renew_by_hand()
    script = f"""
        function Open-Key {{
            param([object[]]$Certificate)
            if ($Certificate.Thumbprint -contains '{host.generations[0]}') {{
                throw (New-AdcsError -What 'x' -Why 'it did not end' -Remedy 'Wait')
            }}
            [PSCustomObject]@{{ State = 'present'; Exception = $null; Exportable = $true }}
        }}
        $facts = Get-AdcsAuthority -Parameters @{{ name = $null }}
        $facts['generations'] | ForEach-Object {{ $_['private_key'] }}
        $facts['advisories'] | ForEach-Object {{ $_['code'] + ': ' + $_['message'] }}"""
    older, newest, told = run(host, tmp_path, "_adcs_authority", script)
    assert (older, newest) == ("inaccessible", "present")
    assert told.startswith(
        "older_key_inaccessible: the private key of the CA certificate number 0 can't be used: its provider does not answer"
    )
    assert "-verifykeys" not in told


def self_signed(key: Any) -> bytes:
    name, start = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "PQ Root")]), datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=9))
    return builder.sign(key, None).public_bytes(serialization.Encoding.DER)


def test_a_key_that_is_neither_rsa_nor_ec_is_never_called_inaccessible(host: AdcsHost, tmp_path: Path) -> None:
    """ML-DSA on Server 2025: its class is in no .NET that Windows PowerShell has. Ed25519 stands for it, which every library can write."""
    host.install_by_hand()
    key = ed25519.Ed25519PrivateKey.generate()
    host.add_key("PQ", key, SOFTWARE_KSP, 0, True)
    sha1 = host.add_certificate(self_signed(key), "PQ")
    host.set_generations([*host.generations, sha1])
    script = """
        $facts = Get-AdcsAuthority -Parameters @{ name = $null }
        $facts['generations'] | ForEach-Object { $_['private_key'] }
        $facts['advisories'].Count"""
    assert run(host, tmp_path, "_adcs_authority", script) == ["present", "present", 0]


def test_the_key_specification_is_read_from_the_certificate(host: AdcsHost, tmp_path: Path) -> None:
    """In every language; with that of a CSP on a key of a key storage provider no renewal with the same key is begun."""
    host.install_by_hand()
    container = host.container(host.generations[0]) or ""
    script = f"""
        [string](Get-AdcsKeySpec -Thumbprint '{host.generations[0]}')
        try {{ Assert-KeySpec -SanitizedName '{host.active}' -Thumbprint '{host.generations[0]}' -What 'x'; 'may be' }}
        catch {{ $_.Exception.Message }}
        [string]($null -eq (Get-AdcsKeySpec -Thumbprint '{"0" * 40}'))"""
    told = []
    for spec, language in ((0, "en"), (2, "de")):
        host.switch(language=language)
        host.add_key(container, host.key(container), SOFTWARE_KSP, spec, True)
        told += run(host, tmp_path, "_adcs_renewal", script)
    assert told[:4] == ["0", "may be", "True", "2"]
    assert "says KeySpec 2, with which a renewal fails" in told[4] and "KeyProv.inf" in told[4]
