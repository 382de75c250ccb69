# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
<#
.SYNOPSIS
    Asks a real CA what no document says and the code has to allow for either way. FOR A THROW-AWAY CA ONLY: it stops the service,
    writes key backups, and at the end takes the CA away. Elevated, on the CA's host.
.PARAMETER Answers
    The file for the answers, JSON: one entry a question, with what was done and what came of it. An answer of "not asked" has its reason.
#>
param([Parameter(Mandatory = $true)][string]$Answers)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$configuration = 'HKLM:\SYSTEM\CurrentControlSet\Services\CertSvc\Configuration'
$certutil = Join-Path -Path (Join-Path -Path $env:SystemRoot -ChildPath 'System32') -ChildPath 'certutil.exe'
$base = Join-Path -Path $env:SystemDrive -ChildPath ('keyward-questions-' + [guid]::NewGuid().ToString('N'))
$found = [ordered]@{}
$plain = 'Xq7' + [guid]::NewGuid().ToString('N').Substring(0, 24)

function New-Folder {
    # An empty one, as somebody makes it who does not think of its access list.
    $path = Join-Path -Path $base -ChildPath ([guid]::NewGuid().ToString('N'))
    (New-Item -ItemType Directory -Path $path).FullName
}

function ConvertTo-Secure {
    param([string]$Text)
    $secure = New-Object -TypeName System.Security.SecureString
    foreach ($character in $Text.ToCharArray()) { $secure.AppendChar($character) }
    $secure
}

function Get-Code {
    # Every code that an error carries: those of its exceptions, and those in its text.
    param([object]$Failure)
    $codes = @()
    for ($one = $Failure.Exception; $one; $one = $one.InnerException) {
        $codes += '{0} 0x{1:X8}' -f $one.GetType().Name, [int]$one.HResult
        if ($one -is [System.ComponentModel.Win32Exception]) { $codes += 'native 0x{0:X8}' -f $one.NativeErrorCode }
        foreach ($name in 'SerializedRemoteException', 'ErrorRecord') {
            if ($one.PSObject.Properties[$name]) { $codes += "has $name" }
        }
    }
    foreach ($match in [regex]::Matches("$($Failure.Exception.Message)", '0x[0-9A-Fa-f]{8}')) { $codes += "text $($match.Value)" }
    $codes += "id $($Failure.FullyQualifiedErrorId)"
    , $codes
}

function Invoke-Try {
    # {ended: bool, codes}: of a script block that may fail.
    param([scriptblock]$Work)
    try {
        $null = & $Work
        [ordered]@{ succeeded = $true; codes = @() }
    }
    catch {
        [ordered]@{ succeeded = $false; codes = Get-Code $_ }
    }
}

function Invoke-Certutil {
    # {exit, ended: bool, codes}, without a console and with closed input. On a timeout this process alone is ended.
    param([string[]]$Argument, [int]$Seconds = 120)
    $start = New-Object -TypeName System.Diagnostics.ProcessStartInfo
    $start.FileName = $certutil
    $start.Arguments = @($Argument | ForEach-Object { if ($_ -match '[\s"]') { '"' + $_.Replace('"', '\"') + '"' } else { $_ } }) -join ' '
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardError = $true
    $process = [System.Diagnostics.Process]::Start($start)
    $process.StandardInput.Close()
    $output, $errors = $process.StandardOutput.ReadToEndAsync(), $process.StandardError.ReadToEndAsync()
    $ended = $process.WaitForExit($Seconds * 1000)
    if (-not $ended) {
        $process.Kill()
        $null = $process.WaitForExit(10000)
    }
    $said = "$($output.Result) $($errors.Result)"
    $code = if ($ended) { '0x{0:X8}' -f $process.ExitCode } else { $null }
    [ordered]@{ ended = $ended; exit = $code; codes = @([regex]::Matches($said, '0x[0-9A-Fa-f]{8}') | ForEach-Object { $_.Value } | Select-Object -Unique) }
}

function Get-Bundle {
    param([string]$Folder)
    @(Get-ChildItem -Path $Folder -Recurse -Filter '*.p12' | ForEach-Object { $_.FullName })
}

function Test-Opens {
    param([string]$Path, [string]$Password)
    (Invoke-Try { Get-PfxData -FilePath $Path -Password (ConvertTo-Secure $Password) }).succeeded
}

