# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: a Windows CA's keys, out of the host and back into it; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_service

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$personalStore = 'Cert:\LocalMachine\My'
# Error codes of an export where the key can't be exported from its provider (PFXExportCertStoreEx).
$cannotLeave = '0x80090003', '0x8009000B', '0x80090010', '0x80090029'
# Where the keys are to be exported one by one.
$keyIsMissing = '0x8009000D', '0x80090016'
$serviceIsDown = '0x80070422', '0x80070426', '0x800706BA'
# The service refuses an account that holds two CA roles; the keys can still be exported from the computer's store.
$rolesAreSeparate = '0x80094008'

# --- backup ----------------------------------------------------------------------------------------------------------

function Export-AdcsKey {
    <#
    .SYNOPSIS
        Carries out the order export_keys: says what is there and, where it has the password of the backup, hands over files of the keys.
    .OUTPUTS
        The facts with files [{name, content}] and not_exportable [{sha256, code}].
    .NOTES
        The controller decides whether a backup is due. The order's one-time password is for software whose keys we read ourselves.
    #>
    param([System.Collections.IDictionary]$Parameters, [System.Collections.IDictionary]$Request, [switch]$Check)
    $answer = Get-AdcsAuthority -Parameters $Parameters
    $answer['files'] = @()
    $answer['not_exportable'] = @()
    if ($Check -or -not $Request['password']) { return $answer }
    $only = @($Request['only'] | Where-Object { $_ })
    $live = @(foreach ($generation in $answer.generations) {
            $certificate = ConvertFrom-AdcsPem $generation.certificate -What 'the keys can''t be backed up'
            [PSCustomObject]@{ Sha256 = Get-AdcsDigest $certificate.RawData; Sha1 = $certificate.Thumbprint; Present = $generation.private_key -eq 'present' }
        })
    $chosen = [string[]]@($live | Where-Object { $_.Present -and (-not $only.Count -or $only -contains $_.Sha256) } | ForEach-Object { $_.Sha1 })
    $password = New-SecureString $Request 'password'
    $exported = if ($only.Count) { Export-Generation -Thumbprint $chosen -Password $password } else { Export-Authority -Thumbprint $chosen -Password $password }
    $answer['files'] = $exported.files
    $answer['not_exportable'] = ConvertTo-Stuck $exported.not_exportable $live
    $answer['own']['key_specs'] = @{}
    foreach ($one in $live) { $answer['own']['key_specs'][$one.Sha256] = Get-AdcsKeySpec -Thumbprint $one.Sha1 }
    $answer
}

function ConvertTo-Stuck {
    # The keys that an export could not take, as answers name them: {sha256, code}. -Generation: objects with Sha1 and Sha256.
    param([AllowNull()][AllowEmptyCollection()][object[]]$Stuck, [object[]]$Generation)
    , @(foreach ($one in $Stuck) {
            $owner = $Generation | Where-Object { $_.Sha1 -eq $one.thumbprint } | Select-Object -First 1
            @{ sha256 = $owner.Sha256; code = $one.code }
        })
}

