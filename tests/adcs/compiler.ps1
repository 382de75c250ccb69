# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Follows core's Add-CSharpType in the file that modules get. What core compiles of a source is kept for all processes: it takes a second.

$compile = ${function:Add-CSharpType}

function Add-CSharpType {
    param([string[]]$References, [object]$AnsibleModule)
    # A warm PowerShell has names for the sources.
    if ('Keyward.Adcs.Warm' -as [type]) { $References = [Keyward.Adcs.Warm]::Texts($References) }
    $from = ($References + "$compile" + $PSVersionTable.PSVersion) -join "`0"
    $digest = [Security.Cryptography.SHA256]::HashData([Text.Encoding]::UTF8.GetBytes($from))
    $kept = Join-Path $env:KEYWARD_ADCS_CACHE "compiled-$([Convert]::ToHexString($digest).Substring(0, 16)).dll"
    if ([IO.File]::Exists($kept)) { $null = [Runtime.Loader.AssemblyLoadContext]::Default.LoadFromAssemblyPath($kept) }
    else { & $compile -References $References -AnsibleModule $AnsibleModule }
}
