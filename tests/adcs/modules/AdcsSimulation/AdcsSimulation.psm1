# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The service cmdlets, access control lists, and the drives HKLM: and Cert:, which the first of these commands mounts.

. (Join-Path (Split-Path $PSScriptRoot) Simulation.ps1)

function New-NoService {
    param([string]$Name)
    $exception = [InvalidOperationException]::new("Cannot find any service with service name '$Name'.")
    [Management.Automation.ErrorRecord]::new($exception, 'NoServiceFoundForGivenName', 'ObjectNotFound', $Name)
}

function Test-CertSvc {
    param([string]$Name)
    $switch = (Get-SimulationState switches.json).PSObject.Properties['feature']
    $Name -eq 'CertSvc' -and -not ($switch -and $switch.Value -ne 'present')
}

function Get-Service {
    [CmdletBinding()]
    param([Parameter(Mandatory = $true, Position = 0, ValueFromPipeline = $true)][Alias('ServiceName')][string[]]$Name)
    process {
        foreach ($each in $Name) {
            if (Test-CertSvc $each) { [Keyward.Adcs.Service]::new() } else { $PSCmdlet.WriteError((New-NoService $each)) }
        }
    }
}

function New-Object {
    # Windows has COM objects; of these the CA's administration interface.
    [CmdletBinding(DefaultParameterSetName = 'Net')]
    param(
        [Parameter(Mandatory = $true, Position = 0, ParameterSetName = 'Net')][string]$TypeName,
        [Parameter(Position = 1, ParameterSetName = 'Net')][object[]]$ArgumentList,
        [Parameter(Mandatory = $true, ParameterSetName = 'Com')][string]$ComObject,
        [System.Collections.IDictionary]$Property
    )
    if (-not $ComObject) {
        # As the cmdlet puts it out: in parentheses a collection would come out element by element.
        Microsoft.PowerShell.Utility\New-Object @PSBoundParameters
        return
    }
    if ($ComObject -ne 'CertificateAuthority.Admin') { throw "$ComObject is not simulated" }
    $admin = [pscustomobject]@{ Invocation = $MyInvocation }
    $admin | Add-Member -MemberType ScriptMethod -Name RevokeCertificate -Value {
        param([string]$Config, [string]$Serial, [int]$Reason, [DateTime]$At)
        # DATE knows no time zone: what is given is taken as UTC.
        $when = $At.ToString("yyyy-MM-dd'T'HH:mm:ss+00:00", [Globalization.CultureInfo]::InvariantCulture)
        $null = Invoke-Simulation $this.Invocation @{ Config = $Config; Serial = $Serial; Reason = $Reason; At = $when }
    }
    $admin
}

function Get-CimInstance {
    [CmdletBinding()]
    param([Parameter(Mandatory = $true, Position = 0)][string]$ClassName, [string]$Filter)
    if ($ClassName -eq 'Win32_ComputerSystem') {
        $switch = (Get-SimulationState switches.json).PSObject.Properties['domain']
        return [pscustomobject]@{ PartOfDomain = [bool]($switch -and $switch.Value) }
    }
    if ($ClassName -ne 'Win32_Service' -or $Filter -ne "Name='CertSvc'") { throw "$ClassName is not simulated" }
    if (-not (Test-CertSvc 'CertSvc')) { return }
    $code = [long](Get-SimulationState machine.json).exit_code
    $windows = ($code -band 0xFFFF0000L) -eq 0x80070000L
    [pscustomobject]@{
        Name = 'CertSvc'
        # ERROR_SERVICE_SPECIFIC_ERROR: the service's own code is the other one.
        ExitCode = [uint32]$(if ($windows) { $code -band 0xFFFF } elseif ($code) { 1066 } else { 0 })
        ServiceSpecificExitCode = [uint32]$(if ($windows) { 0 } else { $code })
    }
}

function Start-Service {
    [CmdletBinding(SupportsShouldProcess = $true, DefaultParameterSetName = 'Name')]
    param(
        [Parameter(Mandatory = $true, Position = 0, ParameterSetName = 'Name')][Alias('ServiceName')][string]$Name,
        [Parameter(Mandatory = $true, ParameterSetName = 'Object', ValueFromPipeline = $true)][object]$InputObject,
        [switch]$PassThru
    )
    process {
        if ($InputObject) { $Name = $InputObject.Name }
        if (-not (Test-CertSvc $Name)) { $PSCmdlet.WriteError((New-NoService $Name)); return }
        if (-not $PSCmdlet.ShouldProcess($Name)) { return }
        try { $null = Invoke-Simulation $MyInvocation @{} }
        catch {
            # Windows PowerShell knows only that the service didn't come up; a service-specific code is there when Windows passes it on.
            $cause = if ((Get-SimulationState switches.json).PSObject.Properties['start_error'].Value -eq 'hidden') { $null } else { $_.Exception }
            $failed = [InvalidOperationException]::new("Failed to start service 'Active Directory Certificate Services (CertSvc)'.", $cause)
            $PSCmdlet.WriteError([Management.Automation.ErrorRecord]::new($failed, 'StartServiceFailed', 'OpenError', $Name))
        }
        if ($PassThru) { [Keyward.Adcs.Service]::new() }
    }
}

function Stop-Service {
    [CmdletBinding(SupportsShouldProcess = $true, DefaultParameterSetName = 'Name')]
    param(
        [Parameter(Mandatory = $true, Position = 0, ParameterSetName = 'Name')][Alias('ServiceName')][string]$Name,
        [Parameter(Mandatory = $true, ParameterSetName = 'Object', ValueFromPipeline = $true)][object]$InputObject,
        [switch]$Force, [switch]$NoWait, [switch]$PassThru
    )
    process {
        if ($InputObject) { $Name = $InputObject.Name }
        if (-not (Test-CertSvc $Name)) { $PSCmdlet.WriteError((New-NoService $Name)); return }
        if ($PSCmdlet.ShouldProcess($Name)) { $null = Invoke-Simulation $MyInvocation @{} }
        if ($PassThru) { [Keyward.Adcs.Service]::new() }
    }
}

function Restart-Service {
    [CmdletBinding(SupportsShouldProcess = $true)]
    param([Parameter(Mandatory = $true, Position = 0)][string]$Name, [switch]$Force)
    Stop-Service -Name $Name -Force
    Start-Service -Name $Name
}

function Get-Acl {
    [CmdletBinding()]
    param([Parameter(Position = 0)][string]$Path, [string]$LiteralPath, [switch]$Audit)
    $place = if ($LiteralPath) { $LiteralPath } else { $Path }
    if (-not (Test-Path -LiteralPath $place)) {
        $missing = [Management.Automation.ItemNotFoundException]::new("Cannot find path '$place' because it does not exist.")
        $PSCmdlet.ThrowTerminatingError([Management.Automation.ErrorRecord]::new($missing, 'GetAcl_PathNotFound_Exception', 'ObjectNotFound', $place))
    }
    [Keyward.Adcs.FileSystemSecurity]::Of($place)
}

function Set-Acl {
    [CmdletBinding(SupportsShouldProcess = $true)]
    param([Parameter(Position = 0)][string]$Path, [string]$LiteralPath, [Parameter(Mandatory = $true, Position = 1)][object]$AclObject)
    $place = if ($LiteralPath) { $LiteralPath } else { $Path }
    Write-SimulationRecord $MyInvocation
    if ($PSCmdlet.ShouldProcess($place)) { $AclObject.Put((Convert-Path -LiteralPath $place)) }
}

Import-Module -Assembly (Import-SimulationAssembly providers.cs) -Global
