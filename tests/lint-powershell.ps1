# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
<#
.SYNOPSIS
    Refuses PowerShell files that don't parse, or that use what Windows PowerShell 5.1 doesn't know. The product runs under it.
.DESCRIPTION
    It reads the parser's own tree. What it can't see, such as .NET methods that came later, only a run on Windows shows.
.PARAMETER Path
    Files and directories; the default is the whole collection. What only runs in the simulation (tests/adcs) must parse, no more.
.EXAMPLE
    pwsh -NoProfile -File tests/lint-powershell.ps1
#>
param([string[]]$Path = @())
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$root = [IO.Path]::GetDirectoryName([IO.Path]::GetDirectoryName([IO.Path]::GetFullPath($PSCommandPath)))
if (-not $Path.Count) { $Path = @('plugins', 'roles', 'tests' | ForEach-Object { [IO.Path]::Combine($root, $_) }) }
$simulation = [IO.Path]::Combine($root, 'tests', 'adcs') + [IO.Path]::DirectorySeparatorChar

# Parameters and whole cmdlets (*) of the standard modules that came after 5.1.
$laterParameters = @{
    'ConvertFrom-Json' = 'AsHashtable', 'DateKind', 'Depth', 'NoEnumerate'
    'ConvertFrom-SecureString' = @('AsPlainText')
    'ConvertTo-Json' = 'AsArray', 'EnumsAsStrings', 'EscapeHandling'
    'ForEach-Object' = 'Parallel', 'ThrottleLimit', 'AsJob', 'TimeoutSeconds', 'UseNewRunspace'
    'Get-Content' = @('AsByteStream')
    'Get-Date' = 'AsUTC', 'UnixTimeSeconds'
    'Get-Error' = @('*')
    'Invoke-RestMethod' = 'SkipCertificateCheck', 'SkipHttpErrorCheck', 'StatusCodeVariable'
    'Invoke-WebRequest' = 'SkipCertificateCheck', 'SkipHttpErrorCheck'
    'Join-Path' = 'AdditionalChildPath', 'Extension'
    'Join-String' = @('*')
    'Remove-Service' = @('*')
    'Select-Object' = @('SkipIndex')
    'Set-Content' = @('AsByteStream')
    'Sort-Object' = 'Bottom', 'Stable', 'Top'
    'Split-Path' = 'Extension', 'LeafBase'
    'Start-Process' = @('Environment')
    'Test-Json' = @('*')
}
$laterVariables = 'IsCoreCLR', 'IsLinux', 'IsMacOS', 'IsWindows', 'PSStyle'

# The nodes of a tree that may hold something newer; the rest, most of them, are passed over.
$mayBeLater = @{}
foreach ($name in 'AssignmentStatementAst', 'BinaryExpressionAst', 'CommandAst', 'IndexExpressionAst', 'InvokeMemberExpressionAst',
    'MemberExpressionAst', 'NamedBlockAst', 'PipelineAst', 'PipelineChainAst', 'TernaryExpressionAst', 'VariableExpressionAst') { $mayBeLater[$name] = $true }

function Find-Later {
    # What 5.1 does not know in one node of a tree: texts.
    param([object]$Node, [string]$Kind)
    switch ($Kind) {
        { $_ -in 'IndexExpressionAst', 'InvokeMemberExpressionAst', 'MemberExpressionAst' } {
            if ($Node.PSObject.Properties['NullConditional'] -and $Node.NullConditional) { '?. and ?[] came with 7.1' }
        }
        'TernaryExpressionAst' { 'the ternary operator came with 7.0' }
        'PipelineChainAst' { '&& and || came with 7.0' }
        'BinaryExpressionAst' { if ("$($Node.Operator)" -like 'QuestionQuestion*') { '?? came with 7.0' } }
        'AssignmentStatementAst' { if ("$($Node.Operator)" -like 'QuestionQuestion*') { '??= came with 7.0' } }
        'PipelineAst' { if ($Node.Background) { 'the background operator & came with 6.0' } }
        'NamedBlockAst' { if ("$($Node.BlockKind)" -eq 'Clean') { 'the block clean came with 7.3' } }
        'VariableExpressionAst' {
            if ($laterVariables -contains $Node.VariablePath.UserPath) { "`$$($Node.VariablePath.UserPath) does not exist in 5.1" }
        }
        'CommandAst' {
            $name = $Node.GetCommandName()
            if ($name -and $laterParameters.ContainsKey($name)) {
                if ($laterParameters[$name] -contains '*') { "$name does not exist in 5.1" }
                foreach ($element in $Node.CommandElements) {
                    if ($element.GetType().Name -eq 'CommandParameterAst' -and $laterParameters[$name] -contains $element.ParameterName) {
                        "$name -$($element.ParameterName) does not exist in 5.1"
                    }
                }
                # Join-Path a b c: the third positional argument is AdditionalChildPath.
                if ($name -eq 'Join-Path') {
                    $positional = @($Node.CommandElements | Select-Object -Skip 1)
                    $named = @($positional | Where-Object { $_.GetType().Name -eq 'CommandParameterAst' })
                    if (-not $named.Count -and $positional.Count -gt 2) { 'Join-Path with more than two parts does not exist in 5.1' }
                }
            }
        }
    }
}

$files = @(foreach ($one in $Path) {
        if ([IO.Directory]::Exists($one)) {
            foreach ($pattern in '*.ps1', '*.psm1') { [IO.Directory]::GetFiles($one, $pattern, [IO.SearchOption]::AllDirectories) }
        }
        elseif ([IO.File]::Exists($one)) { [IO.Path]::GetFullPath($one) }
        elseif ($PSBoundParameters.ContainsKey('Path')) { throw "$one does not exist" }
    })
$found = 0
foreach ($file in ($files | Sort-Object)) {
    $tokens, $errors = $null, $null
    $tree = [System.Management.Automation.Language.Parser]::ParseFile($file, [ref]$tokens, [ref]$errors)
    $faults = @(foreach ($fault in $errors) { [PSCustomObject]@{ Line = $fault.Extent.StartLineNumber; Text = $fault.Message } })
    if (-not $file.StartsWith($simulation)) {
        $faults += @(foreach ($node in $tree.FindAll({ $true }, $true)) {
                $kind = $node.GetType().Name
                if (-not $mayBeLater.ContainsKey($kind)) { continue }
                foreach ($text in @(Find-Later $node $kind)) { [PSCustomObject]@{ Line = $node.Extent.StartLineNumber; Text = $text } }
            })
        if ([regex]::IsMatch([IO.File]::ReadAllText($file), '[^\x00-\x7F]')) {
            $faults += [PSCustomObject]@{ Line = 1; Text = 'it is not plain ASCII: 5.1 reads a file without a mark in the code page of the system' }
        }
    }
    foreach ($fault in $faults) {
        $found++
        "${file}:$($fault.Line): $($fault.Text)"
    }
}
if (-not $files.Count) { throw 'no PowerShell file was found' }
if ($found) { exit 1 }
