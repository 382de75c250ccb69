# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the role of a CA on Windows, and the database that lies in its way; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# --- the role --------------------------------------------------------------------------------------------------------

function Install-AdcsFeature {
    <#
    .SYNOPSIS
        Adds the feature ADCS-Cert-Authority where it is missing. The host is never restarted.
    .OUTPUTS
        Hashtable: changed, reboot_required. With reboot_required, nothing more can be done before the restart.
    #>
    param([string]$What)
    $name = 'ADCS-Cert-Authority'
    $there = Invoke-AdcsCmdlet -Command 'Get-WindowsFeature' -Parameters @{ Name = $name } -Limit Command -What $What
    $state = [string](@($there)[0].InstallState)
    if ($state -eq 'Installed') { return @{ changed = $false; reboot_required = $false } }
    if ($state -like '*Pending') { return @{ changed = $false; reboot_required = $true } }
    $parameters = @{ Name = $name; IncludeManagementTools = $true }
    $done = @(Invoke-AdcsCmdlet -Command 'Install-WindowsFeature' -Parameters $parameters -Limit Setup -What $What)[0]
    if (-not $done.Success) {
        $remedy = 'Run Install-WindowsFeature ADCS-Cert-Authority by hand on the host, which tells more'
        throw (New-AdcsError -What $What -Why 'the feature ADCS-Cert-Authority could not be added' -Remedy $remedy)
    }
    @{ changed = $true; reboot_required = [string]$done.RestartNeeded -eq 'Yes' }
}

function Invoke-AdcsSetup {
    # Install-AdcsCertificationAuthority. Whether it waits for its certificate is read from the registry afterwards.
    # -Account: {user, password} of somebody who may set up a CA in Active Directory; $null for the account of this session.
    param([hashtable]$Parameters, [AllowNull()][object]$Account, [string]$What)
    if ($Account) {
        $secret = New-Object -TypeName System.Security.SecureString
        foreach ($character in ([string]$Account['password']).ToCharArray()) { $secret.AppendChar($character) }
        $Parameters['Credential'] = New-Object -TypeName System.Management.Automation.PSCredential -ArgumentList ([string]$Account['user']), $secret
    }
    $Parameters['Force'] = $true
    $Parameters['Confirm'] = $false  # what this runspace prefers does not reach the compatibility session of PowerShell 7
    $command = 'Install-AdcsCertificationAuthority'
    $enterprise = $Parameters['CAType'] -like 'Enterprise*'
    # An enterprise CA issues by the default templates as soon as it is configured. Load none; they are set when the CA is complete.
    $policy = if ($enterprise) { Set-NoTemplate }
    try {
        $results = @(Invoke-AdcsCmdlet -Command $command -Parameters $Parameters -Limit Setup -What $What)
    }
    finally {
        if ($enterprise) { Restore-PolicyFile -Content $policy }
    }
    foreach ($result in $results) {
        $id = [long]$result.ErrorId
        if ($id -eq 0 -or $id -eq 398) { continue }  # 398: "installation is incomplete", a subordinate waits for its certificate
        if ($id -gt 0 -and $id -lt 65536) { $id = 0x80070000L + $id }
        $code = '0x{0:X8}' -f ($id -band 0xFFFFFFFFL)
        $text = Get-AdcsErrorText $code
        throw (New-AdcsError -What $What -Why $text.Why -Remedy $text.Remedy -Code $code)
    }
}

function Set-NoTemplate {
    # Makes setup load no templates, by CAPolicy.inf. -> the file's bytes before, nothing where there was none.
    # https://learn.microsoft.com/windows-server/networking/core-network-guide/cncg/server-certs/prepare-the-capolicy-inf-file
    $path = Get-AdcsPolicyPath
    $content = if ([IO.File]::Exists($path)) { [IO.File]::ReadAllBytes($path) }
    # Decode it as Windows does: by its byte order mark, else in the system's code page.
    $lines = if ($content) { @([IO.File]::ReadAllLines($path, [Text.Encoding]::Default)) } else { '[Version]', 'Signature="$Windows NT$"' }
    $lines = @($lines | Where-Object { $_ -notmatch '^\s*LoadDefaultTemplates\s*=' })
    $at = 0
    while ($at -lt $lines.Count -and $lines[$at].Trim() -ne '[certsrv_server]') { $at++ }
    $before = @($lines | Select-Object -First $at)
    $after = @($lines | Select-Object -Skip ($at + 1))
    [IO.File]::WriteAllLines($path, [string[]]($before + '[certsrv_server]' + 'LoadDefaultTemplates=0' + $after), [Text.Encoding]::Default)
    if ($content) { , $content }
}

