# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: a store on a Windows host, its marker and who may enter it; may change in any release.

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_files

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$markerName = 'keyward-store.json'

function Get-StoreMarker {
    <#
    .SYNOPSIS
        The marker of a store: a dictionary with format, version, kind and id, or $null where the directory has none.
    #>
    param([string]$Path)
    $file = Join-Path -Path $Path -ChildPath $markerName
    $what = "$Path can't be used as a store"
    try {
        # A share that can't be reached looks like a missing file to [IO.File]::Exists.
        $text = [IO.File]::ReadAllText($file)
    }
    catch {
        if (Find-AdcsException -Thrown $_ -Match { $_ -is [IO.FileNotFoundException] -or $_ -is [IO.DirectoryNotFoundException] }) { return }
        throw (New-AdcsPathError -What $what -Path $Path -Thrown $_)
    }
    $marker = $null
    if ($text.Length -le 65536) {
        try { $marker = [Ansible.Basic.AnsibleModule]::FromJson($text) } catch { $marker = $null }
    }
    $sound = $marker -is [System.Collections.IDictionary] -and $marker['format'] -eq 'keyward-store' -and $marker['version'] -eq 1 -and
    ('keys', 'databases', 'passwords') -ccontains $marker['kind'] -and $marker['id'] -is [string]
    if (-not $sound) {
        throw (New-AdcsError -What $what -Why "its marker $markerName is damaged, or was written by a later release" `
            -Remedy 'Upgrade the collection, or bring the marker back from another copy of this store')
    }
    $marker
}

function Initialize-AdcsStore {
    <#
    .SYNOPSIS
        Makes a directory on this host a store, closed to all but SYSTEM and Administrators.
    .PARAMETER Parameters
        The options of ca_store.
    .OUTPUTS
        {changed, id (null where check mode would make one), path, kind, before, after}
    #>
    param([System.Collections.IDictionary]$Parameters, [switch]$Check)
    $kind = [string]$Parameters['kind']
    $what = "$($Parameters['path']) can't become a store"
    foreach ($name in 'owner', 'group', 'mode') {
        if ($null -ne $Parameters[$name]) {
            throw (New-AdcsError -What $what -Why "$name is for hosts that are not Windows" `
                -Remedy 'Leave it out: on Windows a store is open to SYSTEM and Administrators')
        }
    }
    if (-not [IO.Path]::IsPathRooted($Parameters['path'])) {
        throw (New-AdcsError -What $what -Why 'it is not a full path' -Remedy 'Give a path with its drive or its share')
    }
    $path = [IO.Path]::GetFullPath($Parameters['path'])
    $accepted = $Parameters['share_permissions'] -eq 'accepted'
    if ([IO.File]::Exists($path)) {
        throw (New-AdcsError -What $what -Why 'it is a file' -Remedy 'Give the path of a directory, or of one to be made')
    }
    $marker = Get-StoreMarker $path
    if ($marker -and $marker['kind'] -ne $kind) {
        throw (New-AdcsError `
            -What "$path can't become a store for $kind" -Why "it is a store for $($marker['kind'])" `
            -Remedy 'Give another path: a store holds one kind of thing')
    }
    for ($parent = [IO.Path]::GetDirectoryName($path); $parent; $parent = [IO.Path]::GetDirectoryName($parent)) {
        if ([IO.File]::Exists((Join-Path -Path $parent -ChildPath $markerName))) {
            throw (New-AdcsError -What $what -Why "it lies inside the store $parent" -Remedy 'Give a path apart from every other store')
        }
    }
    $exists = [IO.Directory]::Exists($path)
    if ($exists -and -not $marker -and [IO.Directory]::GetFileSystemEntries($path).Count) {
        throw (New-AdcsError -What $what -Why 'it has other content' -Remedy 'Give an empty directory, or one to be made')
    }
    if ($exists -and -not $accepted -and -not ($marker -and $marker['share_permissions'] -eq 'accepted')) {
        # Ignore CREATOR OWNER and OWNER RIGHTS, which give access to nobody else; domain administrators count as administrators.
        $trusted = 'CO', 'OW', 'DA', 'EA'
        $access = Get-AdcsAccess -Path $path
        if (@(Get-AdcsStranger $access.Owner | Where-Object { ($trusted + 'LA') -notcontains $_ }).Count) {
            throw (New-AdcsError -What $what -Why "it belongs to $($access.Owner), who can change its access list at any time" `
                    -Remedy 'Make Administrators its owner; for a share whose own permissions are restricted say share_permissions: accepted')
        }
        $others = @(Get-AdcsStranger $access.Trustees | Where-Object { $trusted -notcontains $_ })
        if ($others.Count) {
            throw (New-AdcsError -What $what -Why "its access list names others than SYSTEM and Administrators ($($others -join ', '))" `
                    -Remedy 'Take them out; for a share whose own permissions are restricted say share_permissions: accepted')
        }
    }
    $identity = if ($marker) { [string]$marker['id'] } else { $null }
    $answer = @{
        changed = -not $marker; id = $identity; path = $path; kind = $kind
        before = @{ path = $path; state = if ($marker) { 'store' } elseif ($exists) { 'directory' } else { 'absent' } }
        after = @{ path = $path; state = 'store' }
    }
    if ($marker -or $Check) { return $answer }
    $answer.id = [guid]::NewGuid().ToString('N')
    $share = if ($accepted) { ",`n  `"share_permissions`": `"accepted`"" } else { '' }
    $content = "{`n  `"format`": `"keyward-store`",`n  `"version`": 1,`n  `"kind`": `"$kind`",`n  `"id`": `"$($answer.id)`"$share`n}`n"
    try {
        if (-not $exists) {
            if ($accepted) { $null = New-Item -ItemType Directory -Path $path }
            else { $null = New-AdcsProtectedDirectory -Path $path }
        }
        $staged = Join-Path -Path $path -ChildPath ".$([guid]::NewGuid().ToString('N')).new"
        Write-AdcsNewFile -Path $staged -Content ([Text.Encoding]::ASCII.GetBytes($content))
        [IO.File]::Move($staged, (Join-Path -Path $path -ChildPath $markerName))
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        throw (New-AdcsPathError -What $what -Path $path -Thrown $_)
    }
    $answer
}

