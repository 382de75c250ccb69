# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: a Windows CA is renewed, and gets the certificates that it asked for; may change in any release.
# What a run that was killed leaves here, and what the next one makes of it: see _adcs_service.psm1.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_service

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Get-AdcsAnswer {
    # The facts as they are now, with what installing and renewing tell besides.
    param([object]$Session, [bool]$Changed)
    $facts = Get-AdcsAuthority -Parameters $Session.Parameters
    $facts['changed'] = $Changed
    $pending = $facts['pending_request']
    $facts['pending'] = $null -ne $pending
    $facts['request'] = if ($pending) { $pending['request'] } else { $null }
    $facts['request_file'] = if ($pending) { $pending['path'] } else { $null }
    $facts
}

function Add-AdcsAdvisory {
    param([System.Collections.IDictionary]$Facts, [string]$Code, [string]$Message)
    $Facts['advisories'] = [object[]](@($Facts['advisories']) + @{ code = $Code; message = $Message; certificate = $null })
}

function Test-AdcsCaCertificate {
    param([Security.Cryptography.X509Certificates.X509Certificate2]$Certificate)
    foreach ($extension in $Certificate.Extensions) {
        if ($extension.Oid.Value -ne '2.5.29.19') { continue }
        $basic = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509BasicConstraintsExtension -ArgumentList $extension, $extension.Critical
        return $basic.CertificateAuthority
    }
    $false
}

function Get-AdcsCaVersion {
    # The index of a CA certificate among those of its CA (szOID_CERTSRV_CA_VERSION, low 16 bits); -1 where it does not say.
    param([Security.Cryptography.X509Certificates.X509Certificate2]$Certificate)
    foreach ($extension in $Certificate.Extensions) {
        if ($extension.Oid.Value -ne '1.3.6.1.4.1.311.21.1') { continue }
        $raw = $extension.RawData  # INTEGER
        if ($raw.Length -lt 3 -or $raw[0] -ne 2 -or $raw[1] -ne $raw.Length - 2 -or $raw[1] -gt 5) { return -1 }
        $number = 0L
        for ($at = 2; $at -lt $raw.Length; $at++) { $number = $number * 256 + $raw[$at] }
        return [int]($number -band 0xFFFF)
    }
    -1
}

# --- what an earlier run left ----------------------------------------------------------------------------------------

function Get-RenewalRecordPath { Join-Path -Path (Get-AdcsRunDirectory) -ChildPath 'keyward-renewal.txt' }

function Write-RenewalRecord {
    param([string]$SanitizedName)
    Remove-RenewalRecord
    $lines = (@(Get-AdcsThumbprint -SanitizedName $SanitizedName) -join "`n") + "`n"
    Write-AdcsNewFile -Path (Get-RenewalRecordPath) -Content ([Text.Encoding]::ASCII.GetBytes($lines))
}

function Remove-RenewalRecord { [IO.File]::Delete((Get-RenewalRecordPath)) }

function Get-UnfinishedRenewal {
    # What an earlier renewal left undone: {recorded: whether the registry has its certificate, unknown: [certificates that the registry lacks]}.
    param([System.Collections.IDictionary]$Facts)
    $known = @(Get-AdcsThumbprint -SanitizedName $Facts['authority']['sanitized_name'])
    $path = Get-RenewalRecordPath
    $recorded = $false
    if ([IO.File]::Exists($path)) {
        $before = @([IO.File]::ReadAllLines($path) | Where-Object { $_ })
        $recorded = ($before -join ',') -ne ($known -join ',')
    }
    $unknown = @()
    $certificates = @($known | ForEach-Object { Get-AdcsCertificate -Thumbprint $_ } | Where-Object { $_ })
    if ($certificates.Count) {
        $newest = ($certificates | ForEach-Object { Get-AdcsCaVersion -Certificate $_ } | Measure-Object -Maximum).Maximum
        $subject = [BitConverter]::ToString($certificates[-1].SubjectName.RawData)
        $unknown = @(Get-AdcsCertificate -All | Where-Object {
                $_.HasPrivateKey -and $known -notcontains $_.Thumbprint -and (Get-AdcsCaVersion -Certificate $_) -gt $newest -and
                [BitConverter]::ToString($_.SubjectName.RawData) -eq $subject -and (Test-AdcsCaCertificate -Certificate $_)
            })
    }
    @{ recorded = $recorded; unknown = $unknown }
}

function Test-Unfinished {
    param([System.Collections.IDictionary]$Facts)
    $left = Get-UnfinishedRenewal -Facts $Facts
    [bool]($left.recorded -or $left.unknown.Count)
}

