# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
<#
.SYNOPSIS
    Asks a real CA that waits for its certificate what -installCert does while the CRL of the CA above is offline: question 16. Prints JSON.
.PARAMETER Certificate
    The certificate that answers its request, PEM in base64.
#>
param([Parameter(Mandatory = $true)][string]$Certificate)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$configuration = 'HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'
$certutil = Join-Path -Path (Join-Path -Path $env:SystemRoot -ChildPath 'System32') -ChildPath 'certutil.exe'
$file = Join-Path -Path $env:TEMP -ChildPath ('keyward-' + [guid]::NewGuid().ToString('N') + '.crt')
[IO.File]::WriteAllBytes($file, [Convert]::FromBase64String($Certificate))

function Get-Setup {
    # 9: it waits; 1: it has its certificate.
    $active = (Get-ItemProperty -Path $configuration).Active
    (Get-ItemProperty -Path "$configuration\$active").SetupStatus
}

$found = [ordered]@{}
foreach ($options in '-silent', '-f -silent') {
    if ((Get-Setup) -eq 1) { break }
    $start = New-Object -TypeName System.Diagnostics.ProcessStartInfo
    $start.FileName = $certutil
    $start.Arguments = "$options -installCert `"$file`""
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $process = [System.Diagnostics.Process]::Start($start)
    $process.StandardInput.Close()
    $output = $process.StandardOutput.ReadToEndAsync()
    $ended = $process.WaitForExit(180000)
    if (-not $ended) {
        $process.Kill()
        $null = $process.WaitForExit(10000)
    }
    $code = if ($ended) { '0x{0:X8}' -f $process.ExitCode } else { $null }
    $found[$options] = [ordered]@{
        ended = $ended; exit = $code; SetupStatus = Get-Setup
        codes = @([regex]::Matches("$($output.Result)", '0x[0-9A-Fa-f]{8}') | ForEach-Object { $_.Value } | Select-Object -Unique)
    }
}
Remove-Item -Path $file
ConvertTo-Json -InputObject $found -Depth 4
