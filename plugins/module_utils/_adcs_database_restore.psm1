# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: a set takes the place of a Windows CA's database; may change in any release.
# What a restore leaves that was killed, and what the next one makes of it: see _adcs_service.psm1.

#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_process
#AnsibleRequires -PowerShell ..module_utils._adcs_files
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_service
#AnsibleRequires -PowerShell ..module_utils._adcs_setup
#AnsibleRequires -PowerShell ..module_utils._adcs_store
#AnsibleRequires -PowerShell ..module_utils._adcs_sets
#AnsibleRequires -PowerShell ..module_utils._adcs_database
#AnsibleRequires -PowerShell ..module_utils._adcs_late

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Restore-AdcsDatabase {
    <#
    .SYNOPSIS
        What ca_database_restore orders of a Windows host: what is there, and a set that takes the place of the database.
    .OUTPUTS
        look: the facts with own_state ($null where the CA does not answer). host_store.read, host_store.file: see _adcs_sets.psm1. database.restore:
        see Get-RestoreAnswer.
    .NOTES
        https://learn.microsoft.com/windows-server/identity/ad-cs/migrate-certification-authority
    #>
    param([object]$Session)
    $what = 'the database was not restored'
    $order = $Session.Request
    switch ($order['order']) {
        'host_store.read' { return Get-AdcsStoreFact -Order $order -What $what }
        'host_store.file' { return Read-AdcsStoredFile -Order $order -What $what }
        'database.restore' { return Invoke-Restore -Session $Session -Order $order -What $what }
    }
    $answer = Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress
    $answer['own_state'] = Get-StateOrNull -Facts $answer
    if ($null -eq $answer['own_state'] -and (Test-AdcsNotClosed -Directory $answer['database']['path'])) {
        $text = Get-AdcsErrorText '0xC8000226'
        $message = "the database in $($answer['database']['path']) can't be opened: $($text.Why). $($text.Remedy)"
        $answer['advisories'] = @($answer['advisories']) + @{ code = 'database_not_closed'; message = $message; certificate = $null }
    }
    $answer
}

function Invoke-Restore {
    param([object]$Session, [System.Collections.IDictionary]$Order, [string]$What)
    $whole = $Order['part'] -eq 'all'
    $wanted = $Order['own']
    $aside = $Order['on_conflict'] -eq 'set_aside'
    $time = Get-AdcsTime -Format 'yyyyMMddTHHmmssZ'
    Assert-AdcsNotClustered -What $What
    $source = [string]$Order['folder']
    if ($Order['host_store']) {
        $store = Open-AdcsStore -Path $Order['host_store'] -What $What
        $source = Get-AdcsSetPath -Store $store -Order $Order -What $What
    }
    $files = @(Get-SetFile -Order $Order -Directory $source -What $What)
    $result = @{
        changed = $false; restored = New-Object -TypeName System.Collections.ArrayList; set_aside = New-Object -TypeName System.Collections.ArrayList
        reentered = New-Object -TypeName System.Collections.ArrayList; failed_revocations = New-Object -TypeName System.Collections.ArrayList
        reboot_required = $false; state = $null; registry = $null; advisories = New-Object -TypeName System.Collections.ArrayList
        entered = New-Object -TypeName System.Collections.ArrayList; not_entered = New-Object -TypeName System.Collections.ArrayList
    }
    if ($Session.Check) {
        Assert-Digest -File $files -What $What
        Restore-Policy -File $files -Aside:$aside -Result $result -Time $time -Check -What $What
        if ($whole) { Assert-SamePlace -Wanted $wanted -Facts (Get-FactOrNull -Session $Session) -What $What }
        if ($whole) { Show-Restore -Wanted $wanted -Facts (Get-FactOrNull -Session $Session) -Result $result }
        return Get-RestoreAnswer -Session $Session -Result $result
    }
    $lock = Enter-AdcsLock -What $What
    $work, $done = $null, $false
    try {
        $facts = Get-FactOrNull -Session $Session
        Assert-AdcsNewest -Facts $facts -Of $Order['of'] -What $What
        if ($whole) { Assert-SamePlace -Wanted $wanted -Facts $facts -What $What }
        # Copy into a protected directory first and check the digests there: nobody can change a file after its check.
        $work = if ($Order['folder']) { New-AdcsProtectedDirectory -Parent $Order['folder'] } else { New-RestoreDirectory }
        $files = @(Copy-SetFile -File $files -Directory $work -Keep:(-not $Order['folder']) -What $What)
        Assert-Digest -File $files -What $What
        if ($whole -and $wanted['restore_database']) { Assert-DatabaseFile -File $files -What $What }
        if ($whole -and $null -eq $facts) { Assert-AdcsKeyInStore -Thumbprint $wanted['certificate_id'] -What $What }
        Restore-Policy -File $files -Aside:$aside -Result $result -Time $time -What $What
        if ($whole -and $null -eq $facts) { Install-Role -Wanted $wanted -Result $result -Time $time -What $What }
        if ($whole -and -not $result.reboot_required) {
            if ($wanted['restore_database'] -or $wanted['registry']) {
                Switch-Database -Session $Session -Wanted $wanted -Directory $work -Result $result -Time $time -What $What
            }
            Add-AdcsLate -Wanted $wanted -Result $result -Directory $work -What $What
            if (@($wanted['revoke'] | Where-Object { $_ }).Count) { Invoke-AdcsRevocation -Wanted $wanted -Result $result -What $What }
            Publish-AdcsBeyond -Session $Session -Wanted $wanted -Result $result -What $What
        }
        if ($Order['host_store'] -and $Order['event'] -and $result.changed) {
            $authority = [IO.Path]::GetDirectoryName([IO.Path]::GetDirectoryName($source))
            Write-AdcsEvent -Directory $authority -Event $Order['event']
        }
        $answer = Get-RestoreAnswer -Session $Session -Result $result
        $done = $true
        $answer
    }
    finally {
        try {
            if ($work) { Remove-AdcsDirectory -Path $work }
        }
        catch {
            # Keep the first error, which says more.
            if ($done) { throw }
        }
        finally {
            $lock.Dispose()
        }
    }
}

