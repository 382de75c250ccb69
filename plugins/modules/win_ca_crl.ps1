#!powershell

# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell ..module_utils._adcs_frame
#AnsibleRequires -PowerShell ..module_utils._adcs_authority
#AnsibleRequires -PowerShell ..module_utils._adcs_crl

$session = Start-AdcsModule -Name ca_crl -Arguments $args
Complete-AdcsModule -Session $session -Work {
    $request = $session.Request
    if ($request['order'] -eq 'sign_drafts') { return @{ signatures = @(Get-AdcsSignature @($request['drafts'])) } }
    if ($request['order'] -eq 'sign_again') { return Get-AdcsSignedAgain -Session $session }
    $due = @($request['sign'] | Where-Object { $_ }).Count -gt 0
    if ($due) { Publish-AdcsCrl -Session $session }
    $answer = Get-AdcsAuthority -Parameters $session.Parameters
    $answer['changed'] = $due
    $answer['crls'] = @(if (-not $request['scratch']) { Get-AdcsCrl -Facts $answer })
    $answer
}
