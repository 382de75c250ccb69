#!powershell

# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_keys

$session = Start-AdcsModule -Name ca_key_restore -Arguments $args
Complete-AdcsModule -Session $session -Work {
    if ($session.Request['order'] -eq 'import_keys') { return Import-AdcsKey -Session $session }
    Get-AdcsAuthority -Parameters $session.Parameters
}
