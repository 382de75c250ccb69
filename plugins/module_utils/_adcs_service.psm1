# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: the service CertSvc, and the lock of those who change its CA; may change in any release.
#
# What a run leaves that was killed anywhere, and what the next one makes of it:
# - a stopped service: a renewal's record (below) or a restore starts it again; a backup says that it is stopped.
# - <CertSrv>\keyward-renewal.txt, written before certutil renews: the thumbprints that the CA had then. Where it has others now, the renewal is
#   done and only the restart of the service is missing.
# - RestoreInProgress in the registry: only ca_database_restore goes on; it takes the registration away and restores the whole set again.
# - an empty database directory: the files are in <directory>.set-aside-<time> beside it; the restore doesn't need them.
# - .<hex>.new and .<hex>.removed in a store: the next backup of the same CA removes its own ones.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# Codes that say that the CA can't trust its own certificate: another database would not help.
$trustCodes = '0x80092010', '0x80092012', '0x80092013', '0x800B0101', '0x800B0109', '0x800B010A', '0x800B010C'

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
    param([string]$State, [int]$Seconds = 60)
    $clock = [Diagnostics.Stopwatch]::StartNew()
    while ($true) {
        $now = Get-AdcsServiceState
        if ($now -eq $State) { return $true }
        # A service that has ended again won't start by itself.
        if ($clock.Elapsed.TotalSeconds -ge $(if ($now -eq 'stopped') { 5 } else { $Seconds })) { return $false }
        Start-Sleep -Milliseconds 250
    }
}

function Test-AdcsTrustCode {
    # Whether this exit code of the service has nothing to do with its database.
    param([AllowNull()][AllowEmptyString()][string]$Code)
    $trustCodes -contains $Code
}

function New-StartError {
    # The error of a service that did not come up. Start-Service often does not say why; the service control manager keeps the code.
    # https://learn.microsoft.com/windows/win32/cimwin32prov/win32-service
    param([string]$What)
    $parameters = @{ ClassName = 'Win32_Service'; Filter = "Name='CertSvc'" }
    $service = @(Invoke-AdcsCmdlet -Command 'Get-CimInstance' -Parameters $parameters -Limit Quick -What $What)
    $number = if ($service.Count) { [long]$service[0].ExitCode } else { 0L }
    if ($number -eq 1066) { $number = [long]$service[0].ServiceSpecificExitCode }  # ERROR_SERVICE_SPECIFIC_ERROR
    elseif ($number -gt 0 -and $number -lt 0x10000) { $number = 0x80070000L + $number }
    # A database that can't be mounted is often all that it does not say.
    if ($number -eq 0 -and (Test-AdcsNotClosed -Directory (Get-AdcsSetting 'DBDirectory'))) { $number = 0xC8000226L }
    if ($number -eq 0) {
        $remedy = 'Look into the event log (Application, source CertificationAuthority); certutil -verifystore My shows whether every key is there'
        return New-AdcsError -What $What -Why 'the service CertSvc does not run after it was started' -Remedy $remedy -Code $null
    }
    $code = '0x{0:X8}' -f ($number -band 0xFFFFFFFFL)
    $text = Get-AdcsErrorText $code
    New-AdcsError -What $What -Why "the service CertSvc does not start: $($text.Why)" -Remedy $text.Remedy -Code $code
}

function Stop-AdcsService {
    <#
    .SYNOPSIS
        Stops the service CertSvc and returns when it is stopped. A restore of the database needs that (0x80070020 otherwise).
    .PARAMETER What
        The first part of the error, which is thrown when it can't be stopped in time.
    #>
    param([string]$What)
    if ((Get-AdcsServiceState) -eq 'stopped') { return }
    $null = Invoke-AdcsCmdlet -Command 'Stop-Service' -Parameters @{ Name = 'CertSvc' } -Limit Service -What $What
    if (-not (Wait-ServiceState -State 'stopped')) {
        $remedy = 'Find out what it waits for (event log Application, source CertificationAuthority), and run the task again'
        throw (New-AdcsError -What $What -Why 'the service CertSvc does not stop' -Remedy $remedy)
    }
}

function Start-AdcsService {
    <#
    .SYNOPSIS
        Starts the service CertSvc and returns when it runs. That it answers is another matter: Wait-AdcsPing.
    #>
    param([string]$What)
    if ((Get-AdcsServiceState) -eq 'running') { return }
    $size = Get-AdcsDatabaseSize
    try {
        $null = Invoke-AdcsCmdlet -Command 'Start-Service' -Parameters @{ Name = 'CertSvc' } -Limit Service -Bytes $size -What $What
    }
    catch {
        $data = $_.Exception.Data
        if (-not $data.Contains('Code') -or ($data['Code'] -and $data['Code'] -ne '0x8007042A')) { throw }
        throw (New-StartError -What $What)
    }
    if (-not (Wait-ServiceState -State 'running' -Seconds (Get-AdcsBound -Limit Answer -Bytes $size))) { throw (New-StartError -What $What) }
}