function Open-AdcsStore {
    # -> {path, id, local_disk, shared: the share decides who may enter}. A place that has lost its marker is an error, never an empty store.
    param([string]$Path, [string]$What)
    $marker = Get-StoreMarker -Path $Path
    if ($null -eq $marker) {
        $remedy = 'Is the share mounted? If this is a new store, initialise it once (keyward.pki.stores, or ca_store)'
        throw (New-AdcsError -What $What -Why "$Path is not a keyward store" -Remedy $remedy)
    }
    if ($marker['kind'] -ne 'databases') {
        $remedy = 'Give a store that was initialised with kind=databases'
        throw (New-AdcsError -What $What -Why "$Path is a store for $($marker['kind']), not for databases" -Remedy $remedy)
    }
    $drive = Get-AdcsDrive -Path $Path
    @{
        path = [IO.Path]::GetFullPath($Path)
        id = [string]$marker['id']
        local_disk = $null -ne $drive -and $drive.DriveType -eq [IO.DriveType]::Fixed
        shared = $marker['share_permissions'] -eq 'accepted'
    }
}

function Add-AdcsSigner {
    # Each store keeps a copy of the public halves of its signers, which is believed only where the paper says the same.
    param([string]$Store, [string]$Line)
    $path = Join-Path -Path $Store -ChildPath 'allowed_signers'
    $there = if ([IO.File]::Exists($path) -and (New-Object -TypeName IO.FileInfo -ArgumentList $path).Length -le 1MB) { [IO.File]::ReadAllText($path) } else { '' }
    if ($there.Split("`n") -ccontains $Line) { return }
    $break = if ($there -and -not $there.EndsWith("`n")) { "`n" } else { '' }
    [IO.File]::AppendAllText($path, "$break$Line`n")
}

Export-ModuleMember -Function 'Initialize-AdcsStore', 'Open-AdcsStore', 'Add-AdcsSigner'
