# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the frame of its Windows modules, their arguments, answers and errors; may change in any release.
#
# What these modules share lies in the files _adcs_*.psm1, one for each subject; each names those that it rests on, and a module those that it
# calls. Functions with Adcs in their name are for other files. They read facts and do what they are told; what the facts mean is judged on the
# controller. Secrets are handed on inside the request, as SecureString, or to .NET, never as text to a command: where module logging is on,
# Windows records the text of every parameter.

#AnsibleRequires -CSharpUtil Ansible.Basic

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# code -> why, what to do next.
$errorTexts = @{
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
    '0x8007042A' = 'the service CertSvc ended with a code of its own', 'Read it: sc.exe query CertSvc, and event 100 of the Application log'
    '0x80072098' = 'the account may not write to Active Directory',
    'Run the task as a member of Enterprise Admins, or let one publish by hand: certutil -dspublish'
    '0x800706BA' = 'the service of the CA does not answer',
    'Start CertSvc; where it runs, its database is not mounted: see event 17 of the Application log'
    '0x80070522' = 'the session lacks the privilege to back up or to restore', 'Run the task elevated, as an administrator of the host'
    '0x80090003' = 'the private key can not be exported', 'Back it up by the procedure of its provider (HSM)'
    '0x8009000B' = 'the private key can not be exported',
    'Back it up by the procedure of its provider (HSM), or renew the CA with an exportable key'
    '0x8009000D' = 'the private key is missing, or its provider (HSM) does not answer',
    'Is the device there and unlocked? The tools of its vendor tell. A key in software: put it back with ca_key_restore'
    '0x8009000F' = 'a key with the same container name is there already',
    'Find out whose it is (certutil -key); move it away before you restore'
    '0x80090010' = 'the provider of the private key does not allow it',
    'Give the account rights on the key, or back it up by the procedure of its provider'
    '0x80090011' = 'the certificate or key was not found', 'Look at the store: certutil -store My'
    '0x80090016' = 'a CA certificate has no private key',
    'Restore all keys of the CA with ca_key_restore; ca_info shows which is missing'
    '0x80090022' = 'the provider of the private key wants to ask a person',
    'Let the CA use its key without interaction (the provider''s own protection settings)'
    '0x80090029' = 'the provider of the private key does not support this', 'Back it up by the procedure of its provider'
    '0x80092010' = 'the CA above has revoked the certificate of this CA',
    'Ask the CA above why. Then renew this CA, with a new key where the key is the reason'
    '0x80092012' = 'a CA certificate says of no place where its revocation can be checked',
    'Have the CA above sign the request again, with CRL distribution points'
    '0x80092013' = 'no valid CRL of the CA above can be fetched, so that revocation can not be checked',
    ('Publish it where the certificate says, or bring it along: certutil -f -addstore CA <file>. Without it the CA starts after ' +
        'certutil -setreg CA\CRLFlags +CRLF_REVCHECK_IGNORE_OFFLINE; take that back when the CRL is there')
    '0x80092004' = 'the certificate or a property of it was not found', 'Look at the store: certutil -store My'
    '0x80094008' = 'the CA enforces role separation, and the account has more than one role of it, so that it may do nothing there',
    'Run the task as an account with one role only; who has which: the tab Security of the CA, and certutil -getreg CA\RoleSeparationEnabled'
    '0x800B0101' = 'a certificate of the chain has expired, or is not valid yet',
    'Check the clock of the host. Then renew what has expired, the CAs above first'
    '0x800B0109' = 'the chain ends in a root certificate that this host does not trust',
    'Put the certificates of the CAs above into Cert:\LocalMachine\Root and \CA'
    '0x800B010A' = 'the certificates of the CAs above are not all there',
    'Put those of the CAs between into Cert:\LocalMachine\CA, and the root into Cert:\LocalMachine\Root'
    '0x800B010C' = 'a certificate of the chain is revoked', 'Ask the CA that revoked it why. Then renew this CA, with a new key where the key is the reason'
    '0xC8000210' = 'a log file is missing that the database needs', 'Put the logs back beside the database; where they are lost, restore a set'
    '0xC8000226' = 'the database was not closed, and what its logs hold is not in it',
    ('Put all its logs beside it and replay them in their folder: esentutl /r edb; until then esentutl /mh <database> says "Dirty Shutdown". Where they ' +
        'are lost, restore a set; esentutl /p drops what it can not repair, and is the last resort')
    '0xC8000230' = 'no full backup is recorded, so there can be no incremental one', 'Make a full backup'
    '0xC8000713' = 'files of the database are missing', 'Restore the database'
}

