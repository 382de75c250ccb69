# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: what came after a set is entered again into the database of a Windows CA; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_database

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Add-AdcsLate {
    # Enters certificates again that the CA issued after the set was made: only what has a row can be revoked.
    param([System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$Directory, [string]$What)
    foreach ($one in @($Wanted['issued'] | Where-Object { $_ })) {
        $serial = [string]$one['serial']
        if (Test-AdcsSerial -Serial $serial -What $What) { continue }
        $file = Join-Path -Path $Directory -ChildPath "late-$serial.crt"
        Write-AdcsNewFile -Path $file -Content ([Convert]::FromBase64String($one['content']))
        $answer = Invoke-AdcsCertutil -ArgumentList '-f', '-importCert', $file -Limit Quick -What $What -AllowFailure
        if (-not $answer.TimedOut -and $answer.ExitCode -eq 0) {
            $null = $Result.entered.Add($serial)
            $Result.changed = $true
            $Result.state = $null
        }
        else {
            $null = $Result.not_entered.Add([ordered]@{ serial = $serial; code = $answer.Code })
        }
    }
}

function Invoke-AdcsRevocation {
    # Enters again what a published CRL shows and the restored database does not, with the reason and the moment that the CRL has.
    # https://learn.microsoft.com/windows/win32/api/certadm/nf-certadm-icertadmin-revokecertificate
    param([System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$What)
    $active = [string](Get-AdcsSetting -Name 'Active')
    $config = "$(Get-AdcsSetting -Name 'CAServerName' -Below $active)\$(Get-AdcsSetting -Name 'CommonName' -Below $active)"
    $styles = [Globalization.DateTimeStyles]'AssumeUniversal, AdjustToUniversal'
    $entries = @(foreach ($one in @($Wanted['revoke'])) {
            $at = [DateTime]::Parse([string]$one['at'], [Globalization.CultureInfo]::InvariantCulture, $styles)
            @{ serial = [string]$one['serial']; reason = [int]$one['reason']; at = $at }
        })
    $parameters = @{ Config = $config; Wanted = $entries }
    $done = @(Invoke-AdcsCmdlet -What $What -Limit Command -Parameters $parameters -ScriptBlock {
            param([string]$Config, [object[]]$Wanted)
            $null = Get-Service -Name CertSvc  # a simulated host gets its interfaces by this
            $admin = New-Object -ComObject CertificateAuthority.Admin
            foreach ($one in $Wanted) {
                $failure = $null
                try { $null = $admin.RevokeCertificate($Config, $one.serial, $one.reason, $one.at) } catch { $failure = $_.Exception }
                New-Object -TypeName PSObject -Property @{ Serial = $one.serial; Exception = $failure }
            }
        })
    foreach ($one in $done) {
        if ($one.Exception) {
            $null = $Result.failed_revocations.Add([ordered]@{ serial = [string]$one.Serial; code = Get-AdcsHResult $one.Exception })
            continue
        }
        $null = $Result.reentered.Add([string]$one.Serial)
        $Result.changed = $true
    }
    $Result.state = $null
}

function Publish-AdcsBeyond {
    # Publishes CRLs until theirs have a higher number than the last that clients have: AD CS counts them itself, one by one. Not while a revocation
    # is missing, which a higher number would take back, and not where more than a hundred would be needed: then a person decides.
    param([object]$Session, [System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$What)
    if ($null -eq $Wanted['crl_beyond'] -or $Result.failed_revocations.Count -or $Result.not_entered.Count) { return }
    $state = Get-AdcsDatabaseState -Facts (Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress) -What $What
    $left = [long]$Wanted['crl_beyond'] - [long]$state['next_crl_number'] + 2
    if ($left -gt 100 -or $left -lt 2) { return }
    for ($at = 0; $at -lt $left; $at++) {
        $null = Invoke-AdcsCertutil -ArgumentList '-CRL' -Limit Publish -Bytes (Get-AdcsDatabaseSize) -What 'the database is restored, and its CRLs are not published'
    }
    $Result.changed = $true
    $Result.state = $null
}

Export-ModuleMember -Function 'Add-AdcsLate', 'Invoke-AdcsRevocation', 'Publish-AdcsBeyond'
