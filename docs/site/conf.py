# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For sphinx-build: the guides, and the reference that antsibull-docs writes."""

project = "keyward.pki"
project_copyright = "Contributors to the keyward.pki project"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_heading_anchors = 3
html_theme = "sphinx_ansible_theme"
html_show_sphinx = False
# Pages of Ansible's own documentation are named in the reference, and are not here: the site builds without a network.
suppress_warnings = ["ref.ref"]
