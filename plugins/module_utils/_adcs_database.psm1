# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the state of a Windows CA's database and of its configuration; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# --- the database ----------------------------------------------------------------------------------------------------

function Get-AdcsDatabaseState {
    <#
    .SYNOPSIS
        What tells whether the database or the configuration has changed, asked from the running service.
    .PARAMETER Facts
        The answer of Get-AdcsAuthority.
    .OUTPUTS
        Ordered dictionary: last_request_id, revocations ("<request id>,<reason>,<effective when>,<serial>"), unissued ("<request id>,<disposition>"),
        next_crl_number ($null where the CA has published none), configuration_sha256.
    .NOTES
        https://learn.microsoft.com/windows-server/administration/windows-commands/certutil#-view
    #>
    param([System.Collections.IDictionary]$Facts, [string]$What)
    $last = @(Get-Number -What $What -Row @(Get-ViewRow -What $What -ArgumentList '-restrict', 'RequestId=$', '-out', 'RequestId', 'csv'))
    $columns = 'RequestId,Request.RevokedReason,SerialNumber,Request.RevokedEffectiveWhen'
    $revoked = @(Get-ViewRow -What $What -ArgumentList '-restrict', 'Disposition=21', '-out', $columns, 'csv')
    $revokedIds = @(Get-Number -What $What -Row $revoked)
    $revocations = for ($at = 0; $at -lt $revoked.Count; $at++) {
        # The time stands last: it may hold commas.
        $when = ConvertFrom-CertutilTime -Text ($revoked[$at][3..9] -join ',')
        $serial = ConvertTo-Serial -Text $revoked[$at][2]
        '{0},{1},{2},{3}' -f $revokedIds[$at], (ConvertFrom-CertutilNumber -Text $revoked[$at][1]), $when, $serial
    }
    # Below 15 a request waits; from 30 on it failed or was denied. certutil -resubmit can still issue each, under its own number.
    $unissued = foreach ($restriction in 'Disposition<15', 'Disposition>=30') {
        $rows = @(Get-ViewRow -What $What -ArgumentList '-restrict', $restriction, '-out', 'RequestId,Disposition', 'csv')
        $ids = @(Get-Number -What $What -Row $rows)
        for ($at = 0; $at -lt $rows.Count; $at++) { '{0},{1}' -f $ids[$at], (ConvertFrom-CertutilNumber -Text $rows[$at][1]) }
    }
    $crls = foreach ($row in @(Get-ViewRow -What $What -ArgumentList '-out', 'CRLNumber', 'CRL', 'csv')) {
        ConvertFrom-CertutilNumber -Text $row[0]
    }
    $next = $null
    if (@($crls).Count) { $next = [long]((@($crls) | Measure-Object -Maximum).Maximum) + 1 }
    [ordered]@{
        last_request_id = if ($last.Count) { [long]($last | Measure-Object -Maximum).Maximum } else { 0L }
        revocations = [object[]]@($revocations)
        unissued = [object[]]@($unissued)
        next_crl_number = $next
        configuration_sha256 = Get-ConfigurationDigest -SanitizedName $Facts['authority']['sanitized_name']
    }
}

function Measure-AdcsRequest {
    # How many requests a CA has issued, revoked, failed or denied. Its own certificates count as 15 and 16.
    param([string]$What)
    @(Get-ViewRow -What $What -ArgumentList '-restrict', 'Disposition>=20', '-out', 'RequestId', 'csv').Count
}

function ConvertTo-Serial {
    # A serial number as everybody writes it: lower case hex, without the zeros before it.
    param([string]$Text)
    if ($Text -match '^[0-9A-Fa-f ]+$') { ($Text -replace ' ', '').ToLowerInvariant().TrimStart('0') }
}

function Test-AdcsSerial {
    # Whether the database has a certificate of this number.
    param([string]$Serial, [string]$What)
    @(Get-ViewRow -What $What -ArgumentList '-restrict', "SerialNumber=$($Serial.ToLowerInvariant())", '-out', 'RequestId', 'csv').Count -gt 0
}

function Get-ViewRow {
    param([string[]]$ArgumentList, [string]$What)
    # In UTC: local times would change twice a year.
    $answer = Invoke-AdcsCertutil -ArgumentList (@('-gmt', '-view') + $ArgumentList) -Limit View -Bytes (Get-AdcsDatabaseSize) -What $What
    ConvertFrom-CertutilCsv -Text $answer.Output
}

function Get-Number {
    # The first column as numbers. Throws for an answer that can't be read: it must not count as an empty database.
    param([object[]]$Row, [string]$What)
    foreach ($one in $Row) {
        $number = ConvertFrom-CertutilNumber -Text $one[0]
        if ($null -eq $number) {
            $remedy = 'Run certutil -view by hand on the host, and report what it prints'
            throw (New-AdcsError -What $What -Why 'certutil -view answers in a way that is not known' -Remedy $remedy)
        }
        $number
    }
}

function ConvertFrom-CertutilCsv {
    # The rows below the heading, each as an array of fields. The heading is localized.
    param([string]$Text)
    $lines = @($Text -split '\r?\n' | Where-Object { $_.Trim() })
    for ($at = 1; $at -lt $lines.Count; $at++) {
        if ($lines[$at] -like 'CertUtil:*') { continue }
        $fields = foreach ($field in [regex]::Matches($lines[$at], '(?:^|,)\s*(?:"((?:[^"]|"")*)"|([^,]*))')) {
            if ($field.Groups[1].Success) { $field.Groups[1].Value.Replace('""', '"').Trim() } else { $field.Groups[2].Value.Trim() }
        }
        , @($fields)
    }
}

