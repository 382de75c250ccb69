# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: programs and cmdlets of a Windows host, in bounded time; may change in any release.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# Seconds. A large database takes hours to copy, and its logs are replayed while the service starts.
# To it comes a second for each 2 MB of the database that is copied, asked or opened (-Bytes).
$bytesInASecond = 2MB
$limits = @{ Quick = 60; Key = 120; Answer = 120; Publish = 300; View = 600; Command = 600; Service = 600; Setup = 1800; Copy = 14400 }

# Which cmdlets come with what.
$caTools = 'the management tools of AD CS are not installed', 'Install them: Install-WindowsFeature ADCS-Cert-Authority -IncludeManagementTools'
$missingTools = @{
    'Backup-CARoleService' = $caTools
    'Restore-CARoleService' = $caTools
    'Install-AdcsCertificationAuthority' = $caTools
    'Export-PfxCertificate' = 'the PowerShell module PKI is missing, a part of Windows Server', 'Repair the Windows installation'
    'Import-PfxCertificate' = 'the PowerShell module PKI is missing, a part of Windows Server', 'Repair the Windows installation'
}

function Get-AdcsBound {
    # The seconds that something may take which works through so many bytes of a database. -Limit: a name of $limits.
    param([string]$Limit, [long]$Bytes)
    $limits.$Limit + [int][Math]::Min(604800, $Bytes / $bytesInASecond)
}

function Get-AdcsSystemPath {
    # A path below <SystemRoot>\System32.
    param([string[]]$Name)
    $path = Join-Path -Path $env:SystemRoot -ChildPath 'System32'
    foreach ($part in $Name) { $path = Join-Path -Path $path -ChildPath $part }
    $path
}

function ConvertTo-Argument {
    # One argument as CommandLineToArgvW splits it: https://learn.microsoft.com/windows/win32/api/shellapi/nf-shellapi-commandlinetoargvw
    param([string]$Argument)
    if ($Argument -and $Argument -notmatch '[\s"]') { return $Argument }
    '"' + ([regex]::Replace([regex]::Replace($Argument, '(\\*)"', '$1$1\"'), '(\\+)$', '$1$1')) + '"'
}

