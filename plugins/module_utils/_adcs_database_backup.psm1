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
        What ca_database_backup orders of a Windows host: the state of the database, what a store of the host holds, and a full set.
    .OUTPUTS
        look: the facts; database.state: with own_state. host_store.read: see Get-AdcsStoreFact. database.copy: files [{name, path, sha256, size}],
        as_of, own_state and, in a store, staged: what waits there for host_store.commit, which answers stored_at and removed.
    .NOTES
        The state is read before the copy: the set may hold more than own_state says, never less.
        https://learn.microsoft.com/powershell/module/adcsadministration/backup-caroleservice
    #>
    param([object]$Session)
    $what = 'the database was not backed up'
    $order = $Session.Request
    if ($order['order'] -eq 'host_store.read') { return Get-AdcsStoreFact -Order $order -What $what }
    if ($order['order'] -eq 'host_store.commit') { return Save-DatabaseSet -Session $Session -Order $order -What $what }
    $facts = Get-AdcsAuthority -Parameters $Session.Parameters
    if ($order['order'] -eq 'look') { return $facts }
    if ((Get-AdcsServiceState) -ne 'running') {
        $why, $remedy = 'the service CertSvc does not run', 'Start it: Start-Service CertSvc. Windows backs up the database of a running CA only'
        if (Test-AdcsClustered) {
            $why, $remedy = 'the CA is a resource of a failover cluster, and does not run on this node', 'Run the task on the node that the CA runs on'
        }
        throw (New-AdcsError -What $what -Why $why -Remedy $remedy)
    }
    if ($order['order'] -eq 'database.copy') { return New-DatabaseSet -Session $Session -Order $order -What $what }
    $facts['own_state'] = Get-AdcsDatabaseState -Facts $facts -What $what
    $facts
}