function Restore-PolicyFile {
    param([AllowNull()][byte[]]$Content)
    if ($Content) { [IO.File]::WriteAllBytes((Get-AdcsPolicyPath), $Content) } else { [IO.File]::Delete((Get-AdcsPolicyPath)) }
}

function Get-AdcsTypeToInstall {
    # The value of -CAType for a CA that comes back: what was recorded. Where that is not known, a host that is in no domain can only have run a
    # standalone CA; anywhere else a guess would make a standalone one of an enterprise CA.
    # https://learn.microsoft.com/windows/win32/cimwin32prov/win32-computersystem
    param([System.Collections.IDictionary]$Wanted, [string]$What)
    if ($Wanted['ca_type']) { return [string]$Wanted['ca_type'] }
    $computer = @(Invoke-AdcsCmdlet -Command 'Get-CimInstance' -Parameters @{ ClassName = 'Win32_ComputerSystem' } -Limit Quick -What $What)
    if (-not $computer.Count -or $computer[0].PartOfDomain) {
        $remedy = 'Restore it with a set of its database, which says that; or configure it by hand (Install-AdcsCertificationAuthority -CAType <type> ' +
            "-CertificateID $($Wanted['certificate_id'])), and run the task again"
        throw (New-AdcsError -What $What -Why 'it is not recorded whether this was an enterprise or a standalone CA' -Remedy $remedy)
    }
    if ($Wanted['root']) { 'StandaloneRootCA' } else { 'StandaloneSubordinateCA' }
}

function Add-AdcsDatabaseParameter {
    # -DatabaseDirectory and -LogDirectory. One that is made here is for the system and administrators only, as CertLog is.
    param([hashtable]$Parameters, [string]$Database, [string]$Log)
    foreach ($pair in @(, @('DatabaseDirectory', $Database)) + @(, @('LogDirectory', $Log))) {
        if (-not $pair[1]) { continue }
        if (-not [IO.Directory]::Exists($pair[1])) { $null = New-AdcsProtectedDirectory -Path $pair[1] }
        $Parameters[$pair[0]] = $pair[1]
    }
}

function Assert-AdcsKeyInStore {
    param([string]$Thumbprint, [string]$What)
    $certificate = Get-AdcsCertificate -Thumbprint $Thumbprint
    if ($null -eq $certificate -or -not $certificate.HasPrivateKey) {
        $why = "the CA certificate $Thumbprint and its private key are not in the store My of the computer"
        throw (New-AdcsError -What $What -Why $why -Remedy 'Put the keys back first (ca_key_restore), then run the task again')
    }
}

# --- a database that is in the way -----------------------------------------------------------------------------------

function Move-AdcsDatabase {
    # Moves the files of the database into <directory>.set-aside-<time>. A move needs no space, and what is left can't be replayed into a restored
    # database. -> {path, kept_as, files: [{from, to}]} or nothing, where there are none.
    param([string]$Directory, [string]$Label, [string]$Time, [string]$What)
    $paths = @(Get-AdcsDatabaseFile -Directory $Directory)
    if ($paths.Count -eq 0) { return }
    $full = [IO.Path]::GetFullPath($Directory).TrimEnd([IO.Path]::DirectorySeparatorChar, [IO.Path]::AltDirectorySeparatorChar)
    $aside = New-AdcsProtectedDirectory -Path (Get-AdcsFreePath -Path "$full.$Label-$Time")
    $moved = New-Object -TypeName System.Collections.ArrayList
    foreach ($path in $paths) {
        $to = Join-Path -Path $aside -ChildPath ([IO.Path]::GetFileName($path))
        try {
            Move-File -From $path -To $to
        }
        catch {
            Undo-AdcsMove -File $moved
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
            if ($attempt -ge 20 -or (Get-AdcsHResult $_) -ne '0x80070020') { throw }
            Start-Sleep -Milliseconds 500
        }
    }
}

function Undo-AdcsMove { param([object]$File) foreach ($one in @($File)) { Move-File -From $one.to -To $one.from } }

Export-ModuleMember -Function @(
    'Install-AdcsFeature', 'Invoke-AdcsSetup', 'Get-AdcsTypeToInstall', 'Add-AdcsDatabaseParameter', 'Assert-AdcsKeyInStore', 'Move-AdcsDatabase', 'Undo-AdcsMove'
)
