# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the service, the database and the life of a CA on Windows; may change in any release. It rests on _adcs.psm1.
#
# What a run leaves that was killed anywhere, and what the next one makes of it:
# - a stopped service: a renewal's record (below) or a restore starts it again; a backup says that it is stopped.
# - <CertSrv>\keyward-renewal.txt, written before certutil renews: the thumbprints that the CA had then. Where it has others now, the renewal is
#   done and only the restart of the service is missing.
# - RestoreInProgress in the registry: only ca_database_restore goes on; it takes the registration away and restores the whole set again.
# - an empty database directory: the files are in <directory>.set-aside-<time> beside it; the restore doesn't need them.
# - .<hex>.new and .<hex>.removed in a store: the next backup of the same CA removes its own ones.

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$script:Configuration = 'HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'
$script:ConfigurationKey = 'HKLM\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'  # the same for reg.exe
$script:RequestPending = 8  # SetupStatus, SETUP_REQUEST_FLAG of certsrv.h
$script:SetName = '^[0-9]{6,}-[0-9]{8}T[0-9]{6}\.[0-9]{6}Z$'
$script:LargestManifest = 16MB
# Seconds. A large database takes hours to copy, and its logs are replayed while the service starts.
$script:Timeout = @{ Quick = 60; View = 600; Command = 600; Setup = 1800; Service = 600; Ping = 120; Copy = 14400 }

# --- small things ---------------------------------------------------------------------------------------------------------------------

function Get-SystemPath {
    # A path below <SystemRoot>\System32.
    param([string[]]$Name)
    $path = Join-Path -Path $env:SystemRoot -ChildPath 'System32'
    foreach ($part in $Name) { $path = Join-Path -Path $path -ChildPath $part }
    $path
}

function Get-RunDirectory {
    # Where a record or a lock of ours lies: only administrators write there.
    $path = Get-SystemPath -Name 'CertSrv'
    if ([IO.Directory]::Exists($path)) { $path } else { Get-SystemPath -Name @() }
}

function Get-UtcTime {
    param([string]$Format = "yyyy-MM-dd'T'HH:mm:ss'Z'")
    [DateTime]::UtcNow.ToString($Format, [Globalization.CultureInfo]::InvariantCulture)
}

function Invoke-Certutil {
    # Options come before positional arguments: certutil takes a late one for data.
    param([string[]]$ArgumentList, [int]$TimeoutSeconds, [string]$What, [switch]$AllowFailure)
    Invoke-AdcsProgram -FilePath (Get-SystemPath -Name 'certutil.exe') @PSBoundParameters
}

function ConvertFrom-Pem {
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

function Get-Sha256 {
    param([byte[]]$Content)
    $digest = [Security.Cryptography.SHA256]::Create()
    try { [BitConverter]::ToString($digest.ComputeHash($Content)).Replace('-', '').ToLowerInvariant() } finally { $digest.Dispose() }
}

function Write-NewFile {
    # A new file, on the disk when this returns.
    param([string]$Path, [byte[]]$Content)
    $stream = [IO.File]::Open($Path, [IO.FileMode]::CreateNew, [IO.FileAccess]::Write, [IO.FileShare]::None)
    try {
        $stream.Write($Content, 0, $Content.Length)
        $stream.Flush($true)
    }
    finally {
        $stream.Dispose()
    }
}

function ConvertTo-JsonBytes {
    param([object]$InputObject)
    [Text.Encoding]::UTF8.GetBytes((ConvertTo-Json -InputObject $InputObject -Depth 99) + "`n")
}

function Get-FreePath {
    # A path that does not exist yet.
    param([string]$Path)
    $free = $Path
    for ($attempt = 1; [IO.File]::Exists($free) -or [IO.Directory]::Exists($free); $attempt++) { $free = "$Path-$attempt" }
    $free
}

function Get-Drive {
    # The drive that a path lies on, $null for a UNC path: DriveInfo does not know those.
    param([string]$Path)
    try {
        $uri = New-Object -TypeName Uri -ArgumentList ([IO.Path]::GetFullPath($Path))
        if ($uri.IsUnc) { return $null }
        $drive = New-Object -TypeName IO.DriveInfo -ArgumentList ([IO.Path]::GetPathRoot([IO.Path]::GetFullPath($Path)))
        if ($drive.IsReady) { $drive } else { $null }
    }
    catch {
        $null
    }
}

function Get-FreeBytes {
    param([string]$Path)
    $drive = Get-Drive -Path $Path
    if ($null -ne $drive) { $drive.AvailableFreeSpace } else { $null }
}

function Assert-FreeSpace {
    param([string]$Path, [long]$Bytes, [string]$What)
    $free = Get-FreeBytes -Path $Path
    if ($null -ne $free -and $free -lt $Bytes) {
        throw (New-AdcsError -What $What -Why "$Path has $free bytes free, and $Bytes are needed" -Remedy 'Make room there, or name another place')
    }
}

function Get-DatabaseFile {
    # The files of the database engine in a directory, and nothing else that may lie there.
    param([string]$Directory)
    if ([IO.Directory]::Exists($Directory)) {
        foreach ($path in [IO.Directory]::GetFiles($Directory)) {
            $name = [IO.Path]::GetFileName($path)
            if ($name -like '*.edb' -or $name -match '^edb.*\.(log|chk|jrs|jtx)$' -or $name -like '*.jfm' -or $name -like '*.pat') { $path }
        }
    }
}

function Get-DatabaseDirectory {
    # The directories that the registry names for the database, each once.
    $found = @()
    foreach ($name in 'DBDirectory', 'DBLogDirectory', 'DBSystemDirectory', 'DBTempDirectory') {
        $path = [string](Get-AdcsRegistryValue -Key $script:Configuration -Name $name)
        if ($path -and $found -notcontains $path) { $found += $path }
    }
    $found
}

function Get-Thumbprint {
    # CACertHash of a CA, in its order. A dash stands for a generation that setup did not find.
    param([string]$SanitizedName)
    $key = Join-Path -Path $script:Configuration -ChildPath $SanitizedName
    foreach ($text in @(Get-AdcsRegistryValue -Key $key -Name 'CACertHash')) {
        $hex = ConvertTo-AdcsThumbprint -Text $text
        if ($hex) { $hex }
    }
}

function Test-Pending { param([System.Collections.IDictionary]$Facts) [bool]($Facts['adcs']['setup_status'] -band $script:RequestPending) }

function Test-NothingThere { param([object]$ErrorRecord) [bool]$ErrorRecord.Exception.Data['NothingThere'] }

function Enter-Lock {
    # Two plays at once would renew twice. The lock goes with its process, however that ends.
    param([string]$What)
    $path = Join-Path -Path (Get-RunDirectory) -ChildPath 'keyward.lock'
    try {
        New-Object -TypeName IO.FileStream -ArgumentList @(
            $path, [IO.FileMode]::OpenOrCreate, [IO.FileAccess]::ReadWrite, [IO.FileShare]::None, 1, [IO.FileOptions]::DeleteOnClose
        )
    }
    catch {
        if ((Get-AdcsHResult -ErrorRecord $_) -eq '0x80070005') { throw (New-AdcsPathError -What $What -Path $path -Thrown $_) }
        $remedy = 'Wait for it, and run the task again'
        throw (New-AdcsError -What $What -Why 'another task is at work on this CA' -Remedy $remedy)
    }
}

# --- the service ----------------------------------------------------------------------------------------------------------------------

function Get-AdcsServiceState {
    <#
    .SYNOPSIS
        The state of the service CertSvc: running, stopped or other (on its way to either); $null where there is no such service.
    #>
    $service = Get-Service -Name CertSvc -ErrorAction SilentlyContinue
    if ($null -eq $service) { return $null }
    switch ([string]$service.Status) { 'Running' { 'running' } 'Stopped' { 'stopped' } default { 'other' } }
}

function Wait-ServiceState {
    param([string]$State, [int]$TimeoutSeconds)
    $clock = [Diagnostics.Stopwatch]::StartNew()
    while ((Get-AdcsServiceState) -ne $State) {
        if ($clock.Elapsed.TotalSeconds -ge $TimeoutSeconds) { return $false }
        Start-Sleep -Milliseconds 250
    }
    $true
}

function Stop-AdcsService {
    <#
    .SYNOPSIS
        Stops the service CertSvc and returns when it is stopped. A restore of the database needs that (0x80070020 otherwise).
    .PARAMETER What
        The first part of the error, which is thrown when it can't be stopped in time.
    #>
    param([string]$What, [int]$TimeoutSeconds = $script:Timeout.Service)
    if ((Get-AdcsServiceState) -eq 'stopped') { return }
    $null = Invoke-AdcsCmdlet -Command 'Stop-Service' -Parameters @{ Name = 'CertSvc' } -TimeoutSeconds $TimeoutSeconds -What $What
    if (-not (Wait-ServiceState -State 'stopped' -TimeoutSeconds $script:Timeout.Quick)) {
        $remedy = 'Find out what it waits for (event log Application, source CertificationAuthority), and run the task again'
        throw (New-AdcsError -What $What -Why 'the service CertSvc does not stop' -Remedy $remedy)
    }
}

function Start-AdcsService {
    <#
    .SYNOPSIS
        Starts the service CertSvc and returns when it runs. That it answers is another matter: Wait-AdcsPing.
    #>
    param([string]$What, [int]$TimeoutSeconds = $script:Timeout.Service)
    if ((Get-AdcsServiceState) -eq 'running') { return }
    $null = Invoke-AdcsCmdlet -Command 'Start-Service' -Parameters @{ Name = 'CertSvc' } -TimeoutSeconds $TimeoutSeconds -What $What
    if (-not (Wait-ServiceState -State 'running' -TimeoutSeconds $script:Timeout.Quick)) {
        $remedy = 'Look into the event log (Application, source CertificationAuthority); certutil -verifykeys tells whether every key is there'
        throw (New-AdcsError -What $What -Why 'the service CertSvc does not run after it was started' -Remedy $remedy)
    }
}

function Wait-AdcsPing {
    <#
    .SYNOPSIS
        Returns when the CA answers, throws when it does not in time. A service that runs is no proof: its database may not be mounted, and
        its logs are replayed while it starts.
    #>
    param([string]$What, [int]$TimeoutSeconds = $script:Timeout.Ping)
    $clock = [Diagnostics.Stopwatch]::StartNew()
    while ($true) {
        $answer = Invoke-Certutil -ArgumentList '-ping' -TimeoutSeconds $script:Timeout.Quick -What $What -AllowFailure
        if (-not $answer.TimedOut -and $answer.ExitCode -eq 0) { return }
        if ($clock.Elapsed.TotalSeconds -ge $TimeoutSeconds) { break }
        Start-Sleep -Milliseconds 1000
    }
    $why = "the CA does not answer within $TimeoutSeconds seconds"
    if ($answer.Code) { $why += " ($($answer.Code))" }
    $remedy = 'Look into the event log (Application, source CertificationAuthority; event 17: the database can not be opened)'
    throw (New-AdcsError -What $What -Why $why -Remedy $remedy -Code $answer.Code)
}

function Restart-Authority {
    # Whatever happens after the service was stopped, it is started again.
    param([string]$What)
    try {
        Stop-AdcsService -What $What
    }
    finally {
        Start-AdcsService -What $What
    }
    Wait-AdcsPing -What $What
}

# --- the database ---------------------------------------------------------------------------------------------------------------------

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
    # A number as certutil writes it: 42 or 0x2a (42). $null for anything else, such as an empty column.
    param([string]$Text)
    $found = [regex]::Match($Text.Trim(), '^(?:0x[0-9A-Fa-f]+\s*\(([0-9]+)\)|([0-9]+))$')
    if ($found.Success) { [long]($found.Groups[1].Value + $found.Groups[2].Value) }
}

