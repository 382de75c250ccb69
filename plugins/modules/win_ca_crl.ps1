#!powershell

# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell ..module_utils._adcs

$session = Start-AdcsModule -Name ca_crl -Arguments $args
Complete-AdcsModule -Session $session -Work {
    if ($session.Request['sign']) { return @{ signatures = @(Get-AdcsSignature @($session.Request['sign'])) } }
    $answer = Get-AdcsAuthority -Parameters $session.Parameters
    if ($session.Request['publish']) {
        $answer['changed'] = $true
        if (-not $session.Check) { Publish-AdcsCrl }
    }
    $answer['crls'] = @(Get-AdcsCrl)
    $answer['undecided'] = -not $session.Request['publish']
    $answer
}
