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

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$pingSeconds = 120

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
    param([string]$State)
    $clock = [Diagnostics.Stopwatch]::StartNew()
    while ((Get-AdcsServiceState) -ne $State) {
        if ($clock.Elapsed.TotalSeconds -ge 60) { return $false }
        Start-Sleep -Milliseconds 250
    }
    $true
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
    $null = Invoke-AdcsCmdlet -Command 'Start-Service' -Parameters @{ Name = 'CertSvc' } -Limit Service -What $What
    if (-not (Wait-ServiceState -State 'running')) {
        $remedy = 'Look into the event log (Application, source CertificationAuthority); certutil -verifykeys tells whether every key is there'
        throw (New-AdcsError -What $What -Why 'the service CertSvc does not run after it was started' -Remedy $remedy)
    }
}

function Wait-AdcsPing {
    <#
    .SYNOPSIS
        Returns when the CA answers, throws when it does not in time. A service that runs is no proof: its database may not be mounted, and
        its logs are replayed while it starts.
    #>
    param([string]$What)
    $clock = [Diagnostics.Stopwatch]::StartNew()
    while ($true) {
        $answer = Invoke-AdcsCertutil -ArgumentList '-ping' -Limit Quick -What $What -AllowFailure
        if (-not $answer.TimedOut -and $answer.ExitCode -eq 0) { return }
        if ($clock.Elapsed.TotalSeconds -ge $pingSeconds) { break }
        Start-Sleep -Milliseconds 1000
    }
    $why = "the CA does not answer within $pingSeconds seconds"
    if ($answer.Code) { $why += " ($($answer.Code))" }
    $remedy = 'Look into the event log (Application, source CertificationAuthority; event 17: the database can not be opened)'
    throw (New-AdcsError -What $What -Why $why -Remedy $remedy -Code $answer.Code)
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
    # Where a record or a lock of ours lies: only administrators write there.
    $path = Get-AdcsSystemPath -Name 'CertSrv'
    if ([IO.Directory]::Exists($path)) { $path } else { Get-AdcsSystemPath }
}

function Enter-AdcsLock {
    # Two plays at once would renew twice. The lock goes with its process, however that ends.
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
            # Denied is also, for a moment, a file that its last holder has given up.
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
    'Get-AdcsServiceState', 'Stop-AdcsService', 'Start-AdcsService', 'Wait-AdcsPing', 'Restart-AdcsService', 'Get-AdcsRunDirectory', 'Enter-AdcsLock'
)
