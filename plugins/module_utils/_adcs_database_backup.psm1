# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: a Windows CA's database is backed up; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_service
#AnsibleRequires -PowerShell ..module_utils._adcs_store
#AnsibleRequires -PowerShell ..module_utils._adcs_sets
#AnsibleRequires -PowerShell ..module_utils._adcs_database

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Backup-AdcsDatabase {
    <#
    .SYNOPSIS
        What ca_database_backup asks of a Windows host: the state of the database, and a full set of it, to be fetched or in a store of the host.
    .OUTPUTS
        Without make: the facts with state and, with host_store, store. With make: files [{name, path, sha256, size}], as_of, state and, where the
        set is stored, path and removed.
    .NOTES
        The set may hold more than state says, since the state is asked first; never less.
        https://learn.microsoft.com/powershell/module/adcsadministration/backup-caroleservice
    #>
    param([object]$Session)
    $what = 'the database was not backed up'
    $request = $Session.Request
    $hostStore = [string]$request['host_store']
    $make = ($request['commit'] -or $request['make']) -and -not $Session.Check
    $facts = Get-AdcsAuthority -Parameters $Session.Parameters
    if ((Get-AdcsServiceState) -ne 'running') {
        $remedy = 'Start it: Start-Service CertSvc. Windows backs up the database of a running CA only'
        throw (New-AdcsError -What $what -Why 'the service CertSvc does not run' -Remedy $remedy)
    }
    $store = if ($hostStore) { Open-AdcsStore -Path $hostStore -What $what } else { $null }
    if ($make) { return New-DatabaseSet -Facts $facts -Request $request -Store $store -What $what }
    $facts['state'] = Get-AdcsDatabaseState -Facts $facts -What $what
    if ($store) { $facts['store'] = Get-AdcsStoreFact -Store $store -What $what }
    $facts
}

