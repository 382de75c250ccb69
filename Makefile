# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test campaign lint lint-python lint-powershell sanity sanity-venv matrix docs bench clean
unexport PYTHONPATH PYTHONHOME

python := .venv/bin/python
pip := $(python) -m pip --disable-pip-version-check install --quiet

help:
	@echo 'make quickstart   a real CA, backed up, destroyed and restored, in ./quickstart'
	@echo 'make test         lint, unit tests, integration tests on the installed tarball, other readers'
	@echo 'make campaign     every step of every task killed and failed, full disks, runs at once: an hour'
	@echo 'make sanity       ansible-test sanity, ansible-lint, antsibull-docs, antsibull-changelog, galaxy-importer'
	@echo 'make matrix       a play and the playbooks on every supported ansible-core and target Python'
	@echo 'make docs         the site of guides and reference, in .cache/docs/html'
	@echo 'make bench        what a backup of 20 hosts, a renewal run and sets of a large database cost'
	@echo 'make clean        removes what these commands made'

quickstart: .venv/core.stamp
	@docs/quickstart/run.sh

test: lint
	$(python) -m pytest --numprocesses auto --dist worksteal --durations 10 --durations-min 1

campaign: .venv/test.stamp collections/ansible_collections/keyward/pki
	KEYWARD_CAMPAIGN=1 $(python) -m pytest --numprocesses auto tests/robustness

lint: .venv/test.stamp collections/ansible_collections/keyward/pki
	@$(MAKE) --no-print-directory --jobs 2 lint-python lint-powershell

lint-python:
	$(python) -m ruff check --quiet .
	$(python) -m mypy
	$(python) -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

lint-powershell:
	@if command -v pwsh > /dev/null; then echo 'pwsh tests/lint-powershell.ps1'; pwsh -NoProfile -File tests/lint-powershell.ps1; \
	else echo 'The PowerShell files are not looked at: there is no pwsh'; fi

sanity: sanity-venv
	tests/sanity.sh .cache/venvs/sanity

sanity-venv: .venv/test.stamp
	@$(python) tests/support/pythons.py venv sanity 3.14,3.13,3.12 -r tests/requirements-sanity.txt

matrix: .venv/test.stamp
	$(python) -m pytest --numprocesses auto tests/matrix

docs: .venv/test.stamp
	@$(python) tests/support/pythons.py venv docs 3.14,3.13,3.12,3.11 -r tests/requirements-docs.txt
	docs/site/build.sh .cache/venvs/docs .cache/docs

bench: .venv/test.stamp
	$(python) tests/bench/fleet
	$(python) tests/bench/database

clean:
	rm -rf .cache .venv collections quickstart .mypy_cache .pytest_cache .ruff_cache

.venv/core.stamp: tests/requirements-core.txt
	@tests/make-venv.sh .venv
	$(pip) -r $<
	@touch $@

.venv/test.stamp: tests/requirements.txt .venv/core.stamp
	$(pip) -r $<
	@touch $@

collections/ansible_collections/keyward/pki:
	@mkdir -p $(@D)
	@ln -s ../../.. $@
