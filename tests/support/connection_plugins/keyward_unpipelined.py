# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection that can't pipeline, as many for containers and chroots are."""

from __future__ import annotations

DOCUMENTATION = r"""
name: keyward_unpipelined
short_description: This machine, without pipelining
description: The connection plugin local without pipelining.
"""

from ansible.plugins.connection.local import Connection as Local


class Connection(Local):
    transport = "keyward_unpipelined"
    has_pipelining = False