function Export-Authority {
    # The keys of the CA as Windows itself backs them up; where it refuses as a whole, because of one key or since the service is down (a CA whose
    # renewal went wrong needs its backup most), each generation by itself.
    # https://learn.microsoft.com/powershell/module/adcsadministration/backup-caroleservice
    param([AllowEmptyCollection()][string[]]$Thumbprint, [securestring]$Password)
    try {
        $files = @(Use-AdcsProtectedDirectory {
                param([string]$Directory)
                $null = Invoke-AdcsCmdlet -Command 'Backup-CARoleService' -Limit Command -What 'the keys can''t be backed up' `
                    -Parameters @{ Path = $Directory; KeyOnly = $true; Password = $Password }
                # The documentation names two places for the file.
                $written = @([IO.Directory]::GetFiles($Directory, '*.p12', [IO.SearchOption]::AllDirectories))
                if (-not $written.Count) {
                    throw (New-AdcsError -What 'the keys can''t be backed up' `
                        -Why 'Backup-CARoleService reported success and wrote no .p12 file' `
                        -Remedy 'See the Application event log of the host')
                }
                foreach ($file in $written) { Read-Bundle $file }
            })
        return @{ files = $files; not_exportable = @() }
    }
    catch {
        $data = $_.Exception.Data
        if (-not $data.Contains('Code') -or ($data['Code'] -and ($cannotLeave + $keyIsMissing + $serviceIsDown + $rolesAreSeparate) -notcontains $data['Code'])) { throw }
        if (-not $data['Code']) {
            $states = @(Get-AdcsKeyState @($Thumbprint | ForEach-Object { Get-AdcsCertificate $_ }))
            if (-not @($states | Where-Object { $_.Exportable -eq $false }).Count) { throw }
        }
    }
    Export-Generation -Thumbprint $Thumbprint -Password $Password
}

function Export-Generation {
    <#
    .SYNOPSIS
        Each of the certificates of Cert:\LocalMachine\My with its key, as a PKCS #12 file of its own.
    .PARAMETER Thumbprint
        SHA-1 thumbprints.
    .OUTPUTS
        {files: [{name: <sha1>.p12, content: base64}], not_exportable: [{thumbprint, code}]}
    .NOTES
        https://learn.microsoft.com/powershell/module/pki/export-pfxcertificate
    #>
    param([AllowEmptyCollection()][string[]]$Thumbprint, [securestring]$Password)
    $answer = @{ files = @(); not_exportable = @() }
    $certificates = @(foreach ($one in $Thumbprint) {
            $certificate = Get-AdcsCertificate $one
            if (-not $certificate) {
                throw (New-AdcsError `
                    -What "the key of the CA certificate $one can't be exported" `
                    -Why "no certificate with this SHA-1 thumbprint is in $personalStore" -Remedy 'Put it back with ca_key_restore')
            }
            $certificate
        })
    if (-not $certificates.Count) { return $answer }
    $states = @(Get-AdcsKeyState $certificates)
    Use-AdcsProtectedDirectory {
        param([string]$Directory)
        for ($at = 0; $at -lt $certificates.Count; $at++) {
            $sha1 = ConvertTo-AdcsThumbprint $certificates[$at].Thumbprint
            $file = Join-Path -Path $Directory -ChildPath "$sha1.p12"
            $parameters = @{ Cert = Join-Path -Path $personalStore -ChildPath $sha1; FilePath = $file; Password = $Password; ChainOption = 'EndEntityCertOnly' }
            $code = $null
            try {
                $null = Invoke-AdcsCmdlet -Command 'Export-PfxCertificate' -Parameters $parameters -Limit Key `
                    -What "the key of the CA certificate $sha1 can't be exported"
            }
            catch {
                $code = [string]$_.Exception.Data['Code']
                # Windows may refuse without a code; then the key's own policy tells why.
                if ($_.Exception.Data.Contains('Code') -and -not $code -and $states[$at].Exportable -eq $false) { $code = '0x8009000B' }
                if ($cannotLeave -notcontains $code) { throw }
            }
            if ($code) { $answer.not_exportable += @{ thumbprint = $sha1; code = $code } }
            else { $answer.files += Read-Bundle $file }
        }
    }
    $answer
}

function Read-Bundle {
    param([string]$Path)
    $content = if ([IO.File]::Exists($Path)) { [IO.File]::ReadAllBytes($Path) }
    if (-not $content) {
        throw (New-AdcsError -What 'the keys can''t be backed up' `
            -Why "Windows reported success and wrote nothing into $([IO.Path]::GetFileName($Path))" `
            -Remedy 'See the Application event log of the host')
    }
    @{ name = [IO.Path]::GetFileName($Path); content = [Convert]::ToBase64String($content) }
}