function Get-RestoreAnswer {
    # {changed, restored, set_aside, reentered: [{serial}], advisories, own: {computer, database, failed_revocations, reboot_required}}
    param([object]$Session, [hashtable]$Result)
    $facts = Get-FactOrNull -Session $Session
    $state = if ($facts -and $null -eq $Result.state) { Get-StateOrNull -Facts $facts } else { $Result.state }
    [ordered]@{
        changed = $Result.changed
        restored = [object[]]$Result.restored.ToArray()
        set_aside = [object[]]$Result.set_aside.ToArray()
        reentered = [object[]]@($Result.reentered | ForEach-Object { @{ serial = $_ } })
        advisories = [object[]](@(if ($facts) { $facts['advisories'] }) + $Result.advisories.ToArray())
        own = [ordered]@{
            computer = if ($facts) { $facts['own']['computer'] } else { $null }
            database = $state
            failed_revocations = [object[]]$Result.failed_revocations.ToArray()
            entered = [object[]]$Result.entered.ToArray()
            not_entered = [object[]]$Result.not_entered.ToArray()
            reboot_required = $Result.reboot_required
            around = if ($facts -and $Result.registry) { Get-Around -Facts $facts }
            registry = $Result.registry
        }
    }
}

function Get-Around {
    # What stands around a restored CA, as far as this host tells: {templates ($null where they can't be told), nt_auth, ndes}.
    # https://learn.microsoft.com/troubleshoot/windows-server/certificates-and-public-key-infrastructure-pki/import-third-party-ca-to-enterprise-ntauth-store
    param([System.Collections.IDictionary]$Facts)
    $newest = @(Get-AdcsThumbprint -SanitizedName $Facts['authority']['sanitized_name'])[-1]
    [ordered]@{
        templates = [object[]](Get-AdcsTemplate -Facts $Facts -What 'the templates can not be told')
        nt_auth = Test-Path -LiteralPath "HKLM:\SOFTWARE\Microsoft\EnterpriseCertificates\NTAuth\Certificates\$newest"
        ndes = Test-Path -LiteralPath 'HKLM:\SOFTWARE\Microsoft\Cryptography\MSCEP'
    }
}

function Get-StateOrNull {
    # A service that runs without answering can't open its database: the case that a restore is for.
    param([System.Collections.IDictionary]$Facts)
    if ((Get-AdcsServiceState) -ne 'running') { return $null }
    try { Get-AdcsDatabaseState -Facts $Facts -What 'the database can not be read' } catch { $null }
}

function Get-FactOrNull {
    # The facts, $null where no CA is configured.
    param([object]$Session)
    try {
        Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress
    }
    catch {
        if (-not (Test-AdcsNothingThere $_) -or (Get-AdcsSetting 'Active')) { throw }
        $null
    }
}

