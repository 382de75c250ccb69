# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the database sets in a store on a Windows host; may change in any release.

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_store

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$largestManifest = 64MB

function Test-SetName { param([string]$Name) $Name -match '^[0-9]{6,12}-[0-9]{8}T[0-9]{6}\.[0-9]{6}Z$' }

function Test-AdcsMemberName {
    # Whether a name can be a file of a set: at most one directory deep, never a path that leads elsewhere.
    param([string]$Name)
    $Name -match '^[^/\\:*?"<>|\x00-\x1f]+(/[^/\\:*?"<>|\x00-\x1f]+)?$' -and $Name -notmatch '(^|/)[. ]+(/|$)'
}

function Get-AdcsMemberPath {
    param([string]$Directory, [string]$Name)
    $path = $Directory
    foreach ($part in $Name.Split('/')) { $path = Join-Path -Path $path -ChildPath $part }
    $path
}

function Read-Manifest {
    # {text, signature, id: of its authority, hosts: of the inventory, keys: SHA-256 of the CA's, files: [{name, sha256, size}] or $null where it can't be read}.
    param([string]$Directory)
    $path = Join-Path -Path $Directory -ChildPath 'manifest.json'
    $file = New-Object -TypeName IO.FileInfo -ArgumentList $path
    if (-not $file.Exists -or $file.Length -gt $largestManifest) { return @{ text = ''; signature = $null; id = ''; hosts = @(); keys = @(); files = $null } }
    $text = [IO.File]::ReadAllText($path)
    $beside = New-Object -TypeName IO.FileInfo -ArgumentList "$path.sig"
    $signature = if ($beside.Exists -and $beside.Length -le 32KB) { [IO.File]::ReadAllText("$path.sig") } else { $null }
    try {
        $manifest = [Ansible.Basic.AnsibleModule]::FromJson($text)
        $id = [string]$manifest['authority']['id']
        $hosts = @(@($manifest['made_at']) + @($manifest['homes']) | Where-Object { $_ } | ForEach-Object { [string]$_['host'] })
        $keys = @($manifest['generations'] | Where-Object { $_ } | ForEach-Object { [string]$_['public_key_sha256'] })
        $files = @(foreach ($one in $manifest['files']) {
                @{ name = [string]$one['name']; sha256 = [string]$one['sha256']; size = [long]$one['size'] }
            })
    }
    catch {
        $id, $hosts, $keys, $files = '', @(), @(), $null
    }
    @{ text = $text; signature = $signature; id = $id; hosts = $hosts; keys = $keys; files = $files }
}

function Get-Damage {
    # What is wrong with the files of a set, $null where nothing is. -Quick: only whether they are there, in their sizes.
    param([string]$Directory, [object[]]$File, [switch]$Quick)
    if (-not $File) { return 'its manifest.json is missing or damaged' }
    foreach ($one in $File) {
        $name = [string]$one['name']
        if (-not (Test-AdcsMemberName -Name $name)) { return 'its manifest.json names a file that can not be' }
        $path = Get-AdcsMemberPath -Directory $Directory -Name $name
        $there = New-Object -TypeName IO.FileInfo -ArgumentList $path
        if (-not $there.Exists) { return "$name does not exist" }
        if ($there.Length -ne [long]$one['size']) { return "$name does not have the size that the manifest records" }
        if (-not $Quick -and (Get-AdcsDigest -Path $path) -ne $one['sha256']) { return "$name does not have the digest that the manifest records" }
    }
    $null
}

function Get-SeriesPath {
    # The directories of all databases in a store: <store>\<authority>\<database>.
    param([string]$Store)
    foreach ($authority in @([IO.Directory]::GetDirectories($Store) | Sort-Object)) {
        if ([IO.Path]::GetFileName($authority).StartsWith('.')) { continue }
        foreach ($path in @([IO.Directory]::GetDirectories($authority) | Sort-Object)) {
            $name = [IO.Path]::GetFileName($path)
            if (-not $name.StartsWith('.') -and $name -ne 'events') { $path }
        }
    }
}