function New-SecureString {
    <#
    .SYNOPSIS
        A value of the request as SecureString. Throws where it is missing or empty: Backup-CARoleService makes an unprotected file of an empty one.
    .NOTES
        https://learn.microsoft.com/windows-server/identity/ad-ds/manage/component-updates/ca-backup-and-restore-windows-powershell-cmdlets
    #>
    param([System.Collections.IDictionary]$Request, [string]$Name)
    $secure = New-Object -TypeName System.Security.SecureString
    foreach ($character in "$($Request[$Name])".ToCharArray()) { $secure.AppendChar($character) }
    $secure.MakeReadOnly()
    if ($secure.Length -eq 0) {
        throw (New-AdcsError -What 'no key was touched' `
            -Why "the $Name is empty, and a file without a password would be open to everybody" -Remedy 'Give one')
    }
    $secure
}

# --- restore ---------------------------------------------------------------------------------------------------------

function Import-AdcsKey {
    <#
    .SYNOPSIS
        Carries out the order import_keys: imports the files that hold what the host lacks, and proves that it is there afterwards.
    .PARAMETER Session
        Its request: generations, files [{name, content: base64, password, holds: [sha256]}], of, trial_password.
    .OUTPUTS
        {changed, restored: [{kind, path, certificate}], set_aside: [], needs, trial, not_exportable}; needs: the public keys of all keys that
        the host lacks, where the files do not hold each, and nothing was changed; trial: files as of Export-Generation, made of the keys that
        were just imported, since a key may come back without its right to leave.
    .NOTES
        https://learn.microsoft.com/powershell/module/pki/import-pfxcertificate (without -Exportable the key could never be backed up again)
    #>
    param([object]$Session)
    $what = 'nothing was restored'
    Assert-AdcsNotClustered -What $what
    # No file, no change: take no lock, which would leave a file on the host.
    if ($Session.Check -or -not @($Session.Request['files'] | Where-Object { $_ }).Count) { return Import-Missing -Session $Session -What $what }
    $lock = Enter-AdcsLock -What $what
    try { Import-Missing -Session $Session -What $what }
    finally { $lock.Dispose() }
}

function Import-Missing {
    param([object]$Session, [string]$What)
    $generations = @($Session.Request['generations'])
    $files = @($Session.Request['files'] | Where-Object { $null -ne $_ })
    $facts = $null
    try { $facts = Get-AdcsAuthority -Parameters $Session.Parameters }
    catch { if (-not (Test-AdcsNothingThere $_)) { throw } }
    Assert-AdcsNewest -Facts $facts -Of $Session.Request['of'] -What $What
    $before = @(Get-Place $generations)
    foreach ($place in @($before | Where-Object { $_.Key -eq 'inaccessible' })) {
        $text = Get-AdcsErrorText $place.Code
        throw (New-AdcsError -What $What `
            -Why "the private key of $($place.Sha1) is there and can't be opened, because $($text.Why)" -Remedy $text.Remedy)
    }
    $missing = @($before | Where-Object { $_.Key -eq 'missing' })
    $answer = @{ changed = $false; restored = @(); set_aside = @(); needs = @(); trial = @(); not_exportable = @() }
    $brought = @($files | ForEach-Object { $_['holds'] })
    if (-not $Session.Check -and @($missing | Where-Object { $brought -notcontains $_.Sha256 }).Count) {
        $answer.needs = @($missing | ForEach-Object { $_.PublicKey } | Select-Object -Unique)
        return $answer
    }
    # Trust the CAs before the role is configured: its service checks each chain, and publishes no CRL of a root that it does not trust.
    $untrusted = @(if (-not $facts) { Get-Untrusted -Generation $generations -What $What })
    foreach ($one in $untrusted) {
        $answer.changed = $true
        $answer.restored += @{ kind = 'certificate'; path = "Cert:\LocalMachine\$($one.Store)\$($one.Sha1)"; certificate = $one.Sha256 }
    }
    foreach ($place in $missing) {
        $answer.changed = $true
        $kinds = if ($place.Certificate) { @('private_key') } else { 'certificate', 'private_key' }
        foreach ($kind in $kinds) {
            $answer.restored += @{ kind = $kind; path = "$personalStore\$($place.Sha1)"; certificate = $place.Sha256 }
        }
    }
    if ($Session.Check -or -not $answer.changed) { return $answer }
    Add-Trust -Certificate $untrusted -What $What
    if (-not $missing.Count) { return $answer }
    $trial = New-SecureString $Session.Request 'trial_password'
    Use-AdcsProtectedDirectory {
        param([string]$Directory)
        for ($at = 0; $at -lt $files.Count; $at++) {
            $held = @($files[$at]['holds'])
            if (-not @(Get-Place $generations | Where-Object { $_.Key -ne 'present' -and $held -contains $_.Sha256 }).Count) { continue }
            $file = Join-Path -Path $Directory -ChildPath "$at.p12"
            [IO.File]::WriteAllBytes($file, [Convert]::FromBase64String($files[$at]['content']))
            $null = Invoke-AdcsCmdlet -Command 'Import-PfxCertificate' -Limit Key `
                -What "$($files[$at]['name']) can't be imported" -Parameters @{
                FilePath = $file; CertStoreLocation = $personalStore; Password = New-SecureString $files[$at] 'password'; Exportable = $true
            }
        }
    }
    foreach ($place in @(Get-Place $generations)) {
        if ($place.Key -ne 'present') {
            throw (New-AdcsError -What 'the restore is not complete' `
                -Why "after the import the private key of $($place.Sha1) is $($place.Key)" `
                    -Remedy 'Do not start the CA. Look at the key with certutil -verifystore My; run this again, or restore from another backup')
        }
    }
    $exported = Export-Generation -Thumbprint ([string[]]@($before | ForEach-Object { $_.Sha1 })) -Password $trial
    $answer.trial = $exported.files
    $answer.not_exportable = ConvertTo-Stuck $exported.not_exportable $before
    $answer
}

function Get-Untrusted {
    # Generations that this host does not trust: {Sha1, Sha256, Store: Root for one that signs itself, else CA, Content}.
    param([object[]]$Generation, [string]$What)
    foreach ($one in $Generation) {
        $certificate = @(ConvertFrom-AdcsPem -Text $one['certificate'] -What $What)[0]
        $store = if ($certificate.Subject -eq $certificate.Issuer) { 'Root' } else { 'CA' }
        if (Test-Path -LiteralPath "Cert:\LocalMachine\$store\$($certificate.Thumbprint)") { continue }
        [PSCustomObject]@{ Sha1 = $certificate.Thumbprint; Sha256 = [string]$one['fingerprints']['sha256']; Store = $store; Content = $certificate.RawData }
    }
}

function Add-Trust {
    param([AllowEmptyCollection()][object[]]$Certificate, [string]$What)
    if (-not $Certificate.Count) { return }
    Use-AdcsProtectedDirectory {
        param([string]$Directory)
        foreach ($one in $Certificate) {
            $file = Join-Path -Path $Directory -ChildPath "$($one.Sha1).crt"
            Write-AdcsNewFile -Path $file -Content $one.Content
            $null = Invoke-AdcsCertutil -ArgumentList '-f', '-addstore', $one.Store, $file -Limit Quick -What $What
        }
    }
}

function Get-Place {
    # Where a generation of an order stands: {Sha1, Sha256, PublicKey, Certificate: bool, Key: present | missing | inaccessible, Code}.
    param([object[]]$Generation)
    $certificates = @($Generation | ForEach-Object { Get-AdcsCertificate $_['fingerprints']['sha1'] })
    $states = if ($certificates.Count) { @(Get-AdcsKeyState $certificates) } else { @() }
    $at = 0
    foreach ($one in $Generation) {
        $sha1 = ConvertTo-AdcsThumbprint $one['fingerprints']['sha1']
        $place = [PSCustomObject]@{
            Sha1 = $sha1; Sha256 = [string]$one['fingerprints']['sha256']; PublicKey = [string]$one['public_key_sha256']
            Certificate = $false; Key = 'missing'; Code = $null
        }
        if ($at -lt $certificates.Count -and $certificates[$at].Thumbprint -eq $sha1) {
            $place.Certificate = $true
            $place.Key = $states[$at].State
            $place.Code = $states[$at].Code
            if ((Get-AdcsDigest $certificates[$at].RawData) -ne $place.Sha256) {
                throw (New-AdcsError -What 'nothing was restored' `
                    -Why "the certificate $sha1 in $personalStore is another one with the same SHA-1 thumbprint" `
                    -Remedy 'Find out where it comes from, and remove it')
            }
            $at++
        }
        $place
    }
}

Export-ModuleMember -Function 'Export-AdcsKey', 'Import-AdcsKey'
