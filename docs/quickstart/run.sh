#!/usr/bin/env bash
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The life of a CA's keys in one run: made, renewed, backed up, destroyed, restored, used again.
# Usage: run.sh [COMMANDS]   (the folder that holds ansible-playbook, .venv/bin unless it is named); all it makes lies in ./quickstart/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
commands=$(cd "${1:-$root/.venv/bin}" && pwd)
demo=$PWD/quickstart
ca=$demo/ca
umask 077

step() { printf '\n%s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
fingerprint() { openssl x509 -in "$1" -noout -fingerprint -sha256 | sed 's/.*=//; s/://g' | cut -c1-16; }

# Run one playbook and print what its debug tasks say; everything it printed is in the log.
play() {
  if ! (cd "$demo" && ANSIBLE_CONFIG=$demo/ansible.cfg "$commands/ansible-playbook" "$here/$1" -e "demo=$demo" >"$demo/$1.log" 2>&1); then
    cat "$demo/$1.log" >&2
    exit 1
  fi
  sed -n 's/^ *"msg": "\(.*\)"$/   \1/p' "$demo/$1.log"
}

# openssl signs a certificate and a CRL with one generation's certificate and key.
sign_with() {
  openssl req -new -newkey rsa:2048 -nodes -keyout "$demo/server.key" -subj "/CN=server-$3.example.com" -out "$demo/server.csr" 2>/dev/null
  openssl ca -config "$ca/openssl.cnf" -batch -notext -cert "$1" -keyfile "$2" -in "$demo/server.csr" -out "$demo/server-$3.pem" 2>/dev/null
  openssl ca -config "$ca/openssl.cnf" -gencrl -cert "$1" -keyfile "$2" -out "$demo/crl-$3.pem" 2>/dev/null
  openssl verify -CAfile "$1" "$demo/server-$3.pem" >/dev/null
  openssl crl -in "$demo/crl-$3.pem" -CAfile "$1" -noout 2>&1 | grep 'verify OK' >/dev/null
  say "generation $3: a certificate and a CRL signed with it, both verified with $(basename "$1")"
}

rm -rf "$demo"
mkdir -p "$demo/collections" "$ca/private" "$ca/newcerts"
cat > "$demo/ansible.cfg" <<EOF
[defaults]
collections_path = $demo/collections
inventory = localhost,
interpreter_python = $commands/python3
localhost_warning = false
nocows = true
EOF
"$commands/ansible-galaxy" collection build --output-path "$demo" "$root" >/dev/null
ANSIBLE_CONFIG=$demo/ansible.cfg "$commands/ansible-galaxy" collection install --offline -p "$demo/collections" "$demo"/keyward-pki-*.tar.gz >/dev/null

step "1. A root CA, made with the openssl command in quickstart/ca"
sed "s|@CA@|$ca|" "$here/openssl.cnf" > "$ca/openssl.cnf"
: > "$ca/index.txt"
echo 1000 > "$ca/serial"
echo 01 > "$ca/crlnumber"
new_root() {
  openssl req -x509 -newkey rsa:3072 -nodes -keyout "$ca/private/cakey.pem" -out "$ca/cacert.pem" -days 3650 -config "$ca/openssl.cnf" \
    -extensions v3_ca -subj "/O=Quickstart/CN=Quickstart Root CA" 2>/dev/null
}
new_root
say "generation 0: $(fingerprint "$ca/cacert.pem")..."
sign_with "$ca/cacert.pem" "$ca/private/cakey.pem" 0

step "2. Its certificate is renewed with a new key; the first generation stays beside the new one"
mv "$ca/cacert.pem" "$ca/cacert.0.pem"
mv "$ca/private/cakey.pem" "$ca/private/cakey.0.pem"
new_root
say "generation 1: $(fingerprint "$ca/cacert.pem")..."

step "3. The keys are backed up. The password lies apart from the store"
openssl rand -base64 30 > "$demo/password"
play backup.yml

step "4. The same play again: nothing is due, nothing changes, and no password is needed to know that"
play again.yml

step "5. Disaster: both private keys are destroyed"
rm "$ca/private/cakey.pem" "$ca/private/cakey.0.pem"
if openssl ca -config "$ca/openssl.cnf" -gencrl -out /dev/null 2>/dev/null; then
  echo "openssl still signs without a key" >&2
  exit 1
fi
say "openssl can sign nothing any more"

step "6. The keys are restored"
play restore.yml

step "7. openssl signs with each restored key"
sign_with "$ca/cacert.0.pem" "$ca/private/cakey.0.pem" 0
sign_with "$ca/cacert.pem" "$ca/private/cakey.pem" 1

step "The store, the password and the plays' logs are in $demo"