function Complete-Renewal {
    # Restarts the service to finish an earlier renewal. Renewing again is never the cure.
    param([object]$Session, [System.Collections.IDictionary]$Facts, [string]$What)
    $left = Get-UnfinishedRenewal -Facts $Facts
    if (-not $left.recorded -and $left.unknown.Count -eq 0) { return Get-AdcsAnswer -Session $Session -Changed $false }
    Restart-AdcsService -What $What
    $known = @(Get-AdcsThumbprint -SanitizedName $Facts['authority']['sanitized_name'])
    $lost = @($left.unknown | Where-Object { $known -notcontains $_.Thumbprint } | ForEach-Object { $_.Thumbprint })
    if ($lost.Count) {
        $why = "a newer certificate of this CA lies in the store My with its key, and the CA does not know it: $($lost -join ', ')"
        $remedy = 'Look at it (certutil -store My <thumbprint>); if it comes from an interrupted renewal, finish that by hand, otherwise remove it from My'
        throw (New-AdcsError -What $What -Why $why -Remedy $remedy)
    }
    Remove-RenewalRecord
    Get-Proved -Session $Session
}

function Get-Proved {
    # The facts after a change, with what the CA says of its own certificate.
    param([object]$Session)
    $answer = Get-AdcsAnswer -Session $Session -Changed $true
    $distrust = Get-AdcsDistrust -Facts $answer
    if ($distrust) { Add-AdcsAdvisory -Facts $answer -Code $distrust.code -Message $distrust.message }
    $answer
}

# --- the answer to a request -----------------------------------------------------------------------------------------

function Install-AdcsAnswer {
    # Puts the certificate in place that answers the pending request, and starts the service. The registry tells whether it is done.
    # -Of: see Assert-AdcsNewest. One that is in place already, put there by whomever, is no error.
    param([object]$Session, [string]$Text, [string]$Of, [string]$What)
    $certificates = @(ConvertFrom-AdcsPem -Text $Text -What $What)
    $facts = Get-AdcsAuthority -Parameters $Session.Parameters
    $name = $facts['authority']['sanitized_name']
    $crls = @($Session.Request['crls'] | Where-Object { $_ })
    if (@(Get-AdcsThumbprint -SanitizedName $name) -contains $certificates[0].Thumbprint) {
        Add-ParentCrl -Crl $crls -What $What
        return Complete-Renewal -Session $Session -Facts $facts -What $What
    }
    Assert-AdcsNewest -Facts $facts -Of $Of -What $What
    if ($null -eq $facts['pending_request']) {
        throw (New-AdcsError -What $What -Why 'no request of this CA waits for a certificate' -Remedy 'Give certificate only as the answer to a request')
    }
    Add-ParentCrl -Crl $crls -What $What
    Write-RenewalRecord -SanitizedName $name
    $directory = New-AdcsProtectedDirectory
    $failure = $null
    try {
        # certutil gets the certificate and the CAs above it, where given, as one PKCS #7 file.
        if ($certificates.Count -eq 1) {
            $file = Join-Path -Path $directory -ChildPath 'answer.crt'
            Write-AdcsNewFile -Path $file -Content $certificates[0].RawData
        }
        else {
            $file = Join-Path -Path $directory -ChildPath 'answer.p7b'
            $all = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2Collection
            foreach ($one in $certificates) { $null = $all.Add($one) }
            Write-AdcsNewFile -Path $file -Content $all.Export([Security.Cryptography.X509Certificates.X509ContentType]::Pkcs7)
        }
        $failure = Install-File -Path $file -What $What
        # certutil checks revocation, and hangs or fails where it can't. -f skips that check; we have proved that the certificate is ours.
        if ($failure -and $Session.Request['proved'] -and (Test-CanNotCheck $failure) -and
            -not (Test-InPlace -Session $Session -Certificate $certificates[0])) {
            $failure = Install-File -Path $file -Force -What $What
        }
    }
    finally {
        Remove-AdcsDirectory -Path $directory
    }
    $done = Test-InPlace -Session $Session -Certificate $certificates[0]
    if ($done) {
        # The registry may know the certificate only after this.
        Restart-AdcsService -What 'the certificate is in its place, and the CA is not at work with it'
        $done = @(Get-AdcsThumbprint -SanitizedName $name) -contains $certificates[0].Thumbprint
    }
    if (-not $done) {
        if ($failure) { throw $failure }
        $why = 'certutil did not fail, and yet the CA does not know the certificate'
        throw (New-AdcsError -What $What -Why $why -Remedy 'Look at the certificate: does it answer the request that waits, with its key?')
    }
    Remove-RenewalRecord
    $answer = Get-Proved -Session $Session
    if ($failure) { Add-LeftUndone -Facts $answer -Failure $failure }
    $answer
}

