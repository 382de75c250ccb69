# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
<#
.SYNOPSIS
    Lets the standalone CA of this host issue one certificate, and revokes it.
.PARAMETER Issue
    Issues one; its serial number goes into this file.
.PARAMETER Revoke
    Revokes the certificate whose serial number is in this file.
.PARAMETER Record
    Changes nothing; writes the rows of the database into this file.
.PARAMETER Compare
    Changes nothing; fails unless the rows of the database are those in this file.
#>
param([string]$Issue, [string]$Revoke, [string]$Record, [string]$Compare)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Continue'  # the streams of programs are no errors

function Invoke-Program {
    # Its output; fails unless it ends with 0.
    param([string]$Name, [string[]]$Argument)
    $output = & $Name @Argument 2>&1 | Out-String
    if ($LASTEXITCODE -ne 0) { throw "$Name $($Argument -join ' ') ended with ${LASTEXITCODE}: $output" }
    $output
}

if ($Record -or $Compare) {
    $rows = (Invoke-Program certutil.exe @('-view', '-out', 'RequestId,Disposition,SerialNumber', 'csv')).Trim()
    $rows
    if ($Record) { [IO.File]::WriteAllText($Record, $rows) }
    elseif ($rows -ne [IO.File]::ReadAllText($Compare)) { throw "the database held before:`n$([IO.File]::ReadAllText($Compare))" }
    return
}
$active = (Get-ItemProperty -Path HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration).Active
$name = (Get-ItemProperty -Path "HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration\$active").CommonName
$config = "$env:COMPUTERNAME\$name"
if ($Revoke) {
    $serial = [IO.File]::ReadAllText($Revoke).Trim()
    $null = Invoke-Program certutil.exe @('-config', $config, '-revoke', $serial, '1')
    return "$serial is revoked"
}
$work = Join-Path -Path $env:TEMP -ChildPath ('keyward-use-' + [guid]::NewGuid().ToString('N'))
$null = New-Item -ItemType Directory -Path $work
$information, $request, $certificate = 'request.inf', 'request.req', 'certificate.cer' | ForEach-Object { Join-Path -Path $work -ChildPath $_ }
$lines = '[Version]', 'Signature="$Windows NT$"', '[NewRequest]', 'Subject="CN=www.example.com"', 'KeyLength=2048', 'MachineKeySet=TRUE'
[IO.File]::WriteAllLines($information, [string[]]$lines)
$null = Invoke-Program certreq.exe @('-q', '-f', '-new', $information, $request)
# A standalone CA lets each request wait for a person.
$said = & certreq.exe -q -f -submit -config $config $request $certificate 2>&1 | Out-String
$found = [regex]::Match($said, ':\s*"?([0-9]+)"?')
if (-not $found.Success) { throw "certreq -submit names no request: $said" }
$id = $found.Groups[1].Value
$null = Invoke-Program certutil.exe @('-config', $config, '-resubmit', $id)
$null = Invoke-Program certreq.exe @('-q', '-f', '-retrieve', '-config', $config, $id, $certificate)
$issued = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList $certificate
[IO.File]::WriteAllText($Issue, $issued.SerialNumber)
Write-Output -InputObject "request $id was issued as $($issued.SerialNumber)"
