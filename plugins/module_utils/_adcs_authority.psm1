# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the CA of a Windows host as it is, its registry, its certificates and its keys; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$configuration = 'HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'
$personalStore = 'Cert:\LocalMachine\My'
$caTypes = @{ 0 = 'EnterpriseRootCA'; 1 = 'EnterpriseSubordinateCA'; 3 = 'StandaloneRootCA'; 4 = 'StandaloneSubordinateCA' }
$requestPending = 8  # SETUP_REQUEST_FLAG of SetupStatus (certsrv.h)
$keyIsMissing = '0x8009000D', '0x80090016'

# --- the registry ----------------------------------------------------------------------------------------------------

function Get-AdcsConfigurationKey {
    # The registry key of Certificate Services, or one below it.
    param([string[]]$Below)
    $key = $configuration
    foreach ($part in $Below) { $key = Join-Path -Path $key -ChildPath $part }
    $key
}

function Get-AdcsSetting {
    # A value of that key, or of one below it; $null where the key or the value is not there.
    param([string]$Name, [string[]]$Below)
    Get-RegistryValue -Key (Get-AdcsConfigurationKey -Below $Below) -Name $Name
}

function Get-RegistryValue {
    param([string]$Key, [string]$Name)
    $found = Get-ItemProperty -LiteralPath $Key -ErrorAction SilentlyContinue
    if ($null -ne $found -and $found.PSObject.Properties[$Name]) { $found.PSObject.Properties[$Name].Value }
}

function Get-AdcsRegistryProperty {
    # Every value of a key: objects with Name and Value.
    param([string]$Key)
    $values = Get-ItemProperty -LiteralPath $Key
    if ($null -ne $values) {
        $values.PSObject.Properties | Where-Object { $_.Name -notin 'PSPath', 'PSParentPath', 'PSChildName', 'PSDrive', 'PSProvider' }
    }
}

function Get-AdcsThumbprint {
    # CACertHash of a CA, in its order. -AtIndex: keep '' where setup found no certificate (a dash), so that each generation is at its index.
    param([string]$SanitizedName, [switch]$AtIndex)
    foreach ($text in @(Get-AdcsSetting -Name 'CACertHash' -Below $SanitizedName)) {
        $hex = ConvertTo-AdcsThumbprint $text
        if ($hex -or $AtIndex) { $hex }
    }
}

function Get-AdcsDatabaseDirectory {
    # The directories that the registry names for the database, each once.
    $found = @()
    foreach ($name in 'DBDirectory', 'DBLogDirectory', 'DBSystemDirectory', 'DBTempDirectory') {
        $path = [string](Get-AdcsSetting -Name $name)
        if ($path -and $found -notcontains $path) { $found += $path }
    }
    $found
}

function Get-AdcsDatabaseSize {
    # In bytes, with its logs: what the bounds of those grow with that copy, ask or open it. A log may be gone or renamed at any moment.
    $size = 0L
    foreach ($directory in @(Get-AdcsDatabaseDirectory)) {
        foreach ($path in @(Get-AdcsDatabaseFile -Directory $directory)) {
            try { $size += (New-Object -TypeName IO.FileInfo -ArgumentList $path).Length } catch { continue }
        }
    }
    $size
}

# --- certificates and their keys -------------------------------------------------------------------------------------

function ConvertTo-AdcsThumbprint {
    # Upper case hex. Nothing documents how the registry writes thumbprints (blanks, case).
    param([object]$Text)
    ("$Text" -replace '[^0-9A-Fa-f]', '').ToUpperInvariant()
}

