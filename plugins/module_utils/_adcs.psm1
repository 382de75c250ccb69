# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: what its Windows modules share; may change in any release.
#
# It reads facts and does what it is told. What the facts mean is judged on the controller.
# Secrets are handed on inside the request, as SecureString, or to .NET, never as text to a command: where module logging is on,
# Windows records the text of every parameter.

#AnsibleRequires -CSharpUtil Ansible.Basic

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$configurationKey = 'HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'
$personalStore = 'Cert:\LocalMachine\My'
$protectedSddl = 'O:BAG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)'
$system = 'SY', 'S-1-5-18'
$administrators = 'BA', 'S-1-5-32-544'
$markerName = 'keyward-store.json'
$caTypes = @{ 0 = 'EnterpriseRootCA'; 1 = 'EnterpriseSubordinateCA'; 3 = 'StandaloneRootCA'; 4 = 'StandaloneSubordinateCA' }
# What the controller follows; the defaults of its Abilities are those of a CA that consists of files.
$abilities = @{ keys_in_hand = $false; takes_days = $false; signs_any_crl = $false; signs_requests = $false }
$requestPending = 8  # SETUP_REQUEST_FLAG of SetupStatus

# What an export answers where a key can't leave its provider (PFXExportCertStoreEx).
$cannotLeave = '0x80090003', '0x8009000B', '0x80090010', '0x80090029'
$keyIsMissing = '0x8009000D', '0x80090016'
$serviceIsDown = '0x80070422', '0x80070426', '0x800706BA'

# code -> why, what to do next.
$AdcsErrors = @{
    '0x00000001' = 'the program did not understand its arguments', 'Report this as a bug, with the version of Windows'
    '0x80070002' = 'a file that belongs there does not exist', 'Check the path; a set of keys alone holds no database'
    '0x80070003' = 'a folder of the path does not exist', 'Check the path'
    '0x80070005' = 'access is denied',
    'Run the task elevated, as an administrator of the CA on its own host (become with runas, or the user SYSTEM)'
    '0x80070020' = 'another process holds a file open', 'Stop the service CertSvc and whatever else reads the folder, then run this again'
    '0x80070035' = 'the server of the share can not be reached', 'Is the share there? Check its name and the network'
    '0x80070043' = 'the server has no share of this name', 'Is the share there? Check its name'
    '0x80070050' = 'the file exists already', 'Give an empty folder'
    '0x80070056' = 'the password does not open the file, or this version of Windows can not read its encryption (2016 and older read no AES)',
    'Check the password; for Windows Server 2016 and older make the file with TripleDES_SHA1'
    '0x800700AA' = 'something that it needs is in use', 'Run this again when nothing else works on the CA'
    '0x80070057' = 'a value was refused as invalid', 'Report this as a bug, with the version of Windows'
    '0x80070070' = 'no space is left on the disk', 'Make room, then run this again'
    '0x80070091' = 'the folder is not empty', 'Give an empty folder, or move what is in it away'
    '0x8007010B' = 'the folder does not have the layout of a database backup, or the database had another path',
    'Restore the set as it was made, to the database path that it names'
    '0x800702E4' = 'it needs an elevated session', 'Run the task elevated (become with runas, or a user whose sessions are elevated)'
    '0x80070422' = 'the service CertSvc is disabled', 'Enable it; after an upgrade of Windows restart the host first'
    '0x80070424' = 'the service CertSvc is not installed',
    'Install the feature: Install-WindowsFeature ADCS-Cert-Authority -IncludeManagementTools'
    '0x80070426' = 'the service CertSvc does not run', 'Start it: Start-Service CertSvc'
    '0x800706BA' = 'the service of the CA does not answer',
    'Start CertSvc; where it runs, its database is not mounted: see event 17 of the Application log'
    '0x80070522' = 'the session lacks the privilege to back up or to restore', 'Run the task elevated, as an administrator of the host'
    '0x80090003' = 'the private key can not be exported', 'Back it up by the procedure of its provider, and state that in the manifest'
    '0x8009000B' = 'the private key can not be exported',
    'Back it up by the procedure of its provider (HSM), or renew the CA with an exportable key'
    '0x8009000D' = 'the private key is missing, or its provider (HSM) does not answer',
    'Check the provider and the key container: certutil -verifykeys'
    '0x8009000F' = 'a key with the same container name is there already',
    'Find out whose it is (certutil -key); move it away before you restore'
    '0x80090010' = 'the provider of the private key does not allow it',
    'Give the account rights on the key, or back it up by the procedure of its provider'
    '0x80090011' = 'the certificate or key was not found', 'Look at the store: certutil -store My'
    '0x80090016' = 'a CA certificate has no private key',
    'Restore all keys of the CA with ca_key_restore; certutil -verifykeys shows which is missing'
    '0x80090022' = 'the provider of the private key wants to ask a person',
    'Let the CA use its key without interaction (the provider''s own protection settings)'
    '0x80090029' = 'the provider of the private key does not support this', 'Back it up by the procedure of its provider'
    '0x80092004' = 'the certificate or a property of it was not found', 'Look at the store: certutil -store My'
    '0x800B0109' = 'the chain ends in a root certificate that this host does not trust',
    'Put the certificates of the CAs above into Cert:\LocalMachine\Root and \CA'
    '0xC8000230' = 'no full backup is recorded, so there can be no incremental one', 'Make a full backup'
    '0xC8000713' = 'files of the database are missing', 'Restore the database'
}

# Which cmdlets come with what.
$caTools = 'the management tools of AD CS are not installed', 'Install them: Install-WindowsFeature ADCS-Cert-Authority -IncludeManagementTools'
$missingTools = @{
    'Backup-CARoleService' = $caTools
    'Restore-CARoleService' = $caTools
    'Install-AdcsCertificationAuthority' = $caTools
    'Export-PfxCertificate' = 'the PowerShell module PKI is missing, a part of Windows Server', 'Repair the Windows installation'
    'Import-PfxCertificate' = 'the PowerShell module PKI is missing, a part of Windows Server', 'Repair the Windows installation'
}

# --- a module's frame ----------------------------------------------------------------------------------------------

function Get-AdcsArgumentSpec {
    <#
    .SYNOPSIS
        The argument spec of every win_ca_ module but win_ca_store: the options of the doc fragment _authority.
    #>
    @{
        options = @{
            backend = @{ type = 'str'; default = 'auto'; choices = @('auto', 'openssl', 'adcs') }
            config_file = @{ type = 'path' }
            directory = @{ type = 'path' }
            name = @{ type = 'str' }
            private_key_passphrase = @{ type = 'str'; no_log = $true }
            certificate_file = @{ type = 'path' }
            private_key_file = @{ type = 'path'; no_log = $false }
            chain_file = @{ type = 'path' }
            older = @{
                type = 'list'
                elements = 'dict'
                options = @{
                    certificate_file = @{ type = 'path'; required = $true }
                    private_key_file = @{ type = 'path'; no_log = $false }
                    private_key_passphrase = @{ type = 'str'; no_log = $true }
                }
            }
            # What the documentation of ca_renew says is required; the order says it once more.
            reuse_key = @{ type = 'bool' }
            controller = @{ type = 'str'; no_log = $true }
        }
        supports_check_mode = $true
    }
}

