# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: a CA is installed on Windows, or brought back with its keys; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_keys
#AnsibleRequires -PowerShell ..module_utils._adcs_service
#AnsibleRequires -PowerShell ..module_utils._adcs_setup
#AnsibleRequires -PowerShell ..module_utils._adcs_renewal

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Install-AdcsAuthority {
    <#
    .SYNOPSIS
        What ca_install asks of a Windows host: facts, a new CA, the answer to its request, or a CA that is brought back from its keys.
    .PARAMETER Session
        Its request: order (look, install or answer). An installation has own: {kind, common_name, subject_suffix, provider, key_length, hash, days};
        with keys (see Import-AdcsKey) own is {certificate_id: SHA-1, ca_type}. An answer has certificate (PEM).
    .OUTPUTS
        The facts with changed, pending, request and request_file, and reboot_required where nothing goes on before that; imported: the answer
        to keys.
    .NOTES
        https://learn.microsoft.com/powershell/module/adcsdeployment/install-adcscertificationauthority
    #>
    param([object]$Session)
    $what = 'nothing was installed'
    $request = $Session.Request
    if ($request['order'] -eq 'look') { return Get-AdcsAnswer -Session $Session -Changed $false }
    Assert-AdcsNotClustered -What $what
    if ($request['order'] -eq 'answer') { return Install-FirstAnswer -Session $Session -What $what }
    $imported = if ($request['keys']) {
        Import-AdcsKey -Session ([PSCustomObject]@{ Parameters = $Session.Parameters; Request = $request['keys']; Check = $Session.Check })
    }
    if ($Session.Check) {
        return [ordered]@{ changed = $true; pending = $request['own']['kind'] -eq 'subordinate'; imported = $imported }
    }
    $lock = Enter-AdcsLock -What $what
    try {
        $there = Get-Configured -Session $Session -What $what
        if ($there) { return $there }
        $feature = Install-AdcsFeature -What $what
        if ($feature.reboot_required) {
            $changed = $feature.changed -or ($imported -and $imported['changed'])
            return [ordered]@{ changed = [bool]$changed; reboot_required = $true; imported = $imported }
        }
        $directory = [string]$Session.Parameters['directory']
        $advisory = if ($request['keys']) { Restore-Authority -Wanted $request['own'] -Directory $directory -What $what }
        else { Install-NewAuthority -Wanted $request['own'] -Directory $directory -What $what }
        $answer = Get-AdcsAnswer -Session $Session -Changed $true
        if (-not $answer['pending']) {
            $running = 'the CA is configured, but its service is not at work'
            Start-AdcsService -What $running
            Wait-AdcsPing -What $running
            $answer = Get-AdcsAnswer -Session $Session -Changed $true
        }
    }
    finally {
        $lock.Dispose()
    }
    $distrust = if (-not $answer['pending']) { Get-AdcsDistrust -Facts $answer }
    if ($distrust) { Add-AdcsAdvisory -Facts $answer -Code $distrust.code -Message $distrust.message }
    if ($advisory) { Add-AdcsAdvisory -Facts $answer -Code $advisory.code -Message $advisory.message }
    $answer['imported'] = $imported
    $answer
}

function Get-Configured {
    # The facts of a CA that another task made since the look and that waits for its certificate; throws for one that already works.
    param([object]$Session, [string]$What)
    try {
        $facts = Get-AdcsAnswer -Session $Session -Changed $false
    }
    catch {
        if (Test-AdcsNothingThere $_) { return }
        throw
    }
    if ($facts['pending'] -and -not $facts['generations'].Count) { return $facts }
    $why = "the CA $($facts['authority']['name']) is configured on this host"
    throw (New-AdcsError -What $What -Why $why -Remedy 'Windows runs one CA on a host; name this one, or take another host' -RenewedMeanwhile)
}

function Install-FirstAnswer {
    param([object]$Session, [string]$What)
    if ($Session.Check) { return [ordered]@{ changed = $true } }
    $lock = Enter-AdcsLock -What $What
    try {
        Install-AdcsAnswer -Session $Session -Text $Session.Request['certificate'] -Of $Session.Request['of'] -What $What
    }
    finally {
        $lock.Dispose()
    }
}

function Restore-Authority {
    # Configures the role with keys that are in My. Keeps a database aside that lies in its place. -> advisories {code, message}.
    param([System.Collections.IDictionary]$Wanted, [string]$Directory, [string]$What)
    Assert-AdcsKeyInStore -Thumbprint $Wanted['certificate_id'] -What $What
    $type = Get-AdcsTypeToInstall -Wanted $Wanted -What $What
    $database = if ($Directory) { $Directory } else { Get-AdcsSystemPath -Name 'CertLog' }
    $aside = Move-AdcsDatabase -Directory $database -Label 'set-aside' -Time (Get-AdcsTime -Format 'yyyyMMddTHHmmssZ') -What $What
    $parameters = @{ CAType = $type; CertificateID = $Wanted['certificate_id'] }
    Add-AdcsDatabaseParameter -Parameters $parameters -Database $Directory -Log $Directory
    Invoke-AdcsSetup -Parameters $parameters -Account $Wanted['account'] -What $What
    if ($aside) { @{ code = 'database_set_aside'; message = "a database that lay in $($aside.path) was kept as $($aside.kept_as)" } }
}