function ConvertTo-Pem {
    # With line feeds, and one at the end.
    param([byte[]]$Content)
    $text = [Convert]::ToBase64String($Content)
    $lines = for ($at = 0; $at -lt $text.Length; $at += 64) { $text.Substring($at, [Math]::Min(64, $text.Length - $at)) }
    "-----BEGIN CERTIFICATE-----`n$($lines -join "`n")`n-----END CERTIFICATE-----`n"
}

function ConvertFrom-AdcsPem {
    # The certificates of a PEM text, in their order.
    param([string]$Text, [string]$What)
    $found = [regex]::Matches($Text, '-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----')
    try {
        foreach ($one in $found) {
            $content = [Convert]::FromBase64String(($one.Groups[1].Value -replace '\s', ''))
            New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList (, $content)
        }
    }
    catch {
        throw (New-AdcsError -What $What -Why 'the certificate that was given is damaged' -Remedy 'Give the certificate as PEM')
    }
    if ($found.Count -eq 0) {
        throw (New-AdcsError -What $What -Why 'what was given holds no certificate' -Remedy 'Give the certificate as PEM')
    }
}

function Get-AdcsCertificate {
    <#
    .SYNOPSIS
        The X509Certificate2 with this SHA-1 thumbprint in Cert:\LocalMachine\My, or $null. -All: every one that is there.
    #>
    param([string]$Thumbprint, [switch]$All)
    if ($All) { return Get-ChildItem -Path $personalStore }
    $path = Join-Path -Path $personalStore -ChildPath (ConvertTo-AdcsThumbprint $Thumbprint)
    if (Test-Path -LiteralPath $path) { Get-Item -LiteralPath $path }
}

function Get-AdcsKeyState {
    <#
    .SYNOPSIS
        For each certificate: {State: present | missing | inaccessible, Code: "0x........" | $null, Exportable: bool | $null}.
    .NOTES
        Opening a key proves that it is there; only a trial export proves that it can be exported. One that is neither RSA nor EC (ML-DSA) can't be opened here: it is
        present where its certificate names one. An HSM that does not answer costs its own key alone.
    #>
    param([object[]]$Certificate)
    $opened = try { Open-Key -Certificate $Certificate }
    catch {
        if ($_.Exception.Data.Contains('Code')) { throw }
        foreach ($one in $Certificate) {
            if ($Certificate.Count -gt 1) {
                try { Open-Key -Certificate $one; continue } catch { if ($_.Exception.Data.Contains('Code')) { throw } }
            }
            New-Object -TypeName PSObject -Property @{ State = 'inaccessible'; Exception = $null; Exportable = $null }
        }
    }
    foreach ($one in $opened) {
        $code = if ($one.Exception) { Get-AdcsHResult $one.Exception }
        $state = if ($one.State -eq 'inaccessible' -and $keyIsMissing -contains $code) { 'missing' } else { $one.State }
        [PSCustomObject]@{ State = [string]$state; Code = $code; Exportable = $one.Exportable }
    }
}

function Open-Key {
    # {State, Exception, Exportable} of each certificate's key. An error without a code is one of time.
    param([object[]]$Certificate)
    Invoke-AdcsCmdlet -What "the private keys can't be opened" -Limit Key -Parameters @{ Certificate = $Certificate } -ScriptBlock {
        param([object[]]$Certificate)
        foreach ($one in $Certificate) {
            $answer = @{ State = 'missing'; Exception = $null; Exportable = $null }
            $key = $null
            try {
                if ($one.HasPrivateKey) {
                    $answer.State = 'inaccessible'
                    $key = [System.Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($one)
                    if ($null -eq $key) { $key = [System.Security.Cryptography.X509Certificates.ECDsaCertificateExtensions]::GetECDsaPrivateKey($one) }
                    $answer.State = 'present'
                }
                if ($null -ne $key -and $key.PSObject.Properties['Key']) {
                    $answer.Exportable = ([int]$key.Key.ExportPolicy -band 3) -ne 0  # AllowExport, AllowPlaintextExport
                }
                elseif ($null -ne $key -and $key.PSObject.Properties['CspKeyContainerInfo']) {
                    $answer.Exportable = [bool]$key.CspKeyContainerInfo.Exportable
                }
            }
            catch { $answer.Exception = $_.Exception }
            finally { if ($null -ne $key) { $key.Dispose() } }
            New-Object -TypeName PSObject -Property $answer
        }
    }
}

function Get-AdcsKeySpec {
    # KeySpec as the property of a certificate in My says it: 0 for a key of a key storage provider, 1 or 2 for one of a CSP; $null where it can't be told.
    # Its meaning behind it is the same in every language: KeySpec = 2 -- AT_SIGNATURE.
    # https://learn.microsoft.com/troubleshoot/windows-server/certificates-and-public-key-infrastructure-pki/ca-certificate-renewal-fails-existing-key-pair
    param([string]$Thumbprint)
    $answer = Invoke-AdcsCertutil -ArgumentList '-silent', '-v', '-store', 'My', $Thumbprint -Limit Quick -What 'the store can''t be read' -AllowFailure
    $found = [regex]::Match($answer.Output, '=\s*([0-2])\s*--\s*(?:XCN_)?AT_(?:NONE|KEYEXCHANGE|SIGNATURE)')
    if ($found.Success) { [int]$found.Groups[1].Value }
}

# --- the facts -------------------------------------------------------------------------------------------------------

function Get-AdcsAuthority {
    <#
    .SYNOPSIS
        The facts about the CA of this host: every module's answer starts from them.
    .PARAMETER Parameters
        The module's parameters; name may name the CA by its common or sanitized name.
    .PARAMETER AllowRestoreInProgress
        Don't refuse a host on which a database restore was begun and not finished.
    .OUTPUTS
        An ordered dictionary: changed, authority, generations (in the order of CACertHash, the last is current), database, pending_request, own, advisories, abilities.
    .NOTES
        Registry: certsrv.h of the Windows SDK; for CACertHash
        https://learn.microsoft.com/troubleshoot/windows-server/certificates-and-public-key-infrastructure-pki/cs-cant-start-computer
    #>
    param([System.Collections.IDictionary]$Parameters, [switch]$AllowRestoreInProgress)
    $what = 'the authority can''t be read'
    $active = "$(Get-AdcsSetting 'Active')"
    if (-not $active) {
        throw (New-AdcsError -What $what -Why 'no CA is configured on this host' `
            -Remedy 'Install one with ca_install, or restore one with ca_key_restore' -NothingThere)
    }
    $commonName = "$(Get-AdcsSetting 'CommonName' $active)"
    $wanted = [string]$Parameters['name']
    if ($wanted -and $wanted -ne $active -and $wanted -ne $commonName) {
        throw (New-AdcsError -What $what -Why "the CA of this host is $commonName, not $wanted" `
            -Remedy 'Leave name out, or give that name' -NothingThere)
    }
    $restoring = Test-Path -LiteralPath (Get-AdcsConfigurationKey 'RestoreInProgress')
    if ($restoring -and -not $AllowRestoreInProgress) {
        throw (New-AdcsError -What "nothing is done with $commonName" -Why 'a database restore was begun and not finished' `
                -Remedy 'Finish it: run ca_database_restore again, or start CertSvc and read the Application event log')
    }

    $thumbprints = @(Get-AdcsThumbprint -SanitizedName $active -AtIndex)
    $advisories = @()
    $found = @()
    for ($index = 0; $index -lt $thumbprints.Count; $index++) {
        if ($thumbprints[$index].Length -ne 40) { continue }
        $certificate = Get-AdcsCertificate $thumbprints[$index]
        if ($certificate) { $found += @{ Index = $index; Certificate = $certificate } }
        else {
            $advisories += [ordered]@{
                code = 'certificate_missing_on_host'
                message = "the CA certificate with the SHA-1 thumbprint $($thumbprints[$index]) (number $index) is not in $personalStore"
                certificate = $null
            }
        }
    }
    $states = if ($found.Count) { @(Get-AdcsKeyState @($found | ForEach-Object { $_.Certificate })) } else { @() }
    for ($at = 0; $at -lt $found.Count; $at++) {
        if ($states[$at].State -ne 'inaccessible') { continue }
        $text = if ($states[$at].Code) { Get-AdcsErrorText $states[$at].Code }
        $why, $remedy = if ($text) { $text.Why, $text.Remedy } else { 'its provider does not answer in time', 'Is the device (HSM) there and unlocked?' }
        $advisories += [ordered]@{
            code = if ($at -eq $found.Count - 1) { 'key_inaccessible' } else { 'older_key_inaccessible' }
            message = "the private key of the CA certificate number $($found[$at].Index) can't be used: $why. $remedy"
            certificate = Get-AdcsDigest $found[$at].Certificate.RawData
        }
    }
    $generations = @(for ($at = 0; $at -lt $found.Count; $at++) {
            [ordered]@{
                index = $found[$at].Index
                certificate = ConvertTo-Pem $found[$at].Certificate.RawData
                private_key = $states[$at].State
                encrypted_at_rest = $null
                exportable = $null
                certificate_place = $null
                key_place = $null
            }
        })

    $pending = $null
    if ([int](Get-AdcsSetting 'SetupStatus' $active) -band $requestPending) {
        $pending = Get-PendingRequest -SanitizedName $active -Certificates $thumbprints.Count
    }
    $skew = Get-AdcsSetting 'ClockSkewMinutes' $active
    $type = Get-AdcsSetting 'CAType' $active
    $recovery = @(@(Get-AdcsSetting 'KRACertHash' $active) | ForEach-Object { ConvertTo-AdcsThumbprint $_ } | Where-Object { $_ })
    $database = "$(Get-AdcsSetting 'DBDirectory')"
    $there = [IO.Directory]::Exists($database) -and [IO.Directory]::GetFiles($database, '*.edb').Count -gt 0
    [ordered]@{
        changed = $false
        authority = [ordered]@{
            backend = 'adcs'; name = $commonName; sanitized_name = $active; subject = $null; directory = $database
            place = [ordered]@{ name = $commonName }
        }
        generations = $generations
        database = [ordered]@{ path = $database; exists = $there; entries = $null; serial = $null; crl_number = $null }
        pending_request = $pending
        own = [ordered]@{
            ca_type = if ($null -ne $type -and $caTypes.ContainsKey([int]$type)) { $caTypes[[int]$type] } else { $null }
            provider = "$(Get-AdcsSetting 'Provider' $active, 'CSP')"
            provider_type = [int](Get-AdcsSetting 'ProviderType' $active, 'CSP')
            computer = [string]$env:COMPUTERNAME
            # Keys may have been archived while recovery agents were configured; only the database knows.
            archived_keys = if ($recovery.Count) { 'unknown' } else { 'absent' }
            kra_certificates = $recovery
            log_directory = "$(Get-AdcsSetting 'DBLogDirectory')"
            restore_in_progress = [bool]$restoring
            # ClockSkewMinutes: how far the CA backdates certificates; 10 where the registry does not say.
            clock_skew_minutes = if ($null -ne $skew) { [int]$skew } else { 10 }
        }
        advisories = $advisories
        abilities = Get-AdcsAbility
    }
}

