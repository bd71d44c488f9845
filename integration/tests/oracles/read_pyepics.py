"""Read PVs with pyepics.

Usage: read_pyepics.py PV...
"""

import sys
from typing import Any

import epics
from plain import tell

LIMITS = {
    "display": ("lower_disp_limit", "upper_disp_limit"),
    "control": ("lower_ctrl_limit", "upper_ctrl_limit"),
    "warning": ("lower_warning_limit", "upper_warning_limit"),
    "alarm": ("lower_alarm_limit", "upper_alarm_limit"),
}


def read(name: str) -> dict[str, Any]:
    """Its facts."""
    pv = epics.PV(name, auto_monitor=False)
    assert pv.wait_for_connection(timeout=10.0)
    found = pv.get_with_metadata(form="time", use_monitor=False, timeout=5.0)
    control = pv.get_ctrlvars(timeout=5.0)
    facts: dict[str, Any] = {
        "value": found["value"],
        "timestamp_ns": int(found["posixseconds"]) * 10**9 + int(found["nanoseconds"]),
        "severity": int(found["severity"]),
        "status": int(found["status"]),
    }
    for fact, name in (("units", "units"), ("precision", "precision"), ("choices", "enum_strs")):
        if name in control:
            facts[fact] = control[name]
    for pair, names in LIMITS.items():
        if names[0] in control:
            facts[pair] = [control[name] for name in names]
    return facts


tell(sys.argv[1:], read)
