# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.keyward.pki.plugins.plugin_utils._database_flows import CaDatabaseBackup


class ActionModule(CaDatabaseBackup):
    pass