function Add-LeftUndone {
    # An advisory on a certutil that failed when its work was done: what an enterprise CA publishes in the directory comes last, and SYSTEM, which is
    # the account of the computer there, may not write it.
    param([System.Collections.IDictionary]$Facts, [object]$Failure)
    $code = [string]$Failure.Exception.Data['Code']
    $message = 'certutil did not end well, though its work was done'
    if ($code) { $message += " ($code)" }
    if ($Facts['own']['ca_type'] -notlike 'Enterprise*') {
        Add-AdcsAdvisory -Facts $Facts -Code 'certutil_failed' -Message "$message; whatever it publishes elsewhere may be missing"
        return
    }
    $kind = if ($Facts['own']['ca_type'] -eq 'EnterpriseRootCA') { 'RootCA' } else { 'SubCA' }
    $message += '. Active Directory may lack the new certificate. As a member of Enterprise Admins, with its file of CertEnroll: ' +
    "certutil -f -dspublish <file> $kind; certutil -f -dspublish <file> NTAuthCA; certutil -CRL"
    Add-AdcsAdvisory -Facts $Facts -Code 'not_published' -Message $message
}

function Add-ParentCrl {
    # Into the store CA of the computer, where Windows looks for CRLs before it fetches them. -Crl: base64.
    param([AllowEmptyCollection()][object[]]$Crl, [string]$What)
    if (-not $Crl.Count) { return }
    Use-AdcsProtectedDirectory {
        param([string]$Directory)
        for ($at = 0; $at -lt $Crl.Count; $at++) {
            $file = Join-Path -Path $Directory -ChildPath "$at.crl"
            Write-AdcsNewFile -Path $file -Content ([Convert]::FromBase64String($Crl[$at]))
            $null = Invoke-AdcsCertutil -ArgumentList '-f', '-addstore', 'CA', $file -Limit Quick -What $What
        }
    }
}

function Install-File {
    # certutil -installCert; the error, where there is one.
    param([string]$Path, [switch]$Force, [string]$What)
    $arguments = @(if ($Force) { '-f' }) + @('-silent', '-installCert', $Path)
    try { $null = Invoke-AdcsCertutil -ArgumentList $arguments -Limit Command -What $What }
    catch { $_ }
}

function Test-CanNotCheck {
    # Whether an error says that revocation can't be checked. A certutil that did not end may wait for a dialog about that.
    param([object]$Failure)
    $data = $Failure.Exception.Data
    -not $data.Contains('Code') -or $data['Code'] -in '0x80092012', '0x80092013'
}

function Test-InPlace {
    # Whether the CA has a certificate for the request that waited; the registry and the store My tell.
    param([object]$Session, [object]$Certificate)
    $after = Get-AdcsAuthority -Parameters $Session.Parameters
    $made = Get-AdcsCertificate -Thumbprint $Certificate.Thumbprint
    $known = @(Get-AdcsThumbprint -SanitizedName $after['authority']['sanitized_name']) -contains $Certificate.Thumbprint
    $null -eq $after['pending_request'] -and ($known -or ($null -ne $made -and $made.HasPrivateKey))
}

# --- renewal ---------------------------------------------------------------------------------------------------------