function Invoke-AdcsProgram {
    <#
    .SYNOPSIS
        Runs a program without a window and with its input closed.
    .PARAMETER FilePath
        Its full path.
    .PARAMETER Limit
        How long it may take, a name of $limits.
    .PARAMETER Bytes
        The size of the database that it works through.
    .PARAMETER What
        The first part of the error: "the CRL can't be published".
    .PARAMETER AllowFailure
        Leave an exit code other than 0, and a timeout, to the caller.
    .OUTPUTS
        {ExitCode: int | $null, Output: string, Code: "0x........" | $null, TimedOut: bool}
    .NOTES
        certutil ends with the HRESULT as a signed number; its text is in the language of the system. On a timeout this process alone is ended.
    #>
    param(
        [Parameter(Mandatory = $true)][string]$FilePath,
        [AllowEmptyCollection()][AllowEmptyString()][string[]]$ArgumentList = @(),
        [Parameter(Mandatory = $true)][string]$Limit,
        [long]$Bytes = 0,
        [Parameter(Mandatory = $true)][string]$What,
        [switch]$AllowFailure
    )
    $seconds = Get-AdcsBound -Limit $Limit -Bytes $Bytes
    $start = New-Object -TypeName System.Diagnostics.ProcessStartInfo
    $start.FileName = $FilePath
    $start.Arguments = @($ArgumentList | ForEach-Object { ConvertTo-Argument $_ }) -join ' '
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardError = $true
    $process = New-Object -TypeName System.Diagnostics.Process
    $process.StartInfo = $start
    try {
        try { $null = $process.Start() }
        catch {
            $code = Get-AdcsHResult $_
            $text = Get-AdcsErrorText $code
            throw (New-AdcsError -What $What -Why "$FilePath can't be started, because $($text.Why)" -Remedy $text.Remedy -Code $code)
        }
        $process.StandardInput.Close()
        $output = $process.StandardOutput.ReadToEndAsync()
        $errors = $process.StandardError.ReadToEndAsync()
        $ended = $process.WaitForExit($seconds * 1000)
        if (-not $ended) {
            try { $process.Kill() } catch { Write-Debug -Message 'It ended in this moment.' }
            $null = $process.WaitForExit(10000)
        }
        # A child of the program may hold the streams open.
        try { $null = [Threading.Tasks.Task]::WaitAll([Threading.Tasks.Task[]]@($output, $errors), 10000) } catch { Write-Debug -Message 'A stream broke off.' }
        $result = [PSCustomObject]@{
            ExitCode = if ($ended) { $process.ExitCode } else { $null }
            Output = if ($output.Status -eq 'RanToCompletion') { $output.Result } else { '' }
            Code = $null
            TimedOut = -not $ended
        }
        $complaint = if ($errors.Status -eq 'RanToCompletion') { $errors.Result } else { '' }
    }
    finally { $process.Dispose() }
    if ($ended -and $result.ExitCode -ne 0) {
        $result.Code = '0x{0:X8}' -f $result.ExitCode
        $said = if ($result.ExitCode -gt 0) { Find-AdcsCode "$($result.Output) $complaint" }
        if ($said) { $result.Code = $said }
    }
    if (-not $AllowFailure) {
        if ($result.TimedOut) {
            $program = [IO.Path]::GetFileNameWithoutExtension($FilePath)
            throw (New-AdcsError -What $What -Why "$program did not end within $seconds seconds, and was ended" `
                -Remedy 'It may wait for a dialog that nobody sees: run it by hand on the host, see what it asks, then run this again')
        }
        if ($result.Code) {
            $text = Get-AdcsErrorText $result.Code
            throw (New-AdcsError -What $What -Why $text.Why -Remedy $text.Remedy -Code $result.Code)
        }
    }
    $result
}

function Invoke-AdcsCertutil {
    # Options come before positional arguments: certutil takes a late one for data.
    param([string[]]$ArgumentList, [string]$Limit, [long]$Bytes = 0, [string]$What, [switch]$AllowFailure)
    Invoke-AdcsProgram -FilePath (Get-AdcsSystemPath -Name 'certutil.exe') @PSBoundParameters
}

function Stop-CompatibilityProcess {
    # PowerShell 7 runs AD CS cmdlets in a powershell.exe, a child of ours, which would go on after a timeout.
    # -Since: older ones belong to others.
    param([DateTime]$Since)
    if ($PSVersionTable.PSEdition -ne 'Core') { return }
    try {
        foreach ($child in @(Get-CimInstance -ClassName Win32_Process -Filter "ParentProcessId=$PID and Name='powershell.exe'")) {
            if ($child.CreationDate -ge $Since) { Stop-Process -Id $child.ProcessId -Force }
        }
    }
    catch { Write-Debug -Message 'There is none, or it ended by itself.' }
}

function Invoke-AdcsCmdlet {
    <#
    .SYNOPSIS
        Runs a cmdlet, or a script block, in a runspace of its own and in bounded time. Returns what it puts out, live objects.
    .PARAMETER Limit
        How long it may take, a name of $limits.
    .PARAMETER Bytes
        The size of the database that it works through.
    .PARAMETER What
        The first part of the error: "the keys can't be backed up".
    .NOTES
        Throws the three-part error on a timeout, where the cmdlet doesn't exist, and on any error of it; Exception.Data['Code'] then holds its code.
        A cmdlet that doesn't stop when it is told to is left behind: it ends with this process. There is no host, so that it can't ask.
    #>
    param(
        [Parameter(Mandatory = $true, ParameterSetName = 'Command')][string]$Command,
        [Parameter(Mandatory = $true, ParameterSetName = 'ScriptBlock')][scriptblock]$ScriptBlock,
        [hashtable]$Parameters = @{},
        [Parameter(Mandatory = $true)][string]$Limit,
        [long]$Bytes = 0,
        [Parameter(Mandatory = $true)][string]$What
    )
    $seconds = Get-AdcsBound -Limit $Limit -Bytes $Bytes
    $begun = [DateTime]::Now.AddSeconds(-1)
    $name = if ($Command) { $Command } else { 'the provider of the key' }
    $runspace = [RunspaceFactory]::CreateRunspace([System.Management.Automation.Runspaces.InitialSessionState]::CreateDefault2())
    $runspace.ThreadOptions = 'ReuseThread'
    $runspace.Open()
    $runspace.SessionStateProxy.SetVariable('ErrorActionPreference', 'Stop')
    $runspace.SessionStateProxy.SetVariable('ProgressPreference', 'SilentlyContinue')
    $runspace.SessionStateProxy.SetVariable('ConfirmPreference', 'None')
    $shell = [PowerShell]::Create()
    $shell.Runspace = $runspace
    $ended = $false
    try {
        # A cmdlet that hangs must not keep this process alive.
        $null = $shell.AddScript('[Threading.Thread]::CurrentThread.IsBackground = $true').Invoke()
        $shell.Commands.Clear()
        if ($Command) { $null = $shell.AddCommand($Command).AddParameters($Parameters).AddParameter('ErrorAction', 'Stop') }
        else { $null = $shell.AddScript($ScriptBlock.ToString()).AddParameters($Parameters) }
        $running = $shell.BeginInvoke()
        $ended = $running.AsyncWaitHandle.WaitOne($seconds * 1000)
        if (-not $ended) {
            $ended = $shell.BeginStop($null, $null).AsyncWaitHandle.WaitOne(10000)
            Stop-CompatibilityProcess -Since $begun
            throw (New-AdcsError -What $What -Why "$name did not end within $seconds seconds" `
                -Remedy 'It may wait for a dialog that nobody sees, or for a device: run it by hand on the host, see what it asks, then run this again')
        }
        try { $output = $shell.EndInvoke($running) }
        catch {
            $unknown = Find-AdcsException -Thrown $_ -Match { $_ -is [System.Management.Automation.CommandNotFoundException] }
            if ($unknown -and $unknown.CommandName -eq $Command) {
                $pair = if ($missingTools.ContainsKey($Command)) { $missingTools[$Command] }
                else { "the cmdlet $Command is not on this host", 'Install the Windows feature that it belongs to' }
                throw (New-AdcsError -What $What -Why $pair[0] -Remedy $pair[1])
            }
            $code = Get-AdcsHResult $_
            $text = Get-AdcsErrorText $code
            throw (New-AdcsError -What $What -Why $text.Why -Remedy $text.Remedy -Code $code)
        }
        $output
    }
    finally {
        # Dispose would wait for a cmdlet that hangs.
        if ($ended) {
            $shell.Dispose()
            $runspace.Dispose()
        }
    }
}

Export-ModuleMember -Function 'Get-AdcsBound', 'Get-AdcsSystemPath', 'Invoke-AdcsProgram', 'Invoke-AdcsCertutil', 'Invoke-AdcsCmdlet'