function New-RestoreDirectory {
    # In Windows\Temp. Removes what a killed restore left there: we hold the lock, so no other restore runs.
    Clear-AdcsLeftover -Prefix 'keyward-restore-' -Hours 0
    $parent = Join-Path -Path $env:SystemRoot -ChildPath 'Temp'
    New-AdcsProtectedDirectory -Path (Join-Path -Path $parent -ChildPath ('keyward-restore-' + [guid]::NewGuid().ToString('N')))
}

# --- the files of a set ----------------------------------------------------------------------------------------------

function Get-SetFile {
    # The files of the set that were sent, each where it lies: [{name, path, sha256}].
    param([System.Collections.IDictionary]$Order, [string]$Directory, [string]$What)
    foreach ($file in @($Order['files'])) {
        $sent = [string]$file['sent_as']
        if (-not (Test-AdcsMemberName -Name $file['name']) -or -not (Test-AdcsMemberName -Name $sent)) {
            throw (New-AdcsError -What $What -Why 'the set names a file that can not be' -Remedy 'Use another set')
        }
        $path = Get-AdcsMemberPath -Directory $Directory -Name $sent
        @{ name = [string]$file['name']; path = $path; sha256 = [string]$file['sha256'] }
    }
}

function Assert-Digest {
    param([object[]]$File, [string]$What)
    foreach ($one in $File) {
        try {
            $right = (Get-AdcsDigest -Path $one.path) -eq $one.sha256
        }
        catch {
            throw (New-AdcsPathError -What $What -Path $one.path -Thrown $_)
        }
        if (-not $right) {
            $why = "$($one.name) does not have the digest that the manifest records"
            throw (New-AdcsError -What $What -Why $why -Remedy 'Use another set, or another copy of it')
        }
    }
}

function Copy-SetFile {
    param([object[]]$File, [string]$Directory, [switch]$Keep, [string]$What)
    if ($Keep) {
        $size = 0L
        foreach ($one in $File) { if ([IO.File]::Exists($one.path)) { $size += (New-Object -TypeName IO.FileInfo -ArgumentList $one.path).Length } }
        Assert-AdcsFreeSpace -Path $Directory -Bytes ([long]($size * 1.1)) -What $What
    }
    foreach ($one in $File) {
        $to = Get-AdcsMemberPath -Directory $Directory -Name $one.name
        try {
            $null = [IO.Directory]::CreateDirectory([IO.Path]::GetDirectoryName($to))
            if ($Keep) { [IO.File]::Copy($one.path, $to) } else { [IO.File]::Move($one.path, $to) }
        }
        catch {
            throw (New-AdcsPathError -What $What -Path $one.path -Thrown $_)
        }
        @{ name = $one.name; path = $to; sha256 = $one.sha256 }
    }
}

function Assert-DatabaseFile {
    param([object[]]$File, [string]$What)
    $names = @($File | ForEach-Object { $_.name })
    if ($names -cnotcontains 'DataBase/certbkxp.dat' -or @($names -like 'DataBase/*.edb').Count -ne 1 -or @($names -like 'DataBase/*.log').Count -eq 0) {
        throw (New-AdcsError -What $What -Why 'the set does not hold a whole database' -Remedy 'Use another set')
    }
}