function Measure-Bundle {
    # What a PKCS #12 file is made of, from the object identifiers that lie in it unencrypted, and from what Windows reads.
    param([string]$Path, [string]$Password)
    $hex = [BitConverter]::ToString([IO.File]::ReadAllBytes($Path)).Replace('-', '')
    $known = [ordered]@{
        'shrouded key bags' = '060B2A864886F70D010C0A0102'; 'PBE SHA-1, 3DES' = '060A2A864886F70D010C0103'; 'PBE SHA-1, RC2-40' = '060A2A864886F70D010C0106'
        'PBES2' = '06092A864886F70D01050D'; 'PBKDF2' = '06092A864886F70D01050C'; 'HMAC-SHA256' = '06082A864886F70D0209'
        'AES-256-CBC' = '060960864801650304012A'; 'SHA-1' = '06052B0E03021A'; 'SHA-256' = '0609608648016503040201'
        'provider names' = '06092B0601040182371101'; 'machine keys' = '06092B0601040182371102'; 'local key ids' = '06092A864886F70D010915'
    }
    $counts = [ordered]@{}
    foreach ($name in $known.Keys) { $counts[$name] = [regex]::Matches($hex, $known[$name]).Count }
    $script:data = $null
    $read = Invoke-Try { $script:data = Get-PfxData -FilePath $Path -Password (ConvertTo-Secure $Password) }
    $data = $script:data
    [ordered]@{
        name = [IO.Path]::GetFileName($Path)
        size = (Get-Item -Path $Path).Length
        identifiers = $counts
        read = $read
        with_key = if ($read.succeeded) { @($data.EndEntityCertificates | ForEach-Object { $_.Thumbprint }) } else { @() }
        without_key = if ($read.succeeded) { @($data.OtherCertificates | ForEach-Object { $_.Thumbprint }) } else { @() }
    }
}

function Save-Answer {
    param([string]$Question, [scriptblock]$Work)
    try { $script:found[$Question] = & $Work }
    catch { $script:found[$Question] = [ordered]@{ 'not asked' = 'asking failed'; codes = Get-Code $_; line = $_.InvocationInfo.ScriptLineNumber } }
    [IO.File]::WriteAllText($Answers, (ConvertTo-Json -InputObject $script:found -Depth 9))
    Write-Output -InputObject $Question
}

function Start-Authority {
    Start-Service -Name CertSvc
    for ($attempt = 0; $attempt -lt 60; $attempt++) {
        if ((Invoke-Certutil -Argument '-ping' -Seconds 60).exit -eq '0x00000000') { return }
        Start-Sleep -Seconds 1
    }
    throw 'the CA does not answer'
}

$null = New-Item -ItemType Directory -Path $base
$active = (Get-ItemProperty -Path $configuration).Active

