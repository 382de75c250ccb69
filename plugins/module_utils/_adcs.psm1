# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to keyward.pki: what its Windows modules share; may change in any release.

#AnsibleRequires -CSharpUtil Ansible.Basic

# The argument spec of every win_ca_ module but win_ca_store, as a hashtable.
function Get-AdcsArgumentSpec { throw 'not written yet' }

# -> {Module: AnsibleModule, Parameters: its parameters, Request: hashtable | $null, Check: bool}. -Spec: win_ca_store's own (no request then).
function Start-AdcsModule { param([string]$Name, [object[]]$Arguments, [hashtable]$Spec) throw 'not written yet' }

# FailJson("What: Why. Remedy"). Does not return.
function Stop-AdcsModule { param([object]$Module, [string]$What, [string]$Why, [string]$Remedy, [switch]$NothingThere) throw 'not written yet' }

# Runs -Work (a script block that returns the answer: one hashtable), puts the answer into Result and exits; an error thrown in it becomes FailJson.
#     $session = Start-AdcsModule -Name ca_info -Arguments $args
#     Complete-AdcsModule -Session $session -Work { Get-AdcsAuthority -Parameters $session.Parameters }
function Complete-AdcsModule { param([object]$Session, [scriptblock]$Work) throw 'not written yet' }

# The facts as an ordered dictionary (keys changed, authority, generations, database, pending_request, adcs, advisories).
function Get-AdcsAuthority { param([System.Collections.IDictionary]$Parameters, [switch]$AllowRestoreInProgress) throw 'not written yet' }

# An exception to throw: throw (New-AdcsError -What .. -Why .. -Remedy ..). -Code "0x........" when the cause has one.
function New-AdcsError { param([string]$What, [string]$Why, [string]$Remedy, [switch]$NothingThere, [string]$Code) throw 'not written yet' }

# "0x8009000B" (upper case) or $null. Takes an ErrorRecord or an Exception.
function Get-AdcsHResult { param([object]$ErrorRecord) throw 'not written yet' }

# {Why, Remedy} of a code "0x........"; for an unknown one a Why that names it.
function Get-AdcsErrorText { param([string]$Code) throw 'not written yet' }

# -> {ExitCode: int, Output: string, ErrorOutput: string, Code: "0x........" | $null, TimedOut: bool}. Throws when it can't be started, and, without
# -AllowFailure, on a timeout and on an exit code other than 0. -What: the first part of the error ("the CRL can't be published").
function Invoke-AdcsProgram {
    param([string]$FilePath, [string[]]$ArgumentList, [int]$TimeoutSeconds, [string]$What, [switch]$AllowFailure) throw 'not written yet'
}

# -> what the cmdlet puts out (live objects). Throws the three-part error on a timeout, on an error of the cmdlet (ErrorAction Stop; its code in
# Exception.Data['Code']) and where the cmdlet doesn't exist. Either -Command and -Parameters or -ScriptBlock and -Parameters (its param() names).
function Invoke-AdcsCmdlet {
    param([string]$Command, [scriptblock]$ScriptBlock, [hashtable]$Parameters, [int]$TimeoutSeconds, [string]$What) throw 'not written yet'
}

# The full path of a new, empty directory keyward-<32 hex> below -Parent (default <SystemRoot>\Temp) or exactly -Path, open to SYSTEM and Administrators only.
function New-AdcsProtectedDirectory { param([string]$Parent, [string]$Path) throw 'not written yet' }

# Removes it with everything in it; throws an error that names it when that fails.
function Remove-AdcsDirectory { param([string]$Path) throw 'not written yet' }

# A SecureString; throws when the text is empty.
function New-AdcsSecureString { param([string]$Text) throw 'not written yet' }

# Throws where CertSvc is a resource of a failover cluster.
function Assert-AdcsNotClustered { param([string]$What) throw 'not written yet' }

# The X509Certificate2 in Cert:\LocalMachine\My, or $null.
function Get-AdcsCertificate { param([string]$Thumbprint) throw 'not written yet' }

# PEM with line feeds, and one at the end.
function ConvertTo-AdcsPem { param([byte[]]$Content, [string]$Label = 'CERTIFICATE') throw 'not written yet' }

# Lower case hex SHA-256 of a file.
function Get-AdcsFileDigest { param([string]$Path) throw 'not written yet' }

# {files: [{name, content, generations}], not_exportable: [{thumbprint, code, provider}]}: each certificate with its key as a file of its own.
function Export-AdcsGeneration { param([string[]]$Thumbprint, [string]$Password) throw 'not written yet' }

# Carries out the restore request of ca_key_restore: {changed, restored, set_aside, trial, not_exportable}.
function Import-AdcsBundle { param([System.Collections.IDictionary]$Request, [switch]$Check) throw 'not written yet' }

Export-ModuleMember -Function @(
    'Get-AdcsArgumentSpec', 'Start-AdcsModule', 'Stop-AdcsModule', 'Complete-AdcsModule', 'Get-AdcsAuthority', 'New-AdcsError', 'Get-AdcsHResult'
    'Get-AdcsErrorText', 'Invoke-AdcsProgram', 'Invoke-AdcsCmdlet', 'New-AdcsProtectedDirectory', 'Remove-AdcsDirectory', 'New-AdcsSecureString'
    'Assert-AdcsNotClustered', 'Get-AdcsCertificate', 'ConvertTo-AdcsPem', 'Get-AdcsFileDigest', 'Export-AdcsGeneration', 'Import-AdcsBundle'
)
