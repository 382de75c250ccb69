# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
<#
.SYNOPSIS
    Takes the CA of a throw-away machine away: configuration, certificates with their keys, database, CRLs. Elevated.
.DESCRIPTION
    The feature stays: removing it takes a restart, which a runner does not survive.
#>
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$configuration = 'HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'
$active = (Get-ItemProperty -Path $configuration).Active
$thumbprints = @((Get-ItemProperty -Path "$configuration\$active").CACertHash | ForEach-Object { ($_ -replace '[^0-9A-Fa-f]', '').ToUpperInvariant() })
Stop-Service -Name CertSvc -Force
Uninstall-AdcsCertificationAuthority -Force
foreach ($store in 'My', 'CA', 'Root') {
    foreach ($thumbprint in $thumbprints) {
        $path = "Cert:\LocalMachine\$store\$thumbprint"
        if (-not (Test-Path -Path $path)) { continue }
        # Two certificates may share a key: the second time it is gone already.
        if ($store -eq 'My') { try { Remove-Item -Path $path -DeleteKey } catch { Write-Warning -Message "${path}: $($_.Exception.Message)" } }
        if (Test-Path -Path $path) { Remove-Item -Path $path }
    }
}
foreach ($parts in @('CertLog'), @('CertSrv', 'CertEnroll')) {
    $directory = Join-Path -Path $env:SystemRoot -ChildPath 'System32'
    foreach ($part in $parts) { $directory = Join-Path -Path $directory -ChildPath $part }
    if (Test-Path -Path $directory) { Get-ChildItem -Path $directory -Force | Remove-Item -Recurse -Force }
}
$left = @($thumbprints | Where-Object { Test-Path -Path "Cert:\LocalMachine\My\$_" })
if ($left.Count) { throw "still in the store My: $($left -join ', ')" }
if (Get-ItemProperty -Path $configuration -Name Active -ErrorAction SilentlyContinue) { throw 'a CA is still configured' }
'The CA is gone: ' + ($thumbprints -join ', ')