function New-DatabaseSet {
    param([System.Collections.IDictionary]$Facts, [System.Collections.IDictionary]$Request, [hashtable]$Store, [string]$What)
    $commit = $Request['commit']
    $prefix = $null
    if ($Store) {
        if (-not $commit -or -not (Test-AdcsSetName $commit['name']) -or $commit['directory'] -notmatch '^[A-Za-z0-9][A-Za-z0-9._-]*$') {
            throw (New-AdcsError -What $What -Why 'the controller gave the set no place in the store' -Remedy 'Report this as a bug')
        }
        $prefix = Get-AdcsStagingPrefix -Facts $Facts
        $place = Join-Path -Path (Join-Path -Path $Store.path -ChildPath $commit['directory']) -ChildPath $commit['name']
        if ([IO.Directory]::Exists($place)) {
            throw (New-AdcsError -What $What -Why "the set $place is there already" -Remedy 'Another run stored it meanwhile: run the task again')
        }
    }
    Assert-AdcsNotClustered -What $What
    $lock = Enter-AdcsLock -What $What
    $staged, $kept = $null, $false
    $parent = if ($Store) { $Store.path } else { [string]$Request['make'] }
    try {
        $asOf = Get-AdcsTime
        $state = Get-AdcsDatabaseState -Facts $Facts -What $What
        Assert-AdcsFreeSpace -Path $parent -Bytes ([long]((Get-DatabaseSize) * 1.2)) -What $What
        if ($Store) {
            Remove-AdcsStaged -Store $Store.path -Prefix $prefix
            $staged = Get-AdcsStagingPath -Store $Store.path -Prefix $prefix -Suffix '.new'
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
            $answer['files'] = [object[]]$files
            return $answer
        }
        $path = Save-DatabaseSet -Commit $commit -Store $Store -Staged $staged -File $files -AsOf $asOf
        $kept = $true
        foreach ($file in $files) { $file['path'] = Get-AdcsMemberPath -Directory $path -Name $file['name'] }
        $answer['path'] = $path
        $answer['files'] = [object[]]$files
        $directory = Join-Path -Path $Store.path -ChildPath $commit['directory']
        $removed = @()
        if ($null -ne $commit['keep']) {
            $removed = @(Remove-AdcsOldSet -Store $Store.path -Directory $directory -Keep ([int]$commit['keep']) -Prefix $prefix `
                    -InventoryHost $commit['manifest']['authority']['host'] -Made $commit['name'])
        }
        $answer['removed'] = [object[]]$removed
        if ($commit['event']) { Write-Event -Directory $directory -Content $commit['event'] }
        $answer
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        $done = if ($kept) { 'the set is stored, and what belongs to it is not done' } else { $What }
        throw (New-AdcsPathError -What $done -Path $parent -Thrown $_)
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

# --- the files of a set ----------------------------------------------------------------------------------------------

function Get-DatabaseSize {
    $size = 0L
    foreach ($directory in @(Get-AdcsDatabaseDirectory)) {
        foreach ($path in @(Get-AdcsDatabaseFile -Directory $directory)) { $size += (New-Object -TypeName IO.FileInfo -ArgumentList $path).Length }
    }
    $size
}

function Write-DatabaseSet {
    # Makes the files of a set in a directory, and proves them: [{name, path, sha256, size}].
    param([string]$Directory, [System.Collections.IDictionary]$Facts, [System.Collections.IDictionary]$State, [bool]$TruncateLogs, [string]$What)
    $parameters = @{ Path = $Directory; DatabaseOnly = $true }
    if (-not $TruncateLogs) { $parameters['KeepLog'] = $true }
    $null = Invoke-AdcsCmdlet -Command 'Backup-CARoleService' -Parameters $parameters -Limit Copy -What $What
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
    Export-AdcsRegistry -Path $registry -What $What
    $policy = Get-AdcsPolicyPath
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
    Write-AdcsNewFile -Path (Join-Path -Path $Directory -ChildPath 'configuration.json') -Content (ConvertTo-JsonBytes -InputObject $configuration)
    Write-AdcsNewFile -Path (Join-Path -Path $Directory -ChildPath 'database.json') -Content (ConvertTo-JsonBytes -InputObject $State)
    foreach ($name in 'configuration.reg', 'CAPolicy.inf', 'configuration.json', 'database.json') {
        $path = Join-Path -Path $Directory -ChildPath $name
        if ([IO.File]::Exists($path)) { $files += @{ name = $name; path = $path } }
    }
    $certificates = Join-Path -Path $Directory -ChildPath 'certificates'
    $null = [IO.Directory]::CreateDirectory($certificates)
    foreach ($generation in $Facts['generations']) {
        $content = @(ConvertFrom-AdcsPem -Text $generation['certificate'] -What $What)[0].RawData
        $name = (Get-AdcsDigest -Content $content) + '.crt'
        $path = Join-Path -Path $certificates -ChildPath $name
        if ([IO.File]::Exists($path)) { continue }
        Write-AdcsNewFile -Path $path -Content $content
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
            name = $file.name; path = $file.path; sha256 = Get-AdcsDigest -Path $file.path
            size = (New-Object -TypeName IO.FileInfo -ArgumentList $file.path).Length
        }
    }
}

function Get-Template {
    # The names of the templates that an enterprise CA issues by: what stands before the colon, in every language. $null where they can't be told.
    param([System.Collections.IDictionary]$Facts, [string]$What)
    if ($Facts['adcs']['ca_type'] -notlike 'Enterprise*') { return , [object[]]@() }
    $answer = Invoke-AdcsCertutil -ArgumentList '-catemplates' -Limit Command -What $What -AllowFailure
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
    $key = Get-AdcsConfigurationKey $Facts['authority']['sanitized_name'], 'CSP'
    if (-not (Test-Path -LiteralPath $key)) { return $found }
    foreach ($property in @(Get-AdcsRegistryProperty -Key $key)) {
        $found[$property.Name] = if ($property.Value -is [byte[]]) { [BitConverter]::ToString($property.Value) } else { $property.Value }
    }
    $found
}

function Save-DatabaseSet {
    # Gives a set that is made its manifest, which is written last, and its place.
    param([System.Collections.IDictionary]$Commit, [hashtable]$Store, [string]$Staged, [object[]]$File, [string]$AsOf)
    $manifest = [ordered]@{}
    foreach ($key in $Commit['manifest'].Keys) { $manifest[$key] = $Commit['manifest'][$key] }
    $manifest['files'] = [object[]]@($File | ForEach-Object { [ordered]@{ name = $_.name; sha256 = $_.sha256; size = $_.size } })
    $manifest['members'] = $File.Count
    $manifest['as_of'] = $AsOf
    Write-AdcsNewFile -Path (Join-Path -Path $Staged -ChildPath 'manifest.json') -Content (ConvertTo-JsonBytes -InputObject $manifest)
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
    Write-AdcsNewFile -Path (Join-Path -Path $events -ChildPath $name) -Content (ConvertTo-JsonBytes -InputObject $Content)
}

function ConvertTo-JsonBytes {
    param([object]$InputObject)
    [Text.Encoding]::UTF8.GetBytes((ConvertTo-Json -InputObject $InputObject -Depth 99) + "`n")
}

Export-ModuleMember -Function 'Backup-AdcsDatabase'