function Install-NewAuthority {
    # Finishes an interrupted installation with its own key. -> advisories {code, message}.
    param([System.Collections.IDictionary]$Wanted, [string]$Directory, [string]$What)
    $database = if ($Directory) { $Directory } else { Get-AdcsSystemPath -Name 'CertLog' }
    $left = @(Get-AdcsDatabaseFile -Directory $database | Where-Object { [IO.Path]::GetExtension($_) -eq '.edb' })
    if ($left.Count) {
        $why = "the database of a CA lies in $database"
        throw (New-AdcsError -What $What -Why $why -Remedy 'Bring that CA back from its backup, or move its files to another place, and keep them')
    }
    $enroll = Get-AdcsSystemPath -Name 'CertSrv', 'CertEnroll'
    $certificates = @(Get-LeftCertificate -CommonName $Wanted['common_name'])
    $parameters = @{}
    if ($certificates.Count) {
        $one = $certificates[0]
        $used = [IO.Directory]::Exists($enroll) -and @([IO.Directory]::GetFiles($enroll, '*.crl')).Count -gt 0
        $whole = $certificates.Count -eq 1 -and -not $used -and $Wanted['kind'] -eq 'root' -and $one.NotAfter -gt [DateTime]::Now
        if (-not $whole -or $one.Subject -ne $one.Issuer -or (Get-AdcsCaVersion -Certificate $one) -gt 0) {
            $why = 'CA certificates of this name lie in the store My, with their keys: ' + (($certificates | ForEach-Object { $_.Thumbprint }) -join ', ')
            throw (New-AdcsError -What $What -Why $why -Remedy 'Bring that CA back from its backup, or take them away, once they are backed up')
        }
        # A root certificate without a configured CA: an interrupted installation. Finish it with the same key.
        $parameters = @{ CAType = 'StandaloneRootCA'; CertificateID = $one.Thumbprint }
    }
    else {
        $parameters = @{
            CAType = if ($Wanted['kind'] -eq 'root') { 'StandaloneRootCA' } else { 'StandaloneSubordinateCA' }
            CACommonName = $Wanted['common_name']
            CryptoProviderName = $Wanted['provider']
            KeyLength = [int]$Wanted['key_length']
            HashAlgorithmName = $Wanted['hash']
        }
        if ($Wanted['subject_suffix']) { $parameters['CADistinguishedNameSuffix'] = $Wanted['subject_suffix'] }
        if ($Wanted['kind'] -eq 'root') {
            $parameters['ValidityPeriod'] = 'Days'
            $parameters['ValidityPeriodUnits'] = [int]$Wanted['days']
        }
        else {
            if (-not [IO.Directory]::Exists($enroll)) { $null = [IO.Directory]::CreateDirectory($enroll) }
            $plain = -join ($Wanted['common_name'].ToCharArray() | ForEach-Object { if ($_ -match '[A-Za-z0-9 ._-]') { $_ } else { '_' } })
            $path = Join-Path -Path $enroll -ChildPath "$plain.req"
            if ([IO.File]::Exists($path)) { $path = Join-Path -Path $enroll -ChildPath "$plain-$(Get-AdcsTime -Format 'yyyyMMddTHHmmssZ').req" }
            $parameters['OutputCertRequestFile'] = $path
        }
    }
    Add-AdcsDatabaseParameter -Parameters $parameters -Database $Directory -Log $Directory
    Invoke-AdcsSetup -Parameters $parameters -Account $Wanted['account'] -What $What
    if ($parameters.Contains('CertificateID')) {
        @{ code = 'unfinished_installation'; message = 'an installation that was stopped is finished with the key and the certificate that were there' }
    }
}

function Get-LeftCertificate {
    # CA certificates of a common name in My, with their keys: left by an interrupted installation or an earlier CA.
    param([string]$CommonName)
    foreach ($one in @(Get-AdcsCertificate -All)) {
        $simple = $one.GetNameInfo([Security.Cryptography.X509Certificates.X509NameType]::SimpleName, $false)
        if ($one.HasPrivateKey -and $simple -eq $CommonName -and (Test-AdcsCaCertificate -Certificate $one)) { $one }
    }
}

Export-ModuleMember -Function 'Install-AdcsAuthority'
