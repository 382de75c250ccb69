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
mapfile -t lines < <(tr -d '\r' < "$account")
CA_USER=${lines[0]} CA_PASSWORD=${lines[1]}
export CA_USER CA_PASSWORD

# The stamp is written last: a venv that was made by half is made anew.
if [ ! -f "$CA_WORK/stamp" ]; then
  rm -rf "$venv"
  mkdir -p "$CA_WORK/collections" "$CA_WORK/record"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip --disable-pip-version-check install --quiet -r "$here/requirements.txt"
  openssl rand -base64 30 > "$CA_WORK/password"
  "$venv/bin/ansible-galaxy" collection build --output-path "$CA_WORK" "$here/../.." > /dev/null
  "$venv/bin/ansible-galaxy" collection install --offline --force -p "$CA_WORK/collections" "$CA_WORK"/keyward-pki-*.tar.gz
  # Windows' disks show every file as executable, and ansible would run this one.
  install -m 0644 "$here/inventory.yml" "$CA_WORK/inventory.yml"
  touch "$CA_WORK/stamp"
fi

# In WSL 1 Windows is this machine, in WSL 2 the gateway, or any address that it has. WinRM may take a while to listen.
CA_ADDRESS=
for _ in $(seq 60); do
  for address in 127.0.0.1 $(ip route show default | awk '{ print $3 }') "${lines[@]:2}"; do
    if timeout 1 bash -c "exec 3<> /dev/tcp/$address/5985" 2> /dev/null; then CA_ADDRESS=$address; break 2; fi
  done
  sleep 1
done
if [ -z "$CA_ADDRESS" ]; then
  echo "WinRM of Windows is not to be reached at any of: ${lines[*]:2}" >&2
  ip address >&2
  ip route >&2
  exit 1
fi
export CA_ADDRESS

# Outside of the checkout, which everybody may write to as WSL sees it: ansible ignores an ansible.cfg there.
cd "$CA_WORK"
export ANSIBLE_COLLECTIONS_PATH=$CA_WORK/collections ANSIBLE_INVENTORY=$CA_WORK/inventory.yml
for play in "$@"; do
  "$venv/bin/ansible-playbook" -v -e "@$here/ca.yml" "$here/$play"
done