function Get-SetName {
    # The sets of a database's directory, newest (highest sequence) first.
    param([string]$Directory)
    if ([IO.Directory]::Exists($Directory)) {
        [IO.Directory]::GetDirectories($Directory) | ForEach-Object { [IO.Path]::GetFileName($_) } | Where-Object { Test-SetName $_ } |
            Sort-Object -Descending -Property @{ Expression = { [long]$_.Split('-')[0] } }, @{ Expression = { $_ } }
    }
}

function Get-AdcsStoreFact {
    # What a store holds that can be of an authority: {changed, id (of the store), local_disk, sets: [{directory, database, name, path, manifest, damage, signature}]}.
    # None of it is judged: the controller knows the signers.
    # -Order: host_store, host (of the inventory), public_keys, authority (the beginning of an id, or $null). The newest intact set is digested and those before it; of older ones the sizes are looked at, since all of
    # them may be terabytes on a share.
    param([System.Collections.IDictionary]$Order, [string]$What)
    $store = Open-AdcsStore -Path $Order['host_store'] -What $What
    $sets = New-Object -TypeName System.Collections.ArrayList
    try {
        foreach ($path in @(Get-SeriesPath -Store $store.path)) {
            $database = [IO.Path]::GetFileName($path)
            $directory = [IO.Path]::GetFileName([IO.Path]::GetDirectoryName($path))
            $found = @(foreach ($name in @(Get-SetName -Directory $path)) {
                    $place = Join-Path -Path $path -ChildPath $name
                    @{ name = $name; place = $place; manifest = Read-Manifest -Directory $place }
                })
            # A set with an unreadable manifest still occupies its sequence number.
            $latest = @($found | Where-Object { $_.manifest.files } | Select-Object -First 1)
            if ($latest.Count -and -not (Test-Ours -Manifest $latest[0].manifest -Order $Order)) { continue }
            $intact = $false
            foreach ($one in $found) {
                $damage = Get-Damage -Directory $one.place -File $one.manifest.files -Quick:$intact
                if (-not $damage) { $intact = $true }
                $null = $sets.Add([ordered]@{
                        directory = $directory; database = $database; name = $one.name; path = $one.place
                        manifest = $one.manifest.text; damage = $damage; signature = $one.manifest.signature
                    })
            }
        }
    }
    catch {
        throw (New-AdcsPathError -What $What -Path $store.path -Thrown $_)
    }
    [ordered]@{ changed = $false; id = $store.id; local_disk = $store.local_disk; sets = [object[]]$sets.ToArray() }
}

function Test-Ours {
    param([hashtable]$Manifest, [System.Collections.IDictionary]$Order)
    if ($Order['authority'] -and $Manifest.id.StartsWith($Order['authority'], [StringComparison]::Ordinal)) { return $true }
    $Manifest.hosts -ccontains $Order['host'] -or @($Manifest.keys | Where-Object { $Order['public_keys'] -contains $_ }).Count -gt 0
}

function Get-AdcsSetPath {
    # Where a set lies in a store, or is to lie. -Order: directory (its authority's), database, name.
    param([hashtable]$Store, [System.Collections.IDictionary]$Order, [string]$What)
    $path = $Store.path
    foreach ($folder in [string]$Order['directory'], [string]$Order['database']) {
        if (-not (Test-SetName $Order['name']) -or -not (Test-AdcsMemberName -Name $folder) -or $folder.StartsWith('.') -or $folder.Contains('/')) {
            throw (New-AdcsError -What $What -Why 'the controller named no set in the store' -Remedy 'Report this as a bug')
        }
        $path = Join-Path -Path $path -ChildPath $folder
    }
    Join-Path -Path $path -ChildPath $Order['name']
}

function Read-AdcsStoredFile {
    # One small file of a set. -Order: host_store, directory, database, name, file.
    param([System.Collections.IDictionary]$Order, [string]$What)
    $store = Open-AdcsStore -Path $Order['host_store'] -What $What
    $set = Get-AdcsSetPath -Store $store -Order $Order -What $What
    if (-not (Test-AdcsMemberName -Name $Order['file'])) {
        throw (New-AdcsError -What $What -Why 'the controller asked for a file that is none of a set' -Remedy 'Report this as a bug')
    }
    $path = Get-AdcsMemberPath -Directory $set -Name $Order['file']
    try {
        $file = New-Object -TypeName IO.FileInfo -ArgumentList $path
        if ($file.Length -gt $largestManifest) {
            throw (New-AdcsError -What $What -Why "$path is too large to be what it should be" -Remedy 'Use another set')
        }
        @{ changed = $false; content = [Convert]::ToBase64String([IO.File]::ReadAllBytes($path)) }
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        throw (New-AdcsPathError -What $What -Path $path -Thrown $_)
    }
}

