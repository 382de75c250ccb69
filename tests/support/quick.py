# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PKCS #12 files that take no time to write and to read."""

from __future__ import annotations

# The fewest that aren't called weak. That the collection writes 300 000 is shown by tests/unit/codec, by tests/interop, and by plays
# that ask for AS_WRITTEN.
FEW_ITERATIONS = 10_000
AS_WRITTEN = {"KEYWARD_TEST_ITERATIONS": ""}