function ConvertFrom-CertutilTime {
    # certutil writes a time as the account's regional settings have it; the same revocation must look the same to every account and host.
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

function Get-ViewRow {
    param([string[]]$ArgumentList, [string]$What)
    # In UTC: local times would change twice a year.
    $answer = Invoke-Certutil -ArgumentList (@('-gmt', '-view') + $ArgumentList) -TimeoutSeconds $script:Timeout.View -What $What
    ConvertFrom-CertutilCsv -Text $answer.Output
}

function Get-Number {
    # The first column as numbers. An answer that can't be read must not pass for an empty database.
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

function Get-AdcsDatabaseState {
    <#
    .SYNOPSIS
        What tells whether the database or the configuration has changed, asked from the running service.
    .PARAMETER Facts
        The answer of Get-AdcsAuthority.
    .PARAMETER Target
        Where a set would be written; free_bytes is that drive's, $null for a UNC path.
    .OUTPUTS
        Ordered dictionary: last_request_id, revocations ("<request id>,<when>"), next_crl_number ($null where the CA has
        published none), configuration_sha256, free_bytes, size_bytes.
    .NOTES
        https://learn.microsoft.com/windows-server/administration/windows-commands/certutil#-view
    #>
    param([System.Collections.IDictionary]$Facts, [string]$Target, [string]$What)
    $last = @(Get-Number -What $What -Row @(Get-ViewRow -What $What -ArgumentList '-restrict', 'RequestId=$', '-out', 'RequestId', 'csv'))
    $revoked = @(Get-ViewRow -What $What -ArgumentList '-restrict', 'Disposition=21', '-out', 'RequestId,Request.RevokedWhen', 'csv')
    $revokedIds = @(Get-Number -What $What -Row $revoked)
    $revocations = for ($at = 0; $at -lt $revoked.Count; $at++) {
        '{0},{1}' -f $revokedIds[$at], (ConvertFrom-CertutilTime -Text ($revoked[$at][1..9] -join ','))
    }
    $crls = foreach ($row in @(Get-ViewRow -What $What -ArgumentList '-out', 'CRLNumber', 'CRL', 'csv')) {
        ConvertFrom-CertutilNumber -Text $row[0]
    }
    $size = 0L
    foreach ($directory in @(Get-DatabaseDirectory)) {
        foreach ($path in @(Get-DatabaseFile -Directory $directory)) { $size += (New-Object -TypeName IO.FileInfo -ArgumentList $path).Length }
    }
    if (-not $Target) { $Target = $env:SystemRoot }
    $next = $null
    if (@($crls).Count) { $next = [long]((@($crls) | Measure-Object -Maximum).Maximum) + 1 }
    [ordered]@{
        last_request_id = if ($last.Count) { [long]($last | Measure-Object -Maximum).Maximum } else { 0L }
        revocations = [object[]]@($revocations)
        next_crl_number = $next
        configuration_sha256 = Get-AdcsConfigurationDigest -SanitizedName $Facts['authority']['sanitized_name']
        free_bytes = Get-FreeBytes -Path $Target
        size_bytes = $size
    }
}

function Get-RegistryLine {
    # One line a value: its key, name and content, the same whatever the culture. Values that change by themselves are left out.
    param([string]$Path, [string]$Label)
    $values = Get-ItemProperty -LiteralPath $Path
    if ($null -ne $values) {
        foreach ($property in $values.PSObject.Properties) {
            $name = $property.Name
            if ($name -in 'PSPath', 'PSParentPath', 'PSChildName', 'PSDrive', 'PSProvider') { continue }
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
}

function Get-RegistryTree {
    param([string]$Path, [string]$Label)
    Get-RegistryLine -Path $Path -Label $Label
    foreach ($child in @(Get-ChildItem -LiteralPath $Path)) {
        $name = $child.PSChildName
        Get-RegistryTree -Path (Join-Path -Path $Path -ChildPath $name) -Label "$Label/$($name.ToLowerInvariant())"
    }
}

function Get-AdcsConfigurationDigest {
    <#
    .SYNOPSIS
        SHA-256 (lower case hex) of the CA's configuration in the registry and of its CAPolicy.inf, without what changes by itself.
    #>
    param([string]$SanitizedName)
    $lines = @(Get-RegistryLine -Path $script:Configuration -Label '')
    $lines += @(Get-RegistryTree -Path (Join-Path -Path $script:Configuration -ChildPath $SanitizedName) -Label 'ca')
    $policy = Join-Path -Path $env:SystemRoot -ChildPath 'CAPolicy.inf'
    if ([IO.File]::Exists($policy)) { $lines += 'CAPolicy.inf|' + (Get-AdcsFileDigest -Path $policy) }
    [string[]]$sorted = $lines
    [Array]::Sort($sorted, [StringComparer]::Ordinal)
    Get-Sha256 -Content ([Text.Encoding]::UTF8.GetBytes($sorted -join "`n"))
}

# --- setup ----------------------------------------------------------------------------------------------------------------------------

function Install-AdcsFeature {
    <#
    .SYNOPSIS
        Adds the feature ADCS-Cert-Authority where it is missing. The host is never restarted.
    .OUTPUTS
        Hashtable: changed, reboot_required. With reboot_required, nothing more can be done before the restart.
    #>
    param([string]$What)
    $name = 'ADCS-Cert-Authority'
    $there = Invoke-AdcsCmdlet -Command 'Get-WindowsFeature' -Parameters @{ Name = $name } -TimeoutSeconds $script:Timeout.Command -What $What
    $state = [string](@($there)[0].InstallState)
    if ($state -eq 'Installed') { return @{ changed = $false; reboot_required = $false } }
    if ($state -like '*Pending') { return @{ changed = $false; reboot_required = $true } }
    $parameters = @{ Name = $name; IncludeManagementTools = $true }
    $done = @(Invoke-AdcsCmdlet -Command 'Install-WindowsFeature' -Parameters $parameters -TimeoutSeconds $script:Timeout.Setup -What $What)[0]
    if (-not $done.Success) {
        $remedy = 'Run Install-WindowsFeature ADCS-Cert-Authority by hand on the host, which tells more'
        throw (New-AdcsError -What $What -Why 'the feature ADCS-Cert-Authority could not be added' -Remedy $remedy)
    }
    @{ changed = $true; reboot_required = [string]$done.RestartNeeded -eq 'Yes' }
}

function Invoke-Setup {
    # Install-AdcsCertificationAuthority. Whether it waits for its certificate is read from the registry afterwards.
    param([hashtable]$Parameters, [string]$What)
    $Parameters['Force'] = $true
    $command = 'Install-AdcsCertificationAuthority'
    foreach ($result in @(Invoke-AdcsCmdlet -Command $command -Parameters $Parameters -TimeoutSeconds $script:Timeout.Setup -What $What)) {
        $id = [long]$result.ErrorId
        if ($id -eq 0 -or $id -eq 398) { continue }  # 398: "installation is incomplete", a subordinate waits for its certificate
        if ($id -gt 0 -and $id -lt 65536) { $id = 0x80070000L + $id }
        $code = '0x{0:X8}' -f ($id -band 0xFFFFFFFFL)
        $text = Get-AdcsErrorText -Code $code
        throw (New-AdcsError -What $What -Why $text.Why -Remedy $text.Remedy -Code $code)
    }
}

function Add-DatabaseParameter {
    # -DatabaseDirectory and -LogDirectory. One that is made here is for the system and administrators only, as CertLog is.
    param([hashtable]$Parameters, [string]$Database, [string]$Log)
    foreach ($pair in @(, @('DatabaseDirectory', $Database)) + @(, @('LogDirectory', $Log))) {
        if (-not $pair[1]) { continue }
        if (-not [IO.Directory]::Exists($pair[1])) { $null = New-AdcsProtectedDirectory -Path $pair[1] }
        $Parameters[$pair[0]] = $pair[1]
    }
}

function Move-Aside {
    # Moves the files of the database into <directory>.set-aside-<time>. A move needs no space, and what is left can't be replayed into a restored
    # database. -> {path, kept_as, files: [{from, to}]} or nothing, where there are none.
    param([string]$Directory, [string]$Label, [string]$Time, [string]$What)
    $paths = @(Get-DatabaseFile -Directory $Directory)
    if ($paths.Count -eq 0) { return }
    $full = [IO.Path]::GetFullPath($Directory).TrimEnd([IO.Path]::DirectorySeparatorChar, [IO.Path]::AltDirectorySeparatorChar)
    $aside = New-AdcsProtectedDirectory -Path (Get-FreePath -Path "$full.$Label-$Time")
    $moved = New-Object -TypeName System.Collections.ArrayList
    foreach ($path in $paths) {
        $to = Join-Path -Path $aside -ChildPath ([IO.Path]::GetFileName($path))
        try {
            Move-File -From $path -To $to
        }
        catch {
            Undo-Move -File $moved
            throw (New-AdcsPathError -What $What -Path $path -Thrown $_)
        }
        $null = $moved.Add(@{ from = $path; to = $to })
    }
    @{ path = $Directory; kept_as = $aside; files = $moved }
}

function Move-File {
    # A service that has just stopped, or a virus scanner, may hold a file for a moment.
    param([string]$From, [string]$To)
    for ($attempt = 1; $true; $attempt++) {
        try {
            [IO.File]::Move($From, $To)
            return
        }
        catch {
            if ($attempt -ge 20 -or (Get-AdcsHResult -ErrorRecord $_) -ne '0x80070020') { throw }
            Start-Sleep -Milliseconds 500
        }
    }
}

function Undo-Move { param([object]$File) foreach ($one in @($File)) { Move-File -From $one.to -To $one.from } }

function Assert-KeyInStore {
    param([string]$Thumbprint, [string]$What)
    $certificate = Get-AdcsCertificate -Thumbprint $Thumbprint
    if ($null -eq $certificate -or -not $certificate.HasPrivateKey) {
        $why = "the CA certificate $Thumbprint and its private key are not in the store My of the computer"
        throw (New-AdcsError -What $What -Why $why -Remedy 'Put the keys back first (ca_key_restore), then run the task again')
    }
}

function Get-Answer {
    # The facts as they are now, with what installing and renewing tell besides.
    param([object]$Session, [bool]$Changed)
    $facts = Get-AdcsAuthority -Parameters $Session.Parameters
    $facts['changed'] = $Changed
    $facts['pending'] = Test-Pending -Facts $facts
    $pending = $facts['pending_request']
    $facts['request'] = if ($pending) { $pending['request'] } else { $null }
    $facts['request_file'] = if ($pending) { $pending['path'] } else { $null }
    $facts
}

function Add-Advisory {
    param([System.Collections.IDictionary]$Facts, [string]$Code, [string]$Message)
    $Facts['advisories'] = [object[]](@($Facts['advisories']) + @{ code = $Code; message = $Message; certificate = $null })
}

function Install-Answer {
    # Puts the certificate in place that answers the pending request, and starts the service. The registry tells whether it is done.
    param([object]$Session, [string]$Text, [string]$What)
    $certificates = @(ConvertFrom-Pem -Text $Text -What $What)
    $facts = Get-AdcsAuthority -Parameters $Session.Parameters
    $name = $facts['authority']['sanitized_name']
    if (@(Get-Thumbprint -SanitizedName $name) -contains $certificates[0].Thumbprint) { return Complete-Renewal -Session $Session -Facts $facts -What $What }
    if (-not (Test-Pending -Facts $facts)) {
        throw (New-AdcsError -What $What -Why 'no request of this CA waits for a certificate' -Remedy 'Give certificate only as the answer to a request')
    }
    Write-RenewalRecord -SanitizedName $name
    $directory = New-AdcsProtectedDirectory
    $failure = $null
    try {
        # The CAs above it, where they were given, come along in a PKCS #7 file.
        if ($certificates.Count -eq 1) {
            $file = Join-Path -Path $directory -ChildPath 'answer.crt'
            Write-NewFile -Path $file -Content $certificates[0].RawData
        }
        else {
            $file = Join-Path -Path $directory -ChildPath 'answer.p7b'
            $all = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2Collection
            foreach ($one in $certificates) { $null = $all.Add($one) }
            Write-NewFile -Path $file -Content $all.Export([Security.Cryptography.X509Certificates.X509ContentType]::Pkcs7)
        }
        try {
            $null = Invoke-Certutil -ArgumentList '-silent', '-installCert', $file -TimeoutSeconds $script:Timeout.Command -What $What
        }
        catch {
            $failure = $_
        }
    }
    finally {
        Remove-AdcsDirectory -Path $directory
    }
    $after = Get-AdcsAuthority -Parameters $Session.Parameters
    $made = Get-AdcsCertificate -Thumbprint $certificates[0].Thumbprint
    $known = @(Get-Thumbprint -SanitizedName $name) -contains $certificates[0].Thumbprint
    $done = -not (Test-Pending -Facts $after) -and ($known -or ($null -ne $made -and $made.HasPrivateKey))
    if ($done) {
        # The registry may know the certificate only after this.
        Restart-Authority -What $What
        $done = @(Get-Thumbprint -SanitizedName $name) -contains $certificates[0].Thumbprint
    }
    if (-not $done) {
        if ($failure) { throw $failure }
        $why = 'certutil did not fail, and yet the CA does not know the certificate'
        throw (New-AdcsError -What $What -Why $why -Remedy 'Look at the certificate: does it answer the request that waits, with its key?')
    }
    Remove-RenewalRecord
    Get-Answer -Session $Session -Changed $true
}

function Get-LeftCertificate {
    # CA certificates of a common name in My, with their keys: what a stopped installation or an earlier CA left.
    param([string]$CommonName)
    foreach ($one in @(Get-ChildItem -Path (Join-Path -Path 'Cert:\LocalMachine' -ChildPath 'My'))) {
        $simple = $one.GetNameInfo([Security.Cryptography.X509Certificates.X509NameType]::SimpleName, $false)
        if ($one.HasPrivateKey -and $simple -eq $CommonName -and (Test-CaCertificate -Certificate $one)) { $one }
    }
}

function Test-CaCertificate {
    param([Security.Cryptography.X509Certificates.X509Certificate2]$Certificate)
    foreach ($extension in $Certificate.Extensions) {
        if ($extension.Oid.Value -ne '2.5.29.19') { continue }
        $basic = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509BasicConstraintsExtension -ArgumentList $extension, $extension.Critical
        return $basic.CertificateAuthority
    }
    $false
}

function Get-CaVersion {
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

function Install-NewAuthority {
    param([object]$Session, [System.Collections.IDictionary]$Wanted, [string]$Directory, [string]$What)
    $database = if ($Directory) { $Directory } else { Get-SystemPath -Name 'CertLog' }
    $left = @(Get-DatabaseFile -Directory $database | Where-Object { [IO.Path]::GetExtension($_) -eq '.edb' })
    if ($left.Count) {
        $why = "the database of a CA lies in $database"
        throw (New-AdcsError -What $What -Why $why -Remedy 'Bring that CA back from its backup, or move its files to another place, and keep them')
    }
    $enroll = Get-SystemPath -Name 'CertSrv', 'CertEnroll'
    $certificates = @(Get-LeftCertificate -CommonName $Wanted['common_name'])
    $parameters = @{}
    if ($certificates.Count) {
        $one = $certificates[0]
        $used = [IO.Directory]::Exists($enroll) -and @([IO.Directory]::GetFiles($enroll, '*.crl')).Count -gt 0
        $whole = $certificates.Count -eq 1 -and -not $used -and $Wanted['kind'] -eq 'root' -and $one.NotAfter -gt [DateTime]::Now
        if (-not $whole -or $one.Subject -ne $one.Issuer -or (Get-CaVersion -Certificate $one) -gt 0) {
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
            if ([IO.File]::Exists($path)) { $path = Join-Path -Path $enroll -ChildPath "$plain-$(Get-UtcTime -Format 'yyyyMMddTHHmmssZ').req" }
            $parameters['OutputCertRequestFile'] = $path
        }
    }
    Add-DatabaseParameter -Parameters $parameters -Database $Directory -Log $Directory
    Invoke-Setup -Parameters $parameters -What $What
    if ($parameters.Contains('CertificateID')) { 'finished with the key and the certificate that were there' }
}

function Install-AdcsAuthority {
    <#
    .SYNOPSIS
        What ca_install asks of a Windows host: facts, a new CA, the answer to its request, or a CA that is brought back with keys that are in My.
    .OUTPUTS
        The facts with changed, pending, request, request_file and reboot_required; for the restore request of ca_key_restore, its answer.
    .NOTES
        https://learn.microsoft.com/powershell/module/adcsdeployment/install-adcscertificationauthority
    #>
    param([object]$Session)
    $what = 'nothing was installed'
    $request = $Session.Request
    $install, $recreate, $directory = $request['install'], $request['recreate'], [string]$request['directory']
    if ($request['restore']) { return Import-AdcsBundle -Request $request -Check:$Session.Check }
    if (-not $install -and -not $recreate) { return Get-Answer -Session $Session -Changed $false }
    $facts = $null
    try {
        $facts = Get-Answer -Session $Session -Changed $false
        $facts['reboot_required'] = $false
    }
    catch {
        if (-not (Test-NothingThere -ErrorRecord $_)) { throw }
    }
    Assert-AdcsNotClustered -What $what
    if ($facts) {
        if ($install -and $install['certificate']) {
            if ($Session.Check) { $facts['changed'] = $facts['pending']; $facts['pending'] = $false; return $facts }
            $lock = Enter-Lock -What $what
            try {
                $answer = Install-Answer -Session $Session -Text $install['certificate'] -What $what
            }
            finally {
                $lock.Dispose()
            }
            $answer['reboot_required'] = $false
            return $answer
        }
        if ($install -and $facts['pending']) { return $facts }
        if ($recreate -and @(Get-Thumbprint -SanitizedName $facts['authority']['sanitized_name']) -contains $recreate['certificate_id']) { return $facts }
        $why = "the CA $($facts['authority']['name']) is configured on this host"
        throw (New-AdcsError -What $what -Why $why -Remedy 'Windows runs one CA on a host; name this one, or take another host')
    }
    $nothing = [ordered]@{
        changed = $true; pending = [bool]($install -and $install['kind'] -eq 'subordinate'); authority = $null; generations = [object[]]@()
        request = $null; request_file = $null; reboot_required = $false; advisories = [object[]]@()
    }
    if ($install -and $install['certificate']) {
        throw (New-AdcsError -What $what -Why 'no request of a CA waits for a certificate on this host' -Remedy 'Leave certificate out, and a request is made')
    }
    if ($Session.Check) { return $nothing }
    $lock = Enter-Lock -What $what
    try {
        $feature = Install-AdcsFeature -What $what
        if ($feature.reboot_required) {
            $nothing['changed'], $nothing['pending'], $nothing['reboot_required'] = $feature.changed, $false, $true
            return $nothing
        }
        $note = $null
        if ($recreate) {
            Assert-KeyInStore -Thumbprint $recreate['certificate_id'] -What $what
            $database = if ($directory) { $directory } else { Get-SystemPath -Name 'CertLog' }
            $aside = Move-Aside -Directory $database -Label 'set-aside' -Time (Get-UtcTime -Format 'yyyyMMddTHHmmssZ') -What $what
            $parameters = @{ CAType = $recreate['ca_type']; CertificateID = $recreate['certificate_id'] }
            Add-DatabaseParameter -Parameters $parameters -Database $directory -Log $directory
            Invoke-Setup -Parameters $parameters -What $what
        }
        else {
            $note = Install-NewAuthority -Session $Session -Wanted $install -Directory $directory -What $what
            $aside = $null
        }
        $answer = Get-Answer -Session $Session -Changed $true
        if (-not $answer['pending']) {
            $running = 'the CA is configured, but its service is not at work'
            Start-AdcsService -What $running
            Wait-AdcsPing -What $running
            $answer = Get-Answer -Session $Session -Changed $true
        }
    }
    finally {
        $lock.Dispose()
    }
    $answer['reboot_required'] = $false
    if ($note) { Add-Advisory -Facts $answer -Code 'unfinished_installation' -Message "an installation that was stopped is $note" }
    if ($aside) { Add-Advisory -Facts $answer -Code 'database_set_aside' -Message "a database that lay in $($aside.path) was kept as $($aside.kept_as)" }
    $answer
}

# --- renewal --------------------------------------------------------------------------------------------------------------------------

function Get-RenewalRecordPath { Join-Path -Path (Get-RunDirectory) -ChildPath 'keyward-renewal.txt' }

function Write-RenewalRecord {
    param([string]$SanitizedName)
    Remove-RenewalRecord
    Write-NewFile -Path (Get-RenewalRecordPath) -Content ([Text.Encoding]::ASCII.GetBytes((@(Get-Thumbprint -SanitizedName $SanitizedName) -join "`n") + "`n"))
}

function Remove-RenewalRecord { [IO.File]::Delete((Get-RenewalRecordPath)) }

function Get-UnfinishedRenewal {
    # What an earlier renewal left undone: {record: the registry knows more than before it, unknown: [certificates that the registry does not know]}.
    param([System.Collections.IDictionary]$Facts)
    $known = @(Get-Thumbprint -SanitizedName $Facts['authority']['sanitized_name'])
    $path = Get-RenewalRecordPath
    $recorded = $false
    if ([IO.File]::Exists($path)) {
        $before = @([IO.File]::ReadAllLines($path) | Where-Object { $_ })
        $recorded = ($before -join ',') -ne ($known -join ',')
    }
    $unknown = @()
    $certificates = @($known | ForEach-Object { Get-AdcsCertificate -Thumbprint $_ } | Where-Object { $_ })
    if ($certificates.Count) {
        $newest = ($certificates | ForEach-Object { Get-CaVersion -Certificate $_ } | Measure-Object -Maximum).Maximum
        $subject = [BitConverter]::ToString($certificates[-1].SubjectName.RawData)
        $unknown = @(Get-ChildItem -Path (Join-Path -Path 'Cert:\LocalMachine' -ChildPath 'My') | Where-Object {
                $_.HasPrivateKey -and $known -notcontains $_.Thumbprint -and (Get-CaVersion -Certificate $_) -gt $newest -and
                [BitConverter]::ToString($_.SubjectName.RawData) -eq $subject -and (Test-CaCertificate -Certificate $_)
            })
    }
    @{ recorded = $recorded; unknown = $unknown }
}

function Complete-Renewal {
    # The restart that a renewal is missing. Renewing again is never the cure.
    param([object]$Session, [System.Collections.IDictionary]$Facts, [string]$What)
    $left = Get-UnfinishedRenewal -Facts $Facts
    if (-not $left.recorded -and $left.unknown.Count -eq 0) { return Get-Answer -Session $Session -Changed $false }
    Restart-Authority -What $What
    $known = @(Get-Thumbprint -SanitizedName $Facts['authority']['sanitized_name'])
    $lost = @($left.unknown | Where-Object { $known -notcontains $_.Thumbprint } | ForEach-Object { $_.Thumbprint })
    if ($lost.Count) {
        $why = "a newer certificate of this CA lies in the store My with its key, and the CA does not know it: $($lost -join ', ')"
        $remedy = 'Look at it (certutil -store My <thumbprint>); where a renewal made it that was stopped, finish that by hand, otherwise take it out of My'
        throw (New-AdcsError -What $What -Why $why -Remedy $remedy)
    }
    Remove-RenewalRecord
    $answer = Get-Answer -Session $Session -Changed $true
    $answer['unfinished'] = $true
    $answer
}

function Update-AdcsAuthority {
    <#
    .SYNOPSIS
        What ca_renew asks of a Windows host: facts, a renewal, or the answer to its request.
    .DESCRIPTION
        Whether the CA was renewed is read from the registry and from the store My, never from what certutil says: it is known to hang after its
        work was done. A renewal that an earlier run left is finished (service restarted), and no other is begun in the same task.
    .OUTPUTS
        The facts with changed, pending, request, request_file, unfinished (bool: an earlier renewal is, or was, to be finished); without renew
        in the request also undecided.
    .NOTES
        https://learn.microsoft.com/windows/win32/seccrypto/certification-authority-renewal
    #>
    param([object]$Session)
    $what = 'the CA was not renewed'
    $request = $Session.Request
    $answer = Get-Answer -Session $Session -Changed $false
    $name = $answer['authority']['sanitized_name']
    $left = Get-UnfinishedRenewal -Facts $answer
    $answer['unfinished'] = [bool]($left.recorded -or $left.unknown.Count)
    if (-not $request['renew']) {
        $answer['undecided'] = $true
        if ($answer['unfinished']) {
            $message = 'a renewal was begun and not finished: the service has not been restarted since'
            Add-Advisory -Facts $answer -Code 'unfinished_renewal' -Message $message
        }
        return $answer
    }
    Assert-AdcsNotClustered -What $what
    $certificate = $request['certificate']
    if ($Session.Check) {
        $was = $answer['pending']
        $answer['changed'] = [bool]($answer['unfinished'] -or $certificate -or -not $was)
        $answer['pending'] = -not $certificate -and ($was -or (-not $answer['unfinished'] -and $answer['adcs']['ca_type'] -like '*SubordinateCA'))
        return $answer
    }
    $lock = Enter-Lock -What $what
    try {
        if ($certificate) {
            $answer = Install-Answer -Session $Session -Text $certificate -What $what
        }
        elseif ($answer['unfinished']) {
            $answer = Complete-Renewal -Session $Session -Facts $answer -What $what
        }
        elseif (-not $answer['pending']) {
            $answer = New-Renewal -Session $Session -SanitizedName $name -ReuseKey ([bool]$request['reuse_key']) -What $what
        }
    }
    finally {
        $lock.Dispose()
    }
    if (-not $answer.Contains('unfinished')) { $answer['unfinished'] = $false }
    $answer
}

function New-Renewal {
    param([object]$Session, [string]$SanitizedName, [bool]$ReuseKey, [string]$What)
    $before = @(Get-Thumbprint -SanitizedName $SanitizedName)
    $running = (Get-AdcsServiceState) -eq 'running'
    Write-RenewalRecord -SanitizedName $SanitizedName
    $arguments = @('-silent', '-renewCert')
    if ($ReuseKey) { $arguments += 'ReuseKeys' }
    $failure = $null
    try {
        $null = Invoke-Certutil -ArgumentList $arguments -TimeoutSeconds $script:Timeout.Command -What $What
    }
    catch {
        $failure = $_
    }
    $grown = @(Get-Thumbprint -SanitizedName $SanitizedName).Count -eq $before.Count + 1
    $answer = Get-Answer -Session $Session -Changed $true
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
        $answer['unfinished'] = $false
    }
    if ($failure) {
        $message = 'certutil did not end well, though its work was done'
        if ($failure.Exception.Data['Code']) { $message += " ($($failure.Exception.Data['Code']))" }
        Add-Advisory -Facts $answer -Code 'certutil_failed' -Message "$message; whatever it publishes elsewhere may be missing"
    }
    $answer
}

# --- stores on the host -----------------------------------------------------------------------------------------------------------------

function Open-Store {
    # -> {path, id, local_disk, shared: the share decides who may enter}. A place that has lost its marker is an error, never an empty store.
    param([string]$Path, [string]$What)
    $marker = Get-AdcsStoreMarker -Path $Path
    if ($null -eq $marker) {
        $remedy = 'Is the share mounted? If this is a new store, initialise it once with ca_store'
        throw (New-AdcsError -What $What -Why "$Path is not a keyward store" -Remedy $remedy)
    }
    if ($marker['kind'] -ne 'databases') {
        $remedy = 'Give a store that was initialised with kind=databases'
        throw (New-AdcsError -What $What -Why "$Path is a store for $($marker['kind']), not for databases" -Remedy $remedy)
    }
    $drive = Get-Drive -Path $Path
    @{
        path = [IO.Path]::GetFullPath($Path)
        id = $marker['id']
        local_disk = $null -ne $drive -and $drive.DriveType -eq [IO.DriveType]::Fixed
        shared = $marker['share_permissions'] -eq 'accepted'
    }
}

function Test-MemberName {
    # A file of a set: below at most one directory, and no path elsewhere.
    param([string]$Name)
    $Name -match '^[^/\\:*?"<>|\x00-\x1f]+(/[^/\\:*?"<>|\x00-\x1f]+)?$' -and $Name -notmatch '(^|/)[. ]+(/|$)'
}

function Get-MemberPath {
    param([string]$Directory, [string]$Name)
    $path = $Directory
    foreach ($part in $Name.Split('/')) { $path = Join-Path -Path $path -ChildPath $part }
    $path
}

function Read-Manifest {
    # {text, host: of the inventory, files: [{name, sha256, size}] or $null where it can't be read}.
    param([string]$Directory)
    $path = Join-Path -Path $Directory -ChildPath 'manifest.json'
    $file = New-Object -TypeName IO.FileInfo -ArgumentList $path
    if (-not $file.Exists -or $file.Length -gt $script:LargestManifest) { return @{ text = ''; host = $null; files = $null } }
    $text = [IO.File]::ReadAllText($path)
    try {
        $manifest = [Ansible.Basic.AnsibleModule]::FromJson($text)
        $inventoryHost = [string]$manifest['authority']['host']
        $files = @(foreach ($one in $manifest['files']) {
                @{ name = [string]$one['name']; sha256 = [string]$one['sha256']; size = [long]$one['size'] }
            })
    }
    catch {
        $inventoryHost, $files = $null, $null
    }
    @{ text = $text; host = $inventoryHost; files = $files }
}

function Get-Damage {
    # What is wrong with the files of a set, $null where nothing is. -Quick: only whether they are there, in their sizes.
    param([string]$Directory, [object[]]$File, [switch]$Quick)
    if (-not $File) { return 'its manifest.json is missing or damaged' }
    foreach ($one in $File) {
        $name = [string]$one['name']
        if (-not (Test-MemberName -Name $name)) { return 'its manifest.json names a file that can not be' }
        $path = Get-MemberPath -Directory $Directory -Name $name
        $there = New-Object -TypeName IO.FileInfo -ArgumentList $path
        if (-not $there.Exists) { return "$name does not exist" }
        if ($there.Length -ne [long]$one['size']) { return "$name does not have the size that the manifest records" }
        if (-not $Quick -and (Get-AdcsFileDigest -Path $path) -ne $one['sha256']) { return "$name does not have the digest that the manifest records" }
    }
    $null
}

function Get-SetName {
    # The sets of an authority's directory, newest (highest sequence) first.
    param([string]$Directory)
    if ([IO.Directory]::Exists($Directory)) {
        [IO.Directory]::GetDirectories($Directory) | ForEach-Object { [IO.Path]::GetFileName($_) } | Where-Object { $_ -match $script:SetName } |
            Sort-Object -Descending -Property @{ Expression = { [long]$_.Split('-')[0] } }, @{ Expression = { $_ } }
    }
}

function Get-StoreFact {
    # What a store holds: {id, local_disk, manifests: [{directory, name, text, damage}]}. Of each authority the newest intact set is digested and
    # those before it; of older ones the sizes are looked at, since all of them may be terabytes on a share.
    param([hashtable]$Store, [string]$What)
    $manifests = New-Object -TypeName System.Collections.ArrayList
    try {
        foreach ($path in @([IO.Directory]::GetDirectories($Store.path) | Sort-Object)) {
            $directory = [IO.Path]::GetFileName($path)
            if ($directory.StartsWith('.')) { continue }
            $intact = $false
            foreach ($name in @(Get-SetName -Directory $path)) {
                $place = Join-Path -Path $path -ChildPath $name
                $manifest = Read-Manifest -Directory $place
                $damage = Get-Damage -Directory $place -File $manifest.files -Quick:$intact
                if (-not $damage) { $intact = $true }
                $null = $manifests.Add([ordered]@{ directory = $directory; name = $name; text = $manifest.text; damage = $damage })
            }
        }
    }
    catch {
        throw (New-AdcsPathError -What $What -Path $Store.path -Thrown $_)
    }
    [ordered]@{ id = $Store.id; local_disk = $Store.local_disk; manifests = [object[]]$manifests.ToArray() }
}

function Get-StagingPrefix {
    # A directory that is being made in a store is .<hex>.new; the first 16 digits tell which CA makes it, so that it can remove what it left.
    param([System.Collections.IDictionary]$Facts)
    $who = '{0}\{1}' -f $Facts['adcs']['computer'], $Facts['authority']['sanitized_name']
    (Get-Sha256 -Content ([Text.Encoding]::UTF8.GetBytes($who.ToLowerInvariant()))).Substring(0, 16)
}

function Get-StagingPath {
    param([string]$Store, [string]$Prefix, [string]$Suffix)
    Join-Path -Path $Store -ChildPath ('.' + $Prefix + [guid]::NewGuid().ToString('N').Substring(0, 16) + $Suffix)
}

function Remove-Leftover {
    # What killed runs of this CA left in a store. No other run of it is under way: the lock is held.
    param([string]$Store, [string]$Prefix)
    foreach ($path in [IO.Directory]::GetDirectories($Store, ".$Prefix*")) {
        if ([IO.Path]::GetFileName($path) -match '^\.[0-9a-f]{32}\.(new|removed)$') { Remove-AdcsDirectory -Path $path }
    }
}

function Remove-OldSet {
    # Removes the sets of a host of the inventory beyond its newest -Keep intact ones; their paths. The one that was made just now stays.
    param([string]$Store, [string]$Directory, [int]$Keep, [string]$Prefix, [string]$InventoryHost, [string]$Made)
    $intact = 0
    foreach ($name in @(Get-SetName -Directory $Directory)) {
        $path = Join-Path -Path $Directory -ChildPath $name
        $manifest = Read-Manifest -Directory $path
        if ($manifest.host -cne $InventoryHost) { continue }
        if ($intact -ge [Math]::Max($Keep, 1) -and $name -ne $Made) {
            $gone = Get-StagingPath -Store $Store -Prefix $Prefix -Suffix '.removed'
            [IO.Directory]::Move($path, $gone)
            Remove-AdcsDirectory -Path $gone
            $path
        }
        elseif (-not (Get-Damage -Directory $path -File $manifest.files -Quick)) {
            $intact++
        }
    }
}

# --- backup of the database -------------------------------------------------------------------------------------------------------------

function Get-Template {
    # The names of the templates that an enterprise CA issues by: what stands before the colon, in every language. $null where they can't be told.
    param([System.Collections.IDictionary]$Facts, [string]$What)
    if ($Facts['adcs']['ca_type'] -notlike 'Enterprise*') { return , [object[]]@() }
    $answer = Invoke-Certutil -ArgumentList '-catemplates' -TimeoutSeconds $script:Timeout.Command -What $What -AllowFailure
    if ($answer.TimedOut -or $answer.ExitCode -ne 0) { return $null }
    $names = foreach ($line in $answer.Output -split '\r?\n') {
        if ($line -match '^([^\s:]+):' -and $Matches[1] -ne 'CertUtil') { $Matches[1] }
    }
    , [object[]]@($names)
}

function Get-CspValue {
    # Every value of the CSP key, as JSON has it.
    param([System.Collections.IDictionary]$Facts)
    $found = [ordered]@{}
    $path = Join-Path -Path (Join-Path -Path $script:Configuration -ChildPath $Facts['authority']['sanitized_name']) -ChildPath 'CSP'
    $values = Get-ItemProperty -LiteralPath $path -ErrorAction SilentlyContinue
    if ($null -ne $values) {
        foreach ($property in $values.PSObject.Properties) {
            if ($property.Name -in 'PSPath', 'PSParentPath', 'PSChildName', 'PSDrive', 'PSProvider') { continue }
            $found[$property.Name] = if ($property.Value -is [byte[]]) { [BitConverter]::ToString($property.Value) } else { $property.Value }
        }
    }
    $found
}

function Write-DatabaseSet {
    # Makes the files of a set in a directory, and proves them: [{name, path, sha256, size}].
    param([string]$Directory, [System.Collections.IDictionary]$Facts, [System.Collections.IDictionary]$State, [bool]$TruncateLogs, [string]$What)
    $parameters = @{ Path = $Directory; DatabaseOnly = $true }
    if (-not $TruncateLogs) { $parameters['KeepLog'] = $true }
    $null = Invoke-AdcsCmdlet -Command 'Backup-CARoleService' -Parameters $parameters -TimeoutSeconds $script:Timeout.Copy -What $What
    # Whatever case Windows gives the folder: what is restored must find it as DataBase.
    $database = @([IO.Directory]::GetDirectories($Directory) | Where-Object { [IO.Path]::GetFileName($_) -eq 'DataBase' })
    $made = @(if ($database.Count) { [IO.Directory]::GetFiles($database[0]) })
    $names = @($made | ForEach-Object { [IO.Path]::GetFileName($_).ToLowerInvariant() })
    $empty = @($made | Where-Object { (New-Object -TypeName IO.FileInfo -ArgumentList $_).Length -eq 0 })
    $why = if ($names -notcontains 'certbkxp.dat') { 'certbkxp.dat is missing in what Windows wrote' }
    elseif (@($names -like '*.edb').Count -ne 1) { 'what Windows wrote does not hold exactly one database (.edb)' }
    elseif (@($names -like '*.log').Count -eq 0) { 'what Windows wrote holds no log' }
    elseif ($empty.Count) { "$([IO.Path]::GetFileName($empty[0])) is empty in what Windows wrote" }
    else { $null }
    if ($why) { throw (New-AdcsError -What $What -Why $why -Remedy 'Look into the event log of the host, and run the task again') }
    $files = @($made | Sort-Object | ForEach-Object { @{ name = 'DataBase/' + [IO.Path]::GetFileName($_); path = $_ } })

    $registry = Join-Path -Path $Directory -ChildPath 'configuration.reg'
    Export-Registry -Path $registry -What $What
    $policy = Join-Path -Path $env:SystemRoot -ChildPath 'CAPolicy.inf'
    if ([IO.File]::Exists($policy)) { [IO.File]::Copy($policy, (Join-Path -Path $Directory -ChildPath 'CAPolicy.inf')) }
    $configuration = [ordered]@{
        ca_type = $Facts['adcs']['ca_type']
        common_name = $Facts['authority']['name']
        sanitized_name = $Facts['authority']['sanitized_name']
        computer = $Facts['adcs']['computer']
        database_directory = $Facts['database']['path']
        log_directory = $Facts['adcs']['log_directory']
        csp = Get-CspValue -Facts $Facts
        # Cast: ConvertTo-Json of 5.1 writes an array that a function returned as {value, Count}.
        templates = [object[]](Get-Template -Facts $Facts -What $What)
        os_version = [Environment]::OSVersion.Version.ToString()
        kra_certificates = [object[]]@($Facts['adcs']['kra_certificates'])
        archived_keys = $Facts['adcs']['archived_keys']
    }
    Write-NewFile -Path (Join-Path -Path $Directory -ChildPath 'configuration.json') -Content (ConvertTo-JsonBytes -InputObject $configuration)
    Write-NewFile -Path (Join-Path -Path $Directory -ChildPath 'database.json') -Content (ConvertTo-JsonBytes -InputObject $State)
    foreach ($name in 'configuration.reg', 'CAPolicy.inf', 'configuration.json', 'database.json') {
        $path = Join-Path -Path $Directory -ChildPath $name
        if ([IO.File]::Exists($path)) { $files += @{ name = $name; path = $path } }
    }
    $certificates = Join-Path -Path $Directory -ChildPath 'certificates'
    $null = [IO.Directory]::CreateDirectory($certificates)
    foreach ($generation in $Facts['generations']) {
        $content = @(ConvertFrom-Pem -Text $generation['certificate'] -What $What)[0].RawData
        $name = (Get-Sha256 -Content $content) + '.crt'
        $path = Join-Path -Path $certificates -ChildPath $name
        if ([IO.File]::Exists($path)) { continue }
        Write-NewFile -Path $path -Content $content
        $files += @{ name = "certificates/$name"; path = $path }
    }

    $all = @([IO.Directory]::GetFiles($Directory, '*', [IO.SearchOption]::AllDirectories))
    $keys = @($all | Where-Object { [IO.Path]::GetExtension($_) -in '.p12', '.pfx', '.key', '.pem', '.pvk' })
    if ($keys.Count) {
        $why = "a file that may hold a private key came with the database: $([IO.Path]::GetFileName($keys[0]))"
        throw (New-AdcsError -What $What -Why $why -Remedy 'A set of the database never holds a key; look at the host')
    }
    foreach ($file in $files) {
        # A virus scanner may have it open.
        $stream = [IO.File]::Open($file.path, [IO.FileMode]::Open, [IO.FileAccess]::ReadWrite, [IO.FileShare]'ReadWrite, Delete')
        try { $stream.Flush($true) } finally { $stream.Dispose() }
        [ordered]@{
            name = $file.name; path = $file.path; sha256 = Get-AdcsFileDigest -Path $file.path
            size = (New-Object -TypeName IO.FileInfo -ArgumentList $file.path).Length
        }
    }
}

function Export-Registry {
    # reg.exe writes UTF-16 with a byte order mark.
    param([string]$Path, [string]$What)
    $arguments = 'export', $script:ConfigurationKey, $Path, '/y'
    $null = Invoke-AdcsProgram -FilePath (Get-SystemPath -Name 'reg.exe') -ArgumentList $arguments -TimeoutSeconds $script:Timeout.Quick -What $What
    $content = [IO.File]::ReadAllBytes($Path)
    if ($content.Length -lt 4 -or $content[0] -ne 0xFF -or $content[1] -ne 0xFE) {
        throw (New-AdcsError -What $What -Why 'reg.exe did not write the configuration of the CA' -Remedy 'Run reg.exe export by hand on the host')
    }
}

function Save-DatabaseSet {
    # Gives a set that is made its manifest, which is written last, and its place.
    param([System.Collections.IDictionary]$Commit, [hashtable]$Store, [string]$Staged, [object[]]$File, [System.Collections.IDictionary]$State, [string]$AsOf)
    $manifest = [ordered]@{}
    foreach ($key in $Commit['manifest'].Keys) { $manifest[$key] = $Commit['manifest'][$key] }
    $manifest['files'] = [object[]]@($File | ForEach-Object { [ordered]@{ name = $_.name; sha256 = $_.sha256; size = $_.size } })
    $manifest['members'] = $File.Count
    $manifest['as_of'] = $AsOf
    if (-not $manifest.Contains('state')) { $manifest['state'] = $State }
    if (-not $manifest.Contains('left_out')) { $manifest['left_out'] = [object[]]@() }
    Write-NewFile -Path (Join-Path -Path $Staged -ChildPath 'manifest.json') -Content (ConvertTo-JsonBytes -InputObject $manifest)
    $directory = Join-Path -Path $Store.path -ChildPath $Commit['directory']
    $null = [IO.Directory]::CreateDirectory($directory)
    $path = Join-Path -Path $directory -ChildPath $Commit['name']
    [IO.Directory]::Move($Staged, $path)
    $path
}

function Write-Event {
    param([string]$Directory, [System.Collections.IDictionary]$Content)
    $events = Join-Path -Path $Directory -ChildPath 'events'
    $null = [IO.Directory]::CreateDirectory($events)
    $stamp = ([string]$Content['at']) -replace '[^0-9TZ.]', ''
    $kind = ([string]$Content['event']) -replace '[^a-z_]', ''
    $name = '{0}-{1}-{2}.json' -f $stamp, $kind, [guid]::NewGuid().ToString('N').Substring(0, 8)
    Write-NewFile -Path (Join-Path -Path $events -ChildPath $name) -Content (ConvertTo-JsonBytes -InputObject $Content)
}

function Backup-AdcsDatabase {
    <#
    .SYNOPSIS
        What ca_database_backup asks of a Windows host: the state of the database, and a full set of it, to be fetched or in a store of the host.
    .OUTPUTS
        Without make: the facts with state and, with host_store, store. With make: folder (a set to be fetched) or path and removed (one that is
        stored), files [{name, path, sha256, size}], as_of, state.
    .NOTES
        The set may hold more than state says, since the state is asked first; never less.
        https://learn.microsoft.com/powershell/module/adcsadministration/backup-caroleservice
    #>
    param([object]$Session)
    $what = 'the database was not backed up'
    $request = $Session.Request
    $hostStore = [string]$request['host_store']
    $commit, $folder = $request['commit'], [string]$request['make']
    $make = ($commit -or $folder) -and -not $Session.Check
    $facts = Get-AdcsAuthority -Parameters $Session.Parameters
    if ((Get-AdcsServiceState) -ne 'running') {
        $remedy = 'Start it: Start-Service CertSvc. Windows backs up the database of a running CA only'
        throw (New-AdcsError -What $what -Why 'the service CertSvc does not run' -Remedy $remedy)
    }
    $store = if ($hostStore) { Open-Store -Path $hostStore -What $what } else { $null }
    if ($make) { return New-DatabaseSet -Facts $facts -Request $request -Store $store -What $what }
    $facts['state'] = Get-AdcsDatabaseState -Facts $facts -Target $(if ($store) { $store.path } else { $folder }) -What $what
    $facts['database']['entries'] = $facts['state']['last_request_id']
    if ($store) { $facts['store'] = Get-StoreFact -Store $store -What $what }
    $facts
}

function New-DatabaseSet {
    param([System.Collections.IDictionary]$Facts, [System.Collections.IDictionary]$Request, [hashtable]$Store, [string]$What)
    $commit = $Request['commit']
    $prefix = $null
    if ($Store) {
        if (-not $commit -or $commit['name'] -notmatch $script:SetName -or $commit['directory'] -notmatch '^[A-Za-z0-9][A-Za-z0-9._-]*$') {
            throw (New-AdcsError -What $What -Why 'the controller gave the set no place in the store' -Remedy 'Report this as a bug')
        }
        $prefix = Get-StagingPrefix -Facts $Facts
        $place = Join-Path -Path (Join-Path -Path $Store.path -ChildPath $commit['directory']) -ChildPath $commit['name']
        if ([IO.Directory]::Exists($place)) {
            throw (New-AdcsError -What $What -Why "the set $place is there already" -Remedy 'Another run stored it meanwhile: run the task again')
        }
    }
    Assert-AdcsNotClustered -What $What
    $lock = Enter-Lock -What $What
    $staged, $kept = $null, $false
    try {
        $asOf = Get-UtcTime
        $parent = if ($Store) { $Store.path } else { [string]$Request['make'] }
        $state = Get-AdcsDatabaseState -Facts $Facts -Target $parent -What $What
        Assert-FreeSpace -Path $parent -Bytes ([long]($state['size_bytes'] * 1.2)) -What $What
        if ($Store) {
            Remove-Leftover -Store $Store.path -Prefix $prefix
            $staged = Get-StagingPath -Store $Store.path -Prefix $prefix -Suffix '.new'
            # Where the share decides who may enter, an access list of this host would only lock its own account out.
            if ($Store.shared) { $null = [IO.Directory]::CreateDirectory($staged) } else { $null = New-AdcsProtectedDirectory -Path $staged }
        }
        else {
            $staged = New-AdcsProtectedDirectory -Parent $parent
        }
        $files = @(Write-DatabaseSet -Directory $staged -Facts $Facts -State $state -TruncateLogs ([bool]$Request['truncate_logs']) -What $What)
        $answer = [ordered]@{ changed = $true; as_of = $asOf; state = $state }
        if (-not $Store) {
            $kept = $true
            $answer['folder'] = $staged
            $answer['files'] = [object[]]$files
            return $answer
        }
        $path = Save-DatabaseSet -Commit $commit -Store $Store -Staged $staged -File $files -State $state -AsOf $asOf
        $kept = $true
        foreach ($file in $files) { $file['path'] = Get-MemberPath -Directory $path -Name $file['name'] }
        $answer['path'] = $path
        $answer['files'] = [object[]]$files
        $directory = Join-Path -Path $Store.path -ChildPath $commit['directory']
        $removed = @()
        if ($null -ne $commit['keep']) {
            $removed = @(Remove-OldSet -Store $Store.path -Directory $directory -Keep ([int]$commit['keep']) -Prefix $prefix `
                    -InventoryHost $commit['manifest']['authority']['host'] -Made $commit['name'])
        }
        $answer['removed'] = [object[]]$removed
        if ($commit['event']) { Write-Event -Directory $directory -Content $commit['event'] }
        $answer
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        $done = if ($kept) { 'the set is stored, and what belongs to it is not done' } else { $What }
        throw (New-AdcsPathError -What $done -Path $(if ($Store) { $Store.path } else { [string]$Request['make'] }) -Thrown $_)
    }
    finally {
        try {
            if ($staged -and -not $kept) { Remove-AdcsDirectory -Path $staged }
        }
        finally {
            $lock.Dispose()
        }
    }
}

# --- restore of the database ------------------------------------------------------------------------------------------------------------

function Restore-AdcsDatabase {
    <#
    .SYNOPSIS
        What ca_database_restore asks of a Windows host: what is there, and a set that takes the place of the database.
    .OUTPUTS
        Without restore: the facts with state ($null where the CA does not answer), capolicy (base64), registry_configuration ($null) and, with
        host_store, store; where no CA is configured that is an error, or with host_store authority $null and no generations. With read (a file of
        a set in the store): content (base64). With restore: the facts with restored, set_aside, state, reentered, failed_revocations,
        reboot_required.
    .NOTES
        https://learn.microsoft.com/windows-server/identity/ad-cs/migrate-certification-authority
    #>
    param([object]$Session)
    $what = 'the database was not restored'
    $request = $Session.Request
    if ($request['restore']) { return Invoke-Restore -Session $Session -Wanted $request['restore'] -What $what }
    $hostStore = [string]$request['host_store']
    $store = if ($hostStore) { Open-Store -Path $hostStore -What $what } else { $null }
    if ($request['read']) { return Read-StoredFile -Store $store -Name ([string]$request['read']) -What $what }
    try {
        $answer = Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress
    }
    catch {
        if (-not $store -or -not (Test-NothingThere -ErrorRecord $_)) { throw }
        $answer = [ordered]@{ changed = $false; authority = $null; generations = [object[]]@(); advisories = [object[]]@() }
    }
    $policy = Join-Path -Path $env:SystemRoot -ChildPath 'CAPolicy.inf'
    $answer['state'] = $null
    $answer['capolicy'] = if ([IO.File]::Exists($policy)) { [Convert]::ToBase64String([IO.File]::ReadAllBytes($policy)) } else { $null }
    $answer['registry_configuration'] = $null
    if ($store) { $answer['store'] = Get-StoreFact -Store $store -What $what }
    if ($answer['authority']) {
        # A directory without a database is what a restore leaves that was killed: there is nothing in its way.
        $database = @(Get-DatabaseFile -Directory $answer['database']['path'] | Where-Object { [IO.Path]::GetExtension($_) -eq '.edb' })
        $answer['database']['exists'] = $database.Count -gt 0
    }
    if ($answer['authority'] -and (Get-AdcsServiceState) -eq 'running') {
        try {
            $answer['state'] = Get-AdcsDatabaseState -Facts $answer -What $what
            $answer['database']['entries'] = $answer['state']['last_request_id']
        }
        catch {
            # A service that runs and does not answer: its database can't be opened. That is what a restore is for.
            $answer['state'] = $null
        }
    }
    $answer
}

function Read-StoredFile {
    # One small file of a set, <directory>/<set>/<name>.
    param([hashtable]$Store, [string]$Name, [string]$What)
    $parts = @($Name.Split('/'))
    $wrong = -not $Store -or $parts.Count -ne 3 -or $parts[1] -notmatch $script:SetName -or @($parts | Where-Object { -not (Test-MemberName -Name $_) }).Count
    if ($wrong) { throw (New-AdcsError -What $What -Why 'the controller asked for a file that is none of a set' -Remedy 'Report this as a bug') }
    $path = $Store.path
    foreach ($part in $parts) { $path = Join-Path -Path $path -ChildPath $part }
    try {
        $file = New-Object -TypeName IO.FileInfo -ArgumentList $path
        if ($file.Length -gt $script:LargestManifest) {
            throw (New-AdcsError -What $What -Why "$path is too large to be what it should be" -Remedy 'Use another set')
        }
        @{ changed = $false; content = [Convert]::ToBase64String([IO.File]::ReadAllBytes($path)) }
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        throw (New-AdcsPathError -What $What -Path $path -Thrown $_)
    }
}

function Get-SetFile {
    # The files of the set that were sent, each where it lies: [{name, path, sha256, size}].
    param([System.Collections.IDictionary]$Wanted, [string]$What)
    $folder, $set = [string]$Wanted['folder'], [string]$Wanted['set_path']
    foreach ($file in @($Wanted['files'])) {
        $sent = if ($set) { [string]$file['name'] } else { [string]$file['sent_as'] }
        if (-not (Test-MemberName -Name $file['name']) -or -not (Test-MemberName -Name $sent)) {
            throw (New-AdcsError -What $What -Why 'the set names a file that can not be' -Remedy 'Use another set')
        }
        @{ name = [string]$file['name']; path = Get-MemberPath -Directory $(if ($set) { $set } else { $folder }) -Name $sent; sha256 = [string]$file['sha256'] }
    }
}

function Assert-Digest {
    param([object[]]$File, [string]$What)
    foreach ($one in $File) {
        try {
            $right = (Get-AdcsFileDigest -Path $one.path) -eq $one.sha256
        }
        catch {
            throw (New-AdcsPathError -What $What -Path $one.path -Thrown $_)
        }
        if (-not $right) {
            $why = "$($one.name) does not have the digest that the manifest records"
            throw (New-AdcsError -What $What -Why $why -Remedy 'Use another set, or another copy of it')
        }
    }
}

function Invoke-Restore {
    param([object]$Session, [System.Collections.IDictionary]$Wanted, [string]$What)
    $whole = $Wanted['part'] -eq 'all'
    $time = Get-UtcTime -Format 'yyyyMMddTHHmmssZ'
    $facts = Get-FactOrNull -Session $Session
    Assert-AdcsNotClustered -What $What
    $files = @(Get-SetFile -Wanted $Wanted -What $What)
    $result = @{
        changed = $false; restored = New-Object -TypeName System.Collections.ArrayList; set_aside = New-Object -TypeName System.Collections.ArrayList
        reentered = New-Object -TypeName System.Collections.ArrayList; failed_revocations = New-Object -TypeName System.Collections.ArrayList
        reboot_required = $false; state = $null
    }
    if ($Session.Check) {
        Assert-Digest -File $files -What $What
        Restore-Policy -File $files -Wanted $Wanted -Result $result -Time $time -Check -What $What
        if ($whole) { Show-Restore -Wanted $Wanted -Facts $facts -Result $result }
        return Get-RestoreAnswer -Session $Session -Result $result
    }
    $lock = Enter-Lock -What $What
    $work, $done = $null, $false
    try {
        # Into a place of our own first, and the digests there: nobody can change a file after it was proved.
        $work = if ($Wanted['folder']) { New-AdcsProtectedDirectory -Parent $Wanted['folder'] } else { New-RestoreDirectory }
        $files = @(Copy-SetFile -File $files -Directory $work -Keep:(-not $Wanted['folder']) -What $What)
        Assert-Digest -File $files -What $What
        if ($whole -and $Wanted['restore_database']) { Assert-DatabaseFile -File $files -What $What }
        if ($whole -and $null -eq $facts) { Assert-KeyInStore -Thumbprint $Wanted['certificate_id'] -What $What }
        Restore-Policy -File $files -Wanted $Wanted -Result $result -Time $time -What $What
        if ($whole -and $null -eq $facts) { Install-Role -Wanted $Wanted -Result $result -Time $time -What $What }
        if ($whole -and -not $result.reboot_required) {
            if ($Wanted['restore_database'] -or $Wanted['registry']) {
                Switch-Database -Session $Session -Wanted $Wanted -Directory $work -Result $result -Time $time -What $What
            }
            if (@($Wanted['revoke'] | Where-Object { $_ }).Count) { Invoke-Revocation -Wanted $Wanted -Result $result -What $What }
        }
        $answer = Get-RestoreAnswer -Session $Session -Result $result
        $done = $true
        $answer
    }
    finally {
        try {
            if ($work) { Remove-AdcsDirectory -Path $work }
        }
        catch {
            # An error that is on its way tells more.
            if ($done) { throw }
        }
        finally {
            $lock.Dispose()
        }
    }
}

function New-RestoreDirectory {
    # In the place for temporary files of the host. What a killed restore left there goes: the lock is held.
    Clear-AdcsLeftover -Prefix 'keyward-restore-' -Hours 0
    $parent = Join-Path -Path $env:SystemRoot -ChildPath 'Temp'
    New-AdcsProtectedDirectory -Path (Join-Path -Path $parent -ChildPath ('keyward-restore-' + [guid]::NewGuid().ToString('N')))
}

function Get-FactOrNull {
    # The facts, $null where no CA is configured.
    param([object]$Session)
    try {
        Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress
    }
    catch {
        if (-not (Test-NothingThere -ErrorRecord $_) -or (Get-AdcsRegistryValue -Key $script:Configuration -Name 'Active')) { throw }
        $null
    }
}

function Copy-SetFile {
    param([object[]]$File, [string]$Directory, [switch]$Keep, [string]$What)
    if ($Keep) {
        $size = 0L
        foreach ($one in $File) { if ([IO.File]::Exists($one.path)) { $size += (New-Object -TypeName IO.FileInfo -ArgumentList $one.path).Length } }
        Assert-FreeSpace -Path $Directory -Bytes ([long]($size * 1.1)) -What $What
    }
    foreach ($one in $File) {
        $to = Get-MemberPath -Directory $Directory -Name $one.name
        try {
            $null = [IO.Directory]::CreateDirectory([IO.Path]::GetDirectoryName($to))
            if ($Keep) { [IO.File]::Copy($one.path, $to) } else { [IO.File]::Move($one.path, $to) }
        }
        catch {
            throw (New-AdcsPathError -What $What -Path $one.path -Thrown $_)
        }
        @{ name = $one.name; path = $to; sha256 = $one.sha256 }
    }
}

function Assert-DatabaseFile {
    param([object[]]$File, [string]$What)
    $names = @($File | ForEach-Object { $_.name })
    if ($names -cnotcontains 'DataBase/certbkxp.dat' -or @($names -like 'DataBase/*.edb').Count -ne 1 -or @($names -like 'DataBase/*.log').Count -eq 0) {
        throw (New-AdcsError -What $What -Why 'the set does not hold a whole database' -Remedy 'Use another set')
    }
}

function Restore-Policy {
    # CAPolicy.inf comes before everything: setup reads it.
    param([object[]]$File, [System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$Time, [switch]$Check, [string]$What)
    $source = @($File | Where-Object { $_.name -eq 'CAPolicy.inf' })
    if (-not $Wanted['write_capolicy'] -or $source.Count -eq 0) { return }
    $path = Join-Path -Path $env:SystemRoot -ChildPath 'CAPolicy.inf'
    $aside = $null
    if ([IO.File]::Exists($path)) {
        if ((Get-AdcsFileDigest -Path $path) -eq $source[0].sha256) { return }
        if (-not $Wanted['set_aside_capolicy']) {
            $remedy = 'Compare them; with on_conflict: set_aside the one on the host is kept aside'
            throw (New-AdcsError -What $What -Why "$path differs from that of the set" -Remedy $remedy)
        }
        $aside = Get-FreePath -Path "$path.set-aside-$Time"
    }
    if (-not $Check) {
        try {
            $new = Get-FreePath -Path "$path.new"
            [IO.File]::Copy($source[0].path, $new)
            if ($aside) { [IO.File]::Move($path, $aside) }
            [IO.File]::Move($new, $path)
        }
        catch {
            throw (New-AdcsPathError -What $What -Path $path -Thrown $_)
        }
    }
    $Result.changed = $true
    if ($aside) { $null = $Result.set_aside.Add([ordered]@{ path = $path; kept_as = $(if ($Check) { $null } else { $aside }) }) }
    $null = $Result.restored.Add([ordered]@{ path = $path; part = 'configuration' })
}

function Show-Restore {
    # What check mode can tell of the rest.
    param([System.Collections.IDictionary]$Wanted, [object]$Facts, [hashtable]$Result)
    if ($Wanted['restore_database']) {
        $directories = @(if ($Facts) { Get-DatabaseDirectory } else { [string]$Wanted['database_directory'] })
        foreach ($directory in $directories) {
            if (@(Get-DatabaseFile -Directory $directory).Count) { $null = $Result.set_aside.Add([ordered]@{ path = $directory; kept_as = $null }) }
        }
        $null = $Result.restored.Add([ordered]@{ path = $directories[0]; part = 'database' })
        $Result.changed = $true
    }
    if ($Wanted['registry']) {
        $null = $Result.restored.Add([ordered]@{ path = $script:Configuration; part = 'configuration' })
        $Result.changed = $true
    }
    foreach ($one in @($Wanted['revoke'] | Where-Object { $_ })) {
        $null = $Result.reentered.Add([string]$one['serial'])
        $Result.changed = $true
    }
}

function Install-Role {
    # A host without a CA: the feature, then the role on top of the keys. A database that lies there is kept aside, never overwritten.
    param([System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$Time, [string]$What)
    $feature = Install-AdcsFeature -What $What
    if ($feature.changed) { $Result.changed = $true }
    if ($feature.reboot_required) {
        $Result.reboot_required = $true
        return
    }
    $database, $log = [string]$Wanted['database_directory'], [string]$Wanted['log_directory']
    foreach ($directory in @($database, $log) | Where-Object { $_ } | Select-Object -Unique) {
        $aside = Move-Aside -Directory $directory -Label 'set-aside' -Time $Time -What $What
        if ($aside) { $null = $Result.set_aside.Add([ordered]@{ path = $aside.path; kept_as = $aside.kept_as }) }
    }
    $parameters = @{ CAType = $Wanted['ca_type']; CertificateID = $Wanted['certificate_id'] }
    Add-DatabaseParameter -Parameters $parameters -Database $database -Log $log
    Invoke-Setup -Parameters $parameters -What $What
    $Result.changed = $true
}

function Switch-Database {
    # The set's database takes the place of the one that is there, which is kept aside and comes back when the new one does not prove itself.
    param([object]$Session, [System.Collections.IDictionary]$Wanted, [string]$Directory, [hashtable]$Result, [string]$Time, [string]$What)
    $moved = New-Object -TypeName System.Collections.ArrayList
    $imported, $proved = $false, $false
    $before = Join-Path -Path $Directory -ChildPath 'before.reg'
    Export-Registry -Path $before -What $What
    Stop-AdcsService -What $What
    try {
        Remove-RestoreRegistration
        if ($Wanted['restore_database']) {
            foreach ($place in @(Get-DatabaseDirectory)) {
                $aside = Move-Aside -Directory $place -Label 'set-aside' -Time $Time -What $What
                if ($aside) { $null = $moved.Add($aside) }
            }
            $parameters = @{ Path = $Directory; DatabaseOnly = $true; Force = $true }
            $null = Invoke-AdcsCmdlet -Command 'Restore-CARoleService' -Parameters $parameters -TimeoutSeconds $script:Timeout.Copy -What $What
        }
        if ($Wanted['registry']) {
            $file = Join-Path -Path $Directory -ChildPath 'edited.reg'
            Write-NewFile -Path $file -Content ([Convert]::FromBase64String($Wanted['registry']))
            $imported = $true
            Import-Registry -Path $file -What $What
        }
        Start-AdcsService -What $What
        Wait-AdcsPing -What $What
        $state = Get-AdcsDatabaseState -Facts (Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress) -What $What
        $expected = if ($Wanted['expected']) { $Wanted['expected']['last_request_id'] } else { $null }
        if ($Wanted['restore_database'] -and $null -ne $expected -and $state['last_request_id'] -lt [long]$expected) {
            $why = "the restored database ends with the request $($state['last_request_id']), and the set with $expected"
            throw (New-AdcsError -What $What -Why $why -Remedy 'Use another set')
        }
        $proved = $true
    }
    catch {
        throw (Undo-Switch -Failure $_ -Moved $moved -Registry $(if ($imported) { $before } else { $null }) -Time $Time -What $What)
    }
    finally {
        # Whatever happened after it was stopped.
        if ((Get-AdcsServiceState) -ne 'running') {
            try { Start-AdcsService -What $What } catch { if ($proved) { throw } }
        }
    }
    $Result.changed = $true
    $Result.state = $state
    foreach ($one in $moved) { $null = $Result.set_aside.Add([ordered]@{ path = $one.path; kept_as = $one.kept_as }) }
    if ($Wanted['restore_database']) { $null = $Result.restored.Add([ordered]@{ path = @(Get-DatabaseDirectory)[0]; part = 'database' }) }
    if ($Wanted['registry']) {
        $kept = Save-Registry -Path $before -Time $Time
        $null = $Result.set_aside.Add([ordered]@{ path = $script:Configuration; kept_as = $kept })
        $null = $Result.restored.Add([ordered]@{ path = $script:Configuration; part = 'configuration' })
    }
}

function Save-Registry {
    # The configuration as it was, beside the CA's own files, where only administrators write.
    param([string]$Path, [string]$Time)
    $kept = Get-FreePath -Path (Join-Path -Path (Get-RunDirectory) -ChildPath "configuration.reg.set-aside-$Time")
    [IO.File]::Copy($Path, $kept)
    $kept
}

function Import-Registry {
    param([string]$Path, [string]$What)
    $null = Invoke-AdcsProgram -FilePath (Get-SystemPath -Name 'reg.exe') -ArgumentList 'import', $Path -TimeoutSeconds $script:Timeout.Quick -What $What
}

function Remove-RestoreRegistration {
    # What a restore that was stopped has registered: the whole set is restored again.
    $path = Join-Path -Path $script:Configuration -ChildPath 'RestoreInProgress'
    if (Test-Path -LiteralPath $path) { Remove-Item -LiteralPath $path -Recurse -Force }
}

function Undo-Switch {
    # Brings the database back that was there, and the registry; the error to throw.
    param([object]$Failure, [object]$Moved, [string]$Registry, [string]$Time, [string]$What)
    $data = $Failure.Exception.Data
    $why, $remedy, $code = $data['Why'], $data['Remedy'], [string]$data['Code']
    if (-not $data.Contains('What')) {
        $code = Get-AdcsHResult -ErrorRecord $Failure
        $text = Get-AdcsErrorText -Code $code
        $why, $remedy = $text.Why, $text.Remedy
    }
    if ($Moved.Count -eq 0 -and -not $Registry) { return New-AdcsError -What $What -Why $why -Remedy $remedy -Code $code }
    try {
        Stop-AdcsService -What $What
        Remove-RestoreRegistration
        foreach ($one in $Moved) {
            $null = Move-Aside -Directory $one.path -Label 'failed' -Time $Time -What $What
            Undo-Move -File $one.files
            [IO.Directory]::Delete($one.kept_as)
        }
        if ($Registry) { Import-Registry -Path $Registry -What $What }
        New-AdcsError -What $What -Why "$why. The database that was there is back in its place" -Remedy $remedy -Code $code
    }
    catch {
        $places = @($Moved | ForEach-Object { $_.kept_as }) -join ', '
        $back = "Stop CertSvc and move the files from $places back by hand"
        New-AdcsError -What $What -Why "$why. The database that was there could not be put back" -Remedy $back -Code $code
    }
}

function Invoke-Revocation {
    # Enters again what a published CRL shows and the restored database does not.
    param([System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$What)
    foreach ($one in @($Wanted['revoke'])) {
        $serial = [string]$one['serial']
        $arguments = '-revoke', $serial, ([int]$one['reason']).ToString([Globalization.CultureInfo]::InvariantCulture)
        $answer = Invoke-Certutil -ArgumentList $arguments -TimeoutSeconds $script:Timeout.Quick -What $What -AllowFailure
        if (-not $answer.TimedOut -and $answer.ExitCode -eq 0) {
            $null = $Result.reentered.Add($serial)
        }
        else {
            $null = $Result.failed_revocations.Add([ordered]@{ serial = $serial; code = $answer.Code })
        }
        $Result.changed = $true
    }
    $Result.state = $null
}

function Get-RestoreAnswer {
    param([object]$Session, [hashtable]$Result)
    $facts = Get-FactOrNull -Session $Session
    $answer = if ($facts) { $facts } else { [ordered]@{ authority = $null; generations = [object[]]@(); advisories = [object[]]@() } }
    $state = $Result.state
    if ($facts -and $null -eq $state -and $facts['adcs']['service'] -eq 'running') {
        try { $state = Get-AdcsDatabaseState -Facts $facts -What 'the database can not be read' } catch { $state = $null }
    }
    foreach ($name in 'restored', 'set_aside', 'reentered', 'failed_revocations') { $answer[$name] = [object[]]$Result[$name].ToArray() }
    $answer['changed'] = $Result.changed
    $answer['state'] = $state
    $answer['reboot_required'] = $Result.reboot_required
    $answer
}

Export-ModuleMember -Function @(
    'Get-AdcsServiceState', 'Stop-AdcsService', 'Start-AdcsService', 'Wait-AdcsPing', 'Get-AdcsDatabaseState', 'Get-AdcsConfigurationDigest'
    'Install-AdcsFeature', 'Install-AdcsAuthority', 'Update-AdcsAuthority', 'Backup-AdcsDatabase', 'Restore-AdcsDatabase'
)
