# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

. (Join-Path (Split-Path $PSScriptRoot) Simulation.ps1)

function Export-PfxCertificate {
    [CmdletBinding(SupportsShouldProcess = $true)]
    param(
        [Parameter(Mandatory = $true, ValueFromPipeline = $true)][object[]]$Cert,
        [Parameter(Mandatory = $true, Position = 0)][Alias('FullName')][string]$FilePath,
        [securestring]$Password,
        [string[]]$ProtectTo,
        [ValidateSet('BuildChain', 'EndEntityCertOnly')][string]$ChainOption = 'BuildChain',
        [ValidateSet('TripleDES_SHA1', 'AES256_SHA256')][string]$CryptoAlgorithmOption,
        [switch]$NoProperties, [switch]$NoClobber, [switch]$Force
    )
    begin { $thumbprints = @() }
    process {
        foreach ($each in $Cert) {
            if ($each -is [Security.Cryptography.X509Certificates.X509Certificate2]) { $thumbprints += $each.Thumbprint }
            else { $thumbprints += ("$each" -split '[\\/]')[-1].ToUpperInvariant() }
        }
    }
    end {
        if (-not $PSBoundParameters.ContainsKey('Password') -and -not $ProtectTo) { throw [ArgumentException]::new('Password or ProtectTo is required.') }
        if (-not $PSCmdlet.ShouldProcess($FilePath)) { return }
        $place = $PSCmdlet.GetUnresolvedProviderPathFromPSPath($FilePath)
        try {
            if ($NoClobber -and [IO.File]::Exists($place)) { throw (New-SimulationException 0x80070050 'The file exists.') }
            $content = Invoke-Simulation $MyInvocation @{
                Thumbprints = $thumbprints; Password = $Password; ChainOption = $ChainOption; CryptoAlgorithmOption = $CryptoAlgorithmOption
            }
            [IO.File]::WriteAllBytes($place, [Convert]::FromBase64String($content))
        }
        catch { $PSCmdlet.ThrowTerminatingError([Management.Automation.ErrorRecord]::new($_.Exception, 'ExportPfxCertificate', 'NotSpecified', $null)) }
        [IO.FileInfo]$place
    }
}

function Import-PfxCertificate {
    [CmdletBinding(SupportsShouldProcess = $true)]
    param(
        [Parameter(Mandatory = $true, Position = 0, ValueFromPipelineByPropertyName = $true)][Alias('FullName')][string]$FilePath,
        [Parameter(Position = 1)][string]$CertStoreLocation,
        [securestring]$Password,
        [switch]$Exportable
    )
    if (-not $PSCmdlet.ShouldProcess($FilePath)) { return }
    $place = $PSCmdlet.GetUnresolvedProviderPathFromPSPath($FilePath)
    if ($CertStoreLocation -notmatch '^cert:[\\/]+LocalMachine[\\/]My[\\/]?$') { throw 'an import into this store is not simulated' }
    try {
        if (-not [IO.File]::Exists($place)) { throw (New-SimulationException 0x80070002 'The system cannot find the file specified.') }
        $imported = Invoke-Simulation $MyInvocation @{
            Content = [Convert]::ToBase64String([IO.File]::ReadAllBytes($place)); Password = $Password; Exportable = $Exportable
        }
    }
    catch { $PSCmdlet.ThrowTerminatingError([Management.Automation.ErrorRecord]::new($_.Exception, 'ImportPfxCertificate', 'NotSpecified', $null)) }
    foreach ($thumbprint in $imported) { Get-Item -LiteralPath "Cert:\LocalMachine\My\$thumbprint" }
}

# The drive that the imported certificates are read from.
Import-Module (Join-Path (Split-Path $PSScriptRoot) AdcsSimulation)