function Get-AdcsBareFact {
    # The facts of a host where keys are back and no CA is configured: nothing but these certificates of My.
    param([object[]]$Certificate)
    $name = $Certificate[0].GetNameInfo([Security.Cryptography.X509Certificates.X509NameType]::SimpleName, $false)
    $states = @(Get-AdcsKeyState $Certificate)
    [ordered]@{
        changed = $false
        authority = [ordered]@{ backend = 'adcs'; name = $name; sanitized_name = ''; subject = $null; directory = ''; place = [ordered]@{ name = $name } }
        generations = @(for ($at = 0; $at -lt $Certificate.Count; $at++) {
                [ordered]@{
                    index = $at; certificate = ConvertTo-Pem $Certificate[$at].RawData; private_key = $states[$at].State
                    encrypted_at_rest = $null; exportable = $null; certificate_place = $null; key_place = $null
                }
            })
        advisories = @()
        abilities = Get-AdcsAbility
    }
}

function Resolve-AdcsPlaceholder {
    # A path with the placeholders of publication URLs: server, short server name, CA, suffix of the certificate.
    param([string]$Path, [string]$SanitizedName, [string]$Suffix)
    $path = $Path.Replace('%1', "$(Get-AdcsSetting 'CAServerName' $SanitizedName)").Replace('%2', [string]$env:COMPUTERNAME)
    [Environment]::ExpandEnvironmentVariables($path.Replace('%3', $SanitizedName).Replace('%4', $Suffix))
}

