# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What every module of the simulation needs: the way to simulation.py (run.py), and errors as Windows raises them.

function Write-SimulationRecord {
    param([System.Management.Automation.InvocationInfo]$Invocation)
    $parameters = @{}
    foreach ($name in $Invocation.BoundParameters.Keys) {
        $value = $Invocation.BoundParameters[$name]
        $parameters[$name] = if ($value -is [securestring]) { 'SecureString' } elseif ($value -is [switch]) { [bool]$value } else { "$value" }
    }
    $line = @{ cmdlet = $Invocation.MyCommand.Name; parameters = $parameters } | ConvertTo-Json -Compress
    [IO.File]::AppendAllText((Join-Path $env:KEYWARD_ADCS_STATE 'log.jsonl'), $line + "`n")
}

function Get-SimulationState {
    param([string]$Name)
    $path = Join-Path $env:KEYWARD_ADCS_STATE $Name
    if ([IO.File]::Exists($path)) { [IO.File]::ReadAllText($path) | ConvertFrom-Json } else { [pscustomobject]@{} }
}

function Wait-SimulationHang {
    param([string]$Name)
    if ((Get-SimulationState switches.json).PSObject.Properties['hangs'].Value -contains $Name) { Start-Sleep -Seconds 3600 }
}

function New-SimulationException {
    param([int]$Code, [string]$Message)
    if ($Code -eq 0) { return [InvalidOperationException]::new($Message) }
    $how = (Get-SimulationState switches.json).PSObject.Properties['exceptions'].Value
    # Code & 0xFFFF of an HRESULT of FACILITY_WIN32; the others keep their whole number.
    if ($how -eq 'win32') {
        return [ComponentModel.Win32Exception]::new($(if (($Code -band 0x7fff0000) -eq 0x00070000) { $Code -band 0xffff } else { $Code }), $Message)
    }
    $exception = [Runtime.InteropServices.COMException]::new($Message, $Code)
    if ($how -eq 'wrapped') { return [Exception]::new($Message, $exception) }
    $exception
}

# A C# file of the simulation, compiled once for all tests.
function Import-SimulationAssembly {
    param([string]$Name)
    $source = [IO.Path]::GetFullPath((Join-Path $PSScriptRoot "../$Name"))
    $digest = [Security.Cryptography.SHA256]::HashData([IO.File]::ReadAllBytes($source))
    $version = [Convert]::ToHexString($digest).Substring(0, 16)
    $assembly = Join-Path $env:KEYWARD_ADCS_CACHE "$([IO.Path]::GetFileNameWithoutExtension($Name))-$version.dll"
    if (-not [IO.File]::Exists($assembly)) {
        $null = [IO.Directory]::CreateDirectory($env:KEYWARD_ADCS_CACHE)
        $new = Join-Path $env:KEYWARD_ADCS_CACHE "$([guid]::NewGuid().ToString('N')).dll"
        Add-Type -Path $source -OutputAssembly $new
        [IO.File]::Move($new, $assembly, $true)
    }
    [Reflection.Assembly]::LoadFrom($assembly)
}

# A request in JSON to run.py: by way of the host's server, or of a process of its own. The answer is JSON.
function Send-SimulationRequest {
    param([string]$Request)
    $socket = [Net.Sockets.Socket]::new('Unix', 'Stream', 'Unspecified')
    $socket.Connect([Net.Sockets.UnixDomainSocketEndPoint]::new($env:KEYWARD_ADCS_SERVER))
    $stream = [Net.Sockets.NetworkStream]::new($socket, $true)
    try {
        $content = [Text.Encoding]::UTF8.GetBytes("call`0$Request")
        $stream.Write([BitConverter]::GetBytes([Net.IPAddress]::HostToNetworkOrder($content.Length)))
        $stream.Write($content)
        [IO.StreamReader]::new($stream).ReadToEnd()
    }
    finally { $stream.Dispose() }
}

function Start-SimulationProcess {
    param([string]$Request)
    $start = [Diagnostics.ProcessStartInfo]::new($env:KEYWARD_ADCS_PYTHON)
    $start.ArgumentList.Add([IO.Path]::GetFullPath((Join-Path $PSScriptRoot '../run.py')))
    $start.ArgumentList.Add('call')
    $start.RedirectStandardInput = $start.RedirectStandardOutput = $true
    $process = [Diagnostics.Process]::Start($start)
    $process.StandardInput.Write($Request)
    $process.StandardInput.Close()
    $process.StandardOutput.ReadToEnd()
    $process.WaitForExit()
}

# The result of a call of simulation.py; a failure is thrown as an ErrorRecord's exception would be by the cmdlet.
function Invoke-Simulation {
    param([System.Management.Automation.InvocationInfo]$Invocation, [hashtable]$Parameters)
    Write-SimulationRecord $Invocation
    Wait-SimulationHang $Invocation.MyCommand.Name
    $given = @{}
    foreach ($name in $Parameters.Keys) {
        $value = $Parameters[$name]
        if ($value -is [switch]) { $given[$name] = [bool]$value }
        elseif ($value -is [securestring]) { $given[$name] = [Net.NetworkCredential]::new('', $value).Password }
        else { $given[$name] = $value }
    }
    $request = @{ state = $env:KEYWARD_ADCS_STATE; command = $Invocation.MyCommand.Name; parameters = $given } | ConvertTo-Json -Compress -Depth 5
    $output = if ($env:KEYWARD_ADCS_SERVER) { Send-SimulationRequest $request } else { Start-SimulationProcess $request }
    $answer = $output | ConvertFrom-Json
    if (-not $answer -or $answer.PSObject.Properties['broken']) { throw "the simulation broke: $($answer.broken)" }
    if ($answer.PSObject.Properties['code']) {
        # A 64-bit number in JSON; the cast keeps its bits.
        throw (New-SimulationException ([BitConverter]::ToInt32([BitConverter]::GetBytes([long]$answer.code), 0)) $answer.message)
    }
    $answer.result
}
