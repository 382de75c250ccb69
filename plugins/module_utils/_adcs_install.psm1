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
        What ca_install asks of a Windows host: facts, a new CA, the answer to its request, or a CA that is brought back with keys that are in My.
    .OUTPUTS
        The facts with changed, pending, request and request_file, and reboot_required where nothing goes on before that; for the restore request
        of ca_key_restore, its answer.
    .NOTES
        https://learn.microsoft.com/powershell/module/adcsdeployment/install-adcscertificationauthority
    #>
    param([object]$Session)
    $what = 'nothing was installed'
    $request = $Session.Request
    $install, $recreate, $directory = $request['install'], $request['recreate'], [string]$request['directory']
    if ($request['restore']) { return Import-AdcsKey -Session $Session }
    if (-not $install -and -not $recreate) { return Get-AdcsAnswer -Session $Session -Changed $false }
    $facts = $null
    try {
        $facts = Get-AdcsAnswer -Session $Session -Changed $false
    }
    catch {
        if (-not (Test-AdcsNothingThere $_)) { throw }
    }
    Assert-AdcsNotClustered -What $what
    if ($facts) {
        if ($install -and $install['certificate']) {
            if ($Session.Check) { return $facts }
            $lock = Enter-AdcsLock -What $what
            try {
                return Install-AdcsAnswer -Session $Session -Text $install['certificate'] -Of $install['of'] -What $what
            }
            finally {
                $lock.Dispose()
            }
        }
        if ($install -and $facts['pending']) { return $facts }
        if ($recreate -and @(Get-AdcsThumbprint -SanitizedName $facts['authority']['sanitized_name']) -contains $recreate['certificate_id']) { return $facts }
        $why = "the CA $($facts['authority']['name']) is configured on this host"
        throw (New-AdcsError -What $what -Why $why -Remedy 'Windows runs one CA on a host; name this one, or take another host')
    }
    $nothing = [ordered]@{
        changed = $true; pending = [bool]($install -and $install['kind'] -eq 'subordinate'); authority = $null; generations = [object[]]@()
        request = $null; request_file = $null; advisories = [object[]]@()
    }
    if ($install -and $install['certificate']) {
        throw (New-AdcsError -What $what -Why 'no request of a CA waits for a certificate on this host' -Remedy 'Leave certificate out, and a request is made')
    }
    if ($Session.Check) { return $nothing }
    $lock = Enter-AdcsLock -What $what
    try {
        $feature = Install-AdcsFeature -What $what
        if ($feature.reboot_required) {
            $nothing['changed'], $nothing['pending'], $nothing['reboot_required'] = $feature.changed, $false, $true
            return $nothing
        }
        $note = $null
        if ($recreate) {
            Assert-AdcsKeyInStore -Thumbprint $recreate['certificate_id'] -What $what
            $database = if ($directory) { $directory } else { Get-AdcsSystemPath -Name 'CertLog' }
            $aside = Move-AdcsDatabase -Directory $database -Label 'set-aside' -Time (Get-AdcsTime -Format 'yyyyMMddTHHmmssZ') -What $what
            $parameters = @{ CAType = $recreate['ca_type']; CertificateID = $recreate['certificate_id'] }
            Add-AdcsDatabaseParameter -Parameters $parameters -Database $directory -Log $directory
            Invoke-AdcsSetup -Parameters $parameters -What $what
        }
        else {
            $note = Install-NewAuthority -Wanted $install -Directory $directory -What $what
            $aside = $null
        }
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
    if ($note) { Add-AdcsAdvisory -Facts $answer -Code 'unfinished_installation' -Message "an installation that was stopped is $note" }
    if ($aside) { Add-AdcsAdvisory -Facts $answer -Code 'database_set_aside' -Message "a database that lay in $($aside.path) was kept as $($aside.kept_as)" }
    $answer
}

function Install-NewAuthority {
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
        # A root that was made and not configured: a stopped installation, finished with the same key.
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
    Invoke-AdcsSetup -Parameters $parameters -What $What
    if ($parameters.Contains('CertificateID')) { 'finished with the key and the certificate that were there' }
}

function Get-LeftCertificate {
    # CA certificates of a common name in My, with their keys: what a stopped installation or an earlier CA left.
    param([string]$CommonName)
    foreach ($one in @(Get-AdcsCertificate -All)) {
        $simple = $one.GetNameInfo([Security.Cryptography.X509Certificates.X509NameType]::SimpleName, $false)
        if ($one.HasPrivateKey -and $simple -eq $CommonName -and (Test-AdcsCaCertificate -Certificate $one)) { $one }
    }
}

Export-ModuleMember -Function 'Install-AdcsAuthority'
