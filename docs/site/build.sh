#!/usr/bin/env bash
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds the site of guides and reference. A broken link fails. Usage: build.sh VENV DIRECTORY   (with the tools; for what it makes)
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$(cd "$1" && pwd)
export PATH=$venv/bin:$PATH NO_COLOR=1
rm -rf "$2"
tree=$2/ansible_collections/keyward/pki
mkdir -p "$tree" "$2/source/docs"
chmod 0700 "$2/source"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --create --null --files-from=- | tar --extract --directory "$tree"
export ANSIBLE_COLLECTIONS_PATH=$2
# An option that action plugins fill in is nothing for readers of the reference; ansible-test wants it documented all the same.
sed -i '/^  controller:$/,/^    type: str$/d' "$tree/plugins/doc_fragments/_authority.py"
if [ -n "$(ls "$tree/changelogs/fragments")" ]; then
  (cd "$tree" && antsibull-changelog release)
fi

cp docs/site/conf.py docs/site/index.rst README.md "$2/source"
cp docs/*.md docs/*.json "$2/source/docs"
# In the site the guides lie beside the README, which names them where Galaxy finds them, too.
sed -i 's,https://github.com/keyward/keyward.pki/blob/main/docs/,docs/,g' "$2/source/README.md"
sed -i -E 's,\]\(\.\./(plugins|tests|roles)/,](https://github.com/keyward/keyward.pki/blob/main/\1/,g' "$2"/source/docs/*.md
antsibull-docs collection --use-current --fail-on-error --dest-dir "$2/source" keyward.pki
if grep -l 'parameter-controller' -r "$2/source/collections" "$2/source"/*.rst 2> /dev/null; then
  echo 'The reference shows the option controller' >&2
  exit 1
fi
sphinx-build --quiet --keep-going --fail-on-warning --builder html "$2/source" "$2/html"
echo "the site: $2/html/index.html"