function Get-PendingRequest {
    # The request that waits for its certificate: {path, request (PEM or $null)}.
    param([string]$SanitizedName, [int]$Certificates)
    $file = "$(Get-AdcsSetting 'RequestFileName' $SanitizedName)"
    $suffix = if ($Certificates) { "($Certificates)" } else { '' }
    $file = Resolve-AdcsPlaceholder -Path $file -SanitizedName $SanitizedName -Suffix $suffix
    if ($file -and -not [IO.File]::Exists($file)) { $file = Get-RequestBeside -Path $file }
    [ordered]@{ path = $file; request = if ($file -and [IO.File]::Exists($file)) { [IO.File]::ReadAllText($file) } else { $null } }
}

function Get-RequestBeside {
    # The newest request file of this name with any index (not always the count of certificates), or that path where there is none.
    param([string]$Path)
    $directory, $stem = [IO.Path]::GetDirectoryName($Path), ([IO.Path]::GetFileNameWithoutExtension($Path) -replace '\([0-9]+\)$', '')
    if (-not [IO.Directory]::Exists($directory)) { return $Path }
    $others = @([IO.Directory]::GetFiles($directory, '*.req') | Where-Object {
            ([IO.Path]::GetFileNameWithoutExtension($_) -replace '\([0-9]+\)$', '') -eq $stem
        } | Sort-Object -Property { [IO.File]::GetLastWriteTimeUtc($_) })
    if ($others.Count) { $others[-1] } else { $Path }
}

