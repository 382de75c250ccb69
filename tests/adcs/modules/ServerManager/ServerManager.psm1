# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

. (Join-Path (Split-Path $PSScriptRoot) Simulation.ps1)

function Test-Installed {
    $switch = (Get-SimulationState switches.json).PSObject.Properties['feature']
    -not ($switch -and $switch.Value -ne 'present')
}

function Get-WindowsFeature {
    [CmdletBinding()]
    param([Parameter(Position = 0)][string[]]$Name)
    foreach ($each in $Name) {
        if ($each -ne 'ADCS-Cert-Authority') { continue }
        $installed = Test-Installed
        $waiting = $installed -and (Get-SimulationState machine.json).restart_pending
        [pscustomobject]@{
            Name = 'ADCS-Cert-Authority'
            DisplayName = 'Certification Authority'
            Installed = $installed -and -not $waiting
            InstallState = if ($waiting) { 'InstallPending' } elseif ($installed) { 'Installed' } else { 'Available' }
            FeatureType = 'Role Service'
        }
    }
}

function Install-WindowsFeature {
    [CmdletBinding(SupportsShouldProcess = $true)]
    param(
        [Parameter(Mandatory = $true, Position = 0)][string[]]$Name, [switch]$IncludeManagementTools, [switch]$IncludeAllSubFeature, [switch]$Restart
    )
    if (-not $PSCmdlet.ShouldProcess($env:COMPUTERNAME)) { return }
    $before = Test-Installed
    $answer = Invoke-Simulation $MyInvocation @{}
    [pscustomobject]@{
        Success = $true
        RestartNeeded = if ($answer.RestartNeeded) { 'Yes' } else { 'No' }
        ExitCode = if ($before) { 'NoChangeNeeded' } elseif ($answer.RestartNeeded) { 'SuccessRestartRequired' } else { 'Success' }
        FeatureResult = if ($before) { @() } else { @([pscustomobject]@{ Name = 'ADCS-Cert-Authority'; Success = $true }) }
    }
}
