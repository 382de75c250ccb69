# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: files and protected directories on a Windows host; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$protectedSddl = 'O:BAG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)'

# --- directories -----------------------------------------------------------------------------------------------------

function Get-AdcsAccess {
    # {Owner, Protected: bool, Trustees: SIDs or their SDDL names that any entry names}, read from the SDDL, which is the same in every language.
    # An entry that is not understood is the trustee "?".
    param([string]$Path)
    $sddl = (Get-Acl -LiteralPath $Path).Sddl
    $list = [regex]::Match($sddl, 'D:(?<flags>[A-Z_]*)(?<entries>(\([^()]*\))*)(?<rest>.*)$')
    $trustees = @(foreach ($entry in [regex]::Matches($list.Groups['entries'].Value, '\(([^()]*)\)')) {
            $fields = $entry.Groups[1].Value.Split(';')
            if ($fields.Count -eq 6) { $fields[5] } else { '?' }
        })
    # No list at all, or one that is cut short, lets everybody in.
    if (-not $trustees.Count -or $list.Groups['rest'].Value -notmatch '^(S:.*)?$') { $trustees += '?' }
    $owner = [regex]::Match($sddl, '^O:(S-[0-9-]+|[A-Z]{2})')
    [PSCustomObject]@{ Owner = $owner.Groups[1].Value; Protected = $list.Groups['flags'].Value.StartsWith('P'); Trustees = @($trustees | Sort-Object -Unique) }
}

function Get-AdcsStranger {
    # Those trustees that are neither SYSTEM nor Administrators.
    param([string[]]$Trustee)
    $Trustee | Where-Object { ('SY', 'S-1-5-18', 'BA', 'S-1-5-32-544') -notcontains $_ }
}

function New-AdcsProtectedDirectory {
    <#
    .SYNOPSIS
        Makes an empty directory that only SYSTEM and Administrators can enter, and proves that before anything is written into it.
    .PARAMETER Parent
        Where a directory keyward-<32 hex> is made. The default is <SystemRoot>\Temp.
    .PARAMETER Path
        Its full path, instead of -Parent. It must not exist.
    .OUTPUTS
        The full path.
    #>
    param([string]$Parent, [string]$Path)
    if (-not $Path) {
        if (-not $Parent) { Clear-AdcsLeftover }
        if (-not $Parent) { $Parent = Join-Path -Path $env:SystemRoot -ChildPath 'Temp' }
        $Path = Join-Path -Path $Parent -ChildPath ('keyward-' + [guid]::NewGuid().ToString('N'))
    }
    $what = "the folder $Path can't be made"
    if ([IO.Directory]::Exists($Path) -or [IO.File]::Exists($Path)) {
        throw (New-AdcsError -What $what -Why 'it exists already' -Remedy 'Give the path of a new one')
    }
    try { $null = New-Item -ItemType Directory -Path $Path }
    catch { throw (New-AdcsPathError -What $what -Path $Path -Thrown $_) }
    try {
        try {
            $acl = Get-Acl -LiteralPath $Path
            $acl.SetSecurityDescriptorSddlForm($protectedSddl)
            Set-Acl -LiteralPath $Path -AclObject $acl
            $access = Get-AdcsAccess -Path $Path
        }
        catch { throw (New-AdcsPathError -What $what -Path $Path -Thrown $_) }
        $others = @(Get-AdcsStranger $access.Trustees)
        if (-not $access.Protected -or $others.Count) {
            throw (New-AdcsError -What $what `
                -Why 'its access list does not hold: others than SYSTEM and Administrators could read what is written there' `
                    -Remedy 'Its disk must be NTFS or ReFS, and no policy may change the access list')
        }
        if ([IO.Directory]::GetFileSystemEntries($Path).Count) {
            throw (New-AdcsError -What $what -Why 'somebody else wrote into it before it was closed' `
                -Remedy 'Find out who watches that folder, then run this again')
        }
    }
    catch {
        Remove-AdcsDirectory -Path $Path
        throw
    }
    $Path
}

function Use-AdcsProtectedDirectory {
    # Runs -Work with a protected directory as $args[0], which is gone afterwards whatever happens.
    param([scriptblock]$Work)
    $directory = New-AdcsProtectedDirectory
    try { & $Work $directory }
    finally { Remove-AdcsDirectory -Path $directory }
}

function Clear-AdcsLeftover {
    <#
    .SYNOPSIS
        Removes what killed runs left in <SystemRoot>\Temp.
    .NOTES
        Everybody may make folders there, of these names too. One that does not belong to SYSTEM or Administrators, or lets others in, stays: who
        may swap what lies in it for a link could lead the removal anywhere.
    #>
    param([string]$Prefix = 'keyward-', [int]$Hours = 24)
    $temporary = Join-Path -Path $env:SystemRoot -ChildPath 'Temp'
    if (-not [IO.Directory]::Exists($temporary)) { return }
    foreach ($directory in [IO.Directory]::GetDirectories($temporary, "$Prefix*")) {
        if ([IO.Path]::GetFileName($directory) -notmatch "^$Prefix[0-9a-f]{32}$") { continue }
        try {
            if ([IO.Directory]::GetLastWriteTimeUtc($directory) -gt [DateTime]::UtcNow.AddHours(-$Hours)) { continue }
            if ([IO.File]::GetAttributes($directory) -band [IO.FileAttributes]::ReparsePoint) { continue }
            $access = Get-AdcsAccess -Path $directory
        }
        catch { continue }
        $others = @(Get-AdcsStranger (@($access.Owner) + $access.Trustees))
        if ($access.Protected -and -not $others.Count) { Remove-AdcsDirectory -Path $directory }
    }
}

function Remove-AdcsDirectory {
    <#
    .SYNOPSIS
        Removes a directory with everything in it. Throws an error that names it where that fails.
    #>
    param([string]$Path)
    for ($attempt = 1; [IO.Directory]::Exists($Path); $attempt++) {
        try { [IO.Directory]::Delete($Path, $true) }
        catch {
            if ($attempt -ge 10) {
                $text = Get-AdcsErrorText (Get-AdcsHResult $_)
                throw (New-AdcsError `
                    -What "the folder $Path can't be removed" -Why $text.Why -Remedy 'Remove it by hand now: it may hold private keys under their password')
            }
            # A scanner may have a file open for a moment.
            Start-Sleep -Milliseconds 300
        }
    }
}

