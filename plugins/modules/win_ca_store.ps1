#!powershell

# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_store

$spec = @{
    options = @{
        path = @{ type = 'path'; required = $true }
        kind = @{ type = 'str'; required = $true; choices = @('keys', 'databases', 'passwords') }
        owner = @{ type = 'str' }
        group = @{ type = 'str' }
        mode = @{ type = 'str' }
        share_permissions = @{ type = 'str'; choices = @('accepted') }
        host = @{ type = 'bool'; default = $false }
    }
    supports_check_mode = $true
}
$session = Start-AdcsModule -Name ca_store -Arguments $args -Spec $spec
Complete-AdcsModule -Session $session -Work { Initialize-AdcsStore -Parameters $session.Parameters -Check:$session.Check }
