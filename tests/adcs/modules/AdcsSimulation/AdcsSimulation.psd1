# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
@{
    ModuleVersion = '1.0'
    GUID = '5f1de9b6-3a0f-4c0e-8f52-6a7f3d1f0b01'
    RootModule = 'AdcsSimulation.psm1'
    FunctionsToExport = @('Get-Acl', 'Get-CimInstance', 'Get-Service', 'New-Object', 'Set-Acl', 'Start-Service', 'Stop-Service', 'Restart-Service')
    CmdletsToExport = @()
    AliasesToExport = @()
    VariablesToExport = @()
}
