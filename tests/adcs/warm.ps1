# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Serves requests on a socket until the process that started it is gone.
param([string]$Socket)
$ErrorActionPreference = 'Stop'
. (Join-Path $PSScriptRoot modules/Simulation.ps1)
$null = Import-SimulationAssembly warm.cs
[Keyward.Adcs.Warm]::Serve($Socket)
# Threads of what a request left behind keep nothing alive.
[Environment]::Exit(0)