function Test-AdcsClustered {
    # Whether CertSvc is a resource of a failover cluster.
    $resources = 'HKLM:\Cluster\Resources'
    if (-not (Test-Path -LiteralPath $resources)) { return $false }
    foreach ($resource in Get-ChildItem -LiteralPath $resources) {
        $parameters = Join-Path -Path (Join-Path -Path $resources -ChildPath $resource.PSChildName) -ChildPath 'Parameters'
        if ((Get-RegistryValue $parameters 'ServiceName') -eq 'CertSvc') { return $true }
    }
    $false
}

function Assert-AdcsNotClustered {
    <#
    .SYNOPSIS
        Throws where CertSvc belongs to a failover cluster: a change on one node alone breaks the others.
    #>
    param([string]$What = 'nothing was changed')
    if (-not (Test-AdcsClustered)) { return }
    $remedy = 'Follow Microsoft''s procedure for a clustered CA, node by node; this collection only reads such a CA and backs it up'
    throw (New-AdcsError -What $What -Why 'the CA is a resource of a failover cluster' -Remedy $remedy)
}

function Assert-AdcsNewest {
    # Throws unless the newest generation is the one that the controller decided on. -Facts: $null where no CA is configured. -Of: SHA-256 of its
    # certificate; empty where there was none.
    param([AllowNull()][System.Collections.IDictionary]$Facts, [AllowNull()][AllowEmptyString()][string]$Of, [string]$What)
    $generations = @(if ($Facts) { $Facts['generations'] })
    $newest = @($generations | Select-Object -Last 1 | ForEach-Object {
            Get-AdcsDigest -Content (ConvertFrom-AdcsPem -Text $_['certificate'] -What $What).RawData
        })
    if ("$newest" -ne $Of) {
        $why = 'it was renewed meanwhile: this was decided on an older generation'
        throw (New-AdcsError -What $What -Why $why -Remedy 'Run the task again, it sees what is there now' -RenewedMeanwhile)
    }
}

Export-ModuleMember -Function @(
    'Get-AdcsConfigurationKey', 'Get-AdcsSetting', 'Get-AdcsRegistryProperty', 'Get-AdcsThumbprint', 'Get-AdcsDatabaseDirectory', 'Get-AdcsDatabaseSize'
    'Resolve-AdcsPlaceholder', 'ConvertTo-AdcsThumbprint', 'ConvertFrom-AdcsPem', 'Get-AdcsCertificate', 'Get-AdcsKeyState', 'Get-AdcsKeySpec', 'Get-AdcsAuthority', 'Get-AdcsBareFact', 'Test-AdcsClustered', 'Assert-AdcsNotClustered'
    'Assert-AdcsNewest'
)