# --- a module's frame ------------------------------------------------------------------------------------------------

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
    param(
        [Parameter(Mandatory = $true)][string]$Name,
        [AllowEmptyCollection()][object[]]$Arguments = @(),
        [hashtable]$Spec
    )
    $own = $PSBoundParameters.ContainsKey('Spec')
    if (-not $own) { $Spec = Get-ArgumentSpec }
    # ca_renew's required options come as arguments too; the order repeats them.
    if ($Name -eq 'ca_renew') { $Spec.options['reuse_key'] = @{ type = 'bool' } }
    $module = [Ansible.Basic.AnsibleModule]::Create([string[]]$Arguments, $Spec)
    $null = Get-Service -Name CertSvc -ErrorAction SilentlyContinue  # a simulated host loads its drives by this
    $request = @{}
    if (-not $own) {
        if (-not $module.Params['controller']) {
            Stop-Module -Module $module `
                -What "win_$Name can't run by itself" -Why "win_$Name is run through keyward.pki.$Name" -Remedy "Use keyward.pki.$Name"
        }
        $json = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($module.Params['controller']))
        $parsed = [Ansible.Basic.AnsibleModule]::FromJson($json)
        foreach ($key in $parsed.Keys) { $request[$key] = $parsed[$key] }
        $given = @('config_file', 'certificate_file', 'private_key_file', 'chain_file', 'older', 'private_key_passphrase' |
                Where-Object { $null -ne $module.Params[$_] -or $null -ne $request[$_] })
        if ($module.Params['backend'] -in 'openssl', 'easyrsa') {
            Stop-Module -Module $module `
                -What "$Name can't run on this host" -Why "backend is $($module.Params['backend']), and this is a Windows host" -Remedy 'Leave backend out, or say adcs'
        }
        if ($given.Count) {
            Stop-Module -Module $module -What "$Name can't run on this host" -Why "$($given[0]) names an openssl CA" `
                -Remedy "Leave $($given -join ', ') out: on Windows a CA is named by name, or not at all where there is one"
        }
    }
    [PSCustomObject]@{ Name = $Name; Module = $module; Parameters = $module.Params; Request = $request; Check = $module.CheckMode }
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
    # A failed task answers with its error alone; drop what was collected so far.
    $module.Result.Clear()
    $module.Result['changed'] = $false
    if ($own) {
        Stop-Module -Module $module -What $own.Data['What'] -Why $own.Data['Why'] `
            -Remedy $own.Data['Remedy'] -NothingThere:$own.Data['NothingThere'] -RenewedMeanwhile:$own.Data['RenewedMeanwhile']
    }
    # Name any other error by type, code and place only: its text may hold secrets, in any language.
    $code = Get-AdcsHResult $failure
    if ($code -and $errorTexts.ContainsKey($code)) {
        $text = Get-AdcsErrorText $code
        Stop-Module -Module $module -What "$($Session.Name) can't go on" -Why $text.Why -Remedy $text.Remedy
    }
    $exception = $failure.Exception
    while ($exception.InnerException) { $exception = $exception.InnerException }
    $file = "$($failure.InvocationInfo.ScriptName)" -replace '^.*[./\\](?=[^./\\]+\.psm?1$)', ''
    $where = "$($exception.GetType().Name) in line $($failure.InvocationInfo.ScriptLineNumber) of $file"
    if ($code) { $where += ", $code" }
    Stop-Module -Module $module -What "$($Session.Name) broke on this host" -Why "it met an error that it does not know ($where)" `
        -Remedy 'Report this as a bug, with the version of Windows'
}

function Stop-Module {
    <#
    .SYNOPSIS
        Ends the module with an error in three parts: what failed, why, what to do next.
    .PARAMETER NothingThere
        No CA is configured on this host.
    .PARAMETER RenewedMeanwhile
        Its newest generation is no longer the one that the order was decided on.
    #>
    param([object]$Module, [string]$What, [string]$Why, [string]$Remedy, [switch]$NothingThere, [switch]$RenewedMeanwhile)
    $Module.Result['reasons'] = @()
    $Module.Result['nothing_there'] = [bool]$NothingThere
    if ($RenewedMeanwhile) { $Module.Result['renewed_meanwhile'] = $true }
    $Module.Result['backend'] = 'adcs'
    $Module.Result['abilities'] = Get-AdcsAbility
    $Module.FailJson((Format-Message $What $Why $Remedy))
}

function Get-AdcsAbility {
    # What the controller follows; the defaults of its Abilities are those of a CA that consists of files.
    @{
        keys_in_hand = $false; takes_days = $false; renewal_keeps_start = $true; checks_its_certificate = $true; signs_any_crl = $false; signs_requests = $false
        sets_are_archives = $false; takes_numbers = $false
    }
}

function Get-ArgumentSpec {
    <#
    .SYNOPSIS
        The argument spec of every win_ca_ module but win_ca_store: the options of the doc fragment _authority.
    #>
    @{
        options = @{
            backend = @{ type = 'str'; default = 'auto'; choices = @('auto', 'openssl', 'easyrsa', 'adcs') }
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
            controller = @{ type = 'str'; no_log = $true }
        }
        supports_check_mode = $true
    }
}

# --- errors ----------------------------------------------------------------------------------------------------------

function Format-Message {
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
    param(
        [string]$What, [string]$Why, [string]$Remedy, [switch]$NothingThere, [switch]$RenewedMeanwhile, [AllowNull()][AllowEmptyString()][string]$Code
    )
    $exception = New-Object -TypeName System.InvalidOperationException -ArgumentList (Format-Message $What $Why $Remedy)
    $exception.Data['What'] = $What
    $exception.Data['Why'] = $Why
    $exception.Data['Remedy'] = $Remedy
    $exception.Data['NothingThere'] = [bool]$NothingThere
    $exception.Data['RenewedMeanwhile'] = [bool]$RenewedMeanwhile
    if ($PSBoundParameters.ContainsKey('Code')) { $exception.Data['Code'] = $Code }
    $exception
}

function Test-AdcsNothingThere { param([object]$ErrorRecord) [bool]$ErrorRecord.Exception.Data['NothingThere'] }

function Get-ThrownException {
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
    Get-ThrownException $Thrown | Where-Object { $_ -is [Exception] } | Where-Object -FilterScript $Match | Select-Object -First 1
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
    $all = @(Get-ThrownException $ErrorRecord)
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
    $pair = if ($Code -and $errorTexts.ContainsKey($Code)) { $errorTexts[$Code] }
    elseif ($Code) { "Windows answers with the code $Code", "certutil -error $Code says what it means; see the Application event log of the host as well" }
    else { 'Windows gives no code for it', 'See the Application event log of the host' }
    [PSCustomObject]@{ Why = $pair[0]; Remedy = $pair[1] }
}

Export-ModuleMember -Function @(
    'Start-AdcsModule', 'Complete-AdcsModule', 'Get-AdcsAbility'
    'New-AdcsError', 'Test-AdcsNothingThere', 'Find-AdcsException', 'Find-AdcsCode', 'Get-AdcsHResult', 'Get-AdcsErrorText'
)