Save-Answer 'host' {
    [ordered]@{
        windows = [Environment]::OSVersion.Version.ToString()
        build = (Get-ItemProperty -Path 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion').UBR
        product = (Get-ItemProperty -Path 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion').ProductName
        powershell = $PSVersionTable.PSVersion.ToString()
        culture = (Get-Culture).Name
        system_locale = (Get-WinSystemLocale).Name
        CACertHash = @((Get-ItemProperty -Path "$configuration\$active").CACertHash)
        sanitized_name = $active
        values = @((Get-Item -Path "$configuration\$active").Property)
        view_of_one_row = (& $certutil -view -restrict 'RequestId=$' -out RequestId csv | Out-String)
        view_of_revocations = (& $certutil -gmt -view -restrict 'Disposition=21' -out 'RequestId,Request.RevokedWhen' csv | Out-String)
        view_of_crls = (& $certutil -view -out CRLNumber CRL csv | Out-String)
    }
}

Save-Answer '1. Does a key backup work while CertSvc is stopped?' {
    Stop-Service -Name CertSvc -Force
    try {
        $cmdlet, $program = (New-Folder), (New-Folder)
        [ordered]@{
            'Backup-CARoleService -KeyOnly' = Invoke-Try { Backup-CARoleService -Path $cmdlet -KeyOnly -Password (ConvertTo-Secure $plain) }
            'its files' = @(Get-Bundle $cmdlet).Count
            'certutil -backupKey' = Invoke-Certutil -Argument '-p', $plain, '-backupKey', $program
            'files of certutil' = @(Get-Bundle $program).Count
            'Backup-CARoleService -DatabaseOnly' = Invoke-Try { Backup-CARoleService -Path (New-Folder) -DatabaseOnly -KeepLog }
        }
    }
    finally { Start-Authority }
}

Save-Answer '2. What is in the .p12 of a CA that was renewed?' {
    $cmdlet, $program = (New-Folder), (New-Folder)
    Backup-CARoleService -Path $cmdlet -KeyOnly -Password (ConvertTo-Secure $plain)
    $ended = Invoke-Certutil -Argument '-p', $plain, '-backupKey', $program
    $exported = Join-Path -Path (New-Folder) -ChildPath 'newest.p12'
    $newest = @((Get-ItemProperty -Path "$configuration\$active").CACertHash)[-1] -replace '[^0-9A-Fa-f]', ''
    $null = Export-PfxCertificate -Cert "Cert:\LocalMachine\My\$newest" -FilePath $exported -Password (ConvertTo-Secure $plain) -ChainOption EndEntityCertOnly
    [ordered]@{
        'Backup-CARoleService -KeyOnly' = @(Get-Bundle $cmdlet | ForEach-Object { Measure-Bundle $_ $plain })
        'where it lies' = @(Get-Bundle $cmdlet | ForEach-Object { $_.Substring($cmdlet.Length) })
        'certutil -backupKey' = @(Get-Bundle $program | ForEach-Object { Measure-Bundle $_ $plain })
        'certutil' = $ended
        'Export-PfxCertificate of the newest' = Measure-Bundle $exported $plain
        'opens with an empty password' = @(Get-Bundle $cmdlet | ForEach-Object { Test-Opens $_ '' })
    }
}

Save-Answer '3. What are the codes where the .p12 or DataBase is there already, without -f?' {
    $key, $database, $programKey, $programDatabase = (New-Folder), (New-Folder), (New-Folder), (New-Folder)
    Backup-CARoleService -Path $key -KeyOnly -Password (ConvertTo-Secure $plain)
    Backup-CARoleService -Path $database -DatabaseOnly -KeepLog
    [ordered]@{
        'Backup-CARoleService -KeyOnly' = Invoke-Try { Backup-CARoleService -Path $key -KeyOnly -Password (ConvertTo-Secure $plain) }
        'Backup-CARoleService -DatabaseOnly' = Invoke-Try { Backup-CARoleService -Path $database -DatabaseOnly -KeepLog }
        'certutil -backupKey, first' = Invoke-Certutil -Argument '-p', $plain, '-backupKey', $programKey
        'certutil -backupKey, again' = Invoke-Certutil -Argument '-p', $plain, '-backupKey', $programKey
        'certutil -backupDB, first' = Invoke-Certutil -Argument '-backupDB', $programDatabase, 'KeepLog'
        'certutil -backupDB, again' = Invoke-Certutil -Argument '-backupDB', $programDatabase, 'KeepLog'
        'files of a database backup' = @(Get-ChildItem -Path $database -Recurse | ForEach-Object { $_.FullName.Substring($database.Length) })
    }
}

Save-Answer '4. What do HSM providers answer to an export?' {
    # There is no HSM here. A software key that may not leave stands for it.
    $one = New-SelfSignedCertificate -Subject 'CN=keyward question 4' -CertStoreLocation Cert:\LocalMachine\My -KeyExportPolicy NonExportable
    $file = Join-Path -Path (New-Folder) -ChildPath 'stuck.p12'
    try {
        [ordered]@{
            'HSM' = 'not asked: there is none'
            'Export-PfxCertificate of a software key that may not leave' = Invoke-Try {
                Export-PfxCertificate -Cert "Cert:\LocalMachine\My\$($one.Thumbprint)" -FilePath $file -Password (ConvertTo-Secure $plain)
            }
            'certutil -exportPFX of it' = Invoke-Certutil -Argument '-silent', '-p', $plain, '-exportPFX', $one.Thumbprint, $file
        }
    }
    finally { Remove-Item -Path "Cert:\LocalMachine\My\$($one.Thumbprint)" }
}

Save-Answer '5. What does -restoreKey say where certificate and key are unchanged?' {
    $folder = New-Folder
    Backup-CARoleService -Path $folder -KeyOnly -Password (ConvertTo-Secure $plain)
    $file = @(Get-Bundle $folder)[0]
    [ordered]@{
        'certutil -restoreKey' = Invoke-Certutil -Argument '-p', $plain, '-restoreKey', $folder
        'certutil -f -restoreKey' = Invoke-Certutil -Argument '-f', '-p', $plain, '-restoreKey', $folder
        'Restore-CARoleService -KeyOnly' = Invoke-Try { Restore-CARoleService -Path $folder -KeyOnly -Password (ConvertTo-Secure $plain) -Confirm:$false }
        'Import-PfxCertificate -Exportable' = Invoke-Try {
            Import-PfxCertificate -FilePath $file -CertStoreLocation Cert:\LocalMachine\My -Password (ConvertTo-Secure $plain) -Exportable
        }
        'a key backup after that' = Invoke-Try { Backup-CARoleService -Path (New-Folder) -KeyOnly -Password (ConvertTo-Secure $plain) }
        'certutil -verifykeys' = Invoke-Certutil -Argument '-verifykeys'
    }
}

Save-Answer '6. What happens without -p and without a console?' {
    $folder = New-Folder
    [ordered]@{ 'certutil -backupKey' = Invoke-Certutil -Argument '-backupKey', $folder -Seconds 60; files = @(Get-Bundle $folder).Count }
}

Save-Answer '7. How long may a password be, and of which characters?' {
    $tried = [ordered]@{}
    $passwords = [ordered]@{}
    foreach ($length in 31, 32, 33, 63, 64, 127, 128, 255) { $passwords["$length characters"] = 'Aa1' + ('x' * ($length - 3)) }
    $passwords['a quotation mark'] = 'Aa1"x' + $plain
    $passwords['a comma'] = 'Aa1,x' + $plain
    $passwords['an asterisk'] = 'Aa1*x' + $plain
    $passwords['a percent sign'] = 'Aa1%PATH%x' + $plain
    $passwords['a blank'] = 'Aa1 x' + $plain
    $passwords['a leading dash'] = '-Aa1x' + $plain
    $passwords['letters beyond ASCII'] = 'Aa1' + [char]0xE4 + [char]0x20AC + $plain
    foreach ($what in $passwords.Keys) {
        $cmdlet, $program = (New-Folder), (New-Folder)
        $byCmdlet = Invoke-Try { Backup-CARoleService -Path $cmdlet -KeyOnly -Password (ConvertTo-Secure $passwords[$what]) }
        $byProgram = Invoke-Certutil -Argument '-p', $passwords[$what], '-backupKey', $program
        $tried[$what] = [ordered]@{
            'Backup-CARoleService' = $byCmdlet
            'it opens' = @(Get-Bundle $cmdlet | ForEach-Object { Test-Opens $_ $passwords[$what] })
            'certutil' = $byProgram
            'that opens' = @(Get-Bundle $program | ForEach-Object { Test-Opens $_ $passwords[$what] })
        }
    }
    $tried
}

Save-Answer '8. What is the access list of the files?' {
    $key, $database, $made = (New-Folder), (New-Folder), (Join-Path -Path $base -ChildPath 'not-there-yet')
    Backup-CARoleService -Path $key -KeyOnly -Password (ConvertTo-Secure $plain)
    Backup-CARoleService -Path $database -DatabaseOnly -KeepLog
    $byItself = Invoke-Try { Backup-CARoleService -Path $made -KeyOnly -Password (ConvertTo-Secure $plain) }
    [ordered]@{
        'the folder' = (Get-Acl -Path $key).Sddl
        'the .p12' = @(Get-Bundle $key | ForEach-Object { (Get-Acl -Path $_).Sddl })
        'the database' = @(Get-ChildItem -Path $database -Recurse -File | Select-Object -First 3 | ForEach-Object { (Get-Acl -Path $_.FullName).Sddl })
        'into a folder that is not there' = $byItself
        'that folder' = if (Test-Path -Path $made) { (Get-Acl -Path $made).Sddl } else { $null }
    }
}

Save-Answer '9. Does DBLastFullBackup change with KeepLog?' {
    $read = { $value = Get-ItemProperty -Path $configuration -Name DBLastFullBackup -ErrorAction SilentlyContinue
        if ($value) { [BitConverter]::ToString([byte[]]$value.DBLastFullBackup) } else { $null } }
    $before = & $read
    Backup-CARoleService -Path (New-Folder) -DatabaseOnly -KeepLog
    $kept = & $read
    Backup-CARoleService -Path (New-Folder) -DatabaseOnly
    [ordered]@{ before = $before; 'after -KeepLog' = $kept; 'after one without' = & $read }
}

Save-Answer '10. In which order does Restore-CARoleService restore keys and database?' {
    [ordered]@{ 'not asked' = 'its two halves leave no trace of their order; the collection restores them by two commands' }
}

Save-Answer '11. Do ML-DSA keys go into a .p12?' {
    $providers = & $certutil -csplist | Out-String
    [ordered]@{
        'the software provider names ML-DSA' = $providers -match 'ML-DSA'
        'a key in a .p12' = 'not asked: the CA of this run has no such key'
    }
}

Save-Answer 'Also: certutil -renewCert of a running CA, as the collection calls it' {
    $before = @((Get-ItemProperty -Path "$configuration\$active").CACertHash).Count
    $ended = Invoke-Certutil -Argument '-silent', '-renewCert', 'ReuseKeys' -Seconds 300
    $after = @((Get-ItemProperty -Path "$configuration\$active").CACertHash).Count
    $service = [string](Get-Service -Name CertSvc).Status
    Restart-Service -Name CertSvc -Force
    Start-Authority
    $hashes = @((Get-ItemProperty -Path "$configuration\$active").CACertHash | ForEach-Object { $_ -replace '[^0-9A-Fa-f]', '' })
    [ordered]@{
        'NotBefore of all, in UTC' = @($hashes | ForEach-Object { (Get-Item -Path "Cert:\LocalMachine\My\$_").NotBefore.ToUniversalTime().ToString('s') })
        certutil = $ended; before = $before; 'before the restart' = $after; 'service before the restart' = $service
        'after the restart' = @((Get-ItemProperty -Path "$configuration\$active").CACertHash).Count
    }
}

Save-Answer '13. Is RestoreInProgress gone when the service has started?' {
    $folder, $key = (New-Folder), "$configuration\RestoreInProgress"
    Backup-CARoleService -Path $folder -DatabaseOnly -KeepLog
    Stop-Service -Name CertSvc -Force
    $restored = Invoke-Try { Restore-CARoleService -Path $folder -DatabaseOnly -Force -Confirm:$false }
    $before = Test-Path -Path $key
    Start-Authority
    [ordered]@{ 'Restore-CARoleService' = $restored; 'before the start' = $before; 'after it' = Test-Path -Path $key }
}

Save-Answer '14. Are the CRLs of an older root published when it is not in Root?' {
    $oldest = @((Get-ItemProperty -Path "$configuration\$active").CACertHash)[0] -replace '[^0-9A-Fa-f]', ''
    $place = "Cert:\LocalMachine\Root\$oldest"
    $enroll = Join-Path -Path $env:SystemRoot -ChildPath 'System32\CertSrv\CertEnroll'
    $there = Test-Path -Path $place
    if ($there) { Remove-Item -Path $place }
    try {
        Restart-Service -Name CertSvc -Force
        Start-Authority
        $since = Get-Date
        $published = Invoke-Certutil -Argument '-CRL' -Seconds 300
        [ordered]@{
            'it was there' = $there; 'certutil -CRL' = $published
            'CRLs written' = @(Get-ChildItem -Path $enroll -Filter '*.crl' | Where-Object { $_.LastWriteTime -ge $since } | ForEach-Object { $_.Name })
        }
    }
    finally { $null = Get-Item -Path "Cert:\LocalMachine\My\$oldest" | Export-Certificate -FilePath (Join-Path -Path $base -ChildPath 'oldest.cer') |
            Import-Certificate -CertStoreLocation Cert:\LocalMachine\Root }
}

Save-Answer '15. What are provider, KeySpec and container after Import-PfxCertificate?' {
    $newest = @((Get-ItemProperty -Path "$configuration\$active").CACertHash)[-1] -replace '[^0-9A-Fa-f]', ''
    $file = Join-Path -Path (New-Folder) -ChildPath 'newest.p12'
    $null = Export-PfxCertificate -Cert "Cert:\LocalMachine\My\$newest" -FilePath $file -Password (ConvertTo-Secure $plain) -ChainOption EndEntityCertOnly
    $before = & $certutil -v -store My $newest | Select-String -Pattern 'Provider|KeySpec|Container' | ForEach-Object { "$_".Trim() }
    $imported = Invoke-Try { Import-PfxCertificate -FilePath $file -CertStoreLocation Cert:\LocalMachine\My -Password (ConvertTo-Secure $plain) -Exportable }
    $after = & $certutil -v -store My $newest | Select-String -Pattern 'Provider|KeySpec|Container' | ForEach-Object { "$_".Trim() }
    [ordered]@{ before = @($before); imported = $imported; after = @($after) }
}

Save-Answer '16. What does -installCert do while the CRL of the CA above is offline, with -silent and with -f?' {
    [ordered]@{ 'not asked' = 'this CA is a root; the job for a subordinate of the same workflow asks it (ask-installcert.ps1, installcert.json)' }
}

Save-Answer '17. What does the CA say of its own certificate?' {
    [ordered]@{
        'certutil -CAInfo certstatuscode 0' = (& $certutil -CAInfo certstatuscode 0 | Out-String).Trim()
        'after a start that succeeded' = Get-CimInstance -ClassName Win32_Service -Filter "Name='CertSvc'" | Select-Object -Property ExitCode, ServiceSpecificExitCode
    }
}

Save-Answer '18. Does -importCert need -f for a certificate that no request waits for?' {
    [ordered]@{ 'not asked' = 'every certificate of this CA has its row' }
}

Save-Answer '19. What does -sign make of the number of a CRL, and what of a certificate without the service?' {
    $newest = @((Get-ItemProperty -Path "$configuration\$active").CACertHash)[-1] -replace '[^0-9A-Fa-f]', ''
    $enroll = Join-Path -Path $env:SystemRoot -ChildPath 'System32\CertSrv\CertEnroll'
    $old = @(Get-ChildItem -Path $enroll -Filter '*.crl' | Where-Object { $_.Name -notlike '*+.crl' } | Sort-Object -Property LastWriteTime)[-1].FullName
    $new = Join-Path -Path $base -ChildPath 'signed.crl'
    Stop-Service -Name CertSvc -Force
    try { $signed = Invoke-Certutil -Argument '-silent', '-cert', $newest, '-sign', $old, $new, 'now+30:00' } finally { Start-Authority }
    [ordered]@{
        'certutil -sign' = $signed
        'before' = (& $certutil -dump $old | Out-String)
        'after' = if (Test-Path -Path $new) { (& $certutil -dump $new | Out-String) } else { $null }
    }
}

Save-Answer '20. When does the CA publish by itself after certutil -CRL 90:00?' {
    $read = { $one = Get-ItemProperty -Path "$configuration\$active"; "$($one.CRLPeriod) $($one.CRLPeriodUnits) $([BitConverter]::ToString([byte[]]$one.CRLNextPublish))" }
    [ordered]@{ before = & $read; 'certutil -CRL 90:00' = Invoke-Certutil -Argument '-CRL', '90:00' -Seconds 300; after = & $read }
}

Save-Answer '12. Which certificate of a .p12 does -CertFile take?' {
    $folder = New-Folder
    Backup-CARoleService -Path $folder -KeyOnly -Password (ConvertTo-Secure $plain)
    $hashes = @((Get-ItemProperty -Path "$configuration\$active").CACertHash)
    $null = & (Join-Path -Path ([IO.Path]::GetDirectoryName($PSCommandPath)) -ChildPath 'destroy.ps1')
    $file = @(Get-Bundle $folder)[0]
    $installed = Invoke-Try {
        $parameters = @{ CAType = 'StandaloneRootCA'; CertFile = $file; CertFilePassword = (ConvertTo-Secure $plain); OverwriteExistingDatabase = $true }
        Install-AdcsCertificationAuthority @parameters -Force
    }
    $there = Get-ItemProperty -Path $configuration -Name Active -ErrorAction SilentlyContinue
    $first = if ($there) { @((Get-ItemProperty -Path "$configuration\$($there.Active)").CACertHash) } else { @() }
    $again = Invoke-Try {
        Uninstall-AdcsCertificationAuthority -Force
        Install-AdcsCertificationAuthority -CAType StandaloneRootCA -CertificateID ($hashes[-1] -replace '[^0-9A-Fa-f]', '') -OverwriteExistingDatabase -Force
    }
    [ordered]@{
        'CACertHash of the CA that was backed up' = $hashes
        'Install-AdcsCertificationAuthority -CertFile' = $installed
        'CACertHash then' = $first
        'Install-AdcsCertificationAuthority -CertificateID' = $again
        'CACertHash after that' = if ($there) { @((Get-ItemProperty -Path "$configuration\$($there.Active)").CACertHash) } else { @() }
        'in the store My, with a key' = @(Get-ChildItem -Path Cert:\LocalMachine\My | Where-Object { $_.HasPrivateKey } | ForEach-Object { $_.Thumbprint })
        'service' = [string](Get-Service -Name CertSvc).Status
    }
}

Remove-Item -Path $base -Recurse -Force
