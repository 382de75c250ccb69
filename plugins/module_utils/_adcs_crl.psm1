# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the CRLs of a Windows CA, and signatures by its keys; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_service

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Get-AdcsCrl {
    <#
    .SYNOPSIS
        The base CRLs in the places that the CA publishes them to; where none lies there, those that the CA has: [{path, content: base64 DER}].
    .PARAMETER Facts
        The answer of Get-AdcsAuthority.
    .NOTES
        https://learn.microsoft.com/windows-server/identity/ad-cs/configure-cdp-aia (publication flags, placeholders)
    #>
    param([System.Collections.IDictionary]$Facts)
    $found = @(foreach ($directory in @(Get-PublicationDirectory -SanitizedName $Facts['authority']['sanitized_name'])) {
            if (-not [IO.Directory]::Exists($directory)) { continue }
            foreach ($file in ([IO.Directory]::GetFiles($directory, '*.crl') | Sort-Object)) {
                $content = [IO.File]::ReadAllBytes($file)
                if (-not (Test-Delta -Content $content)) { @{ path = $file; content = [Convert]::ToBase64String($content) } }
            }
        })
    if ($found.Count -or (Get-AdcsServiceState) -ne 'running') { return $found }
    Use-AdcsProtectedDirectory {
        param([string]$Directory)
        foreach ($generation in $Facts['generations']) {
            $file = Join-Path -Path $Directory -ChildPath "$($generation['index']).crl"
            $arguments = '-f', '-getcrl', $file, [string]$generation['index']
            $answer = Invoke-AdcsCertutil -ArgumentList $arguments -Limit Quick -What 'the CRLs can''t be told' -AllowFailure
            if (-not $answer.TimedOut -and $answer.ExitCode -eq 0 -and [IO.File]::Exists($file)) {
                @{ path = $null; content = [Convert]::ToBase64String([IO.File]::ReadAllBytes($file)) }
            }
        }
    }
}

function Get-PublicationDirectory {
    # The directories, here and on shares, that the CA writes its CRLs into: locations with bit 1 set in the number before them.
    param([string]$SanitizedName)
    $found = @(Get-AdcsSystemPath 'CertSrv', 'CertEnroll')
    foreach ($one in @(Get-AdcsSetting -Name 'CRLPublicationURLs' -Below $SanitizedName)) {
        if ("$one" -notmatch '^(\d+):(?:file://)?(.+)$' -or -not ([int]$Matches[1] -band 1) -or $Matches[2] -match '^(https?|ldaps?):') { continue }
        $path = Resolve-AdcsPlaceholder -Path $Matches[2] -SanitizedName $SanitizedName
        $directory = [IO.Path]::GetDirectoryName($path)
        if ($directory -and $found -notcontains $directory) { $found += $directory }
    }
    $found
}

function Test-Delta {
    # Whether a CRL is a delta: by its extension (2.5.29.27) in DER, not by its file name. The CA itself never writes PEM.
    param([byte[]]$Content)
    $hex = [BitConverter]::ToString($Content, 0, [Math]::Min($Content.Length, 65536)) + [BitConverter]::ToString($Content, [Math]::Max(0, $Content.Length - 65536))
    $hex.Contains('06-03-55-1D-1B')
}

function Publish-AdcsCrl {
    <#
    .SYNOPSIS
        Has the CA sign and publish its CRLs, unless it was renewed since that was decided (of, see Assert-AdcsNewest).
    .NOTES
        https://learn.microsoft.com/windows-server/administration/windows-commands/certutil
    #>
    param([object]$Session)
    $what = 'the CRLs were not published'
    Assert-AdcsNotClustered -What $what
    $lock = Enter-AdcsLock -What $what
    try {
        Assert-AdcsNewest -Facts (Get-AdcsAuthority -Parameters $Session.Parameters) -Of $Session.Request['of'] -What $what
        # For how long, where that is said: it leaves the settings of the CA as they are.
        $arguments = @('-CRL') + @(if ($Session.Request['days']) { "$($Session.Request['days']):00" })
        $null = Invoke-AdcsCertutil -ArgumentList $arguments -Limit Publish -Bytes (Get-AdcsDatabaseSize) -What 'the CRLs can''t be published'
    }
    finally {
        $lock.Dispose()
    }
}