function Update-AdcsAuthority {
    <#
    .SYNOPSIS
        What ca_renew asks of a Windows host: facts, a renewal, or the answer to its request.
    .PARAMETER Session
        Its request: order (look, renew or answer) with of (SHA-256 of the newest generation's certificate, on which it was decided), and
        certificate (PEM; an answer) or reuse_key and finish (what was decided on was a renewal that an earlier run left).
    .DESCRIPTION
        Whether the CA was renewed is read from the registry and from the store My, never from what certutil says: it is known to hang after its
        work was done. A renewal that an earlier run left is finished (service restarted), and no other is begun in the same task.
    .OUTPUTS
        The facts with changed, pending, request, request_file; of a look also unfinished (bool: an earlier renewal is to be finished).
    .NOTES
        https://learn.microsoft.com/windows/win32/seccrypto/certification-authority-renewal
    #>
    param([object]$Session)
    $what = 'the CA was not renewed'
    $request = $Session.Request
    if ($request['order'] -eq 'look') {
        $answer = Get-AdcsAnswer -Session $Session -Changed $false
        $answer['unfinished'] = Test-Unfinished -Facts $answer
        if ($answer['unfinished']) {
            $message = 'a renewal was begun and not finished: the service has not been restarted since'
            Add-AdcsAdvisory -Facts $answer -Code 'unfinished_renewal' -Message $message
        }
        return $answer
    }
    Assert-AdcsNotClustered -What $what
    if ($Session.Check) { return Show-Renewal -Session $Session }
    $lock = Enter-AdcsLock -What $what
    try {
        if ($request['order'] -eq 'answer') {
            return Install-AdcsAnswer -Session $Session -Text $request['certificate'] -Of $request['of'] -What $what
        }
        # Look again: another task may have changed the CA between the decision and the lock.
        $answer = Get-AdcsAnswer -Session $Session -Changed $false
        $unfinished = Test-Unfinished -Facts $answer
        Assert-AdcsNewest -Facts $answer -Of $request['of'] -What $what
        if ($request['finish'] -and -not $unfinished) {
            $why = 'another task meanwhile finished the renewal that was begun'
            throw (New-AdcsError -What $what -Why $why -Remedy 'Run the task again, it sees what is there now' -RenewedMeanwhile)
        }
        if ($unfinished) { return Complete-Renewal -Session $Session -Facts $answer -What $what }
        if ($answer['pending']) { return $answer }
        $name = $answer['authority']['sanitized_name']
        New-Renewal -Session $Session -SanitizedName $name -ReuseKey ([bool]$request['reuse_key']) -What $what
    }
    finally {
        $lock.Dispose()
    }
}

function Show-Renewal {
    # What check mode can tell.
    param([object]$Session)
    $answer = Get-AdcsAnswer -Session $Session -Changed $false
    $answers, $was, $unfinished = ($Session.Request['order'] -eq 'answer'), $answer['pending'], (Test-Unfinished -Facts $answer)
    $answer['changed'] = $unfinished -or $answers -or -not $was
    $answer['pending'] = -not $answers -and ($was -or (-not $unfinished -and $answer['own']['ca_type'] -like '*SubordinateCA'))
    $answer
}

function Assert-KeySpec {
    # Throws where Windows can't renew with the same key: a key of a key storage provider whose certificate gives it the KeySpec of a CSP's key.
    param([string]$SanitizedName, [string]$Thumbprint, [string]$What)
    if ([int](Get-AdcsSetting -Name 'ProviderType' -Below $SanitizedName, 'CSP') -ne 0) { return }
    $spec = Get-AdcsKeySpec -Thumbprint $Thumbprint
    if (-not $spec) { return }
    $why = "the key of the CA certificate $Thumbprint is in a key storage provider, and the certificate says KeySpec $spec, with which a renewal fails"
    $remedy = 'Give it KeySpec 0: certutil -repairstore My <serial> KeyProv.inf (Microsoft, "CA certificate renewal fails with an existing key pair")'
    throw (New-AdcsError -What $What -Why $why -Remedy $remedy)
}

function New-Renewal {
    param([object]$Session, [string]$SanitizedName, [bool]$ReuseKey, [string]$What)
    $before = @(Get-AdcsThumbprint -SanitizedName $SanitizedName)
    if ($ReuseKey -and $before.Count) { Assert-KeySpec -SanitizedName $SanitizedName -Thumbprint $before[-1] -What $What }
    $running = (Get-AdcsServiceState) -eq 'running'
    Write-RenewalRecord -SanitizedName $SanitizedName
    $arguments = @('-silent', '-renewCert')
    if ($ReuseKey) { $arguments += 'ReuseKeys' }
    $failure = $null
    try {
        $null = Invoke-AdcsCertutil -ArgumentList $arguments -Limit Command -What $What
    }
    catch {
        $failure = $_
    }
    $grown = @(Get-AdcsThumbprint -SanitizedName $SanitizedName).Count -eq $before.Count + 1
    $answer = Get-AdcsAnswer -Session $Session -Changed $true
    $left = Get-UnfinishedRenewal -Facts $answer
    if (-not $grown -and -not $answer['pending'] -and $left.unknown.Count -eq 0) {
        Remove-RenewalRecord
        if ($running) { Start-AdcsService -What $What }
        if ($failure) { throw $failure }
        $why = 'certutil did not fail, and yet the CA has neither a new certificate nor a request'
        throw (New-AdcsError -What $What -Why $why -Remedy 'Look into the event log of the host, and run the task again')
    }
    if ($answer['pending']) {
        Remove-RenewalRecord
        if ($running) { Start-AdcsService -What $What }
    }
    else {
        $answer = Complete-Renewal -Session $Session -Facts $answer -What 'the CA has a new certificate, but the renewal is not finished'
    }
    if ($failure) { Add-LeftUndone -Facts $answer -Failure $failure }
    $answer
}

Export-ModuleMember -Function @(
    'Get-AdcsAnswer', 'Add-AdcsAdvisory', 'Test-AdcsCaCertificate', 'Get-AdcsCaVersion', 'Install-AdcsAnswer', 'Update-AdcsAuthority'
)
