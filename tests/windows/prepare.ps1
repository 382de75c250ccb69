# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
<#
.SYNOPSIS
    Makes a throw-away machine reachable for Ansible: a local administrator of this run, and WinRM. Windows PowerShell 5.1, elevated.
.PARAMETER Account
    The file that gets the account's name and password, and then every IPv4 address of this machine, one a line.
#>
param([Parameter(Mandatory = $true)][string]$Account)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$random = New-Object -TypeName byte[] -ArgumentList 24
$generator = [Security.Cryptography.RandomNumberGenerator]::Create()
$generator.GetBytes($random)
# The last characters are for the password policy.
$password = [Convert]::ToBase64String($random).Replace('+', 'x').Replace('/', 'y') + 'aA1!'
# GitHub hides it wherever it is printed after this line; nothing here prints it.
"::add-mask::$password"
$secure = New-Object -TypeName System.Security.SecureString
foreach ($character in $password.ToCharArray()) { $secure.AppendChar($character) }
$null = New-LocalUser -Name keyward -Password $secure -PasswordNeverExpires -AccountNeverExpires
Add-LocalGroupMember -SID S-1-5-32-544 -Member keyward
# Which of them WSL reaches depends on its version and its network.
$addresses = @(Get-NetIPAddress -AddressFamily IPv4 | ForEach-Object { $_.IPAddress })
[IO.File]::WriteAllText($Account, (@('keyward', $password) + $addresses -join "`n") + "`n")

Enable-PSRemoting -Force -SkipNetworkProfileCheck
# A local administrator that comes over the network gets its whole token.
$policies = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'
$null = New-ItemProperty -Path $policies -Name LocalAccountTokenFilterPolicy -PropertyType DWord -Value 1 -Force
# The controller comes from the virtual network of WSL, whose own firewall no rule of a profile opens. Nobody else reaches a machine of one run.
Set-NetFirewallProfile -All -Enabled False
Get-Service -Name WinRM | Format-List -Property Name, Status