function New-DatabaseSet {
    param([object]$Session, [System.Collections.IDictionary]$Order, [string]$What)
    $store = if ($Order['host_store']) { Open-AdcsStore -Path $Order['host_store'] -What $What } else { $null }
    # A copy changes nothing that the other nodes rest on; logs that are dropped would be missing in their backups.
    if ($Order['truncate_logs']) { Assert-AdcsNotClustered -What 'the database was not backed up (truncate_logs)' }
    $lock = Enter-AdcsLock -What $What
    $staged, $kept = $null, $false
    $parent = if ($store) { $store.path } else { [string]$Order['folder'] }
    try {
        $facts = Get-AdcsAuthority -Parameters $Session.Parameters
        Assert-AdcsNewest -Facts $facts -Of $Order['of'] -What $What
        $asOf = Get-AdcsTime
        $state = Get-AdcsDatabaseState -Facts $facts -What $What
        Assert-AdcsFreeSpace -Path $parent -Bytes ([long]((Get-AdcsDatabaseSize) * 1.2)) -What $What
        if ($store) {
            $prefix = Get-AdcsStagingPrefix -Facts $facts
            Remove-AdcsStaged -Store $store.path -Prefix $prefix
            $staged = Get-AdcsStagingPath -Store $store.path -Prefix $prefix -Suffix '.new'
            # On a share with permissions of its own, an access list from this host would only lock its own account out.
            if ($store.shared) { $null = [IO.Directory]::CreateDirectory($staged) } else { $null = New-AdcsProtectedDirectory -Path $staged }
        }
        else {
            $staged = New-AdcsProtectedDirectory -Parent $parent
        }
        $files = @(Write-DatabaseSet -Directory $staged -Facts $facts -State $state -TruncateLogs ([bool]$Order['truncate_logs']) -What $What)
        $answer = [ordered]@{ changed = $true; as_of = $asOf; own_state = $state; files = [object[]]$files }
        if ($store) { $answer['staged'] = [IO.Path]::GetFileName($staged) }
        $kept = $true
        $answer
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        throw (New-AdcsPathError -What $What -Path $parent -Thrown $_)
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

function Save-DatabaseSet {
    # Completes a staged set: writes the manifest that the controller signed, last, and renames the set into its place. -Order: see the class Commit.
    param([object]$Session, [System.Collections.IDictionary]$Order, [string]$What)
    $store = Open-AdcsStore -Path $Order['host_store'] -What $What
    $place = Get-AdcsSetPath -Store $store -Order $Order -What $What
    $lock = Enter-AdcsLock -What $What
    $kept = $false
    try {
        $prefix = Get-AdcsStagingPrefix -Facts (Get-AdcsAuthority -Parameters $Session.Parameters)
        $staged = Join-Path -Path $store.path -ChildPath ([string]$Order['staged'])
        if ($Order['staged'] -notmatch "^\.$prefix[0-9a-f]{16}\.new$" -or -not [IO.Directory]::Exists($staged)) {
            throw (New-AdcsError -What $What -Why 'what was made for it is gone' -Remedy 'Another run of this CA removed it: run the task again')
        }
        if ([IO.Directory]::Exists($place)) {
            throw (New-AdcsError -What $What -Why "the set $place is there already" -Remedy 'Another run stored it meanwhile: run the task again')
        }
        foreach ($file in @{ name = 'manifest.json'; text = $Order['manifest'] }, @{ name = 'manifest.json.sig'; text = $Order['signature'] }) {
            $path = Join-Path -Path $staged -ChildPath $file.name
            Write-AdcsNewFile -Path $path -Content ([Text.Encoding]::UTF8.GetBytes($file.text))
        }
        $directory = [IO.Path]::GetDirectoryName($place)
        $null = [IO.Directory]::CreateDirectory($directory)
        [IO.Directory]::Move($staged, $place)
        $kept = $true
        $removed = @(if ($null -ne $Order['keep']) {
                Remove-AdcsOldSet -Store $store.path -Directory $directory -Keep ([int]$Order['keep']) -MayGo $Order['may_go'] `
                    -Counting $Order['counting'] -Prefix $prefix
            })
        Write-AdcsEvent -Directory ([IO.Path]::GetDirectoryName($directory)) -Event $Order['event']
        Add-AdcsSigner -Store $store.path -Line $Order['signer']
        [ordered]@{ changed = $true; stored_at = $place; removed = [object[]]$removed }
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        $done = if ($kept) { 'the set is stored, and what belongs to it is not done' } else { $What }
        throw (New-AdcsPathError -What $done -Path $store.path -Thrown $_)
    }
    finally {
        $lock.Dispose()
    }
}

# --- the files of a set ----------------------------------------------------------------------------------------------

function Write-DatabaseSet {
    # Makes the files of a set in a directory, and proves them: [{name, path, sha256, size}].
    param([string]$Directory, [System.Collections.IDictionary]$Facts, [System.Collections.IDictionary]$State, [bool]$TruncateLogs, [string]$What)
    $parameters = @{ Path = $Directory; DatabaseOnly = $true }
    if (-not $TruncateLogs) { $parameters['KeepLog'] = $true }
    $null = Invoke-AdcsCmdlet -Command 'Backup-CARoleService' -Parameters $parameters -Limit Copy -Bytes (Get-AdcsDatabaseSize) -What $What
    # Windows may write the folder in any case; a restore looks for DataBase.
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
        ca_type = $Facts['own']['ca_type']
        common_name = $Facts['authority']['name']
        sanitized_name = $Facts['authority']['sanitized_name']
        computer = $Facts['own']['computer']
        database_directory = $Facts['database']['path']
        log_directory = $Facts['own']['log_directory']
        csp = Get-CspValue -Facts $Facts
        # Cast: ConvertTo-Json of 5.1 writes an array that a function returned as {value, Count}.
        templates = [object[]](Get-AdcsTemplate -Facts $Facts -What $What)
        os_version = [Environment]::OSVersion.Version.ToString()
        kra_certificates = [object[]]@($Facts['own']['kra_certificates'])
        archived_keys = $Facts['own']['archived_keys']
    }
    Write-AdcsNewFile -Path (Join-Path -Path $Directory -ChildPath 'configuration.json') -Content (ConvertTo-AdcsJson -InputObject $configuration)
    Write-AdcsNewFile -Path (Join-Path -Path $Directory -ChildPath 'database.json') -Content (ConvertTo-AdcsJson -InputObject $State)
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

Export-ModuleMember -Function 'Backup-AdcsDatabase'