function Get-AdcsSignedAgain {
    <#
    .SYNOPSIS
        Signs a published CRL again with a key in My, where the database is lost, or the role with it: the facts, with the CRL.
    .PARAMETER Session
        Its request: published (base64 DER), and certificate (SHA-256) and days; without these, only the generations are told that may have signed it.
    .NOTES
        https://learn.microsoft.com/windows-server/administration/windows-commands/certutil#-sign
    #>
    param([object]$Session)
    $what = 'no CRL was signed'
    $published = [Convert]::FromBase64String($Session.Request['published'])
    $signers = @(Get-Signer -Published $published)
    $answer = try { Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress }
    catch {
        if (-not (Test-AdcsNothingThere $_) -or -not $signers.Count) { throw }
        Get-AdcsBareFact -Certificate $signers
    }
    $answer['changed'] = $false
    $answer['crls'] = @()
    if (-not $Session.Request['certificate']) { return $answer }
    $signer = $signers | Where-Object { (Get-AdcsDigest $_.RawData) -eq $Session.Request['certificate'] } | Select-Object -First 1
    if (-not $signer) {
        throw (New-AdcsError -What $what -Why 'the key that signed it is no longer in Cert:\LocalMachine\My' -Remedy 'Put it back with ca_key_restore')
    }
    $days = "now+$([int]$Session.Request['days']):00"
    $answer['crls'] = @(Use-AdcsProtectedDirectory {
            param([string]$Directory)
            $old, $new = (Join-Path -Path $Directory -ChildPath 'published.crl'), (Join-Path -Path $Directory -ChildPath 'signed.crl')
            Write-AdcsNewFile -Path $old -Content $published
            $null = Invoke-AdcsCertutil -ArgumentList '-silent', '-cert', $signer.Thumbprint, '-sign', $old, $new, $days -Limit Key -What $what
            @{ path = $null; certificate = $Session.Request['certificate']; content = [Convert]::ToBase64String([IO.File]::ReadAllBytes($new)) }
        })
    $answer
}

function Get-Signer {
    # CA certificates in My, with their keys, whose name the head of a CRL has: who signed it is judged by those who can read it.
    param([byte[]]$Published)
    $head = [BitConverter]::ToString($Published, 0, [Math]::Min($Published.Length, 8192))
    foreach ($one in @(Get-AdcsCertificate -All)) {
        if ($one.HasPrivateKey -and $head.Contains([BitConverter]::ToString($one.SubjectName.RawData))) { $one }
    }
}

function Get-AdcsSignature {
    <#
    .SYNOPSIS
        Signs data in memory with keys of Cert:\LocalMachine\My.
    .PARAMETER Wanted
        [{thumbprint: SHA-1, data: base64, digest: SHA256 | SHA384 | SHA512}]
    .OUTPUTS
        [{thumbprint, signature: base64}]: RSA as PKCS #1 v1.5, ECDSA as r and s in equal lengths (IEEE P1363).
    #>
    param([object[]]$Wanted)
    foreach ($one in $Wanted) {
        $sha1 = ConvertTo-AdcsThumbprint $one['thumbprint']
        $what = "the key of the CA certificate $sha1 can't sign"
        $certificate = Get-AdcsCertificate $sha1
        if (-not $certificate) {
            throw (New-AdcsError -What $what -Why 'no certificate with this SHA-1 thumbprint is in Cert:\LocalMachine\My' `
                -Remedy 'Put it back with ca_key_restore')
        }
        $signature = Invoke-AdcsCmdlet -What $what -Limit Key `
            -Parameters @{ Certificate = $certificate; Data = [Convert]::FromBase64String($one['data']); Digest = [string]$one['digest'] } -ScriptBlock {
            param([object]$Certificate, [byte[]]$Data, [string]$Digest)
            $algorithm = New-Object -TypeName System.Security.Cryptography.HashAlgorithmName -ArgumentList $Digest
            $key = [System.Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($Certificate)
            if ($null -ne $key) {
                $padding = [System.Security.Cryptography.RSASignaturePadding]::Pkcs1
                try { return [Convert]::ToBase64String($key.SignData($Data, $algorithm, $padding)) } finally { $key.Dispose() }
            }
            $key = [System.Security.Cryptography.X509Certificates.ECDsaCertificateExtensions]::GetECDsaPrivateKey($Certificate)
            if ($null -ne $key) {
                try { return [Convert]::ToBase64String($key.SignData($Data, $algorithm)) } finally { $key.Dispose() }
            }
        }
        if (-not $signature) {
            throw (New-AdcsError -What $what -Why 'it is not on this host, or neither RSA nor ECDSA' `
                -Remedy 'Put it back with ca_key_restore')
        }
        @{ thumbprint = $sha1; signature = [string]$signature }
    }
}

Export-ModuleMember -Function 'Get-AdcsCrl', 'Publish-AdcsCrl', 'Get-AdcsSignedAgain', 'Get-AdcsSignature'