# --- changes ---------------------------------------------------------------------------------------------------------

function Get-AdcsStagingPrefix {
    # A directory that is being made in a store is .<hex>.new; the first 16 digits tell which CA makes it, so that it can remove what it left.
    param([System.Collections.IDictionary]$Facts)
    $who = '{0}\{1}' -f $Facts['own']['computer'], $Facts['authority']['sanitized_name']
    (Get-AdcsDigest -Content ([Text.Encoding]::UTF8.GetBytes($who.ToLowerInvariant()))).Substring(0, 16)
}

function Get-AdcsStagingPath {
    param([string]$Store, [string]$Prefix, [string]$Suffix)
    Join-Path -Path $Store -ChildPath ('.' + $Prefix + [guid]::NewGuid().ToString('N').Substring(0, 16) + $Suffix)
}

function Remove-AdcsStaged {
    # What killed runs of this CA left in a store. No other run of it is under way: the lock is held.
    param([string]$Store, [string]$Prefix)
    foreach ($path in [IO.Directory]::GetDirectories($Store, ".$Prefix*")) {
        if ([IO.Path]::GetFileName($path) -match '^\.[0-9a-f]{32}\.(new|removed)$') { Remove-AdcsDirectory -Path $path }
    }
}

function Remove-AdcsOldSet {
    # Removes the sets of a database beyond its newest -Keep intact ones, where the controller says that they may go; their paths. -Counting: the
    # manifests (SHA-256) that the controller has judged; others count for nothing.
    param([string]$Store, [string]$Directory, [int]$Keep, [object[]]$MayGo, [object[]]$Counting, [string]$Prefix)
    $intact = 0
    foreach ($name in @(Get-SetName -Directory $Directory)) {
        $path = Join-Path -Path $Directory -ChildPath $name
        $manifest = Read-Manifest -Directory $path
        if (Get-Damage -Directory $path -File $manifest.files -Quick) { continue }
        if ($Counting -notcontains (Get-AdcsDigest -Path (Join-Path -Path $path -ChildPath 'manifest.json'))) { continue }
        if ($intact -ge [Math]::Max($Keep, 1) -and $MayGo -contains $name) {
            $gone = Get-AdcsStagingPath -Store $Store -Prefix $Prefix -Suffix '.removed'
            [IO.Directory]::Move($path, $gone)
            Remove-AdcsDirectory -Path $gone
            $path
        }
        else {
            $intact++
        }
    }
}

function Write-AdcsEvent {
    # One event, written once: name, content and signature, as the controller made them. -Directory: the authority's.
    param([string]$Directory, [System.Collections.IDictionary]$Event)
    if ($Event['name'] -notmatch '^[0-9]{6,}-[0-9TZ]+-[a-z_]+-[0-9a-f]{8}\.json$') { throw 'the controller named no event' }
    $events = Join-Path -Path $Directory -ChildPath 'events'
    $null = [IO.Directory]::CreateDirectory($events)
    $path = Join-Path -Path $events -ChildPath $Event['name']
    Write-AdcsNewFile -Path $path -Content ([Text.Encoding]::UTF8.GetBytes($Event['content']))
    Write-AdcsNewFile -Path "$path.sig" -Content ([Text.Encoding]::UTF8.GetBytes($Event['signature']))
}

function ConvertTo-AdcsJson {
    # The bytes of a file.
    param([object]$InputObject)
    [Text.Encoding]::UTF8.GetBytes((ConvertTo-Json -InputObject $InputObject -Depth 99) + "`n")
}

Export-ModuleMember -Function @(
    'Test-AdcsMemberName', 'Get-AdcsMemberPath', 'Get-AdcsSetPath', 'Get-AdcsStoreFact', 'Read-AdcsStoredFile'
    'Get-AdcsStagingPrefix', 'Get-AdcsStagingPath', 'Remove-AdcsStaged', 'Remove-AdcsOldSet', 'Write-AdcsEvent', 'ConvertTo-AdcsJson'
)