function Assert-SamePlace {
    # Throws where the set's database belongs to a CA of another type, or to other directories: Windows finds out with the service stopped (0x8007010B).
    param([System.Collections.IDictionary]$Wanted, [object]$Facts, [string]$What)
    if (-not $Facts -or -not $Wanted['restore_database']) { return }
    $type = [string]$Facts['own']['ca_type']
    if ($type -and $Wanted['ca_type'] -and $type -ne $Wanted['ca_type']) {
        $remedy = 'Take the role away (Uninstall-AdcsCertificationAuthority) and restore again: it is configured as the set says'
        throw (New-AdcsError -What $What -Why "this host's CA is of the type $type, the set's of the type $($Wanted['ca_type'])" -Remedy $remedy)
    }
    foreach ($name in 'DBDirectory', 'DBLogDirectory') {
        $here = [string](Get-AdcsSetting -Name $name)
        $there = [string]$Wanted[$(if ($name -eq 'DBDirectory') { 'database_directory' } else { 'log_directory' })]
        if ($here -and $there -and $here.TrimEnd('\', '/') -ne $there.TrimEnd('\', '/')) {
            $why = "the set's files belong into $there, and $name on this host is $here; Windows restores them to the same path only (0x8007010B)"
            $remedy = "Stop CertSvc, give $name below CertSvc\Configuration that path, move the files there, and restore again"
            throw (New-AdcsError -What $What -Why $why -Remedy $remedy)
        }
    }
}

# --- steps -----------------------------------------------------------------------------------------------------------

function Restore-Policy {
    # CAPolicy.inf comes before everything: setup reads it.
    param([object[]]$File, [switch]$Aside, [hashtable]$Result, [string]$Time, [switch]$Check, [string]$What)
    $source = @($File | Where-Object { $_.name -eq 'CAPolicy.inf' })
    if ($source.Count -eq 0) { return }
    $path = Get-AdcsPolicyPath
    $kept = $null
    if ([IO.File]::Exists($path)) {
        if ((Get-AdcsDigest -Path $path) -eq $source[0].sha256) { return }
        if (-not $Aside) {
            $remedy = 'Compare them; with on_conflict: set_aside the one on the host is kept aside'
            throw (New-AdcsError -What $What -Why "$path differs from that of the set" -Remedy $remedy)
        }
        $kept = Get-AdcsFreePath -Path "$path.set-aside-$Time"
    }
    if (-not $Check) {
        try {
            $new = Get-AdcsFreePath -Path "$path.new"
            [IO.File]::Copy($source[0].path, $new)
            if ($kept) { [IO.File]::Move($path, $kept) }
            [IO.File]::Move($new, $path)
        }
        catch {
            throw (New-AdcsPathError -What $What -Path $path -Thrown $_)
        }
    }
    $Result.changed = $true
    if ($kept) { $null = $Result.set_aside.Add([ordered]@{ path = $path; kept_as = $(if ($Check) { $null } else { $kept }) }) }
    $null = $Result.restored.Add([ordered]@{ path = $path; part = 'configuration' })
}

function Show-Restore {
    # What check mode can tell of the rest.
    param([System.Collections.IDictionary]$Wanted, [object]$Facts, [hashtable]$Result)
    if ($Wanted['restore_database']) {
        $directories = @(if ($Facts) { Get-AdcsDatabaseDirectory } else { [string]$Wanted['database_directory'] })
        foreach ($directory in $directories) {
            if (@(Get-AdcsDatabaseFile -Directory $directory).Count) { $null = $Result.set_aside.Add([ordered]@{ path = $directory; kept_as = $null }) }
        }
        $null = $Result.restored.Add([ordered]@{ path = $directories[0]; part = 'database' })
        $Result.changed = $true
    }
    if ($Wanted['registry']) {
        $null = $Result.restored.Add([ordered]@{ path = (Get-AdcsConfigurationKey); part = 'configuration' })
        $Result.changed = $true
    }
    foreach ($one in @($Wanted['revoke'] | Where-Object { $_ })) {
        $null = $Result.reentered.Add([string]$one['serial'])
        $Result.changed = $true
    }
}

function Install-Role {
    # A host without a CA: the feature, then the role on top of the keys. A database that lies there is kept aside, never overwritten.
    param([System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$Time, [string]$What)
    $feature = Install-AdcsFeature -What $What
    if ($feature.changed) { $Result.changed = $true }
    if ($feature.reboot_required) {
        $Result.reboot_required = $true
        return
    }
    $type = Get-AdcsTypeToInstall -Wanted $Wanted -What $What
    $database, $log = [string]$Wanted['database_directory'], [string]$Wanted['log_directory']
    foreach ($directory in @($database, $log) | Where-Object { $_ } | Select-Object -Unique) {
        $aside = Move-AdcsDatabase -Directory $directory -Label 'set-aside' -Time $Time -What $What
        if ($aside) { $null = $Result.set_aside.Add([ordered]@{ path = $aside.path; kept_as = $aside.kept_as }) }
    }
    $parameters = @{ CAType = $type; CertificateID = $Wanted['certificate_id'] }
    Add-AdcsDatabaseParameter -Parameters $parameters -Database $database -Log $log
    try {
        Invoke-AdcsSetup -Parameters $parameters -Account $Wanted['account'] -What $What
    }
    catch {
        # Configured, but not started because no CRL of the CAs above can be fetched: go on, the next step stops the service anyway.
        if (-not (Test-AdcsTrustCode $_.Exception.Data['Code']) -or -not (Get-AdcsSetting -Name 'Active')) { throw }
    }
    $Result.changed = $true
    # The CA must issue nothing before the set is in its place.
    $issued = if ((Get-AdcsServiceState) -eq 'running') { Measure-AdcsRequest -What $What } else { 0 }
    Stop-AdcsService -What $What
    if ($issued) {
        $message = "between its installation and its stop the CA had $issued requests, which the restored database does not know; they are kept with the database that is set aside"
        $null = $Result.advisories.Add(@{ code = 'issued_meanwhile'; message = $message; certificate = $null })
    }
}

function Switch-Database {
    # Replaces the database by the set's. The old one is kept aside, and put back unless the new one is proved.
    param([object]$Session, [System.Collections.IDictionary]$Wanted, [string]$Directory, [hashtable]$Result, [string]$Time, [string]$What)
    $moved = New-Object -TypeName System.Collections.ArrayList
    $imported, $placed, $proved, $able = $false, $false, $false, $true
    $before = Join-Path -Path $Directory -ChildPath 'before.reg'
    Export-AdcsRegistry -Path $before -What $What
    Stop-AdcsService -What $What
    try {
        Remove-RestoreRegistration
        if ($Wanted['restore_database']) {
            foreach ($place in @(Get-AdcsDatabaseDirectory)) {
                $aside = Move-AdcsDatabase -Directory $place -Label 'set-aside' -Time $Time -What $What
                if ($aside) { $null = $moved.Add($aside) }
            }
            # Confirm: PowerShell 7 runs this cmdlet in a compatibility session, which does not see our preferences.
            $parameters = @{ Path = $Directory; DatabaseOnly = $true; Force = $true; Confirm = $false }
            $size = 0L
            foreach ($file in [IO.Directory]::GetFiles($Directory, '*', [IO.SearchOption]::AllDirectories)) {
                $size += (New-Object -TypeName IO.FileInfo -ArgumentList $file).Length
            }
            $null = Invoke-AdcsCmdlet -Command 'Restore-CARoleService' -Parameters $parameters -Limit Copy -Bytes $size -What $What
        }
        if ($Wanted['registry']) {
            $file = Join-Path -Path $Directory -ChildPath 'edited.reg'
            Write-AdcsNewFile -Path $file -Content ([Convert]::FromBase64String($Wanted['registry']))
            $imported = $true
            Import-Registry -Path $file -What $What
        }
        $placed = $true
        Start-Restored -Wanted $Wanted -Result $Result -What $What
        $state = Get-AdcsDatabaseState -Facts (Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress) -What $What
        $expected = [long]$Wanted['last_request_id']
        if ($Wanted['restore_database'] -and $state['last_request_id'] -lt $expected) {
            $why = "the restored database ends with the request $($state['last_request_id']), and the set with $expected"
            throw (New-AdcsError -What $What -Why $why -Remedy 'Use another set')
        }
        # As it is now, to be compared with that of the set.
        $after = Join-Path -Path $Directory -ChildPath 'after.reg'
        Export-AdcsRegistry -Path $after -What $What
        $Result.registry = [Convert]::ToBase64String([IO.File]::ReadAllBytes($after))
        $proved = $true
    }
    catch {
        if ($placed -and (Test-AdcsTrustCode $_.Exception.Data['Code'])) {
            $able = $false
            throw (New-NotStarted -Failure $_ -Moved $moved)
        }
        throw (Undo-Switch -Failure $_ -Moved $moved -Registry $(if ($imported) { $before } else { $null }) -Time $Time -What $What)
    }
    finally {
        # Start the service again, whatever happened since it was stopped.
        if ($able -and (Get-AdcsServiceState) -ne 'running') {
            try { Start-AdcsService -What $What } catch { if ($proved) { throw } }
        }
    }
    $distrust = Get-AdcsDistrust -Facts (Get-AdcsAuthority -Parameters $Session.Parameters -AllowRestoreInProgress)
    if ($distrust -and -not $Result.advisories.Count) { $null = $Result.advisories.Add($distrust) }
    $Result.changed = $true
    $Result.state = $state
    foreach ($one in $moved) { $null = $Result.set_aside.Add([ordered]@{ path = $one.path; kept_as = $one.kept_as }) }
    if ($Wanted['restore_database']) { $null = $Result.restored.Add([ordered]@{ path = @(Get-AdcsDatabaseDirectory)[0]; part = 'database' }) }
    if ($Wanted['registry']) {
        $kept = Save-Registry -Path $before -Time $Time
        $null = $Result.set_aside.Add([ordered]@{ path = (Get-AdcsConfigurationKey); kept_as = $kept })
        $null = $Result.restored.Add([ordered]@{ path = (Get-AdcsConfigurationKey); part = 'configuration' })
    }
}

function Start-Restored {
    # Starts the CA on what was restored. In a disaster the CRL's host is often down too; only a person may allow a start without it.
    param([System.Collections.IDictionary]$Wanted, [hashtable]$Result, [string]$What)
    try {
        Start-AdcsService -What $What
        Wait-AdcsPing -What $What
    }
    catch {
        if (-not $Wanted['start_without_parent_crl'] -or $_.Exception.Data['Code'] -ne '0x80092013') { throw }
        $null = Invoke-AdcsCertutil -ArgumentList '-setreg', 'CA\CRLFlags', '+CRLF_REVCHECK_IGNORE_OFFLINE' -Limit Quick -What $What
        Start-AdcsService -What $What
        Wait-AdcsPing -What $What
        $undo = 'certutil -setreg CA\CRLFlags -CRLF_REVCHECK_IGNORE_OFFLINE, and restart CertSvc'
        $message = "no CRL of the CA above could be fetched, and the CA was started without it. When it is there again: $undo"
        $null = $Result.advisories.Add(@{ code = 'revocation_not_checked'; message = $message; certificate = $null })
    }
}

function New-NotStarted {
    # The error where the set is in place and sound, and the CA can't start for a reason outside the database.
    param([object]$Failure, [object]$Moved)
    $data = $Failure.Exception.Data
    $kept = @($Moved | ForEach-Object { $_.kept_as }) -join ', '
    $why = [string]$data['Why']
    if ($kept) { $why += ". What was there before is kept in $kept" }
    $remedy = "$($data['Remedy']). Then run the task again; with start_without_parent_crl it goes on without the CRL"
    New-AdcsError -What 'the set is in its place, and the CA does not start on it' -Why $why -Remedy $remedy -Code $data['Code']
}

function Undo-Switch {
    # Puts the old database and registry back. -> the error to throw.
    param([object]$Failure, [object]$Moved, [string]$Registry, [string]$Time, [string]$What)
    $data = $Failure.Exception.Data
    $why, $remedy, $code = $data['Why'], $data['Remedy'], [string]$data['Code']
    if (-not $data.Contains('What')) {
        $code = Get-AdcsHResult $Failure
        $text = Get-AdcsErrorText $code
        $why, $remedy = $text.Why, $text.Remedy
    }
    if ($Moved.Count -eq 0 -and -not $Registry) { return New-AdcsError -What $What -Why $why -Remedy $remedy -Code $code }
    try {
        Stop-AdcsService -What $What
        Remove-RestoreRegistration
        foreach ($one in $Moved) {
            $null = Move-AdcsDatabase -Directory $one.path -Label 'failed' -Time $Time -What $What
            Undo-AdcsMove -File $one.files
            [IO.Directory]::Delete($one.kept_as)
        }
        if ($Registry) { Import-Registry -Path $Registry -What $What }
        New-AdcsError -What $What -Why "$why. The database that was there is back in its place" -Remedy $remedy -Code $code
    }
    catch {
        $places = @($Moved | ForEach-Object { $_.kept_as }) -join ', '
        $back = "Stop CertSvc and move the files from $places back by hand"
        New-AdcsError -What $What -Why "$why. The database that was there could not be put back" -Remedy $back -Code $code
    }
}

# --- the registry ----------------------------------------------------------------------------------------------------

function Save-Registry {
    # The configuration as it was, beside the CA's own files, where only administrators write.
    param([string]$Path, [string]$Time)
    $kept = Get-AdcsFreePath -Path (Join-Path -Path (Get-AdcsRunDirectory) -ChildPath "configuration.reg.set-aside-$Time")
    [IO.File]::Copy($Path, $kept)
    $kept
}

function Import-Registry {
    param([string]$Path, [string]$What)
    $null = Invoke-AdcsProgram -FilePath (Get-AdcsSystemPath -Name 'reg.exe') -ArgumentList 'import', $Path -Limit Quick -What $What
}

function Remove-RestoreRegistration {
    # Removes what an unfinished restore registered (RestoreInProgress); the whole set is restored again.
    $path = Get-AdcsConfigurationKey 'RestoreInProgress'
    if (Test-Path -LiteralPath $path) { Remove-Item -LiteralPath $path -Recurse -Force }
}

Export-ModuleMember -Function 'Restore-AdcsDatabase'
