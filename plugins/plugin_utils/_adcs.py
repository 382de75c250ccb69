# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what only AD CS needs, judged on the controller; may change in any release.

Nothing else reads C(own) of what a host tells.
"""

from __future__ import annotations

import typing as t
from datetime import timedelta

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told


def backdated(told: Told) -> timedelta:
    """By how much the CA lets its certificates begin before the moment when they are made."""
    return timedelta(minutes=int((told.own or {}).get("clock_skew_minutes") or 0))


def no_days() -> KeywardError:
    return KeywardError(
        "the CA can't be renewed",
        "on Windows days can't be given: the CA takes the validity of its renewed certificate from CAPolicy.inf",
        "Set RenewalValidityPeriod and RenewalValidityPeriodUnits there, and leave days out",
    )


def refuse_endless(still: t.Sequence[Finding]) -> None:
    """The CA alone decides for how long its certificate is valid: that it left the condition true is seen only afterwards."""
    if still:
        raise KeywardError(
            "the CA was renewed, and would be again by the next run",
            "; ".join(reason.message for reason in still),
            "Before that, give fewer remaining_days, or set RenewalValidityPeriod in CAPolicy.inf",
            still,
        )