function Wait-AdcsPing {
    <#
    .SYNOPSIS
        Returns when the CA answers, throws when it does not in time. A service that runs is no proof: its database may not be mounted, and
        its logs are replayed while it starts.
    #>
    param([string]$What)
    $clock, $seconds = [Diagnostics.Stopwatch]::StartNew(), (Get-AdcsBound -Limit Answer -Bytes (Get-AdcsDatabaseSize))
    while ($true) {
        $answer = Invoke-AdcsCertutil -ArgumentList '-ping' -Limit Quick -What $What -AllowFailure
        if (-not $answer.TimedOut -and $answer.ExitCode -eq 0) { return }
        if ((Get-AdcsServiceState) -eq 'stopped') { throw (New-StartError -What $What) }
        if ($clock.Elapsed.TotalSeconds -ge $seconds) { break }
        Start-Sleep -Milliseconds 1000
    }
    if (Test-AdcsNotClosed -Directory (Get-AdcsSetting 'DBDirectory')) {
        $text = Get-AdcsErrorText '0xC8000226'
        throw (New-AdcsError -What $What -Why $text.Why -Remedy $text.Remedy -Code '0xC8000226')
    }
    $why = "the CA does not answer within $seconds seconds"
    if ($answer.Code) { $why += " ($($answer.Code))" }
    $remedy = 'Look into the event log (Application, source CertificationAuthority; event 17: the database can not be opened)'
    throw (New-AdcsError -What $What -Why $why -Remedy $remedy -Code $answer.Code)
}

function Get-AdcsDistrust {
    # An advisory where a subordinate that answers can't verify its own certificate, and may deny each request: a ping says nothing of that, and no
    # certificate has to be issued to find out.
    param([System.Collections.IDictionary]$Facts)
    if ($Facts['own']['ca_type'] -notlike '*SubordinateCA' -or -not $Facts['generations'].Count) { return }
    $index = [string]$Facts['generations'][-1]['index']
    $answer = Invoke-AdcsCertutil -ArgumentList '-CAInfo', 'certstatuscode', $index -Limit Quick -What 'the CA can not be asked' -AllowFailure
    $code = if ($answer.Code) { $answer.Code } else { Find-AdcsCode $answer.Output }
    if (-not $code -and -not $answer.TimedOut) { return }
    $text = Get-AdcsErrorText $code
    $message = "the CA answers, and may deny every request, since it can't verify its own certificate: $($text.Why). $($text.Remedy)"
    if ($answer.TimedOut) { $message = 'the CA does not say in time whether it can verify its own certificate: certutil -CAInfo certstatuscode' }
    @{ code = 'certificate_not_verified'; message = $message; certificate = $null }
}

function Restart-AdcsService {
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

function Get-AdcsRunDirectory {
    # The directory of our locks and kept files, where only administrators can write.
    $path = Get-AdcsSystemPath -Name 'CertSrv'
    if ([IO.Directory]::Exists($path)) { $path } else { Get-AdcsSystemPath }
}

function Enter-AdcsLock {
    # One task at a time: two would both renew. Windows drops the lock when its process ends, however that happens.
    param([string]$What, [int]$Seconds = 60)
    $path = Join-Path -Path (Get-AdcsRunDirectory) -ChildPath 'keyward.lock'
    $waited = [Diagnostics.Stopwatch]::StartNew()
    while ($true) {
        try {
            return New-Object -TypeName IO.FileStream -ArgumentList @(
                $path, [IO.FileMode]::OpenOrCreate, [IO.FileAccess]::ReadWrite, [IO.FileShare]::None, 1, [IO.FileOptions]::DeleteOnClose
            )
        }
        catch {
            # Access is denied for a moment, too, while Windows removes the file of the last holder.
            $denied = (Get-AdcsHResult $_) -eq '0x80070005'
            if ($denied -and $waited.Elapsed.TotalSeconds -gt 2) { throw (New-AdcsPathError -What $What -Path $path -Thrown $_) }
            if ($waited.Elapsed.TotalSeconds -gt $Seconds) {
                $why = "another task has been at work on this CA for more than $Seconds seconds (it holds $path)"
                throw (New-AdcsError -What $What -Why $why -Remedy 'Wait until it has ended, or end it, and run the task again')
            }
        }
        Start-Sleep -Milliseconds 200
    }
}

Export-ModuleMember -Function @(
    'Get-AdcsServiceState', 'Test-AdcsTrustCode', 'Stop-AdcsService', 'Start-AdcsService', 'Wait-AdcsPing', 'Get-AdcsDistrust', 'Restart-AdcsService', 'Get-AdcsRunDirectory', 'Enter-AdcsLock'
)