function Start-AdcsModule {
    <#
    .SYNOPSIS
        Reads the arguments of a module. Ends it where they are not for a Windows host.
    .PARAMETER Name
        The public name: ca_info.
    .PARAMETER Spec
        An argument spec of the module's own, without a request (win_ca_store).
    .OUTPUTS
        {Name, Module, Parameters, Request: hashtable, empty where there is none, Check: bool}
    #>
    [Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSUseShouldProcessForStateChangingFunctions', '', Justification = 'It changes nothing')]
    param(
        [Parameter(Mandatory = $true)][string]$Name,
        [AllowEmptyCollection()][object[]]$Arguments = @(),
        [hashtable]$Spec
    )
    $own = $PSBoundParameters.ContainsKey('Spec')
    if (-not $own) { $Spec = Get-AdcsArgumentSpec }
    $module = [Ansible.Basic.AnsibleModule]::Create([string[]]$Arguments, $Spec)
    $null = Get-Service -Name CertSvc -ErrorAction SilentlyContinue
    $request = @{}
    if (-not $own) {
        if (-not $module.Params['controller']) {
            Stop-AdcsModule -Module $module `
                -What "win_$Name can't run by itself" -Why "win_$Name is run through keyward.pki.$Name" -Remedy "Use keyward.pki.$Name"
        }
        $json = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($module.Params['controller']))
        $parsed = [Ansible.Basic.AnsibleModule]::FromJson($json)
        foreach ($key in $parsed.Keys) { $request[$key] = $parsed[$key] }
        $given = @('config_file', 'certificate_file', 'private_key_file', 'chain_file', 'older', 'private_key_passphrase' |
                Where-Object { $null -ne $module.Params[$_] -or $null -ne $request[$_] })
        if ($module.Params['backend'] -eq 'openssl') {
            Stop-AdcsModule -Module $module `
                -What "$Name can't run on this host" -Why 'backend is openssl, and this is a Windows host' -Remedy 'Leave backend out, or say adcs'
        }
        if ($given.Count) {
            Stop-AdcsModule -Module $module -What "$Name can't run on this host" -Why "$($given[0]) names an openssl CA" `
                -Remedy "Leave $($given -join ', ') out: on Windows a CA is named by name, or not at all where there is one"
        }
    }
    [PSCustomObject]@{ Name = $Name; Module = $module; Parameters = $module.Params; Request = $request; Check = $module.CheckMode }
}

function Stop-AdcsModule {
    <#
    .SYNOPSIS
        Ends the module with an error in three parts: what failed, why, what to do next.
    .PARAMETER NothingThere
        No CA is configured on this host.
    #>
    [Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSUseShouldProcessForStateChangingFunctions', '', Justification = 'It ends the module')]
    param([object]$Module, [string]$What, [string]$Why, [string]$Remedy, [switch]$NothingThere)
    $Module.Result['reasons'] = @()
    $Module.Result['nothing_there'] = [bool]$NothingThere
    $Module.Result['backend'] = 'adcs'
    $Module.Result['abilities'] = $abilities
    $Module.FailJson((Format-AdcsError $What $Why $Remedy))
}

function Complete-AdcsModule {
    <#
    .SYNOPSIS
        Runs the work of a module, answers with what it returns (one dictionary), and ends the module. What it throws becomes the module's error.
    .EXAMPLE
        Complete-AdcsModule -Session $session -Work { Get-AdcsAuthority -Parameters $session.Parameters }
    #>
    param([object]$Session, [scriptblock]$Work)
    $module = $Session.Module
    $failure = $null
    try {
        $answer = & $Work
        foreach ($key in $answer.Keys) { $module.Result[$key] = $answer[$key] }
    }
    catch {
        $failure = $_
    }
    if ($null -eq $failure) { $module.ExitJson() }
    $own = Find-AdcsException -Thrown $failure -Match { $_.Data.Contains('What') }
    # A failed task answers nothing but its error: what was collected so far stays here.
    $module.Result.Clear()
    $module.Result['changed'] = $false
    if ($own) {
        Stop-AdcsModule -Module $module -What $own.Data['What'] -Why $own.Data['Why'] `
            -Remedy $own.Data['Remedy'] -NothingThere:$own.Data['NothingThere']
    }
    # Anything else is named by its type, code and line only: its text may hold anything, in any language.
    $code = Get-AdcsHResult $failure
    if ($code -and $AdcsErrors.ContainsKey($code)) {
        $text = Get-AdcsErrorText $code
        Stop-AdcsModule -Module $module -What "$($Session.Name) can't go on" -Why $text.Why -Remedy $text.Remedy
    }
    $exception = $failure.Exception
    while ($exception.InnerException) { $exception = $exception.InnerException }
    $where = "$($exception.GetType().Name) in line $($failure.InvocationInfo.ScriptLineNumber)"
    if ($code) { $where += ", $code" }
    Stop-AdcsModule -Module $module -What "$($Session.Name) broke on this host" -Why "it met an error that it does not know ($where)" `
        -Remedy 'Report this as a bug, with the version of Windows'
}

# --- errors --------------------------------------------------------------------------------------------------------

function Format-AdcsError {
    param([string]$What, [string]$Why, [string]$Remedy)
    $end = if ($Remedy.EndsWith('.') -or $Remedy.EndsWith('?')) { '' } else { '.' }
    "${What}: $Why. $Remedy$end"
}

function New-AdcsError {
    <#
    .SYNOPSIS
        An exception in three parts, to be thrown. -Code: "0x........" of what Windows answered, empty where it gave none, for callers that
        decide by it (Exception.Data['Code']).
    #>
    [Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSUseShouldProcessForStateChangingFunctions', '', Justification = 'It changes nothing')]
    param([string]$What, [string]$Why, [string]$Remedy, [switch]$NothingThere, [AllowNull()][AllowEmptyString()][string]$Code)
    $exception = New-Object -TypeName System.InvalidOperationException -ArgumentList (Format-AdcsError $What $Why $Remedy)
    $exception.Data['What'] = $What
    $exception.Data['Why'] = $Why
    $exception.Data['Remedy'] = $Remedy
    $exception.Data['NothingThere'] = [bool]$NothingThere
    if ($PSBoundParameters.ContainsKey('Code')) { $exception.Data['Code'] = $Code }
    $exception
}

function Get-AdcsException {
    # Every exception of a thrown thing, from the outside in: inner ones, those of error records, those that came from another process.
    param([object]$Thrown)
    $left = New-Object -TypeName System.Collections.Queue
    $seen = New-Object -TypeName System.Collections.ArrayList
    $left.Enqueue($Thrown)
    while ($left.Count -and $seen.Count -lt 50) {
        $one = $left.Dequeue()
        if ($null -eq $one -or $seen.Contains($one)) { continue }
        if ($one -is [System.Management.Automation.ErrorRecord]) { $left.Enqueue($one.Exception); continue }
        $null = $seen.Add($one)
        foreach ($name in 'ErrorRecord', 'InnerException', 'SerializedRemoteException') {
            if ($one.PSObject.Properties[$name]) { $left.Enqueue($one.PSObject.Properties[$name].Value) }
        }
    }
    $seen.ToArray()
}

function Find-AdcsException {
    # The first exception in it that -Match is true of ($_), or $null.
    param([object]$Thrown, [scriptblock]$Match)
    Get-AdcsException $Thrown | Where-Object { $_ -is [Exception] } | Where-Object -FilterScript $Match | Select-Object -First 1
}

function Find-AdcsCode {
    # The first failure code that a text holds, as "0x8009000B".
    param([string]$Text)
    $found = [regex]::Match($Text, '0x([89A-Fa-f][0-9A-Fa-f]{7})')
    if ($found.Success) { '0x' + $found.Groups[1].Value.ToUpperInvariant() }
}

function Get-AdcsHResult {
    <#
    .SYNOPSIS
        The code of an ErrorRecord or Exception as "0x8009000B" (upper case), $null where it has none. Never reads a language.
    .NOTES
        .NET's own codes (0x8013....) and E_FAIL say nothing. A message may carry a code that the exception lacks.
    #>
    param([object]$ErrorRecord)
    $all = @(Get-AdcsException $ErrorRecord)
    foreach ($one in $all) {
        $value = 0
        if ($one -is [System.ComponentModel.Win32Exception]) {
            $value = $one.NativeErrorCode
            if ($value -gt 0 -and $value -lt 0x10000) { $value = [int]($value -bor 0x70000) -bor [int]::MinValue }
        }
        elseif ($one.PSObject.Properties['HResult']) { $value = [int]$one.PSObject.Properties['HResult'].Value }
        $code = '0x{0:X8}' -f $value
        if ($value -lt 0 -and $code -notlike '0x8013*' -and $code -ne '0x80004005') { return $code }
    }
    foreach ($one in $all) {
        $code = if ($one.PSObject.Properties['Message']) { Find-AdcsCode "$($one.PSObject.Properties['Message'].Value)" }
        if ($code) { return $code }
    }
    $null
}

function Get-AdcsErrorText {
    <#
    .SYNOPSIS
        {Why, Remedy} of a code "0x........"; for one that the table lacks, a Why that names it.
    #>
    param([AllowNull()][AllowEmptyString()][string]$Code)
    $pair = if ($Code -and $AdcsErrors.ContainsKey($Code)) { $AdcsErrors[$Code] }
    elseif ($Code) { "Windows answers with the code $Code", "certutil -error $Code says what it means; see the Application event log of the host as well" }
    else { 'Windows gives no code for it', 'See the Application event log of the host' }
    [PSCustomObject]@{ Why = $pair[0]; Remedy = $pair[1] }
}

# --- programs and cmdlets, in bounded time --------------------------------------------------------------------------

function ConvertTo-AdcsArgument {
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
    .PARAMETER What
        The first part of the error: "the CRL can't be published".
    .PARAMETER AllowFailure
        Leave an exit code other than 0, and a timeout, to the caller.
    .OUTPUTS
        {ExitCode: int | $null, Output: string, ErrorOutput: string, Code: "0x........" | $null, TimedOut: bool}
    .NOTES
        certutil ends with the HRESULT as a signed number; its text is in the language of the system. On a timeout this process alone is ended.
    #>
    param(
        [Parameter(Mandatory = $true)][string]$FilePath,
        [AllowEmptyCollection()][AllowEmptyString()][string[]]$ArgumentList = @(),
        [Parameter(Mandatory = $true)][int]$TimeoutSeconds,
        [Parameter(Mandatory = $true)][string]$What,
        [switch]$AllowFailure
    )
    $program = [IO.Path]::GetFileNameWithoutExtension($FilePath)
    $start = New-Object -TypeName System.Diagnostics.ProcessStartInfo
    $start.FileName = $FilePath
    $start.Arguments = @($ArgumentList | ForEach-Object { ConvertTo-AdcsArgument $_ }) -join ' '
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
        $ended = $process.WaitForExit($TimeoutSeconds * 1000)
        if (-not $ended) {
            try { $process.Kill() } catch { Write-Debug -Message 'It ended in this moment.' }
            $null = $process.WaitForExit(10000)
        }
        # A child of the program may hold the streams open.
        try { $null = [Threading.Tasks.Task]::WaitAll([Threading.Tasks.Task[]]@($output, $errors), 10000) } catch { Write-Debug -Message 'A stream broke off.' }
        $result = [PSCustomObject]@{
            ExitCode = if ($ended) { $process.ExitCode } else { $null }
            Output = if ($output.Status -eq 'RanToCompletion') { $output.Result } else { '' }
            ErrorOutput = if ($errors.Status -eq 'RanToCompletion') { $errors.Result } else { '' }
            Code = $null
            TimedOut = -not $ended
        }
    }
    finally { $process.Dispose() }
    if ($ended -and $result.ExitCode -ne 0) {
        $result.Code = '0x{0:X8}' -f $result.ExitCode
        $said = if ($result.ExitCode -gt 0) { Find-AdcsCode "$($result.Output) $($result.ErrorOutput)" }
        if ($said) { $result.Code = $said }
    }
    if (-not $AllowFailure) {
        if ($result.TimedOut) {
            throw (New-AdcsError -What $What -Why "$program did not end within $TimeoutSeconds seconds, and was ended" `
                -Remedy 'It may wait for a dialog that nobody sees: run it by hand on the host, see what it asks, then run this again')
        }
        if ($result.Code) {
            $text = Get-AdcsErrorText $result.Code
            throw (New-AdcsError -What $What -Why $text.Why -Remedy $text.Remedy -Code $result.Code)
        }
    }
    $result
}

