#!/usr/bin/env bash
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A CA's life in one run: installed, used, backed up, renewed, destroyed with its whole directory, restored, used again.
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
issued() { cut -f 1,3,4,6 "$ca/index.txt"; }

# Run one playbook and print what its debug tasks say; everything it printed is in the log.
play() {
  local log
  log=$demo/$((++plays))-$1.log
  if ! (cd "$demo" && QUICKSTART=$demo ANSIBLE_CONFIG=$demo/ansible.cfg "$commands/ansible-playbook" "$here/$1" > "$log" 2>&1); then
    cat "$log" >&2
    exit 1
  fi
  sed -n 's/^ *"msg": "\(.*\)"$/   \1/p' "$log"
}
plays=0

# openssl issues a certificate with one generation's certificate and key.
issue() {
  openssl req -new -newkey rsa:2048 -nodes -keyout "$demo/$3.key" -subj "/CN=$3.example.com" -out "$demo/$3.csr" 2> /dev/null
  openssl ca -config "$ca/openssl.cnf" -batch -notext -cert "$1" -keyfile "$2" -in "$demo/$3.csr" -out "$demo/$3.pem" 2> /dev/null
  openssl verify -CAfile "$1" "$demo/$3.pem" > /dev/null
  say "$3.example.com: serial $(openssl x509 -in "$demo/$3.pem" -noout -serial | cut -d= -f2), verified with $(basename "$1")"
}

rm -rf "$demo"
mkdir -p "$demo/collections" "$demo/published"
cat > "$demo/ansible.cfg" << EOF
[defaults]
collections_path = $demo/collections
inventory = $here/cas.yml
localhost_warning = false
nocows = true
EOF
"$commands/ansible-galaxy" collection build --output-path "$demo" "$root" > /dev/null
ANSIBLE_CONFIG=$demo/ansible.cfg "$commands/ansible-galaxy" collection install --offline -p "$demo/collections" "$demo"/keyward-pki-*.tar.gz > /dev/null
openssl rand -base64 30 > "$demo/password"
echo 2000-01-01T00:00:00Z > "$demo/renew-what-is-older"
play stores.yml

step "1. keyward.pki.install makes a root CA in quickstart/ca, and backs up its key and its database"
play install.yml
say "generation 0: $(fingerprint "$ca/cacert.pem")..."

cd "$demo/keys"/*/*Z
ssh-keygen -Y verify -f "$demo/allowed_signers" -I keyward -n keyward -s manifest.json.sig < manifest.json > /dev/null
cd "$demo/.."
say "ssh-keygen says who signed the backup"

step "2. The CA is used: openssl issues two certificates and revokes one"
issue "$ca/cacert.pem" "$ca/private/cakey.pem" first
issue "$ca/cacert.pem" "$ca/private/cakey.pem" second
openssl ca -config "$ca/openssl.cnf" -revoke "$demo/second.pem" -crl_reason keyCompromise 2> /dev/null
say "second.example.com: revoked"

step "3. keyward.pki.key_backup and keyward.pki.database_backup: no key backup is due, a database backup is"
play backup.yml

step "4. keyward.pki.renewal: backups, a new certificate with a new key, backups again, and a CRL by each key"
sleep 1
date -u +%Y-%m-%dT%H:%M:%SZ > "$demo/renew-what-is-older"
play renewal.yml
say "generation 1: $(fingerprint "$ca/cacert.pem")..."
find "$ca" -name 'crl*.pem' -exec cp {} "$demo/published/" \;
say "The same again:"
play renewal.yml

step "5. Disaster: the CA's whole directory is gone"
issued > "$demo/issued-before"
rm -rf "$ca"
say "$(wc -l < "$demo/issued-before") certificates issued so far, and nothing left that could revoke one"

step "6. keyward.pki.restore: configuration, keys, database, and a proof"
play restore.yml
issued > "$demo/issued-after"
diff "$demo/issued-before" "$demo/issued-after"
say "the list of issued certificates is the same as before"
say "The same again:"
play restore.yml

step "7. openssl goes on where it was"
issue "$ca/cacert.pem" "$ca/private/cakey.pem" third
openssl ca -config "$ca/openssl.cnf" -gencrl -cert "$ca/cacert.0.pem" -keyfile "$ca/private/cakey.0.pem" -out "$demo/crl-0.pem" 2> /dev/null
openssl crl -in "$demo/crl-0.pem" -CAfile "$ca/cacert.0.pem" -noout 2>&1 | grep 'verify OK' > /dev/null
say "a CRL of generation 0, verified with cacert.0.pem"

step "8. keyward.pki.audit: every CA key, where it can be restored from, and what would be lost today"
play audit.yml
say "the page: $demo/audit/audit.html"

step "The stores, the password and the plays' logs are in $demo"