function ConvertFrom-CertutilNumber {
    # A number as certutil writes it: 42, 0x2a (42), or one with its meaning, 21 -- Revoked. $null for anything else, such as an empty column.
    param([string]$Text)
    $found = [regex]::Match($Text.Trim(), '^(?:0x[0-9A-Fa-f]+\s*\(([0-9]+)\)|([0-9]+))(?:\s+--\s.*)?$')
    if ($found.Success) { [long]($found.Groups[1].Value + $found.Groups[2].Value) }
}

function ConvertFrom-CertutilTime {
    # certutil writes times in the account's regional format; a revocation must read the same for every account and host.
    param([string]$Text)
    # It is asked for UTC, and may say so ("GMT").
    $time = [DateTime]::MinValue
    $styles = [Globalization.DateTimeStyles]'AssumeUniversal, AdjustToUniversal'
    if ([DateTime]::TryParse($Text, [Globalization.CultureInfo]::CurrentCulture, $styles, [ref]$time)) {
        $time.ToString("yyyy-MM-dd'T'HH:mm'Z'", [Globalization.CultureInfo]::InvariantCulture)
    }
    else {
        $Text
    }
}

function Get-AdcsTemplate {
    # The names of the templates that an enterprise CA issues by: what stands before the colon, in every language. $null where they can't be told.
    param([System.Collections.IDictionary]$Facts, [string]$What)
    if ($Facts['own']['ca_type'] -notlike 'Enterprise*') { return , [object[]]@() }
    $answer = Invoke-AdcsCertutil -ArgumentList '-catemplates' -Limit Command -What $What -AllowFailure
    if ($answer.TimedOut -or $answer.ExitCode -ne 0) { return $null }
    $names = foreach ($line in $answer.Output -split '\r?\n') {
        if ($line -match '^([^\s:]+):' -and $Matches[1] -ne 'CertUtil') { $Matches[1] }
    }
    , [object[]]@($names)
}

# --- the configuration -----------------------------------------------------------------------------------------------

function Get-ConfigurationDigest {
    <#
    .SYNOPSIS
        SHA-256 (lower case hex) of the CA's configuration in the registry and of its CAPolicy.inf, without what changes by itself.
    #>
    param([string]$SanitizedName)
    $lines = @(Get-RegistryLine -Path (Get-AdcsConfigurationKey) -Label '')
    $lines += @(Get-RegistryTree -Path (Get-AdcsConfigurationKey $SanitizedName) -Label 'ca')
    $policy = Get-AdcsPolicyPath
    if ([IO.File]::Exists($policy)) { $lines += 'CAPolicy.inf|' + (Get-AdcsDigest -Path $policy) }
    [string[]]$sorted = $lines
    [Array]::Sort($sorted, [StringComparer]::Ordinal)
    Get-AdcsDigest -Content ([Text.Encoding]::UTF8.GetBytes($sorted -join "`n"))
}

function Get-RegistryLine {
    # One line a value: its key, name and content, the same whatever the culture. Values that change by themselves are left out.
    param([string]$Path, [string]$Label)
    foreach ($property in @(Get-AdcsRegistryProperty -Key $Path)) {
        $name = $property.Name
        if ($name -like 'DBLast*' -or $name -like '*NextPublish' -or $name -eq 'CAXchgCertHash') { continue }
        $text = if ($property.Value -is [byte[]]) {
            [BitConverter]::ToString($property.Value)
        }
        else {
            (@($property.Value) | ForEach-Object { [Convert]::ToString($_, [Globalization.CultureInfo]::InvariantCulture) }) -join "`0"
        }
        "$Label|$($name.ToLowerInvariant())|$text"
    }
}

function Get-RegistryTree {
    param([string]$Path, [string]$Label)
    Get-RegistryLine -Path $Path -Label $Label
    foreach ($child in @(Get-ChildItem -LiteralPath $Path)) {
        $name = $child.PSChildName
        Get-RegistryTree -Path (Join-Path -Path $Path -ChildPath $name) -Label "$Label/$($name.ToLowerInvariant())"
    }
}

function Export-AdcsRegistry {
    # reg.exe writes UTF-16 with a byte order mark.
    param([string]$Path, [string]$What)
    $arguments = 'export', (Get-AdcsConfigurationKey).Replace(':', ''), $Path, '/y'
    $null = Invoke-AdcsProgram -FilePath (Get-AdcsSystemPath -Name 'reg.exe') -ArgumentList $arguments -Limit Quick -What $What
    $content = [IO.File]::ReadAllBytes($Path)
    if ($content.Length -lt 4 -or $content[0] -ne 0xFF -or $content[1] -ne 0xFE) {
        throw (New-AdcsError -What $What -Why 'reg.exe did not write the configuration of the CA' -Remedy 'Run reg.exe export by hand on the host')
    }
}

Export-ModuleMember -Function 'Get-AdcsDatabaseState', 'Measure-AdcsRequest', 'Test-AdcsSerial', 'Get-AdcsTemplate', 'Export-AdcsRegistry'
