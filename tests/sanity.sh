#!/usr/bin/env bash
# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs every static check on a copy of the tree that lies where ansible-test wants it, and on the tarball made of it.
# Usage: sanity.sh VENV   (the virtual environment that has the tools)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(cd "$1" && pwd)
pythons=$(.venv/bin/python tests/support/pythons.py path)
export PATH=$venv/bin:$pythons:$PATH PYTHONDONTWRITEBYTECODE=1 NO_COLOR=1
top=$PWD/.cache/sanity
tree=$top/ansible_collections/keyward/pki
rm -rf "$top"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --create --null --files-from=- | tar --extract --directory "$tree"
# A repository of its own: below an ignored folder ansible-test would find nothing to test.
git init --quiet "$tree"
export ANSIBLE_COLLECTIONS_PATH=$top

# pslint runs where PowerShell Gallery's analyzer is to be had: in the containers of ansible-test.
ansible_test() { ansible-test sanity --color no --skip-test pslint "$@"; }

# It logs what is wrong and succeeds all the same.
galaxy_importer() {
  ansible-galaxy collection build --output-path "$top" > /dev/null
  (cd "$top" && GALAXY_IMPORTER_CHECK_REQUIRED_TAGS=true python -m galaxy_importer.main keyward-pki-*.tar.gz) | tee "$top/galaxy-importer.log"
  if grep -E '^(ERROR|WARNING)' "$top/galaxy-importer.log" > /dev/null; then return 1; fi
}

cd "$tree"
failed=()
check() {
  echo "== $*"
  "$@" || failed+=("$1")
}
check ansible_test
check ansible-lint
check antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=self --disallow-unknown-collection-refs --skip-rstcheck .
check antsibull-changelog lint
check antsibull-changelog lint-changelog-yaml changelogs/changelog.yaml
check galaxy_importer
if [ ${#failed[@]} -gt 0 ]; then
  echo "sanity: failed: ${failed[*]}"
  exit 1
fi
echo "sanity: all checks passed"
