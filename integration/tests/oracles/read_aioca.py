"""Read PVs with aioca.

Usage: read_aioca.py PV...
"""

import asyncio
import sys
from typing import Any

import aioca
from plain import tell

LIMITS = {
    "display": ("lower_disp_limit", "upper_disp_limit"),
    "control": ("lower_ctrl_limit", "upper_ctrl_limit"),
    "warning": ("lower_warning_limit", "upper_warning_limit"),
    "alarm": ("lower_alarm_limit", "upper_alarm_limit"),
}


async def read(pv: str) -> dict[str, Any]:
    """Its facts."""
    found = await aioca.caget(pv, format=aioca.FORMAT_TIME, timeout=10.0)
    control = await aioca.caget(pv, format=aioca.FORMAT_CTRL, timeout=10.0)
    seconds, nanoseconds = found.raw_stamp
    facts: dict[str, Any] = {
        "value": found,
        "timestamp_ns": seconds * 10**9 + nanoseconds,
        "severity": found.severity,
        "status": found.status,
    }
    for fact, name in (("units", "units"), ("precision", "precision"), ("choices", "enums")):
        if hasattr(control, name):
            facts[fact] = getattr(control, name)
    for pair, names in LIMITS.items():
        if hasattr(control, names[0]):
            facts[pair] = [getattr(control, name) for name in names]
    return facts


with asyncio.Runner() as runner:
    tell(sys.argv[1:], lambda pv: runner.run(read(pv)))