function Invoke-AdcsCmdlet {
    <#
    .SYNOPSIS
        Runs a cmdlet, or a script block, in a runspace of its own and in bounded time. Returns what it puts out, live objects.
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
        [Parameter(Mandatory = $true)][int]$TimeoutSeconds,
        [Parameter(Mandatory = $true)][string]$What
    )
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
        # So that one that hangs doesn't keep this process alive.
        $null = $shell.AddScript('[Threading.Thread]::CurrentThread.IsBackground = $true').Invoke()
        $shell.Commands.Clear()
        if ($Command) { $null = $shell.AddCommand($Command).AddParameters($Parameters).AddParameter('ErrorAction', 'Stop') }
        else { $null = $shell.AddScript($ScriptBlock.ToString()).AddParameters($Parameters) }
        $running = $shell.BeginInvoke()
        $ended = $running.AsyncWaitHandle.WaitOne($TimeoutSeconds * 1000)
        if (-not $ended) {
            $ended = $shell.BeginStop($null, $null).AsyncWaitHandle.WaitOne(10000)
            throw (New-AdcsError -What $What -Why "$name did not end within $TimeoutSeconds seconds" `
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

function New-AdcsSecureString {
    <#
    .SYNOPSIS
        A value of the request as SecureString. Throws where it is missing or empty: Backup-CARoleService makes an unprotected file of an empty one.
    .NOTES
        https://learn.microsoft.com/windows-server/identity/ad-ds/manage/component-updates/ca-backup-and-restore-windows-powershell-cmdlets
    #>
    [Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSUseShouldProcessForStateChangingFunctions', '', Justification = 'It changes nothing')]
    param([System.Collections.IDictionary]$Request, [string]$Name)
    $secure = New-Object -TypeName System.Security.SecureString
    foreach ($character in "$($Request[$Name])".ToCharArray()) { $secure.AppendChar($character) }
    $secure.MakeReadOnly()
    if ($secure.Length -eq 0) {
        throw (New-AdcsError -What 'no key was touched' `
            -Why "the $Name is empty, and a file without a password would be open to everybody" -Remedy 'Give one')
    }
    $secure
}

