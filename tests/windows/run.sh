#!/usr/bin/env bash
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs plays of this directory against the Windows machine around this WSL.
# Usage: run.sh ACCOUNT PLAY...   or   run.sh --collect FOLDER     CA_SHELL and CA_KEY_TYPE say with which shell and key.
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")" && pwd)
export CA_WORK=$HOME/keyward
venv=$CA_WORK/venv

if [ "$1" = --collect ]; then
  # The password stays where it is.
  mkdir -p "$2"
  for name in keys databases record; do
    if [ -d "$CA_WORK/$name" ]; then cp -r --no-preserve=mode "$CA_WORK/$name" "$2/"; fi
  done
  exit 0
fi

account=$1
shift
{ read -r CA_USER && read -r CA_PASSWORD; } < <(tr -d '\r' < "$account")
export CA_USER CA_PASSWORD

if [ ! -d "$venv" ]; then
  mkdir -p "$CA_WORK/collections" "$CA_WORK/record"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip --disable-pip-version-check install --quiet -r "$here/requirements.txt"
  openssl rand -base64 30 > "$CA_WORK/password"
  "$venv/bin/ansible-galaxy" collection build --output-path "$CA_WORK" "$here/../.." > /dev/null
  "$venv/bin/ansible-galaxy" collection install --offline -p "$CA_WORK/collections" "$CA_WORK"/keyward-pki-*.tar.gz
fi

# In WSL 1 Windows is this machine, in WSL 2 the gateway.
CA_ADDRESS=
for address in 127.0.0.1 $(ip route show default | awk '{ print $3 }'); do
  if timeout 5 bash -c "exec 3<> /dev/tcp/$address/5985" 2> /dev/null; then CA_ADDRESS=$address; fi
done
[ -n "$CA_ADDRESS" ] || { echo 'WinRM of Windows is not to be reached' >&2; exit 1; }
export CA_ADDRESS

# Outside of the checkout, which everybody may write to as WSL sees it: ansible ignores an ansible.cfg there.
cd "$CA_WORK"
export ANSIBLE_COLLECTIONS_PATH=$CA_WORK/collections ANSIBLE_INVENTORY=$here/inventory.yml
for play in "$@"; do
  "$venv/bin/ansible-playbook" -v -e "@$here/ca.yml" "$here/$play"
done
