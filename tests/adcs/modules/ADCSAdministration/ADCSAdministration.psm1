# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

. (Join-Path (Split-Path $PSScriptRoot) Simulation.ps1)

function Backup-CARoleService {
    [CmdletBinding(DefaultParameterSetName = 'All')]
    param(
        [Parameter(Mandatory = $true, Position = 0)][string]$Path,
        [switch]$Force,
        [Parameter(Mandatory = $true, ParameterSetName = 'Key')][switch]$KeyOnly,
        [Parameter(Mandatory = $true, ParameterSetName = 'Database')][switch]$DatabaseOnly,
        [Parameter(ParameterSetName = 'Key')][Parameter(ParameterSetName = 'All')][securestring]$Password,
        [Parameter(ParameterSetName = 'Database')][Parameter(ParameterSetName = 'All')][switch]$Incremental,
        [Parameter(ParameterSetName = 'Database')][Parameter(ParameterSetName = 'All')][switch]$KeepLog
    )
    try { $null = Invoke-Simulation $MyInvocation $PSBoundParameters }
    catch { $PSCmdlet.ThrowTerminatingError([Management.Automation.ErrorRecord]::new($_.Exception, 'BackupCARoleService', 'NotSpecified', $Path)) }
}

function Restore-CARoleService {
    [CmdletBinding(DefaultParameterSetName = 'All', SupportsShouldProcess = $true)]
    param(
        [Parameter(Mandatory = $true, Position = 0)][string]$Path,
        [switch]$Force,
        [Parameter(Mandatory = $true, ParameterSetName = 'Key')][switch]$KeyOnly,
        [Parameter(Mandatory = $true, ParameterSetName = 'Database')][switch]$DatabaseOnly,
        [Parameter(ParameterSetName = 'Key')][Parameter(ParameterSetName = 'All')][securestring]$Password
    )
    # As in the compatibility session of PowerShell 7, whose preferences nobody sets.
    if (-not $PSBoundParameters.ContainsKey('Confirm')) { throw 'it asks, and nobody answers' }
    if (-not $PSCmdlet.ShouldProcess($Path)) { return }
    try { $null = Invoke-Simulation $MyInvocation $PSBoundParameters }
    catch { $PSCmdlet.ThrowTerminatingError([Management.Automation.ErrorRecord]::new($_.Exception, 'RestoreCARoleService', 'NotSpecified', $Path)) }
}