function New-AdcsPathError {
    # The error of a path, in three parts; explains the double hop.
    param([string]$What, [string]$Path, [object]$Thrown)
    $code = Get-AdcsHResult $Thrown
    $text = Get-AdcsErrorText $code
    if ($code -eq '0x80070005' -and $Path.StartsWith('\\')) {
        return New-AdcsError -What $What -Code $code `
            -Why 'access to the share is denied; a session that came over the network has no password to show to a second server' `
            -Remedy 'Give the account of the computer rights on the share and run the task as SYSTEM (become with runas), or use CredSSP or Kerberos delegation'
    }
    New-AdcsError -What $What -Why $text.Why -Remedy $text.Remedy -Code $code
}

# --- files -----------------------------------------------------------------------------------------------------------

function Get-AdcsDigest {
    # SHA-256 of bytes, or of the file at -Path, in lower case hex.
    param([byte[]]$Content, [string]$Path)
    # SHA256.Create() of .NET Framework makes one that FIPS mode forbids.
    $algorithm = New-Object -TypeName System.Security.Cryptography.SHA256CryptoServiceProvider
    $stream = if ($Path) { [IO.File]::OpenRead($Path) }
    try {
        $digest = if ($Path) { $algorithm.ComputeHash($stream) } else { $algorithm.ComputeHash($Content) }
        [BitConverter]::ToString($digest).Replace('-', '').ToLowerInvariant()
    }
    finally {
        $algorithm.Dispose()
        if ($Path) { $stream.Dispose() }
    }
}

function Write-AdcsNewFile {
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

function Get-AdcsFreePath {
    # A path that does not exist yet.
    param([string]$Path)
    $free = $Path
    for ($attempt = 1; [IO.File]::Exists($free) -or [IO.Directory]::Exists($free); $attempt++) { $free = "$Path-$attempt" }
    $free
}

function Get-AdcsDrive {
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

function Assert-AdcsFreeSpace {
    param([string]$Path, [long]$Bytes, [string]$What)
    $drive = Get-AdcsDrive -Path $Path
    $free = if ($drive) { $drive.AvailableFreeSpace } else { $null }
    if ($null -ne $free -and $free -lt $Bytes) {
        throw (New-AdcsError -What $What -Why "$Path has $free bytes free, and $Bytes are needed" -Remedy 'Make room there, or name another place')
    }
}

function Get-AdcsDatabaseFile {
    # The files of the database engine in a directory, and nothing else that may lie there.
    param([string]$Directory)
    if ([IO.Directory]::Exists($Directory)) {
        foreach ($path in [IO.Directory]::GetFiles($Directory)) {
            $name = [IO.Path]::GetFileName($path)
            if ($name -like '*.edb' -or $name -match '^edb.*\.(log|chk|jrs|jtx)$' -or $name -like '*.jfm' -or $name -like '*.pat') { $path }
        }
    }
}

function Test-AdcsNotClosed {
    # Whether the database in a directory was not closed (dirty shutdown): a raw copy, or one whose logs are still to be replayed.
    # Its header has the signature 89ABCDEF behind the checksum, and at 52 its state: 2.
    # https://learn.microsoft.com/windows/win32/extensible-storage-engine/jet-dbinfomisc-structure
    param([string]$Directory)
    foreach ($path in @(Get-AdcsDatabaseFile -Directory $Directory | Where-Object { [IO.Path]::GetExtension($_) -eq '.edb' })) {
        $head = New-Object -TypeName byte[] -ArgumentList 56
        try {
            $stream = [IO.File]::Open($path, [IO.FileMode]::Open, [IO.FileAccess]::Read, [IO.FileShare]'ReadWrite, Delete')
            try { $read = $stream.Read($head, 0, 56) } finally { $stream.Dispose() }
        }
        catch { continue }  # the service has it open
        if ($read -eq 56 -and '{0:X8}' -f [BitConverter]::ToUInt32($head, 4) -eq '89ABCDEF' -and [BitConverter]::ToUInt32($head, 52) -eq 2) { return $true }
    }
    $false
}

function Get-AdcsTime {
    param([string]$Format = "yyyy-MM-dd'T'HH:mm:ss'Z'")
    [DateTime]::UtcNow.ToString($Format, [Globalization.CultureInfo]::InvariantCulture)
}

function Get-AdcsPolicyPath {
    # The file that setup reads, whether it is there or not.
    Join-Path -Path $env:SystemRoot -ChildPath 'CAPolicy.inf'
}

Export-ModuleMember -Function @(
    'Get-AdcsAccess', 'Get-AdcsStranger', 'New-AdcsProtectedDirectory', 'Use-AdcsProtectedDirectory', 'Clear-AdcsLeftover', 'Remove-AdcsDirectory'
    'New-AdcsPathError', 'Get-AdcsDigest', 'Write-AdcsNewFile', 'Get-AdcsFreePath', 'Get-AdcsDrive', 'Assert-AdcsFreeSpace', 'Get-AdcsDatabaseFile', 'Test-AdcsNotClosed'
    'Get-AdcsTime', 'Get-AdcsPolicyPath'
)
