# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

. (Join-Path (Split-Path $PSScriptRoot) Simulation.ps1)

function Install-AdcsCertificationAuthority {
    [CmdletBinding(DefaultParameterSetName = 'NewKey', SupportsShouldProcess = $true, ConfirmImpact = 'High')]
    param(
        [ValidateSet('EnterpriseRootCA', 'EnterpriseSubordinateCA', 'StandaloneRootCA', 'StandaloneSubordinateCA')][string]$CAType,
        [string]$DatabaseDirectory,
        [string]$LogDirectory,
        [switch]$OverwriteExistingDatabase,
        [switch]$AllowAdministratorInteraction,
        [pscredential]$Credential,
        [switch]$Force,
        [Parameter(ParameterSetName = 'NewKey')][string]$CACommonName,
        [Parameter(ParameterSetName = 'NewKey')][int]$KeyLength,
        [Parameter(ParameterSetName = 'NewKey')][switch]$IgnoreUnicode,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingCertificate')][switch]$OverwriteExistingKey,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')][string]$CADistinguishedNameSuffix,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')][string]$CryptoProviderName,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')][string]$HashAlgorithmName,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')]
        [ValidateSet('Hours', 'Days', 'Weeks', 'Months', 'Years')][string]$ValidityPeriod,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')][int]$ValidityPeriodUnits,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')][string]$OutputCertRequestFile,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')][string]$ParentCA,
        [Parameter(ParameterSetName = 'NewKey')][Parameter(ParameterSetName = 'ExistingKey')][switch]$OverwriteExistingCAinDS,
        [Parameter(ParameterSetName = 'ExistingCertificate')][string]$CertFile,
        [Parameter(ParameterSetName = 'ExistingCertificate')][securestring]$CertFilePassword,
        [Parameter(ParameterSetName = 'ExistingCertificate')][string]$CertificateID,
        [Parameter(Mandatory = $true, ParameterSetName = 'ExistingKey')][string]$KeyContainerName
    )
    # As in the compatibility session of PowerShell 7, whose preferences nobody sets.
    if (-not $PSBoundParameters.ContainsKey('Confirm')) { throw 'it asks, and nobody answers' }
    if (-not $Force -and -not $PSCmdlet.ShouldProcess($env:COMPUTERNAME)) { return }
    if ($PSCmdlet.ParameterSetName -eq 'ExistingKey') { throw 'an installation from a key alone is not simulated' }
    try { Invoke-Simulation $MyInvocation $PSBoundParameters }
    catch { $PSCmdlet.ThrowTerminatingError([Management.Automation.ErrorRecord]::new($_.Exception, 'ValidateParameters', 'InvalidOperation', $null)) }
}