# --- files ---------------------------------------------------------------------------------------------------------

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
    [Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSUseShouldProcessForStateChangingFunctions', '', Justification = 'Its callers know check mode')]
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
        $others = @($access.Trustees | Where-Object { ($system + $administrators) -notcontains $_ })
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
        $others = @(@($access.Owner) + $access.Trustees | Where-Object { ($system + $administrators) -notcontains $_ })
        if ($access.Protected -and -not $others.Count) { Remove-AdcsDirectory -Path $directory }
    }
}

function New-AdcsPathError {
    # The error of a path, in three parts; explains the double hop.
    [Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSUseShouldProcessForStateChangingFunctions', '', Justification = 'It changes nothing')]
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

function Remove-AdcsDirectory {
    <#
    .SYNOPSIS
        Removes a directory with everything in it. Throws an error that names it where that fails.
    #>
    [Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSUseShouldProcessForStateChangingFunctions', '', Justification = 'It removes what this run made')]
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

function Get-AdcsFileDigest {
    <#
    .SYNOPSIS
        SHA-256 of a file, in lower case hex.
    #>
    param([string]$Path)
    $stream = [IO.File]::OpenRead($Path)
    $algorithm = [System.Security.Cryptography.SHA256]::Create()
    try { ConvertTo-AdcsHex $algorithm.ComputeHash($stream) }
    finally {
        $algorithm.Dispose()
        $stream.Dispose()
    }
}

function Get-AdcsDigest {
    param([byte[]]$Content)
    $algorithm = [System.Security.Cryptography.SHA256]::Create()
    try { ConvertTo-AdcsHex $algorithm.ComputeHash($Content) } finally { $algorithm.Dispose() }
}

function ConvertTo-AdcsHex {
    param([byte[]]$Content)
    [BitConverter]::ToString($Content).Replace('-', '').ToLowerInvariant()
}

function ConvertTo-AdcsPem {
    <#
    .SYNOPSIS
        PEM with line feeds, and one at the end.
    #>
    param([byte[]]$Content, [string]$Label = 'CERTIFICATE')
    $text = [Convert]::ToBase64String($Content)
    $lines = for ($at = 0; $at -lt $text.Length; $at += 64) { $text.Substring($at, [Math]::Min(64, $text.Length - $at)) }
    "-----BEGIN $Label-----`n$($lines -join "`n")`n-----END $Label-----`n"
}

# --- the authority -------------------------------------------------------------------------------------------------

function Get-AdcsRegistryValue {
    # A value, or $null where the key or the value is not there.
    param([string]$Key, [string]$Name)
    $found = Get-ItemProperty -LiteralPath $Key -ErrorAction SilentlyContinue
    if ($null -ne $found -and $found.PSObject.Properties[$Name]) { $found.PSObject.Properties[$Name].Value }
}

function ConvertTo-AdcsThumbprint {
    # Upper case hex. How the registry writes them (blanks, case) is documented nowhere.
    param([object]$Text)
    ("$Text" -replace '[^0-9A-Fa-f]', '').ToUpperInvariant()
}

function Get-AdcsCertificate {
    <#
    .SYNOPSIS
        The X509Certificate2 with this SHA-1 thumbprint in Cert:\LocalMachine\My, or $null.
    #>
    param([string]$Thumbprint)
    $path = Join-Path -Path $personalStore -ChildPath (ConvertTo-AdcsThumbprint $Thumbprint)
    if (Test-Path -LiteralPath $path) { Get-Item -LiteralPath $path }
}

function Get-AdcsKeyState {
    <#
    .SYNOPSIS
        For each certificate: {State: present | missing | inaccessible, Code: "0x........" | $null, Provider: string | $null, Exportable: bool | $null}.
    .NOTES
        Opening a key shows that it is there; only a trial shows whether it can leave.
    #>
    param([object[]]$Certificate)
    $opened = Invoke-AdcsCmdlet `
        -What "the private keys can't be opened" -TimeoutSeconds 120 -Parameters @{ Certificate = $Certificate } -ScriptBlock {
        param([object[]]$Certificate)
        foreach ($one in $Certificate) {
            $answer = @{ State = 'missing'; Exception = $null; Provider = $null; Exportable = $null }
            $key = $null
            try {
                if ($one.HasPrivateKey) {
                    $answer.State = 'inaccessible'
                    $key = [System.Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($one)
                    if ($null -eq $key) { $key = [System.Security.Cryptography.X509Certificates.ECDsaCertificateExtensions]::GetECDsaPrivateKey($one) }
                    if ($null -ne $key) { $answer.State = 'present' }
                }
                if ($null -ne $key -and $key.PSObject.Properties['Key']) {
                    $answer.Provider = [string]$key.Key.Provider.Provider
                    $answer.Exportable = ([int]$key.Key.ExportPolicy -band 3) -ne 0  # AllowExport, AllowPlaintextExport
                }
                elseif ($null -ne $key -and $key.PSObject.Properties['CspKeyContainerInfo']) {
                    $answer.Provider = [string]$key.CspKeyContainerInfo.ProviderName
                    $answer.Exportable = [bool]$key.CspKeyContainerInfo.Exportable
                }
            }
            catch { $answer.Exception = $_.Exception }
            finally { if ($null -ne $key) { $key.Dispose() } }
            New-Object -TypeName PSObject -Property $answer
        }
    }
    foreach ($one in $opened) {
        $code = if ($one.Exception) { Get-AdcsHResult $one.Exception }
        $state = if ($one.State -eq 'inaccessible' -and $keyIsMissing -contains $code) { 'missing' } else { $one.State }
        [PSCustomObject]@{ State = [string]$state; Code = $code; Provider = $one.Provider; Exportable = $one.Exportable }
    }
}

function Get-AdcsPendingFile {
    # The request that waits for its certificate: {path, request (PEM or $null)}, where SetupStatus says so.
    param([string]$Key, [int]$Certificates)
    $file = "$(Get-AdcsRegistryValue $Key 'RequestFileName')"
    # The name may hold the placeholders of publication URLs: server, short server name, CA, suffix of the certificate.
    $suffix = if ($Certificates) { "($Certificates)" } else { '' }
    $file = $file.Replace('%1', "$(Get-AdcsRegistryValue $Key 'CAServerName')").Replace('%2', [string]$env:COMPUTERNAME)
    $file = $file.Replace('%3', [IO.Path]::GetFileName($Key.Replace('\', '/'))).Replace('%4', $suffix)
    $file = [Environment]::ExpandEnvironmentVariables($file)
    [ordered]@{ path = $file; request = if ($file -and [IO.File]::Exists($file)) { [IO.File]::ReadAllText($file) } else { $null } }
}

function Get-AdcsAuthority {
    <#
    .SYNOPSIS
        The facts about the CA of this host: every module's answer starts from them.
    .PARAMETER Parameters
        The module's parameters; name may name the CA by its common or sanitized name.
    .PARAMETER AllowRestoreInProgress
        Don't refuse a host on which a database restore was begun and not finished.
    .OUTPUTS
        An ordered dictionary: changed, authority, generations (in the order of CACertHash, the last is current), database, pending_request, adcs, advisories.
    .NOTES
        Registry: certsrv.h of the Windows SDK; for CACertHash
        https://learn.microsoft.com/troubleshoot/windows-server/certificates-and-public-key-infrastructure-pki/cs-cant-start-computer
    #>
    param([System.Collections.IDictionary]$Parameters, [switch]$AllowRestoreInProgress)
    $what = 'the authority can''t be read'
    $active = "$(Get-AdcsRegistryValue $configurationKey 'Active')"
    if (-not $active) {
        throw (New-AdcsError -What $what -Why 'no CA is configured on this host' `
            -Remedy 'Install one with ca_install, or restore one with ca_key_restore' -NothingThere)
    }
    $key = Join-Path -Path $configurationKey -ChildPath $active
    $commonName = "$(Get-AdcsRegistryValue $key 'CommonName')"
    $wanted = [string]$Parameters['name']
    if ($wanted -and $wanted -ne $active -and $wanted -ne $commonName) {
        throw (New-AdcsError -What $what -Why "the CA of this host is $commonName, not $wanted" `
            -Remedy 'Leave name out, or give that name' -NothingThere)
    }
    $restoring = Test-Path -LiteralPath (Join-Path -Path $configurationKey -ChildPath 'RestoreInProgress')
    if ($restoring -and -not $AllowRestoreInProgress) {
        throw (New-AdcsError -What "nothing is done with $commonName" -Why 'a database restore was begun and not finished' `
                -Remedy 'Finish it: run ca_database_restore again, or start CertSvc and read the Application event log')
    }

    $thumbprints = @(foreach ($entry in @(Get-AdcsRegistryValue $key 'CACertHash')) { ConvertTo-AdcsThumbprint $entry })
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
    $generations = @(for ($at = 0; $at -lt $found.Count; $at++) {
            [ordered]@{
                index = $found[$at].Index
                certificate = ConvertTo-AdcsPem $found[$at].Certificate.RawData
                private_key = $states[$at].State
                encrypted_at_rest = $null
                exportable = $null
                certificate_place = $null
                key_place = $null
                key_storage = $null
            }
        })

    $setup = [int](Get-AdcsRegistryValue $key 'SetupStatus')
    $skew = Get-AdcsRegistryValue $key 'ClockSkewMinutes'
    $type = Get-AdcsRegistryValue $key 'CAType'
    $database = "$(Get-AdcsRegistryValue $configurationKey 'DBDirectory')"
    $recovery = @(@(Get-AdcsRegistryValue $key 'KRACertHash') | ForEach-Object { ConvertTo-AdcsThumbprint $_ } | Where-Object { $_ })
    $there = [IO.Directory]::Exists($database) -and [IO.Directory]::GetFiles($database, '*.edb').Count -gt 0
    $service = Get-Service -Name CertSvc -ErrorAction SilentlyContinue
    $status = if ($service) { [string]$service.Status } else { '' }
    $pending = $null
    if ($setup -band $requestPending) { $pending = Get-AdcsPendingFile -Key $key -Certificates $thumbprints.Count }
    $facts = [ordered]@{
        changed = $false
        authority = [ordered]@{
            backend = 'adcs'; name = $commonName; sanitized_name = $active; subject = $null; directory = $database
            place = [ordered]@{ name = $commonName }
        }
        generations = $generations
        database = [ordered]@{ path = $database; exists = $there; entries = $null; serial = $null; crl_number = $null }
        pending_request = $pending
        adcs = [ordered]@{
            ca_type = if ($null -ne $type -and $caTypes.ContainsKey([int]$type)) { $caTypes[[int]$type] } else { $null }
            provider = "$(Get-AdcsProvider)"
            provider_type = [int](Get-AdcsRegistryValue (Join-Path -Path $key -ChildPath 'CSP') 'ProviderType')
            setup_status = $setup
            service = if ($status -eq 'Running') { 'running' } elseif ($status -eq 'Stopped') { 'stopped' } else { 'other' }
            computer = [string]$env:COMPUTERNAME
            # Keys may have been archived while recovery agents were configured; only the database knows.
            archived_keys = if ($recovery.Count) { 'unknown' } else { 'absent' }
            kra_certificates = $recovery
            log_directory = "$(Get-AdcsRegistryValue $configurationKey 'DBLogDirectory')"
            restore_in_progress = [bool]$restoring
            # By so much the CA lets certificates begin before the moment when it makes them; 10 where the registry does not say.
            clock_skew_minutes = if ($null -ne $skew) { [int]$skew } else { 10 }
        }
        advisories = $advisories
        abilities = $abilities
    }
    $facts['own'] = $facts.adcs
    $facts
}

function Assert-AdcsNotClustered {
    <#
    .SYNOPSIS
        Throws where CertSvc is a resource of a failover cluster: what is done on one node alone breaks the others.
    #>
    param([string]$What = 'nothing was changed')
    $resources = 'HKLM:\Cluster\Resources'
    if (-not (Test-Path -LiteralPath $resources)) { return }
    foreach ($resource in Get-ChildItem -LiteralPath $resources) {
        $parameters = Join-Path -Path (Join-Path -Path $resources -ChildPath $resource.PSChildName) -ChildPath 'Parameters'
        if ((Get-AdcsRegistryValue $parameters 'ServiceName') -eq 'CertSvc') {
            throw (New-AdcsError -What $What -Why 'the CA is a resource of a failover cluster' `
                    -Remedy 'Follow Microsoft''s procedure for a clustered CA, node by node; this collection only reads such a CA and backs up its keys')
        }
    }
}

# --- keys ----------------------------------------------------------------------------------------------------------

function Use-AdcsProtectedDirectory {
    # Runs -Work with a protected directory as $args[0], which is gone afterwards whatever happens.
    param([scriptblock]$Work)
    $directory = New-AdcsProtectedDirectory
    try { & $Work $directory }
    finally { Remove-AdcsDirectory -Path $directory }
}

function Export-AdcsGeneration {
    <#
    .SYNOPSIS
        Each of the certificates of Cert:\LocalMachine\My with its key, as a PKCS #12 file of its own.
    .PARAMETER Thumbprint
        SHA-1 thumbprints.
    .OUTPUTS
        {files: [{name: <sha1>.p12, content: base64, generations: null}], not_exportable: [{thumbprint, code, provider}]}
    .NOTES
        https://learn.microsoft.com/powershell/module/pki/export-pfxcertificate
    #>
    param([AllowEmptyCollection()][string[]]$Thumbprint, [securestring]$Password)
    $answer = @{ files = @(); not_exportable = @() }
    $certificates = @(foreach ($one in $Thumbprint) {
            $certificate = Get-AdcsCertificate $one
            if (-not $certificate) {
                throw (New-AdcsError `
                    -What "the key of the CA certificate $one can't be exported" `
                    -Why "no certificate with this SHA-1 thumbprint is in $personalStore" -Remedy 'Put it back with ca_key_restore')
            }
            $certificate
        })
    if (-not $certificates.Count) { return $answer }
    $states = @(Get-AdcsKeyState $certificates)
    Use-AdcsProtectedDirectory {
        param([string]$Directory)
        for ($at = 0; $at -lt $certificates.Count; $at++) {
            $sha1 = ConvertTo-AdcsThumbprint $certificates[$at].Thumbprint
            $file = Join-Path -Path $Directory -ChildPath "$sha1.p12"
            $parameters = @{ Cert = Join-Path -Path $personalStore -ChildPath $sha1; FilePath = $file; Password = $Password; ChainOption = 'EndEntityCertOnly' }
            $code = $null
            try { $null = Invoke-AdcsCmdlet -Command 'Export-PfxCertificate' -Parameters $parameters -TimeoutSeconds 120 `
                -What "the key of the CA certificate $sha1 can't be exported" }
            catch {
                $code = [string]$_.Exception.Data['Code']
                # Windows may refuse without a code; then the key's own policy tells why.
                if ($_.Exception.Data.Contains('Code') -and -not $code -and $states[$at].Exportable -eq $false) { $code = '0x8009000B' }
                if ($cannotLeave -notcontains $code) { throw }
            }
            if ($code) {
                $provider = if ($states[$at].Provider) { $states[$at].Provider } else { "$(Get-AdcsProvider)" }
                $answer.not_exportable += @{ thumbprint = $sha1; code = $code; provider = $provider }
            }
            else { $answer.files += Read-AdcsBundle $file }
        }
    }
    $answer
}

function Get-AdcsProvider {
    # The provider that the CA's configuration names.
    $active = "$(Get-AdcsRegistryValue $configurationKey 'Active')"
    if ($active) { "$(Get-AdcsRegistryValue (Join-Path -Path (Join-Path -Path $configurationKey -ChildPath $active) -ChildPath 'CSP') 'Provider')" }
}

function Read-AdcsBundle {
    param([string]$Path)
    $content = if ([IO.File]::Exists($Path)) { [IO.File]::ReadAllBytes($Path) }
    if (-not $content) {
        throw (New-AdcsError -What 'the keys can''t be backed up' `
            -Why "Windows reported success and wrote nothing into $([IO.Path]::GetFileName($Path))" `
            -Remedy 'See the Application event log of the host')
    }
    @{ name = [IO.Path]::GetFileName($Path); content = [Convert]::ToBase64String($content); generations = $null }
}

function Export-AdcsAuthority {
    # The keys of the CA as Windows itself backs them up; where it refuses as a whole, because of one key or since the service is down (a CA whose
    # renewal went wrong needs its backup most), each generation by itself.
    # https://learn.microsoft.com/powershell/module/adcsadministration/backup-caroleservice
    param([AllowEmptyCollection()][string[]]$Thumbprint, [securestring]$Password)
    try {
        $files = @(Use-AdcsProtectedDirectory {
                param([string]$Directory)
                $null = Invoke-AdcsCmdlet -Command 'Backup-CARoleService' -TimeoutSeconds 600 -What 'the keys can''t be backed up' `
                    -Parameters @{ Path = $Directory; KeyOnly = $true; Password = $Password }
                # The documentation names two places for the file.
                $written = @([IO.Directory]::GetFiles($Directory, '*.p12', [IO.SearchOption]::AllDirectories))
                if (-not $written.Count) {
                    throw (New-AdcsError -What 'the keys can''t be backed up' `
                        -Why 'Backup-CARoleService reported success and wrote no .p12 file' `
                        -Remedy 'See the Application event log of the host')
                }
                foreach ($file in $written) { Read-AdcsBundle $file }
            })
        return @{ files = $files; not_exportable = @() }
    }
    catch {
        $data = $_.Exception.Data
        if (-not $data.Contains('Code') -or ($data['Code'] -and ($cannotLeave + $keyIsMissing + $serviceIsDown) -notcontains $data['Code'])) { throw }
        if (-not $data['Code']) {
            $states = @(Get-AdcsKeyState @($Thumbprint | ForEach-Object { Get-AdcsCertificate $_ }))
            if (-not @($states | Where-Object { $_.Exportable -eq $false }).Count) { throw }
        }
    }
    Export-AdcsGeneration -Thumbprint $Thumbprint -Password $Password
}

function Backup-AdcsKey {
    <#
    .SYNOPSIS
        Carries out a request of ca_key_backup: says what is there and, where a backup is due and a password is given, hands the keys over.
    .OUTPUTS
        The facts with unrecognised, or with files and not_exportable as of Export-AdcsGeneration. A request to export: these two alone.
    #>
    param([System.Collections.IDictionary]$Parameters, [System.Collections.IDictionary]$Request, [switch]$Check)
    if ($Request['export']) {
        if ($Check) { return @{ files = @(); not_exportable = @() } }
        return Export-AdcsGeneration -Thumbprint ([string[]]@($Request['export'])) -Password (New-AdcsSecureString $Request 'password')
    }
    $answer = Get-AdcsAuthority -Parameters $Parameters
    $live = @(foreach ($generation in $answer.generations) {
            $content = ConvertFrom-AdcsPem $generation.certificate
            $certificate = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList (, $content)
            [PSCustomObject]@{ Sha256 = Get-AdcsDigest $content; Sha1 = $certificate.Thumbprint; Present = $generation.private_key -eq 'present' }
        })
    $known = @($Request['known'] | Where-Object { $null -ne $_ })
    $candidate = if ($known.Count) {
        if ($Request['certain']) { $known[0] }
        else { $known | Where-Object { $one = $_; @($live | Where-Object { @($one['fingerprints']) -contains $_.Sha256 }).Count } | Select-Object -First 1 }
    }
    else { @{ fingerprints = @(); reseal = [bool]$Request['reseal'] } }
    if ($null -eq $candidate) {
        $answer['unrecognised'] = $true
        return $answer
    }
    $uncovered = @($live | Where-Object { @($candidate['fingerprints']) -notcontains $_.Sha256 })
    $answer['files'] = @()
    $answer['not_exportable'] = @()
    # A generation without its key that no backup holds makes the task fail on the controller: nothing needs to travel.
    $complete = -not @($uncovered | Where-Object { -not $_.Present }).Count
    if (($candidate['reseal'] -or $uncovered.Count) -and $complete -and $Request['password'] -and -not $Check) {
        $exported = Export-AdcsAuthority -Thumbprint ([string[]]@($live | Where-Object { $_.Present } | ForEach-Object { $_.Sha1 })) `
            -Password (New-AdcsSecureString $Request 'password')
        $answer['files'] = $exported.files
        $answer['not_exportable'] = $exported.not_exportable
    }
    $answer
}

function ConvertFrom-AdcsPem {
    # The bytes of the one block in it.
    param([string]$Text)
    , [Convert]::FromBase64String(($Text -replace '-----[^-]+-----', ''))
}

function Get-AdcsPlace {
    # Where a generation of a restore request stands: {Sha1, Sha256, Certificate: bool, Key: present | missing | inaccessible, Code}.
    param([object[]]$Generation)
    $certificates = @($Generation | ForEach-Object { Get-AdcsCertificate $_['sha1'] })
    $states = if ($certificates.Count) { @(Get-AdcsKeyState $certificates) } else { @() }
    $at = 0
    foreach ($one in $Generation) {
        $sha1 = ConvertTo-AdcsThumbprint $one['sha1']
        $place = [PSCustomObject]@{ Sha1 = $sha1; Sha256 = [string]$one['sha256']; Certificate = $false; Key = 'missing'; Code = $null }
        if ($at -lt $certificates.Count -and $certificates[$at].Thumbprint -eq $sha1) {
            $place.Certificate = $true
            $place.Key = $states[$at].State
            $place.Code = $states[$at].Code
            if ((Get-AdcsDigest $certificates[$at].RawData) -ne $place.Sha256) {
                throw (New-AdcsError -What 'nothing was restored' `
                    -Why "the certificate $sha1 in $personalStore is another one with the same SHA-1 thumbprint" `
                    -Remedy 'Find out where it comes from, and remove it')
            }
            $at++
        }
        $place
    }
}

function Import-AdcsBundle {
    <#
    .SYNOPSIS
        Carries out the restore request of ca_key_restore: imports the files that hold what the host lacks, and proves that it is there afterwards.
    .PARAMETER Request
        generations [{sha1, sha256}], bundles [{name, content: base64, sha256, password, holds: [sha1]}], trial_password.
    .OUTPUTS
        {changed, restored: [{kind, path, certificate}], set_aside: [], trial, not_exportable}; trial: files as of Export-AdcsGeneration, made of
        the keys that were just imported, since a key may come back without its right to leave.
    .NOTES
        https://learn.microsoft.com/powershell/module/pki/import-pfxcertificate (without -Exportable the key could never be backed up again)
    #>
    param([System.Collections.IDictionary]$Request, [switch]$Check)
    $what = 'nothing was restored'
    $generations = @($Request['generations'])
    $bundles = @($Request['bundles'])
    Assert-AdcsNotClustered -What $what
    foreach ($bundle in $bundles) {
        if ((Get-AdcsDigest ([Convert]::FromBase64String($bundle['content']))) -ne $bundle['sha256']) {
            throw (New-AdcsError -What $what -Why "$($bundle['name']) changed on its way to the host" -Remedy 'Run this again')
        }
    }
    $before = @(Get-AdcsPlace $generations)
    foreach ($place in $before) {
        if ($place.Key -eq 'inaccessible') {
            $text = Get-AdcsErrorText $place.Code
            throw (New-AdcsError -What $what `
                -Why "the private key of $($place.Sha1) is there and can't be opened, because $($text.Why)" -Remedy $text.Remedy)
        }
        if ($place.Key -eq 'missing' -and -not @($bundles | Where-Object { (Get-AdcsHeld $_) -contains $place.Sha1 }).Count) {
            throw (New-AdcsError -What $what -Why "no file of the backup holds the key of $($place.Sha1), which the host lacks" `
                -Remedy 'Give another backup: ca_key_backup_info lists them')
        }
    }
    $answer = @{ changed = $false; restored = @(); set_aside = @(); trial = @(); not_exportable = @() }
    foreach ($place in @($before | Where-Object { $_.Key -eq 'missing' })) {
        $answer.changed = $true
        $kinds = if ($place.Certificate) { @('private_key') } else { 'certificate', 'private_key' }
        foreach ($kind in $kinds) {
            $answer.restored += @{ kind = $kind; path = "$personalStore\$($place.Sha1)"; certificate = $place.Sha256 }
        }
    }
    if ($Check -or -not $answer.changed) { return $answer }
    $trial = New-AdcsSecureString $Request 'trial_password'
    Use-AdcsProtectedDirectory {
        param([string]$Directory)
        for ($at = 0; $at -lt $bundles.Count; $at++) {
            $held = Get-AdcsHeld $bundles[$at]
            if (-not @(Get-AdcsPlace $generations | Where-Object { $_.Key -ne 'present' -and $held -contains $_.Sha1 }).Count) { continue }
            $file = Join-Path -Path $Directory -ChildPath "$at.p12"
            [IO.File]::WriteAllBytes($file, [Convert]::FromBase64String($bundles[$at]['content']))
            $null = Invoke-AdcsCmdlet -Command 'Import-PfxCertificate' -TimeoutSeconds 120 `
                -What "$($bundles[$at]['name']) can't be imported" -Parameters @{
                FilePath = $file; CertStoreLocation = $personalStore; Password = New-AdcsSecureString $bundles[$at] 'password'; Exportable = $true
            }
        }
    }
    foreach ($place in @(Get-AdcsPlace $generations)) {
        if ($place.Key -ne 'present') {
            throw (New-AdcsError -What 'the restore is not complete' `
                -Why "after the import the private key of $($place.Sha1) is $($place.Key)" `
                    -Remedy 'Do not start the CA. Look at the key with certutil -verifystore My; run this again, or restore from another backup')
        }
    }
    $exported = Export-AdcsGeneration -Thumbprint ([string[]]@($before | ForEach-Object { $_.Sha1 })) -Password $trial
    $answer.trial = $exported.files
    $answer.not_exportable = $exported.not_exportable
    $answer
}

function Get-AdcsHeld {
    param([System.Collections.IDictionary]$Bundle)
    @($Bundle['holds'] | ForEach-Object { ConvertTo-AdcsThumbprint $_ })
}

# --- CRLs ----------------------------------------------------------------------------------------------------------

function Get-AdcsCrl {
    <#
    .SYNOPSIS
        The base CRLs of CertEnroll, where the CA publishes them: [{path, content: base64 DER}]. No delta CRLs.
    #>
    $directory = Join-Path -Path $env:SystemRoot -ChildPath (Join-Path -Path 'System32' -ChildPath (Join-Path -Path 'CertSrv' -ChildPath 'CertEnroll'))
    if (-not [IO.Directory]::Exists($directory)) { return }
    foreach ($file in ([IO.Directory]::GetFiles($directory, '*.crl') | Sort-Object)) {
        $name = [IO.Path]::GetFileName($file)
        if ($name -like '*.crl' -and $name -notlike '*+.crl') {
            @{ path = $file; content = [Convert]::ToBase64String([IO.File]::ReadAllBytes($file)) }
        }
    }
}

function Publish-AdcsCrl {
    <#
    .SYNOPSIS
        Has the CA sign and publish its CRLs. https://learn.microsoft.com/windows-server/administration/windows-commands/certutil
    #>
    Assert-AdcsNotClustered -What 'the CRLs were not published'
    $certutil = Join-Path -Path (Join-Path -Path $env:SystemRoot -ChildPath 'System32') -ChildPath 'certutil.exe'
    $null = Invoke-AdcsProgram -FilePath $certutil -ArgumentList '-CRL' -TimeoutSeconds 300 -What 'the CRLs can''t be published'
}

function Get-AdcsSignature {
    <#
    .SYNOPSIS
        Signs data in memory with keys of Cert:\LocalMachine\My.
    .PARAMETER Wanted
        [{thumbprint: SHA-1, data: base64, digest: SHA256 | SHA384 | SHA512}]
    .OUTPUTS
        [{thumbprint, signature: base64}]: RSA as PKCS #1 v1.5, ECDSA as r and s in equal lengths (IEEE P1363).
    #>
    param([object[]]$Wanted)
    foreach ($one in $Wanted) {
        $sha1 = ConvertTo-AdcsThumbprint $one['thumbprint']
        $what = "the key of the CA certificate $sha1 can't sign"
        $certificate = Get-AdcsCertificate $sha1
        if (-not $certificate) { throw (New-AdcsError -What $what -Why "no certificate with this SHA-1 thumbprint is in $personalStore" `
            -Remedy 'Put it back with ca_key_restore') }
        $signature = Invoke-AdcsCmdlet -What $what -TimeoutSeconds 120 `
            -Parameters @{ Certificate = $certificate; Data = [Convert]::FromBase64String($one['data']); Digest = [string]$one['digest'] } -ScriptBlock {
            param([object]$Certificate, [byte[]]$Data, [string]$Digest)
            $algorithm = New-Object -TypeName System.Security.Cryptography.HashAlgorithmName -ArgumentList $Digest
            $key = [System.Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($Certificate)
            if ($null -ne $key) {
                $padding = [System.Security.Cryptography.RSASignaturePadding]::Pkcs1
                try { return [Convert]::ToBase64String($key.SignData($Data, $algorithm, $padding)) } finally { $key.Dispose() }
            }
            $key = [System.Security.Cryptography.X509Certificates.ECDsaCertificateExtensions]::GetECDsaPrivateKey($Certificate)
            if ($null -ne $key) {
                try { return [Convert]::ToBase64String($key.SignData($Data, $algorithm)) } finally { $key.Dispose() }
            }
        }
        if (-not $signature) {
            throw (New-AdcsError -What $what -Why 'it is not on this host, or neither RSA nor ECDSA' `
                -Remedy 'Put it back with ca_key_restore')
        }
        @{ thumbprint = $sha1; signature = [string]$signature }
    }
}

# --- stores on the host ---------------------------------------------------------------------------------------------

function Get-AdcsStoreMarker {
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
        if ($null -ne $Parameters[$name]) { throw (New-AdcsError -What $what -Why "$name is for hosts that are not Windows" `
            -Remedy 'Leave it out: on Windows a store is open to SYSTEM and Administrators') }
    }
    if (-not [IO.Path]::IsPathRooted($Parameters['path'])) { throw (New-AdcsError -What $what -Why 'it is not a full path' `
        -Remedy 'Give a path with its drive or its share') }
    $path = [IO.Path]::GetFullPath($Parameters['path'])
    $accepted = $Parameters['share_permissions'] -eq 'accepted'
    if ([IO.File]::Exists($path)) { throw (New-AdcsError -What $what -Why 'it is a file' `
        -Remedy 'Give the path of a directory, or of one to be made') }
    $marker = Get-AdcsStoreMarker $path
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
        # CREATOR OWNER and OWNER RIGHTS give nobody else anything; domain administrators are administrators.
        $trusted = $system + $administrators + @('CO', 'OW', 'DA', 'EA')
        $access = Get-AdcsAccess -Path $path
        if (($trusted + 'LA') -notcontains $access.Owner) {
            throw (New-AdcsError -What $what -Why "it belongs to $($access.Owner), who can change its access list at any time" `
                    -Remedy 'Make Administrators its owner; for a share whose own permissions are restricted say share_permissions: accepted')
        }
        $others = @($access.Trustees | Where-Object { $trusted -notcontains $_ })
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
        $stream = New-Object -TypeName System.IO.FileStream -ArgumentList $staged, ([IO.FileMode]::CreateNew), ([IO.FileAccess]::Write)
        try {
            $bytes = [Text.Encoding]::ASCII.GetBytes($content)
            $stream.Write($bytes, 0, $bytes.Length)
            $stream.Flush($true)
        }
        finally { $stream.Dispose() }
        [IO.File]::Move($staged, (Join-Path -Path $path -ChildPath $markerName))
    }
    catch {
        if ($_.Exception.Data.Contains('What')) { throw }
        throw (New-AdcsPathError -What $what -Path $path -Thrown $_)
    }
    $answer
}

Export-ModuleMember -Function @(
    'Get-AdcsArgumentSpec', 'Start-AdcsModule', 'Stop-AdcsModule', 'Complete-AdcsModule', 'Get-AdcsAuthority', 'New-AdcsError', 'New-AdcsPathError'
    'Get-AdcsHResult', 'Get-AdcsErrorText', 'Invoke-AdcsProgram', 'Invoke-AdcsCmdlet', 'New-AdcsProtectedDirectory', 'Remove-AdcsDirectory'
    'Clear-AdcsLeftover'
    'New-AdcsSecureString', 'Assert-AdcsNotClustered', 'Get-AdcsCertificate', 'Get-AdcsRegistryValue', 'ConvertTo-AdcsThumbprint', 'ConvertTo-AdcsPem'
    'Get-AdcsFileDigest', 'Export-AdcsGeneration', 'Import-AdcsBundle', 'Backup-AdcsKey', 'Get-AdcsCrl', 'Publish-AdcsCrl', 'Get-AdcsSignature'
    'Get-AdcsStoreMarker', 'Initialize-AdcsStore'
)
